//! The common part of all attacks on a member: in each round its load continues, and its memory stays within the
//! documented bound.

use crate::bench::{Bench, Row};
use crate::memory::{now_mib, peak_mib};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// The most memory of a member under an attack by strangers: its own work (see `memory`), plus the callers that have
/// not sent their hello, far below a MiB in all.
const BOUND_MIB: u64 = 128;
/// How long a flood lasts.
const FLOOD: Duration = Duration::from_secs(5);
/// The first bytes on a connection of a client: as `kv-transport` sends them.
pub(crate) const PREFACE: [u8; 8] = *b"kvt\n\x01\x04\0\0";

/// A cluster whose primary is attacked.
pub(crate) struct Siege {
    bench: Bench,
    pid: u32,
    begun: Instant,
    /// What the victim took before this round.
    before: u64,
    /// The most that one took, and by how much that had grown within a round.
    peak: u64,
    added: u64,
}

impl Siege {
    pub(crate) fn of(bench: Bench) -> Self {
        Self { bench, pid: 0, begun: Instant::now(), before: 0, peak: 0, added: 0 }
    }

    /// A round begins: the address of its victim.
    pub(crate) async fn aim(&mut self) -> String {
        let chief = self.bench.primary().await;
        self.pid = self.bench.cluster.pid(chief);
        (self.before, self.begun) = (now_mib(self.pid), Instant::now());
        self.bench.cluster.address(chief).to_owned()
    }

    /// The load continues meanwhile.
    pub(crate) async fn progress(&mut self) {
        self.bench.progress().await;
        self.added = self.added.max(now_mib(self.pid).saturating_sub(self.before));
    }

    /// The round is over, and nobody is the worse for it.
    pub(crate) async fn survived(&mut self) {
        self.peak = self.peak.max(peak_mib(self.pid));
        self.bench.survived(self.begun);
        let newcomer = self.bench.cluster.client().await;
        newcomer.get("k").await.expect("a newcomer is served again");
        self.bench.level().await;
    }

    /// All rounds are over: an attack may add so much.
    pub(crate) async fn end(self, bound: u64, what: String) -> Row {
        let Self { bench, peak, added, .. } = self;
        assert!(peak <= BOUND_MIB, "it took {peak} MiB at its peak, at most {BOUND_MIB} are promised");
        assert!(added <= bound, "strangers made it take {added} MiB more, at most {bound} are promised");
        bench.end(format!("{what}; +{added} MiB, peak {peak} MiB")).await
    }

    /// Floods the primary for a while in each round, with what `begin` begins for that round at an address. Returns how
    /// often something was thrown.
    pub(crate) async fn flood(
        &mut self,
        rounds: u32,
        begin: impl AsyncFn(u32, &str, &Flood) -> JoinSet<()>,
    ) -> usize {
        let flood = Flood::default();
        for round in 0..rounds {
            let address = self.aim().await;
            flood.over.store(false, Ordering::Relaxed);
            let throwers = begin(round, &address, &flood).await;
            while self.begun.elapsed() < FLOOD {
                self.progress().await;
            }
            flood.over.store(true, Ordering::Relaxed);
            throwers.join_all().await;
            self.survived().await;
        }
        flood.thrown.load(Ordering::Relaxed)
    }
}

/// Stops the attackers, and counts what they have sent.
#[derive(Clone, Default)]
pub(crate) struct Flood {
    over: Arc<AtomicBool>,
    thrown: Arc<AtomicUsize>,
}

impl Flood {
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    pub(crate) fn count(&self) {
        self.thrown.fetch_add(1, Ordering::Relaxed);
    }
}

/// Garbage for a stream. Some of it gets past the preface, and some past the first bytes of a frame.
pub(crate) fn garbage(random: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = vec![0; 64 << 10];
    random.fill(&mut bytes);
    if random.bool() {
        bytes[..8].copy_from_slice(&PREFACE);
        bytes[5] = random.u8(1..=4);
        if random.bool() {
            bytes[8..12].copy_from_slice(b"kvfr");
        }
    }
    bytes
}
