//! The engine on disk: memtables in memory on top of a B-tree in the file `state`.
//!
//! The first checkpoint creates the file: it is completed under another name and then renamed, so `state` is always
//! complete. Nothing is written before that, and opening or dropping an engine writes nothing.

use super::blocks::Blocks;
use super::change::{KeyChange, Retention};
use super::layers::Layers;
use super::memtable::Memtable;
use super::part::{Row, StoredRow};
use super::read_view::{ReadView, Reader};
use super::tree::Tree;
use super::tree_snapshot::TreeSnapshot;
use super::{Engine, EngineError, Snapshot};
use crate::ids::{Anchor, Hash, Revision};
use crate::storage::Storage;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// The name of the state file.
pub(super) const NAME: &str = "state";

/// The name of a damaged state file, until another has replaced it.
pub(super) const ASIDE: &str = "state.damaged";

/// The name of the file while it is created.
const UNFINISHED: &str = "state.new";

/// Readers may hold this many times the memory limit in memtables that are already in the base. Beyond that, the next
/// memtable must wait.
const DEAD_OVERLAYS: usize = 2;

/// The engine on disk.
#[derive(Debug)]
pub struct Disk {
    layers: Layers,
    storage: Arc<dyn Storage>,
    tree: Option<Arc<Tree>>,
    checkpoint: Anchor,
    overlay_limit: usize,
    cache_bytes: usize,
    abandoned: Arc<AtomicBool>,
}

/// The rows that a checkpoint stored besides the data.
#[derive(Debug)]
pub(crate) struct Rows(Option<Arc<TreeSnapshot>>);

impl From<Arc<TreeSnapshot>> for Rows {
    fn from(base: Arc<TreeSnapshot>) -> Self {
        Self(Some(base))
    }
}

impl Rows {
    /// Returns the rows whose names start with `prefix`, in order.
    pub(crate) fn starting_with(&self, prefix: &[u8]) -> Result<Vec<StoredRow>, EngineError> {
        self.0.as_ref().map_or_else(|| Ok(Vec::new()), |base| base.rows(prefix))
    }
}

/// A file that was opened and not interpreted yet; see [`Opened::at`].
#[derive(Debug)]
pub(crate) struct Opened {
    storage: Arc<dyn Storage>,
    tree: Option<Arc<Tree>>,
    base: Option<Arc<TreeSnapshot>>,
    cache_bytes: usize,
    abandoned: Arc<AtomicBool>,
}

impl Opened {
    /// Returns whether the file exists.
    pub(crate) fn exists(&self) -> bool {
        self.tree.is_some()
    }

    pub(crate) fn rows(&self) -> Rows {
        Rows(self.base.clone())
    }

    /// Opens the engine at the point that the rows contain.
    pub(crate) fn at(
        self,
        checkpoint: Anchor,
        revision: Revision,
        overlay_limit: usize,
        retention: Retention,
    ) -> Disk {
        Disk {
            layers: Layers::new(checkpoint, revision, self.base, true, retention),
            storage: self.storage,
            tree: self.tree,
            checkpoint,
            overlay_limit,
            cache_bytes: self.cache_bytes,
            abandoned: self.abandoned,
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
        remove(storage, ASIDE)
    }

    /// Opens the file `state`, if there is one.
    pub(crate) fn open(storage: Arc<dyn Storage>, cache_bytes: usize) -> Result<Opened, EngineError> {
        Self::open_file(storage, NAME, cache_bytes)
    }

    /// Opens the state that is set aside, if there is one.
    pub(crate) fn open_aside(storage: Arc<dyn Storage>, cache_bytes: usize) -> Result<Opened, EngineError> {
        Self::open_file(storage, ASIDE, cache_bytes)
    }

    fn open_file(storage: Arc<dyn Storage>, name: &str, cache_bytes: usize) -> Result<Opened, EngineError> {
        let abandoned = Arc::new(AtomicBool::new(false));
        let tree = match storage.open(name) {
            Ok(file) => Some(Arc::new(Tree::open(file, cache_bytes, abandoned.clone())?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(EngineError::io("open", error)),
        };
        let base = match &tree {
            Some(tree) => {
                // Its name may not be durable yet.
                storage.sync_directory().map_err(|error| EngineError::io("open", error))?;
                Some(Arc::new(tree.snapshot()?))
            }
            None => None,
        };
        Ok(Opened { storage, tree, base, cache_bytes, abandoned })
    }
}

impl Disk {
    /// Whether readers hold so much of earlier memtables that the next one must wait. What a single merge leaves is
    /// less.
    fn waits_for_readers(&self) -> bool {
        self.layers.dead_bytes() >= DEAD_OVERLAYS.saturating_mul(self.overlay_limit)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A running merge fails now. Another opener of the file must not share it.
        self.abandoned.store(true, Ordering::SeqCst);
    }
}

impl Engine for Disk {
    fn newest(&self, key: &[u8], see: &mut dyn FnMut(&[u8])) -> Result<(), EngineError> {
        self.layers.newest(key, see)
    }

    fn write(&mut self, key: &[u8], revision: Revision, change: KeyChange) {
        self.layers.write(key, revision, change);
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

    fn freeze(&mut self) -> Option<Merge> {
        let anchor = self.layers.applied();
        if self.layers.frozen().is_some() || anchor.op == self.checkpoint.op || self.waits_for_readers() {
            return None;
        }
        Some(Merge {
            anchor,
            revision: self.layers.revision(),
            retention: self.layers.retention(),
            frozen: self.layers.freeze(),
            storage: self.storage.clone(),
            tree: self.tree.clone(),
            cache_bytes: self.cache_bytes,
            abandoned: self.abandoned.clone(),
            progress: Progress::default(),
        })
    }

    fn merged(&mut self, done: Merged) {
        assert!(done.anchor.op > self.checkpoint.op, "a checkpoint is later than the one before");
        self.checkpoint = done.anchor;
        self.tree = Some(done.tree);
        self.layers.unfreeze(done.base);
    }
}

/// A frozen memtable that is merged into the B-tree.
#[derive(Debug)]
pub struct Merge {
    anchor: Anchor,
    revision: Revision,
    retention: Retention,
    frozen: Arc<Memtable>,
    storage: Arc<dyn Storage>,
    tree: Option<Arc<Tree>>,
    cache_bytes: usize,
    abandoned: Arc<AtomicBool>,
    progress: Progress,
}

/// The progress of a merge. A clone reports the same one.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<OnceLock<Arc<AtomicU64>>>);

impl Progress {
    /// A number that grows as long as the merge makes progress.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.0.get().map_or(0, |steps| steps.load(Ordering::Relaxed))
    }

    fn of(&self, blocks: &Blocks) {
        self.0.get_or_init(|| blocks.steps().clone());
    }
}

impl Merge {
    /// The progress, to be observed while the merge runs.
    pub(crate) fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// The op that the merged state is at.
    pub(crate) fn anchor(&self) -> Anchor {
        self.anchor
    }

    /// Makes the memtable durable, together with `rows`. Blocks.
    pub(crate) fn run(self, rows: &[Row]) -> Result<Merged, EngineError> {
        let tree = match &self.tree {
            Some(tree) => {
                self.progress.of(tree.blocks());
                tree.merge(&self.frozen, rows, self.revision, self.retention)?;
                tree.clone()
            }
            None => {
                let tree = self.create()?;
                tree.merge(&self.frozen, rows, self.revision, self.retention)?;
                if self.abandoned.load(Ordering::SeqCst) {
                    return Err(EngineError::Failed);
                }
                let io = |error| EngineError::io("create", error);
                self.storage.rename(UNFINISHED, NAME).map_err(io)?;
                self.storage.sync_directory().map_err(io)?;
                tree
            }
        };
        Ok(Merged { anchor: self.anchor, base: Arc::new(tree.snapshot()?), tree })
    }

    fn create(&self) -> Result<Arc<Tree>, EngineError> {
        let io = |error| EngineError::io("create", error);
        remove(&*self.storage, UNFINISHED)?;
        let file = self.storage.create(UNFINISHED).map_err(io)?;
        let blocks = Blocks::create(file, self.abandoned.clone())?;
        // Set already here, because creating a tree takes several syncs.
        self.progress.of(&blocks);
        Ok(Arc::new(Tree::start(blocks, self.cache_bytes)?))
    }
}

/// Removes a file, if it exists.
pub(super) fn remove(storage: &dyn Storage, name: &str) -> Result<(), EngineError> {
    match storage.remove(name) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(EngineError::io("remove", error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// A merge that is durable.
#[derive(Debug)]
pub struct Merged {
    anchor: Anchor,
    base: Arc<TreeSnapshot>,
    tree: Arc<Tree>,
}

impl Merged {
    /// The op that the merged state is at.
    pub(crate) fn anchor(&self) -> Anchor {
        self.anchor
    }
}
