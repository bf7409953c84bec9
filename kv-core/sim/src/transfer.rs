//! A member's side of state transfer: what it sends of its checkpoints, and what it stores of another's.

use super::clock::{SECOND, Time};
use super::events::Due;
use super::member::index;
use super::plan::around;
use super::waiting::{Piece, Task};
use super::world::World;
use bytes::Bytes;
use kv_core::engine::EngineError;
use kv_core::ids::{Anchor, MemberId};
use kv_core::message::{Chunk, Message};
use kv_core::replica::Input;

/// Small, so that a transfer has many pieces.
const PIECE_BYTES: usize = 200;
/// For a source whose pieces take long.
const SLOW_PIECE_BYTES: usize = 2000;

impl World {
    /// A peer requests a piece of a snapshot. A piece that is requested again meanwhile is read once (rule T6).
    pub(super) fn read_snapshot(
        &mut self,
        member: usize,
        to: MemberId,
        nonce: u64,
        at: Option<Anchor>,
        after: Bytes,
    ) {
        let piece = Piece { to, nonce, at, after };
        if self.plan.disk.source == 0 {
            return self.read_piece(member, piece);
        }
        let Some(process) = self.members[member].process.as_deref_mut() else { return };
        let asked_for = &mut process.transfers.asked_for;
        if !asked_for.contains(&piece) {
            asked_for.push_back(piece);
            if asked_for.len() == 1 {
                self.schedule_piece(member);
            }
        }
    }

    fn schedule_piece(&mut self, member: usize) {
        let latency = self.latency_up_to(self.plan.disk.source);
        self.schedule_due(self.now + latency, member, Due::Piece);
    }

    /// The disk of a source has read the next piece.
    pub(super) fn on_piece(&mut self, member: usize) {
        let Some(process) = self.members[member].process.as_deref_mut() else { return };
        let next = process.transfers.asked_for.pop_front();
        if !process.transfers.asked_for.is_empty() {
            self.schedule_piece(member);
        }
        if let Some(piece) = next {
            self.read_piece(member, piece);
        }
    }

    fn read_piece(&mut self, member: usize, piece: Piece) {
        let Piece { to, nonce, at, after } = piece;
        let piece_bytes = self.piece_bytes();
        let now = self.clock_of(member).monotonic;
        let Some(process) = self.members[member].process.as_deref_mut() else { return };
        let stateless = process.stateless;
        let Some(snapshot) = process.transfers.sources.get(to, at, now) else {
            if at.is_none() {
                self.make_checkpoint(member);
            }
            return self.answer_piece(member, to, Message::SnapshotGone { nonce, stateless });
        };
        match snapshot.chunk(&after, piece_bytes) {
            Ok(chunk) => {
                let (view, at) = (process.replica.view(), snapshot.anchor());
                self.answer_piece(member, to, Message::SnapshotChunk { nonce, view, at, chunk });
            }
            Err(error) => {
                self.answer_piece(member, to, Message::SnapshotGone { nonce, stateless: true });
                if stateless {
                    self.open_aside(member);
                } else {
                    self.state_failed(member, "a checkpoint can be read", &error);
                }
            }
        }
    }

    /// About how large the pieces of snapshots are, on all members.
    pub(super) fn piece_bytes(&self) -> usize {
        if self.plan.disk.source < SECOND { PIECE_BYTES } else { SLOW_PIECE_BYTES }
    }

    fn answer_piece(&mut self, member: usize, to: MemberId, message: Message) {
        if index(to) == member {
            self.input(member, Input::OwnPiece { message });
        } else {
            self.send(member, index(to), message);
        }
    }

    /// A member that fetches a state cannot use the last checkpoint: makes another one.
    pub(super) fn make_checkpoint(&mut self, member: usize) {
        let Some(process) = self.members[member].process.as_deref_mut() else { return };
        if process.stateless {
            self.advance_set_aside_state(member);
        } else {
            process.transfers.asked = true;
            self.consider_checkpoint(member);
        }
    }

    /// Rule T9a: the intact parts of a damaged state stay available for peers that fetch one.
    pub(super) fn open_aside(&mut self, member: usize) {
        let Some(process) = self.members[member].process.as_deref_mut() else { return };
        let transfers = &mut process.transfers;
        transfers.aside = None;
        transfers.sources.clear();
        let opened = transfers.receiver.as_ref().and_then(|receiver| receiver.open_aside().ok().flatten());
        if let Some(state) = opened {
            transfers.sources.publish(state.snapshot());
            transfers.aside = Some(state);
            self.checker.count("damaged states offered");
        }
    }

    fn advance_set_aside_state(&mut self, member: usize) {
        let Some(process) = self.members[member].process.as_deref_mut() else { return };
        let through = process.commit.op.min(process.replica.durable().op);
        let Some(state) = &mut process.transfers.aside else { return };
        let log = process.log.clone();
        match state.apply_through(through, |op| log.read(op).ok().flatten()) {
            Ok(()) => process.transfers.sources.publish(state.snapshot()),
            Err(_) => self.open_aside(member),
        }
    }

    /// A piece is to be stored.
    pub(super) fn stage_chunk(&mut self, member: usize, at: Anchor, chunk: Chunk) {
        self.add_task(member, Task::Stage(at, chunk));
    }

    /// Replaces the state with a complete snapshot.
    pub(super) fn install_snapshot(&mut self, member: usize, at: Anchor) {
        self.add_task(member, Task::Install(at));
    }

    /// The stored part of a snapshot is not needed any more.
    pub(super) fn discard_snapshot(&mut self, member: usize, at: Anchor) {
        self.add_task(member, Task::Discard(at));
    }

    fn add_task(&mut self, member: usize, task: Task) {
        let latency = self.latency_of(&task);
        let Some(process) = self.members[member].process.as_deref_mut() else { return };
        process.transfers.tasks.push_back(task);
        if process.transfers.tasks.len() == 1 {
            self.schedule_due(self.now + latency, member, Due::Transfer);
        }
    }

    /// How long the disk takes for a task. Verifying a large state takes longer than any time-out.
    fn latency_of(&mut self, task: &Task) -> Time {
        let most = match task {
            Task::Stage(..) => self.plan.disk.stage,
            Task::Install(_) => self.plan.disk.install,
            Task::Discard(_) => 0,
        };
        self.latency_up_to(most)
    }

    fn latency_up_to(&mut self, most: Time) -> Time {
        around(&mut self.rng, self.plan.disk.latency) + if most > 0 { self.rng.u64(0..=most) } else { 0 }
    }

    /// The disk has completed a task, and begins the next.
    pub(super) fn on_transfer(&mut self, member: usize) {
        let Some(process) = self.members[member].process.as_deref_mut() else { return };
        let waits = process.checkpoint.is_some();
        let task = match process.transfers.tasks.front() {
            // The old state must not be replaced while a checkpoint of it is being written.
            Some(Task::Install(_)) if waits => None,
            _ => process.transfers.tasks.pop_front(),
        };
        let most = match process.transfers.tasks.front() {
            Some(Task::Install(_)) if task.is_some() => self.plan.disk.install,
            Some(Task::Stage(..)) => self.plan.disk.stage,
            Some(_) | None => 0,
        };
        if !process.transfers.tasks.is_empty() {
            let latency = self.latency_up_to(most);
            self.schedule_due(self.now + latency, member, Due::Transfer);
        }
        let done = match task {
            Some(Task::Stage(at, chunk)) => self.stage(member, at, &chunk).map(Some),
            Some(Task::Install(at)) => self.install(member, at).map(Some),
            Some(Task::Discard(at)) => self.discard(member, at).map(|()| None),
            None => return,
        };
        match done {
            Ok(Some(input)) => {
                self.published(member);
                self.input(member, input);
            }
            Ok(None) => {}
            Err(error) => self.state_failed(member, "a snapshot can be stored", &error),
        }
        self.kick_apply(member);
    }

    fn stage(&mut self, member: usize, at: Anchor, chunk: &Chunk) -> Result<Input, EngineError> {
        let Some(process) = self.members[member].process.as_deref_mut() else {
            return Ok(Input::SnapshotRefused { at });
        };
        let Some(receiver) = &mut process.transfers.receiver else {
            return Ok(Input::SnapshotRefused { at });
        };
        receiver.stage(at, chunk)?;
        Ok(match receiver.progress() {
            Some((at, end)) => Input::Staged { at, end },
            None => Input::SnapshotRefused { at },
        })
    }

    fn discard(&mut self, member: usize, at: Anchor) -> Result<(), EngineError> {
        let process = self.members[member].process.as_deref_mut();
        let Some(receiver) = process.and_then(|process| process.transfers.receiver.as_mut()) else {
            return Ok(());
        };
        self.checker.count("pieces of snapshots thrown away");
        receiver.discard_at(at)
    }

    fn install(&mut self, member: usize, at: Anchor) -> Result<Input, EngineError> {
        let Some(process) = self.members[member].process.as_deref_mut() else {
            return Ok(Input::SnapshotRefused { at });
        };
        let Some(receiver) = &mut process.transfers.receiver else {
            return Ok(Input::SnapshotRefused { at });
        };
        if !receiver.may_replace(process.state.as_ref(), at)? {
            return Ok(Input::SnapshotRefused { at });
        }
        (process.state, process.frozen) = (None, None);
        process.transfers.aside = None;
        process.transfers.sources.clear();
        let state = receiver.switch()?;
        process.transfers.sources.publish(state.snapshot());
        process.stateless = false;
        let (point, configuration) = (state.point(), state.configuration().cloned().map(Box::new));
        process.state = Some(state);
        self.trace.note(38, member as u64, at.op.get(), || {
            format!("{:?} m{member} has the state at {at:?}", self.now)
        });
        self.members[member].state_hurt = false;
        self.checker.count("states transferred");
        self.digest(member);
        Ok(Input::SnapshotInstalled { point, configuration })
    }
}
