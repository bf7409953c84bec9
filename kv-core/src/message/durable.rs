//! What a replica asks its journal to make durable, and what the journal recovers.

use super::{Entry, EntryHeader, FormationStep, LogRebase};
use crate::config::{Configuration, DiskId};
use crate::ids::{Anchor, Epoch, Hash, Incarnation, Op, Revision, Timestamp, View};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A durable write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Write {
    /// The next step of forming the cluster. `Formatted` creates the superblock and the journal, and `Formed` marks
    /// them.
    Formation(FormationStep),
    /// Entries after the head, in op order.
    Append(Vec<Entry>),
    /// View numbers and, with them, a cut of the log, in one superblock write.
    View(ViewRecord),
    /// The engine's checkpoint.
    Checkpoint(Anchor),
    /// Entries at or below this op may be dropped (whole segments, below the checkpoint only).
    Trim(Op),
    /// An unchanged entry of the log whose stored copy can no longer be read. Ignored below the oldest entry.
    Repair(Entry),
    /// Rebases the log on another point: a state that contains everything up to it is durable in the engine (for a
    /// witness: on a data member).
    Rebase(LogRebase),
    /// Enters the next epoch (rule M3).
    Enter(Box<EpochRecord>),
    /// The next epoch goes on without this member, which was removed (rule M9).
    Retire,
}

/// The beginning of an epoch, in one superblock write (rule M3).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EpochRecord {
    /// The configuration of the epoch. Its first view becomes the view and the `log_view`.
    pub configuration: Configuration,
    /// The own disk.
    pub disk: DiskId,
    /// Nothing was committed in an earlier epoch in a view with a greater number.
    pub ended: u64,
    /// After the stop of the epoch before. Damage that was noted above it is void (rule D6).
    pub cut: Cut,
}

/// What a member remembers of the changes of the member list, from epoch 1 on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Membership {
    /// The configuration of the epoch that the member is in.
    pub configuration: Configuration,
    /// The own disk.
    pub disk: DiskId,
    /// The member was removed, and the epoch goes on without it: it takes part in nothing.
    pub retired: bool,
    /// Nothing was committed in an earlier epoch in a view with a greater number (rule M13).
    pub ended: u64,
}

/// The view record in the superblock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ViewRecord {
    /// The member never takes part in an older view again.
    pub view: View,
    /// The last view whose log was installed.
    pub log_view: View,
    /// Everything above this point of the log is void, in this and in every later life.
    pub cut: Option<Cut>,
    /// The log lacks entries that this member may have acknowledged. Kept until a `ViewRecord` ends it: recovery then
    /// reports [`Recovered::damage`] even if the log looks complete.
    pub damaged: bool,
}

/// A durable cut: blocks of an older incarnation above `after` are void.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cut {
    /// The last op that is kept.
    pub after: Anchor,
    /// The incarnation of everything that is appended from now on.
    pub incarnation: Incarnation,
}

/// What recovery found on disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recovered {
    pub formation: FormationStep,
    /// The durable view.
    pub view: View,
    /// The durable log view.
    pub log_view: View,
    /// The state is durable up to this point (the later of superblock and engine). Zero for none.
    pub checkpoint: Anchor,
    /// The point just below the oldest entry in the journal. Zero if the journal begins at op 1.
    pub floor: Anchor,
    /// The intact chain above `floor`, without gaps. It begins with op `floor + 1`.
    pub entries: Vec<EntryMeta>,
    /// The revision after that of the floor (if the log is empty above it).
    pub floor_next_revision: Revision,
    /// The stamp at the floor.
    pub floor_timestamp: Timestamp,
    /// The incarnation of the next append.
    pub incarnation: Incarnation,
    /// The log above the intact chain is damaged, or the last [`ViewRecord`] recorded that: acknowledged entries may be
    /// missing.
    pub damage: Option<Damage>,
    /// `None` in epoch 0.
    pub membership: Option<Membership>,
}

/// What is known about a log above its intact chain, where acknowledged entries may be missing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// The ops above the chain about which something is known. All of them belong to one log, of which the chain is a
    /// part.
    pub past_gap: BTreeMap<Op, EntryPastGap>,
    /// How far the log may ever have reached. At or above every op in `past_gap`.
    pub extent: Extent,
}

/// What is known about an op behind the first bad entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryPastGap {
    /// Its entry is intact.
    Intact {
        meta: EntryMeta,
        /// The hash of the entry before it.
        parent: Hash,
    },
    /// Its entry is bad. The next entry is intact and contains this hash.
    Pinned(Hash),
}

impl EntryPastGap {
    /// The hash of the entry at that op.
    #[must_use]
    pub const fn hash(&self) -> Hash {
        match self {
            Self::Intact { meta, .. } => meta.hash,
            Self::Pinned(hash) => *hash,
        }
    }

    /// The entry at that op, if it is intact.
    #[must_use]
    pub const fn meta(&self) -> Option<&EntryMeta> {
        match self {
            Self::Intact { meta, .. } => Some(meta),
            Self::Pinned(_) => None,
        }
    }
}

/// How far a damaged log may ever have reached. Greater means less is known.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Extent {
    /// No further than this op.
    Through(Op),
    /// Nobody knows.
    Open,
}

/// How a state and a log fit together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CheckpointAlignment {
    /// The log continues from the state.
    OnLog,
    /// The state belongs to a later log: it was transferred, or the end of the log was lost. The log must be rebased on
    /// it.
    Ahead,
    /// The entries between the state and the log are lost: a state must be fetched.
    Lost,
}

/// The bit of [`EntryMeta`] that marks a stop. Epochs are smaller: a view has fewer bits for them.
const STOP: u32 = 1 << 31;

/// What a replica keeps in memory about an entry, without its body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryMeta {
    /// The entry's hash.
    pub hash: Hash,
    /// The revision after those that it takes.
    pub next_revision: Revision,
    /// Its stamp.
    pub timestamp: Timestamp,
    /// The length of its body in bytes.
    pub body_len: u32,
    /// The epoch in which it was first prepared, and [`STOP`] if it is a stop. One number, because there is one of
    /// these for every entry of the log.
    epoch_and_stop: u32,
    /// The wall clock of this member when it wrote this copy; [`Timestamp::ZERO`] if unknown. A property of the copy,
    /// not of the entry.
    pub written: Timestamp,
}

impl Recovered {
    /// Returns whether acknowledged entries may be missing from the log.
    #[cfg(feature = "internals")]
    #[must_use]
    pub const fn is_damaged(&self) -> bool {
        self.damage.is_some()
    }

    /// The last op of the intact chain.
    #[must_use]
    pub fn head(&self) -> Op {
        self.floor.op.advance(self.entries.len() as u64)
    }

    /// How a state at `state` fits this log.
    #[must_use]
    pub fn alignment(&self, state: Anchor) -> CheckpointAlignment {
        let head = self.head();
        if state.op < self.floor.op {
            return CheckpointAlignment::Lost;
        }
        let hash = match usize::try_from(state.op.distance_from(self.floor.op)).unwrap_or(usize::MAX) {
            0 => Some(self.floor.hash),
            above => self.entries.get(above - 1).map(|meta| meta.hash),
        };
        if state.op <= head && hash == Some(state.hash) {
            CheckpointAlignment::OnLog
        } else {
            CheckpointAlignment::Ahead
        }
    }

    /// The result for an empty directory.
    #[must_use]
    pub const fn empty() -> Self {
        Self {
            formation: FormationStep::Empty,
            view: View::ZERO,
            log_view: View::ZERO,
            checkpoint: Anchor::ZERO,
            floor: Anchor::ZERO,
            entries: Vec::new(),
            floor_next_revision: Revision::new(1),
            floor_timestamp: Timestamp::ZERO,
            incarnation: Incarnation::ZERO,
            damage: None,
            membership: None,
        }
    }
}

impl EntryMeta {
    /// The metadata of this entry.
    #[must_use]
    pub fn of(header: &EntryHeader) -> Self {
        Self::with_hash(header, header.hash())
    }

    /// The same, with the hash of the header, which need not be computed again.
    pub(crate) fn with_hash(header: &EntryHeader, hash: Hash) -> Self {
        Self {
            hash,
            next_revision: header.next_revision(),
            timestamp: header.timestamp,
            body_len: header.body_len,
            epoch_and_stop: header.view.epoch().get() | if header.is_stop() { STOP } else { 0 },
            written: Timestamp::ZERO,
        }
    }

    /// The same entry, in a copy that was written at this time.
    pub(crate) const fn written_at(mut self, written: Timestamp) -> Self {
        self.written = written;
        self
    }

    /// The epoch in which it was first prepared.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        Epoch::new(self.epoch_and_stop & !STOP)
    }

    /// The epoch of the entry after it (rule M1): if this one is a stop, the next epoch.
    #[must_use]
    pub const fn next_epoch(&self) -> Epoch {
        if self.is_stop() { self.epoch().next() } else { self.epoch() }
    }

    /// Whether it is the last entry of its epoch.
    #[must_use]
    pub const fn is_stop(&self) -> bool {
        self.epoch_and_stop & STOP != 0
    }
}
