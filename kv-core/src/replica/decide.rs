//! Decides which log a new view starts with, from the `DoViewChange`s of a quorum. A pure function: the same votes
//! give the same result.

use crate::ids::{Anchor, Hash, MemberId, Op, View};
use crate::message::{Extent, LogSummary, Slot};
use std::collections::BTreeMap;

/// The quorums that the decision uses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quorums {
    pub(super) members: usize,
    pub(super) view_change: usize,
    pub(super) nack: usize,
}

/// The log of the new view: everything up to `base`, then the suffix.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct DecidedLog {
    /// Committed.
    pub(super) base: Anchor,
    /// The entries of the ops above the base, without a gap.
    pub(super) suffix: Vec<Hash>,
}

impl DecidedLog {
    #[cfg(test)]
    fn head(&self) -> Op {
        self.base.op.advance(self.suffix.len() as u64)
    }

    /// Returns whether this log contains a point at or above the base.
    fn holds(&self, anchor: Anchor) -> bool {
        let above = anchor.op.distance_from(self.base.op).checked_sub(1);
        let hash = match above {
            None => Some(self.base.hash),
            Some(index) => usize::try_from(index).ok().and_then(|index| self.suffix.get(index).copied()),
        };
        hash == Some(anchor.hash)
    }
}

/// What the votes determine about the new view's log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum LogDecision {
    /// This is it.
    Log(DecidedLog),
    /// Fewer votes than a view-change quorum.
    TooFew,
    /// The decision about this op needs more votes: none of the present voters has the entry intact, and too few are
    /// known never to have held it.
    Stuck(Op),
}

/// What one member reports about one op.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum SlotEvidence {
    /// It has this entry, intact.
    Present(Hash),
    /// It had an entry that cannot be read, or may have had one.
    Faulty(Option<Hash>),
    /// Its log ends below the op.
    Absent,
    /// Its list starts above the op: the op is committed there, and its hash is not listed.
    Unlisted,
}

impl SlotEvidence {
    /// The hash of the entry, if it is known.
    const fn hash(self) -> Option<Hash> {
        match self {
            Self::Present(hash) | Self::Faulty(Some(hash)) => Some(hash),
            Self::Faulty(None) | Self::Absent | Self::Unlisted => None,
        }
    }
}

fn evidence_of(summary: &LogSummary, op: Op) -> SlotEvidence {
    if op > summary.head {
        return match summary.tail.binary_search_by_key(&op, |(op, _)| *op) {
            Ok(at) => evidence_of_slot(summary.tail[at].1),
            Err(_) if Extent::Through(op) <= summary.extent => SlotEvidence::Faulty(None),
            Err(_) => SlotEvidence::Absent,
        };
    }
    if op == summary.commit.op {
        return SlotEvidence::Present(summary.commit.hash);
    }
    if op < summary.commit.op {
        return SlotEvidence::Unlisted;
    }
    let index = usize::try_from(op.distance_from(summary.commit.op) - 1).unwrap_or(usize::MAX);
    summary.suffix.get(index).map_or(SlotEvidence::Absent, |slot| evidence_of_slot(*slot))
}

const fn evidence_of_slot(slot: Slot) -> SlotEvidence {
    match slot {
        Slot::Present(hash) => SlotEvidence::Present(hash),
        Slot::Faulty(hash) => SlotEvidence::Faulty(hash),
    }
}

/// Whether the log may have reached further than what its summary lists.
fn is_open(summary: &LogSummary) -> bool {
    summary.extent > Extent::Through(summary.last_listed())
}

/// The decision about one op above the base.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum SlotDecision {
    Keep(Hash),
    Cut,
    Wait,
}

type Votes = BTreeMap<MemberId, LogSummary>;

/// The largest number of damaged voters for which all subsets are tried.
const MOST_DAMAGED: usize = 6;

/// Which rules a decision follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Strictness {
    /// By rules V5a to V5f.
    Usual,
    /// Every member has answered, so no more will ever be known. Every member that is known never to have held an
    /// entry counts, whatever its log view. A committed entry was acknowledged by RQ members, and an intact log
    /// contains everything that its member acknowledged. So fewer than NQ members can be without it.
    LastResort,
}

/// A set of votes that decides.
struct LogElection<'a> {
    votes: &'a Votes,
    /// The votes of all voters. For the question where an entry is intact, every vote counts, because that only
    /// determines where to fetch it.
    everyone: &'a Votes,
    quorums: Quorums,
    mode: Strictness,
}

/// Returns the log, as far as these votes determine it.
///
/// Any quorum among the votes may decide: each is sound by itself. So if the vote of a damaged member leaves the
/// decision open, quorums without that member are tried. A member that is damaged at an op that only it received must
/// not stop the others.
pub(super) fn decide(votes: &Votes, quorums: Quorums) -> LogDecision {
    let Some(base) = base(votes) else { return LogDecision::TooFew };
    let election =
        |some: &Votes, mode: Strictness| LogElection { votes: some, everyone: votes, quorums, mode }.decide();
    let all = election(votes, Strictness::Usual);
    let LogDecision::Stuck(_) = all else { return all };
    let damaged = votes.iter().filter(|(_, vote)| vote.is_damaged()).map(|(id, _)| *id);
    let damaged: Vec<MemberId> = damaged.take(MOST_DAMAGED).collect();
    for without in 1..1_u32 << damaged.len() {
        let mut some = votes.clone();
        let out = damaged.iter().enumerate().filter(|(at, _)| without >> at & 1 == 1);
        out.for_each(|(_, id)| drop(some.remove(id)));
        if let LogDecision::Log(log) = election(&some, Strictness::Usual)
            && log.holds(base)
        {
            return LogDecision::Log(log);
        }
    }
    if votes.len() < quorums.members { all } else { election(votes, Strictness::LastResort) }
}

fn base(votes: &Votes) -> Option<Anchor> {
    votes.values().map(|summary| summary.commit).max_by_key(|commit| commit.op)
}

impl LogElection<'_> {
    fn decide(&self) -> LogDecision {
        match base(self.votes) {
            Some(base) if self.votes.len() >= self.quorums.view_change => self.decide_above(base),
            Some(_) | None => LogDecision::TooFew,
        }
    }

    fn newest(&self) -> View {
        self.votes.values().map(|summary| summary.log_view).max().unwrap_or_default()
    }

    fn decide_above(&self, base: Anchor) -> LogDecision {
        let newest = self.newest();
        let named = || self.votes.values().filter(|summary| summary.log_view == newest);
        let last = named().map(LogSummary::last_listed).max().unwrap_or_default().max(base.op);
        // If the list of a member is open, it must be shown that the member held nothing above it.
        let is_open = named().any(is_open);
        let mut end = if is_open { last.next() } else { last };
        let mut suffix = Vec::new();
        let mut op = base.op;
        while op < end {
            op = op.next();
            match self.decide_slot(op) {
                SlotDecision::Keep(hash) => suffix.push(hash),
                SlotDecision::Cut => break,
                SlotDecision::Wait => match self.last_resort(op, suffix.last().copied().unwrap_or(base.hash))
                {
                    SlotDecision::Keep(hash) => {
                        suffix.push(hash);
                        end = if is_open { end.max(op.next()) } else { end };
                    }
                    SlotDecision::Cut => break,
                    SlotDecision::Wait => return LogDecision::Stuck(op),
                },
            }
        }
        LogDecision::Log(DecidedLog { base, suffix })
    }

    fn decide_slot(&self, op: Op) -> SlotDecision {
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
                // A member crashed during an installation: neither of the two entries was committed.
                return SlotDecision::Cut;
            }
            candidate = Some(hash);
        }
        let is_intact = |hash| {
            self.everyone.values().any(|summary| evidence_of(summary, op) == SlotEvidence::Present(hash))
        };
        if let Some(hash) = candidate
            && is_intact(hash)
        {
            return SlotDecision::Keep(hash);
        }
        let never_held = |reports: &SlotEvidence| match reports {
            SlotEvidence::Absent => true,
            SlotEvidence::Present(hash) | SlotEvidence::Faulty(Some(hash)) => {
                candidate.is_some_and(|wanted| wanted != *hash)
            }
            SlotEvidence::Faulty(None) | SlotEvidence::Unlisted => false,
        };
        let current_nack = evidence.iter().any(|(current, reports)| *current && never_held(reports));
        let all_count = current_nack || self.mode == Strictness::LastResort;
        let nacks = evidence
            .iter()
            .filter(|(current, reports)| (*current || all_count) && never_held(reports))
            .count();
        if nacks >= self.quorums.nack { SlotDecision::Cut } else { SlotDecision::Wait }
    }

    /// The last resort, which considers every entry that any member names as possibly committed. A member that
    /// acknowledged a committed entry still has it or is damaged there, and the log of every later view contains it.
    /// So an entry was not committed if a member names another one in the log of that view or a later one, or if it
    /// does not follow what is kept `below`. If exactly one entry is left, and it is intact, it is kept. If none is
    /// left, the log ends here.
    fn last_resort(&self, op: Op, below: Hash) -> SlotDecision {
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
        if self.mode != Strictness::LastResort || holders(None) >= quorum {
            return SlotDecision::Wait;
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
            [] => SlotDecision::Cut,
            [hash] if reports.iter().any(|(_, word, _)| *word == SlotEvidence::Present(hash)) => {
                SlotDecision::Keep(hash)
            }
            _ => SlotDecision::Wait,
        }
    }
}

#[cfg(test)]
mod tests;
