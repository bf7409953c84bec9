//! Statistics about this node's clients, counted where answers pass.

use crate::message::{Answer, Latencies, Load};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The counters. Adding to one never blocks.
#[derive(Debug)]
pub(super) struct Meter {
    pub(super) clients: AtomicU64,
    reads: [AtomicU64; Latencies::BUCKETS],
    writes: [AtomicU64; Latencies::BUCKETS],
}

impl Default for Meter {
    fn default() -> Self {
        let zeros = || [const { AtomicU64::new(0) }; Latencies::BUCKETS];
        Self { clients: AtomicU64::new(0), reads: zeros(), writes: zeros() }
    }
}

impl Meter {
    /// Counts an answered call. Calls that were not carried out do not count, and neither do watches.
    pub(super) fn note(&self, answer: &Answer, took: Duration) {
        let counts = match answer {
            Answer::Value { .. } | Answer::Records { .. } | Answer::Counted { .. } => &self.reads,
            Answer::Written(Ok(_)) => &self.writes,
            Answer::Written(Err(_))
            | Answer::Compacted { .. }
            | Answer::Future { .. }
            | Answer::Watched { .. }
            | Answer::Status(_)
            | Answer::Done
            | Answer::HandoverRefused(_)
            | Answer::NotPrimary { .. }
            | Answer::Abandoned
            | Answer::Overloaded
            | Answer::Refused(_) => return,
        };
        counts[Latencies::bucket(took)].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn load(&self, watches: usize) -> Load {
        let latencies =
            |counts: &[AtomicU64]| Latencies::new(counts.iter().map(|it| it.load(Ordering::Relaxed)));
        Load {
            clients: self.clients.load(Ordering::Relaxed),
            watches: watches as u64,
            reads: latencies(&self.reads),
            writes: latencies(&self.writes),
        }
    }
}
