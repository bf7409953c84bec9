//! The unit in which runs are read and checked: rows in the order of their places.
//!
//! ```text
//! row *                                               | begin of each row u32 * | number of rows u32
//! row: length of place | length of value | place | value                          (lengths: 7 bits in each byte)
//! ```

use super::index::NodeRef;
use bytes::Bytes;
use std::ops::Range;

/// A block is ended before it grows beyond this. A larger row has a block of its own.
pub(super) const BLOCK_BYTES: usize = 16 << 10;

/// What a row takes besides its place and value, at most.
const ROW_BYTES: usize = 5 + 5 + 4;

/// A block that was read. Its checksum was right, so it contains what was written; if that makes no sense, its rows are
/// empty.
#[derive(Clone, Debug, Default)]
pub(super) struct Block {
    bytes: Bytes,
    len: usize,
}

impl Block {
    pub(super) fn new(bytes: Bytes) -> Self {
        let len = number(&bytes, bytes.len().wrapping_sub(4)).unwrap_or(0);
        let len = if len <= bytes.len() / 4 { len } else { 0 };
        Self { bytes, len }
    }

    /// The number of rows.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The place of a row, as a part of the block.
    pub(super) fn shared_place(&self, index: usize) -> Bytes {
        self.row(index).map_or_else(Bytes::new, |(place, _)| self.bytes.slice(place))
    }

    /// The last place below an entry of the index.
    pub(super) fn last(&self, index: usize) -> &[u8] {
        NodeRef::last_of(self.value(index)).unwrap_or_else(|| self.place(index))
    }

    /// The same, as a part of the block.
    pub(super) fn shared_last(&self, index: usize) -> Bytes {
        self.bytes.slice_ref(self.last(index))
    }

    fn row(&self, index: usize) -> Option<(Range<usize>, Range<usize>)> {
        let offsets = self.bytes.len().checked_sub(4 * (self.len + 1))?;
        let mut at = number(&self.bytes, offsets + 4 * index)?;
        let place_len = short(&self.bytes, &mut at)?;
        let value_len = short(&self.bytes, &mut at)?;
        let value = at.checked_add(place_len)?;
        let end = value.checked_add(value_len)?;
        (index < self.len && end <= offsets).then_some((at..value, value..end))
    }

    /// The place of a row.
    pub(super) fn place(&self, index: usize) -> &[u8] {
        self.row(index).map_or(&[], |(place, _)| &self.bytes[place])
    }

    /// The value of a row.
    pub(super) fn value(&self, index: usize) -> &[u8] {
        self.row(index).map_or(&[], |(_, value)| &self.bytes[value])
    }

    /// The value of a row, as a part of the block.
    pub(super) fn shared_value(&self, index: usize) -> Bytes {
        self.row(index).map_or_else(Bytes::new, |(_, value)| self.bytes.slice(value))
    }

    /// The number of rows at the beginning for which `is_before` holds: it must not hold for later ones.
    pub(super) fn partition(&self, is_before: impl Fn(usize) -> bool) -> usize {
        let (mut low, mut high) = (0, self.len);
        while low < high {
            let middle = low.midpoint(high);
            if is_before(middle) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// The index of the first row at or after a place.
    pub(super) fn first_from(&self, place: &[u8]) -> usize {
        self.partition(|index| self.place(index) < place)
    }
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let number = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(number.try_into().ok()?) as usize)
}

fn short(bytes: &[u8], at: &mut usize) -> Option<usize> {
    let mut number = 0;
    for shift in (0..32).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        number |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn put_short(mut number: usize, out: &mut Vec<u8>) {
    while number > 0x7f {
        out.push(u8::try_from(number & 0x7f).expect("seven bits") | 0x80);
        number >>= 7;
    }
    out.push(u8::try_from(number).expect("seven bits"));
}

/// Collects the rows of a block.
#[derive(Debug, Default)]
pub(super) struct BlockBuilder {
    rows: Vec<u8>,
    offsets: Vec<u8>,
    first: Vec<u8>,
    last: Vec<u8>,
}

impl BlockBuilder {
    pub(super) fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// The number of rows.
    pub(super) fn len(&self) -> usize {
        self.offsets.len() / 4
    }

    /// Whether a row still belongs into this block.
    pub(super) fn takes(&self, place: &[u8], value: &[u8]) -> bool {
        let bytes = self.rows.len() + self.offsets.len() + place.len() + value.len() + ROW_BYTES + 4;
        self.is_empty() || bytes <= BLOCK_BYTES
    }

    pub(super) fn push(&mut self, place: &[u8], value: &[u8]) {
        if self.is_empty() {
            self.first.extend_from_slice(place);
        }
        self.last.clear();
        self.last.extend_from_slice(place);
        self.offsets.extend(u32::try_from(self.rows.len()).expect("one row is limited").to_le_bytes());
        put_short(place.len(), &mut self.rows);
        put_short(value.len(), &mut self.rows);
        self.rows.extend_from_slice(place);
        self.rows.extend_from_slice(value);
    }

    /// The first and the last place.
    pub(super) fn ends(&self) -> (&[u8], &[u8]) {
        (&self.first, &self.last)
    }

    /// Appends the block to `out`, and begins the next one.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        let count = u32::try_from(self.offsets.len() / 4).expect("as many as there are bytes");
        out.append(&mut self.rows);
        out.append(&mut self.offsets);
        out.extend(count.to_le_bytes());
        self.first.clear();
        self.last.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_by_their_place() {
        let mut builder = BlockBuilder::default();
        let rows: Vec<(Vec<u8>, Vec<u8>)> =
            (0..100u32).map(|n| (format!("{:03}", 2 * n).into_bytes(), vec![7; n as usize * 3])).collect();
        let mut taken = 0;
        for (place, value) in &rows {
            if builder.takes(place, value) {
                builder.push(place, value);
                taken += 1;
            }
        }
        let mut bytes = Vec::new();
        assert_eq!(builder.ends(), (&b"000"[..], &rows[taken - 1].0[..]));
        builder.finish(&mut bytes);
        assert!(bytes.len() <= BLOCK_BYTES && builder.is_empty());
        let block = Block::new(bytes.into());
        assert_eq!(block.len(), taken);
        for (index, (place, value)) in rows[..taken].iter().enumerate() {
            assert_eq!((block.place(index), block.value(index)), (&place[..], &value[..]));
            assert_eq!(block.first_from(place), index);
            assert_eq!(block.first_from(&[&place[..], b"!"].concat()), index + 1);
        }
        assert_eq!(block.first_from(b""), 0);
        assert_eq!(block.place(taken), b"");
    }

    #[test]
    fn a_block_that_makes_no_sense_has_empty_rows() {
        for bytes in [&b""[..], b"abc", b"\xff\xff\xff\xff", b"\x01\0\0\0", b"zzzz\x01\0\0\0"] {
            let block = Block::new(Bytes::copy_from_slice(bytes));
            for index in 0..3 {
                assert_eq!((block.place(index), block.value(index)), (&b""[..], &b""[..]));
            }
        }
    }
}
