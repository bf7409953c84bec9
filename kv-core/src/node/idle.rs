//! Lets a test's paused clock wait for the node's threads.
//!
//! With paused time, tokio advances the clock to the next timer whenever no task has anything to do. It does not know
//! about threads: while the journal thread writes, seconds could pass, and a healthy member would be suspected. But
//! tokio does not advance the clock while a blocking task runs. So while any thread of a watched node has work, a
//! blocking task waits for it.

use super::sync::lock;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;

/// A limit, so that the clock cannot stop forever. It is longer than any disk operation of a test.
const LIMIT: Duration = Duration::from_secs(10);

/// Counts the pending work of a node's threads. The default value counts nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct IdleTracker(Option<Arc<Watched>>);

#[derive(Debug, Default)]
struct Watched {
    busy: Mutex<Busy>,
    calm: Condvar,
}

#[derive(Debug, Default)]
struct Busy {
    /// The number of busy threads, and of changes that the receiving thread has not seen yet.
    count: usize,
    /// Whether a blocking task waits for the count to become zero.
    guarded: bool,
    /// The threads have ended. Remaining work will never be done.
    over: bool,
}

impl IdleTracker {
    /// Creates one that counts.
    #[cfg(feature = "testing")]
    pub(super) fn watched() -> Self {
        Self(Some(Arc::default()))
    }

    /// Adds one pending item.
    pub(super) fn begin(&self) {
        let Some(watched) = &self.0 else { return };
        let mut busy = lock(&watched.busy);
        busy.count += 1;
        if busy.guarded || busy.over {
            return;
        }
        // Outside a runtime, somebody already waits for the thread.
        if let Ok(runtime) = Handle::try_current() {
            busy.guarded = true;
            let watched = watched.clone();
            // The task ends by itself.
            drop(runtime.spawn_blocking(move || watched.wait()));
        }
    }

    /// One item is done.
    pub(super) fn end(&self) {
        let Some(watched) = &self.0 else { return };
        let mut busy = lock(&watched.busy);
        busy.count = busy.count.saturating_sub(1);
        if busy.count == 0 {
            watched.calm.notify_all();
        }
    }

    /// The threads have ended.
    pub(super) fn finish(&self) {
        let Some(watched) = &self.0 else { return };
        lock(&watched.busy).over = true;
        watched.calm.notify_all();
    }
}

impl Watched {
    fn wait(&self) {
        let busy = lock(&self.busy);
        let waited = self.calm.wait_timeout_while(busy, LIMIT, |busy| busy.count > 0 && !busy.over);
        waited.unwrap_or_else(PoisonError::into_inner).0.guarded = false;
    }
}
