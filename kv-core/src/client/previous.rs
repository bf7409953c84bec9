//! Writes that tell what was there before.

use super::ops::{OpFuture, other_effect, write};
use super::{Client, Delete, Put};
use crate::error::WriteError;
use crate::ids::{Revision, Timestamp};
use crate::message::{Command, Effect, Guard, Record, Step, StepFailure, StepResult, Transaction};
use bytes::Bytes;
use std::future::IntoFuture;
use std::time::Duration;

/// A put or a delete that tells what the key held before: created by [`Put::previous`] and [`Delete::previous`], run by
/// awaiting it.
#[derive(Clone, Debug)]
#[must_use = "nothing is done before this is awaited"]
pub struct Previous {
    client: Client,
    transaction: Transaction,
    deadline: Option<Duration>,
}

/// A put or a delete that was done, with what was there before.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Replaced {
    /// What the key held; `None` if it did not exist.
    pub previous: Option<Record>,
    /// The revision of the put or the delete.
    pub revision: Revision,
    /// When, by the cluster's clock.
    pub timestamp: Timestamp,
}

impl Previous {
    pub(super) fn new(client: Client, step: Step, guard: Option<Guard>, deadline: Option<Duration>) -> Self {
        let key = step.changes().cloned().unwrap_or_default();
        let get = || Step::Get { key: key.clone() };
        let otherwise = guard.iter().map(|_| get()).collect();
        let guards: Vec<(Bytes, Guard)> = guard.into_iter().map(|guard| (key.clone(), guard)).collect();
        let transaction = Transaction { guards, then: vec![get(), step], otherwise };
        Self { client, transaction, deadline }
    }

    /// How long it may take, retries included. Default: the client's.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }
}

impl Put {
    /// Tells what the key held before, too: [`Replaced`]. It is kept for retries as what a [`Transact`](super::Transact) reads.
    /// Conditions and options of the put come first.
    pub fn previous(self) -> Previous {
        let Self { client, key, value, guard, life, deadline } = self;
        Previous::new(client, Step::Put { key, value, life }, guard, deadline)
    }
}

impl Delete {
    /// Tells what the key held before, too: as [`Put::previous`].
    pub fn previous(self) -> Previous {
        let Self { client, key, guard, deadline } = self;
        Previous::new(client, Step::Delete { key }, guard, deadline)
    }
}

impl IntoFuture for Previous {
    type Output = Result<Replaced, WriteError>;
    type IntoFuture = OpFuture<Self::Output>;

    /// Runs the put or the delete.
    ///
    /// # Cancel safety
    /// As for [`Put`].
    fn into_future(self) -> Self::IntoFuture {
        let Self { client, transaction, deadline } = self;
        Box::pin(async move {
            let outcome = write(&client, Command::Transaction(transaction), deadline).await?;
            let found = match outcome.effect {
                Effect::Transacted { held, mut results } if !results.is_empty() => match results.remove(0) {
                    StepResult::Got(found) => (held, found),
                    result => return Err(other_effect(Effect::Transacted { held, results: vec![result] })),
                },
                Effect::StepFailed { why: StepFailure::Lease(why), .. } => {
                    return Err(WriteError::Lease(why));
                }
                effect => return Err(other_effect(effect)),
            };
            match found {
                (true, found) => Ok(Replaced {
                    previous: found.map(|record| *record),
                    revision: outcome.revision,
                    timestamp: outcome.timestamp,
                }),
                (false, found) => Err(WriteError::GuardFailed { found: found.map(|record| record.modified) }),
            }
        })
    }
}
