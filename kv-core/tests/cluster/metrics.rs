//! What the members of a cluster report about themselves.

use super::harness::{self, Harness, Net};
use kv_core::node::{Metrics, RequestKind, RequestOutcome};
use std::time::SystemTime;

fn requests(metrics: &Metrics, kind: RequestKind, outcome: RequestOutcome) -> u64 {
    let matching = metrics.requests.iter().filter(|it| it.kind == kind && it.outcome == outcome);
    matching.map(|it| it.count).sum()
}

/// Every number that work changes has changed, on the members where it should.
async fn the_metrics_show_the_work_of_each_member(net: Net) {
    let harness = Harness::three(net).await;
    let client = harness.client().await;
    for number in 0..20 {
        client.put("key", format!("{number}")).await.expect("it is written");
        client.get("key").await.expect("it is read");
    }
    harness.level().await;
    let primary = harness.primary().await;
    harness::eventually("an acknowledgement of each peer", async || {
        // The status of the peers is updated with each batch, and at most every 20 ms.
        client.put("key", "more").await.expect("it is written");
        let found = harness.node(primary).metrics();
        found.peers.iter().all(|peer| peer.lag.is_some() && peer.acknowledgements.latencies().count() > 0)
    })
    .await;
    let found = harness.node(primary).metrics();
    assert!(requests(&found, RequestKind::Write, RequestOutcome::Done) >= 20, "{:?}", found.requests);
    assert!(requests(&found, RequestKind::Read, RequestOutcome::Done) >= 20, "{:?}", found.requests);
    for (name, durations) in [
        ("syncs", &found.journal_syncs),
        ("commits", &found.commits),
        ("applies", &found.applies),
        ("reads", &found.reads),
        ("writes", &found.writes),
    ] {
        assert!(durations.latencies().count() >= 10 && !durations.sum().is_zero(), "{name}: {durations:?}");
    }
    assert!(found.journal_bytes > 0, "a journal has files");
    assert!(found.client_bytes_limit > 0 && found.client_bytes <= found.client_bytes_limit);
    let served = found.primaries.last().expect("a primary serves");
    assert_eq!((Some(served.primary), served.view), (found.status.primary, found.status.view));
    assert!(served.at <= SystemTime::now());

    let backup = harness.node(harness.backup().await).metrics();
    assert_eq!(backup.commits.latencies().count(), 0, "only a primary orders entries");
    assert!(backup.applies.latencies().count() > 0 && backup.journal_syncs.latencies().count() > 0);
    assert!(
        backup.peers.iter().all(|peer| peer.lag.is_none()),
        "only a primary knows the progress of others"
    );
    assert_eq!(backup.peers.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_show_the_work() {
    harness::bounded(the_metrics_show_the_work_of_each_member(Net::memory())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_shows_in_the_metrics() {
    harness::bounded(async {
        let mut harness = Harness::three(Net::memory()).await;
        let client = harness.client().await;
        client.put("key", "value").await.expect("it is written");
        let lost = harness.primary().await;
        let stays = harness.backup().await;
        harness::eventually("connections", async || {
            harness.node(stays).metrics().peers.iter().all(|peer| peer.is_connected)
        })
        .await;
        let before = harness.node(stays).metrics();
        harness.kill(lost);
        client.put("key", "again").await.expect("another member takes over");
        harness::eventually("a peer that is gone", async || {
            let found = harness.node(stays).metrics();
            found.view_changes > before.view_changes
                && found.primaries.last().is_some_and(|change| change.took.is_some())
                && found.peers.iter().any(|peer| peer.id == harness::id(lost) && !peer.is_connected)
        })
        .await;
    })
    .await;
}

/// Also one that cannot serve. A member whose driver has ended is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_is_responsive_until_it_stops() {
    harness::bounded(async {
        let mut harness = Harness::three(Net::memory()).await;
        assert!(harness.node(0).is_responsive().await);
        (1..3).for_each(|member| harness.kill(member));
        harness::eventually("no primary", async || harness.status(0).primary.is_none()).await;
        assert!(harness.node(0).is_responsive().await);
        harness.node(0).shutdown().await;
        assert!(!harness.node(0).is_responsive().await);
    })
    .await;
}

#[cfg(all(feature = "tcp", feature = "certs"))]
#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_show_when_the_certificate_expires() {
    harness::bounded(async {
        let harness = Harness::three(Net::tcp_tls()).await;
        let expires = harness.node(0).metrics().certificate_expires.expect("there is a certificate");
        assert!(expires > SystemTime::now());
    })
    .await;
}
