//! Rebases the log on another point, when a state that contains everything up to there was transferred (rule T3).
//!
//! A single superblock write decides. Before it, the log is the old one, and the state on disk may be ahead of it;
//! after it, the log begins at the point. A member that is started in between finds the state ahead, and rebases the
//! log again.

use super::Journal;
use super::chain::Chain;
use super::cuts::CutRecord;
use super::error::{JournalWriteError, OpenError};
use super::recovery::OrphanBlock;
use super::store::Store;
use super::superblock::Mark;
use crate::message::{LogPoint, LogRebase, Recovered, Write};
use std::collections::VecDeque;

impl From<LogPoint> for Mark {
    fn from(point: LogPoint) -> Self {
        Self { anchor: point.anchor, next_revision: point.next_revision, timestamp: point.timestamp }
    }
}

impl Store {
    /// Rebases the log on a point, durably. Entries above that chain to it are kept, and all other entries are void.
    pub(super) fn rebase(&mut self, rebase: &LogRebase) -> Result<(), JournalWriteError> {
        let (point, incarnation) = (Mark::from(rebase.point), rebase.incarnation);
        if incarnation <= self.superblock.incarnation {
            return Err(JournalWriteError::Regress { incarnation });
        }
        let op = point.anchor.op;
        if op < self.superblock.checkpoint.anchor.op {
            return Err(JournalWriteError::UnknownPoint { op });
        }
        if self.chain.mark(op).is_none_or(|mark| mark.anchor != point.anchor) {
            self.restart(point, CutRecord { after: op, incarnation })?;
        }
        self.superblock.incarnation = incarnation;
        self.superblock.checkpoint = point;
        self.drop_old(true)
    }

    /// The log begins at `point`. What follows the point behind a damaged part is kept, because it may be the only
    /// copy.
    fn restart(&mut self, point: Mark, cut: CutRecord) -> Result<(), JournalWriteError> {
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
        self.link_past_gap();
        self.superblock.floor = point;
        self.superblock.checkpoint = point;
        Ok(())
    }
}

impl Journal {
    /// Rebases the log on the point of the state on disk, which is ahead of it: a transfer was interrupted, or the end
    /// of the log was lost. Returns what recovery would find now.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub fn rebase_log(&mut self, point: LogPoint) -> Result<Recovered, OpenError> {
        let incarnation = self.store()?.superblock.incarnation.next();
        self.execute(&[Write::Rebase(LogRebase { point, incarnation })])?;
        Ok(self.store()?.recovered())
    }
}
