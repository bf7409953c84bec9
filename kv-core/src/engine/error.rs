//! The errors of an engine.

use crate::config::OptionMismatch;
use std::io;
use std::sync::Arc;

/// Why the state cannot be read, changed or made durable. The error is final: drop the state, and start again from what
/// is on disk.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// An operation of the disk failed.
    #[error("cannot {doing} the state file: {source}")]
    Io {
        /// The operation.
        doing: &'static str,
        /// The disk's error.
        source: Arc<io::Error>,
    },
    /// The file does not contain what the member wrote. The member no longer uses the state for answers.
    #[error(
        "the state file is damaged ({detail}). It was not deleted. Restore the member's data directory from an intact copy with everything that it acknowledged, \
         or set up a new cluster from a backup"
    )]
    Damaged {
        /// Where the damage is, and how it was detected.
        detail: String,
    },
    /// Every block contains what the member wrote, but the blocks are inconsistent with each other. The cause is a bug,
    /// or the machine's memory, and not the disk. The state of another member may have the same problem.
    #[error(
        "the state file is inconsistent ({detail}), although no block of it is damaged. It was not deleted: please report this. To fetch the state of another member instead, stop this member, move the file `state` out of its data directory, and start it again"
    )]
    Inconsistent {
        /// How it was detected.
        detail: String,
    },
    /// The file was written by another version.
    #[error(
        "the state file has format {found}, and this version has {known}: start the version that wrote it"
    )]
    Format {
        /// The format of the file.
        found: u32,
        /// The format that this version knows.
        known: u32,
    },
    /// The state was built with another value of a fixed option (rule F6).
    #[error(transparent)]
    OtherOption(#[from] OptionMismatch),
    /// An earlier operation failed with a final error.
    #[error("the state failed earlier: restart the member")]
    Failed,
}

impl EngineError {
    pub(crate) fn damaged(detail: impl Into<String>) -> Self {
        Self::Damaged { detail: detail.into() }
    }

    /// Returns whether the content of the file is unusable, as opposed to a failure of the disk or of this program.
    pub(crate) fn is_of_content(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Inconsistent { .. })
    }

    pub(super) fn io(doing: &'static str, source: io::Error) -> Self {
        Self::Io { doing, source: Arc::new(source) }
    }
}
