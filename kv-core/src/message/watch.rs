//! Following what changes: the question of a client, and where in the history it stands.

use super::{RequestError, SizeLimits};
use crate::ids::Revision;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A place between two events. Events are in the order of revisions and, within one, of keys.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Position {
    /// The events of all revisions below this one are behind it.
    pub revision: Revision,
    /// Of the events of `revision` itself, those up to this key are behind it; `None`: all are.
    pub key: Option<Bytes>,
}

impl Position {
    /// After all events of this revision.
    #[must_use]
    pub const fn after(revision: Revision) -> Self {
        Self { revision, key: None }
    }

    /// All events of the revisions up to here are behind it. A revision that was delivered in part is not among them.
    #[must_use]
    pub fn behind(&self) -> Revision {
        if self.key.is_some() { self.revision.back(1) } else { self.revision }
    }
}

/// What is followed, and from where.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WatchQuery {
    /// The first key (inclusive).
    pub from: Bytes,
    /// The end (exclusive); none for the end of the key space.
    pub to: Option<Bytes>,
    /// Events behind this place have been seen. `None`: whatever comes after what the member has applied; the answer contains at once where that is.
    pub after: Option<Position>,
    /// Whether the events carry the keys' previous values.
    pub previous: bool,
}

impl WatchQuery {
    /// Whether its range keeps to the limits. Asked by the client, and at the door: what waits holds memory.
    ///
    /// # Errors
    /// [`RequestError::Key`].
    pub fn check(&self, limits: SizeLimits) -> Result<(), RequestError> {
        limits.range(&self.from, self.to.as_ref())
    }
}

/// The smallest key above `key`.
pub fn successor(key: &[u8]) -> Bytes {
    [key, &[0]].concat().into()
}

/// The smallest key above all keys that begin with `prefix`.
pub fn after_prefix(prefix: &[u8]) -> Option<Bytes> {
    let keep = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix[..=keep].to_vec();
    end[keep] += 1;
    Some(end.into())
}
