//! The driver: one task owns the replica, passes it its inputs, and carries out its outputs.

use super::StopReason;
use super::builder::random;
use super::counters::count;
use super::inbox::{AdminCall, Batch, InboxCall};
use super::lanes::Entries;
use super::link;
use super::reads::{MinApplied, Reads};
use super::shared::Shared;
use super::status::{Reporter, commit_in};
use super::stopwatch::Stopwatch;
use super::transfer::{self, Piece, Task};
use crate::config::{HistoryId, Role};
use crate::ids::{Anchor, Instant, MemberId, Op, WriteSeq};
use crate::kv::{Deadlines, Progress, Reaper};
use crate::lazy_timer::LazyTimer;
use crate::message::{Answer, ChangeCall, MembersAnswer, Message, Write};
use crate::replica::{Input, Output, Replica, Wrap};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Clients' calls wait while more than this many times the pipeline depth is committed and not yet applied.
const MAX_LAG: u64 = 4;
/// Calls are refused if nothing has been applied for this long although there was something to apply.
const SLOW_APPLY: Duration = Duration::from_secs(1);
/// The driver waits for more calls for at most this many turns of the runtime, and only while each turn brings some.
const MOST_TURNS: usize = 4;
/// How often the status is updated with the progress of the peers.
const PEERS_EVERY: Duration = Duration::from_millis(20);

pub(super) struct Driver {
    shared: Arc<Shared>,
    replica: Replica,
    reads: Reads,
    reporter: Reporter,
    stopwatch: Stopwatch,
    /// Collected for the journal thread until the end of the batch.
    writes: Vec<(WriteSeq, Write)>,
    timer: LazyTimer,
    commit: Op,
    applied: Op,
    /// When something was last applied, or when there was last nothing to apply.
    applying_since: Instant,
    /// The progress of the running checkpoint, and of the applier's reads, at the last check.
    progress: (u64, u64),
    peers_updated: Instant,
    /// The earliest deadlines of the applied state.
    deadlines: Deadlines,
    reaper: Reaper,
    halted: bool,
}

impl Driver {
    pub(super) fn new(shared: Arc<Shared>, replica: Replica, applied: Op) -> Self {
        let reaper = Reaper::new(shared.options.failure_timeout_max);
        Self {
            shared,
            replica,
            reads: Reads::default(),
            reporter: Reporter::default(),
            stopwatch: Stopwatch::default(),
            writes: Vec::new(),
            timer: LazyTimer::new(tokio::time::Instant::now()),
            commit: applied,
            applied,
            applying_since: Instant::ZERO,
            progress: (0, 0),
            peers_updated: Instant::ZERO,
            deadlines: Deadlines::default(),
            reaper,
            halted: false,
        }
    }

    /// Runs until the replica halts.
    pub(super) async fn run(mut self) {
        let shared = self.shared.clone();
        self.carry_out();
        while !self.halted {
            // Without room for more writes, only what leads to none is taken: votes and acknowledgements must be heard
            // even while the disk hangs.
            let batch = shared.inbox.take(self.has_room(), self.takes_calls());
            if batch.is_empty() {
                self.wait().await;
                self.gather(0).await;
            } else {
                self.process(batch);
                // Other tasks run next. Meanwhile, the journal thread writes.
                self.finish_batch();
                if self.shared.inbox.has_news() {
                    let (calls, _) = self.shared.inbox.waiting();
                    // Lets other tasks on this thread run, however much there is to do.
                    tokio::task::yield_now().await;
                    self.gather(calls).await;
                }
            }
            self.on_time();
            self.finish_batch();
        }
    }

    /// Waits until something happens or the replica's next timer is due.
    async fn wait(&mut self) {
        let arrived = self.shared.inbox.arrived();
        match self.replica.poll_timeout().and_then(|at| self.shared.clock.timer(at)) {
            // The caller checks for both outcomes.
            Some(at) => drop(self.timer.limit(at, arrived).await),
            None => arrived.await,
        }
    }

    /// If there are more calls than `before`, lets the other tasks that are ready run first. The runtime runs this task
    /// right after the first one that has put a call into the inbox. If the others put more there, a single entry or
    /// round serves all of them.
    ///
    /// A turn of the runtime may take long. So neither the Control lane waits for it nor the replica's timers, which
    /// send heartbeats. Only a primary gathers: a backup has nothing to gain, and its acknowledgements would wait.
    async fn gather(&self, mut before: usize) {
        for _ in 0..MOST_TURNS {
            let (calls, has_control) = self.shared.inbox.waiting();
            let gains = calls > before && self.replica.is_serving() && self.may_take_calls();
            if !gains || has_control || self.is_timer_due() {
                return;
            }
            before = calls;
            tokio::task::yield_now().await;
        }
    }

    /// Whether the next batch contains the calls that wait.
    fn may_take_calls(&self) -> bool {
        self.takes_calls() && self.has_room()
    }

    fn has_room(&self) -> bool {
        self.shared.writes.with(|writes| writes.has_room())
    }

    fn is_timer_due(&self) -> bool {
        let now = self.shared.clock.monotonic();
        self.replica.poll_timeout().is_some_and(|at| at <= now)
    }

    /// Passes one input to the replica, and carries out its outputs.
    pub(super) fn step(&mut self, input: Input) {
        if !self.halted {
            // The clock is read after the input was taken in, so that nothing appears to be older than it is (rule
            // N7).
            let was_damaged = self.replica.has_damaged_log();
            self.replica.handle(self.shared.clock.now(), input);
            if was_damaged && !self.replica.has_damaged_log() {
                count(&self.shared.counters.repairs);
            }
            self.carry_out();
            #[cfg(feature = "internals")]
            self.replica.check_invariants();
        }
    }

    fn on_time(&mut self) {
        self.report_progress();
        if self.is_timer_due() {
            self.step(Input::Timeout);
        }
        let now = self.shared.clock.monotonic();
        self.reads.on_time(now, &self.shared);
        if self.commit <= self.applied {
            self.applying_since = now;
        }
        self.ask_for_what_is_due();
    }

    /// Rule V8: a state that waits for a checkpoint does not count as hanging while the checkpoint makes progress.
    /// Neither does a state that reads much for one request.
    fn report_progress(&mut self) {
        if self.commit <= self.applied {
            return;
        }
        let checkpoint = self.shared.applier_queue.with(|plan| plan.merging.as_ref().map(Progress::steps));
        let progress = (checkpoint.unwrap_or(self.progress.0), self.shared.applier_reads.steps());
        if progress != self.progress {
            self.progress = progress;
            self.step(Input::Applying);
        }
    }

    /// Rule X6: asks for what has expired. Checked after every batch; a primary has at least one batch per heartbeat.
    fn ask_for_what_is_due(&mut self) {
        let (now, replica) = (self.shared.clock.now(), &self.replica);
        let time = || replica.stamp(now).zip(replica.idle(now));
        let ask = self.reaper.query(now.monotonic, replica.is_serving(), self.deadlines, time);
        if ask.is_some() {
            self.shared.applier_queue.change_one(|plan| plan.expiry = ask);
        }
    }

    /// The applier has checked what has expired.
    fn on_expiry(&mut self, request: Option<Bytes>) {
        match request.filter(|request| self.replica.proposal_room() >= request.len()) {
            Some(request) => self.step(Input::Propose { requests: vec![request] }),
            None => self.reaper.ended(),
        }
    }

    /// The Control lane comes first: it decides who is primary, and must not wait behind data.
    fn process(&mut self, batch: Batch) {
        for (from, message) in batch.control {
            self.on_message(from, message);
        }
        for peer in batch.lost {
            self.stopwatch.lost(peer);
            self.step(Input::PeerLost { peer });
        }
        if let Some(seq) = batch.durable {
            self.step(Input::Durable { seq });
            self.shared.set_durable_op(self.replica.durable().op);
            if self.shared.applier_queue.with(|plan| plan.wants_durable) {
                self.shared.applier_queue.change(|plan| plan.wants_durable = false);
            }
        }
        for what in batch.transfers {
            match &what {
                // Reads that wait for an op wait for it in the new state.
                Input::StateLost => self.applied = Op::ZERO,
                Input::SnapshotInstalled { point, .. } => {
                    self.applied = point.anchor.op;
                    count(&self.shared.counters.state_transfers);
                    if self.replica.has_lost_state() {
                        count(&self.shared.counters.repairs);
                    }
                }
                _ => {}
            }
            self.step(what);
        }
        if let Some(op) = batch.applied {
            self.on_applied(op);
        }
        for (op, digest) in batch.digests {
            self.step(Input::StateDigest { op, digest });
        }
        if let Some(checkpoint) = batch.checkpoint {
            self.step(Input::Checkpointed { checkpoint });
        }
        self.deadlines = batch.deadlines.unwrap_or(self.deadlines);
        if batch.expired {
            self.reaper.ended();
        }
        if let Some(request) = batch.expiry {
            self.on_expiry(request);
        }
        for op in batch.faulty {
            self.step(Input::Faulty { op });
        }
        if batch.handover {
            self.step(Input::Handover);
        }
        for (from, message) in batch.data {
            self.on_message(from, message);
        }
        self.on_calls(batch.calls);
        for (call, reply) in batch.admin {
            let answer = match call {
                AdminCall::Handover(successor) => self.hand_over(successor),
                AdminCall::Members => self.members(),
                AdminCall::Change(call) => self.change(*call),
            };
            reply.send(answer);
        }
        if batch.ping {
            self.shared.pings_answered.send_modify(|pings| *pings += 1);
        }
    }

    fn on_message(&mut self, from: MemberId, message: Message) {
        let shared = &self.shared;
        self.stopwatch.heard(from, &message, || shared.clock.monotonic(), &shared.counters);
        let commit = commit_in(&message);
        self.step(Input::Message { from, message });
        if let Some((view, op)) = commit {
            self.reporter.heard(from, view, op, &self.replica);
        }
    }

    fn members(&self) -> Answer {
        Answer::Members(Box::new(MembersAnswer {
            configuration: self.replica.configuration().clone(),
            settled: self.replica.is_settled(),
            ended: self.replica.ended(),
        }))
    }

    /// A client asks for another member list. If it is refused, nothing has changed.
    fn change(&mut self, call: ChangeCall) -> Answer {
        let ChangeCall { ends, nonce, change } = call;
        let history = HistoryId(u128::from(random()) << 64 | u128::from(random()));
        let Some(change) = self.replica.change_request((ends, nonce, history), change) else {
            return self.not_primary();
        };
        match self.replica.check_change(&change, self.shared.clock.monotonic()) {
            // It passes.
            Ok(()) if !self.shared.may_change_members() => Answer::Overloaded,
            Ok(()) => {
                self.step(Input::Change { change: Box::new(change) });
                Answer::Done
            }
            Err(refusal) => match refusal.kind() {
                Some(kind) => Answer::ChangeRefused { kind, reason: refusal.to_string() },
                // It passes, so the client tries again.
                None => Answer::Overloaded,
            },
        }
    }

    /// A client asks for a handover, perhaps to a certain member. Nothing is given up before it is known that a member
    /// can take over. Each change of the primary delays all writes, so this is granted only once in a while.
    fn hand_over(&mut self, successor: Option<MemberId>) -> Answer {
        if !self.replica.is_serving() {
            return self.not_primary();
        }
        let (me, now) = (self.shared.me, self.shared.clock.monotonic());
        let members = self.shared.members.now();
        let others = members.cluster.voters().filter(|it| it.role == Role::Data && it.id != me);
        let candidates: Vec<MemberId> =
            successor.map_or_else(|| others.map(|other| other.id).collect(), |named| vec![named]);
        let checks = candidates.iter().map(|id| self.replica.check_successor(*id, now));
        match checks.reduce(Result::or) {
            Some(Err(refusal)) => return Answer::HandoverRefused(refusal),
            // Nobody else can be the primary.
            None => return Answer::Done,
            Some(Ok(())) if successor == Some(me) => return Answer::Done,
            Some(Ok(())) => {}
        }
        if !self.shared.may_hand_over() {
            return Answer::Overloaded;
        }
        self.step(successor.map_or(Input::Handover, |successor| Input::HandoverTo { successor }));
        Answer::Done
    }

    fn on_applied(&mut self, op: Op) {
        // A replica that has halted has not processed the installed snapshot that this op may come from.
        assert!(self.halted || op <= self.replica.commit().op, "only committed entries are applied");
        self.applied = op;
        self.applying_since = self.shared.clock.monotonic();
        self.step(Input::Applied { op });
        self.reads.applied(op, &self.shared);
    }

    /// Passes the writes to the journal, and updates the status.
    fn finish_batch(&mut self) {
        if !self.writes.is_empty() {
            let writes = &mut self.writes;
            self.shared.writes.change_one(|waiting| waiting.extend(writes));
        }
        self.reporter.numbers(&self.replica, self.applied, &self.shared);
        let now = self.shared.clock.monotonic();
        if now.since(self.peers_updated) >= PEERS_EVERY {
            self.peers_updated = now;
            Reporter::peers(&self.replica, &self.shared);
        }
    }

    /// Whether the driver takes clients' calls now. Until then, they wait in the inbox.
    fn takes_calls(&self) -> bool {
        let lag = self.commit.distance_from(self.applied);
        lag <= MAX_LAG * u64::from(self.shared.options.pipeline_depth)
            || self.is_slow()
            || !self.replica.is_serving()
    }

    fn is_slow(&self) -> bool {
        self.commit > self.applied && self.shared.clock.monotonic().since(self.applying_since) > SLOW_APPLY
    }

    fn on_calls(&mut self, calls: VecDeque<InboxCall>) {
        if calls.is_empty() {
            return;
        }
        let refusal = if !self.replica.is_serving() || *self.shared.closing.borrow() {
            Some(self.not_primary())
        } else if self.is_slow() {
            Some(Answer::Overloaded)
        } else {
            None
        };
        let mut requests = Vec::new();
        let mut reads = Vec::new();
        let mut room = self.replica.proposal_room();
        for call in calls {
            match (call, &refusal) {
                (InboxCall::Write { reply, .. } | InboxCall::Read { reply, .. }, Some(refusal)) => {
                    reply.send(refusal.clone())
                }
                (InboxCall::Await { at_least, query, reply }, _) => {
                    let now = self.shared.clock.monotonic();
                    self.reads.wait(at_least, (query, reply), now, &self.shared);
                }
                (InboxCall::Bounded { bound, query, reply }, refusal) => {
                    // Rule R4: if the age of the state is unknown, the read is handled as a linearizable one.
                    let fresh = self.replica.fresh(self.shared.clock.now(), bound);
                    match (fresh.filter(|op| *op <= self.applied), refusal) {
                        (Some(op), _) => {
                            super::reads::run(&self.shared, vec![(query, reply)], MinApplied::Op(op))
                        }
                        (None, Some(refusal)) => reply.send(refusal.clone()),
                        (None, None) => reads.push((query, reply)),
                    }
                }
                (InboxCall::Read { query, reply }, None) => reads.push((query, reply)),
                (InboxCall::Write { key, request, reply }, None) => {
                    if room == 0 && !requests.is_empty() {
                        // A batch may hold more calls than the replica takes at once.
                        self.step(Input::Propose { requests: std::mem::take(&mut requests) });
                        room = self.replica.proposal_room();
                    }
                    if room == 0 {
                        reply.send(Answer::Overloaded);
                        continue;
                    }
                    // If the request is already in progress, this call waits for the same result.
                    if self.shared.waiters.join(key, reply) {
                        room = room.saturating_sub(request.len());
                        requests.push(request);
                    }
                }
            }
        }
        assert!(requests.is_empty() || self.replica.is_serving(), "only a primary orders requests");
        if !requests.is_empty() {
            self.step(Input::Propose { requests });
        }
        if !reads.is_empty() {
            // One ticket for all: the round that begins with the first read would not count for the second.
            let ticket = self.reads.add(reads);
            self.step(Input::Read { ticket });
        }
    }

    fn not_primary(&self) -> Answer {
        let hint = self.replica.status().primary.filter(|primary| *primary != self.shared.me);
        Answer::NotPrimary { hint }
    }

    /// Carries out all outputs of the replica.
    fn carry_out(&mut self) {
        self.shared.set_view(self.replica.view());
        while let Some(output) = self.replica.poll_output() {
            self.on_output(output);
        }
    }

    /// Measures for the metrics. The clock is read only if a measurement begins or ends.
    fn measure(&mut self, output: &Output) {
        let (shared, stopwatch) = (&self.shared, &mut self.stopwatch);
        let now = || shared.clock.monotonic();
        match output {
            Output::Write { write: Write::Append(entries), .. } if self.replica.is_serving() => {
                let last = entries.last().map(|entry| entry.header.op);
                last.into_iter().for_each(|op| stopwatch.appended(op, now()));
            }
            Output::Write { write: Write::Repair(_), .. } => count(&shared.counters.repairs),
            Output::Send { to, message: Message::Prepare { entry, .. } } => {
                stopwatch.sent(*to, entry.header.op, now);
            }
            Output::SendEntries { to, through, wrap: Wrap::Prepare { .. }, .. } => {
                stopwatch.sent(*to, through.op, now);
            }
            Output::Commit { commit } => stopwatch.committed(commit.op, now, &shared.counters),
            Output::Status(_) => stopwatch.reset(),
            _ => {}
        }
    }

    /// Tells the replica the next configuration, which the last entry of the epoch contains.
    fn read_stop(&mut self, stop: Anchor) {
        // In memory, because it is not applied yet; on the disk only after a restart.
        let read = self.shared.log().map(|log| log.read(stop.op));
        let entry = read.and_then(|entry| entry.ok()?.filter(|it| it.header.anchor() == stop));
        let answer = match entry.and_then(|entry| entry.next_configuration()) {
            Some(configuration) => Input::Stop { stop, configuration },
            None => Input::Faulty { op: stop.op },
        };
        self.replica.handle(self.shared.clock.now(), answer);
    }

    fn on_output(&mut self, output: Output) {
        self.measure(&output);
        let shared = &self.shared;
        let transfer_task = |task| shared.applier_queue.change_one(|plan| plan.tasks.push_back(task));
        match output {
            Output::Write { seq, write } => {
                if let Some(log) = shared.log() {
                    log.stage(&write);
                }
                // Rule D7: after a cut or a rebase of the log, the durable op is lowered before anything above is
                // reported as committed.
                if self.replica.durable().op < shared.durable_op() {
                    shared.set_durable_op(self.replica.durable().op);
                }
                self.writes.push((seq, write));
            }
            Output::Send { to, message } => {
                self.reporter.sending(&message, shared.clock.monotonic());
                shared.lanes.send(to, message);
            }
            Output::SendEntries { to, from, through, wrap } => {
                shared.lanes.send_entries(to, Entries { from, through, wrap });
            }
            Output::ReadSnapshot { to, nonce, at, after } => {
                let piece = Piece { nonce, at, after };
                if to == shared.me {
                    transfer::read_own(shared, piece);
                } else {
                    shared.lanes.send_piece(to, piece);
                }
            }
            Output::MakeCheckpoint => shared.applier_queue.change_one(|plan| plan.asked = true),
            Output::StageChunk { at, chunk } => transfer_task(Task::Stage(at, chunk)),
            Output::InstallSnapshot { at } => transfer_task(Task::Install(at)),
            Output::DiscardSnapshot { at } => transfer_task(Task::Discard(at)),
            Output::Commit { commit } => {
                self.commit = self.commit.max(commit.op);
                match shared.role {
                    Role::Data => shared.applier_queue.change_one(|plan| plan.commit(commit.op)),
                    // A witness has no state to apply entries to.
                    Role::Witness => shared.inbox.applied(commit.op),
                }
            }
            Output::ReadStop { stop } => self.read_stop(stop),
            Output::Entered { configuration } => link::open(shared, &shared.members.enter(&configuration)),
            Output::Reach { configuration } => link::open(shared, &shared.members.reach(&configuration)),
            Output::ReadReady { tickets, op } => self.reads.confirmed(&tickets, op, self.applied, shared),
            Output::ReadsRefused { tickets } => {
                let answer = self.not_primary();
                self.reads.refused(&tickets, &answer);
            }
            Output::Status(status) => self.reporter.on_status(status, shared, shared.clock.monotonic()),
            Output::ProposalsAbandoned => {
                shared.waiters.abandon();
                self.reaper.ended();
            }
            Output::Halt(halt) => {
                tracing::error!(%halt, "this member stops");
                self.halted = true;
                shared.stop(StopReason::Halted(halt));
            }
        }
    }
}
