//! Keys and leases that end, and locks: with real clocks, through failovers.

use super::harness::{Harness, Net, eventually};
use kv_core::error::LockError;
use kv_core::message::{LeaseFailure, Lifetime};
use kv_core::{Client, error::WriteError};
use std::sync::mpsc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

async fn has(client: &Client, key: &str) -> bool {
    client.get(key).await.expect("it can be read").is_some()
}

/// Rule X1: a key with a time to live expires, not early, under any primary.
pub(crate) async fn x1_a_key_expires_and_not_early_across_a_failover(net: Net) {
    let mut harness = Harness::three(net).await;
    let client = harness.client().await;
    let (ttl, begun) = (Duration::from_secs(3), Instant::now());
    client.put("brief", "value").ttl(ttl).await.expect("it is put");
    client.put("stays", "value").ttl(ttl).await.expect("it is put");
    client.put("stays", "value").await.expect("without a time to live it stays");
    client.transaction().put_for("other", "value", Lifetime::ttl(ttl)).await.expect("it is done");
    let primary = harness.primary().await;
    harness.kill(primary);
    assert!(has(&client, "brief").await || begun.elapsed() >= ttl);
    eventually("the key is gone", async || {
        let is_there = has(&client, "brief").await;
        assert!(is_there || begun.elapsed() >= ttl, "gone after {:?}", begun.elapsed());
        !is_there
    })
    .await;
    eventually("the other too", async || !has(&client, "other").await).await;
    assert!(has(&client, "stays").await);
    harness.start(primary).await;
    harness.level().await;
    for member in 0..3 {
        let here = harness.node(member).client();
        let found = here.get("brief").local().await.expect("it can be read");
        assert_eq!(found, None, "member {member}");
    }
}

/// Rule X3, X4: a lease that is held outlives a failover, and takes its keys with it when it is revoked.
pub(crate) async fn x4_a_lease_is_kept_alive_through_a_failover(net: Net) {
    let mut harness = Harness::three(net).await;
    let client = harness.client().await;
    let ttl = Duration::from_secs(3);
    let lease = client.lease(ttl).await.expect("it is granted");
    client.put("a", "value").lease(lease.id()).await.expect("it is put");
    client.put("b", "value").lease(lease.id()).await.expect("it is put");
    let primary = harness.primary().await;
    harness.kill(primary);
    client.put("c", "value").await.expect("somebody else serves");
    let begun = Instant::now();
    // Longer than it would last without signs of life, and than a new primary waits for them.
    while begun.elapsed() < ttl + Duration::from_millis(2_500) {
        assert!(has(&client, "a").await, "after {:?}", begun.elapsed());
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(lease.info().await.expect("it can be asked").expect("it lives").keys, 2);
    let id = lease.id();
    assert_eq!(lease.revoke().await.expect("it is revoked"), 2);
    assert!(!has(&client, "a").await && !has(&client, "b").await && has(&client, "c").await);
    let again = client.lease_by_id(id);
    assert_eq!(again.info().await.expect("it can be asked"), None);
    let ended = WriteError::Lease(LeaseFailure::Unknown);
    assert_eq!(again.keep_alive().await, Err(ended.clone()));
    assert_eq!(client.put("d", "value").lease(id).await, Err(ended));
}

/// A dropped lease expires, with its keys.
pub(crate) async fn a_lease_that_nobody_keeps_alive_ends(net: Net) {
    let harness = Harness::three(net).await;
    let client = harness.client().await;
    let (ttl, begun) = (Duration::from_secs(2), Instant::now());
    let lease = client.lease(ttl).await.expect("it is granted");
    assert!(lease.is_alive());
    let id = lease.id();
    client.put("a", "value").lease(id).await.expect("it is put");
    drop(lease);
    eventually("its key is gone", async || {
        let is_there = has(&client, "a").await;
        assert!(is_there || begun.elapsed() >= ttl);
        !is_there
    })
    .await;
    assert_eq!(client.lease_by_id(id).info().await.expect("it can be asked"), None);
}

/// Rule X5. The holder is frozen like a process: nothing of it runs, not even its heartbeats.
pub(crate) async fn x5_a_lock_holder_that_is_paused_past_its_lease_cannot_write_with_its_old_token(net: Net) {
    let harness = Harness::three(net).await;
    let other = harness.client().await;
    let addresses: Vec<String> = harness.cluster.members().map(|member| member.address.clone()).collect();
    let transport = harness.net.transport("client");
    let (holds, is_held) = tokio::sync::oneshot::channel();
    let (thaw, frozen) = mpsc::channel::<()>();
    let holder = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            let mut builder = Client::builder("test").transport(transport).deadline(Duration::from_secs(30));
            for address in &addresses {
                builder = builder.address(address);
            }
            let client = builder.connect().await.expect("a member answers");
            let lock = client.lock("lock").ttl(Duration::from_secs(2)).value("first").await.expect("free");
            lock.transaction().put("data", "first").await.expect("it holds the lock");
            holds.send(lock.token()).expect("somebody waits");
            // The whole thread stops, in the middle of the work under the lock.
            frozen.recv().expect("it is asked to continue");
            // Neither list of steps is run: it is not a condition that failed, but the right to change anything.
            let late =
                lock.transaction().put("data", "too late").otherwise().put("data", "later still").await;
            let late = late.expect_err("nothing is written with the old token");
            assert!(late.is_lock_lost(), "{late}");
            assert!(!lock.is_held().await.expect("it can be asked"));
            lock.lease().ended().await;
            let lost = lock.release().await.expect_err("it was lost");
            assert!(lost.is_lease_ended(), "{lost}");
            client.close().await;
        });
    });
    let first = is_held.await.expect("the lock is got");
    let at_once = other.lock("lock").wait(Duration::ZERO).await.expect_err("somebody holds it");
    assert_eq!(at_once, LockError::Held);
    let lock = other.lock("lock").value("second").await.expect("it becomes free");
    assert!(lock.token() > first);
    lock.transaction().put("data", "second").await.expect("it holds the lock");
    thaw.send(()).expect("it waits");
    tokio::task::spawn_blocking(move || holder.join())
        .await
        .expect("it runs")
        .expect("the holder is content");
    let data = other.get("data").await.expect("it can be read").expect("it was put");
    assert_eq!(data.value, "second");
    lock.release().await.expect("it was held");
    assert!(!has(&other, "lock").await);
}

/// One leads after the other, each with a greater token.
pub(crate) async fn candidates_lead_one_after_another(net: Net) {
    let harness = Harness::three(net).await;
    let client = harness.client().await;
    let election = client.election("leader");
    assert_eq!(election.leader().await, Ok(None));
    let first = election.campaign("one").await.expect("nobody else");
    let leader = election.leader().await.expect("it can be read").expect("one leads");
    assert_eq!((leader.value, leader.token), ("one".into(), first.token()));
    let next = tokio::spawn({
        let election = harness.client().await.election("leader");
        async move { election.campaign("two").await }
    });
    let before = first.token();
    first.release().await.expect("it led");
    let second = next.await.expect("it runs").expect("it leads in the end");
    assert!(second.token() > before);
    let leader = election.leader().await.expect("it can be read").expect("one leads");
    assert_eq!((leader.value, leader.token), ("two".into(), second.token()));
}
