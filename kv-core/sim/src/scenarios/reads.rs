//! Reads that need no word from a quorum: by what a member knows of the age of its state.

use super::super::Bug;
use super::super::cluster::Cluster;
use super::super::plan::Plan;
use super::super::scenario::{Scenario, ScenarioRunner, scenarios};
use std::time::Duration;

scenarios! {
    r4_a_backup_behind_a_slow_link_does_not_take_what_it_hears_for_new,
    r4_a_deposed_primary_keeps_no_state_fresh,
    r6_a_promise_is_kept,
    r6_a_promise_outlives_a_restart,
    r5_clocks_that_go_wronger_than_is_assumed_break_leases,
    r5_a_lease_counts_from_the_question,
    r5_a_primary_that_was_paused_reads_by_no_lease_of_before,
}

/// Rule R4 of PROTOCOL.md: what is heard late is old.
fn r4_a_backup_behind_a_slow_link_does_not_take_what_it_hears_for_new(t: &ScenarioRunner) {
    Scenario::of(3).finds(Bug::FreshSinceHeard).run(t, |c| {
        c.put("k", "old");
        let (primary, one) = (c.primary(), c.backups()[0]);
        c.settle();
        c.slow_down(primary, one, 100);
        c.run_for(1_000);
        c.put("k", "new");
        c.run_for(60);
        let reads = [(); 8].map(|()| c.begin_bounded_get(1, "k", 50));
        c.run_for(50);
        c.heal();
        for read in reads {
            assert_eq!(c.value(read).as_deref(), Some("new"));
        }
    });
}

/// Rule R4 of PROTOCOL.md: a primary that others have replaced still tells that it lives.
fn r4_a_deposed_primary_keeps_no_state_fresh(t: &ScenarioRunner) {
    let patient = |plan: &mut Plan| plan.options.failure_timeout_min = Duration::from_secs(1);
    Scenario::of(5).with(patient).finds(Bug::FreshUnconfirmed).run(t, |c| {
        c.put("k", "old");
        let (old, one, far) = (c.primary(), c.backups()[3], c.backups()[0]);
        c.settle();
        for away in (0..5).filter(|member| *member != old && *member != one) {
            for near in [old, one] {
                c.cut_both_ways(away, near);
            }
        }
        for near in [old, one] {
            let client = c.world.client_node(0);
            c.cut_both_ways(client, near);
        }
        c.run_until("the others leave", |c| c.view(far) > c.view(old));
        c.put("k", "new");
        c.run_for(110);
        let reads = [(); 8].map(|()| c.begin_bounded_get(1, "k", 100));
        c.run_for(100);
        c.heal();
        for read in reads {
            assert_eq!(c.value(read).as_deref(), Some("new"));
        }
    });
}

fn leases(plan: &mut Plan) {
    plan.options.read_lease = Duration::from_secs(1);
}

/// The primary is cut off from the others; as soon as these have written something, a client asks it.
fn read_at_a_deposed_primary(c: &mut Cluster, restart: bool) {
    c.put("k", "old");
    let old = c.primary();
    let backups = c.backups();
    for client in [1, 0] {
        let asked = c.begin_get(client, "k");
        c.value(asked);
    }
    c.settle();
    c.isolate(old);
    let node = c.world.client_node(0);
    c.cut_both_ways(node, old);
    if restart {
        for one in backups {
            c.restart(one);
        }
    }
    c.put("k", "new");
    let read = c.begin_get(1, "k");
    c.run_for(20);
    c.heal();
    assert_eq!(c.value(read).as_deref(), Some("new"));
}

/// Rule R6 of PROTOCOL.md: who has promised the primary to stay joins no change.
fn r6_a_promise_is_kept(t: &ScenarioRunner) {
    Scenario::of(3).with(leases).finds(Bug::PromiseNotKept).run(t, |c| read_at_a_deposed_primary(c, false));
}

/// Rule R6 of PROTOCOL.md: also by who has restarted, and does not remember.
fn r6_a_promise_outlives_a_restart(t: &ScenarioRunner) {
    Scenario::of(3).with(leases).finds(Bug::PromiseForgotten).run(t, |c| read_at_a_deposed_primary(c, true));
}

/// Rules R5 and R6 of PROTOCOL.md rest on clocks: where they go wronger than is assumed, a read may be of what was.
fn r5_clocks_that_go_wronger_than_is_assumed_break_leases(t: &ScenarioRunner) {
    Scenario::of(3).with(leases).finds(Bug::ClocksTooWrong).run(t, |c| read_at_a_deposed_primary(c, false));
}

/// Rule R5 of PROTOCOL.md: the answers to a question come late, and say nothing of when they come.
fn r5_a_lease_counts_from_the_question(t: &ScenarioRunner) {
    let patient = |plan: &mut Plan| {
        leases(plan);
        plan.options.failure_timeout_min = Duration::from_millis(800);
    };
    Scenario::of(3).with(patient).finds(Bug::LeaseFromAnswer).run(t, |c| {
        c.put("k", "old");
        let old = c.primary();
        for client in [1, 0] {
            let asked = c.begin_get(client, "k");
            c.value(asked);
        }
        c.settle();
        for backup in c.backups() {
            c.slow_down(backup, old, 900);
        }
        c.run_for(25);
        for backup in c.backups() {
            c.cut(old, backup);
        }
        let node = c.world.client_node(0);
        c.cut_both_ways(node, old);
        c.put("k", "new");
        let read = c.begin_get(1, "k");
        c.run_for(20);
        c.heal();
        assert_eq!(c.value(read).as_deref(), Some("new"));
    });
}

/// Rule R5 of PROTOCOL.md: a primary is stopped for longer than its lease, and its clock goes on: another one has
/// written when it wakes and finds a read. It knows by its clock alone; one that has stood still as long as the process
/// says that the lease goes on.
fn r5_a_primary_that_was_paused_reads_by_no_lease_of_before(t: &ScenarioRunner) {
    for bug in [Bug::LeaseSeenOnce, Bug::ClocksPause] {
        Scenario::of(3).with(leases).finds(bug).run(t, |c| {
            c.put("k", "old");
            let old = c.primary();
            let asked = c.begin_get(1, "k");
            c.value(asked);
            c.settle();
            c.client_sees_only(1, old);
            c.isolate(old);
            c.pause(old, 6_000);
            c.wait_for_another_primary(old);
            c.put("k", "new");
            let read = c.begin_get(1, "k");
            c.run_until("it goes on", |c| !c.world.members[old].is_paused());
            c.run_for(10);
            c.heal();
            assert_eq!(c.value(read).as_deref(), Some("new"));
        });
    }
}
