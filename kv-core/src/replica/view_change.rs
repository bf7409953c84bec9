//! Leaving a view and starting the next: votes, `DoViewChange`, the decision, `StartView`.

use super::decide::{LogDecision, Quorums, decide};
use super::detector::Suspicion;
use super::install::Install;
use super::state::ReplicaState;
use super::summary::well_formed;
use super::{Halt, Replica};
use crate::ids::{Anchor, Hash, Instant, MemberId, Op, View, WriteSeq};
use crate::message::{Age, LogSummary, Message, Slot};
use std::collections::BTreeMap;
use std::time::Duration;
use tracing::{debug, trace};

/// The longest patience with a view, in multiples of `failure_timeout_max`. Jitter at most doubles it.
const MOST_PATIENCE: u32 = 4;

#[derive(Debug)]
pub(super) struct ViewChange {
    /// The write that makes the view durable. Nothing is sent in the view before.
    persisted: WriteSeq,
    /// The summary that this member has sent.
    sent: Option<LogSummary>,
    /// The latest summary of each member, this one included.
    summaries: BTreeMap<MemberId, LogSummary>,
    /// All members have answered once, and their answers amount to a loss.
    doubted: bool,
    resend_at: Instant,
    /// Rule R6: nothing is sent before this time.
    held_until: Option<Instant>,
    /// When to vote for the next view.
    patience_ends: Instant,
    /// The limit even if an installation makes progress: other members may be further.
    patience_ends_at_last: Instant,
    pub(super) suspicion: Option<Suspicion>,
    /// At the primary of the view, once the log is decided.
    pub(super) install: Option<Install>,
}

impl ViewChange {
    pub(super) const fn summaries(&self) -> &BTreeMap<MemberId, LogSummary> {
        &self.summaries
    }

    /// Sets the latest time for the vote for the next view.
    pub(super) fn leave_by(&mut self, latest: Instant) {
        self.patience_ends = self.patience_ends.min(latest);
    }

    pub(super) fn next_timeout(&self) -> Instant {
        let vote = self.suspicion.map_or(self.patience_ends, |suspicion| suspicion.resend_at);
        let install = self.install.as_ref().map_or(vote, |install| install.retry_at);
        let held = self.held_until.unwrap_or(vote);
        self.resend_at.min(vote).min(install).min(held)
    }
}

/// The entries that a vote lists: first the one at its commit point, then the others by op. `None` if the hash is not
/// known.
pub(super) fn listed(log: &LogSummary) -> impl Iterator<Item = Option<Anchor>> {
    let ops = (1..).map(|above| log.commit.op.advance(above));
    let above = ops.zip(&log.suffix).map(|(op, slot)| match slot {
        Slot::Present(hash) | Slot::Faulty(Some(hash)) => Some(Anchor::new(op, *hash)),
        Slot::Faulty(None) => None,
    });
    std::iter::once(Some(log.commit)).chain(above)
}

impl Replica {
    // -- votes (rules V1, V2)

    pub(super) fn on_start_view_change(&mut self, from: MemberId, view: View) {
        if view <= self.view {
            trace!(%from, %view, mine = %self.view, "a vote for a view that is not newer withdraws an earlier one");
            self.withdraw_vote(from);
            return;
        }
        self.votes.insert(from, view, self.now.monotonic);
        // One answer is enough. Otherwise two members that are each the primary of the other's view would answer each
        // other without end.
        let sent = self.state.own_vote().is_some_and(|own| own >= view);
        if from == self.primary() && !sent && self.state.suspicion_mut().is_some() {
            debug!(view = %self.view, target = %view, "the primary asks to be replaced");
            self.suspect(view);
        } else if self.state.own_vote().is_some_and(|own| own < view) {
            // A member that leaves anyway leaves for the view that others want. Otherwise a member that was away
            // would climb view by view.
            self.vote_again(view);
        } else {
            self.count_votes();
        }
    }

    fn vote_again(&mut self, view: View) {
        if matches!(self.state, ReplicaState::Primary(_)) {
            self.vote_to_be_left(view)
        } else {
            self.suspect(view)
        }
    }

    fn withdraw_vote(&mut self, from: MemberId) {
        self.votes.withdraw(from);
    }

    /// Sends to all a vote to leave this view, in favour of `target`.
    pub(super) fn send_vote(&mut self, target: View) {
        self.sent_vote = Some(target);
        self.broadcast(&Message::StartViewChange { view: target });
    }

    /// Rule V1: a member that no longer wants to leave its view votes for that view. One that has reached the view
    /// that it wanted has nothing to withdraw.
    pub(super) fn send_withdrawal(&mut self) {
        let Some(voted) = self.sent_vote.filter(|_| self.state.own_vote().is_none()) else { return };
        self.sent_vote = None;
        if voted > self.view && !self.halted {
            self.broadcast(&Message::StartViewChange { view: self.view });
        }
    }

    /// Rule V2: a member moves only if a quorum of live votes agrees.
    pub(super) fn count_votes(&mut self) {
        let own = self.state.own_vote();
        let quorum = self.cluster.view_change_quorum();
        if let Some(view) = self.votes.agreed(own, quorum, self.now.monotonic)
            && view > self.view
        {
            self.enter_view_change(view);
        }
    }

    // -- DoViewChange (rules V3, V4)

    fn patience(&mut self) -> Duration {
        let doubled = self.options.failure_timeout_min * 4 * (1 << self.attempts.min(4));
        self.jittered(doubled.min(self.options.failure_timeout_max * MOST_PATIENCE))
    }

    pub(super) fn enter_view_change(&mut self, view: View) {
        debug!(from = %self.view, to = %view, "view change");
        self.leave_primary();
        assert!(view > self.view, "views only grow");
        self.view = view;
        let persisted = self.write_view(None);
        self.start_view_change(persisted);
    }

    /// A member that restarts between views sends its summary again.
    pub(super) fn resume_view_change(&mut self) {
        self.start_view_change(self.writes.durable);
        self.view_change_durable();
    }

    fn start_view_change(&mut self, persisted: WriteSeq) {
        self.attempts += 1;
        let patience = self.patience();
        let (now, held_until) = (self.now.monotonic, self.held_until());
        // The time of the promise does not count as patience.
        let patience = patience + held_until.map_or(Duration::ZERO, |until| until.since(now));
        self.state = ReplicaState::ViewChange(ViewChange {
            held_until,
            persisted,
            sent: None,
            summaries: BTreeMap::new(),
            doubted: false,
            resend_at: now.after(self.options.heartbeat * 4),
            patience_ends: now.after(patience),
            patience_ends_at_last: now.after(self.options.failure_timeout_max * (MOST_PATIENCE * 2)),
            suspicion: None,
            install: None,
        });
    }

    /// Rule V3: the view is durable, so messages may be sent in it.
    pub(super) fn view_change_durable(&mut self) {
        let ReplicaState::ViewChange(change) = &self.state else { return };
        let held = self.held_until().is_some();
        if held || change.sent.is_some() || !self.is_durable(change.persisted) || self.transfer.is_rebasing()
        {
            return;
        }
        self.send_summary();
    }

    fn send_summary(&mut self) {
        let (me, summary) = (self.me, self.summary());
        let ReplicaState::ViewChange(change) = &mut self.state else { return };
        change.sent = Some(summary.clone());
        change.summaries.insert(me, summary);
        self.send_do_view_change();
        if !self.halt_if_lost() {
            self.decide_log();
        }
    }

    fn send_do_view_change(&mut self) {
        let resend_at = self.now.monotonic.after(self.options.heartbeat * 4);
        let view = self.view;
        let ReplicaState::ViewChange(change) = &mut self.state else { return };
        change.resend_at = resend_at;
        if let Some(log) = change.sent.clone() {
            let ages = self.ages_of(&log);
            self.broadcast(&Message::DoViewChange { view, log, ages });
        }
    }

    pub(super) fn on_do_view_change(&mut self, from: MemberId, view: View, log: LogSummary, ages: &[Age]) {
        self.on_ages(from, &log, ages);
        self.release(from, view);
        if view > self.view {
            // A quorum of votes has moved the sender to that view.
            self.enter_view_change(view);
        }
        if matches!(self.state, ReplicaState::Primary(_)) && view <= self.view {
            let message = self.start_view(0);
            return self.send(from, message);
        }
        if self.has_lost_state() && self.log.holds(log.commit) {
            // If no data member has a state, there is no primary to announce it, and all must bring their states to
            // one op (T9b).
            self.advance_commit(log.commit.op);
        }
        self.end_hold();
        let ReplicaState::ViewChange(change) = &mut self.state else { return };
        if view == self.view && well_formed(&log, u64::from(self.options.pipeline_depth)) {
            change.summaries.insert(from, log);
            if !self.halt_if_lost() {
                self.decide_log();
            }
        }
    }

    /// Rule V5i: by the answers of all members, none has the entry at `op`. Halts if that happens twice, because the
    /// first answers may be older than a repair.
    pub(super) fn on_lost(&mut self, op: Op) {
        let me = self.me;
        let ReplicaState::ViewChange(change) = &mut self.state else { return };
        if change.doubted {
            return self.halt(Halt::Lost { op });
        }
        change.doubted = true;
        change.summaries.retain(|member, _| *member == me);
        self.send_do_view_change();
    }

    /// The log was rebased, so the summary that was sent before is outdated.
    pub(super) fn send_summary_again(&mut self) {
        let ReplicaState::ViewChange(change) = &self.state else { return };
        // A decision stands, whatever was sent about this log. Its entries and `log_view` may still be on their way
        // to the disk, and must not be sent yet.
        if change.sent.is_none() || change.install.is_some() {
            return self.drive_install();
        }
        self.send_summary();
    }

    /// Rule R6: the promise has ended or was released, so the summary may be sent.
    fn end_hold(&mut self) {
        let held = self.held_until();
        let ReplicaState::ViewChange(change) = &mut self.state else { return };
        if change.held_until.take_if(|_| held.is_none()).is_some() {
            self.view_change_durable();
        }
    }

    pub(super) fn view_change_timeout(&mut self) {
        let now = self.now.monotonic;
        self.end_hold();
        let ReplicaState::ViewChange(change) = &self.state else { return };
        let (resend, vote) = (now >= change.resend_at, change.suspicion);
        let impatient = now >= change.patience_ends;
        if resend {
            self.send_do_view_change();
        }
        match vote {
            Some(suspicion) if now >= suspicion.resend_at => self.suspect(suspicion.target),
            None if impatient => self.suspect(self.view.next()),
            Some(_) | None => {}
        }
        self.drive_install();
    }

    /// An installation that makes progress is worth waiting for, up to the longest patience. The log keeps what it
    /// has fetched.
    pub(super) fn extend_patience(&mut self) {
        let patience = self.patience();
        let ends = self.now.monotonic.after(patience);
        if let ReplicaState::ViewChange(change) = &mut self.state {
            change.patience_ends = change.patience_ends.max(ends.min(change.patience_ends_at_last));
        }
    }

    // -- the decision (rules V5, V6)

    /// At the primary of the view: decides its log as soon as the votes allow, and starts to install it.
    fn decide_log(&mut self) {
        if self.primary() != self.me {
            return;
        }
        if self.transfer.stateless {
            return self.yield_view();
        }
        let quorums = Quorums {
            members: self.cluster.len(),
            view_change: self.cluster.view_change_quorum(),
            nack: self.cluster.nack_quorum(),
        };
        let ReplicaState::ViewChange(change) = &mut self.state else { return };
        if change.sent.is_none() || change.install.is_some() {
            return;
        }
        let everyone = change.summaries.len() == self.cluster.len();
        let decided = match decide(&change.summaries, quorums) {
            LogDecision::Log(decided) => decided,
            LogDecision::Stuck(op) if everyone => return self.on_lost(op),
            LogDecision::Stuck(_) | LogDecision::TooFew => return,
        };
        debug!(view = %self.view, base = ?decided.base, above = decided.suffix.len(), "the log is decided");
        let mut hashes = vec![(decided.base.op, decided.base.hash)];
        for hash in decided.suffix {
            let op = hashes.last().map_or(decided.base.op, |(op, _)| op.next());
            hashes.push((op, hash));
        }
        change.install = Some(Install::new(&hashes, self.now.monotonic));
        self.drive_install();
    }

    // -- StartView and GetState (rules V6, V7)

    pub(super) fn on_start_view(
        &mut self,
        from: MemberId,
        view: View,
        commit: Anchor,
        hashes: &[(Op, Hash)],
        nonce: u64,
    ) {
        let in_order = hashes.windows(2).all(|pair| pair[1].0 == pair[0].0.next());
        let Some(&(head, _)) = hashes.last().filter(|_| in_order) else { return };
        if view < self.view || from != self.cluster.primary(view) || from == self.me || commit.op > head {
            return;
        }
        let asked = matches!(&self.state, ReplicaState::CatchingUp(catching) if nonce != 0 && catching.nonce == nonce);
        if view == self.view && matches!(self.state, ReplicaState::Backup(_)) {
            return self.acknowledge();
        }
        let installing = self.state.install_mut().is_some();
        if view == self.view && (installing || matches!(self.state, ReplicaState::Primary(_))) {
            return;
        }
        if head < self.commit {
            // Rule N5: this was sent when the view began, and the view has committed more since. It proves nothing.
            return;
        }
        if self.is_damaged() && !asked {
            // Rule D6a: only an answer to a request of this life settles an uncertain head.
            if view > self.view || matches!(self.state, ReplicaState::ViewChange(_)) {
                self.become_catching_up(view);
                self.ask_for_state();
            }
            return;
        }
        if view > self.view || !matches!(self.state, ReplicaState::CatchingUp(_)) {
            self.become_catching_up(view);
        }
        let now = self.now.monotonic;
        if let ReplicaState::CatchingUp(catching) = &mut self.state {
            catching.watch.heard(now);
            catching.install = Some(Install::new(hashes, now));
        }
        self.drive_install();
    }

    pub(super) fn on_get_state(&mut self, from: MemberId, view: View, nonce: u64) {
        if view > self.view {
            // The sender heard of that view from its primary, or has it on disk: a quorum of votes moved some member
            // there.
            self.enter_view_change(view);
        } else if matches!(self.state, ReplicaState::Primary(_)) {
            let message = self.start_view(nonce);
            self.send(from, message);
        }
    }
}
