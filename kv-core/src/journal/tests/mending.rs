//! Repair: entries behind damage are reported and kept, missing ones are filled in, a bad copy is rewritten. A crash at
//! any point loses nothing, and does not make a damaged log look intact.

use super::damage::{FIRST, overwrite, reopened, view_of, with_entries};
use super::*;
use crate::message::{Damage, EntryPastGap, Extent};
use crate::storage::simulated::Kind;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

/// Flips a bit in the first block of an entry.
fn spoil(disk: &Disk, block: u64) {
    assert!(disk.flip_bit(FIRST, block * 4096 + 700, 2));
}

fn damage(recovered: &Recovered) -> &Damage {
    recovered.damage.as_ref().expect("damaged")
}

/// The ops that are intact, as recovery reports them.
fn intact(recovered: &Recovered) -> BTreeSet<Op> {
    let behind = recovered.damage.iter().flat_map(|damage| &damage.past_gap);
    let behind =
        behind.filter(|(_, behind)| matches!(behind, EntryPastGap::Intact { .. })).map(|(op, _)| *op);
    (recovered.floor.op.get() + 1..=head(recovered)).map(Op::new).chain(behind).collect()
}

fn fill(journal: &mut Journal, entry: &Entry) -> Result<(), JournalWriteError> {
    journal.execute(&[Write::Append(vec![entry.clone()])])
}

/// Rule D6c: they may be the only copies.
#[test]
fn d6c_intact_entries_behind_the_damage_are_reported_kept_and_read() {
    let (disk, _, entries) = with_entries(6);
    spoil(&disk, 4);
    let recovered = reopened(&disk);
    let behind = &damage(&recovered).past_gap;
    assert_eq!(head(&recovered), 3);
    assert_eq!(behind.keys().copied().collect::<Vec<_>>(), [op(4), op(5), op(6)]);
    assert_eq!(behind[&op(4)], EntryPastGap::Pinned(entries[3].header.hash()));
    assert_eq!(behind[&op(6)].hash(), entries[5].header.hash());
    assert_eq!(damage(&recovered).extent, Extent::Through(op(6)));
    let (mut journal, _) = open(&disk).unwrap();
    let reader = journal.reader();
    assert_eq!(reader.read(op(5)).unwrap().as_ref(), Some(&entries[4]));
    assert_eq!(reader.read(op(4)).unwrap(), None);

    fill(&mut journal, &entries[3]).unwrap();
    for entry in &entries {
        assert_eq!(reader.read(entry.header.op).unwrap().as_ref(), Some(entry));
    }
    let recovered = reopened(&disk);
    assert_eq!((head(&recovered), recovered.is_damaged()), (6, true), "not yet the replica's word");
    assert_eq!(damage(&recovered).extent, Extent::Through(op(6)));
}

/// How far the log may have reached is reported as exactly as the remains allow.
#[test]
fn d3_the_extent_of_a_damaged_log() {
    let reported = |spoil: &dyn Fn(&Disk)| {
        let (disk, _, _) = with_entries(6);
        spoil(&disk);
        let recovered = reopened(&disk);
        (head(&recovered), damage(&recovered).extent)
    };
    assert_eq!(
        reported(&|disk| spoil(disk, 6)),
        (5, Extent::Through(op(6))),
        "its other sectors contain its op"
    );
    let garbage =
        |blocks: usize| move |disk: &Disk| overwrite(disk, FIRST, 6 * 8, &vec![0xAB; blocks * 4096]);
    assert_eq!(reported(&garbage(1)), (5, Extent::Through(op(6))), "one block, one entry");
    assert_eq!(reported(&garbage(2)), (5, Extent::Through(op(7))), "it may have been two");
    let lost = |disk: &Disk| overwrite(disk, FIRST, 4 * 8, &[0; 4096]);
    assert_eq!(reported(&lost), (3, Extent::Through(op(6))));
    let all_lost = |disk: &Disk| overwrite(disk, FIRST, 4 * 8, &[0; 3 * 4096]);
    let (disk, mut journal, _) = with_entries(6);
    journal.execute(&[view(1, 1, None)]).unwrap();
    drop(journal);
    all_lost(&disk);
    assert_eq!(damage(&reopened(&disk)).extent, Extent::Open, "what was synced has left no trace");
    let missing = |disk: &Disk| disk.storage().remove(FIRST).unwrap();
    assert_eq!(reported(&missing), (0, Extent::Open));
}

/// A fill that differs from the original would leave two logs on the disk.
#[test]
fn v7_only_missing_entries_are_filled_in() {
    let (disk, _, entries) = with_entries(6);
    spoil(&disk, 3);
    spoil(&disk, 4);
    let other = entry_after(Some(&entries[2]), 9, 10);
    let (mut journal, _) = open(&disk).unwrap();
    fill(&mut journal, &entries[2]).unwrap();
    assert!(matches!(fill(&mut journal, &other), Err(JournalWriteError::Damaged { .. })));
    let (mut journal, recovered) = open(&disk).unwrap();
    assert_eq!(head(&recovered), 3);
    // Cut first, and it may come.
    journal.execute(&[view_of(2, Some((entries[2].header.anchor(), 1)), true)]).unwrap();
    fill(&mut journal, &other).unwrap();
    let recovered = reopened(&disk);
    assert_eq!((head(&recovered), recovered.is_damaged()), (4, true));
    assert!(damage(&recovered).past_gap.is_empty(), "what was cut never comes back");
}

/// Restarts, each ended by a crash at a random operation, until the log is repaired.
fn mend(seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let (disk, mut journal) = formed();
    let count = rng.usize(4..16);
    let mut entries: Vec<Entry> = Vec::new();
    while entries.len() < count {
        let bytes = if rng.u8(..5) == 0 { rng.usize(4000..12_000) } else { rng.usize(1..300) };
        entries.push(entry_after(entries.last(), u8::try_from(entries.len()).unwrap() + 1, bytes));
        journal.execute(&[Write::Append(vec![entries[entries.len() - 1].clone()])]).unwrap();
    }
    journal.execute(&[view(3, 2, None)]).unwrap();
    let reader = journal.reader();
    for _ in 0..rng.usize(1..4) {
        let place = reader.place(op(rng.u64(1..=count as u64))).unwrap();
        let block = place.block + rng.u32(..place.blocks);
        let name = segment::name(place.segment);
        assert!(disk.flip_bit(&name, u64::from(block) * 4096 + rng.u64(..4096), rng.u8(..8)));
    }
    drop((journal, reader));
    disk.kill();
    let mut known = BTreeSet::new();
    for life in 0.. {
        assert!(life < 200, "seed {seed}: not mended");
        if rng.u8(..3) == 0 {
            disk.fail_after(rng.u64(1..30));
        }
        if let Ok((mut journal, recovered)) = open(&disk) {
            if rng.u8(..3) > 0 {
                disk.fail_after(rng.u64(1..12));
            }
            let found = intact(&recovered);
            assert!(found.is_superset(&known), "seed {seed}: {known:?} became {found:?}");
            known.extend(found);
            if recovered.is_damaged() {
                let extent = damage(&recovered).extent;
                assert!(extent >= Extent::Through(op(count as u64)), "seed {seed}: {extent:?}");
                mend_some(&mut journal, &entries, &mut known, &mut rng);
            } else {
                assert!(
                    head(&recovered) == count as u64,
                    "seed {seed}: taken for whole at {}",
                    head(&recovered)
                );
                break;
            }
        }
        match rng.u8(..4) {
            0 | 1 => disk.kill(),
            2 => disk.crash_losing_all(),
            _ => disk.crash(&mut rng),
        }
    }
    disk.crash_losing_all();
    let (journal, recovered) = open(&disk).unwrap();
    assert_eq!((head(&recovered), recovered.is_damaged()), (count as u64, false), "seed {seed}");
    for entry in &entries {
        assert_eq!(journal.reader().read(entry.header.op).unwrap().as_ref(), Some(entry), "seed {seed}");
    }
}

/// Fills in the missing entries, as far as the disk allows, and ends the damage.
fn mend_some(journal: &mut Journal, entries: &[Entry], known: &mut BTreeSet<Op>, rng: &mut fastrand::Rng) {
    let missing: Vec<&Entry> = entries.iter().filter(|entry| !known.contains(&entry.header.op)).collect();
    let mut runs: Vec<Vec<Entry>> = Vec::new();
    for entry in missing {
        let follows =
            |run: &Vec<Entry>| run.last().is_some_and(|last| last.header.op.next() == entry.header.op);
        match runs.last_mut().filter(|run| follows(run) && rng.bool()) {
            Some(run) => run.push(entry.clone()),
            None => runs.push(vec![entry.clone()]),
        }
    }
    for run in runs {
        let ops: Vec<Op> = run.iter().map(|entry| entry.header.op).collect();
        if journal.execute(&[Write::Append(run)]).is_err() {
            return;
        }
        known.extend(ops);
    }
    let last = entries[entries.len() - 1].header.anchor();
    let JournalState::Formatted(store) = &journal.state else { return };
    let incarnation = store.superblock.incarnation.get() + 1;
    let _ = journal.execute(&[view(4, 4, Some((last, incarnation)))]);
}

/// Rules D3, D5 and D6. In particular: a fill that is only in the system's cache looks intact after the process has
/// died, but is lost in the next power cut; and damage that was written before a fill remains damage.
#[test]
fn f_disk_20_a_crash_at_any_point_of_a_repair_loses_nothing_and_hides_no_damage() {
    for seed in 0..seeds(400) {
        let run = std::panic::catch_unwind(|| mend(seed));
        assert!(run.is_ok(), "seed {seed}");
    }
}

#[test]
fn f_disk_5_an_entry_with_a_damaged_copy_is_rewritten() {
    let (disk, mut journal, entries) = with_entries(6);
    spoil(&disk, 4);
    let reader = journal.reader();
    assert!(matches!(reader.read(op(4)), Err(JournalReadError::Faulty { .. })));
    let other = entry_after(Some(&entries[2]), 9, 10);
    journal.execute(&[Write::Repair(entries[3].clone())]).unwrap();
    assert_eq!(reader.read(op(4)).unwrap().as_ref(), Some(&entries[3]));
    let recovered = reopened(&disk);
    assert_eq!((head(&recovered), recovered.is_damaged()), (6, false));
    assert!(matches!(journal.execute(&[Write::Repair(other)]), Err(JournalWriteError::UnknownPoint { .. })));
}

/// An applier that took it for absent stopped its member.
#[test]
fn d8_an_entry_that_is_rewritten_while_it_is_read_is_not_absent() {
    let (disk, mut journal, entries) = with_entries(6);
    let reader = journal.reader();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    match reader.read(op(4)) {
                        Ok(found) => assert_eq!(found.as_ref(), Some(&entries[3])),
                        Err(error) => assert!(matches!(error, JournalReadError::Disk { .. }), "{error}"),
                    }
                }
            });
        }
        for _ in 0..500 {
            let place = reader.place(op(4)).unwrap();
            disk.make_unreadable(&segment::name(place.segment), u64::from(place.block) * 4096, 4096);
            journal.execute(&[Write::Repair(entries[3].clone())]).unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
}

/// Even if the rewritten copy cannot be read either, and no memory is left for old entries.
#[test]
fn d8_a_rewritten_entry_can_be_read_by_a_late_reader() {
    let (disk, journal, entries) = with_entries(6);
    drop(journal);
    let cache_bytes = 3 * entries[3].body.len();
    let options = JournalOptions { cache_bytes, ..options() };
    let (mut journal, _) = Journal::open(disk.storage(), identity(), options).unwrap();
    let reader = journal.reader();
    for entry in &entries[..3] {
        journal.execute(&[Write::Repair(entry.clone())]).unwrap();
    }
    let before = disk.counters().reads;
    for entry in &entries[..3] {
        assert_eq!(reader.read(entry.header.op).unwrap().as_ref(), Some(entry));
    }
    assert_eq!(disk.counters().reads, before);
    let more = entries_after(entries.last(), 1, 50, 40);
    journal.execute(&[Write::Append(more.clone())]).unwrap();
    for entry in &more[30..] {
        journal.execute(&[Write::Repair(entry.clone())]).unwrap();
    }
    assert!(reader.cached() <= cache_bytes);
}

/// Damage that lies before a second copy in the order of writing is not hidden by it.
#[test]
fn d3_a_second_copy_does_not_hide_earlier_damage() {
    for bad in 1..=6 {
        let (disk, mut journal, entries) = with_entries(6);
        spoil(&disk, 4);
        journal.execute(&[Write::Repair(entries[3].clone())]).unwrap();
        overwrite(&disk, FIRST, bad * 8, &[0; 4096]);
        let recovered = reopened(&disk);
        let missing = if bad == 4 { 6 } else { bad as u64 - 1 };
        assert_eq!((head(&recovered), recovered.is_damaged()), (missing, bad != 4), "block {bad}");
        if bad != 4 {
            assert!(damage(&recovered).extent >= Extent::Through(op(6)));
        }
    }
}

#[test]
fn f_disk_1_a_crash_at_any_point_of_a_second_copy_loses_nothing() {
    for seed in 0..seeds(200) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (disk, mut journal, entries) = with_entries(6);
        let is_bad = rng.bool();
        if is_bad {
            spoil(&disk, 4);
        }
        disk.fail_after(rng.u64(1..8));
        let done = journal.execute(&[Write::Repair(entries[3].clone())]).is_ok();
        drop(journal);
        disk.kill();
        let reported = open(&disk);
        disk.crash_losing_all();
        let recovered = reopened(&disk);
        let others = intact(&recovered);
        assert!(
            (1..=6).filter(|at| *at != 4 || !is_bad || done).all(|at| others.contains(&op(at))),
            "seed {seed}"
        );
        assert!(recovered.is_damaged() || head(&recovered) == 6, "seed {seed}");
        if let Ok((_, reported)) = reported {
            assert_eq!(intact(&reported), others, "seed {seed}: what is reported is durable");
        }
    }
}

/// A log of six entries whose checkpoint is its head, damaged by `spoil`.
fn spoilt_at_its_checkpoint(spoil: &dyn Fn(&Disk)) -> (Disk, Vec<Entry>) {
    let (disk, mut journal, entries) = with_entries(6);
    journal.execute(&[Write::Checkpoint(entries[5].header.anchor())]).unwrap();
    drop(journal);
    spoil(&disk);
    (disk, entries)
}

/// A checkpoint's own entry, and the newest segment, with nothing written afterwards: a quiet cluster.
const QUIET: [&dyn Fn(&Disk); 3] =
    [&|disk| spoil(disk, 6), &|disk| overwrite(disk, FIRST, 6 * 8, &[0; 4096]), &|disk| {
        disk.storage().remove(FIRST).unwrap();
    }];

/// Rule D6b: repaired damage is reported once, and not at every start until something is appended.
#[test]
fn d6b_repaired_damage_is_not_reported_again() {
    for (kind, spoil) in QUIET.into_iter().enumerate() {
        let (disk, entries) = spoilt_at_its_checkpoint(spoil);
        for _ in 0..2 {
            let recovered = reopened(&disk);
            assert_eq!((head(&recovered), recovered.is_damaged()), (6, true), "{kind}: until it is repaired");
        }
        let (mut journal, recovered) = open(&disk).unwrap();
        let incarnation = recovered.incarnation.get() + 1;
        let anchor = entries[5].header.anchor();
        journal.execute(&[view_of(2, Some((anchor, incarnation)), false)]).unwrap();
        for _ in 0..2 {
            let recovered = reopened(&disk);
            assert_eq!((head(&recovered), recovered.is_damaged()), (6, false), "{kind}");
            assert_eq!(recovered.checkpoint, anchor);
        }
        // The log continues, and the loss of entries that are acknowledged from now on is detected.
        let (mut journal, _) = open(&disk).unwrap();
        let more = entries_after(entries.last(), 9, 100, 3);
        for entry in &more {
            journal.execute(&[Write::Append(vec![entry.clone()])]).unwrap();
        }
        let place = journal.reader().place(op(8)).unwrap();
        assert_eq!(head(&reopened(&disk)), 9);
        assert!(disk.flip_bit(&segment::name(place.segment), u64::from(place.block) * 4096 + 700, 1));
        let recovered = reopened(&disk);
        assert_eq!((head(&recovered), recovered.is_damaged()), (7, true), "{kind}");
    }
}

/// Rule D6b: a crash at any operation of the write that ends the damage leaves it reported, or repaired.
#[test]
fn d6b_a_crash_while_damage_ends_leaves_it_reported_or_repaired() {
    let mut done = [0, 0];
    for seed in 0..seeds(300) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (disk, entries) = spoilt_at_its_checkpoint(QUIET[rng.usize(..QUIET.len())]);
        let anchor = entries[5].header.anchor();
        let (mut journal, recovered) = open(&disk).unwrap();
        let incarnation = recovered.incarnation.get() + 1;
        disk.fail_after(rng.u64(0..12));
        let ended = journal.execute(&[view_of(2, Some((anchor, incarnation)), false)]).is_ok();
        drop(journal);
        match rng.u8(..3) {
            0 => disk.kill(),
            1 => disk.crash_losing_all(),
            _ => disk.crash(&mut rng),
        }
        let recovered = reopened(&disk);
        assert_eq!(head(&recovered), 6, "seed {seed}");
        assert!(!ended || !recovered.is_damaged(), "seed {seed}: what was reported is durable");
        done[usize::from(recovered.is_damaged())] += 1;
        // In both cases the member continues.
        let (mut journal, recovered) = open(&disk).unwrap();
        let incarnation = recovered.incarnation.get() + 1;
        journal.execute(&[view_of(3, Some((anchor, incarnation)), false)]).unwrap();
        journal.execute(&[Write::Append(vec![entry_after(entries.last(), 9, 100)])]).unwrap();
        let recovered = reopened(&disk);
        assert_eq!((head(&recovered), recovered.is_damaged()), (7, false), "seed {seed}");
    }
    assert!(done.iter().all(|count| *count > 0), "{done:?}");
}

/// Rule D4: the copy that recovery wrote again is the only one, so damage to it outlasts a power cut.
#[test]
fn d4_an_entry_that_was_written_again_after_a_failed_sync_can_be_damaged() {
    let (disk, mut journal, entries) = with_entries(5);
    disk.fail_next(Kind::Sync);
    let last = entry_after(entries.last(), 6, 100);
    assert!(journal.execute(&[Write::Append(vec![last])]).is_err());
    drop(journal);
    disk.kill();
    let (journal, recovered) = open(&disk).unwrap();
    assert_eq!((head(&recovered), recovered.is_damaged()), (6, false));
    drop(journal);
    disk.kill();
    spoil(&disk, 6);
    let recovered = reopened(&disk);
    assert_eq!((head(&recovered), recovered.is_damaged()), (5, true));
    disk.crash_losing_all();
    let recovered = reopened(&disk);
    assert_eq!((head(&recovered), recovered.is_damaged()), (5, true));
}
