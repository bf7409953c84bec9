//! The executions that break a careless implementation, each as a scenario. Each cites the rule of `PROTOCOL.md` that
//! prevents it, and is run a second time with the seeded bug that it is about, if there is one: then it must fail.

mod clients;
mod disks;
mod excuses;
mod forming;
mod members;
mod reads;
mod standbys;
mod states;
mod views;

use super::Bug;
use super::cluster::Cluster;
use super::scenario::{NamedScenario, Scenario, ScenarioRunner, scenarios};
use kv_core::ids::View;

scenarios! {
    f_proc_1_a_client_continues_after_the_primary_dies,
    f_net_6_a_cut_between_two_of_three_stops_nobody,
    f_net_5_a_member_returns_from_long_isolation_without_a_view_change,
    two_data_members_and_a_witness_survive_any_one_after_another,
}

/// All scenarios.
fn all() -> impl Iterator<Item = &'static NamedScenario> {
    [
        SCENARIOS,
        clients::SCENARIOS,
        disks::SCENARIOS,
        excuses::SCENARIOS,
        forming::SCENARIOS,
        members::SCENARIOS,
        reads::SCENARIOS,
        standbys::SCENARIOS,
        states::SCENARIOS,
        views::SCENARIOS,
    ]
    .into_iter()
    .flatten()
}

/// Returns the first scenario that detects this bug: its name, and how it failed.
pub(super) fn detect(bug: Bug) -> Option<(&'static str, String)> {
    all().find_map(|(name, scenario)| Some((*name, ScenarioRunner::finds(bug, *scenario)?)))
}

/// The primary is cut off with a write that no other member has; the others continue with another one. Returns the
/// cut-off member.
fn with_a_write_that_nobody_else_has(c: &mut Cluster) -> usize {
    c.put("k", "everywhere");
    let old = c.primary();
    c.isolate(old);
    c.client_sees_only(1, old);
    c.begin_put(1, "k", "here only");
    c.run_until("it is in one log", |c| c.head(old) > c.commit(old));
    c.wait_for_another_primary(old);
    c.put("k", "elsewhere");
    old
}

/// F-proc-1: nothing is lost, nothing happens twice.
fn f_proc_1_a_client_continues_after_the_primary_dies(t: &ScenarioRunner) {
    Scenario::of(3).run(t, |c| {
        c.put("k", "first");
        let asked = c.begin_put(0, "k", "second");
        c.run_for(1);
        c.crash(c.primary());
        c.done(asked);
        assert_eq!(c.get("k").as_deref(), Some("second"));
    });
}

/// F-net-6, and the live-lock of a one-way cut: a member that cannot hear the primary moves nobody.
fn f_net_6_a_cut_between_two_of_three_stops_nobody(t: &ScenarioRunner) {
    for both_ways in [false, true] {
        Scenario::of(3).run(t, |c| {
            c.put("k", "before");
            let primary = c.primary();
            let one = c.backups()[0];
            c.cut(primary, one);
            if both_ways {
                c.cut(one, primary);
            }
            for _ in 0..10 {
                c.put("k", "between");
                c.run_for(1000);
            }
            let primary = c.primary();
            assert!(c.view(primary) <= View::new(2), "{:?}", c.view(primary));
        });
    }
}

/// F-net-5, and a minority that changes views on its own: a member that returns after a long time disturbs nobody.
fn f_net_5_a_member_returns_from_long_isolation_without_a_view_change(t: &ScenarioRunner) {
    Scenario::of(3).run(t, |c| {
        c.put("k", "before");
        let view = c.view(c.primary());
        let alone = c.backups()[0];
        c.isolate(alone);
        for _ in 0..10 {
            c.put("k", "meanwhile");
            c.run_for(1000);
        }
        c.heal();
        c.settle();
        assert_eq!(c.view(alone), view);
    });
}

/// Two data members and a witness survive any one, in any order, with restarts between.
fn two_data_members_and_a_witness_survive_any_one_after_another(t: &ScenarioRunner) {
    Scenario::of(2).and_a_witness().run(t, |c| {
        for dead in [0, 1, 2, 1, 0, 2, 0, 1] {
            c.put("k", "all are there");
            c.cut_power(dead);
            c.put("k", "one is missing");
            c.start(dead);
            c.settle();
        }
    });
}
