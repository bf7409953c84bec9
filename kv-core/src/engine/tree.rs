//! The durable B-tree: redb over a checked file.

use super::EngineError;
use super::blocks::Blocks;
use super::change::Retention;
use super::guard::guarded;
use super::history::{self, CHANGED, CHANGES, HistoryRange, RANGE};
use super::memtable::Memtable;
use super::part::{DATA, Part, ROWS, Row};
use super::snapshot;
use super::tree_snapshot::{Tables, TreeSnapshot};
use crate::ids::Revision;
use crate::storage::File;
use redb::{
    AccessGuard, Database, Durability, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition,
    TableError, WriteTransaction,
};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The progress of a snapshot that is being received.
const PROGRESS: TableDefinition<'static, &'static [u8], &'static [u8]> = TableDefinition::new("progress");

/// An open B-tree. Dropping it writes nothing: a restart finds the last merge, as after a crash.
pub(super) struct Tree {
    database: Database,
    blocks: Arc<Blocks>,
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tree").field("blocks", &self.blocks).finish_non_exhaustive()
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        self.blocks.abandon();
    }
}

impl Tree {
    /// Creates an empty tree.
    ///
    /// `abandoned` stops it from writing: a running merge then fails.
    pub(super) fn create(
        file: Arc<dyn File>,
        cache_bytes: usize,
        abandoned: Arc<AtomicBool>,
    ) -> Result<Self, EngineError> {
        Self::start(Blocks::create(file, abandoned)?, cache_bytes)
    }

    /// Opens the tree in the file.
    pub(super) fn open(
        file: Arc<dyn File>,
        cache_bytes: usize,
        abandoned: Arc<AtomicBool>,
    ) -> Result<Self, EngineError> {
        let blocks = Blocks::open(file, abandoned)?;
        if blocks.len() == 0 {
            return Err(EngineError::damaged("it is empty"));
        }
        Self::start(blocks, cache_bytes)
    }

    /// Opens the tree in a checked file, or creates an empty one.
    pub(super) fn start(blocks: Blocks, cache_bytes: usize) -> Result<Self, EngineError> {
        let blocks = Arc::new(blocks);
        let backend = Backend(blocks.clone());
        let database = guarded(&blocks, || {
            Ok(Database::builder().set_cache_size(cache_bytes).create_with_backend(backend)?)
        })?;
        Ok(Self { database, blocks })
    }

    /// The file under the tree.
    pub(super) fn blocks(&self) -> &Blocks {
        &self.blocks
    }

    /// The state that the last merge left.
    pub(super) fn snapshot(self: &Arc<Self>) -> Result<TreeSnapshot, EngineError> {
        let tables = guarded(&self.blocks, || {
            let transaction = self.database.begin_read()?;
            let open = |definition| match transaction.open_table(definition) {
                Ok(table) => Ok(Some(table)),
                Err(TableError::TableDoesNotExist(_)) => Ok(None),
                Err(error) => Err(error),
            };
            Ok(Tables {
                rows: open(ROWS)?,
                data: open(DATA)?,
                changes: open(CHANGES)?,
                changed: open(CHANGED)?,
                progress: open(PROGRESS)?,
            })
        })?;
        TreeSnapshot::new(tables, self.clone(), self.blocks.clone())
    }

    /// Stores what was changed up to `revision`, its history and rows in the tree, in one durable transaction.
    pub(super) fn merge(
        &self,
        frozen: &Memtable,
        rows: &[Row],
        revision: Revision,
        retention: Retention,
    ) -> Result<(), EngineError> {
        let whole = guarded(&self.blocks, || {
            let mut transaction = self.database.begin_write()?;
            // In two phases: the new root is only referenced when all of it is durable. So a restart need not walk the
            // tree.
            transaction.set_two_phase_commit(true);
            transaction.set_quick_repair(true);
            {
                let mut table = transaction.open_table(ROWS)?;
                for (key, value) in rows {
                    match value {
                        Some(value) => drop(table.insert(&key[..], &value[..])?),
                        None => drop(table.remove(&key[..])?),
                    }
                }
                let before = table.get(RANGE)?.map(|span| HistoryRange::decode(span.value()));
                let Ok(before) = before.transpose() else { return Ok(false) };
                let history =
                    history::Writer::open(&transaction, before.unwrap_or_default(), revision, retention)?;
                let Some(span) =
                    merge_versions(&transaction, frozen, history, retention, self.blocks.steps())?
                else {
                    return Ok(false);
                };
                table.insert(RANGE, &span.encode()[..])?;
            }
            transaction.commit()?;
            Ok(true)
        })?;
        if whole { Ok(()) } else { Err(EngineError::damaged("its history cannot be read")) }
    }
}

/// Stores the newest version of each key in the data, and what they supersede in the history.
fn merge_versions(
    transaction: &WriteTransaction,
    frozen: &Memtable,
    mut history: history::Writer<'_>,
    retention: Retention,
    steps: &AtomicU64,
) -> Result<Option<HistoryRange>, redb::Error> {
    let mut data = transaction.open_table(DATA)?;
    let mut versions = frozen.versions().peekable();
    while let Some((mut version, mut change)) = versions.next() {
        steps.fetch_add(1, Ordering::Relaxed);
        let key = &version.key;
        let below = match change.value() {
            Some(value) => data.insert(key.as_slice(), &value[..])?,
            None => data.remove(key.as_slice())?,
        };
        // Newest first.
        loop {
            let older = versions.next_if(|(older, _)| older.key == version.key);
            if retention.is_some() {
                let former = match &older {
                    Some((_, older)) => older.value().map(|value| &value[..]),
                    None => below.as_ref().map(AccessGuard::value),
                };
                history.add(&version, &change, former)?;
            }
            let Some(older) = older else { break };
            (version, change) = older;
        }
    }
    history.finish()
}

impl Tree {
    /// Stores a piece of a snapshot and the progress in the tree, in one transaction.
    pub(super) fn stage(
        &self,
        rows: Vec<snapshot::Row>,
        progress: &[u8],
        durable: bool,
    ) -> Result<(), EngineError> {
        guarded(&self.blocks, || {
            let mut transaction = self.database.begin_write()?;
            if durable {
                transaction.set_two_phase_commit(true);
                transaction.set_quick_repair(true);
            } else {
                transaction.set_durability(Durability::None)?;
            }
            for part in Part::ALL {
                let mut table = transaction.open_table(part.table())?;
                for row in rows.iter().filter(|row| row.part == part) {
                    table.insert(&row.key[..], &row.value[..])?;
                }
            }
            transaction.open_table(PROGRESS)?.insert(&b""[..], progress)?;
            transaction.commit()?;
            Ok(())
        })
    }

    /// Turns a received snapshot into a regular state, durably.
    pub(super) fn forget_progress(&self) -> Result<(), EngineError> {
        guarded(&self.blocks, || {
            let mut transaction = self.database.begin_write()?;
            transaction.set_two_phase_commit(true);
            transaction.set_quick_repair(true);
            transaction.delete_table(PROGRESS)?;
            transaction.commit()?;
            Ok(())
        })
    }
}

/// The file as redb sees it.
#[derive(Debug)]
struct Backend(Arc<Blocks>);

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
}
