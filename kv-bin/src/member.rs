//! `kv member`: shows and changes the member list.

use crate::commands::print_either;
use crate::config::{ConnectArgs, whole};
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{self, Cell};
use clap::{Args, Subcommand};
use kv_core::client::{ListedMember, MemberChange, MemberList};
use kv_core::config::{MemberId, Role};
use kv_core::error::MembershipError;
use serde_json::json;

#[derive(Subcommand, Debug)]
pub(crate) enum MemberCommand {
    /// Print the member list.
    List(ConnectArgs),
    /// Add a member, as a standby: it follows the others without a vote.
    ///
    /// Then start it with --join and an empty data folder.
    Add(AddArgs),
    /// Give a standby a vote. It must have caught up with the primary.
    Promote(IdArgs),
    /// Remove a member. It stops as soon as it learns of this.
    Remove(IdArgs),
    /// Remove a member, and give its vote to a standby, in one step. The standby must have caught up with the primary.
    Replace(ReplaceArgs),
    /// Give a member another address.
    Address(AddressArgs),
}

#[derive(Args, Debug)]
pub(crate) struct AddArgs {
    #[command(flatten)]
    place: AddressArgs,
    /// The member votes and keeps the end of the log, but no data.
    #[arg(long)]
    witness: bool,
}

#[derive(Args, Debug)]
pub(crate) struct AddressArgs {
    /// The member's id. A new member needs one that no member has or had.
    #[arg(value_parser = whole(0..=u8::MAX))]
    id: u8,
    /// The address at which the other members and the clients reach it.
    #[arg(value_name = "HOST:PORT")]
    place: String,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Args, Debug)]
pub(crate) struct IdArgs {
    /// The member's id.
    #[arg(value_parser = whole(0..=u8::MAX))]
    id: u8,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Args, Debug)]
pub(crate) struct ReplaceArgs {
    /// The id of the member that goes.
    #[arg(value_parser = whole(0..=u8::MAX))]
    old: u8,
    /// The id of the standby that gets its vote.
    #[arg(value_parser = whole(0..=u8::MAX))]
    new: u8,
    #[command(flatten)]
    connect: ConnectArgs,
}

impl MemberCommand {
    /// How the command finds its cluster.
    pub(crate) const fn connect(&mut self) -> &mut ConnectArgs {
        match self {
            Self::List(connect)
            | Self::Add(AddArgs { place: AddressArgs { connect, .. }, .. })
            | Self::Promote(IdArgs { connect, .. })
            | Self::Remove(IdArgs { connect, .. })
            | Self::Replace(ReplaceArgs { connect, .. })
            | Self::Address(AddressArgs { connect, .. }) => connect,
        }
    }
}

/// `kv member`.
pub(crate) async fn member(context: &Context, command: MemberCommand, json: bool) -> Result<(), Failure> {
    let id = MemberId::new;
    let change = match command {
        MemberCommand::List(_) => None,
        MemberCommand::Add(AddArgs { place: AddressArgs { id: new, place, .. }, witness }) => {
            let role = if witness { Role::Witness } else { Role::Data };
            Some(MemberChange::Add { id: id(new), address: place, role })
        }
        MemberCommand::Promote(IdArgs { id: standby, .. }) => Some(MemberChange::Promote { id: id(standby) }),
        MemberCommand::Remove(IdArgs { id: gone, .. }) => Some(MemberChange::Remove { id: id(gone) }),
        MemberCommand::Replace(ReplaceArgs { old, new, .. }) => {
            Some(MemberChange::Replace { old: id(old), new: id(new) })
        }
        MemberCommand::Address(AddressArgs { id: moved, place, .. }) => {
            Some(MemberChange::Address { id: id(moved), address: place })
        }
    };
    let client = context.client().await?;
    let list = match change {
        None => client.members().await.map_err(Failure::failed)?,
        Some(change) => client.change_members(change).await.map_err(|error| match error {
            MembershipError::OutcomeUnknown { .. } => Failure::unknown(format!("{error} (kv member list)")),
            error => Failure::failed(error),
        })?,
    };
    print(&list, json)
}

fn print(list: &MemberList, json: bool) -> Result<(), Failure> {
    let vote = |member: &ListedMember| if member.standby { "standby" } else { "vote" };
    let objects: Vec<_> = list
        .members
        .iter()
        .map(|member| {
            let ListedMember { id, address, role, standby, .. } = member;
            json!({ "id": id.get(), "address": address, "role": role, "standby": standby })
        })
        .collect();
    let object = json!({ "changes": list.epoch, "settled": list.settled, "members": objects });
    let rows: Vec<_> = list
        .members
        .iter()
        .map(|member| {
            let ListedMember { id, address, role, .. } = member;
            vec![Cell::text(id), Cell::text(role), Cell::text(vote(member)), Cell::text(address)]
        })
        .collect();
    print_either(json, &object, output::table(&["id", "role", "vote", "address"], &rows).trim_end())
}
