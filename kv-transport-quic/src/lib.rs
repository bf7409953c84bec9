//! QUIC for kv: one connection to each peer, and one stream per lane in it, so that lanes do not block one another.
//! Bulk data has a connection of its own.
//!
//! [`Quic`] is the [`Transport`]. A stream begins with a preface of eight bytes from the connecting end. The preface
//! identifies the protocol, its version and the lane of the stream. The bytes after it belong to the user.
//!
//! Everything is encrypted with TLS 1.3. With an identity ([`Quic::new`]), both ends prove who they are. Without an
//! identity ([`Quic::insecure`]), neither end does, and every connection's peer is [`Peer::Unauthenticated`].

mod crypto;
mod dial;
mod listener;
mod settings;
mod socket;
mod stream;

use async_trait::async_trait;
use crypto::Trust;
use dial::Pool;
use kv_transport::tls::Identity;
use kv_transport::{
    Connection, Lane, Listener, Peer, Transport, TransportError, check_host_port, try_each_address,
};
use listener::{Port, QuicLanes};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a port that was just released may stay in use: the last data may still be on its way to a peer that
/// disappeared.
const PORT_FREED: Duration = Duration::from_secs(1).saturating_add(stream::LINGER);
/// The pause between attempts to bind such a port.
const PORT_RETRY: Duration = Duration::from_millis(10);

/// QUIC, with a stream per lane.
///
/// - An address is `HOST:PORT`: an IPv4 address, an IPv6 address in brackets, or a name, which is resolved at each bind
///   and connect. All addresses of a name are tried in turn. The port is a UDP port.
/// - Up to 64 streams to the same address share a connection, which is closed when the last of these streams is
///   dropped. Streams of the Bulk lane share another connection. Clones of a `Quic` share their connections.
/// - Lanes are sent by priority: Control before Log before Client. A peer that does not read stops only its lane, after
///   [`stream_window`](Self::stream_window) bytes.
/// - The death of a peer's process is noticed within tens of milliseconds if its machine still answers (on Linux),
///   otherwise after the [`idle_timeout`](Self::idle_timeout). The connecting end keeps a live connection from becoming
///   idle.
/// - A peer that is restarted on the same port resets the connections of its predecessor.
/// - A connection survives a change of the connecting end's address, as behind a router.
/// - After a listener is dropped, its port stays in use while accepted connections live. The same `Quic` or a clone of
///   it can listen on this port again at once. Another `Quic` tries for 4 s, and then fails because the address is in
///   use.
/// - A `Quic` must be used inside a tokio runtime, on which its tasks run. Data written just before the runtime ends
///   may not arrive.
///
/// ```
/// use kv_transport::{Lane, Transport};
/// use kv_transport_quic::Quic;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let quic = Quic::insecure();
/// let mut listener = quic.bind("127.0.0.1:0").await?;
/// let _client = quic.connect(&listener.local_address(), Lane::Log).await?;
/// assert_eq!(listener.accept().await?.lane, Lane::Log);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Quic {
    trust: Trust,
    preface_timeout: Duration,
    idle_timeout: Duration,
    max_half_open: usize,
    max_handshakes_per_second: u32,
    stream_window: u32,
    /// The open connections.
    pool: Arc<Pool>,
    /// The ports on which this transport has listened.
    ports: Arc<Mutex<Vec<Weak<Port>>>>,
}

impl Quic {
    /// Uses certificates: both ends prove who they are, and [`Connection::peer`] returns the identity of the other end.
    /// Changed files of the identity take effect when the identity is [refreshed](Transport::refresh): for every later
    /// stream and every later accepted connection. A stream on an older accepted connection has the peer that the
    /// certificate named when the connection was accepted.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        Self::with(Trust(Some(identity)))
    }

    /// Uses no certificates. The traffic is encrypted, but not protected against an attacker between the two ends,
    /// because neither proves who it is. Each listener creates a certificate without an identity. Use it on a single
    /// machine, for demonstrations and for tests.
    #[must_use]
    pub fn insecure() -> Self {
        Self::with(Trust(None))
    }

    fn with(trust: Trust) -> Self {
        Self {
            trust,
            preface_timeout: Duration::from_secs(3),
            idle_timeout: Duration::from_secs(10),
            max_half_open: 128,
            max_handshakes_per_second: 1000,
            stream_window: 512 << 10,
            pool: Arc::default(),
            ports: Arc::default(),
        }
    }

    /// Sets how long an accepted connection may take for the handshake, and then as long again to open its first
    /// stream. Each stream may take as long to send its lane. After that, the connection or the stream is closed.
    /// Default 3 s.
    #[must_use]
    pub fn preface_timeout(mut self, timeout: Duration) -> Self {
        self.preface_timeout = timeout;
        self
    }

    /// Sets how long a silent connection lives, and how long an attempt to connect may take. The shorter value of the
    /// two ends applies. Default 10 s; at least 3 s, so that a peer that is slow for a moment is not lost. A value that
    /// QUIC cannot express (millions of years) counts as forever.
    #[must_use]
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout.max(Duration::from_secs(3));
        self
    }

    /// Sets how many accepted connections of a listener may be half-open, which means that no stream of theirs has sent
    /// its lane yet. Beyond that, the listener closes the oldest half-open connection of the source with the most
    /// half-open connections. It closes connections from members' addresses last. So a flood of silent openers does not
    /// keep others out. Above a quarter of this number, callers must prove that they can be reached at their address.
    /// Default 128; at least 1.
    #[must_use]
    pub fn max_half_open(mut self, connections: usize) -> Self {
        self.max_half_open = connections.max(1);
        self
    }

    /// Sets how many handshakes per second a listener begins with callers from other addresses than members'. One such
    /// address, and each address of a member, may use half of this number. Further callers get no answer, and the
    /// listener computes no signature for them. Default 1,000; at least 1.
    #[must_use]
    pub fn max_handshakes_per_second(mut self, handshakes: u32) -> Self {
        self.max_handshakes_per_second = handshakes.max(1);
        self
    }

    /// Sets how many bytes of a stream may be in flight or wait to be read, in each direction. This limits how many
    /// bytes a peer can make this end hold: this number for each open stream, and twice this number for a connection. A
    /// stream carries at most this number of bytes per round trip. Default 512 KiB; at least 64 KiB. Accepted
    /// connections from other addresses than members' always have 64 KiB, because there may be many clients.
    #[must_use]
    pub fn stream_window(mut self, bytes: u32) -> Self {
        self.stream_window = bytes.max(64 << 10);
        self
    }

    /// Listens on one socket address. If the port is being released, waits as long as the release may take.
    async fn listen(&self, address: SocketAddr) -> io::Result<QuicLanes> {
        let give_up = Instant::now() + PORT_FREED;
        loop {
            if let Some(port) = self.orphan(address) {
                return Ok(QuicLanes::on(port));
            }
            match Port::open(address, self.clone()) {
                Err(e) if e.kind() == io::ErrorKind::AddrInUse && Instant::now() < give_up => {
                    sleep(PORT_RETRY).await
                }
                Err(e) => return Err(e),
                Ok(port) => {
                    self.ports().push(Arc::downgrade(&port));
                    return Ok(QuicLanes::on(port));
                }
            }
        }
    }

    /// The port at `address`, if only connections that still live keep it.
    fn orphan(&self, address: SocketAddr) -> Option<Arc<Port>> {
        let mut ports = self.ports();
        ports.retain(|port| port.strong_count() > 0);
        ports.iter().filter_map(Weak::upgrade).find(|port| port.is_orphan_at(address))
    }

    fn ports(&self) -> std::sync::MutexGuard<'_, Vec<Weak<Port>>> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Transport for Quic {
    fn check_address(&self, address: &str) -> Result<(), TransportError> {
        check_host_port(address)
    }

    async fn bind(&self, address: &str) -> Result<Box<dyn Listener>, TransportError> {
        check_host_port(address)?;
        let listener = try_each_address(address, |candidate| self.listen(candidate)).await;
        Ok(Box::new(listener.map_err(|error| TransportError::bind(address, error))?))
    }

    async fn connect(&self, address: &str, lane: Lane) -> Result<Connection, TransportError> {
        check_host_port(address)?;
        let open = |candidate| self.pool.open(self, candidate, lane, address);
        try_each_address(address, open).await.map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => TransportError::handshake(address, error.to_string()),
            _ => TransportError::connect(address, error),
        })
    }

    fn identity(&self) -> Peer {
        self.trust.0.as_ref().map_or(Peer::Unauthenticated, |identity| identity.name().into())
    }

    fn refresh(&self) -> Result<bool, TransportError> {
        let Some(identity) = &self.trust.0 else { return Ok(false) };
        let has_changed = identity.refresh()?;
        if has_changed {
            self.pool.begin_anew();
        }
        Ok(has_changed)
    }

    fn expires(&self) -> Option<Duration> {
        self.trust.0.as_ref()?.expires()
    }
}
