//! Directories that are not opened: another cluster's, another member's, lost ones. Nothing on disk changes.

use super::*;
use crate::storage::Directory;

/// Opening is refused, in one line with what is wrong and what to do, and leaves every file as it was.
fn refused(disk: &Disk, identity: Identity) -> OpenError {
    let files = |disk: &Disk| -> Vec<_> { disk.names().iter().map(|name| disk.contents(name)).collect() };
    let (before, names, counters) = (files(disk), disk.names(), disk.counters());
    let error = Journal::open(disk.storage(), identity, options()).unwrap_err();
    assert_eq!((before, names), (files(disk), disk.names()), "{error}");
    assert_eq!((counters.writes, counters.syncs), (disk.counters().writes, disk.counters().syncs), "{error}");
    assert!(!error.to_string().contains('\n'), "{error}");
    error
}

fn with_entries(count: usize) -> (Disk, Vec<Entry>) {
    let (disk, mut journal) = formed();
    let entries = entries_after(None, 1, 100, count);
    journal.execute(&[Write::Append(entries.clone()), view(3, 3, None)]).unwrap();
    (disk, entries)
}

#[test]
fn f_disk_16_an_empty_directory_is_not_written_before_it_is_formatted() {
    let disk = Disk::new();
    let (mut journal, recovered) = open(&disk).unwrap();
    assert_eq!(recovered, Recovered::empty());
    assert_eq!(disk.counters().writes, 0);
    let early = journal.execute(&[Write::Append(entries_after(None, 1, 1, 1))]);
    assert!(matches!(early, Err(JournalWriteError::NotFormatted)));
    assert!(matches!(
        journal.execute(&[Write::Formation(FormationStep::Formatted)]),
        Err(JournalWriteError::Stopped)
    ));
    assert_eq!(disk.names(), Vec::<String>::new());
}

#[test]
fn f_disk_16_a_lost_superblock_is_refused() {
    let (disk, _) = with_entries(3);
    disk.storage().remove("superblock").unwrap();
    assert!(matches!(refused(&disk, identity()), OpenError::SuperblockMissing { .. }));
}

#[test]
fn f_disk_19_the_directory_of_another_cluster_or_member_is_refused() {
    let (disk, _) = with_entries(3);
    let other = Identity { cluster: ClusterId::of_name("other"), cluster_name: "other".into(), ..identity() };
    let error = refused(&disk, other);
    assert!(error.to_string().contains("belongs to the cluster \"demo\", not to \"other\""), "{error}");
    let error = refused(&disk, Identity { member: MemberId::new(2), ..identity() });
    assert!(error.to_string().contains("belongs to member 1, not to member 2"), "{error}");
}

#[test]
fn f_conf_3_f6_another_member_list_or_fixed_option_is_refused_by_name() {
    let (disk, _) = with_entries(3);
    let error = refused(&disk, Identity { fingerprint: Hash::of(b"others"), ..identity() });
    assert!(matches!(error, OpenError::OtherConfiguration { .. }));
    let options = FixedOptions::from(&Options { max_sessions: 5, ..Options::default() });
    let error = refused(&disk, Identity { options, ..identity() });
    let expected = "max_sessions is 5, and the cluster was formed with 10000: set it back to 10000";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn f_disk_19_a_segment_of_another_member_is_refused() {
    let (disk, _) = with_entries(3);
    let other = Disk::new();
    let (mut journal, _) =
        Journal::open(other.storage(), Identity { member: MemberId::new(2), ..identity() }, options())
            .unwrap();
    let writes = [Write::Formation(FormationStep::Formed), Write::Append(entries_after(None, 2, 5, 1))];
    journal.execute(&writes).unwrap();
    disk.put("journal-00000000", other.contents("journal-00000000").unwrap());
    assert!(matches!(refused(&disk, identity()), OpenError::ForeignSegment { .. }));
}

#[test]
fn a_segment_under_another_segments_name_is_refused() {
    let (disk, _) = with_entries(30);
    disk.put("journal-00000000", disk.contents("journal-00000001").unwrap());
    assert!(matches!(refused(&disk, identity()), OpenError::ForeignSegment { .. }));
}

#[test]
fn f_disk_17_an_old_superblock_under_a_newer_journal_is_refused() {
    let (disk, entries) = with_entries(3);
    let old = disk.contents("superblock").unwrap();
    let (mut journal, _) = open(&disk).unwrap();
    let mut writes = vec![view(4, 4, Some((entries[1].header.anchor(), 7)))];
    disk.put("superblock", old.clone());
    disk.kill();
    assert_eq!(head(&open(&disk).unwrap().1), 3, "nothing newer is there yet");
    drop(journal);
    (journal, _) = open(&disk).unwrap();
    writes.push(Write::Append(entries_after(Some(&entries[1]), 9, 10, 1)));
    journal.execute(&writes).unwrap();
    disk.put("superblock", old);
    assert!(matches!(refused(&disk, identity()), OpenError::SuperblockOutdated { .. }));
}

/// Sets this format in all copies of the superblock.
fn pretend_format(disk: &Disk, format: u8) {
    let mut bytes = disk.contents("superblock").unwrap();
    for zone in bytes.chunks_exact_mut(4096) {
        zone[24] = format;
        let length = 44 + block::u32_at(zone, 40) as usize;
        let checksum = xxhash_rust::xxh3::xxh3_128(&zone[24..length]);
        zone[8..24].copy_from_slice(&checksum.to_le_bytes());
    }
    disk.put("superblock", bytes);
}

#[test]
fn a_newer_format_is_refused_and_so_is_an_older_one() {
    let (disk, _) = with_entries(3);
    pretend_format(&disk, 9);
    let error = refused(&disk, identity());
    assert!(matches!(error, OpenError::NewerFormat { found: 9, known: 3 }), "{error}");
    pretend_format(&disk, 1);
    let error = refused(&disk, identity());
    assert!(matches!(error, OpenError::OlderFormat { found: 1, known: 3 }), "{error}");
}

/// The first format kept no wall clock beside an entry; the second did not count revisions.
#[test]
fn another_format_of_a_segment_is_refused_older_or_newer() {
    for format in [2_u32, 9] {
        let (disk, _) = with_entries(3);
        let file = segment::name(location::SegmentNumber::new(0));
        let mut bytes = disk.contents(&file).unwrap();
        for sector in bytes[..BLOCK_BYTES].chunks_exact_mut(512) {
            sector[16..20].copy_from_slice(&format.to_le_bytes());
            let checksum = xxhash_rust::xxh3::xxh3_64(&sector[8..]);
            sector[..8].copy_from_slice(&checksum.to_le_bytes());
        }
        disk.put(&file, bytes);
        let error = refused(&disk, identity());
        let newer = matches!(error, OpenError::NewerFormat { found: 9, known: 4 });
        let older = matches!(error, OpenError::OlderFormat { found: 2, known: 4 });
        assert!(if format == 9 { newer } else { older }, "{error}");
    }
}

#[test]
fn f_disk_5_superblock_copies_are_repaired_while_a_quorum_is_intact_and_refused_below() {
    let (disk, _) = with_entries(3);
    let intact = disk.contents("superblock").unwrap();
    for damaged in 0_u64..16 {
        let disk = disk.fork();
        for copy in (0..4).filter(|copy| damaged & 1 << copy != 0) {
            assert!(disk.flip_bit("superblock", copy * 4096 + 60, 1));
        }
        if damaged.count_ones() > 2 {
            let error = refused(&disk, identity());
            assert!(matches!(error, OpenError::SuperblockDamaged { .. }), "{error}");
        } else {
            let (_, recovered) = open(&disk).unwrap();
            assert_eq!((recovered.view, recovered.log_view), (View::new(3), View::new(3)));
            disk.crash_losing_all();
            assert_eq!(disk.contents("superblock").unwrap(), intact, "all copies are complete and durable");
        }
    }
}

/// DESIGN 4.1: opening completes all copies, so that no later damage can bring an older view back.
/// Rule D1.
#[test]
fn f_disk_5_after_a_power_cut_in_a_view_write_no_damage_to_half_of_the_copies_brings_the_old_view_back() {
    for operation in 1..6 {
        for seed in 0..40 {
            let (disk, mut journal) = formed();
            journal.execute(&[view(3, 3, None)]).unwrap();
            disk.fail_after(operation);
            let _ = journal.execute(&[view(9, 3, None)]);
            disk.crash(&mut fastrand::Rng::with_seed(seed));
            let found = open(&disk).unwrap().1.view;
            for first in 0..4 {
                for second in 0..first {
                    let disk = disk.fork();
                    assert!(disk.flip_bit("superblock", first * 4096 + 70, 3));
                    assert!(disk.flip_bit("superblock", second * 4096 + 70, 3));
                    assert_eq!(open(&disk).unwrap().1.view, found, "operation {operation} seed {seed}");
                }
            }
        }
    }
}

#[test]
fn segment_sizes_out_of_range_are_refused() {
    for segment_bytes in [0, 4096, 8 << 30, u64::MAX] {
        let options = JournalOptions { segment_bytes, ..options() };
        let refused = Journal::open(Disk::new().storage(), identity(), options);
        assert!(matches!(refused, Err(OpenError::SegmentBytes(_))));
    }
}

#[test]
fn f_disk_18_a_real_directory_keeps_its_journal_and_is_refused_while_open() {
    let dir = tempfile::tempdir().unwrap();
    let entries = entries_after(None, 1, 5000, 20);
    {
        let storage = Directory::open(dir.path()).unwrap();
        let (mut journal, _) = Journal::open(storage, identity(), options()).unwrap();
        let writes = [Write::Formation(FormationStep::Formed), Write::Append(entries.clone())];
        journal.execute(&writes).unwrap();
        assert!(Directory::open(dir.path()).is_err());
    }
    let storage = Directory::open(dir.path()).unwrap();
    let (journal, recovered) = Journal::open(storage, identity(), options()).unwrap();
    assert_eq!(recovered.entries.len(), 20);
    for entry in &entries {
        assert_eq!(journal.reader().read(entry.header.op).unwrap().as_ref(), Some(entry));
    }
}
