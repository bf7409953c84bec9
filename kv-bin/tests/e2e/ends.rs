//! How commands end: every signal to every command, and output that nobody takes.

use crate::harness::{Cluster, LIMIT, kv, until, wait};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// How a process is to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// By itself, with this code.
    Code(i32),
    /// By the signal: the system reports it.
    Killed,
    /// Not at all.
    GoesOn,
}
use End::{Code, GoesOn, Killed};

const SIGNALS: [Signal; 6] =
    [Signal::HUP, Signal::INT, Signal::TERM, Signal::QUIT, Signal::USR1, Signal::PIPE];

/// For each command: its output when it is running, its arguments, and how each of [`SIGNALS`] ends it.
const TABLE: &[(&str, &[&str], [End; 6])] = &[
    ("serving", &["serve"], [Code(0), Code(0), Code(0), Killed, Killed, GoesOn]),
    ("put", &["watch", "--from", "1"], [Code(0), Code(0), Code(0), Killed, Killed, GoesOn]),
    (
        "put",
        &["watch", "--from", "1", "--limit", "1000"],
        [Code(129), Code(130), Code(143), Killed, Killed, GoesOn],
    ),
    ("complete", &["dump", "--follow"], [Code(0), Code(0), Code(0), Killed, Killed, GoesOn]),
    (
        "complete",
        &["dump", "--follow", "--limit", "1000"],
        [Code(129), Code(130), Code(143), Killed, Killed, GoesOn],
    ),
    ("members", &["top", "--json"], [Code(0), Code(0), Code(0), Killed, Killed, GoesOn]),
    (
        "",
        &["bench", "watchers", "--counts", "0", "--time", "60s"],
        [Code(129), Code(130), Code(143), Killed, Killed, GoesOn],
    ),
    ("revision", &["shell"], [Code(129), Code(130), Code(143), Killed, Killed, GoesOn]),
    // Nobody answers there: it waits. What it waits for is a connection, so nothing has happened.
    ("", &["put", "a", "b", "--timeout", "60s"], [Killed, Killed, Killed, Killed, Killed, GoesOn]),
    ("", &["watch", "--timeout", "60s"], [Code(129), Code(130), Code(143), Killed, Killed, GoesOn]),
    (
        "",
        &["dump", "--follow", "--timeout", "60s"],
        [Code(129), Code(130), Code(143), Killed, Killed, GoesOn],
    ),
    // Without the line that ends it, a dump is known to be incomplete.
    ("", &["dump", "--timeout", "60s"], [Killed, Killed, Killed, Killed, Killed, GoesOn]),
    ("", &["backup", "-o", "-", "--timeout", "60s"], [Killed, Killed, Killed, Killed, Killed, GoesOn]),
    ("", &["lease", "keep-alive", "1", "--timeout", "60s"], [Killed, Killed, Killed, Killed, Killed, GoesOn]),
];

/// A process at work, and the ends that keep it there.
struct Running {
    child: Child,
    _input: Option<ChildStdin>,
    _output: BufReader<ChildStdout>,
}

impl Running {
    /// Starts it, and waits until it has printed a line that contains `shown`.
    fn start(mut command: Command, shown: &str, typed: &str) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut input = child.stdin.take();
        std::io::Write::write_all(input.as_mut().unwrap(), typed.as_bytes()).unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        while !shown.is_empty() {
            let mut line = String::new();
            assert_ne!(output.read_line(&mut line).unwrap(), 0, "it ends before it is at work");
            if line.contains(shown) {
                break;
            }
        }
        Self { child, _input: input, _output: output }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The command of a row; where it needs nobody to answer, at an address at which nobody listens.
fn command(cluster: &Cluster, shown: &str, arguments: &[&str]) -> Command {
    match arguments {
        ["serve"] => Cluster::prepare(&["data"], &[]).command(0),
        _ if shown.is_empty() => {
            let mut command = kv();
            command.args(arguments).env("KV_ADDRESS", "127.0.0.1:1");
            command
        }
        _ => cluster.kv(arguments),
    }
}

/// Whether it ignores SIGPIPE and has caught its signals, if it does. Signals before that end any process.
fn is_ready(child: &Child, end: End) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let has = |name: &str, signals: &[Signal]| {
        let mask = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0");
        let mask = u64::from_str_radix(mask.trim(), 16).unwrap_or_default();
        signals.iter().all(|signal| mask & 1 << (signal.as_raw() - 1) != 0)
    };
    let caught: &[Signal] =
        if matches!(end, Code(_)) { &[Signal::HUP, Signal::INT, Signal::TERM] } else { &[] };
    has("SigIgn:", &[Signal::PIPE]) && has("SigCgt:", caught)
}

fn check(end: End, status: ExitStatus, signal: Signal, what: &str) {
    match end {
        Code(code) => assert_eq!(status.code(), Some(code), "{what}: {status}"),
        Killed => assert_eq!(status.signal(), Some(signal.as_raw()), "{what}: {status}"),
        GoesOn => panic!("{what}: it ends: {status}"),
    }
}

#[cfg(target_os = "linux")]
#[test]
fn every_signal_to_every_command_ends_it_as_the_table_lists() {
    let cluster = Cluster::start(&["data"], &[]);
    assert!(cluster.run(&["put", "a", "b"]).status.success());
    for (shown, arguments, ends) in TABLE {
        for (signal, end) in SIGNALS.into_iter().zip(ends) {
            let what = format!("{signal:?} to kv {}", arguments.join(" "));
            let typed = if arguments[0] == "shell" { "put a b\n" } else { "" };
            let mut running = Running::start(command(&cluster, shown, arguments), shown, typed);
            until("it is at work", || is_ready(&running.child, *end));
            running.signal(signal);
            if *end == GoesOn {
                // Nothing is left of it once a later one has ended it.
                std::thread::sleep(Duration::from_millis(20));
                assert!(running.child.try_wait().unwrap().is_none(), "{what}");
                running.signal(Signal::TERM);
                wait(&mut running.child);
            } else {
                check(*end, wait(&mut running.child), signal, &what);
            }
        }
    }
}

/// A supervisor signals the process and its group: that is one request to stop, and no order to stop at once.
#[test]
fn a_member_with_two_stop_signals_stops_gracefully() {
    for first in [Signal::TERM, Signal::INT, Signal::HUP] {
        let place = Cluster::prepare(&["data"], &[]);
        let mut running = Running::start(place.command(0), "serving", "");
        running.signal(first);
        std::thread::sleep(Duration::from_millis(2));
        running.signal(Signal::TERM);
        assert_eq!(wait(&mut running.child).code(), Some(0), "{first:?}");
    }
}

/// `nohup kv serve` continues when its terminal is closed.
#[cfg(target_os = "linux")]
#[test]
fn a_member_under_nohup_outlives_its_terminal() {
    let mut place = Cluster::prepare(&["data"], &[]);
    place.under[0] = vec!["nohup".to_owned()];
    let mut running = Running::start(place.command(0), "serving", "");
    running.signal(Signal::HUP);
    std::thread::sleep(Duration::from_millis(100));
    assert!(running.child.try_wait().unwrap().is_none(), "it goes on");
    running.signal(Signal::TERM);
    assert_eq!(wait(&mut running.child).code(), Some(0));
}

/// The smallest pipe that there is.
#[cfg(target_os = "linux")]
const PIPE: usize = 4096;

/// stderr is a pipe that nobody reads: the log fills it, but the member continues, and stops on a signal.
#[cfg(target_os = "linux")]
#[test]
fn an_unread_log_does_not_block_a_member() {
    let place = Cluster::prepare(&["data"], &[]);
    let mut command = place.command(0);
    command.args(["--log", "trace"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut member = command.spawn().unwrap();
    rustix::pipe::fcntl_setpipe_size(member.stderr.as_ref().unwrap(), PIPE).unwrap();
    let mut line = String::new();
    BufReader::new(member.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("serving"), "{line}");
    for number in 0..30 {
        let put = place.run(&["put", "key", &number.to_string()]);
        assert!(put.status.success(), "put {number}: {put:?}");
    }
    kill_process(Pid::from_child(&member), Signal::TERM).unwrap();
    assert_eq!(wait(&mut member).code(), Some(0));
    let mut log = String::new();
    let mut stderr = member.stderr.take().unwrap();
    let (read, done) = mpsc::channel();
    std::thread::spawn(move || {
        let _ = stderr.read_to_string(&mut log);
        read.send(log)
    });
    let log = done.recv_timeout(LIMIT).unwrap();
    // A line that does not fit as a whole waits.
    assert!(log.len() >= PIPE / 2, "the pipe was full: {} bytes", log.len());
}

/// No command that prints succeeds if the disk is full. Each row: its arguments, and its standard input.
#[cfg(target_os = "linux")]
#[test]
fn output_that_cannot_be_written_is_a_failure_of_every_command() {
    let cluster = Cluster::start(&["data"], &[]);
    for number in 0..3 {
        assert!(cluster.run(&["put", &format!("key/{number}"), "value"]).status.success());
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    let lease = cluster.run(&["lease", "grant", "1h", "--json"]);
    let lease: serde_json::Value = serde_json::from_slice(&lease.stdout).unwrap();
    let lease = lease["lease"].to_string();
    let rows: &[(&[&str], &str)] = &[
        (&["put", "a", "b"], ""),
        (&["put", "a", "b", "--previous"], ""),
        (&["get", "key/1"], ""),
        (&["get", "nobody", "--json"], ""),
        (&["delete", "key/0"], ""),
        (&["scan", ""], ""),
        (&["watch", "--from", "1", "--limit", "1"], ""),
        (&["txn", "-"], "{ \"then\": [{ \"get\": \"a\" }] }"),
        (&["load", "-"], "{ \"key\": \"a\", \"value\": \"b\" }\n{ \"event\": \"complete\", \"keys\": 1 }"),
        (&["touch", "key/1", "--ttl", "1h"], ""),
        (&["count"], ""),
        (&["dump"], ""),
        (&["dump", "--follow"], ""),
        (&["backup", "-o", "-"], ""),
        (&["members"], ""),
        (&["compact"], ""),
        (&["lease", "grant", "1s"], ""),
        (&["lease", "keep-alive", &lease], ""),
        (&["lease", "show", &lease], ""),
        (&["lease", "revoke", &lease], ""),
        (&["status"], ""),
        (&["status", "--wait"], ""),
        (&["handover", "--to", "0"], ""),
        (&["status", "--json"], ""),
        (&["top", "--once"], ""),
        (&["top", "--json"], ""),
        (&["shell"], "get key/1\n"),
        (&["certs", "--out", folder], ""),
        (&["completions", "bash"], ""),
        (&["man", "--out", folder], ""),
        (&["--help"], ""),
        (&["put", "--help"], ""),
        (&["--version"], ""),
    ];
    for (arguments, typed) in rows {
        let mut command = cluster.kv(arguments);
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut child = command.stdin(Stdio::piped()).stdout(full).stderr(Stdio::piped()).spawn().unwrap();
        // It need not read it.
        let _ = std::io::Write::write_all(&mut child.stdin.take().unwrap(), typed.as_bytes());
        let status = wait(&mut child);
        let mut message = String::new();
        child.stderr.take().unwrap().read_to_string(&mut message).unwrap();
        assert_eq!(status.code(), Some(1), "{arguments:?}: {message}");
        assert!(message.contains("No space left"), "{arguments:?}: {message}");
        assert_eq!(message.lines().count(), 1, "{arguments:?}: {message}");
    }
}

/// Nobody reads the output of a command: it ends without a panic or a failure.
#[test]
fn a_command_whose_output_is_closed_succeeds() {
    let cluster = Cluster::start(&["data"], &[]);
    for number in 0..20 {
        assert!(cluster.run(&["put", &format!("key/{number}"), "value"]).status.success());
    }
    let lease = cluster.run(&["lease", "grant", "1h", "--json"]);
    let lease: serde_json::Value = serde_json::from_slice(&lease.stdout).unwrap();
    let lease = lease["lease"].to_string();
    let rows: &[&[&str]] = &[
        &["put", "a", "b"],
        &["get", "key/1"],
        &["delete", "a"],
        &["scan", ""],
        &["watch", "--from", "1", "--limit", "20"],
        &["touch", "key/1", "--ttl", "1h"],
        &["count"],
        &["dump"],
        &["dump", "--follow"],
        &["members"],
        &["lease", "grant", "1s"],
        &["lease", "show", &lease],
        &["status"],
        &["status", "--wait"],
        &["handover", "--to", "0"],
        &["status", "--json"],
        &["top", "--json"],
        &["top", "--once"],
        &["completions", "bash"],
        &["--help"],
        &["--version"],
    ];
    for arguments in rows {
        let mut command = cluster.kv(arguments);
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let status = wait(&mut child);
        let mut message = String::new();
        child.stderr.take().unwrap().read_to_string(&mut message).unwrap();
        assert_eq!((status.code(), message.as_str()), (Some(0), ""), "{arguments:?}");
    }
}
