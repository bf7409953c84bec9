//! The primary: ordering requests, counting acknowledgements, heartbeats, abdication.

use super::detector::{Detector, Suspicion};
use super::pace::Pace;
use super::rounds::Rounds;
use super::stamp::Origin;
use super::state::ReplicaState;
use super::{Input, Output, Replica, Wrap};
use crate::ids::{Anchor, Hash, Instant, MemberId, Op, Round, Timestamp, View};
use crate::message::{
    BODY_OVERHEAD, Entry, EntryHeader, Message, Moment, PeerStatus, Write, body_of, revisions_of,
};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use tracing::{info, trace};

/// How many bytes of bodies one `SendEntries` may contain.
pub(super) const RUN_BYTES: usize = 1 << 20;

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
    pub(super) peers: BTreeMap<MemberId, PeerProgress>,
    /// Requests that wait for room in the pipeline.
    queue: VecDeque<Bytes>,
    queued_bytes: usize,
    /// The head when the view started. Reads wait until it is committed (rule R1).
    pub(super) inherited: Op,
    pub(super) heartbeat_at: Instant,
    /// The usual silence of a quorum; `None` until one has answered in this view.
    quorum: Option<Detector>,
    /// How long this member itself was late since a quorum was last heard. That time does not count as silence of
    /// others.
    absent: Duration,
    started_at: Instant,
    pace: Pace,
    leaving: Leaving,
    pub(super) rounds: Rounds,
    /// The op that the last confirmed round proved.
    pub(super) confirmed: Op,
    /// How it counts the cluster's time; `None` before it has made an entry.
    pub(super) origin: Option<Origin>,
}

/// The progress of one peer in the log of this view.
#[derive(Debug)]
pub(super) struct PeerProgress {
    /// Whether it has acknowledged anything, and so has installed the log of this view. Until then it would drop
    /// entries, so none are sent.
    installed: bool,
    /// Invariant: `acked < next`, and `next <= head + 1`.
    acked: Op,
    /// The next op to send.
    next: Op,
    /// When `acked` last grew, or entries were last resent.
    moved_at: Instant,
    /// The silence after which entries are resent. Doubles each time.
    patience: Duration,
    heard_at: Option<Instant>,
    pub(super) round: Round,
    pub(super) checkpoint: Option<Op>,
    /// When, by its own clock, the peer sent its latest message that arrived; the same as of the beginning of the
    /// present round, and of the last confirmed round.
    pub(super) moment: Option<Moment>,
    pub(super) moment_asked: Option<Moment>,
    pub(super) moment_confirmed: Option<Moment>,
}

impl PeerProgress {
    /// Within one life of the peer, the latest counts: messages may overtake each other.
    fn note_moment(&mut self, sent: Moment) {
        self.moment = self.moment.filter(|last| last.life == sent.life && last.at > sent.at).or(Some(sent));
    }
}

/// Whether the primary is giving up its role.
#[derive(Debug)]
enum Leaving {
    No,
    /// Before a handover, requests in flight are completed.
    Draining {
        until: Instant,
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
            Leaving::No | Leaving::Draining { .. } => None,
        }
    }

    pub(super) fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    pub(super) fn next_timeout(&self) -> Instant {
        match self.leaving {
            Leaving::No => self.heartbeat_at,
            Leaving::Draining { until } => until.min(self.heartbeat_at),
            Leaving::Abdicated(suspicion) => suspicion.resend_at,
        }
    }

    pub(super) fn peer_status(&self, now: Instant, silence: Duration) -> Vec<PeerStatus> {
        let alive = |peer: &PeerProgress| peer.heard_at.is_some_and(|at| now.since(at) <= silence);
        self.peers
            .iter()
            .map(|(id, peer)| PeerStatus { id: *id, acknowledged: peer.acked, alive: alive(peer) })
            .collect()
    }

    /// When the `quorum`-th most recently heard member was heard. This member counts.
    fn quorum_heard_at(&self, quorum: usize, now: Instant) -> Option<Instant> {
        let mut heard: Vec<Instant> =
            self.peers.values().filter_map(|peer| peer.heard_at).chain([now]).collect();
        heard.sort_unstable_by(|a, b| b.cmp(a));
        heard.get(quorum - 1).copied()
    }

    #[cfg(feature = "internals")]
    pub(super) fn check_invariants(&self, head: Op) {
        for peer in self.peers.values() {
            assert!(peer.acked < peer.next, "what is acknowledged was sent");
            assert!(peer.next <= head.next(), "only what exists was sent");
        }
        assert_eq!(self.queued_bytes, self.queue.iter().map(Bytes::len).sum::<usize>());
    }
}

impl Replica {
    /// Rule V6: the log of the view and `log_view` are durable here.
    pub(super) fn become_primary(&mut self) {
        let now = self.now.monotonic;
        info!(view = %self.view, head = ?self.log.head(), "primary");
        self.attempts = 0;
        let commit = self.commit;
        let progress = |_| PeerProgress {
            installed: false,
            acked: commit.previous(),
            next: commit.max(Op::new(1)),
            moved_at: now,
            patience: self.options.failure_timeout_min,
            heard_at: None,
            round: Round::ZERO,
            checkpoint: None,
            moment: None,
            moment_asked: None,
            moment_confirmed: None,
        };
        let peers = self.cluster.peers(self.me).map(|peer| (peer.id, progress(()))).collect();
        let mut primary = Primary {
            peers,
            queue: VecDeque::new(),
            queued_bytes: 0,
            inherited: self.log.head().op,
            heartbeat_at: now,
            quorum: None,
            absent: Duration::ZERO,
            started_at: now,
            pace: Pace::default(),
            leaving: Leaving::No,
            rounds: Rounds::default(),
            confirmed: Op::ZERO,
            origin: None,
        };
        // Entries are resent only to peers that are behind: their first acknowledgement shows it.
        let head = self.log.head().op;
        for peer in primary.peers.values_mut() {
            peer.next = head.next();
            peer.acked = peer.acked.min(head);
        }
        self.state = ReplicaState::Primary(primary);
        // What it had not applied as a backup counts as due from now on.
        self.applied_at = now;
        let message = self.start_view(0);
        self.broadcast(&message);
        self.heartbeat();
        self.maybe_commit();
    }

    pub(super) fn start_view(&self, nonce: u64) -> Message {
        let head = self.log.head().op;
        let first = self.commit.back(u64::from(self.options.pipeline_depth)).max(self.log.floor());
        let mut hashes = Vec::new();
        let mut op = first;
        while op <= head {
            hashes.push((op, self.anchor(op).hash));
            op = op.next();
        }
        Message::StartView { view: self.view, commit: self.commit(), hashes, nonce }
    }

    /// Clients that wait for a proposal or a read must retry elsewhere.
    pub(super) fn leave_primary(&mut self) {
        let ReplicaState::Primary(primary) = &mut self.state else { return };
        primary.queue.clear();
        primary.queued_bytes = 0;
        let mut tickets = std::mem::take(&mut primary.rounds.in_round);
        tickets.append(&mut primary.rounds.waiting);
        if !tickets.is_empty() {
            self.outputs.push_back(Output::ReadsRefused { tickets });
        }
        self.outputs.push_back(Output::ProposalsAbandoned);
    }

    // -- ordering requests (rules N1 to N3)

    pub(super) fn on_propose(&mut self, requests: Vec<Bytes>) {
        let ReplicaState::Primary(primary) = &mut self.state else { return };
        if !primary.is_serving() {
            return;
        }
        primary.queued_bytes += requests.iter().map(Bytes::len).sum::<usize>();
        primary.queue.extend(requests);
        self.seal_entries();
    }

    /// Makes entries of the waiting requests while the pipeline has room.
    fn seal_entries(&mut self) {
        loop {
            let uncommitted = self.log.head().op.distance_from(self.commit);
            let max_bytes = self.options.max_batch_bytes;
            let ReplicaState::Primary(primary) = &mut self.state else { return };
            if primary.queue.is_empty() || uncommitted >= u64::from(self.options.pipeline_depth) {
                return;
            }
            let mut requests = Vec::new();
            let mut bytes = 0;
            while let Some(request) = primary.queue.front() {
                bytes += request.len() + BODY_OVERHEAD;
                if bytes > max_bytes && !requests.is_empty() {
                    break;
                }
                requests.extend(primary.queue.pop_front());
            }
            primary.queued_bytes -= requests.iter().map(Bytes::len).sum::<usize>();
            let timestamp = self.next_stamp();
            let entry = self.entry(&requests, timestamp);
            self.prepare(entry);
        }
    }

    fn entry(&self, requests: &[Bytes], timestamp: Timestamp) -> Entry {
        let body = body_of(requests);
        let head = self.log.head();
        let header = EntryHeader {
            cluster: self.cluster.id(),
            view: self.view,
            op: head.op.next(),
            parent: head.hash,
            first_revision: self.log.next_revision(),
            timestamp,
            request_count: u32::try_from(requests.len()).expect("a batch is bounded in bytes"),
            revision_count: revisions_of(requests),
            body_len: u32::try_from(body.len()).expect("a batch is bounded in bytes"),
            body_hash: Hash::of(&body),
        };
        Entry { header, body }
    }

    /// Rule N2: sends the entry to all peers in parallel with the own journal.
    fn prepare(&mut self, entry: Entry) {
        let op = entry.header.op;
        let commit = self.commit();
        self.log.append(&entry.header);
        self.entry_arrived(entry.header.anchor(), true);
        let seq = self.write(Write::Append(vec![entry.clone()]));
        self.log.appended(seq);
        let window = self.window();
        let (view, now) = (self.view, self.now.monotonic);
        let ReplicaState::Primary(primary) = &mut self.state else { return };
        primary.pace.prepared(op, now);
        let mut receivers = Vec::new();
        for (id, peer) in &mut primary.peers {
            if peer.installed && peer.next == op && op.distance_from(peer.acked) <= window {
                if peer.acked == op.previous() {
                    peer.moved_at = now;
                }
                peer.next = op.next();
                receivers.push(*id);
            }
        }
        for to in receivers {
            self.send(to, Message::Prepare { view, commit, entry: entry.clone() });
        }
    }

    /// How far beyond its acknowledgements a peer is sent entries.
    fn window(&self) -> u64 {
        u64::from(self.options.pipeline_depth) * 2
    }

    /// Sends a peer the entries that it lacks, within its window.
    fn replicate_to(&mut self, to: MemberId) {
        let (head, window) = (self.log.head().op, self.window());
        let ReplicaState::Primary(primary) = &mut self.state else { return };
        let Some(peer) = primary.peers.get_mut(&to) else { return };
        let limit = head.min(peer.acked.advance(window));
        let from = peer.next;
        if from > limit {
            return;
        }
        if from <= self.trimming.trimmed() || self.log.is_faulty(from) {
            return self.answer_what_is_missing(to, from, 0);
        }
        let through = self.log.run_within(from, limit, RUN_BYTES);
        peer.next = through.next();
        let (through, wrap) =
            (self.anchor(through), Wrap::Prepare { view: self.view, commit: self.commit() });
        self.outputs.push_back(Output::SendEntries { to, from, through, wrap });
    }

    // -- acknowledgements (rules N4, N5)

    pub(super) fn on_prepare_ok(&mut self, from: MemberId, view: View, log: Anchor) {
        if view == self.view && matches!(self.state, ReplicaState::Primary(_)) {
            self.on_acknowledged(from, log);
        }
    }

    fn on_acknowledged(&mut self, from: MemberId, log: Anchor) {
        if !self.log.holds(log) {
            trace!(%from, ?log, "ignore an acknowledgement of another log");
            if log.op <= self.trimmed() {
                self.too_old(from, 0);
            }
            return;
        }
        let (now, patience) = (self.now.monotonic, self.options.failure_timeout_min);
        let ReplicaState::Primary(primary) = &mut self.state else { return };
        let Some(peer) = primary.peers.get_mut(&from) else { return };
        peer.heard_at = Some(now);
        if !peer.installed {
            peer.installed = true;
            peer.next = log.op.max(peer.acked).next();
        }
        if log.op > peer.acked {
            peer.acked = log.op;
            peer.next = peer.next.max(log.op.next());
            peer.moved_at = now;
            peer.patience = patience;
            self.maybe_commit();
        }
        self.replicate_to(from);
    }

    /// Rule N4: an entry is committed when a replication quorum has acknowledged it in this view.
    pub(super) fn maybe_commit(&mut self) {
        let quorum = self.cluster.replication_quorum();
        let (now, slow) = (self.now.monotonic, self.options.failure_timeout_min);
        let own = self.durable_prefix().op;
        let ReplicaState::Primary(primary) = &mut self.state else { return };
        let mut acked: Vec<Op> = primary.peers.values().map(|peer| peer.acked).collect();
        acked.sort_unstable_by(|a, b| b.cmp(a));
        primary.pace.durable(own, acked.get(quorum - 1).copied(), now, slow);
        acked.push(own);
        acked.sort_unstable_by(|a, b| b.cmp(a));
        let op = acked[quorum - 1];
        if op > self.commit {
            self.advance_commit(op);
        }
        self.seal_entries();
        self.confirm_reads();
        if let ReplicaState::Primary(Primary { leaving: Leaving::Draining { .. }, .. }) = &self.state
            && self.commit == self.log.head().op
        {
            self.abdicate("handed over");
        }
    }

    pub(super) fn on_commit_ok(&mut self, from: MemberId, view: View, ack: HeartbeatAck) {
        if view != self.view {
            return;
        }
        let now = self.now.monotonic;
        let ReplicaState::Primary(primary) = &mut self.state else { return };
        let Some(peer) = primary.peers.get_mut(&from) else { return };
        peer.heard_at = Some(now);
        peer.round = peer.round.max(ack.round);
        peer.checkpoint = Some(ack.checkpoint);
        peer.note_moment(ack.sent);
        self.votes.withdraw(from);
        if let Some(log) = ack.log {
            self.on_acknowledged(from, log);
            self.send_anew(from);
        }
        self.seal_entries();
        self.confirm_reads();
    }

    /// A peer that answers but makes no progress has lost a message.
    fn send_anew(&mut self, to: MemberId) {
        let (now, most) = (self.now.monotonic, self.options.failure_timeout_max);
        let ReplicaState::Primary(primary) = &mut self.state else { return };
        let Some(peer) = primary.peers.get_mut(&to) else { return };
        if peer.acked.next() < peer.next && now.since(peer.moved_at) >= peer.patience {
            peer.next = peer.acked.next();
            peer.moved_at = now;
            peer.patience = (peer.patience * 2).min(most);
            self.replicate_to(to);
        }
    }

    // -- signs of life, and giving up the role (rule V8)

    pub(super) fn primary_timeout(&mut self) {
        let now = self.now.monotonic;
        let ReplicaState::Primary(primary) = &self.state else { return };
        match primary.leaving {
            Leaving::Abdicated(suspicion) => {
                if now >= suspicion.resend_at {
                    self.vote_to_be_left(suspicion.target);
                }
                return;
            }
            Leaving::Draining { until } if now >= until => return self.abdicate("handed over"),
            Leaving::No | Leaving::Draining { .. } => {}
        }
        if now < primary.heartbeat_at {
            return;
        }
        self.watch_quorum();
        if let Some(why) = self.reason_to_abdicate() {
            self.abdicate(why);
            return;
        }
        if matches!(&self.state, ReplicaState::Primary(primary) if primary.pace.is_slow()) {
            info!(view = %self.view, "this disk is much slower than those of the other members: handing over");
            self.on_handover();
        }
        self.heartbeat();
    }

    /// Checks whether a quorum was heard since the last heartbeat was due, and how late this check itself is.
    fn watch_quorum(&mut self) {
        let (now, heartbeat) = (self.now.monotonic, self.options.heartbeat);
        let (short, long) = (self.options.failure_timeout_min * 4, self.options.failure_timeout_max * 2);
        let quorum = self.cluster.replication_quorum();
        let ReplicaState::Primary(primary) = &mut self.state else { return };
        let late = now.since(primary.heartbeat_at);
        let Some(heard) = primary.quorum_heard_at(quorum, now) else { return };
        let detector = primary
            .quorum
            .get_or_insert_with(|| Detector::new(primary.started_at, heartbeat, short.min(long), long));
        if heard > detector.last() {
            detector.heard(heard);
            primary.absent = Duration::ZERO;
        }
        if late > heartbeat {
            primary.absent += late;
        }
    }

    /// Rule V8: the state machine counts as working while a checkpoint that it waits for makes progress, and while
    /// there is nothing to apply.
    pub(super) fn watch_applying(&mut self, input: &Input) {
        if self.applied == self.commit || matches!(input, Input::Applying) {
            self.applied_at = self.now.monotonic;
        }
    }

    fn reason_to_abdicate(&mut self) -> Option<&'static str> {
        let now = self.now.monotonic;
        let long = self.options.failure_timeout_max * 2;
        if self.cluster.replication_quorum() == 1 {
            return None;
        }
        let stalled = self
            .writes
            .under_way
            .front()
            .is_some_and(|(_, at)| now.since(*at) > self.options.failure_timeout_max);
        let hung = self.applied < self.commit && now.since(self.applied_at) > long;
        let ReplicaState::Primary(primary) = &mut self.state else { return None };
        let (heard, bound) =
            primary.quorum.as_ref().map_or((primary.started_at, long), |it| (it.last(), it.bound()));
        if now.since(heard).saturating_sub(primary.absent) > bound {
            Some("a quorum does not answer")
        } else if stalled {
            Some("the disk does not finish a write")
        } else if hung {
            Some("committed entries are not applied")
        } else {
            None
        }
    }

    /// Stops serving: sends no more signs of life, and votes to leave the view. Silence alone would block a group
    /// that needs this member's vote.
    pub(super) fn abdicate(&mut self, why: &'static str) {
        let target = self.view_of_a_living_peer();
        info!(view = %self.view, %target, why, "abdicating");
        self.leave_primary();
        // Sends what is known to be committed along, so that the successor has less to find out.
        let commit = Message::Commit {
            view: self.view,
            commit: self.commit(),
            age: self.age_of(self.commit()),
            round: Round::ZERO,
            trim: Op::ZERO,
            fresh: None,
        };
        self.broadcast(&commit);
        self.vote_to_be_left(target);
    }

    pub(super) fn vote_to_be_left(&mut self, target: View) {
        let resend_at = self.now.monotonic.after(self.options.heartbeat * 2);
        if let ReplicaState::Primary(primary) = &mut self.state {
            primary.leaving = Leaving::Abdicated(Suspicion { target, resend_at });
        }
        self.send_vote(target);
        self.count_votes();
    }

    /// The next view whose primary was heard recently; the next view if there is none.
    fn view_of_a_living_peer(&self) -> View {
        let next = self.view.next();
        let ReplicaState::Primary(primary) = &self.state else { return next };
        let (now, silence) = (self.now.monotonic, self.options.failure_timeout_min);
        let mut view = next;
        for _ in 0..self.cluster.len() {
            let candidate = primary.peers.get(&self.cluster.primary(view));
            if candidate.and_then(|peer| peer.heard_at).is_some_and(|at| now.since(at) <= silence) {
                return view;
            }
            view = view.next();
        }
        next
    }

    pub(super) fn on_handover(&mut self) {
        let until = self.now.monotonic.after(self.options.failure_timeout_min);
        let idle = self.commit == self.log.head().op;
        let alone = self.cluster.len() == 1;
        let ReplicaState::Primary(primary) = &mut self.state else { return };
        if !primary.is_serving() || alone {
            return;
        }
        if idle && primary.queue.is_empty() {
            self.abdicate("handed over");
        } else {
            primary.leaving = Leaving::Draining { until };
        }
    }
}
