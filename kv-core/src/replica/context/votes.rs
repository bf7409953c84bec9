//! Votes to leave a view. They expire unless they are repeated, so that a withdrawn vote cannot complete a quorum
//! later.

use super::{Context, Flow, Transition};
use crate::ids::{Epoch, Instant, MemberId, View};
use crate::message::Message;
use std::collections::BTreeMap;
use std::time::Duration;

/// A vote of this member to leave the view. It is repeated until it is withdrawn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Suspicion {
    pub(crate) target: View,
    pub(crate) resend_at: Instant,
}

#[derive(Debug)]
pub(crate) struct Votes {
    lifetime: Duration,
    held: BTreeMap<MemberId, (View, Instant)>,
}

impl Votes {
    pub(crate) fn new(lifetime: Duration) -> Self {
        Self { lifetime, held: BTreeMap::new() }
    }

    /// The latest vote of a member replaces its earlier one.
    pub(crate) fn insert(&mut self, from: MemberId, view: View, now: Instant) {
        self.held.insert(from, (view, now));
    }

    /// A member follows a primary again.
    pub(crate) fn withdraw(&mut self, from: MemberId) {
        self.held.remove(&from);
    }

    /// The greatest view that a live vote wants.
    pub(crate) fn greatest(&self, now: Instant) -> Option<View> {
        self.held.values().filter(|(_, at)| now.since(*at) <= self.lifetime).map(|(view, _)| *view).max()
    }

    /// The greatest view that at least `quorum` live votes, `own` included, want or exceed.
    pub(crate) fn agreed(&self, own: Option<View>, quorum: usize, now: Instant) -> Option<View> {
        let live =
            self.held.values().filter(|(_, at)| now.since(*at) <= self.lifetime).map(|(view, _)| *view);
        let mut views: Vec<View> = live.chain(own).collect();
        views.sort_unstable_by(|a, b| b.cmp(a));
        views.get(quorum - 1).copied()
    }
}

impl Context {
    /// Votes to leave the view, in favour of `target` or of a higher view that anybody wants. `vote` is this member's
    /// vote so far. Its state stays as it is.
    pub(crate) fn suspect(&mut self, vote: &mut Option<Suspicion>, target: View) -> Flow {
        let now = self.now.monotonic;
        let wanted = [self.votes.greatest(now), vote.map(|vote| vote.target)];
        let target = wanted.into_iter().flatten().fold(target, View::max);
        *vote = Some(Suspicion { target, resend_at: now.after(self.options.heartbeat * 2) });
        // A standby has no vote. It only notes that it follows nobody.
        if self.is_voter() {
            return self.send_vote(target);
        }
        if self.epoch() > Epoch::ZERO {
            // It may have been removed.
            self.broadcast(&self.ask());
        }
        Flow::Continue(())
    }

    /// Sends to all a vote to leave this view, in favour of `target`.
    pub(crate) fn send_vote(&mut self, target: View) -> Flow {
        self.sent_vote = Some(target);
        self.broadcast(&Message::StartViewChange { view: target });
        self.count_votes(Some(target))
    }

    /// Rule V1: a member that no longer wants to leave its view votes for that view. One that has reached the view
    /// that it wanted has nothing to withdraw.
    pub(crate) fn send_withdrawal(&mut self, own: Option<View>) {
        let Some(voted) = self.sent_vote.filter(|_| own.is_none()) else { return };
        self.sent_vote = None;
        if voted > self.view && !self.halted {
            self.broadcast(&Message::StartViewChange { view: self.view });
        }
    }

    /// Rule V2: a member moves only if a quorum of live votes agrees.
    pub(crate) fn count_votes(&self, own: Option<View>) -> Flow {
        if !self.is_voter() {
            // It joins a view when it hears of it.
            return Flow::Continue(());
        }
        let quorum = self.cluster.view_change_quorum();
        match self.votes.agreed(own, quorum, self.now.monotonic) {
            Some(view) if view > self.view => Flow::Break(Transition::ViewChange(view)),
            Some(_) | None => Flow::Continue(()),
        }
    }
}
