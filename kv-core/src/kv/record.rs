//! A record as the engine keeps it: created, modified and version as little-endian numbers, then the value.

use crate::engine::EngineError;
use crate::ids::Revision;
use crate::message::Record;
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The numbers before the value.
const NUMBERS: usize = 3 * 8;

/// A record of which the value was not copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Numbers {
    pub(super) created: Revision,
    pub(super) modified: Revision,
    pub(super) version: u64,
}

/// The stored form.
pub(super) fn encode(numbers: Numbers, value: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(NUMBERS + value.len());
    out.put_u64_le(numbers.created.get());
    out.put_u64_le(numbers.modified.get());
    out.put_u64_le(numbers.version);
    out.put_slice(value);
    out.freeze()
}

/// The numbers and the value of a stored record.
pub(super) fn split(mut stored: &[u8]) -> Result<(Numbers, &[u8]), EngineError> {
    if stored.len() < NUMBERS {
        return Err(EngineError::damaged("a record is too short"));
    }
    let numbers = Numbers {
        created: Revision::new(stored.get_u64_le()),
        modified: Revision::new(stored.get_u64_le()),
        version: stored.get_u64_le(),
    };
    Ok((numbers, stored))
}

/// The record, sharing the stored bytes.
pub(super) fn decode(stored: &Bytes) -> Result<Record, EngineError> {
    let (Numbers { created, modified, version }, _) = split(stored)?;
    Ok(Record { value: stored.slice(NUMBERS..), created, modified, version })
}
