//! A few threads for what may wait for the disk. Reads of clients and watches share two, by turns. What peers need (old entries, pieces
//! of the state) has a pool and a thread of its own, so that replication never waits behind reads.

use super::quiet::Quiet;
use super::sync::Monitor;
use std::collections::VecDeque;
use std::fmt;

/// How many threads read for clients. Two, so that one slow read does not hold up the rest; more would only take cores from the members' work.
pub(super) const THREADS: usize = 2;

type Job = Box<dyn FnOnce() + Send>;

/// Whose job it is. Those of different kinds have turns, however many there are of one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// A read, or what a peer needs.
    Read,
    /// A watch.
    Watch,
}

#[derive(Default)]
struct Jobs {
    reads: VecDeque<Job>,
    watches: VecDeque<Job>,
    /// The last job was a watch.
    watched: bool,
    closed: bool,
}

impl Jobs {
    fn next(&mut self) -> Option<Job> {
        let watch = self.reads.is_empty() || !self.watched && !self.watches.is_empty();
        self.watched = watch;
        if watch { self.watches.pop_front() } else { self.reads.pop_front() }
    }
}

/// Bounded by those who hand in jobs: reads by the node's admission, entries by one job per peer and lane.
#[derive(Default)]
pub(super) struct Pool {
    jobs: Monitor<Jobs>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("waiting", &self.jobs.look(|jobs| jobs.reads.len() + jobs.watches.len()))
            .finish()
    }
}

impl Pool {
    /// One whose threads `quiet` counts.
    pub(super) fn watched(quiet: &Quiet) -> Self {
        Self { jobs: Monitor::watched(quiet) }
    }

    /// Runs a job on one of the threads; never once the node has stopped.
    pub(super) fn run(&self, kind: Kind, job: impl FnOnce() + Send + 'static) {
        let rejected = self.jobs.change_one(|jobs| {
            if jobs.closed {
                return Some(job);
            }
            match kind {
                Kind::Read => jobs.reads.push_back(Box::new(job)),
                Kind::Watch => jobs.watches.push_back(Box::new(job)),
            }
            None
        });
        // Dropped only here: what a job holds may take locks when it goes.
        drop(rejected);
    }

    /// What each thread does until the pool is closed.
    pub(super) fn work(&self) {
        while let Some(job) =
            self.jobs.wait(|jobs| if jobs.closed { Some(None) } else { jobs.next().map(Some) })
        {
            job();
        }
    }

    /// Ends the threads and forgets what waits.
    pub(super) fn close(&self) {
        let forgotten = self.jobs.change(|jobs| {
            jobs.closed = true;
            (std::mem::take(&mut jobs.reads), std::mem::take(&mut jobs.watches))
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
            pool.run(Kind::Read, move || done.send(number).expect("the test waits"));
        }
        let seen: Vec<i32> =
            (0..10).map(|_| finished.recv_timeout(Duration::from_secs(10)).expect("it runs")).collect();
        assert_eq!(seen, (0..10).collect::<Vec<_>>());
        pool.close();
        worker.join().expect("it does not panic");
        pool.run(Kind::Read, move || done.send(11).expect("the test waits"));
        assert_eq!(finished.recv_timeout(Duration::from_secs(10)), Err(mpsc::RecvTimeoutError::Disconnected));
    }

    /// Of two kinds that wait, one does not wait for all of the other.
    #[test]
    fn reads_and_watches_have_turns() {
        let mut jobs = Jobs::default();
        let (done, seen) = mpsc::channel();
        let job = |name: &'static str| -> Job {
            let done = done.clone();
            Box::new(move || done.send(name).expect("the test waits"))
        };
        (0..3).for_each(|_| jobs.reads.push_back(job("read")));
        (0..3).for_each(|_| jobs.watches.push_back(job("watch")));
        jobs.reads.push_back(job("read"));
        while let Some(job) = jobs.next() {
            job();
        }
        let seen: Vec<_> = seen.try_iter().collect();
        assert_eq!(seen, ["watch", "read", "watch", "read", "watch", "read", "read"]);
    }
}
