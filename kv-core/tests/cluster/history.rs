//! The past: reads at a revision, scans at one revision, and reads that wait for one.

use super::harness::{Harness, Net, eventually, options};
use kv_core::config::Role;
use kv_core::error::ReadError;
use kv_core::ids::Revision;
use std::future::IntoFuture as _;
use std::time::Duration;

pub(crate) async fn past_revisions_read_the_same_on_any_member(net: Net) {
    let harness = Harness::three(net).await;
    let client = harness.client().await;
    let mut written = Vec::new();
    for number in 0..20 {
        let revision = client.put("key", number.to_string()).await.expect("a put").revision;
        client.put(format!("other/{number:02}"), "value").await.expect("a put");
        written.push(revision);
    }
    client.delete("key").await.expect("a delete");
    for member in 0..3 {
        let client = harness.node(member).client();
        for (number, revision) in written.iter().enumerate() {
            let found = client.get("key").at(*revision).await.expect("a read").expect("it was there");
            assert_eq!((found.value, found.modified), (number.to_string().into(), *revision));
            // Without asking the primary: the member waits until it has applied the revision.
            let scan = client.scan("other/").at(*revision).at_least(*revision);
            assert_eq!(scan.await.expect("a scan").len(), number);
        }
        let many = client.get_many(["key", "nobody"]).at(written[3]).await.expect("a read");
        assert_eq!(many[0].as_ref().expect("it was there").value, "3");
        assert_eq!(many[1], None);
        let keys = client.scan("other/").reverse().keys_only().limit(3).at(written[9]).await.expect("a scan");
        let keys: Vec<_> = keys.iter().map(|(key, record)| (&key[..], record.value.len())).collect();
        assert_eq!(keys, [(&b"other/08"[..], 0), (b"other/07", 0), (b"other/06", 0)]);
    }
    let far = Revision::new(1_000_000);
    let newest = match client.get("key").at(far).await {
        Err(ReadError::Future { newest }) => newest,
        other => panic!("{other:?}"),
    };
    assert!(newest > written[19] && newest < far);
}

pub(crate) async fn a_read_at_least_at_a_revision_sees_it_on_every_member(net: Net) {
    let harness = Harness::three(net).await;
    let client = harness.client().await;
    for number in 0..30 {
        let revision = client.put("key", number.to_string()).await.expect("a put").revision;
        let member = harness.node(number % 3).client();
        let record = member.get("key").at_least(revision).await.expect("a read").expect("it exists");
        assert_eq!((record.value, record.modified), (number.to_string().into(), revision));
    }
    // Nobody gets so far: it ends with the deadline, and not before.
    let begun = std::time::Instant::now();
    let deadline = Duration::from_millis(1500);
    let late = client.get("key").at_least(Revision::new(1_000_000)).deadline(deadline).await;
    assert!(matches!(late, Err(ReadError::Unavailable(_))), "{late:?}");
    assert!(begun.elapsed() >= deadline);
    // One that waits is woken by the write that it waits for.
    let next = client.get("key").await.expect("a read").expect("it exists").modified.next();
    let (read, written) =
        tokio::join!(async { harness.node(1).client().get("key").at_least(next).await }, async {
            client.put("key", "woken").await
        },);
    assert!(written.expect("a put").revision >= next);
    assert_eq!(read.expect("a read").expect("it exists").value, "woken");
}

/// Answered by any member that can prove the bound, and otherwise by the primary, including the latest writes.
pub(crate) async fn a_read_of_bounded_staleness_is_fresh_enough_on_every_member(net: Net) {
    let harness = Harness::three(net).await;
    let clients = [0, 1, 2].map(|member| harness.node(member).client());
    for round in 0..5 {
        let value = format!("v{round}");
        clients[0].put("key", value.clone()).await.expect("a put");
        for client in &clients {
            let at_once =
                client.get("key").max_staleness(Duration::ZERO).await.expect("a read").expect("it is there");
            assert_eq!(at_once.value, value);
            let many = client.get_many(["key"]).max_staleness(Duration::ZERO).await.expect("a read");
            assert_eq!(many[0].as_ref().map(|record| &record.value[..]), Some(value.as_bytes()));
        }
    }
    let bound = Duration::from_millis(300);
    tokio::time::sleep(bound).await;
    for client in &clients {
        let lately = client.scan("key").max_staleness(bound).await.expect("a scan");
        assert_eq!(lately[0].1.value, "v4");
    }
}

/// A writer goes through the keys again and again: at any one revision the first ones are a round ahead of the rest.
pub(crate) async fn a_scan_of_several_pages_is_of_one_revision_while_others_write(net: Net) {
    let harness = Harness::three(net).await;
    let client = harness.client().await;
    let write = async |round: u32| {
        for chunk in (0..1500).collect::<Vec<u32>>().chunks(100) {
            let puts = chunk.iter().map(|n| client.put(format!("{n:05}"), round.to_string()).into_future());
            futures::future::try_join_all(puts).await.expect("puts");
        }
    };
    write(0).await;
    let scans = async {
        for round in 0..6 {
            let mut scan = harness.node(round % 3).client().scan("");
            if round % 2 == 1 {
                scan = scan.reverse();
            }
            let mut found = scan.snapshot().await.expect("a scan");
            if round % 2 == 1 {
                found.records.reverse();
            }
            assert_eq!(found.records.len(), 1500);
            assert!(found.records.iter().all(|(_, record)| record.modified <= found.revision));
            let rounds: Vec<u32> = found
                .records
                .iter()
                .map(|(_, record)| String::from_utf8_lossy(&record.value).parse().expect("a number"))
                .collect();
            // A hundred are under way at once.
            let (first, last) = (rounds[0], rounds[1499]);
            assert!(first - last <= 1);
            assert!(rounds[..1400].windows(101).all(|some| some[0] >= some[100]), "at {}", found.revision);
        }
    };
    let done = std::cell::Cell::new(false);
    tokio::join!(
        async {
            scans.await;
            done.set(true);
        },
        async {
            let mut round = 1;
            while !done.get() {
                write(round).await;
                round += 1;
            }
        },
    );
}

/// What is kept is bounded, outlives restarts, and its end is reported.
pub(crate) async fn old_history_is_compacted_and_the_rest_survives_restarts(net: Net) {
    let mut small = options();
    small.checkpoint_bytes = 64 << 10;
    small.segment_bytes = 256 << 10;
    small.max_batch_bytes = 64 << 10;
    small.max_value_bytes = 32 << 10;
    small.history_revisions = 100;
    let mut harness = Harness::with(net, &[Role::Data; 3], small).await;
    let client = harness.client().await;
    let first = client.put("key", "first").await.expect("a put").revision;
    let mut last = first;
    eventually("the first revision is compacted", async || {
        last = client.put("key", vec![7; 4 << 10]).await.expect("a put").revision;
        client.get("key").at(first).await.is_err_and(|error| error.is_compacted())
    })
    .await;
    for member in 0..3 {
        harness.kill(member);
        harness.start(member).await;
    }
    let client = harness.client().await;
    let marked = client.put("key", "marked").await.expect("a put").revision;
    for _ in 0..90 {
        client.put("key", vec![8; 4 << 10]).await.expect("a put");
    }
    let found = client.get("key").at(last).await.expect("a read").expect("it was there");
    assert_eq!((found.modified, found.value.len()), (last, 4 << 10));
    assert_eq!(client.get("key").at(marked).await.expect("a read").expect("it was there").value, "marked");
}
