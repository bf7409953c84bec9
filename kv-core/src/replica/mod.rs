//! The protocol as a pure state machine: no clock, no I/O, no tokio, and no randomness except its seed. Its rules,
//! with a number and the execution that each prevents, are in `PROTOCOL.md`. Comments and tests refer to them by
//! number.
//!
//! # How to drive it
//! Call [`Replica::handle`] with one [`Input`], then call [`Replica::poll_output`] until it returns `None`, and carry
//! out each [`Output`] in order. Then call [`Replica::poll_timeout`], and call `handle(now, Input::Timeout)` at the
//! time that it returns. The completion of an output is an input too: a write is answered later by
//! [`Input::Durable`].

mod api;
mod backup;
mod decide;
mod detector;
mod digests;
mod formation;
mod install;
mod lease;
mod log;
mod lost;
mod pace;
mod primary;
mod rebase;
mod repair;
mod rounds;
mod serve;
#[cfg(feature = "internals")]
mod stall;
mod stamp;
mod state;
mod summary;
mod transfer;
mod trimming;
mod view_change;
mod votes;

pub use api::*;
#[cfg(feature = "internals")]
pub use stall::{StallReason, Vote, stall_reason};

use crate::config::{Cluster, Options, Role};
use crate::ids::{Anchor, Incarnation, Instant, MemberId, Op, View, WriteSeq};
use crate::message::{
    ChunkEnd, Cut, Extent, FormationStep, Message, PeerStatus, Recovered, ViewRecord, Write,
};
use digests::Digests;
use formation::Forming;
use lease::Promise;
use log::Log;
use repair::Repairs;
use stamp::Ages;
use state::ReplicaState;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use tracing::debug;
use transfer::Transfer;
use trimming::Trimming;
use votes::Votes;

/// The configuration of a replica.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ReplicaConfig {
    /// The members and their quorums.
    pub cluster: Cluster,
    /// Which member this is.
    pub me: MemberId,
    /// Time-outs and limits.
    pub options: Options,
    /// The seed of its jitter and its nonces. It must be different in each life.
    pub seed: u64,
    /// The state that goes with the log was damaged and set aside. Another one is fetched from a peer.
    pub stateless: bool,
    /// The part of a snapshot that an earlier life has stored, and where it ends.
    pub staged: Option<(Anchor, ChunkEnd)>,
}

impl ReplicaConfig {
    /// Creates a configuration.
    #[must_use]
    pub const fn new(cluster: Cluster, me: MemberId, options: Options, seed: u64) -> Self {
        Self { cluster, me, options, seed, stateless: false, staged: None }
    }
}

/// The writes that were requested, and how far they are durable.
#[derive(Debug, Default)]
struct WriteProgress {
    last: WriteSeq,
    durable: WriteSeq,
    under_way: VecDeque<(WriteSeq, Instant)>,
}

/// The protocol state machine of one member. See the module's documentation for how to drive it.
#[derive(Debug)]
pub struct Replica {
    cluster: Cluster,
    me: MemberId,
    options: Options,
    rng: fastrand::Rng,
    now: Now,
    /// The time as `now`, without leaps (rule N7).
    steady: Instant,
    ages: Ages,
    /// How much of the stamps made here is based on wall clocks.
    credited: Duration,
    /// A number that differs in each life of this member.
    life: u64,
    /// Rule R4: everything that was acknowledged before this time is at or below this op.
    fresh: Option<(Op, Instant)>,
    /// Rule R6.
    promise: Option<Promise>,
    /// Never goes back, even in a restart. A write of it is requested in the same step that changes it.
    view: View,
    /// The last view whose log was installed. Invariant: `log_view <= view`.
    log_view: View,
    /// Entries that this member acknowledged may be missing from its log, up to this op. It acknowledges nothing
    /// (rule D6).
    damage: Option<Extent>,
    repairs: Repairs,
    incarnation: Incarnation,
    log: Log,
    /// Invariants: `checkpoint <= commit <= head`, and `head - pipeline_depth <= commit` (rule N3).
    commit: Op,
    applied: Op,
    applied_at: Instant,
    checkpoint: Op,
    trimming: Trimming,
    transfer: Transfer,
    writes: WriteProgress,
    votes: Votes,
    digests: Digests,
    /// This member's vote that was last sent to the others.
    sent_vote: Option<View>,
    state: ReplicaState,
    /// How many view changes this member has entered since it was last in normal status. It determines the back-off.
    attempts: u32,
    outputs: VecDeque<Output>,
    reported: Option<ReplicaStatus>,
    halted: bool,
}

impl Replica {
    /// Creates a replica from what recovery found. Call [`poll_output`](Self::poll_output) afterwards.
    #[must_use]
    pub fn new(config: ReplicaConfig, recovered: Recovered, now: Now) -> Self {
        let ReplicaConfig { cluster, me, options, seed, stateless, staged } = config;
        let vote_lifetime = options.heartbeat * 8;
        let log = Log::new(&recovered);
        let behind = recovered.damage.as_ref().map(|damage| damage.past_gap.clone()).unwrap_or_default();
        let forming = Forming {
            step: recovered.formation,
            writing: false,
            heard: BTreeMap::new(),
            ask_at: now.monotonic,
        };
        let mut replica = Self {
            cluster,
            me,
            options,
            rng: fastrand::Rng::with_seed(seed),
            now,
            steady: Instant::ZERO,
            ages: Ages::default(),
            credited: Duration::ZERO,
            life: seed,
            fresh: None,
            promise: None,
            view: recovered.view,
            log_view: recovered.log_view,
            damage: recovered.damage.as_ref().map(|damage| damage.extent),
            repairs: Repairs::default(),
            incarnation: recovered.incarnation,
            log,
            commit: recovered.checkpoint.op,
            applied: recovered.checkpoint.op,
            applied_at: now.monotonic,
            checkpoint: recovered.checkpoint.op,
            trimming: Trimming::new(recovered.floor.op, recovered.checkpoint.op, now.monotonic),
            transfer: Transfer::new(stateless, staged),
            writes: WriteProgress::default(),
            votes: Votes::new(vote_lifetime),
            digests: Digests::default(),
            sent_vote: None,
            state: ReplicaState::Forming(forming),
            attempts: 0,
            outputs: VecDeque::new(),
            reported: None,
            halted: false,
        };
        replica.commit_by_pipeline();
        replica.ages_of_recovered(behind.iter().filter_map(|(op, behind)| Some((*op, behind.meta()?))));
        if recovered.formation == FormationStep::Formed {
            replica.start_formed();
            replica.fetch_state();
            replica.discard_outdated_snapshot();
        } else {
            replica.progress_forming();
        }
        replica.report_status();
        replica
    }

    /// Processes an input. Call [`poll_output`](Self::poll_output) afterwards. `now` must never go back.
    pub fn handle(&mut self, now: Now, input: Input) {
        if self.halted {
            return;
        }
        self.steady = self.steady_at(now);
        self.now = now;
        self.watch_applying(&input);
        match input {
            Input::Message { from, message } => self.on_message(from, message),
            Input::Propose { requests } => self.on_propose(requests),
            Input::Read { ticket } => self.on_read(ticket),
            Input::Durable { seq } => self.on_durable(seq),
            Input::Applied { op } => self.on_applied(op),
            Input::Applying => {}
            Input::StateDigest { op, digest } => self.on_own_digest(op, digest),
            Input::Checkpointed { checkpoint } => self.on_checkpointed(checkpoint),
            Input::Faulty { op } => self.on_faulty(op),
            Input::PeerLost { peer } => self.on_peer_lost(peer),
            Input::Staged { at, end } => self.on_staged(at, end),
            Input::SnapshotInstalled { point } => self.on_snapshot_installed(point),
            Input::SnapshotRefused { at } => self.on_snapshot_refused(at),
            Input::OwnPiece { message } => self.on_piece(self.me, message),
            Input::StateLost => self.on_state_lost(),
            Input::Timeout => self.on_timeout(),
            Input::Handover => self.on_handover(),
        }
        self.progress_repairs();
        self.send_withdrawal();
        self.report_status();
    }

    /// Returns the next output, in order; `None` when there is none.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call `handle(now, Input::Timeout)`; `None` after a halt.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.halted {
            return None;
        }
        let timeouts = [self.transfer.next_timeout(), self.repairs.next_timeout()];
        timeouts.into_iter().flatten().chain([self.state.next_timeout()]).min()
    }

    /// Returns whether this member is the primary and accepts proposals and reads.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        matches!(&self.state, ReplicaState::Primary(primary) if primary.is_serving())
    }

    /// How many more bytes of requests the replica would queue. Zero if it is not serving.
    #[must_use]
    pub fn proposal_room(&self) -> usize {
        match &self.state {
            ReplicaState::Primary(primary) if primary.is_serving() => {
                (self.options.max_batch_bytes * 4).saturating_sub(primary.queued_bytes())
            }
            _ => 0,
        }
    }

    /// The view.
    #[must_use]
    pub const fn view(&self) -> View {
        self.view
    }

    /// The last view whose log was installed here.
    #[cfg(feature = "internals")]
    #[must_use]
    pub const fn log_view(&self) -> View {
        self.log_view
    }

    /// The last op of the log.
    #[must_use]
    pub fn head(&self) -> Anchor {
        self.log.head()
    }

    /// The last op that is known here to be committed.
    #[must_use]
    pub fn commit(&self) -> Anchor {
        self.anchor(self.commit)
    }

    /// The last op that is durable in the own journal. A checkpoint must not cover more.
    #[must_use]
    pub fn durable(&self) -> Anchor {
        self.log.durable()
    }

    /// The durable checkpoint.
    #[must_use]
    pub const fn checkpoint(&self) -> Op {
        self.checkpoint
    }

    /// If this member is the primary: the progress of the peers.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerStatus> {
        match &self.state {
            ReplicaState::Primary(primary) => {
                primary.peer_status(self.now.monotonic, self.options.failure_timeout_min)
            }
            _ => Vec::new(),
        }
    }

    /// The status of this replica.
    #[must_use]
    pub fn status(&self) -> ReplicaStatus {
        let status = match &self.state {
            ReplicaState::Forming(_) => Status::Forming,
            ReplicaState::Backup(_) | ReplicaState::CatchingUp(_) if self.is_damaged() => Status::Damaged,
            ReplicaState::Primary(_) | ReplicaState::Backup(_) => Status::Normal,
            ReplicaState::ViewChange(_) => Status::ViewChange,
            ReplicaState::CatchingUp(_) => Status::CatchingUp,
        };
        let primary = match &self.state {
            ReplicaState::Primary(primary) if primary.is_serving() => Some(self.me),
            ReplicaState::Backup(backup) if backup.watch.suspicion.is_none() => Some(self.primary()),
            ReplicaState::CatchingUp(catching) if catching.watch.suspicion.is_none() => Some(self.primary()),
            _ => None,
        };
        ReplicaStatus {
            view: self.view,
            status,
            primary: primary.filter(|id| *id != self.me || self.is_serving()),
        }
    }

    /// Asserts what must hold between any two steps. It is cheap, and is meant for tests and the simulator.
    ///
    /// # Panics
    /// If the replica has a bug.
    #[cfg(feature = "internals")]
    pub fn check_invariants(&self) {
        self.log.check_invariants();
        assert!(self.log_view <= self.view, "log_view is not above view");
        assert!(self.checkpoint <= self.commit, "a checkpoint covers committed entries only");
        assert!(self.commit <= self.log.head().op, "the commit point is in the log");
        assert!(self.applied <= self.commit, "only committed entries are applied");
        let uncommitted = self.log.head().op.distance_from(self.commit);
        assert!(uncommitted <= u64::from(self.options.pipeline_depth), "at most a pipeline is uncommitted");
        match &self.state {
            ReplicaState::Primary(primary) => {
                assert!(self.primary() == self.me, "only the primary of its view is primary");
                assert!(self.log_view == self.view, "a primary has installed its view's log");
                primary.check_invariants(self.log.head().op);
            }
            ReplicaState::Backup(_) => {
                assert!(self.log_view == self.view, "a backup has installed its view's log")
            }
            ReplicaState::Forming(_) | ReplicaState::CatchingUp(_) | ReplicaState::ViewChange(_) => {}
        }
        let normal = matches!(self.state, ReplicaState::Primary(_) | ReplicaState::Backup(_));
        assert!(!normal || !self.is_damaged(), "a damaged member is not in normal status");
    }

    /// The hashes of the committed ops above the first `count`.
    #[cfg(test)]
    fn committed_above(&self, count: usize) -> Vec<crate::ids::Hash> {
        (count as u64 + 1..=self.commit.get()).map(|op| self.anchor(Op::new(op)).hash).collect()
    }

    // -- shared by all parts

    fn primary(&self) -> MemberId {
        self.cluster.primary(self.view)
    }

    fn is_witness(&self) -> bool {
        self.cluster.member(self.me).is_some_and(|member| member.role == Role::Witness)
    }

    fn anchor(&self, op: Op) -> Anchor {
        self.log.anchor(op).expect("ops between the floor and the head have a hash")
    }

    fn send(&mut self, to: MemberId, message: Message) {
        self.outputs.push_back(Output::Send { to, message });
    }

    fn broadcast(&mut self, message: &Message) {
        let peers: Vec<MemberId> = self.cluster.peers(self.me).map(|peer| peer.id).collect();
        for to in peers {
            self.send(to, message.clone());
        }
    }

    fn write(&mut self, write: Write) -> WriteSeq {
        let seq = self.writes.last.next();
        self.writes.last = seq;
        self.writes.under_way.push_back((seq, self.now.monotonic));
        self.outputs.push_back(Output::Write { seq, write });
        seq
    }

    /// Requests that the present view numbers be made durable, together with a cut of the log.
    fn write_view(&mut self, cut: Option<Anchor>) -> WriteSeq {
        let cut = cut.map(|after| {
            self.incarnation = self.incarnation.next();
            Cut { after, incarnation: self.incarnation }
        });
        self.write(Write::View(ViewRecord {
            view: self.view,
            log_view: self.log_view,
            cut,
            damaged: self.is_damaged(),
        }))
    }

    fn is_damaged(&self) -> bool {
        self.damage.is_some()
    }

    fn is_durable(&self, seq: WriteSeq) -> bool {
        seq <= self.writes.durable
    }

    fn halt(&mut self, why: Halt) {
        self.halted = true;
        self.outputs.push_back(Output::Halt(why));
    }

    fn nonce(&mut self) -> u64 {
        self.rng.u64(1..)
    }

    /// `duration`, plus a random part of up to as much again.
    fn jittered(&mut self, duration: Duration) -> Duration {
        duration.mul_f64(1.0 + self.rng.f64())
    }

    fn report_status(&mut self) {
        let now = self.status();
        if self.reported != Some(now) && !self.halted {
            self.reported = Some(now);
            debug!(view = %now.view, status = ?now.status, primary = ?now.primary, "status changed");
            self.outputs.push_back(Output::Status(now));
        }
    }

    fn advance_commit(&mut self, op: Op) {
        if op > self.commit {
            self.commit = op;
            self.forget_ages_below(op);
            self.outputs.push_back(Output::Commit { commit: self.anchor(op) });
        }
    }

    // -- inputs

    fn on_message(&mut self, from: MemberId, message: Message) {
        if from == self.me || self.cluster.member(from).is_none() {
            return;
        }
        if let Message::Formation { step, ask } = message {
            return self.on_formation(from, step, ask);
        }
        if matches!(self.state, ReplicaState::Forming(_)) {
            return;
        }
        match message {
            Message::Prepare { view, commit, entry } => self.on_prepare(from, view, commit, entry),
            Message::PrepareOk { view, log } => self.on_prepare_ok(from, view, log),
            Message::Commit { view, commit, age, round, trim, fresh } => {
                self.on_commit(from, view, backup::Heartbeat { commit, age, round, trim, fresh });
            }
            Message::CommitOk { view, round, log, checkpoint, sent } => {
                self.on_commit_ok(from, view, primary::HeartbeatAck { round, log, checkpoint, sent });
            }
            Message::StartViewChange { view } => self.on_start_view_change(from, view),
            Message::DoViewChange { view, log, ages } => self.on_do_view_change(from, view, log, &ages),
            Message::StartView { view, commit, hashes, nonce } => {
                self.on_start_view(from, view, commit, &hashes, nonce);
            }
            Message::GetState { view, nonce } => self.on_get_state(from, view, nonce),
            Message::Fetch { from: first, through, hash, nonce, what } => {
                self.on_fetch(from, first, through, hash, nonce, what);
            }
            Message::Headers { nonce, hashes } => self.on_headers(nonce, &hashes),
            Message::NewState { nonce, entries } => self.on_new_state(from, nonce, entries),
            Message::TooOld { nonce, checkpoint, primary_of } => {
                self.on_too_old(from, nonce, checkpoint, primary_of);
            }
            Message::GetSnapshot { nonce, at, after } => self.on_get_snapshot(from, nonce, at, after),
            piece @ (Message::SnapshotChunk { .. } | Message::SnapshotGone { .. }) => {
                self.on_piece(from, piece)
            }
            Message::StateDigest { op, digest } => self.on_state_digest(from, op, digest),
            Message::Formation { .. } => {}
        }
    }

    fn on_durable(&mut self, seq: WriteSeq) {
        assert!(seq <= self.writes.last, "only writes that were asked for become durable");
        self.writes.durable = self.writes.durable.max(seq);
        while self.writes.under_way.front().is_some_and(|(first, _)| *first <= seq) {
            self.writes.under_way.pop_front();
        }
        let grew = self.log.on_durable(seq);
        self.checkpoint_durable();
        self.rebase_durable();
        match &self.state {
            ReplicaState::Forming(_) => self.forming_durable(),
            ReplicaState::Primary(_) => self.maybe_commit(),
            ReplicaState::Backup(_) => {
                if grew {
                    self.acknowledge();
                }
            }
            ReplicaState::ViewChange(_) => {
                self.view_change_durable();
                self.drive_install();
            }
            ReplicaState::CatchingUp(_) => self.drive_install(),
        }
    }

    fn on_applied(&mut self, op: Op) {
        if op > self.applied {
            self.applied = op;
            self.applied_at = self.now.monotonic;
        }
    }

    fn on_timeout(&mut self) {
        self.ask_for_repairs();
        match &self.state {
            ReplicaState::Forming(_) => self.forming_timeout(),
            ReplicaState::Primary(_) => self.primary_timeout(),
            ReplicaState::Backup(_) => self.watch_timeout(),
            ReplicaState::ViewChange(_) => self.view_change_timeout(),
            ReplicaState::CatchingUp(_) => self.catching_up_timeout(),
        }
        self.transfer_timeout();
    }

    /// The first life of a member: the empty log of view 0 is installed everywhere.
    fn start_just_formed(&mut self) {
        if self.primary() == self.me { self.become_primary() } else { self.become_first_backup() }
    }

    /// A later life.
    fn start_formed(&mut self) {
        self.hold_as_promised();
        if self.cluster.len() == 1 {
            if self.misses_entries() {
                // No other member has what is missing.
                return self.halt(Halt::Lost { op: self.log.head().op.next() });
            }
            self.damage = None;
        }
        if self.log_view < self.view {
            self.resume_view_change();
        } else if self.is_damaged() {
            // Rule D6: the member votes, but acknowledges nothing before it knows its head.
            self.become_catching_up(self.view);
            self.ask_for_state();
            if self.primary() == self.me {
                self.suspect(self.view.next());
            }
        } else {
            self.become_backup();
            if self.primary() == self.me {
                // Rule V9: a restarted primary never resumes its view; it votes to leave.
                self.suspect(self.view.next());
            }
        }
    }
}

#[cfg(test)]
mod tests;
