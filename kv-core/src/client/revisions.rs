//! Operations on the numbers of revisions, and on the history that depends on them.

use super::Client;
use super::ops::{OpFuture, other_effect, write};
use crate::error::WriteError;
use crate::ids::{Revision, Timestamp};
use crate::message::{Command, Effect, Outcome};
use std::future::IntoFuture;
use std::time::Duration;

/// A builder that drops old history when it is awaited: returned by [`Client::compact`].
///
/// The cluster keeps the history of its last [`history_revisions`](field@crate::Options::history_revisions) revisions,
/// and the client makes it skip as many revisions as are needed for the older ones to be dropped. So the revision grows
/// without a change, by at most `history_revisions`. No key is changed, and a [watch](Client::watch) gets no event.
///
/// From then on, a member that has applied the skip reads no dropped revision: such a read fails with
/// [`ReadError::Compacted`](crate::error::ReadError::Compacted). A watch that is waiting for changes goes on, and
/// receives the changes from before the skip. But a watch that asks for changes since a dropped revision fails with
/// [`WatchError::Compacted`](crate::error::WatchError::Compacted). If others write at the same time, this can happen to
/// any watch that is about to ask again. To spare such watches, keep some history: see [`before`](Self::before).
///
/// [`Client::compact`] describes when the members free the space.
#[derive(Clone, Debug)]
#[must_use = "nothing is done before this is awaited"]
pub struct Compact {
    client: Client,
    before: Option<Revision>,
    deadline: Option<Duration>,
}

impl Compact {
    pub(super) fn new(client: Client) -> Self {
        Self { client, before: None, deadline: None }
    }

    /// Drops only the history before this revision. A revision that does not exist yet counts as the newest. Default:
    /// all history.
    pub fn before(mut self, revision: Revision) -> Self {
        self.before = Some(revision);
        self
    }

    /// Sets how long each of the two steps may take, retries included: to ask for the newest revision, and to skip.
    /// Default: the client's deadline.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }
}

/// The result of a [`Compact`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct HistoryCompacted {
    /// The oldest revision that can still be read. Members may have dropped more, because they also keep a limited
    /// number of bytes.
    pub oldest: Revision,
    /// The newest revision.
    pub revision: Revision,
}

impl IntoFuture for Compact {
    type Output = Result<HistoryCompacted, WriteError>;
    type IntoFuture = OpFuture<Self::Output>;

    /// Drops the history. After an error, it may have been dropped or not.
    ///
    /// # Cancel safety
    /// After the future is dropped, the history may have been dropped, or may still be dropped.
    fn into_future(self) -> Self::IntoFuture {
        let Self { client, before, deadline } = self;
        Box::pin(async move {
            let (Outcome { mut revision, .. }, kept) = skip(&client, Revision::ZERO, deadline).await?;
            let oldest = before.unwrap_or(revision).min(revision);
            let to = oldest.advance(kept);
            if to > revision {
                revision = skip(&client, to, deadline).await?.0.revision;
            }
            Ok(HistoryCompacted { oldest: oldest.max(revision.back(kept)), revision })
        })
    }
}

/// A builder that raises the revision of the cluster when it is awaited: returned by [`Client::raise_revision`].
#[derive(Clone, Debug)]
#[must_use = "nothing is done before this is awaited"]
pub struct RaiseRevision {
    client: Client,
    to: Revision,
    deadline: Option<Duration>,
}

impl RaiseRevision {
    pub(super) fn new(client: Client, to: Revision) -> Self {
        Self { client, to, deadline: None }
    }

    /// Sets how long the call may take, retries included. Default: the client's deadline.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }
}

/// The result of a [`RaiseRevision`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct RevisionRaised {
    /// The newest revision: the requested one, or a greater one.
    pub revision: Revision,
    /// The time at which this was the newest revision, on the cluster's clock.
    pub timestamp: Timestamp,
}

impl IntoFuture for RaiseRevision {
    type Output = Result<RevisionRaised, WriteError>;
    type IntoFuture = OpFuture<Self::Output>;

    /// Raises the revision. After an error, it may have been raised or not, and the call may be repeated. A revision
    /// above 2^61 is refused with [`RequestError::Skip`](crate::error::RequestError::Skip).
    ///
    /// # Cancel safety
    /// After the future is dropped, the revision may have been raised, or may still be raised.
    fn into_future(self) -> Self::IntoFuture {
        let Self { client, to, deadline } = self;
        Box::pin(async move {
            let Outcome { revision, timestamp, .. } = skip(&client, to, deadline).await?.0;
            Ok(RevisionRaised { revision, timestamp })
        })
    }
}

/// Skips the revisions up to `to`, or none if it is in the past. Returns the outcome, and how many revisions the
/// members keep.
async fn skip(
    client: &Client,
    to: Revision,
    deadline: Option<Duration>,
) -> Result<(Outcome, u64), WriteError> {
    let outcome = write(client, Command::SkipRevisions { to }, deadline).await?;
    match outcome.effect {
        Effect::RevisionsSkipped { kept } => Ok((outcome, kept)),
        effect => Err(other_effect(effect)),
    }
}
