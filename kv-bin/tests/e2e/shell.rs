//! `kv shell`, fed by a file. (At a terminal it reads the same lines, by a library that edits them.)

use crate::harness::{Cluster, refused, run_on, stderr, stdout};
use std::fs::{self, File};
use std::process::{Output, Stdio};

fn perform(cluster: &Cluster, arguments: &[&str], script: &str) -> Output {
    let file = cluster.folder.path().join("script");
    fs::write(&file, script).unwrap();
    run_on(File::open(&file).unwrap(), &mut cluster.kv(&[&["shell"], arguments].concat()))
}

#[test]
fn a_script_runs_on_one_connection_and_prints_what_the_commands_print() {
    let cluster = Cluster::start(&["data"], &[]);
    let script = "
        # words are quoted as in a shell
        put greeting 'hello world'
        kv get greeting         # and this is a comment
        put \"a key\" x\\ y --if-absent
        scan --keys-only
        get 'a key' --json
        lease grant 1h
        lock l -- sh -c 'cat; echo held'
        delete greeting
        exit
        get greeting
    ";
    let output = perform(&cluster, &[], script);
    assert!(output.status.success(), "{}", stderr(&output));
    let printed = stdout(&output);
    let lines: Vec<&str> = printed.lines().collect();
    assert!(lines[0].starts_with("revision "), "{printed}");
    assert_eq!(lines[1], "hello world");
    assert_eq!(lines[3..5], ["a key", "greeting"]);
    let record: serde_json::Value = serde_json::from_str(lines[5]).unwrap();
    assert_eq!((&record["value"], &record["version"]), (&"x y".into(), &1.into()));
    assert!(lines[6].parse::<u64>().is_ok(), "{printed}");
    assert_eq!(lines[7], "held", "what a lock runs does not read the script");
    assert!(lines[8].starts_with("revision "), "{printed}");
    assert_eq!(lines.len(), 9, "nothing after exit: {printed}");
    assert!(!printed.contains("kv>"), "no prompt in a pipe");
}

#[test]
fn a_script_ends_at_its_first_failure_with_its_code() {
    let cluster = Cluster::start(&["data"], &[]);
    let refuses = |script: &str, code, fragments: &[&str]| {
        let output = perform(&cluster, &[], script);
        refused(&output, code, fragments);
        assert!(!stdout(&output).contains("later"), "{script}");
    };
    refuses("put k 1\nget nobody\nput later 1\nget later", 1, &["line 2", "\"nobody\" does not exist"]);
    refuses("put '' v\nscan", 2, &["line 1", "0 bytes"]);
    refuses("fly\nscan", 2, &["line 1 is not a command"]);
    refuses("get 'k\nscan", 2, &["line 1", "a quote is not closed"]);
    refuses("put k -\nscan", 2, &["line 1", "the shell reads its commands"]);
    refuses("get k --address 127.0.0.1:1\nscan", 2, &["line 1", "--address is an option of the whole shell"]);
    refuses("lock l -- sh -c 'exit 7'\nscan", 7, &["line 1", "the command failed"]);
    let all = perform(&cluster, &["--json"], "get k\nhelp put\nstatus");
    assert!(all.status.success(), "help is no failure: {}", stderr(&all));
    assert!(stdout(&all).starts_with("{\"created\""), "{}", stdout(&all));
    assert!(
        !stdout(&all).contains("--address"),
        "what is for the shell as a whole is not shown: {}",
        stdout(&all)
    );
}

#[test]
fn each_command_retries_a_failed_connection() {
    let cluster = Cluster::prepare(&["data"], &[]);
    let output = perform(&cluster, &["--timeout", "100ms"], "# nothing yet\n\nget k");
    refused(&output, 1, &["line 3", "is the cluster running"]);
    let output = run_on(Stdio::null(), &mut cluster.kv(&["shell"]));
    assert!(output.status.success(), "nothing was asked for: {}", stderr(&output));
}
