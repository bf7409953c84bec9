//! Ranges of keys, and their removal.

use super::Client;
use super::ops::{OpFuture, other_effect, write};
use crate::error::WriteError;
use crate::ids::Revision;
use crate::message::{Command, Effect, after_prefix, successor};
use bytes::Bytes;
use std::future::IntoFuture;
use std::ops::{Bound, RangeBounds};
use std::time::Duration;

/// A builder that removes a range of keys when it is awaited: returned by [`Client::delete_range`] and
/// [`Client::delete_prefix`].
///
/// The range is removed in steps. Each step removes up to 1,000 keys, and all removals of a step have the same
/// revision. A step removes fewer keys if their values reach 16 MiB. A range that fits into one step is removed
/// atomically. Between the steps of a larger range, other clients may read and write. The duration of a step does not
/// grow with the number of keys that earlier steps removed.
#[derive(Clone, Debug)]
#[must_use = "nothing is done before this is awaited"]
pub struct DeleteRange {
    client: Client,
    from: Bytes,
    to: Option<Bytes>,
    deadline: Option<Duration>,
}

/// The result of removing a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct RangeDeleted {
    /// The number of removed keys.
    pub count: u64,
    /// The revision of the last step.
    pub revision: Revision,
}

impl DeleteRange {
    pub(super) fn new(client: Client, (from, to): Ends) -> Self {
        Self { client, from, to, deadline: None }
    }

    /// Sets how long each step may take, retries included. Default: the client's deadline.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }
}

impl IntoFuture for DeleteRange {
    type Output = Result<RangeDeleted, WriteError>;
    type IntoFuture = OpFuture<Self::Output>;

    /// Runs the removal. After an error, a part of the range may have been removed. Run the removal again to remove the
    /// rest.
    ///
    /// # Cancel safety
    /// Dropping the future stops the removal. The current step may have been applied, or may still be applied. It is
    /// applied at most once.
    fn into_future(self) -> Self::IntoFuture {
        let Self { client, from, to, deadline } = self;
        Box::pin(async move {
            let mut total = 0;
            loop {
                let (from, to) = (from.clone(), to.clone());
                let command = Command::DeleteRange { from, to, limit: Command::MAX_RANGE };
                let outcome = write(&client, command, deadline).await?;
                let Effect::RangeDeleted { count, more } = outcome.effect else {
                    return Err(other_effect(outcome.effect));
                };
                total += u64::from(count);
                if !more {
                    return Ok(RangeDeleted { count: total, revision: outcome.revision });
                }
            }
        })
    }
}

/// The first key of a range, and the first key after the range; `None` if the range has no end.
pub(super) type Ends = (Bytes, Option<Bytes>);

pub(super) fn ends_of_key(key: &[u8]) -> Ends {
    (Bytes::copy_from_slice(key), Some(successor(key)))
}

pub(super) fn ends_of_prefix(prefix: &[u8]) -> Ends {
    (Bytes::copy_from_slice(prefix), after_prefix(prefix))
}

pub(super) fn ends_of<K: AsRef<[u8]>>(range: &impl RangeBounds<K>) -> Ends {
    let from = match range.start_bound() {
        Bound::Unbounded => Bytes::new(),
        Bound::Included(key) => Bytes::copy_from_slice(key.as_ref()),
        Bound::Excluded(key) => successor(key.as_ref()),
    };
    let to = match range.end_bound() {
        Bound::Unbounded => None,
        Bound::Included(key) => Some(successor(key.as_ref())),
        Bound::Excluded(key) => Some(Bytes::copy_from_slice(key.as_ref())),
    };
    (from, to)
}
