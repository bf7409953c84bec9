//! How a node ends: its tasks, its threads, and what they hold.

use super::applier::ApplierQueue;
use super::shared::Shared;
use super::sync::lock;
use super::writer::Writes;
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

/// How long the threads of a node that stops may take to end: as long as what the disk is doing takes, unless it does not return at all.
const THREADS_WITHIN: Duration = Duration::from_secs(5);

/// How soon a thread runs when others on the same machine want to run too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Urgency {
    /// Somebody waits for each thing that it does: replication, or a client's write.
    Prompt,
    /// It may have much to do for few: it gives way to threads of normal priority.
    Background,
}

/// The nice value of background threads: of a busy core they get about a tenth of what a thread of normal priority gets.
#[cfg(target_os = "linux")]
const BACKGROUND_NICE: i32 = 10;

/// A background thread lets others of its kind run between two turns, of some 0.1 ms, and sleeps after this many: some 1 ms.
const TURNS: usize = 16;

/// For this long, or what the system makes of it: some 0.1 ms.
const NAP: Duration = Duration::from_micros(20);

thread_local! {
    /// Turns until this thread sleeps next.
    static TURNS_LEFT: Cell<usize> = const { Cell::new(TURNS) };
}

/// A system does not interrupt a thread that has just begun to run, however urgent others are: a long read would hold up whatever else is to run
/// on its core for milliseconds. To yield is not always enough: on Linux it lets threads of the same control group run, and not those of the
/// kernel, which complete what the journal has written.
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
    /// Makes this thread so. Best effort: a thread whose priority cannot be set keeps the normal one.
    fn apply(self) {
        if self == Self::Background {
            steps::between_turns(give_way);
            // Elsewhere than on Linux it would count for the whole process.
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
    /// Some had not ended when they were last waited for.
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
    /// Starts one. A panic in it stops the node.
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

    /// Ends all of them, and lets go of what holds files. Blocks for as long as one access to the disk takes, five seconds at most: a
    /// thread whose disk does not return by then is left to itself, and ends when it does, because nothing on the disk is within its reach any
    /// more. Another call waits for the first. False if a thread was left.
    pub(super) fn end(&self, shared: &Shared) -> bool {
        let mut running = lock(&self.running);
        shared.fence.store(true, Ordering::SeqCst);
        shared.writes.change(Writes::close);
        shared.applier_queue.change(ApplierQueue::close);
        shared.pool.close();
        shared.peers.close();
        if running.alive.take().is_some() {
            running.hang = running.gone.recv_timeout(THREADS_WITHIN) == Err(RecvTimeoutError::Timeout);
        }
        let hang = running.hang;
        for thread in running.handles.drain(..).filter(|thread| !hang || thread.is_finished()) {
            // A panic in it has been noted by its guard.
            let _ = thread.join();
        }
        shared.idle.over();
        shared.applier_queue.look(ApplierQueue::let_go);
        shared.let_go();
        !hang
    }
}

/// Waits for a reason to retire, gives the primary role away, and returns the reason.
async fn retired(shared: &Shared) -> Option<StopReason> {
    let mut retiring = shared.retiring.subscribe();
    let Ok(reason) = retiring.wait_for(Option::is_some).await.map(|reason| reason.clone()) else {
        return std::future::pending().await;
    };
    // A failure here is reported by the reason to stop; the others notice that this member is gone.
    let _ = handover::hand_over(shared, LAST_HANDOVER_WITHIN).await;
    // Those that wait on the other slot must learn it too.
    if let Some(reason) = &reason {
        shared.stop(reason.clone());
    }
    shared.stop.borrow().clone()
}

/// Waits for a reason to stop, and then ends everything. Publishes the reason when that is done.
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
        // A runtime that ends waits for this thread, which takes five seconds at most. It fails only when the runtime goes down; then the node's drop ends the threads.
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
