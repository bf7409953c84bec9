//! The history in the state on disk: the value before each change, and an index of the changes by key.
//!
//! ```text
//! changes   revision u64 big-endian | key             ->  kind u8 | the former value, if there was one
//! changed   key, escaped | revision u64 big-endian    ->  nothing
//! ```
//! The value of a key at a revision is the former value of its first change after that revision, or its present value
//! if there is none. The changes are stored in the order of revisions: a checkpoint adds at one end and removes at the
//! other.

use super::EngineError;
use super::change::{KeyChange, Retention, weight};
use super::key::Key;
use super::version::VersionKey;
use crate::ids::Revision;
use crate::message::EventKind;
use redb::{ReadableTable, Table, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};

pub(super) type Definition = TableDefinition<'static, &'static [u8], &'static [u8]>;

pub(super) const CHANGES: Definition = TableDefinition::new("changes");

/// Their index.
pub(super) const CHANGED: Definition = TableDefinition::new("changed");

/// The name of the row with the oldest kept revision, among the rows that belong to the state besides the data.
pub(super) const RANGE: &[u8] = b"history";

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct HistoryRange {
    /// The revision of the state.
    pub(super) revision: Revision,
    /// The changes up to this revision are dropped. It is the oldest revision that can be read.
    pub(super) floor: Revision,
    /// The weight of the changes after it.
    pub(super) bytes: u64,
}

impl HistoryRange {
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, EngineError> {
        let span: Option<Self> = postcard::from_bytes(bytes).ok();
        span.filter(|span| span.floor <= span.revision)
            .ok_or_else(|| EngineError::damaged("the range of its history cannot be read"))
    }

    pub(super) fn encode(self) -> Vec<u8> {
        postcard::to_stdvec(&self).expect("plain data always encodes")
    }
}

/// The place (key in the table) of a change.
pub(super) fn change_place(revision: Revision, key: &[u8]) -> Vec<u8> {
    [&revision.get().to_be_bytes(), key].concat()
}

/// Decodes the place of a change.
pub(super) fn change_at(place: &[u8]) -> Result<(Revision, &[u8]), EngineError> {
    let (revision, key) =
        place.split_first_chunk().ok_or_else(|| EngineError::damaged("a change has no revision"))?;
    Ok((Revision::new(u64::from_be_bytes(*revision)), key))
}

const HAD_VALUE: u8 = 0x80;

fn encode_change(kind: EventKind, former: Option<&[u8]>) -> Vec<u8> {
    let code = match kind {
        EventKind::Put => 0,
        EventKind::Deleted => 1,
        EventKind::Expired => 2,
    };
    match former {
        Some(former) => [&[code | HAD_VALUE], former].concat(),
        None => vec![code],
    }
}

/// Decodes a change: its kind and the former value.
pub(super) fn decode_change(stored: &[u8]) -> Result<(EventKind, Option<&[u8]>), EngineError> {
    let damaged = || EngineError::damaged("a change cannot be read");
    let (code, former) = stored.split_first().ok_or_else(damaged)?;
    let kind = match code & !HAD_VALUE {
        0 => EventKind::Put,
        1 => EventKind::Deleted,
        2 => EventKind::Expired,
        _ => return Err(damaged()),
    };
    Ok((kind, (code & HAD_VALUE != 0).then_some(former)))
}

/// The beginning of this key's index: after that of all smaller keys.
///
/// A zero byte is encoded as two bytes, so that a key ends with a sequence that occurs in no key. The order is that of
/// the keys.
pub(super) fn index_start(key: &[u8]) -> Vec<u8> {
    let mut place = Vec::with_capacity(key.len() + 2 + size_of::<u64>());
    for byte in key {
        place.push(*byte);
        if *byte == 0 {
            place.push(0xff);
        }
    }
    place.extend([0, 1]);
    place
}

/// The end of the index of the key whose index begins there: before that of all greater keys.
pub(super) fn index_end(mut start: Vec<u8>) -> Vec<u8> {
    if let Some(last) = start.last_mut() {
        *last = 2;
    }
    start
}

/// The place of a change in the index.
pub(super) fn index_place(key: &[u8], revision: Revision) -> Vec<u8> {
    let mut place = index_start(key);
    place.extend(revision.get().to_be_bytes());
    place
}

/// Decodes a place in the index: the key and the revision.
pub(super) fn index_at(place: &[u8]) -> Result<(Key, Revision), EngineError> {
    let damaged = || EngineError::damaged("the index of changes cannot be read");
    let (escaped, revision) = place.split_last_chunk().ok_or_else(damaged)?;
    let escaped = escaped.strip_suffix(&[0, 1]).ok_or_else(damaged)?;
    let mut key = Vec::with_capacity(escaped.len());
    let mut bytes = escaped.iter();
    while let Some(byte) = bytes.next() {
        key.push(*byte);
        if *byte == 0 && bytes.next() != Some(&0xff) {
            return Err(damaged());
        }
    }
    Ok((Key::from(&key[..]), Revision::new(u64::from_be_bytes(*revision))))
}

type Bytes = &'static [u8];

/// Adds to the history in the transaction of a checkpoint, and removes what is too old.
pub(super) struct Writer<'t> {
    changes: Table<'t, Bytes, Bytes>,
    changed: Table<'t, Bytes, Bytes>,
    retention: Retention,
    range: HistoryRange,
}

impl<'t> Writer<'t> {
    /// Opens the history for the checkpoint at `revision`, after the checkpoint that left `before`.
    pub(super) fn open(
        transaction: &'t WriteTransaction,
        before: HistoryRange,
        revision: Revision,
        retention: Retention,
    ) -> Result<Self, redb::Error> {
        let (changes, changed) = (transaction.open_table(CHANGES)?, transaction.open_table(CHANGED)?);
        Ok(Self { changes, changed, retention, range: HistoryRange { revision, ..before } })
    }

    /// Adds a change of a key, with the former value.
    pub(super) fn add(
        &mut self,
        version: &VersionKey,
        change: &KeyChange,
        former: Option<&[u8]>,
    ) -> Result<(), redb::Error> {
        let VersionKey { key, revision } = version;
        if *revision <= self.retention.through(self.range.revision) {
            return Ok(());
        }
        let key = key.as_slice();
        self.changes.insert(&change_place(*revision, key)[..], &encode_change(change.kind(), former)[..])?;
        self.changed.insert(&index_place(key, *revision)[..], &[][..])?;
        self.range.bytes += weight(key.len(), former.map_or(0, <[u8]>::len));
        Ok(())
    }

    /// Removes what need not be kept, oldest first and in whole revisions. Returns the new range; `None` if the tables
    /// do not contain what a checkpoint writes.
    pub(super) fn finish(mut self) -> Result<Option<HistoryRange>, redb::Error> {
        self.range.floor = self.range.floor.max(self.retention.through(self.range.revision));
        loop {
            let oldest = self.changes.first()?;
            let Some((place, change)) = &oldest else { break };
            let (Ok((revision, key)), Ok((_, former))) =
                (change_at(place.value()), decode_change(change.value()))
            else {
                return Ok(None);
            };
            if revision > self.range.floor && self.range.bytes <= self.retention.bytes {
                break;
            }
            self.changed.remove(&index_place(key, revision)[..])?;
            self.range.floor = self.range.floor.max(revision);
            let weight = weight(key.len(), former.map_or(0, <[u8]>::len));
            self.range.bytes = self.range.bytes.saturating_sub(weight);
            drop(oldest);
            self.changes.pop_first()?;
        }
        Ok(Some(self.range))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_is_in_the_order_of_keys_and_then_of_revisions() {
        let mut keys: Vec<Vec<u8>> = vec![vec![], vec![0], vec![0, 0], vec![0, 1], vec![0, 255], vec![1]];
        keys.extend([
            vec![1, 0],
            vec![1, 0, 0],
            vec![1, 0, 1],
            vec![1, 1],
            vec![1, 2],
            vec![255],
            vec![255, 0],
        ]);
        assert!(keys.is_sorted());
        let revisions = [0, 1, 255, 256, u64::MAX].map(Revision::new);
        let mut places = Vec::new();
        for key in &keys {
            places.push(index_start(key));
            for revision in revisions {
                let place = index_place(key, revision);
                assert_eq!(index_at(&place).unwrap(), (Key::from(&key[..]), revision));
                places.push(place);
            }
            places.push(index_end(index_start(key)));
        }
        assert!(places.is_sorted());
    }

    #[test]
    fn rows_that_no_checkpoint_writes_are_damage() {
        assert!(index_at(b"k\0\x01short").is_err());
        assert!(index_at(b"k\0\x0000000000").is_err());
        assert!(index_at(b"k\0k\0\x0112345678").is_err());
        assert!(change_at(b"short").is_err());
        assert!(decode_change(b"").is_err());
        assert!(decode_change(&[3]).is_err());
        let span = HistoryRange { revision: Revision::new(1), floor: Revision::new(2), bytes: 0 };
        assert!(HistoryRange::decode(&span.encode()).is_err());
    }

    #[test]
    fn a_former_value_may_be_empty_or_missing() {
        for kind in [EventKind::Put, EventKind::Deleted, EventKind::Expired] {
            for former in [None, Some(&b""[..]), Some(&b"\0\x80"[..])] {
                assert_eq!(decode_change(&encode_change(kind, former)).unwrap(), (kind, former));
            }
        }
    }
}
