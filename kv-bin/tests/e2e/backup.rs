//! `kv backup`, `kv verify` and `kv restore`.

use crate::commands::{done, json};
use crate::harness::{Cluster, contents, kv, refused, run, run_on, stderr, stdout, until, wait};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A cluster with some keys, and the path of a backup that does not exist yet.
fn with_keys(members: usize) -> (Cluster, PathBuf) {
    let cluster = Cluster::start(&vec!["data"; members], &[]);
    done(&cluster, &["put", "text", "a\nb\t\"c\"", "--timeout", "60s"]);
    done(&cluster, &["put", "--hex", "00ff", "fe00"]);
    done(&cluster, &["put", "empty", ""]);
    done(&cluster, &["put", "gone", "1"]);
    done(&cluster, &["delete", "gone"]);
    for number in 0..20 {
        done(&cluster, &["put", &format!("key/{number}"), &"v".repeat(number * 100)]);
    }
    let file = cluster.folder.path().join("backup");
    (cluster, file)
}

fn path(file: &Path) -> &str {
    file.to_str().unwrap()
}

/// How many files are there that a backup has begun.
fn parts(folder: &Path) -> usize {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_str().unwrap().ends_with(".part")).count()
}

#[test]
fn a_backup_writes_a_file_of_its_own_which_only_its_owner_can_read() {
    let (cluster, file) = with_keys(1);
    // Another backup with this name is under way.
    let other = file.with_extension("part");
    fs::write(&other, "another backup").unwrap();
    done(&cluster, &["backup", "-o", path(&file)]);
    assert_eq!(fs::read(&other).unwrap(), b"another backup");
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "{mode:o}");
}

#[test]
fn a_backup_names_its_cluster() {
    let cluster = Cluster::start(&["data"], &["--cluster", "other"]);
    let file = cluster.folder.path().join("backup");
    done(&cluster, &["backup", "-o", path(&file), "--cluster", "other"]);
    let text = String::from_utf8_lossy(&fs::read(&file).unwrap()).into_owned();
    assert!(text.contains(r#""cluster":"other""#), "{text:?}");
}

#[test]
fn a_backup_is_restored_into_a_new_cluster_above_every_former_revision() {
    let (old, file) = with_keys(3);
    let lease = json(&old, &["lease", "grant", "10min"])["lease"].to_string();
    done(&old, &["put", "leased", "1", "--lease", &lease]);
    done(&old, &["put", "brief", "1", "--ttl", "1h"]);
    let taken = json(&old, &["backup", "-o", path(&file)]);
    assert_eq!(taken["keys"], 25);
    let read = |member: &serde_json::Value| member["reads"].as_u64().unwrap();
    let status = json(&old, &["status"]);
    let backups = status["members"].as_array().unwrap().iter().filter(|member| member["state"] == "backup");
    assert!(backups.map(read).sum::<u64>() > 0, "a backup member was read: {status}");
    // What happens after the backup is not in it, but those who saw it come back with its revisions.
    let later = json(&old, &["put", "later", "1"])["revision"].to_string();
    assert_eq!(parts(old.folder.path()), 0);
    let verified = run(kv().args(["verify", path(&file), "--json"]));
    assert_eq!(verified.status.code(), Some(0), "{}", stderr(&verified));
    let verified: serde_json::Value = serde_json::from_str(&stdout(&verified)).unwrap();
    assert_eq!(verified, taken);
    refused(&old.run(&["backup", "-o", path(&file)]), 2, &["exists"]);

    let new = Cluster::start(&["data"], &[]);
    let restored = json(&new, &["restore", path(&file)]);
    assert!(restored["revision"].as_u64().unwrap() > taken["revision"].as_u64().unwrap() + (1 << 31));
    let content = |cluster: &Cluster| done(cluster, &["scan", "--base64"]);
    done(&old, &["delete", "later"]);
    assert_eq!(content(&new), content(&old));
    for key in ["leased", "brief"] {
        assert!(json(&new, &["get", key])["expires_ms"].is_u64(), "{key}");
        assert_eq!(json(&new, &["get", key])["lease"], serde_json::Value::Null);
    }
    // A watch, a read and a guard from before.
    for revision in [later.as_str(), "3"] {
        refused(&new.run(&["watch", "", "--from", revision]), 2, &["compacted"]);
        refused(&new.run(&["get", "text", "--revision", revision]), 2, &["oldest"]);
        refused(&new.run(&["put", "text", "x", "--if-revision", revision]), 1, &["condition"]);
    }
    refused(&new.run(&["restore", path(&file)]), 1, &["has keys", "new cluster"]);

    // The same backup once more: those who saw the first restored cluster come to the second one.
    let first = json(&new, &["put", "later", "1"])["revision"].to_string();
    let newer = Cluster::start(&["data"], &[]);
    let restored = json(&newer, &["restore", path(&file)]);
    assert!(restored["revision"].as_u64().unwrap() > first.parse().unwrap());
    refused(&newer.run(&["watch", "", "--from", &first]), 2, &["compacted"]);
    refused(&newer.run(&["put", "text", "x", "--if-revision", &first]), 1, &["condition"]);
}

#[test]
fn a_backup_that_the_cluster_does_not_allow_is_refused_before_the_restore_begins() {
    let (old, file) = with_keys(1);
    done(&old, &["backup", "-o", path(&file)]);
    for (flag, value, option) in
        [("--max-value-bytes", "1000", "max_value_bytes"), ("--max-key-bytes", "10", "max_key_bytes")]
    {
        let new = Cluster::start(&["data"], &[flag, value]);
        done(&new, &["put", "k", "1", "--timeout", "60s"]);
        let before = json(&new, &["delete", "k"])["revision"].as_u64().unwrap();
        refused(&new.run(&["restore", path(&file)]), 1, &[option, value]);
        assert_eq!(done(&new, &["count"]), "0\n", "nothing was written");
        assert_eq!(json(&new, &["put", "k", "2"])["revision"], before + 1, "nothing was raised");
    }
}

/// The backup waits for its reader after the first records, and meanwhile the lease ends.
#[test]
fn a_key_whose_lease_ends_during_the_backup_is_in_it() {
    let cluster = Cluster::start(&["data"], &[]);
    let lease = json(&cluster, &["lease", "grant", "10min", "--timeout", "60s"])["lease"].to_string();
    for number in 0..20 {
        done(&cluster, &["put", &format!("key/{number}"), &"v".repeat(100_000)]);
    }
    done(&cluster, &["put", "z", "leased", "--lease", &lease]);
    let file = cluster.folder.path().join("backup");
    let mut backup = cluster.kv(&["backup", "-o", "-", "--json"]);
    let mut child = backup.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut begin = [0; 1000];
    std::io::Read::read_exact(&mut out, &mut begin).unwrap();
    done(&cluster, &["lease", "revoke", &lease]);
    let mut rest = Vec::new();
    std::io::Read::read_to_end(&mut out, &mut rest).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    fs::write(&file, [&begin[..], &rest].concat()).unwrap();
    let verified = stdout(&run(kv().args(["verify", path(&file)])));
    assert!(verified.contains("keys 21"), "{verified}");
    let new = Cluster::start(&["data"], &[]);
    done(&new, &["restore", path(&file)]);
    until("it expires after a second", || done(&new, &["count"]) == "20\n");
}

#[test]
fn a_damaged_or_truncated_backup_is_refused_and_changes_nothing() {
    let (cluster, file) = with_keys(1);
    done(&cluster, &["backup", "-o", path(&file)]);
    let whole = fs::read(&file).unwrap();
    let new = Cluster::start(&["data"], &[]);
    let broken = cluster.folder.path().join("broken");
    let mut cases: Vec<Vec<u8>> = (0..whole.len())
        .step_by(whole.len() / 12)
        .map(|at| {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            bytes
        })
        .collect();
    cases.extend([0, 10, whole.len() / 2, whole.len() - 1].map(|len| whole[..len].to_vec()));
    cases.push([&whole[..], b"x"].concat());
    for bytes in cases {
        fs::write(&broken, bytes).unwrap();
        let fragments = ["broken is not a whole backup", "at byte"];
        refused(&run(kv().args(["verify", path(&broken)])), 1, &fragments);
        refused(&new.run(&["restore", path(&broken)]), 1, &fragments);
    }
    // A whole backup in a pipe, which can be read only once.
    let mut source = Command::new("cat").arg(&file).stdout(Stdio::piped()).spawn().unwrap();
    let pipe = source.stdout.take().unwrap();
    refused(&run_on(pipe, &mut new.kv(&["restore", "/dev/stdin"])), 2, &["no regular file", "twice"]);
    let _ = source.wait();
    assert_eq!(done(&new, &["count"]), "0\n", "nothing was written");
    refused(&new.run(&["restore", "/nowhere/backup"]), 2, &["cannot read /nowhere/backup"]);
}

#[test]
fn an_interrupted_restore_is_visible_and_is_completed_by_another_run() {
    let (cluster, file) = with_keys(1);
    let checksum = json(&cluster, &["backup", "-o", path(&file)])["checksum"].clone();
    let new = Cluster::start(&["data"], &[]);
    // As an interrupted restore leaves it: the mark of what is being restored, and some of the keys. The revision is as
    // great as the mark says.
    let to = 1_u64;
    let marker = serde_json::json!({ "checksum": checksum, "to": to }).to_string();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let key = hex(b"\0kv/restore");
    done(&new, &["put", "--hex", &key, &hex(marker.as_bytes())]);
    done(&new, &["put", "key/3", "an earlier value"]);
    let other = cluster.folder.path().join("other");
    refused(&new.run(&["backup", "-o", path(&other)]), 1, &["is not complete", "kv restore"]);
    refused(&new.run(&["dump", "key/"]), 1, &["is not complete", "kv restore"]);
    done(&cluster, &["put", "more", "1"]);
    done(&cluster, &["backup", "-o", path(&other)]);
    refused(&new.run(&["restore", path(&other)]), 1, &["another backup"]);
    done(&cluster, &["delete", "more"]);
    let restored = json(&new, &["restore", path(&file)])["revision"].as_u64().unwrap();
    assert!(restored < 1 << 30, "the interrupted run has chosen where revisions begin: {restored}");
    assert_eq!(done(&new, &["scan", "--base64"]), done(&cluster, &["scan", "--base64"]));
    refused(&new.run(&["get", "--hex", &key]), 1, &["does not exist"]);
}

#[test]
fn a_backup_goes_to_standard_output_and_survives_the_loss_of_its_member() {
    let (mut cluster, file) = with_keys(3);
    let output = cluster.run(&["backup", "-o", "-", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let summary: serde_json::Value = serde_json::from_str(stderr(&output).lines().last().unwrap()).unwrap();
    assert_eq!((&summary["file"], &summary["keys"]), (&"-".into(), &23.into()));
    fs::write(&file, &output.stdout).unwrap();
    let verified = stdout(&run(kv().args(["verify", path(&file)])));
    assert!(verified.contains("keys 23"), "{verified}");
    // All backup members are frozen one after the other: the other one, or the primary, is read instead.
    let states = |cluster: &Cluster| -> Vec<String> {
        let status = json(cluster, &["status"]);
        status["members"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it["state"].as_str().unwrap_or("").to_owned())
            .collect()
    };
    until("two backups", || states(&cluster).iter().filter(|state| *state == "backup").count() == 2);
    let victim = states(&cluster).iter().position(|state| state == "backup").unwrap();
    cluster.kill(victim);
    let other = cluster.folder.path().join("other");
    done(&cluster, &["backup", "-o", path(&other)]);
    let count = |text: String| text.split("keys ").nth(1).unwrap().split(',').next().unwrap().to_owned();
    assert_eq!(count(stdout(&run(kv().args(["verify", path(&other)])))), "23");
    refused(&cluster.run(&["backup", "-o", "/nowhere/backup"]), 1, &["cannot write /nowhere/backup."]);
}

/// The members keep ten revisions, and the backup reads an old one.
#[test]
fn a_backup_whose_revision_is_no_longer_kept_fails_and_is_incomplete() {
    let cluster = Cluster::start(&["data"], &["--history-revisions", "10"]);
    for number in 0..50 {
        done(&cluster, &["put", &format!("key/{number}"), &"v".repeat(100_000)]);
    }
    let file = cluster.folder.path().join("backup");
    // It waits for its reader after the first records, and meanwhile the cluster writes.
    let mut backup = cluster.kv(&["backup", "-o", "-"]);
    let mut child = backup.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    std::io::Read::read_exact(&mut out, &mut [0; 1000]).unwrap();
    for number in 0..30 {
        done(&cluster, &["put", "other", &number.to_string()]);
    }
    std::io::copy(&mut out, &mut fs::File::create(&file).unwrap()).unwrap();
    drop(out);
    let output = child.wait_with_output().unwrap();
    refused(&output, 1, &["no longer keeps revision", "history_revisions"]);
    refused(&run(kv().args(["verify", path(&file)])), 1, &["is not a whole backup"]);
}

#[test]
fn a_backup_that_fails_leaves_no_file() {
    let (mut cluster, file) = with_keys(1);
    let nobody = cluster.run(&["backup", "-o", path(&file), "--member", "7"]);
    refused(&nobody, 1, &["no member 7"]);
    cluster.kill(0);
    refused(&cluster.run(&["backup", "-o", path(&file), "--timeout", "1s"]), 1, &["no member answers"]);
    assert!(!file.exists());
    assert_eq!(parts(cluster.folder.path()), 0);
}

/// Nobody answers there, so it has begun its file and waits.
#[test]
fn a_backup_that_a_signal_ends_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("backup");
    for (signal, code) in [(Signal::HUP, 129), (Signal::INT, 130), (Signal::TERM, 143)] {
        for in_shell in [false, true] {
            let mut command = kv();
            command.env("KV_ADDRESS", "127.0.0.1:1").stdin(Stdio::piped()).stderr(Stdio::null());
            if in_shell {
                command.args(["shell", "--timeout", "60s"]);
            } else {
                command.args(["backup", "-o", path(&file), "--timeout", "60s"]);
            }
            let mut child = command.spawn().unwrap();
            let mut input = child.stdin.take().unwrap();
            if in_shell {
                let line = format!("backup -o {}\n", path(&file));
                std::io::Write::write_all(&mut input, line.as_bytes()).unwrap();
            }
            until("it has begun its file", || parts(folder.path()) == 1);
            kill_process(Pid::from_child(&child), signal).unwrap();
            let what = format!("{signal:?}, in the shell: {in_shell}");
            assert_eq!(wait(&mut child).code(), Some(code), "{what}");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "{what}");
        }
    }
}

/// Two of three members are lost for good, and the data of the third comes into a new cluster.
#[test]
fn a_cluster_without_a_quorum_is_recovered_from_the_member_that_is_left() {
    let (mut old, file) = with_keys(3);
    let lease = json(&old, &["lease", "grant", "10min"])["lease"].to_string();
    done(&old, &["put", "leased", "1", "--lease", &lease]);
    let content = done(&old, &["scan", "--base64"]);
    let data = old.data(1);
    refused(&run(kv().args(["recover", path(&data), "-o", path(&file)])), 2, &["in use by another process"]);
    refused(&run(kv().args(["verify", path(&data)])), 2, &["in use by another process"]);
    let heads = || {
        let status = json(&old, &["status"]);
        status["members"].as_array().unwrap().iter().map(|member| member["head"].as_u64()).collect::<Vec<_>>()
    };
    let most = heads().into_iter().flatten().max();
    until("it has all", || heads()[1] >= most);
    (0..3).for_each(|id| old.kill(id));

    let before = contents(&data);
    let verified = run(kv().args(["verify", path(&data), "--json"]));
    assert_eq!(verified.status.code(), Some(0), "{}", stderr(&verified));
    let verified: serde_json::Value = serde_json::from_str(&stdout(&verified)).unwrap();
    assert_eq!(verified["member"], 1);
    let recovered = run(kv().args(["recover", path(&data), "-o", path(&file), "--json"]));
    assert_eq!(recovered.status.code(), Some(0), "{}", stderr(&recovered));
    assert!(stderr(&recovered).contains("recovering"), "it is announced: {}", stderr(&recovered));
    let recovered: serde_json::Value = serde_json::from_str(&stdout(&recovered)).unwrap();
    assert_eq!((&recovered["revision"], &recovered["op"]), (&verified["revision"], &verified["op"]));
    assert_eq!(contents(&data), before, "the data directory is as it was");
    refused(&run(kv().args(["recover", path(&data), "-o", path(&file)])), 2, &["exists"]);
    // Of several, the one that is ahead, and what cannot be used is named.
    let (other, copy) = (old.data(2), old.folder.path().join("copy"));
    let both = ["recover", path(&other), path(&data), "absent", "-o", path(&copy), "--json"];
    let best = run(kv().args(both));
    assert_eq!(best.status.code(), Some(0), "{}", stderr(&best));
    assert!(stderr(&best).contains("unusable") && stderr(&best).matches("found").count() == 2);
    let best: serde_json::Value = serde_json::from_str(&stdout(&best)).unwrap();
    assert!(best["op"].as_u64() >= verified["op"].as_u64());
    assert_eq!(parts(old.folder.path()), 0);

    let new = Cluster::start(&["data"], &[]);
    done(&new, &["restore", path(&file)]);
    assert_eq!(done(&new, &["scan", "--base64"]), content);
    assert!(json(&new, &["get", "leased"])["expires_ms"].is_u64());

    let nothing = new.folder.path().join("nothing");
    fs::create_dir(&nothing).unwrap();
    for arguments in [&["verify", path(&nothing)][..], &["recover", path(&nothing), "-o", "never"]] {
        refused(&run(kv().args(arguments)), 2, &["is not the data directory of a member"]);
    }
    fs::write(nothing.join("journal-00000003"), "").unwrap();
    refused(&run(kv().args(["verify", path(&nothing)])), 1, &["superblock"]);
    refused(&run(kv().args(["recover", path(&data), "-o", "-"])), 2, &["name a file"]);
}

/// A backup that an earlier build wrote. If the format changes, it gets another version: store a file of that version
/// beside this one, by running this test with `KV_STORE_FORMATS=1` and its name.
#[test]
fn backups_of_earlier_builds_are_read() {
    const NEWEST: &str = "backup-1";
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats");
    let (old, _) = with_keys(1);
    done(&old, &["put", "brief", "1", "--ttl", "1h"]);
    if std::env::var_os("KV_STORE_FORMATS").is_some() {
        done(&old, &["backup", "-o", path(&folder.join(NEWEST))]);
    }
    let files: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.contains(&folder.join(NEWEST)));
    for file in files {
        let verified = run(kv().args(["verify", path(&file), "--json"]));
        assert_eq!(verified.status.code(), Some(0), "{}", stderr(&verified));
        let new = Cluster::start(&["data"], &[]);
        let restored = json(&new, &["restore", path(&file)]);
        assert_eq!(restored["keys"], 24);
        assert_eq!(done(&new, &["scan", "--base64"]), done(&old, &["scan", "--base64"]));
        assert!(json(&new, &["get", "brief"])["expires_ms"].is_u64());
    }
}
