//! What a put, a delete or a transaction can depend on.

use crate::ids::Revision;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A condition on the present state of the key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Condition {
    /// The key does not exist.
    Absent,
    /// The key exists.
    Present,
    /// The key exists and was last changed at this revision.
    Revision(Revision),
    /// The key exists and has this value.
    Value(Bytes),
    /// The key exists, was created at this revision, and has existed since then.
    Created(Revision),
    /// The same, of the key of a lock. If it does not hold, a transaction does nothing at all: neither of its lists of
    /// steps is done, and it ends with [`Effect::ConditionFailed`](super::Effect::ConditionFailed).
    Held(Revision),
}

impl Condition {
    /// The value that the condition contains.
    pub(super) const fn value(&self) -> Option<&Bytes> {
        match self {
            Self::Value(value) => Some(value),
            Self::Absent | Self::Present | Self::Revision(_) | Self::Created(_) | Self::Held(_) => None,
        }
    }

    pub(super) fn payload_bytes(&self) -> usize {
        self.value().map_or(0, Bytes::len)
    }
}
