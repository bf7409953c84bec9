//! What the checker knows of the cluster's time (rule N7): of any two committed entries, the stamps differ by no more than the true time between
//! them, as far as clocks are what they are assumed to be. So nothing ends early.

use super::checker::Checked;
use super::clock::{MS, Time};
use crate::ids::{Hash, Timestamp, View};
use crate::message::Entry;
use std::collections::BTreeMap;
use std::time::Duration;

/// Clocks go by a tenth too fast at most, in millionths.
const MOST_RATE: u64 = 1_100_000;

/// Compares stamps with when their entries were made.
#[derive(Debug)]
pub(super) struct Stamps {
    /// When each entry was first seen, that is, when it was made.
    made: BTreeMap<Hash, Time>,
    /// The least of what a committed stamp was ahead of the true time when that goes at the greatest rate, in nanoseconds.
    least_ahead: Option<i128>,
    /// The time that a primary told last, in which view, and when.
    told: Option<(usize, View, Timestamp, Time)>,
    /// How far the wall clock of each member has been set, both ways.
    stepped: Vec<Duration>,
    allowance: Duration,
    /// How far monotonic clocks have leapt, in nanoseconds: so much may be early, because the processes went on while their clocks stood.
    leapt: i128,
    /// How much of what each life has stamped rests on wall clocks.
    credited: BTreeMap<(usize, u32), Duration>,
    /// The same of all lives.
    by_wall_clocks: Duration,
}

impl Stamps {
    pub(super) fn new(members: usize, allowance: Duration) -> Self {
        Self {
            made: BTreeMap::new(),
            least_ahead: None,
            told: None,
            stepped: vec![Duration::ZERO; members],
            allowance,
            leapt: 0,
            credited: BTreeMap::new(),
            by_wall_clocks: Duration::ZERO,
        }
    }

    /// A wall clock is set.
    pub(super) fn stepped(&mut self, member: usize, by_ms: i64) {
        self.stepped[member] += Duration::from_millis(by_ms.unsigned_abs());
    }

    /// A member appends entries; `credited` of what it has stamped in this life rests on wall clocks.
    pub(super) fn made(&mut self, entries: &[Entry], now: Time, life: (usize, u32), credited: Duration) {
        for entry in entries {
            self.made.entry(entry.header.hash()).or_insert(now);
        }
        let before = self.credited.insert(life, credited).unwrap_or_default();
        self.by_wall_clocks += credited.saturating_sub(before);
    }

    /// A monotonic clock leaps while its process runs.
    pub(super) fn leapt(&mut self, by: Time) {
        self.leapt += i128::from(by);
    }

    /// How far stamps may be ahead because clocks do what nobody may assume that they do not, in nanoseconds.
    fn may_be_ahead(&self) -> i128 {
        let wrong = self.stepped.iter().filter(|by| **by > self.allowance).count();
        let most = if wrong > self.stepped.len() / 2 { self.by_wall_clocks } else { Duration::ZERO };
        self.leapt + i128::try_from(most.as_nanos()).unwrap_or(i128::MAX / 2)
    }

    /// The next committed entry.
    pub(super) fn committed(&mut self, entry: &Entry) -> Checked {
        let Some(made) = self.made.remove(&entry.header.hash()) else { return Ok(()) };
        let nanos = i128::from(entry.header.timestamp.get()) * i128::from(MS);
        let ahead = nanos - i128::from(made) * i128::from(MOST_RATE) / 1_000_000;
        let least = *self.least_ahead.get_or_insert(ahead);
        // Stamps are rounded down, so the earlier one may be a millisecond more.
        if ahead - least > i128::from(MS + MS / 100) + self.may_be_ahead() {
            let early = (ahead - least) / i128::from(MS);
            let found = format!(
                "{:?}, made at {made}: something ends {early} ms early; wall clocks were set by {:?}",
                entry.header, self.stepped
            );
            return Err(("nothing ends early", found));
        }
        self.least_ahead = Some(least.min(ahead));
        Ok(())
    }

    /// The primary of a view would stamp with this now, in a cluster that is well: its time goes on.
    pub(super) fn goes_on(&mut self, primary: usize, view: View, stamp: Timestamp, now: Time) -> Checked {
        let before = self.told.replace((primary, view, stamp, now));
        let Some((.., told, at)) = before.filter(|before| (before.0, before.1) == (primary, view)) else {
            return Ok(());
        };
        let (passed, told) = ((now - at) / MS, stamp.distance_from(told));
        if told + 2 < passed / 10 * 8 {
            let found = format!("m{primary} in {view:?}: {told} ms of {passed} ms, and it is {stamp:?}");
            return Err(("time goes on where all is well", found));
        }
        Ok(())
    }
}
