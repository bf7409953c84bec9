//! The summary of a member's log that it sends in `DoViewChange` (rule V4).

use super::{Context, lost};
use crate::ids::{Anchor, Hash, Op};
use crate::message::{EntryPastGap, Extent, LogSummary, Slot};
use std::collections::BTreeMap;

/// How many pipelines of ops a damaged member lists at most. What is above stays open.
const LISTED: u64 = 4;

impl Context {
    /// The summary of the durable log. Taken once the view is durable, because everything that was appended before is
    /// durable then too.
    pub(crate) fn summary(&self) -> LogSummary {
        assert!(self.commit <= self.log.durable().op, "what is committed here is durable here between views");
        let commit = self.known_commit();
        let (head, open) = self.last_listed(commit.op);
        let mut suffix = Vec::new();
        let mut op = commit.op;
        while op < head {
            op = op.next();
            suffix.push(self.slot(op));
        }
        let checkpoint = self.anchor(self.checkpoint.max(self.log.floor()));
        let lacks = self.lacks(commit);
        LogSummary { log_view: self.log_view, checkpoint, commit, lacks, head, suffix, open }
    }

    /// The greatest op that is known to be committed and whose hash is known. Rule N3 also applies to an intact entry
    /// behind the damage.
    fn known_commit(&self) -> Anchor {
        let known = self.log.past_gap().range(..=self.pipeline_below(self.log.last_intact())).next_back();
        let behind = known.map(|(op, behind)| Anchor::new(*op, behind.hash()));
        behind.filter(|anchor| anchor.op > self.commit).unwrap_or(self.commit())
    }

    fn pipeline_below(&self, op: Op) -> Op {
        op.back(u64::from(self.options.pipeline_depth))
    }

    /// The last op to list, and whether there may have been more.
    fn last_listed(&self, commit: Op) -> (Op, bool) {
        let last = self.log.last_known().max(self.log.durable().op);
        let (reach, open) = match self.damage {
            None => (last, false),
            Some(Extent::Through(op)) => (last.max(op), false),
            Some(Extent::Open) => (last, true),
        };
        let most = commit.advance(u64::from(self.options.pipeline_depth) * LISTED);
        (reach.min(most), open || reach > most)
    }

    fn slot(&self, op: Op) -> Slot {
        if let Some(hash) = self.log.hash(op) {
            return if self.log.is_faulty(op) { Slot::Faulty(Some(hash)) } else { Slot::Present(hash) };
        }
        match self.log.past_gap().get(&op) {
            Some(EntryPastGap::Intact { meta, .. }) => Slot::Present(meta.hash),
            Some(EntryPastGap::Pinned(hash)) => Slot::Faulty(Some(*hash)),
            None => Slot::Faulty(None),
        }
    }
}

/// The entries that a vote lists: first the one at its commit point, then the others by op. `None` if the hash is not
/// known.
pub(crate) fn listed(log: &LogSummary) -> impl Iterator<Item = Option<Anchor>> {
    let ops = (1..).map(|above| log.commit.op.advance(above));
    let above = ops.zip(&log.suffix).map(|(op, slot)| match slot {
        Slot::Present(hash) | Slot::Faulty(Some(hash)) => Some(Anchor::new(op, *hash)),
        Slot::Faulty(None) => None,
    });
    std::iter::once(Some(log.commit)).chain(above)
}

/// The last op that a vote lists as intact, in a log with these hashes.
pub(crate) fn holds_through(vote: &LogSummary, log: &BTreeMap<Op, Hash>) -> Op {
    let ops = (1..).map(|above| vote.commit.op.advance(above));
    let intact = ops.zip(&vote.suffix).filter(|(op, slot)| match slot {
        Slot::Present(hash) => log.get(op) == Some(hash),
        Slot::Faulty(_) => false,
    });
    intact.map(|(op, _)| op).last().unwrap_or(vote.commit.op)
}

/// Whether a summary is valid: its list is complete, and no longer than a log (rule N3) or a damaged member may have.
pub(crate) fn well_formed(log: &LogSummary, pipeline: u64) -> bool {
    let listed = log.head.distance_from(log.commit.op);
    let is_damaged = log.open || log.suffix.iter().any(|slot| matches!(slot, Slot::Faulty(_)));
    let most = if is_damaged { pipeline.saturating_mul(LISTED) } else { pipeline };
    log.commit.op <= log.head
        && lost::well_formed(&log.lacks, log.commit.op)
        && listed == log.suffix.len() as u64
        && listed <= most
}
