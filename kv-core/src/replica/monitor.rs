//! How a member monitors the primary that it follows, and its vote to leave that primary (rules V1 and V2).

use super::context::{Context, Flow, Suspicion};
use super::detector::Detector;
use crate::ids::Instant;
use std::time::Duration;
use tracing::debug;

#[derive(Debug)]
pub(super) struct PrimaryMonitor {
    detector: Detector,
    pub(super) suspicion: Option<Suspicion>,
    /// The silence ended while this member itself was paused. Until this time it processes the messages that arrived
    /// meanwhile.
    listen_until: Option<Instant>,
}

impl PrimaryMonitor {
    pub(super) fn new(cx: &Context) -> Self {
        let options = &cx.options;
        let (min, max) = (options.failure_timeout_min, options.failure_timeout_max);
        let detector = Detector::new(cx.now.monotonic, options.heartbeat, min, max);
        Self { detector, suspicion: None, listen_until: None }
    }

    /// Rule V1: the primary of a newly formed cluster may be far away, and has never been heard.
    pub(super) fn waiting_for_first(self) -> Self {
        Self { detector: self.detector.waiting_for_first(), ..self }
    }

    pub(super) fn next_timeout(&self) -> Instant {
        let deadline = self.detector.deadline();
        let deadline = self.listen_until.map_or(deadline, |until| until.max(deadline));
        self.suspicion.map_or(deadline, |suspicion| suspicion.resend_at)
    }

    /// A sign of life of the primary of this view withdraws this member's vote, and deletes the vote of the primary.
    pub(super) fn sign_of_life(&mut self, cx: &mut Context) {
        self.heard(cx.now.monotonic);
        cx.votes.withdraw(cx.primary());
    }

    /// A sign of life withdraws the vote.
    pub(super) fn heard(&mut self, now: Instant) {
        self.detector.heard(now);
        self.suspicion = None;
        self.listen_until = None;
    }

    pub(super) fn on_timeout(&mut self, cx: &mut Context) -> Flow {
        let now = cx.now.monotonic;
        let target = match self.suspicion {
            Some(suspicion) => (now >= suspicion.resend_at).then_some(suspicion.target),
            None => self.is_silent(now, cx.options.heartbeat).then(|| {
                debug!(view = %cx.view, silence = ?self.detector.bound(), "no heartbeat from the primary");
                cx.view.next()
            }),
        };
        target.map_or(Flow::Continue(()), |target| cx.suspect(&mut self.suspicion, target))
    }

    /// Returns whether the silence has lasted too long. A member that checks more than `pause` late was paused
    /// itself, and waits for twice that time before it reports silence.
    fn is_silent(&mut self, now: Instant, pause: Duration) -> bool {
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
}
