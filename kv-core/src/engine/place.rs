//! Where a row of the state lies: its *place*, by which runs and transfers are ordered.
//!
//! ```text
//! rows    0 | name                                         ->  kind u8 | value
//! data    1 | key, escaped | 0 1 | !revision, big-endian   ->  kind u8 | value     keys ascend, the newest comes first
//! notes   2 | revision, big-endian | key                   ->  length of the former value u32
//! ```
//! The data are the versions of users' keys: the newest of each key, and older ones as far as history is kept. The
//! notes name the changes in the order of revisions. The rows are everything else that belongs to the state.

use super::EngineError;
use super::change::KeyChange;
use super::key::Key;
use crate::ids::Revision;
use bytes::Bytes;

/// The parts of a state, in the order of their places.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Part {
    Rows,
    Data,
    Notes,
}

const ROWS: u8 = 0;
const DATA: u8 = 1;
const NOTES: u8 = 2;

/// What ends an escaped key. A zero byte within the key is followed by 0xff, so the order is that of the keys.
const END: [u8; 2] = [0, 1];
/// After every place of the key that ends there.
const AFTER: u8 = 2;

const REVISION_BYTES: usize = size_of::<u64>();

impl Part {
    /// The part of a place.
    pub(super) fn of(place: &[u8]) -> Option<Self> {
        match *place.first()? {
            ROWS => Some(Self::Rows),
            DATA => Some(Self::Data),
            NOTES => Some(Self::Notes),
            _ => None,
        }
    }

    /// The first place of the part.
    pub(super) const fn start(self) -> &'static [u8] {
        match self {
            Self::Rows => &[ROWS],
            Self::Data => &[DATA],
            Self::Notes => &[NOTES],
        }
    }
}

/// A row that a checkpoint sets or, with `None`, removes.
pub(crate) type Row = (Vec<u8>, Option<Vec<u8>>);

/// A stored row: its name and value.
pub(crate) type StoredRow = (Vec<u8>, Vec<u8>);

/// The place of a row.
pub(super) fn row(name: &[u8]) -> Vec<u8> {
    [&[ROWS], name].concat()
}

/// The beginning of the versions of a key, and of the place of each of them.
pub(super) fn key_start(key: &[u8]) -> Vec<u8> {
    let mut place = Vec::with_capacity(1 + key.len() + END.len() + REVISION_BYTES);
    place.push(DATA);
    for byte in key {
        place.push(*byte);
        if *byte == 0 {
            place.push(0xff);
        }
    }
    place.extend(END);
    place
}

/// The end of the versions of the key that begin at `start`.
pub(super) fn key_end(start: &[u8]) -> Vec<u8> {
    let mut end = start.to_vec();
    if let Some(last) = end.last_mut() {
        *last = AFTER;
    }
    end
}

/// The place of a version. The first row at or after it, of the same key, is what is seen at the revision.
pub(super) fn version(start: &[u8], revision: Revision) -> Vec<u8> {
    [start, &(!revision.get()).to_be_bytes()].concat()
}

/// The beginning of a place of data, which all versions of its key share; the revision is behind it.
pub(super) fn split_version(place: &[u8]) -> Result<(&[u8], Revision), EngineError> {
    let split = place.split_last_chunk().filter(|(start, _)| start.ends_with(&END));
    let (start, revision) = split.ok_or_else(|| EngineError::inconsistent("a version has no revision"))?;
    Ok((start, Revision::new(!u64::from_be_bytes(*revision))))
}

/// The key whose versions begin there.
pub(super) fn key_of(start: &[u8]) -> Result<Key, EngineError> {
    let damaged = || EngineError::inconsistent("a key cannot be read");
    let escaped = start.strip_prefix(&[DATA]).and_then(|rest| rest.strip_suffix(&END)).ok_or_else(damaged)?;
    if !escaped.contains(&0) {
        return Ok(Key::from(escaped));
    }
    let mut key = Vec::with_capacity(escaped.len());
    let mut bytes = escaped.iter();
    while let Some(byte) = bytes.next() {
        key.push(*byte);
        if *byte == 0 && bytes.next() != Some(&0xff) {
            return Err(damaged());
        }
    }
    Ok(Key::from(&key[..]))
}

/// The place of a note.
pub(super) fn note(revision: Revision, key: &[u8]) -> Vec<u8> {
    [&[NOTES], &revision.get().to_be_bytes()[..], key].concat()
}

/// The revision and the key of a note.
pub(super) fn split_note(place: &[u8]) -> Result<(Revision, &[u8]), EngineError> {
    let (revision, key) = place
        .strip_prefix(&[NOTES])
        .and_then(|rest| rest.split_first_chunk())
        .ok_or_else(|| EngineError::inconsistent("a note has no revision"))?;
    Ok((Revision::new(u64::from_be_bytes(*revision)), key))
}

/// Whether a checkpoint can have written this row: what a peer sends as its state is not trusted.
pub(super) fn is_sound(place: &[u8], value: &[u8]) -> bool {
    match Part::of(place) {
        Some(Part::Rows) => value.first() == Some(&SET),
        Some(Part::Data) => {
            let key = split_version(place).and_then(|(start, _)| key_of(start));
            key.is_ok() && decode_change(value).is_ok()
        }
        Some(Part::Notes) => split_note(place).is_ok() && former_len(value).is_ok(),
        None => false,
    }
}

/// The kinds of a value.
pub(super) const SET: u8 = 0;
pub(super) const DELETED: u8 = 1;
const EXPIRED: u8 = 2;

/// Appends a change in its stored form.
pub(super) fn encode_change(change: &KeyChange, out: &mut Vec<u8>) {
    match change {
        KeyChange::Set(value) => {
            out.push(SET);
            out.extend_from_slice(value);
        }
        KeyChange::Delete => out.push(DELETED),
        KeyChange::Expire => out.push(EXPIRED),
    }
}

/// The stored value; `None` if the key or row was removed.
pub(super) fn decode_value(stored: &[u8]) -> Result<Option<&[u8]>, EngineError> {
    match stored.split_first() {
        Some((&SET, value)) => Ok(Some(value)),
        Some((&(DELETED | EXPIRED), [])) => Ok(None),
        Some(_) | None => Err(EngineError::inconsistent("a change cannot be read")),
    }
}

/// Whether a stored value of a key or row removes it.
pub(super) fn removes(stored: &[u8]) -> bool {
    stored.first() != Some(&SET)
}

/// The stored change, with a copy of the value.
pub(super) fn decode_change(stored: &[u8]) -> Result<KeyChange, EngineError> {
    Ok(match decode_value(stored)? {
        Some(value) => KeyChange::Set(Bytes::copy_from_slice(value)),
        None if stored.first() == Some(&EXPIRED) => KeyChange::Expire,
        None => KeyChange::Delete,
    })
}

/// The length of the former value in a note.
pub(super) fn former_len(stored: &[u8]) -> Result<usize, EngineError> {
    let bytes = stored.try_into().map_err(|_| EngineError::inconsistent("a note cannot be read"))?;
    Ok(u32::from_le_bytes(bytes) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_in_the_order_of_keys_and_the_newest_of_each_comes_first() {
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
        let mut places = Vec::new();
        for key in &keys {
            let start = key_start(key);
            for revision in [u64::MAX, 256, 255, 1, 0].map(Revision::new) {
                let place = version(&start, revision);
                assert_eq!(split_version(&place).unwrap(), (&start[..], revision));
                places.push(place);
            }
            assert_eq!(key_of(&start).unwrap(), Key::from(&key[..]));
            places.push(key_end(&start));
        }
        assert!(places.is_sorted());
        let parts = [row(b"zzz"), key_start(b"a"), note(Revision::new(1), b"a")];
        assert!(parts.is_sorted() && Part::Data.start() < &parts[1][..]);
    }

    #[test]
    fn rows_that_no_checkpoint_writes_are_refused() {
        let key = version(&key_start(b"k"), Revision::new(1));
        assert!(is_sound(&key, &[SET]) && is_sound(&key, &[EXPIRED]) && is_sound(&row(b"n"), &[SET, 1]));
        assert!(is_sound(&note(Revision::new(1), b""), &[0; 4]));
        let wrong: [(&[u8], &[u8]); 9] = [
            (b"", &[SET]),
            (b"\x03", &[SET]),
            (&key, b""),
            (&key, &[3]),
            (&key, &[DELETED, 1]),
            (b"\x01k\0\x01short", &[SET]),
            (b"\x01k\0\x0000000000", &[SET]),
            (b"\x01k\0k\0\x0112345678", &[SET]),
            (b"\x02short", &[0; 4]),
        ];
        for (place, value) in wrong {
            assert!(!is_sound(place, value), "{place:?} {value:?}");
        }
    }
}
