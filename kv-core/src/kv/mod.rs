//! The key-value state machine: applies log entries to sessions and data, and reads them.

use crate::config::Options;
use crate::engine::EngineError;
use crate::ids::{Anchor, Hash, RequestNumber, Revision, SessionId};
use crate::message::{Entry, Outcome, Record, Rejection};
use crate::storage::Storage;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// The limits of a state. All but `checkpoint_bytes` and `cache_bytes` decide what requests do: they must be equal on all members.
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
            checkpoint_bytes: options.checkpoint_bytes,
            cache_bytes: options.cache_bytes,
        }
    }
}

/// What one request of an applied entry did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Applied {
    /// The request's own revision, also when it was a duplicate or rejected.
    pub revision: Revision,
    /// Its session; zero for one that opens a session or does not decode.
    pub session: SessionId,
    /// Its number.
    pub number: RequestNumber,
    /// The nonce of a request that opened a session.
    pub nonce: Option<u128>,
    /// What every retry gets too.
    pub result: Result<Outcome, Rejection>,
}

/// The replicated state of one member.
#[derive(Debug)]
pub struct State {}

impl State {
    /// An empty state without a disk: for tests, and for caches that need no more than the journal.
    #[must_use]
    pub fn in_memory(_limits: Limits) -> Self {
        unimplemented!()
    }

    /// The state at its last durable checkpoint; empty if there is none.
    ///
    /// # Errors
    /// If the disk fails, or what it holds is damaged, newer or built with other limits.
    pub fn open(_storage: Arc<dyn Storage>, _limits: Limits) -> Result<Self, EngineError> {
        unimplemented!()
    }

    /// The last applied op.
    #[must_use]
    pub fn applied(&self) -> Anchor {
        unimplemented!()
    }

    /// The revision of the last applied request.
    #[must_use]
    pub fn revision(&self) -> Revision {
        unimplemented!()
    }

    /// The durable checkpoint; zero in memory.
    #[must_use]
    pub fn checkpoint(&self) -> Anchor {
        unimplemented!()
    }

    /// Applies the next committed entry. Readers see all of it at once when it returns.
    ///
    /// # Errors
    /// If the disk fails or is damaged: final.
    ///
    /// # Panics
    /// If the entry does not chain to [`applied`](Self::applied).
    pub fn apply(&mut self, _entry: &Entry) -> Result<Vec<Applied>, EngineError> {
        unimplemented!()
    }

    /// A reader of what is applied.
    #[must_use]
    pub fn reader(&self) -> StateReader {
        unimplemented!()
    }

    /// Bytes held in memory and not in a checkpoint.
    #[must_use]
    pub fn overlay_bytes(&self) -> usize {
        unimplemented!()
    }

    /// A checkpoint runs and the memory beside it is used up: apply no more until it is finished.
    #[must_use]
    pub fn is_full(&self) -> bool {
        unimplemented!()
    }

    /// Freezes the state for a checkpoint. `None` if one is running, there is nothing new, or there is no disk.
    #[must_use]
    pub fn begin_checkpoint(&mut self) -> Option<Checkpoint> {
        unimplemented!()
    }

    /// The checkpoint is durable: lets go of what it now holds.
    pub fn finish_checkpoint(&mut self, _done: CheckpointDone) {
        unimplemented!()
    }

    /// A hash over the whole logical state: equal on all members at the same op, whatever was checkpointed or restarted.
    ///
    /// # Errors
    /// If the disk fails or is damaged.
    pub fn digest(&self) -> Result<Hash, EngineError> {
        unimplemented!()
    }
}

/// A frozen state on its way to disk.
#[derive(Debug)]
pub struct Checkpoint {}

impl Checkpoint {
    /// The op that it is exactly at.
    #[must_use]
    pub fn anchor(&self) -> Anchor {
        unimplemented!()
    }

    /// Makes it durable. Blocks: give it a thread of its own.
    ///
    /// # Errors
    /// If the disk fails or is damaged: final.
    pub fn run(self) -> Result<CheckpointDone, EngineError> {
        unimplemented!()
    }
}

/// A durable checkpoint, for [`State::finish_checkpoint`].
#[derive(Debug)]
pub struct CheckpointDone {}

impl CheckpointDone {
    /// The op that it is exactly at.
    #[must_use]
    pub fn anchor(&self) -> Anchor {
        unimplemented!()
    }
}

/// Reads the applied state at one revision per call. Never waits for the writer, nor makes it wait.
#[derive(Clone, Debug)]
pub struct StateReader {}

impl StateReader {
    /// The last applied op.
    #[must_use]
    pub fn applied(&self) -> Anchor {
        unimplemented!()
    }

    /// The revision of the last applied request.
    #[must_use]
    pub fn revision(&self) -> Revision {
        unimplemented!()
    }

    /// The record of a key, and the revision of the state that was read.
    ///
    /// # Errors
    /// If the disk fails or is damaged.
    pub fn get(&self, _key: &[u8]) -> Result<(Option<Record>, Revision), EngineError> {
        unimplemented!()
    }

    /// The records from `from` (inclusive) to `to` (exclusive): at most `limit` and about `max_bytes`, at least one.
    ///
    /// # Errors
    /// If the disk fails or is damaged.
    pub fn scan(
        &self,
        _from: &[u8],
        _to: Option<&[u8]>,
        _limit: usize,
        _max_bytes: usize,
    ) -> Result<ScanPage, EngineError> {
        unimplemented!()
    }

    /// The stored result of a request, if it is at hand. `None` says nothing: propose the request.
    #[must_use]
    pub fn stored(&self, _session: SessionId, _number: RequestNumber) -> Option<Result<Outcome, Rejection>> {
        unimplemented!()
    }
}

/// One page of a scan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScanPage {
    /// Keys and records in order.
    pub records: Vec<(Bytes, Record)>,
    /// Whether the range goes on after the last key.
    pub more: bool,
    /// The revision of the state that was read.
    pub revision: Revision,
}
