//! The load: clients that each begin an operation when their last one has ended.

use hdrhistogram::Histogram;
use kv_peers::Result;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

const WARM_UP: Duration = Duration::from_secs(1);
/// The longest latency that is recorded, in microseconds.
const LONGEST_US: u64 = 600_000_000;

/// The measured operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Op {
    Put,
    Get,
}

impl Op {
    pub(crate) const ALL: [Self; 2] = [Self::Put, Self::Get];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) op: Op,
    pub(crate) clients: u32,
    pub(crate) keys: u64,
    pub(crate) value_bytes: usize,
    pub(crate) time: Duration,
}

/// What one run has shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    pub(crate) throughput: f64,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) max_us: u64,
    /// Processor time of all servers per operation, in microseconds.
    pub(crate) cpu_us: f64,
}

/// A connection of one client. Each operation returns when it is acknowledged.
pub(crate) trait Store: Send + 'static {
    fn put(&mut self, key: &str, value: &[u8]) -> impl Future<Output = Result<()>> + Send;
    fn get(&mut self, key: &str) -> impl Future<Output = Result<()>> + Send;
}

pub(crate) fn key(number: u64) -> String {
    format!("bench-{number:012}")
}

/// Runs the load. `cpu_seconds` returns the processor time that the servers have used so far.
pub(crate) async fn run<S, F>(
    load: &Load,
    cpu_seconds: impl Fn() -> Result<f64>,
    connect: impl Fn() -> F,
) -> Result<Measured>
where
    S: Store,
    F: Future<Output = Result<S>>,
{
    let mut stores = Vec::new();
    for _ in 0..load.clients {
        stores.push(connect().await?);
    }
    if load.op == Op::Get {
        stores = fill(load, stores).await?;
    }
    let begin = Instant::now() + WARM_UP;
    let end = begin + load.time;
    let mut tasks = JoinSet::new();
    for (number, mut store) in stores.into_iter().enumerate() {
        let load = *load;
        tasks.spawn(async move {
            let mut rng = fastrand::Rng::with_seed(number as u64);
            let mut latencies = histogram();
            let mut value = vec![0; load.value_bytes];
            loop {
                let key = key(rng.u64(..load.keys));
                rng.fill(&mut value);
                let begun = Instant::now();
                match load.op {
                    Op::Put => store.put(&key, &value).await?,
                    Op::Get => store.get(&key).await?,
                }
                let ended = Instant::now();
                if ended >= end {
                    return Ok::<_, Box<dyn std::error::Error + Send + Sync>>(latencies);
                }
                if ended >= begin {
                    let micros = u64::try_from((ended - begun).as_micros()).unwrap_or(u64::MAX);
                    latencies.saturating_record(micros.max(1));
                }
            }
        });
    }
    sleep_until(begin).await;
    let before = cpu_seconds()?;
    sleep_until(end).await;
    let after = cpu_seconds()?;
    let mut latencies = histogram();
    while let Some(done) = tasks.join_next().await {
        latencies.add(done??)?;
    }
    let count = latencies.len().max(1) as f64;
    Ok(Measured {
        throughput: latencies.len() as f64 / load.time.as_secs_f64(),
        p50_us: latencies.value_at_quantile(0.5),
        p99_us: latencies.value_at_quantile(0.99),
        max_us: latencies.max(),
        cpu_us: (after - before) * 1e6 / count,
    })
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_US, 3).expect("the bounds are valid")
}

/// Writes all keys once, and gives the connections back.
async fn fill<S: Store>(load: &Load, stores: Vec<S>) -> Result<Vec<S>> {
    let next = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for mut store in stores {
        let (next, load) = (next.clone(), *load);
        tasks.spawn(async move {
            let value = vec![7; load.value_bytes];
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= load.keys {
                    return Ok::<_, Box<dyn std::error::Error + Send + Sync>>(store);
                }
                store.put(&key(number), &value).await?;
            }
        });
    }
    let mut back = Vec::new();
    while let Some(store) = tasks.join_next().await {
        back.push(store??);
    }
    Ok(back)
}
