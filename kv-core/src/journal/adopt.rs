//! A log that stands on another point: a state that holds everything up to there was transferred (rule T3).
//!
//! One superblock write decides: before it the log is the old one, and the state on disk may be ahead of it; after it the log
//! begins at the point. Whoever opens the directory in between finds the state ahead and adopts its point again.

use super::Journal;
use super::chain::Chain;
use super::cuts::CutRecord;
use super::error::{OpenError, WriteError};
use super::recovery::OrphanBlock;
use super::store::Store;
use super::superblock::Mark;
use crate::message::{Adoption, LogPoint, Recovered, Write};
use std::collections::VecDeque;

impl From<LogPoint> for Mark {
    fn from(point: LogPoint) -> Self {
        Self { anchor: point.anchor, next_revision: point.next_revision, timestamp: point.timestamp }
    }
}

impl Store {
    /// Stands the log on a point, durably. Entries above that chain to it stay; all other entries are void.
    pub(super) fn adopt(&mut self, adoption: &Adoption) -> Result<(), WriteError> {
        let (point, incarnation) = (Mark::from(adoption.point), adoption.incarnation);
        if incarnation <= self.superblock.incarnation {
            return Err(WriteError::Regress { incarnation });
        }
        let op = point.anchor.op;
        if op < self.superblock.checkpoint.anchor.op {
            return Err(WriteError::UnknownPoint { op });
        }
        if self.chain.mark(op).is_none_or(|mark| mark.anchor != point.anchor) {
            self.restart(point, CutRecord { after: op, incarnation })?;
        }
        self.superblock.incarnation = incarnation;
        self.superblock.checkpoint = point;
        self.drop_old(true)
    }

    /// The log begins at `point`. Behind a damaged part may stand what follows it: that is kept, and may be the only copy.
    fn restart(&mut self, point: Mark, cut: CutRecord) -> Result<(), WriteError> {
        let op = point.anchor.op;
        let another = self.chain.head().anchor.op >= op
            || self.past_gap.get(&op).is_some_and(|hidden| hidden.held.meta.hash != point.anchor.hash)
            || self.past_gap.get(&op.next()).is_some_and(|hidden| hidden.parent != point.anchor.hash);
        self.past_gap.retain(|above, _| *above > op);
        if another || self.past_gap.is_empty() {
            self.make_room_for_cut()?;
            let floor = self.chain.floor().anchor.op;
            self.orphans.extend(self.chain.cut(floor).map(|(op, held)| OrphanBlock::of(op, &held.place)));
            self.segments.cut(op);
            self.past_gap.clear();
            self.unsettled = false;
            self.superblock.synced_through = self.superblock.synced_through.min(op);
            self.superblock.cuts.push(cut, self.segments.frontier());
            self.trim = self.trim.max(op);
        }
        self.chain = Chain::new(point, VecDeque::new());
        self.absorb();
        self.superblock.floor = point;
        self.superblock.checkpoint = point;
        Ok(())
    }
}

impl Journal {
    /// Makes the log stand on the point of the state on disk, which is ahead of it: a transfer was cut short, or the end of the
    /// log was lost. Returns what recovery would find now.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub fn stand_on(&mut self, point: LogPoint) -> Result<Recovered, OpenError> {
        let incarnation = self.store()?.superblock.incarnation.next();
        self.execute(&[Write::Adopt(Adoption { point, incarnation })])?;
        Ok(self.store()?.recovered())
    }
}
