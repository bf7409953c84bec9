//! Merges while a snapshot is sent to another member: its files stay on the disk, merged or not.

use super::*;

impl Tested {
    /// Writes a value of this length for each of these keys, and a checkpoint.
    fn add(&mut self, keys: std::ops::Range<u32>, len: usize) {
        let mut rng = fastrand::Rng::with_seed(u64::from(keys.start));
        for key in keys {
            self.write(&format!("key{key:06}"), Some(value(&mut rng, len)));
        }
        self.checkpoint();
    }

    /// Merges what is due while these files are held.
    fn merge_beside(&mut self, held: &HeldFiles) {
        let merger = self.engine.merger().unwrap();
        while merger.step(held).unwrap() == MergeStep::Merged {
            self.engine.merged();
        }
    }

    fn runs(&self) -> usize {
        self.engine.merger().unwrap().runs()
    }

    fn files(&self) -> Vec<String> {
        self.disk.names().into_iter().filter(|name| name.starts_with("state-")).collect()
    }
}

/// What is held is merged later. What is newer is merged as always, so that there are few runs.
#[test]
fn a_large_merge_waits_while_its_files_are_held_and_new_runs_do_not() {
    let mut tested = Tested::new(Retention::NONE);
    (0..4).for_each(|run| tested.add(run * 150..(run + 1) * 150, 300));
    let snapshot = tested.engine.snapshot().unwrap();
    let (held, files) = (HeldFiles::of([&snapshot]), tested.files());
    tested.merge_beside(&held);
    assert_eq!(tested.files(), files, "four runs that are alike are not merged");
    for round in 0..50 {
        tested.add(1000 + round * 20..1020 + round * 20, 300);
        tested.merge_beside(&held);
        assert!(tested.runs() <= 4 + 9, "{} runs after {round} more", tested.runs());
    }
    let now = tested.files();
    assert!(files.iter().all(|file| now.contains(file)), "all that is held is part of the state");
    assert!(now.len() < files.len() + 50, "new files were merged");
    tested.check();
    drop(snapshot);
    let runs = tested.runs();
    tested.merge();
    assert!(tested.runs() < runs, "{} runs, as before", tested.runs());
    assert_ne!(files[0], tested.files()[0], "what was held is merged");
    tested.check();
}

/// Small runs that are held are merged all the same, as long as what stays of them is little.
#[test]
fn merges_leave_little_of_what_is_held() {
    let mut tested = Tested::with_memtables(4 << 20, Retention::NONE);
    tested.add(0..8000, 300);
    (0..40).for_each(|run| tested.add(10_000 + run * 8..10_008 + run * 8, 300));
    let runs = tested.runs();
    let snapshot = tested.engine.snapshot().unwrap();
    let held = HeldFiles::of([&snapshot]);
    let (all, files) = (tested.bytes().0, tested.files());
    let lengths: Vec<_> =
        files.iter().map(|file| (file, tested.disk.contents(file).unwrap().len())).collect();
    tested.merge_beside(&held);
    assert!(tested.runs() < runs, "some are merged");
    let now = tested.files();
    let left: usize = lengths.iter().filter(|(file, _)| !now.contains(file)).map(|(_, len)| len).sum();
    assert!(left > 0 && left as u64 <= all / 32, "{left} bytes stay of a state of {all}");
    tested.check();
}

/// If there are too many runs, a checkpoint merges a few short ones, and not all, though that is due.
#[test]
fn a_checkpoint_that_limits_the_runs_writes_little() {
    let mut tested = Tested::new(Retention::NONE);
    (0..3).for_each(|_| tested.add(0..300, 300));
    let (all, needed) = tested.bytes();
    assert!(all > 2 * needed + MEMTABLE as u64, "{all} bytes, {needed} of them needed");
    (1000..1061).for_each(|key| tested.add(key..key + 1, 10));
    assert_eq!(tested.runs(), 64);
    let written = tested.disk.counters().written;
    tested.add(2000..2001, 10);
    let written = tested.disk.counters().written - written;
    assert!(written < all / 4, "{written} bytes written, in a state of {all}");
    assert!(tested.runs() < 64, "{} runs", tested.runs());
    tested.check();
    assert!(tested.merge() > 0, "the rest is merged in the background");
    let (now, needed) = tested.engine.merger().unwrap().bytes();
    assert!(now < 2 * all / 3, "{now} bytes of {all} are left, {needed} of them needed");
    tested.check();
}

/// Removed keys slow scans down. So they are bounded while a snapshot is sent, too: above that, its files are merged.
#[test]
fn removed_keys_are_not_kept_for_long_while_the_state_is_sent() {
    let mut tested = Tested::new(Retention::NONE);
    tested.add(0..3000, 50);
    let snapshot = tested.engine.snapshot().unwrap();
    let held = HeldFiles::of([&snapshot]);
    let mut most = 0;
    for key in 0..2600 {
        tested.write(&format!("key{key:06}"), None);
        if key % 50 == 49 {
            tested.checkpoint();
            tested.merge_beside(&held);
            most = most.max(tested.engine.merger().unwrap().removals());
        }
    }
    assert!((512..=4 * 256).contains(&most), "{most} rows that remove a key");
    tested.check();
}
