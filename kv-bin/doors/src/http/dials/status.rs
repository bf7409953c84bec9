//! The status of all members as JSON: the same as `kv status --json`.

use kv_core::client::MemberReport;
use kv_core::error::{AdminError, Cause, FailureReason};
use kv_core::node::MemberStatus;
use serde_json::{Value, json};

pub(super) fn object(members: &[MemberReport]) -> Value {
    json!({ "members": members.iter().map(member).collect::<Vec<_>>() })
}

fn member(report: &MemberReport) -> Value {
    let mut object = json!({ "id": report.id.get(), "address": report.address, "role": report.role });
    let fields = match &report.status {
        Ok(status) => status_fields(status),
        Err(error) => json!({ "error": explain(error) }),
    };
    if let (Value::Object(object), Value::Object(fields)) = (&mut object, fields) {
        object.extend(fields);
    }
    object
}

/// Why a member has not reported its status, as the pages and `kv status` show it.
#[must_use]
pub fn explain(error: &AdminError) -> String {
    match error {
        AdminError::Unavailable(Cause::Failed(FailureReason::Unreachable)) => {
            "it cannot be reached".to_owned()
        }
        error => error.to_string(),
    }
}

/// What `/status` and `kv status --json` contain of the status of a member.
#[must_use]
pub fn status_fields(status: &MemberStatus) -> Value {
    json!({
        "state": status.state,
        "view": status.view.get(),
        "primary": status.primary.map(|id| id.get()),
        "head": status.head.get(),
        "commit": status.commit.get(),
        "applied": status.applied.get(),
        "revision": status.revision.get(),
        "checkpoint": status.checkpoint.get(),
        "last_failover_ms": status.last_failover_ms,
        "clients": status.load.clients,
        "watches": status.load.watches,
        "reads": status.load.reads.count(),
        "writes": status.load.writes.count(),
        "uptime_ms": status.uptime_ms,
        "version": status.version,
        "peers": status.peers.iter().map(|peer| json!({
            "id": peer.id.get(),
            "acknowledged": peer.acknowledged.get(),
            "alive": peer.alive,
        })).collect::<Vec<_>>(),
    })
}
