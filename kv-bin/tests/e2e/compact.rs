//! `kv compact`.

use crate::commands::{done, json};
use crate::harness::{Cluster, refused, until};
use std::fs;

#[test]
fn history_is_dropped_on_demand() {
    let cluster = Cluster::start(&["data"], &["--history-revisions", "1000"]);
    let revisions: Vec<u64> = (0..4)
        .map(|number| json(&cluster, &["put", "k", &number.to_string()])["revision"].as_u64().unwrap())
        .collect();
    let [first, second, third, fourth] = revisions[..] else { panic!("four") };
    let at = |revision: u64| {
        ["get", "k", "--revision"]
            .map(str::to_owned)
            .into_iter()
            .chain([revision.to_string()])
            .collect::<Vec<_>>()
    };
    let get = |revision| {
        let arguments = at(revision);
        cluster.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let future = (fourth + 1).to_string();
    refused(&cluster.run(&["compact", "--revision", &future]), 2, &["does not exist yet", "newest"]);
    assert_eq!(get(first).stdout, b"0\n", "nothing was dropped");
    let compacted = json(&cluster, &["compact", "--revision", &third.to_string()]);
    assert_eq!((&compacted["oldest"], &compacted["revision"]), (&third.into(), &(third + 1_000).into()));
    assert_eq!(get(third).stdout, b"2\n");
    assert_eq!(get(fourth).stdout, b"3\n");
    for past in [first, second] {
        refused(&get(past), 2, &["oldest", &third.to_string()]);
        let from = past.to_string();
        refused(&cluster.run(&["watch", "", "--from", &from]), 2, &["compacted", &third.to_string()]);
    }
    let text = done(&cluster, &["compact"]);
    assert_eq!(text, format!("oldest revision {}, newest revision {}\n", third + 1_000, third + 2_000));
    refused(&get(fourth), 2, &["oldest"]);
    assert_eq!(done(&cluster, &["get", "k"]), "3\n");
    let next = json(&cluster, &["put", "k", "4", "--if-revision", &fourth.to_string()])["revision"].clone();
    assert_eq!(next, third + 2_001, "a condition on a revision does not need its history");
}

/// Nobody writes after the compaction, and little before it.
#[test]
fn a_compaction_frees_the_space_of_the_history() {
    let cluster = Cluster::start(&["data"], &["--checkpoint-bytes", "1MiB"]);
    for number in 0..80 {
        done(&cluster, &["put", "k", &format!("{number}{}", "v".repeat(100_000))]);
    }
    let size = || -> u64 {
        let files = fs::read_dir(cluster.data(0)).unwrap().map(Result::unwrap);
        let files = files.filter(|file| file.file_name().to_string_lossy().starts_with("state"));
        // A merge may remove it just now.
        files.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum()
    };
    until("checkpoints have written the history", || size() > 6 << 20);
    done(&cluster, &["compact"]);
    until("its space is free", || size() < 1 << 20);
    assert!(done(&cluster, &["get", "k"]).starts_with("79v"));
}
