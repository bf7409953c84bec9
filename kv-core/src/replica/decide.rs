//! Which log a new view starts with, decided from the `DoViewChange`s of a quorum. Pure: the same votes give the same answer.

use crate::ids::{Anchor, Hash, MemberId, Op, View};
use crate::message::{LogSummary, Slot};
use std::collections::BTreeMap;

/// The quorums that the decision counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quorums {
    pub(super) members: usize,
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

    /// Whether a point at or above the base is in it.
    fn holds(&self, anchor: Anchor) -> bool {
        let above = anchor.op.distance_from(self.base.op).checked_sub(1);
        let hash = match above {
            None => Some(self.base.hash),
            Some(index) => usize::try_from(index).ok().and_then(|index| self.suffix.get(index).copied()),
        };
        hash == Some(anchor.hash)
    }
}

/// What is known about the new view's log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Decision {
    /// This is it.
    Log(DecidedLog),
    /// Fewer votes than a view-change quorum.
    TooFew,
    /// At this op it takes other votes: none that there are has it intact, and too few surely never held it.
    Stuck(Op),
}

/// What one member reports about one op.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum SlotEvidence {
    /// It has this entry, intact.
    Present(Hash),
    /// It had an entry that cannot be read, or may have had one.
    Faulty(Option<Hash>),
    /// Its log ends below.
    Absent,
    /// Its list starts above: the op is committed there, under a hash that it does not list.
    Unlisted,
}

impl SlotEvidence {
    /// Of the entry that stands there, or stood there.
    const fn hash(self) -> Option<Hash> {
        match self {
            Self::Present(hash) | Self::Faulty(Some(hash)) => Some(hash),
            Self::Faulty(None) | Self::Absent | Self::Unlisted => None,
        }
    }
}

fn evidence_of(summary: &LogSummary, op: Op) -> SlotEvidence {
    if op > summary.head {
        return if summary.open { SlotEvidence::Faulty(None) } else { SlotEvidence::Absent };
    }
    if op == summary.commit.op {
        return SlotEvidence::Present(summary.commit.hash);
    }
    if op < summary.commit.op {
        return SlotEvidence::Unlisted;
    }
    let index = usize::try_from(op.distance_from(summary.commit.op) - 1).unwrap_or(usize::MAX);
    match summary.suffix.get(index) {
        Some(Slot::Present(hash)) => SlotEvidence::Present(*hash),
        Some(Slot::Faulty(hash)) => SlotEvidence::Faulty(*hash),
        None => SlotEvidence::Absent,
    }
}

/// What becomes of one op above the base.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Keep(Hash),
    Cut,
    Wait,
}

type Votes = BTreeMap<MemberId, LogSummary>;

/// How many damaged voters are tried with and without.
const MOST_DAMAGED: usize = 6;

/// How strictly a decision is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    /// By rules V5a to V5f.
    Usual,
    /// Everyone has answered, so that nothing else will ever be known: whoever surely never held an entry is counted, whatever its
    /// log view. What was committed was acknowledged by RQ members, and an intact log has everything that it acknowledged: so fewer
    /// than NQ can be without it.
    LastResort,
}

/// A set of votes that is to decide.
struct LogElection<'a> {
    votes: &'a Votes,
    /// Those of all who have voted. Where an entry is intact, every vote counts: that shows only where to fetch it.
    everyone: &'a Votes,
    quorums: Quorums,
    mode: Mode,
}

/// The log, as far as these votes determine it.
///
/// Any quorum among them may decide: each is sound by itself. So where the vote of a damaged member leaves all of them undecided, quorums
/// without it are tried: one that is damaged at an op that only it received must not stop the others.
pub(super) fn decide(votes: &Votes, quorums: Quorums) -> Decision {
    let Some(base) = base(votes) else { return Decision::TooFew };
    let election =
        |some: &Votes, mode: Mode| LogElection { votes: some, everyone: votes, quorums, mode }.decide();
    let all = election(votes, Mode::Usual);
    let Decision::Stuck(_) = all else { return all };
    let damaged = votes.iter().filter(|(_, vote)| is_damaged(vote)).map(|(id, _)| *id);
    let damaged: Vec<MemberId> = damaged.take(MOST_DAMAGED).collect();
    for without in 1..1_u32 << damaged.len() {
        let mut some = votes.clone();
        let out = damaged.iter().enumerate().filter(|(at, _)| without >> at & 1 == 1);
        out.for_each(|(_, id)| drop(some.remove(id)));
        if let Decision::Log(log) = election(&some, Mode::Usual)
            && log.holds(base)
        {
            return Decision::Log(log);
        }
    }
    if votes.len() < quorums.members { all } else { election(votes, Mode::LastResort) }
}

fn is_damaged(vote: &LogSummary) -> bool {
    vote.open || vote.suffix.iter().any(|slot| matches!(slot, Slot::Faulty(_)))
}

fn base(votes: &Votes) -> Option<Anchor> {
    votes.values().map(|summary| summary.commit).max_by_key(|commit| commit.op)
}

impl LogElection<'_> {
    fn decide(&self) -> Decision {
        match base(self.votes) {
            Some(base) if self.votes.len() >= self.quorums.view_change => self.decide_above(base),
            Some(_) | None => Decision::TooFew,
        }
    }

    fn newest(&self) -> View {
        self.votes.values().map(|summary| summary.log_view).max().unwrap_or_default()
    }

    fn decide_above(&self, base: Anchor) -> Decision {
        let newest = self.newest();
        let named = || self.votes.values().filter(|summary| summary.log_view == newest);
        let last = named().map(|summary| summary.head).max().unwrap_or_default().max(base.op);
        // Of a member whose list is open, it must be shown that it held nothing above what is listed.
        let is_open = named().any(|summary| summary.open);
        let mut end = if is_open { last.next() } else { last };
        let mut suffix = Vec::new();
        let mut op = base.op;
        while op < end {
            op = op.next();
            match self.judge(op) {
                Verdict::Keep(hash) => suffix.push(hash),
                Verdict::Cut => break,
                Verdict::Wait => match self.last_resort(op, suffix.last().copied().unwrap_or(base.hash)) {
                    Verdict::Keep(hash) => {
                        suffix.push(hash);
                        end = if is_open { end.max(op.next()) } else { end };
                    }
                    Verdict::Cut => break,
                    Verdict::Wait => return Decision::Stuck(op),
                },
            }
        }
        Decision::Log(DecidedLog { base, suffix })
    }

    fn judge(&self, op: Op) -> Verdict {
        let newest = self.newest();
        let evidence: Vec<(bool, SlotEvidence)> = self
            .votes
            .values()
            .map(|summary| (summary.log_view == newest, evidence_of(summary, op)))
            .collect();
        let mut candidate = None;
        for (_, reports) in evidence.iter().filter(|(current, _)| *current) {
            let hash = match reports {
                SlotEvidence::Present(hash) | SlotEvidence::Faulty(Some(hash)) => *hash,
                SlotEvidence::Faulty(None) | SlotEvidence::Absent | SlotEvidence::Unlisted => continue,
            };
            if candidate.is_some_and(|other| other != hash) {
                // A crash in the middle of an installation: neither of the two was committed.
                return Verdict::Cut;
            }
            candidate = Some(hash);
        }
        let is_intact = |hash| {
            self.everyone.values().any(|summary| evidence_of(summary, op) == SlotEvidence::Present(hash))
        };
        if let Some(hash) = candidate
            && is_intact(hash)
        {
            return Verdict::Keep(hash);
        }
        let never_held = |reports: &SlotEvidence| match reports {
            SlotEvidence::Absent => true,
            SlotEvidence::Present(hash) | SlotEvidence::Faulty(Some(hash)) => {
                candidate.is_some_and(|wanted| wanted != *hash)
            }
            SlotEvidence::Faulty(None) | SlotEvidence::Unlisted => false,
        };
        let current_nack = evidence.iter().any(|(current, reports)| *current && never_held(reports));
        let all_count = current_nack || self.mode == Mode::LastResort;
        let nacks = evidence
            .iter()
            .filter(|(current, reports)| (*current || all_count) && never_held(reports))
            .count();
        if nacks >= self.quorums.nack { Verdict::Cut } else { Verdict::Wait }
    }

    /// As a last resort, what may have been committed is counted, whoever names it: whoever acknowledged an entry that was committed still has it,
    /// or is damaged there, and every later view's log has it. So it was not where a member names another in the log of that view or of a
    /// later one, nor if it does not go on from what is kept `below`. If one alone is left, and intact, it is kept; if none is, the log ends.
    fn last_resort(&self, op: Op, below: Hash) -> Verdict {
        let quorum = self.quorums.members - self.quorums.nack + 1;
        let report =
            |vote: &LogSummary| (vote.log_view, evidence_of(vote, op), evidence_of(vote, op.previous()));
        let reports: Vec<(View, SlotEvidence, SlotEvidence)> = self.votes.values().map(report).collect();
        let holders = |wanted: Option<Hash>| {
            let others =
                reports.iter().filter(|(_, word, _)| word.hash().is_some_and(|it| Some(it) != wanted));
            let since = others.map(|(log_view, ..)| *log_view).max();
            let may_have = |word: &SlotEvidence| match word {
                SlotEvidence::Present(hash) | SlotEvidence::Faulty(Some(hash)) => Some(*hash) == wanted,
                SlotEvidence::Faulty(None) | SlotEvidence::Unlisted => true,
                SlotEvidence::Absent => false,
            };
            let later = |log_view: View| since.is_none_or(|since| log_view > since);
            reports.iter().filter(|(log_view, word, _)| may_have(word) && later(*log_view)).count()
        };
        if self.mode != Mode::LastResort || holders(None) >= quorum {
            return Verdict::Wait;
        }
        let goes_on = |wanted: Hash| {
            let holders_of = reports.iter().filter(|(_, word, _)| *word == SlotEvidence::Present(wanted));
            holders_of.filter_map(|(.., before)| before.hash()).all(|parent| parent == below)
        };
        let named = reports.iter().filter_map(|(_, word, _)| word.hash());
        let mut left: Vec<Hash> =
            named.filter(|hash| holders(Some(*hash)) >= quorum && goes_on(*hash)).collect();
        left.sort_unstable();
        left.dedup();
        match left[..] {
            [] => Verdict::Cut,
            [hash] if reports.iter().any(|(_, word, _)| *word == SlotEvidence::Present(hash)) => {
                Verdict::Keep(hash)
            }
            _ => Verdict::Wait,
        }
    }
}

#[cfg(test)]
mod tests;
