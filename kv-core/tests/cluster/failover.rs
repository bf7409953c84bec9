//! Members that die, stop, return and change roles.

use super::harness::{Harness, Net, eventually, options};
use super::load::Load;
use kv_core::client::Client;
use kv_core::config::Role;
use kv_core::error::{AdminError, SuccessorRefusal};
use kv_core::node::{MemberState, StopReason};
use std::time::Duration;

const WRITERS: usize = 8;

/// F-proc-1, in the small: the promise itself.
pub(crate) async fn a_killed_primary_loses_and_duplicates_nothing(net: Net) {
    let mut harness = Harness::three(net).await;
    let load = Load::start(&harness.client().await, WRITERS);
    for _ in 0..3 {
        load.progress(100).await;
        let primary = harness.primary().await;
        harness.kill(primary);
        load.progress(100).await;
        harness.start(primary).await;
        harness.level_enough().await;
    }
    assert_eq!(load.check(&harness).await, 0, "within the deadline every outcome is known");
}

pub(crate) async fn a_killed_member_catches_up_when_it_returns(net: Net) {
    let mut harness = Harness::three(net).await;
    let load = Load::start(&harness.client().await, WRITERS);
    load.progress(50).await;
    let backup = harness.backup().await;
    harness.kill(backup);
    load.progress(500).await;
    harness.start(backup).await;
    load.progress(50).await;
    load.check(&harness).await;
    harness.level().await;
}

/// F-proc-3: all are killed during writes.
pub(crate) async fn everything_survives_the_kill_of_all_members(net: Net) {
    let mut harness = Harness::three(net).await;
    let load = Load::start(&harness.client().await, WRITERS);
    for _ in 0..2 {
        load.progress(100).await;
        (0..3).for_each(|member| harness.kill(member));
        harness.start_all().await;
    }
    load.progress(100).await;
    assert_eq!(load.check(&harness).await, 0, "within the deadline every outcome is known");
    harness.level().await;
}

/// Two data members and a witness survive one, whichever it is.
pub(crate) async fn two_data_members_and_a_witness_survive_one(net: Net) {
    let mut harness = Harness::with(net, &[Role::Data, Role::Data, Role::Witness], options()).await;
    let load = Load::start(&harness.client().await, WRITERS);
    load.progress(50).await;
    for member in [harness.primary().await, 2, harness.backup().await] {
        harness.kill(member);
        load.progress(100).await;
        harness.start(member).await;
        harness.level_enough().await;
    }
    assert_eq!(load.check(&harness).await, 0, "within the deadline every outcome is known");
    harness.level().await;
}

pub(crate) async fn a_handover_moves_the_role_and_loses_no_write(net: Net) {
    let harness = Harness::three(net).await;
    let load = Load::start(&harness.client().await, WRITERS);
    for _ in 0..3 {
        load.progress(50).await;
        let primary = harness.primary().await;
        harness.node(primary).handover().await.expect("another member takes it");
        assert_ne!(harness.status(primary).state, MemberState::Primary);
    }
    load.progress(50).await;
    assert_eq!(load.check(&harness).await, 0, "within the deadline every outcome is known");
}

/// Rule V8: a witness and the primary go on serving while the other data member is down.
pub(crate) async fn a_handover_that_nobody_could_take_is_refused(net: Net) {
    let mut harness = Harness::with(net, &[Role::Data, Role::Data, Role::Witness], options()).await;
    let client = harness.client().await;
    client.put("key", "1").await.expect("a put");
    let primary = harness.primary().await;
    let other = 1 - primary;
    harness.kill(other);
    eventually("the primary notices that", async || {
        matches!(client.handover().await, Err(AdminError::Successor(SuccessorRefusal::Silent(_))))
    })
    .await;
    client.put("key", "2").await.expect("a put");
    assert_eq!(harness.primary().await, primary, "it keeps its role");
    harness.start(other).await;
    eventually("another primary", async || client.handover().await.is_ok()).await;
    eventually("another primary", async || harness.primary().await == other).await;
}

/// Writes and reads are as they are without leases, through a failover and a handover, and through a restart of all.
pub(crate) async fn reads_with_leases_return_the_same(net: Net) {
    let mut options = options();
    options.read_lease = Duration::from_millis(500);
    let mut harness = Harness::with(net, &[Role::Data, Role::Data, Role::Data], options).await;
    let clients = [harness.client().await, harness.client().await];
    let mut written = 0;
    let mut next = async |clients: &[Client; 2]| {
        written += 1;
        let value = written.to_string();
        clients[0].put("key", value.clone()).await.expect("a put");
        for client in clients {
            let record = client.get("key").await.expect("a read").expect("it is there");
            assert_eq!(record.value, value);
        }
    };
    for step in 0..3 {
        for _ in 0..20 {
            next(&clients).await;
        }
        let primary = harness.primary().await;
        match step {
            0 => harness.kill(primary),
            1 => harness.node(primary).handover().await.expect("another member takes it"),
            _ => (0..3).for_each(|member| harness.kill(member)),
        }
        if step == 0 {
            next(&clients).await;
            harness.start(primary).await;
        } else if step == 2 {
            harness.start_all().await;
        }
        next(&clients).await;
    }
}

/// F-proc-11.
pub(crate) async fn f_proc_11_a_shutdown_hands_over_and_clients_see_no_error(net: Net) {
    let mut harness = Harness::three(net).await;
    let load = Load::start(&harness.client().await, WRITERS);
    for _ in 0..3 {
        load.progress(50).await;
        let primary = harness.primary().await;
        let node = harness.nodes[primary].take().expect("it runs");
        node.shutdown().await;
        node.shutdown().await;
        assert!(matches!(node.stopped().await, StopReason::Shutdown));
        load.progress(50).await;
        harness.start(primary).await;
        harness.level_enough().await;
    }
    assert_eq!(load.check(&harness).await, 0, "no client sees an error");
}

pub(crate) async fn a_shutdown_releases_port_and_directory(net: Net) {
    let mut harness = Harness::three(net).await;
    for _ in 0..5 {
        for member in 0..3 {
            harness.node(member).shutdown().await;
            // Not dropped before the next one starts.
            let _old = harness.nodes[member].take();
            harness.start(member).await;
        }
    }
}

pub(crate) async fn a_dropped_node_releases_port_and_directory(net: Net) {
    let mut harness = Harness::three(net).await;
    for _ in 0..5 {
        for member in 0..3 {
            harness.kill(member);
            harness.start(member).await;
        }
    }
}

/// With frequent checkpoints: a restart combines checkpoint and journal.
pub(crate) async fn the_state_outlives_checkpoints_and_restarts(net: Net) {
    let mut small = options();
    small.checkpoint_bytes = 64 << 10;
    small.segment_bytes = 256 << 10;
    small.max_batch_bytes = 64 << 10;
    small.max_value_bytes = 32 << 10;
    let mut harness = Harness::with(net, &[Role::Data; 3], small).await;
    let client = harness.client().await;
    let value = |number: usize| vec![u8::try_from(number % 251).expect("small"); 4 << 10];
    for number in 0..200 {
        client.put(format!("key/{:02}", number % 50), value(number)).await.expect("a put");
    }
    eventually("all have checkpoints", async || {
        (0..3).all(|member| harness.status(member).checkpoint.get() > 0)
    })
    .await;
    (0..3).for_each(|member| harness.kill(member));
    harness.start_all().await;
    let found = harness.client().await.scan("key/").await.expect("a scan");
    assert_eq!(found.len(), 50);
    for (number, (_, record)) in found.iter().enumerate() {
        assert_eq!(record.value, value(number + 150));
        assert_eq!(record.version, 4);
    }
}
