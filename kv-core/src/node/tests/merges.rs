//! The thread that merges files of the state.

use super::super::merges;
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
