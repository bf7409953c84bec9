//! The warnings that an operator must see in the log of real members, at the default level.

use crate::harness::{Cluster, free_port, kv, run, stderr, until, wait};
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Whether some line has all of these.
fn logged(log: &str, fragments: &[&str]) -> bool {
    log.lines().any(|line| fragments.iter().all(|fragment| line.contains(fragment)))
}

fn ready(cluster: &Cluster) {
    assert!(cluster.run(&["put", "ready", "1", "--timeout", "60s"]).status.success());
}

/// Whether the log of each of these members has a line with all fragments, in the end.
#[track_caller]
fn all_say(cluster: &Cluster, members: &[usize], fragments: &[&str]) {
    for id in members {
        until(&format!("member {id} logs {fragments:?}"), || logged(&cluster.log(*id), fragments));
    }
}

#[test]
fn all_others_report_a_lost_member_and_its_return() {
    let mut cluster = Cluster::of_three();
    ready(&cluster);
    for id in 0..3 {
        assert!(!cluster.log(id).contains("WARN"), "{}", cluster.log(id));
    }
    let address = cluster.address(2).to_owned();
    cluster.kill(2);
    all_say(&cluster, &[0, 1], &["WARN", "no connection with a member", "peer=2", &address]);
    all_say(&cluster, &[0, 1], &["WARN", "no redundancy", "working=2"]);
    cluster.restart(2);
    all_say(&cluster, &[0, 1], &["INFO", "the connection with a member is back", "peer=2", &address]);
    all_say(&cluster, &[0, 1], &["INFO", "redundant again"]);
    // A frozen member counts as lost, too, although its system still accepts connections; and without two members there
    // is no quorum.
    cluster.pause(1);
    all_say(&cluster, &[0, 2], &["WARN", "no connection with a member", "peer=1"]);
    cluster.kill(0);
    all_say(&cluster, &[2], &["WARN", "no quorum", "working=1"]);
    cluster.resume(1);
    all_say(&cluster, &[2], &["WARN", "quorum is back", "working=2"]);
}

/// A process that is killed when it is dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = wait(&mut self.0);
    }
}

/// A copy of a member's folder is started beside it: the worst that a restored backup can do.
#[test]
fn a_duplicate_member_process_is_reported() {
    let cluster = Cluster::of_three();
    ready(&cluster);
    let copy = cluster.folder.path().join("copy");
    let copied = Command::new("cp").arg("-r").arg(cluster.data(2)).arg(&copy).status().unwrap();
    assert!(copied.success());
    let _ = fs::remove_file(copy.join("LOCK"));
    let mut command = kv();
    command.args(["serve", "--id", "2", "--members", &cluster.members, "--segment-bytes", "3MiB"]);
    command.args(["--failure-timeout-min", "400ms", "--failure-timeout-max", "5s"]);
    command.args(["--listen", &format!("127.0.0.1:{}", free_port())]).arg("--data").arg(&copy);
    let log = fs::File::create(cluster.folder.path().join("log-copy")).unwrap();
    let _second = Killed(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap());
    all_say(&cluster, &[0, 1], &["WARN", "a member runs twice", "peer=2", "127.0.0.1:"]);
}

fn certs(out: &Path, more: &[&str]) {
    let output = run(kv().arg("certs").args(more).arg("--out").arg(out));
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn an_expiring_certificate_is_reported_until_it_is_replaced() {
    for transport in ["tcp", "quic"] {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("certs");
        certs(&out, &["--members", "0", "--days", "13"]);
        let dir = out.to_str().unwrap();
        let cluster = Cluster::start(&["data"], &["--tls-dir", dir, "--transport", transport]);
        all_say(&cluster, &[0], &["WARN", "certificate of this member expires soon", "days_left=12"]);
        certs(&out, &["--renew", "--days", "15"]);
        all_say(&cluster, &[0], &["INFO", "reloaded the certificates"]);
        // A client logs a warning about its own certificate.
        certs(&out, &["--renew", "--clients", "app", "--days", "3"]);
        let connect = ["get", "x", "--tls-dir", dir, "--transport", transport, "--log", "warn"];
        let errors = stderr(&cluster.run(&connect));
        assert!(
            logged(&errors, &["WARN", "certificate of this client expires soon", "days_left=2"]),
            "{errors}"
        );
        assert_eq!(cluster.log(0).matches("expires soon").count(), 1, "{}", cluster.log(0));
    }
}
