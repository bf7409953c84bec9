//! A disk without room.

use crate::bench::{Bench, FLAGS, Row};
use crate::harness::{Cluster, level};
use crate::machine::{Mounted, must};
use std::time::{Duration, Instant};

/// F-disk-11: one member's disk is a small tmpfs. It fills up, the member reports that and stops, and the others
/// continue; with free space it returns.
pub(crate) async fn full(rounds: u32) -> Row {
    let mut flags = FLAGS.to_vec();
    flags.extend(["--segment-bytes", "256KiB", "--max-batch-bytes", "64KiB", "--max-value-bytes", "16KiB"]);
    let mut cluster = Cluster::prepare(&["data", "data", "data"], &flags);
    let folder = tempfile::tempdir().unwrap();
    let mut megabytes = 8;
    let size = |megabytes: u32| format!("size={megabytes}m");
    let disk = Mounted::new(folder.path(), &["-t", "tmpfs", "-o", &size(megabytes), "none"]);
    cluster.folders[1] = disk.at.join("data");
    (0..3).for_each(|id| cluster.restart(id));
    let mut bench = Bench::on(cluster).await;
    let client = bench.client.clone();
    let big = vec![b'x'; 12 << 10];
    for _ in 0..rounds {
        let blow = Instant::now();
        let mut n = 0;
        // Where it would make a journal file it waits, elsewhere it ends.
        let waits = |bench: &Bench| bench.cluster.log(1).matches("acknowledges nothing and waits").count();
        let has_room =
            |bench: &mut Bench, before| bench.cluster.has_ended(1).is_none() && waits(bench) == before;
        let before = waits(&bench);
        while has_room(&mut bench, before) {
            bench.client.put(format!("big/{n}"), big.clone()).await.expect("the others go on");
            n += 1;
        }
        if let Some(last) = bench.cluster.has_ended(1) {
            assert!(last.contains("the disk is full: free some space"), "{last:?}");
        }
        bench.progress().await;
        bench.survived(blow);
        for n in 0..n {
            bench.client.delete(format!("big/{n}")).await.expect("the others go on");
        }
        // A member that was behind for long needs room for a peer's state beside its own: then it ends or waits once
        // more, and reports that.
        for more in 0.. {
            assert!(more < 4, "it needs no {megabytes} MiB");
            megabytes *= 2;
            must("mount", &["-o", &format!("remount,{}", size(megabytes)), disk.at.to_str().unwrap()]);
            if bench.cluster.has_ended(1).is_some() {
                bench.cluster.restart(1);
            }
            let before = waits(&bench);
            let full_again = async {
                while has_room(&mut bench, before) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::select! {
                () = level(&client, &[0, 1, 2]) => break,
                () = full_again => {}
            }
        }
    }
    let row = bench.end(format!("tmpfs of 8 MiB, then doubled up to {megabytes} MiB")).await;
    drop(disk);
    row
}
