//! How a node ends: its tasks, its threads, and the resources that they hold.

use super::applier::ApplierQueue;
use super::merges::MergeQueue;
use super::shared::Shared;
use super::sync::lock;
use super::writer::WriteQueue;
use super::{LAST_HANDOVER_WITHIN, StopReason, handover};
use crate::engine::steps;
use std::cell::Cell;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;
use tokio::sync::watch;

/// How long a stopping node waits for its threads. They end after their current disk operation, unless that never
/// returns.
const THREADS_WITHIN: Duration = Duration::from_secs(5);

/// The priority of a thread on a busy machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Urgency {
    /// Every operation has a waiter: replication, or a client's write.
    Prompt,
    /// Long-running work for few: it yields to threads of normal priority.
    Background,
}

/// The nice value of background threads. On a busy core, they get about a tenth of the time of a thread of normal
/// priority.
#[cfg(target_os = "linux")]
const BACKGROUND_NICE: i32 = 10;

/// A background thread yields after each turn of about 0.1 ms, and sleeps after this many turns, about every
/// millisecond.
const TURNS: usize = 16;

/// The length of this sleep. The system makes about 0.1 ms of it.
const NAP: Duration = Duration::from_micros(20);

thread_local! {
    /// The turns until this thread sleeps next.
    static TURNS_LEFT: Cell<usize> = const { Cell::new(TURNS) };
}

/// An operating system does not preempt a thread that has just started to run, however urgent others are. A long read
/// would delay everything else on its core by milliseconds. Yielding is not always enough: on Linux, it only lets
/// threads of the same control group run, and not the threads of the kernel that complete the journal's writes.
fn give_way(turns: usize) {
    match TURNS_LEFT.get().checked_sub(turns) {
        Some(left) => {
            TURNS_LEFT.set(left);
            std::thread::yield_now();
        }
        None => {
            TURNS_LEFT.set(TURNS);
            std::thread::sleep(NAP);
        }
    }
}

impl Urgency {
    /// Sets the priority of this thread. Best effort: if that fails, the thread keeps the normal priority.
    fn apply(self) {
        if self == Self::Background {
            steps::between_turns(give_way);
            // On other systems, this would apply to the whole process.
            #[cfg(target_os = "linux")]
            if let Err(error) = rustix::process::nice(BACKGROUND_NICE) {
                tracing::debug!(%error, "cannot lower the priority of a thread");
            }
        }
    }
}

/// The node's threads.
#[derive(Debug)]
pub(super) struct Threads {
    running: Mutex<Running>,
}

#[derive(Debug)]
struct Running {
    handles: Vec<JoinHandle<()>>,
    /// Each thread holds a copy as long as it runs; nothing is ever sent.
    alive: Option<Sender<()>>,
    gone: Receiver<()>,
    /// Some threads had not ended when they were last waited for.
    hang: bool,
}

impl Default for Threads {
    fn default() -> Self {
        let (alive, gone) = channel();
        let running = Running { handles: Vec::new(), alive: Some(alive), gone, hang: false };
        Self { running: Mutex::new(running) }
    }
}

impl Threads {
    /// Starts a thread. A panic in it stops the node.
    pub(super) fn start(
        &self,
        shared: &Arc<Shared>,
        name: &'static str,
        urgency: Urgency,
        work: impl FnOnce(&Arc<Shared>) + Send + 'static,
    ) -> io::Result<()> {
        let shared = shared.clone();
        let mut running = lock(&self.running);
        let alive = running.alive.clone();
        shared.idle.begin();
        let thread = Builder::new().name(name.to_owned()).spawn(move || {
            let _alive = alive;
            let _guard = shared.guard(name);
            urgency.apply();
            shared.span.in_scope(|| work(&shared));
            shared.idle.end();
        })?;
        running.handles.push(thread);
        Ok(())
    }

    /// Ends all threads, and drops what holds files. Blocks for as long as one disk operation takes, at most five
    /// seconds. A thread whose disk does not return by then is left behind. It ends when the disk returns, because it
    /// can no longer access anything on the disk. A second call waits for the first. Returns false if a thread was
    /// left.
    pub(super) fn end(&self, shared: &Shared) -> bool {
        let mut running = lock(&self.running);
        shared.fence.store(true, Ordering::SeqCst);
        shared.writes.change(WriteQueue::close);
        shared.applier_queue.change(ApplierQueue::close);
        shared.merges.change(MergeQueue::close);
        shared.pool.close();
        shared.peers.close();
        if running.alive.take().is_some() {
            running.hang = running.gone.recv_timeout(THREADS_WITHIN) == Err(RecvTimeoutError::Timeout);
        }
        let hang = running.hang;
        for thread in running.handles.drain(..).filter(|thread| !hang || thread.is_finished()) {
            // The guard has recorded a panic.
            let _ = thread.join();
        }
        shared.idle.finish();
        shared.applier_queue.with(ApplierQueue::release);
        shared.release_files();
        !hang
    }
}

/// Waits for a reason to retire, hands over the primary role, and returns the reason.
async fn retired(shared: &Shared) -> Option<StopReason> {
    let mut retiring = shared.retiring.subscribe();
    let Ok(reason) = retiring.wait_for(Option::is_some).await.map(|reason| reason.clone()) else {
        return std::future::pending().await;
    };
    // A failure here does not matter: the reason to stop is reported anyway, and the other members notice that this
    // one is gone.
    let _ = handover::hand_over(shared, LAST_HANDOVER_WITHIN).await;
    // Tasks that wait on the other slot must be notified too.
    if let Some(reason) = &reason {
        shared.stop(reason.clone());
    }
    shared.stop.borrow().clone()
}

/// Waits for a reason to stop, then ends everything, and then publishes the reason.
pub(super) fn supervise(shared: Arc<Shared>, threads: Arc<Threads>) -> watch::Receiver<Option<StopReason>> {
    let (reason_sender, stopped) = watch::channel(None);
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
        // A runtime that shuts down waits for this thread, at most five seconds. This fails only if the runtime shuts
        // down; then dropping the node ends the threads.
        let ended = tokio::task::spawn_blocking(move || threads.end(&ending)).await.unwrap_or(true);
        tasks.shutdown().await;
        let hangs = |stopped| StopReason::DiskHangs { stopped: Box::new(stopped) };
        let reason = if ended { reason } else { reason.map(hangs) };
        if let Some(reason) = &reason {
            tracing::info!(parent: &shared.span, %reason, "stopped");
        }
        reason_sender.send_replace(reason);
    });
    stopped
}
