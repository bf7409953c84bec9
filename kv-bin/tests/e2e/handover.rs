//! `kv handover`, `kv status --wait`, and what they are for: restarts of all members, one after the other.

use crate::commands::{done, json};
use crate::harness::{Cluster, refused, until};

/// The member that serves as primary, once there is one.
fn primary(cluster: &Cluster) -> u8 {
    let mut found = None;
    until("a primary", || {
        let members = done(cluster, &["members"]);
        let row = members.lines().find(|line| line.split('\t').nth(3) == Some("primary"));
        found = row.and_then(|line| line.split('\t').next()).and_then(|id| id.parse().ok());
        found.is_some()
    });
    found.expect("a primary")
}

#[test]
fn the_role_is_passed_to_the_member_that_is_named() {
    // On a busy machine, a member that is not heard for a second is not silent.
    let patient = ["--failure-timeout-min", "3s", "--failure-timeout-max", "20s"];
    let mut cluster = Cluster::start(&["data", "data", "data"], &patient);
    done(&cluster, &["put", "k", "1", "--timeout", "60s"]);
    done(&cluster, &["status", "--wait", "--timeout", "60s"]);
    let first = primary(&cluster);
    let (second, third) = ((first + 1) % 3, (first + 2) % 3);
    let already = done(&cluster, &["handover", "--to", &first.to_string()]);
    assert_eq!(already, format!("member {first} is the primary already\n"));
    refused(&cluster.run(&["handover", "--to", "9"]), 1, &["the cluster has no member 9", "keeps its role"]);
    // It skips the next one.
    let passed = json(&cluster, &["handover", "--to", &third.to_string()]);
    assert_eq!((&passed["previous"], &passed["primary"]), (&first.into(), &third.into()));
    assert_eq!(primary(&cluster), third);
    done(&cluster, &["status", "--wait", "--timeout", "60s"]);
    let text = done(&cluster, &["handover", "--to", &second.to_string()]);
    assert_eq!(text, format!("member {second} is the primary\n"));
    cluster.kill(first.into());
    until("its silence is noticed", || {
        let status = json(&cluster, &["status"]);
        let peers = status["members"][usize::from(second)]["peers"].as_array().expect("its peers").clone();
        peers.iter().any(|peer| peer["id"] == first && peer["alive"] == false)
    });
    let silent = cluster.run(&["handover", "--to", &first.to_string()]);
    refused(&silent, 1, &[&format!("has not heard from member {first}"), "keeps its role"]);
    assert_eq!(primary(&cluster), second, "it has kept the role");
    // Without a name, a member that works takes over.
    let text = done(&cluster, &["handover", "--timeout", "60s"]);
    assert_eq!(text, format!("member {third} is the primary\n"));
    assert_eq!(done(&cluster, &["get", "k"]), "1\n");
}

#[test]
fn a_witness_is_no_successor() {
    let cluster = Cluster::start(&["data", "data", "witness"], &[]);
    done(&cluster, &["put", "k", "1", "--timeout", "60s"]);
    let before = primary(&cluster);
    refused(&cluster.run(&["handover", "--to", "2"]), 1, &["member 2 is a witness", "keeps its role"]);
    assert_eq!(primary(&cluster), before);
}

#[test]
fn nobody_can_take_over_from_a_single_data_member() {
    let cluster = Cluster::start(&["data"], &[]);
    done(&cluster, &["put", "k", "1", "--timeout", "60s"]);
    refused(&cluster.run(&["handover"]), 1, &["no other member holds data"]);
}

/// As the guide tells operators to do it.
#[test]
fn all_members_are_restarted_in_turn_by_waiting_for_redundancy() {
    let mut cluster = Cluster::of_three();
    done(&cluster, &["put", "k", "0", "--timeout", "60s"]);
    for id in 0..3 {
        let table = done(&cluster, &["status", "--wait", "--timeout", "60s"]);
        assert_eq!(table.matches("backup").count(), 2, "{table}");
        assert_eq!(cluster.terminate(id).code(), Some(0));
        done(&cluster, &["put", "k", &id.to_string(), "--timeout", "60s"]);
        let early = cluster.run(&["status", "--wait", "--timeout", "500ms"]);
        refused(&early, 1, &["not redundant after 500ms", &format!("member {id}")]);
        assert!(String::from_utf8_lossy(&early.stdout).contains("no answer"), "the status is printed anyway");
        cluster.restart(id);
    }
    let status = json(&cluster, &["status", "--wait", "--timeout", "60s"]);
    let members = status["members"].as_array().expect("members");
    assert!(members.iter().all(|member| member["applied"].as_u64() >= Some(3)), "{status}");
    assert_eq!(done(&cluster, &["get", "k"]), "2\n");
}
