//! A timer for many short waits, one after the other.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use tokio::time::error::Elapsed;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};

/// Limits how long each of many waits may take. Nearly all of them end before their deadline, and most deadlines are
/// later than the deadline before. A timer that is set and cancelled for each wait costs more than most waits do. This
/// one stays set, and is set again only if it has fired too early, or would fire too late. Deadlines in any order work.
#[derive(Debug)]
pub(crate) struct LazyTimer {
    timer: Pin<Box<Sleep>>,
}

impl LazyTimer {
    /// Creates one that fires first at about this time.
    pub(crate) fn new(first: Instant) -> Self {
        Self { timer: Box::pin(sleep_until(first)) }
    }

    /// Is ready once `deadline` has passed. Until then, the task is woken at the deadline or earlier.
    pub(crate) fn poll_until(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        if self.timer.deadline() > deadline {
            self.timer.as_mut().reset(deadline);
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            if self.timer.deadline() >= deadline {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(deadline);
        }
        Poll::Pending
    }

    /// Does some work, until `deadline` at the latest.
    ///
    /// # Errors
    /// If the work has not ended by then. It is dropped.
    pub(crate) async fn limit<T>(
        &mut self,
        deadline: Instant,
        work: impl Future<Output = T>,
    ) -> Result<T, Elapsed> {
        let mut work = pin!(work);
        let ended = poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending => self.poll_until(cx, deadline).map(|()| None),
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
        let mut timer = LazyTimer::new(at(5));
        assert_eq!(timer.limit(at(5), ready(1)).await.ok(), Some(1));
        // Later than the timer is set, and it fires in between.
        let done = timer.limit(at(20), sleep(Duration::from_secs(10))).await;
        assert!(done.is_ok() && start.elapsed() == Duration::from_secs(10));
        // Earlier than the timer is set.
        timer.limit(at(13), pending::<()>()).await.expect_err("it never ends");
        assert_eq!(start.elapsed(), Duration::from_secs(13));
        // Nothing is left over from the deadline that has passed.
        timer.limit(at(40), pending::<()>()).await.expect_err("it never ends");
        assert_eq!(start.elapsed(), Duration::from_secs(40));
        timer.limit(at(30), pending::<()>()).await.expect_err("it is over");
        assert_eq!(start.elapsed(), Duration::from_secs(40));
    }
}
