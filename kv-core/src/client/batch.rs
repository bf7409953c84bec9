//! Many puts and deletes in one call.

use super::ops::OpFuture;
use super::{Client, Transacted, Transaction, Written};
use crate::error::WriteError;
use crate::message::Lifetime;
use bytes::Bytes;
use std::future::IntoFuture;
use std::time::Duration;

/// A builder that runs several puts and deletes when it is awaited. [`Client::batch`] returns it. Either all puts and
/// deletes are applied exactly once, at one revision, or none of them is applied. A batch is a [`Transaction`] without
/// conditions, and has the limits of a transaction. For example, it changes up to 1,000 keys, and each key at most
/// once.
///
/// ```no_run
/// # async fn example(client: kv_core::Client) -> Result<(), kv_core::error::WriteError> {
/// let fruit = [("fruit/apples", "12"), ("fruit/pears", "7")];
/// let written = client.batch().puts(fruit).delete("fruit/plums").await?;
/// println!("stored at revision {}", written.revision);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is done before this is awaited"]
pub struct Batch(Transaction);

impl Batch {
    pub(super) fn new(client: Client) -> Self {
        Self(Transaction::new(client))
    }

    /// Sets a key.
    pub fn put(self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Self {
        Self(self.0.put(key, value))
    }

    /// Sets a key, and gives it a time to live or a lease ([`Lifetime`]).
    pub fn put_for(self, key: impl AsRef<[u8]>, value: impl Into<Bytes>, life: Lifetime) -> Self {
        Self(self.0.put_for(key, value, life))
    }

    /// Sets several keys.
    pub fn puts<K: AsRef<[u8]>, V: Into<Bytes>>(self, pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        pairs.into_iter().fold(self, |batch, (key, value)| batch.put(key, value))
    }

    /// Removes a key, if it exists.
    pub fn delete(self, key: impl AsRef<[u8]>) -> Self {
        Self(self.0.delete(key))
    }

    /// Removes several keys.
    pub fn deletes<K: AsRef<[u8]>>(self, keys: impl IntoIterator<Item = K>) -> Self {
        keys.into_iter().fold(self, Self::delete)
    }

    /// Sets how long the batch may take, retries included. Default: the client's deadline.
    pub fn deadline(self, deadline: Duration) -> Self {
        Self(self.0.deadline(deadline))
    }
}

impl IntoFuture for Batch {
    type Output = Result<Written, WriteError>;
    type IntoFuture = OpFuture<Self::Output>;

    /// Runs the batch.
    ///
    /// # Cancel safety
    /// Dropping the future stops the retries. The batch may have been applied, or may still be applied. It is applied
    /// at most once. The client's other calls are not affected.
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let Transacted { revision, timestamp, .. } = self.0.await?;
            Ok(Written { revision, timestamp })
        })
    }
}
