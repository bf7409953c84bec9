//! When a checkpoint is requested because revisions were skipped. A skip makes history unreadable at once (rule R3),
//! but the history takes up space until a checkpoint drops it.
//!
//! The checkpoint does not follow at once. It ends every watch that still needs the dropped changes, although this
//! member has promised to deliver them (rule W2). And a client that skips revisions again and again would cause a
//! checkpoint with each request.

use crate::ids::{Instant, Revision};
use std::time::Duration;

/// A checkpoint is requested when revisions have not been skipped for this time, and watches have not been behind.
const QUIET: Duration = Duration::from_secs(5);
/// If skips keep coming, a checkpoint is requested this long after the first one. Also the least time between two
/// requests.
const EVERY: Duration = Duration::from_secs(10);
/// After this time, watches that are still behind do not put the checkpoint off any more.
const LONGEST: Duration = Duration::from_secs(60);

/// The skips of revisions that were applied.
#[derive(Debug, Default)]
pub(super) struct Skips {
    /// Those since the last request for a checkpoint.
    pending: Option<Pending>,
    /// When a checkpoint was requested last.
    requested: Option<Instant>,
}

#[derive(Debug)]
struct Pending {
    /// When the first of them was applied.
    first: Instant,
    /// When the last of them was applied.
    last: Instant,
    /// When watches were behind for the last time.
    behind: Instant,
    /// The greatest revision that was skipped.
    to: Revision,
}

impl Skips {
    /// Revisions up to this one were skipped.
    pub(super) fn note(&mut self, now: Instant, to: Revision) {
        let pending = self.pending.get_or_insert(Pending { first: now, last: now, behind: now, to });
        (pending.last, pending.to) = (now, pending.to.max(to));
    }

    /// Returns whether to request a checkpoint now; call it regularly. `is_settled` tells whether no watch needs the
    /// changes before a revision any more.
    pub(super) fn take_due(&mut self, now: Instant, is_settled: impl FnOnce(Revision) -> bool) -> bool {
        let Some(pending) = &mut self.pending else { return false };
        if !is_settled(pending.to) {
            pending.behind = now;
        }
        let waited = now.since(pending.first);
        let skipped = now.since(pending.last) >= QUIET || waited >= EVERY;
        let settled = now.since(pending.behind) >= QUIET || waited >= LONGEST;
        let rested = self.requested.is_none_or(|requested| now.since(requested) >= EVERY);
        let due = skipped && settled && rested;
        if due {
            (self.pending, self.requested) = (None, Some(now));
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::ZERO.after(Duration::from_millis(ms))
    }

    /// The seconds in which a checkpoint is requested, if one more revision is skipped at each of these times, in
    /// milliseconds. Watches are behind until second `settled`.
    fn requests(skips: impl IntoIterator<Item = u64>, settled: u64) -> Vec<u64> {
        let (mut state, mut to) = (Skips::default(), 0);
        let mut skips = skips.into_iter().peekable();
        let mut due = |second: &u64| {
            while let Some(ms) = skips.next_if(|ms| *ms <= second * 1000) {
                to += 1;
                state.note(at(ms), Revision::new(to));
            }
            state.take_due(at(second * 1000), |asked| {
                assert_eq!(asked, Revision::new(to));
                *second >= settled
            })
        };
        (0..300).filter(|second| due(second)).collect()
    }

    #[test]
    fn many_skips_cause_one_checkpoint() {
        assert_eq!(requests([], 0), [0; 0]);
        assert_eq!(requests([1000], 0), [6]);
        assert_eq!(requests((0..3000).map(|number| 1000 + number), 0), [9]);
        // Later ones cause another one, but not too soon.
        assert_eq!(requests([1000, 2000, 7500, 7600, 100_000], 0), [7, 17, 105]);
    }

    #[test]
    fn a_steady_stream_of_skips_causes_few_checkpoints_and_does_not_put_them_off_for_ever() {
        let found = requests((0..100_000).map(|number| 1000 + number), 0);
        assert!((9..=11).contains(&found.len()), "{found:?}");
        assert!(found.windows(2).all(|pair| pair[1] - pair[0] >= EVERY.as_secs()), "{found:?}");
    }

    #[test]
    fn a_checkpoint_waits_for_watches_for_a_limited_time() {
        assert_eq!(requests([1000], 20), [24]);
        assert_eq!(requests((0..19_000).map(|number| 1000 + number), 20), [24]);
        assert_eq!(requests([1000], u64::MAX), [61]);
    }
}
