//! The command line of `kv bench`.

use crate::config::{ConnectArgs, DurationArg, SizeArg, TransportKind, time, whole};
use crate::environment::is_typed;
use crate::failure::Failure;
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

#[derive(Args, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
    Without --rate, each client begins an operation when its last one has ended, so a slow server slows the load down too. With --rate, \
    operations begin on schedule, and each latency counts from the time at which the operation was due: waiting behind a slow one is \
    part of it.\n\n\
    Without --spawn or --failover, kv bench writes keys that begin with `bench/` to the running cluster, and leaves them there.\n\n\
    With --json, kv bench prints one line per second, and a summary as the last line. Latencies are in microseconds."
)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    pub(crate) command: Option<BenchCommand>,
    #[command(flatten)]
    pub(crate) load: LoadTestArgs,
}

#[derive(Subcommand, Debug)]
pub(crate) enum BenchCommand {
    /// Measure what watches cost a member in memory and processor time, and how soon they are notified.
    Watchers(WatchersArgs),
}

#[derive(Args, Debug)]
pub(crate) struct WatchersArgs {
    /// Measure with each of these numbers of watches, one watch per key, on a new cluster of three.
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', value_parser = whole(0..=1_000_000_usize), default_value = "0,1,1000,10000")]
    pub(crate) counts: Vec<usize>,
    /// Writes per second, first to keys without a watch, then to keys with one watch each.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = whole(1..=100_000_u32))]
    pub(crate) rate: u32,
    /// Measure each case for this long: idle, writes without watches, and writes with watches.
    #[arg(long, value_name = "TIME", default_value = "15s")]
    pub(crate) time: DurationArg,
    /// Connect members and clients by this transport [default: tcp]
    #[arg(long, value_name = "TRANSPORT")]
    pub(crate) transport: Option<TransportKind>,
}

/// A load, and the cluster to put it on.
#[derive(Args, Debug, Clone)]
pub(crate) struct LoadTestArgs {
    /// Measure this operation.
    #[arg(long, value_name = "OP", default_value = "put")]
    pub(crate) op: Op,
    /// Let this many clients work at once.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = whole(1..=100_000_u32))]
    pub(crate) clients: u32,
    /// Share this many connections among the clients [default: one for each client]
    #[arg(long, value_name = "N", value_parser = whole(1..=10_000_u32))]
    pub(crate) connections: Option<u32>,
    /// Let each client have this many operations in flight.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = whole(1..=10_000_u32))]
    pub(crate) in_flight: u32,
    /// Begin this many operations per second, all clients together [default: as many as end]
    #[arg(long, value_name = "N", value_parser = whole(1..=10_000_000_u32))]
    pub(crate) rate: Option<u32>,
    /// Measure for this long.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = time(DurationArg::ms(1)..=DurationArg::DAY))]
    pub(crate) time: DurationArg,
    /// Run the load for this long before the measurement begins.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = time(DurationArg::ms(0)..=DurationArg::DAY))]
    pub(crate) warm_up: DurationArg,
    /// Use this many different keys.
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = whole(1..=1_000_000_000_u64))]
    pub(crate) keys: u64,
    /// Choose keys by this distribution.
    #[arg(long, value_name = "DISTRIBUTION", default_value = "uniform")]
    pub(crate) distribution: Distribution,
    /// Write values of this size, incompressible: a number of bytes, or with a unit, as in 1KiB.
    #[arg(long, value_name = "SIZE", default_value = "256", value_parser = value_size)]
    pub(crate) value_size: SizeArg,
    /// Let each write set this many keys, in one transaction.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = whole(1..=1000_u32))]
    pub(crate) batch: u32,
    /// Let each scan return up to this many keys.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = whole(1..=10_000_u32))]
    pub(crate) scan_limit: u32,
    /// The share of writes in `--op mixed`, in percent.
    #[arg(long, value_name = "PERCENT", default_value_t = 10, value_parser = whole(0..=100_u8))]
    pub(crate) writes: u8,
    /// Read with this guarantee.
    #[arg(long, value_name = "MODE", default_value = "linearizable")]
    pub(crate) read: ReadMode,
    /// Do not write the keys before reads are measured: they exist.
    #[arg(long)]
    pub(crate) no_fill: bool,
    /// Start a cluster of 1, 3 or 5 members on this machine, with its data in the folder for temporary files
    /// (`TMPDIR`), and delete it afterwards.
    #[arg(long, value_name = "MEMBERS", value_parser = spawned)]
    pub(crate) spawn: Option<u8>,
    /// Kill the primary of a spawned cluster with SIGKILL again and again, and measure how long no write is
    /// acknowledged.
    #[arg(long)]
    pub(crate) failover: bool,
    /// Kill it this many times.
    #[arg(long, value_name = "N", default_value_t = 20, requires = "failover", value_parser = whole(1..=10_000_u32))]
    pub(crate) kills: u32,
    /// Draw the latencies around the longest outage into this SVG file.
    #[arg(long, value_name = "FILE", requires = "failover")]
    pub(crate) svg: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

/// The measured operation.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Op {
    /// Write a key.
    Put,
    /// Read a key.
    Get,
    /// Read or write a key: see --writes.
    Mixed,
    /// Read a range of keys: see --scan-limit.
    Scan,
    /// Watch all keys while one client writes: the time from the start of a write to its event at a watch.
    Watch,
}

impl Op {
    /// The name on the command line.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::Mixed => "mixed",
            Self::Scan => "scan",
            Self::Watch => "watch",
        }
    }

    /// Whether it reads keys that must exist.
    pub(super) const fn reads(self) -> bool {
        matches!(self, Self::Get | Self::Mixed | Self::Scan)
    }
}

/// How keys are chosen.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Distribution {
    /// Each as often as any other.
    Uniform,
    /// A few very often, as in most applications: Zipf's law with exponent 0.99.
    Zipf,
    /// One after the other.
    Sequential,
}

/// How fresh a read must be.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ReadMode {
    /// Reads everything that was acknowledged before it began.
    Linearizable,
    /// Reads the state of any member, which may be stale.
    Local,
}

/// The largest value that any cluster can be configured for.
const LARGEST: u64 = 8 << 20;

fn value_size(text: &str) -> Result<SizeArg, String> {
    let size: SizeArg = text.parse()?;
    if size.0 > LARGEST { Err("values have up to 8 MiB".to_owned()) } else { Ok(size) }
}

fn spawned(text: &str) -> Result<u8, String> {
    match text.parse() {
        Ok(members @ (1 | 3 | 5)) => Ok(members),
        _ => Err("write 1, 3 or 5".to_owned()),
    }
}

impl LoadTestArgs {
    /// Refuses options that would have no effect.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let useless = match self.op {
            _ if self.failover => {
                "--op --in-flight --rate --time --warm-up --scan-limit --writes --read --no-fill"
            }
            Op::Put => "--scan-limit --writes --read --no-fill",
            Op::Get => "--batch --scan-limit --writes",
            Op::Mixed => "--scan-limit",
            Op::Scan => "--batch --writes",
            Op::Watch => "--in-flight --batch --scan-limit --writes --read --no-fill",
        };
        let address = (self.failover || self.spawn.is_some()).then_some("--address");
        match address.into_iter().chain(useless.split(' ')).find(|option| is_typed(option)) {
            None => Ok(()),
            Some("--address") => {
                Err(Failure::usage("--spawn and --failover start a cluster: omit --address"))
            }
            Some(it) if self.failover => {
                Err(Failure::usage(format!("{it} has no effect with --failover: omit it")))
            }
            Some(it) => {
                Err(Failure::usage(format!("{it} has no effect with --op {}: omit it", self.op.name())))
            }
        }
    }

    /// The size of a value.
    pub(crate) fn value_bytes(&self) -> usize {
        usize::try_from(self.value_size.0).expect("it was parsed as at most 8 MiB")
    }

    /// The number of connections.
    pub(crate) fn connections(&self) -> u32 {
        self.connections.unwrap_or(self.clients).min(self.clients)
    }
}
