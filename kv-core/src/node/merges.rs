//! Merges the files of the state, on a background thread: neither the applier nor a checkpoint waits for it.

use super::shared::Shared;
use crate::engine::EngineError;
use crate::kv::{MergeStep, Merger};
use std::sync::Arc;

/// The work of the thread.
#[derive(Debug, Default)]
pub(super) struct MergeQueue {
    /// Something may be due in the state of this one.
    due: Option<Merger>,
    /// The thread works on a state.
    running: bool,
    closed: bool,
}

impl MergeQueue {
    /// A merge may be due: a checkpoint was made, or the state was opened.
    pub(super) fn consider(&mut self, merger: Option<Merger>) {
        self.due = merger;
    }

    /// Ends the thread.
    pub(super) fn close(&mut self) {
        (self.due, self.closed) = (None, true);
    }
}

/// Runs until the node stops.
pub(super) fn run(shared: &Arc<Shared>) {
    while let Some(turn) = next(shared) {
        while matches!(step(shared, &turn.merger), Ok(MergeStep::Merged)) {
            if shared.merges.with(|queue| queue.closed) {
                break;
            }
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
    let merger = shared.merges.wait(|queue| {
        if queue.closed {
            return Some(None);
        }
        let merger = queue.due.take();
        queue.running |= merger.is_some();
        merger.map(Some)
    })?;
    Some(Turn { merger, _running: RunningGuard(shared) })
}

fn step(shared: &Shared, merger: &Merger) -> Result<MergeStep, EngineError> {
    let done = merger.step();
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
    shared.merges.wait(|queue| (!queue.running).then_some(()));
    shared.applier_queue.with(|plan| plan.merged = None);
}
