//! Reads of bounded staleness: how a member knows the age of its state.

use super::group::Envelope;
use super::group::Group;
use crate::config::Options;
use crate::ids::{MemberId, Op, View};
use crate::message::Message;
use crate::replica::Input;
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);

/// So many members, with two committed entries.
fn settled(data: u8, witnesses: u8, options: Options) -> Group {
    let mut group = Group::with_options(data, witnesses, options);
    group.run_until("a primary serves", |group| group.serving() == Some(0));
    group.propose(0, "a");
    group.propose(0, "b");
    group.run_until("all level", |group| group.level() && group.replica(0).head().op == Op::new(2));
    group.run_for(200);
    group
}

/// They are patient with their primary.
fn patient(data: u8) -> Group {
    settled(
        data,
        0,
        Options { failure_timeout_min: MS * 8_000, failure_timeout_max: MS * 8_000, ..Options::default() },
    )
}

fn fresh(group: &Group, member: u8, bound: Duration) -> Option<Op> {
    group.replica(member).fresh(group.now, bound)
}

#[test]
fn r4_a_backup_that_hears_of_confirmed_rounds_knows_how_old_its_state_is() {
    let mut group = patient(3);
    for member in 0..3 {
        assert_eq!(fresh(&group, member, MS * 100), Some(Op::new(2)), "member {member}");
    }
    assert_eq!(fresh(&group, 1, Duration::ZERO), None);
    group.isolate(1);
    group.propose(0, "c");
    group.run_for(300);
    assert_eq!(fresh(&group, 1, MS * 300), None, "it has heard nothing for as long");
    assert_eq!(fresh(&group, 1, MS * 600), Some(Op::new(2)), "what was known then");
    assert_eq!(fresh(&group, 0, MS * 100), Some(Op::new(3)));
}

/// Messages may take any time: the age of a state counts from the message that was sent before the confirmed round
/// began, not from the confirmation.
#[test]
fn r4_a_confirmed_round_counts_from_the_last_message_sent_before_it() {
    let mut group = patient(3);
    group.lag = MS * 400;
    group.run_for(8_000);
    assert_eq!(fresh(&group, 1, MS * 1_600), None, "two messages there and two back");
    assert!(fresh(&group, 1, MS * 2_000).is_some());
}

/// The clock of a member may go as slowly as nine tenths of the true rate.
#[test]
fn r4_a_slow_clock_is_allowed_for() {
    let mut group = patient(3);
    group.isolate(1);
    group.run_for(1_800);
    assert_eq!(fresh(&group, 1, MS * 2_000), None);
    assert!(fresh(&group, 1, MS * 2_100).is_some());
}

/// A primary that others have left, or may have left, continues to send heartbeats.
#[test]
fn r4_a_heartbeat_without_a_quorum_makes_no_state_fresh() {
    let mut group = patient(5);
    let away = (2..5).flat_map(|far| (0..2).flat_map(move |near| [(far, near), (near, far)]));
    group.cut.extend(away);
    group.run_for(300);
    assert!(group.replica(1).view() == View::ZERO && group.serving() == Some(0));
    for member in [0, 1] {
        assert_eq!(fresh(&group, member, MS * 300), None, "member {member}");
    }
    group.heal();
    group.run_for(100);
    assert!(fresh(&group, 1, MS * 100).is_some());
}

#[test]
fn r4_a_new_primary_confirms_with_what_it_inherited() {
    let mut group = patient(3);
    group.isolate(0);
    group.run_until("replaced", |group| group.serving() == Some(1));
    group.run_for(200);
    assert_eq!(fresh(&group, 2, MS * 100), Some(Op::new(2)));
}

/// Its clock has restarted: a time from before the restart means another one now.
#[test]
fn r4_a_time_from_before_a_restart_proves_nothing() {
    let mut group = patient(3);
    let is_fresh = |e: &&Envelope| {
        e.to == MemberId::new(1) && matches!(&e.message, Message::Commit { fresh: Some(_), .. })
    };
    let Envelope { from, message, .. } = group.sent.iter().rfind(is_fresh).expect("it was is_fresh").clone();
    group.input(1, Input::Message { from, message: message.clone() });
    assert!(fresh(&group, 1, MS * 100).is_some());
    group.crash(1);
    group.start(1);
    group.input(1, Input::Message { from, message });
    assert_eq!(fresh(&group, 1, Duration::from_secs(3_600)), None);
}

// -- leases

const LEASE: Duration = Duration::from_millis(1_000);

/// So many members with leases for reads, and two committed entries.
fn leasing(data: u8, witnesses: u8) -> Group {
    leasing_with(data, witnesses, Options::default())
}

fn leasing_with(data: u8, witnesses: u8, options: Options) -> Group {
    settled(data, witnesses, Options { read_lease: LEASE, ..options })
}

fn joined(group: &Group, id: u8) -> bool {
    let is_sent = |e: &Envelope| {
        e.from == MemberId::new(id)
            && matches!(e.message, Message::DoViewChange { view, .. } if view > View::ZERO)
    };
    group.sent.iter().any(is_sent)
}

#[test]
fn r5_a_primary_with_a_lease_reads_without_a_round_until_it_has_surely_ended() {
    let options =
        Options { failure_timeout_min: LEASE * 2, failure_timeout_max: LEASE * 2, ..Options::default() };
    let mut group = leasing_with(3, 0, options);
    group.cut.extend([(0, 1), (0, 2)]);
    group.read(0, 1);
    assert_eq!(group.members[0].ready, vec![(1, Op::new(2))], "at once");
    group.run_for(740);
    group.read(0, 2);
    assert_eq!(group.members[0].ready.len(), 2);
    group.run_for(60);
    group.read(0, 3);
    assert_eq!(
        group.members[0].ready.len(),
        2,
        "eight tenths of the lease have passed: only a round can confirm"
    );
}

#[test]
fn r5_without_leases_every_read_is_confirmed() {
    let mut group = patient(3);
    group.cut.extend([(0, 1), (0, 2)]);
    group.read(0, 1);
    assert!(group.members[0].ready.is_empty());
}

#[test]
fn r5_a_lease_starts_with_the_request_and_not_with_the_answers() {
    let options =
        Options { failure_timeout_min: LEASE * 2, failure_timeout_max: LEASE * 2, ..Options::default() };
    let mut group = leasing_with(3, 0, options);
    while group.network.is_empty() {
        group.tick();
    }
    assert!(group.deliver() && group.deliver(), "both are asked, and answer");
    let answers = std::mem::take(&mut group.network);
    group.isolate(0);
    group.run_for(900);
    group.network = answers;
    group.settle();
    assert!(fresh(&group, 0, LEASE * 2).is_some(), "the round is confirmed");
    group.read(0, 1);
    assert!(group.members[0].ready.is_empty(), "what it was promised may be over");
}

#[test]
fn r5_a_primary_that_abdicates_serves_no_more_reads() {
    let mut group = leasing(3, 0);
    group.input(0, Input::Handover);
    group.read(0, 1);
    assert!(group.members[0].ready.is_empty());
    assert_eq!(group.members[0].refused, vec![1]);
}

#[test]
fn r6_a_member_that_answered_a_round_joins_no_view_change_during_the_lease() {
    for witnesses in [0, 1] {
        let mut group = leasing(3 - witnesses, witnesses);
        let before = group.now.monotonic;
        group.crash(0);
        group.input(1, Input::PeerLost { peer: MemberId::new(0) });
        group.input(2, Input::PeerLost { peer: MemberId::new(0) });
        group.run_for(900);
        assert!(group.replica(1).view() > View::ZERO, "it may vote to leave, and wait between the views");
        assert!(!joined(&group, 1) && !joined(&group, 2));
        group.run_until("the next primary serves", |group| group.serving() == Some(1));
        let took = group.now.monotonic.since(before);
        assert!(took < LEASE + MS * 300, "{took:?}");
    }
}

#[test]
fn r6_a_handover_releases_the_promises() {
    let mut group = leasing(3, 0);
    let before = group.now.monotonic;
    group.input(0, Input::Handover);
    group.run_until("the next primary serves", |group| group.serving() == Some(1));
    let took = group.now.monotonic.since(before);
    assert!(took < MS * 100, "{took:?}");
}

/// A vote of an earlier view for a later one, or of somebody else, proves nothing about the primary of this one.
#[test]
fn r6_only_the_primarys_own_departure_releases_the_promise() {
    let mut group = leasing(3, 0);
    group.isolate(0);
    group.cut.extend([(1, 2)]);
    let vote = Message::StartViewChange { view: View::new(1) };
    group.input(2, Input::Message { from: MemberId::new(0), message: vote.clone() });
    group.input(2, Input::Message { from: MemberId::new(1), message: vote });
    group.run_for(500);
    assert!(group.replica(2).view() > View::ZERO);
    assert!(!joined(&group, 2));
}

#[test]
fn r6_a_member_that_restarts_keeps_what_it_may_have_promised() {
    let mut group = leasing(3, 0);
    group.run_for(50);
    group.isolate(0);
    for id in [1, 2] {
        group.crash(id);
        group.start(id);
    }
    group.run_for(900);
    assert!(!joined(&group, 1) && !joined(&group, 2));
    group.run_until("the next primary serves", |group| group.serving() == Some(1));
}
