//! Small synchronization primitives.

use super::idle::IdleTracker;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Locks. A panic elsewhere stops the node (see `Shared::guard`); it is no reason to panic here too.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A value that threads wait on.
#[derive(Debug, Default)]
pub(super) struct Monitor<T> {
    guarded: Mutex<Guarded<T>>,
    changed: Condvar,
    /// Notified when a thread has work: the value has changed and the thread has not looked yet, or the thread is
    /// running.
    idle: IdleTracker,
    news: AtomicBool,
}

#[derive(Debug, Default)]
struct Guarded<T> {
    value: T,
    /// This number plus the notifications that have been decided on, but not sent, is at least the number of threads
    /// that sleep. So no thread sleeps on unnoticed. To wake a thread is a system call, even if none sleeps.
    sleeping: usize,
    /// How many changes have been announced. Only an announcement, or the end of a pause, lowers `sleeping`.
    notified: u64,
}

impl<T> Monitor<T> {
    /// Creates one whose waiting threads are counted by the idle tracker.
    pub(super) fn watched(idle: &IdleTracker) -> Self
    where
        T: Default,
    {
        Self { idle: idle.clone(), ..Self::default() }
    }

    /// Reads or changes the value without waking a waiter.
    pub(super) fn with<R>(&self, with: impl FnOnce(&mut T) -> R) -> R {
        with(&mut lock(&self.guarded).value)
    }

    /// Changes the value and wakes every waiter.
    pub(super) fn change<R>(&self, with: impl FnOnce(&mut T) -> R) -> R {
        let mut guarded = lock(&self.guarded);
        let result = self.renew(&mut guarded.value, with);
        let sleeping = std::mem::take(&mut guarded.sleeping);
        guarded.notified += 1;
        drop(guarded);
        if sleeping > 0 {
            self.changed.notify_all();
        }
        result
    }

    /// Changes the value and wakes one waiter.
    pub(super) fn change_one<R>(&self, with: impl FnOnce(&mut T) -> R) -> R {
        let mut guarded = lock(&self.guarded);
        let result = self.renew(&mut guarded.value, with);
        let sleeping = guarded.sleeping;
        // Each call wakes at least one of the threads that sleep, so the rest is still counted. A thread that woke by
        // itself stays counted, which costs one call for nothing.
        guarded.sleeping = sleeping.saturating_sub(1);
        guarded.notified += 1;
        drop(guarded);
        if sleeping > 0 {
            self.changed.notify_one();
        }
        result
    }

    fn renew<R>(&self, value: &mut T, with: impl FnOnce(&mut T) -> R) -> R {
        if !self.news.swap(true, Ordering::Relaxed) {
            self.idle.begin();
        }
        with(value)
    }

    /// Blocks until something changes, but no longer than this.
    pub(super) fn pause(&self, most: Duration) {
        // The caller checks whether it was a change or the time.
        self.idle.end();
        let mut guarded = lock(&self.guarded);
        guarded.sleeping += 1;
        let notified = guarded.notified;
        let waited = self.changed.wait_timeout(guarded, most);
        let (mut guarded, result) = waited.unwrap_or_else(PoisonError::into_inner);
        // After a notification, this thread may no longer be counted. To lower the number again could leave out another
        // thread, which would then sleep on.
        if result.timed_out() && guarded.notified == notified {
            guarded.sleeping -= 1;
        }
        drop(guarded);
        self.idle.begin();
    }

    /// Blocks until `ready` gives something, but no longer than this.
    pub(super) fn wait_at_most<R>(
        &self,
        most: Duration,
        mut ready: impl FnMut(&mut T) -> Option<R>,
    ) -> Option<R> {
        let end = Instant::now() + most;
        let mut guarded = lock(&self.guarded);
        loop {
            if self.news.swap(false, Ordering::Relaxed) {
                self.idle.end();
            }
            if let Some(result) = ready(&mut guarded.value) {
                return Some(result);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            self.idle.end();
            guarded.sleeping += 1;
            let notified = guarded.notified;
            let waited = self.changed.wait_timeout(guarded, left);
            let (again, result) = waited.unwrap_or_else(PoisonError::into_inner);
            guarded = again;
            // As in `pause`.
            if result.timed_out() && guarded.notified == notified {
                guarded.sleeping -= 1;
            }
            self.idle.begin();
        }
    }

    /// Blocks until `ready` gives something.
    pub(super) fn wait<R>(&self, mut ready: impl FnMut(&mut T) -> Option<R>) -> R {
        let mut guarded = lock(&self.guarded);
        loop {
            if self.news.swap(false, Ordering::Relaxed) {
                self.idle.end();
            }
            if let Some(result) = ready(&mut guarded.value) {
                return result;
            }
            self.idle.end();
            guarded.sleeping += 1;
            guarded = self.changed.wait(guarded).unwrap_or_else(PoisonError::into_inner);
            self.idle.begin();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    /// However changes and waits fall together, none of several threads sleeps on while there is work.
    #[test]
    fn no_thread_sleeps_on_while_there_is_work() {
        const JOBS: usize = 20_000;
        let monitor: Arc<Monitor<(usize, bool)>> = Arc::default();
        let done = Arc::new(Monitor::<usize>::default());
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let (monitor, done) = (monitor.clone(), done.clone());
                std::thread::spawn(move || {
                    let next = |(jobs, closed): &mut (usize, bool)| match jobs.checked_sub(1) {
                        Some(left) => {
                            *jobs = left;
                            Some(true)
                        }
                        None => closed.then_some(false),
                    };
                    while monitor.wait(next) {
                        done.change_one(|done| *done += 1);
                    }
                })
            })
            .collect();
        for job in 1..=JOBS {
            monitor.change_one(|(jobs, _)| *jobs += 1);
            if job % 3 == 0 {
                // Lets the threads run out of work, so that they sleep. It hangs if one is not woken.
                done.wait(|done| (*done == job).then_some(()));
            }
        }
        monitor.change(|(_, closed)| *closed = true);
        for thread in threads {
            thread.join().expect("it does not panic");
        }
        assert_eq!(done.with(|done| *done), JOBS);
    }

    #[test]
    fn a_wait_ends_with_a_change_or_its_time() {
        let monitor: Arc<Monitor<bool>> = Arc::default();
        assert_eq!(monitor.wait_at_most(Duration::from_millis(5), |set| set.then_some(())), None);
        assert_eq!(lock(&monitor.guarded).sleeping, 0, "nobody sleeps");
        let changing = monitor.clone();
        let thread = std::thread::spawn(move || changing.change_one(|set| *set = true));
        assert!(monitor.wait_at_most(Duration::from_secs(60), |set| set.then_some(())).is_some());
        thread.join().expect("it does not panic");
    }

    #[test]
    fn a_change_after_a_pause_that_ran_out_wakes_the_thread() {
        let monitor: Arc<Monitor<bool>> = Arc::default();
        const PAUSES: usize = 20;
        for _ in 0..PAUSES {
            monitor.pause(Duration::from_millis(1));
        }
        // A few may have ended without a reason, before their time.
        assert!(lock(&monitor.guarded).sleeping < PAUSES, "nobody sleeps");
        let changing = monitor.clone();
        let thread = std::thread::spawn(move || changing.change_one(|set| *set = true));
        monitor.wait(|set| set.then_some(()));
        thread.join().expect("it does not panic");
    }
}
