use super::*;
use crate::ids::{Revision, SessionId};
use crate::message::{Effect, StepResult};
use std::time::Duration;

const LIMITS: SessionLimits = SessionLimits {
    max: 3,
    ttl: Duration::from_millis(100),
    window: 4,
    session_bytes: 3_600,
    all_bytes: 5_600,
};

fn session(id: u64) -> SessionId {
    SessionId::new(id)
}

fn number(number: u64) -> RequestNumber {
    RequestNumber::new(number)
}

fn at(ms: u64) -> Timestamp {
    Timestamp::new(ms)
}

fn outcome(revision: u64) -> RequestResult {
    Ok(Outcome { revision: Revision::new(revision), timestamp: at(revision), effect: Effect::Put })
}

/// The outcome of a transaction that weighs about so many kilobytes.
fn large(revision: u64, kilobytes: usize) -> RequestResult {
    let results = vec![StepResult::Put; kilobytes * 1000 / 16];
    let effect = Effect::Transacted { succeeded: true, results };
    outcome(revision).map(|outcome| Outcome { effect, ..outcome })
}

fn opened(ids: &[u64]) -> Sessions {
    let mut sessions = Sessions::new(LIMITS, true);
    for id in ids {
        sessions.open(session(*id), at(*id));
    }
    sessions
}

fn ids(sessions: &Sessions) -> Vec<u64> {
    sessions.iter().map(|(id, _)| id.get()).collect()
}

fn ask(sessions: &mut Sessions, n: u64, acked: u64) -> DuplicateCheck {
    let decision = sessions.decide(session(1), number(n), number(acked), at(1));
    sessions.check_invariants();
    decision
}

fn refused(rejection: Rejection) -> DuplicateCheck {
    DuplicateCheck::Answered(Err(rejection))
}

/// DESIGN 4.10: a request already applied returns its stored result, bit for bit.
#[test]
fn a_number_runs_once_and_every_copy_gets_the_same_answer() {
    let mut sessions = opened(&[1]);
    assert_eq!(ask(&mut sessions, 1, 0), DuplicateCheck::Run);
    sessions.record(session(1), number(1), outcome(7));
    for _ in 0..3 {
        assert_eq!(ask(&mut sessions, 1, 0), DuplicateCheck::Answered(outcome(7)));
    }
}

#[test]
fn numbers_run_in_any_order_within_the_window() {
    let mut sessions = opened(&[1]);
    for n in [4, 2, 3, 1] {
        assert_eq!(ask(&mut sessions, n, 0), DuplicateCheck::Run);
        sessions.record(session(1), number(n), outcome(n));
    }
    assert_eq!(ask(&mut sessions, 2, 0), DuplicateCheck::Answered(outcome(2)));
}

/// Rule E3.
#[test]
fn an_acknowledged_number_never_runs_again_and_its_result_is_dropped() {
    let mut sessions = opened(&[1]);
    assert_eq!(ask(&mut sessions, 1, 0), DuplicateCheck::Run);
    sessions.record(session(1), number(1), outcome(1));
    assert_eq!(ask(&mut sessions, 3, 2), DuplicateCheck::Run);
    assert_eq!(sessions.stored(session(1), number(1)), None);
    assert_eq!(ask(&mut sessions, 1, 0), refused(Rejection::Forgotten));
    assert_eq!(ask(&mut sessions, 2, 0), refused(Rejection::Forgotten), "2 was given up unrun: never run it");
}

#[test]
fn an_acknowledgement_counts_before_the_window_is_looked_at() {
    let mut sessions = opened(&[1]);
    assert_eq!(ask(&mut sessions, 5, 1), DuplicateCheck::Run);
}

/// "Not run" is final: the twin of a refused request must not run when the window has moved on.
#[test]
fn a_number_refused_by_the_window_is_refused_for_ever() {
    let mut sessions = opened(&[1]);
    assert_eq!(ask(&mut sessions, 5, 0), refused(Rejection::WindowExceeded));
    assert_eq!(ask(&mut sessions, 4, 3), DuplicateCheck::Run, "numbers below it go on");
    assert_eq!(ask(&mut sessions, 5, 3), refused(Rejection::WindowExceeded));
    assert_eq!(ask(&mut sessions, 6, 4), refused(Rejection::WindowExceeded));
}

#[test]
fn the_lowest_number_beyond_the_window_is_the_one_that_counts() {
    let mut sessions = opened(&[1]);
    assert_eq!(ask(&mut sessions, 9, 0), refused(Rejection::WindowExceeded));
    assert_eq!(ask(&mut sessions, 6, 0), refused(Rejection::WindowExceeded));
    assert_eq!(ask(&mut sessions, 7, 5), refused(Rejection::WindowExceeded));
    assert_eq!(ask(&mut sessions, 6, 5), refused(Rejection::WindowExceeded));
}

#[test]
fn numbers_at_the_end_of_the_range_do_no_harm() {
    let mut sessions = opened(&[1]);
    assert_eq!(ask(&mut sessions, u64::MAX, 0), refused(Rejection::WindowExceeded));
    assert_eq!(ask(&mut sessions, u64::MAX, u64::MAX), refused(Rejection::Forgotten));
}

/// Rule E5.
#[test]
fn an_unknown_session_is_expired() {
    let mut sessions = opened(&[]);
    assert_eq!(ask(&mut sessions, 1, 0), refused(Rejection::SessionExpired));
}

#[test]
fn a_closed_session_is_gone() {
    let mut sessions = opened(&[1, 2]);
    sessions.close(session(1));
    sessions.close(session(1));
    assert_eq!(ask(&mut sessions, 1, 0), refused(Rejection::SessionExpired));
    assert_eq!(ids(&sessions), [2]);
}

#[test]
fn a_session_expires_when_it_was_silent_for_the_ttl_and_not_before() {
    let mut sessions = opened(&[1, 2]);
    sessions.expire(at(100));
    assert_eq!(ids(&sessions), [1, 2]);
    sessions.expire(at(101));
    assert_eq!(ids(&sessions), [2]);
    sessions.check_invariants();
}

#[test]
fn every_request_keeps_its_session_alive() {
    for (n, acked) in [(1, 0), (1, 1), (99, 0)] {
        let mut sessions = opened(&[1, 2]);
        sessions.decide(session(1), number(n), number(acked), at(90));
        sessions.expire(at(150));
        assert_eq!(ids(&sessions), [1]);
    }
}

#[test]
fn a_full_table_evicts_the_session_that_was_silent_longest() {
    let mut sessions = opened(&[1, 2, 3]);
    sessions.decide(session(1), number(1), number(0), at(50));
    sessions.open(session(60), at(60));
    assert_eq!(ids(&sessions), [1, 3, 60]);
    sessions.check_invariants();
}

/// Rule E4.
#[test]
fn the_oldest_of_equally_silent_sessions_is_evicted() {
    let mut sessions = opened(&[]);
    for id in [5, 6, 7, 8] {
        sessions.open(session(id), at(1));
    }
    assert_eq!(ids(&sessions), [6, 7, 8]);
}

#[test]
fn changes_are_taken_once_and_include_removed_sessions() {
    let mut sessions = opened(&[1, 2, 3]);
    assert_eq!(sessions.take_changes().len(), 3);
    assert_eq!(sessions.take_changes(), []);
    sessions.decide(session(2), number(1), number(0), at(9));
    sessions.record(session(2), number(1), outcome(1));
    sessions.close(session(3));
    let changes = sessions.take_changes();
    let (kept, gone) = (&changes[0], &changes[1]);
    assert_eq!(kept.1.as_deref(), Some(sessions.iter().nth(1).unwrap().1));
    assert_eq!((kept.0, gone.0, gone.1.is_none()), (session(2), session(3), true));
}

#[test]
fn taken_changes_do_not_change_any_more() {
    let mut sessions = opened(&[1]);
    let before = sessions.take_changes();
    sessions.decide(session(1), number(1), number(0), at(9));
    assert_ne!(before, sessions.take_changes());
}

#[test]
fn a_session_survives_encoding() {
    let mut sessions = opened(&[1]);
    ask(&mut sessions, 2, 1);
    sessions.record(session(1), number(2), Err(Rejection::Invalid));
    let (_, session) = sessions.iter().next().unwrap();
    let bytes = postcard::to_stdvec(session).unwrap();
    assert_eq!(&postcard::from_bytes::<Session>(&bytes).unwrap(), session);
}

/// Rule E7: a request with a dropped result does not run again, and all other results are kept.
#[test]
fn the_oldest_large_results_of_one_session_are_dropped() {
    let mut sessions = opened(&[1]);
    for (n, answer) in [(2, large(10, 1)), (1, large(11, 1)), (3, outcome(12)), (4, large(13, 2))] {
        assert_eq!(ask(&mut sessions, n, 0), DuplicateCheck::Run);
        sessions.record(session(1), number(n), answer);
        sessions.check_invariants();
    }
    assert_eq!(ask(&mut sessions, 2, 0), refused(Rejection::ResultDropped));
    assert_eq!(ask(&mut sessions, 1, 0), DuplicateCheck::Answered(large(11, 1)));
    assert_eq!(ask(&mut sessions, 3, 0), DuplicateCheck::Answered(outcome(12)));
    assert_eq!(ask(&mut sessions, 4, 0), DuplicateCheck::Answered(large(13, 2)));
}

/// Rule E7.
#[test]
fn the_oldest_large_results_of_all_sessions_are_dropped() {
    let mut sessions = opened(&[1, 2, 3]);
    for (id, revision) in [(3, 10), (1, 11), (2, 12)] {
        sessions.decide(session(id), number(1), number(0), at(9));
        sessions.record(session(id), number(1), large(revision, 2));
        sessions.check_invariants();
    }
    let stored = |sessions: &Sessions, id| sessions.stored(session(id), number(1)).cloned();
    assert_eq!(stored(&sessions, 3), Some(Err(Rejection::ResultDropped)));
    assert_eq!((stored(&sessions, 1), stored(&sessions, 2)), (Some(large(11, 2)), Some(large(12, 2))));
    // What was acknowledged, or is of a closed session, takes no room.
    sessions.decide(session(1), number(2), number(1), at(9));
    sessions.check_invariants();
    sessions.decide(session(3), number(2), number(0), at(9));
    sessions.record(session(3), number(2), large(13, 2));
    sessions.close(session(2));
    sessions.check_invariants();
    assert_eq!(sessions.stored(session(3), number(2)), Some(&large(13, 2)));
}

/// Rule E7: clients that acknowledge nothing cannot fill the memory, and results of the client with the most are
/// dropped first.
#[test]
fn e7_small_results_count_and_the_largest_share_is_dropped_first() {
    let limits = SessionLimits { max: 100, window: 256, all_bytes: 40 * RESULT_BYTES, ..LIMITS };
    let mut sessions = Sessions::new(limits, true);
    for id in 1..=10 {
        sessions.open(session(id), at(1));
    }
    let mut revision = 100;
    let mut run = |sessions: &mut Sessions, id, n| {
        revision += 1;
        assert_eq!(sessions.decide(session(id), number(n), number(0), at(1)), DuplicateCheck::Run);
        let answer = if n % 5 == 0 { Err(Rejection::Invalid) } else { outcome(revision) };
        sessions.record(session(id), number(n), answer);
        sessions.check_invariants();
    };
    for id in 1..=9 {
        run(&mut sessions, id, 1);
    }
    for n in 1..=256 {
        run(&mut sessions, 10, n);
    }
    for id in 1..=9 {
        let kept = sessions.decide(session(id), number(1), number(0), at(1));
        assert!(
            matches!(kept, DuplicateCheck::Answered(Ok(_))),
            "a modest client keeps its result: {kept:?}"
        );
    }
    let dropped = (1..=256).filter(|n| {
        sessions.decide(session(10), number(*n), number(0), at(1)) == refused(Rejection::ResultDropped)
    });
    assert!(dropped.count() > 200, "and none of them runs again");
    // All are as greedy as that.
    for id in 1..=9 {
        for n in 2..=256 {
            run(&mut sessions, id, n);
        }
    }
    let bytes =
        sessions.iter().map(|(_, session)| postcard::to_stdvec(session).unwrap().len()).sum::<usize>();
    assert!(bytes < 40 * RESULT_BYTES, "{bytes} bytes are written for 2,560 requests");
    // A client that acknowledges continues.
    assert_eq!(sessions.decide(session(10), number(257), number(256), at(1)), DuplicateCheck::Run);
    sessions.check_invariants();
}

#[test]
fn a_result_uses_no_more_memory_than_it_is_counted_for() {
    // B-trees are half full at worst, and a result is in two of them.
    let bytes = size_of::<RequestNumber>() + size_of::<RequestResult>();
    let listed = size_of::<(Revision, SessionId, RequestNumber)>() + size_of::<usize>();
    assert!(3 * (bytes + listed) / 2 <= RESULT_BYTES, "{bytes} and {listed}");
}

/// Rule E7: after a restart, the same results are dropped as before.
#[test]
fn restored_sessions_drop_the_same_results() {
    let mut sessions = opened(&[1, 2, 3]);
    for (id, revision) in [(3, 10), (1, 11)] {
        sessions.decide(session(id), number(1), number(0), at(9));
        sessions.record(session(id), number(1), large(revision, 2));
    }
    let mut restored = Sessions::new(LIMITS, true);
    for (id, session) in sessions.iter() {
        restored.restore(id, session.clone());
    }
    for sessions in [&mut sessions, &mut restored] {
        sessions.take_changes();
        sessions.decide(session(2), number(1), number(0), at(9));
        sessions.record(session(2), number(1), large(12, 2));
        sessions.check_invariants();
        let changed: Vec<u64> = sessions.take_changes().iter().map(|(id, _)| id.get()).collect();
        assert_eq!(changed, [2, 3], "the next checkpoint writes what was dropped");
    }
    assert!(sessions.iter().eq(restored.iter()));
}
