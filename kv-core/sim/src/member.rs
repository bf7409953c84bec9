//! One member: its machine, which stays, and its process, which comes and goes.

use super::clock::{Clock, Time};
use super::events::{Due, Event};
use super::plan::Plan;
use super::reach::Reach;
use super::stages::CheckpointStage;
use super::waiting::{Serving, Transfers};
use fastrand::Rng;
use kv_core::config::{Options, Role};
use kv_core::ids::{Anchor, MemberId, Op, WriteSeq};
use kv_core::journal::{Journal, LogReader};
use kv_core::kv::{Checkpoint, Reaper, StateMachine};
use kv_core::message::{MembersAnswer, Write};
use kv_core::replica::Replica;
use kv_core::storage::simulated::{Disk, Tearing};
use std::collections::VecDeque;

/// A machine with its disk and clocks.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) id: MemberId,
    pub(super) role: Role,
    pub(super) disk: Disk,
    pub(super) clock: Clock,
    /// Of its present life.
    pub(super) options: Options,
    /// Counts the starts of its process.
    pub(super) life: u32,
    pub(super) process: Option<Box<Process>>,
    /// Until when it is paused.
    pub(super) paused: Option<Time>,
    /// The events that wait meanwhile.
    pub(super) inbox: Vec<Event>,
    /// The disk may fail from now on: an error is expected.
    pub(super) disk_stops: bool,
    /// The disk is full: an error is expected.
    pub(super) full: bool,
    /// Its journal was damaged, now or earlier: repaired damage may be reported again as long as its remains are there.
    pub(super) flipped: bool,
    /// Its state on the disk is damaged, detected or not, until another one replaces it.
    pub(super) state_hurt: bool,
    /// By how many times the disk is slower.
    pub(super) slowness: u32,
    /// The disk completes nothing: what it would have completed since.
    pub(super) stalled: Option<Vec<Due>>,
    /// Its disk was lost.
    pub(super) wiped: bool,
    /// It is not started again.
    pub(super) away: bool,
    /// Its disk is formatted, or it is a founder.
    pub(super) joined: bool,
    /// Its disk may be formatted: its process ended meanwhile.
    pub(super) joining: bool,
    /// The list by which it joins.
    pub(super) invitation: Option<MembersAnswer>,
    /// How many disks it has lost.
    pub(super) disks_lost: u32,
    /// It was removed, and has noted that the others go on without it.
    pub(super) retired: bool,
}

/// A running member.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) replica: Replica,
    pub(super) journal: Journal,
    pub(super) log: LogReader,
    /// `None` on a witness.
    pub(super) state: Option<StateMachine>,
    /// Requested, and not yet passed to the journal.
    pub(super) waiting: VecDeque<(WriteSeq, Write)>,
    /// What the journal is writing.
    pub(super) writing: Vec<(WriteSeq, Write)>,
    pub(super) commit: Anchor,
    /// On a witness: the last op that was reported as committed.
    pub(super) seen: Op,
    /// Whether an `Apply` is scheduled.
    pub(super) applying: bool,
    pub(super) checkpoint: Option<CheckpointStage>,
    /// Whether a step of a merge is scheduled.
    pub(super) merging: bool,
    /// The state frozen for the next checkpoint, until the journal has all of it.
    pub(super) frozen: Option<Checkpoint>,
    pub(super) serving: Serving,
    pub(super) transfers: Transfers,
    /// A data member whose state is lost, until another one has replaced it.
    pub(super) stateless: bool,
    pub(super) reaper: Reaper,
    /// The replica's timer.
    pub(super) timer: Option<Time>,
    /// Whom it calls and hears.
    pub(super) reach: Reach,
}

/// How a process ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// Its disk keeps everything written.
    Kill,
    /// Its disk keeps what was durable, and a random part of the rest.
    PowerCut,
}

impl Member {
    pub(super) fn new(index: usize, plan: &Plan, rng: &mut Rng) -> Self {
        let disk = Disk::new();
        disk.set_tearing(if plan.disk.tear_sectors { Tearing::Sector } else { Tearing::Block });
        Self {
            id: MemberId::new(u8::try_from(index).expect("a cluster has at most 15 members")),
            role: plan.role_of(index),
            disk,
            clock: Clock::new(rng, plan.clock.drift, plan.clock.wall_drift, plan.clock.skew_ms),
            options: plan.options_of(index, 0),
            life: 0,
            process: None,
            paused: None,
            inbox: Vec::new(),
            disk_stops: false,
            full: false,
            flipped: false,
            state_hurt: false,
            slowness: 1,
            stalled: None,
            wiped: false,
            away: false,
            joined: index < plan.roles.len(),
            joining: false,
            invitation: None,
            disks_lost: 0,
            retired: false,
        }
    }

    pub(super) const fn is_paused(&self) -> bool {
        self.paused.is_some()
    }

    /// Returns whether an error of its disk is expected.
    pub(super) const fn may_fail(&self) -> bool {
        self.disk_stops || self.full
    }

    /// Returns whether its process runs (or is paused).
    pub(super) const fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// Returns whether it believes to be the serving primary.
    pub(super) fn is_serving(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.replica.is_serving())
    }
}

/// The index of a member's id.
pub(super) fn index(id: MemberId) -> usize {
    usize::from(id.get())
}
