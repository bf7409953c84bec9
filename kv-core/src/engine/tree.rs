//! The durable B-tree: redb over a checked file.

use super::EngineError;
use super::blocks::Blocks;
use super::key::Key;
use super::overlay::{OverlayCursor, Value};
use super::snapshot;
use crate::storage::File;
use bytes::Bytes;
use redb::{
    AccessGuard, Database, Durability, Range, ReadOnlyTable, ReadableDatabase, StorageBackend,
    TableDefinition, TableError,
};
use std::fmt;
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Users' keys and their records.
const DATA: TableDefinition<'static, &'static [u8], &'static [u8]> = TableDefinition::new("data");

/// What else belongs to the state, by name.
const ROWS: TableDefinition<'static, &'static [u8], &'static [u8]> = TableDefinition::new("rows");

/// How far the pieces of a snapshot go, while this is one that is being received.
const PROGRESS: TableDefinition<'static, &'static [u8], &'static [u8]> = TableDefinition::new("progress");

/// The two parts of a state, in the order in which they are transferred.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Part {
    Rows,
    Data,
}

impl Part {
    pub(super) const ALL: [Self; 2] = [Self::Rows, Self::Data];

    pub(super) const fn code(self) -> u8 {
        match self {
            Self::Rows => 0,
            Self::Data => 1,
        }
    }

    pub(super) fn of_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|part| part.code() == code)
    }

    const fn table(self) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
        match self {
            Self::Rows => ROWS,
            Self::Data => DATA,
        }
    }

    /// The place of a key in the order of a transfer.
    pub(super) fn place(self, key: &[u8]) -> Bytes {
        [&[self.code()], key].concat().into()
    }

    /// The parts that are left after a place, and the key after which the first of them goes on.
    pub(super) fn from_place(place: &[u8]) -> impl Iterator<Item = (Self, Option<&[u8]>)> {
        let begun = place.split_first().and_then(|(code, key)| Some((Self::of_code(*code)?, key)));
        Self::ALL.into_iter().filter_map(move |part| match begun {
            Some((current, _)) if part < current => None,
            Some((current, key)) if part == current => Some((part, Some(key))),
            Some(_) | None => Some((part, None)),
        })
    }
}

type Table = ReadOnlyTable<&'static [u8], &'static [u8]>;

/// A row that a merge sets, or with `None` removes.
pub(crate) type Row = (Vec<u8>, Option<Vec<u8>>);

/// A row that is there: its name and value.
pub(crate) type StoredRow = (Vec<u8>, Vec<u8>);

/// An open B-tree. Dropping it writes nothing: a restart finds the last merge, as after a kill.
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
    /// An empty one.
    ///
    /// `abandoned` stops it from writing: a merge that runs then fails.
    pub(super) fn create(
        file: Arc<dyn File>,
        cache_bytes: usize,
        abandoned: Arc<AtomicBool>,
    ) -> Result<Self, EngineError> {
        Self::start(Blocks::create(file, abandoned)?, cache_bytes)
    }

    /// The one that is in the file.
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

    fn start(blocks: Blocks, cache_bytes: usize) -> Result<Self, EngineError> {
        let blocks = Arc::new(blocks);
        let backend = Backend(blocks.clone());
        let database = guarded(&blocks, || {
            Ok(Database::builder().set_cache_size(cache_bytes).create_with_backend(backend)?)
        })?;
        Ok(Self { database, blocks })
    }

    /// What the last merge left.
    pub(super) fn snapshot(self: &Arc<Self>) -> Result<Base, EngineError> {
        guarded(&self.blocks, || {
            let transaction = self.database.begin_read()?;
            let open = |definition| match transaction.open_table(definition) {
                Ok(table) => Ok(Some(table)),
                Err(TableError::TableDoesNotExist(_)) => Ok(None),
                Err(error) => Err(error),
            };
            let (data, rows, progress) = (open(DATA)?, open(ROWS)?, open(PROGRESS)?);
            Ok(Base { data, rows, progress, tree: self.clone() })
        })
    }

    /// Puts changes and rows into the tree, in one durable transaction.
    pub(super) fn merge(&self, mut changes: OverlayCursor<'_>, rows: &[Row]) -> Result<(), EngineError> {
        guarded(&self.blocks, || {
            let mut transaction = self.database.begin_write()?;
            // Two phases: the new root is only pointed to when all of it is durable. And a restart need not walk the tree.
            transaction.set_two_phase_commit(true);
            transaction.set_quick_repair(true);
            {
                let mut data = transaction.open_table(DATA)?;
                while let Some(key) = changes.key() {
                    match changes.value() {
                        Some(value) => drop(data.insert(key.as_slice(), &value[..])?),
                        None => drop(data.remove(key.as_slice())?),
                    }
                    changes.advance();
                }
                let mut table = transaction.open_table(ROWS)?;
                for (key, value) in rows {
                    match value {
                        Some(value) => drop(table.insert(&key[..], &value[..])?),
                        None => drop(table.remove(&key[..])?),
                    }
                }
            }
            transaction.commit()?;
            Ok(())
        })
    }
}

impl Tree {
    /// Puts a piece of a snapshot into the tree, and how far the pieces go, in one transaction.
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

    /// This is a state like any other from now on, durably.
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

/// What one merge left, for as long as it is held.
pub(super) struct Base {
    data: Option<Table>,
    rows: Option<Table>,
    progress: Option<Table>,
    // Last, so that the tables are dropped before what they read from.
    tree: Arc<Tree>,
}

impl fmt::Debug for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Base").field("tree", &self.tree).finish_non_exhaustive()
    }
}

impl Base {
    /// Shows a key's value to `see`, if it has one.
    pub(super) fn get(&self, key: &[u8], see: &mut dyn FnMut(&[u8])) -> Result<(), EngineError> {
        let Some(data) = &self.data else { return Ok(()) };
        let found = guarded(&self.tree.blocks, || Ok(data.get(key)?))?;
        if let Some(value) = found {
            see(value.value());
        }
        Ok(())
    }

    /// Goes through the keys from `from` on.
    pub(super) fn cursor(&self, from: &[u8]) -> Result<BaseCursor<'_>, EngineError> {
        self.walk(self.data.as_ref(), Bound::Included(from))
    }

    /// Goes through a part, from the key after `after` on.
    pub(super) fn part(&self, part: Part, after: Option<&[u8]>) -> Result<BaseCursor<'_>, EngineError> {
        let table = match part {
            Part::Rows => self.rows.as_ref(),
            Part::Data => self.data.as_ref(),
        };
        self.walk(table, after.map_or(Bound::Unbounded, Bound::Excluded))
    }

    /// How far the pieces of a snapshot go that is being received.
    pub(super) fn progress(&self) -> Result<Option<Vec<u8>>, EngineError> {
        let Some(progress) = &self.progress else { return Ok(None) };
        guarded(&self.tree.blocks, || Ok(progress.get(&b""[..])?.map(|value| value.value().to_vec())))
    }

    fn walk(&self, table: Option<&Table>, from: Bound<&[u8]>) -> Result<BaseCursor<'_>, EngineError> {
        let blocks = &self.tree.blocks;
        let bounds = (from, Bound::Unbounded);
        let range = match table {
            Some(table) => Some(guarded(blocks, || Ok(table.range::<&[u8]>(bounds)?))?),
            None => None,
        };
        let mut cursor = BaseCursor { range, current: None, blocks };
        cursor.advance()?;
        Ok(cursor)
    }

    /// All rows whose names start with `prefix`, in order.
    pub(super) fn rows(&self, prefix: &[u8]) -> Result<Vec<StoredRow>, EngineError> {
        let Some(rows) = &self.rows else { return Ok(Vec::new()) };
        guarded(&self.tree.blocks, || {
            let mut found = Vec::new();
            for row in rows.range::<&[u8]>((Bound::Included(prefix), Bound::Unbounded))? {
                let (key, value) = row?;
                if !key.value().starts_with(prefix) {
                    break;
                }
                found.push((key.value().to_vec(), value.value().to_vec()));
            }
            Ok(found)
        })
    }
}

type Guard = AccessGuard<'static, &'static [u8]>;

/// Stands on a key.
pub(super) struct BaseCursor<'a> {
    range: Option<Range<'static, &'static [u8], &'static [u8]>>,
    current: Option<(Key, Guard)>,
    blocks: &'a Arc<Blocks>,
}

impl BaseCursor<'_> {
    /// The key it stands on; `None` at the end.
    pub(super) fn key(&self) -> Option<&Key> {
        self.current.as_ref().map(|(key, _)| key)
    }

    /// The value there.
    pub(super) fn value(&self) -> Value {
        self.current.as_ref().map(|(_, value)| Bytes::copy_from_slice(value.value()))
    }

    /// To the next key.
    pub(super) fn advance(&mut self) -> Result<(), EngineError> {
        self.current = None;
        let Some(range) = &mut self.range else { return Ok(()) };
        let next = guarded(self.blocks, || Ok(range.next().transpose()?))?;
        self.current = next.map(|(key, value)| (Key::from(key.value()), value));
        Ok(())
    }
}

/// Runs a call into redb. What it reads has passed its checksums, so it finds what it wrote; should it still stumble over
/// it, then over a fault that a checksum cannot show, and that is damage too, not a reason to end the process.
fn guarded<R>(blocks: &Blocks, call: impl FnOnce() -> Result<R, redb::Error>) -> Result<R, EngineError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(result)) => Ok(result),
        Ok(Err(error)) => Err(blocks.failure().unwrap_or_else(|| classify(error))),
        Err(_) => Err(EngineError::damaged("the B-tree is inconsistent")),
    }
}

fn classify(error: redb::Error) -> EngineError {
    match error {
        redb::Error::Io(error) => EngineError::io("use", error),
        redb::Error::PreviousIo | redb::Error::DatabaseClosed | redb::Error::LockPoisoned(_) => {
            EngineError::Failed
        }
        error => EngineError::damaged(error.to_string()),
    }
}

/// What redb sees of the file.
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
