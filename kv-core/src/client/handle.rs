//! The client's handle.

use super::{ClientBuilder, Delete, Get, Put, Scan};
use crate::error::{CallFailed, ConnectError};
use crate::ids::MemberId;
use crate::message::MemberStatus;
use bytes::Bytes;
use std::ops::RangeBounds;

/// A client of a cluster. Clones share one session, one set of connections and one task.
///
/// When the last clone is dropped the connections are closed; the session expires by itself, or is closed at once by
/// [`close`](Self::close).
#[derive(Clone, Debug)]
pub struct Client {}

/// What [`Client::cluster_status`] learned of one member.
#[derive(Debug)]
#[non_exhaustive]
pub struct MemberReport {
    /// The member.
    pub id: MemberId,
    /// Where it is reached.
    pub address: String,
    /// `data` or `witness`.
    pub role: String,
    /// Where it stands, or why that is not known.
    pub status: Result<MemberStatus, CallFailed>,
}

impl Client {
    /// Starts to configure a client of the cluster with this name.
    pub fn builder(cluster: impl Into<String>) -> ClientBuilder {
        ClientBuilder::new(cluster.into())
    }

    /// Connects with default settings by any one member's address.
    ///
    /// # Errors
    /// # Cancel safety
    /// As [`ClientBuilder::connect`].
    pub async fn connect(
        cluster: &str,
        address: &str,
        transport: std::sync::Arc<dyn kv_transport::Transport>,
    ) -> Result<Self, ConnectError> {
        Self::builder(cluster).address(address).transport(transport).connect().await
    }

    /// Sets a key. Await the builder to run it.
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Put {
        Put::new(self.clone(), Bytes::copy_from_slice(key.as_ref()), value.into())
    }

    /// Removes a key. Await the builder to run it.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Delete {
        Delete::new(self.clone(), Bytes::copy_from_slice(key.as_ref()))
    }

    /// Reads a key: linearizable unless said otherwise. Await the builder to run it.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Get {
        Get::new(self.clone(), Bytes::copy_from_slice(key.as_ref()))
    }

    /// Reads the keys that begin with `prefix`, in order. Await the builder to run it.
    pub fn scan(&self, prefix: impl AsRef<[u8]>) -> Scan {
        Scan::prefix(self.clone(), prefix.as_ref())
    }

    /// Reads the keys in a range, in order. Await the builder to run it.
    pub fn scan_range<K: AsRef<[u8]>>(&self, range: impl RangeBounds<K>) -> Scan {
        Scan::range(self.clone(), &range)
    }

    /// Asks every member where it stands, all at once, each within the default deadline or two seconds, the shorter.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn cluster_status(&self) -> Vec<MemberReport> {
        unimplemented!()
    }

    /// Asks one member where it stands.
    ///
    /// # Errors
    /// If it does not answer in time.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn member_status(&self, member: MemberId) -> Result<MemberStatus, CallFailed> {
        let _ = member;
        unimplemented!()
    }

    /// Finds the primary and asks it to hand its role to another member. Returns when that has been started.
    ///
    /// # Errors
    /// If no primary is found, or it does not answer.
    ///
    /// # Cancel safety
    /// Dropping the future may leave the handover going on.
    pub async fn handover(&self) -> Result<(), CallFailed> {
        unimplemented!()
    }

    /// Refuses new operations on all clones, waits for those in flight, closes the session (best effort) and the
    /// connections.
    ///
    /// # Cancel safety
    /// The client goes on closing when the future is dropped.
    pub async fn close(&self) {
        unimplemented!()
    }
}
