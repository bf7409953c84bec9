//! Statistics about this node's clients, counted where answers pass.

use super::counters::{Recorder, count, read};
use super::metrics::{RequestCount, RequestKind, RequestOutcome};
use crate::message::{Answer, Load};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The counters. Adding to one never blocks.
#[derive(Debug, Default)]
pub(super) struct Meter {
    pub(super) clients: AtomicU64,
    /// The reads and the writes that were carried out.
    pub(super) reads: Recorder,
    pub(super) writes: Recorder,
    /// All other answered calls, by kind and outcome.
    others: [[AtomicU64; RequestOutcome::ALL.len()]; RequestKind::ALL.len()],
}

impl Meter {
    /// Counts an answered call, with the answer that the client gets. How long it took counts only for reads and writes
    /// that were carried out.
    pub(super) fn note(&self, kind: RequestKind, answer: &Answer, took: Duration) {
        let outcome = outcome(answer);
        match self.recorder(kind, outcome) {
            Some(recorder) => recorder.add(took),
            None => count(&self.others[kind as usize][outcome as usize]),
        }
    }

    fn recorder(&self, kind: RequestKind, outcome: RequestOutcome) -> Option<&Recorder> {
        match (kind, outcome) {
            (RequestKind::Read, RequestOutcome::Done) => Some(&self.reads),
            (RequestKind::Write, RequestOutcome::Done) => Some(&self.writes),
            _ => None,
        }
    }

    pub(super) fn load(&self, watches: usize) -> Load {
        Load {
            clients: self.clients.load(Ordering::Relaxed),
            watches: watches as u64,
            reads: self.reads.latencies(),
            writes: self.writes.latencies(),
        }
    }

    /// All counts.
    pub(super) fn requests(&self) -> Vec<RequestCount> {
        let each = RequestKind::ALL
            .into_iter()
            .flat_map(|kind| RequestOutcome::ALL.into_iter().map(move |outcome| (kind, outcome)));
        let counted = each.map(|(kind, outcome)| RequestCount {
            kind,
            outcome,
            count: match self.recorder(kind, outcome) {
                Some(recorder) => recorder.latencies().count(),
                None => read(&self.others[kind as usize][outcome as usize]),
            },
        });
        counted.collect()
    }
}

const fn outcome(answer: &Answer) -> RequestOutcome {
    match answer {
        Answer::Value { .. }
        | Answer::Records { .. }
        | Answer::Counted { .. }
        | Answer::Written(Ok(_))
        | Answer::Watched { .. }
        | Answer::Status(_)
        | Answer::Members(_)
        | Answer::Done => RequestOutcome::Done,
        Answer::Written(Err(_)) => RequestOutcome::Rejected,
        Answer::Compacted { .. } | Answer::Future { .. } => RequestOutcome::NoRevision,
        Answer::NotPrimary { .. } => RequestOutcome::NotPrimary,
        Answer::Abandoned => RequestOutcome::Unknown,
        Answer::Overloaded => RequestOutcome::Overloaded,
        Answer::Refused(_) | Answer::HandoverRefused(_) | Answer::ChangeRefused { .. } => {
            RequestOutcome::Refused
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Revision;

    #[test]
    fn calls_are_counted_by_kind_and_outcome() {
        let meter = Meter::default();
        let value = Answer::Value { record: None, revision: Revision::ZERO };
        let took = Duration::from_millis(1);
        for (kind, answer, times) in [
            (RequestKind::Read, value, 3),
            (RequestKind::Read, Answer::Overloaded, 2),
            (RequestKind::Write, Answer::Abandoned, 1),
            (RequestKind::Admin, Answer::Done, 4),
        ] {
            (0..times).for_each(|_| meter.note(kind, &answer, took));
        }
        let counted = meter.requests();
        assert_eq!(counted.len(), RequestKind::ALL.len() * RequestOutcome::ALL.len());
        let mut found: Vec<_> = counted.iter().filter(|it| it.count > 0).collect();
        found.sort_by_key(|it| it.count);
        let found: Vec<_> = found.iter().map(|it| (it.kind.name(), it.outcome.name(), it.count)).collect();
        let wanted =
            [("write", "unknown", 1), ("read", "overloaded", 2), ("read", "done", 3), ("admin", "done", 4)];
        assert_eq!(found, wanted);
        assert_eq!(meter.reads.durations().sum(), 3 * took);
        for (at, kind) in RequestKind::ALL.into_iter().enumerate() {
            assert_eq!(at, kind as usize, "the place of its counts");
        }
        for (at, outcome) in RequestOutcome::ALL.into_iter().enumerate() {
            assert_eq!(at, outcome as usize, "the place of its counts");
        }
    }
}
