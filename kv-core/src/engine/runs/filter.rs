//! Which keys a part of a run certainly does not hold: a Bloom filter, which errs for about one key of a hundred.

use xxhash_rust::xxh3::xxh3_64;

const BITS_PER_KEY: usize = 10;
const PROBES: u64 = 6;

/// The hash of a key, by the beginning of its places.
pub(crate) fn hash_of(start: &[u8]) -> u64 {
    xxh3_64(start)
}

fn probes(hash: u64, bits: u64) -> impl Iterator<Item = u64> {
    let step = hash.rotate_left(32) | 1;
    (0..PROBES).map(move |probe| hash.wrapping_add(step.wrapping_mul(probe)) % bits)
}

fn bit(bit: u64) -> (usize, u8) {
    (usize::try_from(bit / 8).expect("within the filter"), 1 << (bit % 8))
}

/// The filter of these keys.
pub(super) fn build(hashes: &[u64]) -> Vec<u8> {
    let mut filter = vec![0; (hashes.len() * BITS_PER_KEY).div_ceil(8).max(8)];
    let bits = 8 * filter.len() as u64;
    for probe in hashes.iter().flat_map(|hash| probes(*hash, bits)) {
        let (byte, mask) = bit(probe);
        filter[byte] |= mask;
    }
    filter
}

/// Whether the filter may contain the key.
pub(super) fn may_hold(filter: &[u8], hash: u64) -> bool {
    let bits = 8 * filter.len() as u64;
    bits == 0
        || probes(hash, bits).all(|probe| {
            let (byte, mask) = bit(probe);
            filter[byte] & mask != 0
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_holds_its_keys_and_few_others() {
        let hash = |n: u32| hash_of(&n.to_le_bytes());
        for count in [1, 10, 10_000] {
            let filter = build(&(0..count).map(hash).collect::<Vec<_>>());
            assert!((0..count).all(|n| may_hold(&filter, hash(n))));
            let wrong = (count..count + 10_000).filter(|n| may_hold(&filter, hash(*n))).count();
            assert!(wrong < 300, "{wrong} of 10,000");
        }
    }
}
