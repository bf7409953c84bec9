//! Statistics about a member's clients: how many calls it answered, and how long they took.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The present clients of a member, and the calls that the member has answered since it started.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Load {
    /// The number of connected clients.
    pub clients: u64,
    /// The number of watches of these clients that wait for a change.
    pub watches: u64,
    /// The reads that the member has answered, except the gets that were answered in the task of the caller (see
    /// [`Node::client`](crate::Node::client)).
    pub reads: Latencies,
    /// The writes that the member has answered.
    pub writes: Latencies,
}

/// A histogram of the durations of calls. The duration of a call is the time from when the member has read the call
/// until it has the answer. It does not include the time on the network. There are two buckets for each doubling of the
/// duration, so a quantile is at most 1.5 times the true value.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Latencies {
    buckets: Vec<u64>,
}

impl Latencies {
    /// The last bucket ends after a minute, and also contains everything beyond.
    pub(crate) const BUCKETS: usize = 52;

    /// The bucket for a call that took this long.
    pub(crate) fn bucket(took: Duration) -> usize {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        let doublings = micros.ilog2();
        let upper_half = doublings > 0 && micros >> (doublings - 1) & 1 == 1;
        (2 * doublings as usize + usize::from(upper_half)).min(Self::BUCKETS - 1)
    }

    /// The upper end of a bucket.
    fn end(bucket: usize) -> Duration {
        // A message from the network may contain more buckets.
        let bucket = bucket.min(Self::BUCKETS - 1);
        let base = 1_u64 << (bucket / 2);
        let micros = if bucket % 2 == 1 { 2 * base } else { base + base.div_ceil(2) };
        Duration::from_micros(micros)
    }

    /// Creates a histogram from the number of calls in each bucket.
    pub(crate) fn new(counts: impl IntoIterator<Item = u64>) -> Self {
        let mut buckets: Vec<u64> = counts.into_iter().collect();
        let used = buckets.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
        buckets.truncate(used);
        Self { buckets }
    }

    /// How many durations were shorter than each power of two, in microseconds, from 2 µs to about half a minute.
    pub(crate) fn doublings(&self) -> impl Iterator<Item = (Duration, u64)> {
        let mut pairs = self.buckets.chunks(2);
        let mut seen = 0_u64;
        (1..Self::BUCKETS / 2).map(move |power| {
            let both = pairs.next().unwrap_or_default();
            seen = both.iter().fold(seen, |sum, count| sum.saturating_add(*count));
            (Duration::from_micros(1 << power), seen)
        })
    }

    /// Returns the total number of calls.
    pub fn count(&self) -> u64 {
        self.buckets.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Returns the calls that the member has answered since it reported `earlier`. If the member has restarted since
    /// then, returns all calls since the restart.
    pub fn since(&self, earlier: &Self) -> Self {
        let before = |bucket: usize| earlier.buckets.get(bucket).copied().unwrap_or(0);
        let later = self.buckets.iter().enumerate().map(|(bucket, count)| count.checked_sub(before(bucket)));
        match later.collect::<Option<Vec<u64>>>() {
            Some(counts) if earlier.buckets.len() <= self.buckets.len() => Self::new(counts),
            _ => self.clone(),
        }
    }

    /// Returns a duration that this share of the calls did not exceed. For example, 0.5 is half of the calls. Returns
    /// `None` if there were no calls.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let all = self.count();
        if all == 0 {
            return None;
        }
        let mut seen = 0_u64;
        let bucket = self.buckets.iter().position(|count| {
            seen = seen.saturating_add(*count);
            seen as f64 >= share * all as f64
        });
        Some(Self::end(bucket.unwrap_or(self.buckets.len() - 1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(calls: &[u64]) -> Latencies {
        let mut counts = [0; Latencies::BUCKETS];
        for micros in calls {
            counts[Latencies::bucket(Duration::from_micros(*micros))] += 1;
        }
        Latencies::new(counts)
    }

    #[test]
    fn each_call_is_in_a_bucket_that_ends_after_it_and_not_far_from_it() {
        let mut last = 0;
        for micros in (1..5000).chain([60_000_000]) {
            let bucket = Latencies::bucket(Duration::from_micros(micros));
            let end = Latencies::end(bucket).as_micros() as f64;
            let micros = micros as f64;
            assert!(end > micros && end <= 1.5 * micros.max(2.0), "{micros} in a bucket that ends at {end}");
            assert!(bucket >= last, "in order");
            last = bucket;
        }
        assert_eq!(Latencies::bucket(Duration::ZERO), 0);
        assert_eq!(Latencies::bucket(Duration::MAX), Latencies::BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_those_of_the_calls_since() {
        let before = of(&[100; 10]);
        let after = of(&[[100; 10].as_slice(), &[1000; 98], &[50_000; 2]].concat());
        let since = after.since(&before);
        assert_eq!((since.count(), before.since(&before).count()), (100, 0));
        assert_eq!(since.quantile(0.5), Some(Duration::from_micros(1024)));
        assert!(since.quantile(0.99) > Some(Duration::from_millis(50)));
        assert_eq!(of(&[]).quantile(0.5), None);
        assert_eq!(before.since(&after), before, "a restarted one");
    }
}
