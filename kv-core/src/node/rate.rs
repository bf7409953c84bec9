//! How often something may happen: a bucket that fills with time, and is emptied by what happens.

use crate::ids::Instant;
use std::time::Duration;

/// Lets through so many in a second, and after a pause so many at once.
#[derive(Debug)]
pub(super) struct Bucket {
    /// The time that one takes.
    each: Duration,
    /// The time that a full bucket stands for.
    full: Duration,
    level: Duration,
    at: Instant,
}

impl Bucket {
    /// A full bucket of `per_second`, at least one.
    pub(super) fn new(per_second: u32, now: Instant) -> Self {
        let full = Duration::from_secs(1);
        Self { each: full / per_second.max(1), full, level: full, at: now }
    }

    /// Whether one more may happen now.
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
    fn a_second_of_rest_allows_a_seconds_worth_at_once_and_no_more() {
        let start = Instant::ZERO;
        let mut bucket = Bucket::new(100, start);
        assert_eq!(taken(&mut bucket, start), 100);
        assert_eq!(taken(&mut bucket, start.after(Duration::from_millis(50))), 5);
        assert_eq!(taken(&mut bucket, start.after(Duration::from_secs(60))), 100);
        // A clock that seems to go back gives nothing.
        assert_eq!(taken(&mut bucket, start), 0);
    }
}
