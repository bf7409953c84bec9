//! Keys and leases that end (rules X1 to X5 of PROTOCOL.md).

use super::*;
use crate::ids::LeaseId;
use crate::message::{
    Expiry, LeaseCommand, LeaseFailure, LeaseInfo, StepFailure, TransactionRequest, TransactionStep,
};

fn put_for(session: SessionId, number: u64, key: &str, life: Lifetime) -> Request {
    let key = Bytes::copy_from_slice(key.as_bytes());
    let put = Command::Put { key, value: "value".into(), condition: None, life };
    request(session, number, Operation::Command(put))
}

fn ttl(ms: u64) -> Lifetime {
    Lifetime::ttl(Duration::from_millis(ms))
}

fn lease(session: SessionId, number: u64, command: LeaseCommand) -> Request {
    request(session, number, Operation::Command(Command::Lease(command)))
}

impl Machine {
    fn grant(&mut self, session: SessionId, number: u64, ttl_ms: u64) -> LeaseId {
        match self.effect(lease(session, number, LeaseCommand::Grant { ttl_ms })) {
            Effect::LeaseGranted(lease) => lease,
            other => panic!("{other:?}"),
        }
    }

    /// What the primary proposes at the present time.
    fn due(&self) -> Vec<Expiry> {
        let now = Timestamp::new(self.log.timestamp);
        self.state.due(ExpiryQuery { keys: now, leases: Some(now), tick: false })
    }

    /// The expiry of this comes to be applied at the present time.
    fn expire(&mut self, due: Vec<Expiry>) -> (u32, u32) {
        match self.effect(Request::expiry(due)) {
            Effect::Expired { keys, leases } => (keys, leases),
            other => panic!("{other:?}"),
        }
    }

    /// Whether a transaction of the holder of `lock` since this revision is applied. If not, it changes nothing.
    fn fenced(&mut self, session: SessionId, number: u64, token: Revision) -> bool {
        let put = |key: &str| TransactionStep::Put {
            key: key.to_owned().into(),
            value: "mine".into(),
            life: Lifetime::FOREVER,
        };
        // Without the other condition, only the lock decides.
        let conditions = vec![("other".into(), Condition::Absent), ("lock".into(), Condition::Held(token))];
        let transaction =
            TransactionRequest { conditions, then: vec![put("data")], otherwise: vec![put("otherwise")] };
        match self.effect(request(session, number, Operation::Command(Command::Transaction(transaction)))) {
            Effect::Transacted { succeeded: true, .. } => true,
            Effect::ConditionFailed { .. } => {
                assert!(!self.has("otherwise"), "a former holder changes nothing");
                false
            }
            other => panic!("{other:?}"),
        }
    }

    fn has(&self, key: &str) -> bool {
        self.state.reader().get(key.as_bytes()).unwrap().0.is_some()
    }
}

/// Rules X1 and X2.
#[test]
fn x1_a_key_ends_when_it_is_due_by_the_stamps_and_not_a_millisecond_earlier() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    machine.run(&[put_for(session, 1, "k", ttl(100))]);
    assert_eq!(machine.state.deadlines().key, Some(Timestamp::new(1_102)));
    machine.wait(101);
    assert_eq!(machine.due(), []);
    let early = vec![Expiry::Key { key: "k".into(), modified: Revision::new(2) }];
    assert_eq!(machine.expire(early), (0, 0), "whoever proposes it");
    machine.wait(1);
    let due = machine.due();
    assert!(machine.has("k"), "until the removal is committed");
    assert_eq!(machine.expire(due.clone()), (1, 0));
    assert!(!machine.has("k"));
    assert_eq!(machine.expire(due), (0, 0), "once");
    assert_eq!(machine.state.deadlines(), Deadlines::default());
}

/// The removal has the revision of its request, as any other.
#[test]
fn an_expiry_is_a_request_with_a_revision_of_its_own() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    machine.run(&[put_for(session, 1, "a", ttl(1)), put_for(session, 2, "b", ttl(1))]);
    machine.wait(3);
    let due = machine.due();
    let applied = machine.run(&[Request::expiry(due), put(session, 3, "c", "value", None)]);
    assert_eq!(applied[0].result.as_ref().unwrap().effect, Effect::Expired { keys: 2, leases: 0 });
    assert_eq!(applied[0].revision.next(), applied[1].revision);
    assert_eq!((applied[0].session, applied[0].number), (SessionId::ZERO, RequestNumber::ZERO));
}

/// Rule X2: a put with a new TTL beside an expiry computed before it.
#[test]
fn x2_a_put_with_a_new_ttl_beside_an_expiry_computed_before_it_stays() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    machine.run(&[put_for(session, 1, "k", ttl(100))]);
    machine.wait(102);
    let due = machine.due();
    // In one entry, as the primary would order them; and also one after the other.
    machine.run(&[put_for(session, 2, "k", ttl(100)), Request::expiry(due.clone())]);
    machine.wait(1);
    machine.expire(due.clone());
    machine.run(&[put(session, 3, "k", "for ever", None), Request::expiry(due)]);
    assert!(machine.has("k"));
}

/// Rule X2: the same revision, but a deadline that the stamp has not reached: a primary whose clock is ahead.
#[test]
fn x2_a_key_is_not_removed_before_its_deadline() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    machine.run(&[put_for(session, 1, "k", ttl(100))]);
    machine.wait(60);
    let due = machine.due();
    machine.expire(due);
    assert!(machine.has("k"));
}

#[test]
fn a_put_without_a_lifetime_clears_an_earlier_one_and_a_counter_keeps_it() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    let lease = machine.grant(session, 1, 500);
    let both = Lifetime { ttl_ms: Some(100), lease: Some(lease) };
    machine.run(&[put_for(session, 2, "k", both)]);
    machine.run(&[put(session, 3, "k", "0", None)]);
    assert_eq!(machine.state.deadlines().key, None);
    let add = |by| TransactionRequest {
        then: vec![TransactionStep::Add { key: "n".into(), by }],
        ..TransactionRequest::default()
    };
    let mut five = TransactionRequest::default();
    five.then.push(TransactionStep::Put { key: "n".into(), value: "5".into(), life: both });
    machine.run(&[request(session, 4, Operation::Command(Command::Transaction(five)))]);
    machine.run(&[request(session, 5, Operation::Command(Command::Transaction(add(1))))]);
    let record = machine.state.reader().get(b"n").unwrap().0.unwrap();
    assert_eq!((&record.value[..], record.lease), (&b"6"[..], Some(lease)));
    assert_eq!(record.expires, machine.state.deadlines().key);
    machine.wait(510);
    let due = machine.due();
    assert_eq!(due.len(), 2, "the key, with the revision of the addition, and the lease");
    assert_eq!(machine.expire(due), (1, 1));
    assert!(machine.has("k") && !machine.has("n"));
}

/// Rule X3.
#[test]
fn x3_a_lease_ends_with_all_its_keys_at_one_revision() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    let id = machine.grant(session, 1, 1_000);
    machine.run(&[
        put_for(session, 2, "a", Lifetime::lease(id)),
        put_for(session, 3, "b", Lifetime::lease(id)),
        put_for(session, 4, "c", Lifetime::lease(id)),
        put(session, 5, "c", "it has left", None),
        put(session, 6, "d", "never was in it", None),
    ]);
    machine.wait(999);
    assert_eq!(machine.effect(lease(session, 7, LeaseCommand::KeepAlive { lease: id })), Effect::LeaseKept);
    machine.wait(1_001);
    assert_eq!(machine.due(), []);
    let info = LeaseInfo { ttl_ms: 1_000, deadline: Timestamp::new(3_001), keys: 2 };
    assert_eq!(machine.effect(lease(session, 8, LeaseCommand::Info { lease: id })), Effect::Lease(info));
    machine.wait(1);
    let due = machine.due();
    assert_eq!(due, [Expiry::Lease { lease: id }]);
    assert_eq!(machine.expire(due), (2, 1));
    assert_eq!(["a", "b", "c", "d"].map(|key| machine.has(key)), [false, false, true, true]);
    let unknown = Effect::LeaseFailed(LeaseFailure::Unknown);
    for (number, command) in [
        (9, LeaseCommand::KeepAlive { lease: id }),
        (10, LeaseCommand::Revoke { lease: id }),
        (11, LeaseCommand::Info { lease: id }),
    ] {
        assert_eq!(machine.effect(lease(session, number, command)), unknown);
    }
    assert_eq!(machine.effect(put_for(session, 12, "e", Lifetime::lease(id))), unknown);
    assert!(!machine.has("e"));
}

/// Rule X4: late is allowed, and until the end is committed the lease lives.
#[test]
fn x4_a_lease_renewed_before_its_end_is_applied_continues() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    let id = machine.grant(session, 1, 1_000);
    machine.run(&[put_for(session, 2, "k", Lifetime::lease(id))]);
    machine.wait(1_500);
    let due = machine.due();
    let kept = lease(session, 3, LeaseCommand::KeepAlive { lease: id });
    let applied = machine.run(&[kept, Request::expiry(due)]);
    assert_eq!(applied[1].result.as_ref().unwrap().effect, Effect::Expired { keys: 0, leases: 0 });
    assert!(machine.has("k"));
}

/// Rule X5: fencing tokens.
#[test]
fn x5_a_key_that_was_removed_and_created_again_is_a_different_key() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    let first = machine.grant(session, 1, 1_000);
    let token = machine.result(put_for(session, 2, "lock", Lifetime::lease(first))).unwrap().revision;
    assert!(machine.fenced(session, 3, token));
    machine.run(&[lease(session, 4, LeaseCommand::Revoke { lease: first })]);
    let second = machine.grant(session, 5, 1_000);
    let newer = machine.result(put_for(session, 6, "lock", Lifetime::lease(second))).unwrap().revision;
    assert!(newer > token);
    assert!(!machine.fenced(session, 7, token) && machine.fenced(session, 8, newer));
}

#[test]
fn leases_and_their_keys_are_bounded() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    let ids = [1, 2, 3, 4].map(|number| machine.grant(session, number, 1_000));
    let one_more = lease(session, 5, LeaseCommand::Grant { ttl_ms: 1_000 });
    assert_eq!(machine.effect(one_more), Effect::LeaseFailed(LeaseFailure::TooMany));
    let most = LeaseCommand::MAX_KEYS as u64;
    for n in 0..most {
        let put = put_for(session, 6 + n, &format!("key{n}"), Lifetime::lease(ids[0]));
        assert_eq!(machine.effect(put), Effect::Put);
    }
    let full = Effect::LeaseFailed(LeaseFailure::Full);
    let number = 6 + most;
    assert_eq!(machine.effect(put_for(session, number, "more", Lifetime::lease(ids[0]))), full);
    assert_eq!(machine.effect(put_for(session, number + 1, "key7", Lifetime::lease(ids[0]))), Effect::Put);
    // Two that would join in one transaction, and there is room for one.
    machine.run(&[delete(session, number + 2, "key7", None)]);
    let join = |key: &str| {
        let (key, value) = (Bytes::copy_from_slice(key.as_bytes()), "v".into());
        TransactionStep::Put { key, value, life: Lifetime::lease(ids[0]) }
    };
    let two = TransactionRequest { then: vec![join("x"), join("y")], ..TransactionRequest::default() };
    let two = request(session, number + 3, Operation::Command(Command::Transaction(two)));
    let why = StepFailure::Lease(LeaseFailure::Full);
    assert_eq!(machine.effect(two), Effect::StepFailed { step: 1, why });
    assert!(!machine.has("x"));
    // The ends of all come one after the other: a request does no more than it may.
    machine.run(&[put_for(session, number + 4, "other", Lifetime::lease(ids[1]))]);
    machine.run(&[put_for(session, number + 5, "third", Lifetime::lease(ids[1]))]);
    machine.wait(1_002);
    assert_eq!(machine.due(), [Expiry::Lease { lease: ids[0] }]);
}

#[test]
fn an_expiry_is_bounded_in_keys_and_in_bytes() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    for n in 0..1_200 {
        machine.run(&[put_for(session, 1 + n, &format!("key{n}"), ttl(5))]);
    }
    machine.wait(7);
    let due = machine.due();
    assert_eq!(due.len(), 1_000);
    assert_eq!(due[0], Expiry::Key { key: "key0".into(), modified: Revision::new(1) });
    assert_eq!(machine.expire(due), (1_000, 0));
    let rest = machine.due();
    assert_eq!((rest.len(), machine.expire(rest)), (200, (200, 0)));
}

/// Nobody but the primary proposes it; in a session it is nothing.
#[test]
fn an_expiry_in_a_session_is_refused() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    machine.run(&[put_for(session, 1, "k", ttl(1))]);
    machine.wait(3);
    let due = machine.due();
    let refused = request(session, 2, Operation::Expire(due));
    assert_eq!(machine.result(refused), Err(Rejection::Invalid));
    assert!(machine.has("k"));
}

/// What ends is as much part of the state as the data: after a restart it ends at the same time.
#[test]
fn deadlines_and_leases_survive_a_restart_and_are_in_the_digest() {
    let disk = Disk::new();
    let mut machine =
        Machine { state: StateMachine::open(disk.storage(), limits()).unwrap(), log: Log::new() };
    let session = machine.open();
    let gone = machine.grant(session, 1, 200);
    let id = machine.grant(session, 2, 300);
    machine.run(&[put_for(session, 3, "a", ttl(100)), put_for(session, 4, "b", Lifetime::lease(id))]);
    for n in 0..2 {
        let checkpoint = machine.state.begin_checkpoint().unwrap().run().unwrap();
        machine.state.finish_checkpoint(checkpoint);
        machine.run(&[put_for(session, 5 + 2 * n, "a", ttl(100 + n))]);
        machine.run(&[lease(session, 6 + 2 * n, LeaseCommand::Revoke { lease: gone })]);
    }
    let checkpoint = machine.state.begin_checkpoint().unwrap().run().unwrap();
    machine.state.finish_checkpoint(checkpoint);
    let (digest, deadlines) = (machine.digest(), machine.state.deadlines());
    machine.state = StateMachine::in_memory(limits());
    machine.state = StateMachine::open(disk.storage(), limits()).unwrap();
    assert_eq!((machine.digest(), machine.state.deadlines()), (digest, deadlines));
    machine.wait(310);
    let due = machine.due();
    assert_eq!(machine.expire(due), (2, 1));
}

/// Rule T2: each row of a lease fits into a piece, no matter how many keys it has; and renewing it writes none of its
/// keys.
#[test]
fn t2_a_lease_with_many_large_keys_has_a_row_for_each() {
    use crate::kv::lifetimes::{KeyDeadline, Lifetimes};

    let lease = LeaseId::new(7);
    let mut all = Lifetimes::new(10, true);
    all.grant(lease, 1000, Timestamp::new(5)).unwrap();
    for n in 0..LeaseCommand::MAX_KEYS {
        let key = [vec![b'k'; 20 << 10], n.to_be_bytes().to_vec()].concat();
        all.moved(
            &key,
            KeyDeadline::default(),
            KeyDeadline { at: None, with: Some(lease) },
            Some(Revision::new(9)),
        );
    }
    let rows = all.take_changes();
    assert_eq!(rows.len(), 1 + LeaseCommand::MAX_KEYS);
    assert!(rows.iter().all(|(name, value)| name.len() + value.as_ref().map_or(0, Vec::len) < 21 << 10));
    all.keep_alive(lease, Timestamp::new(8)).unwrap();
    assert_eq!(all.take_changes().len(), 1);
    all.end(lease).unwrap();
    let gone = all.take_changes();
    assert!(gone.len() == 1 + LeaseCommand::MAX_KEYS && gone.iter().all(|(_, value)| value.is_none()));
}
