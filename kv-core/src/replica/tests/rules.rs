//! One test, one rule.

use super::group::Envelope;
use super::group::Group;
use crate::ids::{Anchor, Hash, MemberId, Op, View};
use crate::message::{Command, Extent, FormationStep, Message, Operation, Request};
use crate::replica::context::RUN_BYTES;
use crate::replica::primary::WINDOW_BYTES;
use crate::replica::{Halt, Input, Status};
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

#[test]
fn f2_a_first_start_needs_all_members_once() {
    let mut group = Group::new(3, 0);
    group.crash(2);
    group.members[2].disk.formation = FormationStep::Empty;
    group.run_for(500);
    assert_eq!(group.serving(), None);
    group.start(2);
    group.run_until("formed", |group| group.serving().is_some());
}

/// If a member answered before its step was durable and returned empty, the members that formed because of its answer
/// would refuse it.
#[test]
fn f3_only_the_durable_step_is_reported() {
    let mut group = Group::new(3, 0);
    group.members[2].stalled = true;
    group.run_for(500);
    let is_sent = |e: &Envelope| {
        e.from == member(2)
            && matches!(e.message, Message::Formation { step, .. } if step > FormationStep::Empty)
    };
    assert!(!group.sent.iter().any(is_sent), "nothing is durable there");
    assert_eq!(group.serving(), None);
    assert!(group.members[0].disk.formation < FormationStep::Formed);
    group.members[2].stalled = false;
    group.finish_writes(2);
    group.run_until("formed", |group| group.serving().is_some());
}

#[test]
fn f4_a_wiped_member_of_a_formed_cluster_is_disk_loss() {
    let mut group = with_entries(1);
    group.crash(2);
    group.members[2].disk = Group::new(1, 0).members[0].disk.clone();
    group.members[2].disk.formation = FormationStep::Empty;
    group.members[2].disk.entries.clear();
    group.start(2);
    group.run_until("halted", |group| group.members[2].halt.is_some());
    assert!(matches!(group.members[2].halt, Some(Halt::DiskLoss { .. })));
}

#[test]
fn f5_one_member_alone_forms_and_serves() {
    let mut group = Group::formed(1, 0);
    group.propose(0, "k");
    assert_eq!(group.replica(0).commit().op, Op::new(1));
    group.crash(0);
    group.start(0);
    group.run_until("serves again", |group| group.serving() == Some(0));
    assert_eq!(group.replica(0).commit().op, Op::new(1));
    assert!(group.replica(0).view() > View::ZERO, "a restarted primary never resumes its view");
}

/// Rules N1 and N8.
#[test]
fn n1_entries_chain_and_every_change_has_a_revision() {
    let mut group = with_entries(1);
    let of = |operation| Request { operation, ..Request::expiry(Vec::new()) }.encode();
    let delete = || Operation::Command(Command::Delete { key: "k".into(), condition: None });
    let requests = [delete(), Operation::OpenSession { nonce: 1 }, delete(), Operation::CloseSession];
    group.input(0, Input::Propose { requests: requests.map(of).into() });
    group.propose(0, "next");
    group.run_until("level", Group::level);
    let entries = &group.members[1].disk.entries;
    let (second, third) = (&entries[&Op::new(2)], &entries[&Op::new(3)]);
    assert_eq!((second.header.request_count, second.header.revision_count), (4, 2));
    assert_eq!(third.header.parent, second.header.hash());
    assert_eq!(third.header.first_revision, second.header.first_revision.advance(2));
    assert_eq!((second.check(), third.check()), (Ok(()), Ok(())));
    assert!(third.header.timestamp >= second.header.timestamp);
}

#[test]
fn n2_a_quorum_of_backups_commits_without_the_primarys_disk() {
    let mut group = with_entries(1);
    group.members[0].stalled = true;
    group.propose(0, "x");
    group.settle();
    assert_eq!(group.replica(0).commit().op, Op::new(2));
    assert_eq!(group.replica(0).durable().op, Op::new(1));
}

#[test]
fn n3_at_most_pipeline_depth_entries_are_uncommitted() {
    let mut group = with_entries(1);
    group.isolate(0);
    for n in 0..100 {
        group.propose(0, &format!("x{n}"));
    }
    let replica = group.replica(0);
    assert_eq!(replica.head().op.distance_from(replica.commit().op), 32);
}

#[test]
fn n4_nothing_is_acknowledged_before_it_is_durable() {
    let mut group = with_entries(1);
    group.members[1].stalled = true;
    group.members[2].stalled = true;
    group.sent.clear();
    group.propose(0, "x");
    group.settle();
    let acknowledged = |e: &Envelope| {
        matches!(&e.message, Message::PrepareOk { log, .. } if log.op == Op::new(2))
            || matches!(&e.message, Message::CommitOk { log: Some(log), .. } if log.op == Op::new(2))
    };
    assert!(!group.sent.iter().any(acknowledged));
    assert_eq!(group.replica(0).commit().op, Op::new(1));
    group.finish_writes(1);
    group.settle();
    assert_eq!(group.replica(0).commit().op, Op::new(2));
}

/// A commit number learned while still catching up must not be applied to a different local entry.
#[test]
fn n5_a_commit_point_with_another_hash_has_no_effect_while_catching_up() {
    let mut group = with_entries(1);
    group.cut.extend([(0, 1), (0, 2)]);
    group.propose(0, "only here");
    assert_eq!(group.replica(0).head().op, Op::new(2));
    let commit = Anchor::new(Op::new(2), Hash::new(77));
    let later = Message::Commit {
        view: View::new(1),
        commit,
        age: Default::default(),
        round: Default::default(),
        trim: Op::ZERO,
        fresh: None,
    };
    group.input(0, Input::Message { from: member(1), message: later.clone() });
    group.input(0, Input::Message { from: member(1), message: later });
    assert_eq!(group.replica(0).status().status, Status::CatchingUp);
    assert_eq!(group.replica(0).commit().op, Op::new(1));
    assert!(group.members[0].halt.is_none());
}

/// Entries of so many bytes fill a run, and the window of a peer before its number of entries does.
fn large(n: u64) -> String {
    format!("{n:02}").repeat(RUN_BYTES / 4)
}

/// The queue of a link drops what does not fit into it.
#[test]
fn n2_a_peer_is_sent_so_many_bytes_beyond_what_it_acknowledged() {
    let mut group = with_entries(1);
    group.members[2].stalled = true;
    group.sent.clear();
    for n in 0..20 {
        group.propose(0, &large(n));
        group.settle();
    }
    let bytes = |group: &Group, to| -> usize {
        let bodies = group.sent.iter().filter(|e| e.to == member(to)).map(|e| match &e.message {
            Message::Prepare { entry, .. } => entry.body.len(),
            _ => 0,
        });
        bodies.sum()
    };
    assert!(bytes(&group, 1) > 20 * RUN_BYTES);
    let ahead = bytes(&group, 2);
    assert!((WINDOW_BYTES - 2 * RUN_BYTES..=WINDOW_BYTES).contains(&ahead));
    group.sent.clear();
    group.run_for(2_000);
    let again = bytes(&group, 2);
    assert!((RUN_BYTES / 2..5 * RUN_BYTES).contains(&again), "{again} bytes were sent again");
    group.finish_writes(2);
    group.members[2].stalled = false;
    group.run_until("all level", Group::level);
    assert!(bytes(&group, 2) + ahead < 30 * RUN_BYTES, "most were sent once");
}

/// An entry that may not fit into the queue of a link is read from the journal when it is sent.
#[test]
fn n2_a_larger_entry_than_the_window_is_sent_by_reference() {
    let mut group = with_entries(1);
    group.by_reference = 0;
    group.propose(0, &large(0).repeat(5));
    group.settle();
    assert_eq!(group.by_reference, 0);
    group.propose(0, &large(0).repeat(7));
    assert_eq!(group.by_reference, 2);
    group.run_until("all level", Group::level);
    assert_eq!(group.replica(2).head().op, Op::new(3));
}

/// What was sent after a lost entry is sent again, in place of more that would be dropped too. The answer to the
/// request arrives on another connection, perhaps much later.
#[test]
fn n6_a_lost_prepare_under_load_is_requested_once() {
    for (size, bulk) in [(RUN_BYTES, 2), (RUN_BYTES, 60), (RUN_BYTES / 4, 2), (RUN_BYTES / 4, 60)] {
        let entry = |n: u64| format!("{n:02}").repeat(size / 4);
        let mut group = with_entries(1);
        group.lag = Duration::from_millis(2);
        group.lag_of_bulk = Duration::from_millis(bulk);
        group.cut.insert((0, 2));
        group.propose(0, &entry(0));
        group.cut.clear();
        group.sent.clear();
        for n in 1..90 {
            group.propose(0, &entry(n));
            group.run_for(2);
        }
        let fetches = |e: &&Envelope| matches!(e.message, Message::Fetch { .. });
        assert_eq!(group.sent.iter().filter(fetches).count(), 1);
        let behind = group.replica(0).head().op.distance_from(group.replica(2).head().op);
        assert!(behind < 10, "{behind} entries behind ({size}, {bulk})");
    }
}

#[test]
fn n6_a_backup_that_missed_a_prepare_asks_for_it() {
    let mut group = with_entries(1);
    group.cut.insert((0, 2));
    group.propose(0, "missed");
    group.settle();
    group.heal();
    group.propose(0, "seen");
    group.settle();
    group.run_until("level", Group::level);
    assert_eq!(group.replica(2).head().op, Op::new(3));
}

#[test]
fn v1_a_suspecting_backup_stays_normal_and_a_heartbeat_withdraws_its_vote() {
    let mut group = with_entries(1);
    group.cut.insert((0, 1));
    group.run_for(2_000);
    assert_eq!(group.serving(), Some(0), "one vote moves nobody");
    assert_eq!(group.replica(0).view(), View::ZERO);
    assert_eq!(group.replica(1).status().status, Status::Normal);
    assert_eq!(group.replica(1).status().primary, None);
    group.heal();
    group.run_for(100);
    assert_eq!(group.replica(1).status().primary, Some(member(0)));
}

/// Under load, every member is late for a moment. Member 2, which cannot hear the primary, must not use the vote that
/// member 1 sent then.
#[test]
fn v1_a_vote_that_is_withdrawn_is_forgotten_at_once() {
    let mut group = with_entries(1);
    group.run_for(100);
    group.input(1, Input::PeerLost { peer: member(0) });
    assert_eq!(group.replica(1).status().primary, None, "it votes");
    let at = group.now.monotonic;
    group.run_until("it hears", |group| group.replica(1).status().primary == Some(member(0)));
    assert!(group.now.monotonic.since(at) < group.options.heartbeat * 2, "long before the vote expires");
    group.input(2, Input::PeerLost { peer: member(0) });
    group.settle();
    assert_eq!(group.replica(2).view(), View::ZERO, "one vote moves nobody");
}

/// A late withdrawal must not withdraw a vote for a newer view.
#[test]
fn v1_a_vote_for_the_entered_view_is_not_withdrawn() {
    let mut group = with_entries(1);
    group.crash(0);
    group.sent.clear();
    group.run_until("a new primary", |group| group.serving() == Some(1));
    group.run_for(100);
    let votes = |e: &Envelope| matches!(e.message, Message::StartViewChange { view } if view == View::new(1));
    let first = group.sent.iter().position(|e| matches!(e.message, Message::StartView { .. }));
    assert!(!group.sent[first.expect("it started")..].iter().any(votes));
}

/// Member 0 is in view 1, whose primary is member 1; that is in view 5, whose primary is member 0. Only their votes
/// arrive.
#[test]
fn v8_a_vote_of_the_own_primary_is_answered_once() {
    let mut group = Group::formed(5, 0);
    for (id, view) in [(0, 1), (1, 5), (2, 0), (3, 0), (4, 0)] {
        group.crash(id);
        group.members[usize::from(id)].disk.view = View::new(view);
    }
    group.start(0);
    group.start(1);
    group.network.clear();
    group.sent.clear();
    let vote = Message::StartViewChange { view: View::new(6) };
    group.input(0, Input::Message { from: member(1), message: vote });
    for _ in 0..100 {
        group.network.retain(|e| matches!(e.message, Message::StartViewChange { .. }) && e.to < member(2));
        group.deliver();
    }
    assert!(group.network.is_empty(), "they go on for ever");
    assert_eq!(group.sent.len(), 8, "each sends it to each of the others, once");
}

#[test]
fn v2_a_withdrawn_vote_does_not_complete_a_quorum_an_hour_later() {
    let mut group = with_entries(1);
    let vote = Message::StartViewChange { view: View::new(1) };
    group.input(2, Input::Message { from: member(1), message: vote });
    group.run_for(1_000);
    group.input(2, Input::PeerLost { peer: member(0) });
    assert_eq!(group.replica(2).view(), View::ZERO);
}

#[test]
fn v3_do_view_change_is_not_sent_before_the_view_is_durable() {
    let mut group = with_entries(1);
    group.members[1].stalled = true;
    group.sent.clear();
    group.crash(0);
    group.run_for(1_000);
    assert_eq!(group.replica(1).view(), View::new(1));
    assert!(
        !group.sent.iter().any(|e| e.from == member(1) && matches!(e.message, Message::DoViewChange { .. }))
    );
    group.members[1].stalled = false;
    group.finish_writes(1);
    group.run_until("a new primary", |group| group.serving().is_some());
}

#[test]
fn v4_a_member_restarted_between_views_sends_its_summary_again() {
    let mut group = with_entries(2);
    group.crash(0);
    group.isolate(2);
    group.input(
        1,
        Input::Message { from: member(0), message: Message::StartViewChange { view: View::new(1) } },
    );
    assert_eq!(group.replica(1).status().status, Status::ViewChange);
    group.crash(1);
    group.sent.clear();
    group.start(1);
    assert_eq!(group.replica(1).status().status, Status::ViewChange);
    let sent = |e: &Envelope| {
        e.from == member(1)
            && matches!(&e.message, Message::DoViewChange { view, log, .. } if *view == View::new(1) && log.head == Op::new(2))
    };
    assert!(group.sent.iter().any(sent));
    group.heal();
    group.run_until("a new primary", |group| group.serving().is_some());
}

/// The primary crashes. The acknowledged writes are in the next view, and the old primary returns and catches up.
#[test]
fn v6_what_was_committed_is_in_the_next_views_log() {
    let mut group = with_entries(3);
    group.cut.insert((0, 1));
    group.propose(0, "on 0 and 2 only");
    group.settle();
    assert_eq!(group.replica(0).commit().op, Op::new(4));
    group.crash(0);
    group.heal();
    group.run_until("a new primary", |group| group.serving().is_some());
    let primary = group.serving().expect("serving");
    assert_eq!(group.replica(primary).head().op, Op::new(4));
    group.propose(primary, "next");
    group.start(0);
    group.run_until("level", Group::level);
    assert_eq!(group.replica(0).head().op, Op::new(5));
}

/// A suffix above StartView's head that was kept because nothing differed would win a later view.
#[test]
fn v7_a_suffix_above_the_views_head_is_cut_even_if_nothing_differs() {
    let mut group = with_entries(2);
    group.isolate(0);
    group.propose(0, "never committed");
    assert_eq!(group.members[0].disk.entries.len(), 3);
    group.run_until("a new primary", |group| group.serving().is_some_and(|id| id != 0));
    group.heal();
    group.run_until("level", |group| group.level() && group.replica(0).status().status == Status::Normal);
    assert_eq!(group.replica(0).head().op, Op::new(2));
    assert_eq!(group.members[0].disk.entries.len(), 2, "the cut is durable");
}

/// Silence alone would block a group of two, which needs the vote of the member that leaves.
#[test]
fn v8_an_abdicating_primary_of_two_still_votes() {
    let mut group = Group::formed(2, 0);
    group.members[0].stalled = true;
    group.propose(0, "x");
    group.run_for(100);
    group.members[1].stalled = true;
    group.propose(0, "y");
    group.run_for(5_000);
    group.members[0].stalled = false;
    group.members[1].stalled = false;
    group.finish_writes(0);
    group.finish_writes(1);
    group.run_until("a later view serves", |group| {
        group.serving().is_some_and(|id| group.replica(id).view() > View::ZERO)
    });
    group.run_until("level", Group::level);
}

/// A checkpoint that makes progress does not count as a hanging state, even if nothing is applied for long because of
/// it.
#[test]
fn v8_a_slow_checkpoint_keeps_the_role_and_a_hanging_state_does_not() {
    let mut group = with_entries(1);
    group.members.iter_mut().for_each(|member| member.hangs = true);
    group.propose(0, "x");
    for _ in 0..100 {
        group.run_for(200);
        (0..3).for_each(|id| group.input(id, Input::Applying));
    }
    assert_eq!((group.serving(), group.replica(0).view()), (Some(0), View::ZERO));
    group.members[1].hangs = false;
    group.run_until("it gives up when nothing gets on", |group| !group.replica(0).is_serving());
}

/// A member that takes the role over has its own time to apply: the time without anything to apply before does not
/// count.
#[test]
fn v8_a_new_primary_does_not_inherit_an_old_silence() {
    let mut group = with_entries(1);
    group.run_for(30_000);
    group.crash(0);
    group.run_until("another one serves", |group| group.serving().is_some());
    let next = group.serving().expect("it serves");
    let view = group.replica(next).view();
    group.members[usize::from(next)].hangs = true;
    group.propose(next, "x");
    group.run_for(500);
    assert_eq!((group.serving(), group.replica(next).view()), (Some(next), view));
}

#[test]
fn v8_a_primary_that_can_only_send_abdicates() {
    let mut group = with_entries(1);
    group.cut.extend([(1, 0), (2, 0)]);
    group.run_until("replaced", |group| group.serving().is_some_and(|id| id != 0));
}

/// On an overloaded machine, a quorum answers later and later. If primaries gave up after a fixed time, the role would
/// pass from member to member.
#[test]
fn v8_the_timeout_for_a_quorum_adapts_to_its_silences() {
    let mut group = with_entries(1);
    for silence in [300, 450, 700, 1_000, 1_500] {
        (group.members[1].paused, group.members[2].paused) = (true, true);
        group.run_for(silence);
        (group.members[1].paused, group.members[2].paused) = (false, false);
        group.settle();
    }
    group.run_for(100);
    assert_eq!((group.serving(), group.replica(0).view()), (Some(0), View::ZERO));
    group.isolate(0);
    group.run_until("it gives up all the same", |group| !group.replica(0).is_serving());
}

/// Time during which the member itself was frozen does not count as silence of others.
#[test]
fn v8_a_primary_does_not_blame_its_own_pause_on_the_others() {
    let mut group = with_entries(1);
    group.run_for(100);
    group.members.iter_mut().for_each(|member| member.paused = true);
    group.run_for(900);
    group.members.iter_mut().for_each(|member| member.paused = false);
    group.run_for(100);
    assert_eq!((group.serving(), group.replica(0).view()), (Some(0), View::ZERO));
}

/// Each of the `slow` takes 200 ms for a write, the others no time at all.
fn write_slowly(group: &mut Group, slow: &[u8], writes: u32) {
    for n in 0..writes {
        for id in slow {
            group.members[usize::from(*id)].stalled = true;
        }
        group.propose(0, &format!("slow {n}"));
        group.run_for(200);
        for id in slow {
            group.members[usize::from(*id)].stalled = false;
            group.finish_writes(*id);
        }
        group.run_for(30);
    }
}

/// F-disk-14: a primary with a slow disk delays all clients.
#[test]
fn v8_a_primary_whose_disk_is_much_slower_than_the_others_hands_over() {
    let mut group = with_entries(1);
    write_slowly(&mut group, &[0], 2);
    assert_eq!(group.serving(), Some(0), "a hiccup is no reason");
    assert_eq!(group.replica(0).commit().op, Op::new(3), "the others commit without it");
    write_slowly(&mut group, &[0], 1);
    group.run_until("handed over", |group| group.serving().is_some_and(|id| id != 0));
    group.run_until("level", Group::level);
    assert_eq!(group.replica(0).head().op, Op::new(4));
}

#[test]
fn v8_the_role_stays_if_all_disks_are_slow() {
    let mut group = with_entries(1);
    write_slowly(&mut group, &[0, 1, 2], 6);
    assert_eq!((group.serving(), group.replica(0).view()), (Some(0), View::ZERO));
    write_slowly(&mut group, &[1], 6);
    assert_eq!((group.serving(), group.replica(0).view()), (Some(0), View::ZERO), "nor for a slow backup");
}

#[test]
fn v8_a_handover_moves_the_role_and_loses_nothing() {
    let mut group = with_entries(1);
    group.propose(0, "last");
    group.input(0, Input::Handover);
    group.run_until("handed over", |group| group.serving().is_some_and(|id| id != 0));
    group.run_until("level", Group::level);
    assert_eq!(group.replica(0).head().op, Op::new(2));
}

/// A restarted primary could issue an op number a second time.
#[test]
fn v9_a_restarted_primary_never_resumes_its_view() {
    let mut group = with_entries(1);
    group.crash(0);
    group.start(0);
    group.run_until("serving again", |group| group.serving().is_some());
    let primary = group.serving().expect("serving");
    assert!(group.replica(primary).view() > View::ZERO);
}

#[test]
fn r1_a_read_waits_for_a_round_that_began_after_it() {
    let mut group = with_entries(1);
    group.run_for(10);
    group.cut.extend([(0, 1), (0, 2)]);
    group.input(0, Input::Read { ticket: 7 });
    group.settle();
    assert!(group.members[0].ready.is_empty());
    group.heal();
    group.run_until("confirmed", |group| group.members[0].ready == vec![(7, Op::new(1))]);
}

#[test]
fn r1_a_deposed_primary_refuses_its_waiting_reads() {
    let mut group = with_entries(1);
    group.isolate(0);
    group.input(0, Input::Read { ticket: 7 });
    group.run_until("replaced", |group| group.serving().is_some_and(|id| id != 0));
    group.heal();
    group.run_until("deposed", |group| group.replica(0).view() > View::ZERO);
    assert!(group.members[0].ready.is_empty());
    assert_eq!(group.members[0].refused, vec![7]);
}

/// A member whose log is damaged votes, and acknowledges nothing until it has learned the log from a primary.
#[test]
fn d6_a_damaged_member_votes_and_acknowledges_nothing_until_it_knows_its_head() {
    let mut group = with_entries(3);
    group.crash(2);
    group.members[2].disk.entries.retain(|op, _| *op <= Op::new(1));
    group.members[2].disk.damaged = Some(Extent::Open);
    group.isolate(2);
    group.sent.clear();
    group.start(2);
    group.run_for(3_000);
    assert_eq!(group.replica(2).status().status, Status::Damaged);
    let sent =
        |what: fn(&Message) -> bool| group.sent.iter().any(|e| e.from == member(2) && what(&e.message));
    assert!(sent(|message| matches!(message, Message::StartViewChange { .. })));
    let acknowledges = |message: &Message| {
        matches!(message, Message::PrepareOk { .. } | Message::CommitOk { log: Some(_), .. })
    };
    assert!(!sent(acknowledges));
    group.heal();
    group.run_until("repaired", |group| group.replica(2).status().status == Status::Normal && group.level());
    assert_eq!(group.members[2].disk.damaged, None);
}

#[test]
#[should_panic(expected = "durable entries only")]
fn d7_a_checkpoint_above_the_own_journal_is_a_bug() {
    let mut group = with_entries(1);
    group.members[0].stalled = true;
    group.propose(0, "x");
    group.settle();
    let commit = group.replica(0).commit();
    assert!(commit.op > group.replica(0).durable().op);
    group.input(0, Input::Checkpointed { checkpoint: commit });
}

/// The damage mark outlives a crash in the middle of the repair, although the cut has made the log look whole.
#[test]
fn d6b_damage_is_remembered_until_the_repair_is_complete() {
    let mut group = with_entries(3);
    group.crash(2);
    group.members[2].disk.entries.retain(|op, _| *op <= Op::new(1));
    group.members[2].disk.damaged = Some(Extent::Open);
    group.start(2);
    for _ in 0..200 {
        if group.members[2].disk.incarnation.get() > 0 {
            break;
        }
        if !group.deliver() {
            group.tick();
        }
    }
    assert!(group.members[2].disk.incarnation.get() > 0, "the repair began with a cut");
    group.crash(2);
    assert!(group.members[2].disk.damaged.is_some());
}

#[test]
fn two_data_members_and_a_witness_survive_any_one() {
    for dead in 0..3 {
        let mut group = Group::formed(2, 1);
        group.propose(0, "before");
        group.run_until("level", Group::level);
        group.crash(dead);
        group.run_until("serving", |group| group.serving().is_some_and(|id| id != dead));
        let primary = group.serving().expect("serving");
        group.propose(primary, "after");
        group.run_until("committed", |group| group.replica(primary).commit().op == Op::new(2));
        group.start(dead);
        group.run_until("level again", Group::level);
    }
}

#[test]
fn five_members_survive_two() {
    let mut group = Group::formed(5, 0);
    group.propose(0, "before");
    group.run_until("level", Group::level);
    group.crash(0);
    group.crash(1);
    group.run_until("serving", |group| group.serving().is_some());
    let primary = group.serving().expect("serving");
    group.propose(primary, "after");
    group.run_until("committed", |group| group.replica(primary).commit().op == Op::new(2));
}

fn receive_digest(group: &mut Group, id: u8, op: u64, digest: u128) {
    group.input(id, Input::StateDigest { op: Op::new(op), digest: Hash::new(digest) });
    group.settle();
}

/// Members 0 and 2 have applied the same entries with the same result. Regardless of who sends first, member 1 detects
/// that its result differs.
#[test]
fn s1_a_member_whose_state_differs_from_a_quorums_halts_and_the_others_go_on() {
    for order in [[0, 1, 2], [1, 0, 2], [2, 0, 1]] {
        let mut group = with_entries(8);
        for id in order {
            receive_digest(&mut group, id, 8, if id == 1 { 5 } else { 7 });
        }
        let (ours, theirs) = (Hash::new(5), Hash::new(7));
        assert_eq!(group.members[1].halt, Some(Halt::StateDiffers { op: Op::new(8), ours, theirs }));
        assert_eq!((&group.members[0].halt, &group.members[2].halt), (&None, &None));
        group.propose(0, "on");
        group.run_until("the others go on", |group| group.replica(0).commit().op == Op::new(9));
    }
}

/// With two states, it is unknown which one is wrong.
#[test]
fn s1_two_members_that_differ_halt_nobody() {
    let mut group = Group::formed(2, 1);
    receive_digest(&mut group, 0, 1, 5);
    receive_digest(&mut group, 1, 1, 7);
    assert!(group.members.iter().all(|member| member.halt.is_none()));
    let is_sent = |e: &Envelope| matches!(e.message, Message::StateDigest { .. }) && e.to == member(2);
    assert!(!group.sent.iter().any(is_sent), "a witness has nothing to compare");
}

/// A digest of a state that another one has replaced proves nothing about this one.
#[test]
fn s1_a_state_that_was_replaced_is_not_compared_any_more() {
    let mut group = with_entries(8);
    receive_digest(&mut group, 1, 8, 5);
    group.input(1, Input::StateLost);
    receive_digest(&mut group, 0, 8, 7);
    receive_digest(&mut group, 2, 8, 7);
    assert_eq!(group.members[1].halt, None);
}
