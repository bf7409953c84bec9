//! The memory of a member over keys and over connections.

use crate::Args;
use crate::cluster::{Cluster, Network};
use crate::table::Table;
use kv_peers::{Result, bench};
use std::process::Stdio;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long clients may take to connect.
const LIMIT: Duration = Duration::from_secs(60);
/// A client does a get about this often. It is closed after a minute of silence.
const GETS_PER_SECOND: &str = "1000";

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

pub(crate) async fn keys(args: &Args) -> Result<()> {
    let counts: &[u64] = if args.quick { &[10_000] } else { &[10_000, 100_000, 1_000_000, args.most_keys] };
    let mut table = Table::begin(
        "Memory over keys",
        "One member, right after all keys were written once: the memory that it uses (RSS), and the most that it has \
         used.",
        &["keys", "values of 16 bytes", "values of 100 bytes"],
    );
    for &keys in counts {
        let mut row = vec![keys.to_string()];
        for size in [16, 100] {
            let cluster = Cluster::start::<1>(&args.kv, Network::Tcp, &[]).await?;
            cluster.fill(keys, size).await?;
            let process = cluster.process(0)?;
            row.push(format!("{}, at most {}", mib(process.memory()?), mib(process.peak_memory()?)));
        }
        table.row(&row);
    }
    Ok(())
}

pub(crate) async fn connections(args: &Args) -> Result<()> {
    let counts: &[u64] = if args.quick { &[100] } else { &[100, 1000, 10_000] };
    let mut table = Table::begin(
        "Memory over connections",
        "One member with `--max-connections 20000 --max-accepts-per-second 20000`, and clients with a connection each \
         that do 1,000 gets per second together: how much memory (RSS) the member uses, and how much each connection \
         has added.",
        &["connections", "TCP", "TLS over TCP", "QUIC with certificates"],
    );
    for &count in counts {
        let mut row = vec![count.to_string()];
        for network in Network::ALL {
            row.push(match connected(args, network, count).await {
                Ok((before, memory)) => {
                    let each = memory.saturating_sub(before) as f64 / count as f64 / 1024.0;
                    format!("{}, {each:.1} KiB each", mib(memory))
                }
                Err(error) => format!("failed: {error}").replace('|', "/").replace('\n', " "),
            });
        }
        table.row(&row);
    }
    Ok(())
}

/// The memory of a member before and while this many clients are connected.
async fn connected(args: &Args, network: Network, count: u64) -> Result<(u64, u64)> {
    let flags = ["--max-connections", "20000", "--max-accepts-per-second", "20000"];
    let cluster = Cluster::start::<1>(&args.kv, network, &flags).await?;
    cluster.fill(1000, 100).await?;
    let process = cluster.process(0)?;
    let before = process.memory()?;
    let mut command = bench::kv(&args.kv);
    command.args([
        "bench",
        "--op",
        "get",
        "--no-fill",
        "--keys",
        "1000",
        "--value-size",
        "100",
        "--time",
        "1d",
    ]);
    command.args(["--clients", &count.to_string(), "--rate", GETS_PER_SECOND]).args(cluster.client());
    // It is killed when it is dropped, and ends by itself if this program is killed.
    let mut clients = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let begun = Instant::now();
    let mut most = 0;
    loop {
        let seen = cluster.status().await?;
        most = most.max(seen.first().and_then(|member| member["clients"].as_u64()).unwrap_or_default());
        // The one that asks is a client too.
        if most > count {
            break;
        }
        if clients.try_wait()?.is_some() {
            let output = clients.wait_with_output().await?;
            return Err(bench::complaint(&output.stderr).into());
        }
        if begun.elapsed() > LIMIT {
            return Err(format!("only {most} clients were connected within {LIMIT:?}").into());
        }
        sleep(Duration::from_millis(250)).await;
    }
    sleep(Duration::from_secs(args.seconds())).await;
    Ok((before, process.memory()?))
}
