//! The primary: ordering requests, counting acknowledgements, heartbeats, and when it ends.

mod changing;
mod leaving;
mod sending;

pub(crate) use sending::WINDOW_BYTES;

use super::context::{Context, Flow, Origin, Suspicion};
use super::detector::Detector;
use super::pace::Pace;
use super::rounds::Rounds;
use super::{Now, Output};
use crate::config::Role;
use crate::ids::{Anchor, Epoch, Hash, Instant, MemberId, Op, RequestNumber, Round, SessionId, Timestamp};
use crate::message::{
    BODY_OVERHEAD, Entry, EntryHeader, Message, Moment, Operation, PeerStatus, Request, Write, body_of,
    revisions_of,
};
use bytes::Bytes;
use sending::{unasked, window_end};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use tracing::{info, trace};

/// A peer that reports no checkpoint for this long is asked for one.
const ASK_AFTER: Duration = Duration::from_secs(5);

/// The content of a backup's `CommitOk`, except its view.
#[derive(Debug)]
pub(super) struct HeartbeatAck {
    pub(super) round: Round,
    pub(super) log: Option<Anchor>,
    pub(super) checkpoint: Op,
    pub(super) sent: Moment,
}

#[derive(Debug)]
pub(super) struct Primary {
    peers: BTreeMap<MemberId, PeerProgress>,
    /// Requests that wait for room in the pipeline.
    queue: VecDeque<Bytes>,
    queued_bytes: usize,
    heartbeat_at: Instant,
    /// The usual silence of a quorum; `None` until one has answered in this view.
    quorum: Option<Detector>,
    /// How long this member itself was late since a quorum was last heard. That time does not count as silence of
    /// others.
    absent: Duration,
    started_at: Instant,
    pace: Pace,
    leaving: Leaving,
    rounds: Rounds,
    /// How it counts the cluster's time; `None` before it has made an entry.
    origin: Option<Origin>,
}

/// The progress of one peer in the log of this view.
#[derive(Debug)]
struct PeerProgress {
    /// Whether it has acknowledged anything, and so has installed the log of this view. Until then it would drop
    /// entries, so none are sent.
    installed: bool,
    /// Invariant: `acked < next`, and `next <= head + 1`.
    acked: Op,
    /// The next op to send.
    next: Op,
    /// The last op that was sent again because one before it was lost on the way.
    lacked: Op,
    /// It was sent a run again. Until it acknowledges more, it is sent nothing else.
    is_anew: bool,
    /// When `acked` last grew, or entries were last resent.
    moved_at: Instant,
    /// The silence after which entries are resent. Doubles each time.
    patience: Duration,
    heard_at: Option<Instant>,
    checkpoint: Option<Op>,
    /// When to ask it for a checkpoint; `None` if it has one.
    ask_at: Option<Instant>,
}

impl PeerProgress {
    /// Whether it reports no checkpoint, although there can be one.
    fn lacks_checkpoint(&self, cx: &Context) -> bool {
        self.checkpoint.unwrap_or(Op::ZERO) == Op::ZERO && cx.checkpoint > Op::ZERO
    }

    /// Whether to ask it for a checkpoint now.
    fn is_checkpoint_due(&mut self, cx: &Context) -> bool {
        let now = cx.now.monotonic;
        let lacks = self.installed && self.lacks_checkpoint(cx);
        let is_due = lacks && self.ask_at.is_some_and(|at| at <= now);
        self.ask_at =
            self.ask_at.filter(|_| lacks && !is_due).or_else(|| lacks.then(|| now.after(ASK_AFTER)));
        is_due
    }
}

/// Whether the primary is giving up its role.
#[derive(Debug)]
enum Leaving {
    No,
    /// Before a handover, requests in flight are completed.
    Draining {
        until: Instant,
        /// The member that was named as the next primary. It also receives all entries before the primary abdicates.
        successor: Option<MemberId>,
    },
    /// Rule M1: its log ends with the stop of the epoch, or will as soon as the pipeline has room for this request. It
    /// orders nothing more, and answers no read (rule M5).
    Stopping {
        pending: Option<Bytes>,
    },
    /// Rule V8: it sends no more signs of life, but repeats a vote to leave the view.
    Abdicated(Suspicion),
}

impl Primary {
    pub(super) fn is_serving(&self) -> bool {
        matches!(self.leaving, Leaving::No)
    }

    pub(super) fn abdication(&self) -> Option<Suspicion> {
        match self.leaving {
            Leaving::Abdicated(suspicion) => Some(suspicion),
            Leaving::No | Leaving::Draining { .. } | Leaving::Stopping { .. } => None,
        }
    }

    /// How many more bytes of requests this primary would queue.
    pub(super) fn proposal_room(&self, cx: &Context) -> usize {
        let most = if self.is_serving() { cx.options.max_batch_bytes * 4 } else { 0 };
        most.saturating_sub(self.queued_bytes)
    }

    /// The stamp of an entry that would be made `now`; `None` if it would make none.
    pub(super) fn stamp(&self, cx: &Context, now: Now) -> Option<Timestamp> {
        self.is_serving().then(|| cx.stamp(self.origin, now))
    }

    pub(super) fn next_timeout(&self) -> Instant {
        match self.leaving {
            Leaving::No | Leaving::Stopping { .. } => self.heartbeat_at,
            Leaving::Draining { until, .. } => until.min(self.heartbeat_at),
            Leaving::Abdicated(suspicion) => suspicion.resend_at,
        }
    }

    pub(super) fn peer_status(&self, cx: &Context) -> Vec<PeerStatus> {
        let (now, silence) = (cx.now.monotonic, cx.options.failure_timeout_min);
        let status = |(id, peer): (&MemberId, &PeerProgress)| {
            let alive = peer.heard_at.is_some_and(|at| now.since(at) <= silence);
            PeerStatus { id: *id, acknowledged: peer.acked, alive }
        };
        self.peers.iter().map(status).collect()
    }

    fn peer(&mut self, id: MemberId) -> &mut PeerProgress {
        self.peers.get_mut(&id).expect("every other member is a peer, and only members are heard")
    }

    /// The progress of the peers that vote.
    fn voters(&self, cx: &Context) -> impl Iterator<Item = &PeerProgress> {
        self.peers.iter().filter(|(id, _)| cx.cluster.is_voter(**id)).map(|(_, peer)| peer)
    }

    /// When the `quorum`-th most recently heard voter was heard. This member counts.
    fn quorum_heard_at(&self, cx: &Context, quorum: usize, now: Instant) -> Option<Instant> {
        let mut heard: Vec<Instant> = self.voters(cx).filter_map(|peer| peer.heard_at).chain([now]).collect();
        heard.sort_unstable_by(|a, b| b.cmp(a));
        heard.get(quorum - 1).copied()
    }

    /// What this peer has acknowledged in this view.
    fn acknowledged(&self, id: MemberId) -> Op {
        self.peers.get(&id).map_or(Op::ZERO, |peer| peer.acked)
    }

    #[cfg(feature = "internals")]
    pub(super) fn check_invariants(&self, head: Op) {
        for peer in self.peers.values() {
            assert!(peer.acked < peer.next, "what is acknowledged was sent");
            assert!(peer.next <= head.next(), "only what exists was sent");
            assert!(
                !peer.is_anew || peer.acked.next() < peer.next,
                "a run that was sent again is on the way"
            );
        }
        assert_eq!(self.queued_bytes, self.queue.iter().map(Bytes::len).sum::<usize>());
    }

    /// Rule V6: the log of the view and `log_view` are durable here. Call [`Self::start`] next.
    pub(super) fn new(cx: &mut Context) -> Self {
        let now = cx.now.monotonic;
        info!(view = %cx.view, head = ?cx.log.head(), "primary");
        assert!(cx.primary() == cx.me && cx.log_view == cx.view, "the primary has installed its view's log");
        cx.attempts = 0;
        // What it had not applied as a backup counts as due from now on.
        cx.applied_at = now;
        // Entries are resent only to peers that are behind: their first acknowledgement shows it.
        let progress = || PeerProgress {
            installed: false,
            acked: cx.commit.previous(),
            next: cx.log.head().op.next(),
            lacked: Op::ZERO,
            is_anew: false,
            moved_at: now,
            patience: cx.options.failure_timeout_min,
            heard_at: None,
            checkpoint: None,
            ask_at: None,
        };
        Self {
            peers: cx.cluster.peers(cx.me).map(|peer| (peer.id, progress())).collect(),
            queue: VecDeque::new(),
            queued_bytes: 0,
            heartbeat_at: now,
            quorum: None,
            absent: Duration::ZERO,
            started_at: now,
            pace: Pace::default(),
            leaving: if cx.own_stop().is_some() { Leaving::Stopping { pending: None } } else { Leaving::No },
            rounds: Rounds::new(cx),
            origin: None,
        }
    }

    /// Announces the view.
    pub(super) fn start(&mut self, cx: &mut Context) -> Flow {
        cx.broadcast(&Self::start_view(cx, 0));
        if cx.epoch() > Epoch::ZERO && cx.log.head() == cx.epochs.configuration.stop {
            // Rule M12: nothing else may come for long.
            let timestamp = cx.next_stamp(&mut self.origin);
            self.prepare(cx, &next_entry(cx, &[nothing()], timestamp, false));
        }
        self.heartbeat(cx);
        self.maybe_commit(cx)
    }

    /// Rule V6: tells a member that this view has started.
    pub(super) fn start_view(cx: &Context, nonce: u64) -> Message {
        let head = cx.log.head().op;
        let first = cx.commit.back(u64::from(cx.options.pipeline_depth)).max(cx.log.floor());
        let ops = (0..=head.distance_from(first)).map(|above| first.advance(above));
        let hashes = ops.map(|op| (op, cx.anchor(op).hash)).collect();
        Message::StartView { view: cx.view, commit: cx.commit(), hashes, nonce }
    }

    /// Clients that wait for a proposal or a read must retry elsewhere.
    pub(super) fn leave(&mut self, cx: &mut Context) {
        self.queue.clear();
        self.queued_bytes = 0;
        self.rounds.refuse(cx);
        cx.outputs.push_back(Output::ProposalsAbandoned);
    }

    // -- ordering requests (rules N1 to N3)

    pub(super) fn on_propose(&mut self, cx: &mut Context, requests: Vec<Bytes>) {
        if !self.is_serving() {
            return;
        }
        self.queued_bytes += requests.iter().map(Bytes::len).sum::<usize>();
        self.queue.extend(requests);
        self.seal_entries(cx);
    }

    /// Makes entries of the waiting requests while the pipeline has room.
    fn seal_entries(&mut self, cx: &mut Context) {
        loop {
            let uncommitted = cx.log.head().op.distance_from(cx.commit);
            if let Leaving::Stopping { pending } = &mut self.leaving {
                let room = uncommitted < u64::from(cx.options.pipeline_depth);
                if let Some(request) = pending.take_if(|_| room) {
                    let timestamp = cx.next_stamp(&mut self.origin);
                    self.prepare(cx, &next_entry(cx, &[request], timestamp, true));
                }
                return;
            }
            if self.queue.is_empty() || uncommitted >= u64::from(cx.options.pipeline_depth) {
                return;
            }
            let mut requests = Vec::new();
            let mut bytes = 0;
            while let Some(request) = self.queue.front() {
                bytes += request.len() + BODY_OVERHEAD;
                if bytes > cx.options.max_batch_bytes && !requests.is_empty() {
                    break;
                }
                requests.extend(self.queue.pop_front());
            }
            self.queued_bytes -= requests.iter().map(Bytes::len).sum::<usize>();
            let timestamp = cx.next_stamp(&mut self.origin);
            self.prepare(cx, &next_entry(cx, &requests, timestamp, false));
        }
    }

    /// Rule N2: sends the entry to all peers in parallel with the own journal.
    fn prepare(&mut self, cx: &mut Context, entry: &Entry) {
        let op = entry.header.op;
        let commit = cx.commit();
        cx.log.append(&entry.header);
        cx.entry_arrived(entry.header.anchor(), true);
        let seq = cx.write(Write::Append(vec![entry.clone()]));
        cx.log.appended(seq);
        let (view, now) = (cx.view, cx.now.monotonic);
        self.pace.prepared(op, now);
        // The queue of a link may not have room for a larger entry.
        let by_reference = entry.body.len() > cx.window_bytes;
        let mut behind = Vec::new();
        for (to, peer) in &mut self.peers {
            if !peer.installed || peer.is_anew || peer.next != op || op > window_end(cx, peer.acked) {
                continue;
            }
            if peer.acked == op.previous() {
                peer.moved_at = now;
            }
            if by_reference {
                behind.push(*to);
            } else {
                peer.next = op.next();
                cx.send(*to, Message::Prepare { view, commit, entry: entry.clone() });
            }
        }
        for to in behind {
            self.replicate_to(cx, to);
        }
    }

    // -- acknowledgements (rules N4, N5)

    pub(super) fn on_prepare_ok(&mut self, cx: &mut Context, from: MemberId, log: Anchor) -> Flow {
        if !cx.log.holds(log) {
            trace!(%from, ?log, "ignore an acknowledgement of another log");
            if log.op <= cx.trimmed() {
                cx.too_old(unasked(cx, from));
            }
            return Flow::Continue(());
        }
        let now = cx.now.monotonic;
        let peer = self.peer(from);
        peer.heard_at = Some(now);
        if !peer.installed {
            peer.installed = true;
            peer.next = log.op.max(peer.acked).next();
        }
        if log.op > peer.acked {
            peer.acked = log.op;
            peer.is_anew = false;
            peer.next = peer.next.max(log.op.next());
            peer.moved_at = now;
            // Slowly: a peer that is slow and has lost nothing is soon sent little twice.
            peer.patience = (peer.patience * 7 / 8).max(cx.options.failure_timeout_min);
            self.maybe_commit(cx)?;
        }
        if !self.peer(from).is_anew {
            self.replicate_to(cx, from);
        }
        Flow::Continue(())
    }

    /// Rule N4: an entry is committed when a replication quorum has acknowledged it in this view.
    pub(super) fn maybe_commit(&mut self, cx: &mut Context) -> Flow {
        let quorum = cx.cluster.replication_quorum();
        let (now, slow) = (cx.now.monotonic, cx.options.failure_timeout_min);
        let own = cx.durable_prefix().op;
        let mut acked: Vec<Op> = self.voters(cx).map(|peer| peer.acked).collect();
        acked.sort_unstable_by(|a, b| b.cmp(a));
        self.pace.durable(own, acked.get(quorum - 1).copied(), now, slow);
        acked.push(own);
        acked.sort_unstable_by(|a, b| b.cmp(a));
        cx.advance_commit(acked[quorum - 1]);
        self.seal_entries(cx);
        self.confirm_reads(cx);
        if self.is_drained(cx) {
            return self.abdicate(cx, "handed over");
        }
        Flow::Continue(())
    }

    pub(super) fn on_commit_ok(&mut self, cx: &mut Context, from: MemberId, ack: &HeartbeatAck) -> Flow {
        let peer = self.peer(from);
        peer.heard_at = Some(cx.now.monotonic);
        peer.checkpoint = Some(ack.checkpoint);
        if peer.is_checkpoint_due(cx) {
            // Perhaps it has a state and never had to store it. Once it has stored it, it can be relied on (rule M7).
            let nonce = cx.nonce();
            cx.send(from, Message::GetSnapshot { nonce, at: None, after: None });
        }
        self.rounds.on_answer(from, ack.round, ack.sent);
        cx.votes.withdraw(from);
        if let Some(log) = ack.log {
            self.on_prepare_ok(cx, from, log)?;
            self.send_anew(cx, from);
        }
        self.seal_entries(cx);
        self.confirm_reads(cx);
        Flow::Continue(())
    }

    // -- reads (rules R1, R4 and R5)

    pub(super) fn on_read(&mut self, cx: &mut Context, ticket: u64) {
        if !self.is_serving() {
            return cx.outputs.push_back(Output::ReadsRefused { tickets: vec![ticket] });
        }
        self.rounds.on_read(ticket);
        self.confirm_reads(cx);
    }

    /// Ends the present round if a quorum has answered it, and starts the next if reads wait.
    fn confirm_reads(&mut self, cx: &mut Context) {
        while self.is_serving() {
            self.rounds.confirm(cx);
            self.rounds.read_by_lease(cx);
            if !self.rounds.is_next_due() {
                return;
            }
            self.rounds.begin(cx);
            self.send_commit(cx);
        }
    }

    /// Sends a sign of life to all, with the number of the newest round.
    pub(super) fn send_commit(&self, cx: &mut Context) {
        let (view, commit, round) = (cx.view, cx.commit(), self.rounds.last());
        let age = cx.age_of(commit);
        let own = cx.reported_checkpoint();
        let least = |peers: &mut dyn Iterator<Item = &PeerProgress>| {
            peers.map(|peer| peer.checkpoint.unwrap_or(Op::ZERO)).fold(own, Op::min)
        };
        // Rule T8: a witness protects its voters, and keeps nothing for a standby.
        let trim = least(&mut self.peers.values());
        // While a stop waits, the next voters are not known here. They were checked against what had been trimmed.
        let trim_of_witness = match self.leaving {
            Leaving::Stopping { .. } => Op::ZERO,
            _ => least(&mut self.voters(cx)),
        };
        for to in self.peers.keys() {
            let is_witness = cx.cluster.member(*to).is_some_and(|peer| peer.role == Role::Witness);
            let trim = if is_witness { trim_of_witness } else { trim };
            let fresh = self.rounds.fresh(*to);
            cx.send(*to, Message::Commit { view, commit, age, round, trim, fresh });
        }
        cx.on_trim(trim);
    }

    /// Sends a heartbeat, which also begins a round.
    fn heartbeat(&mut self, cx: &mut Context) {
        self.heartbeat_at = cx.now.monotonic.after(cx.options.heartbeat);
        if self.is_serving() && !self.rounds.is_under_way() {
            self.rounds.begin(cx);
        }
        self.send_commit(cx);
        self.confirm_reads(cx);
    }
}

/// A request without an effect.
fn nothing() -> Bytes {
    without_session(Operation::Expire(Vec::new()))
}

fn without_session(operation: Operation) -> Bytes {
    let (session, none) = (SessionId::ZERO, RequestNumber::ZERO);
    Request { session, number: none, acked_through: none, operation }.encode()
}

fn next_entry(cx: &Context, requests: &[Bytes], timestamp: Timestamp, is_stop: bool) -> Entry {
    let body = body_of(requests);
    let head = cx.log.head();
    let header = EntryHeader {
        cluster: cx.cluster.id(),
        view: cx.view,
        op: head.op.next(),
        parent: head.hash,
        first_revision: cx.log.next_revision(),
        timestamp,
        request_count: EntryHeader::count_of(requests.len(), is_stop),
        revision_count: revisions_of(requests, cx.log.next_revision()),
        body_len: u32::try_from(body.len()).expect("a batch is bounded in bytes"),
        body_hash: Hash::of(&body),
    };
    Entry { header, body }
}
