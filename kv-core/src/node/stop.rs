//! How a node ends: its tasks, its threads, and what they hold.

use super::applier::Plan;
use super::shared::Shared;
use super::sync::lock;
use super::writer::Writes;
use super::{LAST_HANDOVER_WITHIN, StopReason, handover};
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::watch;
use tokio::time::timeout;

/// How long a dropped node waits for its tasks to be gone.
const TASKS_WITHIN: Duration = Duration::from_secs(2);

/// The node's threads.
#[derive(Debug, Default)]
pub(super) struct Threads {
    running: Mutex<Vec<JoinHandle<()>>>,
}

impl Threads {
    /// Starts one. A panic in it stops the node.
    pub(super) fn start(
        &self,
        shared: &Arc<Shared>,
        name: &'static str,
        work: impl FnOnce(&Arc<Shared>) + Send + 'static,
    ) -> io::Result<()> {
        let shared = shared.clone();
        let thread = Builder::new().name(name.to_owned()).spawn(move || {
            let _guard = shared.guard(name);
            shared.span.in_scope(|| work(&shared));
        })?;
        lock(&self.running).push(thread);
        Ok(())
    }

    /// Ends all of them, and lets go of what holds files. Blocks for as long as one access to the disk takes. Another call
    /// waits for the first.
    pub(super) fn end(&self, shared: &Shared) {
        let mut running = lock(&self.running);
        shared.fence.store(true, Ordering::SeqCst);
        shared.writes.change(Writes::close);
        shared.plan.change(Plan::close);
        shared.pool.close();
        for thread in running.drain(..) {
            // A panic in it has been noted by its guard.
            let _ = thread.join();
        }
        shared.plan.look(Plan::let_go);
        shared.let_go();
    }
}

/// Waits for a reason to retire, gives the primary role away, and tells the reason.
async fn retired(shared: &Shared) -> Option<StopReason> {
    let mut retiring = shared.retiring.subscribe();
    let Ok(reason) = retiring.wait_for(Option::is_some).await.map(|reason| reason.clone()) else {
        return std::future::pending().await;
    };
    // What fails here is told by the reason to stop; the others notice that this member is gone.
    let _ = handover::hand_over(shared, LAST_HANDOVER_WITHIN).await;
    // Those that wait on the other slot must learn it too.
    if let Some(reason) = &reason {
        shared.stop(reason.clone());
    }
    shared.stop.borrow().clone()
}

/// Waits for a reason to stop, and then ends everything. Tells the reason when that is done.
pub(super) fn supervise(shared: Arc<Shared>, threads: Arc<Threads>) -> watch::Receiver<Option<StopReason>> {
    let (tell, stopped) = watch::channel(None);
    tokio::spawn(async move {
        let mut stop = shared.stop.subscribe();
        let reason = tokio::select! {
            stop = stop.wait_for(Option::is_some) => match stop {
                Ok(reason) => reason.clone(),
                Err(_) => return,
            },
            reason = retired(&shared) => reason,
        };
        let mut tasks = shared.tasks.take();
        tasks.abort_all();
        let ending = shared.clone();
        // It fails only when the runtime goes down; then the node's drop ends the threads.
        let _ = tokio::task::spawn_blocking(move || threads.end(&ending)).await;
        tasks.shutdown().await;
        if let Some(reason) = &reason {
            tracing::info!(parent: &shared.span, %reason, "stopped");
        }
        tell.send_replace(reason);
    });
    stopped
}

/// Blocks until the tasks of a node that stops are gone, where that can be done: on a runtime with one thread they go when
/// the caller next waits.
pub(super) fn wait_for_tasks(stopped: &watch::Receiver<Option<StopReason>>) {
    let mut stopped = stopped.clone();
    let Ok(runtime) = Handle::try_current() else { return };
    if runtime.runtime_flavor() == RuntimeFlavor::MultiThread {
        tokio::task::block_in_place(|| {
            // Whether in time or not, the threads have ended, and the tasks will.
            let _ = runtime.block_on(timeout(TASKS_WITHIN, stopped.wait_for(Option::is_some)));
        });
    }
}
