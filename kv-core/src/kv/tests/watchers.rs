//! Parked watches: rules W2 to W5 of PROTOCOL.md. Tests in `history` check that watches deliver the whole history in
//! order (rule W1).

use super::*;
use crate::ids::Instant;
use crate::message::{Answer, WatchQuery, after_prefix, successor};

const NONE: Option<Position> = None;

fn r(revision: u64) -> Revision {
    Revision::new(revision)
}

/// After this key's event of a revision that is delivered in pieces.
fn within(revision: u64, key: &str) -> Position {
    Position { revision: r(revision), key: Some(Bytes::copy_from_slice(key.as_bytes())) }
}

fn question(from: &str, to: Option<Bytes>, after: Position, call: u64) -> ParkedWatch<u64> {
    let query =
        WatchQuery { from: Bytes::copy_from_slice(from.as_bytes()), to, after: Some(after), previous: false };
    ParkedWatch { query, id: (1, call), until: Instant::new(1_000), with: call }
}

fn key(key: &str, after: Position, call: u64) -> ParkedWatch<u64> {
    question(key, Some(successor(key.as_bytes())), after, call)
}

fn calls(watches: &[ParkedWatch<u64>]) -> Vec<u64> {
    watches.iter().map(|it| it.with).collect()
}

/// A state at revision 2, which has opened session 1 and put something twice.
fn machine() -> (Machine, SessionId) {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    machine.run(&[put(session, 1, "other", "v", None), put(session, 2, "other", "v", None)]);
    (machine, session)
}

/// A transaction that puts all these keys at once.
fn put_all(session: SessionId, number: u64, keys: &[&str]) -> Request {
    let step = |key: &&str| crate::message::TransactionStep::Put {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: "v".into(),
        life: Lifetime::FOREVER,
    };
    let transaction = crate::message::TransactionRequest {
        conditions: Vec::new(),
        then: keys.iter().map(step).collect(),
        otherwise: Vec::new(),
    };
    request(session, number, Operation::Command(Command::Transaction(transaction)))
}

/// Matches all changes, this many events at a time; returns the woken watches.
fn dispatch(watchers: &mut Watchers<u64>, state: &StateReader, most: usize) -> Vec<u64> {
    let (mut woken, mut next) = (Vec::new(), Some(Position::after(watchers.dispatched())));
    while let Some(after) = next {
        let step = watchers.changed(&state.all_changes(after, most, usize::MAX).unwrap());
        woken.extend(calls(&step.watches));
        next = step.next;
    }
    woken
}

fn place(answer: &Answer) -> &Position {
    match answer {
        Answer::Watched { events, next, more: false } if events.is_empty() => next,
        other => panic!("{other:?} contains more than a position"),
    }
}

/// Rule W3: a parked watch uses only its index entry, and a change wakes only the watches that follow it.
#[test]
fn a_change_wakes_only_the_watches_of_its_key() {
    let (mut machine, session) = machine();
    let mut watchers = Watchers::default();
    let at = || Position::after(r(2));
    for waiting in [
        key("a/1", at(), 1),
        key("a/2", at(), 2),
        question("a/", after_prefix(b"a/"), at(), 3),
        question("b/", after_prefix(b"b/"), at(), 4),
        question("", None, at(), 5),
        question("a/0", Some("a/2".into()), at(), 6),
        question("a/2", None, at(), 7),
    ] {
        assert!(watchers.wait(waiting, || r(2)).is_none());
    }
    machine.run(&[put(session, 12, "a/1", "v", None)]);
    assert_eq!(dispatch(&mut watchers, &machine.state.reader(), 9), [1, 3, 5, 6]);
    assert_eq!(watchers.cancel((1, 2)).map(|it| it.with), Some(2));
    machine.run(&[put_all(session, 13, &["a/2", "b/1"])]);
    assert_eq!(dispatch(&mut watchers, &machine.state.reader(), 1), [7, 4]);
    assert!(watchers.is_empty());
}

/// Rule W4: a woken watch need not search the changes that have already woken others.
#[test]
fn w4_a_woken_watch_continues_from_the_matched_position() {
    let (mut machine, session) = machine();
    let mut watchers = Watchers::default();
    assert!(watchers.wait(key("a", Position::after(r(2)), 1), || r(2)).is_none());
    for number in 12..15 {
        machine.run(&[put(session, number, "other", "v", None)]);
    }
    assert_eq!(dispatch(&mut watchers, &machine.state.reader(), 1), [0; 0]);
    machine.run(&[put(session, 15, "a", "v", None)]);
    let found = machine.state.reader().all_changes(Position::after(watchers.dispatched()), 9, 999).unwrap();
    let woken = watchers.changed(&found).watches.remove(0);
    assert_eq!(woken.query.after, Some(Position::after(r(5))));
    let look = machine.state.reader().poll(&woken.query, PositionSource::Member, 9, 999).unwrap();
    assert!(
        matches!(look, WatchPoll::Answer(Answer::Watched { events, .. }) if events.len() == 1 && events[0].revision == r(6))
    );
}

#[test]
fn w3_a_watch_looks_again_before_it_parks_if_it_missed_a_wake_up() {
    let (mut machine, session) = machine();
    let mut watchers = Watchers::default();
    assert!(watchers.wait(key("b", Position::after(r(2)), 1), || r(2)).is_none());
    // It looks at revision 2; before it waits, revision 3 is applied and dispatched.
    let late = key("a", Position::after(r(2)), 2);
    machine.run(&[put(session, 12, "a", "v", None)]);
    assert_eq!(dispatch(&mut watchers, &machine.state.reader(), 9), [0; 0]);
    let again = watchers.wait(late, || r(3)).unwrap();
    let look = machine.state.reader().poll(&again.query, PositionSource::Member, 9, 999).unwrap();
    assert!(matches!(look, WatchPoll::Answer(Answer::Watched { events, .. }) if events.len() == 1));
}

/// The watch comes from a member that has delivered a part of revision 3, to one that had not applied it when it
/// looked.
#[test]
fn w3_a_revision_delivered_in_part_is_not_covered() {
    let (mut machine, session) = machine();
    let mut watchers = Watchers::default();
    assert!(watchers.wait(key("other", Position::after(r(2)), 1), || r(2)).is_none());
    let late = question("", None, within(3, "a"), 2);
    let looked = machine.state.reader().poll(&late.query, PositionSource::Client, 9, 999).unwrap();
    assert_eq!(looked, WatchPoll::Nothing(within(3, "a")));
    machine.run(&[put_all(session, 12, &["a", "b"])]);
    assert_eq!(dispatch(&mut watchers, &machine.state.reader(), 9), [0; 0]);
    let again = watchers.wait(late, || r(3)).unwrap();
    let look = machine.state.reader().poll(&again.query, PositionSource::Member, 9, 999).unwrap();
    assert!(matches!(look, WatchPoll::Answer(Answer::Watched { events, .. }) if events[0].key == "b"));
}

/// The pieces of a revision wake watches one after another. A watch that arrives in the middle has missed the earlier
/// pieces.
#[test]
fn w3_a_revision_matched_in_part_must_be_covered_as_a_whole() {
    let (mut machine, session) = machine();
    let mut watchers = Watchers::default();
    assert!(watchers.wait(key("z", Position::after(r(2)), 1), || r(2)).is_none());
    let late = key("a", Position::after(r(2)), 2);
    machine.run(&[put_all(session, 12, &["a", "b"])]);
    let state = machine.state.reader();
    let first = watchers.changed(&state.all_changes(Position::after(r(2)), 1, usize::MAX).unwrap());
    assert_eq!((first.watches.len(), first.next), (0, Some(within(3, "a"))));
    let again = watchers.wait(late, || r(3)).expect("it has not seen what has woken others");
    let look = state.poll(&again.query, PositionSource::Member, 9, 999).unwrap();
    assert!(matches!(look, WatchPoll::Answer(Answer::Watched { events, .. }) if events[0].key == "a"));
    // A watch that has seen it may park, although the rest of it has not woken others yet.
    assert!(watchers.wait(key("a", Position::after(r(3)), 2), || r(3)).is_none());
}

#[test]
fn w4_progress_stops_at_the_last_issued_wake_up() {
    let (mut machine, session) = machine();
    let mut watchers = Watchers::default();
    assert!(watchers.wait(key("z", Position::after(r(2)), 1), || r(2)).is_none());
    let patient = ParkedWatch { until: Instant::new(2_000), ..key("c", Position::after(r(2)), 2) };
    assert!(watchers.wait(patient, || r(2)).is_none());
    machine.run(&[put(session, 12, "k", "v", None)]);
    machine.run(&[put_all(session, 13, &["a", "b", "z"])]);
    let state = machine.state.reader();
    // The first two events of revision 4 are matched, and then the deadline passes.
    let first = watchers.changed(&state.all_changes(Position::after(r(2)), 3, usize::MAX).unwrap());
    assert_eq!((first.watches.len(), first.next), (0, Some(within(4, "b"))));
    let over = watchers.take_expired(Instant::new(1_000), false);
    assert_eq!(place(&over[0].1), &Position::after(r(3)));
    assert_eq!(dispatch(&mut watchers, &state, 9), [0; 0]);
    let over = watchers.take_expired(Instant::new(2_000), false);
    assert_eq!(place(&over[0].1), &Position::after(r(4)));
}

/// Rule W5: entries in between wake nobody when they are applied again.
#[test]
fn w5_a_replaced_state_that_lags_parks_no_watches() {
    let (mut machine, session) = machine();
    let mut watchers = Watchers::default();
    assert!(watchers.keeps(r(2)));
    assert!(watchers.wait(key("k", Position::after(r(2)), 1), || r(2)).is_none());
    machine.run(&[put_all(session, 12, &["a", "b"])]);
    let first = machine.state.reader().all_changes(Position::after(r(2)), 1, usize::MAX).unwrap();
    assert!(watchers.changed(&first).watches.is_empty());
    assert!(watchers.wait(key("b", Position::after(r(2)), 2), || r(2)).is_some());
    assert_eq!((watchers.keeps(r(2)), watchers.keeps(r(3))), (false, true));
}

/// Rule W4: nor does an answer go back behind the position of the watch.
#[test]
fn a_watch_ahead_of_this_member_keeps_its_position() {
    let (machine, _) = machine();
    let mut watchers = Watchers::default();
    let query = key("k", within(9, "a"), 1).query;
    let looked = machine.state.reader().poll(&query, PositionSource::Client, 9, 999).unwrap();
    assert_eq!(looked, WatchPoll::Nothing(within(9, "a")));
    assert!(watchers.wait(key("k", within(9, "a"), 1), || r(2)).is_none());
    assert_eq!(watchers.dispatched(), r(2));
    let over = watchers.take_expired(Instant::new(1_000), false);
    assert_eq!(place(&over[0].1), &within(9, "a"));
}

#[test]
fn w2_a_position_that_is_no_longer_kept_is_reported_as_compacted() {
    let mut machine = Machine { state: StateMachine::in_memory(limits_without_history()), log: Log::new() };
    let session = machine.open();
    let mut watchers = Watchers::default();
    assert!(watchers.wait(key("k", Position::after(r(0)), 1), || r(0)).is_none());
    machine.run(&[put(session, 1, "k", "v", None)]);
    let state = machine.state.reader();
    let query = key("k", Position::after(r(0)), 2).query;
    let look = state.poll(&query, PositionSource::Client, 9, 999).unwrap();
    assert_eq!(look, WatchPoll::Answer(Answer::Compacted { oldest: r(1) }));
    // Parked watches are woken too, although the matching changes are unknown: they get the same answer.
    assert_eq!(dispatch(&mut watchers, &state, 9), [1]);
}

/// Rule W2: this member vouches for the positions of the watches that are parked here. So a skip of revisions, which
/// makes older history unreadable, costs them nothing, even if the changes before it have not been matched yet.
#[test]
fn w2_a_skip_of_revisions_wakes_only_the_watches_whose_keys_have_changed() {
    let state = StateMachine::open(Disk::new().storage(), limits()).unwrap();
    let mut machine = Machine { state, log: Log::new() };
    let session = machine.open();
    machine.run(&[put(session, 1, "other", "v", None)]);
    let mut watchers = Watchers::default();
    for call in 1..100 {
        let idle = key(&format!("idle/{call}"), Position::after(r(1)), call);
        assert!(watchers.wait(idle, || r(1)).is_none());
    }
    let mut busy = key("busy", Position::after(r(1)), 100);
    for round in 0..3 {
        assert!(watchers.wait(busy, || machine.state.revision()).is_none());
        let to = machine.state.revision().advance(limits().fixed.history_revisions + 10);
        let skip = Operation::Command(Command::SkipRevisions { to });
        let number = 2 + 3 * round;
        machine.run(&[put(session, number, "other", "v", None), put(session, number + 1, "busy", "v", None)]);
        let changed = machine.state.revision();
        machine.run(&[request(session, number + 2, skip)]);
        let state = machine.state.reader();
        let found = state.all_changes(Position::after(watchers.dispatched()), 9, usize::MAX).unwrap();
        let mut woken = watchers.changed(&found).watches;
        assert_eq!(calls(&woken), [100]);
        busy = woken.remove(0);
        let look = state.poll(&busy.query, PositionSource::Member, 9, 999).unwrap();
        let WatchPoll::Answer(Answer::Watched { events, next, .. }) = look else { panic!("{look:?}") };
        assert_eq!(events.iter().map(|event| event.revision).collect::<Vec<_>>(), [changed]);
        assert_eq!(next, Position::after(to));
        // For a client, the history before the skip does not exist any more.
        let look = state.poll(&busy.query, PositionSource::Client, 9, 999).unwrap();
        assert!(matches!(look, WatchPoll::Answer(Answer::Compacted { .. })), "{look:?}");
        busy.query.after = Some(next);
    }
    assert_eq!(watchers.len(), 99);
}

/// Rule W5: a member that hears of no primary refuses its parked watches; and so does one that stops.
#[test]
fn a_member_that_is_cut_off_or_stops_refuses_watches() {
    let mut cut_off = IsolationDetector::default();
    let patience = Duration::from_nanos(100);
    let looks =
        [(0, false), (100, false), (101, false), (102, true), (103, false), (203, false), (204, false)];
    let lost = looks.map(|(at, hears)| cut_off.is_isolated(Instant::new(at), hears, patience));
    assert_eq!(lost, [false, false, true, false, false, false, true]);
    let mut watchers = Watchers::default();
    assert!(watchers.wait(key("k", Position::after(r(2)), 1), || r(2)).is_none());
    assert!(watchers.take_expired(Instant::new(0), false).is_empty());
    let over = watchers.take_expired(Instant::new(0), true);
    assert_eq!(over[0].1, Answer::NotPrimary { hint: None });
    assert!(watchers.wait(key("k", Position::after(r(2)), 2), || r(2)).is_none());
    assert_eq!(calls(&watchers.close()), [2]);
    assert!(watchers.wait(key("k", Position::after(r(2)), 3), || r(2)).is_some() && !watchers.keeps(r(2)));
}

#[test]
fn a_watch_without_a_position_gets_one() {
    let (machine, _) = machine();
    let query = WatchQuery { from: Bytes::new(), to: None, after: NONE, previous: false };
    let look = machine.state.reader().poll(&query, PositionSource::Client, 9, 999).unwrap();
    let WatchPoll::Answer(answer) = look else { panic!("at once") };
    assert_eq!(place(&answer), &Position::after(r(2)));
}

/// Rule W5: a closed connection's watches are removed. Looking for watches whose deadline has passed costs nothing for
/// the others.
#[test]
fn w5_a_closed_connection_cancels_only_its_own_watches() {
    let mut watchers = Watchers::default();
    let after = || Position::after(r(2));
    let of = |connection: usize, call: u64| ParkedWatch { id: (connection, call), ..key("k", after(), call) };
    for waiting in [of(1, 1), of(1, u64::MAX), of(2, 1), of(3, 7)] {
        assert!(watchers.wait(waiting, || r(2)).is_none());
    }
    assert_eq!(calls(&watchers.cancel_all(1)), [1, u64::MAX]);
    assert!(watchers.cancel_all(1).is_empty() && watchers.cancel((1, 1)).is_none());
    assert!(watchers.take_expired(Instant::new(999), false).is_empty());
    let over = watchers.take_expired(Instant::new(1_000), false);
    assert_eq!(over.iter().map(|(waiting, _)| waiting.id).collect::<Vec<_>>(), [(2, 1), (3, 7)]);
    assert!(watchers.is_empty() && watchers.take_expired(Instant::new(9_999), true).is_empty());
}
