//! Other clients use as much as they can get. Measures the puts and gets of one client beside them, and when it is
//! alone. A member that is killed meanwhile returns.

use crate::attacks::Attack;
use crate::bench::{FLAGS, Row};
use crate::harness::{self, Cluster, LIMIT, kv, run, stderr};
use futures::StreamExt as _;
use kv_core::Client;
use kv_core::client::Revision;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::time::timeout;

/// In each round the client calls so often, and there are so many keys to scan.
const CALLS: usize = 100;
const KEYS: usize = 500;
/// A value, at full length and in the short form.
const VALUE: (usize, usize) = (1 << 20, 16 << 10);
/// How many are put at once.
const AT_ONCE: usize = 8;
/// So many times its own p99 a call may take beside an attack. Printed, and at full length demanded.
const WORST: u32 = 10;
/// What was filled in is still being written to the disk, and slows calls down, until a round of them takes no less
/// than this part of an earlier one.
const SETTLED: f64 = 0.9;
/// So many rounds it may take until then.
const MOST_ROUNDS: usize = 300;
/// The pause between two calls of a client that does nothing else.
const PAUSE: Duration = Duration::from_millis(1);

/// What calls took.
#[derive(Clone, Default, Debug)]
struct Times {
    puts: Vec<Duration>,
    gets: Vec<Duration>,
}

impl Times {
    /// Calls until `enough`.
    async fn measure(&mut self, client: &Client, enough: impl Fn(usize) -> bool) {
        for call in 0.. {
            if enough(call) {
                return;
            }
            let key = format!("mine/{}", call % 50);
            let start = Instant::now();
            client.put(&key, call.to_string()).await.expect("a put goes on");
            self.puts.push(start.elapsed());
            let start = Instant::now();
            let record = client.get(&key).await.expect("a get goes on").expect("it was put");
            self.gets.push(start.elapsed());
            assert_eq!(record.value, call.to_string(), "what was put last");
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn p99(times: &[Duration]) -> Duration {
        Self::percentile(times, 99)
    }

    fn percentile(times: &[Duration], percent: usize) -> Duration {
        let mut sorted = times.to_vec();
        sorted.sort_unstable();
        sorted.get(sorted.len() * percent / 100).copied().unwrap_or_default()
    }

    /// How many times those of `normal` the p99 of puts and gets are; the greater.
    fn over(&self, normal: &Self) -> f64 {
        let over = |it: &[Duration], normal: &[Duration]| {
            Self::p99(it).as_secs_f64() / Self::p99(normal).as_secs_f64().max(1e-6)
        };
        over(&self.puts, &normal.puts).max(over(&self.gets, &normal.gets))
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [puts, gets] = [&self.puts, &self.gets].map(|times| Self::p99(times).as_secs_f64() * 1000.0);
        let most = |times: &[Duration]| times.iter().max().map_or(0, Duration::as_millis);
        write!(f, "put p99 {puts:.1} ms (max {})", most(&self.puts))?;
        write!(f, ", get p99 {gets:.1} ms (max {})", most(&self.gets))
    }
}

struct Neighbours {
    cluster: Cluster,
    client: Client,
    /// Another member's place, and the cluster's status, are asked for by another one.
    looker: Client,
    calls: usize,
    is_short: bool,
    normal: Times,
    remarks: Vec<String>,
    worst: f64,
    _certificates: TempDir,
}

impl Neighbours {
    async fn start(rounds: u32, flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("certs");
        let made = run(kv().args(["certs", "--clients", "app,attacker", "--out"]).arg(&out));
        assert!(made.status.success(), "{}", stderr(&made));
        let tls = ["--tls-dir", out.to_str().unwrap()];
        let cluster = Cluster::start(&["data", "data", "data"], &[&FLAGS, flags, &tls].concat());
        let (client, looker) = (cluster.client().await, cluster.client().await);
        Self {
            cluster,
            client,
            looker,
            calls: CALLS * rounds as usize,
            is_short: rounds == 1,
            normal: Times::default(),
            remarks: Vec::new(),
            worst: 0.0,
            _certificates: folder,
        }
    }

    /// Fills the store with data for the scans.
    async fn fill(&mut self) {
        let value = vec![b'v'; if self.is_short { VALUE.1 } else { VALUE.0 }];
        let keys = KEYS * (self.calls / CALLS);
        let puts = futures::stream::iter(0..keys).map(|key| {
            let put = self.looker.put(format!("large/{key}"), value.clone());
            async { put.await.expect("the cluster serves") }
        });
        puts.buffer_unordered(AT_ONCE).for_each(async |_| ()).await;
        self.level().await;
        self.remarks.push(format!("{keys} keys of {} KiB", value.len() >> 10));
    }

    async fn level(&self) {
        harness::level(&self.looker, &[0, 1, 2]).await;
    }

    /// Waits until the client's calls do not get faster any more: earlier writes are on the disk.
    async fn settle(&mut self) {
        let mut best = Duration::MAX;
        let mut since_best = 0;
        for round in 1..=MOST_ROUNDS {
            let mut times = Times::default();
            times.measure(&self.client, |calls| calls == CALLS).await;
            let took = Times::percentile(&times.puts, 90) + Times::percentile(&times.gets, 90);
            since_best = if took < best.mul_f64(SETTLED) { 0 } else { since_best + 1 };
            best = best.min(took);
            if since_best >= if self.is_short { 1 } else { 20 } {
                self.remarks.push(format!("settled after {round} rounds"));
                return;
            }
        }
        panic!("calls get faster and faster");
    }

    /// Measures the client alone.
    async fn alone(&mut self) {
        self.settle().await;
        self.normal.measure(&self.client, |calls| calls == self.calls).await;
        self.note("alone", &self.normal.clone(), "");
    }

    fn note(&mut self, what: &str, times: &Times, more: &str) {
        let remark = format!("{what}: {times}{more}");
        println!("  {remark}");
        self.remarks.push(remark);
    }

    /// Measures the client beside an attack on the primary, while a backup is killed and restarted.
    async fn beside(&mut self, what: &str, attack: impl AsyncFnOnce(&Cluster, String) -> Attack) {
        let primary = harness::primary(&self.looker).await;
        let attack = attack(&self.cluster, self.cluster.address(primary).to_owned()).await;
        let begun = Instant::now();
        while attack.count() == 0 {
            assert!(begun.elapsed() < LIMIT, "{what} do not begin");
            tokio::time::sleep(PAUSE).await;
        }
        let mut times = Times::default();
        let (start, before) = (Instant::now(), attack.count());
        times.measure(&self.client, |calls| calls == self.calls).await;
        let per_second = (attack.count() - before) as f64 / start.elapsed().as_secs_f64();
        let backup = (primary + 1) % 3;
        self.cluster.kill(backup);
        times.measure(&self.client, |calls| calls == CALLS / 10).await;
        let back = Instant::now();
        // It waits for the member without giving way to others: the client calls on another thread.
        let (client, joined) = (self.client.clone(), Arc::new(AtomicBool::new(false)));
        let seen = joined.clone();
        let calling = tokio::spawn(async move {
            let mut times = Times::default();
            times.measure(&client, |_| seen.load(Ordering::Relaxed)).await;
            times
        });
        self.cluster.restart(backup);
        timeout(LIMIT, self.level()).await.expect("a member that restarts joins");
        joined.store(true, Ordering::Relaxed);
        let meanwhile = calling.await.expect("its calls go on");
        let joined_in = back.elapsed();
        times.puts.extend(meanwhile.puts);
        times.gets.extend(meanwhile.gets);
        attack.end();
        let over = times.over(&self.normal);
        self.worst = self.worst.max(over);
        let stayed = harness::primary(&self.looker).await == primary;
        let role = if stayed { "" } else { "; another primary" };
        let joined_in = joined_in.as_secs_f64();
        let more = format!(" = x{over:.1}; {per_second:.0}/s; joined in {joined_in:.1} s{role}");
        self.note(what, &times, &more);
        self.level().await;
    }

    fn end(self, rounds: u32) -> Row {
        // Times are looked at only where somebody asked for the full length.
        let failed = !self.is_short && self.worst > f64::from(WORST);
        Row { rounds, remark: self.remarks.join(" / "), failed, ..Row::default() }
    }
}

async fn all(rounds: u32, flags: &[&str]) -> Row {
    let mut neighbours = Neighbours::start(rounds, flags).await;
    let seen = neighbours.client.put("seen", "now").await.expect("the cluster serves").revision;
    neighbours.fill().await;
    neighbours.alone().await;
    attack_all(&mut neighbours, seen, flags.contains(&"quic")).await;
    neighbours.end(rounds)
}

async fn attack_all(neighbours: &mut Neighbours, seen: Revision, is_quic: bool) {
    let of = |cluster: &Cluster| cluster.transport("attacker");
    neighbours
        .beside("67,000 watches", async |cluster, address| Attack::watches(of(cluster), address, seen))
        .await;
    neighbours.beside("two scanners", async |cluster, address| Attack::scanners(of(cluster), address)).await;
    neighbours
        .beside("requests of empty steps", async |cluster, address| Attack::empty_steps(of(cluster), address))
        .await;
    neighbours
        .beside("5,000 handshakes a second", async |cluster, address| {
            if is_quic {
                Attack::handshakes_over_quic(address)
            } else {
                Attack::handshakes_over_tcp(&cluster.identity("attacker").expect("it has one"), address)
            }
        })
        .await;
}

/// F-load-4, F-load-9, F-input-2: over TCP with TLS.
pub(crate) async fn tcp(rounds: u32) -> Row {
    all(rounds, &[]).await
}

/// The same over QUIC.
pub(crate) async fn quic(rounds: u32) -> Row {
    all(rounds, &["--transport", "quic"]).await
}
