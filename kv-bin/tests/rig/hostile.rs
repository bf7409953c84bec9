//! A member under attack: thousands of connections that say nothing, and floods of garbage. The load goes on, and the memory that
//! the member takes stays within its bound.

use crate::bench::{Bench, FLAGS, Row};
use crate::harness::{Cluster, LIMIT};
use crate::memory::{now_mib, peak_mib};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Connections of a storm at full length.
pub(crate) const STORM: usize = 10_000;
/// What a member may take at most while strangers do their worst: what it takes for its own work (see `memory`) and what those
/// hold who have not said hello, far below a MiB in all.
const BOUND_MIB: u64 = 128;
/// What the attack itself may add.
pub(crate) const ADDED_MIB: u64 = 32;
/// Those who throw garbage at once.
const THROWERS: usize = 64;
/// The first bytes on a socket of a client: as `kv-transport` says it.
pub(crate) const PREFACE: [u8; 8] = *b"kvt\n\x01\x04\0\0";

/// Opens so many connections, and says `first` on each; those that could be opened.
async fn crowd(address: SocketAddr, count: usize, first: &'static [u8]) -> Vec<TcpStream> {
    let mut opening = JoinSet::new();
    let mut open = Vec::new();
    for _ in 0..count {
        opening.spawn(async move {
            let mut stream = timeout(Duration::from_secs(5), TcpStream::connect(address)).await.ok()?.ok()?;
            // A member that closes at once is within its rights.
            stream.write_all(first).await.ok()?;
            Some(stream)
        });
        if opening.len() >= 256
            && let Some(Ok(Some(stream))) = opening.join_next().await
        {
            open.push(stream);
        }
    }
    while let Some(opened) = opening.join_next().await {
        open.extend(opened.ok().flatten());
    }
    open
}

/// Whether the member has closed it. One that the system took for open while the member's queue was full, and dropped there
/// later, is told of that when something is sent on it.
async fn is_closed(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    let open = matches!(timeout(Duration::ZERO, stream.read(&mut byte)).await, Err(_) | Ok(Ok(1)));
    !open || stream.try_write(&byte).is_err()
}

/// L4, P9: ten thousand connections in one go, half of which do not even say for what, and again. The member has fewer
/// descriptors than that. All of them are closed at their deadlines.
pub(crate) async fn storm(rounds: u32) -> Row {
    let mut cluster = Cluster::prepare(&["data", "data", "data"], &FLAGS);
    let limit = "ulimit -n 2048; exec \"$@\"";
    for id in 0..3 {
        cluster.under[id] = ["bash", "-c", limit, "bash"].map(str::to_owned).to_vec();
        cluster.restart(id);
    }
    let mut bench = Bench::on(cluster).await;
    let (mut opened, mut peak, mut added) = (0, 0, 0);
    for _ in 0..rounds {
        let chief = bench.primary().await;
        let (address, pid) = (bench.cluster.address(chief).parse().unwrap(), bench.cluster.pid(chief));
        let before = now_mib(pid);
        let blow = Instant::now();
        let mut silent = crowd(address, STORM / 2, b"").await;
        silent.extend(crowd(address, STORM / 2, &PREFACE).await);
        opened += silent.len();
        bench.progress().await;
        added = added.max(now_mib(pid).saturating_sub(before));
        peak = peak.max(peak_mib(pid));
        let start = Instant::now();
        while let Some(mut last) = silent.pop() {
            while !is_closed(&mut last).await {
                assert!(start.elapsed() < LIMIT, "{} connections are never closed", silent.len() + 1);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        bench.survived(blow);
        let newcomer = bench.cluster.client().await;
        newcomer.get("k").await.expect("a newcomer is served again");
        bench.level().await;
    }
    assert!(opened > STORM / 2 * rounds as usize, "there is a storm: {opened} connections");
    judge(peak, added, ADDED_MIB);
    bench.end(format!("{opened} connections, 2048 descriptors; +{added} MiB, peak {peak} MiB")).await
}

/// X1, X2: as much garbage as goes through, on every lane and none, before and behind good beginnings.
pub(crate) async fn garbage(rounds: u32) -> Row {
    const PER_ROUND: Duration = Duration::from_secs(5);
    let mut bench = Bench::of_three().await;
    let (mut thrown, mut peak, mut added) = (0, 0, 0);
    for round in 0..rounds {
        let chief = bench.primary().await;
        let (address, pid) = (bench.cluster.address(chief).parse().unwrap(), bench.cluster.pid(chief));
        let before = now_mib(pid);
        let blow = Instant::now();
        let (stop, count) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let mut throwers = JoinSet::new();
        for seed in 0..THROWERS as u64 {
            throwers.spawn(throw(address, u64::from(round) << 8 | seed, stop.clone(), count.clone()));
        }
        while blow.elapsed() < PER_ROUND {
            bench.progress().await;
            added = added.max(now_mib(pid).saturating_sub(before));
        }
        stop.store(true, Ordering::Relaxed);
        throwers.join_all().await;
        peak = peak.max(peak_mib(pid));
        thrown += count.load(Ordering::Relaxed);
        bench.survived(blow);
        bench.level().await;
    }
    assert!(thrown > THROWERS, "only {thrown} times garbage was thrown");
    judge(peak, added, ADDED_MIB);
    bench.end(format!("{thrown} throws by {THROWERS}; +{added} MiB, peak {peak} MiB")).await
}

pub(crate) fn judge(peak: u64, added: u64, bound: u64) {
    assert!(peak <= BOUND_MIB, "it took {peak} MiB at its peak, at most {BOUND_MIB} are promised");
    assert!(added <= bound, "strangers made it take {added} MiB more, at most {bound} are promised");
}

/// Connects, throws garbage for as long as it is taken, and begins again.
async fn throw(address: SocketAddr, seed: u64, stop: Arc<AtomicBool>, count: Arc<AtomicUsize>) {
    let mut random = fastrand::Rng::with_seed(seed);
    while !stop.load(Ordering::Relaxed) {
        let Ok(Ok(mut stream)) = timeout(Duration::from_secs(1), TcpStream::connect(address)).await else {
            continue;
        };
        count.fetch_add(1, Ordering::Relaxed);
        let mut bytes: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(64 << 10).collect();
        // Some get past the preface, and some past the first bytes of a frame.
        if random.bool() {
            bytes[..8].copy_from_slice(&PREFACE);
            bytes[5] = random.u8(1..=4);
            if random.bool() {
                bytes[8..12].copy_from_slice(b"kvfr");
            }
        }
        for _ in 0..16 {
            let written = timeout(Duration::from_millis(200), stream.write_all(&bytes)).await;
            if !matches!(written, Ok(Ok(()))) {
                break;
            }
        }
    }
}

/// L8: a steady load for long. Neither memory nor descriptors grow once the member has settled.
pub(crate) async fn soak(rounds: u32) -> Row {
    const ROUND: Duration = Duration::from_secs(30);
    /// What memory may differ by from one look to another.
    const NOISE_MIB: u64 = 48;
    let mut bench = Bench::of_three().await;
    let files = |pid: u32| std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let look = |bench: &Bench| {
        let pids = [0, 1, 2].map(|id| bench.cluster.pid(id));
        (pids.map(now_mib).into_iter().max().unwrap(), pids.map(files).into_iter().max().unwrap())
    };
    let mut first = None;
    let mut last = (0, 0);
    for _ in 0..rounds {
        let start = Instant::now();
        while start.elapsed() < ROUND {
            bench.progress().await;
        }
        last = look(&bench);
        let (mib, open) = *first.get_or_insert(last);
        assert!(last.0 <= mib + NOISE_MIB, "{} MiB after {} MiB", last.0, mib);
        assert!(last.1 <= open + 16, "{} open files after {open}", last.1);
        bench.passed();
    }
    let (mib, open) = first.unwrap_or_default();
    bench.end(format!("{mib} MiB at first, {} at last; {open} files, {}", last.0, last.1)).await
}
