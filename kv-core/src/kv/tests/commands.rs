//! What commands do.

use super::*;

fn value(machine: &Machine, key: &str) -> Option<(String, u64, u64, u64)> {
    let (record, revision) = machine.state.reader().get(key.as_bytes()).unwrap();
    assert_eq!(revision, machine.state.revision());
    record.map(|record| {
        let value = String::from_utf8(record.value.to_vec()).unwrap();
        (value, record.created.get(), record.modified.get(), record.version)
    })
}

#[test]
fn a_put_keeps_the_creation_and_counts_versions_until_the_key_is_deleted() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    assert_eq!(machine.effect(put(session, 1, "k", "a", None)), Effect::Put);
    assert_eq!(value(&machine, "k"), Some(("a".into(), 1, 1, 1)));
    machine.effect(put(session, 2, "k", "b", None));
    assert_eq!(value(&machine, "k"), Some(("b".into(), 1, 2, 2)));
    assert_eq!(machine.effect(delete(session, 3, "k", None)), Effect::Deleted { existed: true });
    assert_eq!(value(&machine, "k"), None);
    assert_eq!(machine.effect(delete(session, 4, "k", None)), Effect::Deleted { existed: false });
    machine.effect(put(session, 5, "k", "c", None));
    assert_eq!(value(&machine, "k"), Some(("c".into(), 5, 5, 1)));
}

#[test]
fn an_outcome_has_the_revision_and_the_stamp_of_its_entry() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    machine.wait(7);
    let applied = machine.run(&[put(session, 1, "k", "a", None), put(session, 2, "k", "b", None)]);
    for (applied, revision) in applied.iter().zip([1, 2]) {
        let outcome = applied.result.as_ref().unwrap();
        assert_eq!((applied.revision.get(), outcome.revision.get()), (revision, revision));
        assert_eq!(outcome.timestamp, Timestamp::new(1007));
    }
}

#[test]
fn conditions_see_earlier_requests_of_the_same_entry() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    let applied = machine.run(&[
        put(session, 1, "k", "a", Some(Condition::Absent)),
        put(session, 2, "k", "b", Some(Condition::Absent)),
        put(session, 3, "k", "c", Some(Condition::Revision(Revision::new(1)))),
        delete(session, 4, "k", Some(Condition::Value("c".into()))),
        delete(session, 5, "k", Some(Condition::Present)),
    ]);
    let effects: Vec<Effect> = applied.into_iter().map(|applied| applied.result.unwrap().effect).collect();
    let failed = |found: Option<u64>| Effect::ConditionFailed { found: found.map(Revision::new) };
    assert_eq!(
        effects,
        [Effect::Put, failed(Some(1)), Effect::Put, Effect::Deleted { existed: true }, failed(None)]
    );
}

/// Each condition on an absent key, on one that fits, and on one that does not.
#[test]
fn each_condition_holds_exactly_when_it_should() {
    let cases = [
        (Condition::Absent, "k", false),
        (Condition::Absent, "none", true),
        (Condition::Present, "k", true),
        (Condition::Present, "none", false),
        (Condition::Revision(Revision::new(1)), "k", true),
        (Condition::Revision(Revision::ZERO), "k", false),
        (Condition::Revision(Revision::new(2)), "k", false),
        (Condition::Revision(Revision::ZERO), "none", false),
        (Condition::Value("a".into()), "k", true),
        (Condition::Value("".into()), "k", false),
        (Condition::Value("".into()), "none", false),
    ];
    for (condition, key, holds) in cases {
        let mut machine = Machine::in_memory();
        let session = machine.open();
        machine.effect(put(session, 1, "k", "a", None));
        let before = contents(&machine.state.reader());
        let effect = machine.effect(delete(session, 2, key, Some(condition.clone())));
        let failed = matches!(effect, Effect::ConditionFailed { .. });
        assert_eq!(!failed, holds, "{condition:?} on {key}");
        if failed {
            assert_eq!(contents(&machine.state.reader()), before);
        }
    }
}

#[test]
fn limits_are_checked_again_when_applying() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    let long_key = "k".repeat(limits().fixed.max_key_bytes + 1);
    let long_value = "v".repeat(limits().fixed.max_value_bytes + 1);
    for (n, key, value) in [(1, "", "v"), (2, &long_key, "v"), (3, "k", &long_value)] {
        assert_eq!(machine.result(put(session, n, key, value, None)), Err(Rejection::Invalid));
    }
    assert_eq!(machine.result(delete(session, 4, &long_key, None)), Err(Rejection::Invalid));
    let fits = (&long_key[1..], &long_value[1..]);
    assert_eq!(machine.effect(put(session, 5, fits.0, fits.1, None)), Effect::Put);
    assert_eq!(machine.effect(put(session, 6, "k", "", None)), Effect::Put);
}

#[test]
fn any_bytes_are_applied_without_a_panic() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    let valid = put(session, 1, "k", "value", None).encode();
    let mut rng = fastrand::Rng::with_seed(1);
    for _ in 0..2000 {
        let mut bytes = valid.to_vec();
        for _ in 0..rng.usize(1..4) {
            let at = rng.usize(..bytes.len());
            bytes[at] = rng.u8(..);
        }
        bytes.truncate(rng.usize(..=bytes.len()));
        let entry = machine.log.raw(&[bytes.into(), valid.clone()]);
        let applied = machine.state.apply(&entry).unwrap();
        assert_eq!(applied.len(), 2);
        assert_eq!(machine.state.revision(), applied[1].revision);
        machine.state.check_invariants();
    }
}

#[test]
fn a_request_with_the_wrong_shape_is_invalid_and_changes_nothing() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    let before = machine.state.sessions.clone();
    let mut nested = open(1);
    nested.session = session;
    let mut numbered = open(1);
    numbered.number = RequestNumber::new(1);
    let zero = put(session, 0, "k", "v", None);
    for wrong in [nested, numbered, zero] {
        assert_eq!(machine.result(wrong), Err(Rejection::Invalid));
    }
    assert!(before.iter().eq(machine.state.sessions.iter()));
    assert!(contents(&machine.state.reader()).is_empty());
}

#[test]
#[should_panic(expected = "entries of one log")]
fn an_entry_of_another_log_panics() {
    let mut machine = Machine::in_memory();
    machine.open();
    machine.log.head.hash = Hash::of(b"another");
    machine.open();
}

#[test]
fn a_stored_value_does_not_keep_the_body_of_its_entry_in_memory() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    let big = "x".repeat(32 << 10);
    let entry = machine.log.entry(&[put(session, 1, "small", "s", None), put(session, 2, "big", &big, None)]);
    machine.state.apply(&entry).unwrap();
    let body = entry.body.as_ptr_range();
    for (_, record) in machine.state.reader().scan(b"", None, 9, usize::MAX).unwrap().records {
        assert!(!body.contains(&record.value.as_ptr()));
    }
}

fn delete_range(session: SessionId, number: u64, from: &str, to: Option<&str>, limit: u32) -> Request {
    let (from, to) = (from.to_owned().into(), to.map(|to| to.to_owned().into()));
    request(session, number, Operation::Command(Command::DeleteRange { from, to, limit }))
}

#[test]
fn a_range_delete_includes_keys_of_the_same_entry() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    machine.run(&[put(session, 1, "a", "1", None), put(session, 2, "b", "2", None)]);
    let applied = machine.run(&[
        put(session, 3, "c", "3", None),
        delete(session, 4, "a", None),
        delete_range(session, 5, "a", Some("c"), 10),
        put(session, 6, "b", "4", None),
        delete_range(session, 7, "", None, 1),
    ]);
    let effects: Vec<Effect> = applied.into_iter().map(|applied| applied.result.unwrap().effect).collect();
    assert_eq!(effects[2], Effect::RangeDeleted { count: 1, more: false });
    assert_eq!(effects[4], Effect::RangeDeleted { count: 1, more: true });
    assert_eq!((value(&machine, "a"), value(&machine, "b")), (None, None));
    assert_eq!(value(&machine, "c"), Some(("3".into(), 3, 3, 1)));
    machine.effect(delete_range(session, 8, "", None, u32::MAX));
    assert_eq!(
        machine.effect(delete_range(session, 9, "", None, 0)),
        Effect::RangeDeleted { count: 0, more: false }
    );
}

#[test]
fn several_keys_are_read_at_one_revision_within_limits() {
    let mut machine = Machine::in_memory();
    let session = machine.open();
    machine.run(&[put(session, 1, "a", "1", None), put(session, 2, "b", "22", None)]);
    let keys = ["b", "x", "a"].map(|key| Bytes::from_static(key.as_bytes()));
    let page = machine.state.reader().newest().get_many(&keys, 100).unwrap().unwrap();
    let found: Vec<&[u8]> = page.records.iter().map(|(key, _)| &key[..]).collect();
    assert_eq!((found, page.revision), (vec![&b"b"[..], b"a"], machine.state.revision()));
    assert!(machine.state.reader().newest().get_many(&keys, 2).unwrap().is_none());
    assert!(machine.state.reader().newest().get_many(&keys, 3).unwrap().is_some());
}
