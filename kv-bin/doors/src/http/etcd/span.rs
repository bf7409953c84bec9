//! Which keys a request means.

use super::super::errors::{self, Failure};
use super::json::Blob;
use bytes::Bytes;
use kv_core::Client;
use kv_core::client::{Count, DeleteRange, Scan, Transaction, Watch};
use std::ops::Bound;

/// The keys of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Span {
    Key(Bytes),
    /// All keys from the first one (inclusive) to the second one (exclusive), or to the end.
    Range(Bytes, Option<Bytes>),
}

impl Span {
    /// Without an end, the key itself. The end of one zero byte is the end of all keys.
    pub(super) fn new(key: &Blob, end: &Blob) -> Result<Self, Failure> {
        let (key, end) = (key.0.clone(), end.0.clone());
        if key.is_empty() {
            return Err(errors::no_key());
        }
        Ok(match &end[..] {
            [] => Self::Key(key),
            [0] => Self::Range(key, None),
            _ => Self::Range(key, Some(end)),
        })
    }

    /// Whether no key can be in it.
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::Range(from, Some(to)) if to <= from)
    }

    pub(super) fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::Key(own) => own == key,
            Self::Range(from, to) => from <= key && to.as_ref().is_none_or(|to| key < to),
        }
    }

    fn bounds(&self) -> (Bound<Bytes>, Bound<Bytes>) {
        match self {
            Self::Key(key) => (Bound::Included(key.clone()), Bound::Included(key.clone())),
            Self::Range(from, to) => {
                (Bound::Included(from.clone()), to.clone().map_or(Bound::Unbounded, Bound::Excluded))
            }
        }
    }

    pub(super) fn scan(&self, client: &Client) -> Scan {
        client.scan_range(self.bounds())
    }

    pub(super) fn count(&self, client: &Client) -> Count {
        client.count_range(self.bounds())
    }

    pub(super) fn delete(&self, client: &Client) -> DeleteRange {
        client.delete_range(self.bounds())
    }

    /// Adds a step to a transaction that reads the first keys.
    pub(super) fn read_in(&self, transaction: Transaction, limit: usize) -> Transaction {
        transaction.scan_range(self.bounds(), u32::try_from(limit).unwrap_or(u32::MAX))
    }

    pub(super) fn watch(&self, client: &Client) -> Watch {
        match self {
            Self::Key(key) => client.watch_key(key),
            Self::Range(..) => client.watch_range(self.bounds()),
        }
    }

    /// The part of a range before or after a key.
    pub(super) fn beyond(&self, key: &Bytes, reverse: bool) -> (Bound<Bytes>, Bound<Bytes>) {
        let (from, to) = self.bounds();
        if reverse { (from, Bound::Excluded(key.clone())) } else { (Bound::Excluded(key.clone()), to) }
    }
}
