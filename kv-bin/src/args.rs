//! The arguments of the commands for operators.

use crate::config::{ConnectArgs, DurationArg, time, whole};
use crate::encoding::Encoding;
use clap::{Args, Subcommand};
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

#[derive(Subcommand, Debug)]
pub(crate) enum MemberCommand {
    /// Print the member list. `kv status` shows how far each member is.
    List(ConnectArgs),
    /// Add a member, as a standby: it follows the others without a vote. Then start it, and promote it.
    ///
    /// kv prints the command that starts the new member on its machine, with --join and an empty data folder. If it was
    /// added already, nothing is changed.
    Add(AddArgs),
    /// Give a standby a vote, as soon as it has caught up with the primary.
    Promote(PromoteArgs),
    /// Remove a member. It stops once the others go on without it. If it is the primary, another member takes over.
    Remove(IdArgs),
    /// Put a new member in the place of another one, for example of one whose disk is lost.
    ///
    /// If NEW is not in the list, kv adds it as a standby, and prints the command that starts it on its machine. As
    /// soon as it has caught up, it gets the vote of OLD, and OLD is removed, in one step. If kv is interrupted, run
    /// the same command again.
    Replace(ReplaceArgs),
    /// Tell the cluster a member's new address. Restart the member there first, with --listen.
    ///
    /// The primary makes the change only if the member answers at the new address. Later starts need no --listen.
    Address(AddressArgs),
}

#[derive(Args, Debug)]
pub(crate) struct AddArgs {
    /// The new member: an id that no member has or had, and the address at which the others and the clients reach it. A
    /// witness votes and keeps the end of the log, but no data.
    #[arg(value_name = "ID=HOST:PORT[:witness]")]
    pub(crate) member: String,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Args, Debug)]
pub(crate) struct AddressArgs {
    /// The member's id, and its new address.
    #[arg(value_name = "ID=HOST:PORT")]
    pub(crate) member: String,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Args, Debug)]
pub(crate) struct IdArgs {
    /// The member's id.
    #[arg(value_parser = whole(0..=u8::MAX))]
    pub(crate) id: u8,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Args, Debug)]
pub(crate) struct PromoteArgs {
    /// The standby's id.
    #[arg(value_parser = whole(0..=u8::MAX))]
    pub(crate) id: u8,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Args, Debug)]
pub(crate) struct ReplaceArgs {
    /// The id of the member that goes.
    #[arg(value_parser = whole(0..=u8::MAX))]
    pub(crate) old: u8,
    /// The member that comes: its id, and its address if it is not in the list yet. It has the role of OLD.
    #[arg(value_name = "NEW[=HOST:PORT]")]
    pub(crate) new: String,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Args, Debug)]
pub(crate) struct WaitArgs {
    /// Wait for this long until the standby has caught up. With 0s, fail at once if it has not.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = time(DurationArg::ms(0)..=DurationArg::ms(365 * 24 * 3600 * 1000)))]
    pub(crate) wait: DurationArg,
}

impl MemberCommand {
    /// How the command finds its cluster.
    pub(crate) const fn connect(&mut self) -> &mut ConnectArgs {
        match self {
            Self::List(connect)
            | Self::Add(AddArgs { connect, .. })
            | Self::Promote(PromoteArgs { connect, .. })
            | Self::Remove(IdArgs { connect, .. })
            | Self::Replace(ReplaceArgs { connect, .. })
            | Self::Address(AddressArgs { connect, .. }) => connect,
        }
    }
}
