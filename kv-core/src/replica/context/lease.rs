//! Read leases at the primary (rules R5 and R6), if they are enabled. A member that answers a round promises the
//! primary to take part in no view change for a while. As long as the promises of a quorum are certain to hold, the
//! primary answers reads without a round.

use super::Context;
use crate::ids::{Instant, MemberId, View};
use std::time::Duration;

/// A promise of this member: it sends no `DoViewChange` before this time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Promise {
    /// The view whose primary received the last promise; `None` if that was in an earlier life. Once a view has a
    /// primary, the promises to earlier primaries have ended or were released.
    view: Option<View>,
    until: Instant,
}

impl Promise {
    /// Whether it was made in this life.
    pub(super) const fn is_known(&self) -> bool {
        self.view.is_some()
    }

    /// The promise of a member that starts: it does not know what it promised in an earlier life.
    pub(crate) fn of_earlier_lives(now: Instant, lease: Duration) -> Option<Self> {
        (!lease.is_zero()).then(|| Self { view: None, until: now.after(lease) })
    }
}

impl Context {
    /// Rule R5: the quorum that answered a round which began at this time is still in this view, by its promises.
    pub(crate) fn is_leased(&self, since: Option<Instant>) -> bool {
        // This clock may run at nine tenths of the true rate, and those of the others at eleven tenths. Then 8/10 of
        // the lease here is shorter than the whole lease there.
        let surely = self.options.read_lease / 10 * 8;
        since.is_some_and(|since| self.now.monotonic.since(since) < surely)
    }

    /// Rule R6: the answer to a round of this view's primary is a promise.
    pub(crate) fn promise(&mut self) {
        let lease = self.options.read_lease;
        if !lease.is_zero() {
            self.promise = Some(Promise { view: Some(self.view), until: self.now.monotonic.after(lease) });
        }
    }

    /// Rule R6: this member does not know what it promised in an earlier life, so it assumes a promise. A member of a
    /// cluster of one has made none.
    pub(crate) fn hold_as_promised(&mut self) {
        if self.cluster.voter_count() > 1 {
            self.promise = Promise::of_earlier_lives(self.now.monotonic, self.options.read_lease);
        }
    }

    /// Until when this member sends nothing in a view change.
    pub(crate) fn held_until(&self) -> Option<Instant> {
        self.promise.map(|promise| promise.until).filter(|until| *until > self.now.monotonic)
    }

    /// Rule R6: a member that has joined the change to a higher view is no longer primary of a lower one, and needs
    /// no promise.
    pub(crate) fn release(&mut self, from: MemberId, view: View) {
        let promised = self.promise.and_then(|promise| promise.view);
        if promised.is_some_and(|promised| promised < view && self.cluster.primary(promised) == from) {
            self.promise = None;
        }
    }
}
