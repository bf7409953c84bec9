//! What a state allows.

use crate::config::Options;
use crate::engine::{EngineError, Retention};
use crate::message::SizeLimits;
use crate::session::SessionLimits;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What the large results that are kept for the clients' retries take, in bytes: of one session, unless one request may return more; it
/// is one row of a checkpoint.
const SESSION_RESULTS: usize = 4 << 20;
/// The same of all sessions together.
const ALL_RESULTS: usize = 32 << 20;

/// The limits of a state. All but `checkpoint_bytes` and `cache_bytes` decide what requests do: they must be equal on all
/// members, and in all lives of the data, because a restart applies a part of the log once more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The largest key in bytes.
    pub max_key_bytes: usize,
    /// The largest value in bytes.
    pub max_value_bytes: usize,
    /// The most sessions kept.
    pub max_sessions: usize,
    /// A session silent for this long, by the log's stamps, is forgotten.
    pub session_ttl: Duration,
    /// The most requests in flight per session.
    pub session_window: usize,
    /// How many of the last revisions can be read, at least if they fit into `history_bytes`. 0: none but the newest.
    pub history_revisions: u64,
    /// How many bytes of superseded values, and what belongs to them, a checkpoint keeps at most. 0: none.
    pub history_bytes: u64,
    /// The most leases.
    pub max_leases: usize,
    /// A checkpoint is due when the overlay holds this much. Local: may differ between members.
    pub checkpoint_bytes: usize,
    /// The most memory that the cache of the state on disk takes. Local: may differ between members.
    pub cache_bytes: usize,
}

impl From<&Options> for Limits {
    fn from(options: &Options) -> Self {
        Self {
            max_key_bytes: options.max_key_bytes,
            max_value_bytes: options.max_value_bytes,
            max_sessions: options.max_sessions,
            session_ttl: options.session_ttl,
            session_window: options.session_window,
            history_revisions: options.history_revisions,
            history_bytes: options.history_bytes,
            max_leases: options.max_leases,
            checkpoint_bytes: options.checkpoint_bytes,
            cache_bytes: options.cache_bytes,
        }
    }
}

impl Limits {
    pub(super) fn sessions(&self) -> SessionLimits {
        let session_bytes = SESSION_RESULTS.max(self.sizes().returned_bytes());
        SessionLimits {
            max: self.max_sessions,
            ttl: self.session_ttl,
            window: self.session_window,
            session_bytes,
            all_bytes: ALL_RESULTS.max(session_bytes),
        }
    }

    pub(super) fn sizes(&self) -> SizeLimits {
        SizeLimits { max_key_bytes: self.max_key_bytes, max_value_bytes: self.max_value_bytes }
    }

    pub(super) fn retention(&self) -> Retention {
        Retention { revisions: self.history_revisions, bytes: self.history_bytes }
    }

    /// What the replicated state depends on.
    pub(super) fn replicated(&self) -> ReplicatedLimits {
        ReplicatedLimits {
            max_key_bytes: self.max_key_bytes as u64,
            max_value_bytes: self.max_value_bytes as u64,
            max_sessions: self.max_sessions as u64,
            session_ttl_ms: u64::try_from(self.session_ttl.as_millis()).unwrap_or(u64::MAX),
            session_window: self.session_window as u64,
            history_revisions: self.history_revisions,
            history_bytes: self.history_bytes,
            max_leases: self.max_leases as u64,
        }
    }
}

/// The limits that a state was built with, as its checkpoint remembers them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct ReplicatedLimits {
    max_key_bytes: u64,
    max_value_bytes: u64,
    max_sessions: u64,
    session_ttl_ms: u64,
    session_window: u64,
    history_revisions: u64,
    history_bytes: u64,
    max_leases: u64,
}

impl ReplicatedLimits {
    /// Refuses other limits than these.
    pub(super) fn check(&self, configured: &Self) -> Result<(), EngineError> {
        let pairs = [
            ("max_key_bytes", self.max_key_bytes, configured.max_key_bytes),
            ("max_value_bytes", self.max_value_bytes, configured.max_value_bytes),
            ("max_sessions", self.max_sessions, configured.max_sessions),
            ("session_ttl in milliseconds", self.session_ttl_ms, configured.session_ttl_ms),
            ("session_window", self.session_window, configured.session_window),
            ("history_revisions", self.history_revisions, configured.history_revisions),
            ("history_bytes", self.history_bytes, configured.history_bytes),
            ("max_leases", self.max_leases, configured.max_leases),
        ];
        match pairs.into_iter().find(|(_, stored, configured)| stored != configured) {
            Some((limit, stored, configured)) => Err(EngineError::Limits { limit, stored, configured }),
            None => Ok(()),
        }
    }
}
