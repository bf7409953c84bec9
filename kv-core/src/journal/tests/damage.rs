//! Damage is repaired, reported, or refused. It never causes a wrong entry or a panic, and an entry that may have been
//! acknowledged never counts as absent.

use super::block::SECTOR_BYTES;
use super::location::{EntryLocation, Generation, SegmentNumber};
use super::model::{Model, Writer};
use super::superblock::Mark;
use super::*;
use crate::ids::Epoch;
use crate::storage::simulated::{Kind, WriteFault};
use crate::storage::{File, Storage};
use std::sync::atomic::{AtomicU32, Ordering};

/// A journal with `count` entries of one block each, acknowledged one by one, in `journal-00000000` from block 1 on.
pub(super) fn with_entries(count: usize) -> (Disk, Journal, Vec<Entry>) {
    let (disk, mut journal) = formed();
    let entries = entries_after(None, 1, 100, count);
    for entry in &entries {
        journal.execute(&[Write::Append(vec![entry.clone()])]).unwrap();
    }
    (disk, journal, entries)
}

pub(super) const FIRST: &str = "journal-00000000";

/// Overwrites sectors of a file, durably.
pub(super) fn overwrite(disk: &Disk, name: &str, sector: usize, bytes: &[u8]) {
    let mut all = disk.contents(name).unwrap();
    all[sector * SECTOR_BYTES..sector * SECTOR_BYTES + bytes.len()].copy_from_slice(bytes);
    disk.put(name, all);
    disk.kill();
}

pub(super) fn reopened(disk: &Disk) -> Recovered {
    disk.kill();
    open(disk).unwrap().1
}

pub(super) fn view_of(log_view: u64, cut: Option<(Anchor, u64)>, damaged: bool) -> Write {
    let Write::View(record) = view(log_view, log_view, cut) else { unreachable!() };
    Write::View(ViewRecord { damaged, ..record })
}

/// Rule D3: a torn entry at op 3, then another entry at op 3, then a power cut: the first entry does not return.
#[test]
fn f_disk_3_a_torn_tail_is_cut_and_never_returns() {
    let mut torn = 0;
    for seed in 0..seeds(400) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (disk, mut journal, entries) = with_entries(2);
        let void = entry_after(entries.last(), 7, 9000);
        // The write succeeds, its sync does not.
        disk.fail_after(2);
        journal.execute(&[Write::Append(vec![void.clone()])]).unwrap_err();
        disk.crash(&mut rng);
        let (mut journal, recovered) = open(&disk).unwrap();
        assert!(!recovered.is_damaged(), "seed {seed}");
        if head(&recovered) == 3 {
            continue;
        }
        torn += u64::from(recovered.incarnation > Incarnation::ZERO);
        let new = entry_after(entries.last(), 8, if rng.bool() { 9000 } else { 10 });
        if rng.bool() {
            disk.fail_after(rng.u64(1..8));
        }
        let done = journal.execute(&[Write::Append(vec![new.clone()])]);
        disk.crash(&mut rng);
        let (journal, recovered) = open(&disk).unwrap();
        assert!(!recovered.is_damaged(), "seed {seed}");
        match journal.reader().read(op(3)).unwrap() {
            Some(found) => assert!(found == new, "seed {seed}"),
            None => assert!(done.is_err(), "seed {seed}: an acknowledged entry is gone"),
        }
    }
    assert!(torn > 100, "only {torn} tails were torn");
}

#[test]
fn f_disk_4_a_damaged_entry_in_the_middle_is_reported_and_nothing_is_cut_until_the_replica_asks() {
    let (disk, journal, entries) = with_entries(6);
    drop(journal);
    assert!(disk.flip_bit(FIRST, 4 * 4096 + 700, 2));
    for _ in 0..3 {
        let recovered = reopened(&disk);
        assert_eq!((head(&recovered), recovered.is_damaged()), (3, true), "reported after every restart");
    }
    let (mut journal, _) = open(&disk).unwrap();
    let append = Write::Append(entries[3..].to_vec());
    let refused = journal.execute(&[Write::Append(vec![entry_after(Some(&entries[2]), 9, 100)])]);
    assert!(matches!(refused, Err(JournalWriteError::Damaged { head, .. }) if head == op(3)));

    let (mut journal, _) = open(&disk).unwrap();
    journal.execute(&[view_of(1, None, false)]).unwrap();
    assert!(reopened(&disk).is_damaged(), "a view record without a cut repairs nothing");

    let (mut journal, _) = open(&disk).unwrap();
    journal.execute(&[view_of(1, Some((entries[2].header.anchor(), 1)), true)]).unwrap();
    let recovered = reopened(&disk);
    assert_eq!((head(&recovered), recovered.is_damaged()), (3, true), "entries are still owed");

    let (mut journal, _) = open(&disk).unwrap();
    journal.execute(&[append]).unwrap();
    assert!(reopened(&disk).is_damaged(), "until the replica reports that it has them all");
    let (mut journal, _) = open(&disk).unwrap();
    journal.execute(&[view_of(1, None, false)]).unwrap();
    let recovered = reopened(&disk);
    assert_eq!((head(&recovered), recovered.is_damaged()), (6, false));
}

/// Rule D3.
#[test]
fn f_disk_4_the_last_acknowledged_entry_damaged_is_not_taken_for_torn() {
    for sector in 0..8 {
        let (disk, _, _) = with_entries(3);
        assert!(disk.flip_bit(FIRST, 3 * 4096 + sector * 512 + 99, 0));
        let recovered = reopened(&disk);
        assert_eq!((head(&recovered), recovered.is_damaged()), (2, true), "sector {sector}");
    }
}

/// DESIGN 4.4: a hole before an entry that records "all up to here was durable" is damage, not a tear.
/// Rule D3.
#[test]
fn f_disk_9_an_acknowledged_block_that_reads_as_never_written_is_damage() {
    let (disk, _, _) = with_entries(3);
    overwrite(&disk, FIRST, 2 * 8, &[0; 4096]);
    let recovered = reopened(&disk);
    assert_eq!((head(&recovered), recovered.is_damaged()), (1, true));
}

/// Rule D3.
#[test]
fn f_disk_9_a_hole_before_entries_of_the_same_unacknowledged_write_is_a_tear() {
    let (disk, mut journal, entries) = with_entries(1);
    journal.execute(&[Write::Append(entries_after(entries.last(), 3, 10, 3))]).unwrap();
    overwrite(&disk, FIRST, 3 * 8, &[0; 4096]);
    let recovered = reopened(&disk);
    assert_eq!((head(&recovered), recovered.is_damaged()), (2, false));
    assert_eq!(head(&reopened(&disk)), 2);
}

/// Rule D5.
#[test]
fn f_disk_9_a_stale_block_of_an_earlier_generation_is_detected() {
    let (disk, mut journal) = formed();
    let entries = entries_after(None, 1, 100, 40);
    let mut old = Vec::new();
    for (at, entry) in entries.iter().enumerate() {
        let writes = [
            Write::Append(vec![entry.clone()]),
            Write::Checkpoint(entry.header.anchor()),
            Write::Trim(entry.header.op),
        ];
        journal.execute(&writes[..if at < 30 { 3 } else { 1 }]).unwrap();
        if at == 20 {
            old = segments(&disk).iter().map(|name| (name.clone(), disk.contents(name).unwrap())).collect();
        }
    }
    // Entries above the checkpoint, replaced one at a time by the blocks from before the segment was recycled.
    let mut reported = 0;
    for (name, before) in &old {
        let now = disk.contents(name).unwrap();
        for block in 1..8 {
            let range = block * 4096..(block + 1) * 4096;
            if now[range.clone()] != before[range.clone()] {
                let disk = disk.fork();
                overwrite(&disk, name, block * 8, &before[range]);
                let recovered = reopened(&disk);
                let whole = head(&recovered) == 40;
                assert!(whole || recovered.is_damaged() || head(&recovered) == 39, "{name} {block}");
                reported += u64::from(recovered.is_damaged());
            }
        }
    }
    assert!(reported >= 8, "{reported}");
}

#[test]
fn f_disk_9_lost_and_misdirected_writes_are_detected_by_later_entries() {
    for misdeed in [WriteFault::Lost, WriteFault::Misdirected(4096), WriteFault::Misdirected(3 * 512)] {
        let (disk, mut journal, entries) = with_entries(2);
        let more = entries_after(entries.last(), 4, 100, 3);
        disk.misdo_next_write(misdeed);
        for entry in &more {
            journal.execute(&[Write::Append(vec![entry.clone()])]).unwrap();
        }
        disk.crash_losing_all();
        let recovered = reopened(&disk);
        assert_eq!((head(&recovered), recovered.is_damaged()), (2, true), "{misdeed:?}");
    }
}

#[test]
fn m1_an_entry_of_another_epoch_is_no_part_of_the_log_unless_it_follows_a_stop() {
    let (disk, mut journal, entries) = with_entries(2);
    let mut next = entry_after(entries.last(), 7, 10);
    next.header.view = View::of(Epoch::new(1), 0);
    journal.execute(&[Write::Append(vec![next])]).unwrap();
    drop(journal);
    let recovered = reopened(&disk);
    // The entry is intact, so something is wrong with the disk: it is not dropped silently.
    assert_eq!((head(&recovered), recovered.is_damaged()), (2, true));
}

#[test]
fn damage_below_the_checkpoint_only_makes_those_entries_unreadable() {
    let (disk, mut journal, entries) = with_entries(6);
    journal.execute(&[Write::Checkpoint(entries[4].header.anchor())]).unwrap();
    assert!(disk.flip_bit(FIRST, 3 * 4096 + 700, 2));
    disk.kill();
    let (mut journal, recovered) = open(&disk).unwrap();
    assert!(!recovered.is_damaged());
    assert_eq!((recovered.floor, head(&recovered)), (entries[2].header.anchor(), 6));
    assert_eq!(recovered.floor_next_revision, entries[2].header.next_revision());
    let reader = journal.reader();
    assert!(matches!(reader.read(op(3)), Err(JournalReadError::Faulty { .. })));
    for at in [1, 2, 4, 5, 6] {
        assert_eq!(reader.read(op(at)).unwrap().as_ref(), entry_at(&entries, at));
    }
    let next = entries_after(entries.last(), 5, 4000, 20);
    journal.execute(&[Write::Append(next.clone()), Write::Checkpoint(next[19].header.anchor())]).unwrap();
    journal.execute(&[Write::Trim(op(20))]).unwrap();
    let recovered = reopened(&disk);
    assert!(recovered.floor.op > op(6) && recovered.floor.op <= op(20), "{:?}", recovered.floor);
    assert_eq!((head(&recovered), recovered.is_damaged()), (26, false));
}

#[test]
fn a_checkpoint_above_what_is_left_of_the_journal_is_damage() {
    for bad in [5, 6] {
        let (disk, mut journal, entries) = with_entries(6);
        journal.execute(&[Write::Checkpoint(entries[5].header.anchor())]).unwrap();
        overwrite(&disk, FIRST, bad * 8, &[0; 4096]);
        let recovered = reopened(&disk);
        assert_eq!((head(&recovered), recovered.is_damaged()), (6, bad == 6), "entry {bad}");
        assert_eq!(recovered.floor.op, op(bad as u64));
    }
}

#[test]
fn f_disk_8_missing_and_shortened_segments_are_damage_and_nothing_is_deleted() {
    let (disk, _, _) = with_entries(20);
    for name in segments(&disk) {
        for keep in [None, Some(0), Some(4096), Some(9000)] {
            let disk = disk.fork();
            match keep {
                None => disk.storage().remove(&name).unwrap(),
                Some(keep) => disk.storage().open(&name).unwrap().set_len(keep).unwrap(),
            }
            let before = disk.names();
            let recovered = reopened(&disk);
            assert!(recovered.is_damaged(), "{name} {keep:?}");
            assert!(head(&recovered) < 20);
            assert_eq!(disk.names(), before);
        }
    }
}

/// Rule D4.
#[test]
fn f_disk_10_data_dropped_by_a_failed_sync_is_rewritten_before_it_is_reported() {
    for kind in [Kind::Sync, Kind::SyncDirectory] {
        for skip in 0..30 {
            let (disk, mut journal, entries) = with_entries(5);
            let more = entries_after(entries.last(), 4, 6000, 6);
            let mut failed = false;
            for (at, entry) in more.iter().enumerate() {
                if at * 5 + 1 > skip && !failed {
                    disk.fail_next(kind);
                }
                let write = [Write::Append(vec![entry.clone()]), view(at as u64 + 1, 0, None)];
                failed |= journal.execute(&write).is_err();
                if failed {
                    assert!(journal.execute(&[view(99, 0, None)]).is_err(), "final");
                    break;
                }
            }
            drop(journal);
            // The process starts again on a machine that still has the pages in its cache; then the power goes.
            let recovered = reopened(&disk);
            disk.crash_losing_all();
            let left = reopened(&disk);
            assert_eq!((head(&recovered), recovered.view), (head(&left), left.view), "{kind:?} {skip}");
            assert!(!recovered.is_damaged() && !left.is_damaged(), "{kind:?} {skip}");
        }
    }
}

#[test]
fn f_disk_11_a_full_disk_is_a_typed_error_and_recoverable() {
    let (disk, mut journal, entries) = with_entries(5);
    disk.set_capacity(Some(disk.used() + 4096));
    let more = entries_after(entries.last(), 4, 20_000, 4);
    let error = journal.execute(&[Write::Append(more.clone())]).unwrap_err();
    let full = matches!(&error, JournalWriteError::Disk { source, .. } if source.kind() == std::io::ErrorKind::StorageFull);
    assert!(full, "{error}");
    assert!(journal.execute(&[]).is_ok() && journal.execute(&[view(1, 1, None)]).is_err());
    disk.set_capacity(None);
    let recovered = reopened(&disk);
    assert!(!recovered.is_damaged() && head(&recovered) >= 5);
    let (mut journal, recovered) = open(&disk).unwrap();
    let rest = more[usize::try_from(head(&recovered)).unwrap() - 5..].to_vec();
    journal.execute(&[Write::Append(rest)]).unwrap();
    assert_eq!(head(&reopened(&disk)), 9);
}

/// A disk on which there is room again when it is waited for the second time.
#[derive(Debug)]
struct RoomLater {
    disk: Disk,
    storage: Arc<dyn Storage>,
    waits: AtomicU32,
}

impl Storage for RoomLater {
    fn open(&self, name: &str) -> std::io::Result<Arc<dyn File>> {
        self.storage.open(name)
    }

    fn create(&self, name: &str) -> std::io::Result<Arc<dyn File>> {
        self.storage.create(name)
    }

    fn rename(&self, from: &str, to: &str) -> std::io::Result<()> {
        self.storage.rename(from, to)
    }

    fn remove(&self, name: &str) -> std::io::Result<()> {
        self.storage.remove(name)
    }

    fn list(&self) -> std::io::Result<Vec<String>> {
        self.storage.list()
    }

    fn sync_directory(&self) -> std::io::Result<()> {
        self.storage.sync_directory()
    }

    fn check_names(&self) -> std::io::Result<()> {
        self.storage.check_names()
    }

    fn wait_for_room(&self, full: &std::io::Error) -> bool {
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
        assert!(!self.list().unwrap().contains(&"journal.new".to_owned()), "what was begun takes no room");
        if self.waits.fetch_add(1, Ordering::Relaxed) == 1 {
            self.disk.set_capacity(None);
        }
        true
    }
}

#[test]
fn f_disk_11_d4_a_new_journal_file_waits_for_room_and_nothing_is_lost() {
    let (disk, journal, entries) = with_entries(5);
    drop(journal);
    let storage = disk.storage();
    let waits = AtomicU32::new(0);
    let storage = Arc::new(RoomLater { disk: disk.clone(), storage, waits });
    let (mut journal, _) = Journal::open(storage.clone(), identity(), options()).unwrap();
    disk.set_capacity(Some(disk.used() + 4096));
    // Far more than the files at hand hold.
    let more = entries_after(entries.last(), 4, 20_000, 40);
    journal.execute(&[Write::Append(more)]).unwrap();
    assert!(storage.waits.load(Ordering::Relaxed) >= 2);
    let recovered = reopened(&disk);
    assert_eq!((head(&recovered), recovered.is_damaged()), (45, false));
}

#[test]
fn f_disk_12_unreadable_sectors_count_as_damaged() {
    let (disk, _, _) = with_entries(6);
    disk.make_unreadable(FIRST, 4 * 4096, 512);
    let recovered = reopened(&disk);
    assert_eq!((head(&recovered), recovered.is_damaged()), (3, true));
}

#[test]
fn f_disk_5_a_flipped_bit_anywhere_is_repaired_reported_or_refused() {
    let (disk, mut journal, entries) = with_entries(9);
    let writes =
        [view(4, 4, Some((entries[7].header.anchor(), 2))), Write::Checkpoint(entries[2].header.anchor())];
    journal.execute(&writes).unwrap();
    journal.execute(&[Write::Append(entries_after(Some(&entries[7]), 6, 5000, 1))]).unwrap();
    drop(journal);
    let mut seen = [0; 3];
    for name in disk.names() {
        let length = disk.contents(&name).unwrap().len() as u64;
        for (bit, offset) in (0..=7).cycle().zip((0..length).step_by(61)) {
            let disk = disk.fork();
            assert!(disk.flip_bit(&name, offset, bit));
            let recovered = reopened(&disk);
            assert_eq!((recovered.view, recovered.log_view), (View::new(4), View::new(4)));
            assert!(head(&recovered) == 9 || recovered.is_damaged(), "{name} {offset}");
            seen[if recovered.is_damaged() {
                0
            } else if recovered.floor.op > Op::ZERO {
                1
            } else {
                2
            }] += 1;
        }
    }
    assert!(seen.iter().all(|seen| *seen > 50), "{seen:?}");
}

/// One random injury.
fn injure(disk: &Disk, rng: &mut fastrand::Rng, names: &[String]) {
    let Some(name) = rng.choice(names) else { return };
    let Some(mut bytes) = disk.contents(name) else { return };
    if bytes.is_empty() {
        return;
    }
    let at = rng.usize(..bytes.len());
    match rng.u8(..8) {
        0..=2 => bytes[at] ^= 1 << rng.u8(..8),
        3 => {
            let from = at / 512 * 512;
            let to = bytes.len().min(from + 512);
            bytes[from..to].fill(0);
        }
        4 => {
            let from = at / 4096 * 4096;
            let to = bytes.len().min(from + 4096);
            bytes[from..to].fill(rng.u8(..));
        }
        5 => {
            let (from, to) = (at / 4096 * 4096, rng.usize(..bytes.len()) / 4096 * 4096);
            let length = 4096.min(bytes.len() - from.max(to));
            bytes.copy_within(from..from + length, to);
        }
        6 => bytes.truncate(at),
        _ => {
            disk.storage().remove(name).unwrap();
            return;
        }
    }
    disk.put(name, bytes);
}

#[test]
fn f_disk_5_random_damage_to_the_segments_of_a_random_journal_never_loses_an_acknowledged_entry_silently() {
    let mut damaged = 0;
    for seed in 0..seeds(400) {
        let mut writer = Writer::new(seed);
        let (disk, mut journal) = formed();
        let mut model = Model { formation: FormationStep::Formed, ..Model::new() };
        for _ in 0..8 {
            let writes = writer.batch(&model);
            journal.execute(&writes).unwrap();
            model = model.states(&writes).pop().unwrap();
        }
        drop(journal);
        // What a write that is under way leaves, and then damage on top of it.
        if let Some(last) = model.log.last() {
            let (mut journal, _) = open(&disk).unwrap();
            journal.execute(&[Write::Append(vec![entry_after(Some(last), 201, 30)])]).unwrap();
            model.log.push(entry_after(Some(last), 201, 30));
        }
        for _ in 0..writer.rng.usize(1..4) {
            injure(&disk, &mut writer.rng, &segments(&disk));
        }
        disk.kill();
        let before = disk.fork();
        let (journal, recovered) = match open(&disk) {
            Ok(opened) => opened,
            Err(OpenError::ForeignSegment { .. }) => continue,
            Err(other) => panic!("seed {seed}: {other}"),
        };
        // The one undetectable case: the very last write, of which nothing is left.
        let mut without_last = model.clone();
        without_last.log.pop();
        let lost_last = head(&recovered) + 1 == model.log.len() as u64 && without_last.explains(&recovered);
        assert!(model.explains(&recovered) || lost_last, "seed {seed}: {recovered:?} {:?}", before.names());
        model.check_reads(&journal.reader(), &recovered);
        damaged += u64::from(recovered.is_damaged());
        drop(journal);
        let again = reopened(&disk);
        assert_eq!(
            (head(&again), again.is_damaged(), &again.entries),
            (head(&recovered), recovered.is_damaged(), &recovered.entries)
        );
    }
    assert!(damaged > 100, "{damaged}");
}

#[test]
fn f_input_8_garbage_is_an_error_and_no_panic() {
    let (disk, _, _) = with_entries(9);
    for seed in 0..seeds(300) {
        let disk = disk.fork();
        let mut rng = fastrand::Rng::with_seed(seed);
        for _ in 0..rng.usize(1..3) {
            let name = rng.choice(disk.names()).unwrap();
            let length = rng.usize(..40_000);
            let bytes = std::iter::repeat_with(|| rng.u8(..)).take(length).collect();
            disk.put(&name, bytes);
        }
        for _ in 0..rng.usize(..6) {
            injure(&disk, &mut rng, &disk.names());
        }
        disk.kill();
        if let Ok((journal, recovered)) = open(&disk) {
            (0..=recovered.entries.len() as u64 + 2).for_each(|at| {
                let _ = journal.reader().read(op(at));
            });
        }
    }
}

#[test]
fn f_input_8_intact_checksums_over_absurd_numbers_are_damage_and_no_panic() {
    let absurd = [u64::MAX, u64::MAX - 1, 1 << 63, 1 << 62];
    let base = Superblock::new(&identity());
    for number in absurd {
        let far = Mark {
            anchor: Anchor::new(Op::new(number), Hash::ZERO),
            next_revision: Revision::new(number),
            timestamp: Timestamp::new(number),
        };
        for crafted in [
            Superblock { view: View::new(number), ..base.clone() },
            Superblock { incarnation: Incarnation::new(number), ..base.clone() },
            Superblock { synced_through: Op::new(number), ..base.clone() },
            Superblock { checkpoint: far, ..base.clone() },
            Superblock { floor: far, checkpoint: far, ..base.clone() },
            Superblock { floor: Mark { anchor: Anchor::new(op(5), Hash::ZERO), ..far }, ..base.clone() },
            Superblock { formation: FormationStep::Empty, ..base.clone() },
        ] {
            let disk = Disk::new();
            SuperblockFile::create(&disk, &crafted).unwrap();
            assert!(matches!(open(&disk), Err(OpenError::SuperblockDamaged { .. })), "{crafted:?}");
        }
        for field in 0..7 {
            let (disk, _, entries) = with_entries(2);
            let mut entry = entry_after(entries.last(), 3, 10);
            let (mut at, mut incarnation, mut synced) = (entry.header.op, 0, 2);
            match field {
                0 => (entry.header.op, at) = (Op::new(number), Op::new(number)),
                1 => entry.header.first_revision = Revision::new(number),
                2 => entry.header.timestamp = Timestamp::new(number),
                3 => entry.header.view = View::new(number),
                4 => incarnation = number,
                // Rule N8: not as many of its requests take a revision.
                5 => entry.header.revision_count = number,
                _ => synced = number,
            }
            let place = EntryLocation {
                segment: SegmentNumber::new(0),
                generation: Generation::new(1),
                block: 3,
                blocks: 1,
                incarnation: Incarnation::new(incarnation),
            };
            assert_eq!(at, entry.header.op);
            let seed = block::Seed::new(identity().cluster, identity().member, place.segment);
            let mut bytes = Vec::new();
            record::encode(
                &mut bytes,
                &entry,
                (entry.header.hash(), Timestamp::ZERO),
                op(synced),
                &place,
                seed,
            );
            overwrite(&disk, FIRST, 3 * 8, &bytes);
            let recovered = reopened(&disk);
            assert_eq!((head(&recovered), recovered.is_damaged()), (2, true), "field {field}");
        }
    }
}

#[test]
fn a_superblock_of_generation_without_segments_is_damage() {
    let disk = Disk::new();
    let crafted = Superblock { generation: Generation::new(7), ..Superblock::new(&identity()) };
    SuperblockFile::create(&disk, &crafted).unwrap();
    let recovered = reopened(&disk);
    assert!(recovered.is_damaged());
    let (mut journal, _) = open(&disk).unwrap();
    journal
        .execute(&[view(1, 1, Some((Anchor::ZERO, 1))), Write::Append(entries_after(None, 1, 5, 2))])
        .unwrap();
    let recovered = reopened(&disk);
    assert_eq!((head(&recovered), recovered.is_damaged()), (2, false));
}

/// Rule D2.
#[test]
fn any_number_of_cuts_is_remembered() {
    let (disk, mut journal) = formed();
    let mut log: Vec<Entry> = Vec::new();
    for round in 1..200_u64 {
        let fill = u8::try_from(round).unwrap();
        let some = entries_after(log.last(), fill, 10, 3);
        let after = some[0].header.anchor();
        log.push(some[0].clone());
        journal.execute(&[Write::Append(some), view(round, 0, Some((after, round)))]).unwrap();
        if round.is_multiple_of(7) {
            disk.crash_losing_all();
            let (opened, recovered) = open(&disk).unwrap();
            assert!(!recovered.is_damaged(), "round {round}");
            assert_eq!(recovered.entries.last().unwrap().hash, after.hash, "round {round}");
            assert_eq!(head(&recovered), round);
            journal = opened;
        }
    }
}

/// Rounds of two entries, of which the second is cut: returns the entries that stay, and those that the last round has
/// cut.
fn rounds(journal: &mut Journal, count: u64) -> Vec<Entry> {
    let mut log: Vec<Entry> = Vec::new();
    for round in 1..=count {
        let some = entries_after(log.last(), u8::try_from(round).unwrap(), 10, 2);
        log.push(some[0].clone());
        let cut = view(round, 0, Some((some[0].header.anchor(), round)));
        journal.execute(&[Write::Append(some), cut]).unwrap();
    }
    log
}

/// Rule D2.
#[test]
fn a_power_cut_while_void_blocks_are_erased_brings_none_back() {
    for operation in 1..80 {
        let (disk, mut journal) = formed();
        let mut log = rounds(&mut journal, 64);
        let some = entries_after(log.last(), 65, 10, 2);
        disk.fail_after(operation);
        let cut = view(65, 0, Some((some[0].header.anchor(), 65)));
        let done = journal.execute(&[Write::Append(some.clone()), cut]);
        disk.crash(&mut fastrand::Rng::with_seed(operation));
        let (mut journal, recovered) = open(&disk).unwrap();
        let found = recovered.entries.len();
        log.extend(some);
        assert!(!recovered.is_damaged() && found >= 64, "operation {operation}: {found}");
        assert!(done.is_err() || found == 65, "operation {operation}: {found}");
        assert!(recovered.entries.iter().zip(&log).all(|(found, wanted)| found.hash == wanted.header.hash()));

        // What is appended next must not come where the last cut has voided everything.
        log.truncate(found);
        log.push(entry_after(log.last(), 99, 10));
        journal.execute(&[Write::Append(log[found..].to_vec())]).unwrap();
        disk.crash_losing_all();
        let recovered = reopened(&disk);
        assert_eq!(
            (recovered.entries.len(), recovered.is_damaged()),
            (log.len(), false),
            "operation {operation}"
        );
    }
}

/// Rule D4: an entry that was erased only in the system's cache returns after a power cut.
#[test]
fn an_erasure_with_a_failed_sync_does_not_count() {
    let (disk, mut journal) = formed();
    let log = rounds(&mut journal, 64);
    disk.fail_next(Kind::Sync);
    let cut = view(65, 0, Some((log.last().unwrap().header.anchor(), 65)));
    journal.execute(&[cut]).unwrap_err();
    disk.kill();
    let shows_what_is_durable = || {
        let durable = disk.fork();
        durable.crash_losing_all();
        segments(&disk).iter().all(|name| disk.contents(name) == durable.contents(name))
    };
    assert!(!shows_what_is_durable(), "zeros are read");
    let recovered = reopened(&disk);
    assert_eq!((recovered.entries.len(), recovered.is_damaged()), (64, false));
    assert!(shows_what_is_durable());
}

#[test]
fn erased_entries_do_not_replace_damaged_ones() {
    let (disk, mut journal) = formed();
    let log = rounds(&mut journal, 80);
    disk.crash_losing_all();
    let reader = open(&disk).unwrap().0.reader();
    let place = |at: u64| reader.place(op(at)).unwrap();
    for at in [10, 30, 60] {
        let disk = disk.fork();
        let name = segment::name(place(at).segment);
        assert!(disk.flip_bit(&name, u64::from(place(at).block) * 4096 + 50, 1));
        let recovered = reopened(&disk);
        assert_eq!((head(&recovered), recovered.is_damaged()), (at - 1, true));
        assert_eq!(recovered.entries.last().unwrap().hash, entry_at(&log, at - 1).unwrap().header.hash());
    }
}

#[test]
fn nothing_is_appended_before_the_last_cut_even_where_the_blocks_have_been_erased() {
    let (disk, mut journal) = formed();
    let mut log = rounds(&mut journal, 64);
    let head = log[63].header.anchor();
    journal.execute(&[view(65, 0, Some((head, 65)))]).unwrap();
    disk.crash_losing_all();
    let (mut journal, recovered) = open(&disk).unwrap();
    assert_eq!((recovered.entries.len(), recovered.is_damaged()), (64, false));
    log.push(entry_after(log.last(), 99, 10));
    journal.execute(&[Write::Append(log[64..].to_vec())]).unwrap();
    let recovered = reopened(&disk);
    assert_eq!((recovered.entries.len(), recovered.is_damaged()), (65, false));
}

#[test]
fn f_disk_5_a_damaged_segment_header_is_repaired() {
    let (disk, _, _) = with_entries(3);
    let intact = disk.contents(FIRST).unwrap();
    for copies in [1, 8] {
        let disk = disk.fork();
        for copy in 0..copies {
            assert!(disk.flip_bit(FIRST, copy * 512 + 33, 1));
        }
        let recovered = reopened(&disk);
        assert_eq!((head(&recovered), recovered.is_damaged()), (3, false));
        disk.crash_losing_all();
        assert_eq!(disk.contents(FIRST).unwrap(), intact);
    }
}

#[test]
fn damage_in_a_segment_that_was_never_begun_does_not_matter() {
    let (disk, _, _) = with_entries(3);
    let file = disk.storage().open("journal-00000001").unwrap();
    let segment = segment::Segment { number: SegmentNumber::new(1), file, blocks: 8 };
    segment
        .begin(Generation::new(2), Owner { cluster: identity().cluster, member: identity().member })
        .unwrap();
    assert!(disk.flip_bit("journal-00000001", 5 * 4096, 1));
    let recovered = reopened(&disk);
    assert_eq!((head(&recovered), recovered.is_damaged()), (3, false));

    let (mut journal, _) = open(&disk).unwrap();
    let last = Entry { header: journal.reader().read(op(3)).unwrap().unwrap().header, body: Bytes::new() };
    journal.execute(&[Write::Append(entries_after(Some(&last), 4, 3000, 6))]).unwrap();
    let recovered = reopened(&disk);
    assert_eq!((head(&recovered), recovered.is_damaged()), (9, false), "it was cleared before it was used");
}

/// The cut that voids an entry is forgotten with the segment in which it lies; the file still holds it.
#[test]
fn void_entries_in_a_recycled_segment_do_not_replace_damaged_ones() {
    let (disk, mut journal) = formed();
    let old = entries_after(None, 1, 10, 7);
    let new = entries_after(Some(&old[5]), 2, 10, 9);
    let anchor = |entry: &Entry| entry.header.anchor();
    journal.execute(&[Write::Append(old.clone()), view(1, 0, Some((anchor(&old[5]), 1)))]).unwrap();
    journal.execute(&[Write::Append(new.clone()), view(2, 0, Some((anchor(&new[7]), 2)))]).unwrap();
    journal.execute(&[Write::Checkpoint(anchor(&old[5])), Write::Trim(op(6)), view(3, 0, None)]).unwrap();
    let recovered = reopened(&disk);
    assert_eq!((recovered.floor.op, head(&recovered)), (op(6), 14));

    let place = open(&disk).unwrap().0.reader().place(op(7)).unwrap();
    assert!(disk.flip_bit(&segment::name(place.segment), u64::from(place.block) * 4096 + 50, 1));
    let recovered = reopened(&disk);
    assert_eq!((head(&recovered), recovered.is_damaged()), (6, true));
}

#[test]
fn f_disk_20_dropped_segments_are_recycled_and_the_number_of_files_stays_bounded() {
    let (disk, mut journal) = formed();
    let mut last: Option<Entry> = None;
    for round in 0..100_u64 {
        let some = entries_after(last.as_ref(), 1, 3000, 5);
        let anchor = some[4].header.anchor();
        last = some.last().cloned();
        journal
            .execute(&[
                Write::Append(some),
                Write::Checkpoint(anchor),
                Write::Trim(Op::new(anchor.op.get() - 4)),
            ])
            .unwrap();
        assert!(disk.names().len() <= 6, "{:?}", disk.names());
        if round % 9 == 0 {
            let recovered = reopened(&disk);
            assert_eq!(head(&recovered), anchor.op.get());
            assert!(recovered.entries.len() < 20);
            journal = open(&disk).unwrap().0;
        }
    }
}
