//! `kv demo`: its output, and that it leaves nothing behind.

use crate::harness::{LIMIT, kv, run, stderr, stdout, until, wait};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// A demo with its own temporary folder.
fn demo(place: &TempDir) -> Command {
    let mut command = kv();
    command.arg("demo").env("TMPDIR", place.path());
    command
}

/// Checks that nothing is left of a demo: no folder, and no process that names its place.
fn nothing_is_left(place: &TempDir) {
    until("all processes are gone", || members(place.path()).is_empty());
    until("all folders are gone", || fs::read_dir(place.path()).unwrap().next().is_none());
}

/// The processes whose command line names this folder.
fn members(place: &Path) -> Vec<Pid> {
    let name = place.to_str().unwrap();
    let numbers =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let named = numbers.filter(|pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(name)
    });
    named.filter_map(Pid::from_raw).collect()
}

#[test]
fn both_scenarios_lose_nothing_and_apply_nothing_twice() {
    nothing_is_lost_over("tcp");
}

#[test]
fn both_scenarios_lose_nothing_and_apply_nothing_twice_over_quic() {
    nothing_is_lost_over("quic");
}

fn nothing_is_lost_over(transport: &str) {
    let place = tempfile::tempdir().unwrap();
    let output = run(demo(&place).args(["--json", "--transport", transport]));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = stdout(&output);
    let reports: serde_json::Value =
        serde_json::from_str(text.lines().last().expect("a line")).expect("JSON");
    let reports = reports.as_array().expect("a list");
    assert_eq!(reports.len(), 2);
    for (report, scenario) in reports.iter().zip(["crash", "omission"]) {
        assert_eq!(report["scenario"], scenario);
        assert_eq!(report["transport"], transport);
        assert_eq!((&report["lost"], &report["duplicated"]), (&0.into(), &0.into()), "{report}");
        assert!(report["acknowledged"].as_u64().unwrap() >= 200, "{report}");
        assert_eq!(report["writes"], report["acknowledged"], "{report}");
        assert!(report["outage_ms"].as_f64().unwrap() > 0.0, "{report}");
    }
    nothing_is_left(&place);
}

#[test]
fn the_demo_prints_plain_text_to_a_pipe() {
    let place = tempfile::tempdir().unwrap();
    let output = run(demo(&place).args(["--scenario", "crash"]).env_remove("NO_COLOR"));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = stdout(&output);
    for fragment in
        ["the primary, is killed", "has automatically become primary", "has caught up", "scenario", "outage"]
    {
        assert!(text.contains(fragment), "{text}");
    }
    assert!(!text.contains('\u{1b}'), "no colours in a pipe");
    assert!(!text.contains("omission"), "only what was asked for");
    nothing_is_left(&place);
}

/// Starts the demo, and waits until it has printed a line that contains the fragment.
fn started(place: &TempDir, scenario: &str, fragment: &str) -> Child {
    let mut command = demo(place);
    command.args(["--scenario", scenario]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let found = stdout.lines().map_while(Result::ok).any(|line| line.contains(fragment));
    assert!(found, "the demo never printed {fragment:?}");
    child
}

#[test]
fn an_interrupted_demo_leaves_nothing_behind() {
    for (signal, code, scenario, fragment) in [
        (Signal::INT, 130, "crash", "member 2 serves"),
        (Signal::TERM, 143, "crash", "kill -9"),
        (Signal::HUP, 129, "omission", "from now on"),
    ] {
        let place = tempfile::tempdir().unwrap();
        let mut child = started(&place, scenario, fragment);
        assert!(members(place.path()).len() >= 2, "there is something to leave");
        kill_process(Pid::from_child(&child), signal).unwrap();
        assert_eq!(wait(&mut child).code(), Some(code), "{signal:?}");
        nothing_is_left(&place);
    }
}

#[test]
fn a_killed_demo_leaves_nothing_behind() {
    for (signal, fragment) in
        [(Signal::KILL, "member 2 serves"), (Signal::KILL, "kill -9"), (Signal::KILL, "clients write")]
    {
        let place = tempfile::tempdir().unwrap();
        let mut child = started(&place, "crash", fragment);
        assert!(members(place.path()).len() >= 2, "there is something to leave");
        kill_process(Pid::from_child(&child), signal).unwrap();
        assert_eq!(wait(&mut child).code(), None, "{signal:?}");
        nothing_is_left(&place);
    }
}

#[test]
fn a_demo_whose_cluster_dies_fails_and_leaves_nothing_behind() {
    let place = tempfile::tempdir().unwrap();
    let mut child = started(&place, "crash", "kill -9");
    let pids = members(place.path());
    assert!(pids.len() >= 2, "two members are left");
    for pid in pids {
        // They are members of this test's own demo: their command lines name its folder.
        let _ = kill_process(pid, Signal::KILL);
    }
    assert_eq!(wait(&mut child).code(), Some(1), "within {LIMIT:?}");
    nothing_is_left(&place);
}
