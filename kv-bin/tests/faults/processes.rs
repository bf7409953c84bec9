//! Members are killed, frozen, stopped and starved.

use crate::bench::{Bench, FLAGS, Row};
use crate::harness::Cluster;
use std::net::TcpStream;
use std::time::Instant;

/// F-proc-1: SIGKILL of the primary under load; it returns, and the next one goes.
pub(crate) async fn kill(rounds: u32) -> Row {
    kill_on(Bench::of_three().await, rounds).await
}

pub(crate) async fn kill_on(mut bench: Bench, rounds: u32) -> Row {
    kill_primaries(&mut bench, rounds).await;
    bench.end("SIGKILL").await
}

/// One primary after the other; each returns before the next one goes.
pub(crate) async fn kill_primaries(bench: &mut Bench, rounds: u32) {
    for _ in 0..rounds {
        let old = bench.primary().await;
        let blow = Instant::now();
        bench.cluster.kill(old);
        bench.successor(old).await;
        bench.progress().await;
        bench.survived(blow);
        bench.cluster.restart(old);
        bench.level().await;
    }
}

/// F-proc-5: the primary freezes, is replaced, and resumes.
pub(crate) async fn freeze(rounds: u32) -> Row {
    let mut bench = Bench::of_three().await;
    for _ in 0..rounds {
        let old = bench.primary().await;
        let blow = Instant::now();
        bench.cluster.pause(old);
        bench.successor(old).await;
        bench.progress().await;
        bench.survived(blow);
        bench.cluster.resume(old);
        bench.level().await;
    }
    bench.end("SIGSTOP").await
}

/// F-proc-6: nobody misses a frozen backup.
pub(crate) async fn freeze_backups(rounds: u32) -> Row {
    let mut bench = Bench::of_three().await;
    for round in 0..rounds as usize {
        let chief = bench.primary().await;
        let backup = (chief + 1 + round % 2) % 3;
        let blow = Instant::now();
        bench.cluster.pause(backup);
        bench.progress().await;
        bench.survived(blow);
        bench.cluster.resume(backup);
        bench.level().await;
    }
    bench.end("SIGSTOP").await
}

/// F-proc-11: SIGTERM; the role is handed over, and no call fails.
pub(crate) async fn terminate(rounds: u32) -> Row {
    let mut bench = Bench::of_three().await;
    for _ in 0..rounds {
        let old = bench.primary().await;
        let blow = Instant::now();
        let ended = bench.cluster.terminate(old);
        assert_eq!(ended.code(), Some(0), "who was asked to stop has not failed");
        bench.progress().await;
        bench.survived(blow);
        bench.cluster.restart(old);
        bench.level().await;
    }
    let row = bench.end("SIGTERM; no call failed").await;
    assert_eq!(row.verdict.acknowledged, row.verdict.writes, "no client sees an error");
    row
}

/// F-proc-11: a rolling restart. Each member is stopped by SIGTERM and started again, as soon as all are level again,
/// the backups first. No call fails.
pub(crate) async fn roll(rounds: u32) -> Row {
    let mut bench = Bench::of_three().await;
    for round in 1..=rounds {
        let chief = bench.primary().await;
        for id in [1, 2, 3].map(|next| (chief + next) % 3) {
            let role = if bench.primary().await == id { "primary" } else { "backup" };
            let blow = Instant::now();
            let ended = bench.cluster.terminate(id);
            assert_eq!(ended.code(), Some(0), "who was asked to stop has not failed");
            bench.cluster.restart(id);
            bench.progress().await;
            bench.level().await;
            bench.survived(blow);
            let [p99, worst] = bench.gaps_since(blow).map(|gap| gap.as_millis());
            println!(
                "  round {round}: member {id}, {role}: gaps between writes: p99 {p99} ms, longest {worst} ms"
            );
        }
    }
    let row = bench.end("SIGTERM of each; no call failed").await;
    assert_eq!(row.verdict.acknowledged, row.verdict.writes, "no client sees an error");
    row
}

/// Descriptors of a member that is to run out of them.
const DESCRIPTORS: usize = 128;

/// F-proc-9: more callers than descriptors. The member keeps its peers and its disk, and is there for clients
/// afterwards.
pub(crate) async fn descriptors(rounds: u32) -> Row {
    let mut cluster = Cluster::prepare(&["data", "data", "data"], &FLAGS);
    let limit = format!("ulimit -n {DESCRIPTORS}; exec \"$@\"");
    for id in 0..3 {
        cluster.under[id] = ["bash", "-c", &limit, "bash"].map(str::to_owned).to_vec();
        cluster.restart(id);
    }
    let mut bench = Bench::on(cluster).await;
    for _ in 0..rounds {
        let chief = bench.primary().await;
        let blow = Instant::now();
        // What the kernel takes in stays in its queue, where no descriptor is left for it.
        let address = bench.cluster.address(chief).to_owned();
        let crowd: Vec<_> = (0..DESCRIPTORS).filter_map(|_| TcpStream::connect(&address).ok()).collect();
        bench.progress().await;
        bench.progress().await;
        assert!(crowd.len() > DESCRIPTORS / 2, "there is a crowd");
        drop(crowd);
        bench.survived(blow);
        let newcomer = bench.cluster.client().await;
        newcomer.get("k").await.expect("a newcomer is served again");
        bench.level().await;
    }
    bench.end(format!("{DESCRIPTORS} callers, {DESCRIPTORS} descriptors")).await
}
