use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// Checks the same condition twice a second for this long, as the node does. Returns the reports with their times.
struct Bench {
    watch: HealthMonitor,
    now: Instant,
}

impl Bench {
    fn new(members: usize, needed: usize) -> Self {
        let now = Instant::ZERO;
        Self { watch: HealthMonitor::new(members, needed, now), now }
    }

    fn for_so_long(&mut self, time: Duration, peers: &[PeerView], commit: Option<u64>) -> Vec<Report> {
        let until = self.now.after(time);
        let mut reports = Vec::new();
        while self.now < until {
            self.now = self.now.after(LOOK_EVERY);
            reports.extend(self.watch.check(self.now, peers, commit.map(Op::new)));
        }
        reports
    }
}

fn id(id: u8) -> MemberId {
    MemberId::new(id)
}

fn good(peer: u8) -> PeerView {
    PeerView { to: true, from: true, ..lost(peer) }
}

fn lost(peer: u8) -> PeerView {
    PeerView {
        id: id(peer),
        is_voter: true,
        to: false,
        from: false,
        acknowledged: None,
        clock: None,
        twice: None,
    }
}

#[test]
fn a_lost_member_and_its_return_are_each_reported_once() {
    let mut bench = Bench::new(3, 2);
    assert_eq!(bench.for_so_long(10 * SECOND, &[good(1), good(2)], None), []);
    let reported = bench.for_so_long(600 * SECOND, &[good(1), lost(2)], None);
    let gone = Report::Lost { peer: id(2), to: false, from: false };
    assert_eq!(reported, [gone.clone(), Report::NoRedundancy { working: 2, needed: 2 }]);
    let reported = bench.for_so_long(10 * SECOND, &[good(1), good(2)], None);
    assert_eq!(reported, [Report::Back { peer: id(2) }, Report::Redundant { working: 3 }]);
    // A lasting condition is reported again, each hour.
    let reported = bench.for_so_long(Duration::from_secs(3 * 3600 + 60), &[good(1), lost(2)], None);
    assert_eq!(reported.iter().filter(|it| **it == gone).count(), 4, "{reported:?}");
}

#[test]
fn each_direction_counts_and_a_quick_reconnect_is_not_reported() {
    for (to, from) in [(true, false), (false, true)] {
        let mut bench = Bench::new(3, 2);
        bench.for_so_long(10 * SECOND, &[good(1), good(2)], None);
        let half = PeerView { to, from, ..lost(2) };
        assert_eq!(bench.for_so_long(SECOND, &[good(1), half.clone()], None), []);
        assert_eq!(bench.for_so_long(SECOND, &[good(1), good(2)], None), []);
        let reported = bench.for_so_long(5 * SECOND, &[good(1), half], None);
        assert_eq!(reported[0], Report::Lost { peer: id(2), to, from });
    }
}

#[test]
fn members_that_start_one_after_another_are_not_reported() {
    let mut bench = Bench::new(3, 2);
    assert_eq!(bench.for_so_long(4 * SECOND, &[lost(1), lost(2)], None), []);
    assert_eq!(bench.for_so_long(60 * SECOND, &[good(1), good(2)], None), []);
    // One that never comes is reported.
    let mut bench = Bench::new(3, 2);
    let reported = bench.for_so_long(20 * SECOND, &[good(1), lost(2)], None);
    assert_eq!(reported[0], Report::Lost { peer: id(2), to: false, from: false });
}

#[test]
fn a_flapping_link_does_not_flood_the_log() {
    let mut bench = Bench::new(5, 3);
    let all = [good(1), good(2), good(3), good(4)];
    bench.for_so_long(10 * SECOND, &all, None);
    let mut reported = 0;
    for _ in 0..600 {
        reported += bench.for_so_long(4 * SECOND, &[lost(1), good(2), good(3), good(4)], None).len();
        reported += bench.for_so_long(2 * SECOND, &all, None).len();
    }
    // An hour: five at once, one each minute, and as many ends.
    assert!(reported <= 2 * 66, "{reported} lines");
    assert!(reported >= 60, "{reported} lines: it is still reported");
}

#[test]
fn redundancy_is_the_number_of_members_beyond_a_quorum() {
    let mut bench = Bench::new(5, 3);
    let all = [good(1), good(2), good(3), good(4)];
    bench.for_so_long(10 * SECOND, &all, None);
    let reported = bench.for_so_long(10 * SECOND, &[lost(1), good(2), good(3), good(4)], None);
    assert_eq!(reported.len(), 1, "one of five may be lost: {reported:?}");
    let reported = bench.for_so_long(10 * SECOND, &[lost(1), lost(2), good(3), good(4)], None);
    assert_eq!(reported[1..], [Report::NoRedundancy { working: 3, needed: 3 }]);
    let reported = bench.for_so_long(10 * SECOND, &[lost(1), lost(2), lost(3), lost(4)], None);
    assert_eq!(reported[2..], [Report::NoQuorum { working: 1, needed: 3 }]);
    let reported = bench.for_so_long(10 * SECOND, &[lost(1), lost(2), good(3), good(4)], None);
    assert_eq!(reported[2..], [Report::Quorum { working: 3, needed: 3 }]);
    let reported = bench.for_so_long(10 * SECOND, &all, None);
    assert_eq!(reported[2..], [Report::Redundant { working: 5 }]);
}

#[test]
fn a_standby_is_no_redundancy() {
    let mut bench = Bench::new(3, 2);
    let standby = PeerView { is_voter: false, ..good(3) };
    bench.for_so_long(10 * SECOND, &[good(1), good(2), standby.clone()], None);
    let reported = bench.for_so_long(10 * SECOND, &[good(1), lost(2), standby], None);
    assert_eq!(reported[1..], [Report::NoRedundancy { working: 2, needed: 2 }]);
}

#[test]
fn a_cluster_without_possible_redundancy_does_not_report_its_absence() {
    let mut bench = Bench::new(1, 1);
    assert_eq!(bench.for_so_long(60 * SECOND, &[], None), []);
    let mut bench = Bench::new(2, 2);
    assert_eq!(bench.for_so_long(60 * SECOND, &[good(1)], None), []);
    let reported = bench.for_so_long(60 * SECOND, &[lost(1)], None);
    assert_eq!(reported[1..], [Report::NoQuorum { working: 1, needed: 2 }]);
}

#[test]
fn a_lagging_member_does_not_count_as_redundancy() {
    let at = |op| PeerView { acknowledged: Some(Op::new(op)), ..good(2) };
    let level = PeerView { acknowledged: Some(Op::new(1000)), ..good(1) };
    let mut bench = Bench::new(3, 2);
    // Always a little behind, and always on its way.
    for op in 0..100 {
        assert_eq!(bench.for_so_long(SECOND, &[level.clone(), at(op)], Some(op + 1)), []);
    }
    let reported = bench.for_so_long(60 * SECOND, &[level.clone(), at(99)], Some(150));
    let behind = Report::Behind { peer: id(2), entries: 51 };
    assert_eq!(reported, [behind, Report::NoRedundancy { working: 2, needed: 2 }]);
    let reported = bench.for_so_long(60 * SECOND, &[level, at(150)], Some(150));
    assert_eq!(reported, [Report::CaughtUp { peer: id(2) }, Report::Redundant { working: 3 }]);
}

#[test]
fn a_wrong_clock_is_reported_but_one_late_message_is_not() {
    let off = |ahead| PeerView { clock: Some(ahead), ..good(2) };
    let mut bench = Bench::new(3, 2);
    for ahead in [0, 9_000, -10_000] {
        assert_eq!(bench.for_so_long(60 * SECOND, &[good(1), off(ahead)], None), []);
    }
    assert_eq!(bench.for_so_long(2 * SECOND, &[good(1), off(-60_000)], None), []);
    assert_eq!(bench.for_so_long(60 * SECOND, &[good(1), off(0)], None), []);
    for ahead in [86_400_000, -60_000, i64::MAX, i64::MIN] {
        let reported = bench.for_so_long(60 * SECOND, &[good(1), off(ahead)], None);
        assert_eq!(reported, [Report::Clock { peer: id(2), ahead_ms: ahead }]);
        let reported = bench.for_so_long(60 * SECOND, &[good(1), off(10)], None);
        assert_eq!(reported, [Report::ClockRight { peer: id(2) }]);
    }
}

#[test]
fn two_processes_with_one_id_are_detected_by_taking_turns_and_restarts_are_not() {
    let health = Health::default();
    let mut now = Instant::ZERO;
    let mut call = |health: &Health, life| {
        now = now.after(SECOND);
        health.called(id(2), life, "10.0.0.9:1234", now);
        health.duplicate_process(id(2), now)
    };
    // A member that restarts all the time, with three connections each time, the last of one of them late.
    for life in 0..100 {
        for life in [life, life, life.max(1) - 1, life] {
            assert_eq!(call(&health, life), None, "{life}");
        }
        (0..60).for_each(|_| drop(call(&health, life)));
    }
    assert_eq!(call(&health, 1000), None);
    let reported: Vec<_> = (0..10).map(|turn| call(&health, 1001 - turn % 2)).collect();
    assert!(reported[..2].iter().all(Option::is_none), "{reported:?}");
    assert_eq!(reported[9].as_deref(), Some("10.0.0.9:1234"));

    let mut bench = Bench::new(3, 2);
    let twice = PeerView { twice: Some("there".to_owned()), ..good(2) };
    let reported = bench.for_so_long(60 * SECOND, &[good(1), twice], None);
    assert_eq!(reported, [Report::DuplicateInstance { peer: id(2), remote: "there".to_owned() }]);
    assert_eq!(bench.for_so_long(60 * SECOND, &[good(1), good(2)], None), [Report::Once { peer: id(2) }]);
}

#[test]
fn a_certificate_is_reported_daily_from_two_weeks_before_its_end() {
    const DAY: Duration = Duration::from_secs(86_400);
    let mut watch = HealthMonitor::new(1, 1, Instant::ZERO);
    let mut reported = Vec::new();
    // From 20 days before the end to two days after it, looked at each hour.
    let (start, end) = (Instant::ZERO, 20 * DAY);
    for hours in 0..22 * 24 {
        let passed = Duration::from_secs(hours * 3600);
        let left = end.checked_sub(passed).ok_or_else(|| passed.saturating_sub(end));
        reported.extend(watch.check_certificate(start.after(passed), Some(left)));
    }
    let soon = reported.iter().filter(|it| matches!(it, Report::CertificateEnds { .. })).count();
    assert_eq!((soon, reported.len()), (14, 16), "{reported:#?}");
    assert!(
        matches!(reported[0], Report::CertificateEnds { within } if within > 13 * DAY && within < 14 * DAY)
    );
    // A new one is good.
    assert_eq!(watch.check_certificate(start.after(23 * DAY), Some(Ok(300 * DAY))), None);
    assert_eq!(watch.check_certificate(start.after(23 * DAY), None), None);
}
