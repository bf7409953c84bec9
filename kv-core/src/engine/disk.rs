//! The engine on disk: memtables in memory on top of sorted runs.
//!
//! The first checkpoint creates the state. Nothing is written before that, and opening or dropping an engine writes
//! nothing, except that opening removes what a crash has left and mends a damaged copy of the manifest.

use super::base::Base;
use super::canon::Canon;
use super::change::{KeyChange, Retention, weight};
use super::control::Progress;
use super::history::{HistoryRange, RANGE, Weighed};
use super::layers::Layers;
use super::manifest::remove;
use super::memtable::Memtable;
use super::orphans::remove_orphans;
use super::place::{self, Row, StoredRow};
use super::read_view::{ReadView, Reader};
use super::runs::{NewFiles, RunWriter};
use super::sizes::Sizes;
use super::snapshot::HeldFiles;
use super::store::{ASIDE, MergeStep, NAME, Store};
use super::{Engine, EngineError, Snapshot};
use crate::ids::{Anchor, Hash, Revision};
use crate::storage::Storage;
use std::io;
use std::sync::Arc;

/// Readers may hold this many times the memory limit in memtables that are already in the base. Beyond that, the next
/// memtable must wait.
const DEAD_OVERLAYS: usize = 2;

/// The engine on disk.
#[derive(Debug)]
pub struct Disk {
    layers: Layers,
    store: Arc<Store>,
    /// How many checkpoints were made here.
    checkpoints: u64,
    checkpoint: Anchor,
    overlay_limit: usize,
}

/// The rows that a checkpoint stored besides the data.
#[derive(Debug)]
pub(crate) struct Rows(Option<Arc<Base>>);

impl From<Arc<Base>> for Rows {
    fn from(base: Arc<Base>) -> Self {
        Self(Some(base))
    }
}

impl Rows {
    /// Returns the row of this name.
    pub(crate) fn get(&self, name: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        self.0.as_ref().map_or(Ok(None), |base| base.row(name))
    }

    /// Returns the rows whose names start with `prefix`, in order.
    pub(crate) fn starting_with(&self, prefix: &[u8]) -> Result<Vec<StoredRow>, EngineError> {
        self.0.as_ref().map_or_else(|| Ok(Vec::new()), |base| base.rows(prefix))
    }
}

/// A state that was opened and not interpreted yet; see [`Opened::at`].
#[derive(Debug)]
pub(crate) struct Opened {
    store: Store,
    exists: bool,
    overlay_limit: usize,
}

impl Opened {
    /// Returns whether there is one.
    pub(crate) fn exists(&self) -> bool {
        self.exists
    }

    fn base(&self) -> Option<Arc<Base>> {
        self.exists.then(|| self.store.base())
    }

    pub(crate) fn rows(&self) -> Rows {
        Rows(self.base())
    }

    /// The op of the checkpoint, according to the manifest.
    pub(crate) fn manifest_at(&self) -> Option<Anchor> {
        self.store.at()
    }

    /// The checkpoint, to be sent to other members, even if its rows cannot be read.
    pub(crate) fn snapshot(&self) -> Option<Snapshot> {
        Some(Snapshot::new(self.store.at()?, self.base()?))
    }

    /// Opens the engine at the point that the rows contain.
    pub(crate) fn at(self, checkpoint: Anchor, revision: Revision, retention: Retention) -> Disk {
        Disk {
            layers: Layers::new(checkpoint, revision, self.base(), true, retention),
            store: Arc::new(self.store),
            checkpoints: 0,
            checkpoint,
            overlay_limit: self.overlay_limit,
        }
    }
}

impl Disk {
    /// Sets a damaged state aside, durably, until another one has been fetched. Until then nothing of it is lost.
    pub(crate) fn set_aside(storage: &dyn Storage) -> Result<(), EngineError> {
        let io = |error| EngineError::io("set aside", error);
        match storage.rename(NAME, ASIDE) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
            Ok(()) | Err(_) => {}
        }
        storage.sync_directory().map_err(io)
    }

    /// Returns whether a damaged state is set aside.
    pub(crate) fn is_set_aside(storage: &dyn Storage) -> Result<bool, EngineError> {
        let names = storage.list().map_err(|error| EngineError::io("look for", error))?;
        Ok(names.iter().any(|name| name == ASIDE))
    }

    /// Removes the state that was set aside, after another has replaced it.
    pub(crate) fn remove_aside(storage: &dyn Storage) -> Result<(), EngineError> {
        remove(storage, ASIDE)?;
        remove_orphans(storage)
    }

    /// Opens the state, if there is one. Nobody may write files of it meanwhile. `overlay_limit`: how many bytes of
    /// memtables it is written for.
    pub(crate) fn open(
        storage: Arc<dyn Storage>,
        cache_bytes: usize,
        overlay_limit: usize,
    ) -> Result<Opened, EngineError> {
        remove_orphans(&*storage)?;
        Self::open_as(storage, NAME, cache_bytes, overlay_limit, true)
    }

    /// Opens the state that is set aside, if there is one.
    pub(crate) fn open_aside(
        storage: Arc<dyn Storage>,
        cache_bytes: usize,
        overlay_limit: usize,
    ) -> Result<Opened, EngineError> {
        Self::open_as(storage, ASIDE, cache_bytes, overlay_limit, false)
    }

    fn open_as(
        storage: Arc<dyn Storage>,
        name: &'static str,
        cache_bytes: usize,
        overlay_limit: usize,
        all: bool,
    ) -> Result<Opened, EngineError> {
        let (store, exists) = Store::open(storage, name, cache_bytes, Sizes::of(overlay_limit), all)?;
        Ok(Opened { store, exists, overlay_limit })
    }

    /// Whether readers hold so much of earlier memtables that the next one must wait. What a single checkpoint leaves
    /// is less.
    fn waits_for_readers(&self) -> bool {
        self.layers.dead_bytes() >= DEAD_OVERLAYS.saturating_mul(self.overlay_limit)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A running checkpoint or merge fails now. Another opener of the state must not share it.
        self.store.control().abandon();
    }
}

impl Engine for Disk {
    fn newest(&self, key: &[u8], see: &mut dyn FnMut(&[u8])) -> Result<(), EngineError> {
        self.layers.newest(key, see)
    }

    fn write(&mut self, key: &[u8], revision: Revision, change: KeyChange, former: Option<usize>) {
        self.layers.write(key, revision, change, former);
    }

    fn take_write_digest(&mut self) -> Hash {
        self.layers.take_write_digest()
    }

    fn publish(&mut self, applied: Anchor, revision: Revision) {
        self.layers.publish(applied, revision);
    }

    fn charge(&mut self, bytes: usize) {
        self.layers.active().charge(bytes);
    }

    fn written(&self) -> ReadView {
        self.layers.written()
    }

    fn reader(&self) -> Reader {
        self.layers.reader()
    }

    fn checkpoint(&self) -> Anchor {
        self.checkpoint
    }

    fn memtable_bytes(&self) -> usize {
        self.layers.active().bytes() + self.layers.frozen().map_or(0, |frozen| frozen.bytes())
    }

    #[cfg(feature = "internals")]
    fn dead_bytes(&self) -> usize {
        self.layers.dead_bytes()
    }

    fn is_full(&self) -> bool {
        let cannot_freeze = self.layers.frozen().is_some() || self.waits_for_readers();
        cannot_freeze && self.layers.active().bytes() >= self.overlay_limit
    }

    fn release(&mut self) {
        self.layers.release();
    }

    fn snapshot(&self) -> Option<Snapshot> {
        self.layers.base().map(|base| Snapshot::new(self.checkpoint, base))
    }

    fn freeze(&mut self) -> Option<Frozen> {
        let anchor = self.layers.applied();
        if self.layers.frozen().is_some() || anchor.op == self.checkpoint.op || self.waits_for_readers() {
            return None;
        }
        Some(Frozen {
            anchor,
            revision: self.layers.revision(),
            retention: self.layers.retention(),
            memtable: self.layers.freeze(),
            store: self.store.clone(),
        })
    }

    fn checkpointed(&mut self, done: Checkpointed) {
        assert!(done.anchor.op > self.checkpoint.op, "a checkpoint is later than the one before");
        (self.checkpoint, self.checkpoints) = (done.anchor, done.checkpoints);
        // Its files may have been merged already.
        self.layers.unfreeze(self.store.base_of(done.checkpoints).unwrap_or(done.base));
    }

    fn merger(&self) -> Option<Merger> {
        Some(Merger { store: self.store.clone() })
    }

    fn merged(&mut self) {
        if let Some(base) = self.store.base_of(self.checkpoints).filter(|base| !base.runs().is_empty()) {
            self.layers.rebase(base);
        }
    }
}

/// A frozen memtable, of which a checkpoint is made.
#[derive(Debug)]
pub struct Frozen {
    anchor: Anchor,
    revision: Revision,
    retention: Retention,
    memtable: Arc<Memtable>,
    store: Arc<Store>,
}

impl Frozen {
    /// The progress, to be observed while the checkpoint is made.
    pub(crate) fn progress(&self) -> Progress {
        self.store.progress().clone()
    }

    /// The op that the state is at.
    pub(crate) fn anchor(&self) -> Anchor {
        self.anchor
    }

    /// Makes the memtable durable, together with `rows`. Blocks.
    #[cfg(test)]
    pub(crate) fn run(self, rows: Vec<Row>) -> Result<Checkpointed, EngineError> {
        self.write(rows)?.commit()
    }

    /// Writes the memtable, together with `rows`. Blocks.
    pub(crate) fn write(self, mut rows: Vec<Row>) -> Result<Written, EngineError> {
        let control = self.store.control();
        control.check()?;
        let before = self.store.base();
        let notes = || self.memtable.notes(Revision::ZERO);
        let added: Vec<Weighed> = notes()
            .flat_map(|entry| {
                let weighed = entry.iter().map(|(version, former)| {
                    (version.revision, weight(version.key.as_slice().len(), *former as usize))
                });
                weighed.collect::<Vec<_>>()
            })
            .collect();
        let (live, kept) = (self.memtable.live(), before.weights()?);
        let kept = kept.map(|weighed| control.check().and(weighed));
        let range = before.range().extended(self.revision, self.retention, live, kept, &added)?;
        rows.push((RANGE.to_vec(), Some(range.encode())));
        rows.sort_unstable();
        let bottom = before.runs().is_empty();
        let files = self.store.write_run(|writer| {
            let mut canon = Canon::new(range.floor, bottom, b"");
            self.write_rows(&rows, &mut canon, writer)?;
            self.write_data(&mut canon, writer)?;
            for entry in notes() {
                for (version, former) in entry.iter() {
                    let place = place::note(version.revision, version.key.as_slice());
                    if canon.needs(&place, || Ok(false))? {
                        writer.push(&place, &former.to_le_bytes())?;
                    }
                }
            }
            Ok(())
        })?;
        Ok(Written { anchor: self.anchor, range, files, store: self.store })
    }

    fn write_rows(&self, rows: &[Row], canon: &mut Canon, writer: &mut RunWriter) -> Result<(), EngineError> {
        for (name, value) in rows {
            let stored = match value {
                Some(value) => [&[place::SET], &value[..]].concat(),
                None => vec![place::DELETED],
            };
            let place = place::row(name);
            if canon.needs(&place, || Ok(value.is_none()))? {
                writer.push(&place, &stored)?;
            }
        }
        Ok(())
    }

    fn write_data(&self, canon: &mut Canon, writer: &mut RunWriter) -> Result<(), EngineError> {
        let mut stored = Vec::new();
        for (version, change) in self.memtable.versions() {
            let place = place::version(&place::key_start(version.key.as_slice()), version.revision);
            stored.clear();
            place::encode_change(&change, &mut stored);
            if canon.needs(&place, || Ok(place::removes(&stored)))? {
                writer.push(&place, &stored)?;
            }
        }
        Ok(())
    }
}

/// A checkpoint whose files are written, and not part of the state yet. If it is dropped, they are removed.
#[derive(Debug)]
pub struct Written {
    anchor: Anchor,
    range: HistoryRange,
    files: NewFiles,
    store: Arc<Store>,
}

impl Written {
    /// The op that the state is at.
    #[cfg(feature = "internals")]
    pub(crate) fn anchor(&self) -> Anchor {
        self.anchor
    }

    /// Makes it the state, durably. Blocks.
    pub(crate) fn commit(self) -> Result<Checkpointed, EngineError> {
        let (base, checkpoints) = self.store.add_run(self.anchor, self.range, self.files)?;
        Ok(Checkpointed { anchor: self.anchor, base, checkpoints })
    }
}

/// A checkpoint that is durable.
#[derive(Debug)]
pub struct Checkpointed {
    anchor: Anchor,
    base: Arc<Base>,
    checkpoints: u64,
}

impl Checkpointed {
    /// The op that the state is at.
    pub(crate) fn anchor(&self) -> Anchor {
        self.anchor
    }
}

/// Merges the runs of a state in the background.
#[derive(Clone, Debug)]
pub struct Merger {
    store: Arc<Store>,
}

impl Merger {
    /// Does a part of what is due. Blocks, for a moment. It may run beside a checkpoint. `held`: what stays on the
    /// disk, of which only a small part is merged.
    ///
    /// # Errors
    /// If the disk fails or is damaged, or the state was dropped. A full disk is no error.
    pub fn step(&self, held: &HeldFiles) -> Result<MergeStep, EngineError> {
        self.store.merge_step(held, &self.store.merge_progress())
    }

    /// Closes merged files that nobody reads any more. Blocks: the file system may have much room to free. Returns
    /// whether some are still read.
    #[must_use]
    pub fn close_unused(&self) -> bool {
        self.store.close_removed()
    }

    /// How many bytes the files of the state have, and about how many of them are needed.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> (u64, u64) {
        self.store.bytes()
    }

    /// How many rows remove a key.
    #[cfg(test)]
    pub(crate) fn removals(&self) -> u64 {
        self.store.removals()
    }

    /// How many files were removed and are still open.
    #[cfg(test)]
    pub(crate) fn removed(&self) -> usize {
        self.store.removed()
    }

    /// Whether a checkpoint waits for a merge.
    #[cfg(test)]
    pub(crate) fn is_awaited(&self) -> bool {
        self.store.is_awaited()
    }

    /// How many runs there are.
    #[cfg(test)]
    pub(crate) fn runs(&self) -> usize {
        self.store.base().runs().len()
    }
}
