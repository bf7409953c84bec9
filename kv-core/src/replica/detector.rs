//! When to suspect the primary: an adaptive bound on the silence between two signs of life, after Jacobson's estimate
//! of a round-trip time (mean and mean deviation), kept between configured limits.

use crate::ids::{Instant, View};
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

/// A vote to leave the view. It is repeated until it is withdrawn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Suspicion {
    pub(super) target: View,
    pub(super) resend_at: Instant,
}

/// How a member monitors the primary that it follows.
#[derive(Debug)]
pub(super) struct PrimaryMonitor {
    pub(super) detector: Detector,
    pub(super) suspicion: Option<Suspicion>,
    /// The silence ended while this member itself was paused. Until this time it processes the messages that arrived
    /// meanwhile.
    listen_until: Option<Instant>,
}

impl PrimaryMonitor {
    pub(super) const fn new(detector: Detector) -> Self {
        Self { detector, suspicion: None, listen_until: None }
    }

    pub(super) fn next_timeout(&self) -> Instant {
        let deadline = self.detector.deadline();
        let deadline = self.listen_until.map_or(deadline, |until| until.max(deadline));
        self.suspicion.map_or(deadline, |suspicion| suspicion.resend_at)
    }

    /// Returns whether the silence has lasted too long. A member that checks more than `pause` late was paused
    /// itself, and waits for twice that time before it reports silence.
    pub(super) fn is_silent(&mut self, now: Instant, pause: Duration) -> bool {
        let deadline = self.detector.deadline();
        if now < deadline {
            return false;
        }
        let until = match self.listen_until {
            None if now.since(deadline) > pause => now.after(pause * 2),
            None => now,
            Some(until) => until,
        };
        self.listen_until = Some(until);
        now >= until
    }

    /// A sign of life withdraws the vote.
    pub(super) fn heard(&mut self, now: Instant) {
        self.detector.heard(now);
        self.suspicion = None;
        self.listen_until = None;
    }
}
