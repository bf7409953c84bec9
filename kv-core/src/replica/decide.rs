//! Which log a new view starts with, decided from the `DoViewChange`s of a quorum. Pure: the same votes give the same answer.

use crate::ids::{Anchor, Hash, MemberId, Op, View};
use crate::message::{LogSummary, Slot};
use std::collections::BTreeMap;

/// The quorums that the decision counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quorums {
    pub(super) view_change: usize,
    pub(super) nack: usize,
}

/// The log of the new view: everything up to `base`, then these.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct DecidedLog {
    /// Committed.
    pub(super) base: Anchor,
    /// The ops above the base, without a gap.
    pub(super) suffix: Vec<Hash>,
}

impl DecidedLog {
    #[cfg(test)]
    fn head(&self) -> Op {
        self.base.op.advance(self.suffix.len() as u64)
    }
}

/// What one member says about one op.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Word {
    /// It has this entry, intact.
    Present(Hash),
    /// It had an entry that cannot be read.
    Faulty(Option<Hash>),
    /// Its log ends below.
    Absent,
    /// Its list starts above: the op is committed there, under a hash that it does not tell.
    Untold,
}

fn word(summary: &LogSummary, op: Op) -> Word {
    if op > summary.head {
        return Word::Absent;
    }
    if op == summary.commit.op {
        return Word::Present(summary.commit.hash);
    }
    if op < summary.commit.op {
        return Word::Untold;
    }
    let index = usize::try_from(op.distance_from(summary.commit.op) - 1).unwrap_or(usize::MAX);
    match summary.suffix.get(index) {
        Some(Slot::Present(hash)) => Word::Present(*hash),
        Some(Slot::Faulty(hash)) => Word::Faulty(*hash),
        None => Word::Absent,
    }
}

/// What becomes of one op above the base.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Keep(Hash),
    Cut,
    Wait,
}

/// The log, or `None` while more votes are needed.
pub(super) fn decide(votes: &BTreeMap<MemberId, LogSummary>, quorums: Quorums) -> Option<DecidedLog> {
    if votes.len() < quorums.view_change {
        return None;
    }
    let base = votes.values().map(|summary| summary.commit).max_by_key(|commit| commit.op)?;
    decide_above(base, votes, quorums, false)
}

/// The planted bug `OwnCommitAsBase`: what others know to be committed above `base` counts as never held.
#[cfg(any(test, feature = "sim"))]
pub(super) fn decide_carelessly(
    base: Anchor,
    votes: &BTreeMap<MemberId, LogSummary>,
    quorums: Quorums,
) -> Option<DecidedLog> {
    decide_above(base, votes, quorums, true)
}

fn decide_above(
    base: Anchor,
    votes: &BTreeMap<MemberId, LogSummary>,
    quorums: Quorums,
    careless: bool,
) -> Option<DecidedLog> {
    let newest = votes.values().map(|summary| summary.log_view).max()?;
    let named = || votes.values().filter(move |summary| summary.log_view == newest);
    let end = named().map(|summary| summary.head).max()?.max(base.op);
    let mut suffix = Vec::new();
    let mut op = base.op;
    while op < end {
        op = op.next();
        match judge(votes, newest, op, quorums.nack) {
            Verdict::Keep(hash) => suffix.push(hash),
            Verdict::Cut => break,
            Verdict::Wait if careless => break,
            Verdict::Wait => return None,
        }
    }
    Some(DecidedLog { base, suffix })
}

fn judge(votes: &BTreeMap<MemberId, LogSummary>, newest: View, op: Op, nack_quorum: usize) -> Verdict {
    let words: Vec<(bool, Word)> =
        votes.values().map(|summary| (summary.log_view == newest, word(summary, op))).collect();
    let mut candidate = None;
    for (_, said) in words.iter().filter(|(current, _)| *current) {
        let hash = match said {
            Word::Present(hash) | Word::Faulty(Some(hash)) => *hash,
            Word::Faulty(None) | Word::Absent | Word::Untold => continue,
        };
        if candidate.is_some_and(|other| other != hash) {
            // A crash in the middle of an installation: neither of the two was committed.
            return Verdict::Cut;
        }
        candidate = Some(hash);
    }
    if let Some(hash) = candidate
        && words.iter().any(|(_, said)| *said == Word::Present(hash))
    {
        return Verdict::Keep(hash);
    }
    let never_held = |said: &Word| match said {
        Word::Absent => true,
        Word::Present(hash) | Word::Faulty(Some(hash)) => candidate.is_some_and(|wanted| wanted != *hash),
        Word::Faulty(None) | Word::Untold => false,
    };
    let told = words.iter().any(|(current, said)| *current && never_held(said));
    let nacks = words.iter().filter(|(current, said)| (*current || told) && never_held(said)).count();
    if nacks >= nack_quorum { Verdict::Cut } else { Verdict::Wait }
}

#[cfg(test)]
mod tests;
