//! Counts, which visit a range step after step.

use super::Client;
use super::call::Reply;
use super::ops::{AtRevision, OpFuture, ReadOptions, freshness, unexpected_reply};
use super::range::Ends;
use crate::error::ReadError;
use crate::message::{Query, ReadMode};
use bytes::Bytes;
use std::future::IntoFuture;

/// A builder that counts keys when it is awaited: returned by [`Client::count`] and [`Client::count_range`].
///
/// Members send numbers and no keys or values. Counting takes time in proportion to the number of keys. A member does a
/// limited amount of work for one answer, so a large range is counted in several steps. All steps count at one
/// revision: the revision of the first step, or the revision given to [`at`](Self::at). The options for freshness apply
/// to the first step in the same way as to any other read. If the members stop keeping the revision before the count
/// ends, the count fails with [`Compacted`](ReadError::Compacted). In that case, count again.
#[derive(Clone, Debug)]
#[must_use = "nothing is done before this is awaited"]
pub struct Count {
    from: Bytes,
    to: Option<Bytes>,
    how: ReadOptions,
}

freshness!(Count, "Sets how long each step may take, retries included. Default: the client's deadline.");

impl Count {
    pub(super) fn new(client: Client, (from, to): Ends) -> Self {
        Self { from, to, how: ReadOptions::new(client) }
    }

    /// Counts, and also returns the revision at which the keys were counted.
    ///
    /// # Errors
    /// The same errors as when the builder itself is awaited.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn with_revision(self) -> Result<AtRevision<u64>, ReadError> {
        let Self { mut from, to, mut how } = self;
        let mut found = 0_u64;
        loop {
            let query = Query::Count { from: from.clone(), to: to.clone(), at: how.at };
            let (count, next, revision) = match how.run(query).await? {
                Reply::Counted { count, next, revision } => (count, next, revision),
                other => return Err(unexpected_reply(&other)),
            };
            found = found.saturating_add(count);
            match next {
                None => return Ok(AtRevision { found, revision }),
                Some(next) if next > from => from = next,
                // The same request would be repeated forever.
                next => return Err(unexpected_reply(&Reply::Counted { count, next, revision })),
            }
            how.at = Some(revision);
            if how.mode != ReadMode::Linearizable {
                // Another member may answer the next request, and may lag behind this member.
                how.mode = ReadMode::AtLeast(revision);
            }
        }
    }
}

impl IntoFuture for Count {
    type Output = Result<u64, ReadError>;
    type IntoFuture = OpFuture<Self::Output>;

    /// Counts the keys.
    ///
    /// # Cancel safety
    /// Cancel safe.
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { Ok(self.with_revision().await?.found) })
    }
}
