//! Skipped revisions, and the history that is dropped with them.

use super::*;
use crate::message::{Answer, Position, Query};
use crate::storage::simulated::Disk;

fn skip(session: SessionId, number: u64, count: u32) -> Request {
    request(session, number, Operation::Command(Command::SkipRevisions { count }))
}

fn changes(machine: &Machine, after: Revision) -> Result<usize, Compacted> {
    let query = ChangeQuery {
        from: b"",
        to: None,
        after: Position::after(after),
        previous: false,
        max_events: 100,
        max_bytes: 1 << 20,
    };
    machine.state.reader().changes(&query).unwrap().map(|page| page.events.len())
}

fn get(machine: &Machine, at: Revision) -> Answer {
    let query = Query::Get { key: "k".into(), at: Some(at) };
    machine.state.reader().answer(&query, 10, 1 << 20).unwrap()
}

/// Rule N8, and rule R3: what is too old is not read, whether or not a checkpoint has dropped it.
#[test]
fn n8_a_skip_takes_its_revisions_and_the_history_before_them_is_compacted_at_once() {
    for with_disk in [false, true] {
        let state = if with_disk {
            StateMachine::open(Disk::new().storage(), limits()).unwrap()
        } else {
            StateMachine::in_memory(limits())
        };
        let mut machine = Machine { state, log: Log::new() };
        let session = machine.open();
        let kept = limits().fixed.history_revisions;
        let first = machine.result(put(session, 1, "k", "1", None)).unwrap().revision;
        let second = machine.result(put(session, 2, "k", "2", None)).unwrap().revision;
        let none = machine.result(skip(session, 3, 0)).unwrap();
        assert_eq!((none.revision, none.effect), (second, Effect::RevisionsSkipped { kept }));
        let count = u32::try_from(kept).unwrap() - 1;
        let skipped = machine.result(skip(session, 4, count)).unwrap().revision;
        assert_eq!(skipped, second.advance(u64::from(count)));
        // The floor is the first revision now.
        assert_eq!(changes(&machine, first), Ok(1));
        let retried = machine.run(&[skip(session, 4, count), put(session, 5, "k", "3", None)]);
        assert_eq!(retried[0].result.as_ref().unwrap().revision, skipped, "the first outcome");
        assert_eq!(retried[1].revision, retried[0].revision.next());
        let oldest = retried[1].revision.back(kept);
        assert!(oldest > second, "the retry takes revisions too, because its bytes decide");
        for past in [first, second, oldest.back(1)] {
            assert_eq!(get(&machine, past), Answer::Compacted { oldest }, "with a disk: {with_disk}");
            assert_eq!(changes(&machine, past), Err(Compacted { oldest }), "with a disk: {with_disk}");
        }
        let Answer::Value { record: Some(record), .. } = get(&machine, oldest) else { panic!("it is kept") };
        assert_eq!((&record.value[..], record.modified), (&b"2"[..], second));
        assert_eq!(changes(&machine, oldest), Ok(1));
    }
}

#[test]
fn n8_a_skip_beyond_the_limit_is_refused_and_takes_the_limit() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    let before = machine.state.revision();
    assert_eq!(machine.result(skip(session, 1, Command::MAX_SKIP + 1)), Err(Rejection::Invalid));
    assert_eq!(machine.state.revision(), before.advance(u64::from(Command::MAX_SKIP)));
    // Many in one entry: more than 32 bits count.
    let many: Vec<Request> = (2..302).map(|number| skip(session, number, Command::MAX_SKIP)).collect();
    let last = machine.run(&many).pop().unwrap();
    assert_eq!(last.revision, before.advance(301 << 24));
}

/// A machine that has skipped revisions is the same after a restart.
#[test]
fn skipped_revisions_survive_a_restart() {
    let disk = Disk::new();
    let state = StateMachine::open(disk.storage(), limits()).unwrap();
    let mut machine = Machine { state, log: Log::new() };
    let session = machine.open();
    machine.run(&[
        put(session, 1, "k", "1", None),
        skip(session, 2, 1 << 20),
        put(session, 3, "k", "2", None),
    ]);
    let checkpoint = machine.state.begin_checkpoint().unwrap().run().unwrap();
    machine.state.finish_checkpoint(checkpoint);
    let (digest, revision) = (machine.digest(), machine.state.revision());
    machine.state = StateMachine::in_memory(limits());
    machine.state = StateMachine::open(disk.storage(), limits()).unwrap();
    assert_eq!((machine.digest(), machine.state.revision()), (digest, revision));
    let kept = limits().fixed.history_revisions;
    assert_eq!(changes(&machine, Revision::new(1)), Err(Compacted { oldest: revision.back(kept) }));
    assert_eq!(changes(&machine, revision.back(kept)), Ok(1));
}
