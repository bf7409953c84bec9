//! Watches while primaries are killed.

use crate::bench::{Bench, Row};
use crate::harness::LIMIT;
use crate::processes;
use kv_core::Client;
use kv_core::client::Revision;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use tokio::task::JoinSet;
use tokio::time::timeout;

const WATCHERS: usize = 100;
/// The last key that is put, and the last in order.
const END: &str = "~end";

/// What somebody has seen: how many events, and a hash of all of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Seen {
    events: u64,
    hash: u64,
}

/// Follows everything until the last key is put.
async fn follow(client: Client, start: Revision) -> Seen {
    let mut events = client.watch("").after(start).stream();
    let mut hasher = DefaultHasher::new();
    let (mut count, mut last) = (0, (start, Vec::new()));
    loop {
        let event = timeout(LIMIT, events.next()).await.expect("something comes").expect("a watch goes on");
        let event = event.expect("the history goes back so far");
        let place = (event.revision, event.key.to_vec());
        assert!(place > last, "{place:?} after {last:?}");
        let version = event.record.as_ref().map(|record| (record.version, record.modified));
        (&place, version).hash(&mut hasher);
        count += 1;
        if event.key == END && event.record.is_some() {
            return Seen { events: count, hash: hasher.finish() };
        }
        last = place;
    }
}

/// F-proc-1: a hundred watches deliver every change once and in order, although the members that serve them are killed.
pub(crate) async fn kill(rounds: u32) -> Row {
    let mut bench = Bench::of_three().await;
    let start = bench.client.put(END, "not yet").await.expect("the cluster serves").revision;
    bench.client.delete(END).await.expect("the cluster serves");
    let mut watchers = JoinSet::new();
    for _ in 0..WATCHERS {
        let client = bench.cluster.client().await;
        watchers.spawn(async move {
            // Its removal is the first event.
            follow(client, start).await
        });
    }
    processes::kill_primaries(&mut bench, rounds).await;
    bench.client.put(END, "now").await.expect("the cluster serves");
    let all = watchers.join_all().await;
    // Latecomers receive the same, from the history.
    let late = follow(bench.cluster.client().await, start).await;
    assert!(
        all.iter().all(|seen| *seen == late),
        "they have not all seen the same: {all:?}, and late {late:?}"
    );
    bench.client.delete(END).await.expect("the cluster serves");
    bench.end(format!("{WATCHERS} watchers, {} events each, once and in order", late.events)).await
}
