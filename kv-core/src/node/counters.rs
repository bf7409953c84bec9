//! What a node counts for its [`Metrics`](super::Metrics). To count something never waits: each of these is one
//! addition to a number, or two to the numbers of a [`Recorder`].

use super::metrics::Durations;
use crate::ids::MemberId;
use crate::message::Latencies;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Counts durations.
#[derive(Debug)]
pub(super) struct Recorder {
    buckets: [AtomicU64; Latencies::BUCKETS],
    /// The sum. It would take 584 years to overflow, or a day if 200,000 calls always waited.
    nanos: AtomicU64,
}

impl Default for Recorder {
    fn default() -> Self {
        Self { buckets: [const { AtomicU64::new(0) }; Latencies::BUCKETS], nanos: AtomicU64::new(0) }
    }
}

impl Recorder {
    pub(super) fn add(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[Latencies::bucket(took)].fetch_add(1, Ordering::Relaxed);
        // Whoever reads this addition also reads the one above.
        self.nanos.fetch_add(nanos, Ordering::Release);
    }

    pub(super) fn latencies(&self) -> Latencies {
        Latencies::new(self.buckets.iter().map(|it| it.load(Ordering::Relaxed)))
    }

    pub(super) fn durations(&self) -> Durations {
        // The sum is read first, so that it contains no duration that the buckets do not.
        let sum = Duration::from_nanos(self.nanos.load(Ordering::Acquire));
        Durations::new(self.latencies(), sum)
    }
}

/// What the parts of a node count, except what belongs to the calls of clients (see [`Meter`](super::meter::Meter)).
#[derive(Debug)]
pub(super) struct Counters {
    /// The syncs of journal files.
    pub(super) journal_syncs: Arc<Recorder>,
    pub(super) commits: Recorder,
    pub(super) applies: Recorder,
    pub(super) checkpoints: Recorder,
    /// For each peer, from when entries were sent to it until it acknowledged them.
    acknowledgements: [OnceLock<Box<Recorder>>; 1 << u8::BITS],
    pub(super) view_changes: AtomicU64,
    pub(super) repairs: AtomicU64,
    pub(super) state_transfers: AtomicU64,
}

impl Counters {
    pub(super) fn new(journal_syncs: Arc<Recorder>) -> Self {
        Self {
            journal_syncs,
            commits: Recorder::default(),
            applies: Recorder::default(),
            checkpoints: Recorder::default(),
            acknowledgements: [const { OnceLock::new() }; 1 << u8::BITS],
            view_changes: AtomicU64::new(0),
            repairs: AtomicU64::new(0),
            state_transfers: AtomicU64::new(0),
        }
    }
}

impl Counters {
    /// From when entries were sent to this member until it acknowledged them. Members come and go.
    pub(super) fn acknowledgements(&self, peer: MemberId) -> &Recorder {
        self.acknowledgements[usize::from(peer.get())].get_or_init(Box::default)
    }
}

/// Counts one more.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

pub(super) fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorder_counts_and_adds_up() {
        let recorder = Recorder::default();
        for micros in [1, 3, 700, 700, 90_000_000] {
            recorder.add(Duration::from_micros(micros));
        }
        let found = recorder.durations();
        assert_eq!(found.latencies().count(), 5);
        assert_eq!(found.sum(), Duration::from_micros(90_001_404));
        let below = |limit| {
            let limit = Duration::from_micros(limit);
            found.buckets().find(|(end, _)| *end == limit).map(|(_, count)| count)
        };
        assert_eq!([2, 4, 512, 1024].map(below), [Some(1), Some(2), Some(2), Some(4)]);
        let (last, count) = found.buckets().last().expect("there are some");
        assert!(last > Duration::from_secs(30) && count == 4, "what takes longer is in no bucket: {last:?}");
    }
}
