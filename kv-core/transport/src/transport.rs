//! The interface between kv and the network.

use crate::TransportError;
use async_trait::async_trait;
use std::fmt::{self, Debug, Display};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// How long before the expiry of a certificate nodes and clients begin to log a warning: 14 days.
pub const EXPIRY_WARNING: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// A class of traffic. Lanes never block one another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Lane {
    /// Heartbeats, votes and read rounds.
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

/// What the transport itself knows about the other end.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Peer {
    /// The transport does not authenticate: only the hello names the caller.
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

/// Reads from the other end. End of file means that the other end has ended its direction, or is gone.
pub type Reader = Box<dyn AsyncRead + Send + Unpin>;
/// Writes to the other end. Data may not be sent before a flush. A flush does not guarantee arrival.
pub type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// An open byte stream in both directions.
///
/// - Bytes arrive in order and once, or the connection breaks; except with `Faulty`.
/// - Buffers are bounded: a peer that does not read stops the writer, but only on that lane.
/// - Shutting down or dropping `writer` ends that direction: the peer reads everything written, then end of file. The
///   other direction continues.
/// - Dropping both halves closes the connection. A peer that continues to write gets an error.
/// - If only `reader` is dropped, the effect on the peer is not specified: its writes may fail, or stall.
pub struct Connection {
    /// Its lane, as chosen by the end that connected.
    pub lane: Lane,
    /// The identity of the other end.
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
    /// Checks the form of `address`, so that a mistake in a configuration can be reported before anything is opened. It
    /// does not access the network. By default, every address is valid.
    ///
    /// # Errors
    /// [`TransportError::Address`] with what is wrong.
    fn check_address(&self, address: &str) -> Result<(), TransportError> {
        let _ = address;
        Ok(())
    }

    /// Listens on `address`. Port 0 takes a free port, which [`Listener::local_address`] then returns.
    ///
    /// # Errors
    /// [`TransportError::Address`] if it is malformed, [`TransportError::Bind`] if it is in use or does not belong to
    /// this machine.
    async fn bind(&self, address: &str) -> Result<Box<dyn Listener>, TransportError>;

    /// Opens a stream in `lane` to the peer at `address`. It may return before the peer has accepted.
    ///
    /// It has no time-out of its own.
    ///
    /// # Errors
    /// [`TransportError::Address`] if the address is malformed, [`TransportError::Connect`] if nobody listens there or
    /// it cannot be reached.
    ///
    /// # Cancel safety
    /// Dropping the future gives up. The peer may see a connection that ends at once.
    async fn connect(&self, address: &str, lane: Lane) -> Result<Connection, TransportError>;

    /// The identity of this end, as other ends see it in [`Connection::peer`]. Default: [`Peer::Unauthenticated`],
    /// because the transport authenticates nobody.
    ///
    /// If this end has an identity, the peer of every connection has one too.
    fn identity(&self) -> Peer {
        Peer::Unauthenticated
    }

    /// Loads changed credentials, such as certificates in files, for all later connections. Returns whether they have
    /// changed. Nodes and clients call this about every second, on a thread where it may block for a moment. Default:
    /// nothing ever changes.
    ///
    /// # Errors
    /// [`TransportError::Credentials`] if the new credentials cannot be used. The old ones stay in use.
    fn refresh(&self) -> Result<bool, TransportError> {
        Ok(false)
    }

    /// When the credentials that the last [`refresh`](Self::refresh) loaded expire: the certificate, or one of its
    /// intermediate certificates. The time counts from the beginning of 1970 (UTC). From [`EXPIRY_WARNING`] before this
    /// time, nodes and clients log a warning. Default: `None`, which means never.
    fn expires(&self) -> Option<Duration> {
        None
    }
}

/// Accepts byte streams. Dropping the listener frees its address, and breaks streams that are not accepted yet.
/// Accepted connections continue.
#[async_trait]
pub trait Listener: Send + Debug {
    /// Waits for the next stream whose lane (and, if the transport authenticates, peer) is known. Openers that are slow
    /// or send garbage do not delay others.
    ///
    /// # Errors
    /// [`TransportError::Accept`] if accepting a stream failed; call this again. [`TransportError::Closed`] if no more
    /// streams can arrive.
    ///
    /// # Cancel safety
    /// Dropping the future loses no connection.
    async fn accept(&mut self) -> Result<Connection, TransportError>;

    /// The address that it listens on, with the actual port.
    fn local_address(&self) -> String;

    /// Reserves places for callers from the hosts of these addresses, which belong to other members. Such callers are
    /// then accepted however many strangers call. Listeners implement this if they limit the cost of callers whose
    /// identity is not yet known. Default: does nothing.
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
