//! The stages of a checkpoint.

use kv_core::engine::EngineError;
use kv_core::ids::Anchor;
use kv_core::kv::{Checkpoint, WrittenCheckpoint};

/// How far a checkpoint is. Between its stages, files may be merged.
#[derive(Debug)]
pub(super) enum CheckpointStage {
    Frozen(Box<Checkpoint>),
    Written(WrittenCheckpoint),
}

impl CheckpointStage {
    pub(super) fn anchor(&self) -> Anchor {
        match self {
            Self::Frozen(checkpoint) => checkpoint.anchor(),
            Self::Written(checkpoint) => checkpoint.anchor(),
        }
    }

    /// Does all of the rest.
    pub(super) fn run(self) -> Result<(), EngineError> {
        match self {
            Self::Frozen(checkpoint) => checkpoint.run().map(drop),
            Self::Written(checkpoint) => checkpoint.commit().map(drop),
        }
    }
}
