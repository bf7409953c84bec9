//! Small means of waiting for one another.

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
}

impl<T> Monitor<T> {
    /// Looks at the value or changes it, and wakes nobody.
    pub(super) fn look<R>(&self, with: impl FnOnce(&mut T) -> R) -> R {
        with(&mut lock(&self.value))
    }

    /// Changes the value and wakes every waiter.
    pub(super) fn change<R>(&self, with: impl FnOnce(&mut T) -> R) -> R {
        let result = with(&mut lock(&self.value));
        self.changed.notify_all();
        result
    }

    /// Changes the value and wakes one waiter.
    pub(super) fn change_one<R>(&self, with: impl FnOnce(&mut T) -> R) -> R {
        let result = with(&mut lock(&self.value));
        self.changed.notify_one();
        result
    }

    /// Blocks until something changes, but no longer than this.
    pub(super) fn pause(&self, most: Duration) {
        // Whether it was a change or the time does not matter: the caller looks.
        drop(self.changed.wait_timeout(lock(&self.value), most));
    }

    /// Blocks until `ready` gives something.
    pub(super) fn wait<R>(&self, mut ready: impl FnMut(&mut T) -> Option<R>) -> R {
        let mut value = lock(&self.value);
        loop {
            if let Some(result) = ready(&mut value) {
                return result;
            }
            value = self.changed.wait(value).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
