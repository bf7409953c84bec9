//! `kv lease`.

use crate::cli::{GrantArgs, LeaseCommand, LeaseIdArgs};
use crate::commands::{print_either, print_line};
use crate::context::Context;
use crate::failure::{self, Failure};
use kv_core::client::{LeaseId, LeaseInfo};
use serde_json::json;

/// `kv lease`.
pub(crate) async fn lease(context: &Context, command: LeaseCommand, json: bool) -> Result<(), Failure> {
    let client = context.client().await?;
    let by_id = |id| client.lease_by_id(LeaseId::new(id));
    let (object, text) = match command {
        LeaseCommand::Grant(GrantArgs { ttl, .. }) => {
            let id = client.lease(ttl.0).detached().await?.id().get();
            (json!({ "lease": id }), id.to_string())
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
                if json {
                    print_line("null")?;
                }
                return Err(Failure::failed("the lease has ended, or never existed"));
            };
            let object = json!({ "ttl_ms": ttl_ms, "deadline_ms": deadline.get(), "keys": keys });
            (object, format!("lease {id}: {}, keys: {keys}", failure::time(ttl_ms)))
        }
    };
    print_either(json, &object, &text)
}
