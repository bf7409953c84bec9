//! Single operations: builders to be awaited.

use super::Client;
use crate::error::{ReadError, WriteError};
use crate::ids::{Revision, Timestamp};
use crate::message::{Guard, ReadMode, Record};
use bytes::Bytes;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

/// The future of an operation.
pub(super) type OpFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A put that was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Written {
    /// The revision of the put: from here on the key's `modified`.
    pub revision: Revision,
    /// When, by the cluster's clock.
    pub timestamp: Timestamp,
}

/// A delete that was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Deleted {
    /// Whether there was something to delete.
    pub existed: bool,
    /// The revision of the delete.
    pub revision: Revision,
    /// When, by the cluster's clock.
    pub timestamp: Timestamp,
}

/// Sets a key: created by [`Client::put`], run by awaiting it.
#[derive(Debug)]
#[must_use = "nothing is done before this is awaited"]
pub struct Put {
    client: Client,
    key: Bytes,
    value: Bytes,
    guard: Option<Guard>,
    deadline: Option<Duration>,
}

/// Removes a key: created by [`Client::delete`], run by awaiting it.
#[derive(Debug)]
#[must_use = "nothing is done before this is awaited"]
pub struct Delete {
    client: Client,
    key: Bytes,
    guard: Option<Guard>,
    deadline: Option<Duration>,
}

/// Reads a key: created by [`Client::get`], run by awaiting it.
#[derive(Debug)]
#[must_use = "nothing is done before this is awaited"]
pub struct Get {
    client: Client,
    key: Bytes,
    mode: ReadMode,
    deadline: Option<Duration>,
}

/// The conditions and the deadline of a write.
macro_rules! guards {
    ($name:ident) => {
        impl $name {
            /// Only if the key does not exist.
            pub fn if_absent(mut self) -> Self {
                self.guard = Some(Guard::Absent);
                self
            }

            /// Only if the key exists.
            pub fn if_present(mut self) -> Self {
                self.guard = Some(Guard::Present);
                self
            }

            /// Only if the key exists and was last changed at this revision.
            pub fn if_revision(mut self, revision: Revision) -> Self {
                self.guard = Some(Guard::Revision(revision));
                self
            }

            /// Only if the key exists and has this value.
            pub fn if_value(mut self, value: impl Into<Bytes>) -> Self {
                self.guard = Some(Guard::Value(value.into()));
                self
            }

            /// How long it may take, retries included. Default: the client's.
            pub fn deadline(mut self, deadline: Duration) -> Self {
                self.deadline = Some(deadline);
                self
            }
        }
    };
}

guards!(Put);
guards!(Delete);

impl Put {
    pub(super) fn new(client: Client, key: Bytes, value: Bytes) -> Self {
        Self { client, key, value, guard: None, deadline: None }
    }
}

impl Delete {
    pub(super) fn new(client: Client, key: Bytes) -> Self {
        Self { client, key, guard: None, deadline: None }
    }
}

impl Get {
    pub(super) fn new(client: Client, key: Bytes) -> Self {
        Self { client, key, mode: ReadMode::Linearizable, deadline: None }
    }

    /// Reads what some member happens to have applied: fast, available without a primary, possibly stale.
    pub fn local(mut self) -> Self {
        self.mode = ReadMode::Local;
        self
    }

    /// How long it may take, retries included. Default: the client's.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }
}

impl IntoFuture for Put {
    type Output = Result<Written, WriteError>;
    type IntoFuture = OpFuture<Self::Output>;

    /// Runs the put.
    ///
    /// # Cancel safety
    /// Dropping the future stops the retries; the put may have been done, or may still be, once. Nothing else is affected.
    fn into_future(self) -> Self::IntoFuture {
        let _ = (&self.client, &self.key, &self.value, &self.guard, self.deadline);
        unimplemented!()
    }
}

impl IntoFuture for Delete {
    type Output = Result<Deleted, WriteError>;
    type IntoFuture = OpFuture<Self::Output>;

    /// Runs the delete.
    ///
    /// # Cancel safety
    /// As for [`Put`].
    fn into_future(self) -> Self::IntoFuture {
        let _ = (&self.client, &self.key, &self.guard, self.deadline);
        unimplemented!()
    }
}

impl IntoFuture for Get {
    type Output = Result<Option<Record>, ReadError>;
    type IntoFuture = OpFuture<Self::Output>;

    /// Runs the read.
    ///
    /// # Cancel safety
    /// Cancel safe.
    fn into_future(self) -> Self::IntoFuture {
        let _ = (&self.client, &self.key, self.mode, self.deadline);
        unimplemented!()
    }
}
