//! Elapsed time, including the time while the machine was suspended.
//!
//! On Linux, the monotonic clock and all timers stop while the machine is suspended. With that clock alone, a lock
//! holder that was suspended for an hour would believe that it still holds the lock. The boot-time clock does not stop.

use std::time::Duration;
use tokio::time::Instant;

/// The longest time between two checks of the elapsed time. Timers stop while the machine is suspended. So the first
/// check after a suspension comes at most this long after the machine resumes.
const SLICE: Duration = Duration::from_secs(1);

/// A start time on two clocks: tokio's clock, which tests can pause and advance, and the boot-time clock, if there is
/// one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Since {
    tokio: Instant,
    boot: Option<Duration>,
}

impl Since {
    /// Returns the present time as a start time.
    pub(crate) fn now() -> Self {
        Self { tokio: Instant::now(), boot: boot() }
    }

    /// Returns the time since the start, on the clock on which more time has passed.
    pub(crate) fn elapsed(&self) -> Duration {
        more(self.tokio.elapsed(), self.boot, boot())
    }

    /// Waits until this much time has passed since the start. If the machine was suspended, this may return up to a
    /// second late.
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

/// Returns the longer of two times: `tokio`, which has passed on tokio's clock, and the time from `since` to `now` on
/// the boot-time clock.
fn more(tokio: Duration, since: Option<Duration>, now: Option<Duration>) -> Duration {
    let boot = now.zip(since).map(|(now, since)| now.saturating_sub(since));
    tokio.max(boot.unwrap_or_default())
}

/// Returns the time since the machine was booted. Returns `None` if there is no boot-time clock. Also returns `None` in
/// tests, which use only tokio's clock.
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
    fn time_during_a_suspension_counts() {
        let seconds = Duration::from_secs;
        assert_eq!(more(seconds(5), Some(seconds(100)), Some(seconds(3_705))), seconds(3_605));
        assert_eq!(more(seconds(5), Some(seconds(100)), Some(seconds(104))), seconds(5), "a clock of a test");
        assert_eq!(more(seconds(5), None, None), seconds(5));
    }

    #[tokio::test(start_paused = true)]
    async fn long_waits_are_split_and_end_exactly_on_time() {
        let since = Since::now();
        since.reaches(Duration::from_millis(2_500)).await;
        assert_eq!(since.elapsed(), Duration::from_millis(2_500));
        since.reaches(Duration::from_secs(1)).await;
        assert_eq!(since.elapsed(), Duration::from_millis(2_500), "it had passed");
    }
}
