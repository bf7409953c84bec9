//! Whether the primary's own disk is much slower than the others' (rule V8).
//!
//! The quorum need not include the primary, so a slow disk of the primary costs clients nothing at first. What is not
//! written yet accumulates in memory, until nothing more is accepted. Before that happens, another member should
//! become primary.

use crate::ids::{Instant, Op};
use std::time::Duration;

/// After this many slow samples in a row, the primary passes its role on. A single slow sample does not count.
const IN_A_ROW: u32 = 3;
/// A sample is slow if it takes this many times as long as a quorum of the others took. If all share one slow disk,
/// no other member would be better.
const TIMES: u32 = 4;

/// Measures one entry at a time.
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
    /// An entry is sent to the own journal and to the others.
    pub(super) fn prepared(&mut self, op: Op, now: Instant) {
        self.sample.get_or_insert(Sample { op, at: now, others: None });
    }

    /// A quorum of the others holds everything up to `others`, and this member everything up to `own`. A sample
    /// faster than `bound` is never slow.
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

    /// Entries for which the quorum of others and this member take these numbers of milliseconds.
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
    fn v8_a_disk_is_slow_only_in_comparison_with_others() {
        for sample in [(90, 150), (150, 90), (2, 90), (200, 150)] {
            let mut pace = Pace::default();
            run(&mut pace, &[sample; 5]);
            assert!(!pace.is_slow(), "{sample:?}");
        }
    }

    #[test]
    fn v8_without_a_quorum_of_others_no_disk_is_slow() {
        let mut pace = Pace::default();
        for n in 1..6 {
            pace.prepared(Op::new(n), at(1000 * n));
            pace.durable(Op::new(n), None, at(1000 * n + 500), BOUND);
        }
        assert!(!pace.is_slow());
    }
}
