//! The log as the journal knows it: a chain of entries above a floor, and the location of each.

use super::location::EntryLocation;
use super::superblock::Mark;
use crate::ids::{Anchor, Epoch, Hash, Op};
use crate::message::EntryMeta;
use std::collections::VecDeque;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ChainEntry {
    pub(super) meta: EntryMeta,
    pub(super) place: EntryLocation,
}

/// An intact entry above the first bad one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct HeldPastGap {
    pub(super) held: ChainEntry,
    pub(super) parent: Hash,
}

#[derive(Debug)]
pub(super) struct Chain {
    floor: Mark,
    /// Begins with op `floor + 1`, without gaps.
    entries: VecDeque<ChainEntry>,
}

impl Chain {
    pub(super) fn new(floor: Mark, entries: VecDeque<ChainEntry>) -> Self {
        Self { floor, entries }
    }

    pub(super) fn floor(&self) -> Mark {
        self.floor
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &ChainEntry> {
        self.entries.iter()
    }

    pub(super) fn head(&self) -> Mark {
        self.mark_at(self.entries.len())
    }

    /// The epoch of the entry after the head (rule M1). `None` if the chain is empty: its floor does not show it.
    pub(super) fn next_epoch(&self) -> Option<Epoch> {
        self.entries.back().map(|last| last.meta.next_epoch())
    }

    /// The point at `op`; `None` below the floor and above the head.
    pub(super) fn mark(&self, op: Op) -> Option<Mark> {
        let above = usize::try_from(op.get().checked_sub(self.floor.anchor.op.get())?).ok()?;
        (above <= self.entries.len()).then(|| self.mark_at(above))
    }

    /// The point `above` entries above the floor.
    fn mark_at(&self, above: usize) -> Mark {
        let Some(last) = above.checked_sub(1) else { return self.floor };
        let meta = &self.entries[last].meta;
        Mark {
            anchor: Anchor::new(self.floor.anchor.op.advance(above as u64), meta.hash),
            next_revision: meta.next_revision,
            timestamp: meta.timestamp,
        }
    }

    fn index(&self, op: Op) -> Option<usize> {
        usize::try_from(op.distance_from(self.floor.anchor.op)).ok()?.checked_sub(1)
    }

    /// The entry at `op`; `None` at or below the floor and above the head.
    pub(super) fn get(&self, op: Op) -> Option<&ChainEntry> {
        self.entries.get(self.index(op)?)
    }

    /// The entry at `op` has another location now.
    pub(super) fn replace(&mut self, op: Op, held: ChainEntry) {
        let entry = self.index(op).and_then(|index| self.entries.get_mut(index));
        let entry = entry.expect("only an entry of the log is replaced");
        assert!(entry.meta.hash == held.meta.hash, "the log names this entry by its hash");
        *entry = held;
    }

    pub(super) fn push(&mut self, held: ChainEntry) {
        let head = self.head();
        assert!(held.meta.next_revision >= head.next_revision, "revisions do not go back along the log");
        self.entries.push_back(held);
    }

    /// Removes and returns the entries above `op`, which must not be below the floor.
    pub(super) fn cut(&mut self, op: Op) -> impl Iterator<Item = (Op, ChainEntry)> {
        assert!(op >= self.floor.anchor.op, "nothing below the floor is left to be cut");
        let keep = usize::try_from(op.distance_from(self.floor.anchor.op)).unwrap_or(usize::MAX);
        let cut = self.entries.split_off(keep.min(self.entries.len()));
        (1..).map(move |above| op.advance(above)).zip(cut)
    }

    /// Removes the entries at or below `floor`, if it is above the present one.
    pub(super) fn raise(&mut self, floor: Mark) {
        if floor.anchor.op > self.floor.anchor.op {
            assert!(self.mark(floor.anchor.op) == Some(floor), "the floor is raised to a point of the log");
            let gone =
                usize::try_from(floor.anchor.op.distance_from(self.floor.anchor.op)).unwrap_or(usize::MAX);
            self.entries.drain(..gone.min(self.entries.len()));
            self.floor = floor;
        }
    }
}
