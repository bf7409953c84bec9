//! The limits of a state.

use crate::config::{FixedOptions, Options};
use crate::engine::Retention;
use crate::message::SizeLimits;
use crate::session::{RESULT_BYTES, SessionLimits};

/// How many bytes the stored results for the clients' retries may take in one session, unless one request may return
/// more. They are one row of a checkpoint.
const SESSION_RESULTS: usize = 4 << 20;
/// The same for all sessions together.
const ALL_RESULTS: usize = 32 << 20;

/// The limits of a state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The options that decide what requests do: equal on all members, and in all lives of the data (rule F6), because
    /// a restart applies a part of the log again.
    pub fixed: FixedOptions,
    /// A checkpoint is due when the memtable holds this many bytes. Local: may differ between members.
    pub checkpoint_bytes: usize,
    /// How much memory the cache of the state on disk may take, in bytes. Local: may differ between members.
    pub cache_bytes: usize,
}

impl From<&Options> for Limits {
    fn from(options: &Options) -> Self {
        Self {
            fixed: FixedOptions::from(options),
            checkpoint_bytes: options.checkpoint_bytes,
            cache_bytes: options.cache_bytes,
        }
    }
}

impl Limits {
    pub(super) fn sessions(&self) -> SessionLimits {
        let session_bytes = SESSION_RESULTS.max(self.sizes().returned_bytes() + RESULT_BYTES);
        SessionLimits {
            max: self.fixed.max_sessions,
            ttl: self.fixed.session_ttl,
            window: self.fixed.max_in_flight_per_session,
            session_bytes,
            all_bytes: ALL_RESULTS.max(session_bytes),
        }
    }

    pub(super) fn sizes(&self) -> SizeLimits {
        SizeLimits { max_key_bytes: self.fixed.max_key_bytes, max_value_bytes: self.fixed.max_value_bytes }
    }

    pub(super) fn retention(&self) -> Retention {
        Retention { revisions: self.fixed.history_revisions, bytes: self.fixed.history_bytes }
    }
}
