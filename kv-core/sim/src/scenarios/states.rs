//! States that are lost, slow to come and slow to be written.

use super::super::Bug;
use super::super::clock::SECOND;
use super::super::cluster::Cluster;
use super::super::plan::Plan;
use super::super::scenario::{Scenario, ScenarioRunner, scenarios};

scenarios! {
    t6_a_state_arrives_from_sources_slower_than_every_timeout,
    t9a_a_damaged_state_stays_until_it_is_replaced,
    v8_merges_slower_than_every_timeout_keep_the_role,
}

/// Checkpoints after a few writes, and no journal below them.
fn tight(plan: &mut Plan) {
    plan.options.checkpoint_bytes = 1 << 10;
    plan.options.journal_retention_bytes = 0;
}

fn write(c: &mut Cluster, count: usize) {
    for n in 0..count {
        c.put(&format!("k{n}"), &"w".repeat(700));
    }
    c.settle();
}

/// Rule T6 of PROTOCOL.md: an answer to an earlier question counts, however late it arrives.
fn t6_a_state_arrives_from_sources_slower_than_every_timeout(t: &ScenarioRunner) {
    let slow = |plan: &mut Plan| {
        tight(plan);
        plan.disk.source = 20 * SECOND;
    };
    Scenario::of(3).with(slow).finds(Bug::OnlyTheLastQuestionCounts).run(t, |c| {
        write(c, 2);
        let away = c.backups()[0];
        c.crash(away);
        write(c, 8);
        c.run_for(1_000);
        c.start(away);
        c.run_for(150_000);
    });
}

/// Rules T2 and T9a of PROTOCOL.md: its intact parts may be needed to complete another state.
fn t9a_a_damaged_state_stays_until_it_is_replaced(t: &ScenarioRunner) {
    Scenario::of(3).with(tight).finds(Bug::DamagedStateDeleted).run(t, |c| {
        write(c, 8);
        let one = c.backups()[0];
        c.crash(one);
        c.damage_state(one);
        c.isolate(one);
        c.start(one);
        c.run_for(5_000);
        let names = c.world.members[one].disk.names();
        assert!(names.iter().any(|name| name == "state" || name == "state.damaged"), "deleted: {names:?}");
    });
}

/// Rule V8 of PROTOCOL.md: the memory beside a merge is used up on all members, and nothing is applied; but the merge
/// gets on.
fn v8_merges_slower_than_every_timeout_keep_the_role(t: &ScenarioRunner) {
    let slow = |plan: &mut Plan| {
        tight(plan);
        plan.disk.checkpoint = 10 * SECOND;
    };
    Scenario::of(3).with(slow).finds(Bug::MergeTakenForHang).run(t, |c| {
        c.put("k", "before");
        let view = c.view(c.primary());
        write(c, 8);
        assert_eq!(c.view(c.primary()), view);
    });
}
