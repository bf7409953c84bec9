//! Rule V8: the primary hands over its role to the member that was named, or refuses and keeps the role.

use super::group::Group;
use crate::config::Options;
use crate::ids::{MemberId, Op, View};
use crate::message::SuccessorRefusal;
use crate::replica::Input;

const fn member(id: u8) -> MemberId {
    MemberId::new(id)
}

/// A group whose members all have `count` committed entries.
fn with_entries(mut group: Group, count: u64) -> Group {
    for n in 0..count {
        group.propose(0, &format!("k{n}"));
    }
    group.run_until("all level", |group| group.level() && group.replica(0).head().op == Op::new(count));
    group
}

/// Asks member 0, as a driver does, which must be the primary.
fn ask(group: &mut Group, successor: u8) -> Result<(), SuccessorRefusal> {
    assert_eq!(group.serving(), Some(0));
    let now = group.now_of(0).monotonic;
    let checked = group.replica(0).check_successor(member(successor), now);
    group.input(0, Input::HandoverTo { successor: member(successor) });
    if checked.is_err() {
        assert_eq!((group.serving(), group.replica(0).view()), (Some(0), View::ZERO), "it keeps the role");
    }
    checked
}

#[test]
fn v8_a_handover_to_a_member_makes_this_member_the_next_primary() {
    for (data, witnesses) in [(2, 1), (3, 0), (4, 1), (5, 0)] {
        for successor in 1..data {
            let mut group = with_entries(Group::formed(data, witnesses), 3);
            group.propose(0, "last");
            assert_eq!(ask(&mut group, successor), Ok(()));
            assert!(!group.replica(0).is_serving(), "it takes no more requests");
            group.run_until("handed over", |group| group.serving().is_some_and(|id| id != 0));
            assert_eq!(group.serving(), Some(successor), "of {data} and {witnesses}");
            assert_eq!(group.replica(successor).view(), View::new(successor.into()), "at once");
            group.propose(successor, "next");
            group.run_until("level", |group| group.level() && group.replica(0).head().op == Op::new(5));
        }
    }
}

/// The number of views to go depends on the present one.
#[test]
fn v8_the_role_goes_from_any_member_to_any_other() {
    let mut group = with_entries(Group::formed(5, 0), 1);
    let mut primary = 0;
    for successor in [4, 3, 0, 2, 1, 0, 4] {
        group.run_until("level", Group::level);
        group.run_for(50);
        group.input(primary, Input::HandoverTo { successor: member(successor) });
        group.run_until("handed over", |group| group.serving().is_some_and(|id| id != primary));
        assert_eq!(group.serving(), Some(successor));
        primary = successor;
    }
}

/// A primary gives up nothing for a member that cannot take over.
#[test]
fn v8_a_handover_to_a_member_that_cannot_take_over_is_refused() {
    let mut group = with_entries(Group::formed(3, 2), 2);
    assert_eq!(ask(&mut group, 9), Err(SuccessorRefusal::Unknown(member(9))));
    assert_eq!(ask(&mut group, 4), Err(SuccessorRefusal::Witness(member(4))));
    assert_eq!(ask(&mut group, 0), Ok(()), "nothing to do");
    assert_eq!(group.serving(), Some(0));
    group.crash(2);
    group.run_for(1_000);
    assert_eq!(ask(&mut group, 2), Err(SuccessorRefusal::Silent(member(2))));
    // It answers, but lacks more than what is in flight.
    group.start(2);
    group.run_until("it is heard", |group| ask_only(group, 2) == Ok(()));
    group.members[2].stalled = true;
    for n in 0..=2 * u64::from(Options::default().pipeline_depth) {
        group.propose(0, &format!("more {n}"));
        group.settle();
    }
    group.run_for(50);
    assert_eq!(ask(&mut group, 2), Err(SuccessorRefusal::Behind(member(2))));
    group.members[2].stalled = false;
    group.finish_writes(2);
    group.run_until("it has caught up", |group| ask_only(group, 2) == Ok(()));
    assert_eq!(ask(&mut group, 2), Ok(()));
    group.run_until("handed over", |group| group.serving() == Some(2));
}

fn ask_only(group: &Group, successor: u8) -> Result<(), SuccessorRefusal> {
    group.replica(0).check_successor(member(successor), group.now_of(0).monotonic)
}

/// A member that has not adopted the log of the view acknowledges nothing.
#[test]
fn v8_a_handover_to_a_member_that_is_not_in_the_view_is_refused() {
    let mut group = with_entries(Group::formed(3, 0), 2);
    group.isolate(2);
    group.input(0, Input::Handover);
    group.run_until("handed over", |group| group.serving() == Some(1));
    let refusal = |group: &Group| {
        let now = group.now_of(1).monotonic;
        group.replica(1).check_successor(member(2), now)
    };
    assert_eq!(refusal(&group), Err(SuccessorRefusal::Silent(member(2))));
    // Its messages arrive, and those of the primary do not.
    group.heal();
    group.cut.extend([(1, 2), (0, 2)]);
    group.run_for(1_000);
    assert!(refusal(&group).is_err());
    assert_eq!(group.serving(), Some(1));
    group.heal();
    group.run_until("it is in the view", |group| refusal(group) == Ok(()));
}

/// The named member has to fetch nothing: it receives every entry before the primary leaves.
#[test]
fn v8_a_named_successor_receives_what_is_in_flight_first() {
    let mut group = with_entries(Group::formed(3, 0), 1);
    group.run_for(10);
    group.members[2].stalled = true;
    group.propose(0, "in flight");
    group.settle();
    assert_eq!(group.replica(0).commit().op, Op::new(2), "the other one has it");
    assert_eq!(ask(&mut group, 2), Ok(()));
    group.run_for(20);
    assert_eq!(group.replica(0).view(), View::ZERO, "it waits");
    group.members[2].stalled = false;
    group.finish_writes(2);
    group.run_until("handed over", |group| group.serving().is_some_and(|id| id != 0));
    assert_eq!(group.serving(), Some(2));
    group.run_until("level", Group::level);
}

/// Whenever the named member fails, another one takes over.
#[test]
fn v8_if_the_named_successor_fails_another_member_takes_over() {
    for members in [3, 5] {
        // Before it hears of it, while it hears of it, and once it has voted.
        for steps in 0..40 {
            let mut group = with_entries(Group::formed(members, 0), 2);
            group.propose(0, "last");
            assert_eq!(ask(&mut group, 2), Ok(()));
            for _ in 0..steps {
                if !group.deliver() {
                    group.tick();
                }
            }
            group.crash(2);
            group.run_until("another one serves", |group| group.serving().is_some_and(|id| id != 2));
            let next = group.serving().expect("it serves");
            group.propose(next, "next");
            group.run_until("committed", |group| group.replica(next).commit().op == Op::new(4));
            group.start(2);
            group.run_until("level", Group::level);
        }
    }
}

/// The named member falls silent while the primary waits for it: the primary leaves for the next one that it hears.
#[test]
fn v8_a_primary_waits_for_a_named_successor_only_for_a_while() {
    let mut group = with_entries(Group::formed(3, 0), 2);
    group.members[2].stalled = true;
    group.propose(0, "last");
    group.settle();
    assert_eq!(ask(&mut group, 2), Ok(()));
    group.isolate(2);
    group.run_until("the other one serves", |group| group.serving() == Some(1));
    assert_eq!(group.replica(1).view(), View::new(1));
}
