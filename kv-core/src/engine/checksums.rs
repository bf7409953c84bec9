//! The checksums of a state file's blocks: which block belongs to which sum, and a bounded cache of them.

use super::blocks::BLOCK;
use crate::storage::File;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// How many data blocks share one block of sums.
pub(super) const GROUP: u64 = (BLOCK / SUM) as u64;

/// Bytes of a sum.
const SUM: usize = 8;

/// The most blocks of sums held in memory: 16 MiB of sums, for 8 GiB of data.
pub(super) const CACHED: usize = 4096;

/// The sum of data block `index`. It is zero for a block of zeros, and for no other: so a file that was lengthened is
/// intact. The index goes into it: a block in the place of another is damage.
pub(super) fn sum_of(index: u64, block: &[u8]) -> u64 {
    if block.iter().all(|byte| *byte == 0) {
        return 0;
    }
    xxh3_64_with_seed(block, index).max(1)
}

/// The sums of one group.
#[derive(Clone)]
struct Group {
    sums: Box<[u64]>,
    /// Changed since it was last written.
    dirty: bool,
}

/// The sums in memory; the others are in the file.
pub(super) struct ChecksumCache {
    groups: BTreeMap<u64, Group>,
    /// The most groups held.
    capacity: usize,
    /// Where the search for a group to let go of goes on.
    hand: u64,
    /// How often a group was let go of: what was read beside the lock before that may be out of date.
    evictions: u64,
}

impl ChecksumCache {
    /// Holds at most `capacity` groups.
    pub(super) const fn new(capacity: usize) -> Self {
        Self { groups: BTreeMap::new(), capacity, hand: 0, evictions: 0 }
    }

    /// Another capacity from now on.
    #[cfg(test)]
    pub(super) fn limit(&mut self, capacity: usize) {
        self.capacity = capacity;
    }

    /// How often groups were evicted; see [`insert`](Self::insert).
    pub(super) fn evictions(&self) -> u64 {
        self.evictions
    }

    /// The sums of a range of blocks that lie in one group; `None` if that group is not in memory.
    pub(super) fn get(&self, blocks: &Range<u64>) -> Option<&[u64]> {
        let group = self.groups.get(&(blocks.start / GROUP))?;
        Some(&group.sums[within(blocks)])
    }

    /// Replaces sums of a group that is in memory. Returns false if it is not.
    pub(super) fn set(&mut self, blocks: &Range<u64>, sums: &[u64]) -> bool {
        let Some(group) = self.groups.get_mut(&(blocks.start / GROUP)) else { return false };
        group.sums[within(blocks)].copy_from_slice(sums);
        group.dirty = true;
        true
    }

    /// Takes in a group that was read from the file when `evictions` had this value, unless one is there or that may be
    /// out of date. May write another group to make room.
    pub(super) fn insert(
        &mut self,
        group: u64,
        block: &[u8; BLOCK],
        evictions: u64,
        file: &dyn File,
    ) -> io::Result<()> {
        if self.groups.contains_key(&group) || evictions != self.evictions {
            return Ok(());
        }
        while self.groups.len() >= self.capacity {
            self.evict(file)?;
        }
        let sums =
            block.chunks_exact(SUM).map(|sum| u64::from_le_bytes(sum.try_into().expect("eight bytes")));
        self.groups.insert(group, Group { sums: sums.collect(), dirty: false });
        Ok(())
    }

    /// Forgets a group, so that it is read anew; unless it has changed, and the file does not have it yet.
    pub(super) fn forget_clean(&mut self, group: u64) {
        if self.groups.get(&group).is_some_and(|group| !group.dirty) {
            self.groups.remove(&group);
        }
    }

    fn evict(&mut self, file: &dyn File) -> io::Result<()> {
        let next = self.groups.range(self.hand..).next().or_else(|| self.groups.first_key_value());
        let Some((&id, group)) = next else { return Ok(()) };
        if group.dirty {
            file.write_at(&encode(&group.sums), sums_at(id))?;
        }
        self.groups.remove(&id);
        self.hand = id + 1;
        self.evictions += 1;
        Ok(())
    }

    /// Forgets all groups from `group` on: their part of the file is gone.
    pub(super) fn truncate(&mut self, group: u64) {
        self.groups.split_off(&group);
        self.evictions += 1;
    }

    /// The changed blocks of sums with their places in the file; from now on they count as written.
    pub(super) fn take_dirty(&mut self) -> Vec<(u64, [u8; BLOCK])> {
        let dirty = self.groups.iter_mut().filter(|(_, group)| group.dirty);
        dirty
            .map(|(id, group)| {
                group.dirty = false;
                (sums_at(*id), encode(&group.sums))
            })
            .collect()
    }
}

fn within(blocks: &Range<u64>) -> Range<usize> {
    let start = usize::try_from(blocks.start % GROUP).expect("below the size of a group");
    let len = usize::try_from(blocks.end - blocks.start).expect("below the size of a group");
    start..start + len
}

fn encode(sums: &[u64]) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    for (place, sum) in block.chunks_exact_mut(SUM).zip(sums) {
        place.copy_from_slice(&sum.to_le_bytes());
    }
    block
}

/// Where the block of sums of a group is in the file.
pub(super) fn sums_at(group: u64) -> u64 {
    (super::head::COPIES as u64 + group * (GROUP + 1)) * BLOCK as u64
}

/// Where data block `index` is in the file.
pub(super) fn block_at(index: u64) -> u64 {
    sums_at(index / GROUP) + (1 + index % GROUP) * BLOCK as u64
}

/// How long the file is that holds this many data blocks.
pub(super) fn file_len(blocks: u64) -> u64 {
    match blocks.checked_sub(1) {
        None => sums_at(0),
        Some(last) => block_at(last) + BLOCK as u64,
    }
}
