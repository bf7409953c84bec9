//! Executions that broke the protocol, or a careless variant of it. Each cites the rule that prevents it.

use super::group::Group;
use crate::ids::{Hash, MemberId, Op, View};
use crate::message::{Entry, Extent, FetchWhat, Message};
use crate::replica::{Input, Replica, Status};
use std::time::Duration;

fn member(id: u8) -> MemberId {
    MemberId::new(id)
}

/// A group of three that all have `count` committed entries.
fn with_entries(count: u64) -> Group {
    let mut group = Group::formed(3, 0);
    for n in 0..count {
        group.propose(0, &format!("k{n}"));
    }
    group.run_until("all level", |group| group.level() && group.replica(0).head().op == Op::new(count));
    group
}

fn hashes(replica: &Replica, through: u64) -> Vec<(Op, Hash)> {
    (0..=through).map(|op| (Op::new(op), replica.cx.anchor(Op::new(op)).hash)).collect()
}

/// Member 2 restarted in the middle of an installation, learned from a heartbeat that op 3 is committed, and hears only
/// now the `StartView` with which the view began at op 2.
#[test]
fn n5_an_outdated_start_view_halts_nobody() {
    let mut group = with_entries(3);
    group.crash(2);
    group.members[2].disk.view = View::new(1);
    group.isolate(2);
    group.start(2);
    assert_eq!(group.replica(2).status().status, Status::ViewChange);
    let (commit, view) = (group.replica(0).commit(), View::new(1));
    let beat = Message::Commit {
        view,
        commit,
        age: Default::default(),
        round: Default::default(),
        trim: Op::ZERO,
        fresh: None,
    };
    group.input(2, Input::Message { from: member(1), message: beat.clone() });
    group.input(2, Input::Message { from: member(1), message: beat });
    let hashes = hashes(group.replica(0), 2);
    let commit = group.replica(0).cx.anchor(Op::new(2));
    let message = Message::StartView { view, commit, hashes, nonce: 0 };
    group.input(2, Input::Message { from: member(1), message });
    assert_eq!(group.members[2].halt, None);
    assert_eq!(group.replica(2).head().op, Op::new(3));
}

/// An answer that takes longer than the patience with which the next question is asked is an answer all the same.
#[test]
fn v7_a_member_catches_up_over_a_link_that_takes_a_second() {
    let mut group = with_entries(3);
    group.crash(2);
    group.members[2].disk.entries.clear();
    group.members[2].disk.damaged = Some(Extent::Open);
    group.lag = Duration::from_millis(500);
    group.start(2);
    group.run_until("repaired", |group| group.replica(2).status().status == Status::Normal);
    group.run_until("level", Group::level);
}

/// A member that has installed another log answers a request for the entry before one of view 0. If that answer were
/// appended, the next entry of view 0 would look like a divergence.
#[test]
fn n6_a_gap_is_filled_only_from_the_requested_log() {
    let mut group = with_entries(3);
    group.sent.clear();
    let another = Some(Hash::new(77));
    let (from, through) = (Op::new(2), Op::new(3));
    let message = Message::Fetch { from, through, hash: another, nonce: 5, what: FetchWhat::Entries };
    group.input(1, Input::Message { from: member(2), message });
    assert!(group.sent.is_empty(), "{:?}", group.sent);
}

/// Members that were away for many views must not climb to the others' view one by one, with a longer patience at each.
#[test]
fn v2_members_that_were_away_for_many_views_join_the_next_one_at_once() {
    let mut group = Group::formed(5, 0);
    group.crash(1);
    group.crash(2);
    while group.replica(4).view() < View::new(20) || group.serving() == Some(4) {
        let primary = group.serving().expect("serving");
        group.input(primary, Input::Handover);
        group.run_until("handed over", |group| group.serving().is_some_and(|id| id != primary));
    }
    group.crash(0);
    group.crash(3);
    group.start(1);
    group.start(2);
    let before = group.now.monotonic;
    group.run_until("a new primary", |group| group.serving().is_some());
    let outage = group.now.monotonic.since(before);
    assert!(outage < Duration::from_secs(2), "{outage:?}");
}

/// Damage below its checkpoint raises the floor of one member's journal. The others must nevertheless keep the entries
/// that a third member needs.
#[test]
fn trimming_uses_the_checkpoints_of_all_members() {
    let mut group = with_entries(6);
    let anchor = |group: &Group, op| group.replica(0).cx.anchor(Op::new(op));
    for (id, op) in [(1, 6), (2, 6)] {
        let checkpoint = anchor(&group, op);
        group.input(id, Input::Checkpointed { checkpoint });
    }
    group.crash(1);
    group.members[1].disk.trim(Op::new(4));
    group.start(1);
    group.crash(0);
    group.run_until("member 1 serves", |group| group.serving() == Some(1));
    group.start(0);
    group.run_for(200);
    let kept = group.members[2].disk.entries.first_key_value().map(|(op, _)| *op);
    assert_eq!(kept, Some(Op::new(1)), "member 0 has no checkpoint yet");
}

/// A restarted witness forgets the commit point: it then asks for hashes below the entries that the others still keep.
#[test]
fn trimming_waits_for_the_durable_checkpoint_of_a_witness() {
    let mut group = Group::formed(2, 1);
    for n in 0..6 {
        group.propose(0, &format!("k{n}"));
    }
    group.run_until("level", Group::level);
    group.run_for(30);
    for id in [0, 1] {
        let checkpoint = group.replica(0).cx.anchor(Op::new(6));
        group.input(id, Input::Checkpointed { checkpoint });
    }
    group.run_for(3_000);
    let durable = group.members[2].disk.checkpoint.op;
    for data in &group.members[..2] {
        assert!(data.disk.floor.0.op <= durable);
    }
    assert_eq!(group.members[0].disk.floor.0.op, Op::new(6), "and then it does drop");
}

/// Damage below its checkpoint has raised the primary's floor above the commit point of a member that holds those
/// entries itself.
#[test]
fn v7_the_hash_at_the_floor_may_be_all_that_a_member_lacks() {
    let mut group = with_entries(6);
    let checkpoint = group.replica(0).cx.anchor(Op::new(6));
    group.input(1, Input::Checkpointed { checkpoint });
    group.input(0, Input::Checkpointed { checkpoint });
    for id in 0..3 {
        group.crash(id);
    }
    group.members[0].disk.trim(Op::new(5));
    group.members[1].disk.trim(Op::new(5));
    group.members[2].disk.entries.retain(|op, _| *op <= Op::new(5));
    group.members[2].disk.damaged = Some(Extent::Open);
    for id in 0..3 {
        group.start(id);
    }
    group.run_until("repaired", |group| group.replica(2).status().status == Status::Normal && group.level());
}

/// Member 0, which has 3 entries, has decided the log of view 3 by the vote of member 1, the only one that has the last
/// of them: 31, of which member 2 has 30. Members 1 and 2 are down.
fn far_behind_in_view_3() -> Group {
    let mut group = with_entries(30);
    group.cut.extend([(0, 2), (1, 0)]);
    group.propose(0, "on 0 and 1 only");
    group.settle();
    for id in 0..3 {
        group.crash(id);
        group.members[usize::from(id)].disk.view = View::new(3);
    }
    assert_eq!([1, 2].map(|id| group.members[id].disk.head()), [Op::new(31), Op::new(30)]);
    group.members[0].disk.entries.retain(|op, _| *op <= Op::new(3));
    group.heal();
    group.start(0);
    group.start(1);
    // Its vote is on the way.
    group.crash(1);
    group.sent.clear();
    group.settle();
    group
}

fn votes_to_leave(group: &Group, view: u64) -> bool {
    let target = View::new(view + 1);
    group.sent.iter().any(|e| matches!(e.message, Message::StartViewChange { view } if view == target))
}

/// What member 2 has of the decided log must be asked of it without the entry that only member 1 had; then the view
/// must pass. Member 0 once fetched one entry for each round of time-outs, and held the view for as long as that took.
#[test]
fn v7_a_new_primary_asks_a_member_only_for_entries_in_its_vote() {
    let mut group = far_behind_in_view_3();
    group.start(2);
    let before = group.now.monotonic;
    group.run_until("member 0 has what 2 has", |group| group.replica(0).head().op == Op::new(30));
    let took = group.now.monotonic.since(before);
    assert!(
        took < group.options.failure_timeout_min * 2,
        "in runs, once the question to member 1 is given up: {took:?}"
    );
    group.run_until("another view", |group| {
        group.serving().is_some_and(|id| group.replica(id).view() > View::new(3))
    });
    let outage = group.now.monotonic.since(before);
    assert!(outage < group.options.failure_timeout_max * 8, "{outage:?}");
    assert_eq!(group.replica(2).head().op, Op::new(30));
}

/// Each entry that comes is progress, but another member may be further: the view is not held for as long as entries
/// come.
#[test]
fn v6_an_installation_that_is_too_slow_ends_the_view() {
    let mut group = far_behind_in_view_3();
    let nonce = group.sent.iter().find_map(|e| match e.message {
        Message::Fetch { nonce, .. } => Some(nonce),
        _ => None,
    });
    let nonce = nonce.expect("it asks");
    let entries: Vec<Entry> = group.members[1].disk.entries.values().skip(3).cloned().collect();
    let before = group.now.monotonic;
    for entry in entries {
        let op = entry.header.op;
        group.input(
            0,
            Input::Message { from: member(1), message: Message::NewState { nonce, entries: vec![entry] } },
        );
        assert_eq!(group.replica(0).head().op, op, "it goes on");
        if votes_to_leave(&group, 3) {
            break;
        }
        group.run_for(900);
    }
    let held = group.now.monotonic.since(before);
    assert!(votes_to_leave(&group, 3), "it holds the view");
    assert!(held > group.options.failure_timeout_max, "what moves is worth waiting for: {held:?}");
}
