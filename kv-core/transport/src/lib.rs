//! How kv reaches other processes: byte streams to named peers, in lanes.

use async_trait::async_trait;
use std::fmt::Debug;
use tokio::io::{AsyncRead, AsyncWrite};

/// A class of traffic. Lanes never block one another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Lane {
    /// Signs of life, votes, read rounds.
    Control,
    /// Prepare, PrepareOk.
    Log,
    /// Catching up: old entries, snapshots.
    Bulk,
    /// Clients' requests and replies.
    Client,
}

/// What the transport itself knows of the other end.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Peer {
    /// The transport does not authenticate: the hello's word is all there is.
    Unauthenticated,
    /// A member, proved by its certificate.
    Member {
        /// The cluster's name.
        cluster: String,
        /// The member's id.
        id: u8,
    },
    /// A client, proved by its certificate.
    Client {
        /// The cluster's name.
        cluster: String,
        /// The client's name.
        name: String,
    },
}

/// Reads from the other end.
pub type Reader = Box<dyn AsyncRead + Send + Unpin>;
/// Writes to the other end. Nothing is sent for certain before a flush.
pub type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// An open byte stream in both directions.
pub struct Connection {
    /// Its lane, as chosen by the end that connected.
    pub lane: Lane,
    /// Who is at the other end.
    pub peer: Peer,
    /// The other end's address, for logs.
    pub remote: String,
    /// Reads from the other end.
    pub reader: Reader,
    /// Writes to the other end.
    pub writer: Writer,
}

impl Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("lane", &self.lane)
            .field("peer", &self.peer)
            .field("remote", &self.remote)
            .finish()
    }
}

/// Why a transport could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The address cannot be understood.
    #[error("{address:?} is not an address: {reason}")]
    Address {
        /// What was given.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// What was given.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The other end cannot be reached.
    #[error("cannot reach {address}: {source}")]
    Connect {
        /// What was given.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Accepting failed; the listener may still be good.
    #[error("cannot accept: {0}")]
    Accept(#[source] std::io::Error),
    /// The listener is closed.
    #[error("the listener is closed")]
    Closed,
}

/// Opens and accepts byte streams.
#[async_trait]
pub trait Transport: Send + Sync + Debug + 'static {
    /// Listens on `address`; port 0 takes a free one.
    async fn bind(&self, address: &str) -> Result<Box<dyn Listener>, TransportError>;

    /// Opens a stream in `lane` to the peer at `address`. No time-out of its own: dropping the future cancels it.
    async fn connect(&self, address: &str, lane: Lane) -> Result<Connection, TransportError>;
}

/// Accepts byte streams.
#[async_trait]
pub trait Listener: Send + Debug {
    /// Waits for the next stream. Cancel safe.
    async fn accept(&mut self) -> Result<Connection, TransportError>;

    /// Where it listens, with the port that was taken.
    fn local_address(&self) -> String;
}
