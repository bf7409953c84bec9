//! `kv member`: shows and changes the member list.

use crate::args::{IdArgs, MemberCommand, PromoteArgs, ReplaceArgs};
use crate::commands::print_either;
use crate::config::named_member;
use crate::context::Context;
use crate::failure::{self, Failure};
use crate::members::{Seen, head, lag, look};
use crate::output::{self, Cell};
use kv_core::Client;
use kv_core::client::{ListedMember, MemberChange, MemberList};
use kv_core::config::{MemberId, Role};
use kv_core::error::{AdminError, MembershipError, RefusalKind};
use serde_json::json;
use std::io::Write as _;
use std::time::{Duration, Instant};

/// The pause before a change is tried again that a standby is not ready for.
const PAUSE: Duration = Duration::from_millis(250);

/// How often progress is reported.
const INTERVAL: Duration = Duration::from_secs(1);

/// `kv member`.
pub(crate) async fn member(context: &Context, command: MemberCommand, json: bool) -> Result<(), Failure> {
    match command {
        MemberCommand::List(_) => print(&list(context).await?, json, &[]),
        MemberCommand::Add(args) => {
            let (id, address, role) = named_member(&args.member)?;
            add(context, id, address, role.unwrap_or(Role::Data), json).await
        }
        MemberCommand::Promote(PromoteArgs { id, wait, .. }) => {
            let id = MemberId::new(id);
            let before = list(context).await?;
            if find(&before, id).is_some_and(|member| !member.standby) {
                // A repeated command, of which the first has done everything.
                return print(&before, json, &[]);
            }
            let list = when_ready(context, id, MemberChange::Promote { id }, wait.wait.0, json).await?;
            print(&list, json, &[])
        }
        MemberCommand::Remove(IdArgs { id, .. }) => {
            let id = MemberId::new(id);
            let list = match context.client().await?.change_members(MemberChange::Remove { id }).await {
                Err(error @ MembershipError::Refused { kind: RefusalKind::NotReady, .. }) => {
                    let before = list(context).await?;
                    let mut left = before.members.iter().filter(|member| !member.standby && member.id != id);
                    let failure = explain(error);
                    return Err(match (left.next(), left.next()) {
                        (Some(last), None) => failure.with_hint(format!("kv handover --to {}", last.id)),
                        _ => failure.with_hint("kv status shows how far each member is"),
                    });
                }
                done => done.map_err(explain)?,
            };
            print(&list, json, &[])
        }
        MemberCommand::Replace(args) => replace(context, &args, json).await,
        MemberCommand::Address(args) => {
            let (id, address, role) = named_member(&args.member)?;
            if role.is_some() {
                return Err(Failure::usage("a member keeps its role: write ID=HOST:PORT"));
            }
            let change = MemberChange::Address { id, address: address.clone() };
            let list = match context.client().await?.change_members(change).await {
                Err(error @ MembershipError::Refused { kind: RefusalKind::NotReady, .. }) => {
                    return Err(explain(error).with_hint(format!(
                        "restart it there with its data folder and --listen {address}, then run this command again"
                    )));
                }
                done => done.map_err(explain)?,
            };
            print(&list, json, &[])
        }
    }
}

/// Adds a standby, unless it is one already.
async fn add(
    context: &Context,
    id: MemberId,
    address: String,
    role: Role,
    json: bool,
) -> Result<(), Failure> {
    let before = list(context).await?;
    let list = match find(&before, id) {
        Some(member) if member.standby && member.address == address && member.role == role => before,
        _ => {
            let change = MemberChange::Add { id, address: address.clone(), role };
            change_now(context.client().await?, change).await?
        }
    };
    let start = start_command(context, id, &address, &list)?;
    print(&list, json, &[start, format!("kv member promote {id}{}", flags(context)?)])
}

/// Replaces a member by another one, which is added first if it is not in the list.
async fn replace(context: &Context, args: &ReplaceArgs, json: bool) -> Result<(), Failure> {
    let old = MemberId::new(args.old);
    let (new, address) = match args.new.split_once('=') {
        None => {
            let id = args.new.trim().parse().map_err(|_| {
                Failure::usage(format!(
                    "{:?} is no new member: write its id and address, as in 3=10.0.0.3:7000",
                    args.new
                ))
            })?;
            (MemberId::new(id), None)
        }
        Some(_) => {
            let (id, address, role) = named_member(&args.new)?;
            if role.is_some() {
                return Err(Failure::usage("the new member has the role of the old one: write ID=HOST:PORT"));
            }
            (id, Some(address))
        }
    };
    let before = list(context).await?;
    let role = match (find(&before, old), find(&before, new)) {
        (None, Some(member)) if !member.standby => {
            // A repeated command, of which the first has done everything.
            return print(&before, json, &[]);
        }
        (None, _) => {
            return Err(Failure::refused(format!("the cluster has no member {old}: see kv member list")));
        }
        (Some(member), _) => member.role,
    };
    match (find(&before, new), address) {
        (Some(member), Some(address)) if member.address != address => {
            return Err(Failure::refused(format!(
                "member {new} is in the list with the address {}: name it without an address, or change the address with \
                 kv member address {new}={address}",
                member.address
            )));
        }
        (Some(_), _) => {}
        (None, None) => {
            return Err(Failure::refused(format!(
                "the cluster has no member {new}: write its address too, as in kv member replace {old} {new}=HOST:PORT"
            )));
        }
        (None, Some(address)) => {
            if before.members.iter().any(|member| member.address == address) {
                return Err(Failure::refused(format!(
                    "a member of the list has the address {address}: give the new member another port, or remove the other \
                     one first"
                )));
            }
            let change = MemberChange::Add { id: new, address: address.clone(), role };
            let list = change_now(context.client().await?, change).await?;
            let start = start_command(context, new, &address, &list)?;
            note(json, new, &format!("added as a standby: start it on its machine with {start}"));
        }
    }
    let list = when_ready(context, new, MemberChange::Replace { old, new }, args.wait.wait.0, json).await?;
    print(&list, json, &[])
}

/// Makes a change as soon as the standby that it gives a vote has caught up.
async fn when_ready(
    context: &Context,
    standby: MemberId,
    change: MemberChange,
    wait: Duration,
    json: bool,
) -> Result<MemberList, Failure> {
    let client = context.client().await?;
    let until = Instant::now() + wait;
    let (mut reported_at, mut reported) = (Instant::now(), String::new());
    loop {
        let reason = match client.change_members(change.clone()).await {
            Err(MembershipError::Refused { kind: RefusalKind::NotReady, reason }) => reason,
            done => return done.map_err(explain),
        };
        let progress = progress(context, &look(client).await, standby).await?;
        if Instant::now() >= until {
            let waited = match failure::time(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)) {
                _ if wait.is_zero() => String::new(),
                limit => format!(" within {limit}"),
            };
            return Err(Failure::refused(format!(
                "nothing was changed{waited}: {reason}. Member {standby} {progress}. It remains a standby: run the same command \
                 again later, or give up with kv member remove {standby}"
            )));
        }
        if reported != progress && (reported.is_empty() || reported_at.elapsed() >= INTERVAL) {
            note(json, standby, &progress);
            (reported_at, reported) = (Instant::now(), progress);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// How far a standby is.
async fn progress(context: &Context, members: &[Seen], standby: MemberId) -> Result<String, Failure> {
    let Some(seen) = members.iter().find(|seen| seen.id == standby.get()) else {
        return Ok("is not in the list".to_owned());
    };
    Ok(match &seen.status {
        Err(error) => {
            let start = start_command(context, standby, &seen.address, &list(context).await?)?;
            format!("does not answer ({error}); to start it for the first time, on its machine: {start}")
        }
        Ok(status) => {
            let head = head(members.iter());
            format!("catches up: it lacks {} of {head} entries", lag(head, status))
        }
    })
}

/// Reports progress on standard error.
fn note(json: bool, member: MemberId, text: &str) {
    // If nobody reads the progress, that is no reason to stop.
    let _ = if json {
        let line = json!({ "event": "progress", "member": member.get(), "progress": text });
        writeln!(anstream::stderr(), "{line}")
    } else {
        writeln!(anstream::stderr(), "member {member} {text}")
    };
}

async fn list(context: &Context) -> Result<MemberList, Failure> {
    context.client().await?.members().await.map_err(|error| explain(MembershipError::Unavailable(error)))
}

async fn change_now(client: &Client, change: MemberChange) -> Result<MemberList, Failure> {
    client.change_members(change).await.map_err(explain)
}

fn find(list: &MemberList, id: MemberId) -> Option<&ListedMember> {
    list.members.iter().find(|member| member.id == id)
}

fn explain(error: MembershipError) -> Failure {
    match &error {
        MembershipError::Refused { .. } => Failure::refused(error),
        MembershipError::OutcomeUnknown { .. } => Failure::unknown(format!("{error}; see kv member list")),
        MembershipError::Unavailable(AdminError::NoPrimary) => {
            Failure::failed(format!("{error}: a change of the members needs a quorum; see kv status"))
        }
        _ => Failure::failed(error),
    }
}

/// The command that starts a member which was just added.
fn start_command(
    context: &Context,
    id: MemberId,
    address: &str,
    list: &MemberList,
) -> Result<String, Failure> {
    let others = list.members.iter().filter(|member| member.id != id && !member.standby);
    let others: Vec<_> = others.map(|member| member.address.as_str()).collect();
    let flags = context.config()?.server_flags(address);
    Ok(format!("kv serve --id {id} --listen {address} --join {}{flags}", others.join(",")))
}

/// How the next command finds the cluster.
fn flags(context: &Context) -> Result<String, Failure> {
    Ok(context.config()?.client_flags())
}

fn print(list: &MemberList, json: bool, next: &[String]) -> Result<(), Failure> {
    let objects: Vec<_> = list
        .members
        .iter()
        .map(|member| {
            let ListedMember { id, address, role, standby, .. } = member;
            json!({ "id": id.get(), "address": address, "role": role, "standby": standby })
        })
        .collect();
    let mut object = json!({ "epoch": list.epoch, "settled": list.settled, "members": objects });
    let rows: Vec<_> = list
        .members
        .iter()
        .map(|member| {
            let ListedMember { id, address, role, standby, .. } = member;
            let vote = if *standby { "no" } else { "yes" };
            vec![Cell::text(id), Cell::text(role), Cell::text(vote), Cell::text(address)]
        })
        .collect();
    let mut text = output::table(&["id", "role", "vote", "address"], &rows).trim_end().to_owned();
    text.push_str(&format!("\nepoch {}", list.epoch));
    if !list.settled {
        text.push_str(": the last change is not complete yet");
    }
    if !next.is_empty() {
        object["next"] = json!(next);
        text.push_str("\n\nNext, the first on the machine of the new member, with an empty data folder:");
        next.iter().for_each(|command| text.push_str(&format!("\n  {command}")));
    }
    print_either(json, &object, &text)
}
