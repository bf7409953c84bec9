//! Damaged logs: executions that lose data or get stuck if an implementation treats an unreadable entry like one that
//! it never had. Each test cites the rule that prevents this.

use super::group::{Disk, Group};
use crate::config::Options;
use crate::ids::{MemberId, Op, View};
use crate::message::{Extent, Message, Slot};
use crate::replica::{Halt, Input, Status};

/// A group of members that all have `count` committed entries.
fn with_entries(data: u8, witnesses: u8, count: u64) -> Group {
    let mut group = Group::formed(data, witnesses);
    propose_all(&mut group, 0..count);
    group.run_until("all level", |group| group.level() && group.replica(0).head().op == Op::new(count));
    group.run_for(30);
    group
}

/// A group that was formed with this pipeline, and whose members all have `count` entries and no checkpoint (a witness
/// may have taken one on its own).
fn with_pipeline(data: u8, witnesses: u8, pipeline_depth: u32, count: u64) -> Group {
    let options = Options { pipeline_depth, ..Options::default() };
    let mut group = Group::with_options(data, witnesses, options);
    group.run_until("a primary serves", |group| group.serving() == Some(0));
    propose_all(&mut group, 0..count);
    group.run_until("level", Group::level);
    group
}

fn propose_all(group: &mut Group, numbers: std::ops::Range<u64>) {
    for n in numbers {
        group.propose(0, &format!("k{n}"));
        group.settle();
    }
}

fn crash_all(group: &mut Group) {
    for id in 0..u8::try_from(group.members.len()).expect("few") {
        group.crash(id);
    }
}

fn start_all(group: &mut Group) {
    for id in 0..u8::try_from(group.members.len()).expect("few") {
        group.start(id);
    }
}

fn spoil(group: &mut Group, id: u8, ops: &[u64]) {
    group.members[usize::from(id)].disk.bad.extend(ops.iter().map(|op| Op::new(*op)));
}

/// Every member is in normal status and has every entry, intact.
fn mended(group: &Group, count: u64) -> bool {
    group.level()
        && group.members.iter().all(|member| {
            let is_normal = member.replica.as_ref().is_some_and(|it| it.status().status == Status::Normal);
            let disk = &member.disk;
            let whole = (1..=count).all(|op| disk.entries.contains_key(&Op::new(op)));
            is_normal && whole && disk.bad.is_empty() && disk.damaged.is_none()
        })
}

/// F-disk-6, rules D6 and V5.
#[test]
fn f_disk_6_different_damage_on_every_member_is_repaired() {
    for bad in [[3, 5, 7], [6, 7, 8], [8, 1, 2]] {
        let mut group = with_entries(3, 0, 8);
        crash_all(&mut group);
        for (id, op) in (0..).zip(bad) {
            spoil(&mut group, id, &[op]);
        }
        start_all(&mut group);
        group.run_until("mended", |group| mended(group, 8));
    }
}

/// F-disk-6, with a log longer than a pipeline and damage far below what votes list.
#[test]
fn f_disk_6_different_damage_deep_in_long_logs_is_repaired() {
    let mut group = with_entries(3, 0, 150);
    crash_all(&mut group);
    spoil(&mut group, 0, &[3, 4, 90]);
    spoil(&mut group, 1, &[5, 140, 150]);
    spoil(&mut group, 2, &[60]);
    start_all(&mut group);
    group.run_until("mended", |group| mended(group, 150));
}

/// Rule D6c: the entries behind its damage are the only copies of entries that the other two have lost.
#[test]
fn d6c_intact_entries_behind_the_damage_are_kept_and_served() {
    let mut group = with_entries(3, 0, 8);
    crash_all(&mut group);
    spoil(&mut group, 0, &[6, 7, 8]);
    spoil(&mut group, 1, &[6, 7, 8]);
    spoil(&mut group, 2, &[5]);
    start_all(&mut group);
    group.run_until("mended", |group| mended(group, 8));
    assert!(group.committed.len() >= 8);
}

/// F-disk-7: all have answered, and the entry is nowhere.
#[test]
fn f_disk_7_an_entry_damaged_on_all_members_halts_them_with_a_report() {
    let mut group = with_entries(3, 0, 8);
    crash_all(&mut group);
    for id in 0..3 {
        spoil(&mut group, id, &[8]);
    }
    start_all(&mut group);
    let lost = Some(Halt::Lost { op: Op::new(8) });
    group.run_until("halted", |group| group.members.iter().any(|member| member.halt == lost));
    assert_eq!(group.serving(), None);
}

/// Twelve entries with a pipeline of four, on everybody's disk: op 3 is below what any vote lists. Everybody is down.
fn with_deep_logs(data: u8, witnesses: u8) -> Group {
    let mut group = with_pipeline(data, witnesses, 4, 12);
    // Without checkpoints. A witness would take one on its own.
    crash_all(&mut group);
    group
}

/// F-disk-7, rule V5h: below the base of the decision, only all members together can detect the loss. Without this
/// rule, the views would change for ever.
#[test]
fn f_disk_7_an_entry_below_the_base_damaged_on_all_members_halts_them_with_a_report() {
    for bad in [&[3][..], &[3, 4, 5], &[1, 3], &[3, 9, 12]] {
        let mut group = with_deep_logs(3, 0);
        for id in 0..3 {
            spoil(&mut group, id, bad);
        }
        start_all(&mut group);
        let lost = Some(Halt::Lost { op: Op::new(bad[0]) });
        group.run_until("halted", |group| group.members.iter().all(|member| member.halt == lost));
        assert_eq!(group.serving(), None);
    }
}

/// Rule V5h: not before all have answered, and not while one has it.
#[test]
fn f_disk_7_no_member_halts_before_all_have_answered() {
    let mut group = with_deep_logs(3, 0);
    spoil(&mut group, 0, &[3]);
    spoil(&mut group, 1, &[3]);
    group.start(0);
    group.start(1);
    group.run_for(10_000);
    assert!(group.members.iter().all(|member| member.halt.is_none()));
    assert_eq!(group.serving(), None, "nor can anybody serve without it");
    group.start(2);
    group.run_until("mended", |group| mended(group, 12));
}

/// Rules V5h and T2: the state of one member contains the entry.
#[test]
fn f_disk_7_an_entry_contained_in_a_state_is_not_lost() {
    for owner in 0..3 {
        let mut group = with_deep_logs(3, 0);
        for id in 0..3 {
            spoil(&mut group, id, &[3]);
        }
        let disk = &mut group.members[owner].disk;
        disk.checkpoint = disk.entries[&Op::new(6)].header.anchor();
        start_all(&mut group);
        group.run_until("level", |group| group.level() && group.serving().is_some());
        assert!(group.members.iter().all(|member| member.halt.is_none()), "{owner}");
        assert!(group.committed.len() >= 12);
    }
}

/// Rule T9: that a witness holds a point to be durable brings nothing back.
#[test]
fn f_disk_7_a_witness_that_has_dropped_an_entry_does_not_count_for_it() {
    let mut group = with_deep_logs(2, 1);
    spoil(&mut group, 0, &[3]);
    spoil(&mut group, 1, &[3]);
    let disk = &mut group.members[2].disk;
    disk.checkpoint = disk.entries[&Op::new(6)].header.anchor();
    disk.trim(Op::new(6));
    start_all(&mut group);
    let lost = Some(Halt::Lost { op: Op::new(3) });
    group.run_until("halted", |group| group.members.iter().all(|member| member.halt == lost));
}

/// Rule V4: a member that crashes while the members answer reports the contents of its disk after the restart.
#[test]
fn f_disk_7_a_member_whose_entry_can_be_read_again_ends_the_wait() {
    let mut group = with_deep_logs(3, 0);
    for id in 0..3 {
        spoil(&mut group, id, &[3]);
    }
    let good = group.members[2].disk.clone();
    group.start(0);
    group.start(1);
    group.run_for(300);
    group.isolate(2);
    group.start(2);
    group.run_for(300);
    group.crash(2);
    group.members[2].disk = Disk { bad: Default::default(), ..good };
    group.heal();
    group.start(2);
    group.run_until("mended", |group| mended(group, 12));
}

/// Rule V5i: a vote is in flight while its sender repairs the reported damage.
#[test]
fn v5i_a_vote_that_is_older_than_a_repair_halts_nobody() {
    let mut group = with_deep_logs(2, 0);
    let good = group.members[1].disk.clone();
    spoil(&mut group, 0, &[3]);
    spoil(&mut group, 1, &[3]);
    group.isolate(1);
    group.members[1].disk.view = View::new(2);
    group.sent.clear();
    group.start(1);
    group.run_for(10);
    let vote = group.sent.iter().find(|sent| matches!(sent.message, Message::DoViewChange { .. }));
    let vote = vote.expect("it votes").message.clone();
    group.crash(1);
    group.members[1].disk = good;
    group.start(1);
    group.start(0);
    group.input(0, Input::Message { from: MemberId::new(1), message: vote });
    group.run_for(1000);
    assert_eq!(group.members[0].halt, None);
    group.heal();
    group.run_until("mended", |group| mended(group, 12));
}

/// F-disk-7: no other member has the entries that a cluster of one has lost.
#[test]
fn f_disk_7_a_cluster_of_one_with_a_damaged_log_halts_at_once() {
    let mut group = with_entries(1, 0, 5);
    group.crash(0);
    spoil(&mut group, 0, &[4]);
    group.start(0);
    assert_eq!(group.members[0].halt, Some(Halt::Lost { op: Op::new(4) }));
}

/// F-disk-7: the state in memory contains the entry, so a checkpoint replaces it.
#[test]
fn f_disk_7_a_cluster_of_one_saves_what_it_has_applied() {
    let mut group = with_entries(1, 0, 5);
    group.input(0, Input::Faulty { op: Op::new(4) });
    assert_eq!(group.members[0].halt, None);
    assert_eq!(group.members[0].disk.checkpoint.op, Op::new(5));
    group.members[0].hangs = true;
    group.propose(0, "not applied");
    group.settle();
    group.input(0, Input::Faulty { op: Op::new(6) });
    assert_eq!(group.members[0].halt, Some(Halt::Lost { op: Op::new(6) }));
}

/// The unreadable entries become readable again: nothing is missing, and the member continues.
#[test]
fn f_disk_12_a_cluster_of_one_goes_on_when_everything_is_readable_again() {
    let mut group = with_entries(1, 0, 5);
    group.crash(0);
    group.members[0].disk.damaged = Some(Extent::Through(Op::new(5)));
    group.start(0);
    group.run_until("serving", |group| group.serving() == Some(0));
    assert_eq!(group.replica(0).commit().op, Op::new(5));
}

/// Of five members, only the fourth can serve op 3. No member answers a request for a run of entries, so each is asked
/// for single entries. Rule D6c.
#[test]
fn d6c_an_entry_that_only_one_of_five_has_is_found() {
    let mut group = with_entries(5, 0, 4);
    crash_all(&mut group);
    for id in [0, 1, 2] {
        spoil(&mut group, id, &[3, 4]);
    }
    spoil(&mut group, 3, &[1, 2, 4]);
    spoil(&mut group, 4, &[3]);
    start_all(&mut group);
    group.run_until("mended", |group| mended(group, 4));
}

/// Member 0 knows the end of the log, and member 2 has the entries that are missing before it. Neither is asked by a
/// hash that it knows, so the hashes are found one after another. Rule D6c.
#[test]
fn d6c_hashes_are_pieced_together_from_damaged_logs() {
    let mut group = with_pipeline(3, 0, 4, 10);
    crash_all(&mut group);
    spoil(&mut group, 0, &[4, 5]);
    group.members[1].disk.entries.retain(|op, _| *op <= Op::new(3));
    group.members[1].disk.damaged = Some(Extent::Through(Op::new(10)));
    spoil(&mut group, 2, &[3]);
    group.members[2].disk.entries.retain(|op, _| *op <= Op::new(5));
    group.members[2].disk.damaged = Some(Extent::Open);
    start_all(&mut group);
    group.run_until("mended", |group| mended(group, 10));
}

/// The new primary is asked to compare an op whose hash one member knows from its child, and that child's hash another.
/// Rule D6c.
#[test]
fn d6c_hashes_are_asked_for_from_the_first_that_is_not_known() {
    let mut group = with_pipeline(3, 0, 4, 16);
    crash_all(&mut group);
    spoil(&mut group, 0, &[9, 10]);
    spoil(&mut group, 1, &[8, 9]);
    group.members[1].disk.entries.retain(|op, _| *op <= Op::new(10));
    group.members[1].disk.damaged = Some(Extent::Through(Op::new(16)));
    group.members[2].disk.entries.retain(|op, _| *op <= Op::new(9));
    group.members[2].disk.damaged = Some(Extent::Open);
    start_all(&mut group);
    group.run_until("mended", |group| mended(group, 16));
}

/// Rule V5e: members 0 and 1 committed op 4; then 1 loses the end of its log, without a trace of its length, and 0 is
/// down. If the open end counted as a nack, 1 and 2 would continue without op 4.
#[test]
fn v5e_an_open_tail_that_hides_a_committed_op_waits_for_a_copy() {
    let mut group = with_entries(3, 0, 3);
    group.isolate(2);
    group.propose(0, "only on two");
    group.run_until("committed", |group| group.replica(0).commit().op == Op::new(4));
    group.crash(0);
    group.crash(1);
    let disk = &mut group.members[1].disk;
    disk.entries.retain(|op, _| *op <= Op::new(3));
    disk.damaged = Some(Extent::Open);
    group.heal();
    group.start(1);
    group.run_for(5_000);
    assert_eq!(group.serving(), None);
    group.start(0);
    group.run_until("mended", |group| mended(group, 4));
}

/// Rule V4: a vote that is repeated after a restart reports the contents of the disk at that time. It replaces the
/// earlier one.
#[test]
fn v4_a_vote_after_a_restart_reports_the_damage_found_since() {
    let mut group = with_entries(3, 0, 4);
    group.isolate(2);
    group.crash(0);
    group.crash(1);
    group.members[2].disk.view = View::new(2);
    group.crash(2);
    spoil(&mut group, 2, &[3, 4]);
    group.sent.clear();
    group.start(2);
    group.run_for(10);
    let vote = group.sent.iter().find_map(|sent| match &sent.message {
        Message::DoViewChange { log, .. } => Some(log.clone()),
        _ => None,
    });
    let log = vote.expect("it votes though it is damaged");
    assert_eq!(log.suffix[2..], [Slot::Faulty(None), Slot::Faulty(None)]);
    assert_eq!(log.extent, Extent::Through(log.head));
}

/// A `StartView` from before the acknowledgement that was lost is not the present head. Rule D6a.
#[test]
fn d6a_a_delayed_start_view_does_not_end_the_damage() {
    let mut group = with_entries(3, 0, 4);
    let hashes = (0..=2).map(|op| (Op::new(op), group.replica(0).cx.anchor(Op::new(op)).hash)).collect();
    let (view, commit) = (group.replica(0).view(), group.replica(0).cx.anchor(Op::new(2)));
    group.crash(2);
    spoil(&mut group, 2, &[3, 4]);
    group.isolate(2);
    group.start(2);
    let message = Message::StartView { view, commit, hashes, nonce: 0 };
    group.input(2, Input::Message { from: MemberId::new(0), message });
    group.run_for(100);
    assert!(group.members[2].disk.damaged.is_some());
    group.heal();
    group.run_until("mended", |group| mended(group, 4));
}

/// Rule D8.
#[test]
fn d8_a_damaged_entry_is_fetched_by_its_hash_and_rewritten() {
    let mut group = with_entries(3, 0, 6);
    for id in [0, 1] {
        spoil(&mut group, id, &[3, 6]);
        for op in [3, 6] {
            group.members[usize::from(id)].staged.remove(&Op::new(op));
            group.input(id, Input::Faulty { op: Op::new(op) });
        }
    }
    group.run_until("mended", |group| mended(group, 6));
}

/// Rules D8 and V4: until it is written once more it is not reported as present.
#[test]
fn d8_a_marked_entry_is_faulty_in_a_vote_and_is_not_served() {
    let mut group = with_entries(3, 0, 4);
    group.isolate(1);
    let hash = group.replica(1).cx.anchor(Op::new(3)).hash;
    spoil(&mut group, 1, &[3]);
    group.input(1, Input::Faulty { op: Op::new(3) });
    let summary = group.replica(1).cx.summary();
    let commit = group.replica(1).commit().op;
    let slot = summary.suffix.get(usize::try_from(2 - commit.get().min(2)).expect("small"));
    assert!(commit >= Op::new(3) || slot == Some(&Slot::Faulty(Some(hash))));
    group.sent.clear();
    let what = crate::message::FetchWhat::Entries;
    let message = Message::Fetch { from: Op::new(3), through: Op::new(3), hash: Some(hash), nonce: 9, what };
    group.input(1, Input::Message { from: MemberId::new(2), message });
    assert!(!group.sent.iter().any(|sent| matches!(sent.message, Message::NewState { nonce: 9, .. })));
}

/// Rule N4: an entry that went bad before it was known to be committed is not acknowledged, nor is anything above it.
#[test]
fn n4_nothing_above_a_bad_uncommitted_entry_is_acknowledged() {
    let mut group = with_entries(3, 0, 2);
    group.isolate(2);
    group.cut.extend([(1, 0)]);
    group.propose(0, "a");
    group.propose(0, "b");
    group.settle();
    assert_eq!(group.replica(1).durable().op, Op::new(4));
    spoil(&mut group, 1, &[3]);
    group.members[1].staged.remove(&Op::new(3));
    group.input(1, Input::Faulty { op: Op::new(3) });
    group.sent.clear();
    group.run_for(60);
    let most = group.sent.iter().filter(|sent| sent.from == MemberId::new(1)).filter_map(|sent| {
        match sent.message {
            Message::PrepareOk { log, .. } | Message::CommitOk { log: Some(log), .. } => Some(log.op),
            _ => None,
        }
    });
    assert_eq!(most.max(), Some(Op::new(2)));
    group.heal();
    group.run_until("mended", |group| mended(group, 4));
}

/// Rules N4 and D8: the primary's own copy is damaged before the acknowledgements of the others arrive. Once it is
/// repaired, it counts, even if nothing else happens.
#[test]
fn n4_a_repaired_entry_releases_withheld_acknowledgements() {
    let mut group = Group::formed(2, 0);
    group.propose(0, "a");
    group.settle();
    group.members[1].stalled = true;
    group.propose(0, "b");
    group.settle();
    spoil(&mut group, 0, &[2]);
    group.members[0].staged.remove(&Op::new(2));
    group.input(0, Input::Faulty { op: Op::new(2) });
    group.members[1].stalled = false;
    group.finish_writes(1);
    group.run_until("committed", |group| group.replica(0).commit().op == Op::new(2));
}

/// Rule V7: member 0 does not return. Member 1 has lost entry 5. The log of member 2, a witness, ends at entry 5 or a
/// little above. So member 2 cannot answer a request by the hash at the decided base, and member 1 must learn the hash
/// of entry 5 from the entry behind it.
#[test]
fn v7_hashes_are_learned_from_the_entries_behind_the_own_damage() {
    for (witnesses, last) in [(1, 5), (1, 7), (0, 5)] {
        let mut group = with_pipeline(3 - witnesses, witnesses, 4, last);
        let (damaged, short) = (1, 2);
        group.isolate(short);
        propose_all(&mut group, last..12);
        let head = Op::new(12);
        group.run_until("committed", |group| group.replica(0).commit().op == head);
        group.run_until("durable", |group| group.replica(damaged).durable().op == head);
        let early = group.replica(0).cx.anchor(Op::new(2));
        crash_all(&mut group);
        group.heal();
        // Its last checkpoint was not durable yet.
        group.members[usize::from(short)].disk.checkpoint = early;
        spoil(&mut group, damaged, &[5]);
        group.start(damaged);
        group.start(short);
        group.run_until("a primary serves", |group| group.serving().is_some());
        group.run_until("all are there", |group| {
            [damaged, short].iter().all(|id| group.replica(*id).commit().op >= head)
        });
    }
}

/// Rule V4: a hole in a log is longer than what a vote lists without gaps. Nothing behind it may count as lost or as
/// possibly held: together, two members have everything, and the third does not return.
#[test]
fn v4_entries_behind_a_hole_that_is_too_long_to_be_listed_are_found() {
    for (others, hole) in [(28, 5..=25), (25, 5..=25), (28, 5..=28)] {
        let mut group = with_pipeline(3, 0, 4, 28);
        crash_all(&mut group);
        group.members[1].disk.entries.retain(|op, _| *op <= Op::new(others));
        spoil(&mut group, 2, &hole.collect::<Vec<_>>());
        group.start(1);
        group.start(2);
        let has_all = |id| move |group: &Group| group.replica(id).commit().op >= Op::new(28);
        group.run_until("a primary serves", |group| group.serving().is_some());
        group.run_until("all are there", |group| has_all(1)(group) && has_all(2)(group));
    }
}

/// Rule V7: member 2, a witness, has two holes. An answer with hashes ends at the first hole, so the hashes between the
/// holes are not asked for again, but those above the second one are.
#[test]
fn v7_hashes_are_asked_for_above_the_greatest_known_one() {
    let mut group = with_pipeline(2, 1, 8, 9);
    group.isolate(1);
    propose_all(&mut group, 9..20);
    let head = Op::new(20);
    group.run_until("committed", |group| group.replica(0).commit().op == head);
    group.run_until("durable", |group| group.replica(2).durable().op == head);
    let early = group.replica(0).cx.anchor(Op::new(2));
    crash_all(&mut group);
    group.heal();
    group.members[2].disk.checkpoint = early;
    spoil(&mut group, 2, &[5, 6, 8, 9]);
    group.start(1);
    group.start(2);
    group.run_until("a primary serves", |group| group.serving().is_some());
    group.run_until("all are there", |group| group.replica(1).commit().op >= head);
}

/// Rule V7: only the witness knows the commit point, and it has no entries below; the new primary has lost its tail. It
/// asks for hashes below one that it knows. A member with the log of that hash answers, even if it does not know the
/// commit point.
#[test]
fn v7_hashes_are_asked_for_below_one_that_is_known() {
    let mut group = with_entries(2, 1, 6);
    let anchor = group.replica(0).cx.anchor(Op::new(6));
    crash_all(&mut group);
    let witness = &mut group.members[2].disk;
    witness.checkpoint = anchor;
    witness.trim(Op::new(5));
    for id in [0, 1] {
        group.members[id].disk.view = View::new(1);
    }
    let disk = &mut group.members[1].disk;
    disk.entries.retain(|op, _| *op <= Op::new(3));
    disk.damaged = Some(Extent::Open);
    start_all(&mut group);
    group.run_until("repaired", |group| {
        group.level() && (0..3).all(|id| group.replica(id).status().status == Status::Normal)
    });
    assert!(group.replica(1).head().op >= Op::new(6));
}
