//! `kv touch`.

use crate::commands::{done, json};
use crate::harness::{Cluster, refused, stderr, stdout};
use std::fs;

#[test]
fn a_time_to_live_is_renewed_and_removed_without_the_value() {
    let cluster = Cluster::start(&["data"], &[]);
    done(&cluster, &["put", "k", "value", "--ttl", "1h"]);
    let before = json(&cluster, &["get", "k"]);
    let touched = json(&cluster, &["touch", "k", "--ttl", "2h"]);
    assert_eq!(touched["existed"], true);
    let after = json(&cluster, &["get", "k"]);
    assert_eq!((&after["value"], &after["version"]), (&"value".into(), &2.into()));
    assert_eq!(after["modified"], touched["revision"]);
    let hours = |record: &serde_json::Value| record["expires_ms"].as_u64().unwrap() / 3_600_000;
    assert!(hours(&after) > hours(&before), "{before} {after}");
    let revision = after["modified"].to_string();
    refused(&cluster.run(&["touch", "k", "--no-ttl", "--if-revision", "1"]), 1, &["condition", &revision]);
    assert!(done(&cluster, &["touch", "k", "--no-ttl", "--if-revision", &revision]).starts_with("revision "));
    assert_eq!(json(&cluster, &["get", "k"])["expires_ms"], serde_json::Value::Null);
    done(&cluster, &["touch", "--hex", "6b", "--ttl", "1ms"]);
    crate::harness::until("the key expires", || cluster.run(&["get", "k"]).status.code() == Some(1));
}

#[test]
fn a_touch_of_a_missing_key_fails_and_its_usage_is_checked() {
    let cluster = Cluster::start(&["data"], &[]);
    refused(&cluster.run(&["touch", "nobody", "--ttl", "1s"]), 1, &["\"nobody\" does not exist"]);
    let output = cluster.run(&["touch", "nobody", "--no-ttl", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let answer: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(answer["existed"], false);
    for life in [&[][..], &["--ttl", "1s", "--no-ttl"]] {
        let output = cluster.run(&[&["touch", "nobody"], life].concat());
        assert_eq!(output.status.code(), Some(2), "{life:?}");
        assert!(stderr(&output).contains("--no-ttl"), "{}", stderr(&output));
    }
    refused(&cluster.run(&["touch", "--hex", "0x", "--no-ttl"]), 2, &["not hex"]);
    refused(&cluster.run(&["touch", "nobody", "--ttl", "0s"]), 2, &[]);
}

#[test]
fn a_transaction_touches_keys() {
    let cluster = Cluster::start(&["data"], &[]);
    done(&cluster, &["put", "a", "1"]);
    done(&cluster, &["put", "b", "1", "--ttl", "1h"]);
    let file = cluster.folder.path().join("txn.json");
    fs::write(
        &file,
        r#"{ "then": [{ "touch": "a", "ttl": "1h" }, { "persist": "b" }, { "persist": "c" }] }"#,
    )
    .unwrap();
    let printed = done(&cluster, &["txn", file.to_str().unwrap()]);
    assert!(printed.ends_with("\ntouch\ta\ntouch\tb\ntouch\tc\tthe key does not exist\n"), "{printed}");
    assert!(json(&cluster, &["get", "a"])["expires_ms"].is_u64());
    assert_eq!(json(&cluster, &["get", "b"])["expires_ms"], serde_json::Value::Null);
    fs::write(&file, r#"{ "then": [{ "touch": "a" }] }"#).unwrap();
    refused(&cluster.run(&["txn", file.to_str().unwrap()]), 2, &["a step with `touch`", "ttl"]);
}
