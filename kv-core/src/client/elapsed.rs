//! Time that has passed, also while the machine was suspended.
//!
//! On Linux the monotonic clock stands still then, and so do all timers: a holder that slept for an hour would believe that it still
//! holds its lease. The boot-time clock goes on.

use std::time::Duration;
use tokio::time::Instant;

/// Timers stand still while the machine is suspended. Afterwards it takes this long, at most, until they are looked at.
const SLICE: Duration = Duration::from_secs(1);

/// A moment from which time is counted: by tokio's clock, which tests may stop and move, and by the boot-time clock where there is one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Since {
    tokio: Instant,
    boot: Option<Duration>,
}

impl Since {
    /// From now on.
    pub(crate) fn now() -> Self {
        Self { tokio: Instant::now(), boot: boot() }
    }

    /// The time since then, by the clock that shows more.
    pub(crate) fn elapsed(&self) -> Duration {
        more(self.tokio.elapsed(), self.boot, boot())
    }

    /// Returns when so much time has passed since then; within a second of it, if the machine was suspended meanwhile.
    ///
    /// Cancel safe.
    pub(crate) async fn reaches(&self, time: Duration) {
        loop {
            let left = time.saturating_sub(self.elapsed());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(SLICE)).await;
        }
    }
}

/// The time that has passed, by one clock, or by one that showed `since` and shows `now`.
fn more(tokio: Duration, since: Option<Duration>, now: Option<Duration>) -> Duration {
    let boot = now.zip(since).map(|(now, since)| now.saturating_sub(since));
    tokio.max(boot.unwrap_or_default())
}

/// Time since the machine was booted. `None` where there is no such clock, and in tests, whose clocks are tokio's.
fn boot() -> Option<Duration> {
    #[cfg(all(target_os = "linux", not(any(test, feature = "testing"))))]
    {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let (seconds, nanos) = (u64::try_from(now.tv_sec).ok()?, u32::try_from(now.tv_nsec).ok()?);
        Some(Duration::new(seconds, nanos))
    }
    #[cfg(not(all(target_os = "linux", not(any(test, feature = "testing")))))]
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_was_suspended_counts_the_time() {
        let seconds = Duration::from_secs;
        assert_eq!(more(seconds(5), Some(seconds(100)), Some(seconds(3_705))), seconds(3_605));
        assert_eq!(more(seconds(5), Some(seconds(100)), Some(seconds(104))), seconds(5), "a clock of a test");
        assert_eq!(more(seconds(5), None, None), seconds(5));
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_is_waited_for_in_pieces_and_reached_exactly() {
        let since = Since::now();
        since.reaches(Duration::from_millis(2_500)).await;
        assert_eq!(since.elapsed(), Duration::from_millis(2_500));
        since.reaches(Duration::from_secs(1)).await;
        assert_eq!(since.elapsed(), Duration::from_millis(2_500), "it had passed");
    }
}
