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
}

/// The progress of what writes files: a checkpoint, or a merge. A clone reports the same one.
#[derive(Clone, Default, Debug)]
pub struct Progress {
    steps: Arc<AtomicU64>,
    waiting: Option<Waiting>,
}

/// The progress of what sometimes waits for this work, and whether it does.
#[derive(Clone, Debug)]
struct Waiting {
    waits: Arc<AtomicBool>,
    steps: Arc<AtomicU64>,
}

impl Progress {
    /// The progress of other work. While `waits` is set, that is progress of this one too.
    pub(super) fn awaited(&self, waits: &Arc<AtomicBool>) -> Self {
        let waiting = Waiting { waits: waits.clone(), steps: self.steps.clone() };
        Self { steps: Arc::default(), waiting: Some(waiting) }
    }

    /// Some work was done.
    pub(crate) fn step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
        if let Some(waiting) = &self.waiting
            && waiting.waits.load(Ordering::Relaxed)
        {
            waiting.steps.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A number that grows as long as the work makes progress.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }
}
