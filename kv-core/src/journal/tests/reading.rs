//! Readers: entries are there as soon as they are staged, and from disk when memory has let them go.

use super::*;

fn append(journal: &mut Journal, entries: &[Entry]) {
    journal.execute(&[Write::Append(entries.to_vec())]).unwrap();
}

fn read(reader: &LogReader, at: u64) -> Option<Entry> {
    reader.read(op(at)).unwrap()
}

#[test]
fn staged_entries_are_read_before_they_are_written() {
    let (disk, mut journal) = formed();
    let reader = journal.reader();
    let entries = entries_after(None, 1, 5000, 3);
    let write = Write::Append(entries.clone());
    let before = disk.counters();
    reader.stage(&write);
    assert_eq!(read(&reader, 2).as_ref(), Some(&entries[1]));
    assert_eq!(read(&reader, 4), None);
    assert_eq!(disk.counters(), before);
    journal.execute(&[write]).unwrap();
    assert_eq!(read(&reader, 2).as_ref(), Some(&entries[1]));
    assert!(disk.counters().reads > before.reads, "nothing is cached here once it is durable");
}

#[test]
fn a_staged_cut_hides_entries_at_once_and_what_is_written_late_does_not_bring_them_back() {
    let (_disk, mut journal) = formed();
    let reader = journal.reader();
    let old = entries_after(None, 1, 50, 3);
    let new = entries_after(Some(&old[0]), 2, 60, 2);
    let writes = [
        Write::Append(old.clone()),
        view(1, 0, Some((old[0].header.anchor(), 1))),
        Write::Append(new.clone()),
    ];
    writes.iter().for_each(|write| reader.stage(write));
    for done in 0..=writes.len() {
        assert_eq!(read(&reader, 1).as_ref(), Some(&old[0]), "after {done} writes");
        assert_eq!(read(&reader, 2).as_ref(), Some(&new[0]), "after {done} writes");
        assert_eq!(read(&reader, 3).as_ref(), Some(&new[1]), "after {done} writes");
        if let Some(write) = writes.get(done) {
            journal.execute(std::slice::from_ref(write)).unwrap();
        }
    }
}

#[test]
fn the_same_entry_appended_again_after_a_cut_is_read_from_its_new_place() {
    let (disk, mut journal) = formed();
    let reader = journal.reader();
    let entries = entries_after(None, 1, 50, 2);
    let writes = [
        Write::Append(entries.clone()),
        view(1, 0, Some((entries[0].header.anchor(), 1))),
        Write::Append(vec![entries[1].clone()]),
    ];
    writes.iter().for_each(|write| reader.stage(write));
    journal.execute(&writes[..2]).unwrap();
    assert_eq!(read(&reader, 2).as_ref(), Some(&entries[1]), "from memory: not durable in this life");
    journal.execute(&writes[2..]).unwrap();
    assert!(disk.flip_bit("journal-00000000", 2 * 4096 + 100, 1), "the void one");
    assert_eq!(read(&reader, 2).as_ref(), Some(&entries[1]));
}

#[test]
fn memory_keeps_the_newest_entries_up_to_its_bound() {
    let disk = Disk::new();
    let options = JournalOptions { cache_bytes: 10_000, ..options() };
    let (mut journal, _) = Journal::open(disk.storage(), identity(), options).unwrap();
    journal.execute(&[Write::Formation(FormationStep::Formed)]).unwrap();
    let reader = journal.reader();
    let entries = entries_after(None, 1, 3000, 10);
    append(&mut journal, &entries);
    let before = disk.counters().reads;
    for at in 8..=10 {
        assert_eq!(read(&reader, at).as_ref(), entry_at(&entries, at));
    }
    assert_eq!(disk.counters().reads, before);
    for at in 1..8 {
        assert_eq!(read(&reader, at).as_ref(), entry_at(&entries, at));
    }
    assert_eq!(disk.counters().reads, before + 7);
}

#[test]
fn f_disk_12_an_unreadable_or_damaged_entry_is_an_error_not_an_absence() {
    let (disk, mut journal) = formed();
    let entries = entries_after(None, 1, 50, 3);
    append(&mut journal, &entries);
    let reader = journal.reader();
    disk.make_unreadable("journal-00000000", 4096, 512);
    assert!(disk.flip_bit("journal-00000000", 2 * 4096 + 300, 6));
    assert!(matches!(reader.read(op(1)), Err(JournalReadError::Disk { .. })));
    assert!(matches!(reader.read(op(2)), Err(JournalReadError::Faulty { .. })));
    assert_eq!(read(&reader, 3).as_ref(), Some(&entries[2]));
}

#[test]
fn dropped_entries_are_absent() {
    let (_disk, mut journal) = formed();
    let entries = entries_after(None, 1, 3000, 30);
    append(&mut journal, &entries);
    let reader = journal.reader();
    journal.execute(&[Write::Checkpoint(entries[19].header.anchor()), Write::Trim(op(15))]).unwrap();
    assert_eq!(read(&reader, 1), None);
    assert_eq!(read(&reader, 16).as_ref(), Some(&entries[15]));
    assert_eq!(read(&reader, 30).as_ref(), Some(&entries[29]));
}

#[test]
fn readers_on_other_threads_see_each_entry_whole_or_not_at_all() {
    let (_disk, mut journal) = formed();
    let entries = entries_after(None, 1, 2000, 200);
    let reader = journal.reader();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let (reader, entries) = (reader.clone(), &entries);
            scope.spawn(move || {
                for _ in 0..10 {
                    for entry in entries {
                        let found = reader.read(entry.header.op).unwrap();
                        assert!(found.is_none_or(|found| found == *entry));
                    }
                }
            });
        }
        for some in entries.chunks(10) {
            let last = some.last().unwrap().header.anchor();
            append(&mut journal, some);
            journal.execute(&[Write::Checkpoint(last), Write::Trim(Op::new(last.op.get() - 5))]).unwrap();
        }
    });
}
