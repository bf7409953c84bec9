//! Reads by a client in the process of the member, while the state of the member is replaced, or after the member has
//! begun to stop.

use super::watches::{log_of, state_after};
use super::*;
use crate::client::LocalMember;
use crate::ids::{RequestNumber, Revision, SessionId};
use crate::message::{Answer, Command, Operation, Query, ReadMode, Request};
use crate::node::StopReason;
use crate::node::in_process::InProcess;
use std::sync::Weak;

/// Sets the state after so many puts of the key, each of its own number.
pub(super) fn set_state(bench: &Bench, puts: u8) {
    let request = |number, operation| Request {
        session: SessionId::new(u64::from(number > 0)),
        number: RequestNumber::new(number),
        acked_through: RequestNumber::ZERO,
        operation,
    };
    let put = |number: u8| {
        let (value, life) = (vec![number].into(), Default::default());
        let command = Command::Put { key: "key".into(), value, condition: None, life };
        request(number.into(), Operation::Command(command))
    };
    let open = request(0, Operation::OpenSession { nonce: 1 });
    let entries = log_of(std::iter::once(open).chain((1..=puts).map(put)));
    bench.shared.set_state(state_after(entries).reader());
}

/// The value and the revision of the key, if this member answers such a read at once.
fn read(bench: &Bench, mode: ReadMode) -> Option<(u8, Revision)> {
    let member = InProcess {
        acceptor: Weak::new(),
        shared: Arc::downgrade(&bench.shared),
        id: ME,
        identity: bench.shared.transport.identity(),
    };
    match member.read(mode, &Query::Get { key: "key".into(), at: None })? {
        Answer::Value { record: Some(record), revision } => Some((record.value[0], revision)),
        other => panic!("the key is there: {other:?}"),
    }
}

#[tokio::test]
async fn reads_see_the_state_that_the_member_has_now() {
    let bench = Bench::new();
    let at_least = |revision| ReadMode::AtLeast(Revision::new(revision));
    assert_eq!(read(&bench, ReadMode::Local), None, "there is none yet");
    set_state(&bench, 3);
    for mode in [ReadMode::Local, at_least(3)] {
        assert_eq!(read(&bench, mode), Some((3, Revision::new(3))));
    }
    for mode in [at_least(4), ReadMode::Linearizable, ReadMode::MaxStaleness(Duration::from_secs(60))] {
        assert_eq!(read(&bench, mode), None, "{mode:?}");
    }
    bench.shared.take_state();
    assert_eq!(read(&bench, ReadMode::Local), None, "it is lost");
    // An older one is installed.
    set_state(&bench, 2);
    assert_eq!(read(&bench, ReadMode::Local), Some((2, Revision::new(2))));
    assert_eq!(read(&bench, at_least(3)), None);
}

/// A member that stops because its state is wrong does not answer from this state, however long its disk keeps it from
/// releasing the state.
#[tokio::test]
async fn a_member_that_stops_answers_nothing_from_memory() {
    let bench = Bench::new();
    set_state(&bench, 1);
    assert!(read(&bench, ReadMode::Local).is_some());
    bench.shared.stop(StopReason::Dropped);
    assert!(bench.shared.state().is_some(), "no thread has released it");
    assert_eq!(read(&bench, ReadMode::Local), None);

    let bench = Bench::new();
    set_state(&bench, 1);
    bench.shared.closing.send_replace(true);
    assert_eq!(read(&bench, ReadMode::Local), None, "it shuts down");
}
