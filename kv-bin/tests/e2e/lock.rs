//! `kv lock`: whatever runs under a lock ends with it.

use crate::commands::done;
use crate::harness::{Cluster, kv, stderr, until};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::Path;
use std::process::{Child, Output, Stdio};
use tempfile::TempDir;

/// `kv lock` with a command that has written the ids of its processes into files.
struct Held {
    kv: Child,
    ids: TempDir,
}

/// A shell that starts a child, a grandchild whose parent has ended, and a process that has left the session.
const FAMILY: &str = "cd $IDS; \
    (sleep 600 & echo $! > orphan.new; mv orphan.new orphan); \
    setsid sh -c 'echo $$ > gone.new; mv gone.new gone; exec sleep 600' & \
    sleep 600 & echo $! > child.new; mv child.new child; \
    until [ -e orphan -a -e gone ]; do sleep 0.01; done; \
    echo $$ > command.new; mv command.new command; ";

impl Held {
    /// Starts it, and waits until the command and its family run.
    fn start(cluster: &Cluster, name: &str, ttl: &str, then: &str) -> Self {
        let ids = TempDir::new().unwrap();
        let mut command = kv();
        command.args(["lock", name, "--ttl", ttl, "--address", cluster.address(0), "--", "sh", "-c"]);
        command.arg(format!("{FAMILY}{then}")).env("IDS", ids.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let kv = command.spawn().unwrap();
        let held = Self { kv, ids };
        until("the command runs", || held.family().len() == 4);
        held
    }

    /// The processes that have printed their ids.
    fn family(&self) -> Vec<i32> {
        let read = |name: &str| fs::read_to_string(self.ids.path().join(name)).ok();
        ["command", "child", "orphan", "gone"]
            .iter()
            .filter_map(|name| read(name)?.trim().parse().ok())
            .collect()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.kv), signal).unwrap();
    }

    /// Waits for its end: no descendant may be left.
    fn end(self) -> Output {
        let family = self.family();
        let Self { mut kv, ids } = self;
        crate::harness::wait(&mut kv);
        let output = kv.wait_with_output().unwrap();
        let left: Vec<_> = family.into_iter().filter(|id| runs(*id)).collect();
        for id in &left {
            let _ = kill_process(Pid::from_raw(*id).unwrap(), Signal::KILL);
        }
        assert!(left.is_empty(), "{left:?} still run: {}", stderr(&output));
        drop(ids);
        output
    }
}

/// Whether a process runs. A zombie does not.
fn runs(id: i32) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(id.to_string()).join("stat"));
    stat.is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
}

/// A lock that is held by nobody can be taken at once.
fn is_free(cluster: &Cluster, name: &str) {
    let output = cluster.run(&["lock", name, "--wait", "0s", "--", "true"]);
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn a_signal_ends_the_command_and_its_descendants() {
    let cluster = Cluster::start(&["data"], &[]);
    for signal in
        [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM, Signal::USR1, Signal::USR2, Signal::ALARM]
    {
        let held = Held::start(&cluster, "l", "10s", "wait");
        held.signal(signal);
        let output = held.end();
        assert_eq!(output.status.code(), Some(128 + signal.as_raw()), "{signal:?}: {}", stderr(&output));
        is_free(&cluster, "l");
    }
}

/// What is ignored where `kv lock` is started, as under `nohup`, the command ignores too.
#[test]
fn a_command_inherits_ignored_signals() {
    let cluster = Cluster::start(&["data"], &[]);
    let script = "kill -HUP $PPID; kill -HUP $$; kill -INT $$; echo goes on";
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "trap '' HUP INT; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_kv")]);
    command.args(["lock", "l", "--address", cluster.address(0), "--", "sh", "-c", script]);
    let output = crate::harness::run(&mut command);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(output.stdout, b"goes on\n");
}

#[test]
fn a_command_may_handle_signals_itself() {
    let cluster = Cluster::start(&["data"], &[]);
    let held = Held::start(&cluster, "l", "10s", "trap 'exit 9' TERM; touch $IDS/ready; wait");
    until("the trap is set", || held.ids.path().join("ready").exists());
    held.signal(Signal::TERM);
    assert_eq!(held.end().status.code(), Some(9));
    is_free(&cluster, "l");
}

#[test]
fn descendants_are_killed_before_the_lock_is_released() {
    let cluster = Cluster::start(&["data"], &[]);
    let output = Held::start(&cluster, "l", "10s", "exit 0").end();
    assert!(output.status.success(), "{}", stderr(&output));
    is_free(&cluster, "l");
}

#[test]
fn a_command_is_killed_when_the_lock_is_lost() {
    let cluster = Cluster::start(&["data"], &[]);
    type Lose = fn(&Cluster);
    let losses: [(&str, Lose); 2] = [
        ("key was removed", |cluster| drop(done(cluster, &["delete", "l"]))),
        // Its keys go with it: whichever is noticed first.
        ("the lock's ", |cluster| {
            let line = done(cluster, &["get", "l", "--json"]);
            let record: serde_json::Value = serde_json::from_str(&line).unwrap();
            done(cluster, &["lease", "revoke", &record["lease"].to_string()]);
        }),
    ];
    for (expected, lose) in losses {
        // It ignores what a command can ignore.
        let held = Held::start(&cluster, "l", "2s", "trap '' TERM HUP INT; wait; sleep 600");
        lose(&cluster);
        let output = held.end();
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        assert!(
            stderr(&output).contains(expected) && stderr(&output).contains("killed"),
            "{expected}: {}",
            stderr(&output)
        );
        let _ = cluster.run(&["delete", "l"]);
    }
}

#[test]
fn a_command_is_killed_when_no_member_is_left() {
    let mut cluster = Cluster::start(&["data"], &[]);
    let held = Held::start(&cluster, "l", "1s", "wait");
    cluster.kill(0);
    let output = held.end();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("could not be renewed in time"), "{}", stderr(&output));
}

#[test]
fn a_command_that_cannot_be_run_has_the_codes_of_a_shell() {
    let cluster = Cluster::start(&["data"], &[]);
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    for (command, code) in [("/no/such/program", 127), (file.to_str().unwrap(), 126), ("/", 126)] {
        let output = cluster.run(&["lock", "l", "--", command]);
        crate::harness::refused(&output, code, &["cannot run", command]);
        is_free(&cluster, "l");
    }
}

#[test]
fn a_signal_while_waiting_leaves_the_lock_queue() {
    let cluster = Cluster::start(&["data"], &[]);
    let held = Held::start(&cluster, "l", "10s", "wait");
    let mut waiting = kv();
    waiting.args(["lock", "l", "--address", cluster.address(0), "--", "true"]);
    waiting.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut waiting = waiting.spawn().unwrap();
    until("it waits", || {
        cluster.run(&["scan", "l", "--keys-only"]).stdout.split(|byte| *byte == b'\n').count() > 2
    });
    kill_process(Pid::from_child(&waiting), Signal::HUP).unwrap();
    assert_eq!(crate::harness::wait(&mut waiting).code(), Some(128 + 1));
    held.signal(Signal::TERM);
    assert_eq!(held.end().status.code(), Some(128 + 15));
    is_free(&cluster, "l");
}
