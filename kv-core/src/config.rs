//! The configurations of a cluster and of a node. A `Cluster` is always valid; a node checks `Options` when it starts.

mod configuration;
mod difference;
mod fixed;
mod setters;

#[cfg(not(feature = "internals"))]
pub(crate) use configuration::{
    Change, ChangeRefused, ChangeRequest, Configuration, ConfiguredMember, DiskId, HistoryId,
};
#[cfg(feature = "internals")]
pub use configuration::{
    Change, ChangeRefused, ChangeRequest, Configuration, ConfiguredMember, DiskId, HistoryId, UsedIds,
};
#[cfg(feature = "internals")]
pub use fixed::FixedOptions;
#[cfg(not(feature = "internals"))]
pub(crate) use fixed::FixedOptions;
pub use fixed::{OPTION_TABLE, OptionMismatch, OptionRow, Scope};

pub use crate::ids::{ClusterId, Epoch, Hash, MemberId, View};

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

/// What a member does. A role is printed and serialized as `data` or `witness`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Role {
    /// A member that votes, keeps the log and the data, and can be primary.
    Data,
    /// A member that votes and keeps the log, but stores no data and is never primary.
    Witness,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// A configured member.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Member {
    /// The id of the member. Never give this id to another member.
    pub id: MemberId,
    /// The address at which the other members and the clients reach this member, in the transport's notation
    /// (`HOST:PORT`). The address may change between restarts. The configurations of other members may contain
    /// different addresses for this member, for example behind NAT. Members log such a difference.
    pub address: String,
    /// What the member does.
    pub role: Role,
    /// It receives the log and the state like a backup, but it is in no quorum, and never votes.
    pub(crate) is_standby: bool,
}

/// Why a configuration was refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// No member was given.
    #[error("the cluster has no members: name at least one")]
    NoMembers,
    /// There are more members than the protocol supports.
    #[error("the cluster has {0} members: at most 15 are supported")]
    TooManyMembers(usize),
    /// The name is empty or too long.
    #[error("the cluster name has {0} bytes: give it 1 to 100")]
    Name(usize),
    /// Two members have the same id.
    #[error("duplicate member id {0}: give each member an id of its own")]
    DuplicateId(MemberId),
    /// Two members have the same address.
    #[error("duplicate address {0}: give each member an address of its own")]
    DuplicateAddress(String),
    /// An address is empty, is longer than 255 bytes, or contains white space. (When a node starts, the transport
    /// also checks the form of the address.)
    #[error(
        "member {id} has the invalid address {address:?}: write an address of its transport, as in 127.0.0.1:7000"
    )]
    Address {
        /// The id of the member.
        id: MemberId,
        /// The address that was given.
        address: String,
    },
    /// There are so many witnesses that they could form a [replication quorum](Cluster::replication_quorum) without a
    /// data member.
    #[error(
        "{witnesses} of {members} members are witnesses: at most {most} can be, so that every write reaches a data member"
    )]
    TooManyWitnesses {
        /// The number of witnesses in the configuration.
        witnesses: usize,
        /// The number of all members.
        members: usize,
        /// The greatest number of witnesses allowed.
        most: usize,
    },
    /// The node's own id is not among the members.
    #[error("member {0} is not in the configuration: add it, or use the id of a configured member")]
    NotAMember(MemberId),
    /// A limit or time-out is outside its range.
    #[error("{name} is {value}: it must be {range}")]
    Range {
        /// The name of the setting.
        name: &'static str,
        /// The value that was given.
        value: String,
        /// The allowed range.
        range: &'static str,
    },
}

/// The members and the quorums of a cluster. The name, the ids and the roles must be equal in the configurations of all
/// members. Members compare the [`fingerprint`](Self::fingerprint) of these three when they connect.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cluster {
    name: String,
    members: BTreeMap<MemberId, Member>,
}

impl Cluster {
    /// Starts a configuration for the cluster `name` (1 to 100 bytes).
    pub fn builder(name: impl Into<String>) -> ClusterBuilder {
        ClusterBuilder { name: name.into(), members: Vec::new() }
    }

    /// The name of the cluster.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The id of the cluster: a hash of its name.
    #[must_use]
    pub fn id(&self) -> ClusterId {
        ClusterId::of_name(&self.name)
    }

    /// All members in id order.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// The number of members, witnesses included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Always false: a cluster has at least one member.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The member with this id.
    #[must_use]
    pub fn member(&self, id: MemberId) -> Option<&Member> {
        self.members.get(&id)
    }

    /// All members except `me`, in id order.
    pub fn peers(&self, me: MemberId) -> impl Iterator<Item = &Member> {
        self.members.values().filter(move |member| member.id != me)
    }

    /// The members that vote: all but the standbys.
    pub(crate) fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members.values().filter(|member| !member.is_standby)
    }

    /// The number of members that vote.
    pub(crate) fn voter_count(&self) -> usize {
        self.voters().count()
    }

    /// Whether this is the id of a member that votes.
    pub(crate) fn is_voter(&self, id: MemberId) -> bool {
        self.members.get(&id).is_some_and(|member| !member.is_standby)
    }

    /// The replication quorum: the number of members on which a write must be durable before it is acknowledged.
    #[must_use]
    pub fn replication_quorum(&self) -> usize {
        self.voter_count() / 2 + 1
    }

    /// The view-change quorum: the number of members that must agree to leave a view. (A view is a period with one
    /// primary.)
    #[must_use]
    pub fn view_change_quorum(&self) -> usize {
        self.voter_count() / 2 + 1
    }

    /// The nack quorum: if this many members never held an entry, the entry was not committed.
    #[must_use]
    pub fn nack_quorum(&self) -> usize {
        self.voter_count() - self.replication_quorum() + 1
    }

    /// The primary of `view`: the data members take turns, in id order.
    ///
    /// # Panics
    /// Never: a cluster has a data member.
    #[must_use]
    pub fn primary(&self, view: View) -> MemberId {
        let data = || self.voters().filter(|member| member.role == Role::Data);
        let turn = view.number() % data().count() as u64;
        data().nth(usize::try_from(turn).expect("below 15")).expect("a cluster has a data member").id
    }

    /// A hash of the name, the ids of the members that vote, and their roles. Members whose fingerprints differ refuse
    /// each other. The hash does not cover addresses: the protocol counts votes by ids, and addresses may change or
    /// differ between members.
    #[must_use]
    pub fn fingerprint(&self) -> Hash {
        fingerprint_of(&self.name, self.voters().map(|member| (member.id, member.role)))
    }

    /// Finds out how the member list with this fingerprint differs from the list of `self`, by trying every list that
    /// differs in one member. The returned text begins with a colon, so that it can be appended to an error message. If
    /// no such list has this fingerprint, the text is empty.
    pub(crate) fn difference(&self, fingerprint: Hash) -> String {
        let members = self.voters().map(|member| (member.id, member.role)).collect();
        difference::difference(&self.name, &members, fingerprint)
    }
}

fn fingerprint_of(name: &str, members: impl Iterator<Item = (MemberId, Role)>) -> Hash {
    let mut text = format!("{name}\n");
    for (id, role) in members {
        text.push_str(&format!("{id} {role:?}\n"));
    }
    Hash::of(text.as_bytes())
}

/// Builds a [`Cluster`]; [`build`](Self::build) checks all members.
#[derive(Clone, Debug)]
pub struct ClusterBuilder {
    name: String,
    members: Vec<Member>,
}

impl ClusterBuilder {
    /// Adds a data member.
    #[must_use]
    pub fn member(self, id: u8, address: impl Into<String>) -> Self {
        self.with(id, address, Role::Data)
    }

    /// Adds a data member for each pair of an id and an address.
    #[must_use]
    pub fn members<A: Into<String>>(self, members: impl IntoIterator<Item = (u8, A)>) -> Self {
        members.into_iter().fold(self, |builder, (id, address)| builder.member(id, address))
    }

    /// Adds a witness.
    #[must_use]
    pub fn witness(self, id: u8, address: impl Into<String>) -> Self {
        self.with(id, address, Role::Witness)
    }

    /// Adds a member with a role.
    #[must_use]
    pub fn with(mut self, id: u8, address: impl Into<String>, role: Role) -> Self {
        let (id, address) = (MemberId::new(id), address.into());
        self.members.push(Member { id, address, role, is_standby: false });
        self
    }

    /// Adds a member that does not vote.
    #[cfg(feature = "internals")]
    #[must_use]
    pub fn standby(self, id: u8, address: impl Into<String>, role: Role) -> Self {
        self.with_standby(id, address, role)
    }

    pub(crate) fn with_standby(self, id: u8, address: impl Into<String>, role: Role) -> Self {
        let mut builder = self.with(id, address, role);
        if let Some(member) = builder.members.last_mut() {
            member.is_standby = true;
        }
        builder
    }

    /// Checks and returns the configuration.
    ///
    /// # Errors
    /// A [`ConfigError`] that describes the first mistake.
    pub fn build(self) -> Result<Cluster, ConfigError> {
        if self.name.is_empty() || self.name.len() > 100 {
            return Err(ConfigError::Name(self.name.len()));
        }
        if self.members.is_empty() {
            return Err(ConfigError::NoMembers);
        }
        if self.members.len() > 15 {
            return Err(ConfigError::TooManyMembers(self.members.len()));
        }
        let mut members = BTreeMap::new();
        for member in self.members {
            check_address(&member)?;
            if members.values().any(|other: &Member| other.address == member.address) {
                return Err(ConfigError::DuplicateAddress(member.address));
            }
            let id = member.id;
            if members.insert(id, member).is_some() {
                return Err(ConfigError::DuplicateId(id));
            }
        }
        let cluster = Cluster { name: self.name, members };
        let members = cluster.voter_count();
        if members == 0 {
            return Err(ConfigError::NoMembers);
        }
        let witnesses = cluster.voters().filter(|member| member.role == Role::Witness).count();
        let most = cluster.replication_quorum() - 1;
        if witnesses > most {
            return Err(ConfigError::TooManyWitnesses { witnesses, members, most });
        }
        Ok(cluster)
    }
}

/// The greatest length of an address, in bytes. It is limited because the first answer on a connection contains the
/// addresses of all members.
const MAX_ADDRESS: usize = 255;

fn check_address(member: &Member) -> Result<(), ConfigError> {
    let (id, address) = (member.id, member.address.clone());
    if address.is_empty() || address.len() > MAX_ADDRESS || address.contains(char::is_whitespace) {
        return Err(ConfigError::Address { id, address });
    }
    Ok(())
}

/// The default number of log entries that may be uncommitted at once.
const DEFAULT_PIPELINE_DEPTH: u32 = 32;

/// Time-outs and limits of a node. Every option has a default, a range and a setter. A node checks the ranges when it
/// starts; to check them earlier, call [`checked`](Self::checked). Some options are fixed when the cluster forms. The
/// other options may differ between members, and may change with every restart: see [`OPTION_TABLE`].
///
/// ```
/// # use kv_core::Options;
/// # use std::time::Duration;
/// let options = Options::default().heartbeat(Duration::from_millis(50)).max_value_bytes(64 << 10).checked()?;
/// # Ok::<(), kv_core::config::ConfigError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Options {
    /// Time between two heartbeats of the primary (messages that show that it is alive). Default 25 ms; 1 ms to 10 s.
    pub heartbeat: Duration,
    /// Shortest silence after which a backup suspects that the primary has failed. Between this value and
    /// [`failure_timeout_max`](field@Self::failure_timeout_max), the backup adapts its time-out to the silences that it
    /// observes. Default 150 ms; at least 3 times `heartbeat`, at most 60 s.
    pub failure_timeout_min: Duration,
    /// Longest silence after which a backup suspects that the primary has failed. Default 2 s; at least
    /// `failure_timeout_min`, at most 120 s.
    pub failure_timeout_max: Duration,
    /// Length of a read lease. A member that answers a heartbeat promises not to help another member become primary
    /// during this time. If a quorum has answered a heartbeat, the primary serves linearizable reads without asking the
    /// quorum again, until 80 % of this time has passed since the primary sent the heartbeat. Zero disables read
    /// leases: then the primary asks a quorum to confirm each linearizable read, and these reads depend on no clock.
    /// Fixed when the cluster forms. Default 0; otherwise at least 4 times `heartbeat`, at most `failure_timeout_max`.
    ///
    /// **With read leases, reads are linearizable only if clocks are correct**: the monotonic clock of every member
    /// must run within 10 % of the true rate, even while the process or the machine pauses. On Linux, kv uses a clock
    /// that also runs while the machine is suspended. However, the clock of a virtual machine stops while the host
    /// pauses the virtual machine. So do not use read leases if the host may pause the virtual machine. Wall clocks do
    /// not matter. Writes do not depend on clocks.
    ///
    /// If a primary crashes and its connections break, the backups notice this at once, and the read lease delays the
    /// replacement by up to `read_lease`. If a primary only falls silent, the backups first wait for at least
    /// `failure_timeout_min`. A lease of at most `failure_timeout_min` has ended by then, and does not delay the
    /// replacement. A read lease never delays a planned handover. A restarted member no longer knows its promises.
    /// So for a time of `read_lease` after its start, it sends nothing that could complete a primary's replacement.
    pub read_lease: Duration,
    /// How far wall clocks may be set forward during an outage of all members, without making a key or a client's lease
    /// expire early. (A running member counts as down if the others cannot reach it when the outage ends.) For expiry,
    /// members use wall clocks only to find out how long an outage lasted. After it, clients' leases and keys with a
    /// time to live expire late by up to this value. It may differ between members. Default 5 s; at most 1 h.
    pub wall_clock_allowance: Duration,
    /// Maximum number of log entries that may be uncommitted at once. Fixed when the cluster forms. Default 32; 1 to
    /// 256.
    pub pipeline_depth: u32,
    /// Maximum total size of the requests in one log entry, in bytes. Default 1 MiB; 64 KiB to 16 MiB.
    pub max_batch_bytes: usize,
    /// Largest key, in bytes. Fixed when the cluster forms. Default 4 KiB; 1 B to 64 KiB.
    pub max_key_bytes: usize,
    /// Largest value, in bytes. Fixed when the cluster forms. Default 1 MiB; 1 B to 8 MiB.
    pub max_value_bytes: usize,
    /// Size of a journal file, in bytes. (The journal is the log on disk.) An entry that does not fit into a file of
    /// this size gets a file of its own. Default 16 MiB; 64 KiB to 1 GiB, at least twice `max_batch_bytes`, and at
    /// least 2 x (`max_key_bytes` + `max_value_bytes`) + 80 KiB.
    pub segment_bytes: u64,
    /// A data member writes a checkpoint of the state when this many bytes of new data are in memory. Default 32 MiB;
    /// 64 KiB to 4 GiB.
    pub checkpoint_bytes: usize,
    /// A data member keeps up to this many bytes of its journal for members that are away (down, cut off or behind). A
    /// data member that needs older entries receives the whole state. Default 256 MiB; 0 to 1 TiB.
    pub journal_retention_bytes: u64,
    /// A witness keeps at most this many bytes of its journal for a data member that is away. If the data member needs
    /// more, the witness drops entries that the data member needs, and logs an error. Then the cluster may become
    /// unavailable, but never inconsistent. Default 1 GiB; 1 MiB to 1 TiB.
    pub witness_journal_bytes: u64,
    /// Maximum rate at which the state is sent to another member, in bytes per second. Default 64 MiB; 64 KiB to 1 TiB.
    pub transfer_bytes_per_second: u64,
    /// Rate at which a member reads its journal and its state again to find damage, in bytes per second; 0 disables the
    /// search. The member fetches intact copies of damaged data from another member. Default 1 MiB; 0 to 1 GiB.
    pub scrub_bytes_per_second: u64,
    /// Maximum memory for the cache of the state, in bytes. Default 64 MiB; 1 MiB to 1 TiB.
    pub cache_bytes: usize,
    /// Maximum number of client sessions. (A session is the cluster's record of one client.) A further session evicts
    /// the session that has been silent longest. Fixed when the cluster forms. Default 10,000; 1 to 1,000,000.
    pub max_sessions: usize,
    /// A session expires after this much silence, measured by the timestamps in the log. Fixed when the cluster forms.
    /// Default 10 min; 1 s to 30 days.
    pub session_ttl: Duration,
    /// Maximum number of requests in flight in one session. Fixed when the cluster forms. Default 256; 1 to 4,096.
    pub max_in_flight_per_session: usize,
    /// Members keep the changes of this many recent revisions for watches and reads at old revisions, or fewer if these
    /// changes exceed `history_bytes`. Fixed when the cluster forms. Default 1,000,000; 0 (none) to 1,000,000,000.
    pub history_revisions: u64,
    /// Maximum total size of the changes that members keep for watches and reads at old revisions, in bytes. The size
    /// of a change is 64 bytes, plus twice the size of the key, plus the size of the value that the change replaced.
    /// Members remove the oldest changes first. Fixed when the cluster forms. Default 64 MiB; 0 (none) to 1 TiB.
    pub history_bytes: u64,
    /// Maximum number of clients' leases (not read leases). Members refuse requests for further leases until a lease
    /// ends. Fixed when the cluster forms. Default 10,000; 0 to 1,000,000.
    pub max_leases: usize,
    /// Maximum number of client connections. One client gets at most eight ninths of them. A member identifies a client
    /// by the name in its certificate or, without TLS, by its address. Default 1,024; 1 to 100,000.
    pub max_connections: usize,
    /// Maximum number of client connections that a member accepts per second. The member closes further connections
    /// immediately, and the clients retry. Default 1,000; 1 to 1,000,000.
    pub max_accepts_per_second: u32,
    /// Maximum memory for all client connections together, in bytes. It holds requests that are being received or are
    /// in flight, and answers that are not yet written. When this memory is used up, requests wait, or the member
    /// answers them with `Overloaded`. One client gets at most two thirds of the memory. Default 256 MiB; 16 MiB to 1
    /// TiB, and at least 10 x (`max_key_bytes` + `max_value_bytes`).
    pub client_memory_bytes: usize,
    /// A member closes a client connection that has been silent for this long. A client learns this time when it
    /// connects, and sends heartbeats often enough to stay connected. Default 60 s; 1 s to 1 day.
    pub client_idle_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(25),
            failure_timeout_min: Duration::from_millis(150),
            failure_timeout_max: Duration::from_secs(2),
            read_lease: Duration::ZERO,
            wall_clock_allowance: Duration::from_secs(5),
            pipeline_depth: DEFAULT_PIPELINE_DEPTH,
            max_batch_bytes: 1 << 20,
            max_key_bytes: 4 << 10,
            max_value_bytes: 1 << 20,
            segment_bytes: 16 << 20,
            checkpoint_bytes: 32 << 20,
            journal_retention_bytes: 256 << 20,
            witness_journal_bytes: 1 << 30,
            transfer_bytes_per_second: 64 << 20,
            scrub_bytes_per_second: 1 << 20,
            cache_bytes: 64 << 20,
            max_sessions: 10_000,
            session_ttl: Duration::from_secs(600),
            max_in_flight_per_session: 256,
            history_revisions: 1_000_000,
            history_bytes: 64 << 20,
            max_leases: 10_000,
            max_connections: 1024,
            max_accepts_per_second: 1000,
            client_memory_bytes: 256 << 20,
            client_idle_timeout: Duration::from_secs(60),
        }
    }
}

impl Options {
    /// Checks that every value is in its range.
    ///
    /// # Errors
    /// A [`ConfigError::Range`] that names the first value that is out of range, and the allowed range.
    pub fn check(&self) -> Result<(), ConfigError> {
        let ms = Duration::from_millis;
        let (beat, least, most) = (self.heartbeat, self.failure_timeout_min, self.failure_timeout_max);
        time("heartbeat", beat, ms(1)..=ms(10_000), "1 ms to 10 s")?;
        time(
            "failure_timeout_min",
            least,
            beat.saturating_mul(3)..=ms(60_000),
            "at least 3 heartbeats, at most 60 s",
        )?;
        time(
            "failure_timeout_max",
            most,
            least..=ms(120_000),
            "at least failure_timeout_min, at most 120 s",
        )?;
        if !self.read_lease.is_zero() {
            let range = "0, or at least 4 heartbeats, and at most failure_timeout_max";
            time("read_lease", self.read_lease, beat.saturating_mul(4)..=most, range)?;
        }
        time("wall_clock_allowance", self.wall_clock_allowance, ms(0)..=ms(3_600_000), "at most 1 h")?;
        time("session_ttl", self.session_ttl, ms(1_000)..=ms(30 * 86_400_000), "1 s to 30 days")?;
        number("pipeline_depth", self.pipeline_depth.into(), 1..=256, "1 to 256")?;
        size("max_batch_bytes", self.max_batch_bytes, 64 << 10..=16 << 20, "64 KiB to 16 MiB")?;
        size("max_key_bytes", self.max_key_bytes, 1..=64 << 10, "1 B to 64 KiB")?;
        size("max_value_bytes", self.max_value_bytes, 1..=8 << 20, "1 B to 8 MiB")?;
        size("checkpoint_bytes", self.checkpoint_bytes, 64 << 10..=4 << 30, "64 KiB to 4 GiB")?;
        number("journal_retention_bytes", self.journal_retention_bytes, 0..=1 << 40, "0 to 1 TiB")?;
        let most = 1 << 40;
        number("witness_journal_bytes", self.witness_journal_bytes, 1 << 20..=most, "1 MiB to 1 TiB")?;
        let rate = self.transfer_bytes_per_second;
        number("transfer_bytes_per_second", rate, 64 << 10..=most, "64 KiB to 1 TiB")?;
        number("scrub_bytes_per_second", self.scrub_bytes_per_second, 0..=1 << 30, "0 to 1 GiB")?;
        size("cache_bytes", self.cache_bytes, 1 << 20..=1 << 40, "1 MiB to 1 TiB")?;
        let entry = (2 * self.max_batch_bytes).max(self.largest_request() + (16 << 10)) as u64;
        let segment = "64 KiB to 1 GiB, at least twice max_batch_bytes, and at least 80 KiB more than twice the largest key and value";
        number("segment_bytes", self.segment_bytes, entry.max(64 << 10)..=1 << 30, segment)?;
        size("max_sessions", self.max_sessions, 1..=1_000_000, "1 to 1,000,000")?;
        size("max_in_flight_per_session", self.max_in_flight_per_session, 1..=4096, "1 to 4,096")?;
        let revisions = 0..=1_000_000_000;
        number("history_revisions", self.history_revisions, revisions, "0 to 1,000,000,000")?;
        number("history_bytes", self.history_bytes, 0..=most, "0 to 1 TiB")?;
        size("max_leases", self.max_leases, 0..=1_000_000, "0 to 1,000,000")?;
        size("max_connections", self.max_connections, 1..=100_000, "1 to 100,000")?;
        number(
            "max_accepts_per_second",
            self.max_accepts_per_second.into(),
            1..=1_000_000,
            "1 to 1,000,000",
        )?;
        let least = (10 * (self.max_key_bytes + self.max_value_bytes) as u64).max(16 << 20);
        let memory = "16 MiB to 1 TiB, and at least ten times the largest key and value";
        size("client_memory_bytes", self.client_memory_bytes, least..=1 << 40, memory)?;
        time("client_idle_timeout", self.client_idle_timeout, ms(1_000)..=ms(86_400_000), "1 s to 1 day")
    }
}

impl Options {
    /// The greatest size of an encoded request, in bytes. All keys and values of a transaction together
    /// have at most 2 x (`max_key_bytes` + `max_value_bytes`) bytes. The rest of the request has at most 64 KiB.
    pub(crate) const fn largest_request(&self) -> usize {
        2 * (self.max_key_bytes + self.max_value_bytes) + (64 << 10)
    }
}

fn time(
    name: &'static str,
    value: Duration,
    allowed: RangeInclusive<Duration>,
    range: &'static str,
) -> Result<(), ConfigError> {
    if allowed.contains(&value) {
        return Ok(());
    }
    Err(ConfigError::Range { name, value: format!("{value:?}"), range })
}

fn number(
    name: &'static str,
    value: u64,
    allowed: RangeInclusive<u64>,
    range: &'static str,
) -> Result<(), ConfigError> {
    if allowed.contains(&value) {
        return Ok(());
    }
    Err(ConfigError::Range { name, value: value.to_string(), range })
}

fn size(
    name: &'static str,
    value: usize,
    allowed: RangeInclusive<u64>,
    range: &'static str,
) -> Result<(), ConfigError> {
    number(name, value as u64, allowed, range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_in_range() {
        assert_eq!(Options::default().check(), Ok(()));
    }

    #[test]
    fn each_value_outside_its_range_is_named() {
        type Spoiler = fn(&mut Options);
        let spoilers: [(&str, Spoiler); 28] = [
            ("heartbeat", |options| options.heartbeat = Duration::ZERO),
            ("failure_timeout_min", |options| options.failure_timeout_min = options.heartbeat),
            ("failure_timeout_max", |options| options.failure_timeout_max = options.heartbeat),
            ("read_lease", |options| options.read_lease = options.heartbeat),
            ("read_lease", |options| options.read_lease = options.failure_timeout_max * 2),
            ("wall_clock_allowance", |options| options.wall_clock_allowance = Duration::MAX),
            ("session_ttl", |options| options.session_ttl = Duration::ZERO),
            ("pipeline_depth", |options| options.pipeline_depth = 0),
            ("max_batch_bytes", |options| options.max_batch_bytes = 0),
            ("max_key_bytes", |options| options.max_key_bytes = 0),
            ("max_value_bytes", |options| options.max_value_bytes = usize::MAX / 2),
            ("checkpoint_bytes", |options| options.checkpoint_bytes = 0),
            ("cache_bytes", |options| options.cache_bytes = 0),
            ("segment_bytes", |options| options.segment_bytes = options.max_batch_bytes as u64),
            ("journal_retention_bytes", |options| options.journal_retention_bytes = u64::MAX),
            ("witness_journal_bytes", |options| options.witness_journal_bytes = 0),
            ("scrub_bytes_per_second", |options| options.scrub_bytes_per_second = u64::MAX),
            ("transfer_bytes_per_second", |options| options.transfer_bytes_per_second = 0),
            ("max_sessions", |options| options.max_sessions = 0),
            ("max_in_flight_per_session", |options| options.max_in_flight_per_session = 0),
            ("history_revisions", |options| options.history_revisions = u64::MAX),
            ("history_bytes", |options| options.history_bytes = u64::MAX),
            ("max_leases", |options| options.max_leases = usize::MAX),
            ("max_connections", |options| options.max_connections = 0),
            ("max_connections", |options| options.max_connections = 1_000_000),
            ("max_accepts_per_second", |options| options.max_accepts_per_second = 0),
            ("client_memory_bytes", |options| options.client_memory_bytes = 0),
            ("client_idle_timeout", |options| options.client_idle_timeout = Duration::ZERO),
        ];
        for (expected, spoil) in spoilers {
            let mut options = Options::default();
            spoil(&mut options);
            match options.check() {
                Err(ConfigError::Range { name, .. }) => assert_eq!(name, expected),
                other => panic!("{expected}: {other:?}"),
            }
        }
    }
}
