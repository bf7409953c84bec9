//! The stored form of a record: created, modified and version as little-endian numbers; a byte that tells which of the
//! next two are present; the deadline; the lease; then the value.

use super::lifetimes::KeyDeadline;
use crate::engine::EngineError;
use crate::ids::{LeaseId, Revision, Timestamp};
use crate::message::Record;
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The size of the numbers that every record has.
const NUMBERS: usize = 3 * 8 + 1;

const HAS_DEADLINE: u8 = 1;
const HAS_LEASE: u8 = 2;

/// A record without its value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Numbers {
    pub(super) created: Revision,
    pub(super) modified: Revision,
    pub(super) version: u64,
    pub(super) ends: KeyDeadline,
    /// The length of the stored form that they were read from.
    pub(super) stored: usize,
}

/// The stored form.
pub(super) fn encode(numbers: Numbers, value: &[u8]) -> Bytes {
    let Numbers { created, modified, version, ends, stored: _ } = numbers;
    let mut out = BytesMut::with_capacity(NUMBERS + 2 * 8 + value.len());
    out.put_u64_le(created.get());
    out.put_u64_le(modified.get());
    out.put_u64_le(version);
    let flag = |is_there, flag| if is_there { flag } else { 0 };
    out.put_u8(flag(ends.at.is_some(), HAS_DEADLINE) | flag(ends.with.is_some(), HAS_LEASE));
    for number in [ends.at.map(Timestamp::get), ends.with.map(LeaseId::get)].into_iter().flatten() {
        out.put_u64_le(number);
    }
    out.put_slice(value);
    out.freeze()
}

/// The numbers and the value of a stored record.
pub(super) fn split(mut stored: &[u8]) -> Result<(Numbers, &[u8]), EngineError> {
    let too_short = |_| EngineError::damaged("a record is too short");
    if stored.len() < NUMBERS {
        return Err(EngineError::damaged("a record is too short"));
    }
    let len = stored.len();
    let (created, modified) = (Revision::new(stored.get_u64_le()), Revision::new(stored.get_u64_le()));
    let (version, flags) = (stored.get_u64_le(), stored.get_u8());
    if flags & !(HAS_DEADLINE | HAS_LEASE) != 0 {
        return Err(EngineError::damaged("a record is not of this format"));
    }
    let mut ends = KeyDeadline::default();
    if flags & HAS_DEADLINE != 0 {
        ends.at = Some(Timestamp::new(stored.try_get_u64_le().map_err(too_short)?));
    }
    if flags & HAS_LEASE != 0 {
        ends.with = Some(LeaseId::new(stored.try_get_u64_le().map_err(too_short)?));
    }
    Ok((Numbers { created, modified, version, ends, stored: len }, stored))
}

/// Decodes a record, which shares the stored bytes.
pub(super) fn decode(stored: &Bytes) -> Result<Record, EngineError> {
    let (Numbers { created, modified, version, ends, stored: _ }, value) = split(stored)?;
    let value = stored.slice(stored.len() - value.len()..);
    Ok(Record { value, created, modified, version, expires: ends.at, lease: ends.with })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_keeps_its_numbers_and_detects_when_it_is_cut_short() {
        let (at, with) = (Some(Timestamp::new(1 << 41)), Some(LeaseId::new(7)));
        for ends in [
            KeyDeadline::default(),
            KeyDeadline { at, with: None },
            KeyDeadline { at: None, with },
            KeyDeadline { at, with },
        ] {
            let (created, modified) = (Revision::new(1), Revision::new(5));
            let mut numbers = Numbers { created, modified, version: 3, ends, stored: 0 };
            let stored = encode(numbers, b"value");
            numbers.stored = stored.len();
            assert_eq!(split(&stored).unwrap(), (numbers, &b"value"[..]));
            let record = decode(&stored).unwrap();
            assert_eq!(
                (&record.value[..], record.expires, record.lease),
                (&b"value"[..], ends.at, ends.with)
            );
            let numbers_end = stored.len() - 5;
            assert!((0..numbers_end).all(|len| split(&stored[..len]).is_err()));
        }
        let mut strange = encode(
            Numbers {
                created: Revision::ZERO,
                modified: Revision::ZERO,
                version: 0,
                ends: KeyDeadline::default(),
                stored: 0,
            },
            b"",
        )
        .to_vec();
        strange[24] = 4;
        assert!(split(&strange).is_err());
    }
}
