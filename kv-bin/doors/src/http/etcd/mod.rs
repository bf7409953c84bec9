//! The JSON gateway of etcd v3.

mod cluster;
mod compare;
mod json;
mod lease;
mod lock;
mod messages;
mod range;
mod span;
mod txn;
mod watch;
mod write;

pub(super) use cluster::{health, version};

use super::door::Door;
use super::errors::Failure;
use super::respond::Response;
use crate::memory::Share;
use std::sync::Arc;

/// The calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Call {
    Range,
    Put,
    DeleteRange,
    Txn,
    Compaction,
    LeaseGrant,
    LeaseRevoke,
    LeaseKeepAlive,
    LeaseTimeToLive,
    LeaseList,
    Watch,
    Lock,
    Unlock,
    Campaign,
    Leader,
    Proclaim,
    Resign,
    Observe,
    MemberList,
    Status,
    Authenticate,
}

impl Call {
    /// The call at this path.
    pub(super) fn find(path: &str) -> Option<Self> {
        Some(match path.strip_prefix("/v3/")? {
            "kv/range" => Self::Range,
            "kv/put" => Self::Put,
            "kv/deleterange" => Self::DeleteRange,
            "kv/txn" => Self::Txn,
            "kv/compaction" => Self::Compaction,
            "lease/grant" => Self::LeaseGrant,
            // etcd serves some calls at two paths.
            "lease/revoke" | "kv/lease/revoke" => Self::LeaseRevoke,
            "lease/keepalive" => Self::LeaseKeepAlive,
            "lease/timetolive" | "kv/lease/timetolive" => Self::LeaseTimeToLive,
            "lease/leases" | "kv/lease/leases" => Self::LeaseList,
            "watch" => Self::Watch,
            "lock/lock" => Self::Lock,
            "lock/unlock" => Self::Unlock,
            "election/campaign" => Self::Campaign,
            "election/leader" => Self::Leader,
            "election/proclaim" => Self::Proclaim,
            "election/resign" => Self::Resign,
            "election/observe" => Self::Observe,
            "cluster/member/list" => Self::MemberList,
            "maintenance/status" => Self::Status,
            "auth/authenticate" => Self::Authenticate,
            _ => return None,
        })
    }
}

/// Runs a call. The memory of its body is counted in `share`. `host` is the address by which the client has reached
/// this server.
pub(super) async fn run(
    door: &Arc<Door>,
    call: Call,
    body: &[u8],
    share: Share,
    host: Option<&str>,
) -> Result<Response, Failure> {
    match call {
        Call::Range => range::run(door, body, share).await,
        Call::Put => write::put(door, body, share).await,
        Call::DeleteRange => write::delete_range(door, body, share).await,
        Call::Txn => txn::run(door, body, share).await,
        Call::Compaction => write::compaction(door, body).await,
        Call::LeaseGrant => lease::grant(door, body).await,
        Call::LeaseRevoke => lease::revoke(door, body).await,
        Call::LeaseKeepAlive => lease::keep_alive(door, body).await,
        Call::LeaseTimeToLive => lease::time_to_live(door, body).await,
        Call::LeaseList => Err(lease::list()),
        Call::Watch => watch::run(door, body).await,
        Call::Lock => lock::lock(door, body).await,
        Call::Unlock => lock::unlock(door, body).await,
        Call::Campaign => lock::campaign(door, body).await,
        Call::Leader => lock::leader(door, body).await,
        Call::Proclaim => lock::proclaim(door, body).await,
        Call::Resign => lock::resign(door, body).await,
        Call::Observe => lock::observe(door, body).await,
        Call::MemberList => cluster::members(door, host).await,
        Call::Status => cluster::status(door).await,
        Call::Authenticate => Err(cluster::no_authentication()),
    }
}
