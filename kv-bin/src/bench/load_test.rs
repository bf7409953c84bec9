//! Runs a load and records it.

use super::args::{LoadTestArgs, Op};
use super::lock;
use super::report::Summary;
use super::target::Target;
use super::workload::{Keys, OpError, PREFIX, Values, key, workers};
use crate::failure::Failure;
use bytes::Bytes;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use hdrhistogram::Histogram;
use kv_core::Client;
use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// Latencies are recorded up to an hour, in microseconds.
const LONGEST_US: u64 = 3_600_000_000;
/// Workers record into this many histograms, so that they seldom wait for each other.
const SHARDS: usize = 16;
/// The keys are written by this many transactions at once, each of about this many bytes and at most this many keys.
const FILL_AT_ONCE: usize = 16;
const FILL_BYTES: usize = 256 << 10;
const FILL_KEYS: usize = 500;
/// Values of a watched load begin with the time at which they were written, in nanoseconds.
const STAMP_BYTES: usize = 8;
/// The rate of a watched load, unless one is given.
const WATCHED_RATE: u32 = 1000;

/// What is recorded, from the end of the warm-up to the end of the load.
#[derive(Debug)]
pub(super) struct Recorder {
    begin: Instant,
    end: Instant,
    shards: Vec<Mutex<Histogram<u64>>>,
    /// The operations that ended in each second.
    seconds: Vec<AtomicU64>,
    errors: AtomicU64,
    first_error: Mutex<Option<String>>,
    over: AtomicBool,
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_US, 3).expect("the bounds are valid")
}

impl Recorder {
    fn new(args: &LoadTestArgs, now: Instant) -> Self {
        let begin = now + args.warm_up.0;
        let seconds = args.time.0.as_secs() + 1;
        Self {
            begin,
            end: begin + args.time.0,
            shards: (0..SHARDS).map(|_| Mutex::new(histogram())).collect(),
            seconds: (0..seconds).map(|_| AtomicU64::new(0)).collect(),
            errors: AtomicU64::new(0),
            first_error: Mutex::default(),
            over: AtomicBool::new(false),
        }
    }

    /// An operation that began, or was due, at `begun` has ended at `ended`. Counted by its end.
    fn record(&self, shard: usize, begun: Instant, ended: Instant, result: Result<(), OpError>) {
        if let Err(error) = result {
            // Those of the warm-up count too: a watch that fails is not begun again.
            self.errors.fetch_add(1, Ordering::Relaxed);
            lock(&self.first_error).get_or_insert_with(|| error.to_string());
            return;
        }
        if ended < self.begin || ended > self.end {
            return;
        }
        let micros = u64::try_from(ended.saturating_duration_since(begun).as_micros()).unwrap_or(u64::MAX);
        lock(&self.shards[shard % SHARDS]).saturating_record(micros.max(1));
        let second = usize::try_from((ended - self.begin).as_secs()).unwrap_or(usize::MAX);
        if let Some(count) = self.seconds.get(second) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed) || Instant::now() >= self.end
    }
}

/// Runs the load, and returns what was measured.
pub(super) async fn run(args: &LoadTestArgs, json: bool) -> Result<Summary, Failure> {
    let target = Target::start(args).await?;
    let clients = target.connect(args, args.connections()).await?;
    if args.op.reads() && !args.no_fill {
        fill(&clients, args).await?;
    }
    if let (Op::Put, Some(mut worker)) = (args.op, workers(&clients, args).next()) {
        // If it is refused, so are all others.
        worker.operate().await.map_err(|error| Failure::failed(format!("a write failed: {error}")))?;
    }
    let recorder = Arc::new(Recorder::new(args, Instant::now()));
    let mut tasks = match args.op {
        Op::Watch => watch(&clients, args, &recorder).await?,
        Op::Put | Op::Get | Op::Mixed | Op::Scan => operate(&clients, args, &recorder),
    };
    sleep_until(recorder.begin).await;
    let before = target.usage();
    progress(args, &recorder, json).await?;
    let after = target.usage();
    recorder.over.store(true, Ordering::Relaxed);
    // An operation that hangs ends at its deadline, and counts for nothing.
    tasks.shutdown().await;

    let mut latencies = histogram();
    for shard in &recorder.shards {
        latencies.add(&*lock(shard)).map_err(|error| Failure::failed(format!("cannot add up: {error}")))?;
    }
    let usage = before.zip(after).map(|(before, after)| before.per_operation(&after, latencies.len()));
    Ok(Summary {
        op: args.op.name(),
        clients: args.clients,
        connections: args.connections(),
        in_flight: args.in_flight,
        rate: args.rate,
        seconds: args.time.0.as_secs_f64(),
        value_bytes: args.value_size.0,
        keys: args.keys,
        latencies,
        errors: recorder.errors.load(Ordering::Relaxed),
        first_error: lock(&recorder.first_error).clone(),
        usage,
    })
}

/// Writes all keys.
async fn fill(clients: &[Client], args: &LoadTestArgs) -> Result<(), Failure> {
    let values = Values::new(args.value_bytes());
    let each = (FILL_BYTES / (values.size() + 32)).clamp(1, FILL_KEYS) as u64;
    let begins = (0..args.keys).step_by(usize::try_from(each).unwrap_or(1));
    let batches = begins.enumerate().map(|(at, from)| {
        let client = &clients[at % clients.len()];
        let mut rng = fastrand::Rng::with_seed(from);
        let numbers = from..(from + each).min(args.keys);
        let batch =
            numbers.fold(client.batch(), |batch, number| batch.put(key(number), values.next(&mut rng)));
        async move { batch.await.map(drop) }
    });
    let filled = stream::iter(batches).buffer_unordered(FILL_AT_ONCE).try_collect::<()>().await;
    filled.map_err(|error| Failure::failed(format!("cannot write the keys: {error}")))
}

/// Starts the workers: one task for each operation in flight.
fn operate(clients: &[Client], args: &LoadTestArgs, recorder: &Arc<Recorder>) -> JoinSet<()> {
    let count = f64::from(args.clients) * f64::from(args.in_flight);
    let mut tasks = JoinSet::new();
    let start = Instant::now();
    for (at, mut worker) in workers(clients, args).enumerate() {
        let recorder = recorder.clone();
        // Each worker has its place in the common schedule.
        let schedule = args.rate.map(|rate| {
            let each = Duration::from_secs_f64(count / f64::from(rate));
            (start + each.mul_f64(at as f64 / count), each)
        });
        tasks.spawn(async move {
            let mut due = schedule;
            while !recorder.is_over() {
                let begun = match &mut due {
                    None => Instant::now(),
                    Some((at, each)) => {
                        let now = *at;
                        sleep_until(now).await;
                        *at += *each;
                        now
                    }
                };
                let result = worker.operate().await;
                if result.is_err() {
                    // A request that is refused before it is sent never waits, and would let no other task run.
                    tokio::task::yield_now().await;
                }
                recorder.record(at, begun, Instant::now(), result);
            }
        });
    }
    tasks
}

/// Starts the watches, and one client that writes.
async fn watch(
    clients: &[Client],
    args: &LoadTestArgs,
    recorder: &Arc<Recorder>,
) -> Result<JoinSet<()>, Failure> {
    let size = args.value_bytes().max(STAMP_BYTES);
    let start = Instant::now();
    let first = clients[0].put(key(0), vec![0; size]).await;
    let after = first.map_err(|error| Failure::failed(format!("a write failed: {error}")))?.revision;
    let mut tasks = JoinSet::new();
    for watcher in 0..args.clients as usize {
        let mut events = clients[watcher % clients.len()].watch(PREFIX).after(after).stream();
        let recorder = recorder.clone();
        tasks.spawn(async move {
            while let Some(event) = events.next().await {
                let now = Instant::now();
                match event {
                    Ok(event) => {
                        let stamp = event.record.as_ref().and_then(|record| record.value.first_chunk());
                        let Some(stamp) = stamp.map(|stamp| u64::from_le_bytes(*stamp)) else { continue };
                        recorder.record(watcher, start + Duration::from_nanos(stamp), now, Ok(()));
                    }
                    Err(error) => return recorder.record(watcher, now, now, Err(error.into())),
                }
            }
        });
    }
    let (client, recorder) = (clients[0].clone(), recorder.clone());
    let (mut keys, mut rng) = (Keys::new(args), fastrand::Rng::with_seed(1));
    let each = Duration::from_secs(1) / args.rate.unwrap_or(WATCHED_RATE);
    tasks.spawn(async move {
        let mut writes = JoinSet::new();
        let mut due = Instant::now();
        while !recorder.is_over() {
            sleep_until(due).await;
            due += each;
            let stamp = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
            let mut value = vec![0; size];
            value[..STAMP_BYTES].copy_from_slice(&stamp.to_le_bytes());
            let put = client.put(key(keys.next(&mut rng)), Bytes::from(value));
            let recorder = recorder.clone();
            writes.spawn(async move {
                if let Err(error) = put.await {
                    let now = Instant::now();
                    recorder.record(0, now, now, Err(error.into()));
                }
            });
            while writes.try_join_next().is_some() {}
        }
    });
    Ok(tasks)
}

/// Reports each second, until the load is over.
async fn progress(args: &LoadTestArgs, recorder: &Recorder, json: bool) -> Result<(), Failure> {
    let shows = std::io::stderr().is_terminal() && !json;
    let whole = usize::try_from(args.time.0.as_secs()).unwrap_or(usize::MAX);
    for second in 0..whole {
        sleep_until(recorder.begin + Duration::from_secs(second as u64 + 1)).await;
        let count = recorder.seconds[second].load(Ordering::Relaxed);
        if json {
            super::report::print_second(second + 1, count)?;
        } else if shows {
            super::report::show_progress(second + 1, whole, count);
        }
    }
    sleep_until(recorder.end).await;
    if shows {
        super::report::end_progress();
    }
    Ok(())
}
