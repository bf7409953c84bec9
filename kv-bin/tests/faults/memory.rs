//! The memory of members: of one that receives the state of a large store, and of a witness.

use crate::bench::{Bench, FLAGS, Row};
use crate::harness::Cluster;
use futures::StreamExt;
use kv_core::Client;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// What is written while the member is away, in each round.
const ROUND: usize = 64 << 20;
/// The size of one value, and how many are on their way at once.
const VALUE: usize = 16 << 10;
const AT_ONCE: usize = 128;
/// Writes per second while the member catches up, in addition to those of the bench.
const RATE: usize = 1000;
const STEADY_KEYS: usize = 100;
/// What a member may take at most that receives a state, however large it is: two memtables of `checkpoint_bytes` (32
/// MiB) and the cache (64 MiB) with what the allocator adds, and the queues to and from its peers.
const RECEIVER_MIB: u64 = 256;
/// What a witness may take at most, besides its program.
const WITNESS_MIB: u64 = 20;

/// The most that a process ever had in memory.
pub(crate) fn peak_mib(pid: u32) -> u64 {
    mib(pid, "VmHWM:")
}

/// The same without the pages of the program's own file: the system shares those among processes and drops them as it
/// likes, and of a program that was built for tests there are several times as many.
fn own_peak_mib(pid: u32) -> u64 {
    peak_mib(pid).saturating_sub(mib(pid, "RssFile:"))
}

/// What a process has in memory now.
pub(crate) fn now_mib(pid: u32) -> u64 {
    mib(pid, "VmRSS:")
}

fn mib(pid: u32, what: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let kib = status.lines().find_map(|line| line.strip_prefix(what)?.split_whitespace().next());
    kib.unwrap().parse::<u64>().unwrap() >> 10
}

fn big(n: usize) -> String {
    format!("big/{n}")
}

/// Puts or deletes so many large values, many at once.
async fn each(client: &Client, count: usize, delete: bool) {
    let value = vec![b'x'; VALUE];
    let calls = futures::stream::iter(0..count).map(|n| {
        let value = value.clone();
        async move {
            if delete {
                client.delete(big(n)).await.expect("the others go on");
            } else {
                client.put(big(n), value).await.expect("the others go on");
            }
        }
    });
    calls.buffer_unordered(AT_ONCE).for_each(async |()| ()).await;
}

/// Small writes at a steady rate.
fn steady(client: Client) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(Duration::from_millis(10));
        for turn in 0_usize.. {
            tick.tick().await;
            let puts = (0..RATE / 100).map(|n| {
                client.put(format!("steady/{}", (turn + n) % STEADY_KEYS), vec![b'y'; 256]).into_future()
            });
            for put in futures::future::join_all(puts).await {
                put.expect("the cluster serves");
            }
        }
    })
}

/// T8, F-load-2: while a backup is away, more is written than the journals keep. It receives the state while writes
/// continue, in bounded memory.
pub(crate) async fn away(rounds: u32) -> Row {
    let mut flags = FLAGS.to_vec();
    flags.extend(["--journal-retention-bytes", "16MiB"]);
    let mut bench = Bench::on(Cluster::start(&["data", "data", "data"], &flags)).await;
    let filler = bench.cluster.client().await;
    let away = (bench.primary().await + 1) % 3;
    bench.cluster.kill(away);
    let values = rounds as usize * (ROUND / VALUE);
    each(&filler, values, false).await;
    let load = steady(bench.cluster.client().await);
    let blow = Instant::now();
    bench.cluster.restart(away);
    bench.level().await;
    let took = blow.elapsed();
    bench.logged(away, 0, "installed the state of another member").await;
    let peak = peak_mib(bench.cluster.pid(away));
    assert!(!load.is_finished(), "the small writes went on");
    load.abort();
    assert!(peak <= RECEIVER_MIB, "it took {peak} MiB at its peak, at most {RECEIVER_MIB} are promised");
    bench.survived(blow);
    each(&filler, values, true).await;
    for n in 0..STEADY_KEYS {
        filler.delete(format!("steady/{n}")).await.expect("the cluster serves");
    }
    let mib = (values * VALUE) >> 20;
    bench.end(format!("{mib} MiB in {} s beside {RATE} writes/s, peak {peak} MiB", took.as_secs())).await
}

/// Two data members and a witness: any one is killed, in any order, and the witness stays small.
pub(crate) async fn witness(rounds: u32) -> Row {
    let mut bench = Bench::on(Cluster::start(&["data", "data", "witness"], &FLAGS)).await;
    let mut peak = 0;
    for round in 0..rounds as usize {
        // Each of the members, and each after each other one.
        let victim = [0, 1, 2, 1, 0, 2][round % 6];
        peak = peak.max(own_peak_mib(bench.cluster.pid(2)));
        let blow = Instant::now();
        bench.cluster.kill(victim);
        bench.progress().await;
        bench.survived(blow);
        bench.cluster.restart(victim);
        bench.level().await;
    }
    peak = peak.max(own_peak_mib(bench.cluster.pid(2)));
    assert!(peak < WITNESS_MIB, "the witness took {peak} MiB at its peak, {WITNESS_MIB} are promised");
    bench.end(format!("SIGKILL of any one; the witness' peak {peak} MiB, and its program")).await
}
