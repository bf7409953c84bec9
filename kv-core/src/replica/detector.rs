//! When to suspect the primary: an adaptive bound on the silence between two signs of life, after Jacobson's estimate
//! of a round-trip time (mean and mean deviation), kept between configured limits.

use crate::ids::Instant;
use std::time::Duration;

#[derive(Debug)]
pub(super) struct Detector {
    last: Instant,
    mean: Duration,
    deviation: Duration,
    min: Duration,
    max: Duration,
    /// It is not known yet how long the first sign of life takes to arrive.
    waits_for_first: bool,
}

impl Detector {
    pub(super) fn new(now: Instant, heartbeat: Duration, min: Duration, max: Duration) -> Self {
        Self { last: now, mean: heartbeat, deviation: heartbeat / 2, min, max, waits_for_first: false }
    }

    /// Until the first sign of life, the longest silence counts as normal.
    pub(super) fn waiting_for_first(self) -> Self {
        Self { waits_for_first: true, ..self }
    }

    /// A sign of life has arrived.
    pub(super) fn heard(&mut self, now: Instant) {
        if self.waits_for_first {
            (self.waits_for_first, self.last) = (false, now);
            return;
        }
        let gap = now.since(self.last).min(self.max);
        self.last = now;
        let off = gap.abs_diff(self.mean);
        self.deviation = (self.deviation * 3 + off) / 4;
        self.mean = (self.mean * 7 + gap) / 8;
    }

    /// The longest silence that is still normal.
    pub(super) fn bound(&self) -> Duration {
        if self.waits_for_first {
            return self.max;
        }
        (self.mean * 3 + self.deviation * 4).clamp(self.min, self.max)
    }

    /// The time of the last sign of life.
    pub(super) const fn last(&self) -> Instant {
        self.last
    }

    pub(super) fn deadline(&self) -> Instant {
        self.last.after(self.bound())
    }
}
