//! Reads that do not ask a quorum: by the known age of the state, or by a lease.

use super::super::Bug;
use super::super::cluster::Cluster;
use super::super::plan::Plan;
use super::super::scenario::{Scenario, ScenarioRunner, scenarios};
use std::time::Duration;

scenarios! {
    r4_a_backup_behind_a_slow_link_does_not_count_as_fresh,
    r4_a_deposed_primary_cannot_keep_a_state_fresh,
    r6_a_promise_is_kept,
    r6_a_promise_outlives_a_restart,
    r5_clocks_beyond_the_assumed_error_break_leases,
    r5_a_lease_starts_with_the_request,
    r5_a_paused_primary_does_not_use_an_old_lease,
}

/// Rule R4 of PROTOCOL.md: a late message proves nothing about the present.
fn r4_a_backup_behind_a_slow_link_does_not_count_as_fresh(t: &ScenarioRunner) {
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

/// Rule R4 of PROTOCOL.md: a primary that others have replaced still sends heartbeats.
fn r4_a_deposed_primary_cannot_keep_a_state_fresh(t: &ScenarioRunner) {
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

/// Rule R6 of PROTOCOL.md: a member that has made a promise to the primary joins no view change.
fn r6_a_promise_is_kept(t: &ScenarioRunner) {
    Scenario::of(3).with(leases).finds(Bug::PromiseNotKept).run(t, |c| read_at_a_deposed_primary(c, false));
}

/// Rule R6 of PROTOCOL.md: this also holds after a restart, when the member does not remember the promise.
fn r6_a_promise_outlives_a_restart(t: &ScenarioRunner) {
    Scenario::of(3).with(leases).finds(Bug::PromiseForgotten).run(t, |c| read_at_a_deposed_primary(c, true));
}

/// Rules R5 and R6 of PROTOCOL.md depend on clocks: if clocks are worse than assumed, a read may be stale.
fn r5_clocks_beyond_the_assumed_error_break_leases(t: &ScenarioRunner) {
    Scenario::of(3).with(leases).finds(Bug::ClocksTooWrong).run(t, |c| read_at_a_deposed_primary(c, false));
}

/// Rule R5 of PROTOCOL.md: the answers to a round arrive late, and do not show when they were sent.
fn r5_a_lease_starts_with_the_request(t: &ScenarioRunner) {
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

/// Rule R5 of PROTOCOL.md: a primary is paused for longer than its lease, while its clock runs. When it resumes and
/// finds a read, another primary has already written. Only its clock shows this; a clock that had stopped with the
/// process would show that the lease is still valid.
fn r5_a_paused_primary_does_not_use_an_old_lease(t: &ScenarioRunner) {
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
