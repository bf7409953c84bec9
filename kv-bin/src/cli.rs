//! The command line: what can be typed, and which `KV_*` variable stands in for which flag.

use crate::config::{AdmissionArgs, Span, TlsArgs, Tuning, boolean, listed};
use crate::encoding::Encoding;
use crate::network::TransportKind;
use crate::reads::{GetArgs, ScanArgs};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

/// A replicated, durable, linearizable key-value store.
#[derive(Parser, Debug)]
#[command(
    name = "kv",
    version,
    after_help = "Exit codes: 0 done, 1 failed, 2 bad usage, 3 outcome unknown, 128 and the number of a signal that ended it.\n\
                  What a member or a connection needs can also be given by KV_* variables, which the help of each command \
                  names, and most of it in the file named by --config: flags win over variables, variables over the file."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,

    /// Print JSON, one object a line.
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// What to log on stderr: error, warn, info, debug, trace, or per module as in `info,kv_core=debug`.
    #[arg(long, global = true, env = "KV_LOG", value_name = "FILTER")]
    pub(crate) log: Option<String>,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Run one member of a cluster.
    Serve(Box<ServeArgs>),
    #[command(flatten)]
    Client(ClientCommand),
    /// Run many of these commands on one connection, from a prompt with history or from a script.
    Shell(ShellArgs),
    /// Show the cluster as it lives: members, throughput, latency, lag and failovers.
    Top(TopArgs),
    /// Make certificates: an authority, and by it those of members and clients.
    #[cfg(feature = "tls")]
    Certs(CertsArgs),
    /// Watch a cluster survive: a killed primary, lost messages.
    Demo(DemoArgs),
    /// Measure what things cost on this machine.
    Bench(BenchArgs),
    /// Put whole clusters through simulated faults, one run per seed.
    Sim(SimArgs),
    /// Print the script by which a shell completes what is typed after `kv`.
    Completions(CompletionsArgs),
    /// Write manual pages: one for `kv`, and one for each command.
    Man(ManArgs),
}

/// The commands that ask a cluster: each alone, or many in `kv shell`.
#[derive(Subcommand, Debug)]
pub(crate) enum ClientCommand {
    /// Store a value under a key.
    Put(PutArgs),
    /// Print the value of a key, and the end of a line.
    Get(GetArgs),
    /// Remove a key.
    Delete(DeleteArgs),
    /// List keys and values in order.
    Scan(ScanArgs),
    /// Print what changes, as it changes: a line for each, once and in order.
    Watch(WatchArgs),
    /// Do several changes and reads at once, or none of them.
    Txn(TxnArgs),
    /// Put back what `kv scan --json` has printed.
    ///
    /// Keys that are there get the values of the file, keys that are not in the file stay. Keys that expired or belonged to a lease are left
    /// out: nothing would end them.
    Load(LoadArgs),
    /// Grant, keep alive, end or show a lease, on which keys can depend.
    Lease(LeaseArgs),
    /// Run a command while holding a lock; its exit code is passed on.
    ///
    /// If a signal has ended the command, that is 128 and the signal's number, as shells have it.
    Lock(LockArgs),
    /// Show where each member stands.
    Status(StatusArgs),
}

impl ClientCommand {
    /// Where it is to find its cluster.
    pub(crate) fn connect(&mut self) -> &mut ConnectArgs {
        match self {
            Self::Put(PutArgs { connect, .. })
            | Self::Get(GetArgs { connect, .. })
            | Self::Delete(DeleteArgs { connect, .. })
            | Self::Scan(ScanArgs { connect, .. })
            | Self::Watch(WatchArgs { connect, .. })
            | Self::Txn(TxnArgs { connect, .. })
            | Self::Load(LoadArgs { connect, .. })
            | Self::Lock(LockArgs { connect, .. })
            | Self::Status(StatusArgs { connect }) => connect,
            Self::Lease(LeaseArgs { command }) => match command {
                LeaseCommand::Grant(GrantArgs { connect, .. })
                | LeaseCommand::KeepAlive(LeaseIdArgs { connect, .. })
                | LeaseCommand::Revoke(LeaseIdArgs { connect, .. })
                | LeaseCommand::Show(LeaseIdArgs { connect, .. }) => connect,
            },
        }
    }
}

#[derive(Args, Debug)]
#[command(after_help = "\
    Words are quoted as in a shell, `#` begins a comment; Tab completes commands and options. Ctrl-C ends the command that runs, \
    Ctrl-D the shell. From a file or a pipe, as in `kv shell < script`, it ends at the first command that fails, with that one's \
    exit code. What was typed is kept in $XDG_STATE_HOME/kv/history (~/.local/state/kv/history), for its owner alone to read; a line \
    that begins with a space is not.")]
pub(crate) struct ShellArgs {
    /// Do not read or write the history of what was typed.
    #[arg(long)]
    pub(crate) no_history: bool,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Args, Debug)]
#[command(after_help = "\
    `q` or Ctrl-C ends it. Latencies are those of the calls that a member answered since it was looked at before, from when it \
    had read the call; `a read from here` is what a client sees: each look reads a key once. Lag: how many entries the longest log of \
    all has that this one lacks. With --json, a line for each look.")]
pub(crate) struct TopArgs {
    /// How often to look: 100ms at the least.
    #[arg(long, value_name = "TIME", default_value = "1s")]
    pub(crate) interval: Span,
    /// Look for one interval, print what was seen, and end. So it does anyway where there is no terminal.
    #[arg(long)]
    pub(crate) once: bool,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    pub(crate) command: BenchCommand,
}

#[derive(Subcommand, Debug)]
pub(crate) enum BenchCommand {
    /// What watchers cost the member they are connected to: memory, processor time, and how soon they are told.
    Watchers(WatchersArgs),
}

#[derive(Args, Debug)]
pub(crate) struct WatchersArgs {
    /// How many watchers, each of a key of its own; a new cluster of three for each number.
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', value_parser = listed::<usize>, default_values_t = [0, 1, 1000, 10_000])]
    pub(crate) counts: Vec<usize>,
    /// Writes per second, first to keys that nobody watches, then to keys that one of them watches.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) rate: u32,
    /// How long each of them is measured: idle, and under either kind of writes.
    #[arg(long, value_name = "TIME", default_value = "15s")]
    pub(crate) time: Span,
    /// The network [default: tcp]
    #[arg(long, value_name = "TRANSPORT")]
    pub(crate) transport: Option<TransportKind>,
}

#[derive(Args, Debug)]
pub(crate) struct CompletionsArgs {
    /// The shell.
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Args, Debug)]
pub(crate) struct ManArgs {
    /// The folder for the pages, which must exist.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) out: PathBuf,
}

#[derive(Args, Debug, Default)]
pub(crate) struct ServeArgs {
    /// The configuration file; see `cluster.example.toml` for every setting.
    #[arg(long, env = "KV_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Which of the members this one is.
    #[arg(long, env = "KV_ID", value_name = "ID")]
    pub(crate) id: Option<u8>,

    /// The members, the same on each host: ID=HOST:PORT, or ID=HOST:PORT:witness, separated by commas.
    #[arg(long, env = "KV_MEMBERS", value_name = "MEMBERS", value_delimiter = ',', value_parser = listed::<String>)]
    pub(crate) members: Vec<String>,

    /// The folder for this member's data; `{id}` in it stands for the member's id [default: kv-data-{id}]
    #[arg(long, env = "KV_DATA", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,

    /// The cluster's name, the same on each host [default: kv]
    #[arg(long, env = "KV_CLUSTER", value_name = "NAME")]
    pub(crate) cluster: Option<String>,

    /// Listen on this address instead of the member's own, as in 0.0.0.0:7000.
    #[arg(long, env = "KV_LISTEN", value_name = "HOST:PORT")]
    pub(crate) listen: Option<String>,

    #[command(flatten)]
    pub(crate) tls: TlsArgs,

    #[command(flatten)]
    pub(crate) admission: AdmissionArgs,

    /// Allow addresses beyond this machine without TLS: whoever reaches the port can read and write.
    #[arg(long, env = "KV_INSECURE", value_parser = boolean, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) insecure: Option<bool>,

    /// How members and clients reach each other [default: tcp]
    #[arg(long, env = "KV_TRANSPORT", value_name = "TRANSPORT")]
    pub(crate) transport: Option<TransportKind>,

    #[command(flatten)]
    pub(crate) tuning: Tuning,

    /// Stop, and delete this folder, when standard input ends: the demo's members must not outlive it.
    #[arg(long, hide = true, value_name = "DIR")]
    pub(crate) exit_with_parent: Option<PathBuf>,

    /// Lose this share of the messages between members, in percent, for the demo.
    #[arg(long, hide = true, value_name = "PERCENT", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=50))]
    pub(crate) lose: u8,

    /// Which messages are lost follows from this number.
    #[arg(long, hide = true, value_name = "N", default_value_t = 0)]
    pub(crate) lose_seed: u64,
}

/// How a client command finds its cluster.
#[derive(Args, Debug, Default)]
pub(crate) struct ConnectArgs {
    /// A member's address; one is enough, more help when it is down. ID=HOST:PORT is where to reach that member, if the address that the
    /// members know leads nowhere from here [default: 127.0.0.1:7000]
    #[arg(long, env = "KV_ADDRESS", value_name = "[ID=]HOST:PORT", value_delimiter = ',', value_parser = listed::<String>)]
    pub(crate) address: Vec<String>,

    /// The cluster's name [default: kv]
    #[arg(long, env = "KV_CLUSTER", value_name = "NAME")]
    pub(crate) cluster: Option<String>,

    /// How the members are reached, as they were told [default: tcp]
    #[arg(long, env = "KV_TRANSPORT", value_name = "TRANSPORT")]
    pub(crate) transport: Option<TransportKind>,

    /// The cluster's configuration file, for its name, its transport and the members' addresses.
    #[arg(long, env = "KV_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) tls: TlsArgs,

    /// Which client this is, where --tls-dir holds the certificates of several.
    #[arg(long, env = "KV_TLS_NAME", value_name = "NAME")]
    pub(crate) tls_name: Option<String>,

    /// Give up after this long.
    #[arg(long, env = "KV_TIMEOUT", value_name = "TIME", default_value = "10s", value_parser = parse_timeout)]
    pub(crate) timeout: Duration,
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    let timeout = text.parse::<Span>()?.0;
    if timeout.is_zero() { Err("it must be more than zero, as in 10s".to_owned()) } else { Ok(timeout) }
}

#[derive(Args, Debug)]
pub(crate) struct PutArgs {
    /// The key.
    pub(crate) key: OsString,
    /// The value; `-` reads its bytes from standard input, as they are.
    pub(crate) value: OsString,
    /// Only if the key does not exist.
    #[arg(long, group = "guard")]
    pub(crate) if_absent: bool,
    /// Only if the key exists.
    #[arg(long, group = "guard")]
    pub(crate) if_present: bool,
    /// Only if the key was last changed at this revision.
    #[arg(long, group = "guard", value_name = "REVISION")]
    pub(crate) if_revision: Option<u64>,
    /// The key goes by itself after this long, as in 10s; without it, it stays.
    #[arg(long, value_name = "TIME")]
    pub(crate) ttl: Option<Span>,
    /// The key goes with this lease.
    #[arg(long, value_name = "LEASE")]
    pub(crate) lease: Option<u64>,
    /// Print what the key held before, too.
    #[arg(long)]
    pub(crate) previous: bool,
    #[command(flatten)]
    pub(crate) encoding: Encoding,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Args, Debug)]
pub(crate) struct DeleteArgs {
    /// The key.
    pub(crate) key: OsString,
    /// Print what the key held before, too.
    #[arg(long)]
    pub(crate) previous: bool,
    #[command(flatten)]
    pub(crate) encoding: Encoding,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Args, Debug)]
pub(crate) struct LeaseArgs {
    #[command(subcommand)]
    pub(crate) command: LeaseCommand,
}

#[derive(Subcommand, Debug)]
pub(crate) enum LeaseCommand {
    /// Make a lease, and print its number.
    Grant(GrantArgs),
    /// Have its time begin anew.
    KeepAlive(LeaseIdArgs),
    /// End it now, with its keys.
    Revoke(LeaseIdArgs),
    /// Show how it stands.
    Show(LeaseIdArgs),
}

#[derive(Args, Debug)]
pub(crate) struct GrantArgs {
    /// It ends when it was not kept alive for this long: 100ms to 30d.
    pub(crate) ttl: Span,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Args, Debug)]
pub(crate) struct LeaseIdArgs {
    /// The lease's number.
    #[arg(value_name = "LEASE")]
    pub(crate) id: u64,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Args, Debug)]
#[command(
    after_help = "Signals are passed on to the command. What it leaves behind when it ends is ended before the lock is released. (On Linux. \
Elsewhere only the command itself is ended.) If kv lock itself is killed by SIGKILL, the command runs on: guard what it does by the fencing token.

Exit codes: the command's own; 128 and the number of the signal that ended it; 126 if it cannot be executed, 127 if it is not there; 1 if the lock \
was not got or was lost."
)]
pub(crate) struct LockArgs {
    /// The lock's name: a key, which exists while the lock is held.
    pub(crate) name: OsString,
    /// What to run. The variable KV_LOCK_TOKEN holds the lock's fencing token. If the lock may be lost (its lease ends, its key is removed, or no
    /// member answers for the lock's time), the command and all that it has started are killed.
    #[arg(last = true, required = true, num_args = 1.., value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
    /// How long the lock stays with a holder that shows no life.
    #[arg(long, value_name = "TIME", default_value = "10s")]
    pub(crate) ttl: Span,
    /// Give up when somebody else has held it for this long [default: wait for ever]
    #[arg(long, value_name = "TIME")]
    pub(crate) wait: Option<Span>,
    /// What the key holds meanwhile, for others to see.
    #[arg(long, value_name = "VALUE")]
    pub(crate) value: Option<OsString>,
    #[command(flatten)]
    pub(crate) encoding: Encoding,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Args, Debug)]
pub(crate) struct WatchArgs {
    /// Only keys that begin with this.
    #[arg(default_value = "")]
    pub(crate) prefix: OsString,
    /// Begin with what was changed at this revision [default: what changes from now on]
    #[arg(long, value_name = "REVISION")]
    pub(crate) from: Option<u64>,
    /// Say what the key held before, too (with --json).
    #[arg(long)]
    pub(crate) previous: bool,
    /// End after so many changes.
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
    #[command(flatten)]
    pub(crate) encoding: Encoding,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Args, Debug)]
#[command(after_help = "The file is JSON, as in
  { \"if\":   [ { \"absent\": \"a\" }, { \"present\": \"b\" }, { \"revision\": [\"c\", 7] }, { \"value\": [\"d\", \"x\"] } ],
    \"then\": [ { \"put\": \"a\", \"value\": \"1\", \"ttl\": \"10s\" }, { \"delete\": \"b\" }, { \"add\": \"n\", \"by\": 1 } ],
    \"else\": [ { \"add\": \"misses\", \"by\": 1 }, { \"get\": \"a\" }, { \"scan\": \"b/\", \"limit\": 10 } ] }
Keys and values that are no text: `put_hex`, `value_hex`, `absent_hex` and so on, or `put_base64`, ..., each for all strings of its field, \
as in { \"put_hex\": \"00ff\", \"value_base64\": \"AP8=\" } or { \"value_hex\": [\"00ff\", \"01\"] }. \
`get` and `scan` tell what was there before. `if` and `else` may be left out. Where a condition does not hold and there is no `else`, nothing is done, and it is a failure.")]
pub(crate) struct TxnArgs {
    /// The file; `-` is standard input.
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) encoding: Encoding,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Args, Debug)]
pub(crate) struct LoadArgs {
    /// The file; `-` is standard input.
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Args, Debug)]
pub(crate) struct SimArgs {
    /// Which seeds to run: the first, and the one after the last.
    #[arg(long, value_name = "FIRST..END", default_value = "0..1000", value_parser = crate::sim::parse_seeds)]
    pub(crate) seeds: Range<u64>,

    /// Run just this seed.
    #[arg(long, value_name = "SEED", conflicts_with = "seeds")]
    pub(crate) seed: Option<u64>,

    /// With --seed: print the last events before a violation.
    #[arg(long, requires = "seed")]
    pub(crate) verbose: bool,

    /// How many events --verbose prints.
    #[arg(long, value_name = "N", default_value_t = crate::sim::EVENTS)]
    pub(crate) events: usize,

    /// Plans of months: heartbeats of 5 and 10 s, faults hours or days apart, clients that call now and then. Every heartbeat is run.
    #[arg(long, conflicts_with = "bugs")]
    pub(crate) long: bool,

    /// Run long plans, from the first seed on, until so many years have been simulated in all.
    #[arg(long, value_name = "N", conflicts_with_all = ["seed", "bugs"])]
    pub(crate) years: Option<u32>,

    /// How many seeds to run at once [default: the number of cores]
    #[arg(long, value_name = "N")]
    pub(crate) jobs: Option<usize>,

    /// Run every known-wrong variant until it is caught, and print how many of the seeds each took. One that no seed catches is put to a
    /// scripted scenario, which is named then. If one is not caught at all, it is a failure.
    #[arg(long, conflicts_with_all = ["seed", "bug"])]
    pub(crate) bugs: bool,

    /// Run a known-wrong variant, to see it caught.
    #[arg(long, hide = true, value_name = "NAME", value_parser = crate::sim::parse_bug)]
    pub(crate) bug: Option<kv_core::sim::Bug>,
}

#[cfg(feature = "tls")]
#[derive(Args, Debug)]
pub(crate) struct CertsArgs {
    /// The cluster's name [default: kv]
    #[arg(long, env = "KV_CLUSTER", value_name = "NAME")]
    pub(crate) cluster: Option<String>,

    /// The ids of the members, separated by commas [default: 0,1,2]
    #[arg(long, value_name = "IDS", value_delimiter = ',', value_parser = listed::<u8>)]
    pub(crate) members: Vec<u8>,

    /// The names of the clients, separated by commas [default: app]
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = listed::<String>)]
    pub(crate) clients: Vec<String>,

    /// The folder for the files; it is created if it does not exist.
    #[arg(long, value_name = "DIR", default_value = "certs")]
    pub(crate) out: PathBuf,

    /// For how many days the certificates are good; the authority is for ten times as many.
    #[arg(long, value_name = "N", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub(crate) days: u32,

    /// Make new certificates and keys by the authority that is in the folder, in place of all that are there, or of those
    /// that --members and --clients name. Members that run take them over by themselves.
    #[arg(long)]
    pub(crate) renew: bool,
}

#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// The network between members and client [default: tcp]
    #[arg(long, value_name = "TRANSPORT")]
    pub(crate) transport: Option<TransportKind>,
    /// Give members and client certificates, and use TLS.
    #[cfg(feature = "tls")]
    #[arg(long)]
    pub(crate) tls: bool,
    /// What to show.
    #[arg(long, value_name = "SCENARIO", default_value = "all")]
    pub(crate) scenario: Scenario,
    /// Which messages are lost follows from this number.
    #[arg(long, value_name = "N", default_value_t = 7)]
    pub(crate) seed: u64,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scenario {
    /// The primary is killed in the middle of writes.
    Crash,
    /// Requests and replies are dropped at random.
    Omission,
    /// Both, one after the other.
    All,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_option_of_serve_has_a_variable() {
        let serve = Cli::command();
        let serve = serve.find_subcommand("serve").expect("serve exists");
        for arg in serve.get_arguments().filter(|arg| !arg.is_hide_set()) {
            let name = arg.get_long().expect("serve has no positional arguments");
            if matches!(name, "help" | "json" | "version") {
                continue;
            }
            let variable = format!("KV_{}", name.replace('-', "_").to_uppercase());
            assert_eq!(arg.get_env().and_then(|env| env.to_str()), Some(variable.as_str()), "--{name}");
        }
    }
}
