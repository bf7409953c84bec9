//! Watch requests: the members that they are sent to, and what ends them. Rules W1 and W5 of PROTOCOL.md.

use super::*;
use crate::message::{Event, EventKind, Position, WatchQuery};

fn query(after: u64) -> WatchQuery {
    let after = Some(Position::after(Revision::new(after)));
    WatchQuery { from: "a".into(), to: None, after, previous: false }
}

fn watch(after: u64) -> Call {
    Call::Watch { query: query(after), prefer: Some(B) }
}

fn asks(after: u64) -> ClientCall {
    ClientCall::Watch(query(after))
}

fn unwatch(call: u64) -> ClientCall {
    ClientCall::Unwatch { call }
}

fn next(revision: u64) -> Position {
    Position::after(Revision::new(revision))
}

fn delivered(member: MemberId, revision: u64, events: Vec<Event>) -> ProtocolOutput {
    let result = Ok(Reply::Watched { member, events, next: next(revision) });
    ProtocolOutput::Done { id: id(1), result }
}

fn answered(revision: u64, events: Vec<Event>) -> Answer {
    Answer::Watched { events, next: next(revision), more: false }
}

fn event(revision: u64) -> Event {
    let revision = Revision::new(revision);
    Event { revision, key: "a".into(), kind: EventKind::Deleted, record: None, previous: None }
}

#[test]
fn a_watch_asks_its_preferred_member_and_returns_the_position() {
    let mut bench = Bench::new();
    assert_eq!(bench.call(id(1), watch(5), 3_600_000), [send(B, 1, asks(5))], "it needs no session");
    assert_eq!(bench.answer(B, 1, answered(9, vec![event(7)])), [delivered(B, 9, vec![event(7)])]);
    assert_eq!(bench.protocol.primary(), None, "who answers is not for that the primary");
}

#[test]
fn w5_a_refused_watch_asks_all_members_and_then_pauses() {
    let mut bench = Bench::new();
    bench.call(id(1), watch(5), 3_600_000);
    assert_eq!(bench.answer(B, 1, no_hint()), [send(C, 2, asks(5))]);
    assert_eq!(bench.answer(C, 2, Answer::Overloaded), [], "after a pause");
    assert_eq!(bench.next_timer(), [send(A, 3, asks(5))]);
    assert_eq!(bench.answer(A, 3, hint(B)), [], "it has gone round: after a pause");
    assert_eq!(bench.next_timer(), [send(B, 4, asks(5))]);
    assert!(bench.now <= at(100));
    assert_eq!(bench.answer(B, 4, answered(5, Vec::new())), [delivered(B, 5, Vec::new())]);
}

#[test]
fn w5_a_watch_is_asked_elsewhere_after_a_long_silence_and_the_first_answer_counts() {
    let mut bench = Bench::new();
    bench.call(id(1), watch(5), 3_600_000);
    assert_eq!(bench.run_until(39_999), [], "members may leave it unanswered");
    assert_eq!(bench.run_until(40_000), [send(C, 2, asks(5))]);
    let outputs = bench.answer(B, 1, answered(6, vec![event(6)]));
    assert_eq!(outputs, [send(C, 3, unwatch(2)), delivered(B, 6, vec![event(6)])], "the other need not wait");
    assert_eq!(bench.answer(C, 2, answered(6, vec![event(6)])), [], "its answer is nobody's");
    assert_eq!(bench.protocol.pending(), 0);
}

#[test]
fn a_watch_leaves_a_broken_connection_at_once() {
    let mut bench = Bench::new();
    bench.call(id(1), watch(5), 3_600_000);
    let lost = bench.input(ProtocolInput::ConnectionLost { member: B });
    assert_eq!(lost, [send(C, 2, asks(5))]);
    assert_eq!(bench.input(ProtocolInput::Unreachable { member: C }), [send(A, 3, asks(5))]);
    assert_eq!(bench.answer(B, 1, answered(6, Vec::new())), [], "it came over a connection that is gone");
    assert_eq!(bench.answer(A, 3, answered(6, Vec::new())), [delivered(A, 6, Vec::new())]);
}

/// Rule W2: a compacted position ends the watch, and so does a refusal.
#[test]
fn a_watch_ends_when_it_is_compacted_or_refused() {
    let mut bench = Bench::new();
    bench.call(id(1), watch(5), 3_600_000);
    let oldest = Revision::new(8);
    let compacted = ProtocolOutput::Done { id: id(1), result: Ok(Reply::Compacted { oldest }) };
    assert_eq!(bench.answer(B, 1, Answer::Compacted { oldest }), [compacted]);
    bench.call(id(2), watch(5), 3_600_000);
    let refused = not_applied(id(2), Cause::Refused("no".into()));
    assert_eq!(bench.answer(B, 2, Answer::Refused("no".into())), [refused]);
}

#[test]
fn answers_of_another_kind_do_not_end_a_watch() {
    let mut bench = Bench::new();
    bench.call(id(1), watch(5), 3_600_000);
    for (answer, number) in [Answer::Done, written(7), Answer::Abandoned].into_iter().zip(1..) {
        let mut outputs = bench.answer([B, C, A][number - 1], number as u64, answer);
        if outputs.is_empty() {
            outputs = bench.next_timer();
        }
        let member = [C, A, B][number - 1];
        assert_eq!(outputs, [send(member, number as u64 + 1, asks(5))]);
    }
}

#[test]
fn a_dropped_watch_is_cancelled_at_every_asked_member() {
    let mut bench = Bench::new();
    bench.call(id(1), watch(5), 3_600_000);
    bench.run_until(40_000);
    let outputs = bench.input(ProtocolInput::Cancel { id: id(1) });
    assert_eq!(outputs, [send(B, 3, unwatch(1)), send(C, 4, unwatch(2))]);
    assert_eq!(bench.protocol.poll_timeout(), None);
}

/// Otherwise, slow members would keep abandoned watches parked, and a member whose clock has stopped would keep them
/// for ever.
#[test]
fn a_watch_that_ends_is_cancelled_at_every_other_asked_member() {
    let mut bench = Bench::new();
    bench.call(id(1), watch(5), 60_000);
    bench.run_until(40_000);
    let outputs = bench.run_until(60_000);
    let late = not_applied(id(1), Cause::Deadline(FailureReason::Silent));
    assert_eq!(outputs, [send(B, 3, unwatch(1)), send(C, 4, unwatch(2)), late]);
}
