//! The result of one merge: the data, the other rows of the state, and the history.

use super::EngineError;
use super::blocks::Blocks;
use super::change::KeyChange;
use super::guard::guarded;
use super::history::{self, HistoryRange, RANGE};
use super::key::Key;
use super::keys::Keys;
use super::part::{Part, StoredRow};
use super::steps::{self, STEP_BYTES};
use super::version::Value;
use crate::ids::Revision;
use crate::message::EventKind;
use bytes::Bytes;
use redb::{AccessGuard, Range, ReadOnlyTable};
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

type Table = ReadOnlyTable<&'static [u8], &'static [u8]>;
type Guard = AccessGuard<'static, &'static [u8]>;

/// The tables that exist.
pub(super) struct Tables {
    pub(super) rows: Option<Table>,
    pub(super) data: Option<Table>,
    pub(super) changes: Option<Table>,
    pub(super) changed: Option<Table>,
    pub(super) progress: Option<Table>,
}

/// The result of one merge, for as long as it is held.
pub(super) struct TreeSnapshot {
    tables: Tables,
    range: HistoryRange,
    blocks: Arc<Blocks>,
    // The last field, so that the tables are dropped before the tree that they read.
    _tree: Arc<dyn Send + Sync>,
}

impl fmt::Debug for TreeSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TreeSnapshot")
            .field("span", &self.range)
            .field("blocks", &self.blocks)
            .finish_non_exhaustive()
    }
}

impl TreeSnapshot {
    pub(super) fn new(
        tables: Tables,
        tree: Arc<dyn Send + Sync>,
        blocks: Arc<Blocks>,
    ) -> Result<Self, EngineError> {
        let mut base = Self { tables, range: HistoryRange::default(), blocks, _tree: tree };
        if let Some(span) = base.read(base.tables.rows.as_ref(), RANGE)? {
            base.range = HistoryRange::decode(span.value())?;
        }
        Ok(base)
    }

    /// The oldest revision that can be read.
    pub(super) fn floor(&self) -> Revision {
        self.range.floor
    }

    fn read(&self, table: Option<&Table>, name: &[u8]) -> Result<Option<Guard>, EngineError> {
        let Some(table) = table else { return Ok(None) };
        let found = guarded(&self.blocks, || Ok(table.get(name)?))?;
        steps::count(1 + found.as_ref().map_or(0, |value| value.value().len() / STEP_BYTES));
        Ok(found)
    }

    /// Passes the value of a key to `see`, if the key exists.
    pub(super) fn get(&self, key: &[u8], see: &mut dyn FnMut(&[u8])) -> Result<(), EngineError> {
        if let Some(value) = self.read(self.tables.data.as_ref(), key)? {
            see(value.value());
        }
        Ok(())
    }

    /// The value of a key at a revision, which must not be below the floor.
    pub(super) fn get_at(&self, key: &[u8], at: Revision) -> Result<Value, EngineError> {
        if let Some(later) = self.first_change(key, at)? {
            return self.former(key, later);
        }
        let mut found = None;
        self.get(key, &mut |value| found = Some(Bytes::copy_from_slice(value)))?;
        Ok(found)
    }

    fn first_change(&self, key: &[u8], after: Revision) -> Result<Option<Revision>, EngineError> {
        if after >= self.range.revision {
            return Ok(None);
        }
        let (from, to) =
            (history::index_place(key, after.next()), history::index_end(history::index_start(key)));
        let walk =
            self.walk(self.tables.changed.as_ref(), Bound::Included(&from), Bound::Excluded(&to), false)?;
        walk.key().map(|place| Ok(history::index_at(place.as_slice())?.1)).transpose()
    }

    fn stored_change(&self, key: &[u8], revision: Revision) -> Result<Guard, EngineError> {
        let found = self.read(self.tables.changes.as_ref(), &history::change_place(revision, key))?;
        found.ok_or_else(|| EngineError::damaged("a change is missing"))
    }

    /// The value of a key before it was changed at this revision.
    fn former(&self, key: &[u8], revision: Revision) -> Result<Value, EngineError> {
        let stored = self.stored_change(key, revision)?;
        Ok(history::decode_change(stored.value())?.1.map(Bytes::copy_from_slice))
    }

    /// What was done to a key at this revision.
    pub(super) fn change(&self, key: &[u8], revision: Revision) -> Result<KeyChange, EngineError> {
        let kind = history::decode_change(self.stored_change(key, revision)?.value())?.0;
        Ok(match kind {
            EventKind::Put => {
                let value = self.get_at(key, revision)?;
                KeyChange::Set(value.ok_or_else(|| EngineError::damaged("the value of a change is missing"))?)
            }
            EventKind::Deleted => KeyChange::Delete,
            EventKind::Expired => KeyChange::Expire,
        })
    }

    /// Returns a cursor over the changes from a place on.
    pub(super) fn changes(
        &self,
        since: Revision,
        after: Option<&[u8]>,
    ) -> Result<ChangeIter<'_>, EngineError> {
        let table = self.tables.changes.as_ref().filter(|_| since <= self.range.revision);
        let place = history::change_place(since, after.unwrap_or_default());
        let from = if after.is_some() { Bound::Excluded(&place[..]) } else { Bound::Included(&place[..]) };
        Ok(ChangeIter(self.walk(table, from, Bound::Unbounded, false)?))
    }

    /// Returns a cursor over keys as they were at a revision, which must not be below the floor.
    pub(super) fn cursor(&self, keys: Keys<'_>, at: Revision) -> Result<TreeCursor<'_>, EngineError> {
        let to = keys.to.map_or(Bound::Unbounded, Bound::Excluded);
        let data = self.walk(self.tables.data.as_ref(), Bound::Included(keys.from), to, keys.reverse)?;
        let history = if at < self.range.revision { Some(ChangedKeys::new(self, keys, at)?) } else { None };
        Ok(TreeCursor { base: self, data, history, reverse: keys.reverse })
    }

    /// Returns a cursor over a part, from the key after `after` on.
    pub(super) fn part(&self, part: Part, after: Option<&[u8]>) -> Result<Walk<'_>, EngineError> {
        let Tables { rows, data, changes, changed, .. } = &self.tables;
        let table = match part {
            Part::Rows => rows,
            Part::Data => data,
            Part::Changes => changes,
            Part::Changed => changed,
        };
        self.walk(table.as_ref(), after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded, false)
    }

    /// The progress of a snapshot that is being received.
    pub(super) fn progress(&self) -> Result<Option<Vec<u8>>, EngineError> {
        let progress = self.read(self.tables.progress.as_ref(), b"")?;
        Ok(progress.map(|value| value.value().to_vec()))
    }

    fn walk(
        &self,
        table: Option<&Table>,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        reverse: bool,
    ) -> Result<Walk<'_>, EngineError> {
        let range = match table {
            // redb refuses a range that ends before it begins.
            Some(_) if ends_early(from, to) => None,
            Some(table) => Some(guarded(&self.blocks, || Ok(table.range::<&[u8]>((from, to))?))?),
            None => None,
        };
        let mut walk = Walk { range, current: None, reverse, blocks: &self.blocks };
        walk.advance()?;
        Ok(walk)
    }

    /// All rows whose names start with `prefix`, in order.
    pub(super) fn rows(&self, prefix: &[u8]) -> Result<Vec<StoredRow>, EngineError> {
        let (from, to) = (Bound::Included(prefix), Bound::Unbounded);
        let mut walk = self.walk(self.tables.rows.as_ref(), from, to, false)?;
        let mut found = Vec::new();
        while let Some(name) = walk.key().filter(|name| name.as_slice().starts_with(prefix)) {
            found.push((name.as_slice().to_vec(), walk.value().unwrap_or_default().to_vec()));
            walk.advance()?;
        }
        Ok(found)
    }
}

fn ends_early(from: Bound<&[u8]>, to: Bound<&[u8]>) -> bool {
    match (from, to) {
        (Bound::Included(from) | Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to)) => {
            from >= to
        }
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
    }
}

/// A cursor at a row of a table.
pub(super) struct Walk<'a> {
    range: Option<Range<'static, &'static [u8], &'static [u8]>>,
    current: Option<(Key, Guard)>,
    reverse: bool,
    blocks: &'a Arc<Blocks>,
}

impl Walk<'_> {
    /// The current key; `None` at the end.
    pub(super) fn key(&self) -> Option<&Key> {
        self.current.as_ref().map(|(key, _)| key)
    }

    /// The current value.
    pub(super) fn value(&self) -> Value {
        self.current.as_ref().map(|(_, value)| Bytes::copy_from_slice(value.value()))
    }

    /// The length of the current value, which was read to get here.
    pub(super) fn value_bytes(&self) -> usize {
        self.current.as_ref().map_or(0, |(_, value)| value.value().len())
    }

    /// Moves to the next key.
    pub(super) fn advance(&mut self) -> Result<(), EngineError> {
        self.current = None;
        let Some(range) = &mut self.range else { return Ok(()) };
        let reverse = self.reverse;
        let next = guarded(self.blocks, || {
            let next = if reverse { range.next_back() } else { range.next() };
            Ok(next.transpose()?)
        })?;
        self.current = next.map(|(key, value)| (Key::from(key.value()), value));
        steps::count(1 + self.value_bytes() / STEP_BYTES);
        Ok(())
    }
}

/// The changes from a place on, in order: the revision, the key, and how many bytes were read for it.
pub(super) struct ChangeIter<'a>(Walk<'a>);

impl Iterator for ChangeIter<'_> {
    type Item = Result<(Revision, Key, usize), EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (place, bytes) = (self.0.key()?, self.0.value_bytes());
        let change =
            history::change_at(place.as_slice()).map(|(revision, key)| (revision, Key::from(key), bytes));
        Some(self.0.advance().and(change))
    }
}

/// A changed key, and the revision of its first change after a given revision, if there is one.
type FirstChange = (Key, Option<Revision>);

/// The keys that changed since the beginning of the history, each with its first change after a revision. It takes two
/// look-ups per key, however often the key changed.
struct ChangedKeys<'a> {
    base: &'a TreeSnapshot,
    from: Vec<u8>,
    to: Option<Vec<u8>>,
    at: Revision,
    reverse: bool,
    current: Option<FirstChange>,
}

impl<'a> ChangedKeys<'a> {
    fn new(base: &'a TreeSnapshot, keys: Keys<'_>, at: Revision) -> Result<Self, EngineError> {
        let (from, to) = (history::index_start(keys.from), keys.to.map(history::index_start));
        let mut changed = Self { base, from, to, at, reverse: keys.reverse, current: None };
        changed.advance()?;
        Ok(changed)
    }

    fn advance(&mut self) -> Result<(), EngineError> {
        self.current = None;
        let to = self.to.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let table = self.base.tables.changed.as_ref();
        let walk = self.base.walk(table, Bound::Included(&self.from), to, self.reverse)?;
        let Some(place) = walk.key() else { return Ok(()) };
        let (key, _) = history::index_at(place.as_slice())?;
        let start = history::index_start(key.as_slice());
        if self.reverse {
            self.to = Some(start);
        } else {
            self.from = history::index_end(start);
        }
        let first = self.base.first_change(key.as_slice(), self.at)?;
        self.current = Some((key, first));
        Ok(())
    }
}

/// A cursor at a key, as it was at one revision.
pub(super) struct TreeCursor<'a> {
    base: &'a TreeSnapshot,
    data: Walk<'a>,
    history: Option<ChangedKeys<'a>>,
    reverse: bool,
}

impl TreeCursor<'_> {
    fn changed(&self) -> Option<&FirstChange> {
        self.history.as_ref().and_then(|past| past.current.as_ref())
    }

    /// The current key; `None` at the end. It may not have existed at the revision.
    pub(super) fn key(&self) -> Option<&Key> {
        let keys = [self.data.key(), self.changed().map(|(key, _)| key)].into_iter().flatten();
        if self.reverse { keys.max() } else { keys.min() }
    }

    /// Passes its value to `see`; does not call it if the key did not exist. Returns how many bytes were read.
    pub(super) fn value(&self, see: &mut dyn FnMut(&[u8])) -> Result<usize, EngineError> {
        match self.changed() {
            Some((key, Some(first))) if self.key() == Some(key) => {
                let stored = self.base.stored_change(key.as_slice(), *first)?;
                history::decode_change(stored.value())?.1.into_iter().for_each(see);
                Ok(stored.value().len())
            }
            Some(_) | None => {
                let here = self.data.current.as_ref().filter(|(key, _)| self.key() == Some(key));
                here.into_iter().for_each(|(_, value)| see(value.value()));
                // Counted when the cursor reached it.
                Ok(0)
            }
        }
    }

    /// How many bytes were read to get here.
    pub(super) fn bytes(&self) -> usize {
        self.data.value_bytes()
    }

    /// Moves to the next key.
    pub(super) fn advance(&mut self) -> Result<(), EngineError> {
        let Some(key) = self.key().cloned() else { return Ok(()) };
        if self.data.key() == Some(&key) {
            self.data.advance()?;
        }
        match &mut self.history {
            Some(past) if past.current.as_ref().is_some_and(|(changed, _)| *changed == key) => past.advance(),
            Some(_) | None => Ok(()),
        }
    }
}
