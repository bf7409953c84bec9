//! Measures how kv scales, on clusters on this machine, and prints Markdown tables. Every cluster is started for the
//! measurement, and everything it wrote is deleted afterwards.

mod cluster;
mod limits;
mod load;
mod memory;
mod network;
mod recovery;
mod table;

use clap::{Parser, ValueEnum};
use kv_peers::Result;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;
use tokio::signal::unix::{SignalKind, signal};

/// Measure how kv scales on this machine, and print Markdown tables: operations per second and the 99th percentile of
/// the latency.
#[derive(Parser, Debug)]
struct Args {
    /// Run this `kv`. Build it with --release.
    #[arg(long, value_name = "FILE", default_value = "target/release/kv")]
    kv: PathBuf,
    /// Measure each point for this many seconds, after one second of warm-up.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Measure only this.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<Curve>,
    /// The largest number of keys.
    #[arg(long, value_name = "N", default_value_t = 10_000_000)]
    most_keys: u64,
    /// Measure few and small points, for one second each, to see that everything works.
    #[arg(long)]
    quick: bool,
    /// This runs in a network namespace of its own.
    #[arg(long, hide = true)]
    inside: bool,
}

impl Args {
    const fn seconds(&self) -> u64 {
        if self.quick { 1 } else { self.seconds }
    }

    fn wants(&self, curve: Curve) -> bool {
        self.only.is_empty() || self.only.contains(&curve)
    }
}

/// What is measured, over what. Measured in this order: what takes long comes last.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Curve {
    /// Throughput and latency over the number of clients.
    Clients,
    /// Throughput and latency over the size of the values.
    Values,
    /// Throughput and latency over the number of members.
    Members,
    /// Throughput and latency over TCP, TLS and QUIC, with and without loss of packets.
    Network,
    /// Memory over connections.
    Connections,
    /// What a group cannot do.
    Limits,
    /// Restart and catch-up over the size of the data.
    Restart,
    /// Memory over keys.
    Memory,
    /// Throughput and latency over the number of keys, for uniform and for Zipf-distributed choices.
    Keys,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kv-curves: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    if args.wants(Curve::Network) && !args.inside {
        network::enter();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let (mut interrupt, mut end) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        // What is not finished is dropped: that ends its processes and deletes their folders.
        tokio::select! {
            result = measure(args) => result,
            _ = interrupt.recv() => Err("interrupted".into()),
            _ = end.recv() => Err("terminated".into()),
        }
    })
}

async fn measure(args: &Args) -> Result<()> {
    let mut failed = Vec::new();
    for curve in Curve::value_variants().iter().copied().filter(|curve| args.wants(*curve)) {
        let begun = Instant::now();
        let result = match curve {
            Curve::Clients => load::clients(args).await,
            Curve::Values => load::values(args).await,
            Curve::Keys => load::keys(args).await,
            Curve::Members => load::members(args).await,
            Curve::Network => load::network(args).await,
            Curve::Restart => recovery::restart(args).await,
            Curve::Memory => memory::keys(args).await,
            Curve::Connections => memory::connections(args).await,
            Curve::Limits => limits::limits(args).await,
        };
        eprintln!("{curve:?} took {:.0} s", begun.elapsed().as_secs_f64());
        if let Err(error) = result {
            eprintln!("{curve:?} failed: {error}");
            failed.push(curve);
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("not measured to the end: {failed:?}").into()) }
}
