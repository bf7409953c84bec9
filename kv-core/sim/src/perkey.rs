//! The history of a run, split into one history per key for the search in `linear`.

use super::history::{Action, Ending, History, RecordedCall};
use super::linear::{Act, KeyCondition, KeyOperation, Known, SearchResult, Value, search};
use super::report::Finding;
use bytes::Bytes;
use kv_core::ids::Revision;
use kv_core::message::{self, Command, Condition, StepResult, TransactionRequest};
use std::collections::{BTreeMap, HashMap};

/// How many states a search of one key may visit.
const BUDGET: usize = 200_000;

/// Numbers for values: the clients never write a value twice, so a value identifies the call that wrote it.
#[derive(Default)]
struct Names {
    values: HashMap<Bytes, u32>,
    /// Which value a key got at which revision, according to the answers.
    revisions: HashMap<(Bytes, Revision), u32>,
}

/// Searches an order of the calls for every key. Returns how many keys were too hard to decide.
///
/// # Errors
/// If the calls of a key fit no order.
pub(super) fn check(history: &History) -> Result<usize, Finding> {
    let mut names = Names::default();
    for call in history.calls() {
        names.learn(call);
    }
    let mut keys: BTreeMap<Bytes, Vec<(usize, KeyOperation)>> = BTreeMap::new();
    for (index, call) in history.calls().iter().enumerate() {
        for (key, step) in names.steps(call) {
            keys.entry(key).or_default().push((index, step));
        }
    }
    let known: Vec<Bytes> = keys.keys().cloned().collect();
    for (index, call) in history.calls().iter().enumerate() {
        for (key, step) in names.scanned(call, &known).into_iter().chain(names.range_deleted(call, &known)) {
            keys.entry(key).or_default().push((index, step));
        }
    }
    let mut undecided = 0;
    for (key, mut steps) in keys {
        steps.sort_by_key(|(_, step)| step.start);
        let plain: Vec<KeyOperation> = steps.iter().map(|(_, step)| *step).collect();
        match search(&plain, BUDGET) {
            SearchResult::Linearizable => {}
            SearchResult::GaveUp => undecided += 1,
            SearchResult::Impossible { placed, stuck } => {
                let stuck: Vec<_> =
                    stuck.iter().map(|&i| (plain[i], &history.calls()[steps[i].0])).take(8).collect();
                let found =
                    format!("key {key:?}: after {placed} of {} calls none fits: {stuck:?}", plain.len());
                return Err(("the calls of each key fit one order", found));
            }
        }
    }
    Ok(undecided)
}

impl Names {
    fn name(&mut self, value: &Bytes) -> u32 {
        let next = u32::try_from(self.values.len()).expect("a run has fewer calls");
        *self.values.entry(value.clone()).or_insert(next)
    }

    fn learn(&mut self, call: &RecordedCall) {
        match &call.action {
            Action::Write(Command::Put { value, .. }) => {
                self.name(value);
            }
            Action::Write(Command::Transaction(transaction)) => {
                for step in transaction.then.iter().chain(&transaction.otherwise) {
                    if let message::TransactionStep::Put { value, .. } = step {
                        self.name(value);
                    }
                }
            }
            _ => {}
        }
        match (&call.action, call.ended.as_ref().map(|ended| &ended.ending)) {
            (Action::Write(Command::Put { key, value, .. }), Some(Ending::Put(revision))) => {
                self.recorded(key, *revision, value);
            }
            (
                Action::Write(Command::Transaction(transaction)),
                Some(Ending::Transacted { succeeded: held, revision, .. }),
            ) => {
                for step in if *held { &transaction.then } else { &transaction.otherwise } {
                    if let message::TransactionStep::Put { key, value, .. } = step {
                        self.recorded(key, *revision, value);
                    }
                }
            }
            (Action::Get { key, .. }, Some(Ending::Value { record: Some(record), .. })) => {
                self.recorded(key, record.modified, &record.value);
            }
            // Some of these contain no values.
            (Action::Past { .. }, _) => {}
            (_, Some(Ending::Records { records, .. })) => {
                for (key, record) in records {
                    self.recorded(key, record.modified, &record.value);
                }
            }
            _ => {}
        }
    }

    fn recorded(&mut self, key: &Bytes, revision: Revision, value: &Bytes) {
        let name = self.name(value);
        self.revisions.insert((key.clone(), revision), name);
    }

    fn at(&self, key: &Bytes, revision: Revision) -> Option<u32> {
        self.revisions.get(&(key.clone(), revision)).copied()
    }

    fn condition(&self, key: &Bytes, condition: Option<&Condition>) -> KeyCondition {
        let is = |name: Option<u32>| name.map_or(KeyCondition::Impossible, KeyCondition::Is);
        match condition {
            None => KeyCondition::None,
            Some(Condition::Absent) => KeyCondition::Absent,
            Some(Condition::Present) => KeyCondition::Present,
            Some(Condition::Revision(revision)) => is(self.at(key, *revision)),
            // Clients use it only in transactions, whose conditions are not checked here.
            Some(Condition::Created(_) | Condition::Held(_)) => KeyCondition::Present,
            Some(Condition::Value(value)) => is(self.values.get(value).copied()),
        }
    }

    /// The call as operations on its keys, if its result must be correct.
    fn steps(&self, call: &RecordedCall) -> Vec<(Bytes, KeyOperation)> {
        let ending = call.ended.as_ref().map(|ended| &ended.ending);
        if call.action.is_local() || matches!(ending, Some(Ending::NotApplied)) {
            return Vec::new();
        }
        let acts = match (&call.action, ending) {
            (Action::Write(Command::Transaction(transaction)), ending) => {
                self.transacted(transaction, ending)
            }
            (Action::Write(Command::Put { key, value, condition, .. }), ending) => {
                let to = self.values.get(value).copied();
                vec![(key.clone(), self.write(key, to, condition.as_ref(), ending))]
            }
            (Action::Write(Command::Delete { key, condition }), ending) => {
                vec![(key.clone(), self.write(key, None, condition.as_ref(), ending))]
            }
            (Action::Get { key, .. }, Some(Ending::Value { record, .. })) => {
                let read = Act::Read(record.as_ref().map(|record| self.values[&record.value]));
                vec![(key.clone(), read)]
            }
            (Action::Many { keys, .. }, Some(Ending::Records { records, .. })) => {
                let there: HashMap<&Bytes, u32> =
                    records.iter().map(|(key, record)| (key, self.values[&record.value])).collect();
                keys.iter().map(|key| (key.clone(), Act::Read(there.get(key).copied()))).collect()
            }
            // Calls on ranges: see below.
            (
                Action::Close
                | Action::Get { .. }
                | Action::Many { .. }
                | Action::Scan { .. }
                | Action::Past { .. }
                // The replay compares what a touch found. It changes no value.
                | Action::Write(Command::DeleteRange { .. } | Command::Lease(_) | Command::Touch { .. } | Command::SkipRevisions { .. }),
                _,
            ) => Vec::new(),
        };
        let end = call.ended.as_ref().map_or(u64::MAX, |ended| ended.at);
        let acts = acts.into_iter().chain(self.endings(&call.action));
        acts.map(|(key, act)| (key, KeyOperation { start: call.start, end, act })).collect()
    }

    /// A key that was put or touched with a time to live may be removed at any later time. The replay checks whether
    /// that is correct.
    fn endings(&self, action: &Action) -> Vec<(Bytes, Act)> {
        let (mut brief, mut touched) = (Vec::new(), Vec::new());
        match action {
            Action::Write(Command::Put { key, value, life, .. }) => brief.push((key, value, life)),
            Action::Write(Command::Touch { key, ttl_ms: Some(_), .. }) => touched.push(key),
            Action::Write(Command::Transaction(transaction)) => {
                for step in transaction.then.iter().chain(&transaction.otherwise) {
                    match step {
                        message::TransactionStep::Put { key, value, life } => brief.push((key, value, life)),
                        message::TransactionStep::Touch { key, ttl_ms: Some(_) } => touched.push(key),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        // Whatever value the key has by then.
        let touched = touched.into_iter().map(|key| {
            (key.clone(), Act::Write { to: None, condition: KeyCondition::Present, known: Known::Unknown })
        });
        let ends = brief.into_iter().filter(|(_, _, life)| **life != message::Lifetime::FOREVER);
        ends.filter_map(|(key, value, _)| {
            let condition = KeyCondition::Is(*self.values.get(value)?);
            Some((key.clone(), Act::Write { to: None, condition, known: Known::Unknown }))
        })
        .chain(touched)
        .collect()
    }

    /// What a transaction may have done to each key. Conditions on other keys, and counters, whose values are not
    /// unique, cannot be checked here; the replay checks them.
    fn transacted(&self, transaction: &TransactionRequest, ending: Option<&Ending>) -> Vec<(Bytes, Act)> {
        let (steps, results): (Vec<&message::TransactionStep>, _) = match ending {
            Some(Ending::StepFailed { .. } | Ending::ConditionFailed { .. }) => (Vec::new(), None),
            Some(Ending::Transacted { succeeded: true, results, .. }) => {
                (transaction.then.iter().collect(), Some(results))
            }
            Some(Ending::Transacted { succeeded: false, results, .. }) => {
                (transaction.otherwise.iter().collect(), Some(results))
            }
            _ => (transaction.then.iter().chain(&transaction.otherwise).collect(), None),
        };
        let known = |index: usize| match results.and_then(|results| results.get(index)) {
            Some(StepResult::Deleted { existed }) => Known::Done { existed: Some(*existed) },
            Some(_) => Known::Done { existed: None },
            None => Known::Unknown,
        };
        let acts = steps.into_iter().enumerate().filter_map(|(index, step)| {
            let (key, to) = match step {
                message::TransactionStep::Put { key, value, .. } => (key, self.values.get(value).copied()),
                message::TransactionStep::Delete { key } => (key, None),
                // The replay compares what these found.
                message::TransactionStep::Add { .. }
                | message::TransactionStep::Get { .. }
                | message::TransactionStep::Scan { .. }
                | message::TransactionStep::Touch { .. } => {
                    return None;
                }
            };
            let act = Act::Write { to, condition: KeyCondition::None, known: known(index) };
            Some((key.clone(), act))
        });
        acts.collect()
    }

    fn write(&self, key: &Bytes, to: Value, condition: Option<&Condition>, ending: Option<&Ending>) -> Act {
        let known = match ending {
            Some(Ending::Put(_)) => Known::Done { existed: None },
            Some(Ending::Deleted { existed, .. }) => Known::Done { existed: Some(*existed) },
            Some(Ending::ConditionFailed { found, .. }) => Known::Failed {
                found: match found {
                    None => Some(None),
                    Some(revision) => self.at(key, *revision).map(Some),
                },
            },
            _ => Known::Unknown,
        };
        let condition = match (condition, ending) {
            // A touch changes the revision and not the value: the condition may have failed at the value that the key
            // had at that revision. The replay checks whether it was right to fail.
            (Some(Condition::Revision(_)), Some(Ending::ConditionFailed { .. })) => KeyCondition::Impossible,
            (condition, _) => self.condition(key, condition),
        };
        Act::Write { to, condition, known }
    }

    /// The removal of a range, as a removal of each key in it. If the range held more than was removed, it is not known
    /// which keys were removed: each may have been left.
    fn range_deleted(&self, call: &RecordedCall, known: &[Bytes]) -> Vec<(Bytes, KeyOperation)> {
        let Action::Write(Command::DeleteRange { from, to, .. }) = &call.action else { return Vec::new() };
        let ending = call.ended.as_ref().map(|ended| &ended.ending);
        let done = match ending {
            Some(Ending::NotApplied) => return Vec::new(),
            Some(Ending::RangeDeleted { more: false, .. }) => Known::Done { existed: None },
            _ => Known::Unknown,
        };
        let act = Act::Write { to: None, condition: KeyCondition::None, known: done };
        let end = call.ended.as_ref().map_or(u64::MAX, |ended| ended.at);
        let inside = known.iter().filter(|key| *key >= from && to.as_ref().is_none_or(|to| *key < to));
        inside.map(|key| (key.clone(), KeyOperation { start: call.start, end, act })).collect()
    }

    /// A scan, as one read of each key that it covered.
    fn scanned(&self, call: &RecordedCall, known: &[Bytes]) -> Vec<(Bytes, KeyOperation)> {
        let (Action::Scan { from, to, local: false, .. }, Some(ended)) = (&call.action, &call.ended) else {
            return Vec::new();
        };
        let Ending::Records { records, more, .. } = &ended.ending else { return Vec::new() };
        let last = records.last().map(|(key, _)| key).filter(|_| *more);
        let covered = known.iter().filter(|key| {
            let inside = *key >= from && to.as_ref().is_none_or(|to| *key < to);
            inside && (!more || last.is_some_and(|last| *key <= last))
        });
        covered
            .map(|key| {
                let found = records.iter().find(|(other, _)| other == key);
                let seen = found.map(|(_, record)| self.values[&record.value]);
                (key.clone(), KeyOperation { start: call.start, end: ended.at, act: Act::Read(seen) })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kv_core::message::Record;

    fn r(revision: u64) -> Revision {
        Revision::new(revision)
    }

    fn put(key: &'static str, value: &'static str, condition: Option<Condition>) -> Action {
        let life = message::Lifetime::FOREVER;
        Action::Write(Command::Put { key: key.into(), value: value.into(), condition, life })
    }

    fn record(value: &'static str, revision: u64) -> Record {
        Record {
            value: value.into(),
            created: r(revision),
            modified: r(revision),
            version: 1,
            expires: None,
            lease: None,
        }
    }

    /// A call, its start, and its end and result.
    type Recorded = (Action, u64, Option<(u64, Ending)>);

    fn history(calls: Vec<Recorded>) -> History {
        let mut history = History::default();
        for (action, start, end) in calls {
            let call = history.begin(0, action, start);
            if let Some((at, ending)) = end {
                assert!(history.end(call, ending, at, r(100)));
            }
        }
        history
    }

    #[test]
    fn a_lost_write_is_found() {
        let get = Action::Get { key: "k".into(), local: false };
        let lost = history(vec![
            (put("k", "a", None), 0, Some((1, Ending::Put(r(1))))),
            (get.clone(), 2, Some((3, Ending::Value { record: None, revision: None }))),
        ]);
        assert!(check(&lost).is_err());
        let kept = history(vec![
            (put("k", "a", None), 0, Some((1, Ending::Put(r(1))))),
            (get, 2, Some((3, Ending::Value { record: Some(record("a", 1)), revision: None }))),
        ]);
        assert_eq!(check(&kept), Ok(0));
    }

    /// Seed 302 of a plan that is no longer drawn.
    #[test]
    fn a_keys_only_read_does_not_check_values() {
        let query = message::Query::Scan {
            from: "".into(),
            to: None,
            limit: 9,
            reverse: false,
            keys_only: true,
            at: Some(r(1)),
        };
        let keys =
            Ending::Records { records: vec![("k".into(), record("", 1))], more: false, revision: Some(r(1)) };
        let seen = history(vec![
            (put("k", "a", None), 0, Some((1, Ending::Put(r(1))))),
            (Action::Past { query, mode: message::ReadMode::Local }, 2, Some((3, keys))),
            (
                put("k", "b", Some(Condition::Absent)),
                4,
                Some((5, Ending::ConditionFailed { found: Some(r(1)), revision: None })),
            ),
        ]);
        assert_eq!(check(&seen), Ok(0));
    }

    #[test]
    fn two_swaps_of_one_revision_are_found() {
        let swaps = history(vec![
            (put("k", "a", None), 0, Some((1, Ending::Put(r(1))))),
            (put("k", "b", Some(Condition::Revision(r(1)))), 2, Some((5, Ending::Put(r(2))))),
            (put("k", "c", Some(Condition::Revision(r(1)))), 2, Some((5, Ending::Put(r(3))))),
        ]);
        assert!(check(&swaps).is_err());
    }

    #[test]
    fn a_scan_that_misses_a_key_is_found() {
        let scan = Action::Scan { from: "a".into(), to: None, limit: 10, local: false };
        let calls = |records: Vec<(Bytes, Record)>| {
            history(vec![
                (put("a", "1", None), 0, Some((1, Ending::Put(r(1))))),
                (put("b", "2", None), 0, Some((1, Ending::Put(r(2))))),
                (scan.clone(), 2, Some((3, Ending::Records { records, more: false, revision: None }))),
            ])
        };
        let (a, b) = (("a".into(), record("1", 1)), ("b".into(), record("2", 2)));
        assert_eq!(check(&calls(vec![a.clone(), b])), Ok(0));
        assert!(check(&calls(vec![a])).is_err());
    }

    #[test]
    fn an_open_write_may_have_happened_but_not_a_refused_one() {
        let get = Action::Get { key: "k".into(), local: false };
        let seen = Ending::Value { record: Some(record("a", 1)), revision: None };
        let open = history(vec![(put("k", "a", None), 0, None), (get.clone(), 2, Some((3, seen.clone())))]);
        assert_eq!(check(&open), Ok(0));
        let refused =
            history(vec![(put("k", "a", None), 0, Some((1, Ending::NotApplied))), (get, 2, Some((3, seen)))]);
        assert!(check(&refused).is_err());
    }
}
