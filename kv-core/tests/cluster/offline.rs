//! Directories of members that are stopped.

use super::harness::{Harness, Net, eventually, id, options};
use bytes::Bytes;
use kv_core::client::Record;
use kv_core::config::Role;
use kv_core::node::DirectoryError;
use kv_core::offline::{DataDirectory, OfflineError};
use kv_core::transport::Scope;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// All files but the one that is only locked.
fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries =
        std::fs::read_dir(directory).expect("it is there").map(|entry| entry.expect("it is readable"));
    let names = entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()));
    let names = names.filter(|(name, _)| name != "LOCK");
    names.map(|(name, path)| (name, std::fs::read(path).expect("it is readable"))).collect()
}

fn records(directory: &DataDirectory) -> Vec<(Bytes, Record)> {
    directory.records().map(|record| record.expect("it is intact")).collect()
}

/// A cluster of two data members and a witness, with checkpoints and entries after them, and then stopped. Returns what
/// was in it.
async fn stopped(net: Net) -> (Harness, Vec<(Bytes, Record)>) {
    let mut small = options();
    (small.max_key_bytes, small.max_value_bytes, small.max_batch_bytes) = (256, 64 << 10, 128 << 10);
    (small.checkpoint_bytes, small.segment_bytes, small.journal_retention_bytes) = (1 << 20, 256 << 10, 0);
    let mut harness = Harness::with(net, &[Role::Data, Role::Data, Role::Witness], small).await;
    let client = harness.client().await;
    for n in 0..60 {
        client.put(format!("{n}"), vec![n; 40 << 10]).await.expect("written");
    }
    let lease = client.lease(Duration::from_secs(600)).await.expect("granted");
    client.put("leased", "1").lease(lease.id()).await.expect("written");
    client.put("brief", "1").ttl(Duration::from_secs(600)).await.expect("written");
    client.delete("7").await.expect("removed");
    let records = client.scan("").await.expect("read");
    harness.level().await;
    let locked = DataDirectory::open(harness.dirs[0].path());
    assert!(matches!(locked, Err(OfflineError::Directory(DirectoryError::Locked(_)))), "{locked:?}");
    (0..3).for_each(|member| harness.kill(member));
    (harness, records)
}

pub(crate) async fn the_directory_of_a_stopped_member_is_read_and_not_changed(net: Net) {
    let (harness, expected) = stopped(net).await;
    for member in 0..2 {
        let path = harness.dirs[member].path();
        let before = files(path);
        let directory = open(path).await.expect("it is intact");
        assert_eq!((directory.cluster(), directory.member()), (harness.cluster.name(), id(member)));
        assert!(directory.checkpoint().get() > 0 && directory.checkpoint() < directory.last_op());
        assert_eq!((directory.unreadable(), records(&directory)), (None, expected.clone()));
        assert!(
            directory.revision() >= expected.iter().map(|(_, record)| record.modified).max().expect("some")
        );
        let leased = expected.iter().find_map(|(_, record)| record.lease).expect("one has a lease");
        assert_eq!(directory.lease_ttl(leased).map(|ttl| ttl.as_secs()), Some(600));
        let mut read = 0;
        directory.verify_state(|bytes| read += bytes).expect("it is intact");
        assert!(read > 1 << 20, "{read} bytes");
        drop(directory);
        assert!(before == files(path), "member {member}");
    }
    // A journal that goes back to the first entry is enough. That of a witness may.
    match open(harness.dirs[2].path()).await {
        Ok(witness) => assert_eq!((witness.checkpoint().get(), records(&witness)), (0, expected)),
        Err(error) => assert!(matches!(error, OfflineError::NoState { .. }), "{error}"),
    }
    // That of the others does not.
    let path = harness.dirs[1].path();
    for name in files(path).into_keys().filter(|name| name.starts_with("state")) {
        std::fs::remove_file(path.join(name)).expect("it is there");
    }
    let alone = open(path).await;
    assert!(matches!(alone, Err(OfflineError::NoState { .. })), "{alone:?}");
    let empty = tempfile::tempdir().expect("a folder");
    let nothing = open(empty.path()).await;
    assert!(matches!(nothing, Err(OfflineError::NotADataDirectory(_))), "{nothing:?}");
    let nothing = open(&empty.path().join("absent")).await;
    assert!(
        matches!(nothing, Err(OfflineError::NotADataDirectory(_))) && !empty.path().join("absent").exists()
    );
}

/// The node that had it may still be closing it.
pub(crate) async fn open(path: &Path) -> Result<DataDirectory, OfflineError> {
    loop {
        match DataDirectory::open(path) {
            Err(OfflineError::Directory(DirectoryError::Locked(_))) => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            opened => return opened,
        }
    }
}

/// A primary that was cut off may have the longest log. The cluster has gone on without it.
pub(crate) async fn a_directory_of_a_later_view_is_ahead_whatever_its_length(net: Net) {
    let mut harness = Harness::three(net).await;
    harness.client().await.put("before", "1").await.expect("written");
    harness.level().await;
    let old = harness.primary().await;
    let stale = harness.node(old).client();
    harness.faults[old].cut(Scope::all());
    let puts: Vec<_> = (0..50)
        .map(|n| {
            tokio::spawn(stale.put(format!("stale/{n}"), "1").deadline(Duration::from_secs(1)).into_future())
        })
        .collect();
    eventually("another primary", async || {
        (0..3).any(|member| member != old && harness.status(member).primary == Some(id(member)))
    })
    .await;
    let new = (0..3).find(|member| *member != old).expect("there are three");
    let client = harness.node(new).client();
    client.put("after", "1").await.expect("written");
    futures::future::join_all(puts).await;
    (0..3).for_each(|member| harness.kill(member));
    let mut directories = Vec::new();
    for directory in &harness.dirs {
        directories.push(open(directory.path()).await.expect("it is intact"));
    }
    let ahead: Vec<&DataDirectory> =
        directories.iter().filter(|one| one.is_ahead_of(&directories[old])).collect();
    assert_eq!(ahead.len(), 2, "{directories:?}");
    assert!(ahead.iter().all(|other| !directories[old].is_ahead_of(other)), "{directories:?}");
    let best = directories.iter().find(|one| directories.iter().all(|other| !other.is_ahead_of(one)));
    assert!(records(best.expect("one is")).iter().any(|(key, _)| key == "after"));
}

pub(crate) async fn damage_in_the_directory_of_a_stopped_member_is_named(net: Net) {
    let (harness, expected) = stopped(net).await;
    let path = harness.dirs[0].path();
    let intact = open(path).await.expect("it is intact").last_op();
    // Some blocks of the journal have entries that follow the checkpoint.
    let mut found = 0;
    for (name, bytes) in files(path).into_iter().filter(|(name, _)| name.starts_with("journal-")) {
        for at in (0..bytes.len()).step_by(32 << 10).filter(|at| bytes[*at..].iter().any(|byte| *byte > 0)) {
            let mut bad = bytes.clone();
            bad[at + 100] ^= 4;
            std::fs::write(path.join(&name), bad).expect("it is writable");
            let before = files(path);
            let damaged = open(path).await.expect("what is before the damage can be read");
            if let Some(unreadable) = damaged.unreadable() {
                found += 1;
                assert_eq!(unreadable.first, damaged.last_op().next());
                let reaches = unreadable.last.is_none_or(|last| last >= intact);
                assert!(damaged.last_op() < intact && reaches, "{unreadable:?}");
            } else {
                assert_eq!((damaged.last_op(), records(&damaged)), (intact, expected.clone()));
            }
            drop(damaged);
            assert!(before == files(path));
        }
        std::fs::write(path.join(&name), bytes).expect("it is writable");
    }
    assert!(found > 0);

    let path = harness.dirs[1].path();
    let mut found = 0;
    for (name, bytes) in files(path).into_iter().filter(|(name, _)| name.starts_with("state-")) {
        let mut bad = bytes.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 4;
        std::fs::write(path.join(&name), bad).expect("it is writable");
        // A file that a crash has left does not belong to the state.
        if let Err(error) = open(path).await.and_then(|directory| directory.verify_state(|_| {})) {
            found += 1;
            assert!(error.to_string().contains(&name), "{name}: {error}");
        }
        std::fs::write(path.join(&name), bytes).expect("it is writable");
    }
    assert!(found > 0);
}
