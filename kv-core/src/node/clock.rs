//! The node's clocks, for the replica that has none.

use crate::client::elapsed::Since;
use crate::ids::{Instant, Timestamp};
use crate::replica::Now;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Monotonic time since the node started, and wall time. tokio's clock, so that tests may stop it; on Linux it goes on while the machine is
/// suspended (rules R4 to R6).
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    started: Since,
    /// The wall clock is the monotonic one, from this time on.
    #[cfg(feature = "testing")]
    since: Option<Duration>,
}

impl Clock {
    /// Starts at zero.
    pub(super) fn start() -> Self {
        Self {
            started: Since::now(),
            #[cfg(feature = "testing")]
            since: None,
        }
    }

    /// A wall clock that stands still, leaps and goes on with tokio's, the same for all nodes that have the same `origin`.
    #[cfg(feature = "testing")]
    pub(super) fn of_test(origin: tokio::time::Instant) -> Self {
        // The first of January, 2000.
        const WALL: Duration = Duration::from_secs(946_684_800);
        Self { started: Since::now(), since: Some(WALL + origin.elapsed()) }
    }

    /// Since 1970.
    pub(super) fn wall(&self) -> Duration {
        #[cfg(feature = "testing")]
        if let Some(since) = self.since {
            return since + self.started.elapsed();
        }
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }

    /// The time that the replica gets.
    pub(super) fn now(&self) -> Now {
        let wall = u64::try_from(self.wall().as_millis()).unwrap_or(u64::MAX);
        Now { monotonic: self.monotonic(), wall: Timestamp::new(wall) }
    }

    /// Since the start.
    pub(super) fn monotonic(&self) -> Instant {
        Instant::ZERO.after(self.started.elapsed())
    }

    /// The point at which tokio's timers fire for `at`; `None` if it is further than anyone waits.
    pub(super) fn timer(&self, at: Instant) -> Option<tokio::time::Instant> {
        let left = at.since(self.monotonic());
        (left < Duration::from_secs(1 << 32)).then(|| tokio::time::Instant::now() + left)
    }
}
