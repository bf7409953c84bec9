//! Recent versions in memory: an ordered concurrent map by (key, revision). One writer, any number of readers.

use crate::ids::Revision;
use bytes::Bytes;
use crossbeam_skiplist::SkipMap;
use crossbeam_skiplist::map::Entry;
use std::borrow::Borrow;
use std::cmp::Ordering;
use std::ops::Bound;
use std::sync::atomic::{AtomicUsize, Ordering as Memory};

/// What a version takes besides its key and value: the map's node, the counters of the shared bytes.
const VERSION_OVERHEAD: usize = 160;

/// A version's value; `None` says that the key was removed.
pub(super) type Value = Option<Bytes>;

/// Keys ascending, and of one key the newest revision first: the first version at or after (key, r) is the one seen at r.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct VersionKey {
    pub(super) key: Bytes,
    pub(super) revision: Revision,
}

/// A [`VersionKey`] whose key may be borrowed, so that a look-up copies nothing.
trait Place {
    fn key(&self) -> &[u8];
    fn revision(&self) -> Revision;
}

impl Place for VersionKey {
    fn key(&self) -> &[u8] {
        &self.key
    }

    fn revision(&self) -> Revision {
        self.revision
    }
}

impl Place for (&[u8], Revision) {
    fn key(&self) -> &[u8] {
        self.0
    }

    fn revision(&self) -> Revision {
        self.1
    }
}

impl Ord for dyn Place + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(other.key()).then_with(|| other.revision().cmp(&self.revision()))
    }
}

impl PartialOrd for dyn Place + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for dyn Place + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for dyn Place + '_ {}

impl Ord for VersionKey {
    fn cmp(&self, other: &Self) -> Ordering {
        (self as &dyn Place).cmp(other as &dyn Place)
    }
}

impl PartialOrd for VersionKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<'a> Borrow<dyn Place + 'a> for VersionKey {
    fn borrow(&self) -> &(dyn Place + 'a) {
        self
    }
}

/// The versions of a span of revisions.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    versions: SkipMap<VersionKey, Value>,
    bytes: AtomicUsize,
}

impl Overlay {
    /// Adds a version. The newest of its key: revisions only grow.
    pub(super) fn insert(&self, version: VersionKey, value: Value) {
        self.bytes.fetch_add(weight(&version, &value), Memory::Relaxed);
        self.versions.insert(version, value);
    }

    /// Removes a version that no reader can need.
    pub(super) fn remove(&self, version: &VersionKey) {
        if let Some(removed) = self.versions.remove(version) {
            self.bytes.fetch_sub(weight(removed.key(), removed.value()), Memory::Relaxed);
        }
    }

    /// The version of `key` that is seen at `at`: `None` if there is none here.
    pub(super) fn get(&self, key: &[u8], at: Revision) -> Option<(Revision, Value)> {
        let entry = self.first_from(key, at)?;
        (entry.key().key == key).then(|| (entry.key().revision, entry.value().clone()))
    }

    /// Goes through the keys from `from` on, as they are seen at `at`.
    pub(super) fn cursor(&self, from: &[u8], at: Revision) -> OverlayCursor<'_> {
        let mut cursor = OverlayCursor { entry: self.first_from(from, Revision::new(u64::MAX)), at };
        cursor.settle();
        cursor
    }

    fn first_from(&self, key: &[u8], at: Revision) -> Option<Entry<'_, VersionKey, Value>> {
        self.versions.lower_bound(Bound::Included(&(key, at) as &dyn Place))
    }

    /// Counts memory that is held elsewhere until this overlay is in a checkpoint.
    pub(super) fn charge(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Memory::Relaxed);
    }

    /// About how much memory the versions take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Memory::Relaxed)
    }

    /// How many versions there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.versions.len()
    }
}

fn weight(version: &VersionKey, value: &Value) -> usize {
    VERSION_OVERHEAD + version.key.len() + value.as_ref().map_or(0, Bytes::len)
}

/// Stands on a key's version at one revision.
pub(super) struct OverlayCursor<'a> {
    entry: Option<Entry<'a, VersionKey, Value>>,
    at: Revision,
}

impl OverlayCursor<'_> {
    /// The key it stands on; `None` at the end.
    pub(super) fn key(&self) -> Option<&Bytes> {
        self.entry.as_ref().map(|entry| &entry.key().key)
    }

    /// The value there; `None` if the key was removed, and at the end.
    pub(super) fn value(&self) -> Value {
        self.entry.as_ref().and_then(|entry| entry.value().clone())
    }

    /// To the next key.
    pub(super) fn advance(&mut self) {
        let Some(key) = self.key().cloned() else { return };
        while self.key() == Some(&key) {
            self.entry = self.entry.take().and_then(|entry| entry.next());
        }
        self.settle();
    }

    /// Past versions that are newer than the cursor's revision. (A key all of whose versions are newer is skipped so.)
    fn settle(&mut self) {
        while self.entry.as_ref().is_some_and(|entry| entry.key().revision > self.at) {
            self.entry = self.entry.take().and_then(|entry| entry.next());
        }
    }
}
