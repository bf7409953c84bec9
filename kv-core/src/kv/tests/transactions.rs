//! What transactions do.

use super::*;
use crate::message::{Step, StepFailure, StepResult, Transaction};

fn put_step(key: &str, value: &str) -> Step {
    Step::Put { key: key.to_owned().into(), value: value.to_owned().into(), life: Lifetime::FOREVER }
}

fn delete_step(key: &str) -> Step {
    Step::Delete { key: key.to_owned().into() }
}

fn add_step(key: &str, by: i64) -> Step {
    Step::Add { key: key.to_owned().into(), by }
}

fn guard(key: &str, guard: Guard) -> (Bytes, Guard) {
    (key.to_owned().into(), guard)
}

fn transact(session: SessionId, number: u64, transaction: Transaction) -> Request {
    request(session, number, Operation::Command(Command::Transaction(transaction)))
}

fn done(held: bool, results: &[StepResult]) -> Effect {
    Effect::Transacted { held, results: results.to_vec() }
}

/// Key, value and the revision of the last change, of everything.
fn all(machine: &Machine) -> Vec<(String, String, u64)> {
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    let page = machine.state.reader().scan(b"", None, 100, 1 << 20).unwrap();
    page.records.iter().map(|(key, record)| (text(key), text(&record.value), record.modified.get())).collect()
}

#[test]
fn all_steps_are_done_at_one_revision_if_all_guards_hold() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    machine.effect(put(session, 1, "a", "1", None));
    let transaction = Transaction {
        guards: vec![guard("a", Guard::Value("1".into())), guard("b", Guard::Absent)],
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
    assert_eq!(all(&machine), [("b".into(), "2".into(), 3), ("c".into(), "5".into(), 3)]);
    assert_eq!(machine.effect(transact(session, 3, transaction)), done(false, &[StepResult::Put]));
    assert_eq!(all(&machine)[0], ("a".into(), "other".into(), 4));
}

#[test]
fn guards_and_steps_see_the_state_before_the_transaction() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    let transaction = Transaction {
        guards: vec![guard("a", Guard::Absent), guard("a", Guard::Absent)],
        then: vec![put_step("a", "1"), add_step("b", 1)],
        otherwise: vec![add_step("a", 1)],
    };
    machine.effect(transact(session, 1, transaction.clone()));
    let added = done(false, &[StepResult::Added { sum: 2 }]);
    assert_eq!(machine.effect(transact(session, 2, transaction)), added);
}

#[test]
fn a_step_that_cannot_be_done_leaves_everything_as_it_was() {
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
        let effect = machine.effect(transact(session, number, Transaction { then, ..Default::default() }));
        assert_eq!(effect, Effect::StepFailed { step: 2, why });
    }
    assert_eq!(all(&machine), before);
    let least = Transaction { then: vec![add_step("most", i64::MIN)], ..Default::default() };
    assert_eq!(machine.effect(transact(session, 6, least)), done(true, &[StepResult::Added { sum: -1 }]));
}

#[test]
fn a_retried_transaction_gets_its_first_results_and_changes_nothing() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    let count = transact(session, 1, Transaction { then: vec![add_step("n", 1)], ..Default::default() });
    let first = machine.result(count.clone());
    assert_eq!(machine.result(count), first);
    assert_eq!(all(&machine), [("n".into(), "1".into(), 2)]);
}

#[test]
fn an_empty_transaction_is_done_and_changes_nothing() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    assert_eq!(machine.effect(transact(session, 1, Transaction::default())), done(true, &[]));
    let no = Transaction { guards: vec![guard("a", Guard::Present)], ..Default::default() };
    assert_eq!(machine.effect(transact(session, 2, no)), done(false, &[]));
    assert!(all(&machine).is_empty());
}

/// L3, X10.
#[test]
fn a_transaction_beyond_the_limits_is_invalid_and_changes_nothing() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    let large = "x".repeat(limits().max_value_bytes);
    let keys: Vec<String> = (0..=Transaction::MAX_PARTS).map(|n| format!("k{n}")).collect();
    let many = |count: usize| keys[..count].iter().map(|key| put_step(key, "")).collect::<Vec<_>>();
    let guards = |count: usize| keys[..count].iter().map(|key| guard(key, Guard::Absent)).collect::<Vec<_>>();
    let most = Transaction::MAX_PARTS;
    let wrong = [
        Transaction { then: many(most + 1), ..Default::default() },
        Transaction { otherwise: many(most + 1), ..Default::default() },
        Transaction { guards: guards(most + 1), ..Default::default() },
        Transaction { then: vec![put_step("a", ""), delete_step("a")], ..Default::default() },
        Transaction { then: vec![put_step("", "")], ..Default::default() },
        Transaction { then: vec![put_step("a", &format!("{large}x"))], ..Default::default() },
        Transaction { then: vec![put_step("a", &large), put_step("b", &large)], ..Default::default() },
        Transaction { guards: vec![guard(&"k".repeat(17), Guard::Absent)], ..Default::default() },
        Transaction {
            guards: vec![guard("a", Guard::Value(format!("{large}x").into()))],
            ..Default::default()
        },
    ];
    for (number, wrong) in (1..).zip(wrong) {
        let result = machine.result(transact(session, number, wrong.clone()));
        assert_eq!(result, Err(Rejection::Invalid), "{wrong:?}");
    }
    assert!(all(&machine).is_empty());
    let all_of = Transaction { guards: guards(most), then: many(most), otherwise: many(most) };
    machine.effect(transact(session, 100, all_of));
    machine.state.check_invariants();
}
