//! Standbys, which receive the log and the state, and are in no quorum.

use super::super::Bug;
use super::super::scenario::{Scenario, ScenarioRunner, scenarios};
use kv_core::ids::View;

scenarios! {
    n4_a_standby_completes_no_quorum,
    r1_a_standby_confirms_no_round,
    v2_a_standby_has_no_vote,
    a_standby_receives_the_state_and_changes_nothing_else,
}

/// The standby is the last of four members.
const STANDBY: usize = 3;

/// Rule N4 of PROTOCOL.md: of the three that count, only one has the entry.
fn n4_a_standby_completes_no_quorum(t: &ScenarioRunner) {
    Scenario::of(3).and_a_standby().finds(Bug::StandbyCounts).run(t, |c| {
        c.put("k", "v");
        c.settle();
        let primary = c.primary();
        for backup in c.backups().into_iter().filter(|backup| *backup != STANDBY) {
            c.cut_both_ways(primary, backup);
        }
        let asked = c.begin_put(0, "k", "w");
        c.run_until("the standby has it", |c| c.head(STANDBY) == c.head(primary));
        c.run_for(50);
        assert_eq!(c.ending(asked), None, "a standby is not in the quorum");
        c.heal();
        c.done(asked);
    });
}

/// Rule R1 of PROTOCOL.md: of the members that follow the old primary, only the standby is left.
fn r1_a_standby_confirms_no_round(t: &ScenarioRunner) {
    Scenario::of(3).and_a_standby().finds(Bug::StandbyCounts).run(t, |c| {
        c.put("k", "old");
        c.settle();
        let old = c.primary();
        for backup in c.backups().into_iter().filter(|backup| *backup != STANDBY) {
            c.cut_both_ways(old, backup);
            c.cut_both_ways(STANDBY, backup);
        }
        c.client_sees_only(1, old);
        let asked = c.begin_get(1, "k");
        c.run_for(100);
        assert_eq!(c.ending(asked), None, "a standby does not know whether there is a newer view");
        c.heal();
        assert_eq!(c.value(asked).as_deref(), Some("old"));
    });
}

/// Rule V2 of PROTOCOL.md: one voter and a standby are no quorum of three voters.
fn v2_a_standby_has_no_vote(t: &ScenarioRunner) {
    Scenario::of(3).and_a_standby().finds(Bug::StandbyVotes).run(t, |c| {
        c.put("k", "v");
        c.settle();
        let (primary, backups) = (c.primary(), c.backups());
        c.crash(primary);
        c.crash(backups[1]);
        c.run_for(20_000);
        assert_eq!((c.view(backups[0]), c.view(STANDBY)), (View::ZERO, View::ZERO));
        c.start(primary);
        c.start(backups[1]);
        c.put("k", "w");
    });
}

/// A cluster loses nothing with its standby, and the standby is level with it.
fn a_standby_receives_the_state_and_changes_nothing_else(t: &ScenarioRunner) {
    Scenario::of(3).and_a_standby().run(t, |c| {
        c.put("k", "v");
        c.crash(STANDBY);
        c.put("k", "w");
        c.start(STANDBY);
        c.settle();
        let old = c.primary();
        c.crash(old);
        assert_ne!(c.wait_for_another_primary(old), STANDBY);
        c.start(old);
        c.put("k", "x");
        c.settle();
        assert_eq!(c.get("k").as_deref(), Some("x"));
    });
}
