//! Rebases the log on a state that was fetched (rules T3 and T5).

use super::{Context, Output};
use crate::ids::WriteSeq;
use crate::message::{AdoptedEpoch, LogPoint, LogRebase, Write};

impl Context {
    /// Rule T3: rebases the log on `point`. Entries above that chain to it are kept. Returns false if the log already
    /// stands on it.
    pub(crate) fn rebase_log(&mut self, point: LogPoint, adopted: Option<Box<AdoptedEpoch>>) -> bool {
        let LogPoint { anchor, .. } = point;
        let keeps = self.log.holds(anchor);
        if keeps && anchor.op <= self.checkpoint && adopted.is_none() {
            // A lost state was fetched: the entries after it are applied again, from the log.
            self.state_went_back(anchor.op);
            self.applied = anchor.op;
            let commit = self.commit();
            self.outputs.push_back(Output::Commit { commit });
            return false;
        }
        if !keeps {
            self.log.restart(point);
        }
        self.incarnation = self.incarnation.next();
        let seq = self.write(Write::Rebase(LogRebase { point, incarnation: self.incarnation, adopted }));
        self.note_rebase(anchor, keeps, seq);
        self.entry_arrived(anchor, false);
        self.advance_commit(anchor.op);
        self.commit_by_pipeline();
        self.applied = anchor.op;
        self.applied_at = self.now.monotonic;
        self.transfer.rebasing = Some(seq);
        true
    }

    /// Rule T5: returns true once, when the rebased log is durable. Then what was withheld may be sent.
    pub(crate) fn rebase_is_durable(&mut self) -> bool {
        let is_durable = |seq: &mut WriteSeq| *seq <= self.writes.durable;
        self.transfer.rebasing.take_if(is_durable).is_some()
    }
}
