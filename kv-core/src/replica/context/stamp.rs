//! The cluster's time (rule N7). It counts elapsed time, and follows no wall clock. Members remember how old entries
//! are, and a new primary continues from the stamp of the last entry of its log plus the age of that entry.

use super::summary::listed;
use super::{Context, Now};
use crate::ids::{Anchor, Hash, Instant, MemberId, Op, Timestamp};
use crate::message::{Age, LogSummary};
use std::collections::BTreeMap;
use std::time::Duration;
use tracing::info;

/// How many entries' ages are remembered: more than a log has above its commit point, because peers also report ages
/// of entries in other logs.
const MOST_AGES: usize = 4096;

/// No stamp reaches this many milliseconds, whatever a wall clock shows. It would not fit into a message.
const LAST_STAMP_MS: u64 = 1 << 61;

/// A time on the cluster's clock, finer than stamps: since 1970, if the clock was right when the cluster formed.
type ClusterTime = Duration;

/// Since when entries exist, each by its hash: an entry at the same op of another log is a different entry.
///
/// Times are on the steady clock of [`Context::steady`]. No age is greater than the true one, except that clocks may
/// run up to a tenth too fast. So the greatest reported age of an entry counts, regardless of the sender and the delay.
#[derive(Debug, Default)]
pub(crate) struct Ages {
    /// Every later log contains this op, so no entry below it can be the last one of a log.
    floor: Op,
    known: BTreeMap<(Op, Hash), KnownAge>,
}

#[derive(Debug)]
struct KnownAge {
    /// The entry was at least this old at that time.
    least: Duration,
    at: Instant,
    /// As in [`Age`].
    followed: bool,
    /// The own wall clock when the own disk got the entry, in an earlier life. Zero if unknown.
    written: Timestamp,
    /// How far the wall clocks of others have moved since they got the entry, and when they reported that.
    moved: BTreeMap<MemberId, (Duration, Instant)>,
}

impl KnownAge {
    fn age(&self, now: Instant) -> Duration {
        self.least.saturating_add(now.since(self.at))
    }

    /// How far the own wall clock has moved since the entry was written, at least: both readings were rounded down.
    fn wall_clock_advance(&self, wall: Timestamp) -> Option<Duration> {
        let moved = wall.get().saturating_sub(self.written.get()).saturating_sub(1);
        (!self.followed && self.written > Timestamp::ZERO).then(|| Duration::from_millis(moved))
    }
}

/// The age that an entry is assumed to have.
#[derive(Clone, Copy, Debug, Default)]
struct Inherited {
    age: Duration,
    /// How much of it is based on wall clocks only.
    by_wall_clocks: Duration,
}

impl Ages {
    fn entry(&mut self, entry: Anchor, now: Instant) -> Option<&mut KnownAge> {
        let key = (entry.op, entry.hash);
        if entry.op < self.floor || (self.known.len() >= MOST_AGES && !self.known.contains_key(&key)) {
            return None;
        }
        let fresh = || KnownAge {
            least: Duration::ZERO,
            at: now,
            followed: false,
            written: Timestamp::ZERO,
            moved: BTreeMap::new(),
        };
        Some(self.known.entry(key).or_insert_with(fresh))
    }

    /// This member has just received the entry. `followed`: it was made in the view that this member is in, and came
    /// from its primary.
    fn arrived(&mut self, entry: Anchor, now: Instant, followed: bool) {
        if let Some(known) = self.entry(entry, now) {
            known.followed |= followed;
        }
    }

    /// This member had the entry on its disk when it started.
    fn recovered(&mut self, entry: Anchor, now: Instant, written: Timestamp) {
        if let Some(known) = self.entry(entry, now) {
            known.written = written;
        }
    }

    fn note_report(&mut self, from: MemberId, entry: Anchor, age: Age, now: Instant) {
        if age == Age::default() {
            return;
        }
        let Some(known) = self.entry(entry, now) else { return };
        if age.least > known.age(now) {
            (known.least, known.at) = (age.least, now);
        }
        known.followed |= age.followed;
        if let Some(moved) = age.moved {
            known.moved.insert(from, (moved, now));
        }
    }

    /// Drops everything below this op, which is committed.
    fn forget_below(&mut self, op: Op) {
        if op > self.floor {
            self.floor = op;
            self.known = self.known.split_off(&(op, Hash::ZERO));
        }
    }

    fn of(&self, entry: Anchor, now: Instant, wall: Timestamp) -> Age {
        self.known.get(&(entry.op, entry.hash)).map_or(Age::default(), |known| Age {
            least: known.age(now),
            followed: known.followed,
            moved: known.wall_clock_advance(wall),
        })
    }

    /// The age of the last entry of an inherited log. Wall clocks count only if no member followed the entry, so that
    /// all members that report it have it from their disks. Of the reports of a quorum the least counts, so one
    /// correct clock bounds the age, unless the clocks of a quorum are wrong.
    fn inherited(
        &self,
        last: Anchor,
        now: Now,
        steady: Instant,
        quorum: usize,
        allowance: Duration,
    ) -> Inherited {
        let Some(known) = self.known.get(&(last.op, last.hash)) else { return Inherited::default() };
        let age = known.age(steady);
        let others = known.moved.values().map(|(moved, at)| moved.saturating_add(steady.since(*at)));
        let mut reports: Vec<Duration> = others.chain(known.wall_clock_advance(now.wall)).collect();
        reports.sort_unstable_by(|a, b| b.cmp(a));
        let moved = reports.get(quorum - 1).filter(|_| !known.followed).copied().unwrap_or_default();
        let by_wall_clocks = moved.saturating_sub(allowance).saturating_sub(age);
        Inherited { age: age.saturating_add(by_wall_clocks), by_wall_clocks }
    }
}

/// How a primary counts time once it has made an entry: by its own clock only.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    time: ClusterTime,
    at: Instant,
}

fn millis(time: ClusterTime) -> Timestamp {
    Timestamp::new(u64::try_from(time.as_millis()).unwrap_or(u64::MAX).min(LAST_STAMP_MS))
}

impl Context {
    /// The monotonic clock, except that a gap between two readings counts as `failure_timeout_max` at most: the clock
    /// of a machine that is resumed elsewhere may leap.
    pub(crate) fn steady_at(&self, now: Now) -> Instant {
        self.steady.after(now.monotonic.since(self.now.monotonic).min(self.options.failure_timeout_max))
    }

    /// The stamp of an entry that the primary would make `now`.
    pub(crate) fn stamp(&self, origin: Option<Origin>, now: Now) -> Timestamp {
        millis(self.time(origin, now)).max(self.log.timestamp())
    }

    /// The cluster's time at the primary.
    fn time(&self, origin: Option<Origin>, now: Now) -> ClusterTime {
        let steady = self.steady_at(now);
        let time = origin.map(|Origin { time, at }| time.saturating_add(steady.since(at)));
        time.unwrap_or_else(|| self.inherited_time(now, steady).0)
    }

    /// The time that follows from an inherited log, and how much of it is based on wall clocks. Before the first
    /// entry, nothing could expire early, so the own wall clock is good enough.
    fn inherited_time(&self, now: Now, steady: Instant) -> (ClusterTime, Duration) {
        let last = self.log.head();
        if last.op == Op::ZERO {
            return (Duration::from_millis(now.wall.get()), Duration::ZERO);
        }
        let (quorum, allowance) = (self.cluster.view_change_quorum(), self.options.wall_clock_allowance);
        let inherited = self.ages.inherited(last, now, steady, quorum, allowance);
        let time = Duration::from_millis(self.log.timestamp().get()).saturating_add(inherited.age);
        (time, inherited.by_wall_clocks)
    }

    /// The stamp of the next entry, which is made now.
    pub(crate) fn next_stamp(&mut self, origin: &mut Option<Origin>) -> Timestamp {
        let (now, at) = (self.now, self.steady);
        if origin.is_none() {
            let (_, by_wall_clocks) = self.inherited_time(now, at);
            *origin = Some(Origin { time: self.time(None, now), at });
            if !by_wall_clocks.is_zero() {
                info!(?by_wall_clocks, "all members were down: using wall clocks to find out for how long");
                self.credited = self.credited.saturating_add(by_wall_clocks);
            }
        }
        self.stamp(*origin, now)
    }

    // -- ages

    /// A member that starts does not know for how long it has had these entries, except by its wall clock.
    pub(crate) fn ages_of_recovered(&mut self) {
        let (first, head, now) = (self.commit, self.log.head().op, self.steady);
        self.ages.forget_below(first);
        for op in (0..=head.distance_from(first)).map(|above| first.advance(above)) {
            let written = self.log.meta(op).map_or(Timestamp::ZERO, |meta| meta.written);
            self.ages.recovered(self.anchor(op), now, written);
        }
        for (op, meta) in self.log.past_gap().iter().filter_map(|(op, behind)| Some((*op, behind.meta()?))) {
            self.ages.recovered(Anchor::new(op, meta.hash), now, meta.written);
        }
    }

    /// This member has just received an entry.
    pub(crate) fn entry_arrived(&mut self, entry: Anchor, followed: bool) {
        self.ages.arrived(entry, self.steady, followed);
    }

    /// The age of an entry, to be sent.
    pub(crate) fn age_of(&self, entry: Anchor) -> Age {
        self.ages.of(entry, self.steady, self.now.wall)
    }

    /// The ages of what a vote lists, to be sent with it.
    pub(crate) fn ages_of(&self, log: &LogSummary) -> Vec<Age> {
        listed(log).map(|entry| entry.map_or(Age::default(), |entry| self.age_of(entry))).collect()
    }

    /// A peer has sent the age of an entry. It stays true, whatever happens to its sender's view, and however late it
    /// arrives.
    pub(crate) fn on_age(&mut self, from: MemberId, entry: Anchor, age: Age) {
        if self.ages.known.len() >= MOST_AGES {
            let log = &self.log;
            self.ages.known.retain(|(op, hash), _| log.hash(*op) == Some(*hash));
        }
        self.ages.note_report(from, entry, age, self.steady);
    }

    /// A peer has sent the ages of what its vote lists.
    pub(crate) fn on_ages(&mut self, from: MemberId, log: &LogSummary, ages: &[Age]) {
        for (entry, age) in listed(log).zip(ages) {
            if let Some(entry) = entry {
                self.on_age(from, entry, *age);
            }
        }
    }

    /// Everything up to this op is committed, so every later log contains it.
    pub(crate) fn forget_ages_below(&mut self, op: Op) {
        self.ages.forget_below(op);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUORUM: usize = 2;
    const NO_ALLOWANCE: Duration = Duration::ZERO;

    fn entry(op: u64) -> Anchor {
        Anchor::new(Op::new(op), Hash::of(&op.to_le_bytes()))
    }

    fn at(seconds: u64) -> Instant {
        Instant::ZERO.after(Duration::from_secs(seconds))
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn wall(seconds: u64) -> Timestamp {
        Timestamp::new(1_700_000_000_000 + seconds * 1000)
    }

    fn age(ages: &Ages, steady: u64, wall_seconds: u64) -> u64 {
        let now = Now { monotonic: at(steady), wall: wall(wall_seconds) };
        ages.inherited(entry(5), now, at(steady), QUORUM, NO_ALLOWANCE).age.as_secs()
    }

    fn moved(by: u64) -> Age {
        Age { moved: Some(seconds(by)), ..Age::default() }
    }

    /// Rule N7 of PROTOCOL.md.
    #[test]
    fn n7_the_greatest_age_of_an_entry_counts_and_grows_by_the_own_clock() {
        let mut ages = Ages::default();
        assert_eq!(age(&ages, 9, 0), 0, "nobody knows");
        ages.arrived(entry(5), at(10), true);
        assert_eq!(age(&ages, 14, 0), 4);
        ages.note_report(MemberId::new(1), entry(5), Age { least: seconds(9), ..Age::default() }, at(15));
        assert_eq!(age(&ages, 15, 0), 9);
        ages.note_report(MemberId::new(2), entry(5), Age { least: seconds(1), ..Age::default() }, at(16));
        assert_eq!(age(&ages, 16, 0), 10, "a smaller one changes nothing");
    }

    /// Rule N7 of PROTOCOL.md: the age of one of two entries says nothing about the other.
    #[test]
    fn n7_entries_at_the_same_op_have_separate_ages() {
        let mut ages = Ages::default();
        ages.arrived(Anchor::new(Op::new(5), Hash::of(b"cut")), at(0), true);
        ages.arrived(entry(5), at(100), true);
        assert_eq!(age(&ages, 101, 0), 1);
        ages.forget_below(Op::new(6));
        assert_eq!(age(&ages, 101, 0), 0);
    }

    /// Rule N7 of PROTOCOL.md.
    #[test]
    fn n7_wall_clocks_count_after_all_were_down_by_the_least_of_a_quorum() {
        let mut ages = Ages::default();
        ages.recovered(entry(5), at(0), wall(0));
        assert_eq!(age(&ages, 1, 500), 1, "one report of three is no quorum");
        ages.note_report(MemberId::new(1), entry(5), moved(90), at(1));
        assert_eq!(age(&ages, 1, 500), 90);
        assert_eq!(age(&ages, 3, 502), 92, "it grows by the receiver's clock");
        ages.note_report(MemberId::new(2), entry(5), moved(80), at(3));
        assert_eq!(age(&ages, 3, 500), 92, "a quorum that reports more is a quorum");
        assert_eq!(
            age(&ages, 3, 4),
            80,
            "the own clock shows less, and is one of the quorum that reports more"
        );
        ages.note_report(
            MemberId::new(2),
            entry(5),
            Age { least: seconds(7), followed: true, moved: None },
            at(3),
        );
        assert_eq!(age(&ages, 3, 500), 7, "a measured age overrides wall clocks");
    }

    /// Rule N7 of PROTOCOL.md: both readings of the wall clock are rounded down, so their difference may be a
    /// millisecond more than the truth.
    #[test]
    fn n7_a_wall_clock_reports_no_more_than_has_passed() {
        for (written, report, truth) in
            [(999, 1_000, 1), (0, 1_999, 1_999), (500, 500, 0), (999, 3_000, 2_001)]
        {
            let floor = |micros: u64| Timestamp::new(1_700_000_000_000 + micros / 1000);
            let mut ages = Ages::default();
            ages.recovered(entry(5), at(0), floor(written));
            let reported = ages.of(entry(5), at(0), floor(report)).moved.unwrap();
            assert!(reported <= Duration::from_micros(truth), "{reported:?} of {truth} us");
        }
    }

    /// Rule N7 of PROTOCOL.md: steps of wall clocks up to the allowance make nothing expire early.
    #[test]
    fn n7_the_allowance_is_subtracted_from_wall_clocks() {
        let mut ages = Ages::default();
        ages.recovered(entry(5), at(0), wall(0));
        ages.note_report(MemberId::new(1), entry(5), moved(90), at(0));
        let now = Now { monotonic: at(2), wall: wall(60).advance(1) };
        let inherited = |allowance| ages.inherited(entry(5), now, at(2), QUORUM, seconds(allowance));
        assert_eq!((inherited(5).age, inherited(5).by_wall_clocks), (seconds(55), seconds(53)));
        assert_eq!((inherited(90).age, inherited(90).by_wall_clocks), (seconds(2), seconds(0)));
    }

    /// The number of reported ages is bounded, and so is each age.
    #[test]
    fn n7_ages_reported_by_peers_are_bounded() {
        let mut ages = Ages::default();
        for op in 0..2 * MOST_AGES as u64 {
            ages.note_report(MemberId::new(1), entry(op), moved(1), at(0));
        }
        assert_eq!(ages.known.len(), MOST_AGES);
        let most = Age { least: Duration::MAX, followed: false, moved: Some(Duration::MAX) };
        ages.note_report(MemberId::new(1), entry(5), most, at(0));
        ages.note_report(MemberId::new(2), entry(5), most, at(0));
        let now = Now { monotonic: at(9), wall: wall(0) };
        assert_eq!(ages.inherited(entry(5), now, at(9), QUORUM, NO_ALLOWANCE).age, Duration::MAX);
        assert_eq!(millis(Duration::MAX), Timestamp::new(LAST_STAMP_MS));
    }
}
