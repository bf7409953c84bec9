//! A snapshot that is received from another member, until it is complete: a run of its own beside the state, with a
//! manifest of its own.
//!
//! The rows arrive in order, so they are written into files as they come. The manifest names each complete file
//! together with the progress, so that a restart continues there. The state is not replaced before the whole run has
//! been read back and matches what was received. Then the manifest is renamed to that of the state, in one step.

use super::EngineError;
use super::base::Base;
use super::disk::Rows;
use super::history::{HistoryRange, RANGE};
use super::manifest::{self, Manifest, Point, Received};
use super::orphans::remove_orphans;
use super::place::{self, Part};
use super::runs::{Cache, Run, RunFile, RunMeta, RunWriter, Target, name_of, number_of};
use super::sizes::Sizes;
use super::snapshot::{Row, RowSum, Rows as ChunkRows};
use super::store::{ASIDE, NAME, STAGING, open_runs};
use crate::ids::Anchor;
use crate::message::{Chunk, ChunkEnd};
use crate::storage::Storage;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The blocks that are kept while it is read back, in bytes.
const CACHE_BYTES: usize = 1 << 20;

/// How far the received pieces go.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Progress {
    at: Anchor,
    /// Once its row has arrived.
    range: Option<HistoryRange>,
    end: ChunkEnd,
    /// The digest of the received rows.
    sum: RowSum,
}

impl Progress {
    /// Whether nothing was received yet.
    fn has_nothing(&self) -> bool {
        matches!(&self.end, ChunkEnd::More(last) if last.is_empty())
    }
}

/// See the module.
pub(crate) struct Staging {
    target: Target,
    sizes: Sizes,
    /// Files of this number and later ones are written here.
    first_file: u64,
    /// The complete files.
    files: Vec<Arc<RunFile>>,
    /// Writes one file more.
    writer: Option<RunWriter>,
    progress: Progress,
}

impl std::fmt::Debug for Staging {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Staging").field("progress", &self.progress).finish_non_exhaustive()
    }
}

impl Staging {
    /// Opens what an earlier life left; `None` if there is nothing, or nothing usable, which is then removed.
    /// `memtable_bytes`: how large the memtables of the state are.
    pub(crate) fn open(
        storage: &Arc<dyn Storage>,
        memtable_bytes: usize,
    ) -> Result<Option<Self>, EngineError> {
        match Self::open_existing(storage, Sizes::of(memtable_bytes)) {
            Err(error) if error.is_of_content() || matches!(error, EngineError::Format { .. }) => {
                tracing::warn!(%error, "discarded the stored part of a snapshot: it cannot be used");
                remove(&**storage)?;
                Ok(None)
            }
            opened => opened,
        }
    }

    fn open_existing(storage: &Arc<dyn Storage>, sizes: Sizes) -> Result<Option<Self>, EngineError> {
        let Some(manifest) = Manifest::read(&**storage, STAGING, true)? else { return Ok(None) };
        let unknown = || EngineError::damaged("how far it goes is not recorded");
        let Received { first_file, progress } = manifest.received.ok_or_else(unknown)?;
        let progress: Progress = postcard::from_bytes(&progress).map_err(|_| unknown())?;
        if progress.has_nothing() {
            remove(&**storage)?;
            return Ok(None);
        }
        let target = target(storage, manifest.next_file);
        let runs = open_runs(&**storage, manifest.runs, &target.cache, true)?;
        let files = runs.iter().flat_map(|run| run.files.clone()).collect();
        Ok(Some(Self { target, sizes, first_file, files, writer: None, progress }))
    }

    /// Begins with nothing. An earlier one must have been dropped.
    pub(crate) fn begin(
        storage: &Arc<dyn Storage>,
        memtable_bytes: usize,
        at: Anchor,
    ) -> Result<Self, EngineError> {
        remove(&**storage)?;
        let names = storage.list().map_err(|error| EngineError::io("look for", error))?;
        let first_file = names.iter().filter_map(|name| number_of(name)).max().map_or(0, |last| last + 1);
        let progress =
            Progress { at, range: None, end: ChunkEnd::More(Bytes::new()), sum: RowSum::default() };
        let (target, sizes) = (target(storage, first_file), Sizes::of(memtable_bytes));
        let mut begun = Self { target, sizes, first_file, files: Vec::new(), writer: None, progress };
        // Before the first file: what a crash leaves is removed, also if there is no state.
        begun.make_durable()?;
        Ok(begun)
    }

    pub(crate) fn at(&self) -> Anchor {
        self.progress.at
    }

    /// How many files are complete.
    #[cfg(test)]
    pub(super) fn files(&self) -> usize {
        self.files.len()
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
        let rows: Option<Vec<Row>> = ChunkRows::of(chunk).collect();
        let Some(rows) = rows else { return Ok(false) };
        let mut before = &chunk.after;
        if matches!(&chunk.end, ChunkEnd::More(place) if place <= before) {
            // It does not go on.
            return Ok(false);
        }
        for (place, value) in &rows {
            if place <= before || !place::is_sound(place, value) {
                return Ok(false);
            }
            before = place;
        }
        // Rows that nobody needs may lie behind the last one: the next piece goes on behind those too.
        if matches!(&chunk.end, ChunkEnd::More(place) if place < before || Part::of(place).is_none()) {
            return Ok(false);
        }
        self.store(chunk, &rows)?;
        Ok(true)
    }

    fn store(&mut self, chunk: &Chunk, rows: &[Row]) -> Result<(), EngineError> {
        let ended: u64 = self.files.iter().map(|file| file.meta().len).sum();
        let limit = self.sizes.received(ended);
        // Ended here, at the end of a piece, and not by the writer in the middle of one.
        let writer = self.writer.get_or_insert_with(|| RunWriter::new(self.target.clone(), u64::MAX));
        for (place, value) in rows {
            writer.push(place, value)?;
            self.progress.sum.add(place, value);
            if place.split_first().is_some_and(|(part, name)| [*part] == Part::Rows.start() && name == RANGE)
            {
                self.progress.range = place::decode_value(value)?.map(HistoryRange::decode).transpose()?;
            }
        }
        self.progress.end = chunk.end.clone();
        if chunk.after.is_empty() || writer.bytes() >= limit || chunk.end == ChunkEnd::Last {
            self.make_durable()?;
        }
        Ok(())
    }

    /// Ends the file, and records how far the pieces go.
    fn make_durable(&mut self) -> Result<(), EngineError> {
        if let Some(writer) = self.writer.take() {
            self.files.extend(writer.finish()?.take());
        }
        let progress = postcard::to_stdvec(&self.progress).expect("plain data always encodes").into();
        let manifest = Manifest {
            next_file: self.target.next.load(Ordering::Relaxed),
            next_run: 1,
            runs: vec![self.run().meta()],
            merged: None,
            point: self.progress.range.map(|range| Point { at: self.progress.at, range }),
            received: Some(Received { first_file: self.first_file, progress }),
        };
        manifest.write(&*self.target.storage, STAGING)
    }

    fn run(&self) -> Run {
        Run { id: 0, files: self.files.clone(), clip: None, into: None }
    }

    /// The rows besides the data.
    pub(crate) fn rows(&self) -> Result<Rows, EngineError> {
        Ok(Rows::from(Arc::new(self.base()?)))
    }

    fn base(&self) -> Result<Base, EngineError> {
        Base::open(vec![Arc::new(self.run())])
    }

    /// Reads everything back, and returns whether it is complete and is what was received.
    pub(crate) fn is_whole(&self) -> Result<bool, EngineError> {
        Ok(self.progress.end == ChunkEnd::Last && RowSum::of(&self.base()?)? == self.progress.sum)
    }

    /// Replaces the state, durably. The old state must not be in use any more.
    pub(crate) fn switch(self) -> Result<(), EngineError> {
        assert!(self.progress.end == ChunkEnd::Last, "only a whole snapshot replaces a state");
        let storage = &*self.target.storage;
        storage.rename(STAGING, NAME).map_err(|error| EngineError::io("switch", error))?;
        storage.sync_directory().map_err(|error| EngineError::io("switch", error))?;
        // Only now: its replacement is complete and durable.
        manifest::remove(storage, ASIDE)?;
        remove_orphans(storage)
    }

    /// Removes it.
    pub(crate) fn discard(self) -> Result<(), EngineError> {
        // Removes what is not complete.
        drop(self.writer);
        remove(&*self.target.storage)
    }
}

fn target(storage: &Arc<dyn Storage>, next: u64) -> Target {
    Target {
        storage: storage.clone(),
        control: Arc::default(),
        cache: Arc::new(Cache::new(CACHE_BYTES)),
        next: Arc::new(AtomicU64::new(next)),
        progress: super::Progress::default(),
    }
}

/// Removes what is stored.
fn remove(storage: &dyn Storage) -> Result<(), EngineError> {
    let files: Vec<u64> = match Manifest::read(storage, STAGING, false) {
        Ok(found) => found.iter().flat_map(|found| &found.runs).flat_map(RunMeta::numbers).collect(),
        // Its files are removed when the state is opened.
        Err(error) if error.is_of_content() || matches!(error, EngineError::Format { .. }) => Vec::new(),
        Err(error) => return Err(error),
    };
    manifest::remove(storage, STAGING)?;
    files.into_iter().try_for_each(|number| manifest::remove(storage, &name_of(number)))
}
