//! Whether the primary's own disk is much slower than the others' (rule V8).
//!
//! The quorum need not include the primary, so a slow disk of its own costs clients nothing at first: what it has not
//! written piles up in memory, until nothing more is taken in. By then the role belongs elsewhere.

use crate::ids::{Instant, Op};
use std::time::Duration;

/// After so many slow samples in a row the role goes to another: once is a hiccup.
const IN_A_ROW: u32 = 3;
/// Slow is what takes so many times as long as it took a quorum of others. Where all share one slow disk nobody is better.
const TIMES: u32 = 4;

/// Follows one entry at a time.
#[derive(Debug, Default)]
pub(super) struct Pace {
    sample: Option<Sample>,
    slow: u32,
}

#[derive(Debug)]
struct Sample {
    op: Op,
    at: Instant,
    /// How long a replication quorum without this member took.
    others: Option<Duration>,
}

impl Pace {
    /// An entry sets out, here and to the others.
    pub(super) fn prepared(&mut self, op: Op, now: Instant) {
        self.sample.get_or_insert(Sample { op, at: now, others: None });
    }

    /// A quorum of others holds everything up to `others`, this member everything up to `own`. Faster than `bound` is never
    /// slow.
    pub(super) fn durable(&mut self, own: Op, others: Option<Op>, now: Instant, bound: Duration) {
        let Some(sample) = &mut self.sample else { return };
        let took = now.since(sample.at);
        if others.is_some_and(|others| others >= sample.op) {
            sample.others.get_or_insert(took);
        }
        if own < sample.op {
            return;
        }
        let is_slow = took > bound && sample.others.is_some_and(|others| others * TIMES <= took);
        self.slow = if is_slow { self.slow + 1 } else { 0 };
        self.sample = None;
    }

    pub(super) const fn is_slow(&self) -> bool {
        self.slow >= IN_A_ROW
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Duration = Duration::from_millis(100);

    fn at(milliseconds: u64) -> Instant {
        Instant::new(milliseconds * 1_000_000)
    }

    /// Entries that take the quorum of others and this member so many milliseconds each.
    fn run(pace: &mut Pace, samples: &[(u64, u64)]) {
        for (n, (others, own)) in samples.iter().enumerate() {
            let (op, start) = (Op::new(n as u64 + 1), 10_000 * (n as u64 + 1));
            pace.prepared(op, at(start));
            pace.prepared(op.next(), at(start + 1));
            let mut steps = [(*others, false), (*own, true)];
            steps.sort_unstable();
            let (mut mine, mut theirs) = (op.previous(), op.previous());
            for (after, is_own) in steps {
                *(if is_own { &mut mine } else { &mut theirs }) = op;
                pace.durable(mine, Some(theirs), at(start + after), BOUND);
            }
        }
    }

    #[test]
    fn v8_three_slow_entries_in_a_row_make_a_slow_disk() {
        let mut pace = Pace::default();
        run(&mut pace, &[(2, 150), (2, 400)]);
        assert!(!pace.is_slow());
        run(&mut pace, &[(2, 3), (2, 150), (2, 150)]);
        assert!(!pace.is_slow(), "one was fast");
        run(&mut pace, &[(2, 150), (2, 150), (2, 150)]);
        assert!(pace.is_slow());
    }

    #[test]
    fn v8_a_disk_is_slow_only_where_the_others_are_not() {
        for sample in [(90, 150), (150, 90), (2, 90), (200, 150)] {
            let mut pace = Pace::default();
            run(&mut pace, &[sample; 5]);
            assert!(!pace.is_slow(), "{sample:?}");
        }
    }

    #[test]
    fn v8_without_a_quorum_of_others_there_is_nobody_to_compare_with() {
        let mut pace = Pace::default();
        for n in 1..6 {
            pace.prepared(Op::new(n), at(1000 * n));
            pace.durable(Op::new(n), None, at(1000 * n + 500), BOUND);
        }
        assert!(!pace.is_slow());
    }
}
