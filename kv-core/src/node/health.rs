//! Warnings for the operator: one log line when a problem begins that the cluster survives for now, and one when it
//! ends.
//!
//! | condition | logged after | again after |
//! |---|---|---|
//! | a member cannot be reached, or does not reach this one | 2 s (5 s after the start) | 1 h |
//! | a member is connected, but lacks what was committed 30 s ago (reported by the primary) | 30 s | 1 h |
//! | one more lost member stops the cluster, or it has stopped | with the above | 1 h |
//! | a member's wall clock is more than 10 s from this one's | 5 s | 1 h |
//! | two processes run under one member's id | at once | 1 h |
//! | the certificate ends within 14 days, or has ended | at once | 1 day |
//!
//! [`HealthMonitor`] decides from what it is given once or twice a second. It reads no clock and logs nothing, so it is
//! easy to test.

use super::clock::Clock;
use super::rate::Bucket;
use super::shared::Shared;
use super::sync::lock;
use crate::config::Cluster;
use crate::ids::{Instant, MemberId, Op, Timestamp};
use kv_transport::EXPIRY_WARNING;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::sleep;

/// How often the conditions are checked.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long a connection may be broken before it is reported. A quick reconnect is not.
const LOST_AFTER: Duration = Duration::from_secs(2);
/// The same for a member that was never connected, because the members of a cluster are not all started at once.
const ABSENT_AFTER: Duration = Duration::from_secs(5);
/// How long a member may lack committed entries before it is reported.
const BEHIND_AFTER: Duration = Duration::from_secs(30);
/// How far the clock of a member may be from this one's, in milliseconds. Signs of life may be delayed by less than
/// this.
const CLOCK_APART_MS: u64 = 10_000;
/// How long the clocks must differ. Delayed messages arrive in a burst, and must not raise an alarm.
const CLOCK_AFTER: Duration = Duration::from_secs(5);
/// A clock reading older than this is not used.
const CLOCK_KNOWN: Duration = Duration::from_secs(3);
/// How long a second process with the same id is remembered.
const TWICE_FOR: Duration = Duration::from_secs(30);
/// How often a lasting condition is logged again.
const REMIND_EVERY: Duration = Duration::from_secs(60 * 60);
/// The same for a certificate.
const REMIND_DAILY: Duration = Duration::from_secs(24 * 60 * 60);
/// How often a replaced process must connect again before two processes are reported. The last connection of an ended
/// process may be seen after the first one of its successor.
const RETURNS: u32 = 3;
/// How many processes of each member are remembered.
const LIVES: usize = 8;

/// What the parts of a node report to this module.
#[derive(Debug, Default)]
pub(super) struct Health {
    peers: Mutex<BTreeMap<MemberId, PeerInfo>>,
}

/// What is known of a peer.
#[derive(Debug, Default)]
struct PeerInfo {
    /// How far its wall clock is ahead of this one's, in milliseconds, and when it reported that.
    clock: Option<(i64, Instant)>,
    /// Its processes, in the order in which they first connected. The last one connected most recently.
    lives: Vec<u64>,
    /// A replaced process connected again: when, from where, and how often.
    returned: Option<(Instant, String, u32)>,
    /// Why the last attempt to reach it failed.
    error: String,
}

impl Health {
    /// A peer has sent the time of its wall clock.
    pub(super) fn heard_clock(&self, peer: MemberId, wall: Option<Timestamp>, clock: &Clock) {
        let Some(wall) = wall else { return };
        let now = clock.now();
        let signed = |time: Timestamp| i64::try_from(time.get()).unwrap_or(i64::MAX);
        let ahead = signed(wall).saturating_sub(signed(now.wall));
        lock(&self.peers).entry(peer).or_default().clock = Some((ahead, now.monotonic));
    }

    /// A process of a peer has sent a valid hello.
    pub(super) fn called(&self, peer: MemberId, life: u64, remote: &str, now: Instant) {
        let mut peers = lock(&self.peers);
        let known = peers.entry(peer).or_default();
        if known.lives.last() == Some(&life) {
            return;
        }
        if known.lives.contains(&life) {
            // It was replaced, and calls again: either the last call of an ended process, or a second process that runs
            // now.
            known.lives.retain(|it| *it != life);
            let before = known.returned.take().filter(|(at, ..)| now.since(*at) < TWICE_FOR);
            let times = before.map_or(0, |(.., times)| times);
            known.returned = Some((now, remote.to_owned(), times.saturating_add(1)));
        }
        if known.lives.len() >= LIVES {
            known.lives.remove(0);
        }
        known.lives.push(life);
    }

    /// The address of a second process with this id, if it has connected recently and repeatedly.
    fn duplicate_process(&self, peer: MemberId, now: Instant) -> Option<String> {
        let peers = lock(&self.peers);
        let (at, remote, times) = peers.get(&peer)?.returned.as_ref()?;
        (now.since(*at) < TWICE_FOR && *times >= RETURNS).then(|| remote.clone())
    }

    /// How far a peer's clock is ahead, in milliseconds, if there is a recent reading.
    pub(super) fn clock(&self, peer: MemberId, now: Instant) -> Option<i64> {
        let (ahead, at) = lock(&self.peers).get(&peer)?.clock?;
        (now.since(at) < CLOCK_KNOWN).then_some(ahead)
    }

    /// Why a peer could not be reached.
    fn error(&self, peer: MemberId) -> String {
        lock(&self.peers).get(&peer).map(|known| known.error.clone()).unwrap_or_default()
    }

    /// A connection to a peer broke or failed.
    pub(super) fn broke(&self, peer: MemberId, error: &str) {
        error.clone_into(&mut lock(&self.peers).entry(peer).or_default().error);
    }
}

/// A condition that may last.
#[derive(Debug)]
struct Alarm {
    since: Option<Instant>,
    /// When it was last reported, if it is active.
    reported: Option<Instant>,
    /// Limits the reports of a condition that flaps.
    bucket: Bucket,
    every: Duration,
}

/// A change of an alarm that must be reported.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Edge {
    /// The condition has begun, or still lasts.
    On,
    /// It is over.
    Off,
}

impl Alarm {
    fn new(every: Duration, now: Instant) -> Self {
        Self { since: None, reported: None, bucket: Bucket::burst(Duration::from_secs(60), 5, now), every }
    }

    /// Updates the alarm. `is_so`: whether the condition holds now; it is reported once it has held for `after`.
    fn update(&mut self, now: Instant, is_so: bool, after: Duration) -> Option<Edge> {
        if !is_so {
            self.since = None;
            return self.reported.take().map(|_| Edge::Off);
        }
        let since = *self.since.get_or_insert(now);
        let due = match self.reported {
            None => now.since(since) >= after && self.bucket.take(now),
            Some(reported) => now.since(reported) >= self.every,
        };
        due.then(|| {
            self.reported = Some(now);
            Edge::On
        })
    }

    fn is_on(&self) -> bool {
        self.reported.is_some()
    }
}

/// The state of a peer at one time, as this member sees it.
#[derive(Clone, Debug)]
struct PeerView {
    id: MemberId,
    /// It is no standby, and so counts for a quorum.
    is_voter: bool,
    /// This member can reach it.
    to: bool,
    /// It can reach this member.
    from: bool,
    /// If this member is the primary: the last op that the peer acknowledged.
    acknowledged: Option<Op>,
    /// How far its clock is ahead, in milliseconds, if known.
    clock: Option<i64>,
    /// The address of a second process with its id, if one has connected recently.
    twice: Option<String>,
}

/// Something to log.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Report {
    Lost { peer: MemberId, to: bool, from: bool },
    Back { peer: MemberId },
    Behind { peer: MemberId, entries: u64 },
    CaughtUp { peer: MemberId },
    NoRedundancy { working: usize, needed: usize },
    NoQuorum { working: usize, needed: usize },
    Quorum { working: usize, needed: usize },
    Redundant { working: usize },
    Clock { peer: MemberId, ahead_ms: i64 },
    ClockRight { peer: MemberId },
    DuplicateInstance { peer: MemberId, remote: String },
    Once { peer: MemberId },
    CertificateEnds { within: Duration },
    CertificateEnded { ago: Duration },
}

/// The alarms about one peer.
#[derive(Debug)]
struct PeerWatch {
    lost: Alarm,
    behind: Alarm,
    clock: Alarm,
    twice: Alarm,
    was_connected: bool,
    /// If this member is the primary: the op that the peer should acknowledge, and since when.
    goal: Option<(Op, Instant)>,
}

/// Decides what is reported.
#[derive(Debug)]
struct HealthMonitor {
    /// The number of members that vote, and how many of them must work.
    members: usize,
    needed: usize,
    /// Whether this member is one of them.
    is_voter: bool,
    started: Instant,
    peers: BTreeMap<MemberId, PeerWatch>,
    redundancy: Alarm,
    quorum: Alarm,
    certificate: Alarm,
    expired: Alarm,
}

impl HealthMonitor {
    fn new(members: usize, needed: usize, now: Instant) -> Self {
        let hourly = || Alarm::new(REMIND_EVERY, now);
        Self {
            members,
            needed,
            is_voter: true,
            started: now,
            peers: BTreeMap::new(),
            redundancy: hourly(),
            quorum: hourly(),
            certificate: Alarm::new(REMIND_DAILY, now),
            expired: Alarm::new(REMIND_DAILY, now),
        }
    }

    /// Returns what to report about the peers. `commit` is the commit op, if this member is the primary.
    fn check(&mut self, now: Instant, peers: &[PeerView], commit: Option<Op>) -> Vec<Report> {
        let mut reports = Vec::new();
        let mut working = usize::from(self.is_voter);
        for seen in peers {
            let watch = self.peers.entry(seen.id).or_insert_with(|| PeerWatch::new(now));
            watch.observe(now, self.started, seen, commit, &mut reports);
            working += usize::from(seen.is_voter && !watch.lost.is_on() && !watch.behind.is_on());
        }
        let Self { needed, members, .. } = *self;
        // A cluster that cannot lose any member even when it is complete has no redundancy to miss.
        let is_thin = working <= needed && members > needed;
        let thin = self.redundancy.update(now, is_thin, Duration::ZERO);
        let stops = self.quorum.update(now, working < needed, Duration::ZERO);
        reports.extend(match (stops, thin) {
            (Some(Edge::On), _) => Some(Report::NoQuorum { working, needed }),
            (_, Some(Edge::On)) if working == needed => Some(Report::NoRedundancy { working, needed }),
            (_, Some(Edge::Off)) => Some(Report::Redundant { working }),
            (Some(Edge::Off), _) => Some(Report::Quorum { working, needed }),
            _ => None,
        });
        reports
    }

    /// Returns what to report about the certificate: for how long it is still valid, or since when it is not.
    fn check_certificate(
        &mut self,
        now: Instant,
        left: Option<Result<Duration, Duration>>,
    ) -> Option<Report> {
        let soon = left.and_then(Result::ok).filter(|within| *within < EXPIRY_WARNING);
        let ended = left.and_then(Result::err);
        let ends = self.certificate.update(now, soon.is_some(), Duration::ZERO) == Some(Edge::On);
        let over = self.expired.update(now, ended.is_some(), Duration::ZERO) == Some(Edge::On);
        match (soon, ended) {
            (Some(within), _) if ends => Some(Report::CertificateEnds { within }),
            (_, Some(ago)) if over => Some(Report::CertificateEnded { ago }),
            _ => None,
        }
    }
}

impl PeerWatch {
    fn new(now: Instant) -> Self {
        let hourly = || Alarm::new(REMIND_EVERY, now);
        Self {
            lost: hourly(),
            behind: hourly(),
            clock: hourly(),
            twice: hourly(),
            was_connected: false,
            goal: None,
        }
    }

    fn observe(
        &mut self,
        now: Instant,
        started: Instant,
        seen: &PeerView,
        commit: Option<Op>,
        reports: &mut Vec<Report>,
    ) {
        let peer = seen.id;
        let is_connected = seen.to && seen.from;
        self.was_connected |= is_connected;
        let patience = if self.was_connected { LOST_AFTER } else { ABSENT_AFTER };
        let is_early = !self.was_connected && now.since(started) < ABSENT_AFTER;
        reports.extend(self.lost.update(now, !is_connected && !is_early, patience).map(|edge| match edge {
            Edge::On => Report::Lost { peer, to: seen.to, from: seen.from },
            Edge::Off => Report::Back { peer },
        }));

        let lag = self.lag(now, seen, commit.filter(|_| is_connected));
        let over = self.behind.update(now, lag.is_some(), Duration::ZERO);
        match (over, lag) {
            (Some(Edge::On), Some(entries)) => reports.push(Report::Behind { peer, entries }),
            // A member that is disconnected is reported as such instead. Only a primary knows the progress of others.
            (Some(Edge::Off), _) if is_connected && commit.is_some() => {
                reports.push(Report::CaughtUp { peer });
            }
            _ => {}
        }

        let apart = seen.clock.filter(|ahead| ahead.unsigned_abs() > CLOCK_APART_MS);
        match (self.clock.update(now, apart.is_some(), CLOCK_AFTER), apart) {
            (Some(Edge::On), Some(ahead_ms)) => reports.push(Report::Clock { peer, ahead_ms }),
            (Some(Edge::Off), _) if seen.clock.is_some() => reports.push(Report::ClockRight { peer }),
            _ => {}
        }

        match (self.twice.update(now, seen.twice.is_some(), Duration::ZERO), &seen.twice) {
            (Some(Edge::On), Some(remote)) => {
                reports.push(Report::DuplicateInstance { peer, remote: remote.clone() })
            }
            (Some(Edge::Off), _) => reports.push(Report::Once { peer }),
            _ => {}
        }
    }

    /// Returns how many entries the peer lacks, if it has lacked committed entries for too long.
    fn lag(&mut self, now: Instant, seen: &PeerView, commit: Option<Op>) -> Option<u64> {
        let (Some(commit), Some(acknowledged)) = (commit, seen.acknowledged) else {
            self.goal = None;
            return None;
        };
        let (goal, since) = *self.goal.get_or_insert((commit, now));
        if acknowledged >= goal {
            self.goal = Some((commit, now));
            return None;
        }
        (now.since(since) >= BEHIND_AFTER).then(|| commit.get().saturating_sub(acknowledged.get()))
    }
}

/// Checks and logs regularly, for as long as the node runs.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut members = shared.members.now();
    let mut watch = monitor(&shared, &members.cluster);
    loop {
        sleep(LOOK_EVERY).await;
        let now = shared.clock.monotonic();
        if !Arc::ptr_eq(&members, &shared.members.now()) {
            members = shared.members.now();
            watch = monitor(&shared, &members.cluster);
        }
        let cluster = &members.cluster;
        let (commit, progress) = shared.status.progress();
        let see = |id| PeerView {
            id,
            is_voter: cluster.is_voter(id),
            to: shared.lanes.is_reachable(id),
            from: shared.incoming.has(id),
            acknowledged: progress.iter().find(|peer| peer.id == id).map(|peer| peer.acknowledged),
            clock: shared.health.clock(id, now),
            twice: shared.health.duplicate_process(id, now),
        };
        let peers: Vec<PeerView> = cluster.peers(shared.me).map(|peer| see(peer.id)).collect();
        for report in watch.check(now, &peers, commit) {
            log(&shared, &report);
        }
        let wall = shared.clock.wall();
        let ends = shared.transport.expires();
        let left = ends.map(|ends| ends.checked_sub(wall).ok_or_else(|| wall.saturating_sub(ends)));
        if let Some(report) = watch.check_certificate(now, left) {
            log(&shared, &report);
        }
    }
}

fn monitor(shared: &Shared, cluster: &Cluster) -> HealthMonitor {
    let needed = cluster.replication_quorum().max(cluster.view_change_quorum());
    let mut watch = HealthMonitor::new(cluster.voter_count(), needed, shared.clock.monotonic());
    watch.is_voter = cluster.is_voter(shared.me);
    watch
}

/// Writes the line.
fn log(shared: &Shared, report: &Report) {
    let list = shared.members.now();
    let address = |peer: &MemberId| list.addresses(*peer).map_or("", |(address, _)| address).to_owned();
    let members = list.cluster.voter_count();
    match report {
        Report::Lost { peer, to, from } => {
            let (address, way, error) = (address(peer), broken_way(*to, *from), shared.health.error(*peer));
            tracing::warn!(
                %peer, address, way, error,
                "no connection with a member: check that it runs, and that the members reach each other's addresses"
            );
        }
        Report::Back { peer } => {
            tracing::info!(%peer, address = address(peer), "the connection with a member is back")
        }
        Report::Behind { peer, entries } => tracing::warn!(
            %peer, address = address(peer), entries,
            "a member does not keep up: until it has caught up, it cannot replace one that fails; check its log and its disk"
        ),
        Report::CaughtUp { peer } => tracing::info!(%peer, address = address(peer), "a member has caught up"),
        Report::NoRedundancy { working, needed } => tracing::warn!(
            working,
            needed,
            members,
            "no redundancy: if one more member fails, the cluster stops; bring the missing members back"
        ),
        Report::NoQuorum { working, needed } => tracing::warn!(
            working,
            needed,
            members,
            "no quorum: too few members are connected for writes and linearizable reads; bring the missing members back, or, if that is impossible for good, save the data with kv recover"
        ),
        Report::Quorum { working, needed } => tracing::warn!(
            working,
            needed,
            members,
            "quorum is back, without redundancy: if one more member fails, the cluster stops"
        ),
        Report::Redundant { working } => {
            tracing::info!(
                working,
                members,
                "the cluster is redundant again: it survives the loss of a member"
            );
        }
        Report::Clock { peer, ahead_ms } => tracing::warn!(
            %peer, address = address(peer), ahead_seconds = ahead_ms / 1000,
            "a member's clock is far from this one's: check the time synchronization (NTP) of both machines"
        ),
        Report::ClockRight { peer } => {
            tracing::info!(%peer, address = address(peer), "a member's clock agrees with this one's again");
        }
        Report::DuplicateInstance { peer, remote } => tracing::warn!(
            %peer, remote,
            "a member runs twice: two processes use its id, the last one from this remote address; stop the one that should \
             not run, and never start a member on a copied data directory"
        ),
        Report::Once { peer } => tracing::info!(%peer, "a member no longer runs twice"),
        Report::CertificateEnds { within } => tracing::warn!(
            days_left = within.as_secs() / 86_400,
            hours_left = within.as_secs() / 3_600,
            "the certificate of this member expires soon: replace its files (kv certs --renew); no restart is needed"
        ),
        Report::CertificateEnded { ago } => tracing::error!(
            hours_ago = ago.as_secs() / 3_600,
            "the certificate of this member has expired, and nobody accepts new connections with it: replace its files \
             (kv certs --renew); no restart is needed"
        ),
    }
}

const fn broken_way(to: bool, from: bool) -> &'static str {
    match (to, from) {
        (false, false) => "neither way",
        (false, true) => "not to it",
        (true, _) => "not from it",
    }
}

#[cfg(test)]
mod tests;
