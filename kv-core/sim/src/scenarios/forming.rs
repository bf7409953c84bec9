//! Forming a cluster.

use super::super::Bug;
use super::super::kind::Kind;
use super::super::scenario::{Scenario, ScenarioRunner, scenarios};
use kv_core::replica::Status;

scenarios! {
    f2_two_of_three_empty_members_form_nothing,
    f2_a_late_member_is_admitted,
    f3_a_step_is_reported_once_it_is_durable,
    f4_a_member_wiped_during_formation_is_refused,
}

/// Rule F2 of PROTOCOL.md: a first start needs all members once.
fn f2_two_of_three_empty_members_form_nothing(t: &ScenarioRunner) {
    Scenario::of(3).unformed().finds(Bug::FormsWithoutAll).run(t, |c| {
        c.start(0);
        c.start(1);
        c.run_for(1_000);
        assert_eq!(c.status(0), Status::Forming);
        c.start(2);
        c.settle();
    });
}

/// Rule F2 of PROTOCOL.md: a late member that asks after the others have formed.
fn f2_a_late_member_is_admitted(t: &ScenarioRunner) {
    Scenario::of(3).unformed().run(t, |c| {
        for member in 0..3 {
            c.start(member);
        }
        c.run_until("it is formatted", |c| c.world.checker.is_formatted(2));
        c.run_for(1);
        c.crash(2);
        c.run_until("the others have formed", |c| c.serving().is_some());
        c.put("k", "v");
        c.start(2);
        c.settle();
    });
}

/// Rule F3 of PROTOCOL.md: a member that reported a step before it was durable, and came back empty, would be locked
/// out.
fn f3_a_step_is_reported_once_it_is_durable(t: &ScenarioRunner) {
    Scenario::of(3).unformed().finds(Bug::FormOnWord).run(t, |c| {
        c.stall(2);
        for member in 0..3 {
            c.start(member);
        }
        c.run_for(1_000);
        c.crash(2);
        c.unstall(2);
        c.start(2);
        c.settle();
    });
}

/// Rule F4 of PROTOCOL.md: a member wiped between formatted and formed is disk loss, like one wiped later.
fn f4_a_member_wiped_during_formation_is_refused(t: &ScenarioRunner) {
    Scenario::of(3).unformed().finds(Bug::WipedMemberJoins).run(t, |c| {
        let held = c.hold(Kind::Formation, Some(0), Some(2));
        for member in 0..3 {
            c.start(member);
        }
        c.run_for(500);
        assert_eq!(c.status(2), Status::Forming);
        c.release(held);
        c.run_until("formed", |c| c.serving().is_some());
        c.put("k", "v");
        c.crash(2);
        c.wipe(2);
        c.start(2);
        c.run_until("it stops", |c| c.world.members[2].process.is_none());
        c.put("k", "w");
    });
}
