//! Time-outs and limits. Each is a flag, a variable and a line of the file.

use super::units::{DurationArg, SizeArg};
use clap::Args;
use kv_core::config::Options;
use serde::Deserialize;

/// Limits and time-outs. `None` means the default.
#[derive(Args, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[serde(deny_unknown_fields, default)]
#[command(next_help_heading = "Tuning")]
pub(crate) struct Tuning {
    /// Time between two heartbeats of the primary [default: 25ms]
    #[arg(long, env = "KV_HEARTBEAT", value_name = "TIME")]
    pub(crate) heartbeat: Option<DurationArg>,

    /// Shortest silence after which a backup suspects that the primary has failed [default: 150ms]
    #[arg(long, env = "KV_FAILURE_TIMEOUT_MIN", value_name = "TIME")]
    pub(crate) failure_timeout_min: Option<DurationArg>,

    /// Longest silence after which a backup suspects that the primary has failed [default: 2s]
    #[arg(long, env = "KV_FAILURE_TIMEOUT_MAX", value_name = "TIME")]
    pub(crate) failure_timeout_max: Option<DurationArg>,

    /// Length of a read lease: for this long after a quorum has answered a heartbeat, the primary serves linearizable
    /// reads without asking again. It relies on correct monotonic clocks; 0s disables it. Fixed when the cluster forms
    /// [default: 0s]
    #[arg(long, env = "KV_READ_LEASE", value_name = "TIME")]
    pub(crate) read_lease: Option<DurationArg>,

    /// How far wall clocks may be set forward while all members are down, without making anything expire early; after
    /// such a time, everything expires late by this much [default: 5s]
    #[arg(long, env = "KV_WALL_CLOCK_ALLOWANCE", value_name = "TIME")]
    pub(crate) wall_clock_allowance: Option<DurationArg>,

    /// Most log entries that may be uncommitted at once. Fixed when the cluster forms [default: 32]
    #[arg(long, env = "KV_PIPELINE_DEPTH", value_name = "N")]
    pub(crate) pipeline_depth: Option<u32>,

    /// Most bytes of requests in one log entry [default: 1MiB]
    #[arg(long, env = "KV_MAX_BATCH_BYTES", value_name = "SIZE")]
    pub(crate) max_batch_bytes: Option<SizeArg>,

    /// Largest key. Fixed when the cluster forms [default: 4KiB]
    #[arg(long, env = "KV_MAX_KEY_BYTES", value_name = "SIZE")]
    pub(crate) max_key_bytes: Option<SizeArg>,

    /// Largest value. Fixed when the cluster forms [default: 1MiB]
    #[arg(long, env = "KV_MAX_VALUE_BYTES", value_name = "SIZE")]
    pub(crate) max_value_bytes: Option<SizeArg>,

    /// Size of a journal file [default: 16MiB]
    #[arg(long, env = "KV_SEGMENT_BYTES", value_name = "SIZE")]
    pub(crate) segment_bytes: Option<SizeArg>,

    /// Write the state to disk when this much new data is in memory [default: 32MiB]
    #[arg(long, env = "KV_CHECKPOINT_BYTES", value_name = "SIZE")]
    pub(crate) checkpoint_bytes: Option<SizeArg>,

    /// Re-read the journal and the state at this rate, in bytes per second, to find damage early; 0 disables it
    /// [default: 1MiB]
    #[arg(long, env = "KV_SCRUB_BYTES_PER_SECOND", value_name = "SIZE")]
    pub(crate) scrub_bytes_per_second: Option<SizeArg>,

    /// Keep this much of the journal for members that are away. A member that needs older entries receives the whole
    /// state [default: 256MiB]
    #[arg(long, env = "KV_JOURNAL_RETENTION_BYTES", value_name = "SIZE")]
    pub(crate) journal_retention_bytes: Option<SizeArg>,

    /// Keep at most this much of a witness's journal for a data member that is away [default: 1GiB]
    #[arg(long, env = "KV_WITNESS_JOURNAL_BYTES", value_name = "SIZE")]
    pub(crate) witness_journal_bytes: Option<SizeArg>,

    /// Send the state to another member at this rate, in bytes per second [default: 64MiB]
    #[arg(long, env = "KV_TRANSFER_BYTES_PER_SECOND", value_name = "SIZE")]
    pub(crate) transfer_bytes_per_second: Option<SizeArg>,

    /// Most memory for the cache of the state file [default: 64MiB]
    #[arg(long, env = "KV_CACHE_BYTES", value_name = "SIZE")]
    pub(crate) cache_bytes: Option<SizeArg>,

    /// Most client sessions. Another one evicts the session that was silent longest. Fixed when the cluster forms
    /// [default: 10000]
    #[arg(long, env = "KV_MAX_SESSIONS", value_name = "N")]
    pub(crate) max_sessions: Option<usize>,

    /// A client session expires after this much silence. Fixed when the cluster forms [default: 10min]
    #[arg(long, env = "KV_SESSION_TTL", value_name = "TIME")]
    pub(crate) session_ttl: Option<DurationArg>,

    /// Most requests in flight in one session. Fixed when the cluster forms [default: 256]
    #[arg(long, env = "KV_MAX_IN_FLIGHT_PER_SESSION", value_name = "N")]
    pub(crate) max_in_flight_per_session: Option<usize>,

    /// Most leases. Fixed when the cluster forms [default: 10000]
    #[arg(long, env = "KV_MAX_LEASES", value_name = "N")]
    pub(crate) max_leases: Option<usize>,

    /// Keep the changes of this many revisions for reads and watches, if they fit into --history-bytes; 0 keeps none.
    /// Fixed when the cluster forms [default: 1000000]
    #[arg(long, env = "KV_HISTORY_REVISIONS", value_name = "N")]
    pub(crate) history_revisions: Option<u64>,

    /// Keep at most this much of past values; the oldest are removed first. Fixed when the cluster forms [default:
    /// 64MiB]
    #[arg(long, env = "KV_HISTORY_BYTES", value_name = "SIZE")]
    pub(crate) history_bytes: Option<SizeArg>,

    /// Most client connections [default: 1024]
    #[arg(long, env = "KV_MAX_CONNECTIONS", value_name = "N")]
    pub(crate) max_connections: Option<usize>,

    /// Most client connections accepted per second. More are closed, and clients retry [default: 1000]
    #[arg(long, env = "KV_MAX_ACCEPTS_PER_SECOND", value_name = "N")]
    pub(crate) max_accepts_per_second: Option<u32>,

    /// Most memory for all client connections together [default: 256MiB]
    #[arg(long, env = "KV_CLIENT_MEMORY_BYTES", value_name = "SIZE")]
    pub(crate) client_memory_bytes: Option<SizeArg>,

    /// Close a client connection that was silent for this long [default: 60s]
    #[arg(long, env = "KV_CLIENT_IDLE_TIMEOUT", value_name = "TIME")]
    pub(crate) client_idle_timeout: Option<DurationArg>,
}

impl Tuning {
    /// The settings of this, and for those that are not set, the settings of `other`.
    pub(crate) fn or(self, other: Self) -> Self {
        Self {
            heartbeat: self.heartbeat.or(other.heartbeat),
            failure_timeout_min: self.failure_timeout_min.or(other.failure_timeout_min),
            failure_timeout_max: self.failure_timeout_max.or(other.failure_timeout_max),
            read_lease: self.read_lease.or(other.read_lease),
            wall_clock_allowance: self.wall_clock_allowance.or(other.wall_clock_allowance),
            pipeline_depth: self.pipeline_depth.or(other.pipeline_depth),
            max_batch_bytes: self.max_batch_bytes.or(other.max_batch_bytes),
            max_key_bytes: self.max_key_bytes.or(other.max_key_bytes),
            max_value_bytes: self.max_value_bytes.or(other.max_value_bytes),
            segment_bytes: self.segment_bytes.or(other.segment_bytes),
            checkpoint_bytes: self.checkpoint_bytes.or(other.checkpoint_bytes),
            scrub_bytes_per_second: self.scrub_bytes_per_second.or(other.scrub_bytes_per_second),
            journal_retention_bytes: self.journal_retention_bytes.or(other.journal_retention_bytes),
            witness_journal_bytes: self.witness_journal_bytes.or(other.witness_journal_bytes),
            transfer_bytes_per_second: self.transfer_bytes_per_second.or(other.transfer_bytes_per_second),
            cache_bytes: self.cache_bytes.or(other.cache_bytes),
            max_sessions: self.max_sessions.or(other.max_sessions),
            session_ttl: self.session_ttl.or(other.session_ttl),
            max_in_flight_per_session: self.max_in_flight_per_session.or(other.max_in_flight_per_session),
            max_leases: self.max_leases.or(other.max_leases),
            history_revisions: self.history_revisions.or(other.history_revisions),
            history_bytes: self.history_bytes.or(other.history_bytes),
            max_connections: self.max_connections.or(other.max_connections),
            max_accepts_per_second: self.max_accepts_per_second.or(other.max_accepts_per_second),
            client_memory_bytes: self.client_memory_bytes.or(other.client_memory_bytes),
            client_idle_timeout: self.client_idle_timeout.or(other.client_idle_timeout),
        }
    }

    /// The library's options, not yet checked.
    pub(crate) fn into_options(self) -> Options {
        let mut options = Options::default();
        let time = |slot: &mut _, span: Option<DurationArg>| {
            if let Some(span) = span {
                *slot = span.0;
            }
        };
        time(&mut options.heartbeat, self.heartbeat);
        time(&mut options.failure_timeout_min, self.failure_timeout_min);
        time(&mut options.failure_timeout_max, self.failure_timeout_max);
        time(&mut options.read_lease, self.read_lease);
        time(&mut options.wall_clock_allowance, self.wall_clock_allowance);
        time(&mut options.session_ttl, self.session_ttl);
        time(&mut options.client_idle_timeout, self.client_idle_timeout);
        bytes(&mut options.max_batch_bytes, self.max_batch_bytes);
        bytes(&mut options.max_key_bytes, self.max_key_bytes);
        bytes(&mut options.max_value_bytes, self.max_value_bytes);
        bytes(&mut options.checkpoint_bytes, self.checkpoint_bytes);
        bytes(&mut options.cache_bytes, self.cache_bytes);
        bytes(&mut options.client_memory_bytes, self.client_memory_bytes);
        let long = |slot: &mut u64, size: Option<SizeArg>| {
            if let Some(size) = size {
                *slot = size.0;
            }
        };
        long(&mut options.journal_retention_bytes, self.journal_retention_bytes);
        long(&mut options.witness_journal_bytes, self.witness_journal_bytes);
        long(&mut options.transfer_bytes_per_second, self.transfer_bytes_per_second);
        long(&mut options.scrub_bytes_per_second, self.scrub_bytes_per_second);
        long(&mut options.segment_bytes, self.segment_bytes);
        long(&mut options.history_bytes, self.history_bytes);
        options.history_revisions = self.history_revisions.unwrap_or(options.history_revisions);
        options.pipeline_depth = self.pipeline_depth.unwrap_or(options.pipeline_depth);
        options.max_sessions = self.max_sessions.unwrap_or(options.max_sessions);
        options.max_leases = self.max_leases.unwrap_or(options.max_leases);
        options.max_in_flight_per_session =
            self.max_in_flight_per_session.unwrap_or(options.max_in_flight_per_session);
        options.max_connections = self.max_connections.unwrap_or(options.max_connections);
        options.max_accepts_per_second =
            self.max_accepts_per_second.unwrap_or(options.max_accepts_per_second);
        options
    }
}

/// A size that does not fit exceeds every limit, so the range check refuses it.
fn bytes(slot: &mut usize, size: Option<SizeArg>) {
    if let Some(SizeArg(size)) = size {
        *slot = usize::try_from(size).unwrap_or(usize::MAX);
    }
}
