//! `/version`, `/health`, and the calls about members.

use super::super::door::Door;
use super::super::errors::{Code, Failure};
use super::super::respond::{self, Response};
use super::json::{Unsigned, is_default, number, parse};
use super::messages::{Done, Header};
use hyper::StatusCode;
use kv_core::client::Revision;
use kv_core::config::{MemberId, Role};
use kv_core::error::AdminError;
use kv_core::node::MemberStatus;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::time::Duration;

/// The version of etcd whose gateway a door follows. Clients choose paths and features by it.
const ETCD_VERSION: &str = "3.5.0";
/// How long the answer to `/health` may take.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);

impl Door {
    /// The header of an answer at this revision, or else at the newest one that is known here.
    pub(super) fn header(&self, revision: Option<Revision>) -> Header {
        let known = self.known_revision(revision.unwrap_or_default());
        Header {
            cluster_id: self.cluster_id(),
            member_id: self.node.as_ref().map_or(0, |node| self.member_id(node.id())),
            revision: revision.unwrap_or(known).get(),
            raft_term: self.known_view(0),
        }
    }

    /// The header of an answer at the newest revision that is known here, which is at least this one.
    pub(super) fn header_since(&self, least: Revision) -> Header {
        self.header(Some(self.known_revision(least)))
    }

    /// The id that etcd would give to the cluster: a hash of its name (FNV-1a).
    fn cluster_id(&self) -> u64 {
        let bytes = self.options.cluster.bytes();
        bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
    }

    /// The id that etcd would give to a member: its last byte is the id of the member in kv.
    fn member_id(&self, member: MemberId) -> u64 {
        // It is not zero, which etcd does not use.
        ((self.cluster_id() | 1 << 63) & !0xff) | u64::from(member.get())
    }
}

pub(in super::super) fn version() -> Response {
    let version = json!({
        "etcdserver": ETCD_VERSION,
        "etcdcluster": ETCD_VERSION,
        "kv": env!("CARGO_PKG_VERSION"),
    });
    respond::json(StatusCode::OK, &version)
}

/// Whether the cluster answers reads. With `serializable=true`, any member may answer.
pub(in super::super) async fn health(door: &Door, query: Option<&str>) -> Response {
    let read = door.client.get("health").deadline(HEALTH_TIMEOUT);
    let is_local = query.is_some_and(|query| query.split('&').any(|part| part == "serializable=true"));
    match if is_local { read.local().await } else { read.await } {
        Ok(_) => respond::json(StatusCode::OK, &json!({"health": "true", "reason": ""})),
        Err(error) => {
            let body = json!({"health": "false", "reason": error.to_string()});
            respond::json(StatusCode::SERVICE_UNAVAILABLE, &body)
        }
    }
}

#[derive(Serialize, Debug)]
struct Member {
    #[serde(rename = "ID", serialize_with = "number")]
    id: u64,
    name: String,
    #[serde(rename = "peerURLs")]
    peer_urls: Vec<String>,
    #[serde(rename = "clientURLs", skip_serializing_if = "Vec::is_empty")]
    client_urls: Vec<String>,
}

#[derive(Serialize, Debug)]
struct Members {
    header: Header,
    members: Vec<Member>,
}

/// All members. The address of this member's door is the one by which the client has reached it, if no other is known.
pub(super) async fn members(door: &Door, host: Option<&str>) -> Result<Response, Failure> {
    let known = match door.members.get() {
        Some(known) => known,
        None => {
            let reports = door.client.cluster_status().await;
            let members = reports.into_iter().map(|report| (report.id, report.role, report.address));
            door.members.get_or_init(|| members.collect())
        }
    };
    let own = door.node.as_ref().map(|node| node.id());
    let members = known.iter().map(|(id, role, address)| {
        let configured = door.options.doors.iter().find(|(door, _)| *door == id.get());
        let reached = host.filter(|_| own == Some(*id));
        let address_of_door = configured.map(|(_, address)| address.as_str()).or(reached);
        Member {
            id: door.member_id(*id),
            name: if *role == Role::Witness { format!("{id} (witness)") } else { id.to_string() },
            peer_urls: vec![format!("kv://{address}")],
            client_urls: address_of_door.map(|address| format!("http://{address}")).into_iter().collect(),
        }
    });
    let members = Members { header: door.header(None), members: members.collect() };
    Ok(respond::json(StatusCode::OK, &members))
}

#[derive(Serialize, Debug)]
struct StatusResponse {
    header: Header,
    version: &'static str,
    /// Left out if no primary is known.
    #[serde(serialize_with = "number", skip_serializing_if = "is_default")]
    leader: u64,
    #[serde(rename = "raftIndex", serialize_with = "number")]
    index: u64,
    #[serde(rename = "raftTerm", serialize_with = "number")]
    term: u64,
    #[serde(rename = "raftAppliedIndex", serialize_with = "number")]
    applied: u64,
}

/// The status of this member or, without one, of the primary.
pub(super) async fn status(door: &Door) -> Result<Response, Failure> {
    let status = match &door.node {
        Some(node) => node.status(),
        None => primary(door).await?,
    };
    let term = door.known_view(status.view.get());
    let response = StatusResponse {
        header: door.header(None),
        version: ETCD_VERSION,
        leader: status.primary.map_or(0, |primary| door.member_id(primary)),
        index: status.commit.get(),
        term,
        applied: status.applied.get(),
    };
    Ok(respond::json(StatusCode::OK, &response))
}

async fn primary(door: &Door) -> Result<MemberStatus, Failure> {
    let reports = door.client.cluster_status().await;
    let answers = reports.into_iter().filter_map(|report| report.status.ok());
    let primary = answers.filter(|status| status.primary == Some(status.id)).max_by_key(|status| status.view);
    primary.ok_or_else(|| Failure::new(Code::Unavailable, AdminError::NoPrimary.to_string()))
}

#[derive(Deserialize, Debug, Default)]
#[serde(default)]
struct TransferRequest {
    /// A `uint64`, which may be greater than any `int64`.
    #[serde(rename = "targetID", alias = "target_id")]
    target: Unsigned,
}

/// Makes another member the primary.
pub(super) async fn transfer_leadership(door: &Door, body: &[u8]) -> Result<Response, Failure> {
    let request: TransferRequest = parse(body)?;
    let [member, ..] = request.target.0.to_le_bytes();
    let member = MemberId::new(member);
    if door.member_id(member) != request.target.0 {
        return Err(Failure::new(Code::NotFound, "etcdserver: member not found"));
    }
    door.client.handover_to(member).await.map_err(|error| {
        let code = match &error {
            AdminError::Successor(_) => Code::FailedPrecondition,
            AdminError::UnknownMember(_) => Code::NotFound,
            _ => Code::Unavailable,
        };
        Failure::new(code, error.to_string())
    })?;
    Ok(respond::json(StatusCode::OK, &Done { header: door.header(None) }))
}

pub(super) fn no_authentication() -> Failure {
    Failure::new(Code::FailedPrecondition, "etcdserver: authentication is not enabled")
}
