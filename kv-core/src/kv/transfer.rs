//! A state on its way from one member to another: what the source keeps for those who fetch, and what the receiver stores
//! until it is whole.

use super::lifetimes::Lifetimes;
use super::{Limits, State, checkpoint};
use crate::engine::{Disk, EngineError, Snapshot, Staging};
use crate::ids::{Anchor, Instant, MemberId, Op};
use crate::message::{Chunk, ChunkEnd, Entry, LogPoint};
use crate::storage::Storage;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A snapshot is kept so long for a peer that does not ask for more. Pages of the disk cannot be used again meanwhile.
const KEPT: Duration = Duration::from_secs(30);

/// The checkpoints that peers fetch.
#[derive(Debug, Default)]
pub struct Sources {
    latest: Option<Snapshot>,
    kept: BTreeMap<MemberId, (Snapshot, Instant)>,
}

impl Sources {
    /// There is a newer checkpoint (or, after a restart, one at all).
    pub fn publish(&mut self, latest: Option<Snapshot>) {
        self.latest = latest;
    }

    /// The state is gone, and with it all its checkpoints.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// The snapshot that `peer` has begun to fetch, or may begin to: kept for it from now on.
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

    /// Lets go of what nobody has asked for lately.
    pub fn expire(&mut self, now: Instant) {
        self.kept.retain(|_, (_, used)| now.since(*used) <= KEPT);
    }
}

/// What this member has received of a snapshot. Calls block.
#[derive(Debug)]
pub struct Receiver {
    storage: Arc<dyn Storage>,
    limits: Limits,
    staging: Option<Staging>,
}

impl Receiver {
    /// With what an earlier life left.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn open(storage: Arc<dyn Storage>, limits: Limits) -> Result<Self, EngineError> {
        let staging = Staging::open(&storage)?;
        Ok(Self { storage, limits, staging })
    }

    /// How far the pieces go that are stored, and of which snapshot.
    #[must_use]
    pub fn progress(&self) -> Option<(Anchor, ChunkEnd)> {
        self.staging.as_ref().map(|staging| (staging.at(), staging.end().clone()))
    }

    /// Stores a piece of the snapshot at `at`; a first piece begins anew. False: it does not follow what is stored, or is not
    /// intact, and everything was thrown away.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn stage(&mut self, at: Anchor, chunk: &Chunk) -> Result<bool, EngineError> {
        if chunk.after.is_empty() {
            self.staging = None;
            self.staging = Some(Staging::begin(&self.storage, at)?);
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

    /// Reads everything back (rule T2): whether it is the state at `at`, whole, and built with the limits of this member. What is
    /// not is thrown away.
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
        let Some(standing) = checkpoint::load(&rows)? else { return Ok(false) };
        standing.options.check(&self.limits.fixed)?;
        checkpoint::load_sessions(&rows, &self.limits.sessions())?;
        Lifetimes::load(&rows, self.limits.fixed.max_leases)?;
        Ok(standing.applied == at)
    }

    /// Whether it may take the place of this state: the state has not come as far, and what is stored is [verified](Self::verify). What may
    /// not is thrown away.
    ///
    /// # Errors
    /// If the disk fails, or the limits differ.
    pub fn may_replace(&mut self, state: Option<&State>, at: Anchor) -> Result<bool, EngineError> {
        if state.is_some_and(|state| state.applied().op >= at.op) {
            self.discard()?;
            return Ok(false);
        }
        self.verify(at)
    }

    /// Puts what was verified in the place of the state, durably, and opens it. The old state must have been dropped.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn switch(&mut self) -> Result<State, EngineError> {
        if let Some(staging) = self.staging.take() {
            staging.switch()?;
        }
        State::open(self.storage.clone(), self.limits.clone())
    }

    /// The damaged state that was set aside, for peers to fetch what is intact of it; `None` if there is none.
    ///
    /// # Errors
    /// If nothing of it can be read.
    pub fn open_aside(&self) -> Result<Option<State>, EngineError> {
        State::open_aside(&self.storage, &self.limits)
    }

    /// Throws away what is stored of the snapshot at `at`.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn discard_at(&mut self, at: Anchor) -> Result<(), EngineError> {
        if self.staging.as_ref().is_some_and(|staging| staging.at() == at) { self.discard() } else { Ok(()) }
    }

    /// Throws away what is stored.
    ///
    /// # Errors
    /// If the disk fails.
    fn discard(&mut self) -> Result<(), EngineError> {
        self.staging.take().map_or(Ok(()), Staging::discard)
    }
}

impl State {
    /// Sets what is on disk aside, durably: it is damaged. A state that was open must have been dropped. The file stays until
    /// [`Receiver::switch`] has put another one in its place.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn set_aside(storage: &dyn Storage) -> Result<(), EngineError> {
        Disk::set_aside(storage)
    }

    /// Opens the state, or sets a damaged one aside (rule T9a): `None`, and it must be fetched from a peer.
    ///
    /// # Errors
    /// If the disk fails, or what it holds is newer, inconsistent or built with other limits.
    pub fn open_or_set_aside(
        storage: &Arc<dyn Storage>,
        limits: &Limits,
    ) -> Result<Option<Self>, EngineError> {
        match Self::open(storage.clone(), limits.clone()) {
            Ok(state) if !Disk::is_set_aside(&**storage)? => Ok(Some(state)),
            // Nothing has taken its place yet.
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

    fn open_aside(storage: &Arc<dyn Storage>, limits: &Limits) -> Result<Option<Self>, EngineError> {
        let opened = Disk::open_aside(storage.clone(), limits.cache_bytes)?;
        if opened.exists() { Self::of(opened, limits.clone()).map(Some) } else { Ok(None) }
    }

    /// Applies entries up to `through` and makes a checkpoint there: of a state that was set aside, so that members whose states are damaged
    /// in different places have their intact parts at one op (rule T9b). Blocks.
    ///
    /// # Errors
    /// If it comes across the damage. The last checkpoint is still there.
    pub fn bring_to(&mut self, through: Op, read: impl Fn(Op) -> Option<Entry>) -> Result<(), EngineError> {
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

    /// Where a log goes on from this state.
    #[must_use]
    pub fn point(&self) -> LogPoint {
        LogPoint { anchor: self.applied, next_revision: self.revision.next(), timestamp: self.timestamp }
    }
}
