//! Long loads: a resource that leaks slowly is used up after an hour. Memory and descriptors are checked in each round.

use crate::bench::{Bench, FLAGS, Row};
use crate::harness::Cluster;
use crate::machine::strace;
use crate::memory::now_mib;
use futures::StreamExt as _;
use kv_core::Client;
use kv_core::config::MemberId;
use kv_core::node::{MemberState, Op};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// A round at full length and in the short form, which has at most this many.
const ROUND: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(4));
const FEW_ROUNDS: u32 = 3;
/// Small memtables, so that there are many checkpoints, and a small cache and history, so that they are soon full.
const SMALL: [&str; 6] = ["--checkpoint-bytes", "4MiB", "--cache-bytes", "8MiB", "--history-bytes", "8MiB"];
/// What memory may grow by once the members have settled: the allocator keeps free what each thread has once used, and
/// no thread uses what is kept for another.
const NOISE_MIB: u64 = 32;
/// The most memory of a member: two memtables and the cache, the overhead of the allocator, and 60 MiB for everything
/// else.
const MOST_MIB: u64 = 96;
/// The most open files of a member. All runs of a state together have at most about 256; the rest are connections and
/// the journal.
const MOST_FILES: usize = 300;
/// The watches that follow everything, one of which takes nothing.
const WATCHES: usize = 8;
/// Puts in a second, of so many keys, and how long a value is and may live.
const RATE: usize = 500;
const KEYS: usize = 2000;
const VALUE: usize = 512;
const LIFE: Duration = Duration::from_secs(20);
/// How long every sync of a slow disk takes, as strace takes it.
const SLOW: &str = "fdatasync:delay_enter=500000";

/// What clients do all the time, until it is dropped.
struct Use(JoinSet<()>);

impl Use {
    async fn begin(cluster: &Cluster) -> Self {
        let mut work = JoinSet::new();
        work.spawn(put(cluster.client().await));
        work.spawn(scan(cluster.client().await));
        for number in 0..WATCHES {
            work.spawn(watch(cluster.client().await, number > 0));
        }
        Self(work)
    }

    /// Nobody has given up.
    fn check(&mut self) {
        assert!(self.0.try_join_next().is_none(), "a client has given up: see above");
    }
}

/// Puts many keys again and again, a part of them for a while only.
async fn put(client: Client) {
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for turn in 0_usize.. {
        tick.tick().await;
        let puts = (0..RATE / 100).map(|n| {
            let number = turn * (RATE / 100) + n;
            let put = client.put(format!("used/{}", number % KEYS), vec![b'u'; VALUE]);
            if number.is_multiple_of(3) { put.ttl(LIFE) } else { put }.into_future()
        });
        for put in futures::future::join_all(puts).await {
            put.expect("the cluster serves");
        }
    }
}

/// Reads all of that again and again, forwards and backwards.
async fn scan(client: Client) {
    loop {
        for reverse in [false, true] {
            let scan = client.scan("used/");
            let scan = if reverse { scan.reverse() } else { scan };
            let mut records = std::pin::pin!(scan.stream());
            while let Some(record) = records.next().await {
                record.expect("the cluster serves");
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Follows everything; or begins to, and takes nothing.
async fn watch(client: Client, takes: bool) {
    let mut events = client.watch("").stream();
    if !takes {
        std::future::pending::<()>().await;
    }
    while let Some(event) = events.next().await {
        // One that is too slow begins again where it can.
        if event.is_err() {
            events = client.watch("").stream();
        }
    }
    unreachable!("a watch goes on");
}

fn files(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// The memory of the members in each round, which is compared with their memory once they had settled.
#[derive(Default)]
struct Looks {
    /// The most memory before that.
    settled: Option<u64>,
    last: (u64, usize),
    most: u64,
    each: Vec<u64>,
}

impl Looks {
    fn look(&mut self, pids: &[u32], has_settled: bool) {
        let files = pids.iter().map(|pid| files(*pid)).max().unwrap();
        let mib = pids.iter().map(|pid| now_mib(*pid)).max().unwrap();
        let before = self.most;
        self.last = (mib, files);
        self.most = self.most.max(mib);
        self.each.push(mib);
        assert!(mib <= MOST_MIB, "{mib} MiB, at most {MOST_MIB} are promised: {:?}", self.each);
        assert!(files <= MOST_FILES, "{files} open files, at most {MOST_FILES} are promised");
        if !has_settled {
            return;
        }
        let before = *self.settled.get_or_insert(before);
        assert!(mib <= before + NOISE_MIB, "{mib} MiB after {before} MiB: {:?}", self.each);
    }
}

const fn round_of(rounds: u32) -> Duration {
    if rounds > FEW_ROUNDS { ROUND.0 } else { ROUND.1 }
}

/// A round under load.
async fn round(bench: &Bench, rounds: u32, work: &mut Use) {
    let start = Instant::now();
    while start.elapsed() < round_of(rounds) {
        bench.progress().await;
        work.check();
    }
}

/// F-load-8: puts, expiries, scans and watches for long. Neither memory nor descriptors grow once the members have
/// settled.
pub(crate) async fn long(rounds: u32) -> Row {
    let flags = [&FLAGS[..], &SMALL].concat();
    let mut bench = Bench::on(Cluster::start(&["data", "data", "data"], &flags)).await;
    let mut work = Use::begin(&bench.cluster).await;
    let mut looks = Looks::default();
    for number in 0..rounds {
        round(&bench, rounds, &mut work).await;
        let pids = [0, 1, 2].map(|id| bench.cluster.pid(id));
        looks.look(&pids, number >= rounds / 2);
        println!("  {} MiB, {} files", looks.last.0, looks.last.1);
        bench.passed();
    }
    work.0.shutdown().await;
    clear(&bench).await;
    let first = looks.settled.unwrap_or_default();
    let (mib, open) = looks.last;
    bench.end(format!("{first} MiB settled, {mib} at last, {} at most; {open} files", looks.most)).await
}

/// Removes data that is not in the writers' ledgers.
async fn clear(bench: &Bench) {
    for key in 0..KEYS {
        bench.client.delete(format!("used/{key}")).await.expect("the cluster serves");
    }
}

/// F-disk-14: each sync of one backup's disk takes half a second, for a long time. The backup still makes checkpoints,
/// and its memory does not grow.
pub(crate) async fn slow_journal(rounds: u32) -> Row {
    let mut cluster = Cluster::prepare(&["data", "data", "data"], &[&FLAGS[..], &SMALL].concat());
    cluster.under[2] = strace(SLOW);
    (0..3).for_each(|id| cluster.restart(id));
    let mut bench = Bench::on(cluster).await;
    let mut work = Use::begin(&bench.cluster).await;
    let mut looks = Looks::default();
    let mut checkpoint = Op::ZERO;
    let mut checkpoints = Vec::new();
    for number in 0..rounds {
        round(&bench, rounds, &mut work).await;
        // It may be a little behind the load.
        let start = Instant::now();
        loop {
            let status = bench.client.member_status(MemberId::new(2)).await;
            let status = status.expect("it answers");
            assert_ne!(status.state, MemberState::Primary, "the slow one hands the role over");
            if status.checkpoint > checkpoint {
                checkpoint = status.checkpoint;
                break;
            }
            let limit = crate::harness::LIMIT;
            assert!(start.elapsed() < limit, "its checkpoint stays at {checkpoint} of {}", status.head);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        looks.look(&[bench.cluster.pid(2)], number >= rounds / 2);
        println!("  {} MiB, checkpoint {checkpoint}", looks.last.0);
        checkpoints.push(checkpoint.get());
        bench.passed();
    }
    work.0.shutdown().await;
    clear(&bench).await;
    let remark = format!("MiB of the slow one: {:?}; its checkpoints {checkpoints:?}", looks.each);
    bench.end(remark).await
}
