//! Rule N7: clocks drift, stop and are wrong, and still nothing expires early.

use super::group::Group;
use crate::config::Options;
use crate::ids::{Hash, Instant, MemberId, Op, Timestamp, View};
use crate::message::{Age, Entry, Message};
use crate::replica::{Input, Now};
use std::collections::BTreeMap;
use std::time::Duration;

/// What one member takes the time for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// A monotonic clock: its rate in thousandths of the true rate, and its reading at a true time.
    rate: u64,
    base: Instant,
    since: Instant,
    /// Of the wall clock.
    wrong_by_ms: i64,
}

impl Clock {
    pub(super) const fn right() -> Self {
        Self { rate: 1000, base: Instant::ZERO, since: Instant::ZERO, wrong_by_ms: 0 }
    }

    pub(super) fn read(&self, now: Now) -> Now {
        let passed = now.monotonic.since(self.since).as_nanos();
        let passed = u64::try_from(passed * u128::from(self.rate) / 1000).expect("not that long");
        let wall = now.wall.get().saturating_add_signed(self.wrong_by_ms);
        Now { monotonic: self.base.after(Duration::from_nanos(passed)), wall: Timestamp::new(wall) }
    }

    /// It runs at this rate from now on; at zero it stops.
    pub(super) fn set_rate(&mut self, now: Now, rate: u64) {
        (self.base, self.since, self.rate) = (self.read(now).monotonic, now.monotonic, rate);
    }

    pub(super) fn leap(&mut self, by: Duration) {
        self.base = self.base.after(by);
    }

    pub(super) fn step(&mut self, by_ms: i64) {
        self.wrong_by_ms += by_ms;
    }
}

/// Compares the stamps of committed entries with when they were made.
#[derive(Debug, Default)]
pub(super) struct Stamps {
    made: BTreeMap<Hash, (Instant, Timestamp)>,
    /// The least difference between stamps and a time that runs a tenth faster than the true time.
    least_ahead: Option<i64>,
    /// By how many microseconds something may end early, besides the rounding.
    pub(super) tolerance: i64,
    /// What rests on wall clocks is not looked at: a majority of them is wrong.
    pub(super) majority_wrong: bool,
    /// How much that is, by life.
    credited: BTreeMap<u64, Duration>,
}

impl Stamps {
    pub(super) fn made(&mut self, entry: &Entry, now: Instant) {
        self.made.entry(entry.header.hash()).or_insert((now, entry.header.timestamp));
    }

    /// How much of the stamps that a member made since a start is based on wall clocks.
    pub(super) fn credited(&mut self, life: u64, time: Duration) {
        let before = self.credited.insert(life, time).unwrap_or_default();
        if self.majority_wrong {
            self.tolerance += i64::try_from((time - before).as_micros()).expect("not that long");
        }
    }

    /// Of any two committed entries, the stamps differ by no more than 11/10 of the true time between them, and a
    /// millisecond.
    pub(super) fn committed(&mut self, hash: Hash) {
        let Some((made, stamp)) = self.made.get(&hash) else { return };
        let micros = |value: u64| i64::try_from(value).expect("not that long");
        let ahead = micros(stamp.get() * 1000) - micros(made.get() / 10_000 * 11);
        let least = *self.least_ahead.get_or_insert(ahead);
        assert!(
            ahead - least <= 1_010 + self.tolerance,
            "stamp {stamp:?}: something would end {} us early",
            ahead - least
        );
        self.least_ahead = Some(least.min(ahead));
    }
}

fn put(group: &mut Group) -> u64 {
    let primary = group.serving().expect("someone serves");
    group.propose(primary, "k");
    group.settle();
    let head = group.replica(primary).head().op;
    group.replica(primary).cx.log.meta(head).expect("it is in the log").timestamp.get()
}

fn is_close(found: u64, wanted: u64, by: u64) {
    assert!(found.abs_diff(wanted) <= by, "{found} and not {wanted}");
}

/// Rule N7 of PROTOCOL.md.
#[test]
fn n7_one_clock_in_the_year_2099_moves_no_stamp() {
    for wrong in [0, 1] {
        let mut group = Group::formed(3, 0);
        let first = put(&mut group);
        group.clocks[wrong].step(73 * 365 * 86_400_000);
        group.run_for(1_000);
        is_close(put(&mut group), first + 1_000, 2);
        group.input(0, Input::Handover);
        group.run_until("another primary", |group| group.serving().is_some_and(|id| id != 0));
        group.run_for(1_000);
        is_close(put(&mut group), first + 2_000, 400);
    }
}

/// Rule N7 of PROTOCOL.md: all wall clocks are a day ahead for a while. Nothing ends early, nothing ends late.
#[test]
fn n7_a_majority_that_was_wrong_once_has_no_lasting_effect() {
    let mut group = Group::formed(3, 0);
    let first = put(&mut group);
    for step in [86_400_000, -86_400_000] {
        group.clocks.iter_mut().for_each(|clock| clock.step(step));
        group.run_for(500);
        put(&mut group);
        let primary = group.serving().expect("someone serves");
        group.input(primary, Input::Handover);
        group.run_until("another", |group| group.serving().is_some_and(|id| id != primary));
    }
    group.run_for(1_000);
    is_close(put(&mut group), first + 2_000, 600);
}

/// Rule N7 of PROTOCOL.md: a machine that is resumed elsewhere may show any time.
#[test]
fn n7_a_clock_that_leaps_counts_for_failure_timeout_max() {
    let mut group = Group::formed(3, 0);
    let first = put(&mut group);
    group.clocks[0].leap(Duration::from_secs(3_600));
    let most = u64::try_from(group.options.failure_timeout_max.as_millis()).expect("short");
    group.stamps.tolerance = i64::try_from(most * 1_000).expect("short");
    let now = group.now_of(0);
    assert!(group.replica(0).stamp(now).expect("serving").get() <= first + most);
    // It takes everyone for silent, and another one serves.
    group.run_until("someone", |group| group.serving().is_some());
    group.run_for(1_000);
    put(&mut group);
}

/// Rule N7 of PROTOCOL.md: a wall clock that is set while its member is primary.
#[test]
fn n7_a_primary_counts_time_by_its_monotonic_clock_alone() {
    let mut group = Group::formed(3, 0);
    let first = put(&mut group);
    group.clocks[0].set_rate(group.now, 1_100);
    group.clocks[0].step(-3_600_000);
    group.run_for(1_000);
    is_close(put(&mut group), first + 1_100, 2);
}

/// Rule N7 of PROTOCOL.md: everybody was down; one wall clock is wrong, in either direction.
#[test]
fn n7_wall_clocks_show_how_long_all_members_were_down() {
    for wrong_by in [-86_400_000, 86_400_000, 0] {
        for wrong in 0..3 {
            let mut group = Group::formed(3, 0);
            let first = put(&mut group);
            group.run_for(100);
            for id in 0..3 {
                group.crash(id);
            }
            group.pass(Duration::from_secs(600));
            group.clocks[wrong].step(wrong_by);
            for id in 0..3 {
                group.start(id);
            }
            group.run_until("someone serves", |group| group.serving().is_some());
            group.run_for(1_000);
            let allowance = u64::try_from(group.options.wall_clock_allowance.as_millis()).expect("short");
            let spent = u64::try_from(group.now.monotonic.since(Instant::new(1_000_000_000)).as_millis());
            let stamp = put(&mut group);
            assert!(stamp <= first + spent.expect("short") + 1, "early, {wrong} wrong by {wrong_by}");
            assert!(
                stamp + allowance + 1_000 >= first + spent.expect("short"),
                "late by {}",
                first + spent.expect("short") - stamp
            );
        }
    }
}

/// Rule N7 of PROTOCOL.md: no wall clock is asked where someone was there all the time.
#[test]
fn n7_a_measured_age_overrides_wall_clocks() {
    let mut group = Group::formed(3, 0);
    let first = put(&mut group);
    group.run_for(100);
    for id in [0, 1] {
        group.crash(id);
    }
    group.run_for(10_000);
    for id in [0, 1] {
        group.clocks[usize::from(id)].step(86_400_000);
        group.start(id);
    }
    group.run_until("someone serves", |group| group.serving().is_some());
    is_close(put(&mut group), first + 10_100, 1_000);
}

/// Rule N7 of PROTOCOL.md: every member that has an entry reports its age, and no member reports it for another entry.
#[test]
fn n7_heartbeats_and_votes_carry_the_ages_of_entries() {
    let mut group = Group::formed(3, 0);
    put(&mut group);
    group.run_for(500);
    let age = group.sent.iter().rev().find_map(|sent| match &sent.message {
        Message::Commit { age, commit, .. } if commit.op == Op::new(1) => Some(*age),
        _ => None,
    });
    let Some(Age { least, followed: true, moved: None }) = age else { panic!("{age:?}") };
    assert!(least >= Duration::from_millis(400) && least <= Duration::from_millis(510), "{least:?}");
    group.input(0, Input::Handover);
    group.run_until("another", |group| group.serving() == Some(1));
    let votes = group.sent.iter().filter_map(|sent| match &sent.message {
        Message::DoViewChange { view, ages, .. } if *view == View::new(1) => Some((sent.from, ages.clone())),
        _ => None,
    });
    let votes: BTreeMap<MemberId, Vec<Age>> = votes.collect();
    assert!(votes.len() >= 2);
    for (from, ages) in votes {
        let age = ages.first().expect("of the committed entry");
        assert!(age.followed && age.least >= Duration::from_millis(500), "{from:?}: {age:?}");
    }
}

/// Rule N7 of PROTOCOL.md: a view that a quorum of restarted members began has lost time, and its stamps show that. A
/// member that was not in it knows a greater time from before, but still continues from the last entry.
#[test]
fn n7_a_new_primary_goes_on_from_the_last_entry_and_not_from_its_greatest_estimate() {
    let options = Options { wall_clock_allowance: Duration::from_secs(3_600), ..Options::default() };
    let mut group = Group::with_options(5, 0, options);
    group.run_until("a primary serves", |group| group.serving() == Some(0));
    put(&mut group);
    group.run_for(5_000);
    for restarted in [1, 3, 4] {
        group.crash(restarted);
        group.cut.extend([0, 2].into_iter().flat_map(|there| [(there, restarted), (restarted, there)]));
    }
    for restarted in [1, 3, 4] {
        group.start(restarted);
    }
    group.run_until("one that restarted serves", |group| group.serving() == Some(1));
    let before = put(&mut group);
    group.heal();
    group.run_for(500);
    group.input(1, Input::Handover);
    group.run_until("one that was there serves", |group| group.serving() == Some(2));
    is_close(put(&mut group), before + 500, 500);
}

/// Rule N7 of PROTOCOL.md: two members have had other entries at the same op, long before; then all members are down.
#[test]
fn n7_a_wall_clock_counts_for_the_copy_that_it_was_read_for() {
    assert!(std::panic::catch_unwind(|| copies_at_one_op(true)).is_err());
    copies_at_one_op(false);
}

fn copies_at_one_op(written_once: bool) {
    let mut group = Group::new(3, 0);
    group.written_once = written_once;
    group.run_until("a primary serves", |group| group.serving() == Some(0));
    put(&mut group);
    for alone in [0, 1] {
        group.run_until("it serves", |group| group.serving() == Some(alone));
        group.isolate(alone);
        group.propose(alone, "only here");
        assert_eq!(group.replica(alone).head().op, Op::new(2));
        group.crash(alone);
        group.run_for(60_000);
        group.heal();
        group.start(alone);
        group.run_until("another one serves", |group| group.serving().is_some_and(|id| id != alone));
    }
    let _ = put(&mut group);
    group.run_until("level", Group::level);
    for id in 0..3 {
        group.crash(id);
    }
    for id in 0..3 {
        group.start(id);
    }
    group.run_until("someone serves", |group| group.serving().is_some());
    put(&mut group);
}

/// Rule N7 of PROTOCOL.md: delays that change, clocks that drift by a tenth or stop, wrong wall clocks, view changes,
/// restarts of one and of all. Of any two committed entries, the stamps differ by no more than the clocks may.
#[test]
fn n7_nothing_ends_early_on_300_random_walks() {
    for seed in 0..300 {
        super::walk::walk_of_clocks(seed);
    }
}
