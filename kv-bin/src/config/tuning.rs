//! Time-outs and limits. Each is a flag, a variable and a line of the file.

use super::units::{DurationArg, SizeArg, whole};
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
    #[arg(long, env = "KV_PIPELINE_DEPTH", value_name = "N", value_parser = whole(0..=u32::MAX))]
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

    /// Most memory for the cache of the state [default: 64MiB]
    #[arg(long, env = "KV_CACHE_BYTES", value_name = "SIZE")]
    pub(crate) cache_bytes: Option<SizeArg>,

    /// Most client sessions. Another one evicts the session that was silent longest. Fixed when the cluster forms
    /// [default: 10000]
    #[arg(long, env = "KV_MAX_SESSIONS", value_name = "N", value_parser = whole(0..=usize::MAX))]
    pub(crate) max_sessions: Option<usize>,

    /// A client session expires after this much silence. Fixed when the cluster forms [default: 10min]
    #[arg(long, env = "KV_SESSION_TTL", value_name = "TIME")]
    pub(crate) session_ttl: Option<DurationArg>,

    /// Most requests in flight in one session. Fixed when the cluster forms [default: 256]
    #[arg(long, env = "KV_MAX_IN_FLIGHT_PER_SESSION", value_name = "N", value_parser = whole(0..=usize::MAX))]
    pub(crate) max_in_flight_per_session: Option<usize>,

    /// Most leases. Fixed when the cluster forms [default: 10000]
    #[arg(long, env = "KV_MAX_LEASES", value_name = "N", value_parser = whole(0..=usize::MAX))]
    pub(crate) max_leases: Option<usize>,

    /// Keep the changes of this many revisions for reads and watches, if they fit into --history-bytes; 0 keeps none.
    /// Fixed when the cluster forms [default: 1000000]
    #[arg(long, env = "KV_HISTORY_REVISIONS", value_name = "N", value_parser = whole(0..=u64::MAX))]
    pub(crate) history_revisions: Option<u64>,

    /// Keep at most this much of past values; the oldest are removed first. Fixed when the cluster forms [default:
    /// 64MiB]
    #[arg(long, env = "KV_HISTORY_BYTES", value_name = "SIZE")]
    pub(crate) history_bytes: Option<SizeArg>,

    /// Most client connections [default: 1024]
    #[arg(long, env = "KV_MAX_CONNECTIONS", value_name = "N", value_parser = whole(0..=usize::MAX))]
    pub(crate) max_connections: Option<usize>,

    /// Most client connections accepted per second. More are closed, and clients retry [default: 1000]
    #[arg(long, env = "KV_MAX_ACCEPTS_PER_SECOND", value_name = "N", value_parser = whole(0..=u32::MAX))]
    pub(crate) max_accepts_per_second: Option<u32>,

    /// Most memory for all client connections together [default: 256MiB]
    #[arg(long, env = "KV_CLIENT_MEMORY_BYTES", value_name = "SIZE")]
    pub(crate) client_memory_bytes: Option<SizeArg>,

    /// Close a client connection that was silent for this long [default: 60s]
    #[arg(long, env = "KV_CLIENT_IDLE_TIMEOUT", value_name = "TIME")]
    pub(crate) client_idle_timeout: Option<DurationArg>,
}

impl Tuning {
    /// Sets the options that are set here.
    pub(crate) fn apply(self, options: &mut Options) {
        macro_rules! apply {
            ($($name:ident,)*) => {
                // Names every setting, so none can be forgotten.
                let Self { $($name),* } = self;
                $(if let Some(value) = $name {
                    options.$name = value.into();
                })*
            };
        }
        apply! {
            heartbeat, failure_timeout_min, failure_timeout_max, read_lease, wall_clock_allowance,
            pipeline_depth, max_batch_bytes, max_key_bytes, max_value_bytes, segment_bytes,
            checkpoint_bytes, scrub_bytes_per_second, journal_retention_bytes, witness_journal_bytes,
            transfer_bytes_per_second, cache_bytes, max_sessions, session_ttl, max_in_flight_per_session,
            max_leases, history_revisions, history_bytes, max_connections, max_accepts_per_second,
            client_memory_bytes, client_idle_timeout,
        }
    }
}
