//! The node's clocks, for the replica that has none.

use crate::ids::{Instant, Timestamp};
use crate::replica::Now;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Monotonic time since the node started, and wall time. tokio's clock, so that tests may stop it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    started: tokio::time::Instant,
}

impl Clock {
    /// Starts at zero.
    pub(super) fn start() -> Self {
        Self { started: tokio::time::Instant::now() }
    }

    /// What the replica is told.
    pub(super) fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall = u64::try_from(wall.as_millis()).unwrap_or(u64::MAX);
        Now { monotonic: self.monotonic(), wall: Timestamp::new(wall) }
    }

    /// Since the start.
    pub(super) fn monotonic(&self) -> Instant {
        Instant::ZERO.after(self.started.elapsed())
    }

    /// The point at which tokio's timers fire for `at`; `None` if it is further than anyone waits.
    pub(super) fn timer(&self, at: Instant) -> Option<tokio::time::Instant> {
        let after = at.since(Instant::ZERO);
        (after < Duration::from_secs(1 << 32)).then(|| self.started + after)
    }
}
