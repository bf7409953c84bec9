//! The fates of frames.

use super::{Direction, Fault};
use crate::Lane;
use std::time::Duration;

/// The fate of a frame.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Fate {
    pub(super) lost: bool,
    pub(super) delay: Duration,
    /// How long the frame is held back, so that others overtake it.
    pub(super) held_back: Option<Duration>,
    /// If there is a copy: how much later it arrives.
    pub(super) copy: Option<Duration>,
    /// If a bit is flipped: its number, modulo the length of the frame.
    pub(super) flipped: Option<u64>,
}

impl Fate {
    /// Removes all random faults except delay.
    pub(super) fn spared(self) -> Self {
        Self { delay: self.delay, ..Self::default() }
    }
}

/// Draws the fates of the frames in one direction of a connection.
#[derive(Debug)]
pub(super) struct Dice(fastrand::Rng);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    /// The fate of the next frame. The number of random values that are drawn does not depend on the faults. So a
    /// change of one fault does not change the fates that depend on the other faults.
    pub(super) fn roll(&mut self, fault: &Fault) -> Fate {
        let lost = self.0.f64() < fault.loss;
        let delay = self.delay(fault);
        let reordered = self.0.f64() < fault.reordering;
        let held_back = fault.held_back.mul_f64(self.0.f64());
        let doubled = self.0.f64() < fault.duplication;
        let copy = self.delay(fault);
        let corrupted = self.0.f64() < fault.corruption;
        let bit = self.0.u64(..);
        Fate {
            lost,
            delay,
            held_back: reordered.then_some(held_back),
            copy: doubled.then_some(copy),
            flipped: corrupted.then_some(bit),
        }
    }

    fn delay(&mut self, fault: &Fault) -> Duration {
        fault.shortest + (fault.longest - fault.shortest).mul_f64(self.0.f64())
    }
}

/// The seed for one direction of one connection: the 64-bit FNV-1a hash of what distinguishes it from the others.
pub(super) fn stream_seed(
    seed: u64,
    peer: Option<&str>,
    lane: Lane,
    direction: Direction,
    connection: u64,
) -> u64 {
    let direction = match direction {
        Direction::Outgoing => 1,
        Direction::Incoming => 2,
    };
    let numbers = seed.to_le_bytes().into_iter().chain(connection.to_le_bytes());
    let kind = [lane.code(), direction, u8::from(peer.is_some())];
    let bytes = numbers.chain(kind).chain(peer.unwrap_or_default().bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fates(seed: u64, fault: &Fault) -> Vec<Fate> {
        let mut dice = Dice::new(seed);
        (0..10_000).map(|_| dice.roll(fault)).collect()
    }

    fn share(fates: &[Fate], is: impl Fn(&Fate) -> bool) -> f64 {
        fates.iter().filter(|fate| is(fate)).count() as f64 / fates.len() as f64
    }

    #[test]
    fn the_same_seed_gives_the_same_fates_and_another_seed_others() {
        let fault = Fault::new().loss(0.3).duplication(0.2).corruption(0.1);
        assert_eq!(fates(7, &fault), fates(7, &fault));
        assert_ne!(fates(7, &fault), fates(8, &fault));
    }

    #[test]
    fn fates_have_the_requested_frequency() {
        let (low, high) = (Duration::from_millis(10), Duration::from_millis(30));
        let fault = Fault::new().loss(0.3).duplication(0.5).corruption(0.01).delay(low..=high);
        let fates = fates(1, &fault.reordering(0.1, high));
        assert!((share(&fates, |fate| fate.lost) - 0.3).abs() < 0.02);
        assert!((share(&fates, |fate| fate.copy.is_some()) - 0.5).abs() < 0.02);
        assert!((share(&fates, |fate| fate.flipped.is_some()) - 0.01).abs() < 0.005);
        assert!((share(&fates, |fate| fate.held_back.is_some()) - 0.1).abs() < 0.02);
        assert!((share(&fates, |fate| fate.delay < Duration::from_millis(20)) - 0.5).abs() < 0.02);
        assert!(fates.iter().all(|fate| (low..=high).contains(&fate.delay)));
    }

    #[test]
    fn no_fault_and_certain_faults_are_exact() {
        assert!(fates(1, &Fault::new()).iter().all(|fate| *fate == Fate::default()));
        assert!(fates(1, &Fault::new().loss(1.0)).iter().all(|fate| fate.lost));
    }

    #[test]
    fn one_fault_does_not_move_the_fates_by_another() {
        let lost = |fault: &Fault| fates(3, fault).iter().map(|fate| fate.lost).collect::<Vec<_>>();
        assert_eq!(lost(&Fault::new().loss(0.5)), lost(&Fault::new().loss(0.5).duplication(0.5)));
    }

    #[test]
    fn every_stream_has_its_own_fates() {
        let seeds = [
            stream_seed(1, None, Lane::Log, Direction::Incoming, 1),
            stream_seed(2, None, Lane::Log, Direction::Incoming, 1),
            stream_seed(1, Some(""), Lane::Log, Direction::Incoming, 1),
            stream_seed(1, Some("a"), Lane::Log, Direction::Incoming, 1),
            stream_seed(1, None, Lane::Bulk, Direction::Incoming, 1),
            stream_seed(1, None, Lane::Log, Direction::Outgoing, 1),
            stream_seed(1, None, Lane::Log, Direction::Incoming, 2),
        ];
        let different: std::collections::BTreeSet<u64> = seeds.into_iter().collect();
        assert_eq!(different.len(), seeds.len());
    }
}
