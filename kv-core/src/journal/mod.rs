//! The replicated log on disk: superblock, segments, recovery.

mod error;

pub use error::{OpenError, ReadError, WriteError};

use crate::ids::{ClusterId, Hash, MemberId, Op};
use crate::message::{Entry, Recovered, Write};
use crate::storage::Storage;
use std::sync::Arc;

/// Whose directory it is. All of it must match what the superblock says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its name, for messages.
    pub cluster_name: String,
    /// The fingerprint of the configuration.
    pub fingerprint: Hash,
    /// The member.
    pub member: MemberId,
    /// How many entries may be uncommitted at once.
    pub pipeline: u32,
}

/// Sizes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JournalOptions {
    /// The size of a segment file in bytes.
    pub segment_bytes: u64,
    /// How many bytes of durable entries are kept in memory for readers.
    pub cache_bytes: usize,
}

/// The log on disk. One thread owns it; calls block.
#[derive(Debug)]
pub struct Journal {}

impl Journal {
    /// Opens what the storage holds. An empty one gives a journal that holds nothing and writes nothing until
    /// `Write::Formation(Formatted)`.
    ///
    /// # Errors
    /// [`OpenError`] says what is wrong and what to do; a refusal changes nothing on disk.
    pub fn open(
        storage: Arc<dyn Storage>,
        identity: Identity,
        options: JournalOptions,
    ) -> Result<(Self, Recovered), OpenError> {
        let _ = (storage, identity, options);
        unimplemented!()
    }

    /// Carries out the writes in order; all of them are durable when it returns. Consecutive appends share one sync.
    ///
    /// # Errors
    /// Final: every later call fails too. Drop the journal and stop the member.
    pub fn execute(&mut self, writes: &[Write]) -> Result<(), WriteError> {
        let _ = writes;
        unimplemented!()
    }

    /// A handle for reading entries, on any thread.
    #[must_use]
    pub fn reader(&self) -> LogReader {
        unimplemented!()
    }
}

/// Reads entries. Cheap to clone, shared between threads.
#[derive(Clone, Debug)]
pub struct LogReader {}

impl LogReader {
    /// Makes the entries of a write readable at once, before the journal has carried it out, and those that it cuts
    /// unreadable. Call it in the order of the writes. Other kinds of writes have no effect.
    pub fn stage(&self, write: &Write) {
        let _ = write;
        unimplemented!()
    }

    /// The entry at `op`; `None` if it is not held (below the floor, above the head).
    ///
    /// # Errors
    /// [`ReadError::Faulty`] if it is damaged on disk.
    pub fn read(&self, op: Op) -> Result<Option<Entry>, ReadError> {
        let _ = op;
        unimplemented!()
    }
}
