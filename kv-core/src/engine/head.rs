//! The head of a state file: four copies of one sector, two of which are replaced at a time.
//!
//! The B-tree rewrites its own first bytes in place at every commit, so they cannot be protected like the other blocks
//! (see [`blocks`](super::blocks)). Each sync that changes them, or the length, writes the next *version* of the head:
//! odd versions to one pair of copies, even versions to the other. A sector is written as a whole or not at all, so
//! after a power cut each copy is intact, and holds either the new version or the one of two syncs ago:
//!
//! | newest intact version in one pair, in the other | meaning |
//! |---|---|
//! | n, n - 1 | version n is current. If only one copy has it, its sync was interrupted, or the other copy was damaged: write the other copy |
//! | none in a pair | damage: the pair may have held the newest version, and using an older one would silently lose commits |
//! | versions that are not consecutive | damage: a write was lost |

use super::EngineError;
use crate::ids::Hash;
use bytes::{Buf, BufMut};

/// The unit that is checked. It is also the page size of the B-tree.
pub(super) const BLOCK: usize = 4096;

/// How many bytes of the B-tree's own header are stored here.
pub(super) const TREE_BYTES: usize = 448;

/// The number of copies.
pub(super) const COPIES: usize = 4;

/// The size of a copy in bytes: the unit that a disk writes as a whole.
pub(super) const SECTOR: usize = 512;

type Sector = [u8; SECTOR];

const MAGIC: [u8; 8] = *b"kv-state";
const FORMAT: u32 = 3;
const HASHED: usize = SECTOR - 16;

/// The content of a head.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Head {
    /// Grows with each change.
    pub(super) version: u64,
    /// The length of the file as the B-tree sees it.
    pub(super) len: u64,
    /// The first bytes of the file as the B-tree sees it.
    pub(super) tree: [u8; TREE_BYTES],
}

impl Head {
    /// The head of an empty file.
    pub(super) const fn empty(version: u64) -> Self {
        Self { version, len: 0, tree: [0; TREE_BYTES] }
    }

    /// The two copies that hold this version.
    pub(super) const fn copies(&self) -> [usize; 2] {
        if self.version.is_multiple_of(2) { [0, 1] } else { [2, 3] }
    }

    /// The sector for copy `index`.
    pub(super) fn encode(&self, index: usize) -> Sector {
        let mut sector = [0; SECTOR];
        let mut out = &mut sector[..];
        out.put_slice(&MAGIC);
        out.put_u32_le(FORMAT);
        out.put_u32_le(u32::try_from(index).expect("there are four copies"));
        out.put_u64_le(self.version);
        out.put_u64_le(self.len);
        out.put_slice(&self.tree);
        let hash = Hash::of(&sector[..HASHED]).get();
        sector[HASHED..].copy_from_slice(&hash.to_le_bytes());
        sector
    }

    /// Decodes copy `index`; `None` if it is not intact.
    fn decode(sector: &Sector, index: usize) -> Result<Option<Self>, EngineError> {
        let (hashed, hash) = sector.split_at(HASHED);
        if Hash::of(hashed).get().to_le_bytes() != hash {
            return Ok(None);
        }
        let mut input = hashed;
        let mut magic = [0; 8];
        input.copy_to_slice(&mut magic);
        let format = input.get_u32_le();
        if magic == MAGIC && format != FORMAT {
            return Err(EngineError::Format { found: format, known: FORMAT });
        }
        let own = input.get_u32_le() as usize == index;
        let mut head = Self::empty(input.get_u64_le());
        head.len = input.get_u64_le();
        input.copy_to_slice(&mut head.tree);
        Ok((magic == MAGIC && own && head.copies().contains(&index)).then_some(head))
    }

    /// Returns the current head, and the copies that must be written again.
    pub(super) fn choose(sectors: &[Sector; COPIES]) -> Result<(Self, Vec<(usize, Sector)>), EngineError> {
        let mut pairs = [None::<Self>, None];
        for (index, sector) in sectors.iter().enumerate() {
            let pair = &mut pairs[index / 2];
            if let Some(head) = Self::decode(sector, index)?
                && pair.as_ref().is_none_or(|other| other.version < head.version)
            {
                *pair = Some(head);
            }
        }
        let [Some(even), Some(odd)] = pairs else {
            return Err(EngineError::damaged("both copies of a head are unreadable"));
        };
        if even.version.abs_diff(odd.version) != 1 {
            return Err(EngineError::damaged("a head is missing"));
        }
        let wanted = [&even, &even, &odd, &odd];
        let again = (0..COPIES)
            .map(|index| (index, wanted[index].encode(index)))
            .filter(|(index, sector)| sectors[*index] != *sector)
            .collect();
        Ok((if even.version > odd.version { even } else { odd }, again))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(version: u64) -> Head {
        let mut head = Head::empty(version);
        head.len = version * 4096;
        head.tree[7] = 9;
        head
    }

    fn copies(versions: [u64; COPIES]) -> [Sector; COPIES] {
        std::array::from_fn(|index| head(versions[index]).encode(index))
    }

    fn chosen(versions: [u64; COPIES]) -> Option<(u64, Vec<usize>)> {
        let (head, again) = Head::choose(&copies(versions)).ok()?;
        Some((head.version, again.into_iter().map(|(index, _)| index).collect()))
    }

    #[test]
    fn the_newest_version_wins() {
        assert_eq!(chosen([6, 6, 7, 7]), Some((7, vec![])));
        assert_eq!(chosen([8, 8, 7, 7]), Some((8, vec![])));
    }

    #[test]
    fn a_version_that_reached_one_copy_is_completed() {
        assert_eq!(chosen([8, 6, 7, 7]), Some((8, vec![1])));
        assert_eq!(chosen([6, 8, 7, 7]), Some((8, vec![0])));
        assert_eq!(chosen([8, 8, 7, 9]), Some((9, vec![2])));
    }

    #[test]
    fn any_flipped_bit_in_one_copy_is_repaired_from_its_twin() {
        for (index, bit) in (0..COPIES).flat_map(|index| (0..SECTOR * 8).map(move |bit| (index, bit))) {
            let mut sectors = copies([8, 8, 7, 7]);
            sectors[index][bit / 8] ^= 1 << (bit % 8);
            let (found, again) = Head::choose(&sectors).unwrap();
            assert_eq!(found, head(8));
            assert_eq!(again, [(index, copies([8, 8, 7, 7])[index])]);
        }
    }

    #[test]
    fn two_damaged_copies_of_a_pair_are_damage_and_not_an_older_head() {
        for pair in [[0, 1], [2, 3]] {
            let mut sectors = copies([8, 8, 7, 7]);
            for index in pair {
                sectors[index] = [0; SECTOR];
            }
            assert!(matches!(Head::choose(&sectors), Err(EngineError::Damaged { .. })));
        }
    }

    #[test]
    fn a_version_whose_write_was_lost_is_damage() {
        assert_eq!(chosen([6, 6, 9, 9]), None);
    }

    #[test]
    fn a_copy_in_the_place_of_another_is_not_intact() {
        let mut sectors = copies([8, 8, 7, 7]);
        sectors[0] = sectors[2];
        assert_eq!(Head::choose(&sectors).unwrap().1[0].0, 0);
        sectors[1] = sectors[2];
        assert!(Head::choose(&sectors).is_err());
    }

    #[test]
    fn another_format_is_refused_with_its_version() {
        for format in [1, 2, 4] {
            let mut sectors = copies([8, 8, 7, 7]);
            sectors[0][8] = format;
            let hash = Hash::of(&sectors[0][..HASHED]).get();
            sectors[0][HASHED..].copy_from_slice(&hash.to_le_bytes());
            let Err(EngineError::Format { found, known: FORMAT }) = Head::choose(&sectors) else {
                panic!("format {format} is refused")
            };
            assert_eq!(found, u32::from(format));
        }
    }
}
