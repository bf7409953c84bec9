//! Locations in the journal.

use crate::ids::Incarnation;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The life of a segment file between two recyclings. A generation is never used twice in a journal, so it orders the
/// segments.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub(super) struct Generation(u32);

impl Generation {
    /// Before the first generation.
    pub(super) const ZERO: Self = Self(0);

    pub(super) const fn new(value: u32) -> Self {
        Self(value)
    }

    pub(super) const fn get(self) -> u32 {
        self.0
    }

    /// The next one; `None` when all are used up.
    pub(super) fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "g{}", self.0)
    }
}

/// The number in the name of a segment file. It stays with the file through its generations.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SegmentNumber(u32);

impl SegmentNumber {
    pub(super) const fn new(value: u32) -> Self {
        Self(value)
    }

    pub(super) const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Debug for SegmentNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "f{}", self.0)
    }
}

/// The position of a block in the order of writing: within a generation, blocks are written front to back, each once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug, Serialize, Deserialize)]
pub(super) struct Position {
    pub(super) generation: Generation,
    pub(super) block: u32,
}

/// The blocks that one entry occupies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct EntryLocation {
    pub(super) segment: SegmentNumber,
    pub(super) generation: Generation,
    /// The first block.
    pub(super) block: u32,
    pub(super) blocks: u32,
    pub(super) incarnation: Incarnation,
}

impl EntryLocation {
    /// The position after its last block.
    pub(super) const fn end(&self) -> Position {
        Position { generation: self.generation, block: self.block + self.blocks }
    }

    pub(super) const fn start(&self) -> Position {
        Position { generation: self.generation, block: self.block }
    }
}
