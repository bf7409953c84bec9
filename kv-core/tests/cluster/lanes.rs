//! A measurement rather than a test: what small writes and signs of life feel of a state transfer. It prints, and
//! claims only that nobody was suspected:
//!
//! ```text
//! cargo test --release -p kv-core --all-features --test cluster -- --ignored --nocapture beside_a_transfer
//! ```

use super::harness::{Harness, Net, eventually, options};
use kv_core::Client;
use kv_core::config::Role;
use std::time::{Duration, Instant};

/// The state that is sent, and how fast.
const VALUES: usize = 2000;
const VALUE_BYTES: usize = 32 << 10;
const RATE: u64 = 32 << 20;
/// Small writes, one after the other.
const WRITES: usize = 1000;

pub(crate) async fn small_writes_beside_a_transfer(net: Net) {
    let mut tight = options();
    tight.max_batch_bytes = 1 << 20;
    tight.segment_bytes = 4 << 20;
    tight.checkpoint_bytes = 4 << 20;
    tight.journal_retention_bytes = 0;
    tight.transfer_bytes_per_second = RATE;
    let name = format!("{net:?}").chars().take_while(char::is_ascii_alphabetic).collect::<String>();
    let mut harness = Harness::with(net, &[Role::Data; 3], tight).await;
    let client = harness.client().await;
    let away = harness.backup().await;
    harness.kill(away);
    for some in (0..VALUES).collect::<Vec<_>>().chunks(16) {
        let put = |n: &usize| client.put(format!("fill/{n}"), vec![7; VALUE_BYTES]).into_future();
        for put in futures::future::join_all(some.iter().map(put)).await {
            put.expect("the cluster serves");
        }
    }
    let view = harness.status(harness.primary().await).view;
    let alone = times(&client, || false).await;
    harness.start(away).await;
    let applied = || harness.status(away).applied.get();
    eventually("the transfer begins", async || {
        std::fs::exists(harness.dirs[away].path().join("state.transfer")).unwrap_or(false)
    })
    .await;
    let started = Instant::now();
    let beside = times(&client, || applied() > 0).await;
    let span = started.elapsed();
    eventually("the transfer ends", async || applied() > 0).await;
    let primary = harness.status(harness.primary().await);
    println!("{name}: {} writes alone: {}", alone.len(), summary(&alone));
    println!("{name}: {} writes beside the transfer, in {span:.1?}: {}", beside.len(), summary(&beside));
    assert_eq!(primary.view, view, "the primary was suspected");
}

/// How long writes take, until there are enough of them or it `is_over`.
async fn times(client: &Client, is_over: impl Fn() -> bool) -> Vec<Duration> {
    let mut times = Vec::new();
    while times.len() < WRITES && !(is_over() && times.len() > 100) {
        let begun = Instant::now();
        client.put("small", "x").await.expect("the cluster serves");
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    times
}

fn summary(times: &[Duration]) -> String {
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    format!("median {:.1?}, p99 {:.1?}, slowest {:.1?}", at(50), at(99), at(100))
}
