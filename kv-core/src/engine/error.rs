//! What can go wrong in an engine.

use crate::config::OptionMismatch;
use std::io;
use std::sync::Arc;

/// Why the state cannot be read, changed or made durable. Final: drop the state, and start again from what is on disk.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The disk refused an operation.
    #[error("cannot {doing} the state file: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The disk's error.
        source: Arc<io::Error>,
    },
    /// What is on disk is not what was written. Never answered from.
    #[error(
        "the state file is damaged ({detail}). It was not deleted. Bring this member's data directory back from a copy"
    )]
    Damaged {
        /// Where, and how it was noticed.
        detail: String,
    },
    /// Every block is what was written, and yet they make no sense together. This is a fault of the program, or of the machine's memory,
    /// and not of the disk: another member's state would meet it too.
    #[error(
        "the state file is inconsistent ({detail}), although no block of it is damaged. It was not deleted: please report this. To fetch the state of another member instead, stop this member, move the file `state` out of its data directory, and start it again"
    )]
    Inconsistent {
        /// How it was noticed.
        detail: String,
    },
    /// The file was written by another version.
    #[error(
        "the state file has format {found}, and this version has {known}: start the version that wrote it"
    )]
    Format {
        /// The file's.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// The state was built with another value of an option that is fixed when the cluster forms (rule F6).
    #[error(transparent)]
    OtherOption(#[from] OptionMismatch),
    /// An earlier error was final.
    #[error("the state failed earlier: restart the member")]
    Failed,
}

impl EngineError {
    pub(crate) fn damaged(detail: impl Into<String>) -> Self {
        Self::Damaged { detail: detail.into() }
    }

    /// Whether it is the content of the file that is of no use, and not the disk or this program.
    pub(crate) fn is_of_content(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Inconsistent { .. })
    }

    pub(super) fn io(doing: &'static str, source: io::Error) -> Self {
        Self::Io { doing, source: Arc::new(source) }
    }
}
