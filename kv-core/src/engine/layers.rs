//! The three layers of an engine, how they are published, and how old versions are let go of.

use super::EngineError;
use super::overlay::{Overlay, OverlayCursor, Value, VersionKey};
use super::tree::{Base, BaseCursor};
use crate::ids::{Anchor, Revision};
use bytes::Bytes;
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// The newest revision there can be.
const NEWEST: Revision = Revision::new(u64::MAX);

/// A published state: what readers see.
#[derive(Debug)]
pub struct Point {
    applied: Anchor,
    revision: Revision,
    active: Arc<Overlay>,
    frozen: Option<Arc<Overlay>>,
    base: Option<Arc<Base>>,
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

    /// The value of a key.
    ///
    /// # Errors
    /// If the disk fails or is damaged.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let overlays = [Some(&self.active), self.frozen.as_ref()];
        for overlay in overlays.into_iter().flatten() {
            if let Some((_, value)) = overlay.get(key, self.revision) {
                return Ok(value);
            }
        }
        let mut found = None;
        if let Some(base) = &self.base {
            base.get(key, &mut |value| found = Some(Bytes::copy_from_slice(value)))?;
        }
        Ok(found)
    }

    /// Goes through the keys from `from` on, in order.
    ///
    /// # Errors
    /// If the disk fails or is damaged.
    pub fn scan(&self, from: &[u8]) -> Result<Scan<'_>, EngineError> {
        Ok(Scan {
            active: self.active.cursor(from, self.revision),
            frozen: self.frozen.as_ref().map(|frozen| frozen.cursor(from, self.revision)),
            base: self.base.as_ref().map(|base| base.cursor(from)).transpose()?,
        })
    }
}

/// A walk through the keys of a [`Point`]: keys with their values, in order. After an error it is useless.
pub struct Scan<'a> {
    active: OverlayCursor<'a>,
    frozen: Option<OverlayCursor<'a>>,
    base: Option<BaseCursor<'a>>,
}

impl Iterator for Scan<'_> {
    type Item = Result<(Bytes, Bytes), EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        while let Some(key) = self.least() {
            match self.step(&key) {
                Ok(Some(value)) => return Some(Ok((key, value))),
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
    fn least(&self) -> Option<Bytes> {
        let frozen = self.frozen.as_ref().and_then(OverlayCursor::key);
        let base = self.base.as_ref().and_then(BaseCursor::key);
        [self.active.key(), frozen, base].into_iter().flatten().min().cloned()
    }

    /// Takes `key` from every layer that has it; the topmost says what its value is.
    fn step(&mut self, key: &Bytes) -> Result<Value, EngineError> {
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
            value = value.or_else(|| Some(base.value()));
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
    /// The newest point. Memory and pages of the disk are kept for as long as it is held: not for long.
    #[must_use]
    pub fn point(&self) -> Arc<Point> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A point that is not the newest any more.
#[derive(Debug)]
struct Retired {
    point: Arc<Point>,
    /// The versions that only readers at this point or an older one can see.
    superseded: Vec<VersionKey>,
}

/// The writer's half.
#[derive(Debug)]
pub(super) struct Layers {
    reader: Reader,
    active: Arc<Overlay>,
    frozen: Option<Arc<Overlay>>,
    base: Option<Arc<Base>>,
    /// There is a disk: what is removed may still be below, and its removal must be remembered.
    over_disk: bool,
    published: Revision,
    /// What the entry that is being applied has superseded in the active overlay.
    superseded: Vec<VersionKey>,
    /// Older points that readers may hold, oldest first.
    retired: VecDeque<Retired>,
}

impl Layers {
    pub(super) fn new(applied: Anchor, revision: Revision, base: Option<Arc<Base>>, over_disk: bool) -> Self {
        let active = Arc::new(Overlay::default());
        let point = Point { applied, revision, active: active.clone(), frozen: None, base: base.clone() };
        Self {
            reader: Reader { current: Arc::new(Mutex::new(Arc::new(point))) },
            active,
            frozen: None,
            base,
            over_disk,
            published: revision,
            superseded: Vec::new(),
            retired: VecDeque::new(),
        }
    }

    pub(super) fn reader(&self) -> Reader {
        self.reader.clone()
    }

    pub(super) fn newest(&self, key: &[u8], see: &mut dyn FnMut(&[u8])) -> Result<(), EngineError> {
        let overlays = [Some(&self.active), self.frozen.as_ref()];
        for overlay in overlays.into_iter().flatten() {
            if let Some((_, value)) = overlay.get(key, NEWEST) {
                if let Some(value) = value {
                    see(&value);
                }
                return Ok(());
            }
        }
        match &self.base {
            Some(base) => base.get(key, see),
            None => Ok(()),
        }
    }

    pub(super) fn write(&mut self, key: Bytes, revision: Revision, value: Value) {
        let older = self.active.get(&key, NEWEST).map(|(revision, _)| revision);
        assert!(older.is_none_or(|older| older < revision), "revisions grow");
        let removed = value.is_none();
        let version = VersionKey { key, revision };
        self.active.insert(version.clone(), value);
        if let Some(older) = older {
            let older = VersionKey { key: version.key.clone(), revision: older };
            if older.revision > self.published {
                // Never published: it came and went within this entry.
                self.active.remove(&older);
            } else {
                self.superseded.push(older);
            }
        }
        if removed && !self.over_disk {
            // Once the versions below it are gone, nothing is left to hide.
            self.superseded.push(version);
        }
    }

    pub(super) fn publish(&mut self, applied: Anchor, revision: Revision) {
        let point = Point {
            applied,
            revision,
            active: self.active.clone(),
            frozen: self.frozen.clone(),
            base: self.base.clone(),
        };
        let point = Arc::new(point);
        let old = std::mem::replace(
            &mut *self.reader.current.lock().unwrap_or_else(PoisonError::into_inner),
            point,
        );
        self.published = revision;
        self.retired.push_back(Retired { point: old, superseded: std::mem::take(&mut self.superseded) });
        self.prune();
    }

    /// Removes the versions that no reader can see any more: those superseded after points that nobody holds.
    fn prune(&mut self) {
        while let Some(oldest) = self.retired.front_mut() {
            // Readers take only the newest point, so one that nobody holds stays so.
            if Arc::get_mut(&mut oldest.point).is_none() {
                break;
            }
            for version in std::mem::take(&mut oldest.superseded) {
                self.active.remove(&version);
            }
            self.retired.pop_front();
        }
    }

    pub(super) fn active(&self) -> &Overlay {
        &self.active
    }

    pub(super) fn frozen(&self) -> Option<&Arc<Overlay>> {
        self.frozen.as_ref()
    }

    pub(super) fn applied(&self) -> Anchor {
        self.reader.point().applied
    }

    /// Starts a fresh overlay; what is published so far is in the frozen one, which does not change any more.
    pub(super) fn freeze(&mut self) -> Arc<Overlay> {
        assert!(self.frozen.is_none(), "one checkpoint at a time");
        assert!(self.superseded.is_empty(), "between two entries");
        let frozen = std::mem::take(&mut self.active);
        self.frozen = Some(frozen.clone());
        // The frozen overlay is dropped as a whole soon: its old versions need no pruning.
        self.retired.clear();
        self.republish();
        frozen
    }

    /// The frozen overlay is in `base` now.
    pub(super) fn thaw(&mut self, base: Arc<Base>) {
        self.frozen = None;
        self.base = Some(base);
        self.republish();
    }

    /// Publishes the same state in other layers.
    fn republish(&mut self) {
        let point = self.reader.point();
        self.publish(point.applied, point.revision);
    }
}
