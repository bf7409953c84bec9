//! The numbers by which a member is monitored.

use super::counters::read;
use super::reply::Admission;
use super::shared::Shared;
use super::status;
use crate::config::View;
use crate::ids::MemberId;
use crate::message::{Latencies, MemberStatus};
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::timeout;

/// How long the driver may take to answer a ping.
const RESPONSIVE_WITHIN: Duration = Duration::from_secs(2);

/// The numbers by which a member is monitored, at one time. All counts and [`Durations`] begin at zero when the member
/// starts.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Metrics {
    /// The status of the member.
    pub status: MemberStatus,
    /// The view of the member, without its epoch. This is a small number, which monitoring can represent exactly.
    pub view_number: u64,
    /// How often the member has moved to a later view.
    pub view_changes: u64,
    /// The last eight primaries that the member has seen begin to serve, oldest first.
    pub primaries: Vec<PrimaryChange>,
    /// The syncs of journal files, which make entries durable. The sync that follows the creation of a file does not
    /// count.
    pub journal_syncs: Durations,
    /// Only on the primary: from when it has ordered an entry until the entry is committed. Entries that are written to
    /// the journal together count as one.
    pub commits: Durations,
    /// The time for applying committed entries and answering their clients: one duration for each run of up to 64
    /// entries.
    pub applies: Durations,
    /// The time for writing a checkpoint of the state to the disk.
    pub checkpoints: Durations,
    /// The reads of clients that the member has carried out, except the gets that were answered in the task of the
    /// caller (see [`Node::client`](super::Node::client)).
    pub reads: Durations,
    /// The writes of clients that the member has carried out, from when it has read the call until it has the answer.
    pub writes: Durations,
    /// The answered calls of clients: each combination of kind and outcome once.
    pub requests: Vec<RequestCount>,
    /// The other members.
    pub peers: Vec<PeerMetrics>,
    /// How often something that this member had stored could not be read, and was fetched from other members: entries
    /// of its journal while it ran, each counted; the end of a journal that was damaged when it started; and its state.
    pub repairs: u64,
    /// How often the member has replaced its state with that of another member.
    pub state_transfers: u64,
    /// The length of all journal files, in bytes.
    pub journal_bytes: u64,
    /// The length of all files of the state, in bytes. Files that were removed but are still read do not count.
    pub state_bytes: u64,
    /// How much memory the requests and answers of clients use, in bytes.
    pub client_bytes: u64,
    /// How much memory they may use ([`Options::client_memory_bytes`](field@crate::Options::client_memory_bytes)).
    pub client_bytes_limit: u64,
    /// When the certificate of the member expires, if it has one.
    pub certificate_expires: Option<SystemTime>,
}

/// Another member, as a member sees it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PeerMetrics {
    /// The id of the peer.
    pub id: MemberId,
    /// Whether the two members have connections in both directions.
    pub is_connected: bool,
    /// Only on the primary: whether the peer has answered recently.
    pub is_alive: Option<bool>,
    /// Only on the primary: how many entries of the log the peer has not acknowledged. `None` until it has acknowledged
    /// anything in this view.
    pub lag: Option<u64>,
    /// Only on the primary: from when entries were sent to the peer until it acknowledged them. So this includes the
    /// sync of its disk. Not all entries are measured.
    pub acknowledgements: Durations,
    /// How many milliseconds the wall clock of the peer is ahead of the clock of this member, if that is known.
    pub clock_ahead_ms: Option<i64>,
}

/// A primary has begun to serve.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct PrimaryChange {
    /// The view of which it is the primary.
    pub view: View,
    /// The primary.
    pub primary: MemberId,
    /// When the member that reports this has learned of it, by its wall clock.
    pub at: SystemTime,
    /// If it has replaced another primary: how long that took, from the first suspicion until it served.
    pub took: Option<Duration>,
}

/// How many calls of one kind had one outcome.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct RequestCount {
    /// The kind of the calls.
    pub kind: RequestKind,
    /// Their outcome.
    pub outcome: RequestOutcome,
    /// How many there were.
    pub count: u64,
}

/// The kinds of calls.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum RequestKind {
    /// A get, a scan or a count.
    Read,
    /// A request that is written to the log: a write, a transaction, or the opening or closing of a session.
    Write,
    /// One step of a watch: a wait for changes.
    Watch,
    /// A request for the status or for a handover.
    Admin,
}

/// What became of a call.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum RequestOutcome {
    /// It was carried out. A write whose condition does not hold was carried out too.
    Done,
    /// It is in the log, and has no effect, for example because its session has expired.
    Rejected,
    /// Its revision is not here: the member has compacted it or has not applied it.
    NoRevision,
    /// It was sent to a member that is not the primary.
    NotPrimary,
    /// The member lost the role of the primary, and does not know what became of the call.
    Unknown,
    /// Too much was in progress.
    Overloaded,
    /// It exceeds a limit, or the member does not offer it.
    Refused,
}

impl RequestKind {
    pub(super) const ALL: [Self; 4] = [Self::Read, Self::Write, Self::Watch, Self::Admin];

    /// The name of this kind, such as `read`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Watch => "watch",
            Self::Admin => "admin",
        }
    }
}

impl RequestOutcome {
    pub(super) const ALL: [Self; 7] = [
        Self::Done,
        Self::Rejected,
        Self::NoRevision,
        Self::NotPrimary,
        Self::Unknown,
        Self::Overloaded,
        Self::Refused,
    ];

    /// The name of this outcome, such as `not_primary`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Rejected => "rejected",
            Self::NoRevision => "no_revision",
            Self::NotPrimary => "not_primary",
            Self::Unknown => "unknown",
            Self::Overloaded => "overloaded",
            Self::Refused => "refused",
        }
    }
}

impl fmt::Display for RequestKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Display for RequestOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Durations of one kind: a histogram and their sum.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Durations {
    latencies: Latencies,
    sum: Duration,
}

impl Durations {
    pub(super) const fn new(latencies: Latencies, sum: Duration) -> Self {
        Self { latencies, sum }
    }

    /// The histogram. It returns the number of the durations, their quantiles, and what was added between two times.
    #[must_use]
    pub const fn latencies(&self) -> &Latencies {
        &self.latencies
    }

    /// The sum of all durations.
    #[must_use]
    pub const fn sum(&self) -> Duration {
        self.sum
    }

    /// The histogram as cumulative buckets: how many durations were shorter than 2 µs, 4 µs, 8 µs and so on, up to
    /// 33.554432 s. These limits are always the same.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> {
        self.latencies.doublings()
    }
}

/// See [`Node::is_responsive`](super::Node::is_responsive).
pub(super) async fn is_responsive(shared: &Shared) -> bool {
    if shared.stop.borrow().is_some() {
        return false;
    }
    // Subscribed before the request, so that the answer cannot be missed.
    let mut answered = shared.pings_answered.subscribe();
    shared.inbox.ping();
    timeout(RESPONSIVE_WITHIN, answered.changed()).await.is_ok()
}

pub(super) fn metrics(shared: &Shared) -> Metrics {
    let status = status::status(shared);
    let counters = &shared.counters;
    let admission: &Admission = &shared.admission;
    let now = shared.clock.monotonic();
    let acknowledging = shared.status.acknowledging();
    let peer = |id: MemberId| {
        let seen = status.peers.iter().find(|peer| peer.id == id);
        PeerMetrics {
            id,
            is_connected: shared.lanes.is_reachable(id) && shared.incoming.has(id),
            is_alive: seen.map(|peer| peer.alive),
            lag: seen
                .filter(|peer| acknowledging.contains(&peer.id))
                .map(|peer| status.head.distance_from(peer.acknowledged)),
            acknowledgements: counters.acknowledgements(id).durations(),
            clock_ahead_ms: shared.health.clock(id, now),
        }
    };
    Metrics {
        view_number: status.view.number(),
        view_changes: read(&counters.view_changes),
        primaries: shared.status.primaries(),
        journal_syncs: counters.journal_syncs.durations(),
        commits: counters.commits.durations(),
        applies: counters.applies.durations(),
        checkpoints: counters.checkpoints.durations(),
        reads: admission.meter.reads.durations(),
        writes: admission.meter.writes.durations(),
        requests: admission.meter.requests(),
        peers: shared.members.now().cluster.peers(shared.me).map(|member| peer(member.id)).collect(),
        repairs: read(&counters.repairs),
        state_transfers: read(&counters.state_transfers),
        journal_bytes: shared.log().map_or(0, |log| log.file_bytes()),
        state_bytes: shared.state().map_or(0, |state| state.file_bytes()),
        client_bytes: admission.budget.held() as u64,
        client_bytes_limit: admission.budget.limit() as u64,
        certificate_expires: shared.transport.expires().map(|since| UNIX_EPOCH + since),
        status,
    }
}
