//! The format of an entry in its blocks: a local header, the header of the entry, and the body.
//!
//! ```text
//! kind u32 | length u32 (of all) | synced_through u64 | hash u128 | written u64 | entry header | body
//! ```
//! The local header belongs to this replica, and is not covered by the hash of the entry. `written` is the wall clock
//! of this member when it wrote the entry (rule N7). Both headers are in the first sector, so they are readable even if
//! the rest is torn.

use super::block::{self, BLOCK_PAYLOAD, Seed, Stamp, encode_block, u32_at, u64_at, u128_at};
use super::location::{EntryLocation, Generation};
use crate::ids::{ClusterId, Hash, Op, Timestamp};
use crate::message::{Entry, EntryHeader, HEADER_BYTES};
use bytes::Bytes;

const KIND: u32 = u32::from_le_bytes(*b"entr");
const LOCAL_BYTES: usize = 40;
const FIXED_BYTES: usize = LOCAL_BYTES + HEADER_BYTES;

/// No number on disk reaches this. A greater one means damage or an attack, and would overflow the arithmetic.
const LIMIT: u64 = 1 << 62;

/// How many blocks an entry with a body of `body` bytes occupies; `None` if it is too long for the length field.
pub(super) fn blocks_for(body: usize) -> Option<u32> {
    let length = u32::try_from(FIXED_BYTES.checked_add(body)?).ok()?;
    Some(length.div_ceil(u32::try_from(BLOCK_PAYLOAD).expect("a block is small")))
}

/// The local header, read from the first sector's payload.
#[derive(Clone, Copy, Debug)]
pub(super) struct Local {
    /// The length of the whole record in bytes.
    pub(super) length: usize,
    pub(super) synced_through: Op,
    pub(super) written: Timestamp,
    hash: Hash,
}

impl Local {
    /// Decodes it; `None` if these bytes cannot be the beginning of a record.
    pub(super) fn decode(payload: &[u8]) -> Option<Self> {
        if payload.len() < LOCAL_BYTES || u32_at(payload, 0) != KIND {
            return None;
        }
        let length = u32_at(payload, 4) as usize;
        let synced_through = u64_at(payload, 8);
        let hash = Hash::new(u128_at(payload, 16));
        let written = u64_at(payload, 32);
        (length >= FIXED_BYTES && in_range(&[synced_through, written])).then_some(Self {
            length,
            synced_through: Op::new(synced_through),
            written: Timestamp::new(written),
            hash,
        })
    }
}

/// Appends the blocks of `entry` to `out`, for `location`.
pub(super) fn encode(
    out: &mut Vec<u8>,
    entry: &Entry,
    (hash, written): (Hash, Timestamp),
    synced_through: Op,
    place: &EntryLocation,
    seed: Seed,
) {
    let length = FIXED_BYTES + entry.body.len();
    let mut record = Vec::with_capacity(length);
    record.extend_from_slice(&KIND.to_le_bytes());
    record.extend_from_slice(&u32::try_from(length).expect("blocks_for has checked it").to_le_bytes());
    record.extend_from_slice(&synced_through.get().to_le_bytes());
    record.extend_from_slice(&hash.get().to_le_bytes());
    record.extend_from_slice(&written.get().to_le_bytes());
    record.extend_from_slice(&entry.header.encode());
    record.extend_from_slice(&entry.body);
    for (index, payload) in (0..).zip(record.chunks(BLOCK_PAYLOAD)) {
        let stamp = Stamp {
            op: entry.header.op,
            incarnation: place.incarnation,
            generation: place.generation,
            index,
        };
        encode_block(out, payload, stamp, seed, place.block + index);
    }
}

/// Decodes a whole record of `op`; `None` unless everything in it is consistent.
pub(super) fn decode(record: Vec<u8>, op: Op, cluster: ClusterId) -> Option<(Entry, Hash, Local)> {
    let local = Local::decode(&record)?;
    let header: &[u8; HEADER_BYTES] = record.get(LOCAL_BYTES..FIXED_BYTES)?.try_into().ok()?;
    let header = EntryHeader::decode(header);
    if record.len() < local.length {
        return None;
    }
    let entry = Entry { header, body: Bytes::from(record).slice(FIXED_BYTES..local.length) };
    let sound = header.op == op
        && header.cluster == cluster
        && is_sane(&header)
        && header.hash() == local.hash
        && entry.check().is_ok();
    sound.then_some((entry, local.hash, local))
}

fn is_sane(header: &EntryHeader) -> bool {
    let (first, count) = (header.first_revision.get(), header.revision_count);
    let numbers = [header.op.get(), first, count, header.timestamp.get()];
    header.op > Op::ZERO && header.view.is_sane() && in_range(&numbers)
}

/// Decodes the entry of `op` with `hash` from these blocks, which were read from `location`; `None` if they hold
/// anything else.
pub(super) fn decode_blocks(
    blocks: &[u8],
    place: &EntryLocation,
    op: Op,
    hash: Hash,
    cluster: ClusterId,
    seed: Seed,
) -> Option<Entry> {
    let mut record = Vec::with_capacity(blocks.len());
    for (index, bytes) in (0..).zip(blocks.chunks_exact(block::BLOCK_BYTES)) {
        let expected = Stamp { op, incarnation: place.incarnation, generation: place.generation, index };
        if !is_whole(bytes, expected, place.generation, seed, place.block + index) {
            return None;
        }
        block::payload(bytes).for_each(|payload| record.extend_from_slice(payload));
    }
    let (entry, found, _) = decode(record, op, cluster)?;
    (found == hash).then_some(entry)
}

fn is_whole(bytes: &[u8], stamp: Stamp, generation: Generation, seed: Seed, at: u32) -> bool {
    block::classify_block(&block::sectors(bytes, generation, seed, at)) == block::BlockState::Whole(stamp)
}

/// Whether numbers read from disk leave room for arithmetic.
pub(super) fn in_range(numbers: &[u64]) -> bool {
    numbers.iter().all(|number| *number < LIMIT)
}
