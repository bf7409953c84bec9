//! Members freeze and resume (SIGSTOP, SIGCONT): no stale read, no late acknowledgement.

use crate::harness::{Cluster, level, primary, progress, successor, verify};
use crate::writers::Writers;
use kv_core::Client;
use kv_core::client::Revision;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;

const PACE: Duration = Duration::from_millis(2);
const STEP: u64 = 400;

/// Writes one key and reads it with several readers at once: whatever was acknowledged, or read, before a read began
/// must be seen by it.
struct Probe {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<u64>>,
}

impl Probe {
    fn start(client: &Client) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let known = Arc::new(AtomicU64::new(0));
        let mut tasks = Vec::new();
        let (writer, done, newest) = (client.clone(), stop.clone(), known.clone());
        tasks.push(tokio::spawn(async move {
            let mut count = 0;
            while !done.load(Ordering::SeqCst) {
                if let Ok(written) = writer.put("probe", count.to_string()).await {
                    newest.fetch_max(written.revision.get(), Ordering::SeqCst);
                    count += 1;
                }
            }
            count
        }));
        for _ in 0..3 {
            let (reader, done, newest) = (client.clone(), stop.clone(), known.clone());
            tasks.push(tokio::spawn(async move {
                let mut count = 0;
                while !done.load(Ordering::SeqCst) {
                    let before = newest.load(Ordering::SeqCst);
                    let Ok(record) = reader.get("probe").await else { continue };
                    let found = record.map_or(Revision::ZERO, |record| record.modified).get();
                    assert!(
                        found >= before,
                        "a stale read: revision {found}, though {before} was known before"
                    );
                    newest.fetch_max(found, Ordering::SeqCst);
                    count += 1;
                }
                count
            }));
        }
        Self { stop, tasks }
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        for task in self.tasks {
            assert!(task.await.expect("no stale read") > 0, "each of them got through");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_primary_is_replaced_and_becomes_a_backup() {
    let cluster = Cluster::of_three();
    let client = cluster.client().await;
    let writers = Writers::start(slice::from_ref(&client), 4, PACE);
    let probe = Probe::start(&client);
    for _ in 0..3 {
        progress(&writers, STEP).await;
        let old = primary(&client).await;
        cluster.pause(old);
        successor(&client, old).await;
        progress(&writers, STEP).await;
        cluster.resume(old);
        level(&client, &[0, 1, 2]).await;
    }
    probe.stop().await;
    let ledgers = writers.stop().await.expect("the writers are well");
    client.delete("probe").await.expect("it can be removed");
    let verdict = verify(&client, &ledgers).await;
    assert_eq!(verdict.acknowledged, verdict.writes, "every write came through");
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_that_freeze_in_turn_interrupt_nothing() {
    let cluster = Cluster::of_three();
    let client = cluster.client().await;
    let writers = Writers::start(slice::from_ref(&client), 4, PACE);
    let probe = Probe::start(&client);
    progress(&writers, STEP).await;
    let chief = primary(&client).await;
    for _ in 0..2 {
        for id in (0..3).filter(|id| *id != chief) {
            cluster.pause(id);
            progress(&writers, STEP).await;
            cluster.resume(id);
            level(&client, &[0, 1, 2]).await;
        }
    }
    probe.stop().await;
    let ledgers = writers.stop().await.expect("the writers are well");
    client.delete("probe").await.expect("it can be removed");
    let verdict = verify(&client, &ledgers).await;
    assert_eq!(verdict.acknowledged, verdict.writes, "every write came through");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_freezes_as_a_whole_continues() {
    let cluster = Cluster::of_three();
    let client = cluster.client().await;
    let writers = Writers::start(slice::from_ref(&client), 4, PACE);
    progress(&writers, STEP).await;
    for id in 0..3 {
        cluster.pause(id);
    }
    let silent = writers.acknowledged();
    assert!(client.get("k").deadline(Duration::from_millis(500)).await.is_err());
    assert!(writers.acknowledged() <= silent + 4, "only what was on its way is still acknowledged");
    for id in [2, 0, 1] {
        cluster.resume(id);
    }
    progress(&writers, STEP).await;
    level(&client, &[0, 1, 2]).await;
    let ledgers = writers.stop().await.expect("the writers are well");
    verify(&client, &ledgers).await;
}
