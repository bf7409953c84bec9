//! The clocks of a node. The replica itself reads no clock.

use crate::client::elapsed::Since;
use crate::ids::{Instant, Timestamp};
use crate::replica::Now;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The monotonic time since the node started, and the wall time. It uses tokio's clock, so that tests can pause it.
/// On Linux, that clock continues while the machine is suspended (rules R4 to R6).
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    started: Since,
    /// In a test: the wall clock is the monotonic clock, plus this offset.
    #[cfg(feature = "testing")]
    since: Option<Duration>,
}

impl Clock {
    /// Starts the clock at zero.
    pub(super) fn start() -> Self {
        Self {
            started: Since::now(),
            #[cfg(feature = "testing")]
            since: None,
        }
    }

    /// A wall clock that pauses and advances with tokio's clock, and is the same for all nodes with the same
    /// `origin`.
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

    /// The current time, as the replica needs it.
    pub(super) fn now(&self) -> Now {
        let wall = u64::try_from(self.wall().as_millis()).unwrap_or(u64::MAX);
        Now { monotonic: self.monotonic(), wall: Timestamp::new(wall) }
    }

    /// The monotonic time since the start.
    pub(super) fn monotonic(&self) -> Instant {
        Instant::ZERO.after(self.started.elapsed())
    }

    /// The time at which tokio's timers fire for `at`; `None` if it is too far in the future.
    pub(super) fn timer(&self, at: Instant) -> Option<tokio::time::Instant> {
        let left = at.since(self.monotonic());
        (left < Duration::from_secs(1 << 32)).then(|| tokio::time::Instant::now() + left)
    }
}
