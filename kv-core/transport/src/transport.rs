//! The interface between kv and the network.

use crate::TransportError;
use async_trait::async_trait;
use std::fmt::{self, Debug, Display};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// Nodes and clients begin to log a warning this long before a certificate expires: 14 days.
pub const EXPIRY_WARNING: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// A class of traffic. Lanes never block one another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Lane {
    /// Heartbeats, votes, and read rounds (in which a primary confirms that it is still the primary).
    Control,
    /// Log entries (`Prepare`) and their acknowledgements (`PrepareOk`).
    Log,
    /// Data for members that catch up: old log entries and snapshots of the state.
    Bulk,
    /// The requests of clients, and the replies to them.
    Client,
}

impl Lane {
    /// Every lane.
    pub const ALL: [Self; 4] = [Self::Control, Self::Log, Self::Bulk, Self::Client];

    /// Returns the number of the lane on the network: 1 to 4, in the order of [`ALL`](Self::ALL). This number never
    /// changes.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8 + 1
    }

    /// Returns the lane with this [`code`](Self::code).
    #[must_use]
    pub fn of_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|lane| lane.code() == code)
    }
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

/// What the transport itself knows about the other end of a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Peer {
    /// The transport has not authenticated the other end. Only the hello (the first message of a connection) names the
    /// caller.
    Unauthenticated,
    /// A member. Its certificate proves the cluster and the id.
    Member {
        /// The cluster's name.
        cluster: String,
        /// The member's id.
        id: u8,
    },
    /// A client. Its certificate proves the cluster and the name.
    Client {
        /// The cluster's name.
        cluster: String,
        /// The client's name.
        name: String,
    },
}

/// Reads from the other end. End of file means that the other end has ended its direction of the connection, or is
/// gone.
pub type Reader = Box<dyn AsyncRead + Send + Unpin>;
/// Writes to the other end. The transport may keep written data back until a flush. A flush does not guarantee that the
/// data arrives.
pub type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// An open byte stream in both directions.
///
/// - Each byte arrives once and in order, or the connection breaks. (With [`Faulty`](crate::Faulty), this may not
///   hold.)
/// - Buffers are bounded: if a peer does not read, the writer on the same lane has to wait. Other lanes are not
///   affected.
/// - Shutting down or dropping `writer` ends the direction to the peer: the peer reads everything that was written, and
///   then end of file. The other direction continues.
/// - Dropping both halves closes the connection. A peer that continues to write gets an error.
/// - If only `reader` is dropped, the effect on the peer is not specified: the peer's writes may fail, or wait forever.
pub struct Connection {
    /// The lane of the connection. The side that called `connect` has chosen it.
    pub lane: Lane,
    /// The identity of the other end.
    pub peer: Peer,
    /// The address of the other end, for logs. On the side that called `connect`, this is the address that was passed
    /// to it. On the accepting side, this is the address from which the connection arrived.
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
    /// Checks the form of `address`. With this method, a program can report a mistake in a configuration before it
    /// opens anything. The method does not access the network. By default, every address is valid.
    ///
    /// # Errors
    /// [`TransportError::Address`], which states what is wrong.
    fn check_address(&self, address: &str) -> Result<(), TransportError> {
        let _ = address;
        Ok(())
    }

    /// Listens on `address`. Port 0 takes a free port, which [`Listener::local_address`] then returns.
    ///
    /// # Errors
    /// [`TransportError::Address`] if the address is malformed, [`TransportError::Bind`] if the transport cannot listen
    /// there, for example because the address is in use or does not belong to this machine.
    async fn bind(&self, address: &str) -> Result<Box<dyn Listener>, TransportError>;

    /// Opens a stream in `lane` to the peer at `address`. This method may return before the peer has accepted the
    /// stream.
    ///
    /// The method has no time-out of its own. To limit the time that it takes, drop its future.
    ///
    /// # Errors
    /// [`TransportError::Address`] if the address is malformed, [`TransportError::Connect`] if nobody listens there or
    /// if the address cannot be reached, [`TransportError::Handshake`] if one end does not accept the other.
    ///
    /// # Cancel safety
    /// If you drop the future, the attempt ends. The peer may see a connection that ends at once.
    async fn connect(&self, address: &str, lane: Lane) -> Result<Connection, TransportError>;

    /// The identity of this end. The other end of each connection sees this identity in [`Connection::peer`]. By
    /// default, the transport authenticates nobody, and this method returns [`Peer::Unauthenticated`].
    ///
    /// If this method returns an identity, the transport must authenticate every peer: no [`Connection::peer`] may then
    /// be [`Peer::Unauthenticated`].
    fn identity(&self) -> Peer {
        Peer::Unauthenticated
    }

    /// Loads changed credentials, such as certificates in files, for all later connections. Returns whether the
    /// credentials have changed. A node calls this method about every second, and a client calls it before it opens a
    /// connection. Both use a separate thread, because the call may block for a moment. By default, credentials never
    /// change.
    ///
    /// # Errors
    /// [`TransportError::Credentials`] if the new credentials cannot be used. Then the old credentials stay in use.
    fn refresh(&self) -> Result<bool, TransportError> {
        Ok(false)
    }

    /// The time at which the credentials in use expire: the first time at which the certificate or one of its
    /// intermediate certificates expires. The result is the time since the beginning of 1970 (UTC). Nodes and clients
    /// log a warning from 14 days ([`EXPIRY_WARNING`]) before this time. Default: `None`, which means never.
    fn expires(&self) -> Option<Duration> {
        None
    }
}

/// Accepts byte streams. Dropping the listener frees its address, and breaks streams that the listener has not accepted
/// yet. Accepted connections continue.
#[async_trait]
pub trait Listener: Send + Debug {
    /// Waits for the next stream. The listener returns a stream when it knows the stream's lane and, if the transport
    /// authenticates peers, the peer's identity. A caller that is slow or sends garbage does not delay other callers.
    ///
    /// # Errors
    /// [`TransportError::Accept`] if accepting a stream failed; call this method again. [`TransportError::Closed`] if
    /// no more streams can arrive.
    ///
    /// # Cancel safety
    /// Dropping the future loses no connection.
    async fn accept(&mut self) -> Result<Connection, TransportError>;

    /// The address on which the listener listens, with the actual port.
    fn local_address(&self) -> String;

    /// Keeps room for incoming connections from the hosts of the other members. `members` contains the addresses of
    /// these members. The listener then accepts connections from there, no matter how many strangers connect. Implement
    /// this method if your listener limits the number or the rate of connections whose peer it has not identified yet.
    /// By default, the method does nothing.
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
