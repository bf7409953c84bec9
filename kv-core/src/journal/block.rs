//! The format of a segment: blocks of 4 KiB in sectors of 512 B. Each sector has a stamp and a checksum of its own.
//!
//! ```text
//! sector:  checksum u64 | op u64 | incarnation u64 | generation u32 | index u32 | 480 bytes of payload
//! ```
//! The checksum is seeded with the sector's place (journal, segment file, block, sector), so a sector that was written
//! to the wrong place does not verify. `index` counts the blocks of an entry. Numbers are little-endian. A sector that
//! never reached the disk is all zeros, or verifies with an older generation. Any other sector is damaged.

use super::location::{Generation, SegmentNumber};
use crate::ids::{ClusterId, Incarnation, MemberId, Op};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

pub(super) const SECTOR_BYTES: usize = 512;
pub(super) const BLOCK_BYTES: usize = 4096;
const SECTORS: usize = BLOCK_BYTES / SECTOR_BYTES;
const STAMP_BYTES: usize = 32;
const SECTOR_PAYLOAD: usize = SECTOR_BYTES - STAMP_BYTES;
/// How many bytes of an entry one block holds.
pub(super) const BLOCK_PAYLOAD: usize = SECTORS * SECTOR_PAYLOAD;

/// The header of a sector.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stamp {
    pub(super) op: Op,
    pub(super) incarnation: Incarnation,
    pub(super) generation: Generation,
    /// Which block of its entry.
    pub(super) index: u32,
}

/// The seed of the checksums of a segment: it identifies the journal and the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seed(u64);

impl Seed {
    pub(super) fn new(cluster: ClusterId, member: MemberId, segment: SegmentNumber) -> Self {
        let mut bytes = [0; 21];
        bytes[..16].copy_from_slice(&cluster.get().to_le_bytes());
        bytes[16] = member.get();
        bytes[17..].copy_from_slice(&segment.get().to_le_bytes());
        Self(xxh3_64(&bytes))
    }

    const fn at(self, block: u32, sector: usize) -> u64 {
        self.0.wrapping_add(block as u64 * SECTORS as u64 + sector as u64)
    }
}

/// The state of a sector, compared with the current generation of its segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sector {
    /// Zeros: never written.
    Zero,
    /// Intact, of an earlier generation: not written in this one.
    Older,
    /// Intact, of this generation.
    Current(Stamp),
    /// Intact, of a later generation than the segment's header, which is outdated.
    Newer(Generation),
    /// None of these.
    Bad,
}

/// One block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum BlockState {
    /// No sector of this generation reached it.
    Untouched,
    /// It was written completely, with one stamp.
    Whole(Stamp),
    /// Some sectors were written, with one stamp, and the others never reached the disk.
    Torn(Stamp),
    /// Anything else: it does not contain what was written.
    Damaged,
}

/// Appends to `out` one block with `payload` (at most [`BLOCK_PAYLOAD`] bytes, padded with zeros).
pub(super) fn encode_block(out: &mut Vec<u8>, payload: &[u8], stamp: Stamp, seed: Seed, block: u32) {
    assert!(payload.len() <= BLOCK_PAYLOAD, "the payload fits a block");
    for sector in 0..SECTORS {
        let part = payload.get(sector * SECTOR_PAYLOAD..).unwrap_or_default();
        let part = &part[..part.len().min(SECTOR_PAYLOAD)];
        let start = out.len();
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(&stamp.op.get().to_le_bytes());
        out.extend_from_slice(&stamp.incarnation.get().to_le_bytes());
        out.extend_from_slice(&stamp.generation.get().to_le_bytes());
        out.extend_from_slice(&stamp.index.to_le_bytes());
        out.extend_from_slice(part);
        out.resize(start + SECTOR_BYTES, 0);
        let checksum = xxh3_64_with_seed(&out[start + 8..], seed.at(block, sector));
        out[start..start + 8].copy_from_slice(&checksum.to_le_bytes());
    }
}

/// The payload of the block, sector by sector.
pub(super) fn payload(block: &[u8]) -> impl Iterator<Item = &[u8]> {
    block.chunks_exact(SECTOR_BYTES).map(|sector| &sector[STAMP_BYTES..])
}

/// Classifies each sector of a block of [`BLOCK_BYTES`].
pub(super) fn sectors(bytes: &[u8], generation: Generation, seed: Seed, block: u32) -> [Sector; SECTORS] {
    let mut found = [Sector::Bad; SECTORS];
    for (at, (sector, bytes)) in found.iter_mut().zip(bytes.chunks_exact(SECTOR_BYTES)).enumerate() {
        *sector = classify(bytes, generation, seed.at(block, at));
    }
    found
}

fn classify(sector: &[u8], generation: Generation, seed: u64) -> Sector {
    if is_zero(sector) {
        return Sector::Zero;
    }
    if xxh3_64_with_seed(&sector[8..], seed) != u64_at(sector, 0) {
        return Sector::Bad;
    }
    let stamp = Stamp {
        op: Op::new(u64_at(sector, 8)),
        incarnation: Incarnation::new(u64_at(sector, 16)),
        generation: Generation::new(u32_at(sector, 24)),
        index: u32_at(sector, 28),
    };
    match stamp.generation.cmp(&generation) {
        std::cmp::Ordering::Less => Sector::Older,
        std::cmp::Ordering::Equal => Sector::Current(stamp),
        std::cmp::Ordering::Greater => Sector::Newer(stamp.generation),
    }
}

/// Classifies a block by its sectors. The table is total:
///
/// | written now | never reached | else | the block is |
/// |---|---|---|---|
/// | any | any | some | damaged: a sector holds what was never written there, or two stamps disagree |
/// | none | all | none | untouched |
/// | all | none | none | whole |
/// | some | some | none | torn: the power was cut while it was written |
pub(super) fn classify_block(sectors: &[Sector]) -> BlockState {
    let mut stamp = None;
    let mut never_reached = false;
    for sector in sectors {
        match sector {
            Sector::Zero | Sector::Older => never_reached = true,
            Sector::Current(found) => {
                if *stamp.get_or_insert(*found) != *found {
                    return BlockState::Damaged;
                }
            }
            Sector::Newer(_) | Sector::Bad => return BlockState::Damaged,
        }
    }
    match (stamp, never_reached) {
        (None, true) => BlockState::Untouched,
        (Some(stamp), false) => BlockState::Whole(stamp),
        (Some(stamp), true) => BlockState::Torn(stamp),
        (None, false) => BlockState::Damaged,
    }
}

pub(super) fn is_zero(bytes: &[u8]) -> bool {
    const ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];
    // Compared as slices, which is fast even without optimization.
    bytes.chunks(BLOCK_BYTES).all(|piece| *piece == ZEROS[..piece.len()])
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

pub(super) fn u128_at(bytes: &[u8], at: usize) -> u128 {
    let mut number = [0; 16];
    number.copy_from_slice(&bytes[at..at + 16]);
    u128::from_le_bytes(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seed() -> Seed {
        Seed::new(ClusterId::new(7), MemberId::new(1), SegmentNumber::new(2))
    }

    fn stamp() -> Stamp {
        Stamp { op: Op::new(9), incarnation: Incarnation::new(3), generation: Generation::new(5), index: 1 }
    }

    fn state(block: &[u8], generation: u32) -> BlockState {
        classify_block(&sectors(block, Generation::new(generation), seed(), 4))
    }

    fn block() -> Vec<u8> {
        let mut out = Vec::new();
        encode_block(&mut out, &[0xAB; BLOCK_PAYLOAD - 7], stamp(), seed(), 4);
        out
    }

    #[test]
    fn a_block_round_trips() {
        let block = block();
        assert_eq!(block.len(), BLOCK_BYTES);
        assert_eq!(state(&block, 5), BlockState::Whole(stamp()));
        let back: Vec<u8> = payload(&block).flatten().copied().collect();
        assert_eq!(back[..BLOCK_PAYLOAD - 7], [0xAB; BLOCK_PAYLOAD - 7]);
        assert_eq!(back[BLOCK_PAYLOAD - 7..], [0; 7]);
    }

    #[test]
    fn f_disk_9_a_block_in_the_wrong_place_does_not_verify() {
        let block = block();
        for (seed, at) in [
            (seed(), 5),
            (Seed::new(ClusterId::new(7), MemberId::new(1), SegmentNumber::new(3)), 4),
            (Seed::new(ClusterId::new(7), MemberId::new(2), SegmentNumber::new(2)), 4),
            (Seed::new(ClusterId::new(8), MemberId::new(1), SegmentNumber::new(2)), 4),
        ] {
            assert_eq!(classify_block(&sectors(&block, Generation::new(5), seed, at)), BlockState::Damaged);
        }
    }

    /// The table of `classify_block`, with every combination of three sectors.
    #[test]
    fn each_combination_of_sectors_has_its_row() {
        let other = Stamp { op: Op::new(10), ..stamp() };
        let kinds = [
            Sector::Zero,
            Sector::Older,
            Sector::Current(stamp()),
            Sector::Current(other),
            Sector::Newer(Generation::new(6)),
            Sector::Bad,
        ];
        for a in kinds {
            for b in kinds {
                for c in kinds {
                    let all = [a, b, c];
                    let never = all.iter().filter(|s| matches!(s, Sector::Zero | Sector::Older)).count();
                    let ours = all.iter().filter(|s| **s == Sector::Current(stamp())).count();
                    let others = all.iter().filter(|s| **s == Sector::Current(other)).count();
                    let expected = match (never, ours, others) {
                        (3, 0, 0) => BlockState::Untouched,
                        (0, 3, 0) => BlockState::Whole(stamp()),
                        (0, 0, 3) => BlockState::Whole(other),
                        (n, o, 0) if n + o == 3 => BlockState::Torn(stamp()),
                        (n, 0, o) if n + o == 3 => BlockState::Torn(other),
                        _ => BlockState::Damaged,
                    };
                    assert_eq!(classify_block(&all), expected, "{all:?}");
                }
            }
        }
    }

    #[test]
    fn an_unwritten_sector_is_distinguished_from_damage() {
        let new = block();
        let mut old = Vec::new();
        let earlier = Stamp { generation: Generation::new(4), ..stamp() };
        encode_block(&mut old, &[1; 100], earlier, seed(), 4);
        assert_eq!(state(&[0; BLOCK_BYTES], 5), BlockState::Untouched);
        assert_eq!(state(&old, 5), BlockState::Untouched);
        for written in 1_u32..255 {
            for rest in [&old[..], &[0; BLOCK_BYTES]] {
                let mut mixed = rest.to_vec();
                for sector in (0..SECTORS).filter(|sector| written & 1 << sector != 0) {
                    let range = sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
                    mixed[range.clone()].copy_from_slice(&new[range]);
                }
                assert_eq!(state(&mixed, 5), BlockState::Torn(stamp()));
            }
        }
    }

    #[test]
    fn f_disk_5_every_flipped_bit_is_detected() {
        let intact = block();
        for byte in 0..BLOCK_BYTES {
            for bit in 0..8 {
                let mut flipped = intact.clone();
                flipped[byte] ^= 1 << bit;
                assert_eq!(state(&flipped, 5), BlockState::Damaged, "byte {byte} bit {bit}");
            }
        }
    }
}
