//! What transactions do.

use super::*;
use crate::message::{Scanned, StepFailure, StepResult, TransactionRequest, TransactionStep};

fn put_step(key: &str, value: &str) -> TransactionStep {
    TransactionStep::Put {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        life: Lifetime::FOREVER,
    }
}

fn delete_step(key: &str) -> TransactionStep {
    TransactionStep::Delete { key: key.to_owned().into() }
}

fn add_step(key: &str, by: i64) -> TransactionStep {
    TransactionStep::Add { key: key.to_owned().into(), by }
}

fn get_step(key: &str) -> TransactionStep {
    TransactionStep::Get { key: key.to_owned().into() }
}

fn scan_step(from: &str, to: Option<&str>, limit: u32) -> TransactionStep {
    TransactionStep::Scan { from: from.to_owned().into(), to: to.map(|to| to.to_owned().into()), limit }
}

fn then(steps: &[TransactionStep]) -> TransactionRequest {
    TransactionRequest { then: steps.to_vec(), ..Default::default() }
}

/// What a key holds that was put once.
fn once(value: &str, at: u64) -> Record {
    let (value, created) = (value.to_owned().into(), Revision::new(at));
    Record { value, created, modified: created, version: 1, expires: None, lease: None }
}

fn got(value: &str, at: u64) -> StepResult {
    StepResult::Got(Some(Box::new(once(value, at))))
}

fn condition(key: &str, condition: Condition) -> (Bytes, Condition) {
    (key.to_owned().into(), condition)
}

fn transact(session: SessionId, number: u64, transaction: TransactionRequest) -> Request {
    request(session, number, Operation::Command(Command::Transaction(transaction)))
}

fn done(held: bool, results: &[StepResult]) -> Effect {
    Effect::Transacted { succeeded: held, results: results.to_vec() }
}

/// Key, value and the revision of the last change, of everything.
fn all(machine: &Machine) -> Vec<(String, String, u64)> {
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    let page = machine.state.reader().scan(b"", None, 100, 1 << 20).unwrap();
    page.records.iter().map(|(key, record)| (text(key), text(&record.value), record.modified.get())).collect()
}

#[test]
fn all_steps_run_at_one_revision_if_all_conditions_hold() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    machine.effect(put(session, 1, "a", "1", None));
    let transaction = TransactionRequest {
        conditions: vec![condition("a", Condition::Value("1".into())), condition("b", Condition::Absent)],
        then: vec![delete_step("a"), put_step("b", "2"), add_step("c", 5), delete_step("d")],
        otherwise: vec![put_step("a", "other")],
    };
    let results = [
        StepResult::Deleted { existed: true },
        StepResult::Put,
        StepResult::Added { sum: 5 },
        StepResult::Deleted { existed: false },
    ];
    assert_eq!(machine.effect(transact(session, 2, transaction.clone())), done(true, &results));
    assert_eq!(all(&machine), [("b".into(), "2".into(), 2), ("c".into(), "5".into(), 2)]);
    assert_eq!(machine.effect(transact(session, 3, transaction)), done(false, &[StepResult::Put]));
    assert_eq!(all(&machine)[0], ("a".into(), "other".into(), 3));
}

#[test]
fn conditions_and_steps_see_the_state_before_the_transaction() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    let transaction = TransactionRequest {
        conditions: vec![condition("a", Condition::Absent), condition("a", Condition::Absent)],
        then: vec![put_step("a", "1"), add_step("b", 1)],
        otherwise: vec![add_step("a", 1)],
    };
    machine.effect(transact(session, 1, transaction.clone()));
    let added = done(false, &[StepResult::Added { sum: 2 }]);
    assert_eq!(machine.effect(transact(session, 2, transaction)), added);
}

#[test]
fn a_failed_step_changes_nothing() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    machine.effect(put(session, 1, "text", "x1", None));
    machine.effect(put(session, 2, "most", &i64::MAX.to_string(), None));
    let before = all(&machine);
    for (number, key, by, why) in [
        (3, "text", 1, StepFailure::NotANumber),
        (4, "most", 1, StepFailure::OutOfRange),
        (5, "text", i64::MIN, StepFailure::NotANumber),
    ] {
        let then = vec![put_step("a", "1"), delete_step("most2"), add_step(key, by)];
        let effect =
            machine.effect(transact(session, number, TransactionRequest { then, ..Default::default() }));
        assert_eq!(effect, Effect::StepFailed { step: 2, why });
    }
    assert_eq!(all(&machine), before);
    let least = TransactionRequest { then: vec![add_step("most", i64::MIN)], ..Default::default() };
    assert_eq!(machine.effect(transact(session, 6, least)), done(true, &[StepResult::Added { sum: -1 }]));
}

#[test]
fn a_retried_transaction_gets_its_first_results_and_changes_nothing() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    let count =
        transact(session, 1, TransactionRequest { then: vec![add_step("n", 1)], ..Default::default() });
    let first = machine.result(count.clone());
    assert_eq!(machine.result(count), first);
    assert_eq!(all(&machine), [("n".into(), "1".into(), 1)]);
}

#[test]
fn an_empty_transaction_succeeds_and_changes_nothing() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    assert_eq!(machine.effect(transact(session, 1, TransactionRequest::default())), done(true, &[]));
    let no =
        TransactionRequest { conditions: vec![condition("a", Condition::Present)], ..Default::default() };
    assert_eq!(machine.effect(transact(session, 2, no)), done(false, &[]));
    assert!(all(&machine).is_empty());
}

/// F-load-3, F-input-10.
#[test]
fn a_transaction_beyond_the_limits_is_invalid_and_changes_nothing() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    let large = "x".repeat(limits().fixed.max_value_bytes);
    let keys: Vec<String> = (0..=TransactionRequest::MAX_STEPS).map(|n| format!("k{n}")).collect();
    let many = |count: usize| keys[..count].iter().map(|key| put_step(key, "")).collect::<Vec<_>>();
    let conditions =
        |count: usize| keys[..count].iter().map(|key| condition(key, Condition::Absent)).collect::<Vec<_>>();
    let most = TransactionRequest::MAX_STEPS;
    let wrong = [
        TransactionRequest { then: many(most + 1), ..Default::default() },
        TransactionRequest { otherwise: many(most + 1), ..Default::default() },
        TransactionRequest {
            conditions: conditions(TransactionRequest::MAX_CONDITIONS + 1),
            ..Default::default()
        },
        TransactionRequest { then: vec![put_step("a", ""), delete_step("a")], ..Default::default() },
        TransactionRequest { then: vec![put_step("", "")], ..Default::default() },
        TransactionRequest { then: vec![put_step("a", &format!("{large}x"))], ..Default::default() },
        then(&[
            put_step("a", &large),
            put_step("b", &large),
            put_step("c", "and more than two of the largest keys have"),
        ]),
        then(&[get_step("")]),
        then(&[scan_step(&"k".repeat(18), None, 1)]),
        TransactionRequest {
            conditions: vec![condition(&"k".repeat(17), Condition::Absent)],
            ..Default::default()
        },
        TransactionRequest {
            conditions: vec![condition("a", Condition::Value(format!("{large}x").into()))],
            ..Default::default()
        },
    ];
    for (number, wrong) in (1..).zip(wrong) {
        let result = machine.result(transact(session, number, wrong.clone()));
        assert_eq!(result, Err(Rejection::Invalid), "{wrong:?}");
    }
    assert!(all(&machine).is_empty());
    let conditions = conditions(TransactionRequest::MAX_CONDITIONS);
    let all_of = TransactionRequest { conditions, then: many(most), otherwise: many(most) };
    machine.effect(transact(session, 100, all_of));
    machine.state.check_invariants();
}

#[test]
fn a_transaction_reads_the_state_before_it() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    machine.effect(put(session, 1, "a", "1", None));
    machine.effect(put(session, 2, "b", "2", None));
    let steps = [
        get_step("a"),
        put_step("a", "new"),
        delete_step("b"),
        scan_step("a", Some("c"), 9),
        put_step("aa", ""),
        get_step("aa"),
        scan_step("", None, 1),
        scan_step("b", None, 0),
    ];
    let pair = |key: &str, value, at| (Bytes::from(key.to_owned()), once(value, at));
    let scanned = |records, more| StepResult::Scanned(Box::new(Scanned { records, more }));
    let results = [
        got("1", 1),
        StepResult::Put,
        StepResult::Deleted { existed: true },
        scanned(vec![pair("a", "1", 1), pair("b", "2", 2)], false),
        StepResult::Put,
        StepResult::Got(None),
        scanned(vec![pair("a", "1", 1)], true),
        scanned(vec![pair("b", "2", 2)], false),
    ];
    assert_eq!(machine.effect(transact(session, 3, then(&steps))), done(true, &results));
    let other = TransactionRequest {
        conditions: vec![condition("b", Condition::Present)],
        then: vec![get_step("a")],
        otherwise: vec![get_step("b"), get_step("aa")],
    };
    let results = [StepResult::Got(None), got("", 3)];
    assert_eq!(machine.effect(transact(session, 4, other)), done(false, &results));
}

/// E2: bit for bit, although the key has another value by then.
#[test]
fn a_retried_transaction_returns_what_it_read_the_first_time() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    machine.effect(put(session, 1, "a", "1", None));
    let swap = transact(session, 2, then(&[get_step("a"), put_step("a", "2")]));
    let first = machine.result(swap.clone());
    assert_eq!(first.as_ref().unwrap().effect, done(true, &[got("1", 1), StepResult::Put]));
    machine.effect(put(session, 3, "a", "3", None));
    assert_eq!(machine.result(swap), first);
    assert_eq!(all(&machine)[0].1, "3");
}

/// E7.
#[test]
fn a_transaction_that_would_return_too_much_does_nothing() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    let max = limits().sizes().returned_bytes();
    let (key, large) = (|n: usize| format!("k{n}"), "x".repeat(limits().fixed.max_value_bytes));
    let count = max / (large.len() + 200);
    for n in 0..=count {
        machine.effect(put(session, n as u64 + 1, &key(n), &large, None));
    }
    let before = machine.state.reader().newest().revision();
    let gets =
        |count| (0..count).map(|n| get_step(&key(n))).chain([put_step("done", "")]).collect::<Vec<_>>();
    let refused = |step| Effect::StepFailed { step, why: StepFailure::ResponseTooLarge { max: max as u64 } };
    let step = u32::try_from(count).unwrap();
    assert_eq!(machine.effect(transact(session, 20, then(&gets(count + 1)))), refused(step));
    let scan = [put_step("done", ""), scan_step("k", None, 1000)];
    assert_eq!(machine.effect(transact(session, 21, then(&scan))), refused(1));
    assert!(all(&machine).iter().all(|(key, ..)| key != "done"), "nothing since {before:?}");
    let fits = machine.effect(transact(session, 22, then(&gets(count))));
    assert!(matches!(fits, Effect::Transacted { succeeded: true, .. }));
    assert!(fits.weight() <= max && fits.weight() > max / 2);
}

/// E7: the results of one entry are bounded too. A request that did not run for this reason never runs.
#[test]
fn the_results_of_one_entry_are_bounded() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    machine.effect(put(session, 1, "k", &"x".repeat(60_000), None));
    let reads = then(&[get_step("k"), get_step("k"), get_step("k"), get_step("k"), add_step("count", 1)]);
    let requests: Vec<Request> = (2..102).map(|number| transact(session, number, reads.clone())).collect();
    let applied = machine.run(&requests);
    let first = applied.iter().position(|applied| {
        let effect = &applied.result.as_ref().unwrap().effect;
        matches!(effect, Effect::StepFailed { why: StepFailure::Busy, .. })
    });
    let done = first.expect("100 times 240 KB are too much");
    assert_eq!(done, (16 << 20) / applied[0].result.as_ref().unwrap().effect.weight());
    let last = machine.result(requests[99].clone());
    assert_eq!(last, applied[99].result, "it is an answer like any other");
    assert!(matches!(last.unwrap().effect, Effect::StepFailed { why: StepFailure::Busy, .. }));
    assert_eq!(
        machine.effect(transact(session, 102, reads)).weight(),
        applied[0].result.as_ref().unwrap().effect.weight()
    );
    let count = all(&machine).into_iter().find(|(key, ..)| key == "count").unwrap().1;
    assert_eq!(count, (done + 1).to_string());
}
