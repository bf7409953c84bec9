//! A timer for many short waits, one after the other.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};

/// Limits how long each of many waits may take. Nearly all of them end before their deadline, and most deadlines are
/// later than the deadline before. A timer that is set and cancelled for each wait costs more than most waits do. This
/// one stays set, and is set again only if it has fired too early, or would fire too late. Deadlines in any order work.
#[derive(Debug)]
pub(super) struct Patience {
    timer: Pin<Box<Sleep>>,
}

impl Patience {
    /// Creates one that fires first at about this time.
    pub(super) fn until(first: Instant) -> Self {
        Self { timer: Box::pin(sleep_until(first)) }
    }

    /// Does some work, until `deadline` at the latest.
    ///
    /// # Errors
    /// If the work has not ended by then. It is dropped.
    pub(super) async fn limit<T>(
        &mut self,
        deadline: Instant,
        work: impl Future<Output = T>,
    ) -> Result<T, Elapsed> {
        let mut work = pin!(work);
        let ended = poll_fn(|cx| {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(Some(done));
            }
            if self.timer.deadline() > deadline {
                self.timer.as_mut().reset(deadline);
            }
            while self.timer.as_mut().poll(cx).is_ready() {
                if self.timer.deadline() >= deadline {
                    return Poll::Ready(None);
                }
                self.timer.as_mut().reset(deadline);
            }
            Poll::Pending
        });
        match ended.await {
            Some(done) => Ok(done),
            // The time is over, so this gives the error at once.
            None => timeout_at(deadline, std::future::pending()).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};
    use std::time::Duration;
    use tokio::time::sleep;

    #[tokio::test(start_paused = true)]
    async fn each_wait_ends_at_its_own_deadline() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut patience = Patience::until(at(5));
        assert_eq!(patience.limit(at(5), ready(1)).await.ok(), Some(1));
        // Later than the timer is set, and it fires in between.
        let done = patience.limit(at(20), sleep(Duration::from_secs(10))).await;
        assert!(done.is_ok() && start.elapsed() == Duration::from_secs(10));
        // Earlier than the timer is set.
        patience.limit(at(13), pending::<()>()).await.expect_err("it never ends");
        assert_eq!(start.elapsed(), Duration::from_secs(13));
        // Nothing is left over from the deadline that has passed.
        patience.limit(at(40), pending::<()>()).await.expect_err("it never ends");
        assert_eq!(start.elapsed(), Duration::from_secs(40));
        patience.limit(at(30), pending::<()>()).await.expect_err("it is over");
        assert_eq!(start.elapsed(), Duration::from_secs(40));
    }
}
