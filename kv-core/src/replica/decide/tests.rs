//! The decision as a table: rule V5 of PROTOCOL.md, case by case.

use super::*;

fn hash(op: u64, branch: u64) -> Hash {
    Hash::new(u128::from(op) << 64 | u128::from(branch))
}

/// A summary with `log_view`, committed through `commit` on branch 0, and these slots above.
fn summary(log_view: u64, commit: u64, slots: &[Slot]) -> LogSummary {
    let commit = Anchor::new(Op::new(commit), if commit == 0 { Hash::ZERO } else { hash(commit, 0) });
    LogSummary {
        log_view: View::new(log_view),
        checkpoint: Anchor::ZERO,
        commit,
        lacks: Vec::new(),
        head: commit.op.advance(slots.len() as u64),
        suffix: slots.to_vec(),
        tail: Vec::new(),
        extent: Extent::Through(commit.op.advance(slots.len() as u64)),
    }
}

fn present(op: u64, branch: u64) -> Slot {
    Slot::Present(hash(op, branch))
}

fn votes(summaries: &[LogSummary]) -> BTreeMap<MemberId, LogSummary> {
    (0..).zip(summaries).map(|(id, summary)| (MemberId::new(id), summary.clone())).collect()
}

/// Three members: view-change quorum 2, nack quorum 2.
const THREE: Quorums = Quorums { members: 3, view_change: 2, nack: 2 };
/// Five members: view-change quorum 3, nack quorum 3.
const FIVE: Quorums = Quorums { members: 5, view_change: 3, nack: 3 };

fn decide(votes: &Votes, quorums: Quorums) -> Option<DecidedLog> {
    match super::decide(votes, quorums) {
        LogDecision::Log(log) => Some(log),
        LogDecision::TooFew | LogDecision::Stuck(_) => None,
    }
}

#[test]
fn v5_one_vote_of_three_decides_nothing() {
    assert_eq!(decide(&votes(&[summary(0, 0, &[])]), THREE), None);
}

#[test]
fn v5c_an_entry_present_anywhere_with_the_newest_log_view_is_kept() {
    let votes = votes(&[summary(1, 0, &[present(1, 0)]), summary(1, 0, &[present(1, 0), present(2, 0)])]);
    let decided = decide(&votes, THREE).expect("complete");
    assert_eq!((decided.base, decided.head()), (Anchor::ZERO, Op::new(2)));
}

/// A suffix of an older log view never outlives a newer one's, however long it is.
#[test]
fn v5b_a_longer_log_of_an_older_log_view_does_not_count() {
    let old = summary(1, 0, &[present(1, 9), present(2, 9), present(3, 9)]);
    let votes = votes(&[summary(2, 0, &[present(1, 0)]), old]);
    let decided = decide(&votes, THREE).expect("complete");
    assert_eq!(decided.suffix, vec![hash(1, 0)]);
}

/// The new primary's own smaller commit number as the base would let a committed entry be cut.
#[test]
fn v5a_the_base_is_the_greatest_commit_in_the_quorum_whatever_its_log_view() {
    let votes = votes(&[summary(3, 1, &[present(2, 0), present(3, 0), present(4, 0)]), summary(1, 3, &[])]);
    let decided = decide(&votes, THREE).expect("complete");
    assert_eq!(decided.base, Anchor::new(Op::new(3), hash(3, 0)));
    assert_eq!(decided.suffix, vec![hash(4, 0)]);
}

/// Two members of equal log view that differ, after a crash in the middle of an installation.
#[test]
fn v5b_two_of_the_newest_log_view_that_differ_prove_that_neither_is_committed() {
    let votes = votes(&[
        summary(1, 1, &[present(2, 0), present(3, 0)]),
        summary(1, 1, &[present(2, 0), present(3, 7), present(4, 7)]),
    ]);
    let decided = decide(&votes, THREE).expect("complete");
    assert_eq!(decided.head(), Op::new(2));
}

/// A faulty entry is never a nack: it may have been acknowledged.
#[test]
fn v5d_a_faulty_entry_waits_for_an_intact_copy_or_a_nack_quorum() {
    let faulty = summary(1, 0, &[Slot::Faulty(Some(hash(1, 0)))]);
    let absent = summary(1, 0, &[]);
    assert_eq!(decide(&votes(&[faulty.clone(), absent.clone()]), THREE), None);
    let decided = decide(&votes(&[faulty.clone(), absent.clone(), absent]), THREE).expect("complete");
    assert_eq!(decided.head(), Op::ZERO);
    let intact = summary(0, 0, &[present(1, 0)]);
    let decided = decide(&votes(&[faulty, intact]), THREE).expect("complete");
    assert_eq!(decided.suffix, vec![hash(1, 0)]);
}

/// An uncertain head: an op that may or may not have existed.
#[test]
fn v5d_a_faulty_entry_without_a_hash_is_kept_if_another_names_it_and_cut_by_nacks() {
    let unknown = summary(1, 0, &[Slot::Faulty(None)]);
    let decided =
        decide(&votes(&[unknown.clone(), summary(1, 0, &[present(1, 0)])]), THREE).expect("complete");
    assert_eq!(decided.suffix, vec![hash(1, 0)]);
    let absent = summary(1, 0, &[]);
    assert_eq!(decide(&votes(&[unknown.clone(), absent.clone()]), THREE), None);
    let decided = decide(&votes(&[unknown, absent.clone(), absent]), THREE).expect("complete");
    assert_eq!(decided.head(), Op::ZERO);
}

/// A lower log view counted as a nack while the greatest one's entry is faulty would cut a committed entry.
#[test]
fn v5d_a_lower_log_view_does_not_nack_while_every_newest_copy_is_faulty() {
    let faulty = summary(2, 0, &[Slot::Faulty(Some(hash(1, 0)))]);
    let older = summary(1, 0, &[]);
    assert_eq!(decide(&votes(&[faulty.clone(), older.clone()]), THREE), None);
    // Two of the older log view are a quorum of their own: it was never committed.
    let decided = decide(&votes(&[faulty.clone(), older.clone(), older.clone()]), THREE).expect("complete");
    assert_eq!(decided.head(), Op::ZERO);
    let newest_without = summary(2, 0, &[]);
    assert_eq!(decide(&votes(&[faulty.clone(), faulty.clone(), older.clone(), older.clone()]), FIVE), None);
    let decided = decide(&votes(&[faulty.clone(), faulty, newest_without, older.clone(), older]), FIVE)
        .expect("complete");
    assert_eq!(decided.head(), Op::ZERO);
}

#[test]
fn v5_the_decision_does_not_depend_on_the_senders() {
    let all = [
        summary(2, 1, &[present(2, 0)]),
        summary(2, 2, &[present(3, 0)]),
        summary(1, 0, &[present(1, 0), present(2, 5)]),
    ];
    let expected = decide(&votes(&all), THREE);
    for order in [[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let shuffled: Vec<LogSummary> = order.iter().map(|i| all[*i].clone()).collect();
        assert_eq!(decide(&votes(&shuffled), THREE), expected);
    }
}

/// An open tail may hide a committed op: it is no nack, and what it may hide must be shown not to exist.
#[test]
fn v5e_an_open_end_is_never_a_nack() {
    let open = LogSummary { extent: Extent::Open, ..summary(1, 0, &[present(1, 0)]) };
    let whole = summary(1, 0, &[present(1, 0)]);
    assert_eq!(super::decide(&votes(&[open.clone(), whole.clone()]), THREE), LogDecision::Stuck(Op::new(2)));
    let decided = decide(&votes(&[open.clone(), whole.clone(), whole]), THREE).expect("complete");
    assert_eq!(decided.suffix, vec![hash(1, 0)]);
    let longer = summary(1, 0, &[present(1, 0), present(2, 0)]);
    assert_eq!(super::decide(&votes(&[open.clone(), longer]), THREE), LogDecision::Stuck(Op::new(3)));
    // Op 2 is absent at one only: the other two may have committed it.
    let short = summary(1, 0, &[]);
    assert_eq!(super::decide(&votes(&[open.clone(), open, short]), THREE), LogDecision::Stuck(Op::new(2)));
}

/// Rules V4 and V5e: of a log with a long hole, what is behind the hole is listed too, and nothing was ever above it.
#[test]
fn v4_what_is_behind_a_long_hole_counts() {
    let hole = |tail: &[(u64, Slot)], extent| LogSummary {
        tail: tail.iter().map(|(op, slot)| (Op::new(*op), *slot)).collect(),
        extent,
        ..summary(1, 0, &[present(1, 0), Slot::Faulty(None)])
    };
    let through = |op| Extent::Through(Op::new(op));
    let whole = |last: u64| summary(1, 0, &(1..=last).map(|op| present(op, 0)).collect::<Vec<_>>());
    let hashes = |last: u64| (1..=last).map(|op| hash(op, 0)).collect::<Vec<_>>();
    // It surely never held more than the other.
    let decided =
        decide(&votes(&[whole(5), hole(&[(5, present(5, 0))], through(5))]), THREE).expect("complete");
    assert_eq!(decided.suffix, hashes(5));
    let decided = decide(&votes(&[whole(5), hole(&[], through(5))]), THREE).expect("complete");
    assert_eq!(decided.suffix, hashes(5));
    // It has what the other lacks.
    let tail = [(5, present(5, 0)), (6, present(6, 0))];
    let decided = decide(&votes(&[whole(4), hole(&tail, through(6))]), THREE).expect("complete");
    assert_eq!(decided.suffix, hashes(6));
    // It may have held one more.
    let longer = votes(&[whole(5), hole(&[(5, present(5, 0))], through(6))]);
    assert_eq!(super::decide(&longer, THREE), LogDecision::Stuck(Op::new(6)));
    let open = votes(&[whole(5), hole(&[(5, present(5, 0))], Extent::Open)]);
    assert_eq!(super::decide(&open, THREE), LogDecision::Stuck(Op::new(6)));
}

/// Of a lower log view, an open end hides nothing that counts.
#[test]
fn v5e_an_open_end_of_an_older_log_view_does_not_block() {
    let open = LogSummary { extent: Extent::Open, ..summary(1, 0, &[]) };
    let newest = summary(2, 0, &[present(1, 0)]);
    let decided = decide(&votes(&[open, newest]), THREE).expect("complete");
    assert_eq!(decided.suffix, vec![hash(1, 0)]);
}

/// The only member of the newest log view is damaged at an op that only it received: the others decide without it.
#[test]
fn v5f_a_quorum_without_a_damaged_member_decides_alone() {
    let damaged = summary(5, 0, &[Slot::Faulty(None)]);
    let others = summary(4, 0, &[present(1, 0)]);
    assert_eq!(decide(&votes(&[damaged.clone(), others.clone()]), THREE), None);
    let decided = decide(&votes(&[damaged, others.clone(), others.clone()]), THREE).expect("complete");
    assert_eq!(decided.suffix, vec![hash(1, 0)]);
    // An entry that it knows to be committed stays, regardless of which member has it.
    let committed = LogSummary { extent: Extent::Open, ..summary(5, 2, &[]) };
    let decided = decide(&votes(&[committed, others.clone(), others]), THREE).expect("complete");
    assert_eq!((decided.base.op, decided.head()), (Op::new(2), Op::new(2)));
}

/// Rule V5: member 1 alone has the log of view 1, and does not know whether it reached op 3. What member 0 still has of
/// view 0 was acknowledged by both, or never committed.
#[test]
fn v5g_the_last_copy_of_an_older_log_view_is_kept_if_nothing_else_can_be_committed() {
    let copy = summary(0, 1, &[Slot::Faulty(Some(hash(2, 0))), present(3, 0)]);
    let open = LogSummary { extent: Extent::Open, ..summary(1, 1, &[present(2, 0)]) };
    let without = summary(0, 1, &[]);
    let decided = decide(&votes(&[copy.clone(), open.clone(), without]), THREE).expect("complete");
    assert_eq!(decided.suffix, vec![hash(2, 0), hash(3, 0)]);
    // Both of the others may have acknowledged another one in view 1.
    let unknown = votes(&[copy.clone(), open.clone(), open.clone()]);
    assert_eq!(super::decide(&unknown, THREE), LogDecision::Stuck(Op::new(3)));
    // It does not continue the entries that are kept below. So it was not committed, and no other entry can have been.
    let other = summary(0, 1, &[Slot::Faulty(Some(hash(2, 7))), present(3, 7)]);
    let broken = votes(&[other, open.clone(), summary(0, 1, &[])]);
    assert_eq!(decide(&broken, THREE).expect("complete").head(), Op::new(2));
    // Not everyone has answered.
    assert_eq!(super::decide(&votes(&[copy, open]), THREE), LogDecision::Stuck(Op::new(3)));
}

/// Rule V5: a log of view 0 has one entry at op 3. Members 1 and 2 may both have acknowledged it; had they acknowledged
/// another one later, both would be of a later view.
#[test]
fn v5g_the_last_copy_of_an_entry_is_kept_if_the_others_are_open() {
    let copy = summary(0, 1, &[present(2, 0), present(3, 0)]);
    let later = summary(1, 1, &[present(2, 0), Slot::Faulty(None)]);
    let equal = summary(0, 1, &[present(2, 0), Slot::Faulty(None)]);
    let decided = decide(&votes(&[copy.clone(), later.clone(), equal]), THREE).expect("complete");
    assert_eq!(decided.suffix, vec![hash(2, 0), hash(3, 0)]);
    let unknown = votes(&[copy, later.clone(), later]);
    assert_eq!(super::decide(&unknown, THREE), LogDecision::Stuck(Op::new(3)));
}
