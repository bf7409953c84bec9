//! A view of the keys that begin with a prefix, in which the values are structs.

mod calls;
mod watch;

pub use calls::{TypedGet, TypedPut};
pub use watch::{TypedEvent, TypedStream, TypedUpdate, TypedWatch};

use super::{Client, Delete};
use crate::error::{ReadError, WatchError, WriteError};
use crate::ids::{LeaseId, Revision, Timestamp};
use crate::message::Record;
use bytes::Bytes;
use futures::stream::{Stream, StreamExt, TryStreamExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use tokio::time::Instant;

/// A view of the keys that begin with a prefix, in which the values have the type `T`: returned by [`Client::typed`].
/// The cluster stores the values as JSON, so `kv get` prints them as text, and programs in other languages can read
/// them. If you add a field to `T` later, mark it with `#[serde(default)]`, so that older values can still be read.
///
/// All methods take and return keys without the prefix. A clone is cheap. The calls have the same guarantees and limits
/// as the calls of the client. Their default deadline is the client's deadline. The methods that return a builder let
/// you set options and another deadline for each call.
///
/// ```no_run
/// # async fn example(client: kv_core::Client) -> Result<(), kv_core::client::TypedError> {
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct User {
///     name: String,
///     visits: u32,
/// }
///
/// let users = client.typed::<User>("user/");
/// users.put("ann", &User { name: "Ann".into(), visits: 0 }).await?;
/// users.update("ann", |user| user.map(|user| User { visits: user.visits + 1, ..user })).await?;
/// let ann = users.get("ann").await?.expect("she is there");
/// println!("{} was here {} times", ann.name, ann.visits);
/// users.put("guest", &User { name: "?".into(), visits: 0 }).ttl(std::time::Duration::from_secs(600)).await?;
/// # Ok(()) }
/// ```
pub struct Typed<T> {
    client: Client,
    prefix: Bytes,
    values: PhantomData<fn() -> T>,
}

impl<T> Clone for Typed<T> {
    fn clone(&self) -> Self {
        Self { client: self.client.clone(), prefix: self.prefix.clone(), values: PhantomData }
    }
}

impl<T> fmt::Debug for Typed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Typed").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// A value and its revisions. An entry dereferences to its value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Entry<T> {
    /// The value.
    pub value: T,
    /// The revision at which the key was created.
    pub created: Revision,
    /// The revision at which the key was last changed. [`Typed::replace`] changes the value only if this is still the
    /// revision of the last change.
    pub modified: Revision,
    /// How many times the key was put since it was created; 1 after the first put.
    pub version: u64,
    /// When the key expires, on the cluster's clock, if it has a time to live.
    pub expires: Option<Timestamp>,
    /// The lease that the key belongs to.
    pub lease: Option<LeaseId>,
}

impl<T> Deref for Entry<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// Why a typed operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TypedError {
    /// The value cannot be written as JSON. Nothing was changed.
    #[error("the value cannot be stored: {0}")]
    Encode(#[source] serde_json::Error),
    /// The stored value cannot be read as a value of the type `T` of the [`Typed`].
    #[error("the value of {key:?} has another type: {source}")]
    Decode {
        /// The key, without the prefix.
        key: Bytes,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// The read failed. Nothing was changed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The write failed.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The watch has ended.
    #[error(transparent)]
    Watch(#[from] WatchError),
    /// In each attempt, another client changed the value after this client had read it. This call changed nothing.
    #[error("other clients changed the key before each attempt, until the deadline")]
    Contended,
}

impl TypedError {
    /// Returns whether the write failed because its condition did not hold. The condition of [`Typed::create`] is that
    /// the key does not exist. The condition of [`Typed::replace`] is that the value has not changed since it was read.
    #[must_use]
    pub const fn is_condition_failed(&self) -> bool {
        matches!(self, Self::Write(error) if error.is_condition_failed())
    }

    /// Returns true if nothing was changed and the same call may succeed later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Read(error) => error.is_retryable(),
            Self::Write(error) => error.is_retryable(),
            Self::Contended => true,
            Self::Encode(_) | Self::Decode { .. } | Self::Watch(_) => false,
        }
    }

    /// Returns whether the write may have been applied, or may still be applied.
    #[must_use]
    pub const fn outcome_unknown(&self) -> bool {
        matches!(self, Self::Write(error) if error.outcome_unknown())
    }
}

impl<T: Serialize + DeserializeOwned + 'static> Typed<T> {
    pub(super) fn new(client: Client, prefix: &[u8]) -> Self {
        Self { client, prefix: Bytes::copy_from_slice(prefix), values: PhantomData }
    }

    fn key(&self, key: &[u8]) -> Bytes {
        [&self.prefix, key].concat().into()
    }

    /// Reads a value, by default linearizably. Await the builder to run it.
    pub fn get(&self, key: impl AsRef<[u8]>) -> TypedGet<T> {
        let key = key.as_ref();
        TypedGet::new(Bytes::copy_from_slice(key), self.client.get(self.key(key)))
    }

    /// Sets a value. Await the builder to run it.
    pub fn put(&self, key: impl AsRef<[u8]>, value: &T) -> TypedPut {
        TypedPut::new(encode(value).map(|value| self.client.put(self.key(key.as_ref()), value)))
    }

    /// Sets a value if the key does not exist; otherwise fails with [`WriteError::ConditionFailed`]. Await the builder
    /// to run it.
    pub fn create(&self, key: impl AsRef<[u8]>, value: &T) -> TypedPut {
        self.put(key, value).if_absent()
    }

    /// Sets a value if it has not changed since it was read as `seen`; otherwise fails with
    /// [`WriteError::ConditionFailed`]. Await the builder to run it.
    pub fn replace(&self, key: impl AsRef<[u8]>, seen: &Entry<T>, value: &T) -> TypedPut {
        self.put(key, value).if_revision(seen.modified)
    }

    /// Changes a value: calls `change` with the present value, and writes the value that `change` returns. `change`
    /// gets `None` if the key does not exist, and returns `None` to remove the key. If another client changes the value
    /// in the meantime, `change` is called again with the new value. Returns the value that was written, or `None` if
    /// `change` returned `None`. The new value has no time to live and no lease, even if the old value had one.
    ///
    /// # Errors
    /// The errors of [`get`](Self::get) and [`put`](Self::put). Also [`TypedError::Contended`], if another client
    /// changes the value in each attempt until the client's deadline has passed.
    ///
    /// # Cancel safety
    /// Dropping the future stops the retries. The change may have been applied, or may still be applied. It is applied
    /// at most once.
    pub async fn update(
        &self,
        key: impl AsRef<[u8]>,
        mut change: impl FnMut(Option<T>) -> Option<T>,
    ) -> Result<Option<T>, TypedError> {
        let key = key.as_ref();
        let until = Instant::now() + self.client.default_deadline();
        loop {
            let seen = self.get(key).await?;
            let modified = seen.as_ref().map(|entry| entry.modified);
            let wanted = change(seen.map(|entry| entry.value));
            let stored = self.key(key);
            let done = match (&wanted, modified) {
                (None, None) => return Ok(None),
                (None, Some(revision)) => self.client.delete(stored).if_revision(revision).await.map(drop),
                (Some(value), None) => self.client.put(stored, encode(value)?).if_absent().await.map(drop),
                (Some(value), Some(revision)) => {
                    self.client.put(stored, encode(value)?).if_revision(revision).await.map(drop)
                }
            };
            match done {
                Ok(()) => return Ok(wanted),
                Err(WriteError::ConditionFailed { .. }) if Instant::now() < until => {}
                Err(WriteError::ConditionFailed { .. }) => return Err(TypedError::Contended),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Removes a key. Await the builder to run it.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Delete {
        self.client.delete(self.key(key.as_ref()))
    }

    /// Watches the values. The watch returns each change once, in order.
    pub fn watch(&self) -> TypedWatch<T> {
        TypedWatch::new(self.client.watch(&self.prefix), self.prefix.len())
    }

    /// Returns all values as a stream, in the order of their keys. The stream continues after [`TypedError::Decode`],
    /// and ends after any other error.
    ///
    /// # Cancel safety
    /// Dropping the stream stops the scan.
    pub fn stream(
        &self,
    ) -> impl Stream<Item = Result<(Bytes, Entry<T>), TypedError>> + Send + 'static + use<T>
    where
        T: Send + 'static,
    {
        let skip = self.prefix.len();
        self.client.scan(&self.prefix).stream().map(move |found| {
            let (key, record) = found?;
            let key = key.slice(skip..);
            let entry = decode(&key, record)?;
            Ok((key, entry))
        })
    }

    /// Returns all values, in the order of their keys.
    ///
    /// # Errors
    /// The errors of [`get`](Self::get).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn all(&self) -> Result<Vec<(Bytes, Entry<T>)>, TypedError>
    where
        T: Send + 'static,
    {
        self.stream().try_collect().await
    }
}

fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, TypedError> {
    serde_json::to_vec(value).map_err(TypedError::Encode)
}

fn decode<T: DeserializeOwned>(key: &[u8], record: Record) -> Result<Entry<T>, TypedError> {
    let value = serde_json::from_slice(&record.value)
        .map_err(|source| TypedError::Decode { key: Bytes::copy_from_slice(key), source })?;
    let Record { created, modified, version, expires, lease, .. } = record;
    Ok(Entry { value, created, modified, version, expires, lease })
}
