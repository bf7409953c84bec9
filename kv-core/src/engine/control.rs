//! What the owner of a state tells those who write its files, and what they tell the owner.

use super::EngineError;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Shared by all that write the files of one state.
#[derive(Debug, Default)]
pub(super) struct Control {
    /// The owner was dropped: nothing is written after that.
    abandoned: AtomicBool,
    /// The disk has failed, and it is unknown what it holds: nothing is written after that either.
    failed: AtomicBool,
    steps: AtomicU64,
}

impl Control {
    /// Stops all writing, as if the process had ended.
    pub(super) fn abandon(&self) {
        self.abandoned.store(true, Ordering::SeqCst);
    }

    pub(super) fn fail(&self) {
        self.failed.store(true, Ordering::SeqCst);
    }

    /// Whether writing may go on.
    pub(super) fn check(&self) -> Result<(), EngineError> {
        let stopped = self.abandoned.load(Ordering::SeqCst) || self.failed.load(Ordering::SeqCst);
        if stopped { Err(EngineError::Failed) } else { Ok(()) }
    }

    /// Some work was done.
    pub(super) fn step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }
}

/// The progress of a checkpoint. A clone reports the same one.
#[derive(Clone, Debug)]
pub struct Progress(Arc<Control>);

impl Progress {
    pub(super) fn of(control: &Arc<Control>) -> Self {
        Self(control.clone())
    }

    /// A number that grows as long as the checkpoint makes progress.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.0.steps.load(Ordering::Relaxed)
    }
}
