//! Readers beside the writer.

use super::*;
use crate::message::Query;
use std::sync::atomic::{AtomicBool, Ordering};

fn scanned(
    reader: &StateReader,
    from: &str,
    to: Option<&str>,
    limit: usize,
    bytes: usize,
) -> (Vec<String>, bool) {
    let page = reader.scan(from.as_bytes(), to.map(str::as_bytes), limit, bytes).unwrap();
    let keys = page.records.iter().map(|(key, _)| String::from_utf8(key.to_vec()).unwrap());
    (keys.collect(), page.next.is_some())
}

#[test]
fn a_scan_keeps_to_its_range_its_limit_and_its_bytes_and_returns_whether_there_is_more() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    for (n, key) in (1..).zip(["a", "b", "c", "d", "e"]) {
        machine.run(&[put(session, n, key, "0123456789", None)]);
    }
    machine.run(&[delete(session, 6, "c", None)]);
    let reader = machine.state.reader();
    let keys = |keys: &[&str]| keys.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(scanned(&reader, "", None, 9, 999), (keys(&["a", "b", "d", "e"]), false));
    assert_eq!(scanned(&reader, "b", Some("e"), 9, 999), (keys(&["b", "d"]), false));
    assert_eq!(scanned(&reader, "b", Some("e"), 2, 999), (keys(&["b", "d"]), false), "no more in the range");
    assert_eq!(scanned(&reader, "b", None, 2, 999), (keys(&["b", "d"]), true));
    assert_eq!(scanned(&reader, "", None, 9, 1), (keys(&["a"]), true), "at least one");
    assert_eq!(scanned(&reader, "", None, 9, 12), (keys(&["a", "b"]), true));
    assert_eq!(scanned(&reader, "f", None, 9, 999), (keys(&[]), false));
    assert_eq!(scanned(&reader, "c", Some("a"), 9, 999), (keys(&[]), false));
    assert_eq!(scanned(&reader, "", None, 0, 999), (keys(&[]), true));
}

#[test]
fn a_reader_that_was_made_early_sees_what_is_applied_later() {
    let mut machine = Machine::in_memory();
    let reader = machine.state.reader();
    assert_eq!((reader.applied(), reader.revision()), (Anchor::ZERO, Revision::ZERO));
    let session = machine.open();
    machine.run(&[put(session, 1, "k", "v", None)]);
    assert_eq!((reader.applied().op, reader.revision()), (Op::new(2), Revision::new(1)));
    assert!(reader.get(b"k").unwrap().0.is_some());
}

/// A read that needs no disk does not wait for one that does.
#[test]
fn a_recently_changed_key_reads_the_same_from_memory() {
    let disk = Disk::new();
    let mut machine =
        Machine { state: StateMachine::open(disk.storage(), limits()).unwrap(), log: Log::new() };
    let session = machine.open();
    machine.run(&[put(session, 1, "old", "v", None), put(session, 2, "gone", "v", None)]);
    let checkpoint = machine.state.begin_checkpoint().unwrap();
    machine.state.finish_checkpoint(checkpoint.run().unwrap());
    machine.run(&[put(session, 3, "new", "v", None), delete(session, 4, "gone", None)]);
    let reader = machine.state.reader();
    let get = |key: &'static str, at| Query::Get { key: key.into(), at };
    for key in ["new", "gone"] {
        let answer = reader.answer_from_memory(&get(key, None)).expect("it changed lately");
        assert_eq!(answer, reader.answer(&get(key, None), 9, 999).unwrap());
    }
    let elsewhere = [get("old", None), get("never", None), get("new", Some(reader.revision()))];
    assert!(elsewhere.iter().all(|query| reader.answer_from_memory(query).is_none()));
}

/// Every entry moves all counters at once; a reader must always find them equal, at the revision that it is given.
#[test]
fn readers_on_other_threads_never_see_half_of_an_entry() {
    let mut machine = Machine { state: StateMachine::in_memory(limits_without_history()), log: Log::new() };
    let session = machine.open();
    let keys = ["a", "b", "c", "d"];
    let writes = |n: u64| {
        (0..4).map(move |i| {
            put(session, n * 4 + i + 1, keys[usize::try_from(i).unwrap()], &n.to_string(), None)
        })
    };
    machine.run(&writes(0).collect::<Vec<_>>());
    let reader = machine.state.reader();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut last = Revision::ZERO;
                while !done.load(Ordering::Relaxed) {
                    let page = reader.scan(b"", None, 9, usize::MAX).unwrap();
                    let values: Vec<&Bytes> = page.records.iter().map(|(_, record)| &record.value).collect();
                    assert_eq!(values, [values[0]; 4], "at {}", page.revision);
                    assert_eq!(page.records[3].1.modified, page.revision);
                    assert!(page.revision >= last);
                    last = page.revision;
                }
            });
        }
        let _end = SetOnDrop(&done);
        for n in 1..3000 {
            machine.run(&writes(n).collect::<Vec<_>>());
        }
    });
    machine.open();
    assert!(machine.state.memtable_bytes() < 2000, "old versions are let go of");
}
