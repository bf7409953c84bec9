//! Durable cuts: they determine which blocks on disk are void.
//!
//! A cut at op `n` with incarnation `i` voids every block above `n` that was written in an incarnation before `i`. A
//! later cut at a lower op includes every earlier one at a higher op, so the list ascends in both.

use super::location::Position;
use crate::ids::{Incarnation, Op};
use serde::{Deserialize, Serialize};

/// Blocks above `after` of an incarnation before `incarnation` are void.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct CutRecord {
    pub(super) after: Op,
    pub(super) incarnation: Incarnation,
}

impl CutRecord {
    pub(super) fn voids(&self, op: Op, incarnation: Incarnation) -> bool {
        op > self.after && incarnation < self.incarnation
    }
}

/// The last cut again, by place: everything before `position` was judged then, and counts only as an intact entry at or
/// below `after`. This voids blocks that can no longer be read well enough to know their op.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub(super) struct Settled {
    pub(super) position: Position,
    pub(super) after: Op,
}

/// All cuts that something on disk may still need.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub(super) struct Cuts {
    /// Invariant: strictly ascending in both fields.
    list: Vec<CutRecord>,
    settled: Settled,
}

impl Cuts {
    /// The most cuts in a superblock. Beyond this, the journal erases what is void.
    pub(super) const MOST: usize = 64;

    pub(super) fn settled(&self) -> Settled {
        self.settled
    }

    pub(super) fn is_full(&self) -> bool {
        self.list.len() >= Self::MOST
    }

    /// Records a cut in the incarnation that begins with it. Everything before `position` has been written.
    pub(super) fn push(&mut self, cut: CutRecord, position: Position) {
        assert!(position >= self.settled.position, "blocks are written, and so judged, in one order");
        self.list.retain(|earlier| earlier.after < cut.after);
        self.list.push(cut);
        assert!(self.is_sound(cut.incarnation), "each cut begins an incarnation, and room was made for it");
        self.settled = Settled { position, after: cut.after };
    }

    /// The longest possible list, for tests of the superblock.
    #[cfg(test)]
    pub(super) fn full(step: u64) -> Self {
        let mut cuts = Self::default();
        for at in 1..=Self::MOST as u64 {
            let cut = CutRecord {
                after: Op::new((at << 40) + step),
                incarnation: Incarnation::new((at << 40) + step),
            };
            cuts.push(cut, Position::default());
        }
        cuts
    }

    /// Drops the cuts that void none of these blocks.
    pub(super) fn prune(&mut self, written: &[(Op, Incarnation)]) {
        self.list.retain(|cut| written.iter().any(|(op, incarnation)| cut.voids(*op, *incarnation)));
    }

    pub(super) fn is_void(&self, op: Op, incarnation: Incarnation, position: Position) -> bool {
        self.list.iter().any(|cut| cut.voids(op, incarnation))
            || (position < self.settled.position && op > self.settled.after)
    }

    /// What remains of the statement "everything up to `op` is durable" that was written at this place and in this
    /// incarnation, after later cuts.
    pub(super) fn cap(&self, op: Op, incarnation: Incarnation, position: Position) -> Op {
        let later = self.list.iter().filter(|cut| incarnation < cut.incarnation).map(|cut| cut.after);
        let settled = (position < self.settled.position).then_some(self.settled.after);
        later.chain(settled).fold(op, Op::min)
    }

    /// Whether a member at `incarnation` can have written this.
    pub(super) fn is_sound(&self, incarnation: Incarnation) -> bool {
        let ascends = self.list.is_sorted_by(|a, b| a.after < b.after && a.incarnation < b.incarnation);
        ascends && self.list.len() <= Self::MOST && self.list.iter().all(|cut| cut.incarnation <= incarnation)
    }
}

#[cfg(test)]
mod tests {
    use super::super::location::Generation;
    use super::*;

    fn at(block: u32) -> Position {
        Position { generation: Generation::new(1), block }
    }

    fn cut(after: u64, incarnation: u64) -> CutRecord {
        CutRecord { after: Op::new(after), incarnation: Incarnation::new(incarnation) }
    }

    fn void(cuts: &Cuts, op: u64, incarnation: u64) -> bool {
        cuts.is_void(Op::new(op), Incarnation::new(incarnation), at(1000))
    }

    #[test]
    fn a_cut_voids_older_incarnations_above_it_and_nothing_else() {
        let mut cuts = Cuts::default();
        cuts.push(cut(10, 2), at(5));
        assert!(void(&cuts, 11, 1) && void(&cuts, 99, 0));
        assert!(!void(&cuts, 10, 1) && !void(&cuts, 11, 2) && !void(&cuts, 12, 3));
    }

    /// The second cut is above the first, and the first must not be lost.
    #[test]
    fn a_later_cut_at_a_higher_op_keeps_the_earlier_one() {
        let mut cuts = Cuts::default();
        cuts.push(cut(10, 2), at(5));
        cuts.push(cut(12, 3), at(9));
        assert!(void(&cuts, 11, 1), "of the first incarnation, cut by the first cut");
        assert!(!void(&cuts, 11, 2), "written after the first cut, below the second");
        assert!(void(&cuts, 13, 2));
        assert!(!void(&cuts, 13, 3));
        assert_eq!(cuts.list.len(), 2);
    }

    #[test]
    fn a_later_cut_at_a_lower_op_replaces_the_earlier_one() {
        let mut cuts = Cuts::default();
        cuts.push(cut(10, 2), at(5));
        cuts.push(cut(10, 3), at(9));
        assert_eq!(cuts.list, [cut(10, 3)]);
        cuts.push(cut(4, 4), at(9));
        assert_eq!(cuts.list, [cut(4, 4)]);
        assert!(cuts.is_sound(Incarnation::new(4)) && !cuts.is_sound(Incarnation::new(3)));
    }

    #[test]
    fn cuts_that_void_nothing_are_pruned() {
        let mut cuts = Cuts::default();
        cuts.push(cut(10, 2), at(5));
        cuts.push(cut(12, 3), at(9));
        cuts.prune(&[(Op::new(13), Incarnation::new(2))]);
        assert_eq!(cuts.list, [cut(12, 3)]);
        cuts.prune(&[]);
        assert_eq!(cuts.list, []);
        assert!(cuts.is_void(Op::new(13), Incarnation::new(2), at(8)));
        assert!(!cuts.is_void(Op::new(12), Incarnation::new(2), at(8)));
        assert!(!cuts.is_void(Op::new(13), Incarnation::new(3), at(9)));
    }

    #[test]
    fn a_cut_affects_only_earlier_entries_above_it() {
        let mut cuts = Cuts::default();
        cuts.push(cut(10, 2), at(5));
        assert_eq!(cuts.cap(Op::new(15), Incarnation::new(1), at(4)), Op::new(10));
        assert_eq!(cuts.cap(Op::new(7), Incarnation::new(1), at(4)), Op::new(7));
        assert_eq!(cuts.cap(Op::new(15), Incarnation::new(2), at(6)), Op::new(15));
    }
}
