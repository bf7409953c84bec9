//! What clients observe: reads that are fresh, requests that run once, sessions, clocks.

use super::super::Bug;
use super::super::history::Ending;
use super::super::kind::Kind;
use super::super::plan::Plan;
use super::super::scenario::{Scenario, ScenarioRunner, scenarios};
use kv_core::replica::Status;

scenarios! {
    r1_a_paused_primary_answers_no_read_alone,
    r1_a_round_from_before_a_pause_confirms_no_later_read,
    r1_an_acknowledgement_of_an_entry_confirms_no_read,
    r1_a_new_primary_reads_at_least_its_inherited_log,
    e2_a_retry_after_its_inherited_duplicate_runs_once,
    e3_a_duplicate_of_a_forgotten_request_does_not_run,
    e1_two_sessions_opened_in_one_batch_are_two,
    e5_a_request_whose_session_was_evicted_is_not_replayed_in_another,
    n7_one_clock_in_the_year_2099_expires_nothing,
    x1_a_lease_counts_from_before_the_request_was_sent,
}

/// Rule R1 of PROTOCOL.md: a deposed primary would answer from a state that the new one has overtaken.
fn r1_a_paused_primary_answers_no_read_alone(t: &ScenarioRunner) {
    Scenario::of(3).finds(Bug::ReadUnconfirmed).run(t, |c| {
        c.put("k", "old");
        let old = c.primary();
        c.client_sees_only(1, old);
        c.isolate(old);
        c.pause(old, 2_000);
        c.wait_for_another_primary(old);
        c.put("k", "new");
        let read = c.begin_get(1, "k");
        c.run_until("it goes on", |c| !c.world.members[old].is_paused());
        c.run_for(10);
        c.heal();
        assert_eq!(c.value(read).as_deref(), Some("new"));
    });
}

/// Rule R1 of PROTOCOL.md: a round that was answered before a pause confirms no read that came after it.
fn r1_a_round_from_before_a_pause_confirms_no_later_read(t: &ScenarioRunner) {
    Scenario::of(3).finds(Bug::ReadRoundReused).run(t, |c| {
        c.put("k", "old");
        c.settle();
        let old = c.primary();
        c.client_sees_only(1, old);
        let held = c.hold(Kind::CommitOk, None, Some(old));
        let first = c.begin_get(1, "k");
        c.run_for(5);
        c.isolate(old);
        c.pause(old, 3_000);
        c.wait_for_another_primary(old);
        c.put("k", "new");
        let second = c.begin_get(1, "k");
        c.run_until("it goes on", |c| !c.world.members[old].is_paused());
        c.release(held);
        c.run_for(20);
        c.heal();
        c.value(first);
        assert_eq!(c.value(second).as_deref(), Some("new"));
    });
}

/// Rule R1 of PROTOCOL.md: acknowledgements of entries, repeated or not, confirm no read.
fn r1_an_acknowledgement_of_an_entry_confirms_no_read(t: &ScenarioRunner) {
    Scenario::of(3).run(t, |c| {
        c.put("k", "v");
        c.settle();
        let held = c.hold(Kind::CommitOk, None, Some(c.primary()));
        let read = c.begin_get(1, "k");
        c.put("k", "w");
        c.put("k", "x");
        assert_eq!(c.ending(read), None);
        c.release(held);
        c.value(read);
    });
}

/// Rule R1 of PROTOCOL.md: what a new primary has inherited may have been returned to a client.
fn r1_a_new_primary_reads_at_least_its_inherited_log(t: &ScenarioRunner) {
    Scenario::of(3).finds(Bug::ReadBelowInherited).run(t, |c| {
        c.put("k", "old");
        c.settle();
        let next = 1;
        c.lose(Kind::Commit, None, Some(next));
        c.lose(Kind::PrepareOk, Some(2), None);
        c.put("k", "new");
        assert!(c.commit(next) < c.head(next));
        c.crash(c.primary());
        c.client_sees_only(1, next);
        c.wait_for_another_primary(0);
        c.stall(2);
        let read = c.begin_get(1, "k");
        c.run_for(100);
        c.unstall(2);
        assert_eq!(c.value(read).as_deref(), Some("new"));
    });
}

/// Rule E2 of PROTOCOL.md: a retry is proposed beside its twin, which the new primary has inherited.
fn e2_a_retry_after_its_inherited_duplicate_runs_once(t: &ScenarioRunner) {
    Scenario::of(3).run(t, |c| {
        c.put("k", "v");
        c.settle();
        let old = c.primary();
        c.lose(Kind::PrepareOk, None, Some(old));
        c.lose(Kind::CommitOk, None, Some(old));
        let asked = c.begin_put(0, "k", "once");
        c.run_until("it is in the other logs", |c| c.head(1) == c.head(old) && c.head(2) == c.head(old));
        let held = c.hold(Kind::PrepareOk, None, Some(1));
        let beats = c.hold(Kind::CommitOk, None, Some(1));
        c.crash(old);
        c.wait_for_another_primary(old);
        let inherited = c.head(1);
        c.run_until("its twin is proposed", |c| c.head(1) > inherited);
        c.release(held);
        c.release(beats);
        c.done(asked);
        c.settle();
    });
}

/// Rule E3 of PROTOCOL.md: the first copy of a request is on its way for so long that its client has forgotten it.
fn e3_a_duplicate_of_a_forgotten_request_does_not_run(t: &ScenarioRunner) {
    Scenario::of(3).finds(Bug::ForgottenRuns).run(t, |c| {
        c.put("k", "before");
        c.settle();
        let (old, node) = (c.primary(), c.world.client_node(0));
        c.world.network.clog(node, old);
        let asked = c.begin_put(0, "k", "once");
        c.hand_over(old);
        c.wait_for_another_primary(old);
        c.done(asked);
        c.put("k", "then");
        c.put("k", "last");
        // The role returns to the member to which the copy is in flight.
        while c.primary() != old {
            let primary = c.primary();
            c.hand_over(primary);
            c.wait_for_another_primary(primary);
        }
        c.world.release(node, old);
        c.run_for(200);
        assert_eq!(c.get("k").as_deref(), Some("last"));
    });
}

/// Rule E1 of PROTOCOL.md: several sessions may be opened in one entry.
fn e1_two_sessions_opened_in_one_batch_are_two(t: &ScenarioRunner) {
    let narrow = |plan: &mut Plan| {
        plan.options.pipeline_depth = 1;
        plan.load.clients = 3;
    };
    Scenario::of(3).with(narrow).run(t, |c| {
        c.put("k", "v");
        c.settle();
        let head = c.head(c.primary());
        c.stall(1);
        c.stall(2);
        let first = c.begin_put(0, "k", "first");
        c.run_for(5);
        let (second, third) = (c.begin_put(1, "a", "second"), c.begin_put(2, "b", "third"));
        c.run_for(5);
        c.unstall(1);
        c.unstall(2);
        let (_, second, third) = (c.done(first), c.done(second), c.done(third));
        assert_ne!(second, third);
        c.settle();
        let made = c.head(c.primary()).distance_from(head);
        assert!(made < 5, "one entry for the put and {made} in all: both sessions in one");
    });
}

/// Rule E5 of PROTOCOL.md: register, evict, register, replay.
fn e5_a_request_whose_session_was_evicted_is_not_replayed_in_another(t: &ScenarioRunner) {
    Scenario::of(3).with(|plan| plan.options.max_sessions = 1).run(t, |c| {
        c.put("k", "before");
        c.settle();
        let (primary, node) = (c.primary(), c.world.client_node(0));
        for member in 0..3 {
            c.world.network.cut(member, node);
        }
        let asked = c.begin_put(0, "k", "once");
        let head = c.head(primary);
        c.run_until("it has happened", |c| c.commit(primary) > head);
        let other = c.begin_put(1, "k", "by another");
        c.done(other);
        c.heal();
        assert!(matches!(c.outcome(asked), Ending::Unknown | Ending::Put(_)));
        assert_eq!(c.get("k").as_deref(), Some("by another"));
    });
}

/// Rule N7 of PROTOCOL.md: one clock in the year 2099, set there before or while its member is primary.
fn n7_one_clock_in_the_year_2099_expires_nothing(t: &ScenarioRunner) {
    Scenario::of(3).finds(Bug::StampOfOneClock).run(t, |c| {
        c.put("k", "v");
        let century = 73 * 365 * 24 * 3_600_000;
        let primary = c.primary();
        c.step_clock(primary, century);
        c.put("k", "w");
        c.run_for(1_000);
        c.put("k", "x");
        c.hand_over(primary);
        c.wait_for_another_primary(primary);
        c.put("k", "y");
        c.wait_for(primary, Status::Normal);
    });
}

/// Rule X1 of PROTOCOL.md: the time of a lease begins before its holder hears of it.
fn x1_a_lease_counts_from_before_the_request_was_sent(t: &ScenarioRunner) {
    let two = |plan: &mut Plan| {
        plan.holders = 2;
        plan.load.clients = 1;
    };
    Scenario::of(3).with(two).finds(Bug::BelievesFromAnswer).run(t, |c| {
        let late = c.world.client_node(1);
        (0..3).for_each(|member| c.slow_down(member, late, 390));
        c.contend();
        for _ in 0..10 {
            c.run_for(2_000);
            // Its signs of life do not get through any more, and the other gets the lock.
            (0..3).for_each(|member| c.cut(late, member));
            c.run_for(3_000);
            (0..3).for_each(|member| c.world.network.mend(late, member));
        }
        c.stop_contending();
    });
}
