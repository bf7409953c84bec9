//! `kv bench watchers`: the cost of watches at one member, the primary.

use super::args::WatchersArgs;
use super::process::Process;
use crate::commands::print_line;
use crate::demo::members::{CLUSTER, COUNT, DemoPlan, Members};
use crate::demo::watch as cluster;
use crate::failure::Failure;
use crate::output::{self, Cell};
use async_trait::async_trait;
use futures::future::join_all;
use kv_core::Client;
use kv_core::client::Revision;
use kv_core::config::MemberId;
use kv_core::transport::{Connection, Lane, Listener, Peer, Transport, TransportError};
use serde_json::{Value, json};
use std::io::{self, IsTerminal as _};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

/// The number of watches on one connection. A member allows a few more.
const PER_CONNECTION: usize = 500;
/// How long to wait for the watches to be parked, and for anything else.
const LIMIT: Duration = Duration::from_secs(60);
/// How often a measurement is begun.
const ATTEMPTS: usize = 3;
/// A new cluster may still be freeing memory and flushing.
const SETTLE: Duration = Duration::from_secs(2);
/// How often writes are begun.
const TICK: Duration = Duration::from_millis(10);
/// Keys that nobody watches.
const OTHERS: u64 = 1000;

/// The cost of this number of watches.
#[derive(Debug)]
struct Row {
    watchers: usize,
    memory: u64,
    /// The memory that each watch added to the member.
    each: Option<f64>,
    idle: f64,
    unwatched: Load,
    watched: Option<Load>,
    /// The times from the start of a write to the arrival of its event, ascending.
    delays: Vec<Duration>,
}

/// What a member used under a load, and how many writes the load made.
#[derive(Clone, Copy, Debug)]
struct Load {
    share: f64,
    per_second: f64,
}

/// Prints a table, or a line of JSON for each number of watches.
pub(super) async fn run(args: &WatchersArgs, json: bool) -> Result<(), Failure> {
    let transport = args.transport.unwrap_or_default();
    let mut rows = Vec::new();
    for &count in &args.counts {
        if io::stderr().is_terminal() {
            anstream::eprintln!("{count} watchers ...");
        }
        let plan = DemoPlan { members: COUNT, transport, tls: false, seed: 1, loss: 0, log: None };
        let row = measure_on_new(&plan, args, count).await?;
        if json {
            print_line(&row.json().to_string())?;
        }
        rows.push(row);
    }
    if json { Ok(()) } else { print_line(table(&rows, args).trim_end()) }
}

/// Measures on a new cluster, so that none inherits memory from the one before. Measures again if another member has
/// become primary, because only one member is measured.
async fn measure_on_new(plan: &DemoPlan, args: &WatchersArgs, count: usize) -> Result<Row, Failure> {
    for _ in 0..ATTEMPTS {
        let members = Members::start(plan).await?;
        if let Some(row) = measure(&members, args, count).await? {
            return Ok(row);
        }
    }
    Err(Failure::failed(format!(
        "the primary changed in each of {ATTEMPTS} measurements: the machine is too busy to measure"
    )))
}

/// `None` if the primary has changed.
async fn measure(members: &Members, args: &WatchersArgs, count: usize) -> Result<Option<Row>, Failure> {
    let transport = members.transport()?;
    let writer = cluster::connect(members, &transport, 1, 1).await?.remove(0);
    let primary = cluster::formed(&writer, COUNT.into()).await?;
    let process =
        Process(members.pid(primary.id.get()).ok_or_else(|| Failure::failed("the primary is gone"))?);
    put(&writer, "warm", 0).await?;
    tokio::time::sleep(SETTLE).await;
    let before = process.memory()?;

    let start = primary.revision;
    let only = Arc::new(Only {
        inner: transport,
        address: members.addresses()[usize::from(primary.id.get())].clone(),
    });
    let (delays_out, mut delays) = mpsc::unbounded_channel();
    let clock = Instant::now();
    let watchers = watch(&only, count, start, clock, &delays_out).await?;
    in_place(&writer, primary.id, count).await?;
    tokio::time::sleep(SETTLE).await;
    let memory = process.memory()?;

    let taken = process.taken()?;
    tokio::time::sleep(args.time.0).await;
    let idle = process.share_since(taken)?;
    let unwatched = load(&writer, process, args, clock, |turn| format!("other/{}", turn % OTHERS)).await?;
    let watched = if count > 0 {
        let keys = count as u64;
        let loaded = load(&writer, process, args, clock, |turn| watched_key(turn % keys)).await?;
        in_place(&writer, primary.id, count).await?;
        Some(loaded)
    } else {
        None
    };
    if cluster::primary(&writer).await?.id != primary.id {
        return Ok(None);
    }
    drop(watchers);
    let mut all = Vec::new();
    while let Ok(delay) = delays.try_recv() {
        all.push(delay);
    }
    all.sort_unstable();
    let each = (count > 0).then(|| (memory as f64 - before as f64) / count as f64);
    Ok(Some(Row { watchers: count, memory, each, idle, unwatched, watched, delays: all }))
}

fn watched_key(number: u64) -> String {
    format!("watched/{number}")
}

/// Starts this many watches, each of a key of its own.
async fn watch(
    transport: &Arc<Only>,
    count: usize,
    start: Revision,
    clock: Instant,
    delays_out: &mpsc::UnboundedSender<Duration>,
) -> Result<JoinSet<()>, Failure> {
    let mut watchers = JoinSet::new();
    let mut client = None;
    for number in 0..count {
        let client = match &client {
            Some(client) if number % PER_CONNECTION != 0 => client,
            _ => {
                let builder =
                    Client::builder(CLUSTER).transport(transport.clone()).address(&transport.address);
                let connected = builder.name("bench").connect_timeout(LIMIT).connect().await;
                client.insert(
                    connected
                        .map_err(|error| Failure::failed(format!("a client cannot connect: {error}")))?,
                )
            }
        };
        let mut events = client.watch_key(watched_key(number as u64)).after(start).stream();
        let delays_out = delays_out.clone();
        watchers.spawn(async move {
            while let Some(Ok(event)) = events.next().await {
                let begun =
                    event.record.and_then(|record| std::str::from_utf8(&record.value).ok()?.parse().ok());
                // The value contains the time at which its write began.
                let delay = begun.map(|begun| clock.elapsed().saturating_sub(Duration::from_nanos(begun)));
                if delay.is_some_and(|delay| delays_out.send(delay).is_err()) {
                    return;
                }
            }
        });
    }
    Ok(watchers)
}

/// Waits until this many watches are parked at the member.
async fn in_place(client: &Client, member: MemberId, count: usize) -> Result<(), Failure> {
    let start = Instant::now();
    loop {
        let status = client.member_status(member).await;
        let waiting = status.map_or(0, |status| status.load.watches);
        if waiting == count as u64 {
            return Ok(());
        }
        if start.elapsed() > LIMIT {
            return Err(Failure::failed(format!(
                "{waiting} watches wait at the member after {LIMIT:?}, not {count}"
            )));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Writes at a steady rate for a while, and waits for the last write.
async fn load(
    client: &Client,
    process: Process,
    args: &WatchersArgs,
    clock: Instant,
    key: impl Fn(u64) -> String,
) -> Result<Load, Failure> {
    let (taken, began) = (process.taken()?, Instant::now());
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut turn = 0;
    let mut writes = JoinSet::new();
    while began.elapsed() < args.time.0 {
        ticks.tick().await;
        let due = began.elapsed().as_micros() * u128::from(args.rate) / 1_000_000;
        let due = u64::try_from(due).unwrap_or(u64::MAX);
        let keys: Vec<String> = (turn..due).map(&key).collect();
        turn = due.max(turn);
        let client = client.clone();
        writes.spawn(async move {
            let now = clock.elapsed().as_nanos();
            join_all(keys.iter().map(|key| put(&client, key, now)))
                .await
                .into_iter()
                .collect::<Result<Vec<()>, _>>()
        });
    }
    for ended in writes.join_all().await {
        ended?;
    }
    let per_second = turn as f64 / began.elapsed().as_secs_f64();
    Ok(Load { share: process.share_since(taken)?, per_second })
}

async fn put(client: &Client, key: &str, value: u128) -> Result<(), Failure> {
    let written = client.put(key, value.to_string()).await;
    written.map(drop).map_err(|error| Failure::failed(format!("a write failed: {error}")))
}

impl Row {
    fn delay(&self, percent: usize) -> Option<Duration> {
        let last = self.delays.len().checked_sub(1)?;
        self.delays.get(last * percent / 100).copied()
    }

    fn json(&self) -> Value {
        let ms = |percent| self.delay(percent).map(|delay| delay.as_secs_f64() * 1e3);
        json!({
            "watchers": self.watchers,
            "memory_bytes": self.memory,
            "bytes_per_watcher": self.each,
            "cpu_idle": self.idle,
            "cpu_unwatched_writes": self.unwatched.share,
            "unwatched_writes_per_s": self.unwatched.per_second,
            "cpu_watched_writes": self.watched.map(|load| load.share),
            "watched_writes_per_s": self.watched.map(|load| load.per_second),
            "events": self.delays.len(),
            "event_p50_ms": ms(50),
            "event_p99_ms": ms(99),
        })
    }

    fn cells(&self) -> Vec<Cell> {
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        let load = |load: Load| format!("{} at {:.0}/s", percent(load.share), load.per_second);
        let delay = |percent| self.delay(percent).map(|delay| format!("{:.1} ms", delay.as_secs_f64() * 1e3));
        let or_none = |text: Option<String>| Cell::number(text.unwrap_or_else(|| "-".to_owned()));
        vec![
            Cell::number(self.watchers),
            Cell::number(format!("{:.1} MiB", self.memory as f64 / f64::from(1 << 20))),
            or_none(self.each.map(|bytes| format!("{bytes:.0} B"))),
            Cell::number(percent(self.idle)),
            Cell::number(load(self.unwatched)),
            or_none(self.watched.map(load)),
            or_none(delay(50)),
            or_none(delay(99)),
        ]
    }
}

fn table(rows: &[Row], args: &WatchersArgs) -> String {
    let header =
        ["watchers", "memory", "each", "idle", "unwatched writes", "watched writes", "event p50", "p99"];
    let cells: Vec<_> = rows.iter().map(Row::cells).collect();
    let seconds = args.time.0.as_secs_f64();
    format!(
        "The primary of three, its clients on the same machine; shares of one core, over {seconds} s each.\n\n{}",
        output::table(&header, &cells)
    )
}

/// A network with only one member, so that all watches are at that member.
#[derive(Debug)]
struct Only {
    inner: Arc<dyn Transport>,
    address: String,
}

#[async_trait]
impl Transport for Only {
    async fn bind(&self, address: &str) -> Result<Box<dyn Listener>, TransportError> {
        self.inner.bind(address).await
    }

    async fn connect(&self, address: &str, lane: Lane) -> Result<Connection, TransportError> {
        if address == self.address {
            return self.inner.connect(address, lane).await;
        }
        Err(TransportError::Connect {
            address: address.to_owned(),
            source: io::ErrorKind::ConnectionRefused.into(),
        })
    }

    fn identity(&self) -> Peer {
        self.inner.identity()
    }
}
