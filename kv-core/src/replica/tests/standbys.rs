//! Standbys: members that receive the log and the state, and are in no quorum. No list of members contains one yet; the
//! list of these groups does.

use super::group::Group;
use crate::config::Options;
use crate::ids::{Hash, MemberId, Op, View};
use crate::message::{Message, SuccessorRefusal};
use crate::replica::{Halt, Input, Status};

fn id(number: u8) -> MemberId {
    MemberId::new(number)
}

/// The members before the last are data members that vote, and the last one is a standby. All have two entries.
fn group(voters: u8) -> Group {
    let mut group = Group::with_standbys(voters, 0, 1, Options::default());
    group.run_until("a primary serves", |group| group.serving() == Some(0));
    group.propose(0, "a");
    group.propose(0, "b");
    group.run_until("all level", |group| group.level() && group.replica(0).head().op == Op::new(2));
    group.run_for(200);
    group
}

/// What a member has acknowledged, as the primary knows it.
fn acknowledged(group: &Group, peer: u8) -> Op {
    let progress = group.replica(0).peers();
    progress.iter().find(|it| it.id == id(peer)).map_or(Op::ZERO, |it| it.acknowledged)
}

#[test]
fn n4_a_standby_does_not_count() {
    let mut group = group(3);
    (1..3).for_each(|peer| group.isolate(peer));
    group.propose(0, "c");
    group.run_for(50);
    assert_eq!(acknowledged(&group, 3), Op::new(3), "it receives and acknowledges entries like a backup");
    assert_eq!(group.replica(0).commit().op, Op::new(2));
    group.heal();
    group.run_until("a voter counts", |group| group.replica(0).commit().op == Op::new(3));
}

#[test]
fn n4_nobody_waits_for_a_standby() {
    for voters in [1, 2, 3] {
        let mut group = group(voters);
        group.crash(voters);
        group.propose(0, "c");
        group.run_for(50);
        assert_eq!(group.replica(0).commit().op, Op::new(3), "{voters} voters");
    }
}

#[test]
fn r1_a_standby_answers_no_round() {
    let mut group = group(3);
    (1..3).for_each(|peer| group.isolate(peer));
    group.read(0, 7);
    group.run_for(50);
    assert!(group.members[0].ready.is_empty());
    group.heal();
    group.run_until("a quorum answers", |group| !group.members[0].ready.is_empty());
}

#[test]
fn v8_a_primary_that_only_standbys_hear_abdicates() {
    let mut group = group(3);
    (1..3).for_each(|peer| group.isolate(peer));
    group.run_until("it abdicates", |group| !group.replica(0).is_serving());
}

#[test]
fn v2_a_standby_has_no_vote() {
    let mut group = group(3);
    group.crash(0);
    group.crash(2);
    group.sent.clear();
    group.run_for(20_000);
    assert_eq!((group.replica(1).view(), group.replica(3).view()), (View::ZERO, View::ZERO));
    let is_vote =
        |message: &Message| matches!(message, Message::StartViewChange { .. } | Message::DoViewChange { .. });
    let votes = |group: &Group, from: u8| {
        group.sent.iter().filter(|sent| sent.from == id(from) && is_vote(&sent.message)).count()
    };
    assert!(votes(&group, 1) > 0 && votes(&group, 3) == 0);
    group.start(2);
    group.run_until("a view starts", |group| group.serving().is_some_and(|primary| primary != 3));
    group.run_until("the standby follows", |group| {
        group.level() && group.replica(3).status().status == Status::Normal
    });
    assert_eq!(group.replica(3).view(), group.replica(1).view());
    assert_eq!(votes(&group, 3), 0);
}

/// A vote that claims to be a standby's does not count either: whoever sent it was a voter of another list.
#[test]
fn v2_votes_of_standbys_are_ignored() {
    let mut group = group(3);
    group.crash(0);
    group.crash(2);
    let view = View::new(4);
    group.run_until("it suspects", |group| group.replica(1).status().primary.is_none());
    group.input(1, Input::Message { from: id(3), message: Message::StartViewChange { view } });
    group.run_for(100);
    assert_eq!(group.replica(1).view(), View::ZERO);
    let log = group.replica(1).vote_for_tests();
    let message = Message::DoViewChange { view, log, ages: Vec::new() };
    group.input(1, Input::Message { from: id(3), message });
    assert_eq!(group.replica(1).view(), View::ZERO);
}

/// A standby that restarts in a view whose log it has not installed asks for that log, and sends no summary.
#[test]
fn v2_a_standby_that_restarts_between_views_asks_the_primary() {
    let mut group = group(3);
    group.crash(3);
    group.input(0, Input::Handover);
    group.run_until("handed over", |group| group.serving() == Some(1));
    group.members[3].disk.view = group.replica(1).view();
    group.sent.clear();
    group.start(3);
    assert_eq!(group.replica(3).status().status, Status::CatchingUp);
    group.run_until("it is level", Group::level);
    assert!(!group.sent.iter().any(|sent| {
        sent.from == id(3)
            && matches!(sent.message, Message::DoViewChange { .. } | Message::StartViewChange { .. })
    }));
}

#[test]
fn s1_a_standby_judges_only_itself() {
    for voters in [1, 3] {
        for standby_first in [true, false] {
            let mut group = group(voters);
            let mut order: Vec<u8> = (0..=voters).collect();
            if standby_first {
                order.reverse();
            }
            for member in order {
                let digest = Hash::new(if member == voters { 5 } else { 7 });
                group.input(member, Input::StateDigest { op: Op::new(2), digest });
                group.settle();
            }
            for voter in 0..voters {
                assert_eq!(group.members[usize::from(voter)].halt, None, "voter {voter} of {voters}");
            }
            let differs = Halt::StateDiffers { op: Op::new(2), ours: Hash::new(5), theirs: Hash::new(7) };
            assert_eq!(group.members[usize::from(voters)].halt, Some(differs), "{voters} voters");
        }
    }
}

/// The entries that a standby lacks are kept within the budget, and a witness keeps none for it.
#[test]
fn t8_a_standby_holds_back_no_more_than_the_budget() {
    let options =
        Options { journal_retention_bytes: 16 * 4096, witness_journal_bytes: 1 << 20, ..Options::default() };
    let mut group = Group::with_standbys(2, 1, 1, options);
    group.run_until("a primary serves", |group| group.serving() == Some(0));
    group.crash(3);
    for n in 0..60 {
        group.propose(0, &format!("k{n}"));
        group.settle();
    }
    group.run_for(100);
    (0..2).for_each(|member| group.checkpoint(member));
    let floor = |group: &Group, member: usize| group.members[member].disk.floor.0.op;
    group.run_until("the voters need nothing", |group| floor(group, 2) >= Op::new(60));
    for member in 0..2 {
        let kept = floor(&group, member);
        assert!(kept > Op::new(10) && kept < Op::new(60), "member {member} keeps its budget: {kept:?}");
    }
    group.start(3);
    group.run_until("the standby is level", |group| group.level() && group.installed > 0);
}

#[test]
fn v8_the_role_is_not_handed_over_to_a_standby() {
    let mut group = group(2);
    let refusal = group.replica(0).check_successor(id(2), group.now.monotonic);
    assert_eq!(refusal, Err(SuccessorRefusal::Unknown(id(2))));
    group.input(0, Input::HandoverTo { successor: id(2) });
    group.run_for(500);
    assert_eq!((group.serving(), group.replica(0).view()), (Some(0), View::ZERO));
    group.input(0, Input::Handover);
    group.run_until("the voter takes over", |group| group.serving() == Some(1));
    let mut alone = self::group(1);
    alone.input(0, Input::Handover);
    alone.run_for(500);
    assert_eq!((alone.serving(), alone.replica(0).view()), (Some(0), View::ZERO));
}

/// A single voter is not alone, but nobody else has acknowledged its entries: it goes on from its own log.
#[test]
fn a_single_voter_starts_without_its_standby() {
    let mut group = group(1);
    (0..2).for_each(|member| group.crash(member));
    group.start(0);
    group.run_until("it serves", |group| group.serving() == Some(0));
    group.start(1);
    group.propose(0, "c");
    group.run_until("level", |group| group.level() && group.replica(1).head().op == Op::new(3));
}
