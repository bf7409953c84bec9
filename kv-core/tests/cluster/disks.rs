//! Disks that are lost or fail, and what becomes of their members.

use super::harness::{Harness, Net, eventually, options, patient_options, within};
use super::load::Load;
use super::storage::Work;
use kv_core::Options;
use kv_core::config::Role;
use kv_core::node::{DiskProblem, MemberState, StopReason};
use kv_core::replica::Halt;
use std::io::ErrorKind;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// F-disk-16, rule F4: a member whose disk was wiped does not vote under its old id. It stops and reports why.
pub(crate) async fn a_wiped_member_stops_and_reports_why(net: Net) {
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
    // One that has stopped answers nothing, and its status shows that.
    harness.node(backup).wait_formed().await.expect_err("it has stopped");
    harness.node(backup).shutdown().await;
    load.progress(50).await;
    load.check(&harness).await;
}

/// F-disk-10, F-proc-2: a failed write is final for the member, and nothing to the others.
pub(crate) async fn a_failed_disk_stops_only_its_member(net: Net) {
    use kv_core::node::Node;
    use kv_core::storage::simulated::Disk;
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
    harness.ends_well(load).await;
}

/// F-disk-10, D4: the journal stops at the first failure, although the disk would work again.
pub(crate) async fn f_disk_10_a_sync_that_fails_once_ends_the_member(net: Net) {
    let mut harness = Harness::ailing(net, options()).await;
    let load = Load::start(&harness.client().await, 4);
    load.progress(50).await;
    let old = harness.primary().await;
    harness.ailment(old).fail_once(Work::Sync, "journal", ErrorKind::Other);
    let reason = harness.node(old).stopped().await;
    assert!(matches!(reason, StopReason::Journal(_)), "{reason}");
    assert_eq!(reason.disk_problem(), Some(DiskProblem::Failed));
    assert_eq!(harness.ailment(old).touched_afterwards(), Vec::<String>::new());
    assert_ne!(harness.status(old).state, MemberState::Primary, "it has given the role away first");
    harness.recovers(old, &load).await;
    harness.ends_well(load).await;
}

/// F-disk-11: no room while an entry is written, while it is synced, and while a checkpoint is made. The primary gives
/// its role away; with room again it returns.
pub(crate) async fn f_disk_11_a_full_disk_is_reported_and_free_space_is_enough(net: Net) {
    let mut harness = Harness::ailing(net, busy_options()).await;
    let load = Load::start(&harness.client().await, 4);
    for (work, files) in [(Work::Write, "journal-"), (Work::Sync, "journal-"), (Work::Write, "state")] {
        load.progress(50).await;
        let old = harness.primary().await;
        harness.ailment(old).fail(work, files, ErrorKind::StorageFull);
        let reason = harness.node(old).stopped().await;
        assert_eq!(reason.disk_problem(), Some(DiskProblem::Full), "{work:?} {files}: {reason}");
        assert!(reason.to_string().contains("free some space"), "{reason}");
        harness.recovers(old, &load).await;
        harness.level_enough().await;
    }
    harness.ends_well(load).await;
}

/// F-disk-11, D4: there is no room for a new journal file, which contains nothing acknowledged. The primary hands over
/// its role and waits; with free space it continues without a restart.
pub(crate) async fn f_disk_11_a_member_waits_for_room_for_a_new_journal_file(net: Net) {
    let mut options = busy_options();
    options.checkpoint_bytes = 1 << 30;
    let harness = Harness::ailing(net, options).await;
    let load = Load::start(&harness.client().await, 4);
    load.progress(50).await;
    let old = harness.primary().await;
    harness.ailment(old).fail(Work::Write, "journal.new", ErrorKind::StorageFull);
    let client = harness.client().await;
    let large = vec![7; 16 << 10];
    eventually("another member is primary", async || {
        client.put("large", large.clone()).await.expect("the others go on");
        harness.primary().await != old
    })
    .await;
    load.progress(50).await;
    assert!(timeout(Duration::from_millis(10), harness.node(old).stopped()).await.is_err(), "it waits");
    harness.ailment(old).heal();
    harness.level_enough().await;
    harness.ends_well(load).await;
}

/// F-disk-12: what cannot be read is not answered from. The member stops, the client finds another.
pub(crate) async fn f_disk_12_a_state_that_cannot_be_read_stops_the_member(net: Net) {
    let mut options = patient_options();
    (options.checkpoint_bytes, options.cache_bytes) = (64 << 10, 1 << 20);
    let mut harness = Harness::ailing(net, options).await;
    let client = harness.client().await;
    let value = vec![7; 16 << 10];
    for n in 0..200 {
        client.put(format!("big/{n}"), value.clone()).await.expect("it is written");
    }
    harness.level().await;
    let old = harness.primary().await;
    let load = Load::start(&client, 2);
    harness.ailment(old).fail(Work::Read, "state", ErrorKind::Other);
    let mut n = 0;
    let reason = loop {
        let record =
            client.get(format!("big/{}", n % 200)).await.expect("it can be read").expect("it is there");
        assert_eq!(record.value, value);
        n += 1;
        tokio::select! {
            biased;
            reason = harness.node(old).stopped() => break reason,
            () = std::future::ready(()) => {}
        }
    };
    assert_eq!(reason.disk_problem(), Some(DiskProblem::Failed), "{reason}");
    harness.recovers(old, &load).await;
    harness.ends_well(load).await;
}

/// F-disk-12, rule D8: a primary whose journal cannot be read cannot apply entries or send them to a returning member.
/// It fetches them from the others and rewrites them. No answer changes, and no member stops.
pub(crate) async fn f_disk_12_an_unreadable_journal_is_repaired_from_the_others(net: Net) {
    let mut harness = Harness::ailing(net, options()).await;
    let client = harness.client().await;
    let value = vec![7; 32 << 10];
    let put = async |n: u32| client.put(format!("big/{n}"), value.clone()).await.expect("it is written");
    // Again, if that member had applied everything before its disk failed, and another one sent the entries.
    let mut written = 0;
    loop {
        put(written).await;
        let away = harness.backup().await;
        harness.kill(away);
        for n in written + 1..written + 100 {
            put(n).await;
        }
        written += 100;
        // Nothing of it is in memory any more.
        let others: Vec<usize> = (0..3).filter(|member| *member != away).collect();
        others.iter().for_each(|member| harness.kill(*member));
        for member in others {
            harness.start(member).await;
        }
        let primary = harness.primary().await;
        harness.ailment(primary).fail(Work::Read, "journal", ErrorKind::Other);
        harness.start(away).await;
        let load = Load::start(&client, 2);
        load.progress(50).await;
        harness.ends_well(load).await;
        harness.ailment(primary).heal();
        if harness.ailment(primary).struck() > 0 {
            break;
        }
    }
    eventually("a repair in the metrics", async || {
        (0..3).any(|member| harness.node(member).metrics().repairs > 0)
    })
    .await;
    for n in 0..written {
        let record = client.get(format!("big/{n}")).await.expect("it can be read").expect("it is there");
        assert_eq!(record.value, value);
    }
}

/// F-disk-13: a file system that the kernel has made read-only.
pub(crate) async fn f_disk_13_a_primary_on_a_read_only_disk_steps_down(net: Net) {
    let mut harness = Harness::ailing(net, options()).await;
    let load = Load::start(&harness.client().await, 4);
    load.progress(50).await;
    let old = harness.primary().await;
    harness.ailment(old).fail(Work::Write, "", ErrorKind::ReadOnlyFilesystem);
    let reason = harness.node(old).stopped().await;
    assert_eq!(reason.disk_problem(), Some(DiskProblem::ReadOnly), "{reason}");
    assert!(reason.to_string().contains("read-only"), "{reason}");
    assert_ne!(harness.status(old).state, MemberState::Primary, "it has given the role away first");
    harness.recovers(old, &load).await;
    harness.ends_well(load).await;
}

/// F-disk-14: nobody waits for a backup that does not get its writes done, and no view changes for its sake.
pub(crate) async fn f_disk_14_a_backup_with_a_stalled_disk_delays_nobody(net: Net) {
    let harness = Harness::ailing(net, patient_options()).await;
    let load = Load::start(&harness.client().await, 4);
    load.progress(50).await;
    let (primary, slow) = (harness.primary().await, harness.backup().await);
    let view = harness.status(primary).view;
    harness.ailment(slow).stall(Work::Sync, "journal");
    // More than any queue or window holds.
    load.progress(1_000).await;
    assert!(harness.ailment(slow).struck() > 0);
    assert_eq!(harness.status(primary).view, view);
    assert_eq!(harness.status(slow).view, view, "it hears the primary all the time");
    harness.ailment(slow).heal();
    assert_eq!(load.check(&harness).await, 0);
    harness.level().await;
    assert_eq!(harness.status(primary).view, view);
}

/// F-disk-14, D7: a backup whose journal always lags a little behind the commit point still makes checkpoints, so its
/// memory is bounded.
pub(crate) async fn f_disk_14_a_backup_with_a_slow_journal_makes_checkpoints(net: Net) {
    const OVERLAY: usize = 512 << 10;
    const VALUE: usize = 8 << 10;
    let mut options = patient_options();
    options.checkpoint_bytes = OVERLAY;
    let harness = Harness::ailing(net, options).await;
    let load = Load::start(&harness.client().await, 1);
    load.progress(10).await;
    let (primary, slow) = (harness.primary().await, harness.backup().await);
    let view = harness.status(primary).view;
    harness.ailment(slow).slow(Work::Sync, "journal", Duration::from_millis(500));
    let filler = harness.client().await;
    let filling = tokio::spawn(async move {
        for n in 0.. {
            let puts =
                (0..4).map(|key| filler.put(format!("fill/{key}/{}", n % 100), vec![0; VALUE]).into_future());
            for put in futures::future::join_all(puts).await {
                put.expect("it is written");
            }
        }
    });
    let (mut checkpoints, mut most) = (std::collections::BTreeSet::new(), 0);
    eventually("it has made five checkpoints", async || {
        assert!(!filling.is_finished(), "all puts are done");
        let status = harness.status(slow);
        checkpoints.insert(status.checkpoint);
        most = most.max(status.applied.distance_from(status.checkpoint));
        checkpoints.len() > 5
    })
    .await;
    filling.abort();
    // Each entry has a put of the filler's, or one of the load's before or behind it: twice two memtables, for the
    // status may lag.
    assert!(most <= (8 * OVERLAY / VALUE) as u64, "{most} entries in memory");
    assert_eq!(harness.status(primary).view, view, "nobody waits for it");
    harness.ailment(slow).heal();
    harness.ends_well(load).await;
}

/// F-disk-14, V8.
pub(crate) async fn f_disk_14_a_primary_with_a_slow_disk_hands_over(net: Net) {
    let harness = Harness::ailing(net, options()).await;
    let load = Load::start(&harness.client().await, 4);
    load.progress(50).await;
    let old = harness.primary().await;
    harness.ailment(old).slow(Work::Sync, "journal", Duration::from_millis(700));
    harness.replaced(old).await;
    load.progress(100).await;
    harness.ailment(old).heal();
    harness.ends_well(load).await;
}

/// F-disk-15, V8: it fences itself, and returns when the disk does.
pub(crate) async fn f_disk_15_a_primary_with_a_stalled_disk_is_replaced(net: Net) {
    let harness = Harness::ailing(net, options()).await;
    let load = Load::start(&harness.client().await, 4);
    load.progress(50).await;
    let old = harness.primary().await;
    harness.ailment(old).stall(Work::Sync, "");
    harness.replaced(old).await;
    eventually("the old one is fenced", async || harness.status(old).state != MemberState::Primary).await;
    load.progress(100).await;
    harness.ailment(old).heal();
    harness.ends_well(load).await;
}

/// F-disk-15: a member whose disk never returns still stops in a bounded time, and reports that its directory is not
/// free yet.
pub(crate) async fn f_disk_15_a_shutdown_does_not_wait_for_a_disk_that_never_returns(net: Net) {
    let mut harness = Harness::ailing(net, options()).await;
    let load = Load::start(&harness.client().await, 4);
    load.progress(50).await;
    let slow = harness.primary().await;
    harness.ailment(slow).stall(Work::Sync, "journal");
    eventually("its disk hangs", async || harness.ailment(slow).struck() > 0).await;
    timeout(Duration::from_secs(30), harness.node(slow).shutdown()).await.expect("it does not wait for ever");
    let reason = harness.node(slow).stopped().await;
    assert!(matches!(reason, StopReason::DiskHangs { .. }) && reason.is_intended(), "{reason}");
    assert_eq!(reason.disk_problem(), Some(DiskProblem::Failed));
    load.progress(50).await;
    harness.kill(slow);
    harness.ailment(slow).heal();
    // The abandoned thread ends now, and releases the directory.
    eventually("it starts again", async || harness.try_start(slow).await.is_ok()).await;
    load.progress(50).await;
    harness.ends_well(load).await;
}

/// F-proc-7, V8: signs of life alone do not make a primary. Its state cannot be changed any more, because no checkpoint
/// ends.
pub(crate) async fn f_proc_7_a_primary_whose_state_hangs_abdicates(net: Net) {
    let harness = Harness::ailing(net, busy_options()).await;
    let load = Load::start(&harness.client().await, 4);
    load.progress(50).await;
    let old = harness.primary().await;
    harness.ailment(old).stall(Work::Sync, "state");
    let filler = harness.client().await;
    let filling = tokio::spawn(async move {
        for n in 0.. {
            // Some of these fail: their member gives up while they wait.
            let _ = filler.put(format!("fill/{}", n % 100), vec![0; 16 << 10]).await;
        }
    });
    harness.replaced(old).await;
    filling.abort();
    load.progress(50).await;
    harness.ailment(old).heal();
    harness.ends_well(load).await;
}

/// F-proc-8, V8: a checkpoint that takes longer than any patience, on all members at once, moves nobody: each of its
/// steps is done in time.
pub(crate) async fn f_proc_8_slow_checkpoints_on_all_members_change_no_view(net: Net) {
    let mut options = busy_options();
    // A checkpoint takes some 50 s here, several times as long as a state may hang; and no member of a busy test
    // machine is silent so long.
    (options.failure_timeout_min, options.failure_timeout_max) =
        (Duration::from_secs(10), Duration::from_secs(10));
    let patience = 2 * options.failure_timeout_max;
    let harness = Harness::ailing(net, options).await;
    let load = Load::start(&harness.client().await, 1);
    load.progress(10).await;
    let primary = harness.primary().await;
    let view = harness.status(primary).view;
    (0..3).for_each(|member| harness.ailment(member).slow(Work::Sync, "state", Duration::from_millis(3_500)));
    let filler = harness.client().await;
    let filling = tokio::spawn(async move {
        for n in 0.. {
            // Some of these end at their deadline: they wait for the checkpoint.
            let _ = filler.put(format!("fill/{}", n % 100), vec![0; 8 << 10]).await;
        }
    });
    let mut waited = Duration::ZERO;
    let (mut applied, mut since) = (harness.status(primary).applied, Instant::now());
    within(
        Duration::from_secs(90),
        "nothing is applied for longer than a state may hang, and then it is",
        async || {
            let now = harness.status(primary).applied;
            if now != applied {
                waited = waited.max(since.elapsed());
                (applied, since) = (now, Instant::now());
            }
            waited > patience
        },
    )
    .await;
    assert_eq!(harness.status(primary).view, view);
    filling.abort();
    (0..3).for_each(|member| harness.ailment(member).heal());
    load.check(&harness).await;
    harness.level().await;
}

/// A checkpoint after every few writes.
fn busy_options() -> Options {
    let mut options = options();
    options.checkpoint_bytes = 64 << 10;
    options
}

impl Harness {
    /// Waits until another member serves as primary.
    async fn replaced(&self, old: usize) {
        eventually("another primary", async || {
            (0..3).any(|member| member != old && self.status(member).state == MemberState::Primary)
        })
        .await;
    }

    /// The others continue without the stopped member; on a good disk it returns.
    async fn recovers(&mut self, stopped: usize, load: &Load) {
        load.progress(50).await;
        self.kill(stopped);
        self.ailment(stopped).heal();
        self.start(stopped).await;
        load.progress(50).await;
    }

    /// Nothing was lost, and all come to the same.
    async fn ends_well(&self, load: Load) {
        assert_eq!(load.check(self).await, 0, "within the deadline every outcome is known");
        self.level().await;
    }
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
