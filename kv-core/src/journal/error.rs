//! What can go wrong with a journal: one enum per thing that is done with it.

use crate::ids::Op;
use std::io;

/// Why a data directory could not be opened. Nothing was changed on disk, unless it is an error of the disk itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The disk failed.
    #[error("cannot {doing}: {source}")]
    Disk {
        /// What was attempted.
        doing: String,
        /// What the disk said.
        source: io::Error,
    },
}

/// Why a write did not become durable. Final: the journal does nothing more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The disk failed.
    #[error("cannot {doing}: {source}")]
    Disk {
        /// What was attempted.
        doing: String,
        /// What the disk said.
        source: io::Error,
    },
}

/// Why an entry cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The entry is damaged on disk.
    #[error("the journal entry {op} is damaged on disk")]
    Faulty {
        /// Which.
        op: Op,
    },
}
