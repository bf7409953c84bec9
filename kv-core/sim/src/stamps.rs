//! The checker's model of the cluster's time (rule N7). The stamps of any two committed entries differ by no more than
//! the true time between them, as long as clocks are as assumed. So nothing expires early.
//!
//! By how much more they may differ follows only from what happened between the two: how fast the fastest clock was,
//! how far a monotonic clock that counts leapt while its process ran, and by how much a quorum of wall clocks was set
//! forward while all members were down.

use super::clock::{MS, Time};
use super::report::Checked;
use kv_core::ids::{Hash, Timestamp, View};
use kv_core::message::Entry;
use std::collections::BTreeMap;
use std::time::Duration;

const MILLION: i128 = 1_000_000;
/// Clocks are at most a tenth too fast, in millionths.
const MOST_RATE: u64 = 1_100_000;

/// Compares stamps with the times at which their entries were made.
#[derive(Debug)]
pub(super) struct Stamps {
    /// How each uncommitted entry was made.
    made: BTreeMap<Hash, Made>,
    /// The last committed one.
    last: Option<(Made, Entry)>,
    /// How far the last committed stamp may be from the first, in millionths of nanoseconds.
    allowed: i128,
    /// The part of that which is due to clocks that violated the assumptions, in nanoseconds.
    wrong: i128,
    /// The least amount by which a committed stamp was ahead of that, in the same unit.
    least_ahead: Option<i128>,
    /// The last time that a primary reported, its view, and when.
    stamped: Option<(usize, View, Timestamp, Time)>,
    /// When the wall clock of each member was set, and by how many milliseconds.
    steps: Vec<Vec<(Time, i64)>>,
    /// Leaps of monotonic clocks while their processes ran: the member, when, and how much of it counts, in
    /// nanoseconds.
    leaps: Vec<(usize, Time, Time)>,
    /// The greatest rate of a clock so far, in millionths, but no more than is assumed.
    rate: u64,
    /// How many wall clocks must agree to be used.
    quorum: usize,
    /// Since when members have the uncommitted entries and the last committed one, each in one of its lives.
    had: BTreeMap<Hash, BTreeMap<usize, (u32, Time)>>,
    /// When the clock or the process of each member stopped or continued.
    stood: Vec<Vec<Time>>,
    /// How much of the stamps of each life is based on wall clocks.
    credited: BTreeMap<(usize, u32), Duration>,
}

/// How an entry was made.
#[derive(Clone, Copy, Debug)]
struct Made {
    at: Time,
    by: usize,
    life: u32,
    /// Part of its stamp is based on wall clocks, after this allowance was subtracted.
    by_wall_clocks: Option<Duration>,
}

impl Stamps {
    pub(super) fn new(members: usize, quorum: usize) -> Self {
        Self {
            made: BTreeMap::new(),
            last: None,
            allowed: 0,
            wrong: 0,
            least_ahead: None,
            stamped: None,
            steps: vec![Vec::new(); members],
            leaps: Vec::new(),
            rate: 0,
            quorum,
            had: BTreeMap::new(),
            stood: vec![Vec::new(); members],
            credited: BTreeMap::new(),
        }
    }

    /// In some epoch, this many wall clocks agree.
    pub(super) fn quorum_may_be(&mut self, quorum: usize) {
        self.quorum = self.quorum.min(quorum);
    }

    /// A wall clock is set.
    pub(super) fn stepped(&mut self, member: usize, now: Time, by_ms: i64) {
        self.steps[member].push((now, by_ms));
    }

    /// The rate of a clock changes, in millionths.
    pub(super) fn goes_at(&mut self, rate: u64) {
        self.rate = self.rate.max(rate.min(MOST_RATE));
    }

    /// A monotonic clock leaps by this much while its process runs.
    pub(super) fn leapt(&mut self, member: usize, now: Time, by: Time) {
        if by > 0 {
            self.leaps.push((member, now, by));
        }
    }

    /// A member appends entries. `credited` of its stamps in this life is based on wall clocks, from which `allowance`
    /// was subtracted.
    pub(super) fn made(
        &mut self,
        entries: &[Entry],
        now: Time,
        life: (usize, u32),
        credited: Duration,
        allowance: Duration,
    ) {
        let before = self.credited.insert(life, credited).unwrap_or_default();
        let by_wall_clocks = (credited > before).then_some(allowance);
        for entry in entries {
            let made = Made { at: now, by: life.0, life: life.1, by_wall_clocks };
            let hash = entry.header.hash();
            if self.last.as_ref().is_none_or(|(_, last)| last.header.op < entry.header.op) {
                self.made.entry(hash).or_insert(made);
            }
            if self.made.contains_key(&hash)
                || self.last.as_ref().is_some_and(|(_, last)| last.header.hash() == hash)
            {
                self.had.entry(hash).or_default().insert(life.0, (life.1, now));
            }
        }
    }

    /// By how many nanoseconds more than the true time two consecutive stamps may differ because clocks violated the
    /// assumptions. Within a view only the clock of its primary counts.
    fn more(&self, last: &Made, next: &Made, same_view: bool) -> i128 {
        let within = |at: Time| at > last.at && at <= next.at;
        let counts = |member: usize| !same_view || member == next.by;
        let leaps = self.leaps.iter().filter(|(member, at, _)| within(*at) && counts(*member));
        let leapt: Time = leaps.map(|(.., by)| *by).sum();
        let Some(allowance) = next.by_wall_clocks else { return leapt.into() };
        // The greatest amount by which a quorum was set forward, from any time to a later one.
        let mut forward: Vec<i64> = self
            .steps
            .iter()
            .map(|steps| {
                let (mut now, mut least, mut most) = (0, 0, 0);
                for (_, by_ms) in steps.iter().filter(|(at, _)| within(*at)) {
                    now += by_ms;
                    least = least.min(now);
                    most = most.max(now - least);
                }
                most
            })
            .collect();
        forward.sort_unstable_by(|a, b| b.cmp(a));
        let forward = Duration::from_millis(forward[self.quorum - 1].unsigned_abs());
        let wrong = forward.saturating_sub(allowance).as_nanos();
        i128::from(leapt) + i128::try_from(wrong).unwrap_or(i128::MAX / MILLION)
    }

    /// The clock or the process of a member stops now, or continues.
    pub(super) fn stands_or_goes_on(&mut self, member: usize, now: Time) {
        self.stood[member].push(now);
    }

    /// How late: the maker of an entry has counted all the time for which it had the one before, in the same life.
    fn lost(&self, last: &Entry, next: &Entry, made: &Made) -> Checked {
        let had = self.had.get(&last.header.hash()).and_then(|had| had.get(&made.by));
        let Some((life, had)) = had else { return Ok(()) };
        let stood = self.stood[made.by].iter().any(|at| *at <= made.at);
        if *life != made.life || stood {
            return Ok(());
        }
        let stamped = next.header.timestamp.distance_from(last.header.timestamp);
        // It may have lost that one, and received it again after it made the next.
        let counted = made.at.saturating_sub(*had) / 10 * 9 / MS;
        if stamped + 1 < counted {
            let found = format!(
                "{:?} after {:?}: {stamped} ms, and it was had for {counted} ms",
                next.header, last.header
            );
            return Err(("time is not lost where it is known", found));
        }
        Ok(())
    }

    /// By how much lifetimes that began at the first entry may have been early so far, in nanoseconds. The difference
    /// between two values is the error in between.
    pub(super) const fn wrong(&self) -> i128 {
        self.wrong
    }

    /// The next committed entry.
    pub(super) fn committed(&mut self, entry: &Entry) -> Checked {
        let header = &entry.header;
        let Some(made) = self.made.remove(&header.hash()) else {
            return Err(("what is committed was made by someone", format!("{header:?}")));
        };
        if let Some((last, before)) = self.last.replace((made, entry.clone())) {
            self.lost(&before, entry, &made)?;
            self.had.remove(&before.header.hash());
            let more = self.more(&last, &made, before.header.view == header.view);
            self.wrong += more;
            // One nanosecond for each of the two clocks that are read.
            self.allowed += i128::from(made.at - last.at) * i128::from(self.rate) + (more + 2) * MILLION;
        }
        let ahead = i128::from(header.timestamp.get()) * i128::from(MS) * MILLION - self.allowed;
        let least = *self.least_ahead.get_or_insert(ahead);
        // Stamps are rounded down, so the earlier one may be a millisecond more.
        if ahead - least > i128::from(MS) * MILLION {
            let early = (ahead - least) / MILLION / i128::from(MS);
            let found = format!(
                "{header:?}, {made:?}: something ends {early} ms early; {:?} {:?}",
                self.leaps, self.steps
            );
            return Err(("nothing ends early", found));
        }
        self.least_ahead = Some(least.min(ahead));
        Ok(())
    }

    /// The primary of a view would use this stamp now, in a healthy cluster: its time advances.
    pub(super) fn goes_on(&mut self, primary: usize, view: View, stamp: Timestamp, now: Time) -> Checked {
        let before = self.stamped.replace((primary, view, stamp, now));
        let Some((.., stamped, at)) = before.filter(|before| (before.0, before.1) == (primary, view)) else {
            return Ok(());
        };
        let (passed, stamped) = ((now - at) / MS, stamp.distance_from(stamped));
        if stamped + 2 < passed / 10 * 8 {
            let found = format!("m{primary} in {view:?}: {stamped} ms of {passed} ms, and it is {stamp:?}");
            return Err(("time goes on where all is well", found));
        }
        Ok(())
    }
}
