//! A snapshot that is received from another member, until it is complete: a second file of the same kind beside the
//! state.
//!
//! Every piece is stored in one transaction, together with the progress, so that a restart continues where it stopped.
//! From time to time the transaction is made durable. The state is not replaced before the whole file has been read
//! back and matches what was received. Then the file is renamed to the name of the state, in one step.

use super::EngineError;
use super::disk;
use super::disk::{ASIDE, NAME};
use super::snapshot::{Row, RowSum, Rows, digest};
use super::tree::Tree;
use crate::ids::Anchor;
use crate::message::{Chunk, ChunkEnd};
use crate::storage::Storage;
use serde::{Deserialize, Serialize};
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// The name of the file that collects the pieces of a transferred state.
const STAGING: &str = "state.transfer";

/// At most this many bytes of rows are lost in a crash and must be fetched again.
const UNSYNCED_BYTES: usize = 4 << 20;

/// The memory of its B-tree, in bytes.
const CACHE_BYTES: usize = 8 << 20;

/// How far the received pieces go.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Progress {
    at: Anchor,
    end: ChunkEnd,
    /// The digest of the received rows.
    sum: RowSum,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Staging {
    storage: Arc<dyn Storage>,
    tree: Arc<Tree>,
    progress: Progress,
    unsynced: usize,
}

impl Staging {
    /// Opens what an earlier life left; `None` if there is nothing, or nothing usable, which is then removed.
    pub(crate) fn open(storage: &Arc<dyn Storage>) -> Result<Option<Self>, EngineError> {
        let file = match storage.open(STAGING) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(EngineError::io("open", error)),
        };
        let opened = Tree::open(file, CACHE_BYTES, Arc::new(AtomicBool::new(false))).and_then(|tree| {
            let tree = Arc::new(tree);
            let progress = tree.snapshot()?.progress()?;
            let progress = progress.and_then(|bytes| postcard::from_bytes(&bytes).ok());
            let progress = progress.ok_or_else(|| EngineError::damaged("its end is not recorded"))?;
            Ok(Self { storage: storage.clone(), tree, progress, unsynced: 0 })
        });
        match opened {
            Ok(staging) => Ok(Some(staging)),
            Err(error) if error.is_of_content() => {
                tracing::warn!(%error, "discarded the stored part of a snapshot: it cannot be used");
                remove(&**storage)?;
                Ok(None)
            }
            // The machine crashed before the file had its head: nothing was stored yet.
            Err(EngineError::Io { source, .. }) if source.kind() == io::ErrorKind::InvalidData => {
                remove(&**storage)?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Begins with nothing. An earlier one must have been dropped.
    pub(crate) fn begin(storage: &Arc<dyn Storage>, at: Anchor) -> Result<Self, EngineError> {
        remove(&**storage)?;
        let file = storage.create(STAGING).map_err(|error| EngineError::io("create", error))?;
        let tree = Arc::new(Tree::create(file, CACHE_BYTES, Arc::new(AtomicBool::new(false)))?);
        let progress = Progress { at, end: ChunkEnd::More(bytes::Bytes::new()), sum: RowSum::default() };
        Ok(Self { storage: storage.clone(), tree, progress, unsynced: 0 })
    }

    pub(crate) fn at(&self) -> Anchor {
        self.progress.at
    }

    pub(crate) fn end(&self) -> &ChunkEnd {
        &self.progress.end
    }

    /// Stores the next piece. Returns false if it is not the next one, or does not match its checksum.
    pub(crate) fn add(&mut self, chunk: &Chunk) -> Result<bool, EngineError> {
        let follows = matches!(&self.progress.end, ChunkEnd::More(place) if *place == chunk.after);
        if !follows || !chunk.is_intact() {
            return Ok(false);
        }
        let rows: Option<Vec<Row>> = Rows::of(chunk).collect();
        let Some(rows) = rows else { return Ok(false) };
        let mut sum = self.progress.sum;
        for row in &rows {
            sum.add(row.part, &row.key, &row.value);
        }
        let progress = Progress { at: self.progress.at, end: chunk.end.clone(), sum };
        let encoded = postcard::to_stdvec(&progress).expect("plain data always encodes");
        self.unsynced += chunk.rows.len();
        let first = chunk.after.is_empty();
        let durable = first || self.unsynced >= UNSYNCED_BYTES || chunk.end == ChunkEnd::Last;
        self.tree.stage(rows, &encoded, durable)?;
        if first {
            self.storage.sync_directory().map_err(|error| EngineError::io("create", error))?;
        }
        if durable {
            self.unsynced = 0;
        }
        self.progress = progress;
        Ok(true)
    }

    /// The rows besides the data.
    pub(crate) fn rows(&self) -> Result<disk::Rows, EngineError> {
        Ok(disk::Rows::from(Arc::new(self.tree.snapshot()?)))
    }

    /// Reads everything back, and returns whether it is complete and is what was received.
    pub(crate) fn is_whole(&self) -> Result<bool, EngineError> {
        Ok(self.progress.end == ChunkEnd::Last && digest(&self.tree.snapshot()?)? == self.progress.sum)
    }

    /// Replaces the state, durably. The old state must not be in use any more.
    pub(crate) fn switch(self) -> Result<(), EngineError> {
        let io = |error| EngineError::io("switch", error);
        assert!(self.progress.end == ChunkEnd::Last, "only a whole snapshot replaces a state");
        self.tree.forget_progress()?;
        drop(self.tree);
        self.storage.rename(STAGING, NAME).map_err(io)?;
        self.storage.sync_directory().map_err(io)?;
        // Only now: its replacement is complete and durable.
        disk::remove(&*self.storage, ASIDE)
    }

    /// Removes it.
    pub(crate) fn discard(self) -> Result<(), EngineError> {
        drop(self.tree);
        remove(&*self.storage)
    }
}

fn remove(storage: &dyn Storage) -> Result<(), EngineError> {
    disk::remove(storage, STAGING)
}
