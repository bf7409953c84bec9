//! Ports and data folders: taken, foreign, damaged, lost. Refused by name or repaired; never a wrong answer.

use crate::harness::{Cluster, contents, judge, level, primary, progress, refused, run, until, verify};
use crate::writers::Writers;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::slice;
use std::time::Duration;

const PACE: Duration = Duration::from_millis(1);

/// Runs a member that is expected to stop.
fn attempt(mut command: Command) -> std::process::Output {
    run(command.arg("--log").arg("off"))
}

#[test]
fn a_port_in_use_is_reported() {
    let cluster = Cluster::prepare(&["data"], &[]);
    let _taken = TcpListener::bind(cluster.address(0)).unwrap();
    refused(&attempt(cluster.command(0)), 1, &[cluster.address(0), "in use", "--listen"]);
    assert!(!cluster.data(0).exists(), "nothing was made");
}

#[test]
fn a_folder_in_use_is_refused() {
    let cluster = Cluster::start(&["data"], &[]);
    let mut second = cluster.command(0);
    second.args(["--listen", &format!("127.0.0.1:{}", crate::harness::free_port())]);
    refused(&attempt(second), 1, &["data-0", "in use by another process"]);
    assert!(cluster.run(&["put", "k", "v"]).status.success(), "the first one is not disturbed");
}

#[test]
fn a_folder_that_is_a_file_is_refused() {
    let cluster = Cluster::prepare(&["data"], &[]);
    fs::write(cluster.data(0), "precious").unwrap();
    refused(&attempt(cluster.command(0)), 8, &["data-0", "not a directory"]);
    assert_eq!(fs::read(cluster.data(0)).unwrap(), b"precious");
}

/// A formed cluster of three with some data, all of it stopped.
fn stopped() -> Cluster {
    let mut cluster = Cluster::of_three();
    assert!(cluster.run(&["put", "k", "v", "--timeout", "60s"]).status.success());
    for id in 0..3 {
        cluster.kill(id);
    }
    cluster
}

#[test]
fn the_folder_of_another_member_cluster_or_configuration_is_refused() {
    let cluster = stopped();
    let before = contents(cluster.folder.path());
    let mut swapped = crate::harness::kv();
    swapped.args(["serve", "--id", "0", "--members", &cluster.members]).arg("--data").arg(cluster.data(1));
    refused(&attempt(swapped), 8, &["data-1", "member 1", "member 0"]);
    let mut other = cluster.command(0);
    other.args(["--cluster", "other"]);
    refused(&attempt(other), 8, &["data-0", "cluster", "other"]);
    let mut fewer = crate::harness::kv();
    let members = cluster.members.rsplit_once(',').unwrap().0;
    fewer.args(["serve", "--id", "0", "--members", members]).arg("--data").arg(cluster.data(0));
    refused(&attempt(fewer), 8, &["data-0", "member"]);
    let mut wider = cluster.command(0);
    wider.args(["--pipeline-depth", "64"]);
    refused(
        &attempt(wider),
        8,
        &["data-0", "pipeline_depth is 64", "set it back to 32", "--pipeline-depth", "KV_PIPELINE_DEPTH"],
    );
    let mut lower = cluster.command(1);
    lower.args(["--max-value-bytes", "16KiB"]);
    let reasons = [
        "data-1",
        "max_value_bytes is 16384",
        "set it back to 1048576",
        "--max-value-bytes",
        "KV_MAX_VALUE_BYTES",
    ];
    refused(&attempt(lower), 8, &reasons);
    assert!(contents(cluster.folder.path()) == before, "something was changed on disk");
}

#[tokio::test(flavor = "multi_thread")]
async fn members_with_different_lists_refuse_each_other() {
    let mut cluster = Cluster::prepare(&["data", "data", "data"], &[]);
    let other = cluster.members.replace("2=", "3=");
    cluster.restart(0);
    cluster.restart(1);
    let mut command = crate::harness::kv();
    command.args(["serve", "--id", "3", "--members", &other]).arg("--data").arg(cluster.data(2));
    let mut stranger =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until("the others log why they refuse", || {
        cluster.log(0).contains("refuse") || cluster.log(1).contains("refuse")
    });
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    cluster.restart(2);
    assert!(cluster.run(&["put", "k", "v", "--timeout", "60s"]).status.success(), "the right one is welcome");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_with_a_wiped_folder_does_not_vote() {
    let mut cluster = Cluster::of_three();
    let client = cluster.client().await;
    let writers = Writers::start(slice::from_ref(&client), 4, PACE);
    progress(&writers, 200).await;
    let chief = primary(&client).await;
    let wiped = (chief + 1) % 3;
    cluster.kill(wiped);
    fs::remove_dir_all(cluster.data(wiped)).unwrap();
    cluster.restart(wiped);
    assert_eq!(cluster.ended(wiped).code(), Some(8), "a restart does not help");
    let log = cluster.log(wiped);
    let last = log.lines().last().unwrap_or_default();
    assert!(last.contains(&format!("member {wiped} stopped: ")), "{last}");
    progress(&writers, 200).await;
    let ledgers = writers.stop().await.expect("the writers are well");
    verify(&client, &ledgers).await;
}

/// Changes one byte of a file, and returns how to change it back.
fn flip(path: &Path, offset: u64) -> impl FnOnce() + use<> {
    let path = path.to_owned();
    let change = move |path: &Path| {
        let mut file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        file.seek(SeekFrom::Start(offset)).unwrap();
        file.read_exact(&mut byte).unwrap();
        file.seek(SeekFrom::Start(offset)).unwrap();
        file.write_all(&[byte[0] ^ 0x10]).unwrap();
        file.sync_all().unwrap();
    };
    change(&path);
    move || change(&path)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_in_the_superblock_is_repaired_or_refused() {
    let mut cluster = stopped();
    let superblock = cluster.data(0).join("superblock");
    let before = contents(cluster.folder.path());
    let undo: Vec<_> = (0..3).map(|copy| flip(&superblock, copy * 4096 + 100)).collect();
    let damaged = contents(cluster.folder.path());
    refused(&attempt(cluster.command(0)), 8, &["superblock"]);
    assert!(contents(cluster.folder.path()) == damaged, "a refusal changes nothing");
    undo.into_iter().for_each(|undo| undo());
    assert!(contents(cluster.folder.path()) == before);
    for copy in 0..4 {
        // What is left undone here is repaired by the member itself, or the next round would find too many bad copies.
        let _ = flip(&superblock, copy * 4096 + 100);
        for id in 0..3 {
            cluster.restart(id);
        }
        let client = cluster.client().await;
        level(&client, &[0, 1, 2]).await;
        let record = client.get("k").await.expect("it can be read").expect("it is there");
        assert_eq!(&record.value[..], b"v");
        for id in 0..3 {
            cluster.kill(id);
        }
    }
}

/// A byte of a member's files that is not zero: a place where there is something to damage.
fn target(folder: &Path, random: &mut fastrand::Rng) -> (PathBuf, u64) {
    let files: Vec<_> = contents(folder).into_iter().filter(|(_, bytes)| !bytes.is_empty()).collect();
    loop {
        let (path, bytes) = &files[random.usize(..files.len())];
        let offset = random.usize(..bytes.len());
        if bytes[offset] != 0 {
            return (path.clone(), offset as u64);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_anywhere_on_one_member_never_gives_a_wrong_answer() {
    let mut cluster = Cluster::start(&["data", "data", "data"], &["--checkpoint-bytes", "64KiB"]);
    let client = cluster.client().await;
    let writers = Writers::start(slice::from_ref(&client), 8, PACE);
    progress(&writers, 1500).await;
    let ledgers = writers.stop().await.expect("the writers are well");
    level(&client, &[0, 1, 2]).await;
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..8 {
        cluster.kill(2);
        let (path, offset) = target(&cluster.data(2), &mut random);
        let undo = flip(&path, offset);
        let place = format!("byte {offset} of {}", path.display());
        match cluster.try_restart(2) {
            Ok(()) => level(&client, &[0, 1, 2]).await,
            Err(reason) => {
                assert!(reason.starts_with("kv: "), "{place}: refused with a reason, not {reason:?}");
                undo();
                cluster.restart(2);
                level(&client, &[0, 1, 2]).await;
            }
        }
        // Now the damaged one is needed for every quorum.
        cluster.kill(0);
        verify(&client, &ledgers).await;
        cluster.restart(0);
        level(&client, &[0, 1, 2]).await;
    }
}

/// Restores a folder to the given contents.
fn restore(folder: &Path, files: &BTreeMap<PathBuf, Vec<u8>>) {
    fs::remove_dir_all(folder).unwrap();
    fs::create_dir(folder).unwrap();
    for (path, bytes) in files {
        fs::write(path, bytes).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_member_with_a_flipped_byte_never_gives_a_wrong_answer() {
    let mut cluster = Cluster::start(&["data"], &["--checkpoint-bytes", "64KiB"]);
    let client = cluster.client().await;
    let writers = Writers::start(slice::from_ref(&client), 8, PACE);
    progress(&writers, 1500).await;
    let ledgers = writers.stop().await.expect("the writers are well");
    cluster.kill(0);
    let intact = contents(&cluster.data(0));
    let mut random = fastrand::Rng::with_seed(11);
    for round in 0..9 {
        // In the end bytes of every block of the state, so that some matter.
        let whole = round == 8;
        if whole {
            let is_run = |path: &Path| {
                path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("state-"))
            };
            let files: Vec<_> =
                contents(&cluster.data(0)).into_iter().filter(|(path, _)| is_run(path)).collect();
            assert!(!files.is_empty(), "it has made a checkpoint");
            for (path, bytes) in files {
                (0..bytes.len() as u64).step_by(512).for_each(|at| drop(flip(&path, at)));
            }
        } else {
            let (path, offset) = target(&cluster.data(0), &mut random);
            let _ = flip(&path, offset);
        }
        if cluster.try_restart(0).is_ok() {
            let first = client.get("once/0/00000000").deadline(Duration::from_secs(1)).await;
            // If a bad block is found only now, the member stops, because no other member has the data.
            let all = client.scan("").deadline(Duration::from_secs(10)).await;
            if let (Ok(_), Ok(records)) = (first, all) {
                judge(records, &ledgers);
                assert!(!whole, "it answers from blocks that do not verify");
            }
        }
        cluster.kill(0);
        restore(&cluster.data(0), &intact);
    }
    cluster.restart(0);
    verify(&client, &ledgers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_only_its_own_member() {
    let flags = ["--segment-bytes", "256KiB", "--max-batch-bytes", "64KiB", "--max-value-bytes", "16KiB"];
    let mut cluster = Cluster::start(&["data", "data", "data"], &flags);
    let client = cluster.client().await;
    client.put("k", "v").await.expect("the cluster forms");
    let chief = primary(&client).await;
    let full = (chief + 1) % 3;
    cluster.kill(full);
    // Files may not grow beyond 128 KiB: the next journal file does not fit.
    let member = cluster.command(full);
    let script = "trap '' XFSZ; ulimit -f 128; exec \"$@\"";
    let mut limited = Command::new("bash");
    limited.args(["-c", script, "bash"]).arg(member.get_program()).args(member.get_args());
    limited.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let child = std::thread::spawn(move || run(&mut limited));
    let writers = Writers::start(slice::from_ref(&client), 4, PACE);
    let big = vec![b'x'; 8 << 10];
    while !child.is_finished() {
        client.put("big", big.clone()).await.expect("the others go on");
    }
    let output = child.join().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = crate::harness::stderr(&output);
    assert!(text.lines().last().unwrap_or_default().contains("stopped: "), "{text}");
    progress(&writers, 200).await;
    cluster.restart(full);
    level(&client, &[0, 1, 2]).await;
    let ledgers = writers.stop().await.expect("the writers are well");
    client.delete("k").await.unwrap();
    client.delete("big").await.unwrap();
    verify(&client, &ledgers).await;
}
