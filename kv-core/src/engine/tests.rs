//! Tests of the engine on disk: merges, and how much they write and leave.

mod disks;
mod held;
mod room;
mod steps;

use super::store::MergeStep;
use super::*;
use crate::ids::Op;
use crate::storage::simulated::{Disk as TestDisk, Kind};
use bytes::Bytes;
use std::collections::BTreeMap;

/// Memtables of about this size are written.
const MEMTABLE: usize = 64 << 10;

/// An engine, and what it must contain at each revision.
struct Tested {
    disk: TestDisk,
    engine: Disk,
    revision: u64,
    present: BTreeMap<Vec<u8>, Bytes>,
}

impl Tested {
    fn new(retention: Retention) -> Self {
        Self::with_memtables(MEMTABLE, retention)
    }

    fn with_memtables(bytes: usize, retention: Retention) -> Self {
        let disk = TestDisk::new();
        let engine = Disk::open(disk.storage(), 1 << 20, bytes).unwrap();
        let engine = engine.at(Anchor::ZERO, Revision::ZERO, retention);
        Self { disk, engine, revision: 0, present: BTreeMap::new() }
    }

    fn engine(disk: &TestDisk, retention: Retention) -> Disk {
        let opened = Disk::open(disk.storage(), 1 << 20, MEMTABLE).unwrap();
        let revision = opened.rows().starting_with(b"revision").unwrap().pop();
        let revision = revision.map_or(0, |(_, bytes)| u64::from_le_bytes(bytes.try_into().unwrap()));
        let at = Anchor::new(Op::new(revision), Hash::ZERO);
        opened.at(at, Revision::new(revision), retention)
    }

    fn write(&mut self, key: &str, value: Option<Bytes>) {
        self.write_key(key.as_bytes(), value);
    }

    fn write_key(&mut self, key: &[u8], value: Option<Bytes>) {
        self.revision += 1;
        let revision = Revision::new(self.revision);
        let former = match &value {
            Some(value) => self.present.insert(key.to_vec(), value.clone()),
            None => self.present.remove(key),
        };
        let change = value.map_or(KeyChange::Delete, KeyChange::Set);
        self.engine.write(key, revision, change, former.map(|former| former.len()));
        self.engine.publish(Anchor::new(Op::new(self.revision), Hash::ZERO), revision);
    }

    fn checkpoint(&mut self) {
        self.checkpoint_with(Vec::new());
    }

    /// With these rows too.
    fn checkpoint_with(&mut self, mut rows: Vec<(Vec<u8>, Option<Vec<u8>>)>) {
        let frozen = self.engine.freeze().expect("something is new");
        rows.extend(self.rows());
        self.engine.checkpointed(frozen.run(rows).unwrap());
    }

    fn rows(&self) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        vec![(b"revision".to_vec(), Some(self.revision.to_le_bytes().to_vec()))]
    }

    /// Merges until nothing is due, and returns how many steps that took.
    fn merge(&mut self) -> usize {
        let merger = self.engine.merger().unwrap();
        let mut steps = 0;
        while merger.step(&HeldFiles::default()).unwrap() == MergeStep::Merged {
            self.engine.merged();
            steps += 1;
        }
        steps
    }

    fn check(&self) {
        let view = self.engine.reader().latest();
        let scan = view.scan(b"").unwrap();
        let found: BTreeMap<Vec<u8>, Bytes> =
            scan.map(|row| row.map(|(key, value)| (key.to_vec(), value)).unwrap()).collect();
        assert!(found == self.present, "{} keys, and not {}", found.len(), self.present.len());
        for (key, value) in self.present.iter().step_by(37) {
            assert_eq!(view.get(key).unwrap().as_ref(), Some(value));
        }
    }

    /// Bytes of the files, and about how many of them are needed.
    fn bytes(&self) -> (u64, u64) {
        let (files, needed) = self.engine.merger().unwrap().bytes();
        assert!(files <= self.disk.used(), "no file is left that is not named");
        (self.disk.used(), needed)
    }
}

fn value(rng: &mut fastrand::Rng, len: usize) -> Bytes {
    std::iter::repeat_with(|| rng.u8(..)).take(len).collect::<Vec<_>>().into()
}

const HISTORY: Retention = Retention { revisions: 500, bytes: 200_000 };

#[test]
fn nothing_is_lost_in_merges_and_restarts() {
    for (seed, retention) in [(1, Retention::NONE), (2, HISTORY)] {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut tested = Tested::new(retention);
        let mut steps = 0;
        for round in 0..120 {
            for _ in 0..60 {
                let key = format!("key{:04}", rng.u32(..2000));
                let value = (rng.u8(..4) > 0).then(|| value(&mut rng, 300));
                tested.write(&key, value);
            }
            tested.checkpoint();
            steps += if round % 3 == 0 { tested.merge() } else { 0 };
            if round % 10 == 9 {
                tested.check();
                let reopened = Tested::engine(&tested.disk, retention);
                tested.engine = reopened;
                tested.check();
            }
        }
        assert!(steps > 20, "{steps}");
    }
}

/// A step of a merge may end between two versions of a key.
#[test]
fn every_step_of_a_merge_leaves_every_revision_as_it_was() {
    let retention = Retention { revisions: 1 << 20, bytes: 1 << 30 };
    let mut rng = fastrand::Rng::with_seed(11);
    let mut tested = Tested::with_memtables(8 << 10, retention);
    let mut past = vec![BTreeMap::new()];
    let mut steps = 0;
    for _ in 0..16 {
        for _ in 0..100 {
            let key = format!("key{}", rng.u32(..3));
            let value = (rng.u8(..4) > 0).then(|| value(&mut rng, 100));
            if value.is_some() || tested.present.contains_key(key.as_bytes()) {
                tested.write(&key, value);
                past.push(tested.present.clone());
            }
        }
        tested.checkpoint();
        let merger = tested.engine.merger().unwrap();
        while merger.step(&HeldFiles::default()).unwrap() == MergeStep::Merged {
            tested.engine.merged();
            steps += 1;
            tested.check();
            let view = tested.engine.reader().latest();
            for at in (0..past.len()).step_by(17) {
                for key in ["key0", "key1", "key2"] {
                    let found = view.get_at(key.as_bytes(), Revision::new(at as u64)).unwrap();
                    assert_eq!(found.as_ref(), past[at].get(key.as_bytes()), "{key} at {at}");
                }
                for reverse in [false, true] {
                    let keys = Keys { from: b"", to: None, reverse };
                    let scan = view.scan_at(keys, Revision::new(at as u64)).unwrap();
                    let found: BTreeMap<Vec<u8>, Bytes> =
                        scan.map(|row| row.map(|(key, value)| (key.to_vec(), value)).unwrap()).collect();
                    assert!(found == past[at], "at {at}");
                }
            }
        }
    }
    assert!(steps > 20, "{steps}");
}

/// What is written is a small multiple of what is put, and the number of runs is small.
#[test]
fn each_row_is_written_a_few_times() {
    let mut rng = fastrand::Rng::with_seed(3);
    let mut tested = Tested::with_memtables(1 << 20, Retention::NONE);
    let (mut put, mut most) = (0, 0);
    for _ in 0..128 {
        for _ in 0..300 {
            let key = format!("key{:08}", rng.u32(..));
            tested.write(&key, Some(value(&mut rng, 256)));
            put += key.len() as u64 + 256;
        }
        tested.checkpoint();
        tested.merge();
        most = most.max(tested.engine.merger().unwrap().runs());
    }
    let written = tested.disk.counters().written;
    assert!(written < 6 * put, "{written} for {put}");
    assert!(most <= 12, "{most} runs");
    tested.check();
}

/// Whatever is overwritten or deleted, its room is used again.
#[test]
fn the_files_are_not_much_longer_than_what_is_needed() {
    for (seed, retention) in [(4, Retention::NONE), (5, HISTORY)] {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut tested = Tested::new(retention);
        let mut most: f64 = 0.0;
        for round in 0..150 {
            let keys = if round < 100 { 3000 } else { 300 };
            for _ in 0..200 {
                let key = format!("key{:05}", rng.u32(..keys));
                let value = (round < 60 || rng.u8(..10) == 0).then(|| value(&mut rng, 300));
                tested.write(&key, value);
            }
            tested.checkpoint();
            tested.merge();
            let (files, needed) = tested.bytes();
            let bound = needed * 5 / 2 + 3 * MEMTABLE as u64;
            assert!(files <= bound, "round {round}: {files} bytes for {needed}");
            most = most.max(files as f64 / needed.max(1) as f64);
        }
        let all: Vec<Vec<u8>> = tested.present.keys().cloned().collect();
        for key in all {
            tested.write(std::str::from_utf8(&key).unwrap(), None);
        }
        tested.checkpoint();
        tested.merge();
        for _ in 0..HISTORY.revisions {
            tested.write("one", Some(Bytes::from_static(b"value")));
        }
        tested.checkpoint();
        tested.merge();
        assert!(
            tested.disk.used() < 3 * MEMTABLE as u64 + 200_000,
            "{} bytes for one key",
            tested.disk.used()
        );
        tested.check();
    }
}

/// A merge that is interrupted goes on after a restart; nothing is lost, wherever the power is cut.
#[test]
fn a_merge_survives_power_cuts_at_any_operation() {
    let mut rng = fastrand::Rng::with_seed(6);
    let mut tested = Tested::new(HISTORY);
    for _ in 0..7 {
        for _ in 0..150 {
            let key = format!("key{:04}", rng.u32(..400));
            let value = (rng.u8(..4) > 0).then(|| value(&mut rng, 300));
            tested.write(&key, value);
        }
        tested.checkpoint();
    }
    let whole = tested.disk.fork();
    let before = whole.counters().operations;
    let run = |disk: &TestDisk| -> Result<usize, EngineError> {
        let engine = Tested::engine(disk, HISTORY);
        let merger = engine.merger().unwrap();
        let mut steps = 0;
        while merger.step(&HeldFiles::default())? == MergeStep::Merged {
            steps += 1;
        }
        Ok(steps)
    };
    assert!(run(&whole).unwrap() > 1, "several steps");
    let operations = whole.counters().operations - before;
    for at in 1..=operations {
        for cut in 0..3 {
            let disk = tested.disk.fork();
            // What fails may be a removal, or the opening: then the merge succeeds or the restart fails.
            disk.fail_after(at);
            let _ = std::panic::catch_unwind(|| drop(run(&disk)));
            match cut {
                0 => disk.kill(),
                1 => disk.crash_losing_all(),
                _ => disk.crash(&mut fastrand::Rng::with_seed(at)),
            }
            let engine = Tested::engine(&disk, HISTORY);
            let mut again =
                Tested { disk, engine, revision: tested.revision, present: tested.present.clone() };
            again.check();
            again.merge();
            again.check();
            again.bytes();
        }
    }
}

/// There is no room for a merge: it is put off, and everything else goes on.
#[test]
fn a_full_disk_puts_merges_off() {
    let mut rng = fastrand::Rng::with_seed(7);
    let mut tested = Tested::new(Retention::NONE);
    for round in 0..8 {
        for _ in 0..150 {
            let key = format!("key{:04}", rng.u32(..1000));
            tested.write(&key, Some(value(&mut rng, 300)));
        }
        tested.checkpoint();
        if round < 3 {
            continue;
        }
        let merger = tested.engine.merger().unwrap();
        let (used, mut refused) = (tested.disk.used(), 0);
        for room in [0, 5_000, 20_000, 40_000] {
            tested.disk.set_capacity(Some(used + room));
            if merger.step(&HeldFiles::default()).unwrap() == MergeStep::NoRoom {
                refused += 1;
                assert_eq!(tested.disk.used(), used, "what was begun is removed");
            } else {
                break;
            }
        }
        assert!(refused > 0 || round > 3, "{refused}");
        tested.disk.set_capacity(None);
        tested.check();
    }
    // It is not tried again at once.
    for round in 0..4 {
        tested.write(&format!("{round}"), Some(Bytes::from_static(b"value")));
        tested.checkpoint();
    }
    tested.merge();
    tested.check();
    assert!(tested.engine.merger().unwrap().runs() < 5);
}

/// A failure of the disk is not a full disk: it is reported, and nothing is written after it.
#[test]
fn a_failed_merge_is_reported_and_final() {
    for kind in [Kind::Write, Kind::Sync, Kind::Name, Kind::SyncDirectory] {
        let mut tested = Tested::new(Retention::NONE);
        for round in 0..5 {
            tested.write(&format!("{round}"), Some(Bytes::from_static(b"value")));
            tested.checkpoint();
        }
        let merger = tested.engine.merger().unwrap();
        tested.disk.fail_next(kind);
        assert!(matches!(merger.step(&HeldFiles::default()), Err(EngineError::Io { .. })), "{kind:?}");
        assert!(matches!(merger.step(&HeldFiles::default()), Err(EngineError::Failed)), "{kind:?}");
        tested.write("more", None);
        assert!(matches!(tested.engine.freeze().unwrap().run(Vec::new()), Err(EngineError::Failed)));
        tested.check();
    }
}

/// Readers that hold an old view go on reading it while its files are merged and removed.
#[test]
fn a_held_view_outlasts_merges() {
    let mut rng = fastrand::Rng::with_seed(8);
    let mut tested = Tested::new(Retention::NONE);
    let mut held = Vec::new();
    for round in 0..20 {
        for _ in 0..80 {
            let key = format!("key{:04}", rng.u32(..500));
            tested.write(&key, Some(value(&mut rng, 200)));
        }
        if round % 9 == 2 {
            held.push((tested.engine.reader().latest(), tested.present.clone()));
        }
        tested.checkpoint();
        tested.merge();
    }
    for (view, present) in held {
        let found = view.scan(b"").unwrap().map(|row| row.map(|(key, value)| (key.to_vec(), value)).unwrap());
        assert!(found.eq(present));
    }
}

/// Rounds of the scrub end although merges replace the files all the time, and a bad byte is found in the next round.
#[test]
fn a_round_of_the_scrub_ends_while_files_change() {
    let mut rng = fastrand::Rng::with_seed(9);
    let mut tested = Tested::new(Retention::NONE);
    let mut place = Bytes::new();
    let (mut rounds, mut read) = (0, 0);
    for _ in 0..200 {
        for _ in 0..20 {
            let key = format!("key{:04}", rng.u32(..2000));
            tested.write(&key, Some(value(&mut rng, 300)));
        }
        tested.checkpoint();
        tested.merge();
        let snapshot = tested.engine.snapshot().unwrap();
        let (bytes, next) = snapshot.scrub(&place, 60_000).unwrap();
        read += bytes;
        rounds += usize::from(next.is_none());
        place = next.unwrap_or_default();
    }
    assert!(rounds > 5 && read > 1_000_000, "{rounds} rounds, {read} bytes");
    let name = tested.disk.names().pop().unwrap();
    tested.disk.flip_bit(&name, 100, 1);
    let snapshot = tested.engine.snapshot().unwrap();
    let mut place = Some(Bytes::new());
    let found = std::iter::from_fn(|| {
        let done = snapshot.scrub(&place.take()?, 10_000);
        place = done.as_ref().ok().and_then(|(_, next)| next.clone());
        Some(done)
    });
    assert!(found.last().unwrap().is_err());
}

/// Of a state that lacks a file, everything that lies elsewhere can still be read.
#[test]
fn a_missing_file_hides_only_what_is_in_it() {
    let mut rng = fastrand::Rng::with_seed(10);
    let mut tested = Tested::new(Retention::NONE);
    for number in 0..400 {
        tested.write(&format!("key{number:04}"), Some(value(&mut rng, 300)));
    }
    tested.checkpoint();
    let names: Vec<String> =
        tested.disk.names().into_iter().filter(|name| name.starts_with("state-")).collect();
    assert!(names.len() > 5, "{names:?}");
    for name in &names[1..] {
        let disk = tested.disk.fork();
        disk.lose(name);
        assert!(matches!(Disk::open(disk.storage(), 0, MEMTABLE), Err(EngineError::Damaged { .. })));
        Disk::set_aside(&*disk.storage()).unwrap();
        let opened = Disk::open_aside(disk.storage(), 0, MEMTABLE).unwrap();
        let engine = opened.at(Anchor::ZERO, Revision::new(tested.revision), Retention::NONE);
        let view = engine.reader().latest();
        let mut hidden = 0;
        for (key, value) in &tested.present {
            match view.get(key) {
                Ok(found) => assert_eq!(found.as_ref(), Some(value)),
                Err(EngineError::Damaged { .. }) => hidden += 1,
                Err(error) => panic!("{error}"),
            }
        }
        assert!(hidden > 0 && hidden < 2 * 400 / (names.len() - 1), "{hidden} of 400 keys");
    }
}

/// A merge of many large values has few of them in memory at a time: each is read when it is its turn.
#[test]
fn a_merge_reads_large_values_one_by_one() {
    let mut tested = Tested::with_memtables(1 << 20, Retention::NONE);
    for round in 0..8 {
        for number in 0..4 {
            let value = Bytes::from(vec![7; 100_000]);
            tested.write(&format!("key{number}/{round}"), Some(value));
        }
        tested.checkpoint();
    }
    let snapshot = tested.engine.snapshot().unwrap();
    let before = tested.disk.counters().reads;
    // The first row is found without reading a large value of any run.
    let chunk = snapshot.chunk(&[], 1).unwrap();
    assert!(chunk.rows.len() < 1000);
    assert!(tested.disk.counters().reads - before < 8 * 3, "the index and one block of each run");
    tested.merge();
    tested.check();
}
