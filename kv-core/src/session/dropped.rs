//! Requests that ran and whose results are no longer kept.

use serde::{Deserialize, Serialize};

/// The numbers of these requests, one bit each: their distance from the numbers that the client has acknowledged, from
/// 0.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub(super) struct Dropped {
    bits: Vec<u64>,
}

impl Dropped {
    pub(super) fn insert(&mut self, place: usize) {
        let word = place / 64;
        if self.bits.len() <= word {
            self.bits.resize(word + 1, 0);
        }
        self.bits[word] |= 1 << (place % 64);
    }

    pub(super) fn contains(&self, place: u64) -> bool {
        let word = usize::try_from(place / 64).ok().and_then(|word| self.bits.get(word));
        word.is_some_and(|bits| bits >> (place % 64) & 1 == 1)
    }

    /// The client has acknowledged this many more numbers.
    pub(super) fn shift(&mut self, by: u64) {
        let places = std::mem::take(self).places();
        for place in places.into_iter().filter(|place| *place as u64 >= by) {
            self.insert(place - usize::try_from(by).expect("not above a place"));
        }
    }

    /// All of them, ascending.
    pub(super) fn places(&self) -> Vec<usize> {
        let words = self.bits.iter().enumerate();
        let places = words.flat_map(|(word, bits)| {
            (0..64).filter(move |bit| bits >> bit & 1 == 1).map(move |bit| word * 64 + bit)
        });
        places.collect()
    }

    /// How many places it has room for.
    pub(super) fn room(&self) -> usize {
        self.bits.len() * 64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_move_down_as_numbers_are_acknowledged() {
        let mut dropped = Dropped::default();
        for place in [200, 0, 63, 64, 65] {
            dropped.insert(place);
        }
        assert_eq!(dropped.places(), [0, 63, 64, 65, 200]);
        dropped.shift(64);
        assert_eq!(dropped.places(), [0, 1, 136]);
        assert!(dropped.contains(136) && !dropped.contains(135) && !dropped.contains(u64::MAX));
        dropped.shift(u64::MAX);
        assert_eq!(dropped, Dropped::default());
    }
}
