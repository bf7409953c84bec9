//! `kv bench --failover`: kills the primary again and again, and measures how long no write is acknowledged.

use super::args::{LoadTestArgs, Op};
use super::lock;
use super::target::Target;
use super::workload::workers;
use crate::commands::print_line;
use crate::demo::members::Members;
use crate::demo::watch as cluster;
use crate::failure::Failure;
use crate::output::{self, Cell};
use kv_core::Client;
use serde_json::json;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// The size of the cluster, unless another one is asked for.
const MEMBERS: u8 = 3;
/// How long the load runs before each kill, and after the new primary serves.
const BEFORE: Duration = Duration::from_millis(1000);
const AFTER: Duration = Duration::from_millis(1000);
/// How long after a kill a write must be acknowledged.
const LIMIT: Duration = Duration::from_secs(30);

/// An acknowledged write: when it was acknowledged, and how long it took.
type Acknowledged = (Instant, Duration);

/// One kill.
#[derive(Debug)]
struct Kill {
    at: Instant,
    /// The longest time without an acknowledged write.
    outage: Duration,
    /// What was acknowledged around it.
    writes: Vec<Acknowledged>,
}

/// What the workers record since it was last taken.
type Log = Arc<Mutex<Vec<Acknowledged>>>;

fn take(log: &Log) -> Vec<Acknowledged> {
    std::mem::take(&mut *lock(log))
}

/// Runs it, and prints the distribution of the outages.
pub(super) async fn run(args: &LoadTestArgs, json: bool) -> Result<(), Failure> {
    let spawn = Some(args.spawn.unwrap_or(MEMBERS));
    let args = LoadTestArgs { spawn, op: Op::Put, in_flight: 1, ..args.clone() };
    if args.spawn == Some(1) {
        return Err(Failure::usage("a cluster of one has no backup: use --spawn 3 or --spawn 5"));
    }
    let target = Target::start(&args).await?;
    let clients = target.connect(&args, args.connections()).await?;
    let Target::Spawned(mut members) = target else { return Err(Failure::failed("no cluster was started")) };
    let log = Log::default();
    let (mut tasks, failed) = start_workers(&clients, &args, &log);
    let mut kills = Vec::new();
    for number in 1..=args.kills {
        let kill = one_kill(&clients[0], &mut members, &log).await;
        // It is the reason, if no write was acknowledged at all.
        if let Some(error) = lock(&failed).take() {
            return Err(Failure::failed(format!("a write failed: {error}")));
        }
        let kill = kill?;
        if json {
            print_line(&json!({ "kill": number, "outage_ms": ms(kill.outage) }).to_string())?;
        }
        kills.push(kill);
    }
    tasks.shutdown().await;
    if let (Some(file), Some(longest)) = (&args.svg, kills.iter().max_by_key(|kill| kill.outage)) {
        std::fs::write(file, draw(longest))
            .map_err(|error| Failure::failed(format!("cannot write {}: {error}", file.display())))?;
    }
    report(&args, &kills, json)
}

type FirstError = Arc<Mutex<Option<String>>>;

/// Clients that write all the time, each until its first failure.
fn start_workers(clients: &[Client], args: &LoadTestArgs, log: &Log) -> (JoinSet<()>, FirstError) {
    let (mut tasks, failed) = (JoinSet::new(), FirstError::default());
    for mut worker in workers(clients, args) {
        let (log, failed) = (log.clone(), failed.clone());
        tasks.spawn(async move {
            loop {
                let begun = Instant::now();
                if let Err(error) = worker.operate().await {
                    lock(&failed).get_or_insert_with(|| error.to_string());
                    return;
                }
                let now = Instant::now();
                lock(&log).push((now, now - begun));
            }
        });
    }
    (tasks, failed)
}

/// Kills the primary, waits for its successor, and starts it again.
async fn one_kill(client: &Client, members: &mut Members, log: &Log) -> Result<Kill, Failure> {
    let primary = cluster::primary(client).await?.id;
    take(log);
    sleep(BEFORE).await;
    let at = Instant::now();
    members.kill(primary.get());
    cluster::promoted(client, primary).await?;
    let mut writes = Vec::new();
    // The first write after the kill, and then a while more: the outage may have several parts.
    while !writes.iter().any(|(acknowledged, _)| *acknowledged > at + AFTER) {
        if at.elapsed() > LIMIT {
            return Err(Failure::failed(format!("no write was acknowledged within {LIMIT:?} after a kill")));
        }
        sleep(Duration::from_millis(20)).await;
        writes.extend(take(log));
    }
    members.start_member(primary.get()).await?;
    cluster::level(client, primary).await?;
    writes.sort_unstable();
    Ok(Kill { at, outage: longest_gap(&writes, at), writes })
}

/// The longest time without an acknowledged write that ends after `from`.
fn longest_gap(writes: &[Acknowledged], from: Instant) -> Duration {
    let gaps = writes.windows(2).filter(|pair| pair[1].0 > from).map(|pair| pair[1].0 - pair[0].0);
    gaps.max().unwrap_or_default()
}

fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}

fn report(args: &LoadTestArgs, kills: &[Kill], json: bool) -> Result<(), Failure> {
    let mut outages: Vec<Duration> = kills.iter().map(|kill| kill.outage).collect();
    outages.sort_unstable();
    // The smallest outage that at least this share of all do not exceed.
    let at = |percent: usize| outages[(outages.len() * percent).div_ceil(100).max(1) - 1];
    let transport = args.connect.transport.unwrap_or_default().name();
    let columns = [("min", at(0)), ("p50", at(50)), ("p90", at(90)), ("p99", at(99)), ("max", at(100))];
    if json {
        let mut line = json!({
            "op": "failover",
            "transport": transport,
            "members": args.spawn,
            "clients": args.clients,
            "kills": kills.len(),
        });
        for (name, outage) in columns {
            line[format!("{name}_ms")] = ms(outage).into();
        }
        return print_line(&line.to_string());
    }
    let header: Vec<&str> = ["transport", "kills"].into_iter().chain(columns.map(|(name, _)| name)).collect();
    let mut row = vec![Cell::text(transport), Cell::number(kills.len())];
    row.extend(columns.map(|(_, outage)| Cell::number(format!("{:.1} ms", ms(outage)))));
    print_line("The longest time without an acknowledged write, after SIGKILL of the primary:\n")?;
    print_line(output::table(&header, &[row]).trim_end())
}

/// Draws when each write around the kill was acknowledged, and how long it took.
fn draw(kill: &Kill) -> String {
    let title = format!(
        "Latency of acknowledged writes; the primary is killed at 0 s (outage {:.1} ms)",
        ms(kill.outage)
    );
    let after = AFTER.max(kill.outage + Duration::from_millis(200)).as_secs_f64();
    let points = kill.writes.iter().map(|(at, latency)| {
        let seconds = match at.checked_duration_since(kill.at) {
            Some(since) => since.as_secs_f64(),
            None => -(kill.at - *at).as_secs_f64(),
        };
        (seconds, *latency)
    });
    super::svg::scatter(&title, (-BEFORE.as_secs_f64(), after), points)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_after_a_kill_counts_and_not_one_before_it() {
        let start = Instant::now();
        let at = |ms: u64| (start + Duration::from_millis(ms), Duration::ZERO);
        let writes = [0, 500, 510, 530, 560].map(at);
        assert_eq!(longest_gap(&writes, at(505).0), Duration::from_millis(30));
        assert_eq!(longest_gap(&writes, at(400).0), Duration::from_millis(500), "it spans the kill");
        assert_eq!(longest_gap(&[], start), Duration::ZERO);
    }
}
