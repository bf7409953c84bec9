//! `kv member`, and members that join, go, or lose their disk: what they print, and how they end.

use crate::harness::{Cluster, refused, run, stderr, stdout, until};
use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::process::{Output, Stdio};

/// The result of a command with `--json`.
#[track_caller]
fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", stderr(output));
    serde_json::from_str(&stdout(output)).expect("one line of JSON")
}

/// The ids of the members, and whether they vote.
fn votes(list: &Value) -> Vec<(u64, bool)> {
    let members = list["members"].as_array().expect("a list");
    let vote = |member: &Value| (member["id"].as_u64().unwrap(), member["standby"] == false);
    members.iter().map(vote).collect()
}

/// F-conf-16: each mistake is refused with its own exit code, and with the command to run.
fn whoever_cannot_join_is_told_why(cluster: &Cluster, new: usize) {
    let data = cluster.folder.path().join("nothing");
    let (old, own) = (cluster.address(0).to_owned(), cluster.address(new).to_owned());
    let serve = |id: &str, more: &[&str]| {
        let mut command = cluster.kv(&["serve", "--id", id, "--data", data.to_str().unwrap()]);
        let output = run(command.args(more));
        assert!(!data.exists(), "nothing is written");
        output
    };
    let join = ["--listen", &own, "--join", &old];
    refused(&serve("9", &join), 8, &["no member 9", "kv member add 9=HOST:PORT --address"]);
    refused(&serve("0", &join), 8, &["its disk was lost", "kv member replace 0 NEW=HOST:PORT"]);
    let other = [&join[..], &["--max-value-bytes", "2MiB"]].concat();
    refused(&serve("1", &other), 8, &["max_value_bytes 2097152"]);
    refused(&serve("1", &["--listen", &own, "--join", &own]), 1, &["no member answers"]);
    refused(&serve("1", &["--join", &old]), 2, &["--listen"]);
    refused(&serve("1", &[]), 2, &["--members", "--join HOST:PORT"]);
}

/// F-conf-13, F-conf-15, F-conf-16.
#[test]
fn a_member_joins_restarts_and_goes_and_each_step_says_what_is_next() {
    let mut cluster = Cluster::start(&["data"], &[]);
    assert!(cluster.run(&["put", "key", "value"]).status.success());
    let new = cluster.newcomer();
    let place = format!("{new}={}", cluster.address(new));

    // What cannot be done, and why.
    refused(&cluster.run(&["member", "add", "1"]), 2, &["ID=HOST:PORT"]);
    refused(&cluster.run(&["member", "add", "1=nowhere"]), 2, &["HOST:PORT"]);
    refused(&cluster.run(&["member", "add", "0=127.0.0.1:1"]), 4, &["used before"]);
    refused(&cluster.run(&["member", "promote", "1", "--wait", "0s"]), 4, &["no member 1"]);
    refused(&cluster.run(&["member", "remove", "0"]), 4, &["the last one with a vote"]);
    refused(&cluster.run(&["member", "replace", "0", "1"]), 4, &["replace 0 1=HOST:PORT"]);
    refused(&cluster.run(&["member", "replace", "7", &place]), 4, &["no member 7"]);

    let list = json(&cluster.run(&["member", "add", &place, "--json"]));
    assert_eq!(votes(&list), [(0, true), (1, false)]);
    let start = format!("kv serve --id 1 --listen {} --join {}", cluster.address(1), cluster.address(0));
    assert_eq!(list["next"][0], start);
    assert_eq!(json(&cluster.run(&["member", "add", &place, "--json"]))["epoch"], 1, "it was added already");
    whoever_cannot_join_is_told_why(&cluster, new);
    let waits = cluster.run(&["member", "promote", "1", "--wait", "0s"]);
    refused(&waits, 4, &["does not answer", &start, "kv member remove 1"]);

    cluster.restart(new);
    assert_eq!(votes(&json(&cluster.run(&["member", "promote", "1", "--json"]))), [(0, true), (1, true)]);
    let text = stdout(&cluster.run(&["member", "list"]));
    assert!(text.contains("vote") && text.ends_with("epoch 2\n"), "{text}");

    // The configured list is outdated, wrong, or missing: the one in the data folder applies.
    let outdated = cluster.members.clone();
    let address = cluster.address(0).to_owned();
    for list in [outdated, "0=127.0.0.1:1:witness,5=127.0.0.1:2".to_owned()] {
        let mark = cluster.log(0).len();
        assert_eq!(cluster.terminate(0).code(), Some(0));
        cluster.lists = vec![list];
        cluster.restart(0);
        let log = cluster.log(0)[mark..].to_owned();
        assert!(log.contains("member 1 at ") && log.contains("was added"), "{log}");
        assert!(log.contains(&address) && log.contains("role=data"), "{log}");
    }
    assert_eq!(cluster.terminate(0).code(), Some(0));
    cluster.lists = vec![String::new()];
    cluster.restart(0);
    assert_eq!(stdout(&cluster.run(&["get", "key"])), "value\n");

    // A removed member ends by itself, and does not start again.
    until("the primary is back", || cluster.run(&["handover", "--to", "0"]).status.success());
    assert_eq!(votes(&json(&cluster.run(&["member", "remove", "1", "--json"]))), [(0, true)]);
    assert_eq!(cluster.ended(1).code(), Some(8));
    assert!(
        cluster.log(1).contains("kv: member 1 stopped: this member was removed from the cluster in epoch 3")
    );
    let again = cluster.try_restart(1).expect_err("it does not serve");
    assert!(again.contains("removed from the cluster in epoch 3"), "{again}");
    refused(&cluster.run(&["member", "add", &place]), 4, &["used before"]);
}

/// F-disk-23: somebody who follows the messages alone puts a new member in the place of one whose disk is lost.
#[test]
fn a_lost_disk_is_replaced_as_the_messages_say() {
    let mut cluster = Cluster::of_three();
    assert!(cluster.run(&["put", "key", "value"]).status.success());
    cluster.kill(2);
    std::fs::remove_dir_all(cluster.data(2)).unwrap();
    cluster.restart(2);
    assert_eq!(cluster.ended(2).code(), Some(8));
    let log = cluster.log(2);
    let advice = log.lines().find(|line| line.starts_with("kv: ")).expect("it says why");
    let (_, command) = advice.split_once("replace this member: kv ").expect("it says what to do");
    let (command, _) = command.split_once(',').filter(|_| !command.contains("  ")).expect("a command");

    let new = cluster.newcomer();
    let own = cluster.address(new).to_owned();
    let command = command.replace("NEW", "3").replace("HOST:PORT", &own);
    let arguments: Vec<_> = command.split(' ').collect();
    let mut replacing = cluster.kv(&arguments);
    replacing.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = replacing.spawn().expect("the program starts");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let start = lines.next().expect("it says what to start").unwrap();
    assert!(start.contains(&format!("kv serve --id 3 --listen {own} --join 127.0.0.1:")), "{start}");
    cluster.restart(new);
    let end = child.wait_with_output().unwrap();
    assert!(end.status.success(), "{command}: {:?}", lines.collect::<Vec<_>>());
    let list = json(&cluster.run(&["member", "list", "--json"]));
    assert_eq!(votes(&list), [(0, true), (1, true), (3, true)]);
    let local = cluster.run(&["get", "key", "--member", "3", "--local"]);
    assert_eq!(stdout(&local), "value\n", "{}", stderr(&local));
}
