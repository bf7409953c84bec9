//! Mistakes in the configuration: each is named in one line, and leaves the disk as it was.

use crate::harness::{Cluster, contents, kv, refused, run, stderr, until};
use std::fs;

const THREE: &str = "0=127.0.0.1:7000,1=127.0.0.1:7001,2=127.0.0.1:7002";

#[test]
fn each_mistake_gets_one_line_and_leaves_the_disk_alone() {
    let line =
        |id, role| format!("[[member]]\nid = {id}\naddress = \"127.0.0.1:700{id}\"\nrole = \"{role}\"\n");
    let (member, second) = (line(0, "data"), line(1, "data"));
    let witnesses = format!("{member}{}{}", line(1, "witness"), line(2, "witness"));
    for (text, flags, fragments) in [
        (
            format!("{member}{}", second.replace("id = 1", "id = 0")),
            vec![],
            vec!["member id 0 stands twice", "an id of its own"],
        ),
        (member.replace("data", "boss"), vec![], vec!["unknown role \"boss\"", "data or witness"]),
        (member.replace("127.0.0.1:", "127.0.0.1;"), vec![], vec!["member 0 has the address", "HOST:PORT"]),
        (format!("{member}[options]\nheartbeat = \"0ms\"\n"), vec![], vec!["heartbeat is 0", "1 ms to 10 s"]),
        (
            format!("{member}[options]\nsuspect_min = \"0s\"\n"),
            vec![],
            vec!["suspect_min is 0", "3 heartbeats"],
        ),
        (format!("{member}[options]\nsuspect_max = \"0s\"\n"), vec![], vec!["suspect_max is 0"]),
        (format!("{member}[options]\nsession_ttl = \"0s\"\n"), vec![], vec!["session_ttl is 0"]),
        (witnesses, vec![], vec!["2 of 3 members are witnesses", "at most 1"]),
        (format!("colour = \"red\"\n{member}"), vec![], vec!["line 1", "unknown field `colour`"]),
        (format!("{member}{second}"), vec!["--id", "5"], vec!["member 5 is not in the configuration"]),
        (member.replace("127.0.0.1", "192.0.2.1"), vec![], vec!["without encryption", "--insecure"]),
        (format!("transport = \"pigeon\"\n{member}"), vec![], vec!["line 1", "pigeon", "tcp"]),
        (format!("{member}{second}"), vec!["--log", "loud"], vec!["\"loud\" is not a log filter"]),
        (format!("{member}{second}"), vec!["--heartbeat", "fast"], vec!["--heartbeat", "not a time", "25ms"]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("cluster.toml");
        fs::write(&file, &text).unwrap();
        let before = contents(folder.path());
        let mut command = kv();
        command.arg("serve").arg("--config").arg(&file).args(["--data", "data"]).current_dir(folder.path());
        let id: &[&str] = if flags.contains(&"--id") { &[] } else { &["--id", "0"] };
        let output = run(command.args(id).args(flags));
        refused(&output, 2, &fragments);
        assert_eq!(contents(folder.path()), before, "{text}: something was changed on disk");
    }
}

#[test]
fn a_missing_file_is_named() {
    let output = run(kv().args(["serve", "--id", "0", "--config", "/nowhere/cluster.toml"]));
    refused(&output, 2, &["/nowhere/cluster.toml", "No such file"]);
}

#[test]
fn flags_win_over_variables_and_variables_over_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cluster.toml");
    fs::write(&file, "id = 7\n[[member]]\nid = 0\naddress = \"127.0.0.1:7000\"\n").unwrap();
    let serve = || {
        let mut command = kv();
        command.arg("serve").current_dir(folder.path()).arg("--config").arg(&file);
        command
    };
    refused(&run(&mut serve()), 2, &["member 7 is not in the configuration"]);
    refused(&run(serve().env("KV_ID", "8")), 2, &["member 8 is not in the configuration"]);
    refused(
        &run(serve().env("KV_ID", "8").args(["--id", "9"])),
        2,
        &["member 9 is not in the configuration"],
    );
    let slow = |command: &mut std::process::Command| stderr(&run(command));
    fs::write(
        &file,
        "id = 0\n[[member]]\nid = 0\naddress = \"127.0.0.1:7000\"\n[options]\nheartbeat = \"1h\"\n",
    )
    .unwrap();
    assert!(slow(&mut serve()).contains("heartbeat is 3600s"));
    assert!(slow(serve().env("KV_HEARTBEAT", "2h")).contains("heartbeat is 7200s"));
    assert!(
        slow(serve().env("KV_HEARTBEAT", "2h").args(["--heartbeat", "3h"])).contains("heartbeat is 10800s")
    );
}

#[test]
fn a_whole_member_can_be_described_by_variables() {
    let output = run(kv().arg("serve").env("KV_MEMBERS", THREE).env("KV_ID", "4"));
    refused(&output, 2, &["member 4 is not in the configuration"]);
}

#[test]
fn usage_that_makes_no_sense_is_refused_with_code_2() {
    for arguments in [
        &["put", "key"][..],
        &["put", "key", "value", "--if-absent", "--if-present"],
        &["get"],
        &["frobnicate"],
        &["demo", "--scenario", "picnic"],
        &["get", "key", "--transport", "pigeon"],
        &["get", "key", "--timeout", "0s"],
        &["get", "key", "--address", "nowhere"],
    ] {
        let output = run(kv().args(arguments));
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
    }
}

#[test]
fn a_client_without_a_cluster_says_where_it_looked() {
    let address = format!("127.0.0.1:{}", crate::harness::free_port());
    let output = run(kv().args(["get", "key", "--timeout", "300ms", "--address", &address]));
    refused(&output, 1, &["--address", &address]);
}

#[test]
fn a_cluster_that_does_not_form_says_what_it_needs() {
    let mut cluster = Cluster::prepare(&["data", "data"], &[]);
    cluster.restart(0);
    until("it is said", || cluster.log(0).contains("the first start of a cluster needs all of its members"));
    cluster.restart(1);
    assert!(cluster.run(&["put", "k", "v"]).status.success());
}
