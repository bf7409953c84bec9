//! A few threads for what may wait for the disk: reads of the state, old entries for peers that lag.

use super::quiet::Quiet;
use super::sync::Monitor;
use std::collections::VecDeque;
use std::fmt;

/// How many threads. Two, so that one slow read does not hold up the rest; more would only take cores from the members' work.
pub(super) const THREADS: usize = 2;

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Jobs {
    queue: VecDeque<Job>,
    closed: bool,
}

/// Bounded by those who hand in jobs: reads by the node's admission, entries by one job per peer and lane.
#[derive(Default)]
pub(super) struct Pool {
    jobs: Monitor<Jobs>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("waiting", &self.jobs.look(|jobs| jobs.queue.len())).finish()
    }
}

impl Pool {
    /// One whose threads `quiet` counts.
    pub(super) fn watched(quiet: &Quiet) -> Self {
        Self { jobs: Monitor::watched(quiet) }
    }

    /// Runs a job on one of the threads; never once the node has stopped.
    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) {
        let rejected = self.jobs.change_one(|jobs| {
            if jobs.closed {
                return Some(job);
            }
            jobs.queue.push_back(Box::new(job));
            None
        });
        // Dropped only here: what a job holds may take locks when it goes.
        drop(rejected);
    }

    /// What each thread does until the pool is closed.
    pub(super) fn work(&self) {
        while let Some(job) =
            self.jobs.wait(|jobs| if jobs.closed { Some(None) } else { jobs.queue.pop_front().map(Some) })
        {
            job();
        }
    }

    /// Ends the threads and forgets what waits.
    pub(super) fn close(&self) {
        let forgotten = self.jobs.change(|jobs| {
            jobs.closed = true;
            std::mem::take(&mut jobs.queue)
        });
        drop(forgotten);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::mpsc;
    use std::time::Duration;

    #[test]
    fn jobs_run_until_the_pool_is_closed_and_then_its_threads_end() {
        let pool = Arc::new(Pool::default());
        let worker = std::thread::spawn({
            let pool = pool.clone();
            move || pool.work()
        });
        let (done, finished) = mpsc::channel();
        for number in 0..10 {
            let done = done.clone();
            pool.run(move || done.send(number).expect("the test waits"));
        }
        let seen: Vec<i32> =
            (0..10).map(|_| finished.recv_timeout(Duration::from_secs(10)).expect("it runs")).collect();
        assert_eq!(seen, (0..10).collect::<Vec<_>>());
        pool.close();
        worker.join().expect("it does not panic");
        pool.run(move || done.send(11).expect("the test waits"));
        assert_eq!(finished.recv_timeout(Duration::from_secs(10)), Err(mpsc::RecvTimeoutError::Disconnected));
    }
}
