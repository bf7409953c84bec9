//! Transfers of a large state to a member that was away: their duration, and the costs for the sources.

use crate::bench::{Bench, FLAGS, Row};
use crate::harness::Cluster;
use crate::memory::{now_mib, peak_mib};
use futures::StreamExt;
use kv_core::Client;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// How much each round adds to the state.
const ROUND: usize = 64 << 20;
/// The size of one value of these, and how many puts are in flight at once. The file keeps a row in a power of two of
/// bytes: a value of 64 KiB with its key would take 128 KiB.
const VALUE: usize = 60_000;
const AT_ONCE: usize = 64;
/// The writes during the transfer: the number per ten milliseconds, and the number of keys. The writers of the bench
/// are additional.
const EACH_TICK: usize = 10;
const TICK: Duration = Duration::from_millis(10);
const SMALL_KEYS: usize = 10_000;
const SMALL_VALUE: usize = 256;
/// What a write adds to the state at most: two records, each with its key.
const WRITTEN: usize = 2 * (SMALL_VALUE + 64);
/// How long the load runs before the members are measured for the first time.
const WARM_UP: Duration = Duration::from_secs(5);
/// The most additional memory of a source, compared with the same load without a transfer: less than the smallest state
/// here.
const MEMORY_SLACK_MIB: u64 = 60;
/// The most growth of its state files: those that merges replace stay until the snapshot is no longer read.
const FILE_SLACK_MIB: u64 = 512;

/// What one process takes, in MiB.
#[derive(Clone, Copy, Debug)]
struct Size {
    resident: u64,
    file: u64,
}

impl Size {
    fn of(cluster: &Cluster, member: usize) -> Self {
        let pid = cluster.pid(member);
        Self { resident: now_mib(pid), file: files_mib(&cluster.data(member)) + removed_mib(pid) }
    }

    fn max(self, other: Self) -> Self {
        Self { resident: self.resident.max(other.resident), file: self.file.max(other.file) }
    }
}

/// The files of the state.
fn files_mib(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let files = files.filter(|file| file.file_name().to_string_lossy().starts_with("state"));
    files.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum::<u64>() >> 20
}

/// The files of the state that were removed, and take room because they are still open.
fn removed_mib(pid: u32) -> u64 {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let removed = open.filter(|file| {
        let target = std::fs::read_link(file.path()).unwrap_or_default();
        let target = target.to_string_lossy();
        target.contains("/state-") && target.ends_with("(deleted)")
    });
    removed.filter_map(|file| std::fs::metadata(file.path()).ok()).map(|file| file.len()).sum::<u64>() >> 20
}

/// Puts large values under these numbers, many at once.
async fn fill(client: &Client, numbers: Range<usize>) {
    let value = bytes::Bytes::from(vec![b'x'; VALUE]);
    let puts =
        futures::stream::iter(numbers).map(|n| client.put(format!("large/{n}"), value.clone()).into_future());
    puts.buffer_unordered(AT_ONCE)
        .for_each(async |put| {
            put.expect("the others go on");
        })
        .await;
}

/// Small writes at a steady rate, as long as the cluster keeps up.
struct Steady {
    acknowledged: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Steady {
    fn start(client: Client) -> Self {
        let (acknowledged, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, end) = (acknowledged.clone(), stop.clone());
        let task = tokio::spawn(async move {
            let mut clock = tokio::time::interval(TICK);
            let mut random = fastrand::Rng::with_seed(7);
            while !end.load(Ordering::Relaxed) {
                clock.tick().await;
                let puts = (0..EACH_TICK).map(|_| {
                    let key = format!("small/{}", random.usize(..SMALL_KEYS));
                    client.put(key, vec![b'y'; SMALL_VALUE]).into_future()
                });
                for put in futures::future::join_all(puts).await {
                    put.expect("the cluster serves");
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Self { acknowledged, stop, task }
    }

    fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("every write was acknowledged");
    }
}

/// T2, T6: a member that was away receives the state at the first attempt, beside 1,000 writes per second, and the
/// sources need no additional memory or disk space.
pub(crate) async fn large(rounds: u32) -> Row {
    let mut flags = FLAGS.to_vec();
    // What is small beside the smallest state that is sent here.
    flags.extend([
        "--journal-retention-bytes",
        "4MiB",
        "--checkpoint-bytes",
        "4MiB",
        "--cache-bytes",
        "8MiB",
    ]);
    if rounds == 1 {
        // So that even a small state takes longer than every time-out of the protocol.
        flags.extend(["--transfer-bytes-per-second", "12MiB"]);
    }
    let mut bench = Bench::on(Cluster::start(&["data", "data", "data"], &flags)).await;
    let filler = bench.cluster.client().await;
    let away = (bench.primary().await + 1) % 3;
    bench.cluster.kill(away);
    let values = rounds as usize * (ROUND / VALUE);
    fill(&filler, 0..values).await;
    let steady = Steady::start(bench.cluster.client().await);
    let sources: Vec<usize> = (0..3).filter(|id| *id != away).collect();
    let measure =
        |cluster: &Cluster| -> Vec<Size> { sources.iter().map(|id| Size::of(cluster, *id)).collect() };
    tokio::time::sleep(WARM_UP).await;
    let before = measure(&bench.cluster);
    let mut most = before.clone();
    let (blow, written) = (Instant::now(), steady.acknowledged());
    bench.cluster.restart(away);
    let in_place = "installed the state of another member";
    while !bench.cluster.log(away).contains(in_place) {
        for (most, now) in most.iter_mut().zip(measure(&bench.cluster)) {
            *most = most.max(now);
        }
        let ended = bench.cluster.has_ended(away);
        assert!(ended.is_none(), "the member that was away has stopped: {ended:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let took = blow.elapsed();
    let acknowledged = steady.acknowledged();
    let rate = (acknowledged - written) as f64 / took.as_secs_f64();
    bench.level().await;
    let level = blow.elapsed();
    let after = measure(&bench.cluster);
    steady.stop().await;
    let log = bench.cluster.log(away);
    let meanwhile = log.split_once(in_place).map_or("", |(meanwhile, _)| meanwhile);
    let (tries, discarded) =
        (meanwhile.matches("state transfer begins").count(), meanwhile.matches("discarded").count());
    assert_eq!((tries, discarded), (1, 0), "the state does not arrive at the first try");
    // A write adds a record and keeps the one that it replaces, whether a state is sent or not.
    let history = ((acknowledged - written) * WRITTEN as u64) >> 20;
    for ((id, before), most) in sources.iter().zip(&before).zip(&most) {
        let growth = most.resident.saturating_sub(before.resident);
        assert!(growth <= MEMORY_SLACK_MIB, "member {id} takes {growth} MiB of memory for sending its state");
        let growth = most.file.saturating_sub(before.file);
        assert!(
            growth <= FILE_SLACK_MIB + history,
            "the files of the state of member {id} have grown by {growth} MiB"
        );
    }
    let peak = peak_mib(bench.cluster.pid(away));
    bench.survived(blow);
    for prefix in ["large/", "small/"] {
        filler.delete_prefix(prefix).await.expect("the cluster serves");
    }
    let grown = |to: &[Size], what: fn(&Size) -> u64| {
        let grown = before.iter().zip(to).map(|(before, to)| what(to).saturating_sub(what(before)));
        grown.max().unwrap_or_default()
    };
    let more = |to: &[Size]| {
        format!("{} MiB of memory and {} MiB of file", grown(to, |it| it.resident), grown(to, |it| it.file))
    };
    let (mib, took, level) = ((values * VALUE) >> 20, took.as_secs(), level.as_secs());
    bench
        .end(format!(
            "{mib} MiB in {took} s (level after {level} s) at the first try beside {rate:.0} writes/s; \
             each source takes at most {} more, {} afterwards; the receiver's peak {peak} MiB",
            more(&most),
            more(&after),
        ))
        .await
}
