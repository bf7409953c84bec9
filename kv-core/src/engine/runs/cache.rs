//! The blocks that were read lately, up to a limit of bytes.

use bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Threads that read seldom wait for one another.
const SHARDS: usize = 16;

/// The number of a file and the position of the block.
type Place = (u64, u64);

/// Whether a block that was read is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Keep {
    Not,
    /// A block of rows.
    Rows,
    /// A block of the index, or a filter. Each leads to many blocks of rows, so it stays longer.
    Index,
}

impl Keep {
    /// How many more times a block that is used goes to the back instead of away.
    const fn rounds(self) -> u8 {
        match self {
            Self::Not => 0,
            Self::Rows => 1,
            Self::Index => 4,
        }
    }
}

#[derive(Debug)]
struct Kept {
    bytes: Bytes,
    keep: Keep,
    rounds: u8,
}

/// Every look-up of a key asks for a few blocks. Nobody chooses their places, so a weak and fast hash is enough.
#[derive(Default)]
struct PlaceHasher(u64);

impl Hasher for PlaceHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        // The map uses the lower bits too, and the multiplication mixes the upper ones best.
        self.0 ^ (self.0 >> 32)
    }
}

#[derive(Debug, Default)]
struct Shard {
    blocks: HashMap<Place, Kept, BuildHasherDefault<PlaceHasher>>,
    /// A block that was used lately goes to the back when it reaches the front, instead of away.
    order: VecDeque<Place>,
    bytes: usize,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Cache {
    shards: [Mutex<Shard>; SHARDS],
    shard_bytes: usize,
}

impl Cache {
    pub(crate) fn new(bytes: usize) -> Self {
        Self { shards: Default::default(), shard_bytes: bytes / SHARDS }
    }

    fn shard(&self, place: Place) -> MutexGuard<'_, Shard> {
        let mixed = (place.0.wrapping_mul(31) ^ (place.1 >> 12)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let shard = usize::try_from(mixed >> 60).expect("four bits");
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, place: Place) -> Option<Bytes> {
        let mut shard = self.shard(place);
        let kept = shard.blocks.get_mut(&place)?;
        kept.rounds = kept.keep.rounds();
        Some(kept.bytes.clone())
    }

    pub(super) fn insert(&self, place: Place, bytes: &Bytes, keep: Keep) {
        if keep == Keep::Not || bytes.len() > self.shard_bytes {
            return;
        }
        let mut guard = self.shard(place);
        let shard = &mut *guard;
        // A block of rows is read once by many a scan. It stays if it is used again.
        let kept = Kept { bytes: bytes.clone(), keep, rounds: keep.rounds() - 1 };
        if shard.blocks.insert(place, kept).is_some() {
            return;
        }
        shard.order.push_back(place);
        shard.bytes += bytes.len();
        while shard.bytes > self.shard_bytes
            && let Some(oldest) = shard.order.pop_front()
        {
            match shard.blocks.get_mut(&oldest) {
                Some(kept) if kept.rounds > 0 => {
                    kept.rounds -= 1;
                    shard.order.push_back(oldest);
                }
                Some(_) | None => {
                    let gone = shard.blocks.remove(&oldest);
                    shard.bytes -= gone.map_or(0, |gone| gone.bytes.len());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_keeps_to_its_limit_and_what_is_used() {
        let cache = Cache::new(SHARDS * 1000);
        let block = Bytes::from(vec![1; 100]);
        for number in 0..10_000 {
            cache.insert((number, 0), &block, Keep::Rows);
            cache.get((0, 0));
        }
        let held: usize = cache.shards.iter().map(|shard| shard.lock().unwrap().bytes).sum();
        assert!((SHARDS * 800..=SHARDS * 1000).contains(&held), "{held}");
        assert!(cache.get((0, 0)).is_some(), "it was used all the time");
        cache.insert((1, 1), &Bytes::from(vec![1; 1001]), Keep::Index);
        assert!(cache.get((1, 1)).is_none(), "it is larger than what is kept");
        cache.insert((1, 1), &block, Keep::Not);
        assert!(cache.get((1, 1)).is_none(), "it is not kept");
    }

    #[test]
    fn the_index_stays_longer_than_rows() {
        let cache = Cache::new(SHARDS * 10_000);
        let block = Bytes::from(vec![1; 100]);
        for number in 0..100 {
            cache.insert((number, 1), &block, Keep::Index);
        }
        for number in 0..3000 {
            cache.insert((number, 0), &block, Keep::Rows);
        }
        let index = (0..100).filter(|number| cache.get((*number, 1)).is_some()).count();
        assert_eq!(index, 100, "{index} of 100 blocks are there");
        let rows = (0..100).filter(|number| cache.get((*number, 0)).is_some()).count();
        assert_eq!(rows, 0, "{rows} of the first rows are there");
    }
}
