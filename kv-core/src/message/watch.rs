//! Watching changes: the query of a client, and its position in the history.

use super::{RequestError, SizeLimits};
use crate::ids::Revision;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A position between two events. Events are in the order of revisions and, within one, of keys.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Position {
    /// The events of all revisions below this one are before it.
    pub revision: Revision,
    /// The events of `revision` itself up to this key are before it; `None`: all of them are.
    pub key: Option<Bytes>,
}

impl Position {
    /// After all events of this revision.
    #[must_use]
    pub const fn after(revision: Revision) -> Self {
        Self { revision, key: None }
    }

    /// All events of the revisions up to this one are before it. A revision that was delivered in part does not count.
    #[must_use]
    pub fn behind(&self) -> Revision {
        if self.key.is_some() { self.revision.back(1) } else { self.revision }
    }
}

/// What to watch, and from which position.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WatchQuery {
    /// The first key (inclusive).
    pub from: Bytes,
    /// The end (exclusive); `None` for the end of the key space.
    pub to: Option<Bytes>,
    /// Events before this position have been seen. `None`: start after what the member has applied; the answer contains
    /// that position at once.
    pub after: Option<Position>,
    /// Whether the events carry the keys' previous values.
    pub previous: bool,
}

impl WatchQuery {
    /// Checks that its range is within the limits. The client checks it, and the member when it arrives, because a
    /// parked watch holds memory.
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
