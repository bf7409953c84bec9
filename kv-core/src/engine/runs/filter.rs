//! Which keys a part of a run certainly does not hold: a Bloom filter, which errs for one or two keys of a hundred. All
//! bits of a key are in one line of the processor's cache: most look-ups ask many filters, and each is far away.

use xxhash_rust::xxh3::xxh3_64;

const BITS_PER_KEY: usize = 10;
const PROBES: u32 = 6;

/// The bytes of a line.
const LINE: usize = 64;

/// The hash of a key, by the beginning of its places.
pub(crate) fn hash_of(start: &[u8]) -> u64 {
    xxh3_64(start)
}

/// Where the line of a key begins, if there are so many: its hash as a part of all hashes.
fn line(hash: u64, lines: usize) -> usize {
    let line = (u128::from(hash) * lines as u128) >> 64;
    usize::try_from(line).unwrap_or_default() * LINE
}

/// The bits of a key in its line, each as a byte and a mask.
fn probes(hash: u64) -> impl Iterator<Item = (usize, u8)> {
    // The line is chosen by the upper bits.
    let mixed = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (0..PROBES).map(move |probe| {
        let bit = (mixed >> (9 * probe)) & 511;
        (usize::try_from(bit / 8).unwrap_or_default(), 1 << (bit % 8))
    })
}

/// The filter of these keys.
pub(super) fn build(hashes: &[u64]) -> Vec<u8> {
    let lines = (hashes.len() * BITS_PER_KEY).div_ceil(8 * LINE).max(1);
    let mut filter = vec![0; lines * LINE];
    for hash in hashes {
        let line = line(*hash, lines);
        probes(*hash).for_each(|(byte, mask)| filter[line + byte] |= mask);
    }
    filter
}

/// Whether the filter may contain the key.
pub(super) fn may_hold(filter: &[u8], hash: u64) -> bool {
    let line = line(hash, filter.len() / LINE);
    let line = filter.get(line..line + LINE).unwrap_or_default();
    line.is_empty() || probes(hash).all(|(byte, mask)| line[byte] & mask != 0)
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
