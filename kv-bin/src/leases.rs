//! `kv lease`.

use crate::cli::{GrantArgs, LeaseCommand, LeaseIdArgs};
use crate::commands::{print_either, print_line, write_failure};
use crate::context::Context;
use crate::failure::Failure;
use kv_core::Client;
use kv_core::client::LeaseId;
use kv_core::client::LeaseInfo;
use kv_core::error::WriteError;
use serde_json::{Value, json};

/// `kv lease`.
pub(crate) async fn lease(context: &Context, command: LeaseCommand, json: bool) -> Result<(), Failure> {
    let client = context.client().await?;
    let done = run_command(client, &command).await;
    match done.map_err(|error| write_failure(&error))? {
        Some((object, text)) => print_either(json, &object, &text),
        None => {
            if json {
                print_line("null")?;
            }
            Err(Failure::failed("the lease has ended, or never existed"))
        }
    }
}

/// Runs the command, and returns its result as JSON and as text; `None` if the lease to show does not exist.
async fn run_command(client: &Client, command: &LeaseCommand) -> Result<Option<(Value, String)>, WriteError> {
    let by_id = |id: &u64| client.lease_by_id(LeaseId::new(*id));
    Ok(Some(match command {
        LeaseCommand::Grant(GrantArgs { ttl, .. }) => {
            let id = client.lease(ttl.0).detached().await?.id().get();
            (json!({ "lease": id }), format!("lease {id}"))
        }
        LeaseCommand::KeepAlive(LeaseIdArgs { id, .. }) => {
            by_id(id).keep_alive().await?;
            (json!({ "lease": id }), format!("lease {id} renewed"))
        }
        LeaseCommand::Revoke(LeaseIdArgs { id, .. }) => {
            let keys = by_id(id).revoke().await?;
            (json!({ "keys": keys }), format!("keys removed: {keys}"))
        }
        LeaseCommand::Show(LeaseIdArgs { id, .. }) => {
            let Some(LeaseInfo { ttl_ms, deadline, keys, .. }) = by_id(id).info().await? else {
                return Ok(None);
            };
            let object = json!({ "ttl_ms": ttl_ms, "deadline_ms": deadline.get(), "keys": keys });
            (object, format!("lease {id}: {ttl_ms} ms, keys: {keys}"))
        }
    }))
}
