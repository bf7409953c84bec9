//! Links that are slow, flap, clog, corrupt, or are half-open; a member that never gets up.

use super::harness::{Harness, Net, eventually, options, patient_options};
use super::load::Load;
use kv_core::config::Role;
use kv_core::node::MemberState;
use kv_core::transport::{Direction, Fault, Faults, Lane, Scope};
use std::time::Duration;

const BETWEEN_MEMBERS: [Lane; 3] = [Lane::Control, Lane::Log, Lane::Bulk];

/// F-net-9: what one backup sends takes a second. The others do not wait for it, and it does not take that for a dead
/// primary.
pub(crate) async fn f_net_9_a_second_of_delay_one_way_is_adapted_to(net: Net) {
    let harness = Harness::with(net, &[Role::Data; 3], patient_options()).await;
    let load = Load::start(&harness.client().await, 4);
    load.progress(50).await;
    let (primary, slow) = (harness.primary().await, harness.backup().await);
    let view = harness.status(primary).view;
    for lane in BETWEEN_MEMBERS {
        let second = Duration::from_secs(1);
        harness.faults[slow].set(Scope::all().lane(lane).outgoing(), Fault::new().delay(second..=second));
    }
    load.progress(500).await;
    assert_eq!(harness.status(primary).view, view, "no view changes for the sake of a slow link");
    // Now it is needed, delay or not.
    let other = 3 - primary - slow;
    harness.faults[other].cut(Scope::all());
    load.progress(20).await;
    harness.faults.iter().for_each(Faults::heal);
    assert_eq!(load.check(&harness).await, 0, "within the deadline every outcome is known");
    harness.level().await;
}

/// F-net-10: a backup's links break and recover, again and again.
pub(crate) async fn f_net_10_a_flapping_link_changes_few_views(net: Net) {
    const FLAPS: u64 = 10;
    let harness = Harness::with(net, &[Role::Data; 3], options()).await;
    let load = Load::start(&harness.client().await, 4);
    load.progress(50).await;
    let (primary, flapping) = (harness.primary().await, harness.backup().await);
    let view = harness.status(primary).view;
    for _ in 0..FLAPS {
        harness.faults[flapping].cut(Scope::all());
        eventually("it misses its primary", async || harness.status(flapping).primary.is_none()).await;
        load.progress(20).await;
        harness.faults[flapping].heal();
        eventually("it has one again", async || harness.status(flapping).primary.is_some()).await;
    }
    let newest = (0..3).map(|member| harness.status(member).view).max().expect("there are members");
    // None, if the machine were never busy with something else.
    assert!(newest.get() - view.get() <= FLAPS, "{newest} after {view}");
    assert_eq!(load.check(&harness).await, 0, "within the deadline every outcome is known");
    harness.level().await;
}

/// F-net-13: links between members clog one by one until nothing moves, and are released one by one.
pub(crate) async fn f_net_13_links_that_clog_and_are_released_one_by_one_converge(net: Net) {
    let harness = Harness::with(net, &[Role::Data; 3], options()).await;
    let load = Load::start(&harness.client().await, 4);
    load.progress(50).await;
    let mut clogged = Vec::new();
    for (from, faults) in harness.faults.iter().enumerate() {
        for to in (0..3).filter(|to| *to != from) {
            let scope = Scope::peer(harness.address(to)).outgoing();
            faults.set(scope.clone(), Fault::new().clog());
            clogged.push((faults, scope));
        }
    }
    eventually("nobody serves", async || {
        (0..3).all(|member| harness.status(member).state != MemberState::Primary)
    })
    .await;
    for (faults, scope) in clogged {
        faults.clear(&scope);
        tokio::task::yield_now().await;
    }
    load.progress(50).await;
    assert_eq!(load.check(&harness).await, 0, "within the deadline every outcome is known");
    harness.level().await;
}

/// F-net-14: a flipped bit is detected, and the link is reopened. No damaged message is accepted.
pub(crate) async fn f_net_14_a_link_that_corrupts_is_reset(net: Net) {
    let harness = Harness::with(net, &[Role::Data; 3], options()).await;
    let load = Load::start(&harness.client().await, 4);
    load.progress(50).await;
    let corrupting = harness.backup().await;
    for lane in BETWEEN_MEMBERS {
        harness.faults[corrupting].set(Scope::all().lane(lane), Fault::new().corruption(0.02));
    }
    let corrupted = || {
        let faults = &harness.faults[corrupting];
        let count = |to| faults.counts(Lane::Log, to).corrupted + faults.counts(Lane::Control, to).corrupted;
        count(Direction::Outgoing) + count(Direction::Incoming)
    };
    eventually("bits flip", async || corrupted() > 20).await;
    load.progress(100).await;
    harness.faults.iter().for_each(Faults::heal);
    assert_eq!(load.check(&harness).await, 0, "within the deadline every outcome is known");
    harness.level().await;
}

/// F-proc-4: one member starts and dies, over and over.
pub(crate) async fn f_proc_4_a_member_that_crashes_repeatedly_disturbs_nobody(net: Net) {
    let mut harness = Harness::with(net, &[Role::Data; 3], patient_options()).await;
    let load = Load::start(&harness.client().await, 4);
    load.progress(50).await;
    let (primary, crashing) = (harness.primary().await, harness.backup().await);
    let view = harness.status(primary).view;
    for _ in 0..10 {
        harness.kill(crashing);
        load.progress(10).await;
        harness.start(crashing).await;
        load.progress(10).await;
    }
    assert_eq!(harness.status(primary).view, view);
    assert_eq!(load.check(&harness).await, 0, "within the deadline every outcome is known");
    harness.level().await;
}
