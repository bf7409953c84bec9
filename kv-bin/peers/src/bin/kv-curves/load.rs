//! Throughput and latency over the load and the form of the cluster.

use crate::Args;
use crate::cluster::{Cluster, Network};
use crate::network::Loss;
use crate::table::Table;
use kv_peers::{Result, bench};
use serde_json::Value;

const OPS: [&str; 2] = ["put", "get"];
/// The keys of a load whose keys do not matter.
const KEYS: u64 = 10_000;
/// The most data that the keys of a load over value sizes hold.
const VALUES_BYTES: u64 = 64 << 20;
/// The size of the values over the number of keys, and the most of them.
const SMALL_VALUE: u64 = 100;

/// What one load needs on the command line.
fn load(args: &Args, op: &str, clients: u32, keys: u64, value_bytes: u64) -> Vec<String> {
    let seconds = args.seconds();
    let text =
        format!("--op {op} --clients {clients} --keys {keys} --value-size {value_bytes} --time {seconds}s");
    text.split(' ').map(str::to_owned).collect()
}

/// A cell of the table: what was measured, or why nothing was.
fn cell(measured: Result<Value>) -> String {
    let read = |summary: &Value| {
        let number = |name| bench::number(summary, name);
        let (errors, p99_ms) = (number("errors")?, number("p99_us")? / 1000.0);
        let errors = if errors > 0.0 { format!(", {errors:.0} errors") } else { String::new() };
        Result::Ok(format!("{:.0}/s, {p99_ms:.1} ms{errors}", number("throughput")?))
    };
    match measured.and_then(|summary| read(&summary)) {
        Ok(cell) => cell,
        Err(error) => format!("failed: {error}").replace('|', "/").replace('\n', " "),
    }
}

/// A load on a cluster that `kv bench` starts.
async fn spawned(args: &Args, members: u8, load: Vec<String>) -> String {
    let spawn = ["--spawn".to_owned(), members.to_string()];
    cell(bench::run(&args.kv, &[&spawn[..], &load].concat()).await)
}

pub(crate) async fn clients(args: &Args) -> Result<()> {
    let counts: &[u32] = if args.quick { &[1, 64] } else { &[1, 4, 16, 64, 256, 1024] };
    let mut table = Table::begin(
        "Clients",
        &format!("Three members; {KEYS} keys; values of 256 bytes. Each client has one operation in flight."),
        &["clients", "put", "get"],
    );
    for &clients in counts {
        let mut row = vec![clients.to_string()];
        for op in OPS {
            row.push(spawned(args, 3, load(args, op, clients, KEYS, 256)).await);
        }
        table.row(&row);
    }
    Ok(())
}

pub(crate) async fn values(args: &Args) -> Result<()> {
    let sizes: &[u64] = if args.quick { &[16, 64 << 10] } else { &[16, 256, 4 << 10, 64 << 10, 1 << 20] };
    let most = VALUES_BYTES >> 20;
    let mut table = Table::begin(
        "Value size",
        &format!("Three members; 64 clients; {KEYS} keys, or as many as hold {most} MiB together."),
        &["value size", "put", "get"],
    );
    for &size in sizes {
        let mut row = vec![bytes(size)];
        for op in OPS {
            row.push(spawned(args, 3, load(args, op, 64, KEYS.min(VALUES_BYTES / size), size)).await);
        }
        table.row(&row);
    }
    Ok(())
}

pub(crate) async fn keys(args: &Args) -> Result<()> {
    let counts: &[u64] =
        if args.quick { &[1000, 10_000] } else { &[1000, 100_000, 1_000_000, args.most_keys] };
    let mut table = Table::begin(
        "Keys",
        &format!(
            "Three members; 64 clients; values of {SMALL_VALUE} bytes. Measured from left to right, right after all \
             keys were written. Zipf's law has the exponent 0.99."
        ),
        &["keys", "get, uniform", "get, Zipf", "put, uniform", "put, Zipf"],
    );
    for &keys in counts {
        let cluster = Cluster::start::<3>(&args.kv, Network::Tcp, &[]).await?;
        cluster.fill(keys, SMALL_VALUE).await?;
        let mut row = vec![keys.to_string()];
        for op in ["get", "put"] {
            for distribution in ["uniform", "zipf"] {
                let mut arguments = load(args, op, 64, keys, SMALL_VALUE);
                arguments.extend(["--distribution", distribution].map(str::to_owned));
                if op == "get" {
                    arguments.push("--no-fill".to_owned());
                }
                row.push(cell(cluster.bench(&arguments).await));
            }
        }
        table.row(&row);
    }
    Ok(())
}

pub(crate) async fn members(args: &Args) -> Result<()> {
    let mut table = Table::begin(
        "Members",
        &format!(
            "64 clients; {KEYS} keys; values of 256 bytes. All members share the processors of this machine."
        ),
        &["members", "put", "get"],
    );
    for members in [1, 3, 5] {
        let mut row = vec![members.to_string()];
        for op in OPS {
            row.push(spawned(args, members, load(args, op, 64, KEYS, 256)).await);
        }
        table.row(&row);
    }
    Ok(())
}

/// Over transports and loss. Without loss only, where the machine cannot lose packets.
pub(crate) async fn network(args: &Args) -> Result<()> {
    let loss = Loss::here(args);
    let percents: &[u32] = match (&loss, args.quick) {
        (Err(_), _) => &[0],
        (Ok(_), true) => &[0, 5],
        (Ok(_), false) => &[0, 1, 5],
    };
    let how = match &loss {
        Ok(_) => "Each packet, of at most 1,500 bytes, is lost with the given probability, between members and between \
                  clients and members."
            .to_owned(),
        Err(reason) => format!("Loss was not measured: {reason}."),
    };
    let columns: Vec<String> =
        percents.iter().flat_map(|percent| OPS.map(|op| format!("{op}, {percent} % loss"))).collect();
    let header: Vec<&str> = std::iter::once("transport").chain(columns.iter().map(String::as_str)).collect();
    let mut table = Table::begin(
        "Transport and loss",
        &format!("Three members; 64 clients; {KEYS} keys; values of 256 bytes. {how}"),
        &header,
    );
    for network in Network::ALL {
        let mut row = vec![network.name().to_owned()];
        let cluster = Cluster::start::<3>(&args.kv, network, &[]).await?;
        cluster.fill(KEYS, 256).await?;
        for percent in percents {
            if let Ok(loss) = &loss {
                loss.set(*percent)?;
            }
            for op in OPS {
                let mut arguments = load(args, op, 64, KEYS, 256);
                if op == "get" {
                    arguments.push("--no-fill".to_owned());
                }
                row.push(cell(cluster.bench(&arguments).await));
            }
        }
        if let Ok(loss) = &loss {
            loss.set(0)?;
        }
        table.row(&row);
    }
    Ok(())
}

/// A size, for people.
pub(crate) fn bytes(size: u64) -> String {
    match size {
        0..1024 => format!("{size} B"),
        1024..0x10_0000 => format!("{} KiB", size >> 10),
        _ => format!("{} MiB", size >> 20),
    }
}
