//! Clients that follow what changes.

use super::harness::{Harness, Net, options};
use super::load::Load;
use futures::FutureExt;
use kv_core::Client;
use kv_core::client::{Update, WatchStream};
use kv_core::config::Role;
use kv_core::error::WatchError;
use kv_core::ids::Revision;
use kv_core::message::{Event, EventKind};
use kv_core::transport::{Lane, Scope};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

/// The next event; it must come.
async fn next(events: &mut WatchStream) -> Event {
    let event = tokio::time::timeout(Duration::from_secs(30), events.next()).await;
    event.expect("it comes").expect("the stream goes on").expect("an event")
}

pub(crate) async fn a_watch_delivers_each_change_in_its_range_once_and_in_order(net: Net) {
    let harness = Harness::three(net).await;
    let client = harness.client().await;
    let first = client.put("a/1", "one").await.expect("written").revision;
    let mut all = client.watch("").after(Revision::ZERO).stream();
    let mut prefix = client.watch("a/").after(first).previous().stream();
    let mut key = client.watch_key("b").after(first).stream();
    let mut range = client.watch_range("a/2".."b").after(first).stream();
    client.put("a/1", "uno").await.expect("written");
    client.put("a/2", "two").await.expect("written");
    client.put("b", "three").await.expect("written");
    client.put("b0", "not b").await.expect("written");
    let last = client.delete_prefix("a/").await.expect("removed").revision;

    let event = next(&mut all).await;
    assert_eq!((event.revision, &event.key[..]), (first, &b"a/1"[..]), "the history is delivered too");
    let delivered =
        [next(&mut prefix).await, next(&mut prefix).await, next(&mut prefix).await, next(&mut prefix).await];
    let keys: Vec<_> = delivered.iter().map(|event| (&event.key[..], event.kind)).collect();
    let (put, deleted) = (EventKind::Put, EventKind::Deleted);
    assert_eq!(keys, [(&b"a/1"[..], put), (b"a/2", put), (b"a/1", deleted), (b"a/2", deleted)]);
    let held =
        |record: &Option<kv_core::message::Record>| record.as_ref().map(|record| record.value.to_vec());
    assert_eq!(held(&delivered[0].previous), Some(b"one".to_vec()));
    assert_eq!((held(&delivered[1].previous), held(&delivered[2].record)), (None, None));
    assert_eq!((delivered[2].revision, delivered[3].revision), (last, last), "both at once");
    assert_eq!(prefix.complete(), last, "that was all of it");
    let event = next(&mut key).await;
    assert_eq!((held(&event.record), event.previous), (Some(b"three".to_vec()), None));
    assert_eq!(next(&mut range).await.key, "a/2");
    assert_eq!(next(&mut range).await.kind, EventKind::Deleted);
    for quiet in [&mut prefix, &mut key, &mut range] {
        assert!(quiet.next().now_or_never().is_none(), "nothing is delivered twice");
    }
}

/// Follows the keys of a load, each of which is put again and again: no version may be left out or come twice.
async fn check_versions(client: Client, stop: Arc<AtomicBool>) -> BTreeMap<Vec<u8>, u64> {
    let mut events = client.watch("load/").after(Revision::ZERO).stream();
    let (mut versions, mut last) = (BTreeMap::new(), Revision::ZERO);
    loop {
        let within = tokio::time::timeout(Duration::from_millis(500), events.next());
        let Ok(event) = within.await else {
            if stop.load(Ordering::Relaxed) {
                return versions;
            }
            continue;
        };
        let event = event.expect("it goes on").expect("nothing is compacted");
        assert!(event.revision >= last, "in order");
        last = event.revision;
        let version = versions.entry(event.key.to_vec()).or_insert(0);
        let record = event.record.expect("nothing is deleted");
        assert_eq!(record.version, *version + 1, "{:?} at {last}", event.key);
        assert_eq!(record.modified, event.revision);
        *version = record.version;
    }
}

pub(crate) async fn watches_continue_across_failovers(net: Net) {
    let mut harness = Harness::three(net).await;
    let load = Load::start(&harness.client().await, 4);
    let stop = Arc::<AtomicBool>::default();
    let mut watchers = JoinSet::new();
    for _ in 0..4 {
        let client = harness.client().await;
        for _ in 0..3 {
            watchers.spawn(check_versions(client.clone(), stop.clone()));
        }
    }
    for _ in 0..3 {
        load.progress(50).await;
        let primary = harness.primary().await;
        harness.kill(primary);
        load.progress(50).await;
        harness.start(primary).await;
        harness.level_enough().await;
    }
    load.check(&harness).await;
    let client = harness.client().await;
    let written = client.scan("load/").await.expect("read");
    let written: BTreeMap<_, _> = written.into_iter().map(|(key, it)| (key.to_vec(), it.version)).collect();
    // What was written last is under way to them.
    tokio::time::sleep(Duration::from_secs(2)).await;
    stop.store(true, Ordering::Relaxed);
    while let Some(seen) = watchers.join_next().await {
        assert_eq!(seen.expect("the watcher does not panic"), written);
    }
}

/// Applies the events of a watch until the copy is as expected.
async fn copy_until(
    updates: &mut kv_core::client::Follow,
    copy: &mut BTreeMap<Vec<u8>, Vec<u8>>,
    done: impl Fn(&BTreeMap<Vec<u8>, Vec<u8>>) -> bool,
) {
    while !done(copy) {
        let update = tokio::time::timeout(Duration::from_secs(30), updates.next()).await.expect("it comes");
        match update.expect("it goes on").expect("nothing is compacted") {
            Update::Present { key, record } => {
                assert!(copy.insert(key.to_vec(), record.value.to_vec()).is_none(), "delivered once");
            }
            Update::Event(event) => match event.record {
                Some(record) => drop(copy.insert(event.key.to_vec(), record.value.to_vec())),
                None => assert!(copy.remove(&event.key[..]).is_some(), "it was there"),
            },
            _ => {}
        }
    }
}

pub(crate) async fn following_a_range_keeps_a_copy_up_to_date(net: Net) {
    let harness = Harness::three(net).await;
    let client = harness.client().await;
    client.put("x", "aside").await.expect("written");
    let many = (0..2500).map(|n| client.put(format!("k{n:04}"), "old").into_future());
    futures::future::join_all(many.map(|put| async { put.await.expect("written") })).await;
    let mut updates = client.watch("k").follow();
    let mut copy = BTreeMap::new();
    copy_until(&mut updates, &mut copy, |copy| !copy.is_empty()).await;
    client.put("k0000", "new").await.expect("written");
    client.delete("k2499").await.expect("removed");
    client.put("k9999", "more").await.expect("written");
    // Some of it is on pages that are read by now, and some comes as events.
    let is_new =
        |copy: &BTreeMap<Vec<u8>, Vec<u8>>| copy.get(&b"k0000"[..]).is_some_and(|value| value == b"new");
    copy_until(&mut updates, &mut copy, |copy| copy.contains_key(&b"k9999"[..]) && is_new(copy)).await;
    assert_eq!(copy.len(), 2500);
    assert!(!copy.contains_key(&b"k2499"[..]));
}

pub(crate) async fn a_compacted_watch_can_follow_again(net: Net) {
    let mut options = options();
    options.history_revisions = 50;
    options.checkpoint_bytes = 256 << 10;
    let harness = Harness::with(net, &[Role::Data; 3], options).await;
    let client = harness.client().await;
    let value = "x".repeat(16 << 10);
    let mut compacted = None;
    for round in 0..200 {
        for n in 0..10 {
            client.put(format!("k{n}"), value.clone()).await.expect("written");
        }
        let mut events = client.watch("").after(Revision::new(1)).stream();
        match events.next().await.expect("an item") {
            Ok(_) => {}
            Err(error) => {
                compacted = Some((round, error));
                assert!(events.next().await.is_none(), "it ends");
                break;
            }
        }
    }
    assert!(matches!(compacted, Some((_, WatchError::Compacted { .. }))), "{compacted:?}");
    let mut updates = client.watch("").follow();
    let mut copy = BTreeMap::new();
    copy_until(&mut updates, &mut copy, |copy| copy.len() == 10).await;
}

/// A member that hears of no primary may never learn what the others write.
pub(crate) async fn a_watch_leaves_a_member_that_is_cut_off(net: Net) {
    let harness = Harness::three(net).await;
    let backup = harness.backup().await;
    let client = harness.node(backup).client();
    let mut events = client.watch("k").stream();
    client.put("k", "before").await.expect("written");
    let mut seen = tokio::spawn(async move {
        loop {
            let event = next(&mut events).await;
            if event.record.is_some_and(|record| record.value == "after") {
                return;
            }
        }
    });
    assert!((&mut seen).now_or_never().is_none());
    for lane in [Lane::Control, Lane::Log, Lane::Bulk] {
        harness.faults[backup].cut(Scope::all().lane(lane));
    }
    let other = harness.client().await;
    other.put("k", "after").await.expect("written without it");
    seen.await.expect("another member delivers it");
}

pub(crate) async fn watches_of_one_connection_are_bounded_and_forgotten_with_their_streams(net: Net) {
    let harness = Harness::three(net).await;
    let client = harness.client().await;
    let at = client.put("k", "v").await.expect("written").revision;
    for _ in 0..2 {
        let mut many: Vec<_> =
            (0..500).map(|n| client.watch_key(format!("{n}")).after(at).stream()).collect();
        for events in &mut many {
            assert!(events.next().now_or_never().is_none());
        }
        client.put("499", "v").await.expect("there is room for calls beside them");
        assert_eq!(next(&mut many[499]).await.key, "499");
        client.delete("499").await.expect("removed");
        assert_eq!(next(&mut many[499]).await.kind, EventKind::Deleted);
    }
}
