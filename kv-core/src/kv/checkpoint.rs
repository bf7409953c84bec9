//! A checkpoint that is being written, and what it holds besides the data.

use super::members;
use crate::config::{Configuration, FixedOptions};
use crate::engine::{Checkpointed, EngineError, Frozen, Progress, Row, Rows, Written};
use crate::ids::{Anchor, Hash, Revision, SessionId, Timestamp};
use crate::session::{Session, SessionChanges, SessionLimits};
use serde::{Deserialize, Serialize};

/// The name of the row with the numbers of the state.
const NUMBERS: &[u8] = b"numbers";

/// The prefix of the rows of sessions; the id follows, big-endian.
const SESSION: &[u8] = b"session/";

/// The numbers of a state at a checkpoint.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct CheckpointMeta {
    /// The options with which it was built (rule F6).
    pub(super) options: FixedOptions,
    pub(super) applied: Anchor,
    pub(super) requests: u64,
    pub(super) revision: Revision,
    pub(super) timestamp: Timestamp,
    pub(super) state_digest: Hash,
}

impl CheckpointMeta {
    /// Whether the numbers are possible: what a peer sends as its state is not trusted.
    fn is_sane(&self) -> bool {
        let numbers = [self.applied.op.get(), self.requests, self.revision.get(), self.timestamp.get()];
        numbers.iter().all(|number| *number <= u64::MAX >> 2)
    }
}

/// Reads what the last checkpoint wrote; `None` if there was none.
pub(super) fn load(rows: &Rows) -> Result<Option<CheckpointMeta>, EngineError> {
    let Some(numbers) = rows.get(NUMBERS)? else { return Ok(None) };
    let meta: CheckpointMeta =
        postcard::from_bytes(&numbers).map_err(|_| EngineError::damaged("its numbers cannot be read"))?;
    if meta.is_sane() { Ok(Some(meta)) } else { Err(EngineError::damaged("its numbers are too great")) }
}

/// The sessions that the last checkpoint wrote.
pub(super) fn load_sessions(
    rows: &Rows,
    limits: &SessionLimits,
) -> Result<Vec<(SessionId, Session)>, EngineError> {
    let damaged = || EngineError::damaged("a session cannot be read");
    let (mut sessions, mut weight) = (Vec::new(), 0);
    for (name, bytes) in rows.starting_with(SESSION)? {
        let id = name[SESSION.len()..].try_into().map_err(|_| damaged())?;
        let session: Session = postcard::from_bytes(&bytes).map_err(|_| damaged())?;
        weight += session.weight();
        if !session.is_within(limits) || sessions.len() >= limits.max || weight > limits.all_bytes {
            return Err(EngineError::damaged("a session breaks the limits"));
        }
        sessions.push((SessionId::new(u64::from_be_bytes(id)), session));
    }
    Ok(sessions)
}

/// A frozen state that is being written.
#[derive(Debug)]
pub struct Checkpoint {
    pub(super) frozen: Frozen,
    pub(super) meta: CheckpointMeta,
    pub(super) sessions: SessionChanges,
    pub(super) lifetimes: Vec<Row>,
    pub(super) configuration: Option<Box<Configuration>>,
}

impl Checkpoint {
    /// The op that it is at.
    #[must_use]
    pub fn anchor(&self) -> Anchor {
        self.frozen.anchor()
    }

    /// The progress, to be observed while it runs.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.frozen.progress()
    }

    /// Makes it durable, all or nothing. Blocks, for seconds if there is much to write: run it on a thread of its own.
    ///
    /// # Errors
    /// If the disk fails or is damaged, or the state was dropped in the meantime. The error is final: drop the state.
    pub fn run(self) -> Result<CheckpointDone, EngineError> {
        self.write()?.commit()
    }

    /// Writes it, and leaves the state as it is. Blocks, for seconds if there is much to write.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn write(self) -> Result<WrittenCheckpoint, EngineError> {
        let mut rows = vec![(NUMBERS.to_vec(), Some(encode(&self.meta)))];
        for (id, session) in &self.sessions {
            rows.push(row(*id, session.as_deref()));
        }
        rows.extend(self.configuration.as_deref().map(members::row));
        rows.extend(self.lifetimes);
        Ok(WrittenCheckpoint { written: self.frozen.write(rows)? })
    }
}

/// A checkpoint that is written, and not part of the state yet.
#[derive(Debug)]
pub struct WrittenCheckpoint {
    written: Written,
}

impl WrittenCheckpoint {
    /// The op that it is at.
    #[cfg(feature = "internals")]
    #[must_use]
    pub fn anchor(&self) -> Anchor {
        self.written.anchor()
    }

    /// Makes it the state, all or nothing. Blocks.
    ///
    /// # Errors
    /// As [`Checkpoint::run`].
    pub fn commit(self) -> Result<CheckpointDone, EngineError> {
        Ok(CheckpointDone { done: self.written.commit()? })
    }
}

fn row(id: SessionId, session: Option<&Session>) -> Row {
    ([SESSION, &id.get().to_be_bytes()].concat(), session.map(encode))
}

fn encode(value: &impl Serialize) -> Vec<u8> {
    postcard::to_stdvec(value).expect("plain data always encodes")
}

/// A durable checkpoint, for [`StateMachine::finish_checkpoint`](super::StateMachine::finish_checkpoint).
#[derive(Debug)]
pub struct CheckpointDone {
    pub(super) done: Checkpointed,
}

impl CheckpointDone {
    /// The op that it is at.
    #[must_use]
    pub fn anchor(&self) -> Anchor {
        self.done.anchor()
    }
}
