//! When to suspect the primary: an adaptive bound on the silence between two signs of life, after Jacobson's estimate of a
//! round trip (mean and mean deviation), kept between configured limits.

use crate::ids::{Instant, View};
use std::time::Duration;

#[derive(Debug)]
pub(super) struct Detector {
    last: Instant,
    mean: Duration,
    deviation: Duration,
    min: Duration,
    max: Duration,
}

impl Detector {
    pub(super) fn new(now: Instant, heartbeat: Duration, min: Duration, max: Duration) -> Self {
        Self { last: now, mean: heartbeat, deviation: heartbeat / 2, min, max }
    }

    /// A sign of life came.
    pub(super) fn heard(&mut self, now: Instant) {
        let gap = now.since(self.last).min(self.max);
        self.last = now;
        let off = gap.abs_diff(self.mean);
        self.deviation = (self.deviation * 3 + off) / 4;
        self.mean = (self.mean * 7 + gap) / 8;
    }

    /// The silence that is still normal.
    pub(super) fn bound(&self) -> Duration {
        (self.mean * 3 + self.deviation * 4).clamp(self.min, self.max)
    }

    pub(super) fn deadline(&self) -> Instant {
        self.last.after(self.bound())
    }

    /// Counts the silence from now, without taking it for a sign of life.
    pub(super) fn restart(&mut self, now: Instant) {
        self.last = now;
    }
}

/// A standing vote to leave the view; repeated until withdrawn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Suspicion {
    pub(super) target: View,
    pub(super) resend_at: Instant,
}

/// How a member that follows a primary watches it.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) detector: Detector,
    pub(super) suspicion: Option<Suspicion>,
}

impl Watch {
    pub(super) fn next_timeout(&self) -> Instant {
        self.suspicion.map_or_else(|| self.detector.deadline(), |suspicion| suspicion.resend_at)
    }

    /// A sign of life withdraws the vote.
    pub(super) fn heard(&mut self, now: Instant) {
        self.detector.heard(now);
        self.suspicion = None;
    }
}
