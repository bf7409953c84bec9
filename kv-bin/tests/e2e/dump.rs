//! `kv dump`, and `kv load` of what it prints.

use crate::commands::{done, json};
use crate::harness::{Cluster, refused, stderr, stdout};
use serde_json::Value;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_dump_has_every_key_at_one_revision_and_can_be_loaded() {
    let cluster = Cluster::start(&["data"], &[]);
    done(&cluster, &["put", "text", "a\nb\t\"c\" \u{1b}[2J"]);
    done(&cluster, &["put", "--hex", "00ff", "fe00"]);
    done(&cluster, &["put", "brief", "1", "--ttl", "1h"]);
    let last = json(&cluster, &["put", "empty", ""])["revision"].clone();
    let dump = done(&cluster, &["dump"]);
    let found = lines(&dump);
    assert_eq!(found.len(), 5);
    assert_eq!(found[4], serde_json::json!({ "event": "complete", "revision": last, "keys": 4 }));
    assert_eq!((&found[0]["key_hex"], &found[0]["value_hex"]), (&"00ff".into(), &"fe00".into()));
    assert_eq!(lines(&done(&cluster, &["export", "te"]))[1]["keys"], 1);
    assert_eq!(lines(&done(&cluster, &["dump", "nothing/"])).len(), 1);

    let other = Cluster::start(&["data"], &[]);
    let file = cluster.folder.path().join("dump");
    fs::write(&file, &dump).unwrap();
    let name = file.to_str().unwrap();
    for _ in 0..2 {
        assert_eq!(done(&other, &["load", name]), "keys loaded: 3, skipped because they expire: 1\n");
    }
    done(&cluster, &["delete", "brief"]);
    assert_eq!(done(&other, &["scan", "--base64"]), done(&cluster, &["scan", "--base64"]));
    // The output of kv scan has no such end, so a dump without it is loaded, with a warning.
    let (cut, _) = dump.trim_end().rsplit_once('\n').unwrap();
    let [whole, cut] = [&dump, cut].map(|text| {
        fs::write(&file, text).unwrap();
        let loaded = other.run(&["load", name, "--json"]);
        assert_eq!(loaded.status.code(), Some(0), "{}", stderr(&loaded));
        (lines(&stdout(&loaded))[0]["complete"].clone(), stderr(&loaded).contains("is incomplete"))
    });
    assert_eq!((whole, cut), ((true.into(), false), (false.into(), true)));
    // A part of it, and a line that is none: nothing is written.
    let third = Cluster::start(&["data"], &[]);
    let incomplete: String = dump.split_inclusive('\n').skip(1).collect();
    fs::write(&file, incomplete).unwrap();
    refused(&third.run(&["load", name]), 2, &["line 4", "4 keys, and 3"]);
    fs::write(&file, format!("{dump}nonsense\n")).unwrap();
    refused(&third.run(&["load", name]), 2, &["line 6", "not a JSON object"]);
    assert_eq!(done(&third, &["count"]), "0\n");
}

#[test]
fn a_large_dump_is_loaded_in_batches() {
    let cluster = Cluster::start(&["data"], &[]);
    let file = cluster.folder.path().join("dump");
    let record =
        |number: usize| format!("{{\"key\":\"key/{number}\",\"value\":\"{}\"}}\n", "v".repeat(number));
    fs::write(&file, (0..2_500).map(record).collect::<String>()).unwrap();
    let input = fs::File::open(&file).unwrap();
    let loaded = crate::harness::run_on(input, &mut cluster.kv(&["load", "-", "--json"]));
    assert_eq!(loaded.status.code(), Some(0), "{}", stderr(&loaded));
    assert_eq!(done(&cluster, &["count", "key/"]), "2500\n");
    // From a pipe, a wrong line is found when the lines before it have been written.
    fs::write(&file, (0..1_500).map(record).chain(["nonsense".to_owned()]).collect::<String>()).unwrap();
    let input = fs::File::open(&file).unwrap();
    let failed = crate::harness::run_on(input, &mut cluster.kv(&["load", "-"]));
    refused(&failed, 2, &["some of the keys were put", "line 1501"]);
}

#[test]
fn a_pipe_with_a_name_is_loaded_too() {
    let cluster = Cluster::start(&["data"], &[]);
    let file = cluster.folder.path().join("dump");
    fs::write(&file, "{\"key\":\"a\",\"value\":\"1\"}\n").unwrap();
    let mut source = Command::new("cat").arg(&file).stdout(Stdio::piped()).spawn().unwrap();
    let pipe = source.stdout.take().unwrap();
    let loaded = crate::harness::run_on(pipe, &mut cluster.kv(&["load", "/dev/stdin"]));
    let _ = source.wait();
    assert_eq!(loaded.status.code(), Some(0), "{}", stderr(&loaded));
    assert_eq!(stdout(&loaded), "keys loaded: 1\n");
    assert_eq!(done(&cluster, &["get", "a"]), "1\n");
}

/// Ends the process with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_followed_dump_continues_with_every_change_and_resumes() {
    let cluster = Cluster::start(&["data"], &[]);
    done(&cluster, &["put", "a", "1"]);
    let mut command = cluster.kv(&["dump", "--follow"]);
    let mut child = Running(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut output = BufReader::new(child.0.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&output.next().unwrap().unwrap()).unwrap() };
    assert_eq!(next()["key"], "a");
    let snapshot = next();
    assert_eq!((&snapshot["event"], &snapshot["keys"]), (&"complete".into(), &1.into()));
    let put = json(&cluster, &["put", "b", "2"])["revision"].clone();
    let event = next();
    assert_eq!(
        (&event["event"], &event["revision"], &event["record"]["value"]),
        (&"put".into(), &put, &"2".into())
    );
    let complete = next();
    assert_eq!((&complete["event"], &complete["revision"]), (&"complete".into(), &put));
    drop(child);
    let deleted = json(&cluster, &["delete", "a"])["revision"].clone();
    let after = complete["revision"].to_string();
    let resumed = done(&cluster, &["dump", "--follow", "--after", &after, "--limit", "1"]);
    let event = lines(&resumed).remove(0);
    assert_eq!(
        (&event["event"], &event["key"], &event["revision"]),
        (&"deleted".into(), &"a".into(), &deleted)
    );
    done(&cluster, &["compact"]);
    refused(&cluster.run(&["dump", "--follow", "--after", &after]), 2, &["compacted", "omit --after"]);
    assert_eq!(cluster.run(&["dump", "--after", "1"]).status.code(), Some(2), "only with --follow");
}
