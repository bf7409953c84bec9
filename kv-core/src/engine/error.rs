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
    #[error("cannot {doing} a file of the state: {source}")]
    Io {
        /// The operation.
        doing: &'static str,
        /// The disk's error.
        source: Arc<io::Error>,
    },
    /// A file does not contain what the member wrote. The member no longer uses the state for answers.
    #[error(
        "the state is damaged ({detail}). It was not deleted. If another data member has an intact state, start this member: it fetches that state. If none has, \
         restore this member's data directory from an intact copy with everything that it acknowledged, or set up a new cluster from a backup"
    )]
    Damaged {
        /// Where the damage is, and how it was detected.
        detail: String,
    },
    /// Every block contains what the member wrote, but the blocks are inconsistent with each other. The cause is a bug,
    /// or the machine's memory, and not the disk. The state of another member may have the same problem.
    #[error(
        "the state is inconsistent ({detail}), although no block of it is damaged. It was not deleted: please report this. To fetch the state of another member instead, stop this member, move all files whose names begin with `state` out of its data directory, and start it again"
    )]
    Inconsistent {
        /// How it was detected.
        detail: String,
    },
    /// The file was written by another version.
    #[error(
        "the file `state` has format {found}, and this version has {known}: start the version that wrote it"
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
    /// What is done when a new manifest takes the place of the old one.
    pub(super) const REPLACE: &str = "replace";

    /// What is done when the names of new files are made durable.
    pub(super) const SYNC_NAMES: &str = "make durable the name of";

    /// Returns whether opening the state again fails in the same way until an operator has changed something.
    pub(crate) const fn needs_operator(&self) -> bool {
        match self {
            Self::Damaged { .. } | Self::Inconsistent { .. } | Self::Format { .. } | Self::OtherOption(_) => {
                true
            }
            Self::Io { .. } | Self::Failed => false,
        }
    }

    pub(crate) fn damaged(detail: impl Into<String>) -> Self {
        Self::Damaged { detail: detail.into() }
    }

    pub(crate) fn inconsistent(detail: impl Into<String>) -> Self {
        Self::Inconsistent { detail: detail.into() }
    }

    /// Returns whether there was no room on the disk for a new file. Nothing else was changed. A directory that could
    /// not be synced is a failure, whatever the reason: it is unknown which names are durable.
    pub(super) fn is_full_disk(&self) -> bool {
        let full = |source: &io::Error| {
            matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        };
        let of_names = |doing| [Self::REPLACE, Self::SYNC_NAMES].contains(&doing);
        matches!(self, Self::Io { doing, source } if !of_names(*doing) && full(source))
    }

    /// Returns whether the content of the file is unusable, as opposed to a failure of the disk or of this program.
    pub(crate) fn is_of_content(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Inconsistent { .. })
    }

    pub(super) fn io(doing: &'static str, source: io::Error) -> Self {
        Self::Io { doing, source: Arc::new(source) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_file_that_found_no_room_is_a_full_disk() {
        use io::ErrorKind::{Other, PermissionDenied, QuotaExceeded, StorageFull};
        for doing in ["create", "write", "sync", EngineError::SYNC_NAMES, EngineError::REPLACE] {
            for kind in [StorageFull, QuotaExceeded, Other, PermissionDenied] {
                let full = EngineError::io(doing, kind.into()).is_full_disk();
                let of_file = ["create", "write", "sync"].contains(&doing);
                assert_eq!(full, of_file && matches!(kind, StorageFull | QuotaExceeded), "{doing} {kind}");
            }
        }
        assert!(!EngineError::Failed.is_full_disk());
    }
}
