//! Exactly once, as the whole state machine keeps it (DESIGN 4.10).

use super::*;
use crate::message::LeaseCommand;
use std::collections::BTreeSet;

/// Rule E2.
#[test]
fn a_retry_changes_nothing_and_gets_the_first_result_bit_for_bit() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    let first = machine.result(put(session, 1, "k", "a", None)).unwrap();
    machine.wait(5);
    machine.effect(put(session, 2, "k", "b", None));
    let before = contents(&machine.state.reader());
    for _ in 0..3 {
        machine.wait(5);
        let copy = machine.run(&[put(session, 1, "k", "a", None)]).pop().unwrap();
        assert_eq!(copy.result, Ok(first.clone()));
        assert!(copy.revision > first.revision, "the copy has a revision of its own");
    }
    assert_eq!(contents(&machine.state.reader()), before);
}

/// Rule E3: a delayed duplicate of a request whose outcome was discarded.
#[test]
fn e3_a_request_whose_outcome_is_forgotten_does_not_run_again() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    let old = put(session, 1, "k", "a", None);
    machine.effect(old.clone());
    let command =
        Command::Put { key: "k".into(), value: "b".into(), condition: None, life: Default::default() };
    let (number, acked_through) = (RequestNumber::new(2), RequestNumber::new(1));
    let newer = Request { session, number, acked_through, operation: Operation::Command(command) };
    machine.effect(newer);
    let before = contents(&machine.state.reader());
    assert_eq!(machine.result(old), Err(Rejection::Forgotten));
    assert_eq!(contents(&machine.state.reader()), before);
}

/// Rule E2: after a failover the client retries a request that is already in the inherited tail, so the duplicate may
/// be in the same entry.
#[test]
fn duplicates_in_one_entry_run_once() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    let twin = put(session, 1, "k", "a", Some(Condition::Absent));
    let applied = machine.run(&[twin.clone(), twin.clone()]);
    assert_eq!(applied[0].result, applied[1].result);
    assert_eq!(applied[0].result.as_ref().unwrap().effect, Effect::Put);
    let later = machine.run(&[twin]);
    assert_eq!(later[0].result, applied[0].result);
}

#[test]
fn a_failed_condition_is_a_result_too() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    let guarded = put(session, 1, "k", "a", Some(Condition::Present));
    let failed = machine.effect(guarded.clone());
    assert_eq!(failed, Effect::ConditionFailed { found: None });
    machine.effect(put(session, 2, "k", "b", None));
    assert_eq!(machine.effect(guarded), failed, "though the condition would hold now");
}

/// Rule E1.
#[test]
fn two_sessions_opened_in_one_entry_are_two() {
    let mut machine = Machine::in_memory();
    let applied = machine.run(&[open(7), open(8), open(7)]);
    let nonces: Vec<_> = applied.iter().map(|applied| applied.nonce).collect();
    assert_eq!(nonces, [Some(7), Some(8), Some(7)]);
    let effects: Vec<_> =
        applied.iter().map(|applied| applied.result.as_ref().unwrap().effect.clone()).collect();
    assert_eq!(effects, [1, 2, 3].map(|id| Effect::SessionOpened(SessionId::new(id))));
    assert_eq!(machine.state.sessions.len(), 3);
    assert_eq!(machine.effect(put(SessionId::new(2), 1, "k", "v", None)), Effect::Put);
}

#[test]
fn a_session_can_be_opened_and_used_in_one_entry() {
    let mut machine = Machine::in_memory();
    let applied = machine.run(&[open(1), put(SessionId::new(1), 1, "k", "v", None)]);
    assert_eq!(applied[1].result.as_ref().unwrap().effect, Effect::Put);
}

/// The outcome of a request that takes no revision carries the last one; it is named by its number in the log, which
/// never comes twice, and restarts keep it.
#[test]
fn n8_sessions_and_leases_take_no_revision_and_have_unique_ids() {
    let disk = Disk::new();
    let mut machine =
        Machine { state: StateMachine::open(disk.storage(), limits()).unwrap(), log: Log::new() };
    let session = machine.open();
    machine.effect(put(session, 1, "k", "a", None));
    assert_eq!(machine.state.revision(), Revision::new(1));
    let lease = |machine: &mut Machine, number, command| {
        machine.result(request(session, number, Operation::Command(Command::Lease(command)))).unwrap()
    };
    let mut names = BTreeSet::new();
    for round in 0..3 {
        let granted = lease(&mut machine, 10 * round + 2, LeaseCommand::Grant { ttl_ms: 100_000 });
        assert_eq!(granted.revision, Revision::new(1 + round));
        let Effect::LeaseGranted(id) = granted.effect else { panic!("{granted:?}") };
        let kept = lease(&mut machine, 10 * round + 3, LeaseCommand::KeepAlive { lease: id });
        assert_eq!((kept.revision, kept.effect), (granted.revision, Effect::LeaseKept));
        let other = machine.open();
        assert_eq!(machine.effect(Request::expiry(Vec::new())), Effect::Expired { keys: 0, leases: 0 });
        machine.effect(request(other, 1, Operation::CloseSession));
        assert!(names.insert(id.get()) && names.insert(other.get()), "{names:?}");
        assert_eq!(machine.state.revision(), granted.revision, "round {round}");
        let point = machine.state.point();
        let checkpoint = machine.state.begin_checkpoint().unwrap();
        machine.state.finish_checkpoint(checkpoint.run().unwrap());
        let digest = machine.digest();
        machine.state = StateMachine::open(disk.storage(), limits()).unwrap();
        assert_eq!((machine.state.point(), machine.digest()), (point, digest));
        lease(&mut machine, 10 * round + 4, LeaseCommand::Revoke { lease: id });
        assert_eq!(machine.state.revision(), granted.revision.next(), "a lease's end takes one");
    }
    // An entry in which nothing takes one changes what sessions know, and so the digest.
    let before = machine.digest();
    machine.open();
    assert_ne!(machine.digest(), before);
}

/// A client whose session was evicted must never have an old request run in a session that was opened later.
/// Rule E5.
#[test]
fn a_request_of_an_evicted_session_never_runs_again() {
    let mut machine = Machine::in_memory();
    let evicted = machine.open();
    let old = put(evicted, 1, "k", "old", None);
    machine.effect(old.clone());
    for _ in 0..limits().fixed.max_sessions {
        machine.wait(1);
        machine.open();
    }
    assert_eq!(machine.result(old.clone()), Err(Rejection::SessionExpired));
    let again = machine.open();
    machine.effect(put(again, 1, "k", "new", None));
    assert_eq!(machine.result(old), Err(Rejection::SessionExpired));
    assert_eq!(machine.state.reader().get(b"k").unwrap().0.unwrap().value, "new");
}

/// Rule E4.
#[test]
fn sessions_expire_by_the_stamps_in_the_log_alone() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    machine.wait(9_999);
    assert_eq!(machine.effect(put(session, 1, "k", "a", None)), Effect::Put);
    machine.wait(10_000);
    assert_eq!(machine.result(put(session, 2, "k", "b", None)), Err(Rejection::SessionExpired));
    assert_eq!(contents(&machine.state.reader()).len(), 1, "data outlives its session");
}

/// Rule E4: whether a session is alive must not depend on the position of its request in the entry.
#[test]
fn expiry_comes_before_the_requests_of_the_entry() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    machine.wait(10_000);
    let applied = machine.run(&[put(session, 1, "k", "a", None), open(2), put(session, 1, "k", "a", None)]);
    assert_eq!(applied[0].result, Err(Rejection::SessionExpired));
    assert_eq!(applied[2].result, Err(Rejection::SessionExpired));
    assert_eq!(machine.state.sessions.len(), 1);
}

#[test]
fn a_stamp_never_goes_back() {
    let mut machine = Machine::in_memory();
    machine.wait(5_000);
    let session = machine.open();
    machine.log.timestamp -= 3_000;
    machine.effect(put(session, 1, "k", "a", None));
    assert_eq!(machine.state.timestamp, Timestamp::new(6_000));
}

#[test]
fn a_closed_session_runs_nothing() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    machine.effect(put(session, 1, "k", "a", None));
    assert_eq!(machine.effect(request(session, 2, Operation::CloseSession)), Effect::SessionClosed);
    assert_eq!(machine.result(request(session, 2, Operation::CloseSession)), Err(Rejection::SessionExpired));
    assert_eq!(machine.result(put(session, 1, "k", "a", None)), Err(Rejection::SessionExpired));
    assert!(machine.state.sessions.is_empty());
}

#[test]
fn a_refused_request_is_refused_in_every_later_copy() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    let mut beyond = put(session, 9, "k", "a", None);
    beyond.acked_through = RequestNumber::ZERO;
    assert_eq!(machine.result(beyond.clone()), Err(Rejection::WindowExceeded));
    let mut moves_on = put(session, 8, "other", "a", None);
    moves_on.acked_through = RequestNumber::new(7);
    assert_eq!(machine.effect(moves_on), Effect::Put);
    assert_eq!(machine.result(beyond), Err(Rejection::WindowExceeded));
    assert_eq!(machine.state.reader().get(b"k").unwrap().0, None);
}

#[test]
fn a_request_that_broke_a_limit_keeps_that_answer() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    assert_eq!(machine.result(put(session, 1, "", "a", None)), Err(Rejection::Invalid));
    assert_eq!(machine.result(put(session, 1, "k", "a", None)), Err(Rejection::Invalid));
}

#[test]
fn readers_find_stored_results() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    let number = RequestNumber::new;
    let result = machine.result(put(session, 1, "k", "a", None));
    machine.result(put(session, 2, "", "a", None)).unwrap_err();
    let reader = machine.state.reader();
    assert_eq!(reader.stored(session, number(1)), Some(result));
    assert_eq!(reader.stored(session, number(2)), None);
    assert_eq!(reader.stored(session, number(3)), None);
}
