//! Skipped revisions, and the history that is dropped with them.

use super::*;
use crate::engine::HeldFiles;
use crate::message::{Answer, Position, Query};

fn skip(session: SessionId, number: u64, to: Revision) -> Request {
    request(session, number, Operation::Command(Command::SkipRevisions { to }))
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
        let none = machine.result(skip(session, 3, second)).unwrap();
        assert_eq!((none.revision, none.effect), (second, Effect::RevisionsSkipped { kept }));
        let to = first.advance(kept);
        assert_eq!(machine.result(skip(session, 4, to)).unwrap().revision, to);
        // The floor is the first revision now.
        assert_eq!(changes(&machine, first), Ok(1));
        // Copies drop nothing more, nor do those whose session has ended.
        let nobody = SessionId::new(1 << 40);
        let copies = [skip(session, 4, to), skip(nobody, 1, to), put(session, 5, "k", "3", None)];
        let retried = machine.run(&copies);
        assert_eq!(retried[0].result.as_ref().unwrap().revision, to, "the first outcome");
        assert_eq!(retried[1].result, Err(Rejection::SessionExpired));
        assert_eq!(retried[2].revision, to.next());
        assert_eq!(changes(&machine, first.next()), Ok(1));
        let oldest = machine.result(skip(session, 6, to.advance(5))).unwrap().revision.back(kept);
        assert!(oldest > second);
        for past in [first, second, oldest.back(1)] {
            assert_eq!(get(&machine, past), Answer::Compacted { oldest }, "with a disk: {with_disk}");
            assert_eq!(changes(&machine, past), Err(Compacted { oldest }), "with a disk: {with_disk}");
        }
        let Answer::Value { record: Some(record), .. } = get(&machine, oldest) else { panic!("it is kept") };
        assert_eq!((&record.value[..], record.modified), (&b"2"[..], second));
        assert_eq!(changes(&machine, oldest), Ok(1));
    }
}

/// Rule E2: what a client retries, because its answer was lost, runs once and gets the first outcome, also after a
/// restart of the member.
#[test]
fn e2_a_copy_of_a_skip_gets_the_first_outcome_and_raises_nothing() {
    let disk = Disk::new();
    let state = StateMachine::open(disk.storage(), limits()).unwrap();
    let mut machine = Machine { state, log: Log::new() };
    let session = machine.open();
    let to = Revision::new(1 << 20);
    let first = machine.result(skip(session, 1, to)).unwrap();
    machine.wait(5);
    machine.run(&[put(session, 2, "k", "1", None)]);
    let checkpoint = machine.state.begin_checkpoint().unwrap().run().unwrap();
    machine.state.finish_checkpoint(checkpoint);
    machine.state = StateMachine::open(disk.storage(), limits()).unwrap();
    for _ in 0..3 {
        machine.wait(5);
        assert_eq!(machine.result(skip(session, 1, to)), Ok(first.clone()));
        assert_eq!(machine.state.revision(), to.next(), "a copy takes none: its target is in the past");
    }
    let before = machine.open().get();
    machine.result(skip(session, 1, to)).unwrap();
    assert_eq!(machine.open().get(), before + 2, "the ids of sessions are raised once");
}

/// The history that counts as dropped takes room until a checkpoint; then merges return it.
#[test]
fn merges_return_the_space_of_dropped_history() {
    let disk = Disk::new();
    let mut limits = limits();
    limits.fixed.history_bytes = 100 << 20;
    let state = StateMachine::open(disk.storage(), limits.clone()).unwrap();
    let mut machine = Machine { state, log: Log::new() };
    let session = machine.open();
    let value = "v".repeat(10_000);
    let checkpoint = |state: &mut StateMachine| {
        let done = state.begin_checkpoint().unwrap().run().unwrap();
        state.finish_checkpoint(done);
        while let MergeStep::Merged = state.merger().unwrap().step(&HeldFiles::default()).unwrap() {
            state.finish_merge();
        }
    };
    let files = || image(&disk).values().map(Vec::len).sum::<usize>();
    for number in 1..=300 {
        machine.run(&[put(session, number, &format!("key{}", number % 10), &value, None)]);
        if number % 10 == 0 {
            checkpoint(&mut machine.state);
        }
    }
    let before = files();
    assert!(before > 290 * value.len(), "the history is on the disk: {before}");
    let to = machine.state.revision().advance(limits.fixed.history_revisions);
    machine.run(&[skip(session, 301, to)]);
    assert_eq!(files(), before);
    checkpoint(&mut machine.state);
    let needed = 10 * value.len();
    assert!(files() < 2 * needed + limits.checkpoint_bytes, "{} of {before} are left", files());
    let page = machine.state.reader().scan(b"", None, usize::MAX, usize::MAX).unwrap();
    assert!(page.records.iter().all(|(_, record)| record.value == value) && page.records.len() == 10);
}

#[test]
fn n8_a_skip_beyond_the_limit_is_refused_and_takes_nothing() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    let before = machine.state.revision();
    let max = Command::MAX_SKIP_TO;
    assert_eq!(machine.result(skip(session, 1, max.next())), Err(Rejection::Invalid));
    assert_eq!(machine.state.revision(), before);
    // Several in one entry: each begins where the one before has ended.
    let last = machine.run(&[
        skip(session, 2, before.advance(9)),
        skip(session, 3, before.advance(4)),
        skip(session, 4, max),
        put(session, 5, "k", "1", None),
    ]);
    let revisions: Vec<Revision> = last.iter().map(|applied| applied.revision).collect();
    assert_eq!(revisions, [before.advance(9), before.advance(9), max, max.next()]);
}

/// A client of the cluster whose content is restored here must not find its ids in use.
#[test]
fn a_skip_raises_the_ids_of_sessions_and_leases_too() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    let to = Revision::new(1 << 40);
    machine.run(&[skip(session, 1, to), skip(session, 1, to)]);
    let next = machine.open();
    assert!(next.get() >= 1 << 40 && next.get() < (1 << 40) + 10, "{next:?}");
    // As a retry that arrives after the end of its session. It takes its revisions nevertheless.
    let rejected = machine.result(skip(SessionId::new(u64::MAX >> 2), 1, Revision::new(1 << 50)));
    assert_eq!(rejected, Err(Rejection::SessionExpired));
    assert_eq!(machine.state.revision(), Revision::new(1 << 50));
    assert!(machine.open().get() > 1 << 50, "ids grow with the revision");
    machine.state.check_invariants();
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
        skip(session, 2, Revision::new(1 << 20)),
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
