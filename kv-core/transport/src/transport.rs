//! The seam between kv and the network.

use crate::TransportError;
use async_trait::async_trait;
use std::fmt::{self, Debug, Display};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// How long before a certificate ends nodes and clients begin to warn of it: 14 days.
pub const EXPIRY_WARNING: Duration = Duration::from_secs(14 * 24 * 60 * 60);

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

impl Lane {
    /// Every lane.
    pub const ALL: [Self; 4] = [Self::Control, Self::Log, Self::Bulk, Self::Client];
}

impl Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Control => "control",
            Self::Log => "log",
            Self::Bulk => "bulk",
            Self::Client => "client",
        })
    }
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

/// Reads from the other end. End of file: the other end has ended its direction, or is gone.
pub type Reader = Box<dyn AsyncRead + Send + Unpin>;
/// Writes to the other end. Nothing is sent for certain before a flush; a flush does not guarantee arrival.
pub type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// An open byte stream in both directions.
///
/// - Bytes arrive in order and once, or the connection breaks; `Faulty` aside.
/// - Buffers are bounded: a peer that does not read stops the writer, and that lane alone.
/// - Shutting down or dropping `writer` ends that direction: the peer reads what was written, then end of
///   file. The other direction goes on.
/// - Dropping both halves closes the connection; a peer that goes on writing gets an error.
/// - What a peer sees when `reader` alone is dropped is not stated: writing may fail there, or stall.
pub struct Connection {
    /// Its lane, as chosen by the end that connected.
    pub lane: Lane,
    /// Who is at the other end.
    pub peer: Peer,
    /// The other end's address, for logs: as given to `connect`, or as the accepting end sees it.
    pub remote: String,
    /// Reads from the other end.
    pub reader: Reader,
    /// Writes to the other end.
    pub writer: Writer,
}

impl Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("lane", &self.lane)
            .field("peer", &self.peer)
            .field("remote", &self.remote)
            .finish_non_exhaustive()
    }
}

/// Opens and accepts byte streams.
#[async_trait]
pub trait Transport: Send + Sync + Debug + 'static {
    /// Whether `address` has the form of an address, so that a mistake in a configuration can be reported before
    /// anything is opened. It reaches for nothing. The default takes all to be well formed.
    ///
    /// # Errors
    /// [`TransportError::Address`] with what is wrong.
    fn check_address(&self, address: &str) -> Result<(), TransportError> {
        let _ = address;
        Ok(())
    }

    /// Listens on `address`; port 0 takes a free one, which [`Listener::local_address`] then returns.
    ///
    /// # Errors
    /// [`TransportError::Address`] if it cannot be understood, [`TransportError::Bind`] if it is taken or
    /// not this machine's.
    async fn bind(&self, address: &str) -> Result<Box<dyn Listener>, TransportError>;

    /// Opens a stream in `lane` to the peer at `address`. It may return before the peer has accepted.
    ///
    /// No time-out of its own.
    ///
    /// # Errors
    /// [`TransportError::Address`] if it cannot be understood, [`TransportError::Connect`] if nobody listens
    /// there or it cannot be reached.
    ///
    /// # Cancel safety
    /// Dropping the future gives up; the peer may see a connection that ends at once.
    async fn connect(&self, address: &str, lane: Lane) -> Result<Connection, TransportError>;

    /// Who this end is to others: what their [`Connection::peer`] returns. The default: the transport authenticates nobody.
    ///
    /// Where it is somebody, every connection's peer is, too.
    fn identity(&self) -> Peer {
        Peer::Unauthenticated
    }

    /// Takes over what has changed of what it authenticates by, certificates in files for example, for all connections from
    /// then on; returns whether anything has. Nodes and clients call it about every second, where it may block for a moment. The
    /// default: nothing ever changes.
    ///
    /// # Errors
    /// [`TransportError::Credentials`] if what is there now cannot be used. What was used before goes on being used.
    fn refresh(&self) -> Result<bool, TransportError> {
        Ok(false)
    }

    /// When what it authenticates by ends to be valid, as the time since the beginning of 1970 (UTC), as of the last [`refresh`](Self::refresh): its certificate, or one that leads from it
    /// to a root. Nodes and clients log a warning from [`EXPIRY_WARNING`] before that on. The default, `None`: never.
    fn expires(&self) -> Option<Duration> {
        None
    }
}

/// Accepts byte streams. Dropping it frees the address and breaks what is not yet accepted; connections that
/// are live on.
#[async_trait]
pub trait Listener: Send + Debug {
    /// Waits for the next stream whose lane (and, where the transport authenticates, peer) is known. Openers
    /// that are slow or send garbage hold up nobody.
    ///
    /// # Errors
    /// [`TransportError::Accept`] if this one failed: call again. [`TransportError::Closed`] if no more can
    /// come.
    ///
    /// # Cancel safety
    /// Dropping the future loses no connection.
    async fn accept(&mut self) -> Result<Connection, TransportError>;

    /// Where it listens, with the port that was taken.
    fn local_address(&self) -> String;

    /// Keeps places for callers from the hosts of these addresses, which are other members': however many strangers call, those
    /// come in. For listeners that bound what callers may cost before it is known who they are; the default does nothing.
    fn keep_places_for(&mut self, members: Vec<String>) {
        drop(members);
    }
}

#[async_trait]
impl<T: Transport + ?Sized> Transport for Arc<T> {
    fn check_address(&self, address: &str) -> Result<(), TransportError> {
        (**self).check_address(address)
    }

    async fn bind(&self, address: &str) -> Result<Box<dyn Listener>, TransportError> {
        (**self).bind(address).await
    }

    async fn connect(&self, address: &str, lane: Lane) -> Result<Connection, TransportError> {
        (**self).connect(address, lane).await
    }

    fn identity(&self) -> Peer {
        (**self).identity()
    }

    fn refresh(&self) -> Result<bool, TransportError> {
        (**self).refresh()
    }

    fn expires(&self) -> Option<Duration> {
        (**self).expires()
    }
}
