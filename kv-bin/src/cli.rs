//! The command line, and the `KV_*` variables that can replace flags.

use crate::args::{
    CompactArgs, CountArgs, DumpArgs, Freshness, HandoverArgs, MemberCommand, StatusArgs, TouchArgs,
};
use crate::backup::{BackupArgs, RecoverArgs, RestoreArgs, VerifyArgs};
use crate::bench::BenchArgs;
#[cfg(feature = "tls")]
use crate::config::listed;
use crate::config::{ConnectArgs, DurationArg, ServeArgs, TransportKind, time, whole};
use crate::encoding::Encoding;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;

/// A replicated, durable, linearizable key-value store.
#[derive(Parser, Debug)]
#[command(
    name = "kv",
    version,
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 outcome unknown, 4 a change of the members was refused, 8 a member stopped \
                  and a restart does not help, 128 plus the number of the signal that ended kv.\n\
                  Most options can also be set by a KV_* variable, which the help of each command names, or in the file given by \
                  --config. An option overrides a variable, and a variable overrides the file."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: CliCommand,

    /// Print JSON, one object per line.
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Log to standard error at this level: error, warn, info, debug, trace, or per module as in `info,kv_core=debug`.
    #[arg(long, global = true, env = "KV_LOG", value_name = "FILTER")]
    pub(crate) log: Option<String>,
}

#[derive(Subcommand, Debug)]
pub(crate) enum CliCommand {
    /// Run one member of a cluster.
    Serve(Box<ServeArgs>),
    #[command(flatten)]
    Client(ClientCommand),
    /// Read a backup, or the data directory of a stopped member; check every byte of it, and print what it contains.
    Verify(VerifyArgs),
    /// Write what a stopped member has stored to a backup file: for a cluster that has lost its quorum for good.
    Recover(RecoverArgs),
    /// Run many commands on one connection, interactively or from a script.
    Shell(ShellArgs),
    /// Show members, throughput, latency, lag and failovers, updated continuously.
    Top(TopArgs),
    /// Create certificates: an authority, and certificates for members and clients.
    #[cfg(feature = "tls")]
    Certs(CertsArgs),
    /// Start a cluster, kill its primary, lose messages, and check that no write is lost or applied twice.
    Demo(DemoArgs),
    /// Put a load on a cluster, and measure throughput and latency; or kill its primary, and measure the outage.
    Bench(Box<BenchArgs>),
    /// Print a completion script for a shell.
    Completions(CompletionsArgs),
    /// Write manual pages for `kv` and for each command, and print their names.
    Man(ManArgs),
}

/// The commands that use a cluster: run individually, or many in `kv shell`.
#[derive(Subcommand, Debug)]
pub(crate) enum ClientCommand {
    /// Store a value under a key, and print the revision of the write.
    Put(PutArgs),
    /// Print the value of a key, followed by a newline.
    Get(GetArgs),
    /// Remove a key, and print the revision of the removal.
    Delete(DeleteArgs),
    /// Give a key a new time to live, or none, without changing its value; print the revision of the change.
    Touch(TouchArgs),
    /// Print keys and values in the order of the keys, one per line.
    ///
    /// Unless standard output is a terminal, keys and values are printed unchanged, even if they contain line ends. For
    /// such data, use --json, --hex or --base64.
    Scan(ScanArgs),
    /// Print the number of keys that begin with a prefix, or of a range of keys.
    Count(CountArgs),
    /// Print each change of the data as it happens, once and in order, one per line.
    Watch(WatchArgs),
    /// Run a transaction: all of its changes and reads at one revision, or none.
    Txn(TxnArgs),
    /// Print all keys and values as JSON, at one revision, and perhaps every later change.
    #[command(visible_alias = "export")]
    Dump(DumpArgs),
    /// Write back the keys and values that `kv dump` or `kv scan --json` has printed.
    ///
    /// A file is checked as a whole before anything is written. kv load may be repeated, for example after a failure.
    ///
    /// Existing keys are overwritten, and keys that are not in the file are kept. Keys that expire or belong to a lease
    /// are skipped, because nothing would remove them.
    Load(LoadArgs),
    /// Grant, renew, revoke or show a lease. A key can belong to a lease, and is removed when the lease ends.
    #[command(subcommand)]
    Lease(LeaseCommand),
    /// Wait for a lock, and run a command while holding it.
    Lock(LockArgs),
    /// Write the content of the cluster, at one revision, to a backup file.
    Backup(BackupArgs),
    /// Write a backup to a new cluster, which is empty.
    Restore(RestoreArgs),
    /// Drop the history of past revisions, and print the oldest revision that can still be read.
    ///
    /// For this, the cluster skips revisions: its newest revision grows, and no key changes. Each member refuses to
    /// read or watch dropped revisions as soon as it has applied the skip. It frees their space some seconds later or
    /// more, when it merges the files of its state; if the dropped revisions are a small part of these files, it does
    /// so in the course of later writes. On a full disk, no space is freed: each member first needs room for a
    /// checkpoint and for a step of a merge, about twice `--checkpoint-bytes`. If others write at the same time, their
    /// watches may end: they continue only if they have received every change. To spare them, keep some history with
    /// --revision.
    Compact(CompactArgs),
    /// Pass the primary role to another member, and print the new primary.
    ///
    /// The primary first completes the requests that it has received. No request fails. If no other data member can
    /// take over at once, or the member of --to cannot (it is a witness, it does not answer, or it has not caught up),
    /// kv handover fails, and the primary keeps its role. If this member fails after that, another one takes over.
    Handover(HandoverArgs),
    /// Print the role, state and progress of each member.
    Status(StatusArgs),
    /// Print a line for each member, for scripts.
    ///
    /// The columns are separated by tabs, and stay the same in later versions: id, address, role, state, lag (the
    /// number of entries of the longest log that the member has not applied), version of kv. A member that does not
    /// answer has the state `unreachable`, and `-` as its lag and version. With --json, each line is an object with
    /// these fields. `kv member list` shows which of them have a vote.
    Members(ConnectArgs),
    /// Show the member list, or change it while the cluster runs.
    #[command(subcommand)]
    Member(MemberCommand),
}

impl ClientCommand {
    /// How the command finds its cluster.
    pub(crate) fn connect(&mut self) -> &mut ConnectArgs {
        match self {
            Self::Put(PutArgs { connect, .. })
            | Self::Get(GetArgs { connect, .. })
            | Self::Delete(DeleteArgs { connect, .. })
            | Self::Touch(TouchArgs { connect, .. })
            | Self::Scan(ScanArgs { connect, .. })
            | Self::Count(CountArgs { connect, .. })
            | Self::Watch(WatchArgs { connect, .. })
            | Self::Txn(TxnArgs { connect, .. })
            | Self::Dump(DumpArgs { connect, .. })
            | Self::Load(LoadArgs { connect, .. })
            | Self::Lock(LockArgs { connect, .. })
            | Self::Compact(CompactArgs { connect, .. })
            | Self::Backup(BackupArgs { connect, .. })
            | Self::Restore(RestoreArgs { connect, .. })
            | Self::Handover(HandoverArgs { connect, .. })
            | Self::Status(StatusArgs { connect, .. })
            | Self::Members(connect) => connect,
            Self::Member(command) => command.connect(),
            Self::Lease(command) => match command {
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
    Quote words as in a shell; `#` begins a comment. Tab completes commands and options. Ctrl-C ends the running command, and Ctrl-D \
    ends the shell. If standard input is a file or a pipe, as in `kv shell < script`, the shell stops at the first command that fails, and \
    exits with the code of that command. The history is stored in $XDG_STATE_HOME/kv/history (~/.local/state/kv/history), readable only by \
    its owner. Lines that begin with a space are not stored.")]
pub(crate) struct ShellArgs {
    /// Do not read or write the history file.
    #[arg(long)]
    pub(crate) no_history: bool,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Args, Debug)]
#[command(after_help = "\
    Press `q` or Ctrl-C to quit. Latencies are measured on the member, from reading a call to answering it, over the last interval. `a read from \
    here` is the latency that a client sees: kv top reads one key per interval. Lag is the number of entries that the longest log contains \
    and this member lacks. With --json, kv top prints one line per interval.")]
pub(crate) struct TopArgs {
    /// Update this often: 100ms to 1d.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = time(DurationArg::ms(100)..=DurationArg::DAY))]
    pub(crate) interval: DurationArg,
    /// Measure for one interval, print the result and exit. This is the default if standard output is not a terminal,
    /// except with --json.
    #[arg(long)]
    pub(crate) once: bool,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Args, Debug)]
pub(crate) struct CompletionsArgs {
    /// The shell.
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Args, Debug)]
pub(crate) struct ManArgs {
    /// Write the pages to this folder, and create it if it does not exist.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) out: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct PutArgs {
    /// The key.
    pub(crate) key: OsString,
    /// The value, or `-` to read it from standard input, unchanged.
    pub(crate) value: OsString,
    /// Write only if the key does not exist.
    #[arg(long, group = "condition")]
    pub(crate) if_absent: bool,
    /// Write only if the key exists.
    #[arg(long, group = "condition")]
    pub(crate) if_present: bool,
    /// Write only if the key was last changed at this revision.
    #[arg(long, group = "condition", value_name = "REVISION", value_parser = whole(0..=u64::MAX))]
    pub(crate) if_revision: Option<u64>,
    /// Remove the key after this time, such as 10s [default: keep it]
    #[arg(long, value_name = "TIME")]
    pub(crate) ttl: Option<DurationArg>,
    /// Remove the key when this lease ends. With --ttl, the key is removed when the time is over or the lease ends,
    /// whichever comes first.
    #[arg(long, value_name = "LEASE", value_parser = whole(0..=u64::MAX))]
    pub(crate) lease: Option<u64>,
    /// Also print the previous value of the key.
    #[arg(long)]
    pub(crate) previous: bool,
    #[command(flatten)]
    pub(crate) encoding: Encoding,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Args, Debug)]
pub(crate) struct GetArgs {
    /// The key.
    pub(crate) key: OsString,
    #[command(flatten)]
    pub(crate) freshness: Freshness,
    #[command(flatten)]
    pub(crate) encoding: Encoding,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Args, Debug)]
pub(crate) struct ScanArgs {
    /// Print only keys that begin with this prefix.
    #[arg(default_value = "")]
    pub(crate) prefix: OsString,
    /// Print at most this many keys.
    #[arg(long, value_name = "N", value_parser = whole(0..=usize::MAX))]
    pub(crate) limit: Option<usize>,
    /// Print the keys in reverse order.
    #[arg(long)]
    pub(crate) reverse: bool,
    /// Print the keys without their values.
    #[arg(long)]
    pub(crate) keys_only: bool,
    #[command(flatten)]
    pub(crate) freshness: Freshness,
    #[command(flatten)]
    pub(crate) encoding: Encoding,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Args, Debug)]
pub(crate) struct DeleteArgs {
    /// The key.
    pub(crate) key: OsString,
    /// Also print the previous value of the key.
    #[arg(long)]
    pub(crate) previous: bool,
    #[command(flatten)]
    pub(crate) encoding: Encoding,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Subcommand, Debug)]
pub(crate) enum LeaseCommand {
    /// Grant a lease, and print its number.
    Grant(GrantArgs),
    /// Renew a lease: its time to live starts again.
    KeepAlive(LeaseIdArgs),
    /// End a lease now, and remove its keys.
    Revoke(LeaseIdArgs),
    /// Print the time to live of a lease and the number of its keys.
    Show(LeaseIdArgs),
}

#[derive(Args, Debug)]
pub(crate) struct GrantArgs {
    /// End the lease if it is not renewed for this long: 100ms to 30d.
    pub(crate) ttl: DurationArg,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Args, Debug)]
pub(crate) struct LeaseIdArgs {
    /// The lease's number.
    #[arg(value_name = "LEASE", value_parser = whole(0..=u64::MAX))]
    pub(crate) id: u64,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Args, Debug)]
#[command(
    after_help = "kv lock passes signals on to the command. When the command ends, kv lock kills the processes that the command has left running, and \
then releases the lock. (On Linux; on other systems it kills only the command itself.) If kv lock is killed by SIGKILL, the command continues to run: \
protect shared resources with the fencing token.

Exit codes: the exit code of the command; 128 plus the number of the signal that ended it; 126 if the command cannot be executed, 127 if it does not \
exist; 1 if kv lock did not get the lock, or lost it."
)]
pub(crate) struct LockArgs {
    /// The name of the lock. A key of this name exists while the lock is held.
    pub(crate) name: OsString,
    /// The command to run. The variable KV_LOCK_TOKEN contains the fencing token of the lock. If the lock may be lost
    /// (its lease ends, its key is removed, or no member answers for the time of --ttl), kv lock kills the command and
    /// all processes that it has started.
    #[arg(last = true, required = true, num_args = 1.., value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
    /// Release the lock if its holder does not renew it for this long.
    #[arg(long, value_name = "TIME", default_value = "10s")]
    pub(crate) ttl: DurationArg,
    /// Give up if the lock is not free within this time [default: wait forever]
    #[arg(long, value_name = "TIME")]
    pub(crate) wait: Option<DurationArg>,
    /// Store this value under the key of the lock, for others to read.
    #[arg(long, value_name = "VALUE")]
    pub(crate) value: Option<OsString>,
    #[command(flatten)]
    pub(crate) encoding: Encoding,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Args, Debug)]
pub(crate) struct WatchArgs {
    /// Print only changes of keys that begin with this prefix.
    #[arg(default_value = "")]
    pub(crate) prefix: OsString,
    /// Print changes from this revision on [default: changes from now on]
    #[arg(long, value_name = "REVISION", value_parser = whole(0..=u64::MAX))]
    pub(crate) from: Option<u64>,
    /// Also print the previous value of the key (with --json).
    #[arg(long)]
    pub(crate) previous: bool,
    /// Exit after this many changes.
    #[arg(long, value_name = "N", value_parser = whole(0..=usize::MAX))]
    pub(crate) limit: Option<usize>,
    #[command(flatten)]
    pub(crate) encoding: Encoding,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Args, Debug)]
#[command(after_help = "The file is JSON, as in
  { \"if\":   [ { \"absent\": \"a\" }, { \"present\": \"b\" }, { \"revision\": [\"c\", 7] }, { \"value\": [\"d\", \"x\"] } ],
    \"then\": [ { \"put\": \"a\", \"value\": \"1\", \"ttl\": \"10s\" }, { \"delete\": \"b\" }, { \"add\": \"n\", \"by\": 1 },
              { \"touch\": \"c\", \"ttl\": \"10s\" }, { \"persist\": \"d\" } ],
    \"else\": [ { \"add\": \"misses\", \"by\": 1 }, { \"get\": \"a\" }, { \"scan\": \"b/\", \"limit\": 10 } ] }
If all conditions of `if` hold, kv runs the steps of `then`, otherwise those of `else`. `if` and `else` are optional. If a condition does not hold and \
there is no `else`, kv changes nothing and exits with code 1. `touch` gives a key a new time to live, and `persist` removes it. `get` and `scan` read the state before the transaction.

kv prints the revision, and then a line for each step: the kind, the key, and the result if there is one, separated by tabs. The result of `add` \
is the sum, that of `get` the value, and that of `scan` the number of keys; the keys and values follow, each on a line that begins with a tab.

For keys and values that are not text, append `_hex` or `_base64` to the name of a field, as in { \"put_hex\": \"00ff\", \"value_base64\": \"AP8=\" } or \
{ \"value_hex\": [\"00ff\", \"01\"] }.")]
pub(crate) struct TxnArgs {
    /// The file, or `-` for standard input.
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) encoding: Encoding,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Args, Debug)]
pub(crate) struct LoadArgs {
    /// The file, or `-` for standard input.
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[cfg(feature = "tls")]
#[derive(Args, Debug)]
pub(crate) struct CertsArgs {
    /// The name of the cluster [default: kv]
    #[arg(long, env = "KV_CLUSTER", value_name = "NAME")]
    pub(crate) cluster: Option<String>,

    /// The ids of the members to create certificates for, separated by commas [default: 0,1,2]
    #[arg(long, value_name = "IDS", value_delimiter = ',', value_parser = whole(0..=u8::MAX))]
    pub(crate) members: Vec<u8>,

    /// The names of the clients to create certificates for, separated by commas [default: app]
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = listed)]
    pub(crate) clients: Vec<String>,

    /// Write the files to this folder, and create it if it does not exist.
    #[arg(long, value_name = "DIR", default_value = "certs")]
    pub(crate) out: PathBuf,

    /// Days until the certificates expire. The certificate of the authority is valid ten times as long.
    #[arg(long, value_name = "N", default_value_t = 365, value_parser = whole(1..=3650_u32))]
    pub(crate) days: u32,

    /// Replace the certificates and keys in the folder by new ones of the same authority: all of them, or those that
    /// --members and --clients name. Running members reload them without a restart.
    #[arg(long)]
    pub(crate) renew: bool,
}

#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// Connect members and clients by this transport [default: tcp]
    #[arg(long, value_name = "TRANSPORT")]
    pub(crate) transport: Option<TransportKind>,
    /// Use TLS, with new certificates for members and clients.
    #[cfg(feature = "tls")]
    #[arg(long)]
    pub(crate) tls: bool,
    /// Run only this part.
    #[arg(long, value_name = "SCENARIO", default_value = "all")]
    pub(crate) scenario: Scenario,
    /// Choose the lost messages by this random seed.
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = whole(0..=u64::MAX))]
    pub(crate) seed: u64,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scenario {
    /// Kill the primary in the middle of writes.
    Crash,
    /// Drop requests and replies at random.
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

    /// clap finds out only when a value is used.
    #[test]
    fn numbers_have_the_types_of_their_fields() {
        for line in
            ["serve --id 1", "demo", "bench --connections 1 --rate 1", "bench watchers", "scan --limit 1"]
        {
            Cli::try_parse_from(["kv"].into_iter().chain(line.split(' '))).expect(line);
        }
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
