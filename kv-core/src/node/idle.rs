//! Lets a test's stopped clock wait for the node's threads.
//!
//! Under tokio's paused time the clock leaps to the next timer whenever no task has anything to do. It knows nothing of threads: while the
//! journal thread writes, seconds would pass, and a healthy member be suspected. But it does stand still while a blocking task runs. So
//! while any thread of a watched node has something to do, there is one that waits for it.

use super::sync::lock;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;

/// Longer than any disk of a test takes; a clock must not stand still for ever.
const LIMIT: Duration = Duration::from_secs(10);

/// Counts what the threads of a node have to do. By default it does not.
#[derive(Clone, Debug, Default)]
pub(super) struct IdleTracker(Option<Arc<Watched>>);

#[derive(Debug, Default)]
struct Watched {
    busy: Mutex<Busy>,
    calm: Condvar,
}

#[derive(Debug, Default)]
struct Busy {
    /// Threads that run, and changes that the thread that they are for has not seen.
    count: usize,
    /// A blocking task waits for it to be zero.
    guarded: bool,
    /// The threads have ended: what is left to do is never done.
    over: bool,
}

impl IdleTracker {
    /// One that counts.
    #[cfg(feature = "testing")]
    pub(super) fn watched() -> Self {
        Self(Some(Arc::default()))
    }

    /// There is one thing more to do.
    pub(super) fn begin(&self) {
        let Some(watched) = &self.0 else { return };
        let mut busy = lock(&watched.busy);
        busy.count += 1;
        if busy.guarded || busy.over {
            return;
        }
        // A thread without a runtime has something to do only while somebody waits for it already.
        if let Ok(runtime) = Handle::try_current() {
            busy.guarded = true;
            let watched = watched.clone();
            // It ends by itself.
            drop(runtime.spawn_blocking(move || watched.wait()));
        }
    }

    /// One thing is done.
    pub(super) fn end(&self) {
        let Some(watched) = &self.0 else { return };
        let mut busy = lock(&watched.busy);
        busy.count = busy.count.saturating_sub(1);
        if busy.count == 0 {
            watched.calm.notify_all();
        }
    }

    /// The threads have ended.
    pub(super) fn over(&self) {
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
