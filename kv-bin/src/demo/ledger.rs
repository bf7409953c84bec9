//! The attempted and the acknowledged writes, and their comparison with the final content of the store.

use bytes::Bytes;
use kv_core::client::{Record, Revision};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

/// The result of a write, as its writer saw it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    /// It was applied at this revision.
    Acknowledged {
        /// The revision of the write.
        revision: Revision,
        /// When the writer received the answer; `None` while the writers were being stopped.
        at: Option<Instant>,
    },
    /// It may or may not have been applied.
    Unknown,
    /// It was not applied, and will not be.
    NotApplied,
}

/// A write and its result.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Attempt {
    /// The value that was put.
    pub(crate) value: Bytes,
    /// How it ended.
    pub(crate) ending: Ending,
}

/// All attempts of one writer, in order. Each attempt on a key puts a different value.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    keys: BTreeMap<Bytes, Vec<Attempt>>,
    /// Writes that the store refused although no other client writes their keys: an earlier one was applied twice.
    refused: Vec<String>,
}

/// The comparison of all ledgers with the store.
#[derive(Serialize, Clone, PartialEq, Debug, Default)]
pub(crate) struct LedgerReport {
    /// How many writes were tried.
    pub(crate) writes: u64,
    /// How many were acknowledged.
    pub(crate) acknowledged: u64,
    /// How many of these are not in the store as acknowledged.
    pub(crate) lost: u64,
    /// How many were applied more than once, or although they were reported as not applied.
    pub(crate) duplicated: u64,
    /// The longest time between two acknowledgements of any writers, in milliseconds to one decimal.
    pub(crate) outage_ms: f64,
    /// What is wrong, in words.
    #[serde(skip)]
    pub(crate) problems: Vec<String>,
}

impl Ledger {
    /// Records an attempt to put `value` under `key`.
    pub(crate) fn note(&mut self, key: Bytes, value: Bytes, ending: Ending) {
        self.keys.entry(key).or_default().push(Attempt { value, ending });
    }

    /// Records that a write was refused although it must not be.
    pub(crate) fn note_refused(&mut self, problem: String) {
        self.refused.push(problem);
    }
}

/// Compares the outcomes that the writers received with the content of the store: `store` is all of it.
pub(crate) fn compare(ledgers: &[Ledger], store: &BTreeMap<Bytes, Record>) -> LedgerReport {
    let mut verdict = LedgerReport::default();
    let mut revisions: HashMap<Revision, &Bytes> = HashMap::new();
    let mut times = Vec::new();
    for ledger in ledgers {
        for problem in &ledger.refused {
            verdict.duplicated += 1;
            verdict.problems.push(problem.clone());
        }
        for (key, attempts) in &ledger.keys {
            verdict.check_key(key, attempts, store.get(key));
            for attempt in attempts {
                if let Ending::Acknowledged { revision, at } = attempt.ending {
                    times.extend(at);
                    if let Some(other) = revisions.insert(revision, key) {
                        verdict.duplicate(1, format!("{key:?} and {other:?} both have revision {revision}"));
                    }
                }
            }
        }
    }
    let known = |key: &Bytes| ledgers.iter().any(|ledger| ledger.keys.contains_key(key));
    for key in store.keys().filter(|key| !known(key)) {
        verdict.duplicate(1, format!("{key:?} is in the store, and nobody wrote it"));
    }
    times.sort_unstable();
    let longest_gap = times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
    verdict.outage_ms = (longest_gap.as_secs_f64() * 10_000.0).round() / 10.0;
    verdict
}

impl LedgerReport {
    /// Returns whether every guarantee was kept.
    pub(crate) fn is_good(&self) -> bool {
        self.lost == 0 && self.duplicated == 0 && self.problems.is_empty()
    }

    fn duplicate(&mut self, count: u64, problem: String) {
        self.duplicated += count;
        self.problems.push(problem);
    }

    fn lose(&mut self, count: u64, problem: String) {
        self.lost += count;
        self.problems.push(problem);
    }

    /// One writer made the attempts on this key, each after the one before had ended. The key's version counts how many
    /// were applied, and its record is that of the last one.
    fn check_key(&mut self, key: &Bytes, attempts: &[Attempt], record: Option<&Record>) {
        let acknowledged: Vec<Revision> = attempts.iter().filter_map(Attempt::revision).collect();
        let unknown = attempts.iter().filter(|attempt| attempt.ending == Ending::Unknown).count() as u64;
        let least = acknowledged.len() as u64;
        self.writes += attempts.len() as u64;
        self.acknowledged += least;
        let version = record.map_or(0, |record| record.version);
        if version < least {
            let missing = least - version;
            self.lose(
                missing,
                format!("{key:?} was written {version} times, {least} writes were acknowledged"),
            );
        }
        if version > least + unknown {
            let extra = version - least - unknown;
            let most = least + unknown;
            self.duplicate(
                extra,
                format!("{key:?} was written {version} times, at most {most} writes can have been"),
            );
        }
        if let Some(pair) = acknowledged.windows(2).find(|pair| pair[0] > pair[1]) {
            self.duplicate(1, format!("{key:?} got revision {} and later {}", pair[0], pair[1]));
        }
        if let Some(record) = record.filter(|_| (least..=least + unknown).contains(&version)) {
            self.check_last(key, attempts, record);
        }
    }

    /// The record must be that of the last applied write: the last acknowledged one, or a later one with an unknown
    /// outcome.
    fn check_last(&mut self, key: &Bytes, attempts: &[Attempt], record: &Record) {
        if record.version == 1 && record.created != record.modified {
            self.duplicate(1, format!("{key:?} was written once, but changed after it was created"));
        }
        let last = attempts.iter().rposition(|attempt| attempt.revision().is_some());
        let candidates = &attempts[last.unwrap_or(0)..];
        let fits = |attempt: &Attempt| match attempt.ending {
            Ending::Acknowledged { revision, .. } => {
                attempt.value == record.value && revision == record.modified
            }
            Ending::Unknown => attempt.value == record.value,
            Ending::NotApplied => false,
        };
        // A write with an unknown outcome may also be applied late, after later writes were acknowledged.
        let late = |attempt: &Attempt| attempt.ending == Ending::Unknown && attempt.value == record.value;
        if candidates.iter().any(fits) || attempts.iter().any(late) {
            return;
        }
        let was_refused = attempts
            .iter()
            .any(|attempt| attempt.ending == Ending::NotApplied && attempt.value == record.value);
        let text = format!(
            "{key:?} holds {:?} of revision {}, which was not written last",
            record.value, record.modified
        );
        if was_refused { self.duplicate(1, text) } else { self.lose(1, text) }
    }
}

impl Attempt {
    fn revision(&self) -> Option<Revision> {
        match self.ending {
            Ending::Acknowledged { revision, .. } => Some(revision),
            Ending::Unknown | Ending::NotApplied => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acknowledged(revision: u64) -> Ending {
        Ending::Acknowledged { revision: Revision::new(revision), at: Some(Instant::now()) }
    }

    fn record(value: &str, created: u64, modified: u64, version: u64) -> Record {
        Record {
            value: Bytes::copy_from_slice(value.as_bytes()),
            created: Revision::new(created),
            modified: Revision::new(modified),
            version,
            expires: None,
            lease: None,
        }
    }

    /// How many attempts on key `k` count as lost and duplicated (values are `0`, `1`, ...) if the store holds `found`
    /// there.
    fn lost_and_duplicated(endings: &[Ending], found: Option<Record>) -> (u64, u64) {
        let mut ledger = Ledger::default();
        for (n, ending) in endings.iter().enumerate() {
            ledger.note(Bytes::from_static(b"k"), Bytes::from(n.to_string()), ending.clone());
        }
        let store = found.into_iter().map(|record| (Bytes::from_static(b"k"), record)).collect();
        let report = compare(&[ledger], &store);
        assert_eq!(report.is_good(), report.lost + report.duplicated == 0, "{report:?}");
        (report.lost, report.duplicated)
    }

    #[test]
    fn a_present_acknowledged_write_is_accepted() {
        assert_eq!(lost_and_duplicated(&[acknowledged(5)], Some(record("0", 5, 5, 1))), (0, 0));
        assert_eq!(
            lost_and_duplicated(&[acknowledged(5), acknowledged(9)], Some(record("1", 5, 9, 2))),
            (0, 0)
        );
    }

    #[test]
    fn a_missing_acknowledged_write_counts_as_lost() {
        assert_eq!(lost_and_duplicated(&[acknowledged(5)], None), (1, 0));
        assert_eq!(
            lost_and_duplicated(&[acknowledged(5), acknowledged(9)], Some(record("0", 5, 5, 1))),
            (1, 0)
        );
        assert_eq!(
            lost_and_duplicated(&[acknowledged(5)], Some(record("0", 6, 6, 1))),
            (1, 0),
            "another revision"
        );
    }

    #[test]
    fn a_write_applied_twice_counts_as_duplicated() {
        assert_eq!(lost_and_duplicated(&[acknowledged(5)], Some(record("0", 5, 5, 2))), (0, 1));
        assert_eq!(lost_and_duplicated(&[Ending::Unknown], Some(record("0", 5, 6, 2))), (0, 1));
        assert_eq!(
            lost_and_duplicated(&[acknowledged(5), acknowledged(5)], Some(record("1", 5, 5, 2))),
            (0, 1),
            "one revision, two writes"
        );
    }

    #[test]
    fn a_write_of_unknown_outcome_may_be_present_or_absent() {
        assert_eq!(lost_and_duplicated(&[Ending::Unknown], None), (0, 0));
        assert_eq!(lost_and_duplicated(&[Ending::Unknown], Some(record("0", 5, 5, 1))), (0, 0));
        assert_eq!(
            lost_and_duplicated(&[acknowledged(5), Ending::Unknown], Some(record("0", 5, 5, 1))),
            (0, 0)
        );
        assert_eq!(
            lost_and_duplicated(&[acknowledged(5), Ending::Unknown], Some(record("1", 5, 7, 2))),
            (0, 0)
        );
        assert_eq!(
            lost_and_duplicated(&[Ending::Unknown, acknowledged(5)], Some(record("0", 5, 7, 2))),
            (0, 0),
            "late, but once"
        );
    }

    #[test]
    fn a_write_reported_as_not_applied_must_be_absent() {
        assert_eq!(lost_and_duplicated(&[Ending::NotApplied], None), (0, 0));
        assert_ne!(lost_and_duplicated(&[Ending::NotApplied], Some(record("0", 5, 5, 1))), (0, 0));
    }

    #[test]
    fn a_key_that_nobody_wrote_is_found() {
        let store = [(Bytes::from_static(b"x"), record("0", 1, 1, 1))].into_iter().collect();
        assert_eq!(compare(&[], &store).duplicated, 1);
    }

    #[test]
    fn the_outage_is_the_longest_gap_between_acknowledgements() {
        let start = Instant::now();
        let mut ledgers = [Ledger::default(), Ledger::default()];
        for (n, ms) in [0u64, 10, 40, 45].into_iter().enumerate() {
            let ending = Ending::Acknowledged {
                revision: Revision::new(n as u64 + 1),
                at: Some(start + std::time::Duration::from_millis(ms)),
            };
            ledgers[n % 2].note(Bytes::from(n.to_string()), Bytes::new(), ending);
        }
        assert_eq!(compare(&ledgers, &BTreeMap::new()).outage_ms, 30.0);
    }
}
