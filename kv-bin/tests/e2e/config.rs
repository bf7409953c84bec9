//! Mistakes in the configuration: each is named in one line, and leaves the disk as it was.

use crate::harness::{Cluster, contents, kv, refused, run, run_on, stderr, stdout, until};
use std::fs;

/// One that does nothing.
const TRANSACTION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/nothing.json");
const THREE: &str = "0=127.0.0.1:7000,1=127.0.0.1:7001,2=127.0.0.1:7002";

#[test]
fn each_mistake_is_reported_in_one_line_and_leaves_the_disk_unchanged() {
    let line =
        |id, role| format!("[[member]]\nid = {id}\naddress = \"127.0.0.1:700{id}\"\nrole = \"{role}\"\n");
    let (member, second) = (line(0, "data"), line(1, "data"));
    let witnesses = format!("{member}{}{}", line(1, "witness"), line(2, "witness"));
    for (text, flags, fragments) in [
        (
            format!("{member}{}", second.replace("id = 1", "id = 0")),
            vec![],
            vec!["duplicate member id 0", "an id of its own"],
        ),
        (member.replace("data", "boss"), vec![], vec!["unknown role \"boss\"", "data or witness"]),
        (member.replace("127.0.0.1:", "127.0.0.1;"), vec![], vec!["member 0", "127.0.0.1;7000", "HOST:PORT"]),
        (format!("{member}[options]\nheartbeat = \"0ms\"\n"), vec![], vec!["heartbeat is 0", "1 ms to 10 s"]),
        (
            format!("{member}[options]\nfailure_timeout_min = \"0s\"\n"),
            vec![],
            vec!["failure_timeout_min is 0", "3 heartbeats"],
        ),
        (
            format!("{member}[options]\nfailure_timeout_max = \"0s\"\n"),
            vec![],
            vec!["failure_timeout_max is 0"],
        ),
        (format!("{member}[options]\nsession_ttl = \"0s\"\n"), vec![], vec!["session_ttl is 0"]),
        (witnesses, vec![], vec!["2 of 3 members are witnesses", "at most 1"]),
        (format!("colour = \"red\"\n{member}"), vec![], vec!["line 1", "unknown field `colour`"]),
        (format!("{member}{second}"), vec!["--id", "5"], vec!["member 5 is not in the configuration"]),
        (member.replace("127.0.0.1", "192.0.2.1"), vec![], vec!["without encryption", "--insecure"]),
        (format!("transport = \"pigeon\"\n{member}"), vec![], vec!["line 1", "pigeon", "tcp"]),
        (format!("{member}{second}"), vec!["--log", "loud"], vec!["\"loud\" is not a log filter"]),
        (format!("{member}{second}"), vec!["--log", "info,x="], vec!["\"x=\" is not a log filter"]),
        (format!("{member}{second}"), vec!["--max-leases", "x"], vec!["write a whole number from 0 to"]),
        (format!("{member}[options]\nheartbeat = 25\n"), vec![], vec!["`heartbeat = 25`", "\"25ms\""]),
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
fn a_missing_file_is_reported() {
    let output = run(kv().args(["serve", "--id", "0", "--config", "/nowhere/cluster.toml"]));
    refused(&output, 2, &["/nowhere/cluster.toml", "No such file"]);
}

#[test]
fn flags_override_variables_and_variables_override_the_file() {
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
    refused(&run(serve().env("KV_HEARTBEAT", "foo")), 2, &["'foo' for 'KV_HEARTBEAT'"]);
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
fn wrong_usage_exits_with_code_2() {
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
fn a_client_without_a_cluster_reports_the_addresses_it_tried() {
    let address = format!("127.0.0.1:{}", crate::harness::free_port());
    let output = run(kv().args(["get", "key", "--timeout", "300ms", "--address", &address]));
    refused(&output, 1, &["--address", &address]);
}

#[test]
fn a_cluster_that_does_not_form_reports_what_it_needs() {
    let mut cluster = Cluster::prepare(&["data", "data"], &[]);
    cluster.restart(0);
    until("it is logged", || {
        cluster.log(0).contains("the first start of a cluster needs all of its members")
    });
    cluster.restart(1);
    assert!(cluster.run(&["put", "k", "v"]).status.success());
}

/// The variables that a command's help names.
fn variables(command: &[&str]) -> Vec<String> {
    let help = stdout(&run(kv().args(command).arg("--help")));
    let names = help.split("[env: ").skip(1).filter_map(|rest| Some(rest.split('=').next()?.to_owned()));
    let names: Vec<_> = names.collect();
    assert!(names.len() > 5 && names.contains(&"KV_CONFIG".to_owned()), "{names:?}");
    names
}

#[test]
fn a_variable_that_is_set_but_empty_counts_as_not_set() {
    let cluster = Cluster::start(&["data"], &[]);
    for empty in ["", " "] {
        let mut get = cluster.kv(&["put", "key", "value", "--address", cluster.address(0)]);
        get.envs(variables(&["put"]).into_iter().map(|name| (name, empty)));
        let output = run(&mut get);
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(stderr(&output), "");
        let mut serve = kv();
        serve.args(["serve", "--members", THREE, "--id", "7"]);
        serve.envs(variables(&["serve"]).into_iter().map(|name| (name, empty)));
        refused(&run(&mut serve), 2, &["member 7 is not in the configuration"]);
        let mut shell = cluster.kv(&["shell", "--address", cluster.address(0)]);
        shell.envs(variables(&["shell"]).into_iter().map(|name| (name, empty)));
        let script = cluster.folder.path().join("script");
        fs::write(&script, "\u{feff}get key\r\n").unwrap();
        let output = run_on(fs::File::open(script).unwrap(), &mut shell);
        assert_eq!(stdout(&output), "value\n", "{}", stderr(&output));
    }
}

#[test]
fn all_spellings_of_booleans_are_accepted() {
    let serve = |value: &str| {
        let mut command = kv();
        command.args(["serve", "--members", "0=192.0.2.1:7000", "--id", "0"]).env("KV_INSECURE", value);
        run(&mut command)
    };
    for no in ["0", "false", "no", "off", "False", " no "] {
        refused(&serve(no), 2, &["without encryption"]);
    }
    refused(&serve("perhaps"), 2, &["perhaps", "KV_INSECURE", "true or false"]);
    for yes in ["1", "true", "YES", "on"] {
        // It gets as far as that the address is not this machine's.
        refused(&serve(yes), 1, &["192.0.2.1"]);
    }
}

#[test]
fn lists_may_contain_spaces_but_no_empty_elements() {
    let cluster = Cluster::start(&["data"], &[]);
    let address = cluster.address(0);
    let status = |list: &str| run(kv().args(["put", "a", "b"]).env("KV_ADDRESS", list));
    for list in [format!(" {address} , 127.0.0.1:1"), format!("127.0.0.1:1, {address}")] {
        let output = status(&list);
        assert!(output.status.success(), "{list:?}: {}", stderr(&output));
    }
    for list in [format!("{address},"), format!("{address},,{address}")] {
        refused(&status(&list), 2, &["the list has an empty element"]);
    }
    let folder = tempfile::tempdir().unwrap();
    let certs = |members: &str| {
        let mut command = kv();
        command.args(["certs", "--members", members, "--clients", "app, ops", "--out"]);
        run(command.arg(folder.path().join("certs")))
    };
    refused(&certs("0, x"), 2, &["members", "x"]);
    assert!(certs("0, 1").status.success());
    assert!(
        folder.path().join("certs/client-ops.pem").exists()
            && folder.path().join("certs/member-1.pem").exists()
    );
}

#[test]
fn every_command_reports_a_malformed_address_at_once() {
    let addresses = [
        "localhost",
        "localhost:x",
        "localhost:70000",
        "http://localhost:7000",
        "::1:7000",
        ":7000",
        "127.0.0.1:0",
        "1.2.3:7000",
        "a b:7000",
    ];
    for address in addresses {
        for command in [
            &["get", "k"][..],
            &["put", "k", "v"],
            &["delete", "k"],
            &["scan"],
            &["watch"],
            &["txn", TRANSACTION],
            &["load", "/dev/null"],
            &["lease", "grant", "1s"],
            &["lease", "show", "1"],
            &["lock", "k"],
            &["status"],
            &["top", "--once"],
        ] {
            let begun = std::time::Instant::now();
            let mut kv = kv();
            kv.args(command).args(["--timeout", "100s", "--address", &format!("127.0.0.1:1,{address}")]);
            if command[0] == "lock" {
                kv.args(["--", "true"]);
            }
            refused(&run(&mut kv), 2, &[address]);
            assert!(begun.elapsed() < std::time::Duration::from_secs(60), "{command:?} waited");
        }
        let members = format!("0={address}");
        refused(&run(kv().args(["serve", "--id", "0", "--members", &members])), 2, &["member 0", address]);
    }
    for listen in addresses.into_iter().filter(|address| *address != "127.0.0.1:0") {
        let folder = tempfile::tempdir().unwrap();
        let mut serve = kv();
        serve.args(["serve", "--id", "0", "--members", "0=127.0.0.1:1", "--listen", listen]);
        refused(&run(serve.current_dir(folder.path())), 2, &["cannot listen", listen]);
        assert!(contents(folder.path()).is_empty());
    }
}

#[test]
fn an_unknown_variable_is_reported() {
    let mut command = kv();
    command.args(["put", "k", "v", "--address", "nonsense"]).env("KV_ADRESS", "x").env("KV_FOO", "y");
    command
        .env("KV_SERVICE_HOST", "z")
        .env("KV_PORT_7000_TCP", "z")
        .env("KV_LOCK_TOKEN", "7")
        .env("KVX", "z");
    let output = run(&mut command);
    let text = stderr(&output);
    assert!(text.contains("KV_ADRESS") && text.contains("did you mean KV_ADDRESS?"), "{text}");
    assert!(text.contains("KV_FOO"), "{text}");
    assert_eq!(text.lines().count(), 3, "{text}");
}
