//! Disks that are lost or fail, and what becomes of their members.

use super::harness::{Harness, Net, options};
use super::load::Load;
use kv_core::config::Role;
use kv_core::node::StopReason;
use kv_core::replica::Halt;

/// S16, rule F4: a member whose disk was wiped does not vote under its old id. It stops and says why.
pub(crate) async fn a_wiped_member_stops_and_says_why(net: Net) {
    let mut harness = Harness::three(net).await;
    let load = Load::start(&harness.client().await, 4);
    load.progress(50).await;
    let backup = harness.backup().await;
    harness.kill(backup);
    harness.dirs[backup] = tempfile::tempdir().expect("a temporary directory");
    harness.start(backup).await;
    let reason = harness.node(backup).stopped().await;
    assert!(matches!(reason, StopReason::Halted(Halt::DiskLoss { .. })), "{reason}");
    assert!(reason.to_string().contains("disk was lost"), "{reason}");
    // One that has stopped answers nothing, and says so.
    harness.node(backup).wait_formed().await.expect_err("it has stopped");
    harness.node(backup).shutdown().await;
    load.progress(50).await;
    load.check(&harness).await;
}

/// S10, P2: a failed write is final for the member, and nothing to the others.
#[cfg(feature = "sim")]
pub(crate) async fn a_failed_disk_stops_the_member_and_nobody_else(net: Net) {
    use kv_core::node::Node;
    use kv_core::sim::storage::Disk;
    use std::sync::Arc;

    let mut harness = Harness::new(net, &[Role::Data; 3], options());
    harness.start(0).await;
    harness.start(1).await;
    let disk = Disk::new();
    let start = async |harness: &Harness| {
        Node::builder(harness.cluster.clone(), 2)
            .transport(harness.net.transport(&harness.address(2)))
            .storage(disk.storage() as Arc<_>)
            .options(harness.options.clone())
            .start()
            .await
            .expect("it starts")
    };
    harness.nodes[2] = Some(start(&harness).await);
    harness.start_all().await;
    let load = Load::start(&harness.client().await, 4);
    load.progress(50).await;
    disk.fail_after(0);
    let reason = harness.node(2).stopped().await;
    assert!(matches!(reason, StopReason::Journal(_)), "{reason}");
    load.progress(50).await;

    // What it has acknowledged is on the disk: it returns.
    harness.kill(2);
    disk.kill();
    harness.nodes[2] = Some(start(&harness).await);
    load.progress(50).await;
    assert_eq!(load.check(&harness).await, 0, "within the deadline every outcome is known");
    harness.level().await;
}

/// A node needs no more than one thread of the runtime's.
pub(crate) async fn everything_works_on_one_thread(net: Net) {
    let mut harness = Harness::with(net, &[Role::Data, Role::Data, Role::Witness], options()).await;
    let load = Load::start(&harness.client().await, 4);
    for _ in 0..2 {
        load.progress(50).await;
        let primary = harness.primary().await;
        harness.kill(primary);
        load.progress(50).await;
        harness.start(primary).await;
        harness.level_enough().await;
    }
    assert_eq!(load.check(&harness).await, 0, "within the deadline every outcome is known");
    for member in 0..3 {
        harness.node(member).shutdown().await;
    }
}
