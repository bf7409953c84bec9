//! The thread that merges files of the state.

use super::super::merges;
use super::super::sync::lock;
use super::*;
use crate::engine::{Disk, Engine, KeyChange, Retention};
use crate::ids::{Anchor, Hash, Revision};
use crate::storage::simulated::Disk as TestDisk;

/// What nobody tells the test, it looks for this long.
const BOUND: Duration = Duration::from_secs(30);

/// A state of so many runs that they are merged.
fn mergeable(disk: &TestDisk) -> Disk {
    let engine = Disk::open(disk.storage(), 1 << 20, 64 << 10).unwrap();
    let mut engine = engine.at(Anchor::ZERO, Revision::ZERO, Retention::NONE);
    for number in 1..=5 {
        let revision = Revision::new(number);
        engine.write(&number.to_be_bytes(), revision, KeyChange::Set(vec![7; 100].into()), None);
        engine.publish(Anchor::new(Op::new(number), Hash::ZERO), revision);
        let frozen = engine.freeze().unwrap();
        engine.checkpointed(frozen.run(Vec::new()).unwrap());
    }
    engine
}

fn until(mut is_so: impl FnMut() -> bool) -> bool {
    let end = std::time::Instant::now() + BOUND;
    while !is_so() {
        if std::time::Instant::now() > end {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

/// No merge comes after the last reader of the files has gone, and they are closed nevertheless.
#[test]
fn merged_files_are_closed_when_nobody_reads_them_any_more() {
    let bench = Bench::new();
    let mut engine = mergeable(&TestDisk::new());
    let merger = engine.merger().unwrap();
    let view = engine.reader().latest();
    bench.shared.merges.change(|queue| queue.consider(engine.merger()));
    let shared = bench.shared.clone();
    let thread = std::thread::spawn(move || merges::run(&shared));
    let merges = &bench.shared.merges;
    assert!(until(|| merger.runs() == 1 && !merges.with(|queue| queue.is_running())), "it merges");
    engine.merged();
    assert!(merger.removed() > 0, "a reader has them");
    drop(view);
    let closed = until(|| {
        // As the applier does.
        if bench.shared.applier_queue.with(|plan| std::mem::take(&mut plan.release)) {
            engine.release();
        }
        merger.removed() == 0
    });
    // The state is dropped: nothing of it is held.
    drop((engine, merger));
    merges::wait(&bench.shared);
    bench.shared.merges.change(merges::MergeQueue::close);
    thread.join().unwrap();
    assert!(closed, "they are closed");
}

/// What peers fetch is not merged. It is merged when they do not fetch it any more, though no checkpoint comes then.
#[tokio::test(start_paused = true)]
async fn merges_that_wait_for_a_transfer_go_on_when_it_ends() {
    let bench = Bench::new();
    let mut engine = mergeable(&TestDisk::new());
    let merger = engine.merger().unwrap();
    {
        let mut sources = lock(&bench.shared.sources);
        sources.publish(engine.snapshot());
        assert!(sources.get(PEER, None, bench.shared.clock.monotonic()).is_some());
    }
    bench.shared.merges.change(|queue| queue.consider(engine.merger()));
    let (shared, runtime) = (bench.shared.clone(), tokio::runtime::Handle::current());
    let thread = std::thread::spawn(move || {
        let _clock = runtime.enter();
        merges::run(&shared);
    });
    let merges = &bench.shared.merges;
    assert!(until(|| !merges.with(|queue| queue.is_running())), "it looks at the state");
    assert_eq!(merger.runs(), 5, "its files are fetched");
    tokio::time::advance(Duration::from_secs(31)).await;
    let merged = until(|| merger.runs() == 1);
    engine.merged();
    lock(&bench.shared.sources).clear();
    drop((engine, merger));
    merges::wait(&bench.shared);
    bench.shared.merges.change(merges::MergeQueue::close);
    thread.join().unwrap();
    assert!(merged, "it goes on");
}

/// Others wait for the thread when a state is dropped. They must not wait for one that has ended.
#[test]
fn nobody_waits_for_a_merge_that_panicked() {
    let bench = Bench::new();
    let disk = TestDisk::new();
    let engine = mergeable(&disk);
    bench.shared.merges.change(|queue| queue.consider(engine.merger()));
    disk.on_read(0, || panic!("the merge panics"));
    let shared = bench.shared.clone();
    assert!(std::thread::spawn(move || merges::run(&shared)).join().is_err());
    let shared = bench.shared;
    let waiting = std::thread::spawn(move || merges::wait(&shared));
    assert!(until(|| waiting.is_finished()), "it does not wait");
}
