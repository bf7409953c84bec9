//! Versions of keys, as memtables order them.

use super::key::Key;
use crate::ids::Revision;
use bytes::Bytes;
use std::borrow::Borrow;
use std::cmp::Ordering;

/// The value of a version; `None` if the key was removed.
pub(super) type Value = Option<Bytes>;

/// Keys ascend, and of one key the newest revision comes first. So the first version at or after (key, r) is the one
/// seen at r.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct VersionKey {
    pub(super) key: Key,
    pub(super) revision: Revision,
}

/// A [`VersionKey`] whose key may be borrowed, so that a look-up copies nothing.
pub(super) trait AsVersionKey {
    fn key(&self) -> &[u8];
    fn revision(&self) -> Revision;
}

impl AsVersionKey for VersionKey {
    fn key(&self) -> &[u8] {
        self.key.as_slice()
    }

    fn revision(&self) -> Revision {
        self.revision
    }
}

impl AsVersionKey for (&[u8], Revision) {
    fn key(&self) -> &[u8] {
        self.0
    }

    fn revision(&self) -> Revision {
        self.1
    }
}

impl Ord for dyn AsVersionKey + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(other.key()).then_with(|| other.revision().cmp(&self.revision()))
    }
}

impl PartialOrd for dyn AsVersionKey + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for dyn AsVersionKey + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for dyn AsVersionKey + '_ {}

impl Ord for VersionKey {
    fn cmp(&self, other: &Self) -> Ordering {
        (self as &dyn AsVersionKey).cmp(other as &dyn AsVersionKey)
    }
}

impl PartialOrd for VersionKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<'a> Borrow<dyn AsVersionKey + 'a> for VersionKey {
    fn borrow(&self) -> &(dyn AsVersionKey + 'a) {
        self
    }
}
