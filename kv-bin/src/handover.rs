//! `kv handover`: passes the primary role to another member.

use crate::args::HandoverArgs;
use crate::commands::print_either;
use crate::context::Context;
use crate::failure::Failure;
use crate::members::{look, primary};
use kv_core::config::{MemberId, Role};
use kv_core::error::{AdminError, Cause, FailureReason};
use kv_core::node::MemberStatus;
use serde_json::json;
use std::time::{Duration, Instant};

/// The pause before the members are asked again.
const PAUSE: Duration = Duration::from_millis(20);

/// `kv handover`.
pub(crate) async fn handover(context: &Context, args: &HandoverArgs, json: bool) -> Result<(), Failure> {
    let until = Instant::now() + context.timeout();
    let client = context.client().await?;
    let members = look(client).await;
    let Some(old) = primary(&members) else { return Err(Failure::failed("no primary was found")) };
    if args.to == Some(old.id.get()) {
        return print(old, old, json);
    }
    if members.iter().filter(|seen| seen.role == Role::Data).count() == 1 {
        return Err(Failure::failed("no other member holds data: nobody can take the primary role"));
    }
    let asked = match args.to {
        Some(id) => client.handover_to(MemberId::new(id)).await,
        None => client.handover().await,
    };
    asked.map_err(explain)?;
    loop {
        let members = look(client).await;
        match primary(&members).filter(|new| new.view > old.view) {
            Some(new) if args.to.is_some_and(|id| id != new.id.get()) => {
                return Err(Failure::failed(format!(
                    "member {} took over, because the named member failed or was too slow",
                    new.id
                )));
            }
            Some(new) if new.id == old.id => {
                return Err(Failure::failed(format!(
                    "no other member took over: member {} is the primary again",
                    new.id
                )));
            }
            Some(new) => return print(old, new, json),
            None if Instant::now() > until => {
                return Err(Failure::unknown(
                    "the primary was asked to hand over, but no other member serves as primary yet; see kv status",
                ));
            }
            None => tokio::time::sleep(PAUSE).await,
        }
    }
}

fn print(old: &MemberStatus, new: &MemberStatus, json: bool) -> Result<(), Failure> {
    let (was, is, view) = (old.id.get(), new.id.get(), new.view.get());
    let object = json!({ "previous": was, "primary": is, "view": view });
    let text = if was == is {
        format!("member {is} is the primary already")
    } else {
        format!("member {is} is the primary")
    };
    print_either(json, &object, &text)
}

fn explain(error: AdminError) -> Failure {
    use FailureReason::{ConnectionLost, Overloaded, Silent};
    match &error {
        AdminError::Unavailable(Cause::Failed(Overloaded)) => Failure::failed(
            "the primary has handed over its role a few seconds ago, and keeps it now: try again in 5s",
        ),
        AdminError::Unavailable(Cause::Deadline(_) | Cause::Failed(ConnectionLost | Silent)) => {
            Failure::unknown(format!("{error}; see kv status"))
        }
        AdminError::Successor(_) => Failure::failed(format!("{error}; the primary keeps its role")),
        _ => Failure::failed(error),
    }
}
