//! Where a step of a merge ends, and what it leaves.

use super::*;

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
        while merger.step().unwrap() == MergeStep::Merged {
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
        while merger.step().unwrap() == MergeStep::Merged {
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
    let sizes = store::Sizes::of(256 << 20);
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
    while merger.step().unwrap() == MergeStep::Merged {
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
