//! Changes of a time to live.

use super::*;
use crate::message::{
    EventKind, Expiry, LeaseCommand, Position, StepFailure, StepResult, TransactionRequest, TransactionStep,
};

fn put_for(session: SessionId, number: u64, key: &str, life: Lifetime) -> Request {
    let put = Command::Put { key: key.to_owned().into(), value: "value".into(), condition: None, life };
    request(session, number, Operation::Command(put))
}

fn touch(
    session: SessionId,
    number: u64,
    key: &str,
    ttl_ms: Option<u64>,
    condition: Option<Condition>,
) -> Request {
    let key = Bytes::copy_from_slice(key.as_bytes());
    request(session, number, Operation::Command(Command::Touch { key, ttl_ms, condition }))
}

fn touch_step(key: &str, ttl_ms: Option<u64>) -> TransactionStep {
    TransactionStep::Touch { key: key.to_owned().into(), ttl_ms }
}

fn ttl(ms: u64) -> Lifetime {
    Lifetime::ttl(Duration::from_millis(ms))
}

impl Machine {
    fn record(&self, key: &str) -> Option<Record> {
        self.state.reader().get(key.as_bytes()).unwrap().0
    }
}

#[test]
fn a_touch_replaces_the_time_to_live_and_keeps_value_and_lease() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    let grant = Operation::Command(Command::Lease(LeaseCommand::Grant { ttl_ms: 60_000 }));
    let Effect::LeaseGranted(lease) = machine.effect(request(session, 1, grant)) else { panic!("granted") };
    let life = Lifetime { ttl_ms: Some(100), lease: Some(lease) };
    let put = machine.result(put_for(session, 2, "k", life)).unwrap().revision;
    machine.wait(50);
    let touched = machine.result(touch(session, 3, "k", Some(1_000), None)).unwrap();
    assert_eq!(touched.effect, Effect::Touched { existed: true });
    let expected = Record {
        value: "value".into(),
        created: put,
        modified: touched.revision,
        version: 2,
        expires: Some(Timestamp::new(1_050 + 1_000 + 2)),
        lease: Some(lease),
    };
    assert_eq!(machine.record("k"), Some(expected.clone()));
    assert_eq!(machine.state.deadlines().key, expected.expires);
    let watched = ChangeQuery {
        from: b"",
        to: None,
        after: Position::after(put),
        previous: true,
        max_events: 9,
        max_bytes: 1 << 20,
    };
    let page = machine.state.reader().changes(&watched).unwrap().unwrap();
    let [event] = &page.events[..] else { panic!("{page:?}") };
    assert_eq!((event.kind, event.record.as_ref()), (EventKind::Put, Some(&expected)));
    let persisted = machine.result(touch(session, 4, "k", None, None)).unwrap().revision;
    let expected = Record { modified: persisted, version: 3, expires: None, ..expected };
    assert_eq!(machine.record("k"), Some(expected));
    assert_eq!(machine.state.deadlines().key, None);
    // The lease still ends the key.
    let revoke = Operation::Command(Command::Lease(LeaseCommand::Revoke { lease }));
    assert_eq!(machine.effect(request(session, 5, revoke)), Effect::LeaseRevoked { keys: 1 });
    assert_eq!(machine.record("k"), None);
}

#[test]
fn a_touch_of_a_missing_key_or_under_a_condition_that_fails_changes_nothing() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    assert_eq!(machine.effect(touch(session, 1, "k", Some(5), None)), Effect::Touched { existed: false });
    let failed = |found: Option<u64>| Effect::ConditionFailed { found: found.map(Revision::new) };
    let wanted = |revision| Some(Condition::Revision(Revision::new(revision)));
    assert_eq!(machine.effect(touch(session, 2, "k", Some(5), wanted(1))), failed(None));
    assert_eq!(machine.record("k"), None);
    let put = machine.result(put_for(session, 3, "k", ttl(100))).unwrap().revision.get();
    let before = machine.record("k");
    assert_eq!(machine.effect(touch(session, 4, "k", None, wanted(put + 1))), failed(Some(put)));
    assert_eq!(machine.record("k"), before);
    assert_eq!(machine.effect(touch(session, 5, "k", None, wanted(put))), Effect::Touched { existed: true });
    for (number, ttl_ms) in [(6, 0), (7, Lifetime::MAX_TTL_MS + 1)] {
        assert_eq!(machine.result(touch(session, number, "k", Some(ttl_ms), None)), Err(Rejection::Invalid));
    }
}

/// Rule X2: an expiry that was computed before a touch.
#[test]
fn x2_a_touched_key_beside_an_expiry_computed_before_it_stays() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    machine.run(&[put_for(session, 1, "k", ttl(100))]);
    machine.wait(102);
    let now = Timestamp::new(machine.log.timestamp);
    let due = machine.state.due(ExpiryQuery { keys: now, leases: Some(now), tick: false });
    assert!(matches!(due[..], [Expiry::Key { .. }]), "{due:?}");
    machine.run(&[touch(session, 2, "k", Some(100), None), Request::expiry(due.clone())]);
    machine.wait(101);
    machine.run(&[Request::expiry(due)]);
    assert!(machine.record("k").is_some());
    machine.wait(1);
    let now = Timestamp::new(machine.log.timestamp);
    let due = machine.state.due(ExpiryQuery { keys: now, leases: Some(now), tick: false });
    assert_eq!(machine.effect(Request::expiry(due)), Effect::Expired { keys: 1, leases: 0 });
}

#[test]
fn steps_of_a_transaction_touch_keys() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    machine.run(&[put_for(session, 1, "a", ttl(100)), put_for(session, 2, "b", ttl(100))]);
    let then = vec![touch_step("a", Some(500)), touch_step("b", None), touch_step("c", None)];
    let transaction = TransactionRequest { then, ..TransactionRequest::default() };
    let command = Operation::Command(Command::Transaction(transaction));
    let touched = |existed| StepResult::Touched { existed };
    let results = vec![touched(true), touched(true), touched(false)];
    assert_eq!(machine.effect(request(session, 3, command)), Effect::Transacted { succeeded: true, results });
    assert_eq!(machine.state.deadlines().key, machine.record("a").unwrap().expires);
    assert_eq!(machine.record("b").unwrap().expires, None);
    let twice = vec![touch_step("a", None), touch_step("a", Some(1))];
    let twice = TransactionRequest { then: twice, ..TransactionRequest::default() };
    let twice = request(session, 4, Operation::Command(Command::Transaction(twice)));
    assert_eq!(machine.result(twice), Err(Rejection::Invalid));
}

/// A touch is small and writes a whole value: without a limit, one entry could fill the memory of every member.
#[test]
fn touches_of_one_transaction_and_of_one_entry_rewrite_a_bounded_number_of_bytes() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    let large = limits().fixed.max_value_bytes;
    let max = limits().sizes().returned_bytes();
    let per_transaction = max / (large + 128 + 16);
    let keys: Vec<String> = (0..=per_transaction).map(|n| format!("k{n}")).collect();
    for (number, key) in (1..).zip(&keys) {
        machine.run(&[put(session, number, key, &"x".repeat(large), None)]);
    }
    let number = keys.len() as u64 + 1;
    let of = |number, keys: &[String]| {
        let then = keys.iter().map(|key| touch_step(key, Some(1_000))).collect();
        let transaction = TransactionRequest { then, ..TransactionRequest::default() };
        request(session, number, Operation::Command(Command::Transaction(transaction)))
    };
    let step = u32::try_from(per_transaction).unwrap();
    let why = StepFailure::ResponseTooLarge { max: max as u64 };
    assert_eq!(machine.effect(of(number, &keys)), Effect::StepFailed { step, why });
    let fits = machine.effect(of(number + 1, &keys[..per_transaction]));
    assert!(matches!(fits, Effect::Transacted { .. }), "{fits:?}");
    // One entry with more touches than may be run together: the rest is told to try again, and may.
    let most = (16 << 20) / (large + 128);
    let many: Vec<Request> =
        (0..most as u64 + 9).map(|n| touch(session, number + 2 + n, "k0", Some(2_000), None)).collect();
    let applied = machine.run(&many);
    let busy = Effect::StepFailed { step: 0, why: StepFailure::Busy };
    let done = |applied: &Applied| applied.result.as_ref().unwrap().effect.clone();
    let touched = applied.iter().filter(|it| done(it) == Effect::Touched { existed: true }).count();
    let refused = applied.iter().filter(|it| done(it) == busy).count();
    assert_eq!((touched, refused), (most, 9));
    let again = number + 2 + most as u64 + 9;
    let effect = machine.effect(touch(session, again, "k0", Some(2_000), None));
    assert_eq!(effect, Effect::Touched { existed: true });
}
