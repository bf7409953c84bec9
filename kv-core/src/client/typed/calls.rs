//! Reads and writes of single structs. Await a builder to run it.

use super::super::ops::OpFuture;
use super::super::{AtRevision, Get, Put, Written};
use super::{Entry, TypedError, decode};
use crate::ids::{LeaseId, MemberId, Revision};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use std::fmt;
use std::future::IntoFuture;
use std::marker::PhantomData;
use std::time::Duration;

/// A builder that sets a value when it is awaited: returned by [`Typed::put`](super::Typed::put),
/// [`Typed::create`](super::Typed::create) and [`Typed::replace`](super::Typed::replace). Its options are those of
/// [`Put`].
#[derive(Debug)]
#[must_use = "nothing is done before this is awaited"]
pub struct TypedPut(Result<Put, TypedError>);

impl TypedPut {
    pub(super) fn new(put: Result<Put, TypedError>) -> Self {
        Self(put)
    }

    /// Condition: the key does not exist.
    pub fn if_absent(self) -> Self {
        Self(self.0.map(Put::if_absent))
    }

    /// Condition: the key exists.
    pub fn if_present(self) -> Self {
        Self(self.0.map(Put::if_present))
    }

    /// Condition: the key exists and was last changed at this revision.
    pub fn if_revision(self, revision: Revision) -> Self {
        Self(self.0.map(|put| put.if_revision(revision)))
    }

    /// Makes the key expire this long after the put: see [`Put::ttl`].
    pub fn ttl(self, ttl: Duration) -> Self {
        Self(self.0.map(|put| put.ttl(ttl)))
    }

    /// Makes the key belong to this lease: see [`Put::lease`].
    pub fn lease(self, lease: LeaseId) -> Self {
        Self(self.0.map(|put| put.lease(lease)))
    }

    /// Sets how long the operation may take, retries included. Default: the client's deadline.
    pub fn deadline(self, deadline: Duration) -> Self {
        Self(self.0.map(|put| put.deadline(deadline)))
    }
}

impl IntoFuture for TypedPut {
    type Output = Result<Written, TypedError>;
    type IntoFuture = OpFuture<Self::Output>;

    /// Runs the put. Its errors are [`TypedError::Encode`] and [`TypedError::Write`].
    ///
    /// # Cancel safety
    /// The same as for [`Put`].
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { Ok(self.0?.await?) })
    }
}

/// A builder that reads a value when it is awaited: returned by [`Typed::get`](super::Typed::get). Its options are
/// those of [`Get`].
#[must_use = "nothing is done before this is awaited"]
pub struct TypedGet<T> {
    key: Bytes,
    get: Get,
    values: PhantomData<fn() -> T>,
}

impl<T> TypedGet<T> {
    pub(super) fn new(key: Bytes, get: Get) -> Self {
        Self { key, get, values: PhantomData }
    }

    fn with(self, change: impl FnOnce(Get) -> Get) -> Self {
        Self { get: change(self.get), ..self }
    }

    /// Reads the state of any one member, which may be stale: see [`Get::local`].
    pub fn local(self) -> Self {
        self.with(Get::local)
    }

    /// Reads the state of any member that has applied this revision or a later one: see [`Get::at_least`].
    pub fn at_least(self, revision: Revision) -> Self {
        self.with(|get| get.at_least(revision))
    }

    /// Reads the state of any member that can prove that its state is not older than this: see [`Get::max_staleness`].
    pub fn max_staleness(self, bound: Duration) -> Self {
        self.with(|get| get.max_staleness(bound))
    }

    /// Asks only this member, which must not be a witness: see [`Get::member`].
    pub fn member(self, id: MemberId) -> Self {
        self.with(|get| get.member(id))
    }

    /// Reads the value as it was at this revision: see [`Get::at`].
    pub fn at(self, revision: Revision) -> Self {
        self.with(|get| get.at(revision))
    }

    /// Sets how long the operation may take, retries included. Default: the client's deadline.
    pub fn deadline(self, deadline: Duration) -> Self {
        self.with(|get| get.deadline(deadline))
    }
}

impl<T: DeserializeOwned> TypedGet<T> {
    /// Runs the read, and also returns the revision of the state that was read: see [`Get::with_revision`].
    ///
    /// # Errors
    /// The same errors as when the builder itself is awaited.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn with_revision(self) -> Result<AtRevision<Option<Entry<T>>>, TypedError> {
        let Self { key, get, .. } = self;
        let AtRevision { found, revision } = get.with_revision().await?;
        let found = found.map(|record| decode(&key, record)).transpose()?;
        Ok(AtRevision { found, revision })
    }
}

impl<T> fmt::Debug for TypedGet<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypedGet").field("get", &self.get).finish_non_exhaustive()
    }
}

impl<T: DeserializeOwned + 'static> IntoFuture for TypedGet<T> {
    type Output = Result<Option<Entry<T>>, TypedError>;
    type IntoFuture = OpFuture<Self::Output>;

    /// Runs the read. Its errors are [`TypedError::Read`] and [`TypedError::Decode`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { Ok(self.with_revision().await?.found) })
    }
}
