//! Disks that fail, lose writes, tear writes and corrupt data.

use super::super::Bug;
use super::super::clock::SECOND;
use super::super::kind::Kind;
use super::super::plan::Plan;
use super::super::scenario::{Scenario, ScenarioRunner, scenarios};

scenarios! {
    n4_acknowledged_writes_survive_a_power_cut_of_all,
    f_disk_2_new_files_survive_a_power_cut,
    d4_a_failed_sync_is_not_retried,
    d4_a_state_that_only_the_cache_holds_does_not_count,
    d3_a_flipped_bit_does_not_vote_a_committed_entry_away,
    d7_a_checkpoint_is_reported_once_it_is_durable,
    e2_sessions_outlive_a_checkpoint_and_a_restart,
}

/// Rule N4 of PROTOCOL.md: an acknowledgement before the fsync (NATS 2.12.1) is one that a power cut takes back.
fn n4_acknowledged_writes_survive_a_power_cut_of_all(t: &ScenarioRunner) {
    for bug in [Bug::NoSync, Bug::AckBeforeSync] {
        Scenario::of(3).finds(bug).run(t, |c| {
            for n in 0..5 {
                c.stall(1);
                c.stall(2);
                let asked = c.begin_put(0, "k", &format!("value {n}"));
                c.run_for(10);
                assert_eq!(c.ending(asked), None, "no quorum has it on disk");
                c.unstall(1);
                c.unstall(2);
                c.done(asked);
                for member in 0..3 {
                    c.cut_power(member);
                }
                for member in 0..3 {
                    c.start(member);
                }
                assert_eq!(c.get("k"), Some(format!("value {n}")));
            }
        });
    }
}

/// F-disk-2: a file whose name is not durable is gone with the power (etcd 3.6: no sync of the directory after a
/// rename).
fn f_disk_2_new_files_survive_a_power_cut(t: &ScenarioRunner) {
    Scenario::of(1).finds(Bug::NoDirectorySync).run(t, |c| {
        let value = "x".repeat(2000);
        for n in 0..40 {
            c.put("k", &format!("{n} {value}"));
            if n % 4 == 0 {
                c.cut_power(0);
                c.start(0);
            }
        }
    });
}

/// Rule D4 of PROTOCOL.md: after a failed sync the next one succeeds, and the data is gone.
fn d4_a_failed_sync_is_not_retried(t: &ScenarioRunner) {
    Scenario::of(3).finds(Bug::FailedSyncRetried).run(t, |c| {
        c.put("k", "v");
        c.settle();
        let one = c.backups()[0];
        c.fail_next_sync(one);
        c.put("k", "w");
        c.settle();
        c.cut_power(one);
        c.start(one);
        c.settle();
    });
}

/// Rule D4 of PROTOCOL.md: the system's cache still shows data that a failed sync has dropped to the next process, but
/// a power cut loses it. Here, a checkpoint is interrupted that builds on one that never reached the disk.
fn d4_a_state_that_only_the_cache_holds_does_not_count(t: &ScenarioRunner) {
    let often = |plan: &mut Plan| plan.options.checkpoint_bytes = 1 << 10;
    Scenario::of(1).with(often).run(t, |c| {
        for operation in 2..8 {
            c.put_until("there is a state on disk", |c| {
                c.world.members[0].disk.names().contains(&"state".to_owned())
            });
            let life = c.world.members[0].life;
            c.fail_sync_of_state(0, 1 + operation % 4);
            c.put_until("a checkpoint has failed", |c| c.world.members[0].life > life);
            c.put_until("the next one runs", |c| {
                c.world.members[0].process.as_ref().is_some_and(|process| process.checkpoint.is_some())
            });
            c.fail_at(0, u64::from(operation));
            c.run_until("it ends there", |c| c.world.members[0].life > life + 1);
            c.cut_power(0);
            c.start(0);
            c.settle();
        }
    });
}

/// Rules D3 and V5 of PROTOCOL.md: a flipped bit on a minority must not cut what the majority has (NATS 2.12.1).
fn d3_a_flipped_bit_does_not_vote_a_committed_entry_away(t: &ScenarioRunner) {
    for bug in [Bug::CutAtFirstBad, Bug::FaultyCountsAsNack, Bug::OneNackIsEnough] {
        Scenario::of(3).finds(bug).run(t, |c| {
            c.put("k", "before");
            c.settle();
            let (primary, damaged, without) = (c.primary(), 1, 2);
            c.lose(Kind::Prepare, None, Some(without));
            c.put("k", "the one that rots");
            c.crash(damaged);
            c.damage_value(damaged, "the one that rots");
            c.crash(primary);
            c.heal();
            c.start(damaged);
            c.run_for(5_000);
            assert_eq!(c.serving(), None, "the only intact copy is away");
            c.start(primary);
            assert_eq!(c.get("k").as_deref(), Some("the one that rots"));
        });
    }
}

/// Rule D7 of PROTOCOL.md: the superblock hears of a checkpoint when the engine has made it durable.
fn d7_a_checkpoint_is_reported_once_it_is_durable(t: &ScenarioRunner) {
    let long = |plan: &mut Plan| {
        plan.options.checkpoint_bytes = 1 << 10;
        plan.disk.checkpoint = SECOND;
    };
    Scenario::of(3).with(long).finds(Bug::CheckpointRecordedEarly).run(t, |c| {
        let one = c.primary();
        for _ in 0..5 {
            c.put("k", &"w".repeat(500));
        }
        c.run_for(20);
        c.cut_power(one);
        c.start(one);
        c.settle();
    });
}

/// Rule D7 of PROTOCOL.md: sessions belong to the state.
fn e2_sessions_outlive_a_checkpoint_and_a_restart(t: &ScenarioRunner) {
    let often = |plan: &mut Plan| plan.options.checkpoint_bytes = 1 << 10;
    Scenario::of(3).with(often).finds(Bug::SessionsNotInCheckpoint).run(t, |c| {
        for _ in 0..10 {
            c.put("k", &"w".repeat(500));
        }
        c.run_for(500);
        for member in 0..3 {
            c.restart(member);
            c.settle();
        }
        c.put("k", "v");
    });
}

/// F-proc-2: a backup's, then the primary's process ends at every operation of its disk in turn.
#[test]
fn f_proc_2_a_crash_at_any_disk_operation_loses_nothing() {
    for (victim, with_checkpoints) in [(0, false), (1, false), (1, true)] {
        let small = move |plan: &mut Plan| {
            plan.options.checkpoint_bytes = if with_checkpoints { 1 << 10 } else { 1 << 20 };
        };
        let mut operation = 1;
        loop {
            let reached = std::cell::Cell::new(true);
            Scenario::of(3).with(small).once_only().run(&ScenarioRunner::default(), |c| {
                c.put("k", "before");
                c.settle();
                let life = c.world.members[victim].life;
                c.fail_at(victim, operation);
                for _ in 0..6 {
                    c.put("k", &"x".repeat(600));
                }
                c.run_until("a primary serves", |c| c.serving().is_some());
                c.hand_over(c.primary());
                c.put("k", "after");
                c.settle();
                reached.set(c.world.members[victim].life > life);
            });
            if !reached.get() {
                break;
            }
            operation += 1;
        }
        assert!(operation > 20, "only {operation} operations");
    }
}
