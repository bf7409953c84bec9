//! Simulated time, and the clocks of each member.

use fastrand::Rng;
use kv_core::ids::{Instant, Timestamp};
use kv_core::replica::Now;

/// Simulated nanoseconds since the run began. The real time of the world, which no member sees.
pub(super) type Time = u64;

/// Nanoseconds in a millisecond.
pub(super) const MS: Time = 1_000_000;
/// Nanoseconds in a second.
pub(super) const SECOND: Time = 1_000 * MS;
/// Nanoseconds in a minute.
pub(super) const MINUTE: Time = 60 * SECOND;
/// Nanoseconds in an hour.
pub(super) const HOUR: Time = 60 * MINUTE;

/// Wall time at the beginning of a run: some day in 2026.
const EPOCH_MS: i64 = 1_780_000_000_000;
/// Rates are in millionths.
const MILLION: u64 = 1_000_000;

/// The clocks of one machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// Monotonic nanoseconds per million real ones.
    rate: u64,
    /// The reading of the monotonic clock at `since`, and that real time. It began at zero in this life.
    base: u64,
    since: Time,
    /// Whether the monotonic clock is stopped.
    frozen: bool,
    /// The error of the wall clock in milliseconds.
    offset: i64,
    /// Wall nanoseconds per million real ones.
    wall_rate: u64,
}

impl Clock {
    /// Creates clocks with errors of up to these many millionths and milliseconds.
    pub(super) fn new(rng: &mut Rng, drift: u64, wall_drift: u64, skew_ms: i64) -> Self {
        Self {
            rate: rng.u64(MILLION - drift..=MILLION + drift),
            base: 0,
            since: 0,
            frozen: false,
            offset: rng.i64(-skew_ms..=skew_ms),
            wall_rate: rng.u64(MILLION - wall_drift..=MILLION + wall_drift),
        }
    }

    /// The process starts: its monotonic clock begins at zero.
    pub(super) const fn restart(&mut self, now: Time) {
        (self.base, self.since, self.frozen) = (0, now, false);
    }

    /// Stops the monotonic clock, as on a suspended machine.
    pub(super) fn freeze(&mut self, now: Time) {
        (self.base, self.since, self.frozen) = (self.monotonic(now), now, true);
    }

    /// Starts the monotonic clock again: from where it stopped, or from where it would be. Returns by how much it
    /// leaps.
    pub(super) fn thaw(&mut self, now: Time, catches_up: bool) -> Time {
        let stood = self.monotonic(now);
        if self.frozen && !catches_up {
            self.since = now;
        }
        self.frozen = false;
        self.monotonic(now) - stood
    }

    /// Changes the rate of the monotonic clock, to up to this many millionths wrong.
    pub(super) fn drift(&mut self, now: Time, rng: &mut Rng, drift: u64) {
        (self.base, self.since) = (self.monotonic(now), now);
        self.rate = rng.u64(MILLION - drift..=MILLION + drift);
    }

    /// Sets the rate of the monotonic clock in millionths of the true one.
    pub(super) fn set_rate(&mut self, now: Time, rate: u64) {
        (self.base, self.since) = (self.monotonic(now), now);
        self.rate = rate;
    }

    /// The greater of the rates of both clocks, in millionths.
    pub(super) fn rate(&self) -> u64 {
        self.rate.max(self.wall_rate)
    }

    fn monotonic(&self, now: Time) -> u64 {
        if self.frozen { self.base } else { self.base + scale(now - self.since, self.rate, MILLION) }
    }

    /// Sets the wall clock.
    pub(super) const fn step(&mut self, by_ms: i64) {
        self.offset += by_ms;
    }

    /// The readings of the clocks at `now`.
    pub(super) fn read(&self, now: Time) -> Now {
        let wall = EPOCH_MS.saturating_add_unsigned(scale(now, self.wall_rate, MILLION) / MS);
        let wall = wall.saturating_add(self.offset);
        Now {
            monotonic: Instant::new(self.monotonic(now)),
            wall: Timestamp::new(u64::try_from(wall).unwrap_or(0)),
        }
    }

    /// When the monotonic clock will reach `instant`; `Time::MAX` while it is stopped.
    pub(super) fn reaches(&self, instant: Instant) -> Time {
        let ahead = instant.get().saturating_sub(self.base);
        if self.frozen && ahead > 0 {
            return Time::MAX;
        }
        let mut at = self.since.saturating_add(scale(ahead, MILLION, self.rate));
        while at < Time::MAX && self.read(at).monotonic < instant {
            at += 1;
        }
        at
    }
}

fn scale(value: u64, numerator: u64, denominator: u64) -> u64 {
    u64::try_from(u128::from(value) * u128::from(numerator) / u128::from(denominator)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_never_fires_early_or_much_later() {
        let mut rng = Rng::with_seed(3);
        for _ in 0..1000 {
            let mut clock = Clock::new(&mut rng, 100_000, 1000, 5000);
            clock.restart(rng.u64(0..SECOND));
            if rng.bool() {
                clock.freeze(2 * SECOND);
                assert_eq!(clock.read(2 * SECOND), clock.read(2 * SECOND));
                let thaw = rng.u64(2 * SECOND..5 * SECOND);
                clock.thaw(thaw, rng.bool());
                clock.drift(thaw, &mut rng, 100_000);
            }
            let instant = Instant::new(rng.u64(0..100 * SECOND));
            let at = clock.reaches(instant);
            assert!(clock.read(at).monotonic >= instant);
            assert!(at == clock.since || clock.read(at - 2).monotonic <= instant);
        }
    }
}
