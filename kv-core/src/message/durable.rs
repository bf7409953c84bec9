//! What a replica asks its journal to make durable, and what the journal recovers.

use super::{Adoption, Entry, EntryHeader, FormationStep};
use crate::ids::{Anchor, Hash, Incarnation, Op, Revision, Timestamp, View};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A durable write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Write {
    /// The next step of forming the cluster. `Formatted` creates superblock and journal, `Formed` marks it.
    Formation(FormationStep),
    /// Entries after the head, in op order.
    Append(Vec<Entry>),
    /// View numbers and, with them, a cut of the log, in one superblock write.
    View(ViewRecord),
    /// The engine's checkpoint.
    Checkpoint(Anchor),
    /// Entries at or below this op may be dropped (whole segments, below the checkpoint only).
    Trim(Op),
    /// An entry of the log, the same as it was, whose stored copy cannot be read any more. Ignored below the oldest entry.
    Repair(Entry),
    /// The log stands on another point: a state that holds everything up to there is durable in the engine (a witness: at a
    /// data member).
    Adopt(Adoption),
}

/// The view in the superblock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ViewRecord {
    /// No older view is ever taken part in again.
    pub view: View,
    /// The last view whose log was installed.
    pub log_view: View,
    /// Everything above this point of the log is void, in this and in every later life.
    pub cut: Option<Cut>,
    /// The log misses entries that this member may have acknowledged. Kept until a `ViewRecord` ends it: recovery
    /// then reports [`Recovered::damage`] even though the log looks whole.
    pub damaged: bool,
}

/// A durable cut: blocks of an older incarnation above `after` are void.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cut {
    /// The last op that stays.
    pub after: Anchor,
    /// The incarnation of everything appended from now on.
    pub incarnation: Incarnation,
}

/// What recovery found on disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recovered {
    /// The step of formation.
    pub formation: FormationStep,
    /// The durable view.
    pub view: View,
    /// The durable log view.
    pub log_view: View,
    /// The state is durable up to here (the later of superblock and engine). Zero for none.
    pub checkpoint: Anchor,
    /// The point just below the oldest entry in the journal. Zero if the journal reaches back to op 1.
    pub floor: Anchor,
    /// The intact chain above `floor`, without a gap: op `floor + 1` first.
    pub entries: Vec<EntryMeta>,
    /// The revision after that of the floor (where the log is empty above it).
    pub floor_next_revision: Revision,
    /// The stamp at the floor.
    pub floor_timestamp: Timestamp,
    /// The incarnation of the next append.
    pub incarnation: Incarnation,
    /// The log above the intact chain is damaged, or the last [`ViewRecord`] recorded that: acknowledged entries may be missing.
    pub damage: Option<Damage>,
}

/// What is known of a log above its intact chain, where acknowledged entries may be missing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// Ops above the chain of which something is known. All of them belong to one log: what the chain was part of.
    pub past_gap: BTreeMap<Op, EntryPastGap>,
    /// How far the log may ever have reached. At or above every op in `behind`.
    pub extent: Extent,
}

/// What is known of an op behind the first bad entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryPastGap {
    /// Its entry is intact.
    Intact {
        /// The entry.
        meta: EntryMeta,
        /// The hash of the entry before it.
        parent: Hash,
    },
    /// Its entry is bad; the one after it is intact and contains this hash.
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

/// How a state and a log go together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CheckpointAlignment {
    /// The log goes on from it.
    OnLog,
    /// The state is that of a later log: it was transferred, or the end of the log was lost. The log is to stand on it.
    Ahead,
    /// What lies between the state and the log is gone: a state must be fetched.
    Lost,
}

/// What a replica remembers of an entry without its body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryMeta {
    /// The entry's hash.
    pub hash: Hash,
    /// The revision after those that it takes.
    pub next_revision: Revision,
    /// Its stamp.
    pub timestamp: Timestamp,
    /// Bytes of its body.
    pub body_len: u32,
    /// What the wall clock here showed when it was written; [`Timestamp::ZERO`] if nobody looked. Of this copy, not of the entry.
    pub written: Timestamp,
}

impl Recovered {
    /// Whether acknowledged entries may be missing from the log.
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

    /// How a state at `state` goes with this log.
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

    /// What an empty directory gives.
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
        }
    }
}

impl EntryMeta {
    /// What is remembered of this entry.
    #[must_use]
    pub fn of(header: &EntryHeader) -> Self {
        Self {
            hash: header.hash(),
            next_revision: header.next_revision(),
            timestamp: header.timestamp,
            body_len: header.body_len,
            written: Timestamp::ZERO,
        }
    }
}
