//! The cluster's clock, as far as a door knows it.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// The wall clock of this machine, in milliseconds since 1970.
pub(crate) fn local_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// How far the cluster's clock is ahead of the wall clock of this machine. Before the first write, they count as equal,
/// because the cluster's clock begins with the wall clock of a member.
#[derive(Debug, Default)]
pub(crate) struct ClusterClock {
    ahead: AtomicI64,
}

impl ClusterClock {
    /// The time on the cluster's clock, in milliseconds.
    pub(crate) fn now(&self) -> u64 {
        let now = local_ms().saturating_add(self.ahead.load(Ordering::Relaxed));
        u64::try_from(now).unwrap_or(0)
    }

    /// Takes the timestamp of a write into account, which was sent and answered at these local times. The write was
    /// applied between the two. So the timestamp bounds how far the cluster's clock is ahead, on both sides.
    pub(crate) fn observe(&self, sent: i64, answered: i64, timestamp: u64) {
        let timestamp = i64::try_from(timestamp).unwrap_or(i64::MAX);
        let (least, most) = (timestamp.saturating_sub(answered), timestamp.saturating_sub(sent));
        let ahead = self.ahead.load(Ordering::Relaxed);
        // The wall clock may have been set back while the write was in flight.
        let better = if least <= most { ahead.clamp(least, most) } else { most };
        if better != ahead {
            self.ahead.store(better, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_bound_how_far_the_clock_is_ahead() {
        let clock = ClusterClock::default();
        clock.observe(1000, 1010, 1005);
        assert_eq!(clock.ahead.load(Ordering::Relaxed), 0);
        clock.observe(1000, 1010, 5000);
        assert_eq!(clock.ahead.load(Ordering::Relaxed), 3990);
        clock.observe(1000, 1002, 4995);
        assert_eq!(clock.ahead.load(Ordering::Relaxed), 3993);
        clock.observe(1000, 900, 1000);
        assert_eq!(clock.ahead.load(Ordering::Relaxed), 0);
    }
}
