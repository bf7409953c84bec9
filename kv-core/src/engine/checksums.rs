//! The checksums of a state file's blocks: which sum belongs to which block, and a bounded cache of the sums.

use super::head::BLOCK;
use crate::storage::File;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The number of data blocks that share one block of sums.
pub(super) const GROUP: u64 = (BLOCK / SUM) as u64;

/// The size of a sum in bytes.
const SUM: usize = 8;

/// The largest number of cached blocks of sums: 16 MiB of sums, for 8 GiB of data.
pub(super) const CACHED: usize = 4096;

/// The sum of data block `index`. It is zero for a block of zeros, and only for that, so a lengthened file is intact.
/// The sum depends on the index, so that a block in the place of another counts as damaged.
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
    /// Whether it has changed since it was last written.
    dirty: bool,
}

/// The cached sums. All others are only in the file.
pub(super) struct ChecksumCache {
    groups: BTreeMap<u64, Group>,
    /// The largest number of cached groups.
    capacity: usize,
    /// Where the search for a group to evict continues.
    hand: u64,
    /// The number of evictions. What was read without the lock before an eviction may be outdated.
    evictions: u64,
}

impl ChecksumCache {
    /// Creates a cache of at most `capacity` groups.
    pub(super) const fn new(capacity: usize) -> Self {
        Self { groups: BTreeMap::new(), capacity, hand: 0, evictions: 0 }
    }

    /// Changes the capacity.
    #[cfg(test)]
    pub(super) fn limit(&mut self, capacity: usize) {
        self.capacity = capacity;
    }

    /// The number of evictions; see [`insert`](Self::insert).
    pub(super) fn evictions(&self) -> u64 {
        self.evictions
    }

    /// The sums of a range of blocks within one group; `None` if the group is not cached.
    pub(super) fn get(&self, blocks: &Range<u64>) -> Option<&[u64]> {
        let group = self.groups.get(&(blocks.start / GROUP))?;
        Some(&group.sums[within(blocks)])
    }

    /// Replaces sums of a cached group. Returns false if it is not cached.
    pub(super) fn set(&mut self, blocks: &Range<u64>, sums: &[u64]) -> bool {
        let Some(group) = self.groups.get_mut(&(blocks.start / GROUP)) else { return false };
        group.sums[within(blocks)].copy_from_slice(sums);
        group.dirty = true;
        true
    }

    /// Caches a group that was read from the file when `evictions` had this value, unless it is cached already or may
    /// be outdated. May write another group to make room.
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

    /// Evicts a group so that it is read again, unless it has changes that are not in the file yet.
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

    /// Evicts all groups from `group` on, because the file was shortened.
    pub(super) fn truncate(&mut self, group: u64) {
        self.groups.split_off(&group);
        self.evictions += 1;
    }

    /// Returns the changed blocks of sums with their places in the file. From now on they count as written.
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

/// The place of a group's block of sums in the file.
pub(super) fn sums_at(group: u64) -> u64 {
    (super::head::COPIES as u64 + group * (GROUP + 1)) * BLOCK as u64
}

/// The place of data block `index` in the file.
pub(super) fn block_at(index: u64) -> u64 {
    sums_at(index / GROUP) + (1 + index % GROUP) * BLOCK as u64
}

/// The length of a file with this many data blocks.
pub(super) fn file_len(blocks: u64) -> u64 {
    match blocks.checked_sub(1) {
        None => sums_at(0),
        Some(last) => block_at(last) + BLOCK as u64,
    }
}
