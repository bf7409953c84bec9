//! Changes of the member list (rules M).

use super::super::Bug;
use super::super::changing::{address, id};
use super::super::kind::Kind;
use super::super::scenario::{Scenario, ScenarioRunner, scenarios};
use kv_core::config::{Change, DiskId, Role};
use kv_core::ids::Epoch;

scenarios! {
    each_of_three_members_is_replaced_by_one_machine,
    m1_the_next_primary_orders_another_stop_at_the_same_op,
    m6_a_voter_that_joins_again_on_another_disk_halts,
    m6_a_founder_that_restarts_in_epoch_0_has_not_lost_its_disk,
    m7_a_change_that_relies_on_an_absent_member_is_refused,
}

/// The spare machine of three founders.
const SPARE: usize = 3;

fn add() -> Change {
    Change::Add { id: id(SPARE), address: "member:1003".to_owned(), role: Role::Data }
}

/// The primary fills in the disk.
fn promote() -> Change {
    Change::Promote { id: id(SPARE), disk: DiskId(0) }
}

/// A member is added, gets a vote, and takes the place of the primary, which then stops.
fn each_of_three_members_is_replaced_by_one_machine(t: &ScenarioRunner) {
    for gone in 0..SPARE {
        Scenario::of(3).and_a_spare().once_only().run(t, move |c| {
            c.put("k", "before");
            c.settle();
            c.change(add());
            c.wait_until_joined(SPARE);
            c.settle();
            c.run_for(500);
            c.change(Change::Replace { old: id(gone), new: id(SPARE), disk: DiskId(0) });
            c.run_until("the removed member stops", |c| c.is_out(gone));
            assert_eq!(c.get("k").as_deref(), Some("before"));
            c.settle();
        });
    }
}

/// Rule M1 of PROTOCOL.md: a stop was prepared, and its primary dies. The next one, which knows nothing of it, orders
/// another one at the same op.
fn m1_the_next_primary_orders_another_stop_at_the_same_op(t: &ScenarioRunner) {
    Scenario::of(3).finds(Bug::EntersUncommitted).run(t, |c| {
        c.put("k", "v");
        c.settle();
        let old = c.primary();
        c.lose(Kind::Prepare, Some(old), None);
        assert!(c.change_at(old, address(0, "here:1")));
        c.run_for(20);
        assert_eq!(c.epoch(old), Epoch::ZERO, "nobody else has it");
        let stop = c.head(old);
        c.crash(old);
        c.heal();
        let new = c.wait_for_another_primary(old);
        assert_eq!(c.head(new).next(), stop);
        c.run_for(500);
        c.change(address(0, "there:1"));
        c.start(old);
        c.settle();
        assert_eq!(c.listed(old, 0).map(|member| &*member.address), Some("there:1"));
    });
}

/// Rule M6 of PROTOCOL.md: a member that is an epoch behind takes the voter for a standby that may join.
fn m6_a_voter_that_joins_again_on_another_disk_halts(t: &ScenarioRunner) {
    Scenario::of(3).and_a_spare().finds(Bug::DiskIgnored).run(t, |c| {
        c.put("k", "v");
        c.settle();
        c.change(add());
        c.wait_until_joined(SPARE);
        c.settle();
        c.run_for(500);
        let laggard = c.backups()[0];
        c.isolate(laggard);
        c.change(promote());
        c.put("k", "w");
        c.crash(SPARE);
        c.wipe(SPARE);
        (0..SPARE).filter(|member| *member != laggard).for_each(|member| c.cut_both_ways(SPARE, member));
        c.mend_both_ways(SPARE, laggard);
        c.start(SPARE);
        c.wait_until_joined(SPARE);
        assert_eq!(c.epoch(SPARE), Epoch::new(1));
        c.heal();
        c.run_until("it notices", |c| c.is_out(SPARE));
        c.put("k", "x");
    });
}

/// Rule M6 of PROTOCOL.md: in epoch 0, each life draws another id for the disk.
fn m6_a_founder_that_restarts_in_epoch_0_has_not_lost_its_disk(t: &ScenarioRunner) {
    Scenario::of(3).finds(Bug::NamesEarlyDisk).run(t, |c| {
        c.put("k", "v");
        c.settle();
        let away = c.backups()[0];
        c.crash(away);
        c.change(address(0, "here:1"));
        c.lose(Kind::NewState, None, Some(away));
        c.start(away);
        c.run_for(500);
        assert_eq!(c.epoch(away), Epoch::ZERO, "it has heard of the next epoch, and lacks the stop");
        c.crash(away);
        c.change(address(0, "there:1"));
        c.heal();
        c.start(away);
        c.settle();
        assert_eq!(c.epoch(away), Epoch::new(2));
    });
}

/// Rule M7 of PROTOCOL.md: nobody could take the stop back.
fn m7_a_change_that_relies_on_an_absent_member_is_refused(t: &ScenarioRunner) {
    Scenario::of(3).finds(Bug::AbsentCountAsLevel).run(t, |c| {
        c.put("k", "v");
        c.settle();
        let (primary, backups) = (c.primary(), c.backups());
        c.crash(backups[0]);
        c.run_for(5_000);
        assert!(!c.change_at(primary, Change::Remove { id: id(backups[1]) }));
        c.put("k", "w");
        c.change(Change::Remove { id: id(backups[0]) });
        c.put("k", "x");
        c.start(backups[0]);
        c.run_until("it learns that it was removed", |c| c.is_out(backups[0]));
    });
}
