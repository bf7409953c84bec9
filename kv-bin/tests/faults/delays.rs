//! One-way delays jump while keys, leases and locks expire: none expires early on the clock of the client that
//! requested it, and no two clients believe at the same time that they hold a lock.

use crate::bench::{Bench, FLAGS, Row};
use crate::harness::{Cluster, LIMIT};
use crate::links::Links;
use kv_core::Client;
use kv_core::client::Lock;
use kv_core::client::Revision;
use kv_core::error::WriteError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

const ROLES: [&str; 3] = ["data", "data", "data"];
/// The longest delay, one way.
const MOST_DELAY_MS: u64 = 400;
/// How long delays jump in one round.
const ROUND: Duration = Duration::from_secs(5);
/// How many keys, half of them on leases of their own, are under way at once.
const KEYS: u64 = 8;
/// How many clients want the lock.
const HOLDERS: u64 = 4;
/// How often the believers are counted.
const COUNT_EVERY: Duration = Duration::from_millis(1);

/// What was seen.
#[derive(Default)]
struct Seen {
    stop: AtomicBool,
    /// How many keys have ended, the latest by so many milliseconds.
    ended: AtomicU64,
    latest_ms: AtomicU64,
    /// How often the lock was got.
    tenures: AtomicU64,
    /// How often it was doubtful, or lost.
    lost: AtomicU64,
    /// What must not be.
    early: Mutex<Vec<String>>,
    believers: Mutex<Believers>,
}

/// The clients that acquired the lock and have not released it.
#[derive(Default)]
struct Believers {
    holders: Vec<(u64, Arc<Lock>)>,
    two: Vec<String>,
}

impl Believers {
    /// Counts the clients that believe that they hold it, at one moment, while no client acquires or releases it.
    fn count(&mut self) {
        let believing = self.holders.iter().filter(|(_, lock)| lock.lease().is_alive());
        let believing: Vec<_> =
            believing.map(|(who, lock)| format!("{who} with token {}", lock.token())).collect();
        if believing.len() > 1 {
            self.two.push(believing.join(" and "));
        }
    }
}

impl Seen {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// A key was removed, this long after the request that set its time to live was first sent.
    fn gone(&self, what: &str, ttl: Duration, passed: Duration) {
        if passed < ttl {
            self.early.lock().unwrap().push(format!("{what}: gone after {passed:?} of {ttl:?}"));
        }
        let late = u64::try_from(passed.saturating_sub(ttl).as_millis()).unwrap_or(u64::MAX);
        self.latest_ms.fetch_max(late, Ordering::Relaxed);
        self.ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// Puts a key that expires after this time, on its own or with a lease.
async fn put(client: &Client, key: &str, ttl: Duration, on_a_lease: bool) -> Result<Revision, WriteError> {
    let put = client.put(key, "value");
    let written = if on_a_lease {
        let lease = client.lease(ttl).detached().await?;
        put.lease(lease.id()).await?
    } else {
        put.ttl(ttl).await?
    };
    Ok(written.revision)
}

/// One key after the other.
async fn keys(client: Client, task: u64, seen: Arc<Seen>) {
    for round in 0.. {
        if !seen.goes_on() {
            return;
        }
        let (key, ttl) = (format!("brief/{task}/{round}"), Duration::from_millis(fastrand::u64(300..2_000)));
        let sent = Instant::now();
        // A lease may have ended before its key was put.
        let Ok(revision) = put(&client, &key, ttl, task.is_multiple_of(2)).await else { continue };
        let mut events = client.watch_key(&key).after(revision).stream();
        let gone = timeout(LIMIT, events.next()).await.expect("it ends").expect("a watch goes on");
        let passed = sent.elapsed();
        assert!(gone.expect("the history goes back so far").record.is_none(), "{key} is gone");
        seen.gone(&key, ttl, passed);
    }
}

/// Gets the lock, holds it for a while, and lets it go, again and again.
async fn holds(client: Client, who: u64, seen: Arc<Seen>) {
    while seen.goes_on() {
        let ttl = Duration::from_millis(fastrand::u64(800..3_000));
        let wanted = client.lock("the lock").ttl(ttl).wait(Duration::from_secs(5)).await;
        // If messages take that long, a lease may end while its owner waits.
        let Ok(lock) = wanted else { continue };
        let lock = Arc::new(lock);
        {
            let mut believers = seen.believers.lock().unwrap();
            believers.holders.push((who, lock.clone()));
            believers.count();
        }
        seen.tenures.fetch_add(1, Ordering::Relaxed);
        let held = Duration::from_millis(fastrand::u64(0..4_000));
        if timeout(held, lock.lost()).await.is_ok() {
            seen.lost.fetch_add(1, Ordering::Relaxed);
            // It may recover, and then counts again.
            sleep(Duration::from_millis(fastrand::u64(0..2_000))).await;
        }
        seen.believers.lock().unwrap().holders.retain(|(other, _)| *other != who);
        if let Some(lock) = Arc::into_inner(lock)
            && fastrand::bool()
        {
            // Whether or not it is heard, the lock goes: its lease is not kept alive any more.
            let _ = lock.release().await;
        }
    }
}

/// Counts believers all the time.
async fn count(seen: Arc<Seen>) {
    while seen.goes_on() {
        seen.believers.lock().unwrap().count();
        sleep(COUNT_EVERY).await;
    }
}

/// F-clock-8: a round is five seconds in which delays jump.
pub(crate) async fn jump(rounds: u32) -> Row {
    let mut cluster = Cluster::prepare(&ROLES, &[&FLAGS[..], &["--insecure"]].concat());
    let links = Links::between(&ROLES, &cluster.addresses).await;
    cluster.lists.clone_from(&links.lists);
    for id in 0..3 {
        cluster.restart(id);
    }
    let mut bench = Bench::on(cluster).await;
    let seen = Arc::new(Seen::default());
    let mut tasks = JoinSet::new();
    for task in 0..KEYS {
        tasks.spawn(keys(bench.cluster.client().await, task, seen.clone()));
    }
    for who in 0..HOLDERS {
        tasks.spawn(holds(bench.cluster.client().await, who, seen.clone()));
    }
    tasks.spawn(count(seen.clone()));
    for _ in 0..rounds {
        let blow = Instant::now();
        while blow.elapsed() < ROUND {
            let from = fastrand::usize(0..3);
            let delay =
                Duration::from_millis(if fastrand::bool() { 0 } else { fastrand::u64(0..=MOST_DELAY_MS) });
            // To one of the others, or to both.
            let only = fastrand::bool().then(|| (from + fastrand::usize(1..3)) % 3);
            for to in (0..3).filter(|to| *to != from && only.is_none_or(|only| only == *to)) {
                links.delay(from, to, delay);
            }
            sleep(Duration::from_millis(fastrand::u64(20..500))).await;
        }
        bench.survived(blow);
    }
    links.heal();
    seen.stop.store(true, Ordering::Relaxed);
    while let Some(ended) = tasks.join_next().await {
        ended.expect("it has gone on");
    }
    bench.level().await;
    // The last holders lose the lock with their leases, and so do puts whose outcome was not received.
    let start = Instant::now();
    for prefix in ["the lock", "brief/"] {
        while !bench.client.scan(prefix).await.expect("the cluster serves").is_empty() {
            assert!(start.elapsed() < LIMIT, "what begins with {prefix:?} never ends");
            sleep(Duration::from_millis(20)).await;
        }
    }
    let (early, two) = (seen.early.lock().unwrap().clone(), seen.believers.lock().unwrap().two.clone());
    let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
    let remark = format!(
        "{} keys ended, {} early, the latest by {} ms; {} tenures of a lock, {} in doubt, {} times two believers",
        count(&seen.ended),
        early.len(),
        count(&seen.latest_ms),
        count(&seen.tenures),
        count(&seen.lost),
        two.len(),
    );
    let mut row = bench.end(remark).await;
    row.failed |= count(&seen.ended) == 0 || count(&seen.tenures) == 0;
    row.verdict.problems.extend(early);
    row.verdict.problems.extend(two);
    row
}
