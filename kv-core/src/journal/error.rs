//! The errors of a journal: one enum for each kind of operation.

use crate::config::OptionMismatch;
use crate::ids::{Hash, Incarnation, MemberId, Op};
use std::io;

/// Why a data directory was not opened. Except for [`Disk`](Self::Disk), nothing on disk was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The disk failed.
    #[error("cannot {doing}: {source}")]
    Disk {
        /// The operation.
        doing: String,
        /// The disk's error.
        source: io::Error,
    },
    /// The directory belongs to another cluster.
    #[error(
        "the data directory belongs to the cluster {found:?}, not to {expected:?}: name that cluster, or another directory"
    )]
    ForeignCluster {
        /// Whose it is.
        found: String,
        /// The name of this cluster.
        expected: String,
    },
    /// The directory belongs to another member.
    #[error(
        "the data directory belongs to member {found}, not to member {expected}: start with that id, or name another directory"
    )]
    ForeignMember {
        /// Whose it is.
        found: MemberId,
        /// The id of this member.
        expected: MemberId,
    },
    /// The directory was formatted with another member list.
    #[error(
        "the data directory was formatted with other members of the cluster {cluster:?}{difference}. Put the ids and roles in the \
         configuration back to what they were (addresses may change)"
    )]
    OtherConfiguration {
        /// The name of the cluster.
        cluster: String,
        /// The fingerprint of the member list with which the directory was formatted.
        fingerprint: Hash,
        /// How that list differs, as a part of the message; empty if this is unknown.
        difference: String,
    },
    /// The directory was formatted with another value of a fixed option.
    #[error(transparent)]
    OtherOption(#[from] OptionMismatch),
    /// An earlier version of kv wrote the directory.
    #[error(
        "the data directory has format {found}, this version knows format {known} only: start the version that wrote it"
    )]
    OlderFormat {
        /// The format of the directory.
        found: u32,
        /// The only format that this version knows.
        known: u32,
    },
    /// A later version of kv wrote the directory.
    #[error(
        "the data directory has format {found}, this version knows format {known}: start the newer version"
    )]
    NewerFormat {
        /// The format of the directory.
        found: u32,
        /// The newest format that this version knows.
        known: u32,
    },
    /// Too few copies of the superblock are intact.
    #[error(
        "the superblock is damaged: {intact} of {copies} copies are intact, {needed} are needed. This member cannot take part \
         without it: bring the data directory back as it was when the member last ran"
    )]
    SuperblockDamaged {
        /// The number of intact copies.
        intact: usize,
        /// The number of all copies.
        copies: usize,
        /// How many intact copies are needed.
        needed: usize,
    },
    /// There are journal files without a superblock.
    #[error(
        "the data directory contains {file} but no superblock. This member cannot take part without it: bring the file \
         superblock back as it was when the member last ran"
    )]
    SuperblockMissing {
        /// One of the files.
        file: String,
    },
    /// The superblock is older than the journal.
    #[error(
        "the superblock is older than the journal file {file}: an old copy has replaced it. This member cannot take part with \
         it: bring the file superblock back as it was when the member last ran"
    )]
    SuperblockOutdated {
        /// The name of the file.
        file: String,
    },
    /// A journal file belongs to another member.
    #[error("the journal file {file} belongs to another member or cluster: put the right one in its place")]
    ForeignSegment {
        /// The name of the file.
        file: String,
    },
    /// The option `segment_bytes` is out of range.
    #[error("the segment size is {0} bytes: it must be a multiple of 4096 from 16384 to 1 GiB")]
    SegmentBytes(u64),
}

impl From<JournalWriteError> for OpenError {
    fn from(error: JournalWriteError) -> Self {
        match error {
            JournalWriteError::Disk { doing, source } => Self::Disk { doing, source },
            other => Self::Disk { doing: "make the journal ready".into(), source: io::Error::other(other) },
        }
    }
}

/// Why a write did not become durable. The error is final: the journal accepts no further operation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalWriteError {
    /// The disk failed.
    #[error("cannot {doing}: {source}")]
    Disk {
        /// The operation.
        doing: String,
        /// The disk's error.
        source: io::Error,
    },
    /// An earlier write failed, so what is on disk is unknown until it has been read again.
    #[error("an earlier write failed: open the journal again")]
    Stopped,
    /// The directory has not been formatted.
    #[error("the directory is not formatted yet")]
    NotFormatted,
    /// The log is damaged, and the entry is not the missing one.
    #[error("the log is damaged above op {head}, and entry {op} is not what is missing: cut it first")]
    Damaged {
        /// The op of the entry.
        op: Op,
        /// The head of the intact part.
        head: Op,
    },
    /// The entry is not the next one, or does not chain to the head.
    #[error("op {op} does not follow the head, op {head}")]
    NotNext {
        /// The op of the entry.
        op: Op,
        /// The head.
        head: Op,
    },
    /// The entry does not fit into any segment. No accepted request leads to this.
    #[error("entry {op} with {bytes} bytes does not fit a journal file of 1 GiB: please report this")]
    TooLarge {
        /// The op of the entry.
        op: Op,
        /// The size of its body.
        bytes: usize,
    },
    /// The point is not in this log, or not durable.
    #[error("op {op} with that hash is not a durable point of the log")]
    UnknownPoint {
        /// The op number.
        op: Op,
    },
    /// The view numbers or the incarnation would go back.
    #[error("the view or the incarnation {incarnation} would go back")]
    Regress {
        /// The incarnation of the record, or the present one.
        incarnation: Incarnation,
    },
    /// All generations have been used.
    #[error("the journal has used up its segment generations")]
    Exhausted,
}

/// Why an entry cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalReadError {
    /// The entry is damaged on disk.
    #[error("the journal entry {op} is damaged on disk")]
    Faulty {
        /// The op of the entry.
        op: Op,
    },
    /// The disk failed.
    #[error("cannot read the journal entry {op}: {source}")]
    Disk {
        /// The op of the entry.
        op: Op,
        /// The disk's error.
        source: io::Error,
    },
}
