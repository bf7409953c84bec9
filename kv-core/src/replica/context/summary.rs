//! The summary of a member's log that it sends in `DoViewChange` (rule V4).

use super::{Context, lost};
use crate::ids::{Anchor, Hash, Op};
use crate::message::{EntryPastGap, Extent, LogSummary, Slot};
use std::collections::BTreeMap;

/// How many pipelines of ops a damaged member lists at most without gaps, and at most above.
const LISTED: u64 = 4;

impl Context {
    /// The summary of the durable log. Taken once the view is durable, because everything that was appended before is
    /// durable then too.
    pub(crate) fn summary(&self) -> LogSummary {
        assert!(self.commit <= self.log.durable().op, "what is committed here is durable here between views");
        let commit = self.known_commit();
        let (head, extent) = self.last_listed(commit.op);
        let mut suffix = Vec::new();
        let mut op = commit.op;
        while op < head {
            op = op.next();
            suffix.push(self.slot(op));
        }
        let checkpoint = self.anchor(self.checkpoint.max(self.log.floor()));
        let lacks = self.lacks(commit);
        let tail = self.tail(head);
        LogSummary { log_view: self.log_view, checkpoint, commit, lacks, head, suffix, tail, extent }
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

    /// The last op to list without gaps, and how far the log may have reached.
    fn last_listed(&self, commit: Op) -> (Op, Extent) {
        let last = self.log.last_known().max(self.log.durable().op);
        let (reach, extent) = match self.damage {
            None => (last, Extent::Through(last)),
            Some(Extent::Through(op)) => (last.max(op), Extent::Through(last.max(op))),
            Some(Extent::Open) => (last, Extent::Open),
        };
        let most = commit.advance(u64::from(self.options.pipeline_depth) * LISTED);
        (reach.min(most), extent)
    }

    /// The last known ops above the list. They may be the only copies of their entries.
    fn tail(&self, head: Op) -> Vec<(Op, Slot)> {
        let most = usize::try_from(u64::from(self.options.pipeline_depth) * LISTED).unwrap_or(usize::MAX);
        let known = self.log.past_gap().range(head.next()..).rev().take(most);
        let mut tail: Vec<(Op, Slot)> = known.map(|(op, _)| (*op, self.slot(*op))).collect();
        tail.reverse();
        tail
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

/// The slots that a vote lists above its commit point, by op.
fn slots(log: &LogSummary) -> impl Iterator<Item = (Op, &Slot)> {
    let ops = (1..).map(|above| log.commit.op.advance(above));
    ops.zip(&log.suffix).chain(log.tail.iter().map(|(op, slot)| (*op, slot)))
}

/// The entries that a vote lists: first the one at its commit point, then the others by op. `None` if the hash is not
/// known.
pub(crate) fn listed(log: &LogSummary) -> impl Iterator<Item = Option<Anchor>> {
    let above = slots(log).map(|(op, slot)| match slot {
        Slot::Present(hash) | Slot::Faulty(Some(hash)) => Some(Anchor::new(op, *hash)),
        Slot::Faulty(None) => None,
    });
    std::iter::once(Some(log.commit)).chain(above)
}

/// The last of the ops right above `head` that a vote reports as intact, in a log with these hashes; `head` if it does
/// not report the next one.
pub(crate) fn holds_through(vote: &LogSummary, log: &BTreeMap<Op, Hash>, head: Op) -> Op {
    if head < vote.commit.op
        && let Some(run) = vote.lacks.iter().find(|run| run.last > head)
    {
        return head.max(run.first.previous());
    }
    let mut reach = head.max(vote.commit.op);
    for (op, slot) in slots(vote).filter(|(op, _)| *op > head) {
        let is_next = op == reach.next() && matches!(slot, Slot::Present(hash) if log.get(&op) == Some(hash));
        if !is_next {
            break;
        }
        reach = op;
    }
    reach
}

/// Whether a summary is valid: its list is complete, and no longer than a log (rule N3) or a damaged member may have.
pub(crate) fn well_formed(log: &LogSummary, pipeline: u64) -> bool {
    let listed = log.head.distance_from(log.commit.op);
    let most = if log.is_damaged() { pipeline.saturating_mul(LISTED) } else { pipeline };
    log.commit.op <= log.head
        && lost::well_formed(&log.lacks, log.commit.op)
        && listed == log.suffix.len() as u64
        && listed <= most
        && log.tail.len() as u64 <= pipeline.saturating_mul(LISTED)
        && log.tail.first().is_none_or(|(op, _)| *op > log.head)
        && log.tail.is_sorted_by(|(one, _), (next, _)| one < next)
        && Extent::Through(log.last_listed()) <= log.extent
}
