//! `kv bench`: short loads. What they measure depends on the machine; what they print does not.

use crate::harness::{Cluster, kv, run, stderr, stdout};
use serde_json::Value;
use std::process::Output;

/// The lines that it has printed, of which the last one is the summary.
fn lines(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", stderr(output));
    stdout(output).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn check(summary: &Value, op: &str) {
    assert_eq!((&summary["op"], &summary["errors"]), (&op.into(), &0.into()), "{summary}");
    assert!(summary["throughput"].as_f64().is_some_and(|throughput| throughput > 0.0), "{summary}");
    let latencies = ["p50_us", "p99_us", "p999_us", "max_us"].map(|name| summary[name].as_u64().expect(name));
    assert!(latencies[0] > 0 && latencies.is_sorted(), "{summary}");
}

#[test]
fn each_operation_is_measured_on_a_running_cluster() {
    let cluster = Cluster::start(&["data"], &[]);
    for op in ["put", "get", "mixed", "scan", "watch"] {
        let load = ["bench", "--op", op, "--clients", "4", "--connections", "2", "--keys", "50"];
        let length = ["--time", "2s", "--warm-up", "0ms", "--value-size", "1KiB", "--json"];
        let lines = lines(&cluster.run(&[&load[..], &length].concat()));
        check(lines.last().expect("a summary"), op);
        assert_eq!((lines.len(), &lines[1]["second"]), (3, &2.into()));
        let summary = &lines[2];
        assert_eq!((&summary["clients"], &summary["connections"]), (&4.into(), &2.into()));
        assert!(summary["members"].is_null(), "their processes cannot be seen");
    }
    let few = ["bench", "--keys", "50", "--time", "2s", "--warm-up", "0ms", "--json"];
    for more in [
        &["--batch", "10", "--distribution", "zipf"][..],
        &["--rate", "200", "--distribution", "sequential"],
        &["--op", "get", "--read", "local", "--no-fill", "--in-flight", "8"],
    ] {
        let lines = lines(&cluster.run(&[&few[..], more].concat()));
        let throughput = lines[2]["throughput"].as_f64();
        assert!(throughput.is_some_and(|throughput| throughput > 0.0), "{lines:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_cluster_of_its_own_shows_what_its_members_use() {
    let load = ["bench", "--spawn", "3", "--clients", "4", "--time", "2s", "--warm-up", "0ms", "--json"];
    let lines = lines(&run(kv().args(load)));
    check(&lines[2], "put");
    let members = lines[2]["members"].as_array().expect("its members");
    assert_eq!(members.len(), 3);
    assert!(members.iter().all(|member| member["cpu_us_per_op"].as_f64().is_some_and(|cpu| cpu > 0.0)));
}

#[test]
fn an_outage_is_measured_and_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let picture = folder.path().join("outage.svg");
    let load = ["bench", "--failover", "--kills", "1", "--clients", "4", "--json", "--svg"];
    let lines = lines(&run(kv().args(load).arg(&picture)));
    assert_eq!((lines.len(), &lines[0]["kill"]), (2, &1.into()));
    assert_eq!((&lines[1]["op"], &lines[1]["kills"]), (&"failover".into(), &1.into()));
    let outage = lines[0]["outage_ms"].as_f64().expect("a number");
    assert!(outage > 0.0 && lines[1]["max_ms"].as_f64() == Some(outage), "{lines:?}");
    let picture = std::fs::read_to_string(picture).unwrap();
    assert!(picture.starts_with("<svg") && picture.contains("<circle"), "{picture}");
}

#[test]
fn what_cannot_be_measured_is_refused() {
    for (args, why) in [
        (&["--spawn", "2"][..], "1, 3 or 5"),
        (&["--kills", "3"], "--failover"),
        (&["--failover", "--spawn", "1"], "no backup"),
        (&["--clients", "0"], "write a whole number from 1 to 100000"),
        (&["--failover", "--op", "get"], "--op has no effect with --failover"),
        (&["--spawn", "3", "--address=127.0.0.1:1"], "omit --address"),
        (&["--op", "get", "--writes", "5"], "--writes has no effect with --op get"),
    ] {
        let output = run(kv().arg("bench").args(args));
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(why), "{args:?}: {}", stderr(&output));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn the_cost_of_watchers_is_measured_on_a_cluster_of_real_processes() {
    let measure = ["bench", "watchers", "--counts", "0,20", "--rate", "100", "--time", "300ms", "--json"];
    let output = run(kv().args(measure));
    assert!(output.status.success(), "{}", stderr(&output));
    let rows: Vec<Value> =
        stdout(&output).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(rows.len(), 2);
    assert_eq!((&rows[0]["watchers"], &rows[0]["events"]), (&0.into(), &0.into()));
    assert!(rows[1]["events"].as_u64().is_some_and(|events| events > 0), "they arrive: {}", rows[1]);
    assert!(rows[1]["event_p99_ms"].as_f64() >= rows[1]["event_p50_ms"].as_f64());
    assert!(rows[1]["memory_bytes"].as_u64().is_some_and(|bytes| bytes > 1 << 20));
}
