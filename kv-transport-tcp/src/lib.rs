//! TCP for kv, with a socket per lane, so that lanes do not block one another.
//!
//! [`Tcp`] is the [`Transport`]. The connecting end first sends a preface of eight bytes. The preface identifies the
//! protocol, its version and the lane of the socket. The bytes after it belong to the user.
//!
//! [`Tcp::new`] authenticates nobody: every connection's peer is `Peer::Unauthenticated`, and anyone who can read the
//! network can read everything. With `Tcp::with_tls` (feature `tls`), everything is encrypted, and both ends are
//! authenticated by their certificates.

mod connection;
mod listener;
mod refusal;
#[cfg(feature = "tls")]
mod tls;

use async_trait::async_trait;
use connection::Security;
#[cfg(feature = "tls")]
use kv_transport::Peer;
use kv_transport::{
    Connection, Lane, Listener, Transport, TransportError, check_host_port, try_each_address,
};
use std::time::Duration;
use tokio::net::TcpListener;

/// TCP, with a socket per lane.
///
/// - An address is `HOST:PORT`: an IPv4 address, an IPv6 address in brackets, or a name, which is resolved at each bind
///   and connect. All addresses of a name are tried in turn.
/// - Sockets send at once (`TCP_NODELAY`) and probe a silent peer, so that a vanished peer is noticed within half a
///   minute even if nothing is sent.
/// - A port can be reused at once after a restart (`SO_REUSEADDR`).
///
/// ```
/// use kv_transport::{Lane, Transport};
/// use kv_transport_tcp::Tcp;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let tcp = Tcp::new();
/// let mut listener = tcp.bind("127.0.0.1:0").await?;
/// let _client = tcp.connect(&listener.local_address(), Lane::Log).await?;
/// assert_eq!(listener.accept().await?.lane, Lane::Log);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Tcp {
    preface_timeout: Duration,
    max_half_open: usize,
    max_handshakes_per_second: u32,
    security: Security,
}

impl Default for Tcp {
    fn default() -> Self {
        Self::new()
    }
}

impl Tcp {
    /// Creates a transport without TLS, with default settings.
    pub fn new() -> Self {
        Self {
            preface_timeout: Duration::from_secs(3),
            max_half_open: 128,
            max_handshakes_per_second: 1000,
            security: Security::None,
        }
    }

    /// Creates a transport with TLS 1.3, certificates at both ends, and default settings. `identity` may be refreshed
    /// at any time: each handshake uses the current files.
    ///
    /// If an end does not accept the other, the reason is in the error of `connect` ([`TransportError::Handshake`]), or
    /// in the log of the accepting end.
    #[cfg(feature = "tls")]
    pub fn with_tls(identity: kv_transport::tls::Identity) -> Self {
        Self { security: Security::Tls(tls::Tls::new(identity)), ..Self::new() }
    }

    /// Sets how long an accepted socket may take to send its lane and, with TLS, its identity. After that, it is
    /// closed. Default 3 s.
    #[must_use]
    pub fn preface_timeout(mut self, timeout: Duration) -> Self {
        self.preface_timeout = timeout;
        self
    }

    /// Sets how many accepted sockets of a listener may be half-open, which means that they have not sent their lane
    /// yet. Beyond that, the listener closes the oldest half-open socket of the source with the most half-open sockets.
    /// It closes sockets from members' addresses last. So a flood of silent openers does not keep others out. Default
    /// 128; at least 1.
    #[must_use]
    pub fn max_half_open(mut self, sockets: usize) -> Self {
        self.max_half_open = sockets.max(1);
        self
    }

    /// Sets how many handshakes per second a listener with TLS begins with callers from other addresses than members'.
    /// One such address, and each address of a member, may use half of this number. The listener closes further sockets
    /// at once, before it computes a signature. Default 1,000; at least 1.
    #[must_use]
    pub fn max_handshakes_per_second(mut self, handshakes: u32) -> Self {
        self.max_handshakes_per_second = handshakes.max(1);
        self
    }
}

#[async_trait]
impl Transport for Tcp {
    fn check_address(&self, address: &str) -> Result<(), TransportError> {
        check_host_port(address)
    }

    async fn bind(&self, address: &str) -> Result<Box<dyn Listener>, TransportError> {
        check_host_port(address)?;
        let listen = |candidate| async move {
            listener::TcpLanes::new(TcpListener::bind(candidate).await?, self.clone())
        };
        let listener = try_each_address(address, listen).await;
        Ok(Box::new(listener.map_err(|error| TransportError::bind(address, error))?))
    }

    async fn connect(&self, address: &str, lane: Lane) -> Result<Connection, TransportError> {
        check_host_port(address)?;
        let open = |candidate| connection::open(candidate, lane, address, &self.security);
        try_each_address(address, open).await.map_err(|failure| failure.on_connect(address))
    }

    #[cfg(feature = "tls")]
    fn identity(&self) -> Peer {
        match &self.security {
            Security::None => Peer::Unauthenticated,
            Security::Tls(tls) => tls.identity.name().into(),
        }
    }

    #[cfg(feature = "tls")]
    fn refresh(&self) -> Result<bool, TransportError> {
        match &self.security {
            Security::None => Ok(false),
            Security::Tls(tls) => Ok(tls.identity.refresh()?),
        }
    }

    #[cfg(feature = "tls")]
    fn expires(&self) -> Option<Duration> {
        match &self.security {
            Security::None => None,
            Security::Tls(tls) => tls.identity.expires(),
        }
    }
}
