//! The blocks that were read lately, up to a limit of bytes.

use bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Threads that read seldom wait for one another.
const SHARDS: usize = 16;

/// The number of a file and the position of the block.
type Place = (u64, u64);

#[derive(Debug, Default)]
struct Shard {
    blocks: HashMap<Place, (Bytes, bool)>,
    /// A block that was used since it was last at the front goes to the back instead of away.
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
        let (bytes, used) = shard.blocks.get_mut(&place)?;
        *used = true;
        Some(bytes.clone())
    }

    pub(super) fn insert(&self, place: Place, bytes: &Bytes) {
        if bytes.len() > self.shard_bytes {
            return;
        }
        let mut guard = self.shard(place);
        let shard = &mut *guard;
        if shard.blocks.insert(place, (bytes.clone(), false)).is_some() {
            return;
        }
        shard.order.push_back(place);
        shard.bytes += bytes.len();
        while shard.bytes > self.shard_bytes
            && let Some(oldest) = shard.order.pop_front()
        {
            match shard.blocks.get_mut(&oldest) {
                Some((_, used)) if *used => {
                    *used = false;
                    shard.order.push_back(oldest);
                }
                Some(_) | None => {
                    let gone = shard.blocks.remove(&oldest);
                    shard.bytes -= gone.map_or(0, |(bytes, _)| bytes.len());
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
            cache.insert((number, 0), &block);
            cache.get((0, 0));
        }
        let held: usize = cache.shards.iter().map(|shard| shard.lock().unwrap().bytes).sum();
        assert!((SHARDS * 800..=SHARDS * 1000).contains(&held), "{held}");
        assert!(cache.get((0, 0)).is_some(), "it was used all the time");
        cache.insert((1, 1), &Bytes::from(vec![1; 1001]));
        assert!(cache.get((1, 1)).is_none(), "it is larger than what is kept");
    }
}
