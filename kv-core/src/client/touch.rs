//! Changes of a key's time to live.

use super::Client;
use super::ops::{OpFuture, conditions, failure, write};
use crate::error::WriteError;
use crate::ids::{Revision, Timestamp};
use crate::message::{Command, Condition, Effect, Outcome};
use bytes::Bytes;
use std::future::IntoFuture;
use std::time::Duration;

/// A builder that replaces the time to live of a key when it is awaited: returned by [`Client::touch`] and
/// [`Client::persist`].
#[derive(Clone, Debug)]
#[must_use = "nothing is done before this is awaited"]
pub struct Touch {
    client: Client,
    key: Bytes,
    ttl_ms: Option<u64>,
    condition: Option<Condition>,
    deadline: Option<Duration>,
}

/// The result of a [`Touch`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Touched {
    /// Whether the key exists. If not, nothing was changed.
    pub existed: bool,
    /// The revision of the change. If the key exists, this is now its `modified` revision.
    pub revision: Revision,
    /// The time at which the change was applied, on the cluster's clock. The new time to live begins at this time.
    pub timestamp: Timestamp,
}

impl Touch {
    pub(super) fn new(client: Client, key: Bytes, ttl_ms: Option<u64>) -> Self {
        Self { client, key, ttl_ms, condition: None, deadline: None }
    }
}

conditions!(Touch);

impl IntoFuture for Touch {
    type Output = Result<Touched, WriteError>;
    type IntoFuture = OpFuture<Self::Output>;

    /// Runs the change. A key that does not exist is no error: see [`Touched::existed`].
    ///
    /// # Cancel safety
    /// Dropping the future stops the retries. The change may have been applied, or may still be applied. It is applied
    /// at most once. Nothing else is affected.
    fn into_future(self) -> Self::IntoFuture {
        let Self { client, key, ttl_ms, condition, deadline } = self;
        Box::pin(async move {
            let outcome = write(&client, Command::Touch { key, ttl_ms, condition }, deadline).await?;
            let Outcome { revision, timestamp, effect } = outcome;
            match effect {
                Effect::Touched { existed } => Ok(Touched { existed, revision, timestamp }),
                effect => Err(failure(revision, effect)),
            }
        })
    }
}
