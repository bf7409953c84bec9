//! The JSON gateway of etcd v3.

mod cluster;
mod compare;
mod json;
mod lease;
mod lock;
mod messages;
mod plan;
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
    TransferLeadership,
    Authenticate,
    /// A call of etcd that kv does not offer, and why.
    NotOffered(&'static str),
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
            "maintenance/transfer-leadership" => Self::TransferLeadership,
            "auth/authenticate" => Self::Authenticate,
            "lease/leases" | "kv/lease/leases" => Self::NotOffered("kv does not list its leases"),
            "cluster/member/add"
            | "cluster/member/remove"
            | "cluster/member/update"
            | "cluster/member/promote" => {
                Self::NotOffered("the members of a cluster of kv are changed with kv member")
            }
            "maintenance/snapshot" => {
                Self::NotOffered("a snapshot of kv has a form of its own: use kv backup")
            }
            "maintenance/defragment" => Self::NotOffered("kv returns the space of removed data on its own"),
            "maintenance/alarm" => {
                Self::NotOffered("kv has no alarms: see the log and the status of its members")
            }
            "maintenance/hash" | "maintenance/downgrade" => {
                Self::NotOffered("this call of etcd is not offered")
            }
            path if path.starts_with("auth/") => Self::NotOffered("kv has no users and roles of etcd"),
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
        Call::LeaseTimeToLive => lease::time_to_live(door, body, share).await,
        Call::Watch => watch::run(door, body).await,
        Call::Lock => lock::lock(door, body).await,
        Call::Unlock => lock::unlock(door, body).await,
        Call::Campaign => lock::campaign(door, body).await,
        Call::Leader => lock::leader(door, body, share).await,
        Call::Proclaim => lock::proclaim(door, body).await,
        Call::Resign => lock::resign(door, body).await,
        Call::Observe => lock::observe(door, body).await,
        Call::MemberList => cluster::members(door, host).await,
        Call::Status => cluster::status(door).await,
        Call::TransferLeadership => cluster::transfer_leadership(door, body).await,
        Call::Authenticate => Err(cluster::no_authentication()),
        Call::NotOffered(why) => Err(Failure::not_offered(why)),
    }
}
