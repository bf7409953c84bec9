//! States that are lost or replaced while somebody still works with the one before.

use super::watches::{log, state, work};
use super::*;
use crate::engine::EngineError;
use crate::ids::{Anchor, Hash, Revision, Timestamp};
use crate::message::{Answer, EntryMeta, FormationStep, LogPoint, Query, Recovered};
use crate::node::StopReason;
use crate::node::driver::Driver;
use crate::node::metrics::RequestKind;
use crate::node::reads::Reads;
use crate::node::reply::{Admission, Outbox, Responder};
use crate::replica::{Input, Replica, ReplicaConfig};

fn get() -> Query {
    Query::Get { key: "key".into(), at: None }
}

/// Rule R1: a read was confirmed at an op, or waits for a revision; before a thread comes to it, the state is lost and
/// an older one takes its place. It is sent elsewhere; the next one, for which that state will do, is answered.
#[tokio::test]
async fn r1_a_read_is_not_answered_from_an_older_state_than_it_was_confirmed_for() {
    let bench = Bench::new();
    let outbox = Outbox::new(Admission::new(64 << 20), Arc::default());
    let (shared, now) = (&bench.shared, bench.shared.clock.monotonic());
    let mut reads = Reads::default();
    let reply = |call| Responder::new(outbox.clone(), call, RequestKind::Read, None);
    shared.set_state(state(3).reader());
    let ticket = reads.add(vec![(get(), reply(1))]);
    reads.confirmed(&[ticket], Op::new(3), Op::new(3), shared);
    reads.wait(Revision::new(3), (get(), reply(2)), now, shared);
    shared.take_state();
    shared.set_state(state(2).reader());
    let ticket = reads.add(vec![(get(), reply(3))]);
    reads.confirmed(&[ticket], Op::new(2), Op::new(2), shared);
    work(&bench).await;
    let answers = outbox.take(usize::MAX).await;
    let answers: Vec<_> = answers.iter().map(|(it, _)| (it.call, it.answer.clone())).collect();
    let elsewhere = |call| (call, Answer::NotPrimary { hint: None });
    assert_eq!(answers[..2], [elsewhere(1), elsewhere(2)]);
    let found = Answer::Value { record: None, revision: Revision::new(2) };
    assert_eq!(answers[2..], [(3, found)]);
}

/// Rule T9: a reader finds damage in a state that has been replaced meanwhile. The new state stays.
#[tokio::test]
async fn t9_damage_of_a_replaced_state_has_no_effect() {
    let bench = Bench::new();
    let shared = &bench.shared;
    let lost = || shared.applier_queue.with(|plan| plan.lost.as_ref().map(|(life, _)| *life));
    shared.set_state(state(1).reader());
    let before = shared.state_life();
    shared.take_state();
    let between = shared.state_life();
    shared.set_state(state(3).reader());
    let late = [before, between];
    late.into_iter()
        .for_each(|life| shared.state_failed(life, EngineError::damaged("a block of the tests'")));
    assert_eq!(lost(), None);
    assert!(shared.state().is_some());
    // Other errors of a replaced state do not stop the member either.
    late.into_iter().for_each(|life| shared.state_failed(life, EngineError::Failed));
    assert!(!*shared.closing.borrow(), "it stops");
    shared.state_failed(shared.state_life(), EngineError::damaged("a block of the tests'"));
    assert_eq!(lost(), Some(shared.state_life()));
}

/// Rule D7: a member has ten durable entries of a log that is cut, and rebases its log on a state at op 5. The durable
/// op goes back at once, not when the journal has written the rebase: a checkpoint at op 8 of the new log must wait for
/// that op.
#[tokio::test]
async fn d7_the_durable_op_goes_back_when_the_log_is_rebased() {
    let bench = Bench::new();
    let shared = &bench.shared;
    let cluster = shared.members.now().cluster.clone();
    let entries = log(10).iter().map(|entry| EntryMeta::of(&entry.header)).collect();
    let recovered = Recovered { formation: FormationStep::Formed, entries, ..Recovered::empty() };
    shared.set_durable_op(Op::new(10));
    let replica =
        Replica::new(ReplicaConfig::new(cluster, ME, Options::default(), 1), recovered, shared.clock.now());
    let mut driver = Driver::new(shared.clone(), replica, Op::ZERO);
    let anchor = Anchor { op: Op::new(5), hash: Hash::of(b"another log") };
    let point = LogPoint { anchor, next_revision: Revision::new(6), timestamp: Timestamp::new(5) };
    driver.step(Input::SnapshotInstalled { point, configuration: None });
    assert_eq!(shared.durable_op(), Op::new(5));
}

/// While a node ends, its files are closed to its parts. A part that meets this has not failed: nothing is logged, and
/// nobody is asked to take over.
#[tokio::test]
async fn a_part_that_meets_closed_files_has_not_failed() {
    for ended in [false, true] {
        let bench = Bench::new();
        bench.shared.fence.store(ended, Ordering::SeqCst);
        bench.shared.part_failed("the journal failed", &"the node has stopped", StopReason::Dropped);
        assert_eq!(bench.shared.retiring.borrow().is_some(), !ended);
    }
}
