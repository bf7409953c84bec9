//! The protocol as a pure state machine: no clock, no I/O, no tokio, and no randomness except its seed. Its rules,
//! with a number and the execution that each prevents, are in `PROTOCOL.md`. Comments and tests refer to them by
//! number.
//!
//! # How to drive it
//! Call [`Replica::handle`] with one [`Input`], then call [`Replica::poll_output`] until it returns `None`, and carry
//! out each [`Output`] in order. Then call [`Replica::poll_timeout`], and call `handle(now, Input::Timeout)` at the
//! time that it returns. The completion of an output is an input too: when the data of an [`Output::Write`] is durable,
//! pass [`Input::Durable`].
//!
//! # Code structure
//! [`Replica`] owns the present state, and a context that holds what all states share. It passes each input to the
//! state or the context, and carries out the transitions between states. A state owns its behaviour and borrows the
//! context. The code of the context does not refer to any of these states.

mod api;
mod backup;
mod catching_up;
mod context;
mod decide;
mod detector;
mod epochs;
mod fetching;
mod formation;
mod install;
mod monitor;
mod outside;
mod pace;
mod primary;
mod rounds;
#[cfg(feature = "internals")]
mod stall;
mod state;
mod status;
mod view_change;

pub use api::*;
pub(crate) use primary::WINDOW_BYTES;
#[cfg(feature = "internals")]
pub use stall::{StallReason, Vote, stall_reason};

use crate::ids::{Anchor, Epoch, Hash, Instant, MemberId, Op, View, WriteSeq};
use crate::message::{Age, Entry, FetchWhat, FormationStep, LogSummary, Message, Recovered};
use backup::{Backup, Heartbeat};
use catching_up::CatchingUp;
use context::{Context, Flow, Requester, Transition};
use epochs::Told;
use formation::Forming;
use outside::Retired;
use primary::{HeartbeatAck, Primary};
use state::ReplicaState;
use tracing::{debug, trace};
use view_change::ViewChange;

/// How far the view of a standby may be ahead.
const NEAR_VIEWS: u64 = 1 << 10;

/// The protocol state machine of one member. See the module's documentation for how to drive it.
#[derive(Debug)]
pub struct Replica {
    cx: Context,
    state: ReplicaState,
    reported: Option<ReplicaStatus>,
}

impl Replica {
    /// Creates a replica from what recovery found. Call [`poll_output`](Self::poll_output) afterwards.
    #[must_use]
    pub fn new(config: ReplicaConfig, recovered: Recovered, now: Now) -> Self {
        let cx = Context::new(config, &recovered, now);
        let forming = Forming::new(recovered.formation, now.monotonic);
        let mut replica = Self { cx, state: ReplicaState::Forming(forming), reported: None };
        if recovered.membership.is_some_and(|it| it.retired) {
            replica.cx.halt(Halt::Removed { epoch: replica.cx.epoch() });
        } else if recovered.formation == FormationStep::Formed {
            replica.start_formed();
            replica.cx.fetch_state();
            replica.cx.discard_outdated_snapshot();
        } else if let ReplicaState::Forming(forming) = &mut replica.state {
            forming.advance(&mut replica.cx);
        }
        replica.report_status();
        replica
    }

    /// Processes an input. Call [`poll_output`](Self::poll_output) afterwards. `now` must never go back.
    pub fn handle(&mut self, now: Now, input: Input) {
        if self.cx.halted {
            return;
        }
        self.cx.set_time(now);
        match input {
            Input::Message { from, message } => self.on_message(from, message),
            Input::Propose { requests } => {
                if let ReplicaState::Primary(primary) = &mut self.state {
                    primary.on_propose(&mut self.cx, requests);
                }
            }
            Input::Read { ticket } => match &mut self.state {
                ReplicaState::Primary(primary) => primary.on_read(&mut self.cx, ticket),
                _ => self.cx.outputs.push_back(Output::ReadsRefused { tickets: vec![ticket] }),
            },
            Input::Durable { seq } => self.on_durable(seq),
            Input::Applied { op } => {
                self.cx.on_applied(op);
                if self.cx.cluster.len() == 1 {
                    // If the stop could not be read, it is read again now.
                    self.cx.epochs.stop_asked = None;
                }
            }
            Input::Applying => self.cx.on_applying(),
            Input::StateDigest { op, digest } => self.cx.on_own_digest(op, digest),
            Input::Checkpointed { checkpoint } => self.cx.on_checkpointed(checkpoint),
            Input::Faulty { .. } if matches!(self.state, ReplicaState::Forming(_)) => {}
            Input::Faulty { op } => {
                // Another member may have it. Otherwise, reading it again at once would not help.
                if self.cx.cluster.len() > 1 && !matches!(self.state, ReplicaState::Entering(_)) {
                    self.cx.epochs.stop_asked.take_if(|stop| stop.op == op);
                }
                self.cx.on_faulty(op);
            }
            Input::Change { change } => self.as_primary(|primary, cx| primary.on_change(cx, &change)),
            Input::Stop { stop, configuration } => self.on_stop(stop, *configuration),
            Input::PeerLost { peer } => {
                let flow = self.state.on_peer_lost(&mut self.cx, peer);
                self.carry_out(flow);
            }
            Input::Staged { at, end } => self.cx.on_staged(at, end),
            Input::SnapshotInstalled { point, configuration } => {
                self.cx.on_snapshot_installed(point);
                self.on_state(point, configuration);
            }
            Input::SnapshotRefused { at } => self.cx.on_snapshot_refused(at),
            Input::OwnPiece { message } => self.on_piece(self.cx.me, message),
            Input::StateLost => {
                self.cx.lose_state();
                self.as_primary(|primary, cx| primary.abdicate(cx, "the state is lost"));
                self.cx.fetch_state();
            }
            Input::Timeout => self.on_timeout(),
            Input::Handover => self.as_primary(|primary, cx| primary.on_handover(cx, None)),
            Input::HandoverTo { successor } => {
                self.as_primary(|primary, cx| primary.on_handover(cx, Some(successor)));
            }
        }
        self.end_epoch();
        if self.cx.end_repairs() {
            self.report_again();
        }
        self.cx.begin_next_repair();
        self.cx.send_withdrawal(self.state.own_vote());
        self.report_status();
    }

    /// Returns the next output, in order; `None` when there is none.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.cx.outputs.pop_front()
    }

    /// When to call `handle(now, Input::Timeout)`; `None` after a halt.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.cx.halted {
            return None;
        }
        let shared =
            [self.cx.transfer.next_timeout(), self.cx.repairs.next_timeout(), self.cx.epochs.next_timeout()];
        shared.into_iter().chain([self.state.next_timeout()]).flatten().min()
    }

    fn report_status(&mut self) {
        let now = self.status();
        if self.reported != Some(now) && !self.cx.halted {
            self.reported = Some(now);
            debug!(view = %now.view, status = ?now.status, primary = ?now.primary, "status changed");
            self.cx.outputs.push_back(Output::Status(now));
        }
    }

    // -- transitions between the states

    /// Carries out the transition that a state has ended with, if it has ended.
    fn carry_out(&mut self, flow: Flow) {
        match flow {
            Flow::Continue(()) => {}
            Flow::Break(Transition::ViewChange(view)) => self.enter_view_change(view),
            Flow::Break(_) if self.cx.primary() == self.cx.me => self.become_primary(),
            // The empty log of view 0 is installed everywhere.
            Flow::Break(Transition::Formed) => {
                self.state = ReplicaState::Backup(Backup::first(&mut self.cx));
            }
            Flow::Break(Transition::Installed) => {
                let backup = Backup::new(&mut self.cx);
                backup.acknowledge(&mut self.cx);
                self.state = ReplicaState::Backup(backup);
            }
        }
    }

    /// Starts a member that was formed in an earlier life.
    fn start_formed(&mut self) {
        if !self.cx.epochs.is_own_disk(&self.cx.epochs.configuration, self.cx.me) {
            return self.cx.halt(Halt::OtherDisk { epoch: self.cx.epoch() });
        }
        if self.cx.cluster.member(self.cx.me).is_none() {
            self.state = ReplicaState::Retired(Retired::new(self.cx.now.monotonic));
            return;
        }
        self.cx.hold_as_promised();
        if self.cx.cluster.voter_count() == 1 && self.cx.is_voter() {
            if self.cx.misses_entries() {
                // No other member has acknowledged what is missing.
                return self.cx.halt(Halt::Lost { op: self.cx.log.head().op.next() });
            }
            self.cx.damage = None;
        }
        let is_first = self.cx.epoch() > Epoch::ZERO && self.cx.view == self.cx.epochs.configuration.first;
        if self.cx.log_view < self.cx.view && self.cx.is_voter() && !is_first {
            // A member that restarts between views sends its summary again.
            let persisted = self.cx.writes.durable;
            let mut change = ViewChange::new(&mut self.cx, persisted);
            let flow = change.send_when_durable(&mut self.cx);
            self.state = ReplicaState::ViewChange(change);
            return self.carry_out(flow);
        }
        if self.cx.is_damaged() || self.cx.log_view < self.cx.view {
            // Rule D6: the member votes, but acknowledges nothing before it knows its head.
            self.catch_up(self.cx.view);
        } else {
            self.state = ReplicaState::Backup(Backup::new(&mut self.cx));
        }
        if self.cx.primary() == self.cx.me {
            // Rule V9: a restarted primary never resumes its view; it votes to leave.
            let target = self.cx.view.next();
            let flow = self.state.suspect(&mut self.cx, target);
            self.carry_out(flow);
        }
    }

    /// Rule V6: the log of the view and `log_view` are durable here.
    fn become_primary(&mut self) {
        self.cx.epochs.tell_again(self.cx.me, self.cx.now.monotonic);
        let mut primary = Primary::new(&mut self.cx);
        let flow = primary.start(&mut self.cx);
        self.state = ReplicaState::Primary(primary);
        self.carry_out(flow);
    }

    fn enter_view_change(&mut self, view: View) {
        debug!(from = %self.cx.view, to = %view, "view change");
        assert!(view > self.cx.view, "views only grow");
        if !self.cx.is_voter() {
            return self.catch_up(view);
        }
        self.leave_for(view);
        let persisted = self.cx.writes.last;
        self.state = ReplicaState::ViewChange(ViewChange::new(&mut self.cx, persisted));
    }

    /// Follows the primary of `view`, which is at least the present view. The log of that view is not installed here
    /// yet: requests it.
    fn catch_up(&mut self, view: View) {
        self.leave_for(view);
        let mut catching = CatchingUp::new(&self.cx);
        catching.ask_for_state(&mut self.cx);
        self.state = ReplicaState::CatchingUp(catching);
    }

    /// Leaves the present state for one in `view`. If the view is new, it is written.
    fn leave_for(&mut self, view: View) {
        if let ReplicaState::Primary(primary) = &mut self.state {
            primary.leave(&mut self.cx);
        }
        if view > self.cx.view {
            self.cx.view = view;
            // Rule T4: nothing of a state is stored before that is durable.
            self.cx.transfer.joined = self.cx.write_view(None);
        }
    }

    // -- inputs

    /// Lets the primary act, if this member is primary.
    fn as_primary(&mut self, act: impl FnOnce(&mut Primary, &mut Context) -> Flow) {
        if let ReplicaState::Primary(primary) = &mut self.state {
            let flow = act(primary, &mut self.cx);
            self.carry_out(flow);
        }
    }

    fn on_message(&mut self, from: MemberId, message: Message) {
        if from == self.cx.me || !self.is_of_this_epoch(from, &message) || !self.cx.hears(from, &message) {
            return;
        }
        if let Message::Formation { step, ask } = message {
            return self.on_formation(from, step, ask);
        }
        if !self.state.hears(&message) {
            return;
        }
        match message {
            Message::Prepare { view, commit, entry } => self.on_prepare(from, view, commit, entry),
            Message::PrepareOk { view, log } if view == self.cx.view => {
                self.as_primary(|primary, cx| primary.on_prepare_ok(cx, from, log));
            }
            Message::Commit { view, commit, age, round, trim, fresh } => {
                self.on_commit(from, view, &Heartbeat { commit, age, round, trim, fresh });
            }
            Message::CommitOk { view, round, log, checkpoint, sent } if view == self.cx.view => {
                let ack = HeartbeatAck { round, log, checkpoint, sent };
                self.as_primary(|primary, cx| primary.on_commit_ok(cx, from, &ack));
            }
            Message::PrepareOk { .. } | Message::CommitOk { .. } => {}
            Message::StartViewChange { view } => self.on_start_view_change(from, view),
            Message::DoViewChange { view, log, ages } => self.on_do_view_change(from, view, log, &ages),
            Message::StartView { view, commit, hashes, nonce } => {
                self.on_start_view(from, view, commit, &hashes, nonce);
            }
            Message::GetState { view, nonce } => self.on_get_state(from, view, nonce),
            Message::Fetch { from: first, through, hash, nonce, what } => {
                let is_primary = matches!(self.state, ReplicaState::Primary(_));
                let to = Requester { id: from, nonce, primary_of: is_primary.then_some(self.cx.view) };
                self.cx.on_fetch(to, first, through, hash, what);
                // Who asks may be a member of an earlier epoch, which is sent nothing else.
                let is_peer = self.cx.cluster.member(from).is_some();
                if let (ReplicaState::Primary(primary), FetchWhat::Entries, true) =
                    (&mut self.state, what, is_peer)
                {
                    primary.on_lack(&mut self.cx, from, first);
                }
            }
            Message::Headers { nonce, hashes } => {
                let install = self.state.install_mut();
                let is_news = install.is_some_and(|install| install.on_headers(&self.cx, nonce, &hashes));
                self.on_installing(is_news);
            }
            Message::NewState { nonce, entries } => self.on_new_state(from, nonce, entries),
            Message::TooOld { nonce, checkpoint, primary_of } => {
                self.on_too_old(from, nonce, checkpoint, primary_of);
            }
            Message::GetSnapshot { nonce, at, after } => self.cx.on_get_snapshot(from, nonce, at, after),
            piece @ (Message::SnapshotChunk { .. } | Message::SnapshotGone { .. }) => {
                self.on_piece(from, piece);
            }
            Message::StateDigest { op, digest } => self.cx.on_state_digest(from, op, digest),
            Message::AskEpoch { epoch, disk } => self.on_ask_epoch(from, epoch, disk),
            Message::Epoch { configuration, settled, ended, view, checkpoint } => {
                let told = Told { from, configuration: *configuration, settled, ended, view, checkpoint };
                self.on_epoch(&told);
            }
            Message::Formation { .. } => {}
        }
    }

    fn on_formation(&mut self, from: MemberId, step: FormationStep, ask: bool) {
        match &mut self.state {
            ReplicaState::Forming(forming) => forming.on_formation(&mut self.cx, from, step, ask),
            _ if ask => {
                self.cx.send(from, Message::Formation { step: FormationStep::Formed, ask: false });
            }
            _ => {}
        }
    }

    /// Follows the primary of `view`, as its message requires. Returns true if this member is in that view.
    fn follow(&mut self, from: MemberId, view: View) -> bool {
        if view < self.cx.view || from != self.cx.cluster.primary(view) {
            trace!(%from, %view, mine = %self.cx.view, "ignore a message of an older view");
            return false;
        }
        match self.state.watch_mut() {
            Some(watch) if view == self.cx.view => {
                watch.sign_of_life(&mut self.cx);
                true
            }
            // The view is new, or this member has waited for it to start.
            Some(_) | None => {
                self.catch_up(view);
                false
            }
        }
    }

    fn on_prepare(&mut self, from: MemberId, view: View, commit: Anchor, entry: Entry) {
        if self.follow(from, view)
            && let ReplicaState::Backup(backup) = &mut self.state
        {
            backup.on_prepare(&mut self.cx, commit, entry);
        }
    }

    fn on_commit(&mut self, from: MemberId, view: View, heartbeat: &Heartbeat) {
        if self.cx.log.holds(heartbeat.commit) {
            self.cx.on_age(from, heartbeat.commit, heartbeat.age);
        }
        if let Some(fresh) = heartbeat.fresh {
            self.cx.on_fresh(fresh);
        }
        if self.follow(from, view) {
            match &self.state {
                ReplicaState::Backup(backup) => backup.on_commit(&mut self.cx, from, heartbeat),
                _ => CatchingUp::on_commit(&mut self.cx, from, heartbeat),
            }
        }
    }

    fn on_start_view_change(&mut self, from: MemberId, view: View) {
        if view <= self.cx.view {
            trace!(%from, %view, mine = %self.cx.view, "a vote for a view that is not newer withdraws an earlier one");
            self.cx.votes.withdraw(from);
            return;
        }
        self.cx.votes.insert(from, view, self.cx.now.monotonic);
        let flow = self.state.on_vote(&mut self.cx, from, view);
        self.carry_out(flow);
    }

    fn on_do_view_change(&mut self, from: MemberId, view: View, log: LogSummary, ages: &[Age]) {
        self.cx.on_ages(from, &log, ages);
        self.cx.release(from, view);
        if view > self.cx.view {
            // A quorum of votes has moved the sender to that view.
            self.enter_view_change(view);
        }
        if matches!(self.state, ReplicaState::Primary(_)) {
            return self.cx.send(from, Primary::start_view(&self.cx, 0));
        }
        if self.cx.transfer.stateless && self.cx.log.holds(log.commit) {
            // If no data member has a state, there is no primary to announce it, and all must bring their states to
            // one op (T9b).
            self.cx.advance_commit(log.commit.op);
        }
        if let ReplicaState::ViewChange(change) = &mut self.state {
            let flow = change.on_do_view_change(&mut self.cx, from, view, log);
            self.carry_out(flow);
        }
    }

    /// Rules V6 and V7.
    fn on_start_view(
        &mut self,
        from: MemberId,
        view: View,
        commit: Anchor,
        hashes: &[(Op, Hash)],
        nonce: u64,
    ) {
        let in_order = hashes.windows(2).all(|pair| pair[1].0 == pair[0].0.next());
        let Some(&(head, _)) = hashes.last().filter(|_| in_order) else { return };
        if view < self.cx.view || from != self.cx.cluster.primary(view) || commit.op > head {
            return;
        }
        let is_newer = view > self.cx.view;
        if let ReplicaState::Backup(backup) = &self.state
            && !is_newer
        {
            return backup.acknowledge(&mut self.cx);
        }
        let installs = !is_newer && self.state.install_mut().is_some();
        // Rule N5: the message was sent when the view began. If the view has committed more since, it proves nothing.
        if installs || head < self.cx.commit {
            return;
        }
        let asked = matches!(&self.state, ReplicaState::CatchingUp(catching) if catching.has_asked(nonce));
        if self.cx.is_damaged() && !asked {
            // Rule D6a: only an answer to a request of this life settles an uncertain head.
            if is_newer || matches!(self.state, ReplicaState::ViewChange(_)) {
                self.catch_up(view);
            }
            return;
        }
        if is_newer || !matches!(self.state, ReplicaState::CatchingUp(_)) {
            self.leave_for(view);
            self.state = ReplicaState::CatchingUp(CatchingUp::new(&self.cx));
        }
        if let ReplicaState::CatchingUp(catching) = &mut self.state {
            let flow = catching.on_start_view(&mut self.cx, hashes);
            self.carry_out(flow);
        }
    }

    fn on_get_state(&mut self, from: MemberId, view: View, nonce: u64) {
        if view > self.cx.view {
            // The sender heard of that view from its primary, or has it on disk: a quorum moved some member there. A
            // standby is no member of any quorum, so its word moves a voter only a little: it may have a greater view
            // on its disk than anybody else if it fetched a state from a member of another epoch (rule M13).
            let near = View::of(view.epoch(), self.cx.view.number() + NEAR_VIEWS);
            let counts = self.cx.cluster.is_voter(from) || !self.cx.is_voter();
            self.enter_view_change(if counts { view } else { view.min(near) });
        } else if matches!(self.state, ReplicaState::Primary(_)) {
            self.cx.send(from, Primary::start_view(&self.cx, nonce));
        }
    }

    fn on_new_state(&mut self, from: MemberId, nonce: u64, entries: Vec<Entry>) {
        if self.on_committed_entries(nonce, &entries) {
            return;
        }
        self.cx.on_repaired(nonce, &entries);
        if let ReplicaState::Backup(backup) = &mut self.state {
            return backup.fill_gap(&mut self.cx, from, nonce, entries);
        }
        let install = self.state.install_mut();
        let is_news = install.is_some_and(|install| install.on_new_state(&mut self.cx, nonce, entries));
        self.on_installing(is_news);
    }

    /// Continues an installation that has made progress.
    fn on_installing(&mut self, is_news: bool) {
        if !is_news {
            return;
        }
        // Drawn in both states, so that a seed stands for the same execution as before these states were separate.
        let patience = view_change::patience(&mut self.cx);
        let flow = match &mut self.state {
            ReplicaState::ViewChange(change) => change.on_install_progress(&mut self.cx, patience),
            ReplicaState::CatchingUp(catching) => catching.drive_install(&mut self.cx),
            _ => return,
        };
        self.carry_out(flow);
    }

    fn on_durable(&mut self, seq: WriteSeq) {
        let grew = self.cx.on_durable(seq);
        self.cx.commit_what_is_proven();
        if self.cx.rebase_is_durable() {
            self.report_again();
        }
        let flow = match &mut self.state {
            ReplicaState::Forming(forming) => forming.on_durable(&mut self.cx),
            ReplicaState::Primary(primary) => primary.maybe_commit(&mut self.cx),
            ReplicaState::Backup(backup) if grew => return backup.acknowledge(&mut self.cx),
            ReplicaState::Backup(_) => return,
            ReplicaState::ViewChange(change) => change.on_durable(&mut self.cx),
            ReplicaState::CatchingUp(catching) => catching.drive_install(&mut self.cx),
            ReplicaState::Entering(_) => return self.enter_when_durable(),
            ReplicaState::Retired(retired) => return retired.on_durable(&mut self.cx),
        };
        self.carry_out(flow);
    }

    fn on_timeout(&mut self) {
        self.cx.tell_the_untold(matches!(self.state, ReplicaState::Primary(_)));
        self.cx.fetch_epoch();
        self.cx.ask_for_repairs();
        let flow = match &mut self.state {
            ReplicaState::Forming(forming) => forming.on_timeout(&mut self.cx),
            ReplicaState::Primary(primary) => primary.on_timeout(&mut self.cx),
            ReplicaState::Backup(backup) => backup.watch.on_timeout(&mut self.cx),
            ReplicaState::ViewChange(change) => change.on_timeout(&mut self.cx),
            ReplicaState::CatchingUp(catching) => catching.on_timeout(&mut self.cx),
            ReplicaState::Entering(_) => Flow::Continue(()),
            ReplicaState::Retired(retired) => {
                retired.on_timeout(&mut self.cx);
                Flow::Continue(())
            }
        };
        self.carry_out(flow);
        self.cx.transfer_timeout();
    }

    /// What this member has reported about its log is outdated, or it has withheld a report (rules N4, V4 and T5).
    fn report_again(&mut self) {
        let flow = match &mut self.state {
            ReplicaState::Primary(primary) => primary.maybe_commit(&mut self.cx),
            ReplicaState::Backup(backup) => return backup.acknowledge(&mut self.cx),
            ReplicaState::ViewChange(change) => change.send_summary_again(&mut self.cx),
            ReplicaState::Forming(_)
            | ReplicaState::CatchingUp(_)
            | ReplicaState::Entering(_)
            | ReplicaState::Retired(_) => return,
        };
        self.carry_out(flow);
    }
}

#[cfg(test)]
mod tests;
