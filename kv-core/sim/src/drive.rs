//! The driver: carries out the outputs of a replica. The node has another one, on threads; this one runs in simulated
//! time.

use super::Bug;
use super::clock::{SECOND, Time};
use super::events::Due;
use super::kind::Kind;
use super::member::{Process, index};
use super::plan::around;
use super::stages::CheckpointStage;
use super::words::{brief, brief_write, place_of};
use super::world::World;
use kv_core::ids::{Anchor, Hash, MemberId, Op, WriteSeq};
use kv_core::journal::LogReader;
use kv_core::kv::Applied;
use kv_core::message::{Command, Entry, Message, Operation, Request, ViewRecord, Write, body_of};
use kv_core::replica::{Input, Output, Wrap};
use kv_core::wire;

/// How often in a row a replica's timer may fire at one instant.
const MAX_RINGS: u32 = 50;
/// How long a write may take on a slow disk.
const SLOWEST_WRITE: Time = 5 * SECOND;
/// How many entries are applied at once.
const APPLY_AT_ONCE: usize = 16;

impl World {
    pub(super) fn process(&mut self, member: usize) -> Option<&mut Process> {
        self.members[member].process.as_deref_mut()
    }

    /// A message between members arrives.
    pub(super) fn deliver(&mut self, from: usize, to: usize, message: Message) {
        if self.members[to].process.is_none() || !self.hears(to, from, &message) {
            return;
        }
        let (kind, digest) = (Kind::of(&message) as u8, place_of(&message));
        self.trace.note(10 + kind, (from * 16 + to) as u64, digest, || {
            format!("{:?} m{from} -> m{to} {}", self.now, brief(&message))
        });
        if matches!(message, Message::NewState { .. }) {
            self.checker.count("entries fetched");
        }
        let message = if self.plan.encoded {
            match wire::decode_message(wire::encode_message(&message)) {
                Ok(message) => message,
                Err(error) => return self.fail(("what is sent decodes", format!("{message:?}: {error}"))),
            }
        } else {
            message
        };
        let from = MemberId::new(u8::try_from(from).expect("an index of a member"));
        self.input(to, Input::Message { from, message });
    }

    /// One step of a replica, and everything that follows from it at once.
    pub(super) fn input(&mut self, member: usize, input: Input) {
        let now = self.clock_of(member);
        let Some(process) = self.process(member) else { return };
        process.replica.handle(now, input);
        self.after_input(member);
    }

    /// Carries out the replica's outputs and sets its timer.
    pub(super) fn after_input(&mut self, member: usize) {
        while let Some(output) = self.process(member).and_then(|process| process.replica.poll_output()) {
            self.carry_out(member, output);
            if self.violation.is_some() {
                return;
            }
        }
        let life = self.members[member].life;
        let Some(process) = self.process(member) else { return };
        process.replica.check_invariants();
        let replica = &process.replica;
        let (view, log_view, serving) = (replica.view(), replica.log_view(), replica.is_serving());
        let checked = self.checker.on_step(member, life, view, log_view, serving);
        self.check(checked);
        self.check_disk(member);
        self.set_timer(member);
        self.propose_what_is_due(member);
    }

    /// Proposes to remove what has expired (rule X6).
    fn propose_what_is_due(&mut self, member: usize) {
        let now = self.clock_of(member);
        let Some(Process { replica, state: Some(state), reaper, .. }) = self.process(member) else { return };
        let time = || replica.stamp(now).zip(replica.idle(now));
        let ask = reaper.query(now.monotonic, replica.is_serving(), state.deadlines(), time);
        let Some(ask) = ask else { return };
        let request = Request::expiry(state.due(ask)).encode();
        if replica.proposal_room() < request.len() {
            return reaper.ended();
        }
        self.checker.count("expiries proposed");
        self.input(member, Input::Propose { requests: vec![request] });
    }

    /// Sets the replica's timer by the member's clock.
    pub(super) fn set_timer(&mut self, member: usize) {
        let (now, clock) = (self.now, self.members[member].clock);
        let Some(process) = self.process(member) else { return };
        let Some(deadline) = process.replica.poll_timeout() else { return };
        let at = clock.reaches(deadline).max(now);
        if at == Time::MAX {
            return;
        }
        if process.timer.is_none_or(|set| at < set) {
            process.timer = Some(at);
            self.schedule_due(at, member, Due::Timer(at));
        }
    }

    /// An event of a process is due.
    pub(super) fn on_due(&mut self, member: usize, life: u32, what: Due) {
        let slot = &mut self.members[member];
        if slot.life != life || slot.process.is_none() {
            return;
        }
        if let (Some(unfinished), Due::Written | Due::Checkpoint | Due::Merge) = (&mut slot.stalled, what) {
            return unfinished.push(what);
        }
        match what {
            Due::Timer(at) => self.on_timer(member, at),
            Due::Written => self.on_journal(member),
            Due::Apply => self.apply_some(member),
            Due::Checkpoint => self.on_checkpoint(member),
            Due::Merge => self.on_merge(member),
            Due::Transfer => self.on_transfer(member),
            Due::Piece => self.on_piece(member),
            Due::PeerLost(peer) => {
                self.trace.note(30, member as u64, peer as u64, || {
                    format!("{:?} m{member} loses m{peer}", self.now)
                });
                self.input(member, Input::PeerLost { peer: self.members[peer].id });
            }
            Due::Handover(to) => self.hand_over(member, to),
            Due::Look(ticket) => self.on_poll(member, ticket),
            Due::Wait(ticket) => self.on_wait(member, ticket),
            Due::Wake => self.on_wake(member),
            Due::Sweep => self.on_sweep(member),
        }
    }

    fn on_timer(&mut self, member: usize, at: Time) {
        if self.process(member).is_none_or(|process| process.timer != Some(at)) {
            return;
        }
        if let Some(process) = self.process(member) {
            process.timer = None;
        }
        for _ in 0..MAX_RINGS {
            let now = self.clock_of(member);
            let due = self.process(member).and_then(|process| process.replica.poll_timeout());
            if due.is_none_or(|due| due > now.monotonic) || self.violation.is_some() {
                return self.set_timer(member);
            }
            self.trace.note(31, member as u64, 0, || format!("{:?} m{member} timer", self.now));
            let gets_on = self.members[member].stalled.is_none() && self.bug != Some(Bug::MergeTakenForHang);
            if gets_on && self.process(member).is_some_and(|process| process.checkpoint.is_some()) {
                self.input(member, Input::Applying);
            }
            self.input(member, Input::Timeout);
        }
        self.fail(("a timer moves on", format!("m{member} rang {MAX_RINGS} times at one instant")));
    }

    fn carry_out(&mut self, member: usize, output: Output) {
        match output {
            Output::Write { seq, write } => self.ask_journal(member, seq, write),
            Output::Send { message, .. } if self.falls_silent(member, &message) => {}
            Output::Send { to, message } => self.send(member, index(to), message),
            Output::SendEntries { to, from, through, wrap } => {
                self.send_entries(member, index(to), from, through, wrap);
            }
            Output::ReadSnapshot { to, nonce, at, after } => self.read_snapshot(member, to, nonce, at, after),
            Output::MakeCheckpoint => self.make_checkpoint(member),
            Output::StageChunk { at, chunk } => self.stage_chunk(member, at, chunk),
            Output::InstallSnapshot { at } => self.install_snapshot(member, at),
            Output::DiscardSnapshot { at } => self.discard_snapshot(member, at),
            Output::Commit { commit } => self.on_commit(member, commit),
            Output::ReadStop { stop } => self.read_stop(member, stop),
            Output::Entered { configuration } => self.entered(member, &configuration),
            Output::Reach { configuration } => {
                if let Some(process) = self.process(member) {
                    process.reach.told_of(&configuration);
                }
            }
            Output::ReadReady { tickets, op } => self.reads_ready(member, &tickets, op),
            Output::ReadsRefused { tickets } => self.reads_refused(member, &tickets),
            Output::Status(status) => {
                self.trace.note(32, member as u64, status.view.get(), || {
                    format!("{:?} m{member} {status:?}", self.now)
                });
            }
            Output::ProposalsAbandoned => {
                self.abandon(member);
                if let Some(process) = self.process(member) {
                    process.reaper.ended();
                }
            }
            Output::Halt(halt) => self.halted(member, halt),
        }
    }

    fn ask_journal(&mut self, member: usize, seq: WriteSeq, write: Write) {
        let checked = self.checker.on_write(member, &write);
        self.check(checked);
        if let (Write::Append(entries), Some(process)) = (&write, &self.members[member].process) {
            let slot = &self.members[member];
            let (life, allowance) = ((member, slot.life), slot.options.wall_clock_allowance);
            let credited = process.replica.wall_clock_credit();
            self.checker.stamps.made(entries, self.now, life, credited, allowance);
        }
        self.trace.note(33, member as u64, seq.get(), || {
            format!("{:?} m{member} writes {}", self.now, brief_write(&write))
        });
        let Some(process) = self.process(member) else { return };
        process.log.stage(&write);
        let early = self.is_reported_early(&write);
        if let (Some(Bug::ApplyUncommitted), Write::Append(entries)) = (self.bug, &write) {
            self.apply_early(member, entries);
        }
        let Some(process) = self.process(member) else { return };
        process.waiting.push_back((seq, write));
        self.kick_journal(member);
        if early {
            self.input(member, Input::Durable { seq });
        }
    }

    /// Passes what waits to the journal, if it is idle.
    fn kick_journal(&mut self, member: usize) {
        let slowness = u64::from(self.members[member].slowness);
        let disk = self.plan.disk;
        let all = self.rng.u32(0..4) > 0;
        let some = self.rng.usize(1..=8);
        let Some(process) = self.process(member) else { return };
        if !process.writing.is_empty() || process.waiting.is_empty() {
            return;
        }
        let count = if all { process.waiting.len() } else { some.min(process.waiting.len()) };
        process.writing = process.waiting.drain(..count).collect();
        let mut latency = around(&mut self.rng, disk.latency) * slowness;
        // On a slow disk, such a write would last longer than the healing, which no bound on the convergence allows for
        // (seed 1803).
        if disk.hiccups > 0 && slowness == 1 && self.rng.u32(0..1000) < disk.hiccups {
            latency *= 50;
        }
        // A write that takes longer is a stall.
        self.schedule_due(self.now + latency.min(SLOWEST_WRITE), member, Due::Written);
    }

    fn on_journal(&mut self, member: usize) {
        let (bug, wall) = (self.bug, self.clock_of(member).wall);
        let Some(process) = self.process(member) else { return };
        let batch = std::mem::take(&mut process.writing);
        let Some(&(last, _)) = batch.last() else { return };
        let writes: Vec<Write> = batch.into_iter().map(|(_, write)| write).collect();
        let asked = writes.iter().map(|write| with_seeded_bug(bug, write)).collect::<Vec<_>>();
        if let Err(error) = process.journal.execute_at(wall, &asked) {
            if self.members[member].may_fail() {
                return self.disk_failed(member);
            }
            return self.fail(("a good disk takes what is written", format!("m{member}: {error}")));
        }
        for write in &writes {
            let checked = self.checker.on_written(member, write);
            self.check(checked);
        }
        self.trace
            .note(34, member as u64, last.get(), || format!("{:?} m{member} durable {last:?}", self.now));
        self.input(member, Input::Durable { seq: last });
        self.kick_journal(member);
        // An entry that could not be read may be available again.
        self.kick_apply(member);
        self.consider_checkpoint(member);
    }

    /// Reads an entry. An unreadable one is reported to the replica.
    pub(super) fn read_entry(&mut self, member: usize, op: Op) -> Option<Entry> {
        let read = self.members[member].process.as_ref()?.log.read(op);
        if read.is_err() {
            self.cannot_read(member, op);
        }
        read.ok().flatten()
    }

    fn cannot_read(&mut self, member: usize, op: Op) {
        if self.members[member].may_fail() {
            return self.disk_failed(member);
        }
        self.checker.count("entries found unreadable");
        self.input(member, Input::Faulty { op });
    }

    fn send_entries(&mut self, member: usize, to: usize, from: Op, through: Anchor, wrap: Wrap) {
        let mut entries = Vec::new();
        let mut op = from;
        while op <= through.op {
            let Some(entry) = self.read_entry(member, op) else { return };
            entries.push(entry);
            op = op.next();
        }
        if entries.last().is_none_or(|last| last.header.anchor() != through) {
            return;
        }
        match wrap {
            Wrap::Prepare { view, commit } => {
                for entry in entries {
                    self.send(member, to, Message::Prepare { view, commit, entry });
                }
            }
            Wrap::NewState { nonce } => self.send(member, to, Message::NewState { nonce, entries }),
        }
    }

    fn on_commit(&mut self, member: usize, commit: Anchor) {
        self.trace.note(35, member as u64, commit.op.get(), || {
            format!("{:?} m{member} commits {commit:?}", self.now)
        });
        let Some(process) = self.members[member].process.as_deref_mut() else { return };
        process.commit = commit;
        let checked = self.checker.on_commit(member, commit);
        self.check(checked);
        self.record_committed(member, commit);
        self.kick_apply(member);
    }

    /// A member knows that this is committed.
    pub(super) fn record_committed(&mut self, member: usize, commit: Anchor) {
        // The entry of this log, from any member where it can be read: the copy here may be damaged.
        let logs = self.members.iter().filter_map(|other| Some(other.process.as_ref()?.log.clone()));
        let logs: Vec<LogReader> =
            self.members[member].process.iter().map(|own| own.log.clone()).chain(logs).collect();
        let read = |op: Op, parent: Hash| {
            let held = logs.iter().filter_map(|log| log.read(op).ok().flatten());
            let mut fitting = held.filter(|entry| {
                entry.header.parent == parent && (op < commit.op || entry.header.hash() == commit.hash)
            });
            fitting.next()
        };
        let unreadable = self.members.iter().any(|member| member.process.is_none() || member.may_fail());
        let checked = self.checker.record_committed(member, commit, unreadable, read);
        self.check(checked);
    }

    /// Schedules applying. A witness has nothing to apply to.
    pub(super) fn kick_apply(&mut self, member: usize) {
        let delay = around(&mut self.rng, self.plan.disk.latency / 10);
        let Some(process) = self.process(member) else { return };
        if !process.applying && process.may_apply() {
            process.applying = true;
            self.schedule_due(self.now + delay, member, Due::Apply);
        }
    }

    fn apply_some(&mut self, member: usize) {
        let Some(process) = self.process(member) else { return };
        process.applying = false;
        for _ in 0..APPLY_AT_ONCE {
            if !self.apply_next(member) {
                break;
            }
        }
        let Some(process) = self.process(member) else { return };
        let applied = process.applied();
        self.published(member);
        self.input(member, Input::Applied { op: applied });
        self.consider_checkpoint(member);
        self.kick_apply(member);
    }

    /// Applies one entry. Returns false if there is none to apply now.
    fn apply_next(&mut self, member: usize) -> bool {
        let is_wrong = self.bug == Some(Bug::AppliesAPutWrongly) && member == 1;
        let Some(process) = self.process(member) else { return false };
        if !process.may_apply() {
            return false;
        }
        let Some(state) = &mut process.state else {
            process.seen = process.commit.op;
            return false;
        };
        let op = state.applied().op.next();
        let entry = match process.log.read(op) {
            Ok(Some(entry)) => entry,
            Err(_) => {
                self.cannot_read(member, op);
                return false;
            }
            other => {
                self.fail(("what is committed can be read", format!("m{member} {op:?}: {other:?}")));
                return false;
            }
        };
        let wrong = (is_wrong && op.get().is_multiple_of(4)).then(|| with_wrong_values(&entry));
        let applied = match state.apply(wrong.as_ref().unwrap_or(&entry)) {
            Ok(applied) => {
                if applied.iter().any(Applied::is_expiry) {
                    process.reaper.ended();
                }
                applied
            }
            Err(error) => {
                self.state_failed(member, "a committed entry can be applied", &error);
                return false;
            }
        };
        let compared = state.compared();
        self.trace.note(36, member as u64, op.get(), || {
            format!("{:?} m{member} applies {op:?} {applied:?}", self.now)
        });
        let checked = self.checker.on_applied(member, &entry, &applied);
        self.check(checked);
        if op.get().is_multiple_of(16) {
            self.digest(member);
        }
        self.answer_writes(member, applied);
        if let Some((op, digest)) = compared {
            self.input(member, Input::StateDigest { op, digest });
        }
        self.violation.is_none()
    }

    /// Freezes the state if a checkpoint is due, and starts it when everything that it covers is durable here.
    pub(super) fn consider_checkpoint(&mut self, member: usize) {
        let careless = self.bug == Some(Bug::CheckpointBeforeLog);
        let limit = self.members[member].options.checkpoint_bytes;
        let Some(process) = self.process(member) else { return };
        let Some(state) = &mut process.state else { return };
        if state.is_full() && process.checkpoint.is_none() {
            state.release();
        }
        let due = state.memtable_bytes() >= limit || process.transfers.asked;
        if due && process.frozen.is_none() && process.checkpoint.is_none() {
            process.transfers.asked = false;
            process.frozen = state.begin_checkpoint();
        }
        let durable = process.replica.durable().op;
        process.checkpoint = match process.frozen.take_if(|frozen| careless || frozen.anchor().op <= durable)
        {
            None => return,
            Some(begins) => Some(CheckpointStage::Frozen(Box::new(begins))),
        };
        if let Some(checkpoint) = process.checkpoint.as_ref().map(CheckpointStage::anchor) {
            self.schedule_checkpoint(member);
            if self.bug == Some(Bug::CheckpointRecordedEarly) {
                self.input(member, Input::Checkpointed { checkpoint });
            }
        }
    }

    /// The running checkpoint takes two stages of about this time. Files may be merged meanwhile.
    fn schedule_checkpoint(&mut self, member: usize) {
        let latency = around(&mut self.rng, self.plan.disk.checkpoint / 2);
        self.schedule_due(self.now + latency, member, Due::Checkpoint);
        self.schedule_merge(member);
    }

    fn on_checkpoint(&mut self, member: usize) {
        let Some(process) = self.process(member) else { return };
        let Some(checkpoint) = process.checkpoint.take() else { return };
        let anchor = checkpoint.anchor();
        let done = match checkpoint {
            CheckpointStage::Frozen(checkpoint) => match checkpoint.write() {
                Ok(written) => {
                    process.checkpoint = Some(CheckpointStage::Written(written));
                    return self.schedule_checkpoint(member);
                }
                Err(error) => Err(error),
            },
            CheckpointStage::Written(checkpoint) => checkpoint.commit(),
        };
        match done {
            Ok(done) => {
                if let Some(state) = &mut process.state {
                    state.finish_checkpoint(done);
                    process.transfers.sources.publish(state.snapshot());
                }
            }
            Err(error) => return self.state_failed(member, "a checkpoint can be taken", &error),
        }
        self.schedule_merge(member);
        self.trace.note(37, member as u64, anchor.op.get(), || {
            format!("{:?} m{member} checkpoint {anchor:?}", self.now)
        });
        self.digest(member);
        self.input(member, Input::Checkpointed { checkpoint: anchor });
        self.kick_apply(member);
    }

    /// A bug of the driver: what is appended is applied.
    fn apply_early(&mut self, member: usize, entries: &[Entry]) {
        let (Some(process), Some(last)) = (self.process(member), entries.last()) else { return };
        process.commit = last.header.anchor();
        self.kick_apply(member);
    }

    /// The seeded bug `SilentAbdication`: a primary that abdicates does not vote.
    fn falls_silent(&self, member: usize, message: &Message) -> bool {
        let slot = &self.members[member];
        let is_primary = |process: &Process| self.checker.primary(process.replica.view()) == Some(slot.id);
        self.bug == Some(Bug::SilentAbdication)
            && matches!(message, Message::StartViewChange { .. })
            && slot.process.as_deref().is_some_and(is_primary)
    }

    /// Bugs of the driver that report too early that something is durable.
    fn is_reported_early(&self, write: &Write) -> bool {
        match (self.bug, write) {
            (Some(Bug::AckBeforeSync), Write::Append(_)) | (Some(Bug::FormOnWord), Write::Formation(_)) => {
                true
            }
            (Some(Bug::DoViewChangeBeforeView), Write::View(ViewRecord { view, log_view, .. })) => {
                log_view < view
            }
            (Some(Bug::LogViewLate), Write::View(ViewRecord { view, log_view, .. })) => log_view == view,
            _ => false,
        }
    }
}

/// Bugs of the driver that write something other than requested.
pub(super) fn with_seeded_bug(bug: Option<Bug>, write: &Write) -> Write {
    let mut write = write.clone();
    if let Write::View(record) = &mut write {
        match bug {
            Some(Bug::CutInMemory) => record.cut = None,
            Some(Bug::LogViewEarly) => record.log_view = record.view,
            Some(Bug::DamageForgotten) => record.damaged = false,
            _ => {}
        }
    }
    write
}

impl Process {
    fn may_apply(&self) -> bool {
        !self.stateless
            && self.applied() < self.commit.op
            && self.state.as_ref().is_none_or(|state| !state.is_full())
    }

    fn applied(&self) -> Op {
        self.state.as_ref().map_or(self.seen, |state| state.applied().op)
    }
}

/// The seeded bug `AppliesAPutWrongly`: the same entry, but the values that it puts have another first byte.
fn with_wrong_values(entry: &Entry) -> Entry {
    let requests = entry.requests().map(|bytes| {
        let Ok(mut request) = Request::decode(&bytes) else { return bytes };
        if let Operation::Command(Command::Put { value, .. }) = &mut request.operation
            && let Some(first) = value.first()
        {
            *value = [&[first ^ 1], &value[1..]].concat().into();
        }
        request.encode()
    });
    Entry { body: body_of(&requests.collect::<Vec<_>>()), ..entry.clone() }
}
