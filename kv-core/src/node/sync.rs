//! Small synchronization primitives.

use super::idle::IdleTracker;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Locks. A panic elsewhere stops the node (see `Shared::guard`); it is no reason to panic here too.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A value that threads wait on.
#[derive(Debug, Default)]
pub(super) struct Monitor<T> {
    value: Mutex<T>,
    changed: Condvar,
    /// Notified when a thread has work: the value has changed and the thread has not looked yet, or the thread is
    /// running.
    idle: IdleTracker,
    news: AtomicBool,
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
        with(&mut lock(&self.value))
    }

    /// Changes the value and wakes every waiter.
    pub(super) fn change<R>(&self, with: impl FnOnce(&mut T) -> R) -> R {
        let result = self.renew(with);
        self.changed.notify_all();
        result
    }

    /// Changes the value and wakes one waiter.
    pub(super) fn change_one<R>(&self, with: impl FnOnce(&mut T) -> R) -> R {
        let result = self.renew(with);
        self.changed.notify_one();
        result
    }

    fn renew<R>(&self, with: impl FnOnce(&mut T) -> R) -> R {
        let mut value = lock(&self.value);
        if !self.news.swap(true, Ordering::Relaxed) {
            self.idle.begin();
        }
        with(&mut value)
    }

    /// Blocks until something changes, but no longer than this.
    pub(super) fn pause(&self, most: Duration) {
        // The caller checks whether it was a change or the time.
        self.idle.end();
        drop(self.changed.wait_timeout(lock(&self.value), most));
        self.idle.begin();
    }

    /// Blocks until `ready` gives something.
    pub(super) fn wait<R>(&self, mut ready: impl FnMut(&mut T) -> Option<R>) -> R {
        let mut value = lock(&self.value);
        loop {
            if self.news.swap(false, Ordering::Relaxed) {
                self.idle.end();
            }
            if let Some(result) = ready(&mut value) {
                return result;
            }
            self.idle.end();
            value = self.changed.wait(value).unwrap_or_else(PoisonError::into_inner);
            self.idle.begin();
        }
    }
}
