//! Rate limits: a bucket that fills with time and that events empty. Also limits how often something is logged.

use super::sync::lock;
use crate::ids::Instant;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

/// The same text is logged as a warning at most once in this time...
const AGAIN: Duration = Duration::from_secs(60);
/// ... and at most this many different texts.
const AT_MOST: usize = 32;

/// What was recently logged as a warning, so that neither one persistent caller nor several that take turns can flood
/// the log.
#[derive(Debug, Default)]
pub(super) struct LogThrottle(Mutex<VecDeque<(Instant, String)>>);

impl LogThrottle {
    /// Returns whether to log this as a warning: not if the same text was logged within the last minute, or too many
    /// others were.
    pub(super) fn is_due(&self, now: Instant, text: &str) -> bool {
        let mut logged = lock(&self.0);
        while logged.pop_front_if(|(at, _)| now.since(*at) >= AGAIN).is_some() {}
        let due = logged.len() < AT_MOST && !logged.iter().any(|(_, other)| other == text);
        if due {
            logged.push_back((now, text.to_owned()));
        }
        due
    }
}

/// Allows a number of events per second, and after a pause a burst of them.
#[derive(Debug)]
pub(super) struct Bucket {
    /// The time per event.
    each: Duration,
    /// The time that a full bucket represents.
    full: Duration,
    level: Duration,
    at: Instant,
}

impl Bucket {
    /// A full bucket of `per_second` events, at least one.
    pub(super) fn new(per_second: u32, now: Instant) -> Self {
        let full = Duration::from_secs(1);
        Self { each: full / per_second.max(1), full, level: full, at: now }
    }

    /// A full bucket of `at_once` events, which refills one event per `each`.
    pub(super) fn burst(each: Duration, at_once: u32, now: Instant) -> Self {
        let full = each * at_once.max(1);
        Self { each, full, level: full, at: now }
    }

    /// Takes one event; returns false if the bucket is empty.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        self.level = (self.level + now.since(self.at)).min(self.full);
        self.at = self.at.max(now);
        let enough = self.level >= self.each;
        if enough {
            self.level -= self.each;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(bucket: &mut Bucket, now: Instant) -> usize {
        (0..1000).filter(|_| bucket.take(now)).count()
    }

    #[test]
    fn a_rate_limit_allows_a_burst_of_one_second() {
        let start = Instant::ZERO;
        let mut bucket = Bucket::new(100, start);
        assert_eq!(taken(&mut bucket, start), 100);
        assert_eq!(taken(&mut bucket, start.after(Duration::from_millis(50))), 5);
        assert_eq!(taken(&mut bucket, start.after(Duration::from_secs(60))), 100);
        // A clock that appears to go back adds nothing.
        assert_eq!(taken(&mut bucket, start), 0);
    }

    #[test]
    fn alternating_refusals_are_logged_once_each_and_a_flood_is_not() {
        let (logged, start) = (LogThrottle::default(), Instant::ZERO);
        let texts = ["expired", "unknown"];
        let loud = |now| texts.iter().cycle().take(1000).filter(|text| logged.is_due(now, text)).count();
        assert_eq!(loud(start), 2);
        assert_eq!(loud(start.after(AGAIN / 2)), 0);
        assert_eq!(loud(start.after(AGAIN)), 2);
        let flood = |now| (0..1000).filter(|i| logged.is_due(now, &i.to_string())).count();
        assert_eq!(flood(start.after(AGAIN)), AT_MOST - 2);
        assert_eq!(flood(start.after(AGAIN * 2)), AT_MOST);
    }

    #[test]
    fn a_bucket_of_one_fills_after_its_time() {
        let (each, start) = (Duration::from_secs(5), Instant::ZERO);
        let mut bucket = Bucket::burst(each, 1, start);
        assert_eq!(taken(&mut bucket, start), 1);
        assert_eq!(taken(&mut bucket, start.after(each / 2)), 0);
        assert_eq!(taken(&mut bucket, start.after(each * 10)), 1);
    }
}
