//! `kv count`.

use crate::commands::{done, json};
use crate::harness::{Cluster, refused, stderr};

#[test]
fn keys_of_a_prefix_and_of_a_range_are_counted() {
    let cluster = Cluster::start(&["data"], &[]);
    for key in ["a/1", "a/2", "a/3", "b"] {
        done(&cluster, &["put", key, "value"]);
    }
    assert_eq!(done(&cluster, &["count"]), "4\n");
    assert_eq!(done(&cluster, &["count", "a/"]), "3\n");
    assert_eq!(done(&cluster, &["count", "nothing/"]), "0\n");
    assert_eq!(done(&cluster, &["count", "--start", "a/2"]), "3\n");
    assert_eq!(done(&cluster, &["count", "--end", "a/3"]), "2\n");
    assert_eq!(done(&cluster, &["count", "--hex", "--start", "612f32", "--end", "62"]), "2\n");
    assert_eq!(done(&cluster, &["count", "--base64", "YS8=", "--local"]), "3\n");
    let counted = json(&cluster, &["count", "a/"]);
    let before = counted["revision"].to_string();
    done(&cluster, &["delete", "a/1"]);
    assert_eq!(counted["count"], 3);
    assert_eq!(done(&cluster, &["count", "a/"]), "2\n");
    assert_eq!(done(&cluster, &["count", "a/", "--revision", &before]), "3\n", "as it was");
    let both = cluster.run(&["count", "a/", "--start", "a"]);
    assert_eq!(both.status.code(), Some(2));
    assert!(stderr(&both).contains("--start"), "{}", stderr(&both));
    refused(&cluster.run(&["count", "--hex", "0"]), 2, &["not hex"]);
    refused(&cluster.run(&["count", "--revision", "1000000"]), 2, &["newest"]);
}
