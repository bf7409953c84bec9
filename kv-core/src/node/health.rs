//! What an operator must see: one line in the log when something is wrong that the cluster survives for now, and one when it is over.
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
//! [`Watch`] decides, from what is reported to it once or twice a second; it reads no clock and logs nothing, so that tests may ask it.

use super::clock::Clock;
use super::rate::Bucket;
use super::shared::Shared;
use super::sync::lock;
use crate::ids::{Instant, MemberId, Op, Timestamp};
use kv_transport::EXPIRY_WARNING;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::sleep;

/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long a connection may be broken: one that is opened anew is no news.
const LOST_AFTER: Duration = Duration::from_secs(2);
/// The same, of a member that was never connected: the members of a cluster are not started at once.
const ABSENT_AFTER: Duration = Duration::from_secs(5);
/// How long a member may lack what was committed.
const BEHIND_AFTER: Duration = Duration::from_secs(30);
/// How far a member's clock may be from this one's, in milliseconds. Signs of life may come late, by less than this.
const CLOCK_APART_MS: u64 = 10_000;
/// How long it must be so: what comes late comes at once, when it comes.
const CLOCK_AFTER: Duration = Duration::from_secs(5);
/// A clock that was not heard of for this long is not known.
const CLOCK_KNOWN: Duration = Duration::from_secs(3);
/// How long a second process with one id is remembered.
const TWICE_FOR: Duration = Duration::from_secs(30);
/// How often a lasting condition is logged again.
const REMIND_EVERY: Duration = Duration::from_secs(60 * 60);
/// The same, of a certificate.
const REMIND_DAILY: Duration = Duration::from_secs(24 * 60 * 60);
/// So often a process calls again that another had taken the place of, before there are two: the last call of one that has ended may
/// be heard after the first of its successor.
const RETURNS: u32 = 3;
/// So many processes of each member are remembered.
const LIVES: usize = 8;

/// What the parts of a node report.
#[derive(Debug, Default)]
pub(super) struct Health {
    peers: Mutex<BTreeMap<MemberId, Known>>,
}

/// What is known of a peer.
#[derive(Debug, Default)]
struct Known {
    /// How far its wall clock is ahead of this one's, in milliseconds, and when it reported that.
    clock: Option<(i64, Instant)>,
    /// Its processes, in the order in which they first called; the last is the one that called last.
    lives: Vec<u64>,
    /// When one called again that another had taken the place of, from where, and how often that has been.
    returned: Option<(Instant, String, u32)>,
    /// Why it could last not be reached.
    error: String,
}

impl Health {
    /// A peer has sent its wall clock.
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

    /// From where a second process with this id has called lately, and again.
    fn twice(&self, peer: MemberId, now: Instant) -> Option<String> {
        let peers = lock(&self.peers);
        let (at, remote, times) = peers.get(&peer)?.returned.as_ref()?;
        (now.since(*at) < TWICE_FOR && *times >= RETURNS).then(|| remote.clone())
    }

    /// How far a peer's clock is ahead, if that was heard lately.
    fn clock(&self, peer: MemberId, now: Instant) -> Option<i64> {
        let (ahead, at) = lock(&self.peers).get(&peer)?.clock?;
        (now.since(at) < CLOCK_KNOWN).then_some(ahead)
    }

    /// Why a peer could not be reached.
    fn error(&self, peer: MemberId) -> String {
        lock(&self.peers).get(&peer).map(|known| known.error.clone()).unwrap_or_default()
    }

    /// A connection to a peer broke, or was not made.
    pub(super) fn broke(&self, peer: MemberId, error: &str) {
        error.clone_into(&mut lock(&self.peers).entry(peer).or_default().error);
    }
}

/// Something that is wrong for a while.
#[derive(Debug)]
struct Alarm {
    since: Option<Instant>,
    /// When it was last reported, if it was.
    reported: Option<Instant>,
    /// What comes and goes all the time is not reported each time.
    bucket: Bucket,
    every: Duration,
}

/// What to report about an alarm.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Edge {
    /// It is so, or still so.
    On,
    /// It is over.
    Off,
}

impl Alarm {
    fn new(every: Duration, now: Instant) -> Self {
        Self { since: None, reported: None, bucket: Bucket::burst(Duration::from_secs(60), 5, now), every }
    }

    /// Whether it is so now; reported once it has been for so long.
    fn look(&mut self, now: Instant, is_so: bool, after: Duration) -> Option<Edge> {
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

/// How a peer is seen at one time.
#[derive(Clone, Debug)]
struct Seen {
    id: MemberId,
    /// It can be reached.
    to: bool,
    /// It reaches this member.
    from: bool,
    /// As the primary: the last op that it acknowledged.
    acknowledged: Option<Op>,
    /// How far its clock is ahead, in milliseconds, if it is known.
    clock: Option<i64>,
    /// From where a second process with its id has called lately.
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

/// What is wrong with one peer.
#[derive(Debug)]
struct PeerWatch {
    lost: Alarm,
    behind: Alarm,
    clock: Alarm,
    twice: Alarm,
    was_connected: bool,
    /// As the primary: what it is to acknowledge, and since when.
    goal: Option<(Op, Instant)>,
}

/// Decides what is reported.
#[derive(Debug)]
struct Watch {
    /// How many members there are, and how many must work.
    members: usize,
    needed: usize,
    started: Instant,
    peers: BTreeMap<MemberId, PeerWatch>,
    redundancy: Alarm,
    quorum: Alarm,
    certificate: Alarm,
    expired: Alarm,
}

impl Watch {
    fn new(members: usize, needed: usize, now: Instant) -> Self {
        let hourly = || Alarm::new(REMIND_EVERY, now);
        Self {
            members,
            needed,
            started: now,
            peers: BTreeMap::new(),
            redundancy: hourly(),
            quorum: hourly(),
            certificate: Alarm::new(REMIND_DAILY, now),
            expired: Alarm::new(REMIND_DAILY, now),
        }
    }

    /// What to report about the peers, as this member sees them. `commit`: what is committed, if this is the primary.
    fn look(&mut self, now: Instant, peers: &[Seen], commit: Option<Op>) -> Vec<Report> {
        let mut reports = Vec::new();
        let mut working = 1;
        for seen in peers {
            let watch = self.peers.entry(seen.id).or_insert_with(|| PeerWatch::new(now));
            watch.look(now, self.started, seen, commit, &mut reports);
            working += usize::from(!watch.lost.is_on() && !watch.behind.is_on());
        }
        let Self { needed, members, .. } = *self;
        // A cluster that can lose nobody even when it is whole has none to miss.
        let is_thin = working <= needed && members > needed;
        let thin = self.redundancy.look(now, is_thin, Duration::ZERO);
        let stops = self.quorum.look(now, working < needed, Duration::ZERO);
        reports.extend(match (stops, thin) {
            (Some(Edge::On), _) => Some(Report::NoQuorum { working, needed }),
            (_, Some(Edge::On)) if working == needed => Some(Report::NoRedundancy { working, needed }),
            (_, Some(Edge::Off)) => Some(Report::Redundant { working }),
            (Some(Edge::Off), _) => Some(Report::Quorum { working, needed }),
            _ => None,
        });
        reports
    }

    /// What to report about the certificate: for how long it is good still, or since when it is not.
    fn look_at_certificate(
        &mut self,
        now: Instant,
        left: Option<Result<Duration, Duration>>,
    ) -> Option<Report> {
        let soon = left.and_then(Result::ok).filter(|within| *within < EXPIRY_WARNING);
        let ended = left.and_then(Result::err);
        let ends = self.certificate.look(now, soon.is_some(), Duration::ZERO) == Some(Edge::On);
        let over = self.expired.look(now, ended.is_some(), Duration::ZERO) == Some(Edge::On);
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

    fn look(
        &mut self,
        now: Instant,
        started: Instant,
        seen: &Seen,
        commit: Option<Op>,
        reports: &mut Vec<Report>,
    ) {
        let peer = seen.id;
        let is_connected = seen.to && seen.from;
        self.was_connected |= is_connected;
        let patience = if self.was_connected { LOST_AFTER } else { ABSENT_AFTER };
        let is_early = !self.was_connected && now.since(started) < ABSENT_AFTER;
        reports.extend(self.lost.look(now, !is_connected && !is_early, patience).map(|edge| match edge {
            Edge::On => Report::Lost { peer, to: seen.to, from: seen.from },
            Edge::Off => Report::Back { peer },
        }));

        let lag = self.lag(now, seen, commit.filter(|_| is_connected));
        let over = self.behind.look(now, lag.is_some(), Duration::ZERO);
        match (over, lag) {
            (Some(Edge::On), Some(entries)) => reports.push(Report::Behind { peer, entries }),
            // One that is lost instead is reported as lost; and only a primary knows.
            (Some(Edge::Off), _) if is_connected && commit.is_some() => {
                reports.push(Report::CaughtUp { peer });
            }
            _ => {}
        }

        let apart = seen.clock.filter(|ahead| ahead.unsigned_abs() > CLOCK_APART_MS);
        match (self.clock.look(now, apart.is_some(), CLOCK_AFTER), apart) {
            (Some(Edge::On), Some(ahead_ms)) => reports.push(Report::Clock { peer, ahead_ms }),
            (Some(Edge::Off), _) if seen.clock.is_some() => reports.push(Report::ClockRight { peer }),
            _ => {}
        }

        match (self.twice.look(now, seen.twice.is_some(), Duration::ZERO), &seen.twice) {
            (Some(Edge::On), Some(remote)) => {
                reports.push(Report::DuplicateInstance { peer, remote: remote.clone() })
            }
            (Some(Edge::Off), _) => reports.push(Report::Once { peer }),
            _ => {}
        }
    }

    /// How many entries the peer lacks, if it has lacked what was committed for too long.
    fn lag(&mut self, now: Instant, seen: &Seen, commit: Option<Op>) -> Option<u64> {
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

/// Looks and logs, for as long as the node runs.
pub(super) async fn run(shared: Arc<Shared>) {
    let cluster = &shared.cluster;
    let needed = cluster.replication_quorum().max(cluster.view_change_quorum());
    let mut watch = Watch::new(cluster.len(), needed, shared.clock.monotonic());
    loop {
        sleep(LOOK_EVERY).await;
        let now = shared.clock.monotonic();
        let (commit, progress) = shared.status.progress();
        let see = |id| Seen {
            id,
            to: shared.lanes.reach(id),
            from: shared.incoming.has(id),
            acknowledged: progress.iter().find(|peer| peer.id == id).map(|peer| peer.acknowledged),
            clock: shared.health.clock(id, now),
            twice: shared.health.twice(id, now),
        };
        let peers: Vec<Seen> = cluster.peers(shared.me).map(|peer| see(peer.id)).collect();
        for report in watch.look(now, &peers, commit) {
            log(&shared, &report);
        }
        let wall = shared.clock.wall();
        let ends = shared.transport.expires();
        let left = ends.map(|ends| ends.checked_sub(wall).ok_or_else(|| wall.saturating_sub(ends)));
        if let Some(report) = watch.look_at_certificate(now, left) {
            log(&shared, &report);
        }
    }
}

/// Writes the line.
fn log(shared: &Shared, report: &Report) {
    let address =
        |peer: &MemberId| shared.cluster.member(*peer).map(|it| it.address.clone()).unwrap_or_default();
    let members = shared.cluster.len();
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
            "no quorum: too few members are connected for writes and linearizable reads; bring the missing members back"
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
        Report::CertificateEnds { .. } | Report::CertificateEnded { .. } => log_certificate(report),
    }
}

/// The same, of the certificate.
fn log_certificate(report: &Report) {
    match report {
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
        _ => {}
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
