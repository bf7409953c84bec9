//! Merges the files of the state, on a background thread. The applier does not wait for it. A checkpoint waits only if
//! there are too many runs, or no room on the disk.

use super::shared::Shared;
use super::sync::lock;
use crate::engine::EngineError;
use crate::kv::{HeldFiles, MergeStep, Merger};
use std::sync::Arc;
use std::time::Duration;

/// How often files that were merged are closed, if nobody reads them any more, and merges that wait for a transfer are
/// tried again. Until then, they take room on the disk.
const CLOSE_EVERY: Duration = Duration::from_secs(1);

/// The work of the thread.
#[derive(Debug, Default)]
pub(super) struct MergeQueue {
    /// Something may be due in the state of this one.
    due: Option<Merger>,
    /// Files that were merged in the state of this one are still read, or peers fetch it, so that not all is merged.
    held: Option<Merger>,
    /// The thread works on a state.
    running: bool,
    closed: bool,
}

impl MergeQueue {
    /// A merge may be due: a checkpoint was made, or the state was opened.
    pub(super) fn consider(&mut self, merger: Option<Merger>) {
        self.due = merger;
    }

    #[cfg(test)]
    pub(super) fn is_running(&self) -> bool {
        self.running || self.due.is_some()
    }

    /// Ends the thread.
    pub(super) fn close(&mut self) {
        (self.due, self.held, self.closed) = (None, None, true);
    }
}

/// Runs until the node stops.
pub(super) fn run(shared: &Arc<Shared>) {
    while let Some(turn) = next(shared) {
        let waits = loop {
            let held = held(shared);
            let merged = matches!(step(shared, &turn.merger, &held), Ok(MergeStep::Merged));
            if !merged || shared.merges.with(|queue| queue.closed) {
                break !held.is_empty();
            }
        };
        let is_read = turn.merger.close_unused();
        if is_read || waits {
            let held = turn.merger.clone();
            shared.merges.with(|queue| queue.held = Some(held).filter(|_| !queue.closed));
        }
    }
}

/// The thread works on a state. However that ends, others may wait for it.
struct Turn<'a> {
    merger: Merger,
    /// Dropped after the merger.
    _running: RunningGuard<'a>,
}

struct RunningGuard<'a>(&'a Shared);

impl Drop for RunningGuard<'_> {
    fn drop(&mut self) {
        self.0.merges.change(|queue| queue.running = false);
    }
}

fn next(shared: &Shared) -> Option<Turn<'_>> {
    let take = |queue: &mut MergeQueue| {
        if queue.closed {
            return Some(None);
        }
        let merger = queue.due.take()?;
        queue.running = true;
        Some(Some((merger, queue.held.take())))
    };
    let turn = |merger| Some(Turn { merger, _running: RunningGuard(shared) });
    loop {
        let due = if shared.merges.with(|queue| queue.held.is_some()) {
            shared.merges.wait_at_most(CLOSE_EVERY, take)
        } else {
            Some(shared.merges.wait(take))
        };
        match due {
            // The turn looks itself what is still held.
            Some(due) => return due.and_then(|(merger, _held)| turn(merger)),
            None => {
                // A view of a reader that has ended holds files until the applier frees it.
                shared.applier_queue.change(|plan| plan.release = true);
                let held = shared.merges.with(|queue| {
                    queue.running |= queue.held.is_some();
                    queue.held.take()
                });
                if let Some(merger) = held {
                    return turn(merger);
                }
            }
        }
    }
}

/// The files that peers fetch.
fn held(shared: &Shared) -> HeldFiles {
    lock(&shared.sources).held(shared.clock.monotonic())
}

fn step(shared: &Shared, merger: &Merger, held: &HeldFiles) -> Result<MergeStep, EngineError> {
    let done = merger.step(held);
    match &done {
        Ok(MergeStep::Idle | MergeStep::NoRoom) | Err(EngineError::Failed) => {}
        // What failed first is reported where it failed.
        Ok(MergeStep::Merged) | Err(_) => {
            shared.applier_queue.change(|plan| plan.merged = Some(done.clone().map(drop)));
        }
    }
    done
}

/// Waits until the thread has stopped working on a state that was dropped. That is at once, except for an operation of
/// the disk.
pub(super) fn wait(shared: &Shared) {
    shared.merges.with(|queue| queue.due = None);
    let held = shared.merges.wait(|queue| (!queue.running).then(|| queue.held.take()));
    drop(held);
    shared.applier_queue.with(|plan| plan.merged = None);
}
