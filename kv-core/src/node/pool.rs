//! A few threads for work that may wait for the disk. Clients' reads and watches share two threads and take turns,
//! and so do the clients within each kind: a client that asks for much waits only behind itself. What peers need (old
//! entries, pieces of the state) has a pool and a thread of its own, so replication never waits behind reads.

use super::idle::IdleTracker;
use super::quota::Account;
use super::sync::Monitor;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use tokio::sync::oneshot;

/// The number of threads that read for clients. With two, one slow read does not delay the rest. More would only take
/// CPU time from the members' work.
pub(super) const THREADS: usize = 2;

type Job = Box<dyn FnOnce() + Send>;

/// The owner of a job: one client, over all its connections.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct JobOwner(usize);

impl JobOwner {
    /// The node itself, or a peer.
    pub(super) const NODE: Self = Self(0);

    /// The client with this account.
    pub(super) fn client(account: &Arc<Account>) -> Self {
        Self(Arc::as_ptr(account).addr())
    }
}

/// The kind of a job. The kinds take turns, however many jobs one of them has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// A read for a client, or a job for a peer.
    Read,
    Watch,
}

/// The jobs of one kind. Their owners take turns.
#[derive(Default)]
struct FairQueue {
    jobs: HashMap<JobOwner, VecDeque<Job>>,
    /// The owners that have jobs, the next one first.
    order: VecDeque<JobOwner>,
}

impl FairQueue {
    fn push(&mut self, whose: JobOwner, job: Job) {
        let jobs = self.jobs.entry(whose).or_default();
        if jobs.is_empty() {
            self.order.push_back(whose);
        }
        jobs.push_back(job);
    }

    fn pop(&mut self) -> Option<Job> {
        let whose = self.order.pop_front()?;
        let jobs = self.jobs.get_mut(&whose).expect("an owner in the order has jobs");
        let job = jobs.pop_front();
        assert!(job.is_some(), "an owner without jobs leaves the order");
        if jobs.is_empty() {
            self.jobs.remove(&whose);
        } else {
            self.order.push_back(whose);
        }
        job
    }

    fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    fn len(&self) -> usize {
        self.jobs.values().map(VecDeque::len).sum()
    }
}

#[derive(Default)]
struct Jobs {
    reads: FairQueue,
    watches: FairQueue,
    /// Whether the last job was a watch.
    watched: bool,
    closed: bool,
}

impl Jobs {
    fn next(&mut self) -> Option<Job> {
        let watch = self.reads.is_empty() || !self.watched && !self.watches.is_empty();
        self.watched = watch;
        if watch { self.watches.pop() } else { self.reads.pop() }
    }
}

/// Splits the items by client, into shares of at most `most`. The order of each client's items is kept.
pub(super) fn shares<T>(all: Vec<T>, most: usize, whose: impl Fn(&T) -> JobOwner) -> Vec<(JobOwner, Vec<T>)> {
    let mut shares: Vec<(JobOwner, Vec<T>)> = Vec::new();
    let mut open: HashMap<JobOwner, usize> = HashMap::new();
    for one in all {
        let whose = whose(&one);
        match open.get(&whose).map(|at| &mut shares[*at].1).filter(|share| share.len() < most) {
            Some(share) => share.push(one),
            None => {
                open.insert(whose, shares.len());
                shares.push((whose, vec![one]));
            }
        }
    }
    shares
}

/// Bounded by its users: reads by the admission of the node, entries by one job per peer and lane.
#[derive(Default)]
pub(super) struct Pool {
    jobs: Monitor<Jobs>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("waiting", &self.jobs.with(|jobs| jobs.reads.len() + jobs.watches.len()))
            .finish()
    }
}

impl Pool {
    /// Creates a pool whose threads are counted by the idle tracker.
    pub(super) fn watched(idle: &IdleTracker) -> Self {
        Self { jobs: Monitor::watched(idle) }
    }

    /// Runs a job on one of the threads; never after the node has stopped.
    pub(super) fn run(&self, kind: Kind, whose: JobOwner, job: impl FnOnce() + Send + 'static) {
        let rejected = self.jobs.change_one(|jobs| {
            if jobs.closed {
                return Some(job);
            }
            match kind {
                Kind::Read => jobs.reads.push(whose, Box::new(job)),
                Kind::Watch => jobs.watches.push(whose, Box::new(job)),
            }
            None
        });
        // Dropped only here, because dropping a job may take locks.
        drop(rejected);
    }

    /// Runs a job of this node, and waits for its result; `None` if the node stops before that.
    pub(super) async fn ask<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (give, take) = oneshot::channel();
        self.run(Kind::Read, JobOwner::NODE, move || {
            // The receiver is gone if nobody waits any more.
            let _ = give.send(job());
        });
        take.await.ok()
    }

    /// Returns whether jobs for watches wait for a thread.
    pub(super) fn has_watches(&self) -> bool {
        self.jobs.with(|jobs| !jobs.watches.is_empty())
    }

    /// Runs jobs until the pool is closed; called by each thread.
    pub(super) fn work(&self) {
        while let Some(job) =
            self.jobs.wait(|jobs| if jobs.closed { Some(None) } else { jobs.next().map(Some) })
        {
            job();
        }
    }

    /// Ends the threads and drops the waiting jobs.
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
            pool.run(Kind::Read, JobOwner::NODE, move || done.send(number).expect("the test waits"));
        }
        let seen: Vec<i32> =
            (0..10).map(|_| finished.recv_timeout(Duration::from_secs(10)).expect("it runs")).collect();
        assert_eq!(seen, (0..10).collect::<Vec<_>>());
        pool.close();
        worker.join().expect("it does not panic");
        pool.run(Kind::Read, JobOwner::NODE, move || done.send(11).expect("the test waits"));
        assert_eq!(finished.recv_timeout(Duration::from_secs(10)), Err(mpsc::RecvTimeoutError::Disconnected));
    }

    /// If jobs of two kinds wait, one kind does not wait for all jobs of the other.
    #[test]
    fn reads_and_watches_take_turns() {
        let mut jobs = Jobs::default();
        let (done, seen) = mpsc::channel();
        let job = |name: &'static str| -> Job {
            let done = done.clone();
            Box::new(move || done.send(name).expect("the test waits"))
        };
        (0..3).for_each(|_| jobs.reads.push(JobOwner::NODE, job("read")));
        (0..3).for_each(|_| jobs.watches.push(JobOwner::NODE, job("watch")));
        jobs.reads.push(JobOwner::NODE, job("read"));
        while let Some(job) = jobs.next() {
            job();
        }
        let seen: Vec<_> = seen.try_iter().collect();
        assert_eq!(seen, ["watch", "read", "watch", "read", "watch", "read", "read"]);
    }

    /// F-load-9: while a client has thousands of reads waiting, another client waits for at most one of them.
    #[test]
    fn f_load_9_clients_take_turns() {
        const MANY: usize = 10_000;
        let accounts: [Arc<Account>; 3] = Default::default();
        let clients = accounts.each_ref().map(JobOwner::client);
        let (mut jobs, ran) = (Jobs::default(), mpsc::channel());
        let push = |client: usize, jobs: &mut Jobs| {
            let ran = ran.0.clone();
            jobs.reads.push(clients[client], Box::new(move || ran.send(client).expect("the test waits")));
        };
        (0..MANY).for_each(|_| push(0, &mut jobs));
        (0..2).for_each(|_| push(1, &mut jobs));
        push(2, &mut jobs);
        let run = |jobs: &mut Jobs| {
            jobs.next().expect("there are some")();
            ran.1.try_recv().expect("it has run")
        };
        let first: Vec<_> = (0..7).map(|_| run(&mut jobs)).collect();
        assert_eq!(first, [0, 1, 2, 0, 1, 0, 0]);
        push(2, &mut jobs);
        assert_eq!(
            (run(&mut jobs), run(&mut jobs)),
            (0, 2),
            "one that comes late waits for one turn of each"
        );
        while jobs.next().is_some() {}
        assert!(jobs.reads.jobs.is_empty() && jobs.reads.order.is_empty(), "nobody is remembered");
    }
}
