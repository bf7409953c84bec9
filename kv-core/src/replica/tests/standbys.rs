//! Standbys: members that receive the log and the state, and are in no quorum. No list of members contains one yet; the
//! list of these groups does.

use super::group::{Group, Kind};
use crate::config::Options;
use crate::ids::{Hash, MemberId, Op, View};
use crate::message::{Message, SuccessorRefusal};
use crate::replica::{Halt, Input, StallReason, Status, stall_reason};
use std::time::Duration;

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

/// Otherwise one member that is in no quorum moves the others as far as the numbers go.
#[test]
fn v2_a_view_of_a_standby_moves_a_voter_only_a_little() {
    let mut group = group(2);
    let message = Message::GetState { view: View::new(1 << 30), nonce: 1 };
    group.input(0, Input::Message { from: id(2), message: message.clone() });
    assert_eq!(group.replica(0).view(), View::new(1024));
    group.input(0, Input::Message { from: id(1), message });
    assert_eq!(group.replica(0).view(), View::new(1 << 30));
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

/// V5h, V5i: all voters have answered, and none has the entry. Nobody waits for the answer of the standby, which never
/// comes.
#[test]
fn v5h_an_entry_that_all_voters_have_lost_halts_them() {
    let options = Options { pipeline_depth: 4, ..Options::default() };
    // Op 3 is below what a vote lists, and op 12 is in the list.
    for lost in [3, 12] {
        let mut group = Group::with_standbys(3, 0, 1, options.clone());
        group.run_until("a primary serves", |group| group.serving() == Some(0));
        for n in 0..12 {
            group.propose(0, &format!("k{n}"));
            group.settle();
        }
        group.run_until("level", Group::level);
        for member in 0..4 {
            group.crash(member);
            group.members[usize::from(member)].disk.bad.insert(Op::new(lost));
        }
        (0..4).for_each(|member| group.start(member));
        let halt = Some(Halt::Lost { op: Op::new(lost) });
        group.run_until("a voter halts", |group| group.members[..3].iter().any(|it| it.halt == halt));
        assert_eq!(group.serving(), None);
    }
}

/// T7: every voter had a turn, and none has a state. Standbys have no turn.
#[test]
fn t7_standbys_have_no_turn_as_primary() {
    let views_at_once = |standbys: u8| {
        let mut group = Group::with_standbys(2, 0, standbys, Options::default());
        group.run_until("a primary serves", |group| group.serving() == Some(0));
        (0..2 + standbys).for_each(|member| group.crash(member));
        for member in 0..2 {
            group.members[usize::from(member)].stateless = true;
            group.start(member);
            group.input(member, Input::StateLost);
        }
        group.run_until("a view change", |group| group.replica(0).view() > View::ZERO);
        group.settle();
        group.replica(0).view()
    };
    let alone = views_at_once(0);
    assert!(alone > View::ZERO);
    for standbys in 1..4 {
        assert_eq!(views_at_once(standbys), alone, "{standbys} standbys");
    }
}

/// What the simulator knows about members that cannot go on by themselves.
#[test]
fn v2_a_standby_does_not_help_voters_to_go_on() {
    let group = group(3);
    let vote = |member: u8| group.replica(member).vote();
    assert_eq!(stall_reason(&group.cluster, &[vote(0), vote(3)]), Some(StallReason::TooFew));
    assert_eq!(stall_reason(&group.cluster, &[vote(0), vote(1)]), None);
}

/// Whom `member` has asked, in this order, each named once.
fn asked(group: &Group, member: u8, is_question: impl Fn(&Message) -> bool) -> Vec<u8> {
    let questions = group.sent.iter().filter(|sent| sent.from == id(member) && is_question(&sent.message));
    let mut asked: Vec<u8> = Vec::new();
    for to in questions.map(|sent| sent.to.get()) {
        if !asked.contains(&to) {
            asked.push(to);
        }
    }
    asked
}

/// D8, V7, T6: a standby may have little of the log, and no state.
#[test]
fn standbys_are_asked_last() {
    let kinds = [Kind::Standby, Kind::Data, Kind::Data, Kind::Data];
    let mut group = Group::of(&kinds, Options::default());
    group.run_until("a primary serves", |group| group.serving() == Some(1));
    group.propose(1, "a");
    group.run_until("level", |group| group.level() && group.replica(1).head().op == Op::new(1));
    // An entry that cannot be read, and nobody answers.
    group.isolate(3);
    group.sent.clear();
    group.input(3, Input::Faulty { op: Op::new(1) });
    group.run_for(20_000);
    assert_eq!(asked(&group, 3, |it| matches!(it, Message::Fetch { .. })), [1, 2, 0]);
    // A state that is lost.
    group.sent.clear();
    group.input(3, Input::StateLost);
    group.run_for(20_000);
    assert_eq!(asked(&group, 3, |it| matches!(it, Message::GetSnapshot { .. }))[..2], [1, 2]);
    // The log of a view.
    group.heal();
    group.crash(3);
    group.members[3].disk.bad.clear();
    group.propose(1, "b");
    group.run_for(100);
    group.start(3);
    group.sent.clear();
    let fetches = |message: &Message| matches!(message, Message::Fetch { .. });
    let hashes = group.replica(1).head();
    let view = View::new(3);
    let message =
        Message::StartView { view, commit: hashes, hashes: vec![(hashes.op, hashes.hash)], nonce: 0 };
    group.isolate(3);
    group.input(3, Input::Message { from: id(1), message });
    group.run_for(20_000);
    assert_eq!(asked(&group, 3, fetches), [1, 2, 0]);
}

/// R6: a single voter has promised nothing to anybody.
#[test]
fn r6_a_single_voter_assumes_no_promise() {
    for (voters, holds) in [(1, false), (2, true)] {
        let options = Options { read_lease: Duration::from_millis(200), ..Options::default() };
        let mut group = Group::with_standbys(voters, 0, 1, options);
        group.run_until("a primary serves", |group| group.serving() == Some(0));
        group.crash(0);
        group.start(0);
        assert_eq!(group.replica(0).cx.held_until().is_some(), holds, "{voters} voters");
    }
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
