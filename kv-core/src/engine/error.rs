//! What can go wrong in an engine.

use crate::config::OptionMismatch;
use std::io;
use std::sync::Arc;

/// Why the state cannot be read, changed or made durable. Final: drop the state, and start again from what is on disk.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The disk refused an operation.
    #[error("cannot {doing} the state file: {source}: check the disk, then restart the member")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the disk said.
        source: Arc<io::Error>,
    },
    /// What is on disk is not what was written. Never answered from.
    #[error("the state file is damaged ({detail}): replace this member's data by a peer's")]
    Damaged {
        /// Where, and how it was noticed.
        detail: String,
    },
    /// The file was written by a newer version.
    #[error("the state file has format {found}, this version knows up to {known}: start the newer version")]
    NewerFormat {
        /// The file's.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// The state was built with another value of an option that is fixed when the cluster forms (rule F6).
    #[error(transparent)]
    OtherOption(#[from] OptionMismatch),
    /// An earlier error was final.
    #[error("the state has failed before: restart the member")]
    Failed,
}

impl EngineError {
    pub(crate) fn damaged(detail: impl Into<String>) -> Self {
        Self::Damaged { detail: detail.into() }
    }

    pub(super) fn io(doing: &'static str, source: io::Error) -> Self {
        Self::Io { doing, source: Arc::new(source) }
    }
}
