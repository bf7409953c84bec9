//! Entries that no member has any more, below the ops that a view change decides about (rules V4 and V5). A log with
//! a hole that no peer can fill is never installed. If that were not detected, the view would change forever.

use super::Context;
use crate::ids::{Anchor, Hash, MemberId, Op};
use crate::message::{EntryPastGap, LogSummary, MissingRun, Slot};
use std::collections::BTreeMap;

/// How many runs a member lists. Ops that are not listed count as present.
const MOST_RUNS: usize = 64;

/// The first and the last op of each run. The runs ascend and do not touch.
type Runs = Vec<(Op, Op)>;

/// Adds ops above all that are there already.
fn push(runs: &mut Runs, first: Op, last: Op) {
    if first > last {
        return;
    }
    match runs.last_mut() {
        Some((_, end)) if end.next() >= first => *end = last.max(*end),
        Some(_) | None => runs.push((first, last)),
    }
}

/// The intersection of two lists.
fn common(some: &Runs, others: &Runs) -> Runs {
    let mut both = Runs::new();
    for (first, last) in some {
        for (from, to) in others {
            push(&mut both, (*first).max(*from), (*last).min(*to));
        }
    }
    both
}

/// Whether a list of runs is valid.
pub(crate) fn well_formed(runs: &[MissingRun], commit: Op) -> bool {
    runs.len() <= MOST_RUNS
        && runs.iter().all(|run| run.first <= run.last && run.last <= commit)
        && runs.windows(2).all(|pair| pair[0].last < pair[1].first)
}

/// The first committed op whose entry all members have lost, if all have answered.
pub(crate) fn lost(votes: &BTreeMap<MemberId, LogSummary>, members: usize) -> Option<Op> {
    let base = votes.values().map(|summary| summary.commit.op).max().filter(|_| votes.len() == members)?;
    let committed = committed(votes);
    let mut missing = votes.values().map(|summary| missing(summary, base, &committed));
    let first = missing.next()?;
    missing.fold(first, |all, some| common(&all, &some)).first().map(|(op, _)| *op)
}

/// The hashes of committed entries that the votes contain.
fn committed(votes: &BTreeMap<MemberId, LogSummary>) -> BTreeMap<Op, Hash> {
    let mut hashes = BTreeMap::new();
    for summary in votes.values() {
        hashes.insert(summary.commit.op, summary.commit.hash);
        hashes.extend(summary.lacks.iter().filter_map(|run| Some((run.last, run.hash?))));
    }
    hashes
}

/// The ops up to `base` whose entries a member does not have.
fn missing(summary: &LogSummary, base: Op, committed: &BTreeMap<Op, Hash>) -> Runs {
    let mut runs: Runs = summary.lacks.iter().map(|run| (run.first, run.last)).collect();
    let mut op = summary.commit.op;
    for slot in &summary.suffix {
        let next = op.next();
        let is_another = |hash: &Hash| committed.get(&next).is_some_and(|committed| committed != hash);
        if matches!(slot, Slot::Present(hash) | Slot::Faulty(Some(hash)) if is_another(hash)) {
            // An entry that follows an uncommitted entry was not committed either.
            push(&mut runs, op.next(), base);
            return runs;
        }
        op = next;
        if matches!(slot, Slot::Faulty(_)) && op <= base {
            push(&mut runs, op, op);
        }
    }
    // Above the list without gaps, only what is named there is known to be intact.
    for (next, slot) in &summary.tail {
        let is_another = |hash: &Hash| committed.get(next).is_some_and(|committed| committed != hash);
        match slot {
            Slot::Present(hash) | Slot::Faulty(Some(hash)) if is_another(hash) => break,
            Slot::Present(_) => {
                push(&mut runs, op.next(), next.previous().min(base));
                op = *next;
            }
            Slot::Faulty(_) => {}
        }
    }
    push(&mut runs, op.next(), base);
    runs
}

impl Context {
    /// The op up to which the own state replaces the entries. A witness has no state, and a state that is being
    /// fetched does not count yet.
    fn covered_by_state(&self) -> Op {
        if self.is_witness() { Op::ZERO } else { self.reported_checkpoint() }
    }

    /// Rule V4: the ops up to `commit` whose entries are not intact here and are not covered by the own state.
    pub(crate) fn lacks(&self, commit: Anchor) -> Vec<MissingRun> {
        if self.may_get_state() { Vec::new() } else { self.missing_runs(commit) }
    }

    /// The same for a member that will not get a state.
    pub(crate) fn missing_runs(&self, commit: Anchor) -> Vec<MissingRun> {
        let hash = |op: Op| {
            let next = self.log.past_gap().get(&op.next());
            let parent = next.and_then(|behind| match behind {
                EntryPastGap::Intact { parent, .. } => Some(*parent),
                EntryPastGap::Pinned(_) => None,
            });
            if op == commit.op { Some(commit.hash) } else { self.known_hash(op).or(parent) }
        };
        let runs = self.missing_up_to(commit.op).into_iter();
        runs.map(|(first, last)| MissingRun { first, last, hash: hash(last) }).collect()
    }

    fn missing_up_to(&self, commit: Op) -> Runs {
        let mut runs = Runs::new();
        let (stands, gone) = (self.covered_by_state(), self.trimmed());
        push(&mut runs, stands.next(), gone.min(commit));
        let held = stands.max(gone);
        for op in self.log.faulty_above(held).take_while(|op| *op <= commit) {
            push(&mut runs, op, op);
        }
        let mut next = self.log.head().op.max(held).next();
        for (op, behind) in self.log.past_gap().range(next..=commit.max(next)) {
            if matches!(behind, EntryPastGap::Intact { .. }) {
                push(&mut runs, next, op.previous().min(commit));
                next = op.next();
            }
        }
        push(&mut runs, next, commit);
        runs.truncate(MOST_RUNS);
        runs
    }

    /// Whether this member lacks a committed entry, and will not get a state that covers it.
    pub(crate) fn lacks_for_good(&self, op: Op) -> bool {
        let ends = self.missing_up_to(op).last().is_some_and(|(_, last)| *last >= op);
        ends && !self.may_get_state()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::View;
    use crate::message::Extent;

    fn runs(runs: &[(u64, u64)]) -> Runs {
        runs.iter().map(|(first, last)| (Op::new(*first), Op::new(*last))).collect()
    }

    #[test]
    fn what_two_lists_have_in_common() {
        let both = |some, others| common(&runs(some), &runs(others));
        assert_eq!(both(&[(1, 4), (7, 9)], &[(3, 7), (9, 9)]), runs(&[(3, 4), (7, 7), (9, 9)]));
        assert_eq!(both(&[(1, 4)], &[(5, 9)]), Runs::new());
        assert_eq!(both(&[(2, 4), (5, 6)], &[(1, 9)]), runs(&[(2, 6)]), "joined where they touch");
    }

    #[test]
    fn a_list_of_runs_is_ascending_and_ends_at_the_commit_point() {
        let run = |(first, last)| MissingRun { first, last, hash: None };
        let good = |list: &[(u64, u64)]| {
            let list: Vec<MissingRun> = runs(list).into_iter().map(run).collect();
            well_formed(&list, Op::new(9))
        };
        assert!(good(&[]) && good(&[(1, 1), (3, 9)]));
        assert!(
            !good(&[(3, 2)]) && !good(&[(1, 10)]) && !good(&[(3, 4), (4, 5)]) && !good(&[(5, 6), (1, 2)])
        );
    }

    /// Behind a long hole, the first member has another log from entry 26 on. The others know the hashes of entries 26
    /// and 28, and have lost entry 27.
    #[test]
    fn v5h_a_tail_of_another_log_is_no_copy() {
        let hash = |byte: u8| Hash::of(&[byte]);
        let anchor = |at: u8| Anchor::new(Op::new(u64::from(at)), hash(at));
        let summary = |commit: Anchor, lacks: Vec<MissingRun>, suffix: Vec<Slot>, tail: Vec<(Op, Slot)>| {
            let head = commit.op.advance(suffix.len() as u64);
            let extent = Extent::Through(tail.last().map_or(head, |(op, _)| *op));
            let (log_view, checkpoint) = (View::ZERO, Anchor::ZERO);
            LogSummary { log_view, checkpoint, commit, lacks, head, suffix, tail, extent }
        };
        let run = MissingRun { first: Op::new(27), last: Op::new(28), hash: Some(hash(28)) };
        let second = summary(anchor(30), vec![run], vec![], vec![]);
        let above = [Slot::Faulty(Some(hash(27))), Slot::Present(hash(28))];
        let third = summary(anchor(26), vec![], above.to_vec(), vec![]);
        let first_lost = |suffix: Vec<Slot>, tail: Vec<(Op, Slot)>| {
            let votes = [summary(anchor(25), vec![], suffix, tail), second.clone(), third.clone()];
            lost(&(0..).map(MemberId::new).zip(votes).collect(), 3)
        };
        let behind = |number: u64, byte: u8| (Op::new(number), Slot::Present(hash(byte)));
        assert_eq!(first_lost(vec![], vec![behind(27, 27)]), None, "it has it");
        assert_eq!(first_lost(vec![], vec![behind(26, 126), behind(27, 127)]), Some(Op::new(27)));
        assert_eq!(first_lost(vec![Slot::Present(hash(126))], vec![behind(27, 127)]), Some(Op::new(27)));
        for slot in [Slot::Present(hash(126)), Slot::Faulty(Some(hash(126)))] {
            let another = vec![slot, Slot::Present(hash(127))];
            assert_eq!(first_lost(another, vec![]), Some(Op::new(27)), "{slot:?} begins another log");
        }
    }

    /// Ops 1 to 4 are lost on every member that knows that they are committed. Another member has four entries that
    /// were not committed.
    #[test]
    fn v5h_an_entry_with_another_hash_is_no_copy_of_the_committed_one() {
        let hash = |byte: u8| Hash::of(&[byte]);
        let vote = |commit: u64, lacks: &[(u64, u64)], suffix: Vec<Slot>| LogSummary {
            log_view: View::ZERO,
            checkpoint: Anchor::ZERO,
            commit: Anchor::new(Op::new(commit), hash(u8::try_from(commit).unwrap())),
            lacks: runs(lacks)
                .into_iter()
                .map(|(first, last)| MissingRun {
                    first,
                    last,
                    hash: Some(hash(u8::try_from(last.get()).unwrap())),
                })
                .collect(),
            head: Op::new(commit + suffix.len() as u64),
            suffix,
            tail: Vec::new(),
            extent: Extent::Through(Op::ZERO),
        };
        let first_lost = |entries: [u8; 4]| {
            let entries = entries.map(|byte| Slot::Present(hash(byte)));
            let votes =
                [vote(9, &[(1, 4)], vec![]), vote(9, &[(1, 5)], vec![]), vote(0, &[], entries.to_vec())];
            let votes = (0..).map(MemberId::new).zip(votes).collect();
            lost(&votes, 3)
        };
        assert_eq!(first_lost([1, 2, 3, 4]), None, "there is one copy of each");
        assert_eq!(first_lost([1, 2, 3, 14]), Some(Op::new(4)));
        assert_eq!(first_lost([11, 12, 13, 14]), Some(Op::new(4)), "nobody knows about the others");
    }
}
