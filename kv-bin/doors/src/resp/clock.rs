//! The cluster's clock, as far as a door knows it.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// After this time without a write, the two clocks may have drifted apart.
const VALID: Duration = Duration::from_secs(60);

/// How far the cluster's clock is, at least, ahead of a clock of this process: one that starts with the wall clock, and
/// then follows the monotonic clock. So a step of the wall clock has no effect.
#[derive(Debug)]
pub(crate) struct ClusterClock {
    start: Instant,
    /// The wall clock at `start`, in milliseconds since 1970.
    start_ms: i64,
    known: Mutex<Known>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// In milliseconds. Before the first write, the clocks count as equal.
    ahead: i64,
    /// When the last write was observed.
    at: Option<Instant>,
}

impl Default for ClusterClock {
    fn default() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::new(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}

impl ClusterClock {
    /// A clock whose wall clock shows this time now, in milliseconds since 1970.
    pub(crate) fn new(wall_ms: i64) -> Self {
        Self { start: Instant::now(), start_ms: wall_ms, known: Mutex::default() }
    }

    /// The time of this process, for [`observe`](Self::observe).
    pub(crate) fn local_ms(&self) -> i64 {
        self.start_ms.saturating_add(i64::try_from(self.start.elapsed().as_millis()).unwrap_or(i64::MAX))
    }

    fn known(&self) -> Known {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time on the cluster's clock, in milliseconds.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.local_ms().saturating_add(self.known().ahead)).unwrap_or(0)
    }

    /// Whether a write was observed lately. Otherwise, the time may be wrong by any amount.
    pub(crate) fn is_known(&self) -> bool {
        self.known().at.is_some_and(|at| at.elapsed() < VALID)
    }

    /// Takes the timestamp of a write into account, which was sent and answered at these local times. The write was
    /// applied between the two. So the timestamp bounds how far the cluster's clock is ahead, on both sides.
    pub(crate) fn observe(&self, sent: i64, answered: i64, timestamp: u64) {
        let timestamp = i64::try_from(timestamp).unwrap_or(i64::MAX);
        let (least, most) = (timestamp.saturating_sub(answered), timestamp.saturating_sub(sent));
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // The lower bound is taken: with a time that is too late, keys would end early.
        let is_possible = known.at.is_some() && (least..=most).contains(&known.ahead);
        let ahead = if is_possible { known.ahead } else { least };
        *known = Known { ahead, at: Some(Instant::now()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn writes_bound_how_far_the_clock_is_ahead() {
        let clock = ClusterClock::new(1000);
        assert!(!clock.is_known());
        assert_eq!(clock.now(), 1000);
        for (sent, answered, timestamp, ahead) in [
            (1000, 1010, 1005, -5),
            (1000, 1010, 5000, 3990),
            (1000, 1002, 4995, 3993),
            (1000, 1010, 5000, 3993),
            (1000, 1000, 1000, 0),
        ] {
            clock.observe(sent, answered, timestamp);
            assert_eq!(clock.known().ahead, ahead);
        }
        assert!(clock.is_known());
        tokio::time::advance(VALID).await;
        assert_eq!(clock.now(), 61_000);
        assert!(!clock.is_known());
    }
}
