//! Keys and values are bytes: in and out of every command, whatever they are.

use crate::harness::{Cluster, refused, run_on, stderr, stdout};
use std::fs;

/// Keys and values that no command line, no line and no JSON string can hold as they are.
const KEY: [&str; 2] = ["0000ff0a", "AAD/Cg=="];
const VALUE: [&str; 2] = ["00fe1b5b", "AP4bWw=="];
const FLAGS: [&str; 2] = ["--hex", "--base64"];

#[track_caller]
fn done(cluster: &Cluster, arguments: &[&str]) -> String {
    let output = cluster.run(arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", stderr(&output));
    stdout(&output)
}

/// Runs `kv ARGUMENTS` with this on standard input.
#[track_caller]
fn done_with(cluster: &Cluster, arguments: &[&str], input: &[u8]) -> String {
    let file = cluster.folder.path().join("input");
    fs::write(&file, input).unwrap();
    let output = run_on(fs::File::open(&file).unwrap(), &mut cluster.kv(arguments));
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", stderr(&output));
    stdout(&output)
}

#[test]
fn every_command_takes_and_prints_any_bytes() {
    let cluster = Cluster::start(&["data"], &[]);
    for (at, flag) in FLAGS.into_iter().enumerate() {
        let (key, value) = (KEY[at], VALUE[at]);
        let field = flag.trim_start_matches("--");
        let record = [format!("\"key_{field}\":\"{key}\""), format!("\"value_{field}\":\"{value}\"")];
        let has_record = |text: &str| record.iter().all(|part| text.contains(part));
        let put = done(&cluster, &["put", flag, key, value]);
        let revision = put.trim_start_matches("revision ").trim().to_owned();
        assert_eq!(done(&cluster, &["get", flag, key]), format!("{value}\n"));
        assert!(has_record(&done(&cluster, &["get", flag, key, "--json"])));
        let (prefix, other, gone) = (&key[..4], ["aa", "qg=="][at], ["ab", "qw=="][at]);
        for prefix in [prefix, ""] {
            assert_eq!(done(&cluster, &["scan", flag, prefix]), format!("{key}\t{value}\n"), "{prefix:?}");
        }
        assert_eq!(done(&cluster, &["scan", flag, "--keys-only"]), format!("{key}\n"));
        assert!(has_record(&done(&cluster, &["scan", flag, "--json"])));
        let keys = done(&cluster, &["scan", flag, "--json", "--keys-only"]);
        assert!(keys.contains(&record[0]) && !keys.contains("value"), "{keys}");
        let watch = ["watch", flag, prefix, "--from", &revision, "--limit", "1"];
        assert_eq!(done(&cluster, &watch), format!("{revision}\tput\t{key}\t{value}\n"));
        assert!(has_record(&done(&cluster, &[&watch[..], &["--json"]].concat())));
        let before = done(&cluster, &["put", flag, key, value, "--previous"]);
        assert!(before.ends_with(&format!("\n{value}\n")), "{before}");
        done(&cluster, &["lock", flag, gone, "--value", value, "--", "true"]);
        let file = format!(
            r#"{{"if":[{{"value_{field}":["{key}","{value}"]}},{{"present_{field}":"{key}"}}],
                "then":[{{"get_{field}":"{key}"}},{{"scan_{field}":"{prefix}"}},{{"put_{field}":"{other}","value_{field}":"{value}"}},
                        {{"delete_{field}":"{gone}"}}]}}"#
        );
        let printed = done_with(&cluster, &["txn", "-", flag], file.as_bytes());
        assert_eq!(printed.matches(&format!("{key}\t{value}\n")).count(), 2, "{printed}");
        assert!(has_record(&done_with(&cluster, &["txn", "-", flag, "--json"], file.as_bytes())));
        let printed = done_with(&cluster, &["shell"], format!("get {flag} {key}\n").as_bytes());
        assert_eq!(printed, format!("{value}\n"));
        assert!(done(&cluster, &["delete", flag, key]).starts_with("revision "));
        refused(&cluster.run(&["get", flag, key]), 1, &[key, "does not exist"]);
        done(&cluster, &["delete", flag, other]);
        // Without the flag, they go through as they are.
        done_with(&cluster, &["put", flag, key, "-"], &[0, 0xfe, 0x1b, b'[']);
        assert_eq!(cluster.run(&["get", flag, key]).stdout, format!("{value}\n").into_bytes());
        done(&cluster, &["delete", flag, key]);
    }
    for arguments in [
        &["get", "--hex", "0"][..],
        &["put", "--hex", "00", "zz"],
        &["scan", "--base64", "A"],
        &["watch", "--hex", "x"],
        &["delete", "--hex", "0x00"],
        &["lock", "--hex", "0", "--", "true"],
    ] {
        refused(&cluster.run(arguments), 2, &["not "]);
    }
}

#[test]
fn json_printed_by_scan_can_be_loaded() {
    let cluster = Cluster::start(&["data"], &[]);
    done(&cluster, &["put", "text", "a\nb\t\"c\" \u{1b}[2J ü"]);
    done(&cluster, &["put", "empty", ""]);
    done(&cluster, &["put", "--hex", KEY[0], VALUE[0]]);
    done(&cluster, &["put", "text2", "value_hex"]);
    done(&cluster, &["put", "brief", "1", "--ttl", "1h"]);
    for flags in [&[][..], &["--hex"], &["--base64"]] {
        let before = done(&cluster, &["scan", "--base64"]);
        let backup = done(&cluster, &[&["scan", "--json"], flags].concat());
        assert!(!backup.contains('\u{1b}'), "{backup}");
        for key in before.lines().map(|line| line.split('\t').next().unwrap()) {
            done(&cluster, &["delete", "--base64", key]);
        }
        assert_eq!(done(&cluster, &["scan"]), "");
        // As an editor may have left it: with a mark at its beginning, and an empty line.
        let printed = done_with(&cluster, &["load", "-"], format!("\u{feff}{backup}\n\n").as_bytes());
        let left_out = if flags.is_empty() { ", skipped because they expire: 1" } else { "" };
        assert_eq!(printed, format!("keys loaded: 4{left_out}\n"));
        let after = done(&cluster, &["scan", "--base64"]);
        let kept: String =
            before.split_inclusive('\n').filter(|line| !line.starts_with("YnJpZWY=")).collect();
        assert_eq!(after, kept);
    }
    let wrong = run_on(
        fs::File::open(cluster.folder.path().join("input")).unwrap(),
        &mut cluster.kv(&["load", "/nowhere/backup"]),
    );
    refused(&wrong, 2, &["cannot read /nowhere/backup"]);
}
