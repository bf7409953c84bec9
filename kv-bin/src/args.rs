//! The arguments of the commands for operators.

use crate::config::{ConnectArgs, DurationArg, whole};
use crate::encoding::Encoding;
use clap::Args;
use std::ffi::OsString;

/// The freshness of a read, and the member that answers it.
#[derive(Args, Debug)]
pub(crate) struct Freshness {
    /// Read from any member, without asking a quorum. The answer may be stale.
    #[arg(long, conflicts_with_all = ["at_least", "max_staleness"])]
    pub(crate) local: bool,
    /// Read from any member, as soon as it has this revision or a later one. Use the revision of your own write to read
    /// that write.
    #[arg(long, value_name = "REVISION", conflicts_with = "max_staleness", value_parser = whole(0..=u64::MAX))]
    pub(crate) at_least: Option<u64>,
    /// Read from any member whose state is at most this old, such as 2s or 500ms. If no backup can prove that, the
    /// primary answers.
    #[arg(long, value_name = "TIME")]
    pub(crate) max_staleness: Option<DurationArg>,
    /// Ask only this member. For a linearizable read, which is the default, it must be the primary.
    #[arg(long, value_name = "ID", value_parser = whole(0..=u8::MAX))]
    pub(crate) member: Option<u8>,
    /// Read the state at this revision. The cluster keeps a limited number of past revisions.
    #[arg(long, value_name = "REVISION", value_parser = whole(0..=u64::MAX))]
    pub(crate) revision: Option<u64>,
}

#[derive(Args, Debug)]
pub(crate) struct CountArgs {
    /// Count only keys that begin with this prefix.
    #[arg(default_value = "", conflicts_with_all = ["start", "end"])]
    pub(crate) prefix: OsString,
    /// Count only this key and the keys after it.
    #[arg(long, value_name = "KEY")]
    pub(crate) start: Option<OsString>,
    /// Count only keys before this one.
    #[arg(long, value_name = "KEY")]
    pub(crate) end: Option<OsString>,
    #[command(flatten)]
    pub(crate) freshness: Freshness,
    #[command(flatten)]
    pub(crate) encoding: Encoding,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("life").required(true))]
pub(crate) struct TouchArgs {
    /// The key.
    pub(crate) key: OsString,
    /// Remove the key this long after now, such as 10s.
    #[arg(long, value_name = "TIME", group = "life")]
    pub(crate) ttl: Option<DurationArg>,
    /// Remove the time to live, so that the key does not expire.
    #[arg(long, group = "life")]
    pub(crate) no_ttl: bool,
    /// Change the key only if it was last changed at this revision.
    #[arg(long, value_name = "REVISION", value_parser = whole(0..=u64::MAX))]
    pub(crate) if_revision: Option<u64>,
    #[command(flatten)]
    pub(crate) encoding: Encoding,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Args, Debug)]
pub(crate) struct HandoverArgs {
    /// Pass the role to this member [default: the next one that answers the primary]
    #[arg(long, value_name = "ID", value_parser = whole(0..=u8::MAX))]
    pub(crate) to: Option<u8>,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    /// Wait until every member works and has everything that was committed when the wait began, so that the next member
    /// can be restarted. If that takes longer than --timeout, print the status, and fail with exit code 1.
    #[arg(long)]
    pub(crate) wait: bool,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Args, Debug)]
pub(crate) struct CompactArgs {
    /// Drop only the history before this revision. If others write at the same time, a little more is dropped.
    #[arg(long, value_name = "REVISION", value_parser = whole(0..=u64::MAX))]
    pub(crate) revision: Option<u64>,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Args, Debug)]
#[command(
    after_help = "kv prints one JSON object per line: the records, all at one revision and in the order of the keys, and then a line such as \
{ \"event\": \"complete\", \"revision\": 7, \"keys\": 3 }. A dump without this line is incomplete. While a restore to the cluster is not \
complete, kv dump fails. Keys and values that are not text are printed in hexadecimal, in a field such as `key_hex`.

With --follow, kv goes on with every change after that revision, in order, as kv watch --json prints them. About once a second, if there were changes, a line \
with the event `complete` names a revision up to which everything has been printed. To go on later, pass it to --after."
)]
pub(crate) struct DumpArgs {
    /// Print only keys that begin with this prefix.
    #[arg(default_value = "")]
    pub(crate) prefix: OsString,
    /// Go on with every later change.
    #[arg(long)]
    pub(crate) follow: bool,
    /// Print no records, but every change after this revision.
    #[arg(long, value_name = "REVISION", requires = "follow", value_parser = whole(0..=u64::MAX))]
    pub(crate) after: Option<u64>,
    /// Exit after this many changes.
    #[arg(long, value_name = "N", requires = "follow", value_parser = whole(0..=usize::MAX))]
    pub(crate) limit: Option<usize>,
    #[command(flatten)]
    pub(crate) encoding: Encoding,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}
