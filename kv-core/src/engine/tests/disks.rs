//! Power cuts, full disks, damage, and what the threads of a state do at the same time.

use super::*;
use crate::message::{Chunk, ChunkEnd};

/// A state of several runs that can be merged.
pub(super) fn mergeable(retention: Retention) -> Tested {
    let mut rng = fastrand::Rng::with_seed(21);
    let mut tested = Tested::new(retention);
    for _ in 0..7 {
        for _ in 0..150 {
            let key = format!("key{:04}", rng.u32(..400));
            let value = (rng.u8(..4) > 0).then(|| value(&mut rng, 300));
            tested.write(&key, value);
        }
        tested.checkpoint();
    }
    tested
}

impl Tested {
    /// The same on another disk.
    fn on(&self, disk: TestDisk, retention: Retention) -> Self {
        let engine = Self::engine(&disk, retention);
        Self { disk, engine, revision: self.revision, present: self.present.clone() }
    }
}

/// The process ends at any operation of a merge, and the power fails at any operation of the next start. What the start
/// removes must not be named by a manifest that comes back.
#[test]
fn a_power_cut_during_the_start_after_another_end_loses_nothing() {
    let tested = mergeable(Retention::NONE);
    let merge = |disk: &TestDisk| {
        let engine = Tested::engine(disk, Retention::NONE);
        let merger = engine.merger().unwrap();
        while merger.step(&HeldFiles::default()).is_ok_and(|step| step == MergeStep::Merged) {}
    };
    let whole = tested.disk.fork();
    let before = whole.counters().operations;
    merge(&whole);
    let operations = whole.counters().operations - before;
    for first in (1..=operations).rev() {
        for kill in [true, false] {
            let disk = tested.disk.fork();
            disk.fail_after(first);
            let _ = std::panic::catch_unwind(|| merge(&disk));
            if kill {
                disk.kill();
            } else {
                disk.crash(&mut fastrand::Rng::with_seed(first));
            }
            for second in [1, 2, 3, 5, 8, 13, 1000] {
                // With the same names that are not durable yet.
                let disk = disk.fork();
                disk.fail_after(second);
                let _ = std::panic::catch_unwind(|| drop(Tested::engine(&disk, Retention::NONE)));
                if second % 2 == 0 {
                    disk.crash_losing_all();
                } else {
                    disk.crash(&mut fastrand::Rng::with_seed(first * 31 + second));
                }
                tested.on(disk, Retention::NONE).check();
            }
        }
    }
}

/// However much room there is, a merge that has too little leaves nothing behind.
#[test]
fn a_merge_without_room_leaves_nothing_wherever_it_ends() {
    let tested = mergeable(Retention::NONE);
    let whole = tested.disk.fork();
    // The room that one step needs at most.
    let most = 2 * MEMTABLE as u64 + 40_000;
    let (mut refused, mut merged) = (0, 0);
    for room in (0..most).step_by(509) {
        let again = tested.on(whole.fork(), Retention::NONE);
        let (used, names) = (again.disk.used(), again.disk.names());
        again.disk.set_capacity(Some(used + room));
        let merger = again.engine.merger().unwrap();
        match merger.step(&HeldFiles::default()).unwrap() {
            MergeStep::NoRoom => {
                refused += 1;
                assert_eq!((again.disk.used(), again.disk.names()), (used, names), "{room} bytes of room");
            }
            MergeStep::Merged => merged += 1,
            MergeStep::Idle => panic!("something is to be merged"),
        }
        again.disk.set_capacity(None);
        again.check();
        let again = tested.on(again.disk.clone(), Retention::NONE);
        assert_eq!(again.engine.merger().unwrap().step(&HeldFiles::default()).unwrap(), MergeStep::Merged);
        again.check();
    }
    assert!(refused > 50 && merged > 20, "{refused} refused, {merged} merged");
}

/// A state that was set aside may be damaged anywhere: its runs are read by those who can, and not merged.
#[test]
fn checkpoints_of_a_state_that_is_set_aside_merge_nothing() {
    let tested = mergeable(Retention::NONE);
    let disk = tested.disk.fork();
    let names = |disk: &TestDisk| disk.names().into_iter().filter(|name| name.starts_with("state-"));
    let largest = names(&disk).max_by_key(|name| disk.contents(name).unwrap().len()).unwrap();
    disk.flip_bit(&largest, 3000, 1);
    Disk::set_aside(&*disk.storage()).unwrap();
    let opened = Disk::open_aside(disk.storage(), 0, MEMTABLE).unwrap();
    let revision = Revision::new(tested.revision);
    let engine = opened.at(Anchor::new(Op::new(tested.revision), Hash::ZERO), revision, Retention::NONE);
    let mut aside = Tested { disk, engine, revision: tested.revision, present: tested.present };
    for round in 0..100 {
        aside.write(&format!("new{round}"), Some(Bytes::from_static(b"value")));
        aside.checkpoint();
    }
    assert_eq!(aside.engine.merger().unwrap().runs(), 107);
}

/// A state is set aside in the middle of a merge, and what was not merged yet is lost: what was is still read.
#[test]
fn damage_behind_what_was_merged_hides_nothing_of_it() {
    let tested = mergeable(Retention::NONE);
    let merger = tested.engine.merger().unwrap();
    let old: Vec<String> =
        tested.disk.names().into_iter().filter(|name| name.starts_with("state-")).collect();
    assert_eq!(merger.step(&HeldFiles::default()).unwrap(), MergeStep::Merged);
    let disk = tested.disk.fork();
    let left: Vec<String> = disk.names().into_iter().filter(|name| old.contains(name)).collect();
    assert!(!left.is_empty());
    for name in left {
        let len = disk.contents(&name).unwrap().len();
        disk.overwrite(&name, 0, &vec![0x55; len]);
    }
    Disk::set_aside(&*disk.storage()).unwrap();
    let opened = Disk::open_aside(disk.storage(), 0, MEMTABLE).unwrap();
    let rows = opened.rows().starting_with(b"revision").unwrap();
    assert_eq!(rows, [(b"revision".to_vec(), tested.revision.to_le_bytes().to_vec())]);
    let revision = Revision::new(tested.revision);
    let engine = opened.at(Anchor::new(Op::new(tested.revision), Hash::ZERO), revision, Retention::NONE);
    let chunk = engine.snapshot().unwrap().chunk(&[], 2000).unwrap();
    assert!(chunk.rows.len() >= 2000);
    let scanned = engine.reader().latest().scan(b"").unwrap().take(50).filter(Result::is_ok).count();
    assert_eq!(scanned, 50);
}

/// A row that is written at every checkpoint is read from the newest run only: an older copy of it may be damaged.
#[test]
fn damage_of_superseded_rows_hides_nothing() {
    let tested = mergeable(HISTORY);
    let disk = tested.disk.fork();
    for name in disk.names().iter().filter(|name| name.starts_with("state-")).take(5) {
        disk.flip_bit(name, 10, 1);
    }
    let opened = Disk::open(disk.storage(), 0, MEMTABLE).unwrap();
    let found = opened.rows().get(b"revision").unwrap();
    assert_eq!(found, Some(tested.revision.to_le_bytes().to_vec()));
    assert!(opened.rows().starting_with(b"").is_err(), "those that are damaged are not passed over");
}

/// What was merged while a checkpoint was on its way is used when the checkpoint is done.
#[test]
fn merges_beside_a_checkpoint_are_used() {
    let mut tested = mergeable(Retention::NONE);
    tested.write("new", Some(Bytes::from_static(b"value")));
    let frozen = tested.engine.freeze().unwrap();
    let progress = frozen.progress();
    let rows = vec![(b"revision".to_vec(), Some(tested.revision.to_le_bytes().to_vec()))];
    let written = frozen.write(rows).unwrap();
    let steps = progress.steps();
    let merger = tested.engine.merger().unwrap();
    assert_eq!(merger.step(&HeldFiles::default()).unwrap(), MergeStep::Merged);
    tested.engine.merged();
    tested.check();
    assert_eq!(progress.steps(), steps, "a merge is no progress of the checkpoint");
    let done = written.commit().unwrap();
    assert!(progress.steps() > steps);
    while merger.step(&HeldFiles::default()).unwrap() == MergeStep::Merged {
        // There is no checkpoint of this base here yet.
        tested.engine.merged();
    }
    tested.engine.checkpointed(done);
    tested.check();
    let snapshot = tested.engine.snapshot().unwrap();
    assert_eq!(snapshot.runs(), merger.runs(), "the newest files are read");
}

/// A checkpoint that is dropped before it is part of the state leaves nothing.
#[test]
fn a_written_checkpoint_that_nobody_takes_is_removed() {
    let mut tested = mergeable(Retention::NONE);
    let names = tested.disk.names();
    tested.write("new", Some(Bytes::from_static(b"value")));
    let written = tested.engine.freeze().unwrap().write(Vec::new()).unwrap();
    assert_ne!(tested.disk.names(), names);
    drop(written);
    assert_eq!(tested.disk.names(), names);
}

/// The file system frees the room of a long file when it is closed, and that takes a while. So the writer never closes
/// one, nor does a reader: the next step of a merge does.
#[test]
fn files_that_were_merged_are_closed_by_the_merges() {
    let mut tested = mergeable(Retention::NONE);
    let held = tested.engine.reader().latest();
    let merger = tested.engine.merger().unwrap();
    assert_eq!(merger.step(&HeldFiles::default()).unwrap(), MergeStep::Merged);
    tested.engine.merged();
    let open = merger.removed();
    assert!(open > 0);
    drop(held);
    assert_eq!(merger.removed(), open);
    while merger.step(&HeldFiles::default()).unwrap() == MergeStep::Merged {
        tested.engine.merged();
    }
    assert_eq!(merger.removed(), 0);
    tested.check();
}

/// How much a small or empty state takes says nothing of a greater one later.
#[test]
fn a_state_that_was_once_empty_is_still_merged() {
    let mut rng = fastrand::Rng::with_seed(22);
    let mut tested = mergeable(Retention::NONE);
    for key in tested.present.clone().into_keys() {
        tested.write(std::str::from_utf8(&key).unwrap(), None);
    }
    tested.checkpoint();
    tested.merge();
    for round in 0..40 {
        for _ in 0..200 {
            tested.write(&format!("key{:03}", rng.u32(..300)), Some(value(&mut rng, 300)));
        }
        tested.checkpoint();
        tested.merge();
        let (files, needed) = tested.bytes();
        let bound = needed * 5 / 2 + 3 * MEMTABLE as u64;
        assert!(files <= bound, "round {round}: {files} bytes for {needed}");
    }
}

/// The owner is dropped while a merge reads what is not needed any more: it ends at once, and not at the next write.
#[test]
fn a_merge_ends_when_its_owner_is_dropped() {
    let mut tested = Tested::with_memtables(1 << 20, Retention::NONE);
    for _ in 0..4 {
        for key in 0..10_000 {
            tested.write(&format!("key{key}"), None);
        }
        tested.checkpoint();
    }
    let whole = tested.disk.fork();
    let opened = Disk::open(whole.storage(), 1 << 20, 1 << 20).unwrap();
    let engine = opened.at(Anchor::ZERO, Revision::new(tested.revision), Retention::NONE);
    let before = whole.counters().reads;
    engine.merger().unwrap().step(&HeldFiles::default()).unwrap();
    let all = whole.counters().reads - before;
    let merger = tested.engine.merger().unwrap();
    let disk = tested.disk.clone();
    let before = disk.counters().reads;
    // In the midst of the keys that were deleted: nothing of them is written.
    let engine = std::sync::Mutex::new(Some(tested.engine));
    disk.on_read(before + all / 2, move || drop(engine.lock().unwrap().take()));
    assert!(matches!(merger.step(&HeldFiles::default()), Err(EngineError::Failed)));
    let reads = disk.counters().reads - before;
    assert!(reads < all * 3 / 4, "{reads} of {all} reads");
}

fn chunk(after: &[u8], number: u64, len: usize) -> Chunk {
    let place = place::version(&place::key_start(format!("key{number:04}").as_bytes()), Revision::new(1));
    let stored = [&[place::SET], &vec![7; len][..]].concat();
    let mut rows = Vec::new();
    for part in [&place, &stored] {
        rows.extend(u32::try_from(part.len()).unwrap().to_le_bytes());
        rows.extend_from_slice(part);
    }
    Chunk::new(Bytes::copy_from_slice(after), rows.into(), ChunkEnd::More(place.into()))
}

/// The member has no state yet, and its process ends at any operation of a transfer: files that belong to nothing do
/// not pile up.
#[test]
fn a_crash_during_the_first_transfer_leaves_no_files() {
    let receive = |disk: &TestDisk| -> Result<(), EngineError> {
        let storage = disk.storage();
        let at = Anchor::new(Op::new(1), Hash::ZERO);
        let mut staging = Staging::begin(&storage, MEMTABLE, at)?;
        let mut after = Bytes::new();
        for number in 0..100 {
            let chunk = chunk(&after, number, 3000);
            assert!(staging.add(&chunk)?);
            let ChunkEnd::More(next) = &chunk.end else { panic!("there is more") };
            after = next.clone();
        }
        Ok(())
    };
    let whole = TestDisk::new();
    receive(&whole).unwrap();
    for at in 1..=whole.counters().operations {
        let disk = TestDisk::new();
        // Of a state whose manifest was moved away.
        disk.put("state-0000000000000003", vec![1; 100]);
        disk.fail_after(at);
        let _ = receive(&disk);
        if at % 2 == 0 {
            disk.kill();
        } else {
            disk.crash(&mut fastrand::Rng::with_seed(at));
        }
        drop(Disk::open(disk.storage(), 0, MEMTABLE).unwrap());
        let staging = Staging::open(&disk.storage(), MEMTABLE).unwrap();
        let files = disk.names().into_iter().filter(|name| name.starts_with("state-")).count();
        let named = staging.as_ref().map_or(0, Staging::files);
        assert_eq!(files, 1 + named, "operation {at}: {:?}", disk.names());
    }
}

/// The state of the former format, and what of it may lie beside.
#[test]
fn files_of_the_former_format_are_told_apart() {
    use crate::engine::manifest::tests::of_former_format;
    let disk = TestDisk::new();
    disk.put("state.transfer", of_former_format());
    assert!(Staging::open(&disk.storage(), MEMTABLE).unwrap().is_none());
    assert!(disk.names().is_empty(), "{:?}", disk.names());

    disk.put("state.transfer", of_former_format());
    disk.put("state", of_former_format());
    disk.put("state-0000000000000003", vec![1; 100]);
    let names = disk.names();
    let error = Disk::open(disk.storage(), 0, MEMTABLE).unwrap_err();
    assert!(matches!(error, EngineError::Format { found: 3, .. }), "{error}");
    assert_eq!(disk.names(), names, "nothing was removed");

    // A damaged one that was set aside by the former version: it does not matter.
    let tested = mergeable(Retention::NONE);
    let disk = tested.disk.fork();
    disk.put("state.damaged", of_former_format());
    disk.put("state-00000000000000ff", vec![1; 100]);
    tested.on(disk.clone(), Retention::NONE).check();
    assert!(!disk.names().contains(&"state-00000000000000ff".to_owned()));
}

/// Keys may be longer than a block; those that are deleted are forgotten like any other.
#[test]
fn deleted_keys_of_any_length_are_forgotten() {
    for len in [4065, 9000, 17_000, 40_000] {
        for byte in [0, 1, 0xff] {
            let mut tested = Tested::with_memtables(256 << 10, Retention::NONE);
            let key = vec![byte; len];
            for value in [Some(Bytes::from_static(b"value")), None, Some(Bytes::new()), None] {
                tested.write_key(&key, value);
                tested.checkpoint();
            }
            let chunk = tested.engine.snapshot().unwrap().chunk(&[], 1 << 20).unwrap();
            assert!(chunk.rows.len() < 1000, "{} bytes for a deleted key of {len}", chunk.rows.len());
            tested.check();
            tested.merge();
            let merger = tested.engine.merger().unwrap();
            assert_eq!(merger.runs(), 1);
            assert!(merger.bytes().0 < 2000, "{} bytes for a deleted key of {len}", merger.bytes().0);
            tested.check();
        }
    }
}
