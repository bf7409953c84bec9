//! What a write does to a key, and how long that is remembered.

use crate::ids::Revision;
use crate::message::EventKind;
use bytes::Bytes;

/// What a write does to a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// Sets its value.
    Set(Bytes),
    /// Removes it.
    Delete,
    /// Removes it because its time was over.
    Expire,
}

impl Change {
    /// What the key holds afterwards; `None` if it is gone.
    #[must_use]
    pub const fn value(&self) -> Option<&Bytes> {
        match self {
            Self::Set(value) => Some(value),
            Self::Delete | Self::Expire => None,
        }
    }

    /// What it is called.
    #[must_use]
    pub const fn kind(&self) -> EventKind {
        match self {
            Self::Set(_) => EventKind::Put,
            Self::Delete => EventKind::Deleted,
            Self::Expire => EventKind::Expired,
        }
    }
}

/// How much of the past is kept: the changes of the last `revisions` revisions, or of fewer if they take more than `bytes`. Either
/// 0: nothing.
///
/// What is kept at a checkpoint is a function of the log up to there, whatever checkpoints were made before: whole revisions go,
/// oldest first, and what a revision weighs never changes. So the checkpoints of all members hold the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Retention {
    /// The most revisions.
    pub revisions: u64,
    /// The most bytes: for each change its former value, the key twice, and 64 more.
    pub bytes: u64,
}

impl Retention {
    /// Nothing is kept.
    #[cfg(feature = "internals")]
    pub const NONE: Self = Self { revisions: 0, bytes: 0 };

    /// Whether anything is kept.
    pub(super) const fn is_some(&self) -> bool {
        self.revisions > 0 && self.bytes > 0
    }

    /// In a state at `revision` the changes up to here go, however small they are.
    pub(super) fn through(&self, revision: Revision) -> Revision {
        revision.back(self.revisions)
    }
}

/// What a change takes on disk beside its key, twice, and what it superseded: about.
const CHANGE_OVERHEAD: usize = 64;

/// What the history of a change is counted as, in bytes: that of a key of this length, whose former value is so long.
pub(super) const fn weight(key: usize, former: usize) -> u64 {
    (CHANGE_OVERHEAD + 2 * key + former) as u64
}
