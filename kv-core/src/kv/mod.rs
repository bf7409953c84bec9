//! The key-value state machine: it applies log entries to sessions and data, and reads them.
//!
//! Everything that an entry does follows from the entry and the state before it. So members that have applied the same
//! log hold the same state, wherever they made checkpoints and however often they restarted: see
//! [`StateMachine::digest`].

mod apply;
mod changes;
mod checkpoint;
mod lifetimes;
mod limits;
mod members;
mod reader;
mod reaper;
mod recent;
mod record;
mod state_digest;
mod transaction;
mod transfer;
mod watchers;

#[cfg(feature = "internals")]
pub use crate::engine::Keys;
pub use crate::engine::{HeldFiles, MergeStep, Merger, Progress};
#[cfg(feature = "internals")]
pub use crate::message::Position;
pub use apply::Applied;
pub use changes::{ChangePage, ChangeQuery, Compacted};
#[cfg(feature = "internals")]
pub use checkpoint::WrittenCheckpoint;
pub use checkpoint::{Checkpoint, CheckpointDone};
pub use lifetimes::Deadlines;
pub use limits::Limits;
pub use reader::{RevisionView, StateReader};
#[cfg(feature = "internals")]
pub use reader::{ScanPage, Unreadable};
pub use reaper::{ExpiryQuery, Reaper};
pub use transfer::{Receiver, Sources, StateAside};
pub use watchers::{IsolationDetector, ParkedWatch, PositionSource, WatchPoll, Watchers};
#[cfg(feature = "internals")]
pub use watchers::{WatchId, WokenWatches};

use crate::config::Configuration;
use crate::engine::{Disk, Engine, EngineError, OpenedDisk};
use crate::ids::{Anchor, Hash, LeaseId, RequestNumber, Revision, Timestamp};
use crate::message::{Entry, Expiry};
use crate::session::Sessions;
use crate::storage::Storage;
use checkpoint::CheckpointMeta;
use lifetimes::Lifetimes;
use recent::Recent;
use std::sync::Arc;

/// About how much memory a request takes until a checkpoint, besides keys and values, if its result is stored.
const REQUEST_BYTES: usize = 128;

/// The replicated state of one member. Dropping it writes nothing: the next [`open`](Self::open) finds the last
/// checkpoint.
///
/// ```text
/// apply, apply, ... ; when memtable_bytes() shows that a checkpoint is due:
/// begin_checkpoint() -> Checkpoint::run() on its own thread, while apply goes on -> finish_checkpoint()
/// then: merger() -> Merger::step() on its own thread, as long as it merges something -> finish_merge() after each
/// ```
#[derive(Debug)]
pub struct StateMachine {
    limits: Limits,
    engine: Box<dyn Engine>,
    sessions: Sessions,
    lifetimes: Lifetimes,
    /// `None` in epoch 0.
    configuration: Option<Box<Configuration>>,
    applied: Anchor,
    /// How many requests were applied, whatever their result. Sessions and leases are named by it (rule E1). A skip
    /// counts as often as it takes revisions.
    requests: u64,
    /// The last revision that was taken.
    revision: Revision,
    /// The greatest stamp of an applied entry.
    timestamp: Timestamp,
    /// One hash over the effects of every applied entry.
    state_digest: Hash,
    /// A buffer for what is hashed.
    folded: Vec<u8>,
    recent: Arc<Recent>,
    /// An error was final.
    failed: bool,
}

impl StateMachine {
    /// Creates an empty state without a disk: for tests, and for caches that need only the journal.
    #[cfg(feature = "internals")]
    #[must_use]
    pub fn in_memory(limits: Limits) -> Self {
        let sessions = Sessions::new(limits.sessions(), false);
        let engine = crate::engine::Memory::new(limits.retention());
        let lifetimes = Lifetimes::new(limits.fixed.max_leases, false);
        Self::at(limits, Box::new(engine), sessions, (lifetimes, None), None)
    }

    /// Opens the state at its last durable checkpoint; an empty state if there is none. Writes nothing to an empty
    /// directory.
    ///
    /// The owner must compare [`checkpoint`](Self::checkpoint) with its journal: it must be on the log, and not before
    /// the checkpoint that the journal knows.
    ///
    /// # Errors
    /// If the disk fails, or its content is damaged, newer or built with other limits.
    pub fn open(storage: Arc<dyn Storage>, limits: Limits) -> Result<Self, EngineError> {
        Self::of(Disk::open(storage, limits.cache_bytes, limits.checkpoint_bytes)?, limits)
    }

    fn of(opened: OpenedDisk, limits: Limits) -> Result<Self, EngineError> {
        let rows = opened.rows();
        let meta = checkpoint::load(&rows)?;
        if meta.is_none() && opened.exists() {
            return Err(EngineError::damaged("it holds no checkpoint"));
        }
        let mut sessions = Sessions::new(limits.sessions(), true);
        if let Some(meta) = &meta {
            meta.options.check(&limits.fixed)?;
            for (id, session) in checkpoint::load_sessions(&rows, &limits.sessions())? {
                sessions.restore(id, session);
            }
        }
        let lifetimes = Lifetimes::load(&rows, limits.fixed.max_leases)?;
        let configuration = members::load(&rows)?;
        let by_rows = meta.as_ref().map(|meta| meta.applied);
        if opened.manifest_at().is_some_and(|at| by_rows != Some(at)) {
            return Err(EngineError::inconsistent("its manifest and its rows name different ops"));
        }
        let (applied, revision) = meta.as_ref().map_or_else(Default::default, |at| (at.applied, at.revision));
        let engine = opened.at(applied, revision, limits.retention());
        Ok(Self::at(limits, Box::new(engine), sessions, (lifetimes, configuration), meta))
    }

    fn at(
        limits: Limits,
        engine: Box<dyn Engine>,
        sessions: Sessions,
        (lifetimes, configuration): (Lifetimes, Option<Box<Configuration>>),
        meta: Option<CheckpointMeta>,
    ) -> Self {
        let meta = meta.unwrap_or_else(|| CheckpointMeta {
            options: limits.fixed.clone(),
            applied: Anchor::ZERO,
            requests: 0,
            revision: Revision::ZERO,
            timestamp: Timestamp::ZERO,
            state_digest: Hash::ZERO,
        });
        Self {
            limits,
            engine,
            sessions,
            lifetimes,
            configuration,
            applied: meta.applied,
            requests: meta.requests,
            revision: meta.revision,
            timestamp: meta.timestamp,
            state_digest: meta.state_digest,
            folded: Vec::new(),
            recent: Arc::default(),
            failed: false,
        }
    }

    /// The last applied op.
    #[must_use]
    pub fn applied(&self) -> Anchor {
        self.applied
    }

    /// The configuration of the epoch of the entries that follow; `None` in epoch 0.
    #[must_use]
    pub fn configuration(&self) -> Option<&Configuration> {
        self.configuration.as_deref()
    }

    /// The time of the last applied request, on the clock of the cluster.
    #[must_use]
    pub fn timestamp(&self) -> Timestamp {
        self.timestamp
    }

    /// The time to live of a lease, in milliseconds; `None` if it has ended.
    #[must_use]
    pub fn lease_ttl_ms(&self, id: LeaseId) -> Option<u64> {
        self.lifetimes.info(id).ok().map(|info| info.ttl_ms)
    }

    /// The last revision that was taken by an applied request.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The durable checkpoint; zero if the state has no disk.
    #[must_use]
    pub fn checkpoint(&self) -> Anchor {
        self.engine.checkpoint()
    }

    /// Applies the next committed entry. Readers see all of it at once when this returns.
    ///
    /// Committed entries may be applied before they are durable in the own journal. A checkpoint must wait for that.
    ///
    /// # Errors
    /// If the disk fails or is damaged. The error is final: drop the state.
    ///
    /// # Panics
    /// If the entry does not chain to [`applied`](Self::applied).
    pub fn apply(&mut self, entry: &Entry) -> Result<Vec<Applied>, EngineError> {
        if self.failed {
            return Err(EngineError::Failed);
        }
        let header = &entry.header;
        assert_eq!(header.op, self.applied.op.next(), "entries are applied in order");
        assert_eq!(header.parent, self.applied.hash, "entries of one log are applied");
        assert_eq!(header.first_revision, self.revision.next(), "revisions are contiguous");
        let applied = self.run(entry).inspect_err(|_| self.failed = true)?;
        self.fold(&applied);
        self.engine.publish(self.applied, self.revision);
        self.cache_results(&applied);
        Ok(applied)
    }

    fn cache_results(&self, applied: &[Applied]) {
        let finals =
            applied.iter().filter(|applied| applied.result.is_ok() && applied.number > RequestNumber::ZERO);
        self.recent.insert(finals.map(|applied| ((applied.session, applied.number), applied.result.clone())));
    }

    /// The earliest deadlines: nothing is due before them.
    #[must_use]
    pub fn deadlines(&self) -> Deadlines {
        self.lifetimes.next()
    }

    /// Returns what is due, for the primary to propose ([`Request::expiry`]). Bounded: the rest is due again once this
    /// is applied.
    ///
    /// [`Request::expiry`]: crate::message::Request::expiry
    #[must_use]
    pub fn due(&self, query: ExpiryQuery) -> Vec<Expiry> {
        let ExpiryQuery { keys: now, leases, tick: _ } = query;
        self.lifetimes.due(now, leases)
    }

    /// A reader of the applied state.
    #[must_use]
    pub fn reader(&self) -> StateReader {
        StateReader::new(self.engine.reader(), self.recent.clone(), self.limits.fixed.history_revisions)
    }

    /// About how many bytes in memory are not in a checkpoint. A checkpoint is due at [`Limits::checkpoint_bytes`],
    /// unless one runs.
    #[must_use]
    pub fn memtable_bytes(&self) -> usize {
        self.engine.memtable_bytes()
    }

    /// About how many bytes in memory are in a checkpoint already, but still used by readers.
    #[cfg(feature = "internals")]
    #[must_use]
    pub fn dead_bytes(&self) -> usize {
        self.engine.dead_bytes()
    }

    /// Returns whether the memory is used up. Then apply nothing more until the running checkpoint is finished or, if
    /// none runs, [`release`](Self::release) has made room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.engine.is_full()
    }

    /// Frees some of what readers have released. Call it regularly while the state is full and no checkpoint runs.
    pub fn release(&mut self) {
        self.engine.release();
    }

    /// Freezes the state for a checkpoint at [`applied`](Self::applied), which must be durable in the own journal
    /// before the checkpoint runs. `None` if one is running, there is nothing new, readers hold too much of earlier
    /// ones, or there is no disk.
    #[must_use]
    pub fn begin_checkpoint(&mut self) -> Option<Checkpoint> {
        if self.failed {
            return None;
        }
        let frozen = self.engine.freeze()?;
        assert_eq!(frozen.anchor(), self.applied, "what is published is what is applied");
        let meta = CheckpointMeta {
            options: self.limits.fixed.clone(),
            applied: self.applied,
            requests: self.requests,
            revision: self.revision,
            timestamp: self.timestamp,
            state_digest: self.state_digest,
        };
        let sessions = self.sessions.take_changes();
        let lifetimes = self.lifetimes.take_changes();
        Some(Checkpoint { frozen, meta, sessions, lifetimes, configuration: self.configuration.clone() })
    }

    /// The checkpoint is durable: releases the memory of what it contains.
    ///
    /// # Panics
    /// If it is not the checkpoint that was begun last.
    pub fn finish_checkpoint(&mut self, done: CheckpointDone) {
        self.engine.checkpointed(done.done);
    }

    /// What merges the files of the state in the background, beside everything else; `None` if there is no disk. Some
    /// may be due after each checkpoint.
    #[must_use]
    pub fn merger(&self) -> Option<Merger> {
        self.engine.merger()
    }

    /// A merge has replaced files: the old ones are released.
    pub fn finish_merge(&mut self) {
        self.engine.merged();
    }

    /// A hash over the whole logical state: equal on all members at the same op, whatever checkpoints and restarts
    /// there were. Reads everything: for tests and comparisons.
    ///
    /// # Errors
    /// If the disk fails or is damaged.
    #[cfg(feature = "internals")]
    pub fn digest(&self) -> Result<Hash, EngineError> {
        let mut hasher = xxhash_rust::xxh3::Xxh3::new();
        let mut add = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        for number in [self.applied.op.get(), self.requests, self.revision.get(), self.timestamp.get()] {
            add(&number.to_le_bytes());
        }
        add(&self.applied.hash.get().to_le_bytes());
        for (id, session) in self.sessions.iter() {
            add(&id.get().to_le_bytes());
            add(&postcard::to_stdvec(session).expect("plain data always encodes"));
        }
        add(b"lifetimes");
        self.lifetimes.digest(&mut add);
        add(b"data");
        let view = self.engine.reader().latest();
        for record in view.scan(&[])? {
            let (key, record) = record?;
            add(&key);
            add(&record);
        }
        Ok(Hash::new(hasher.digest128()))
    }

    /// Asserts the invariants.
    #[cfg(feature = "internals")]
    pub fn check_invariants(&self) {
        self.sessions.check_invariants();
        self.lifetimes.check_invariants();
        let newest =
            self.sessions.newest().map(|id| id.get()).max(self.lifetimes.newest().map(|id| id.get()));
        assert!(newest.is_none_or(|id| id <= self.requests), "{newest:?} of {} requests", self.requests);
        assert!(self.checkpoint().op <= self.applied.op);
    }
}

#[cfg(test)]
mod tests;
