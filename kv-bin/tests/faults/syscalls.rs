//! System calls of one member fail, or take long.

use crate::bench::{Bench, Row};
use crate::machine::Injection;
use std::time::Instant;

/// F-disk-10, F-disk-11, F-disk-13: the failing call, as strace expects it, and the message that the member must
/// report.
const FAILURES: [(&str, &str); 4] = [
    ("fdatasync:error=EIO:when=1", "the disk failed"),
    ("pwrite64:error=ENOSPC:when=1+", "the disk is full: free some space"),
    ("pwrite64:error=EROFS:when=1+", "read-only"),
    ("fdatasync:error=ENOSPC:when=3", "the disk is full: free some space"),
];

/// By turns the primary's and a backup's call fails, often only once. That member reports the reason and stops; the
/// others continue.
pub(crate) async fn fail(rounds: u32) -> Row {
    let mut bench = Bench::of_three().await;
    for round in 0..rounds as usize {
        let (what, words) = FAILURES[round % FAILURES.len()];
        let victim = (bench.primary().await + round % 2) % 3;
        let blow = Instant::now();
        let injection = Injection::into(bench.cluster.pid(victim), what);
        let last = bench.ended(victim).await;
        drop(injection);
        assert!(last.contains("stopped: ") && last.contains(words), "{what}: {last:?}");
        bench.progress().await;
        bench.survived(blow);
        bench.cluster.restart(victim);
        bench.level().await;
    }
    bench.end("EIO once, ENOSPC, EROFS").await
}

/// F-disk-14: every fsync of the primary takes 0.4 s longer. It hands over, and as a backup holds nobody up.
pub(crate) async fn slow(rounds: u32) -> Row {
    let mut bench = Bench::of_three().await;
    for _ in 0..rounds {
        let old = bench.primary().await;
        let blow = Instant::now();
        let injection = Injection::into(bench.cluster.pid(old), "fdatasync:delay_enter=400000");
        bench.successor(old).await;
        bench.progress().await;
        bench.survived(blow);
        drop(injection);
        bench.level().await;
    }
    bench.end("0.4 s more for each fdatasync").await
}

/// F-disk-15: an fsync of the primary does not return. The primary fences itself, and is replaced.
pub(crate) async fn stall(rounds: u32) -> Row {
    let mut bench = Bench::of_three().await;
    for _ in 0..rounds {
        let old = bench.primary().await;
        let mark = bench.cluster.log(old).len();
        let blow = Instant::now();
        let injection = Injection::into(bench.cluster.pid(old), "fdatasync:delay_enter=600000000:when=1");
        bench.successor(old).await;
        bench.logged(old, mark, "abdicating").await;
        bench.progress().await;
        bench.survived(blow);
        // The call returns after all.
        drop(injection);
        bench.level().await;
    }
    bench.end("one fdatasync that does not return").await
}

/// F-disk-14: every fsync of a backup takes 0.4 s longer. Nobody waits for it.
pub(crate) async fn slow_backup(rounds: u32) -> Row {
    let mut bench = Bench::of_three().await;
    for round in 0..rounds as usize {
        let backup = (bench.primary().await + 1 + round % 2) % 3;
        let injection = Injection::into(bench.cluster.pid(backup), "fdatasync:delay_enter=400000");
        let blow = Instant::now();
        for _ in 0..5 {
            bench.progress().await;
        }
        bench.survived(blow);
        drop(injection);
        bench.level().await;
    }
    bench.end("0.4 s more for each fdatasync").await
}
