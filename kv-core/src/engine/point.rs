//! What readers hold: a point of the state, in its layers.

use super::EngineError;
use super::base::{Base, BaseCursor};
use super::change::Change;
use super::key::Key;
use super::overlay::{Overlay, OverlayCursor, Value, VersionKey};
use crate::ids::{Anchor, Revision};
use bytes::Bytes;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// A published state: what readers see.
#[derive(Debug)]
pub struct Point {
    pub(super) applied: Anchor,
    pub(super) revision: Revision,
    pub(super) floor: Revision,
    pub(super) active: Arc<Overlay>,
    pub(super) frozen: Option<Arc<Overlay>>,
    pub(super) base: Option<Arc<Base>>,
}

impl Point {
    /// The op that the state is exactly at.
    #[must_use]
    pub fn applied(&self) -> Anchor {
        self.applied
    }

    /// The revision of the last request up to there.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The oldest revision at which it can be read, and after which all changes are known.
    #[must_use]
    pub fn floor(&self) -> Revision {
        self.floor
    }

    /// The value of a key.
    ///
    /// # Errors
    /// If the disk fails or is damaged.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.get_at(key, self.revision)
    }

    /// The value that a key had at a revision from [`floor`](Self::floor) to [`revision`](Self::revision).
    ///
    /// # Errors
    /// If the disk fails or is damaged.
    pub fn get_at(&self, key: &[u8], at: Revision) -> Result<Option<Bytes>, EngineError> {
        for overlay in self.overlays() {
            if let Some((_, change)) = overlay.get(key, at) {
                return Ok(change.value().cloned());
            }
        }
        self.base.as_ref().map_or(Ok(None), |base| base.get_at(key, at))
    }

    /// The changes after `after`, in the order of revisions and, within one, of keys: those at `after` itself that follow a key, too,
    /// if it is given. `after` is not below the [`floor`](Self::floor), and above it if a key is given.
    ///
    /// # Errors
    /// If the disk fails or is damaged.
    pub fn changes(&self, after: Revision, key: Option<&[u8]>) -> Result<PastChanges<'_>, EngineError> {
        let since = if key.is_some() { after } else { after.next() };
        let base = self.base.as_ref().map(|base| base.changes(since, key)).transpose()?;
        let key = key.map(Key::from);
        let notes = [self.frozen.as_ref(), Some(&self.active)].into_iter().flatten();
        let behind = move |version: &VersionKey| {
            version.revision < since
                || version.revision == after && key.as_ref().is_some_and(|key| version.key <= *key)
        };
        let recent = notes
            .flat_map(move |overlay| overlay.notes(since))
            .flat_map(|entry| (0..entry.len()).map(move |at| entry[at].clone()))
            .skip_while(behind)
            .map(|version| Ok((version.revision, version.key)));
        let all = base.into_iter().flatten().chain(recent);
        let seen = all.take_while(|change| !matches!(change, Ok((at, _)) if *at > self.revision));
        Ok(PastChanges(Box::new(
            seen.map(|change| {
                change.map(|(revision, key)| (revision, Bytes::copy_from_slice(key.as_slice())))
            }),
        )))
    }

    /// What was done to a key at this very revision, one of its [`changes`](Self::changes).
    ///
    /// # Errors
    /// If the disk fails or is damaged.
    pub fn change(&self, key: &[u8], at: Revision) -> Result<Change, EngineError> {
        let found = self.overlays().find_map(|overlay| overlay.get(key, at));
        match found {
            Some((revision, change)) if revision == at => Ok(change),
            Some(_) | None => match &self.base {
                Some(base) => base.change(key, at),
                None => Err(EngineError::damaged("a change is missing")),
            },
        }
    }

    /// The newest first.
    fn overlays(&self) -> impl Iterator<Item = &Overlay> {
        [Some(&self.active), self.frozen.as_ref()].into_iter().flatten().map(|overlay| &**overlay)
    }

    /// Goes through the keys from `from` on, in order.
    ///
    /// # Errors
    /// If the disk fails or is damaged.
    pub fn scan(&self, from: &[u8]) -> Result<Scan<'_>, EngineError> {
        self.scan_at(Keys::from(from), self.revision)
    }

    /// Goes through keys as they were at a revision from [`floor`](Self::floor) to [`revision`](Self::revision).
    ///
    /// # Errors
    /// If the disk fails or is damaged.
    pub fn scan_at(&self, keys: Keys<'_>, at: Revision) -> Result<Scan<'_>, EngineError> {
        Ok(Scan {
            active: self.active.cursor(keys, at),
            frozen: self.frozen.as_ref().map(|frozen| frozen.cursor(keys, at)),
            base: self.base.as_ref().map(|base| base.cursor(keys, at)).transpose()?,
            from: Bytes::copy_from_slice(keys.from),
            to: keys.to.map(Bytes::copy_from_slice),
            reverse: keys.reverse,
        })
    }
}

/// Which keys, and in which order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Keys<'a> {
    /// The first key (inclusive).
    pub from: &'a [u8],
    /// The end (exclusive); none for the end of the key space.
    pub to: Option<&'a [u8]>,
    /// Whether to begin at the end.
    pub reverse: bool,
}

impl<'a> From<&'a [u8]> for Keys<'a> {
    /// All keys from this one on.
    fn from(from: &'a [u8]) -> Self {
        Self { from, to: None, reverse: false }
    }
}

/// The changes of a [`Point`], in order: when, and of which key. After an error it is useless.
pub struct PastChanges<'a>(Box<dyn Iterator<Item = Result<(Revision, Bytes), EngineError>> + 'a>);

impl Iterator for PastChanges<'_> {
    type Item = Result<(Revision, Bytes), EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }
}

impl fmt::Debug for PastChanges<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PastChanges").finish_non_exhaustive()
    }
}

/// A walk through the keys of a [`Point`]: keys with their values, in order. After an error it is useless.
pub struct Scan<'a> {
    active: OverlayCursor<'a>,
    frozen: Option<OverlayCursor<'a>>,
    base: Option<BaseCursor<'a>>,
    from: Bytes,
    to: Option<Bytes>,
    reverse: bool,
}

impl Iterator for Scan<'_> {
    type Item = Result<(Bytes, Bytes), EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        while let Some(key) = self.next_key() {
            match self.step(&key) {
                Ok(Some(value)) => return Some(Ok((Bytes::copy_from_slice(key.as_slice()), value))),
                Ok(None) => {}
                Err(error) => return Some(Err(error)),
            }
        }
        None
    }
}

impl fmt::Debug for Scan<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scan").finish_non_exhaustive()
    }
}

impl Scan<'_> {
    fn next_key(&self) -> Option<Key> {
        let frozen = self.frozen.as_ref().and_then(OverlayCursor::key);
        let base = self.base.as_ref().and_then(BaseCursor::key);
        let keys = [self.active.key(), frozen, base].into_iter().flatten();
        let key = if self.reverse { keys.max() } else { keys.min() }?;
        let within =
            key.as_slice() >= &self.from[..] && self.to.as_ref().is_none_or(|to| key.as_slice() < &to[..]);
        within.then(|| key.clone())
    }

    /// Takes `key` from every layer that has it; the topmost says what its value is.
    fn step(&mut self, key: &Key) -> Result<Value, EngineError> {
        let mut value: Option<Value> = None;
        if self.active.key() == Some(key) {
            value = Some(self.active.value());
            self.active.advance();
        }
        if let Some(frozen) = self.frozen.as_mut().filter(|frozen| frozen.key() == Some(key)) {
            value = value.or_else(|| Some(frozen.value()));
            frozen.advance();
        }
        if let Some(base) = self.base.as_mut().filter(|base| base.key() == Some(key)) {
            if value.is_none() {
                value = Some(base.value()?);
            }
            base.advance()?;
        }
        Ok(value.flatten())
    }
}

/// Reads what an engine has published. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Reader {
    /// Locked only to copy or to replace the pointer.
    current: Arc<Mutex<Arc<Point>>>,
}

impl Reader {
    pub(super) fn new(point: Point) -> Self {
        Self { current: Arc::new(Mutex::new(Arc::new(point))) }
    }

    /// Makes `point` the newest; returns the one before.
    pub(super) fn replace(&self, point: Point) -> Arc<Point> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *current, Arc::new(point))
    }

    /// The newest point. Memory and pages of the disk are kept for as long as it is held: not for long.
    #[must_use]
    pub fn point(&self) -> Arc<Point> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
