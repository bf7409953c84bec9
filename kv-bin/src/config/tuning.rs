//! Time-outs and limits: each one a flag, a variable and a line of the file.

use super::units::{Size, Span};
use clap::Args;
use kv_core::config::Options;
use serde::Deserialize;

/// What may be tuned. Left out means the default.
#[derive(Args, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[serde(deny_unknown_fields, default)]
#[command(next_help_heading = "Tuning")]
pub(crate) struct Tuning {
    /// How often a primary sends a sign of life [default: 25ms]
    #[arg(long, env = "KV_HEARTBEAT", value_name = "TIME")]
    pub(crate) heartbeat: Option<Span>,

    /// The shortest silence after which a backup suspects its primary [default: 150ms]
    #[arg(long, env = "KV_SUSPECT_MIN", value_name = "TIME")]
    pub(crate) suspect_min: Option<Span>,

    /// The longest silence after which a backup suspects its primary [default: 2s]
    #[arg(long, env = "KV_SUSPECT_MAX", value_name = "TIME")]
    pub(crate) suspect_max: Option<Span>,

    /// For how long a quorum's answer lets the primary serve linearizable reads without asking again, if monotonic clocks are sound; 0s is off.
    /// Fixed when the cluster forms [default: 0s]
    #[arg(long, env = "KV_READ_LEASE", value_name = "TIME")]
    pub(crate) read_lease: Option<Span>,

    /// How far the wall clocks of a majority may have been stepped forward, while all members were down, for nothing to expire early [default: 5s]
    #[arg(long, env = "KV_WALL_CLOCK_ALLOWANCE", value_name = "TIME")]
    pub(crate) wall_clock_allowance: Option<Span>,

    /// How many log entries may be uncommitted at once. Fixed when the cluster forms [default: 32]
    #[arg(long, env = "KV_PIPELINE", value_name = "N")]
    pub(crate) pipeline: Option<u32>,

    /// The most bytes of requests in one log entry [default: 1MiB]
    #[arg(long, env = "KV_MAX_BATCH_BYTES", value_name = "SIZE")]
    pub(crate) max_batch_bytes: Option<Size>,

    /// The largest key. Fixed when the cluster forms [default: 4KiB]
    #[arg(long, env = "KV_MAX_KEY_BYTES", value_name = "SIZE")]
    pub(crate) max_key_bytes: Option<Size>,

    /// The largest value. Fixed when the cluster forms [default: 1MiB]
    #[arg(long, env = "KV_MAX_VALUE_BYTES", value_name = "SIZE")]
    pub(crate) max_value_bytes: Option<Size>,

    /// The size of a journal file [default: 16MiB]
    #[arg(long, env = "KV_SEGMENT_BYTES", value_name = "SIZE")]
    pub(crate) segment_bytes: Option<Size>,

    /// How much new data is kept in memory before it is merged into the data file [default: 32MiB]
    #[arg(long, env = "KV_CHECKPOINT_BYTES", value_name = "SIZE")]
    pub(crate) checkpoint_bytes: Option<Size>,

    /// How fast stored journal entries and the state are read again to see whether they have gone bad, in bytes per second; 0 for never
    /// [default: 1MiB]
    #[arg(long, env = "KV_SCRUB_BYTES_PER_SECOND", value_name = "SIZE")]
    pub(crate) scrub_bytes_per_second: Option<Size>,

    /// How much of the journal is kept for members that are away; one that was away for longer receives the whole state
    /// [default: 256MiB]
    #[arg(long, env = "KV_JOURNAL_BUDGET_BYTES", value_name = "SIZE")]
    pub(crate) journal_budget_bytes: Option<Size>,

    /// How long the journal of a witness may grow while a data member is away [default: 1GiB]
    #[arg(long, env = "KV_WITNESS_JOURNAL_BYTES", value_name = "SIZE")]
    pub(crate) witness_journal_bytes: Option<Size>,

    /// How fast a state is sent to a member that was away, in bytes per second [default: 64MiB]
    #[arg(long, env = "KV_TRANSFER_BYTES_PER_SECOND", value_name = "SIZE")]
    pub(crate) transfer_bytes_per_second: Option<Size>,

    /// The most memory that the cache of the data file takes [default: 64MiB]
    #[arg(long, env = "KV_CACHE_BYTES", value_name = "SIZE")]
    pub(crate) cache_bytes: Option<Size>,

    /// The most client sessions; one more evicts the one that was silent longest. Fixed when the cluster forms [default: 10000]
    #[arg(long, env = "KV_MAX_SESSIONS", value_name = "N")]
    pub(crate) max_sessions: Option<usize>,

    /// A client session silent for this long is forgotten. Fixed when the cluster forms [default: 10min]
    #[arg(long, env = "KV_SESSION_TTL", value_name = "TIME")]
    pub(crate) session_ttl: Option<Span>,

    /// The most requests in flight in one session. Fixed when the cluster forms [default: 256]
    #[arg(long, env = "KV_SESSION_WINDOW", value_name = "N")]
    pub(crate) session_window: Option<usize>,

    /// The most leases. Fixed when the cluster forms [default: 10000]
    #[arg(long, env = "KV_MAX_LEASES", value_name = "N")]
    pub(crate) max_leases: Option<usize>,

    /// How much of the past can be read and watched: so many last revisions, at least if they fit into the bytes; 0 for none.
    /// Fixed when the cluster forms
    /// [default: 1000000]
    #[arg(long, env = "KV_HISTORY_REVISIONS", value_name = "N")]
    pub(crate) history_revisions: Option<u64>,

    /// The most that the data file keeps of superseded values; the oldest go first. Fixed when the cluster forms [default: 64MiB]
    #[arg(long, env = "KV_HISTORY_BYTES", value_name = "SIZE")]
    pub(crate) history_bytes: Option<Size>,

    /// The most client connections [default: 1024]
    #[arg(long, env = "KV_MAX_CONNECTIONS", value_name = "N")]
    pub(crate) max_connections: Option<usize>,

    /// The most client connections that are let in in a second; those beyond are closed, and clients try again [default: 1000]
    #[arg(long, env = "KV_MAX_ACCEPTS_PER_SECOND", value_name = "N")]
    pub(crate) max_accepts_per_second: Option<u32>,

    /// The most memory that the connections of clients take together [default: 256MiB]
    #[arg(long, env = "KV_CLIENT_MEMORY_BYTES", value_name = "SIZE")]
    pub(crate) client_memory_bytes: Option<Size>,

    /// A client's connection on which nothing came for this long is closed [default: 60s]
    #[arg(long, env = "KV_CLIENT_IDLE", value_name = "TIME")]
    pub(crate) client_idle: Option<Span>,
}

impl Tuning {
    /// What is set here, and from `other` what is not.
    pub(crate) fn or(self, other: Self) -> Self {
        Self {
            heartbeat: self.heartbeat.or(other.heartbeat),
            suspect_min: self.suspect_min.or(other.suspect_min),
            suspect_max: self.suspect_max.or(other.suspect_max),
            read_lease: self.read_lease.or(other.read_lease),
            wall_clock_allowance: self.wall_clock_allowance.or(other.wall_clock_allowance),
            pipeline: self.pipeline.or(other.pipeline),
            max_batch_bytes: self.max_batch_bytes.or(other.max_batch_bytes),
            max_key_bytes: self.max_key_bytes.or(other.max_key_bytes),
            max_value_bytes: self.max_value_bytes.or(other.max_value_bytes),
            segment_bytes: self.segment_bytes.or(other.segment_bytes),
            checkpoint_bytes: self.checkpoint_bytes.or(other.checkpoint_bytes),
            scrub_bytes_per_second: self.scrub_bytes_per_second.or(other.scrub_bytes_per_second),
            journal_budget_bytes: self.journal_budget_bytes.or(other.journal_budget_bytes),
            witness_journal_bytes: self.witness_journal_bytes.or(other.witness_journal_bytes),
            transfer_bytes_per_second: self.transfer_bytes_per_second.or(other.transfer_bytes_per_second),
            cache_bytes: self.cache_bytes.or(other.cache_bytes),
            max_sessions: self.max_sessions.or(other.max_sessions),
            session_ttl: self.session_ttl.or(other.session_ttl),
            session_window: self.session_window.or(other.session_window),
            max_leases: self.max_leases.or(other.max_leases),
            history_revisions: self.history_revisions.or(other.history_revisions),
            history_bytes: self.history_bytes.or(other.history_bytes),
            max_connections: self.max_connections.or(other.max_connections),
            max_accepts_per_second: self.max_accepts_per_second.or(other.max_accepts_per_second),
            client_memory_bytes: self.client_memory_bytes.or(other.client_memory_bytes),
            client_idle: self.client_idle.or(other.client_idle),
        }
    }

    /// The library's options, not yet checked.
    pub(crate) fn into_options(self) -> Options {
        let mut options = Options::default();
        let time = |slot: &mut _, span: Option<Span>| {
            if let Some(span) = span {
                *slot = span.0;
            }
        };
        time(&mut options.heartbeat, self.heartbeat);
        time(&mut options.suspect_min, self.suspect_min);
        time(&mut options.suspect_max, self.suspect_max);
        time(&mut options.read_lease, self.read_lease);
        time(&mut options.wall_clock_allowance, self.wall_clock_allowance);
        time(&mut options.session_ttl, self.session_ttl);
        time(&mut options.client_idle, self.client_idle);
        bytes(&mut options.max_batch_bytes, self.max_batch_bytes);
        bytes(&mut options.max_key_bytes, self.max_key_bytes);
        bytes(&mut options.max_value_bytes, self.max_value_bytes);
        bytes(&mut options.checkpoint_bytes, self.checkpoint_bytes);
        bytes(&mut options.cache_bytes, self.cache_bytes);
        bytes(&mut options.client_memory_bytes, self.client_memory_bytes);
        let long = |slot: &mut u64, size: Option<Size>| {
            if let Some(size) = size {
                *slot = size.0;
            }
        };
        long(&mut options.journal_budget_bytes, self.journal_budget_bytes);
        long(&mut options.witness_journal_bytes, self.witness_journal_bytes);
        long(&mut options.transfer_bytes_per_second, self.transfer_bytes_per_second);
        long(&mut options.scrub_bytes_per_second, self.scrub_bytes_per_second);
        long(&mut options.segment_bytes, self.segment_bytes);
        long(&mut options.history_bytes, self.history_bytes);
        options.history_revisions = self.history_revisions.unwrap_or(options.history_revisions);
        options.pipeline = self.pipeline.unwrap_or(options.pipeline);
        options.max_sessions = self.max_sessions.unwrap_or(options.max_sessions);
        options.max_leases = self.max_leases.unwrap_or(options.max_leases);
        options.session_window = self.session_window.unwrap_or(options.session_window);
        options.max_connections = self.max_connections.unwrap_or(options.max_connections);
        options.max_accepts_per_second =
            self.max_accepts_per_second.unwrap_or(options.max_accepts_per_second);
        options
    }
}

/// A size that does not fit is larger than every limit allows: the check of the ranges refuses it.
fn bytes(slot: &mut usize, size: Option<Size>) {
    if let Some(Size(size)) = size {
        *slot = usize::try_from(size).unwrap_or(usize::MAX);
    }
}
