//! When a cluster is excused although it does not converge, because not all members return.

use super::super::cluster::Cluster;
use super::super::events::Event;
use super::super::kind::Kind;
use super::super::plan::DamagePlan;
use super::super::report::EXCUSED;
use super::super::scenario::{Scenario, ScenarioRunner, scenarios};
use kv_core::ids::Op;
use kv_core::replica::StallReason;

scenarios! {
    the_others_wait_for_the_one_that_has_the_only_intact_copy,
    a_member_with_an_intact_copy_does_not_wait_for_a_damaged_one,
    the_others_wait_for_what_is_committed_and_damaged_on_each_of_them,
    a_member_that_could_decide_is_not_excused,
}

/// The third member never gets an entry that the other two have acknowledged, and it rots on the second one. Gives its
/// op. Nobody but the third runs afterwards.
fn rots_on_one_of_two(c: &mut Cluster) -> Op {
    c.put("k", "before");
    c.settle();
    c.lose(Kind::Prepare, None, Some(2));
    c.put("k", "the one that rots");
    let op = c.head(0);
    c.crash(1);
    c.damage_value(1, "the one that rots");
    c.crash(0);
    c.heal();
    op
}

/// As at the end of a run with damaged disks: waits until the returned members have converged, are excused, or have
/// failed. Returns what was found.
fn probe(c: &mut Cluster) -> Option<&'static str> {
    c.world.plan.damage = Some(DamagePlan { victim: None, chance: 0, states: false });
    c.world.healed = Some(c.world.now);
    c.world.schedule(c.world.now, Event::Probe);
    let end = c.world.now + 2 * c.world.plan.scale.settle;
    while c.world.next_at() < end && c.world.violation.is_none() {
        c.world.step();
    }
    c.world.healed = None;
    c.world.violation.take().map(|((invariant, _), _)| invariant)
}

fn excused(c: &Cluster) -> u64 {
    c.world.checker.counts().get(EXCUSED).copied().unwrap_or_default()
}

fn the_others_wait_for_the_one_that_has_the_only_intact_copy(t: &ScenarioRunner) {
    Scenario::of(3).once_only().run(t, |c| {
        let op = rots_on_one_of_two(c);
        c.start(1);
        assert_eq!(c.world.stall_reason(), Some(StallReason::Undecided(op)));
        assert_eq!((probe(c), excused(c)), (None, 1));
        assert_eq!((c.serving(), c.world.stall_reason()), (None, Some(StallReason::Undecided(op))));
        c.start(0);
        assert_eq!(c.world.stall_reason(), None, "all are back");
        assert_eq!(c.get("k").as_deref(), Some("the one that rots"));
    });
}

fn a_member_with_an_intact_copy_does_not_wait_for_a_damaged_one(t: &ScenarioRunner) {
    Scenario::of(3).once_only().run(t, |c| {
        rots_on_one_of_two(c);
        c.start(0);
        assert_eq!(c.world.stall_reason(), None);
        assert_eq!((probe(c), excused(c)), (None, 0));
        assert_eq!(c.get("k").as_deref(), Some("the one that rots"));
    });
}

/// What is known to be committed needs no decision, but somebody must have it.
fn the_others_wait_for_what_is_committed_and_damaged_on_each_of_them(t: &ScenarioRunner) {
    Scenario::of(3).once_only().run(t, |c| {
        c.put("k", "the one that rots");
        let op = c.head(0);
        // Further below the head than a pipeline.
        for n in 0..6 {
            c.put("k", &format!("after {n}"));
        }
        c.settle();
        (0..3).for_each(|member| c.crash(member));
        (1..3).for_each(|member| c.damage_value(member, "the one that rots"));
        (1..3).for_each(|member| c.start(member));
        assert_eq!(c.world.stall_reason(), Some(StallReason::Missing(op)));
        c.start(0);
        assert_eq!(c.world.stall_reason(), None, "all are back");
    });
}

fn a_member_that_could_decide_is_not_excused(t: &ScenarioRunner) {
    Scenario::of(3).once_only().run(t, |c| {
        rots_on_one_of_two(c);
        c.start(0);
        (0..3).for_each(|member| c.isolate(member));
        assert_eq!(c.world.stall_reason(), None);
        assert_eq!((probe(c), excused(c)), (Some("a healed cluster converges"), 0));
    });
}
