//! Writes that return the previous record.

use super::ops::{OpFuture, other_effect};
use super::{Client, Delete, Put, Transacted, Transaction};
use crate::error::WriteError;
use crate::ids::{Revision, Timestamp};
use crate::message::{Condition, Effect, Record, StepFailure, StepResult, TransactionStep};
use bytes::Bytes;
use std::future::IntoFuture;
use std::time::Duration;

/// The builder that [`Put::previous`] and [`Delete::previous`] return. When it is awaited, it puts or deletes the key,
/// and returns the previous record of the key.
#[derive(Clone, Debug)]
#[must_use = "nothing is done before this is awaited"]
pub struct WithPrevious(Transaction);

/// The result of a put or a delete that returns the previous record.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct WrittenWithPrevious {
    /// The record before the write; `None` if the key did not exist.
    pub previous: Option<Record>,
    /// The revision of the put or the delete.
    pub revision: Revision,
    /// The time at which the write was applied, on the cluster's clock.
    pub timestamp: Timestamp,
}

impl WithPrevious {
    fn new(
        client: Client,
        key: &Bytes,
        step: TransactionStep,
        condition: Option<Condition>,
        deadline: Option<Duration>,
    ) -> Self {
        let mut transact = Transaction::new(client).get(key).step(step);
        if let Some(condition) = condition {
            transact = transact.condition(key, condition).otherwise().get(key);
        }
        Self(deadline.into_iter().fold(transact, Transaction::deadline))
    }

    /// Sets how long the write may take, retries included. Default: the client's deadline.
    pub fn deadline(self, deadline: Duration) -> Self {
        Self(self.0.deadline(deadline))
    }
}

impl Put {
    /// Makes the put also return the previous record of the key. The result is a [`WrittenWithPrevious`]. The cluster
    /// keeps a copy of the previous record with the result of the put, so that a retry of the put gets the same answer.
    /// This record is subject to the same limits as data that a [`Transaction`] reads. Set the conditions and options
    /// of the put before this call.
    pub fn previous(self) -> WithPrevious {
        let Self { client, key, value, condition, life, deadline } = self;
        WithPrevious::new(
            client,
            &key.clone(),
            TransactionStep::Put { key, value, life },
            condition,
            deadline,
        )
    }
}

impl Delete {
    /// Makes the delete also return the previous record of the key, like [`Put::previous`].
    pub fn previous(self) -> WithPrevious {
        let Self { client, key, condition, deadline } = self;
        WithPrevious::new(client, &key.clone(), TransactionStep::Delete { key }, condition, deadline)
    }
}

impl IntoFuture for WithPrevious {
    type Output = Result<WrittenWithPrevious, WriteError>;
    type IntoFuture = OpFuture<Self::Output>;

    /// Runs the put or the delete.
    ///
    /// # Cancel safety
    /// Dropping the future stops the retries. The write may have been applied, or may still be applied. It is applied
    /// at most once. The client's other calls are not affected.
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let done = self.0.await.map_err(|error| match error {
                WriteError::StepFailed { why: StepFailure::Lease(why), .. } => WriteError::Lease(why),
                error => error,
            })?;
            let Transacted { succeeded, mut results, revision, timestamp } = done;
            let previous = match results.drain(..).next() {
                Some(StepResult::Got(found)) => found.map(|record| *record),
                first => {
                    let results = first.into_iter().collect();
                    return Err(other_effect(Effect::Transacted { succeeded, results }));
                }
            };
            match succeeded {
                true => Ok(WrittenWithPrevious { previous, revision, timestamp }),
                false => {
                    let found = previous.map(|record| record.modified);
                    Err(WriteError::ConditionFailed { found, revision })
                }
            }
        })
    }
}
