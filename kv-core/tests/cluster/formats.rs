//! Data directories that earlier builds wrote, in `tests/formats`.
//!
//! A format may change only with a new version. Then store a directory of the new version beside the others: run
//! `data_directories_of_earlier_builds_are_read` with `KV_STORE_FORMATS=1` and a new [`NEWEST`].

use super::harness::{Harness, Net, eventually, options};
use super::offline::open;
use bytes::Bytes;
use kv_core::client::Record;
use kv_core::config::{Options, Role};
use kv_core::offline::DataDirectory;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The directory that this build writes. It contains superblock 2, journal 4 and state 5.
const NEWEST: &str = "member-1";

fn stored() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats")
}

/// With small files.
fn small() -> Options {
    let mut options = options();
    (options.max_key_bytes, options.max_value_bytes, options.max_batch_bytes) = (256, 16 << 10, 64 << 10);
    (options.segment_bytes, options.journal_retention_bytes) = (128 << 10, 0);
    options
}

/// Writes something of every kind, with a checkpoint in between.
async fn write(harness: &Harness) {
    let client = harness.client().await;
    client.put("removed", "1").await.expect("written");
    client.put("text", "former").await.expect("written");
    client.put("text", "value").await.expect("written");
    client.put(vec![0, 0xff, 0], vec![7; 9000]).await.expect("written");
    let lease = client.lease(Duration::from_secs(3600)).await.expect("granted");
    client.put("leased", "1").lease(lease.id()).await.expect("written");
    client.put("brief", "1").ttl(Duration::from_secs(3600)).await.expect("written");
    client.compact().await.expect("compacted");
    eventually("a checkpoint", async || harness.status(0).checkpoint.get() > 0).await;
    client.delete("removed").await.expect("removed");
    client.transaction().put("one", "1").put("two", "2").await.expect("written");
}

/// Without what differs between two clusters.
fn content(records: impl IntoIterator<Item = (Bytes, Record)>) -> Vec<(Bytes, Bytes, u64, bool, bool)> {
    let row = |(key, record): (Bytes, Record)| {
        (key, record.value, record.version, record.expires.is_some(), record.lease.is_some())
    };
    records.into_iter().map(row).collect()
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("it is there") {
        let entry = entry.expect("it is readable");
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("it is readable");
    }
}

async fn opened(path: &Path) -> DataDirectory {
    open(path).await.expect("it is of a version that this build knows")
}

pub(crate) async fn data_directories_of_earlier_builds_are_read(net: Net) {
    let mut twin = Harness::with(net.clone(), &[Role::Data], small()).await;
    write(&twin).await;
    twin.kill(0);
    let expected =
        content(opened(twin.dirs[0].path()).await.records().map(|record| record.expect("it is intact")));
    assert_eq!(expected.len(), 6);
    if std::env::var_os("KV_STORE_FORMATS").is_some() {
        let directory = stored().join(NEWEST);
        std::fs::create_dir(&directory).expect("it is new");
        copy(twin.dirs[0].path(), &directory);
    }
    let directories =
        std::fs::read_dir(stored()).expect("it is there").map(|entry| entry.expect("it is readable"));
    let directories: Vec<PathBuf> = directories.map(|entry| entry.path()).collect();
    assert!(directories.contains(&stored().join(NEWEST)));
    for directory in directories {
        let mut harness = Harness::new(net.clone(), &[Role::Data], small());
        copy(&directory, harness.dirs[0].path());
        let offline = opened(harness.dirs[0].path()).await;
        let records = offline.records().map(|record| record.expect("it is intact"));
        assert_eq!(content(records), expected, "{}", directory.display());
        assert!(offline.checkpoint().get() > 0 && offline.checkpoint() < offline.last_op());
        drop(offline);

        harness.start(0).await;
        let client = harness.client().await;
        // The keys with a time to live have expired since, by the clock.
        client.put("text", "new").await.expect("written");
        for restarts in 0..2 {
            let one = client.get("one").await.expect("read").expect("it is there");
            let text = client.get("text").await.expect("read").expect("it is there");
            assert_eq!(
                (one.value, text.value),
                ("1".into(), "new".into()),
                "{restarts}: {}",
                directory.display()
            );
            harness.kill(0);
            harness.start(0).await;
        }
    }
}
