//! The client commands: their output and exit codes.

use crate::harness::{Cluster, kv, refused, run, stderr, stdout};
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Runs a command that succeeds, and returns what it printed.
#[track_caller]
pub(crate) fn done(cluster: &Cluster, arguments: &[&str]) -> String {
    let output = cluster.run(arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", stderr(&output));
    stdout(&output)
}

/// The same, as JSON.
#[track_caller]
pub(crate) fn json(cluster: &Cluster, arguments: &[&str]) -> serde_json::Value {
    let text = done(cluster, &[arguments, &["--json"]].concat());
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {text:?}: {error}"))
}

#[test]
fn put_get_delete_and_scan_for_people_and_for_programs() {
    let cluster = Cluster::start(&["data"], &[]);
    assert!(done(&cluster, &["put", "fruit/apple", "red"]).starts_with("revision "));
    assert_eq!(done(&cluster, &["get", "fruit/apple"]), "red\n");
    assert_eq!(done(&cluster, &["get", "fruit/apple", "--local"]), "red\n");
    let put = json(&cluster, &["put", "fruit/plum", "blue"]);
    let get = json(&cluster, &["get", "fruit/plum"]);
    assert_eq!(get["value"], "blue");
    assert_eq!(get["version"], 1);
    assert_eq!(get["modified"], put["revision"]);
    assert!(get["revision"].as_u64() >= put["revision"].as_u64(), "the revision that was read: {get}");
    for fresh in [&["--local"][..], &["--at-least", "1"], &["--max-staleness", "10s"], &[]] {
        let read = [&["get", "fruit/plum", "--member", "0"], fresh].concat();
        assert_eq!(done(&cluster, &read), "blue\n");
        let read = [&["scan", "fruit/plum", "--member", "0"], fresh].concat();
        assert_eq!(done(&cluster, &read), "fruit/plum\tblue\n");
    }
    refused(&cluster.run(&["get", "fruit/plum", "--member", "7"]), 1, &["the cluster has no member 7"]);
    let at = |id| {
        ["get", "fruit/plum", "--address"]
            .map(String::from)
            .into_iter()
            .chain([format!("{id}={}", cluster.address(0))])
    };
    assert_eq!(stdout(&run(kv().args(at(0)))), "blue\n");
    refused(&run(kv().args(at(1)).args(["--timeout", "2s"])), 1, &["is member 0, not 1"]);
    done(&cluster, &["put", "other", "1"]);
    assert_eq!(done(&cluster, &["scan", "fruit/"]), "fruit/apple\tred\nfruit/plum\tblue\n");
    assert_eq!(done(&cluster, &["scan", "--limit", "1"]), "fruit/apple\tred\n");
    let lines = done(&cluster, &["scan", "--json"]);
    let keys: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(keys.len(), 3);
    assert_eq!(keys[2]["key"], "other");
    assert_eq!(done(&cluster, &["scan", "--reverse", "--keys-only"]), "other\nfruit/plum\nfruit/apple\n");
    let early = put["revision"].to_string();
    done(&cluster, &["put", "fruit/plum", "violet"]);
    assert_eq!(done(&cluster, &["get", "fruit/plum", "--revision", &early]), "blue\n");
    assert_eq!(
        done(&cluster, &["scan", "--revision", &early]),
        "fruit/apple\tred\nfruit/plum\tblue\n",
        "without what was put later"
    );
    assert_eq!(done(&cluster, &["get", "fruit/plum", "--at-least", &early]), "violet\n");
    assert!(done(&cluster, &["put", "other", "2", "--previous"]).ends_with("\n1\n"));
    assert_eq!(json(&cluster, &["delete", "other", "--previous"])["previous"]["value"], "2");
    assert_eq!(json(&cluster, &["delete", "other", "--previous"])["previous"], serde_json::Value::Null);
    done(&cluster, &["put", "other", "3"]);
    assert_eq!(json(&cluster, &["delete", "other"])["existed"], true);
    assert_eq!(json(&cluster, &["delete", "other"])["existed"], false);
    assert_eq!(done(&cluster, &["delete", "other"]), "the key did not exist\n");
    assert_eq!(done(&cluster, &["scan", "nothing/"]), "");
}

/// Each command opens and closes a session, and leases are granted and end: none of this changes a key (rule N8 of
/// PROTOCOL.md).
#[test]
fn commands_that_change_one_key_have_consecutive_revisions() {
    let cluster = Cluster::start(&["data"], &[]);
    let first = json(&cluster, &["put", "a", "1"])["revision"].as_u64().unwrap();
    let second = json(&cluster, &["put", "b", "1"])["revision"].as_u64().unwrap();
    let lease = json(&cluster, &["lease", "grant", "1min"])["lease"].to_string();
    done(&cluster, &["lease", "keep-alive", &lease]);
    done(&cluster, &["lease", "show", &lease]);
    assert_eq!(json(&cluster, &["get", "a"])["revision"], second);
    let third = json(&cluster, &["put", "c", "1", "--lease", &lease])["revision"].as_u64().unwrap();
    done(&cluster, &["lease", "revoke", &lease]);
    let fifth = json(&cluster, &["delete", "b"])["revision"].as_u64().unwrap();
    assert_eq!([second, third, fifth], [first + 1, first + 2, first + 4]);
    let from = (first + 1).to_string();
    let events = done(&cluster, &["watch", "", "--from", &from, "--limit", "4"]);
    let expected = [(1, "put\tb\t1"), (2, "put\tc\t1"), (3, "deleted\tc"), (4, "deleted\tb")];
    assert_eq!(events, expected.map(|(at, what)| format!("{}\t{what}\n", first + at)).concat());
}

#[test]
fn a_key_that_does_not_exist_is_a_failure() {
    let cluster = Cluster::start(&["data"], &[]);
    refused(&cluster.run(&["get", "nobody"]), 1, &["\"nobody\" does not exist"]);
    let output = cluster.run(&["get", "nobody", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let answer: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!((&answer["key"], &answer["value"]), (&"nobody".into(), &serde_json::Value::Null));
    let revision = answer["revision"].to_string();
    refused(&cluster.run(&["get", "nobody", "--at-least", &revision]), 1, &["does not exist"]);
}

#[test]
fn conditional_writes_check_their_conditions() {
    let cluster = Cluster::start(&["data"], &[]);
    refused(&cluster.run(&["put", "k", "0", "--if-present"]), 1, &["condition", "does not exist"]);
    let first = json(&cluster, &["put", "k", "1", "--if-absent"])["revision"].to_string();
    refused(&cluster.run(&["put", "k", "2", "--if-absent"]), 1, &["condition", &first]);
    let second = json(&cluster, &["put", "k", "2", "--if-revision", &first])["revision"].to_string();
    refused(&cluster.run(&["put", "k", "3", "--if-revision", &first]), 1, &["condition", &second]);
    done(&cluster, &["put", "k", "3", "--if-present"]);
    assert_eq!(json(&cluster, &["get", "k"])["version"], 3);
}

#[test]
fn keys_expire_by_ttl_or_lease() {
    let cluster = Cluster::start(&["data"], &[]);
    done(&cluster, &["put", "brief", "v", "--ttl", "50ms"]);
    assert!(json(&cluster, &["put", "stays", "v", "--ttl", "1d"])["revision"].is_number());
    assert!(json(&cluster, &["get", "stays"])["expires_ms"].is_number());
    while cluster.run(&["get", "brief"]).status.success() {}
    refused(
        &cluster.run(&["put", "k", "v", "--ttl", "0s"]),
        2,
        &["invalid time to live 0ms: write 1ms to 36500d"],
    );

    let id = json(&cluster, &["lease", "grant", "1h"])["lease"].to_string();
    done(&cluster, &["put", "mine", "v", "--lease", &id]);
    assert_eq!(json(&cluster, &["get", "mine"])["lease"].to_string(), id);
    assert_eq!(done(&cluster, &["lease", "keep-alive", &id]), format!("lease {id} renewed\n"));
    let shown = json(&cluster, &["lease", "show", &id]);
    assert_eq!((shown["ttl_ms"].as_u64(), shown["keys"].as_u64()), (Some(3_600_000), Some(1)));
    assert_eq!(done(&cluster, &["lease", "revoke", &id]), "keys removed: 1\n");
    refused(&cluster.run(&["get", "mine"]), 1, &["does not exist"]);
    refused(&cluster.run(&["lease", "show", &id]), 1, &["has ended"]);
    refused(
        &cluster.run(&["put", "mine", "v", "--lease", &id]),
        1,
        &["the lease has ended, or never existed"],
    );
}

#[test]
fn a_command_runs_under_a_lock_and_its_exit_code_is_returned() {
    let cluster = Cluster::start(&["data"], &[]);
    let shell = |script: &str| cluster.run(&["lock", "l", "--wait", "0s", "--", "sh", "-c", script]);
    let output = shell("echo token $KV_LOCK_TOKEN");
    assert!(output.status.success(), "{}", stderr(&output));
    let first: u64 = stdout(&output).trim().strip_prefix("token ").unwrap().parse().unwrap();
    let output = shell("echo token $KV_LOCK_TOKEN; exit 7");
    assert_eq!(output.status.code(), Some(7), "{}", stderr(&output));
    refused(&shell("kill -9 $$"), 128 + 9, &["the command failed", "9"]);
    let second: u64 = stdout(&output).trim().strip_prefix("token ").unwrap().parse().unwrap();
    assert!(second > first, "tokens grow");
    refused(&cluster.run(&["get", "l"]), 1, &["does not exist"]);
    done(&cluster, &["put", "l", "somebody else"]);
    refused(&shell("true"), 1, &["\"l\" exists and is not a lock"]);
    refused(&cluster.run(&["lock", "other", "--", "/no/such/program"]), 127, &["cannot run"]);
    refused(&cluster.run(&["get", "other"]), 1, &["does not exist"]);
}

#[test]
fn keys_and_values_are_bytes() {
    let cluster = Cluster::start(&["data"], &[]);
    let odd = std::ffi::OsStr::from_bytes(b"\xff\x01");
    let output = run(kv().arg("put").arg(odd).arg(odd).args(["--address", cluster.address(0)]));
    assert!(output.status.success(), "{}", stderr(&output));
    let output = run(kv().arg("get").arg(odd).args(["--address", cluster.address(0)]));
    assert_eq!(output.stdout, b"\xff\x01\n");
    assert_eq!(json(&cluster, &["scan"])["value_hex"], "ff01");
    done(&cluster, &["put", "empty", ""]);
    assert_eq!(done(&cluster, &["get", "empty"]), "\n");
}

#[test]
fn a_key_or_value_beyond_the_limit_is_refused_with_the_limit() {
    let cluster = Cluster::start(&["data"], &["--max-key-bytes", "16", "--max-value-bytes", "32"]);
    refused(&cluster.run(&["put", "a-key-of-18-bytes!", "v"]), 2, &["18 bytes", "16"]);
    refused(&cluster.run(&["put", "k", &"v".repeat(33)]), 2, &["33 bytes", "32"]);
    refused(&cluster.run(&["put", "", "v"]), 2, &["0 bytes"]);
    refused(&cluster.run(&["get", "a-key-of-18-bytes!"]), 2, &["18 bytes", "16"]);
    done(&cluster, &["put", "a-key-of-16-byte", &"v".repeat(32)]);
}

#[test]
fn status_lists_every_member() {
    let mut cluster = Cluster::start(&["data", "data", "witness"], &[]);
    done(&cluster, &["put", "k", "v"]);
    let status = json(&cluster, &["status"]);
    let members = status["members"].as_array().unwrap();
    assert_eq!(members.len(), 3);
    let states = |wanted: &str| members.iter().filter(|member| member["state"] == wanted).count();
    assert_eq!((states("primary"), states("backup")), (1, 2), "{status}");
    assert_eq!(members[2]["role"], "witness");
    cluster.kill(2);
    let table = done(&cluster, &["status"]);
    assert_eq!(table.lines().count(), 4, "{table}");
    assert!(table.lines().nth(3).unwrap().contains("no answer"), "{table}");
    assert!(!table.contains('\u{1b}'), "no colours in a pipe");
}

/// Two of three members answer, one of them as primary; then one answers, which is not enough.
#[test]
fn a_call_that_nobody_answers_reports_what_the_members_say() {
    let mut cluster = Cluster::start(&["data", "data", "data"], &[]);
    done(&cluster, &["put", "k", "v"]);
    let status = json(&cluster, &["status"]);
    let backup = status["members"].as_array().unwrap().iter().find(|member| member["state"] == "backup");
    let backup = backup.expect("a backup")["id"].to_string();
    refused(&cluster.run(&["get", "k", "--member", &backup]), 1, &["is not the primary", "--local"]);
    let early = cluster.run(&["get", "k", "--at-least", "99999", "--timeout", "1s"]);
    refused(&early, 1, &["revision 99999 does not exist yet", "the newest is"]);
    cluster.kill(1);
    cluster.kill(2);
    let alone = cluster.run(&["get", "k", "--timeout", "1s"]);
    refused(&alone, 1, &["1 of 3 members answered", "kv status"]);
}

#[test]
fn colours_are_printed_only_on_request() {
    let cluster = Cluster::start(&["data"], &[]);
    let status = |variable: &str| {
        let mut command = kv();
        command.args(["status", "--address", cluster.address(0)]).env_remove("NO_COLOR").env(variable, "1");
        stdout(&run(&mut command))
    };
    assert!(status("CLICOLOR_FORCE").contains('\u{1b}'));
    assert!(!status("NO_COLOR").contains('\u{1b}'));
}

#[test]
fn a_client_of_another_cluster_is_refused() {
    let cluster = Cluster::start(&["data"], &[]);
    refused(&cluster.run(&["get", "k", "--cluster", "other", "--timeout", "2s"]), 1, &[cluster.address(0)]);
}

/// Forwards connections to `to`. Once a message contains `word`, no more answers are forwarded.
fn muting_proxy(to: String, word: &'static [u8]) -> (String, Arc<AtomicBool>) {
    let listener = TcpListener::bind(("127.0.0.1", crate::harness::free_port())).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mute = Arc::new(AtomicBool::new(false));
    let muted = mute.clone();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(member) = TcpStream::connect(&to) else { continue };
            let (from_client, to_client) = (client.try_clone().unwrap(), client);
            let (from_member, to_member) = (member.try_clone().unwrap(), member);
            let (asking, answering) = (muted.clone(), muted.clone());
            std::thread::spawn(move || {
                copy(from_client, to_member, |bytes| {
                    if bytes.windows(word.len()).any(|window| window == word) {
                        asking.store(true, Ordering::SeqCst);
                    }
                    true
                });
            });
            std::thread::spawn(move || copy(from_member, to_client, |_| !answering.load(Ordering::SeqCst)));
        }
    });
    (address, mute)
}

/// Copies what `pass` lets through, until one end is closed.
fn copy(mut from: TcpStream, mut to: TcpStream, pass: impl Fn(&[u8]) -> bool) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if pass(&buffer[..length]) && to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

#[test]
fn a_write_of_unknown_outcome_has_its_own_exit_code() {
    let hidden = format!("127.0.0.1:{}", crate::harness::free_port());
    let (address, mute) = muting_proxy(hidden.clone(), b"the-key");
    let cluster = Cluster::behind(&address, &hidden);
    done(&cluster, &["put", "other", "1"]);
    let output = cluster.run(&["put", "the-key", "2", "--timeout", "1s"]);
    refused(&output, 3, &["outcome is unknown", "read the key"]);
    mute.store(false, Ordering::SeqCst);
    let lines = done(&cluster, &["scan", "--json"]);
    let record: serde_json::Value =
        serde_json::from_str(lines.lines().nth(1).expect("it was written")).unwrap();
    assert_eq!(
        (&record["key"], &record["version"]),
        (&"the-key".into(), &1.into()),
        "once, whatever was retried"
    );
}

#[test]
fn shells_and_man_know_every_command() {
    let script = run(kv().args(["completions", "bash"]));
    assert_eq!(script.status.code(), Some(0), "{}", stderr(&script));
    assert!(stdout(&script).contains("_kv") && stdout(&script).contains("if-absent"));
    refused_usage(&run(kv().args(["completions", "cobol"])));
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("new").join("pages");
    let out = folder.to_str().unwrap();
    let written = run(kv().args(["man", "--out", out]));
    assert_eq!(written.status.code(), Some(0), "{}", stderr(&written));
    let page = std::fs::read_to_string(folder.join("kv-put.1")).unwrap();
    assert!(page.contains(".TH") && page.contains("if\\-absent") && page.contains("KV_ADDRESS"), "{page}");
    for file in std::fs::read_dir(&folder).unwrap() {
        let page = std::fs::read_to_string(file.unwrap().path()).unwrap().replace("\\-", "-");
        for other in page.lines().filter_map(|line| line.strip_suffix("(1)")) {
            assert!(folder.join(format!("{other}.1")).exists(), "{page} names {other}");
        }
    }
    assert!(folder.join("kv-lease-keep-alive.1").exists());
    assert!(std::fs::read_to_string(folder.join("kv.1")).unwrap().contains("outcome unknown"));
    let below_a_file = folder.join("kv.1").join("pages");
    let below_a_file = below_a_file.to_str().unwrap();
    refused(&run(kv().args(["man", "--out", below_a_file])), 1, &["cannot create the folder", below_a_file]);
}

#[track_caller]
fn refused_usage(output: &std::process::Output) {
    assert_eq!(output.status.code(), Some(2), "{}", stderr(output));
}

#[test]
fn a_watch_delivers_past_and_new_changes() {
    let cluster = Cluster::start(&["data"], &[]);
    done(&cluster, &["put", "a/1", "x"]);
    done(&cluster, &["put", "b/1", "no"]);
    done(&cluster, &["delete", "a/1"]);
    let printed = done(&cluster, &["watch", "a/", "--from", "1", "--limit", "2"]);
    let fields: Vec<Vec<&str>> = printed.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(fields[0][1..], ["put", "a/1", "x"]);
    assert_eq!(fields[1][1..], ["deleted", "a/1"]);
    let lines = done(&cluster, &["watch", "a/", "--from", "1", "--limit", "2", "--previous", "--json"]);
    let last: serde_json::Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    assert_eq!((&last["event"], &last["previous"]["value"]), (&"deleted".into(), &"x".into()));
    // A running watch receives later puts.
    let after = (last["revision"].as_u64().unwrap() + 1).to_string();
    let watch = ["watch", "a/", "--from", &after, "--limit", "1"];
    std::thread::scope(|scope| {
        let printed = scope.spawn(|| done(&cluster, &watch));
        done(&cluster, &["put", "a/2", "y"]);
        assert!(printed.join().unwrap().contains("put\ta/2\ty"));
    });
}

#[test]
fn a_transaction_is_read_from_a_file_and_applied_atomically() {
    let cluster = Cluster::start(&["data"], &[]);
    let file = cluster.folder.path().join("txn.json");
    let path = file.to_str().unwrap();
    let write = |text: &str| std::fs::write(&file, text).unwrap();
    write(
        r#"{ "if": [{ "absent": "a" }], "then": [{ "put": "a", "value": "1" }, { "add": "n", "by": 2 }] }"#,
    );
    let first = json(&cluster, &["txn", path]);
    assert_eq!((&first["succeeded"], &first["results"][1]["sum"]), (&true.into(), &2.into()));
    refused(&cluster.run(&["txn", path]), 1, &["a condition did not hold", "nothing was changed"]);
    write(
        r#"{ "if": [{ "value": ["a", "2"] }], "then": [{ "delete": "a" }], "else": [{ "add": "n", "by": -1 }] }"#,
    );
    assert!(done(&cluster, &["txn", path]).ends_with(", by else\nadd\tn\t1\n"));
    assert_eq!(done(&cluster, &["get", "n"]), "1\n");
    write(
        r#"{ "then": [{ "get": "a" }, { "put": "a", "value": "3" }, { "get": "b" }, { "scan": "", "limit": 1 }] }"#,
    );
    assert!(done(&cluster, &["txn", path]).ends_with("\nget\ta\t1\nput\ta\nget\tb\nscan\t\t1\n\ta\t1\n"));
    let read = json(&cluster, &["txn", path]);
    assert_eq!(read["results"][0]["record"]["value"], "3");
    assert_eq!(
        (&read["results"][2]["record"], &read["results"][3]["more"]),
        (&serde_json::Value::Null, &true.into())
    );
    for (wrong, what) in [
        (r#"{ "then": [{ "put": "t", "value": "1", "ttl": "1h", "laese": 3 }] }"#, "unknown field `laese`"),
        (r#"{ "then": [{ "put": "t" }] }"#, "a step with `put`: missing field `value`"),
        (r#"{ "then": [{ "put": "t", "value": 1 }] }"#, "a step with `put`: keys and values must be strings"),
        (r#"{ "then": [{ "putt": "t" }] }"#, "one of `put`, `delete`, `add`, `get`, `scan`, `touch`"),
        (r#"{ "if": [{ "revision": ["a"] }], "then": [] }"#, "of size 2 at line 1"),
    ] {
        write(wrong);
        refused(&cluster.run(&["txn", path]), 2, &["is not a transaction", what, "kv txn --help"]);
    }
    write(r#"{ "then": [{ "put": "t", "value": "x" }] }"#);
    done(&cluster, &["txn", path]);
    write(r#"{ "then": [{ "delete": "a" }, { "add": "t", "by": 1 }] }"#);
    refused(&cluster.run(&["txn", path]), 1, &["step 2 (key \"t\")", "not a whole number"]);
    write(r#"{ "then": [{ "put": "t", "value": "1" }, { "delete": "t" }] }"#);
    refused(&cluster.run(&["txn", path]), 2, &["change the key \"t\""]);
    refused(&cluster.run(&["txn", "/nowhere"]), 2, &["cannot read /nowhere"]);
}
