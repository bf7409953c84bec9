//! What all states of a replica share: the configuration, the clock, the log, the commit point, the outputs. Nothing
//! here depends on the state that the replica is in.

mod digests;
mod epochs;
mod fresh;
mod lease;
mod log;
mod lost;
mod rebase;
mod repair;
mod serve;
mod stamp;
mod summary;
mod transfer;
mod trimming;
mod votes;

pub(super) use lost::lost;
pub(super) use serve::{RUN_BYTES, Requester};
pub(super) use stamp::Origin;
pub(super) use summary::{holds_through, well_formed};
pub(super) use transfer::ChunkOutcome;
pub(super) use votes::Suspicion;

use super::{Halt, Now, Output, ReplicaConfig};
use crate::config::{Cluster, Configuration, Options, Role};
use crate::ids::{Anchor, Epoch, Hash, Incarnation, Instant, MemberId, Op, View, WriteSeq};
use crate::message::{Cut, Entry, EntryPastGap, Extent, Membership, Message, Recovered, ViewRecord, Write};
use digests::Digests;
use epochs::Epochs;
use lease::Promise;
use log::Log;
use repair::Repairs;
use stamp::Ages;
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::time::Duration;
use tracing::trace;
use transfer::Transfer;
use trimming::Trimming;
use votes::Votes;

/// The end of the present state: what the member does next.
#[derive(Debug)]
pub(super) enum Transition {
    /// All members have been seen.
    Formed,
    /// A quorum has left for this view.
    ViewChange(View),
    /// The log of the view is installed here, durably.
    Installed,
}

/// Whether a state goes on. With `?`, a method of a state ends where the state ends. It is `must_use`, so no transition
/// is lost.
pub(super) type Flow = ControlFlow<Transition>;

/// The writes that were requested, and how far they are durable.
#[derive(Debug, Default)]
pub(super) struct WriteProgress {
    pub(super) last: WriteSeq,
    pub(super) durable: WriteSeq,
    under_way: VecDeque<(WriteSeq, Instant)>,
}

impl WriteProgress {
    fn on_durable(&mut self, seq: WriteSeq) {
        assert!(seq <= self.last, "only writes that were asked for become durable");
        self.durable = self.durable.max(seq);
        while self.under_way.front().is_some_and(|(first, _)| *first <= seq) {
            self.under_way.pop_front();
        }
    }

    /// When the oldest write that is not durable yet was requested.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        self.under_way.front().map(|(_, since)| *since)
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) cluster: Cluster,
    pub(super) me: MemberId,
    pub(super) options: Options,
    pub(super) window_bytes: usize,
    rng: fastrand::Rng,
    pub(super) now: Now,
    /// The time as `now`, without leaps (rule N7).
    steady: Instant,
    ages: Ages,
    /// How much of the stamps made here is based on wall clocks.
    pub(super) credited: Duration,
    /// A number that differs in each life of this member.
    life: u64,
    /// Rule R4: everything that was acknowledged before this time is at or below this op.
    fresh: Option<(Op, Instant)>,
    /// Rule R6.
    promise: Option<Promise>,
    /// Never goes back, even in a restart. A write of it is requested in the same step that changes it.
    pub(super) view: View,
    /// The last view whose log was installed. Invariant: `log_view <= view`.
    pub(super) log_view: View,
    /// Entries that this member acknowledged may be missing from its log, up to this op. It acknowledges nothing
    /// (rule D6).
    pub(super) damage: Option<Extent>,
    pub(super) repairs: Repairs,
    incarnation: Incarnation,
    pub(super) log: Log,
    /// Invariants: `checkpoint <= commit <= head`, and `head - pipeline_depth <= commit` (rule N3).
    pub(super) commit: Op,
    pub(super) applied: Op,
    pub(super) applied_at: Instant,
    pub(super) checkpoint: Op,
    trimming: Trimming,
    pub(super) transfer: Transfer,
    pub(super) epochs: Epochs,
    pub(super) writes: WriteProgress,
    pub(super) votes: Votes,
    digests: Digests,
    /// This member's vote that was last sent to the others.
    sent_vote: Option<View>,
    /// How many view changes this member has entered since it was last in normal status. It determines the back-off.
    pub(super) attempts: u32,
    pub(super) outputs: VecDeque<Output>,
    pub(super) halted: bool,
}

impl Context {
    pub(super) fn new(config: ReplicaConfig, recovered: &Recovered, now: Now) -> Self {
        let ReplicaConfig { cluster, me, options, seed, stateless, staged, window_bytes, disk } = config;
        let (cluster, epochs) = match recovered.membership.clone() {
            Some(Membership { configuration, disk, ended, .. }) => {
                let cluster = configuration.cluster(cluster.name()).expect("a configuration is valid");
                (cluster, Epochs::new(configuration, disk, ended, now.monotonic))
            }
            None => {
                let founding = Configuration::founding(&cluster);
                (cluster, Epochs::new(founding, disk, 0, now.monotonic))
            }
        };
        let vote_lifetime = options.heartbeat * 8;
        let mut cx = Self {
            cluster,
            me,
            options,
            window_bytes,
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
            log: Log::new(recovered),
            commit: recovered.checkpoint.op,
            applied: recovered.checkpoint.op,
            applied_at: now.monotonic,
            checkpoint: recovered.checkpoint.op,
            trimming: Trimming::new(recovered.floor.op, recovered.checkpoint.op, now.monotonic),
            transfer: Transfer::new(stateless, staged),
            epochs,
            writes: WriteProgress::default(),
            votes: Votes::new(vote_lifetime),
            digests: Digests::default(),
            sent_vote: None,
            attempts: 0,
            outputs: VecDeque::new(),
            halted: false,
        };
        cx.commit_by_pipeline();
        cx.commit_what_was_entered();
        cx.ages_of_recovered();
        cx
    }

    /// The time of the next input.
    pub(super) fn set_time(&mut self, now: Now) {
        self.steady = self.steady_at(now);
        self.now = now;
        // Rule V8: the state machine counts as working while there is nothing to apply.
        if self.applied == self.commit {
            self.applied_at = now.monotonic;
        }
    }

    pub(super) fn primary(&self) -> MemberId {
        self.cluster.primary(self.view)
    }

    pub(super) fn is_witness(&self) -> bool {
        self.cluster.member(self.me).is_some_and(|member| member.role == Role::Witness)
    }

    /// Whether this member is in the quorums: it is no standby.
    pub(super) fn is_voter(&self) -> bool {
        self.cluster.is_voter(self.me)
    }

    /// Whether a message from this member counts. A standby has no vote. What is committed is the same in all epochs,
    /// so members of another epoch, whom this one may not know, may ask for it and answer such requests.
    pub(super) fn hears(&self, from: MemberId, message: &Message) -> bool {
        let counts = match message {
            Message::StartViewChange { .. } | Message::DoViewChange { .. } => self.cluster.is_voter(from),
            Message::Fetch { .. }
            | Message::NewState { .. }
            | Message::TooOld { .. }
            | Message::GetSnapshot { .. }
            | Message::SnapshotChunk { .. }
            | Message::SnapshotGone { .. }
            | Message::AskEpoch { .. }
            | Message::Epoch { .. } => true,
            // Whoever asks may have been removed before it knew that the cluster is formed.
            Message::Formation { ask: true, .. } if self.epoch() > Epoch::ZERO => true,
            _ => self.cluster.member(from).is_some(),
        };
        if !counts {
            trace!(%from, message = message.name(), "ignore a message of who has no say in this epoch");
        }
        counts
    }

    pub(super) fn is_damaged(&self) -> bool {
        self.damage.is_some()
    }

    pub(super) fn nonce(&mut self) -> u64 {
        self.rng.u64(1..)
    }

    /// `duration`, plus a random part of up to as much again.
    pub(super) fn jittered(&mut self, duration: Duration) -> Duration {
        duration.mul_f64(1.0 + self.rng.f64())
    }

    // -- outputs

    pub(super) fn send(&mut self, to: MemberId, message: Message) {
        self.outputs.push_back(Output::Send { to, message });
    }

    pub(super) fn broadcast(&mut self, message: &Message) {
        let peers: Vec<MemberId> = self.cluster.peers(self.me).map(|peer| peer.id).collect();
        for to in peers {
            self.send(to, message.clone());
        }
    }

    pub(super) fn halt(&mut self, why: Halt) {
        self.halted = true;
        self.outputs.push_back(Output::Halt(why));
    }

    pub(super) fn write(&mut self, write: Write) -> WriteSeq {
        let seq = self.writes.last.next();
        self.writes.last = seq;
        self.writes.under_way.push_back((seq, self.now.monotonic));
        self.outputs.push_back(Output::Write { seq, write });
        seq
    }

    /// Requests that the present view numbers be made durable, together with a cut of the log.
    pub(super) fn write_view(&mut self, cut: Option<Anchor>) -> WriteSeq {
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

    pub(super) fn is_durable(&self, seq: WriteSeq) -> bool {
        seq <= self.writes.durable
    }

    /// All writes up to `seq` are durable. Returns whether the durable part of the log grew.
    pub(super) fn on_durable(&mut self, seq: WriteSeq) -> bool {
        self.writes.on_durable(seq);
        let grew = self.log.on_durable(seq);
        self.checkpoint_durable();
        grew
    }

    // -- the log and the commit point

    pub(super) fn anchor(&self, op: Op) -> Anchor {
        self.log.anchor(op).expect("ops between the floor and the head have a hash")
    }

    /// The last op that is known here to be committed.
    pub(super) fn commit(&self) -> Anchor {
        self.anchor(self.commit)
    }

    pub(super) fn advance_commit(&mut self, op: Op) {
        let before = self.applicable();
        if op > self.commit {
            self.commit = op;
            self.forget_ages_below(op);
        }
        let applicable = self.applicable();
        if applicable > before {
            self.outputs.push_back(Output::Commit { commit: self.anchor(applicable) });
        }
    }

    /// Rule N3: an entry exists only if everything more than one pipeline below it is committed.
    pub(super) fn commit_by_pipeline(&mut self) {
        self.advance_commit(self.log.head().op.back(u64::from(self.options.pipeline_depth)));
    }

    /// Rule N5: a commit point counts only if this member's log is known to be the log that it belongs to.
    pub(super) fn note_commit(&mut self, view: View, commit: Anchor) {
        let head = self.log.head().op;
        if commit.op <= self.log.floor() {
            return;
        }
        match self.log.hash(commit.op) {
            Some(ours) if ours == commit.hash => self.advance_commit(commit.op),
            Some(ours) if self.log_view == view || commit.op <= self.commit => {
                self.halt(Halt::Diverged { op: commit.op, ours, theirs: commit.hash });
            }
            None if self.log_view == view => self.advance_commit(head.min(commit.op)),
            Some(_) | None => {}
        }
    }

    /// The point up to which everything that is not known to be committed is durable and intact here (rule N4).
    pub(super) fn durable_prefix(&self) -> Anchor {
        let durable = self.log.durable();
        let bad = self.log.faulty_above(self.commit).next().filter(|op| *op <= durable.op);
        bad.map_or(durable, |op| self.anchor(op.previous()))
    }

    /// The hash at `op`, in the log or in what is known behind its damage.
    pub(super) fn known_hash(&self, op: Op) -> Option<Hash> {
        self.log.hash(op).or_else(|| self.log.past_gap().get(&op).map(EntryPastGap::hash))
    }

    /// Appends the entries that follow the head, one by one, as long as `accept` returns true. `normal`: this member
    /// is a backup in normal status.
    pub(super) fn append_run(&mut self, entries: Vec<Entry>, normal: bool, accept: impl Fn(Anchor) -> bool) {
        let mut run = Vec::new();
        for entry in entries {
            if entry.header.op <= self.log.head().op {
                continue;
            }
            if entry.header.cluster != self.cluster.id()
                || !self.log.follows(&entry.header)
                || entry.header.view.epoch() > self.view.epoch()
                || self.log.contradicts(entry.header.anchor())
                || !accept(entry.header.anchor())
            {
                break;
            }
            self.log.append(&entry.header);
            // Rule N7: a backup of the view in which an entry was made has the entry as soon as possible.
            let followed = normal && entry.header.view == self.view;
            self.entry_arrived(entry.header.anchor(), followed);
            run.push(entry);
        }
        if !run.is_empty() {
            let seq = self.write(Write::Append(run));
            self.log.appended(seq);
            self.commit_by_pipeline();
        }
    }

    // -- applying

    pub(super) fn on_applied(&mut self, op: Op) {
        if op > self.applied {
            self.applied = op;
            self.applied_at = self.now.monotonic;
        }
    }

    /// Rule V8: the state machine counts as working while a checkpoint that it waits for makes progress.
    pub(super) fn on_applying(&mut self) {
        self.applied_at = self.now.monotonic;
    }

    #[cfg(feature = "internals")]
    pub(super) fn check_invariants(&self) {
        self.log.check_invariants();
        assert!(self.log_view <= self.view, "log_view is not above view");
        assert!(self.checkpoint <= self.commit, "a checkpoint covers committed entries only");
        assert!(self.commit <= self.log.head().op, "the commit point is in the log");
        assert!(self.applied <= self.commit, "only committed entries are applied");
        let uncommitted = self.log.head().op.distance_from(self.commit);
        assert!(uncommitted <= u64::from(self.options.pipeline_depth), "at most a pipeline is uncommitted");
    }
}
