//! The client commands: what they print, and how they end.

use crate::harness::{Cluster, kv, refused, run, stderr, stdout};
use std::os::unix::ffi::OsStrExt as _;

/// Runs a command that succeeds, and returns what it printed.
#[track_caller]
fn done(cluster: &Cluster, arguments: &[&str]) -> String {
    let output = cluster.run(arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", stderr(&output));
    stdout(&output)
}

/// The same, as JSON.
#[track_caller]
fn json(cluster: &Cluster, arguments: &[&str]) -> serde_json::Value {
    let text = done(cluster, &[arguments, &["--json"]].concat());
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {text:?}: {error}"))
}

#[test]
fn put_get_delete_and_scan_for_people_and_for_programs() {
    let cluster = Cluster::start(&["data"], &[]);
    assert!(done(&cluster, &["put", "fruit/apple", "red"]).starts_with("revision "));
    assert_eq!(done(&cluster, &["get", "fruit/apple"]), "red\n");
    assert_eq!(done(&cluster, &["get", "fruit/apple", "--local"]), "red\n");
    let put = json(&cluster, &["put", "fruit/plum", "blue"]);
    let get = json(&cluster, &["get", "fruit/plum"]);
    assert_eq!(get["value"], "blue");
    assert_eq!(get["version"], 1);
    assert_eq!(get["modified"], put["revision"]);
    done(&cluster, &["put", "other", "1"]);
    assert_eq!(done(&cluster, &["scan", "fruit/"]), "fruit/apple\tred\nfruit/plum\tblue\n");
    assert_eq!(done(&cluster, &["scan", "--limit", "1"]), "fruit/apple\tred\n");
    let lines = done(&cluster, &["scan", "--json"]);
    let keys: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(keys.len(), 3);
    assert_eq!(keys[2]["key"], "other");
    assert_eq!(json(&cluster, &["delete", "other"])["existed"], true);
    assert_eq!(json(&cluster, &["delete", "other"])["existed"], false);
    assert_eq!(done(&cluster, &["delete", "other"]), "the key did not exist\n");
    assert_eq!(done(&cluster, &["scan", "nothing/"]), "");
}

#[test]
fn a_key_that_does_not_exist_is_a_failure() {
    let cluster = Cluster::start(&["data"], &[]);
    refused(&cluster.run(&["get", "nobody"]), 1, &["\"nobody\" does not exist"]);
    let output = cluster.run(&["get", "nobody", "--json"]);
    assert_eq!(stdout(&output), "null\n");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn conditions_are_kept() {
    let cluster = Cluster::start(&["data"], &[]);
    refused(&cluster.run(&["put", "k", "0", "--if-present"]), 1, &["condition", "does not exist"]);
    let first = json(&cluster, &["put", "k", "1", "--if-absent"])["revision"].to_string();
    refused(&cluster.run(&["put", "k", "2", "--if-absent"]), 1, &["condition", &first]);
    let second = json(&cluster, &["put", "k", "2", "--if-revision", &first])["revision"].to_string();
    refused(&cluster.run(&["put", "k", "3", "--if-revision", &first]), 1, &["condition", &second]);
    done(&cluster, &["put", "k", "3", "--if-present"]);
    assert_eq!(json(&cluster, &["get", "k"])["version"], 3);
}

#[test]
fn keys_and_values_are_bytes() {
    let cluster = Cluster::start(&["data"], &[]);
    let odd = std::ffi::OsStr::from_bytes(b"\xff\x01");
    let output = run(kv().arg("put").arg(odd).arg(odd).args(["--address", cluster.address(0)]));
    assert!(output.status.success(), "{}", stderr(&output));
    let output = run(kv().arg("get").arg(odd).args(["--address", cluster.address(0)]));
    assert_eq!(output.stdout, b"\xff\x01\n");
    assert_eq!(json(&cluster, &["scan"])["value_hex"], "ff01");
    done(&cluster, &["put", "empty", ""]);
    assert_eq!(done(&cluster, &["get", "empty"]), "\n");
}

#[test]
fn a_key_or_value_beyond_the_limit_is_named_with_the_limit() {
    let cluster = Cluster::start(&["data"], &["--max-key-bytes", "16", "--max-value-bytes", "32"]);
    refused(&cluster.run(&["put", "a-key-of-18-bytes!", "v"]), 2, &["18 bytes", "16"]);
    refused(&cluster.run(&["put", "k", &"v".repeat(33)]), 2, &["33 bytes", "32"]);
    refused(&cluster.run(&["put", "", "v"]), 2, &["0 bytes"]);
    refused(&cluster.run(&["get", "a-key-of-18-bytes!"]), 2, &["18 bytes", "16"]);
    done(&cluster, &["put", "a-key-of-16-byte", &"v".repeat(32)]);
}

#[test]
fn status_names_every_member() {
    let mut cluster = Cluster::start(&["data", "data", "witness"], &[]);
    done(&cluster, &["put", "k", "v"]);
    let status = json(&cluster, &["status"]);
    let members = status["members"].as_array().unwrap();
    assert_eq!(members.len(), 3);
    let states = |wanted: &str| members.iter().filter(|member| member["state"] == wanted).count();
    assert_eq!((states("primary"), states("backup")), (1, 2), "{status}");
    assert_eq!(members[2]["role"], "witness");
    cluster.kill(2);
    let table = done(&cluster, &["status"]);
    assert_eq!(table.lines().count(), 4, "{table}");
    assert!(table.lines().nth(3).unwrap().contains("no answer"), "{table}");
    assert!(!table.contains('\u{1b}'), "no colours in a pipe");
}

#[test]
fn colours_are_for_those_who_want_them() {
    let cluster = Cluster::start(&["data"], &[]);
    let status = |variable: &str| {
        let mut command = kv();
        command.args(["status", "--address", cluster.address(0)]).env_remove("NO_COLOR").env(variable, "1");
        stdout(&run(&mut command))
    };
    assert!(status("CLICOLOR_FORCE").contains('\u{1b}'));
    assert!(!status("NO_COLOR").contains('\u{1b}'));
}

#[test]
fn a_client_of_another_cluster_is_refused() {
    let cluster = Cluster::start(&["data"], &[]);
    refused(&cluster.run(&["get", "k", "--cluster", "other", "--timeout", "2s"]), 1, &[cluster.address(0)]);
}

#[test]
fn a_write_whose_end_is_not_known_has_a_code_of_its_own() {
    let mut cluster = Cluster::of_three();
    done(&cluster, &["put", "k", "1"]);
    // The quorum is gone, but the one that stays takes the write in.
    let primary = json(&cluster, &["status"])["members"]
        .as_array()
        .and_then(|members| members.iter().position(|member| member["state"] == "primary"))
        .expect("a primary");
    for id in (0..3).filter(|id| *id != primary) {
        cluster.pause(id);
    }
    let output = cluster.run(&["put", "k", "2", "--timeout", "1s"]);
    refused(&output, 3, &["outcome is unknown", "read the key"]);
    for id in (0..3).filter(|id| *id != primary) {
        cluster.resume(id);
    }
    let value = done(&cluster, &["get", "k", "--timeout", "30s"]);
    assert!(value == "1\n" || value == "2\n", "{value}");
    for id in 0..3 {
        cluster.kill(id);
    }
}
