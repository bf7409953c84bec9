//! How a block is referred to. Each reference holds the hash of the block, so that no other content of its place, also
//! no older one, is taken for it. The manifest holds those of the roots.

use super::super::EngineError;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A part of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct BlockRef {
    pub(super) offset: u64,
    pub(super) len: u32,
    pub(super) hash: u128,
}

const REF_BYTES: usize = 8 + 4 + 16;

/// There is a filter.
const FILTERED: u8 = 1;
/// The last place is the first one.
const SINGLE: u8 = 2;

impl BlockRef {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.offset.to_le_bytes());
        out.extend(self.len.to_le_bytes());
        out.extend(self.hash.to_le_bytes());
    }

    fn decode(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (offset, rest) = bytes.split_first_chunk()?;
        let (len, rest) = rest.split_first_chunk()?;
        let (hash, rest) = rest.split_first_chunk()?;
        let (offset, len) = (u64::from_le_bytes(*offset), u32::from_le_bytes(*len));
        Some((Self { offset, len, hash: u128::from_le_bytes(*hash) }, rest))
    }
}

/// A block of rows or of the index, and what is below it. The index maps the first place of a block to this.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct NodeRef {
    pub(super) block: BlockRef,
    /// Of the keys below it. Only the lowest blocks of the index have one.
    pub(super) filter: Option<BlockRef>,
    /// The last place below it: a block that cannot be read hides nothing else.
    pub(super) last: Bytes,
}

impl NodeRef {
    /// `first`: the first place below it. If there is no other, it is not written twice: keys may be as long as blocks.
    pub(super) fn encode(&self, first: &[u8], out: &mut Vec<u8>) {
        self.block.encode(out);
        let single = self.last == first;
        out.push(if self.filter.is_some() { FILTERED } else { 0 } | if single { SINGLE } else { 0 });
        if let Some(filter) = &self.filter {
            filter.encode(out);
        }
        if !single {
            out.extend_from_slice(&self.last);
        }
    }

    /// The block and its filter.
    pub(super) fn decode(bytes: &[u8]) -> Result<(BlockRef, Option<BlockRef>), EngineError> {
        let decode = || {
            let (block, rest) = BlockRef::decode(bytes)?;
            let (flags, rest) = rest.split_first()?;
            let filter = if *flags & FILTERED == 0 { None } else { Some(BlockRef::decode(rest)?.0) };
            Some((block, filter))
        };
        decode().ok_or_else(|| EngineError::inconsistent("an index cannot be read"))
    }

    /// The last place; `None` if it is the first one.
    pub(super) fn last_of(bytes: &[u8]) -> Option<&[u8]> {
        let flags = bytes.get(REF_BYTES).copied().unwrap_or_default();
        let behind = if flags & FILTERED == 0 { REF_BYTES + 1 } else { 2 * REF_BYTES + 1 };
        (flags & SINGLE == 0).then(|| bytes.get(behind..).unwrap_or_default())
    }
}

/// A file of a run, as the manifest holds it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct FileMeta {
    /// Its name.
    pub(crate) number: u64,
    /// Its length.
    pub(crate) len: u64,
    /// The bytes of its rows that are neither data nor notes.
    pub(crate) row_bytes: u64,
    /// How many of its rows remove a key.
    pub(crate) removals: u64,
    /// See [`first`](Self::first).
    pub(super) first: Bytes,
    /// How many levels the index has.
    pub(super) levels: u8,
    pub(super) root: NodeRef,
    /// Where the highest block of the index is once more: without it, nothing of the file could be found.
    pub(super) second_root: u64,
}

impl FileMeta {
    /// The first place.
    pub(super) fn first(&self) -> &Bytes {
        &self.first
    }

    /// The last place.
    pub(crate) fn last(&self) -> &Bytes {
        &self.root.last
    }
}

/// The name of a file.
pub(crate) fn name_of(number: u64) -> String {
    format!("state-{number:016x}")
}

/// The number of a file of this name.
pub(crate) fn number_of(name: &str) -> Option<u64> {
    let number = u64::from_str_radix(name.strip_prefix("state-")?, 16).ok()?;
    (name_of(number) == name).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_decoded_as_it_was_encoded() {
        let block = BlockRef { offset: 1 << 40, len: 7, hash: 1 << 99 };
        for filter in [None, Some(BlockRef { offset: 3, ..block })] {
            let node = NodeRef { block, filter, last: Bytes::from_static(b"last") };
            let mut bytes = Vec::new();
            node.encode(b"last", &mut bytes);
            assert_eq!(NodeRef::decode(&bytes).unwrap(), (block, filter));
            assert_eq!(NodeRef::last_of(&bytes), None);
            bytes.clear();
            node.encode(b"first", &mut bytes);
            assert_eq!(NodeRef::decode(&bytes).unwrap(), (block, filter));
            assert_eq!(NodeRef::last_of(&bytes), Some(&b"last"[..]));
            let least = if node.filter.is_some() { 57 } else { 29 };
            assert!((0..least).all(|len| NodeRef::decode(&bytes[..len]).is_err()));
        }
    }

    #[test]
    fn only_names_of_files_have_a_number() {
        assert_eq!(number_of(&name_of(77)), Some(77));
        for name in ["state", "state-", "state-4d", "state-000000000000004D", "journal-000000000000004d"] {
            assert_eq!(number_of(name), None);
        }
    }
}
