//! State transfer: what the source keeps for the members that fetch, and what the receiver stores until the state is
//! complete.

use super::lifetimes::Lifetimes;
use super::members;
use super::{Limits, StateMachine, checkpoint};
use crate::engine::{Disk, EngineError, HeldFiles, Snapshot, Staging};
use crate::ids::{Anchor, Instant, MemberId, Op};
use crate::message::{Chunk, ChunkEnd, Entry, LogPoint};
use crate::storage::Storage;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A snapshot is kept this long for a peer that requests no more of it. Meanwhile, its files take room on the disk.
const KEPT: Duration = Duration::from_secs(30);

/// The checkpoints that peers fetch.
#[derive(Debug, Default)]
pub struct Sources {
    latest: Option<Snapshot>,
    kept: BTreeMap<MemberId, (Snapshot, Instant)>,
}

impl Sources {
    /// Sets the newest checkpoint (after a restart, the first one).
    pub fn publish(&mut self, latest: Option<Snapshot>) {
        self.latest = latest;
    }

    /// The state was discarded, and its checkpoints with it.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// The snapshot that `peer` fetches, or begins to fetch. It is kept for that peer from now on.
    pub fn get(&mut self, peer: MemberId, at: Option<Anchor>, now: Instant) -> Option<Snapshot> {
        self.expire(now);
        let begun = self.kept.get(&peer).map(|(snapshot, _)| snapshot);
        let found = match at {
            None => self.latest.clone(),
            Some(at) => {
                let all =
                    begun.into_iter().chain(self.kept.values().map(|(kept, _)| kept)).chain(&self.latest);
                all.into_iter().find(|snapshot| snapshot.anchor() == at).cloned()
            }
        }?;
        self.kept.insert(peer, (found.clone(), now));
        Some(found)
    }

    /// The newest checkpoint.
    #[must_use]
    pub fn latest(&self) -> Option<Snapshot> {
        self.latest.clone()
    }

    /// The files of the checkpoints that peers fetch. First drops what no peer has requested recently.
    #[must_use]
    pub fn held(&mut self, now: Instant) -> HeldFiles {
        self.expire(now);
        HeldFiles::of(self.kept.values().map(|(snapshot, _)| snapshot))
    }

    /// Drops what no peer has requested recently.
    pub fn expire(&mut self, now: Instant) {
        self.kept.retain(|_, (_, used)| now.since(*used) <= KEPT);
    }
}

/// The received part of a snapshot. Calls block.
#[derive(Debug)]
pub struct Receiver {
    storage: Arc<dyn Storage>,
    limits: Limits,
    staging: Option<Staging>,
}

impl Receiver {
    /// Opens what an earlier life left.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn open(storage: Arc<dyn Storage>, limits: Limits) -> Result<Self, EngineError> {
        let staging = Staging::open(&storage, limits.checkpoint_bytes)?;
        Ok(Self { storage, limits, staging })
    }

    /// The snapshot that is stored, and how far its pieces go.
    #[must_use]
    pub fn progress(&self) -> Option<(Anchor, ChunkEnd)> {
        self.staging.as_ref().map(|staging| (staging.at(), staging.end().clone()))
    }

    /// Stores a piece of the snapshot at `at`. A first piece starts a new one. Returns false if the piece does not
    /// follow what is stored, or is not intact; then everything was discarded.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn stage(&mut self, at: Anchor, chunk: &Chunk) -> Result<bool, EngineError> {
        if chunk.after.is_empty() {
            self.staging = None;
            self.staging = Some(Staging::begin(&self.storage, self.limits.checkpoint_bytes, at)?);
        }
        let Some(staging) = self.staging.as_mut().filter(|staging| staging.at() == at) else {
            return Ok(false);
        };
        let stored = match staging.add(chunk) {
            Err(error) if error.is_of_content() => false,
            done => done?,
        };
        if !stored {
            self.discard()?;
        }
        Ok(stored)
    }

    /// Reads everything back (rule T2), and returns whether it is the complete state at `at`, built with the limits of
    /// this member. Otherwise it is discarded.
    ///
    /// # Errors
    /// If the disk fails, or the limits differ.
    pub fn verify(&mut self, at: Anchor) -> Result<bool, EngineError> {
        let verified = match &self.staging {
            Some(staging) if staging.at() == at => self.check(staging, at),
            Some(_) | None => Ok(false),
        };
        match verified {
            Ok(true) => Ok(true),
            Ok(false) => {
                self.discard()?;
                Ok(false)
            }
            Err(error) if error.is_of_content() => {
                self.discard()?;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn check(&self, staging: &Staging, at: Anchor) -> Result<bool, EngineError> {
        if !staging.is_whole()? {
            return Ok(false);
        }
        let rows = staging.rows()?;
        let Some(meta) = checkpoint::load(&rows)? else { return Ok(false) };
        meta.options.check(&self.limits.fixed)?;
        checkpoint::load_sessions(&rows, &self.limits.sessions())?;
        Lifetimes::load(&rows, self.limits.fixed.max_leases)?;
        members::load(&rows)?;
        Ok(meta.applied == at)
    }

    /// Returns whether it may replace this state: the state is behind it, and what is stored is
    /// [verified](Self::verify). Otherwise it is discarded.
    ///
    /// # Errors
    /// If the disk fails, or the limits differ.
    pub fn may_replace(&mut self, state: Option<&StateMachine>, at: Anchor) -> Result<bool, EngineError> {
        if state.is_some_and(|state| state.applied().op >= at.op) {
            self.discard()?;
            return Ok(false);
        }
        self.verify(at)
    }

    /// Replaces the state with what was verified, durably, and opens it. The old state must have been dropped.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn switch(&mut self) -> Result<StateMachine, EngineError> {
        if let Some(staging) = self.staging.take() {
            staging.switch()?;
        }
        StateMachine::open(self.storage.clone(), self.limits.clone())
    }

    /// Opens the damaged state that was set aside, so that peers can fetch its intact parts; `None` if there is none.
    ///
    /// # Errors
    /// If nothing of it can be read.
    pub fn open_aside(&self) -> Result<Option<StateAside>, EngineError> {
        StateAside::open(&self.storage, &self.limits)
    }

    /// Discards what is stored of the snapshot at `at`.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn discard_at(&mut self, at: Anchor) -> Result<(), EngineError> {
        if self.staging.as_ref().is_some_and(|staging| staging.at() == at) { self.discard() } else { Ok(()) }
    }

    /// Discards what is stored.
    ///
    /// # Errors
    /// If the disk fails.
    fn discard(&mut self) -> Result<(), EngineError> {
        self.staging.take().map_or(Ok(()), Staging::discard)
    }
}

/// A damaged state that was set aside. Peers fetch its intact parts.
#[derive(Debug)]
pub struct StateAside(Aside);

#[derive(Debug)]
enum Aside {
    Opened(Box<StateMachine>),
    /// What every state must have is damaged.
    Files(Snapshot),
}

impl StateAside {
    fn open(storage: &Arc<dyn Storage>, limits: &Limits) -> Result<Option<Self>, EngineError> {
        let opened = Disk::open_aside(storage.clone(), limits.cache_bytes, limits.checkpoint_bytes)?;
        if !opened.exists() {
            return Ok(None);
        }
        let files = opened.snapshot();
        match (StateMachine::of(opened, limits.clone()), files) {
            (Ok(state), _) => Ok(Some(Self(Aside::Opened(Box::new(state))))),
            (Err(error @ EngineError::Damaged { .. }), Some(files)) => {
                tracing::warn!(%error, "the damaged state can only be sent as it is: entries cannot be applied to it");
                Ok(Some(Self(Aside::Files(files))))
            }
            (Err(error), _) => Err(error),
        }
    }

    /// The checkpoint that peers fetch.
    #[must_use]
    pub fn snapshot(&self) -> Option<Snapshot> {
        match &self.0 {
            Aside::Opened(state) => state.snapshot(),
            Aside::Files(files) => Some(files.clone()),
        }
    }

    /// Applies entries up to `through`, and makes a checkpoint there, so that members whose states are damaged in
    /// different places have their intact parts at the same op (rule T9b). If the state is too damaged for that, its
    /// checkpoint is kept. Blocks.
    ///
    /// # Errors
    /// If it reaches the damage. The last checkpoint is kept.
    pub fn apply_through(
        &mut self,
        through: Op,
        read: impl Fn(Op) -> Option<Entry>,
    ) -> Result<(), EngineError> {
        match &mut self.0 {
            Aside::Opened(state) => state.apply_through(through, read),
            Aside::Files(_) => Ok(()),
        }
    }
}

impl StateMachine {
    /// Sets the damaged state on disk aside, durably. A state that was open must have been dropped. The file stays
    /// until [`Receiver::switch`] has replaced it.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn set_aside(storage: &dyn Storage) -> Result<(), EngineError> {
        Disk::set_aside(storage)
    }

    /// Opens the state, or sets a damaged one aside (rule T9a). `None` means that it must be fetched from a peer.
    ///
    /// # Errors
    /// If the disk fails, or its content is newer, inconsistent or built with other limits.
    pub fn open_or_set_aside(
        storage: &Arc<dyn Storage>,
        limits: &Limits,
    ) -> Result<Option<Self>, EngineError> {
        match Self::open(storage.clone(), limits.clone()) {
            Ok(state) if !Disk::is_set_aside(&**storage)? => Ok(Some(state)),
            // Nothing has replaced it yet.
            Ok(state) if state.checkpoint().op == Op::ZERO => Ok(None),
            Ok(state) => {
                Disk::remove_aside(&**storage)?;
                Ok(Some(state))
            }
            Err(EngineError::Damaged { detail }) => {
                tracing::error!(
                    detail,
                    "the state is damaged: renamed to state.damaged until the state of another member replaces it"
                );
                Disk::set_aside(&**storage)?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Applies entries up to `through` to a state that was set aside, and makes a checkpoint there, so that members
    /// whose states are damaged in different places have their intact parts at the same op (rule T9b). Blocks.
    ///
    /// # Errors
    /// If it reaches the damage. The last checkpoint is kept.
    pub fn apply_through(
        &mut self,
        through: Op,
        read: impl Fn(Op) -> Option<Entry>,
    ) -> Result<(), EngineError> {
        loop {
            while self.applied.op < through && self.memtable_bytes() < self.limits.checkpoint_bytes {
                let next = read(self.applied.op.next());
                let Some(entry) = next.filter(|entry| entry.header.parent == self.applied.hash) else {
                    break;
                };
                self.apply(&entry)?;
            }
            let Some(checkpoint) = self.begin_checkpoint() else { return Ok(()) };
            self.finish_checkpoint(checkpoint.run()?);
        }
    }

    /// The durable checkpoint, to be sent to another member; `None` if there is none.
    #[must_use]
    pub fn snapshot(&self) -> Option<Snapshot> {
        self.engine.snapshot().filter(|snapshot| snapshot.anchor().op > Op::ZERO)
    }

    /// The point at which a log continues from this state.
    #[must_use]
    pub fn point(&self) -> LogPoint {
        LogPoint { anchor: self.applied, next_revision: self.revision.next(), timestamp: self.timestamp }
    }
}
