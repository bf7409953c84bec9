//! What readers hold: a view of the state, in its layers.

use super::EngineError;
use super::base::{Base, BaseCursor};
use super::change::KeyChange;
use super::gaps::{Gaps, WORTH};
use super::key::Key;
use super::keys::Keys;
use super::memtable::{Memtable, MemtableCursor};
use super::steps::{self, STEP_BYTES};
use super::version::{Value, VersionKey};
use crate::ids::{Anchor, Revision};
use bytes::Bytes;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// A published state, as readers see it.
#[derive(Debug)]
pub struct ReadView {
    pub(super) applied: Anchor,
    pub(super) revision: Revision,
    pub(super) floor: Revision,
    pub(super) active: Arc<Memtable>,
    pub(super) frozen: Option<Arc<Memtable>>,
    pub(super) base: Option<Arc<Base>>,
    /// The known empty ranges, shared by all views of an engine.
    pub(super) gaps: Arc<Gaps>,
}

impl ReadView {
    /// The op that the state is at.
    #[must_use]
    pub fn applied(&self) -> Anchor {
        self.applied
    }

    /// The last revision taken up to that op.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The oldest revision that can be read. All changes after it are known.
    #[must_use]
    pub fn floor(&self) -> Revision {
        self.floor
    }

    /// The value of a key.
    ///
    /// # Errors
    /// If the disk fails or is damaged.
    #[cfg(feature = "internals")]
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.get_at(key, self.revision)
    }

    /// The value of a key (`Some(None)` if it was removed), if the key has changed so recently that the disk is not
    /// needed.
    #[must_use]
    pub fn get_in_memory(&self, key: &[u8]) -> Option<Option<Bytes>> {
        self.memtables()
            .find_map(|memtable| memtable.get(key, self.revision))
            .map(|(_, change)| change.value().cloned())
    }

    /// The value of a key at a revision from [`floor`](Self::floor) to [`revision`](Self::revision).
    ///
    /// # Errors
    /// If the disk fails or is damaged.
    pub fn get_at(&self, key: &[u8], at: Revision) -> Result<Option<Bytes>, EngineError> {
        for memtable in self.memtables() {
            if let Some((_, change)) = memtable.get(key, at) {
                return Ok(change.value().cloned());
            }
        }
        self.base.as_ref().map_or(Ok(None), |base| base.get_at(key, at))
    }

    /// The changes after `after`, in the order of revisions and, within one, of keys. If `key` is given, this includes
    /// the changes at `after` itself of the keys that follow it. `after` must not be below the [`floor`](Self::floor),
    /// and must be above it if a key is given.
    ///
    /// # Errors
    /// If the disk fails or is damaged.
    pub fn changes(&self, after: Revision, key: Option<&[u8]>) -> Result<HistoryChanges<'_>, EngineError> {
        let since = if key.is_some() { after } else { after.next() };
        let base = self.base.as_ref().map(|base| base.changes(since, key)).transpose()?;
        let key = key.map(Key::from);
        let notes = [self.frozen.as_ref(), Some(&self.active)].into_iter().flatten();
        let behind = move |version: &VersionKey| {
            version.revision < since
                || version.revision == after && key.as_ref().is_some_and(|key| version.key <= *key)
        };
        let recent = notes
            .flat_map(move |memtable| memtable.notes(since))
            .flat_map(|entry| (0..entry.len()).map(move |at| entry[at].0.clone()))
            .skip_while(behind)
            .map(|version| Ok((version.revision, version.key)));
        let base = base.into_iter().flatten().map(|note| note.map(|(revision, key, _)| (revision, key)));
        let all = base.chain(recent);
        let seen = all.take_while(|change| !matches!(change, Ok((at, ..)) if *at > self.revision));
        Ok(HistoryChanges(Box::new(seen.map(|change| {
            change.map(|(revision, key)| HistoryChange {
                revision,
                key: Bytes::copy_from_slice(key.as_slice()),
            })
        }))))
    }

    /// What was done to a key at exactly this revision, which is one of its [`changes`](Self::changes).
    ///
    /// # Errors
    /// If the disk fails or is damaged.
    pub fn change(&self, key: &[u8], at: Revision) -> Result<KeyChange, EngineError> {
        let found = self.memtables().find_map(|memtable| memtable.get(key, at));
        match found {
            Some((revision, change)) if revision == at => Ok(change),
            Some(_) | None => match &self.base {
                Some(base) => base.change(key, at),
                None => Err(EngineError::damaged("a change is missing")),
            },
        }
    }

    /// The length of the files.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.base.as_ref().map_or(0, |base| base.runs().iter().map(|run| run.bytes()).sum())
    }

    /// The newest first.
    fn memtables(&self) -> impl Iterator<Item = &Memtable> {
        [Some(&self.active), self.frozen.as_ref()].into_iter().flatten().map(|memtable| &**memtable)
    }

    /// Scans the keys from `from` on, in order.
    ///
    /// # Errors
    /// If the disk fails or is damaged.
    #[cfg(feature = "internals")]
    pub fn scan(&self, from: &[u8]) -> Result<Scan<'_>, EngineError> {
        self.scan_at(Keys::from(from), self.revision)
    }

    /// Scans keys as they were at a revision from [`floor`](Self::floor) to [`revision`](Self::revision).
    ///
    /// # Errors
    /// If the disk fails or is damaged.
    pub fn scan_at(&self, keys: Keys<'_>, at: Revision) -> Result<Scan<'_>, EngineError> {
        let edge = if keys.reverse { keys.to.map(Key::from) } else { Some(Key::from(keys.from)) };
        let mut scan = Scan {
            view: self,
            at,
            cursors: None,
            from: Bytes::copy_from_slice(keys.from),
            to: keys.to.map(Bytes::copy_from_slice),
            reverse: keys.reverse,
            heads: false,
            value_bytes: 0,
            steps: 0,
            most: usize::MAX,
            rest: None,
            edge,
            removed: 0,
        };
        if !scan.jump(None)? {
            scan.cursors = Some(self.cursors(keys, at)?);
        }
        Ok(scan)
    }

    fn cursors(&self, keys: Keys<'_>, at: Revision) -> Result<Cursors<'_>, EngineError> {
        steps::count(1);
        Ok(Cursors {
            active: self.active.cursor(keys, at),
            frozen: self.frozen.as_ref().map(|frozen| frozen.cursor(keys, at)),
            base: self.base.as_ref().map(|base| base.cursor(keys, at)).transpose()?,
        })
    }
}

/// A change of a key in the history.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HistoryChange {
    /// The revision of the change.
    pub revision: Revision,
    pub key: Bytes,
}

/// The changes of a [`ReadView`], in order. Do not use it after an error.
pub struct HistoryChanges<'a>(Box<dyn Iterator<Item = Result<HistoryChange, EngineError>> + 'a>);

impl Iterator for HistoryChanges<'_> {
    type Item = Result<HistoryChange, EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }
}

impl fmt::Debug for HistoryChanges<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HistoryChanges").finish_non_exhaustive()
    }
}

/// A cursor in each layer.
struct Cursors<'a> {
    active: MemtableCursor<'a>,
    frozen: Option<MemtableCursor<'a>>,
    base: Option<BaseCursor<'a>>,
}

/// A scan over the keys of a [`ReadView`]: keys with their values, in order. Do not use it after an error.
///
/// It takes a step for each key that is in some layer, even if the key was removed. But the removed keys that one scan
/// has found are skipped by later scans at once, until a key is put there again.
pub struct Scan<'a> {
    view: &'a ReadView,
    at: Revision,
    /// None at the end.
    cursors: Option<Cursors<'a>>,
    from: Bytes,
    to: Option<Bytes>,
    reverse: bool,
    heads: bool,
    value_bytes: usize,
    steps: usize,
    most: usize,
    rest: Option<Key>,
    /// Where the present run of removed keys began, and how many have been passed.
    edge: Option<Key>,
    removed: usize,
}

/// How many bytes of a value are returned if only its beginning is wanted.
const HEAD_BYTES: usize = 64;

impl Iterator for Scan<'_> {
    type Item = Result<(Bytes, Bytes), EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some(key) = self.next_key() else {
                self.found_gap(None);
                self.cursors = None;
                return None;
            };
            if self.steps >= self.most {
                self.found_gap(Some(&key));
                self.cursors = None;
                self.rest = Some(key);
                return None;
            }
            match self.take(&key) {
                Ok(Some(value)) => return Some(Ok((Bytes::copy_from_slice(key.as_slice()), value))),
                Ok(None) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

impl fmt::Debug for Scan<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scan").finish_non_exhaustive()
    }
}

impl Scan<'_> {
    /// Returns only the first bytes of the values, and copies no more of them.
    #[must_use]
    pub fn heads(mut self) -> Self {
        self.heads = true;
        self
    }

    /// Ends the scan after about this many steps: see [`rest`](Self::rest). Every 256 bytes that are read count as one
    /// more step.
    #[must_use]
    pub fn within(mut self, steps: usize) -> Self {
        self.most = steps;
        self
    }

    /// If the scan has ended before the end of the range: the next key.
    #[must_use]
    pub fn rest(&self) -> Option<&[u8]> {
        self.rest.as_ref().map(Key::as_slice)
    }

    /// The full length of the last value.
    #[must_use]
    pub const fn value_bytes(&self) -> usize {
        self.value_bytes
    }

    fn next_key(&self) -> Option<Key> {
        let Cursors { active, frozen, base } = self.cursors.as_ref()?;
        let frozen = frozen.as_ref().and_then(MemtableCursor::key);
        let base = base.as_ref().and_then(BaseCursor::key);
        let keys = [active.key(), frozen, base].into_iter().flatten();
        let key = if self.reverse { keys.max() } else { keys.min() }?;
        let within =
            key.as_slice() >= &self.from[..] && self.to.as_ref().is_none_or(|to| key.as_slice() < &to[..]);
        within.then(|| key.clone())
    }

    /// Takes the next key, and returns its value.
    fn take(&mut self, key: &Key) -> Result<Value, EngineError> {
        let value = self.step(key)?;
        if value.is_some() {
            self.found_gap(Some(key));
            self.removed = 0;
            self.edge = Some(if self.reverse { key.clone() } else { after(key) });
        } else {
            self.removed += 1;
            if self.removed.is_multiple_of(WORTH) {
                self.jump(Some(key))?;
            }
        }
        Ok(value)
    }

    /// Takes `key` from every layer that has it. The topmost layer has its value.
    fn step(&mut self, key: &Key) -> Result<Value, EngineError> {
        let Some(Cursors { active, frozen, base }) = &mut self.cursors else { return Ok(None) };
        let mut found: Option<Value> = None;
        let mut bytes = 0;
        for memtable in [Some(active), frozen.as_mut()].into_iter().flatten() {
            if memtable.key() == Some(key) {
                found = found.or_else(|| memtable.value());
                memtable.advance();
            }
        }
        let most = if self.heads { HEAD_BYTES } else { usize::MAX };
        let mut value = found.as_ref().cloned().flatten();
        self.value_bytes = value.as_ref().map_or(0, Bytes::len);
        value = value.map(|value| value.slice(..value.len().min(most)));
        if let Some(base) = base.as_mut().filter(|base| base.key() == Some(key)) {
            bytes += base.bytes();
            if found.is_none() {
                let len = &mut self.value_bytes;
                bytes += base.value(&mut |stored| {
                    *len = stored.len();
                    value = Some(Bytes::copy_from_slice(&stored[..stored.len().min(most)]));
                })?;
            }
            base.advance()?;
        }
        self.steps = self.steps.saturating_add(1 + bytes / STEP_BYTES);
        Ok(value)
    }

    /// Skips the known gap at the present position, if there is one. `key` is the key that was just passed there, or
    /// `None` at the beginning.
    fn jump(&mut self, key: Option<&Key>) -> Result<bool, EngineError> {
        let gaps = &self.view.gaps;
        let keys = if self.reverse {
            let gap = match key {
                Some(key) => gaps.around(key.as_slice(), self.at).map(|(from, _)| from),
                None => gaps.below(self.to.as_deref(), self.at),
            };
            gap.map(|to| (Some(self.from.clone()), Some(Bytes::copy_from_slice(to.as_slice()))))
        } else {
            let gap = gaps.around(key.map_or(&self.from, Key::as_slice), self.at);
            gap.map(|(_, end)| (end.map(|end| Bytes::copy_from_slice(end.as_slice())), self.to.clone()))
        };
        let Some((from, to)) = keys else { return Ok(false) };
        self.steps = self.steps.saturating_add(1);
        self.cursors = match from {
            Some(from) => {
                let keys = Keys { from: &from, to: to.as_deref(), reverse: self.reverse };
                Some(self.view.cursors(keys, self.at)?)
            }
            // The gap ends with the key space.
            None => None,
        };
        Ok(true)
    }

    /// The keys passed since `edge` are removed, up to `end` or the end of the range.
    fn found_gap(&self, end: Option<&Key>) {
        if self.removed < WORTH || self.cursors.is_none() {
            return;
        }
        let gaps = &self.view.gaps;
        if self.reverse {
            gaps.found(end.map_or_else(|| Key::from(&self.from[..]), after), self.edge.clone(), self.at);
        } else if let Some(edge) = self.edge.clone() {
            let to = end.cloned().or_else(|| self.to.as_deref().map(Key::from));
            gaps.found(edge, to, self.at);
        }
    }
}

/// The key that follows directly.
fn after(key: &Key) -> Key {
    Key::from(&[key.as_slice(), &[0]].concat()[..])
}

/// Reads the published views of an engine. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Reader {
    /// Locked only to copy or to replace the pointer.
    current: Arc<Mutex<Arc<ReadView>>>,
}

impl Reader {
    pub(super) fn new(view: ReadView) -> Self {
        Self { current: Arc::new(Mutex::new(Arc::new(view))) }
    }

    /// Makes `view` the newest, and returns the one before.
    pub(super) fn replace(&self, view: ReadView) -> Arc<ReadView> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *current, Arc::new(view))
    }

    /// The newest view. Holding it keeps memory and pages of the disk in use, so do not hold it for long.
    #[must_use]
    pub fn latest(&self) -> Arc<ReadView> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
