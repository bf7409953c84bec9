//! The pages that are asked by programs which start, restart or route to a member: each is a status and one line.

use kv_core::Node;
use kv_core::config::Role;
use kv_core::node::{MemberState, MemberStatus, Op};

/// A primary whose state lacks more committed entries than this is not ready. A backup that lacks so much reports that
/// it is catching up.
const MAX_LAG: u64 = 10_000;

/// Whether the member runs. If not, only a restart helps. A member without a quorum runs.
pub(super) async fn live(node: &Node) -> Result<String, String> {
    if node.is_responsive().await {
        Ok("ok".to_owned())
    } else {
        Err("the member has stopped or does not respond: restart it, and look at its log".to_owned())
    }
}

/// Whether the member can serve clients.
pub(super) fn ready(status: &MemberStatus) -> Result<String, String> {
    let lag = status.commit.distance_from(status.applied);
    match (status.state, status.primary) {
        (MemberState::Forming, _) => {
            Err("forming: the first start of a cluster needs all of its members".to_owned())
        }
        (MemberState::Damaged, _) => {
            Err("the log is damaged, and is being repaired from other members".to_owned())
        }
        (MemberState::CatchingUp, _) => {
            Err("catching up: this member lacks entries or its state, or has not heard from the primary yet"
                .to_owned())
        }
        (MemberState::ViewChange, _) => Err("the members are choosing a primary".to_owned()),
        (_, None) => Err("no primary serves".to_owned()),
        (MemberState::Primary | MemberState::Backup, Some(_))
            if status.role == Role::Data && (lag > MAX_LAG || (lag > 0 && status.applied == Op::ZERO)) =>
        {
            Err(format!("catching up: {lag} committed entries are not in the state yet"))
        }
        (MemberState::Primary, _) => Ok("ok: this member is the primary".to_owned()),
        (_, Some(primary)) => Ok(format!("ok: member {primary} is the primary")),
    }
}

/// Whether the member is the primary.
pub(super) fn primary(status: &MemberStatus) -> Result<String, String> {
    match (status.state, status.primary) {
        (MemberState::Primary, _) => Ok("ok: this member is the primary".to_owned()),
        (_, Some(primary)) => Err(format!("member {primary} is the primary")),
        (_, None) => Err("no primary serves".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status(state: &str, primary: Option<u8>, commit: u64, applied: u64, role: &str) -> MemberStatus {
        let latencies = json!({ "buckets": [] });
        serde_json::from_value(json!({
            "id": 1, "role": role, "state": state, "view": 3, "primary": primary, "head": commit, "commit": commit,
            "applied": applied, "revision": 0, "checkpoint": 0, "last_failover_ms": null, "peers": [],
            "load": { "clients": 0, "watches": 0, "reads": latencies, "writes": latencies }, "uptime_ms": 1,
            "version": "0.1.0",
        }))
        .unwrap()
    }

    #[test]
    fn a_member_is_ready_if_it_knows_a_primary_and_keeps_up() {
        for (state, primary, commit, applied, role, is_ready) in [
            ("primary", Some(1), 50_000, 49_000, "data", true),
            ("backup", Some(0), 50_000, 50_000, "data", true),
            ("backup", Some(0), 50_000, 0, "data", false),
            ("primary", Some(1), 50_000, 0, "data", false),
            ("primary", Some(1), 50, 0, "data", false),
            ("backup", Some(0), 50_000, 50_000, "witness", true),
            ("backup", None, 50_000, 50_000, "data", false),
            ("forming", None, 0, 0, "data", false),
            ("view-change", None, 5, 5, "data", false),
            ("catching-up", Some(0), 5, 5, "data", false),
            ("damaged", Some(0), 5, 5, "data", false),
        ] {
            let found = ready(&status(state, primary, commit, applied, role));
            assert_eq!(found.is_ok(), is_ready, "{state} {found:?}");
        }
    }

    #[test]
    fn only_the_primary_is_the_primary() {
        assert!(primary(&status("primary", Some(1), 1, 1, "data")).is_ok());
        let backup = primary(&status("backup", Some(0), 1, 1, "data"));
        assert_eq!(backup, Err("member 0 is the primary".to_owned()));
        assert!(primary(&status("view-change", None, 1, 1, "data")).is_err());
    }
}
