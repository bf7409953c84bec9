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
use crate::config::{Configuration, DiskId};
use crate::ids::{Epoch, View};
use crate::message::{AdoptedEpoch, Cut, LogPoint, LogRebase, Recovered, Write};
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
        let is_kept = self.chain.mark(op).is_some_and(|mark| mark.anchor == point.anchor);
        if let Some(adopted) = &rebase.adopted {
            // What is known behind the own damage belongs to an ended epoch, and so is not above the point.
            match is_kept {
                true => self.cut(Cut { after: point.anchor, incarnation })?,
                false => self.past_gap.clear(),
            }
            let AdoptedEpoch { membership, view } = &**adopted;
            (self.superblock.membership, self.superblock.view) = (Some(membership.clone()), *view);
        }
        if !is_kept {
            self.restart(point, CutRecord { after: op, incarnation })?;
        }
        if rebase.adopted.is_some() && self.superblock.damaged.take().is_some() {
            self.forget_the_damage()?;
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
    /// of the log was lost. Returns what recovery would find now. `configuration` is that of the state; if its epoch is
    /// a later one, this member is in that epoch from now on, with this disk.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub fn rebase_log(
        &mut self,
        point: LogPoint,
        configuration: Option<&Configuration>,
        disk: DiskId,
    ) -> Result<Recovered, OpenError> {
        let superblock = &self.store()?.superblock;
        let incarnation = superblock.incarnation.next();
        let adopted = configuration.filter(|it| it.epoch > superblock.epoch()).map(|configuration| {
            // Before a piece of the state was stored, the number of the own view was raised above that of the source's
            // view, and above all in which an ended epoch has committed anything (rules T4 and M13).
            let before = superblock.membership.as_ref();
            let ended = before.map_or(0, |it| it.ended).max(superblock.view.number());
            let disk = before.map_or(disk, |it| it.disk);
            let mut adopted =
                AdoptedEpoch::of(configuration.clone(), disk, ended, View::of(Epoch::ZERO, ended));
            adopted.membership.retired = before.is_some_and(|it| it.retired);
            Box::new(adopted)
        });
        self.execute(&[Write::Rebase(LogRebase { point, incarnation, adopted })])?;
        Ok(self.store()?.recovered())
    }
}
