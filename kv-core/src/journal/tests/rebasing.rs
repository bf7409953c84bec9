//! The log is rebased on another point (rule T3).

use super::*;
use crate::config::DiskId;
use crate::message::{LogPoint, LogRebase};

/// The point after `entry`.
fn point(entry: &Entry) -> LogPoint {
    let header = &entry.header;
    LogPoint { anchor: header.anchor(), next_revision: header.next_revision(), timestamp: header.timestamp }
}

fn rebase(entry: &Entry, incarnation: u64) -> Write {
    let incarnation = Incarnation::new(incarnation);
    Write::Rebase(LogRebase { point: point(entry), incarnation, adopted: None })
}

/// What a reader finds at these ops.
fn read(journal: &Journal, ops: std::ops::RangeInclusive<u64>) -> Vec<Option<Hash>> {
    let reader = journal.reader();
    ops.map(|at| reader.read(op(at)).unwrap().map(|entry| entry.header.hash())).collect()
}

fn hash(entry: &Entry) -> Option<Hash> {
    Some(entry.header.hash())
}

/// A member that was away: its log ends long before the point, and in entries that nobody committed.
#[test]
fn t3_a_log_that_ends_below_the_point_starts_there() {
    let (disk, mut journal) = formed();
    let cluster = entries_after(None, 1, 2000, 40);
    let own = entries_after(cluster.get(4), 9, 2000, 3);
    journal.execute(&[Write::Append(cluster[..5].to_vec()), Write::Append(own)]).unwrap();
    journal.execute(&[rebase(&cluster[29], 1), Write::Append(cluster[30..33].to_vec())]).unwrap();
    for _ in 0..2 {
        assert_eq!(
            read(&journal, 29..=34),
            [None, None, hash(&cluster[30]), hash(&cluster[31]), hash(&cluster[32]), None]
        );
        disk.crash_losing_all();
        let (again, recovered) = open(&disk).unwrap();
        assert!(!recovered.is_damaged());
        assert_eq!(
            (recovered.floor, recovered.checkpoint),
            (cluster[29].header.anchor(), cluster[29].header.anchor())
        );
        assert_eq!(recovered.floor_next_revision, cluster[30].header.first_revision);
        assert_eq!(head(&recovered), 33);
        journal = again;
    }
}

/// The execution that the rule prevents: the entries above the snapshot are the last copies of acknowledged writes.
#[test]
fn t3_entries_above_the_point_that_chain_to_it_are_kept() {
    let (disk, mut journal) = formed();
    let log = entries_after(None, 1, 2000, 20);
    journal.execute(&[Write::Append(log.clone()), rebase(&log[11], 1)]).unwrap();
    assert_eq!(read(&journal, 13..=20), log[12..].iter().map(hash).collect::<Vec<_>>());
    disk.crash_losing_all();
    let (journal, recovered) = open(&disk).unwrap();
    assert!(!recovered.is_damaged());
    assert_eq!((recovered.checkpoint, head(&recovered)), (log[11].header.anchor(), 20));
    assert_eq!(read(&journal, 13..=20), log[12..].iter().map(hash).collect::<Vec<_>>());
}

/// The entries above the point belong to another log: they chain to another entry at the point's op.
#[test]
fn t3_entries_above_the_point_of_another_log_are_void_for_ever() {
    let (disk, mut journal) = formed();
    let cluster = entries_after(None, 1, 100, 12);
    let own = entries_after(cluster.get(3), 9, 100, 8);
    journal.execute(&[Write::Append(cluster[..4].to_vec()), Write::Append(own)]).unwrap();
    journal.execute(&[rebase(&cluster[7], 1)]).unwrap();
    assert_eq!(read(&journal, 1..=12), vec![None; 12]);
    let (mut journal, recovered) = {
        disk.crash_losing_all();
        open(&disk).unwrap()
    };
    assert_eq!((head(&recovered), recovered.is_damaged()), (8, false));
    journal.execute(&[Write::Append(vec![cluster[8].clone()])]).unwrap();
    disk.crash_losing_all();
    assert_eq!(head(&open(&disk).unwrap().1), 9);
}

/// Rule T3 at every I/O: before the one superblock write it is the old log, after it the new one.
#[test]
fn t3_f_disk_20_a_power_cut_during_the_rebase_leaves_the_old_log_or_the_new() {
    let mut seen = [0; 2];
    for operation in 1..30 {
        for seed in 0..seeds(20) {
            let mut rng = fastrand::Rng::with_seed(seed);
            let (disk, mut journal) = formed();
            let cluster = entries_after(None, 1, 2500, 40);
            let own = entries_after(cluster.get(5), 9, 2500, 4);
            journal.execute(&[Write::Append(cluster[..6].to_vec()), Write::Append(own)]).unwrap();
            disk.fail_after(operation);
            let done = journal.execute(&[rebase(&cluster[24], 1), Write::Append(cluster[25..28].to_vec())]);
            disk.crash(&mut rng);
            let (mut journal, recovered) = open(&disk).unwrap();
            assert!(!recovered.is_damaged(), "operation {operation} seed {seed}");
            let new = recovered.checkpoint == cluster[24].header.anchor();
            seen[usize::from(new)] += 1;
            if new {
                assert!((25..=28).contains(&head(&recovered)), "operation {operation} seed {seed}");
            } else {
                assert!(done.is_err() && head(&recovered) == 10, "operation {operation} seed {seed}");
                // The state on disk was switched before: opening finds it ahead.
                let again = journal.rebase_log(point(&cluster[24]), None, DiskId(0)).unwrap();
                assert_eq!((again.checkpoint, head(&again)), (cluster[24].header.anchor(), 25));
            }
            let from =
                usize::try_from(journal.execute(&[]).map(|()| head(&reopened(&disk))).unwrap()).unwrap();
            let (mut journal, _) = open(&disk).unwrap();
            journal.execute(&[Write::Append(cluster[from..].to_vec())]).unwrap();
            assert_eq!(read(&journal, 29..=40), cluster[28..].iter().map(hash).collect::<Vec<_>>());
            assert_eq!(head(&reopened(&disk)), 40);
        }
    }
    assert!(seen.iter().all(|count| *count > 3), "{seen:?}");
}

fn reopened(disk: &Disk) -> Recovered {
    disk.kill();
    open(disk).unwrap().1
}

/// The state of a member whose log begins at its own checkpoint was lost, and is fetched at that very checkpoint.
#[test]
fn t3_entries_above_the_point_are_kept_where_the_log_begins_at_it() {
    let (disk, mut journal) = formed();
    let log = entries_after(None, 1, 5000, 20);
    journal.execute(&[Write::Append(log.clone())]).unwrap();
    journal.execute(&[Write::Checkpoint(log[11].header.anchor()), Write::Trim(op(12))]).unwrap();
    let begins = usize::try_from(reopened(&disk).floor.op.get()).unwrap();
    assert!((1..=12).contains(&begins));
    let (mut journal, _) = open(&disk).unwrap();
    journal.execute(&[Write::Checkpoint(log[begins - 1].header.anchor()), rebase(&log[11], 1)]).unwrap();
    assert_eq!(read(&journal, 13..=20), log[12..].iter().map(hash).collect::<Vec<_>>());
    assert_eq!(head(&reopened(&disk)), 20);
}

#[test]
fn t3_a_point_below_the_checkpoint_is_refused() {
    let (_disk, mut journal) = formed();
    let log = entries_after(None, 1, 100, 9);
    journal.execute(&[Write::Append(log.clone()), Write::Checkpoint(log[7].header.anchor())]).unwrap();
    assert!(matches!(journal.execute(&[rebase(&log[3], 1)]), Err(JournalWriteError::UnknownPoint { .. })));
}

/// The header of a segment is written, and is not durable when the process ends: it is read, until a power cut takes it
/// back. Then the same generation begins again. What is written in it must not count as written before the rebase.
#[test]
fn t3_a_generation_that_was_never_durable_voids_nothing_that_is_written_later() {
    let (disk, mut journal) = formed();
    let log = entries_after(None, 1, 2000, 8);
    let first = segments(&disk).remove(0);
    assert!(disk.fail_sync_of(&first, 1));
    assert!(journal.execute(&[Write::Append(log[..1].to_vec())]).is_err());
    drop(journal);
    disk.kill();
    let (mut journal, _) = open(&disk).unwrap();
    journal.execute(&[rebase(&log[3], 1)]).unwrap();
    disk.crash_losing_all();
    let (mut journal, recovered) = open(&disk).unwrap();
    assert_eq!(recovered.floor, log[3].header.anchor());
    journal.execute(&[Write::Append(log[4..].to_vec())]).unwrap();
    disk.crash_losing_all();
    let (mut journal, recovered) = open(&disk).unwrap();
    assert_eq!((head(&recovered), recovered.is_damaged()), (8, false));
    journal.execute(&[view(2, 2, Some((log[5].header.anchor(), 2)))]).unwrap();
    assert_eq!(head(&open(&disk.fork()).unwrap().1), 6);
}
