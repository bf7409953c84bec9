//! `kv top`, without a terminal: one frame (on a terminal it shows the same again and again); and `kv bench`.

use crate::harness::{Cluster, kv, run, stderr, stdout};

#[test]
fn a_frame_shows_members_and_their_load() {
    let mut cluster = Cluster::start(&["data", "data", "witness"], &[]);
    assert!(cluster.run(&["put", "k", "v"]).status.success());
    cluster.kill(2);
    let output = cluster.run(&["top", "--interval", "300ms"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let frame = stdout(&output);
    assert!(frame.starts_with("cluster kv: 2 of 3 members answer, primary "), "{frame}");
    let down = frame.lines().find(|line| line.starts_with("2   witness")).expect("its row");
    assert!(down.contains("no answer: it cannot be reached"), "{frame}");
    assert!(!frame.contains('\u{1b}'), "no colours in a pipe");
    let output = cluster.run(&["top", "--once", "--json", "--interval", "1s"]);
    let seen: serde_json::Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    let reads = |member: &serde_json::Value| member["reads_per_s"].as_f64().unwrap_or_default();
    let total: f64 = seen["members"].as_array().expect("members").iter().map(reads).sum();
    assert!(total > 0.0 && seen["read_ms"].as_f64().is_some(), "it reads to see how long that takes: {seen}");
}

#[cfg(target_os = "linux")]
#[test]
fn the_cost_of_watchers_is_measured_on_a_cluster_of_real_processes() {
    let measure = ["bench", "watchers", "--counts", "0,20", "--rate", "100", "--time", "300ms", "--json"];
    let output = run(kv().args(measure));
    assert!(output.status.success(), "{}", stderr(&output));
    let rows: Vec<serde_json::Value> =
        stdout(&output).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(rows.len(), 2);
    assert_eq!((&rows[0]["watchers"], &rows[0]["events"]), (&0.into(), &0.into()));
    assert!(rows[1]["events"].as_u64().is_some_and(|events| events > 0), "they arrive: {}", rows[1]);
    assert!(rows[1]["event_p99_ms"].as_f64() >= rows[1]["event_p50_ms"].as_f64());
    assert!(rows[1]["memory_bytes"].as_u64().is_some_and(|bytes| bytes > 1 << 20));
}
