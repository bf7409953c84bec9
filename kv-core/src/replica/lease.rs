//! Leases for reads at the primary (rules R5 and R6), where they are asked for: a member that answers a round promises the primary not to take part
//! in a change of the view for a while, and the primary reads without a round as long as a quorum's promises surely hold.

use super::Replica;
use super::state::State;
use crate::ids::{Instant, MemberId, View};
use std::time::Duration;

/// What this member has promised: nothing of a `DoViewChange` before then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Promise {
    /// The view whose primary it was promised to last; none if that was in an earlier life. Where a view has a primary, the promises to earlier ones
    /// are over, or released.
    view: Option<View>,
    until: Instant,
}

impl Promise {
    /// Of a member that starts: it does not know what it promised in an earlier life.
    pub(super) fn of_earlier_lives(now: Instant, lease: Duration) -> Option<Self> {
        (!lease.is_zero()).then(|| Self { view: None, until: now.after(lease) })
    }
}

impl Replica {
    /// Rule R5: the quorum that answered the last confirmed round stands in this view, by its promises.
    pub(super) fn is_leased(&self) -> bool {
        let State::Primary(primary) = &self.state else { return false };
        // This clock may go at nine tenths of the true rate, and those of the others at eleven: 8/10 of it here are less than all of it there.
        let surely = self.options.read_lease / 10 * 8;
        let since = primary.rounds.confirmed_since();
        primary.is_serving() && since.is_some_and(|since| self.now.monotonic.since(since) < surely)
    }

    /// Rule R6: the answer to a round of this view's primary is a promise.
    pub(super) fn promise(&mut self) {
        let lease = self.options.read_lease;
        if !lease.is_zero() {
            self.promise = Some(Promise { view: Some(self.view), until: self.now.monotonic.after(lease) });
        }
    }

    /// Rule R6: what this member promised in an earlier life it does not know. One that is alone has promised nothing to others.
    pub(super) fn hold_as_promised(&mut self) {
        if self.cluster.len() > 1 {
            self.promise = Promise::of_earlier_lives(self.now.monotonic, self.options.read_lease);
        }
    }

    /// Until when this member sends nothing in a view change.
    pub(super) fn held_until(&self) -> Option<Instant> {
        self.promise.map(|promise| promise.until).filter(|until| *until > self.now.monotonic)
    }

    /// Rule R6: who has joined the change to a higher view is not the primary of a lower one any more, and needs no promise.
    pub(super) fn release(&mut self, from: MemberId, view: View) {
        let promised = self.promise.and_then(|promise| promise.view);
        if promised.is_some_and(|promised| promised < view && self.cluster.primary(promised) == from) {
            self.promise = None;
        }
    }
}
