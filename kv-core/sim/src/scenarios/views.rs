//! View changes: votes, decisions, installation.

use super::super::Bug;
use super::super::clock::MS;
use super::super::kind::Kind;
use super::super::plan::Plan;
use super::super::scenario::{Scenario, ScenarioRunner, scenarios};
use super::with_a_write_that_nobody_else_has;
use kv_core::ids::{Epoch, View};
use kv_core::message::Message;
use kv_core::replica::Status;

scenarios! {
    v1_a_member_that_lost_its_connection_to_the_primary_stays_in_the_view,
    v2_two_votes_far_apart_change_no_view,
    v3_a_member_restarted_between_views_remembers_its_vote,
    v3_nothing_is_sent_in_a_view_that_is_not_durable,
    v5a_the_base_of_the_decision_is_the_greatest_commit_number_of_the_quorum,
    v5b_a_longer_log_of_an_older_view_does_not_count,
    v6_start_view_waits_for_the_disk,
    v7_entries_above_the_head_of_the_view_are_cut,
    d2_a_cut_outlives_a_restart,
    v7_nothing_is_cut_before_asking,
    v7_log_view_is_durable_before_the_acknowledgement_and_not_before_the_log,
    n5_a_commit_number_received_while_catching_up_has_no_effect,
    n6_a_gap_is_not_filled_from_the_log_of_a_newer_view,
    v8_an_abdicating_primary_in_a_cluster_of_two_votes,
    v9_a_restarted_primary_issues_no_op_number_twice,
    n4_a_commit_needs_a_full_quorum,
    v1_a_delay_of_a_second_causes_no_view_change,
    v2_with_a_delay_of_a_second_one_view_change_is_enough,
    m4_a_message_leads_nobody_into_another_epoch,
}

/// Members whose messages all take this long, with default timeouts.
fn far_apart(ms: u64) -> Scenario {
    Scenario::of(3).with(move |plan| plan.network.delay = ms * MS)
}

/// Rule V1 of PROTOCOL.md: a member that follows a primary for the first time does not know the delay of its messages
/// yet.
fn v1_a_delay_of_a_second_causes_no_view_change(t: &ScenarioRunner) {
    for ms in [750, 1000] {
        far_apart(ms).run(t, |c| {
            c.put("k", "v");
            c.run_for(5_000);
            assert_eq!(c.view(c.primary()), View::ZERO);
        });
    }
}

/// Rule V2 of PROTOCOL.md: the patience with a view change is longer where messages take longer.
fn v2_with_a_delay_of_a_second_one_view_change_is_enough(t: &ScenarioRunner) {
    for ms in [750, 1000] {
        far_apart(ms).run(t, |c| {
            c.put("k", "v");
            c.run_for(5_000);
            let (primary, before) = (c.primary(), c.view(c.primary()));
            c.crash(primary);
            let next = c.wait_for_another_primary(primary);
            assert_eq!(c.view(next), before.next());
            c.start(primary);
            c.run_for(5_000);
            let before = c.view(next);
            (0..3).for_each(|member| c.cut_power(member));
            (0..3).for_each(|member| c.start(member));
            c.run_until("a primary serves", |c| c.serving().is_some());
            assert_eq!(c.view(c.primary()), before.next(), "after a restart of all");
        });
    }
}

/// Rule V1 of PROTOCOL.md: a vote is not a departure.
fn v1_a_member_that_lost_its_connection_to_the_primary_stays_in_the_view(t: &ScenarioRunner) {
    Scenario::of(3).finds(Bug::LeavesAlone).run(t, |c| {
        c.put("k", "v");
        let (primary, one) = (c.primary(), c.backups()[0]);
        c.lose_connection(one, primary);
        c.run_for(2_000);
        assert_eq!(c.view(one), View::ZERO);
    });
}

/// Rule M4 of PROTOCOL.md: nobody has entered the epoch of these views, so no entry can follow in them.
fn m4_a_message_leads_nobody_into_another_epoch(t: &ScenarioRunner) {
    Scenario::of(3).finds(Bug::EpochIgnored).run(t, |c| {
        c.put("k", "v");
        let one = c.backups()[0];
        for view in (0..3).map(|number| View::of(Epoch::new(1), number)) {
            for member in (0..3).filter(|member| *member != one) {
                c.receive(member, one, Message::GetState { view, nonce: 1 });
            }
        }
        c.run_for(2_000);
        c.put("k", "w");
        assert_eq!(c.view(c.primary()).epoch(), Epoch::ZERO);
    });
}

/// Rule V2 of PROTOCOL.md: a vote that was withdrawn completes no quorum later.
fn v2_two_votes_far_apart_change_no_view(t: &ScenarioRunner) {
    Scenario::of(3).finds(Bug::VotesNeverExpire).run(t, |c| {
        c.put("k", "v");
        let (primary, backups) = (c.primary(), c.backups());
        c.lose_connection(backups[0], primary);
        c.run_for(20_000);
        c.lose_connection(backups[1], primary);
        c.run_for(2_000);
        assert_eq!(c.view(backups[1]), View::ZERO);
    });
}

/// Rules D1 and V3 of PROTOCOL.md: a member that restarts between views knows the newer one. (In the paper's recovery
/// without a disk it forgets its vote.)
fn v3_a_member_restarted_between_views_remembers_its_vote(t: &ScenarioRunner) {
    Scenario::of(3).finds(Bug::ForgetsItsVote).run(t, |c| {
        c.put("k", "v");
        let one = c.backups()[1];
        let held = c.hold(Kind::DoViewChange, None, None);
        c.crash(c.primary());
        c.wait_for(one, Status::ViewChange);
        c.run_for(50);
        c.restart(one);
        assert_eq!(c.view(one), View::new(1));
        assert_eq!(c.status(one), Status::ViewChange);
        c.release(held);
        c.put("k", "w");
    });
}

/// Rule V3 of PROTOCOL.md.
fn v3_nothing_is_sent_in_a_view_that_is_not_durable(t: &ScenarioRunner) {
    Scenario::of(3).finds(Bug::DoViewChangeBeforeView).run(t, |c| {
        c.put("k", "v");
        let one = c.backups()[1];
        c.stall(one);
        c.crash(c.primary());
        c.wait_for(one, Status::ViewChange);
        c.run_for(500);
        assert_eq!(c.serving(), None);
        c.unstall(one);
        c.put("k", "w");
    });
}

/// Rule V5a of PROTOCOL.md: the new primary's own commit number is smaller than that of another voter, and it lacks the
/// entry.
fn v5a_the_base_of_the_decision_is_the_greatest_commit_number_of_the_quorum(t: &ScenarioRunner) {
    Scenario::of(3).finds(Bug::OwnCommitAsBase).run(t, |c| {
        c.put("k", "first");
        c.settle();
        let next = 1;
        c.lose(Kind::Prepare, None, Some(next));
        c.put("k", "second");
        c.put("k", "third");
        let head = c.head(c.primary());
        c.run_until("the other knows", |c| c.commit(2) == head);
        assert!(c.head(next) < head);
        c.crash(c.primary());
        c.wait_for_another_primary(0);
        assert_eq!(c.get("k").as_deref(), Some("third"));
    });
}

/// Rule V5b of PROTOCOL.md: a long log of an older view must not win over the newer one.
fn v5b_a_longer_log_of_an_older_view_does_not_count(t: &ScenarioRunner) {
    Scenario::of(3).finds(Bug::LongestLogWins).run(t, |c| {
        let opened = c.begin_put(1, "k", "everywhere");
        c.done(opened);
        let old = c.primary();
        c.isolate(old);
        c.client_sees_only(1, old);
        for _ in 0..4 {
            c.begin_put(1, "k", "here only");
        }
        c.run_until("it is in one log", |c| c.head(old).distance_from(c.commit(old)) == 4);
        let newer = c.wait_for_another_primary(old);
        c.put("k", "elsewhere");
        c.crash(old);
        let third = 3 - old - newer;
        // The third member and the old primary decide without the one that knows the commit point.
        c.heal();
        c.lose(Kind::Commit, None, Some(third));
        c.put("k", "committed");
        c.crash(newer);
        c.lose(Kind::StartView, None, Some(old));
        c.start(old);
        c.run_for(3_000);
        c.heal();
        c.put("k", "at last");
    });
}

/// Rule V6 of PROTOCOL.md.
fn v6_start_view_waits_for_the_disk(t: &ScenarioRunner) {
    Scenario::of(3).finds(Bug::StartViewEarly).run(t, |c| {
        c.put("k", "v");
        let next = 1;
        let held = c.hold(Kind::DoViewChange, None, Some(next));
        c.crash(c.primary());
        c.wait_for(next, Status::ViewChange);
        c.run_for(50);
        c.stall(next);
        c.release(held);
        c.run_for(200);
        assert_eq!(c.serving(), None);
        c.unstall(next);
        c.put("k", "w");
    });
}

/// Rule V7 of PROTOCOL.md: a suffix above the view's head, kept because nothing differs, would win a later view.
fn v7_entries_above_the_head_of_the_view_are_cut(t: &ScenarioRunner) {
    Scenario::of(3).finds(Bug::KeepSuffix).run(t, |c| {
        c.put("k", "everywhere");
        let old = c.primary();
        c.isolate(old);
        c.client_sees_only(1, old);
        c.begin_put(1, "k", "here only");
        c.run_until("it is in one log", |c| c.head(old) > c.commit(old));
        let head = c.commit(old);
        c.wait_for_another_primary(old);
        c.heal();
        c.client_sees_only(1, old);
        c.wait_until_installed(old);
        assert_eq!(c.head(old), head);
    });
}

/// Rule D2 of PROTOCOL.md: entries that were cut do not return after a restart.
fn d2_a_cut_outlives_a_restart(t: &ScenarioRunner) {
    Scenario::of(3).finds(Bug::CutInMemory).run(t, |c| {
        let old = with_a_write_that_nobody_else_has(c);
        c.heal();
        c.wait_until_installed(old);
        c.restart(old);
        c.settle();
        c.cut_power(old);
        c.start(old);
        c.settle();
    });
}

/// Rule V7 (b) of PROTOCOL.md: the paper's state transfer cuts the log before it has the new one.
fn v7_nothing_is_cut_before_asking(t: &ScenarioRunner) {
    Scenario::of(3).run(t, |c| {
        c.put("k", "everywhere");
        c.settle();
        let one = c.backups()[0];
        c.isolate(one);
        c.put("k", "elsewhere");
        c.hand_over(c.primary());
        let head = c.head(one);
        c.run_for(1_000);
        c.heal();
        let held = c.hold(Kind::StartView, None, Some(one));
        let headers = c.hold(Kind::NewState, None, Some(one));
        c.run_for(2_000);
        assert!(c.head(one) >= head, "{:?} {head:?}", c.head(one));
        c.release(held);
        c.release(headers);
        c.settle();
    });
}

/// Rule V7 (c) of PROTOCOL.md: `log_view` is durable after the log, and before the acknowledgement.
fn v7_log_view_is_durable_before_the_acknowledgement_and_not_before_the_log(t: &ScenarioRunner) {
    for bug in [Bug::LogViewLate, Bug::LogViewEarly] {
        Scenario::of(3).finds(bug).run(t, |c| {
            let old = with_a_write_that_nobody_else_has(c);
            c.heal();
            let held = c.hold(Kind::NewState, None, Some(old));
            c.run_until("it catches up", |c| c.status(old) == Status::CatchingUp);
            c.run_for(20);
            c.stall(old);
            c.release(held);
            c.run_for(200);
            c.crash(old);
            c.unstall(old);
            c.start(old);
            c.settle();
        });
    }
}

/// Rule N5 of PROTOCOL.md: a commit number received while catching up does not refer to the member's own entries.
fn n5_a_commit_number_received_while_catching_up_has_no_effect(t: &ScenarioRunner) {
    Scenario::of(3).finds(Bug::CommitWhileCatchingUp).run(t, |c| {
        let old = with_a_write_that_nobody_else_has(c);
        let before = c.commit(old);
        c.heal();
        let held = c.hold(Kind::StartView, None, Some(old));
        c.run_until("it catches up", |c| c.status(old) == Status::CatchingUp);
        c.run_for(300);
        assert_eq!(c.commit(old), before);
        c.release(held);
        c.settle();
    });
}

/// Rule N6 of PROTOCOL.md: a member that missed an entry asks its primary, which has installed the log of a newer view
/// when the question arrives. If the member filled the gap with an entry of that log, the missed entry, which is still
/// in flight, would look like a divergence.
fn n6_a_gap_is_not_filled_from_the_log_of_a_newer_view(t: &ScenarioRunner) {
    let late = 10_000;
    let without_order = |plan: &mut Plan| plan.network.ordered = false;
    Scenario::of(5).with(without_order).finds(Bug::FetchFromAnyLog).run(t, |c| {
        let opened = c.begin_put(1, "k", "everywhere");
        c.done(opened);
        c.settle();
        let (old, one) = (c.primary(), c.backups()[3]);
        let others: Vec<usize> = c.backups().into_iter().filter(|member| *member != one).collect();
        for &other in &others {
            c.cut_both_ways(old, other);
            c.cut_both_ways(one, other);
        }
        c.client_sees_only(1, old);
        let head = c.head(old);
        c.slow_down(old, one, late);
        c.begin_put(1, "k", "late");
        c.run_until("it is on its way", |c| c.head(old) == head.next());
        c.slow_down(old, one, 0);
        c.clog(one, old);
        c.begin_put(1, "k", "in time");
        c.wait_for_another_primary(old);
        c.put("k", "elsewhere");
        for &other in &others {
            c.mend_both_ways(old, other);
        }
        c.wait_until_installed(old);
        assert_eq!(c.head(one), head, "it still lacks what is late");
        c.unclog(one, old);
        c.run_for(late);
    });
}

/// Rule V8 of PROTOCOL.md: silence alone would starve a group of two.
fn v8_an_abdicating_primary_in_a_cluster_of_two_votes(t: &ScenarioRunner) {
    Scenario::of(2).finds(Bug::SilentAbdication).run(t, |c| {
        c.put("k", "v");
        c.hand_over(c.primary());
        c.wait_for_another_primary(0);
        c.put("k", "w");
    });
}

/// Rule V9 of PROTOCOL.md: a restarted primary would issue an op number a second time.
fn v9_a_restarted_primary_issues_no_op_number_twice(t: &ScenarioRunner) {
    Scenario::of(3).finds(Bug::ResumeView).run(t, |c| {
        c.put("k", "v");
        let primary = c.primary();
        c.settle();
        c.stall(primary);
        let asked = c.begin_put(0, "k", "durable on the backups only");
        c.done(asked);
        let head = c.head(primary);
        c.crash(primary);
        c.unstall(primary);
        c.start(primary);
        assert!(c.head(primary) < head);
        c.put("k", "w");
        c.settle();
    });
}

/// Rule N4 of PROTOCOL.md: an op is committed when a quorum has it on disk.
fn n4_a_commit_needs_a_full_quorum(t: &ScenarioRunner) {
    for bug in [Bug::QuorumOfOneLess, Bug::OwnAppendCountsEarly] {
        Scenario::of(3).finds(bug).run(t, |c| {
            c.put("k", "v");
            c.settle();
            let (primary, backups) = (c.primary(), c.backups());
            c.stall(primary);
            c.stall(backups[0]);
            let asked = c.begin_put(0, "k", "w");
            c.run_for(100);
            assert_eq!(c.ending(asked), None, "one disk is no quorum");
            c.unstall(primary);
            c.unstall(backups[0]);
            c.done(asked);
        });
    }
}
