//! `kv top`, without a terminal: one frame (on a terminal it shows the same again and again).

use crate::harness::{Cluster, stderr, stdout};

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
