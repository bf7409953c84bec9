//! Where a step of a merge ends, and what it leaves.

use super::*;
use crate::message::ChunkEnd;

/// A step may end at any row of a key that was deleted. The rest of the key does not come back.
#[test]
fn a_step_that_ends_in_a_deleted_key_does_not_revive_it() {
    let mut steps = 0;
    for padding in 0..40 {
        let mut tested = Tested::with_memtables(8 << 10, Retention::NONE);
        let rows = |padding| vec![(b"padding".to_vec(), Some(vec![7; padding]))];
        let keys: Vec<String> = (0..1500).map(|key| format!("{key:04}")).collect();
        for value in [Some(Bytes::from_static(b"v")), None] {
            for key in &keys {
                tested.write(key, value.clone());
            }
            tested.checkpoint_with(rows(padding));
        }
        let merger = tested.engine.merger().unwrap();
        while merger.step(&HeldFiles::default()).unwrap() == MergeStep::Merged {
            tested.engine.merged();
            steps += 1;
            tested.check();
        }
    }
    assert!(steps >= 80, "{steps}");
}

/// The same with versions that history needs, and keys that are set again.
#[test]
fn steps_that_end_anywhere_change_nothing_that_can_be_read() {
    let retention = Retention { revisions: 300, bytes: 1 << 30 };
    let mut steps = 0;
    for padding in 0..24 {
        let mut rng = fastrand::Rng::with_seed(padding as u64);
        let mut tested = Tested::with_memtables(8 << 10, retention);
        let mut past = BTreeMap::new();
        for round in 0..4 {
            for _ in 0..700 {
                let key = format!("{:03}", rng.u32(..250));
                let value = (rng.u8(..3) == 0).then(|| Bytes::from_static(b"v"));
                if value.is_some() || tested.present.contains_key(key.as_bytes()) {
                    tested.write(&key, value);
                }
                if round == 3 && rng.u8(..20) == 0 {
                    past.insert(tested.revision, tested.present.clone());
                }
            }
            tested.checkpoint_with(vec![(b"padding".to_vec(), Some(vec![7; padding]))]);
        }
        past.retain(|at, _| *at + retention.revisions > tested.revision);
        assert!(past.len() > 3);
        let merger = tested.engine.merger().unwrap();
        while merger.step(&HeldFiles::default()).unwrap() == MergeStep::Merged {
            tested.engine.merged();
            steps += 1;
            tested.check();
            let view = tested.engine.reader().latest();
            for (at, present) in &past {
                let keys = Keys { from: b"", to: None, reverse: steps % 2 == 0 };
                let scan = view.scan_at(keys, Revision::new(*at)).unwrap();
                let found: BTreeMap<Vec<u8>, Bytes> =
                    scan.map(|row| row.map(|(key, value)| (key.to_vec(), value)).unwrap()).collect();
                assert!(found == *present, "at {at}");
            }
        }
    }
    assert!(steps >= 48, "{steps}");
}

/// All files of a state are open, so there must not be many, also while its length is not known yet.
#[test]
fn a_received_state_has_few_files() {
    let sizes = sizes::Sizes::of(256 << 20);
    let (mut bytes, mut files) = (0, 0);
    while bytes < 100 << 30 {
        bytes += sizes.received(bytes);
        files += 1;
    }
    assert!(files < 280, "{files} files of 100 GiB");
    assert!(sizes.received(0) >= 64 << 20);
}

/// Long keys take several times as much in files as they are long. That is found out although the checkpoints do not
/// stop while all is merged, and then it is not merged again for nothing.
#[test]
fn what_was_merged_under_load_is_not_merged_again() {
    let mut tested = Tested::new(Retention::NONE);
    let key = |number: u8| [&[0; 4000][..], &[number]].concat();
    for number in 0..96 {
        tested.write_key(&key(number), Some(Bytes::from_static(b"value")));
        if number % 48 == 47 {
            tested.checkpoint();
        }
    }
    let (files, needed) = tested.bytes();
    assert!(files > 3 * needed, "{files} bytes for {needed}");
    let again = tested.disk.fork();
    let mut again =
        Tested { engine: Tested::engine(&again, Retention::NONE), disk: again, ..Tested::new(HISTORY) };
    let alone = again.merge();
    let merger = tested.engine.merger().unwrap();
    let mut steps = 0;
    while merger.step(&HeldFiles::default()).unwrap() == MergeStep::Merged {
        tested.engine.merged();
        steps += 1;
        if steps <= 3 {
            tested.write(&format!("small{}", steps % 2), Some(Bytes::from_static(b"value")));
            tested.checkpoint();
        }
    }
    assert!(steps > 6 && steps <= alone + 3, "{steps} steps, and {alone} without checkpoints");
    tested.check();
}

/// Removed keys lie side by side. A piece of the snapshot steps over a bounded part of them, and what is received is
/// the same.
#[test]
fn a_piece_of_a_snapshot_reads_little_that_is_not_needed() {
    let mut rng = fastrand::Rng::with_seed(11);
    let mut tested = Tested::with_memtables(1 << 20, Retention::NONE);
    for key in 0..2000 {
        tested.write(&format!("{key:04}"), Some(value(&mut rng, 100)));
    }
    tested.checkpoint();
    for key in 100..1900 {
        tested.write(&format!("{key:04}"), None);
    }
    tested.checkpoint();
    let snapshot = tested.engine.snapshot().unwrap();
    let target = TestDisk::new();
    let mut staging = Staging::begin(&target.storage(), 1 << 20, snapshot.anchor()).unwrap();
    let (mut pieces, mut empty, mut after) = (0, 0, Bytes::new());
    let end = loop {
        let (work, chunk) = super::super::steps::of(|| snapshot.chunk(&after, 1000).unwrap());
        assert!(work < 400, "{work} steps for a piece");
        assert!(staging.add(&chunk).unwrap(), "{chunk:?}");
        pieces += 1;
        empty += usize::from(chunk.rows.is_empty());
        match chunk.end {
            ChunkEnd::More(place) => {
                assert!(place > after, "it goes on");
                after = place;
            }
            end @ ChunkEnd::Last => break end,
        }
    };
    assert!(end == ChunkEnd::Last && empty > 10, "{empty} of {pieces} pieces are empty");
    assert!(staging.is_whole().unwrap());
    staging.switch().unwrap();
    let present = std::mem::take(&mut tested.present);
    let received =
        Tested { engine: Tested::engine(&target, Retention::NONE), disk: target, revision: 3800, present };
    received.check();
}

/// Removed keys take room in the files, and time in every scan that steps over them: there are not many of them for
/// long, however little they take.
#[test]
fn removed_keys_are_not_kept_for_long() {
    let mut rng = fastrand::Rng::with_seed(12);
    let mut tested = Tested::new(Retention::NONE);
    for key in 0..800 {
        tested.write(&format!("{key:04}"), Some(value(&mut rng, 500)));
    }
    tested.checkpoint();
    tested.merge();
    let mut most = 0;
    for key in 0..700 {
        tested.write(&format!("{key:04}"), None);
        if key % 50 == 49 {
            tested.checkpoint();
            tested.merge();
            most = most.max(tested.engine.merger().unwrap().removals());
        }
    }
    assert!((100..512).contains(&most), "{most} rows that remove a key");
    tested.check();
}

/// History needs rows that remove a key. They do not make every checkpoint a merge of everything.
#[test]
fn removals_that_history_needs_are_merged_seldom() {
    let mut rng = fastrand::Rng::with_seed(13);
    let retention = Retention { revisions: 1 << 20, bytes: 1 << 30 };
    let mut tested = Tested::with_memtables(1 << 20, retention);
    for key in 0..1000 {
        tested.write(&format!("{key:04}"), Some(value(&mut rng, 100)));
    }
    for key in 0..1000 {
        tested.write(&format!("{key:04}"), None);
    }
    tested.checkpoint();
    tested.merge();
    let mut steps = 0;
    for round in 0..40 {
        tested.write(&format!("{round:04}"), Some(value(&mut rng, 100)));
        tested.checkpoint();
        steps += tested.merge();
    }
    // Every fourth checkpoint merges, and only some of those merge everything.
    assert!(steps < 40, "{steps} steps");
    tested.check();
}
