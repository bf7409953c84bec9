//! The lives of members: a process opens what is on its disk, runs, and ends.

use super::Bug;
use super::careless::careless;
use super::clock::{SECOND, Time};
use super::drive::with_seeded_bug;
use super::events::{Due, Event};
use super::member::{End, Member, Process, index};
use super::plan::around;
use super::reach::Reach;
use super::stages::CheckpointStage;
use super::waiting::{Serving, Transfers};
use super::world::World;
use kv_core::config::{FixedOptions, Role};
use kv_core::engine::EngineError;
use kv_core::journal::{Identity, Journal, JournalOptions};
use kv_core::kv::{HeldFiles, Limits, Reaper, Receiver, Sources, StateMachine};
use kv_core::message::{CheckpointAlignment, FormationStep, Recovered, Write};
use kv_core::replica::{Input, Now, Replica, ReplicaConfig};
use std::collections::VecDeque;

/// What a member finds on its disk.
struct Opened {
    journal: Journal,
    state: Option<StateMachine>,
    recovered: Recovered,
    receiver: Option<Receiver>,
}

impl World {
    /// The readings of a member's clocks.
    pub(super) fn clock_of(&self, member: usize) -> Now {
        self.members[member].clock.read(self.now)
    }

    /// Starts the process of a member from what is on its disk.
    pub(super) fn start_member(&mut self, member: usize) {
        let slot = &mut self.members[member];
        if slot.process.is_some() || slot.away || !self.may_start(member) {
            return;
        }
        let slot = &mut self.members[member];
        slot.life += 1;
        slot.clock.restart(self.now);
        let life = slot.life;
        self.draw_options(member);
        self.trace.note(1, member as u64, u64::from(life), || {
            format!("{:?} m{member} starts life {life}", self.now)
        });
        match self.open(member) {
            Ok(Some(opened)) => self.begin_life(member, opened),
            Ok(None) if self.members[member].away => {}
            Ok(None) => self.disk_failed(member),
            Err(reason) => self.fail(("a member starts from its own disk", format!("m{member}: {reason}"))),
        }
    }

    /// The owner of a member's directory.
    pub(super) fn identity(&self, member: usize) -> Identity {
        Identity {
            cluster: self.cluster.id(),
            cluster_name: self.cluster.name().to_owned(),
            fingerprint: self.cluster.fingerprint(),
            member: self.members[member].id,
            options: FixedOptions::from(&self.plan.options),
        }
    }

    /// The sizes of its journal.
    pub(super) fn journal_options(&self, member: usize) -> JournalOptions {
        JournalOptions { segment_bytes: self.members[member].options.segment_bytes, cache_bytes: 16 << 10 }
    }

    /// Opens the journal and the state; `None` if the disk failed meanwhile.
    fn open(&mut self, member: usize) -> Result<Option<Opened>, String> {
        let (identity, options) = (self.identity(member), self.journal_options(member));
        let slot = &self.members[member];
        let storage = careless(slot.disk.storage(), self.bug);
        let (mut journal, mut recovered) = match Journal::open(storage, identity, options) {
            Ok(opened) => opened,
            Err(_) if slot.may_fail() => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        if slot.joined {
            let checked = self.checker.on_recovered(member, &recovered, slot.flipped);
            self.check(checked);
        } else {
            match self.join(member, &mut journal, recovered) {
                Ok(Some(joined)) => recovered = joined,
                Ok(None) => return Ok(None),
                Err(_) if self.members[member].may_fail() => return Ok(None),
                Err(error) => return Err(error.to_string()),
            }
        }
        let slot = &self.members[member];
        let limits = Limits::from(&slot.options);
        let state = match (slot.role, self.plan.in_memory) {
            (Role::Witness, _) => None,
            (_, true) => Some(StateMachine::in_memory(limits)),
            (_, false) => {
                match StateMachine::open_or_set_aside(&careless(slot.disk.storage(), self.bug), &limits) {
                    Ok(state) => state,
                    Err(_) if slot.may_fail() => return Ok(None),
                    Err(error) => return Err(error.to_string()),
                }
            }
        };
        if slot.role == Role::Data && state.is_none() {
            if self.bug == Some(Bug::DamagedStateDeleted) {
                // It does not matter whether there was one.
                let _ = slot.disk.storage().remove("state.damaged");
            }
            self.checker.count("states given up");
        }
        let mut opened = Opened { journal, state, recovered, receiver: None };
        if self.members[member].role == Role::Data && !self.plan.in_memory {
            match self.open_for_transfer(member, &mut opened) {
                Ok(()) => {}
                Err(_) if self.members[member].may_fail() => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(Some(opened))
    }

    /// Aligns state and log, and finds what is left of a transfer.
    fn open_for_transfer(&mut self, member: usize, opened: &mut Opened) -> Result<(), String> {
        let storage = careless(self.members[member].disk.storage(), self.bug);
        let limits = Limits::from(&self.members[member].options);
        opened.receiver = Some(Receiver::open(storage, limits).map_err(|error| error.to_string())?);
        let Some(state) = &opened.state else { return Ok(()) };
        // The engine is the later of the two: it makes a checkpoint durable before the superblock records it.
        let (found, recorded) = (state.checkpoint(), opened.recovered.checkpoint);
        if found.op < recorded.op && !self.members[member].flipped {
            return Err(format!("the state is at {found:?}, the superblock knows of {recorded:?}"));
        }
        match opened.recovered.alignment(state.checkpoint()) {
            CheckpointAlignment::OnLog => opened.recovered.checkpoint = state.checkpoint(),
            CheckpointAlignment::Ahead => {
                self.checker.count("states ahead of the log");
                let (point, configuration) = (state.point(), state.configuration().cloned());
                let disk = self.fresh_disk(member);
                let rebased = opened.journal.rebase_log(point, configuration.as_ref(), disk);
                opened.recovered = rebased.map_err(|error| error.to_string())?;
                let checked = self.checker.on_rebased(member, point.anchor, &opened.recovered);
                self.check(checked);
            }
            CheckpointAlignment::Lost => {
                let lost = (state.checkpoint(), opened.recovered.floor);
                if !self.members[member].flipped {
                    return Err(format!("the state is at {:?}, the log begins at {:?}", lost.0, lost.1));
                }
                opened.state = None;
            }
        }
        Ok(())
    }

    fn begin_life(&mut self, member: usize, opened: Opened) {
        let Opened { journal, state, recovered, receiver } = opened;
        let now = self.clock_of(member);
        let disk = self.fresh_disk(member);
        let slot = &mut self.members[member];
        let seed = self.rng.u64(..);
        let mut config = ReplicaConfig::new(self.cluster.clone(), slot.id, slot.options.clone(), seed);
        let formatted = recovered.formation > FormationStep::Empty;
        config.stateless = slot.role == Role::Data && state.is_none() && formatted;
        config.window_bytes = self.plan.window.unwrap_or(config.window_bytes);
        config.disk = disk;
        config.staged = receiver.as_ref().and_then(Receiver::progress);
        let stateless = config.stateless;
        let commit = recovered.checkpoint;
        let replica = Replica::new(config, recovered, now);
        let reach = Reach::new(&self.cluster, replica.configuration());
        let mut sources = Sources::default();
        sources.publish(state.as_ref().and_then(StateMachine::snapshot));
        slot.process = Some(Box::new(Process {
            replica,
            log: journal.reader(),
            journal,
            state,
            waiting: VecDeque::new(),
            writing: Vec::new(),
            commit,
            seen: commit.op,
            applying: false,
            frozen: None,
            checkpoint: None,
            merging: false,
            serving: Serving::default(),
            transfers: Transfers::new(sources, receiver),
            stateless,
            reaper: Reaper::new(slot.options.failure_timeout_max),
            timer: None,
            reach,
        }));
        if stateless {
            self.open_aside(member);
        }
        self.begins_in_epoch(member);
        self.digest(member);
        self.after_input(member);
    }

    /// Ends the process of a member. It is started again after a while.
    pub(super) fn end_process(&mut self, member: usize, end: End) {
        let slot = &mut self.members[member];
        self.trace.note(2, member as u64, end as u64, || format!("{:?} m{member} ends: {end:?}", self.now));
        let what = match end {
            _ if slot.disk_stops => "disks that stopped",
            End::Kill => "kills",
            End::PowerCut => "power cuts",
        };
        self.checker.count(what);
        self.interrupt_disk(member);
        let slot = &mut self.members[member];
        slot.disk.kill();
        slot.process = None;
        slot.paused = None;
        if let Some(unfinished) = &mut slot.stalled {
            unfinished.clear();
        }
        slot.inbox.clear();
        if end == End::PowerCut {
            slot.disk.crash(&mut self.rng);
        }
        slot.disk_stops = false;
        self.damage_at_rest(member);
        for peer in 0..self.members.len() {
            if peer != member && self.network.is_open(member, peer) && self.rng.bool() {
                let at = self.now + around(&mut self.rng, self.plan.network.delay);
                self.schedule_due(at, peer, Due::PeerLost(member));
            }
        }
        self.break_connections(member);
        let healed = self.healed.is_some();
        let wait = if healed { SECOND / 10 } else { around(&mut self.rng, self.plan.fault_length) };
        self.schedule(self.now + wait, Event::Start { member });
    }

    /// The disk has failed, as expected: the process ends, and perhaps the machine loses power.
    pub(super) fn disk_failed(&mut self, member: usize) {
        let end = if self.rng.bool() { End::PowerCut } else { End::Kill };
        self.end_process(member, end);
    }

    /// The process ends in the middle of a sequence of disk operations: they are done up to a random one.
    fn interrupt_disk(&mut self, member: usize) {
        let (interrupted, after) = (self.rng.bool(), self.rng.u64(1..20));
        let wall = self.clock_of(member).wall;
        let slot = &mut self.members[member];
        let doing = !slot.may_fail() && slot.stalled.is_none();
        let Some(process) = slot.process.as_deref_mut().filter(|_| interrupted && doing) else {
            return;
        };
        slot.disk.fail_after(after);
        let asked: Vec<Write> =
            process.writing.iter().map(|(_, write)| with_seeded_bug(self.bug, write)).collect();
        // It does not matter any more whether it succeeded.
        if !asked.is_empty() && process.journal.execute_at(wall, &asked).is_err() {
            self.checker.count("writes interrupted");
        }
        let merger = process.state.as_ref().and_then(StateMachine::merger);
        for merges in [after % 2 == 0, after % 2 != 0] {
            // What fails first ends the other too.
            let done = match &merger {
                Some(merger) if merges => merger.step(&HeldFiles::default()).map(drop),
                _ if merges => Ok(()),
                _ => process.checkpoint.take().map_or(Ok(()), CheckpointStage::run),
            };
            if done.is_err_and(|error| !matches!(error, EngineError::Failed)) {
                self.checker.count(if merges { "merges interrupted" } else { "checkpoints interrupted" });
            }
        }
    }

    /// The disk of a member completes nothing from now on.
    pub(super) fn stall_disk(&mut self, member: usize) {
        self.trace.note(5, member as u64, 0, || format!("{:?} the disk of m{member} stalls", self.now));
        self.members[member].stalled.get_or_insert_default();
    }

    /// The disk of a member works again, and first completes what it has not completed.
    pub(super) fn unstall_disk(&mut self, member: usize) {
        for what in self.members[member].stalled.take().unwrap_or_default() {
            self.schedule_due(self.now, member, what);
        }
    }

    /// Pauses a process for a while. It does not notice that.
    pub(super) fn pause(&mut self, member: usize, until: Time) {
        let slot = &mut self.members[member];
        if slot.is_up() && !slot.is_paused() {
            self.trace
                .note(3, member as u64, until, || format!("{:?} m{member} pauses until {until}", self.now));
            slot.paused = Some(until);
            self.checker.stamps.stands_or_goes_on(member, self.now);
            if self.bug == Some(Bug::ClocksPause) {
                slot.clock.freeze(self.now);
            }
            self.schedule(until, Event::Resume { member });
        }
    }

    /// Resumes a paused process: all events that have arrived meanwhile are delivered now.
    pub(super) fn resume(&mut self, member: usize) {
        let slot = &mut self.members[member];
        if slot.paused.is_none_or(|until| until > self.now) {
            return;
        }
        self.trace.note(4, member as u64, 0, || format!("{:?} m{member} goes on", self.now));
        slot.paused = None;
        if self.bug == Some(Bug::ClocksPause) {
            slot.clock.thaw(self.now, false);
        }
        for event in std::mem::take(&mut slot.inbox) {
            self.schedule(self.now, event);
        }
    }

    /// Resumes every paused process.
    pub(super) fn resume_all(&mut self) {
        for member in 0..self.members.len() {
            if let Some(until) = &mut self.members[member].paused {
                *until = self.now;
                self.resume(member);
            }
        }
    }

    /// Reports the digest of a member's state to the checker.
    pub(super) fn digest(&mut self, member: usize) {
        let slot = &self.members[member];
        let Some(state) = slot.process.as_ref().and_then(|process| process.state.as_ref()) else { return };
        let op = state.applied().op;
        match state.digest() {
            Ok(digest) => {
                let checked = self.checker.on_digest(member, op, digest);
                self.check(checked);
            }
            Err(error) => self.state_failed(member, "a state can be read", &error),
        }
    }

    /// The state of a member has failed. A state that may be damaged is discarded, and another one is fetched (rule
    /// T9).
    pub(super) fn state_failed(&mut self, member: usize, invariant: &'static str, error: &EngineError) {
        let slot = &mut self.members[member];
        if slot.may_fail() {
            return self.disk_failed(member);
        }
        let damaged = slot.state_hurt && matches!(error, EngineError::Damaged { .. });
        let storage = careless(slot.disk.storage(), self.bug);
        let process = slot.process.as_deref_mut().filter(|_| damaged);
        let Some(process) = process else { return self.fail((invariant, format!("m{member}: {error}"))) };
        self.trace
            .note(39, member as u64, 0, || format!("{:?} m{member} gives its state up: {error}", self.now));
        process.state = None;
        (process.frozen, process.checkpoint) = (None, None);
        process.stateless = true;
        let kept = match self.bug {
            Some(Bug::DamagedStateDeleted) => storage.remove("state").map_err(|error| error.to_string()),
            _ => StateMachine::set_aside(&*storage).map_err(|error| error.to_string()),
        };
        if let Err(error) = kept {
            return self.fail(("a damaged state can be set aside", format!("m{member}: {error}")));
        }
        self.open_aside(member);
        self.checker.count("states given up");
        self.input(member, Input::StateLost);
    }

    /// Compares the states of all members at the end.
    pub(super) fn check_digests(&mut self) {
        for member in 0..self.members.len() {
            self.digest(member);
        }
    }

    /// The member that believes to be the serving primary in the newest view.
    pub(super) fn serving_member(&self) -> Option<usize> {
        let serving = self.members.iter().filter(|member| member.is_serving() && !member.is_paused());
        let view = |member: &&Member| member.process.as_ref().map(|process| process.replica.view());
        serving.max_by_key(view).map(|member| index(member.id))
    }
}
