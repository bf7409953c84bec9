//! `kv status --wait`: waits until a member may fail, or be restarted, without harm.

use crate::commands::print_status;
use crate::context::Context;
use crate::failure::{Failure, time};
use crate::members::{Seen, look, primary};
use kv_core::config::Role;
use kv_core::node::{MemberState, Op};
use std::time::{Duration, Instant};

/// The pause before the members are asked again. A primary updates what it reports about its peers about as often.
const PAUSE: Duration = Duration::from_millis(100);

/// Waits until the cluster is redundant, and prints the status of all members.
pub(crate) async fn wait(context: &Context, json: bool) -> Result<(), Failure> {
    let limit = context.timeout();
    let until = Instant::now() + limit;
    let client = context.client().await?;
    let mut goal = None;
    loop {
        let members = look(client).await;
        let Some(obstacle) = obstacle(&members, &mut goal) else { return print_status(&members, json) };
        if Instant::now() > until {
            print_status(&members, json)?;
            let limit = time(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
            return Err(Failure::failed(format!("the cluster is not redundant after {limit}: {obstacle}")));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What keeps the cluster from being redundant; `None` if nothing does. `goal` is what every member must have: all that
/// was committed when a primary was seen first. New writes do not move it.
fn obstacle(members: &[Seen], goal: &mut Option<Op>) -> Option<String> {
    for Seen { id, status, .. } in members {
        match status {
            Err(error) => return Some(format!("no answer from member {id}: {error}")),
            Ok(status) if !matches!(status.state, MemberState::Primary | MemberState::Backup) => {
                return Some(format!("member {id} is in the state `{}`", status.state));
            }
            Ok(_) => {}
        }
    }
    let Some(primary) = primary(members) else { return Some("no member is the primary".to_owned()) };
    let goal = *goal.get_or_insert(primary.commit);
    for Seen { id, role, status, .. } in members {
        let Ok(status) = status else { continue };
        if status.view != primary.view {
            return Some(format!(
                "member {id} is in view {}, and the primary in view {}",
                status.view, primary.view
            ));
        }
        if *role == Role::Data && status.applied < goal {
            return Some(format!("member {id} lacks {} entries", goal.distance_from(status.applied)));
        }
        // A member that has just started knows its own log, but may not be connected with the primary yet.
        let follows =
            primary.peers.iter().any(|peer| peer.id == status.id && peer.alive && peer.acknowledged >= goal);
        if status.id != primary.id && !follows {
            return Some(format!("member {id} has not acknowledged to the primary what is committed"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn seen(id: u8, state: &str, change: impl FnOnce(&mut Value)) -> Seen {
        let peer = |id: u8| json!({ "id": id, "acknowledged": 100, "alive": true });
        let peers = if state == "primary" { json!([peer(1), peer(2)]) } else { json!([]) };
        let role = if id == 2 { "witness" } else { "data" };
        let mut status = json!({
            "id": id, "role": role, "state": state, "view": 3, "primary": 0, "head": 100, "commit": 100,
            "applied": 100, "revision": 0, "checkpoint": 0, "last_failover_ms": null, "peers": peers,
            "load": kv_core::node::Load::default(), "uptime_ms": 1, "version": "0.1.0",
        });
        change(&mut status);
        let role = if id == 2 { Role::Witness } else { Role::Data };
        Seen { id, role, address: String::new(), status: Ok(serde_json::from_value(status).unwrap()) }
    }

    fn three() -> Vec<Seen> {
        vec![
            seen(0, "primary", |_| {}),
            seen(1, "backup", |_| {}),
            seen(2, "backup", |it| it["applied"] = 0.into()),
        ]
    }

    #[test]
    fn a_cluster_is_redundant_when_every_member_follows_and_has_what_is_committed() {
        assert_eq!(obstacle(&three(), &mut None), None);
        let with = |id: usize, other: Seen| {
            let mut members = three();
            members[id] = other;
            obstacle(&members, &mut None).expect("it is not redundant")
        };
        let mut dead = seen(1, "backup", |_| {});
        dead.status = Err("it cannot be reached".to_owned());
        assert_eq!(with(1, dead), "no answer from member 1: it cannot be reached");
        assert_eq!(with(1, seen(1, "catching-up", |_| {})), "member 1 is in the state `catching-up`");
        assert_eq!(with(0, seen(0, "backup", |_| {})), "no member is the primary");
        let view = with(2, seen(2, "backup", |it| it["view"] = 2.into()));
        assert_eq!(view, "member 2 is in view 2, and the primary in view 3");
        assert_eq!(with(1, seen(1, "backup", |it| it["applied"] = 90.into())), "member 1 lacks 10 entries");
        for (field, value) in [("alive", Value::Bool(false)), ("acknowledged", 99.into())] {
            let primary = seen(0, "primary", |it| it["peers"][1][field] = value);
            assert_eq!(with(0, primary), "member 2 has not acknowledged to the primary what is committed");
        }
    }

    /// While clients write, no member ever has everything.
    #[test]
    fn writes_during_the_wait_do_not_prolong_it() {
        let mut goal = None;
        let mut members = three();
        members[1] = seen(1, "backup", |it| it["applied"] = 90.into());
        assert!(obstacle(&members, &mut goal).is_some());
        members[0] = seen(0, "primary", |it| {
            (it["commit"], it["head"], it["applied"]) = (500.into(), 500.into(), 500.into())
        });
        members[1] = seen(1, "backup", |it| it["applied"] = 100.into());
        assert_eq!(obstacle(&members, &mut goal), None);
        assert!(obstacle(&members, &mut None).is_some());
    }
}
