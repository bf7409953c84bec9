//! What applications test themselves with, under a clock that nobody waits for.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use futures::StreamExt as _;
use kv_core::client::{EventKind, Revision, TypedError, TypedUpdate};
use kv_core::config::Role;
use kv_core::error::WriteError;
use kv_core::testing::TestCluster;
use kv_core::transport::Fault;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Long enough for retries and a failover while messages are lost.
const LONG: Duration = Duration::from_secs(120);

#[tokio::test(start_paused = true)]
async fn acknowledged_writes_survive_every_failover() {
    let mut cluster = TestCluster::in_memory(3).seed(1).start().await;
    let client = cluster.client().await;
    for round in 1..=10 {
        assert_eq!(client.add("count", 1).await.unwrap().sum, round);
        let killed = cluster.kill_primary().await;
        assert_ne!(cluster.primary().await, killed);
        cluster.restart(killed).await;
        cluster.settle().await;
    }
    assert_eq!(&client.get("count").await.unwrap().unwrap().value[..], b"10");
}

#[tokio::test(start_paused = true)]
async fn a_calm_cluster_keeps_its_primary() {
    let cluster = TestCluster::in_memory(3).start().await;
    let client = cluster.client().await;
    let primary = cluster.primary().await;
    let view = cluster.node(primary).status().view;
    for minute in 0..3 {
        client.put("minute", minute.to_string()).await.unwrap();
        sleep(Duration::from_secs(60)).await;
    }
    assert_eq!(cluster.node(cluster.primary().await).status().view, view);
}

#[tokio::test(start_paused = true)]
async fn simulated_time_advances_only_when_all_are_idle() {
    let cluster = TestCluster::in_memory(3).start().await;
    let client = cluster.client().await;
    client.put("k", "0").await.unwrap();
    let start = Instant::now();
    for number in 0..100 {
        client.put("k", number.to_string()).await.unwrap();
    }
    assert!(start.elapsed() < Duration::from_millis(100), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_isolated_primary_is_replaced_and_catches_up() {
    let cluster = TestCluster::in_memory(3).seed(3).start().await;
    let client = cluster.client().await;
    client.put("k", "1").await.unwrap();
    let old = cluster.primary().await;
    cluster.partition(&[old]);
    client.put("k", "2").await.unwrap();
    assert_eq!(&client.get("k").await.unwrap().unwrap().value[..], b"2");
    cluster.heal();
    cluster.settle().await;
    assert_ne!(cluster.primary().await, old);
    let there = cluster.node(old).client();
    assert_eq!(&there.get("k").local().await.unwrap().unwrap().value[..], b"2");
}

#[tokio::test(start_paused = true)]
async fn lost_and_duplicated_messages_count_once() {
    for seed in 0..4 {
        let cluster = TestCluster::in_memory(3).seed(seed).start().await;
        let client = cluster.client().await;
        cluster.faults(&Fault::new().loss(0.1).duplication(0.2));
        for number in 1..=30 {
            assert_eq!(client.add("count", 1).await.unwrap().sum, number);
        }
        cluster.heal();
        cluster.settle().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_power_cut_of_all_loses_nothing_that_was_acknowledged() {
    let mut cluster = TestCluster::in_memory(3).seed(5).start().await;
    let client = cluster.client().await;
    for round in 1..=5 {
        client.put(format!("k{round}"), "v").await.unwrap();
        for id in 0..3 {
            cluster.cut_power(id);
        }
        for id in 0..3 {
            cluster.restart(id).await;
        }
        cluster.settle().await;
        assert_eq!(client.scan("k").await.unwrap().len(), round);
    }
}

#[tokio::test(start_paused = true)]
async fn two_and_a_witness_survive_one() {
    let mut cluster = TestCluster::in_memory(2).witnesses(1).start().await;
    let client = cluster.client().await;
    client.put("k", "1").await.unwrap();
    let killed = cluster.kill_primary().await;
    client.put("k", "2").await.unwrap();
    cluster.restart(killed).await;
    cluster.settle().await;
    assert_eq!(cluster.node(2).status().role, Role::Witness);
}

/// It works on a clock that runs as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_lives_in_real_time_too() {
    let mut cluster = TestCluster::in_memory(3).start().await;
    let client = cluster.client().await;
    client.put("k", "1").await.unwrap();
    let killed = cluster.kill_primary().await;
    client.put("k", "2").await.unwrap();
    cluster.restart(killed).await;
    cluster.settle().await;
}

#[derive(serde::Serialize, serde::Deserialize, PartialEq, Debug)]
struct Account {
    owner: String,
    cents: i64,
}

#[tokio::test(start_paused = true)]
async fn structs_are_stored_and_read_through_a_typed_view() {
    let cluster = TestCluster::in_memory(3).start().await;
    let client = cluster.client().await;
    let accounts = client.typed::<Account>("account/");
    assert!(accounts.get("ann").await.unwrap().is_none());
    let new = |cents| Account { owner: "Ann".to_owned(), cents };
    accounts.create("ann", &new(5)).await.unwrap();
    let twice = accounts.create("ann", &new(6)).await.unwrap_err();
    assert!(twice.is_condition_failed() && !twice.is_retryable() && !twice.outcome_unknown(), "{twice}");
    let seen = accounts.get("ann").await.unwrap().unwrap();
    assert_eq!((seen.cents, seen.version), (5, 1));
    accounts.replace("ann", &seen, &new(7)).await.unwrap();
    let late = accounts.replace("ann", &seen, &new(8)).await.unwrap_err();
    assert!(matches!(late, TypedError::Write(WriteError::ConditionFailed { .. })), "{late}");
    // Anybody can read it.
    let stored = client.get("account/ann").await.unwrap().unwrap();
    assert_eq!(&stored.value[..], br#"{"owner":"Ann","cents":7}"#);
    accounts.put("ben", &Account { owner: "Ben".to_owned(), cents: 1 }).await.unwrap();
    let all = accounts.all().await.unwrap();
    let all: Vec<_> = all.iter().map(|(key, account)| (&key[..], account.cents)).collect();
    assert_eq!(all, [(&b"ann"[..], 7), (b"ben", 1)]);
    client.put("account/cem", "a lot").await.unwrap();
    let wrong = accounts.get("cem").await.unwrap_err();
    assert!(matches!(&wrong, TypedError::Decode { key, .. } if key == "cem"), "{wrong}");
    assert!(wrong.to_string().contains("has another type"), "{wrong}");
    assert!(accounts.delete("cem").await.unwrap().existed);
}

#[tokio::test(start_paused = true)]
async fn structs_are_watched_and_expire() {
    let cluster = TestCluster::in_memory(3).start().await;
    let client = cluster.client().await;
    let accounts = client.typed::<Account>("account/");
    let new = |cents| Account { owner: "Ann".to_owned(), cents };
    let begin = accounts.put("ann", &new(1)).ttl(Duration::from_secs(5)).await.unwrap().revision;
    let mut follow = Box::pin(accounts.watch().follow());
    let first = follow.next().await.unwrap().unwrap();
    assert!(matches!(first, TypedUpdate::Present { key, entry } if key == "ann" && entry.expires.is_some()));
    assert!(matches!(follow.next().await.unwrap().unwrap(), TypedUpdate::UpToDate { .. }));
    let mut events = Box::pin(accounts.watch().after(begin).previous().stream());
    client.put("account/ben", "no account").await.unwrap();
    let lease = client.lease(Duration::from_secs(60)).await.unwrap();
    accounts.put("cem", &new(3)).lease(lease.id()).deadline(Duration::from_secs(9)).await.unwrap();
    lease.revoke().await.unwrap();
    let wrong = events.next().await.unwrap().unwrap_err();
    assert!(matches!(&wrong, TypedError::Decode { key, .. } if key == "ben"), "{wrong}");
    let put = events.next().await.unwrap().unwrap();
    assert_eq!(
        (put.key, put.kind, put.entry.unwrap().cents, put.previous),
        ("cem".into(), EventKind::Put, 3, None)
    );
    let gone = events.next().await.unwrap().unwrap();
    assert_eq!((gone.kind, gone.entry, gone.previous.unwrap().cents), (EventKind::Deleted, None, 3));
    let expired = events.next().await.unwrap().unwrap();
    assert_eq!((expired.key, expired.kind), ("ann".into(), EventKind::Expired));
    assert!(follow.next().await.unwrap().is_err());
    assert!(matches!(follow.next().await.unwrap().unwrap(), TypedUpdate::Event(event) if event.key == "cem"));
    assert_eq!(accounts.get("ann").at(begin).await.unwrap().unwrap().cents, 1);
    assert_eq!(accounts.get("ann").at_least(expired.revision).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn concurrent_updates_are_all_applied() {
    let mut cluster = TestCluster::in_memory(3).seed(2).start().await;
    let mut working = Vec::new();
    for _ in 0..4 {
        let counts = cluster.client().await.typed::<u32>("count/");
        working.push(tokio::spawn(async move {
            for _ in 0..10 {
                counts.update("all", |count| Some(count.unwrap_or_default() + 1)).await.unwrap();
            }
            counts
        }));
    }
    cluster.kill_primary().await;
    let mut last = None;
    for one in working {
        last = Some(one.await.unwrap());
    }
    let counts = last.unwrap();
    assert_eq!(*counts.get("all").await.unwrap().unwrap(), 40);
    assert_eq!(counts.update("all", |_| None).await.unwrap(), None);
    assert!(counts.get("all").await.unwrap().is_none());
}

/// Rule E2: answers are lost, clients retry, and others write meanwhile. A skip that ran twice would report a later
/// revision the second time.
#[tokio::test(start_paused = true)]
async fn compactions_and_raises_of_the_revision_run_once_while_messages_are_lost() {
    let mut cluster = TestCluster::in_memory(3).seed(3).start().await;
    let (client, other) = (cluster.client().await, cluster.client().await);
    let kept = kv_core::Options::default().history_revisions;
    let mut revision = client.put("k", "1").await.unwrap().revision;
    let writing = tokio::spawn(async move {
        let mut number = 0_u64;
        loop {
            // After a failover it may be unknown whether it was written.
            let _ = other.put("other", number.to_string()).await;
            number += 1;
            sleep(Duration::from_millis(5)).await;
        }
    });
    cluster.faults(&Fault::new().loss(0.1).duplication(0.2));
    for round in 0..20 {
        let to = Revision::new(revision.get() + 1_000_000);
        let raised = client.raise_revision(to).deadline(LONG).await.unwrap();
        assert_eq!(raised.revision, to, "round {round}");
        let done = client.compact().deadline(LONG).await.unwrap();
        assert_eq!(done.revision.get(), done.oldest.get() + kept, "round {round}");
        assert!(done.oldest >= to, "round {round}: all older history is dropped");
        revision = done.revision;
        if round % 10 == 5 {
            let killed = cluster.kill_primary().await;
            cluster.restart(killed).await;
        }
    }
    cluster.heal();
    writing.abort();
    let newest = client.get("k").with_revision().await.unwrap().revision;
    assert!(
        newest < Revision::new(revision.get() + 100_000),
        "nothing else was skipped: {newest} after {revision}"
    );
}
