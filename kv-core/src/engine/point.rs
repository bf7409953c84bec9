//! What readers hold: a point of the state, in its layers.

use super::EngineError;
use super::key::Key;
use super::overlay::{Overlay, OverlayCursor, Value};
use super::tree::{Base, BaseCursor};
use crate::ids::{Anchor, Revision};
use bytes::Bytes;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// A published state: what readers see.
#[derive(Debug)]
pub struct Point {
    pub(super) applied: Anchor,
    pub(super) revision: Revision,
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
    fn least(&self) -> Option<Key> {
        let frozen = self.frozen.as_ref().and_then(OverlayCursor::key);
        let base = self.base.as_ref().and_then(BaseCursor::key);
        [self.active.key(), frozen, base].into_iter().flatten().min().cloned()
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
