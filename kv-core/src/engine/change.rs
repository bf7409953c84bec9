//! What a write does to a key, and how much history is kept.

use crate::ids::Revision;
use crate::message::EventKind;
use bytes::Bytes;

/// What a write does to a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KeyChange {
    /// Sets its value.
    Set(Bytes),
    /// Removes it.
    Delete,
    /// Removes it because it has expired.
    Expire,
}

impl KeyChange {
    /// The value afterwards; `None` if the key was removed.
    #[must_use]
    pub const fn value(&self) -> Option<&Bytes> {
        match self {
            Self::Set(value) => Some(value),
            Self::Delete | Self::Expire => None,
        }
    }

    /// The kind of event that a watch reports.
    #[must_use]
    pub const fn kind(&self) -> EventKind {
        match self {
            Self::Set(_) => EventKind::Put,
            Self::Delete => EventKind::Deleted,
            Self::Expire => EventKind::Expired,
        }
    }
}

/// How much history is kept: the changes of the last `revisions` revisions, or of fewer if those take more than
/// `bytes`. If either is 0, none is kept.
///
/// The history in a checkpoint is a function of the log up to there, whatever checkpoints were made before: whole
/// revisions are dropped, oldest first, and the weight of a revision never changes. So the checkpoints of all members
/// hold the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Retention {
    /// The largest number of revisions.
    pub revisions: u64,
    /// The largest number of bytes. A change counts as its former value, the key twice, and 64 bytes.
    pub bytes: u64,
}

impl Retention {
    /// No history.
    #[cfg(feature = "internals")]
    pub const NONE: Self = Self { revisions: 0, bytes: 0 };

    /// Returns whether any history is kept.
    pub(super) const fn is_some(&self) -> bool {
        self.revisions > 0 && self.bytes > 0
    }

    /// In a state at `revision`, all changes up to this one are dropped, however small they are.
    pub(super) fn through(&self, revision: Revision) -> Revision {
        revision.back(self.revisions)
    }
}

/// About how much a change takes on disk besides its key (twice) and its former value.
pub(super) const CHANGE_OVERHEAD: usize = 64;

/// How many bytes the history of a change counts as, for a key of this length and a former value of this length.
pub(super) const fn weight(key: usize, former: usize) -> u64 {
    (CHANGE_OVERHEAD + 2 * key + former) as u64
}
