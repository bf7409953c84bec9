//! Accepts connections, and returns their streams once their lane is known.

use crate::Quic;
use crate::settings::{STRANGERS_WINDOW, window_for};
use crate::socket::Socket;
use crate::stream::{self, lost};
use async_trait::async_trait;
use kv_transport::{
    Connection, ConnectionLimiter, Lane, Listener, MemberSources, Peer, RefusalThrottle, TransportError,
    preface,
};
use quinn::{Endpoint, Incoming, RecvStream, SendStream, ServerConfig, TokioRuntime, VarInt};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// How many streams may wait to be accepted.
const BACKLOG: usize = 128;
/// A connection is closed this long after its last stream has ended. The connecting end closes it as well.
const UNUSED: Duration = Duration::from_millis(500);
/// How long the port is kept for notifications of ended connections to leave this machine.
const FAREWELL: Duration = Duration::from_millis(10);
/// The part (1 / this) of the half-open connections whose addresses may be forged. Above this part, callers must prove
/// that they can be reached at their address.
const UNPROVEN_PART: usize = 4;

/// A port with a listener, or with connections of an earlier listener.
#[derive(Debug)]
pub(crate) struct Port {
    endpoint: Endpoint,
    socket: Arc<Socket>,
    settings: Quic,
    address: SocketAddr,
    /// Where accepted streams are sent; `None` if there is no listener any more.
    queue: watch::Sender<Option<mpsc::Sender<Connection>>>,
    /// The number of streams that are accepted, or wait to be accepted.
    lanes: AtomicUsize,
    members: MemberSources,
    /// The configuration for callers from members' addresses.
    for_members: Arc<ServerConfig>,
    log: RefusalThrottle,
}

impl Port {
    pub(crate) fn open(address: SocketAddr, settings: Quic) -> io::Result<Arc<Self>> {
        let socket = Socket::bind(address)?;
        let config = settings.server_config(STRANGERS_WINDOW)?;
        let for_members = Arc::new(settings.server_config(settings.stream_window)?);
        let endpoint = Endpoint::new_with_abstract_socket(
            settings.trust.endpoint(),
            Some(config),
            socket.clone(),
            Arc::new(TokioRuntime),
        )?;
        let address = endpoint.local_addr()?;
        let port = Arc::new(Self {
            endpoint,
            socket,
            settings,
            address,
            queue: watch::Sender::new(None),
            lanes: AtomicUsize::new(0),
            members: MemberSources::default(),
            for_members,
            log: RefusalThrottle::default(),
        });
        tokio::spawn(greet(Arc::downgrade(&port), port.endpoint.clone()));
        Ok(port)
    }

    /// Returns whether this is the port at `address`, and only connections of a dropped listener keep it.
    pub(crate) fn is_orphan_at(&self, address: SocketAddr) -> bool {
        self.address == address && self.queue.borrow().is_none() && self.lanes.load(Ordering::Relaxed) > 0
    }

    /// Frees the port, and notifies connected peers.
    fn close(&self) {
        self.endpoint.close(VarInt::from_u32(0), b"");
        let socket = self.socket.clone();
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) if self.endpoint.open_connections() > 0 => {
                runtime.spawn(async move {
                    sleep(FAREWELL).await;
                    socket.close();
                });
            }
            _ => socket.close(),
        }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.close();
    }
}

/// A listening port.
#[derive(Debug)]
pub(crate) struct QuicLanes {
    port: Arc<Port>,
    opened: mpsc::Receiver<Connection>,
    looking_up: Option<AbortHandle>,
}

impl QuicLanes {
    /// Listens on a port without a listener.
    pub(crate) fn on(port: Arc<Port>) -> Self {
        let (queue, opened) = mpsc::channel(BACKLOG);
        port.queue.send_replace(Some(queue));
        Self { port, opened, looking_up: None }
    }
}

impl Drop for QuicLanes {
    fn drop(&mut self) {
        self.port.queue.send_replace(None);
        self.looking_up.iter().for_each(AbortHandle::abort);
        self.opened.close();
        while self.opened.try_recv().is_ok() {}
        if self.port.lanes.load(Ordering::Relaxed) == 0 {
            self.port.close();
        }
    }
}

#[async_trait]
impl Listener for QuicLanes {
    async fn accept(&mut self) -> Result<Connection, TransportError> {
        self.opened.recv().await.ok_or(TransportError::Closed)
    }

    fn local_address(&self) -> String {
        self.port.address.to_string()
    }

    fn keep_places_for(&mut self, members: Vec<String>) {
        let looking_up = tokio::spawn(self.port.members.clone().keep_resolving(members)).abort_handle();
        self.looking_up.replace(looking_up).iter().for_each(AbortHandle::abort);
    }
}

/// Admits callers, for as long as the port exists.
async fn greet(port: std::sync::Weak<Port>, endpoint: Endpoint) {
    // Contains the callers that have not opened a lane yet, and some that have.
    let mut limiter: Option<ConnectionLimiter<oneshot::Sender<()>>> = None;
    while let Some(incoming) = endpoint.accept().await {
        let Some(port) = port.upgrade() else { return };
        if port.queue.borrow().is_none() {
            incoming.refuse();
            continue;
        }
        let limit = port.settings.max_half_open;
        let limiter = limiter.get_or_insert_with(|| {
            ConnectionLimiter::new(port.settings.max_handshakes_per_second, limit, port.members.clone())
        });
        let from = incoming.remote_address().ip();
        let half_open = limiter.half_open(oneshot::Sender::is_closed);
        if half_open >= limit.div_ceil(UNPROVEN_PART) && !incoming.remote_address_validated() {
            // This fails only for callers that have already proven their address.
            let _ = incoming.retry();
            continue;
        }
        if !limiter.admits(std::time::Instant::now(), from) {
            // The caller gets no answer, because an answer would have to be encrypted. An honest caller tries again.
            incoming.ignore();
            continue;
        }
        if let Some(victim) = limiter.make_room() {
            tracing::debug!(listener = %port.address, "closed one of too many half-open connections");
            // It may have opened a lane just now.
            let _ = victim.send(());
        }
        let (evict, evicted) = oneshot::channel();
        limiter.enter(from, evict);
        tokio::spawn(receive(port, incoming, evicted));
    }
}

/// Accepts a caller and its streams.
async fn receive(port: Arc<Port>, incoming: Incoming, mut evicted: oneshot::Receiver<()>) {
    let remote = incoming.remote_address();
    let is_member = port.members.has(remote.ip());
    let window = if is_member { port.settings.stream_window } else { STRANGERS_WINDOW };
    let shaking = async {
        let connecting =
            if is_member { incoming.accept_with(port.for_members.clone()) } else { incoming.accept() };
        let connection = connecting.map_err(|e| lost(&e))?.await.map_err(|e| lost(&e))?;
        let peer = port.settings.trust.peer(&connection)?;
        // Dropping the stream ends it. The end of this stream is the greeting.
        drop(connection.open_uni().await.map_err(|e| lost(&e))?);
        Ok::<_, io::Error>((connection, peer))
    };
    let deadline = port.settings.preface_timeout;
    let shaken = tokio::select! {
        shaken = timeout(deadline, shaking) => shaken.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
        _ = &mut evicted => return,
    };
    let (connection, peer) = match shaken {
        Ok(shaken) => shaken,
        Err(error)
            if error.kind() == io::ErrorKind::PermissionDenied
                && port.log.is_due(std::time::Instant::now(), remote.ip(), &error.to_string()) =>
        {
            return tracing::warn!(listener = %port.address, %remote, %error, "refused a connection");
        }
        Err(error) => return tracing::debug!(%remote, %error, "closed a connection that was not completed"),
    };
    let guest = Guest {
        queue: port.queue.subscribe(),
        lanes: Arc::new(Lanes { count: watch::Sender::new(0), port }),
        connection,
        window,
        peer,
        telling: JoinSet::new(),
        evicted: Some(evicted),
    };
    guest.serve().await;
}

/// How many streams of a connection are accepted, or wait to be accepted.
#[derive(Debug)]
struct Lanes {
    count: watch::Sender<usize>,
    port: Arc<Port>,
}

/// One of these streams.
#[derive(Debug)]
struct LaneHeld(Arc<Lanes>);

impl LaneHeld {
    fn one(lanes: &Arc<Lanes>) -> Self {
        lanes.port.lanes.fetch_add(1, Ordering::Relaxed);
        lanes.count.send_modify(|count| *count += 1);
        Self(lanes.clone())
    }
}

impl Drop for LaneHeld {
    fn drop(&mut self) {
        self.0.port.lanes.fetch_sub(1, Ordering::Relaxed);
        self.0.count.send_modify(|count| *count -= 1);
    }
}

/// An accepted connection.
struct Guest {
    connection: quinn::Connection,
    /// The window of each of its streams.
    window: u32,
    peer: Peer,
    lanes: Arc<Lanes>,
    queue: watch::Receiver<Option<mpsc::Sender<Connection>>>,
    /// Streams that are about to send their lane, or wait to be accepted.
    telling: JoinSet<()>,
    /// `None` once the connection has opened a lane.
    evicted: Option<oneshot::Receiver<()>>,
}

impl Guest {
    /// Accepts the streams of the connection, for as long as it is in use.
    async fn serve(mut self) {
        let mut counted = self.lanes.count.subscribe();
        let mut unused_at = Instant::now() + self.lanes.port.settings.preface_timeout;
        loop {
            let queue = self.queue.borrow_and_update().clone();
            if queue.is_none() {
                self.telling.abort_all();
            }
            let lanes = *counted.borrow_and_update();
            let is_unused = lanes == 0 && self.telling.is_empty();
            if lanes > 0 {
                self.evicted = None;
                unused_at = Instant::now() + UNUSED;
            } else if queue.is_none() && is_unused {
                break;
            }
            let window = window_for(lanes, self.window);
            self.connection.set_receive_window(window);
            self.connection.set_send_window(window.into());
            tokio::select! {
                _ = self.connection.closed() => break,
                changed = self.queue.changed() => if changed.is_err() { break },
                _ = counted.changed() => {}
                Some(_) = self.telling.join_next() => {}
                stream = self.connection.accept_bi(), if queue.is_some() => match (stream, queue) {
                    (Ok(stream), Some(queue)) => self.begin(stream, queue),
                    _ => break,
                },
                () = sleep_until(unused_at), if is_unused => break,
                () = evicted(&mut self.evicted) => if lanes == 0 { break },
            }
        }
        // A lost connection keeps its reason.
        if self.connection.close_reason().is_none() {
            self.connection.close(VarInt::from_u32(0), b"");
        }
    }

    /// Reads a stream's lane on a task of its own.
    fn begin(&mut self, mut stream: (SendStream, RecvStream), queue: mpsc::Sender<Connection>) {
        let (lanes, peer) = (self.lanes.clone(), self.peer.clone());
        let remote = self.connection.remote_address();
        self.telling.spawn(async move {
            let deadline = lanes.port.settings.preface_timeout;
            let lane = timeout(deadline, read_lane(&mut stream.1)).await;
            match lane.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(lane) => {
                    let held = Arc::new(LaneHeld::one(&lanes));
                    let connection = stream::connection(stream, lane, peer, remote.to_string(), held);
                    // If this fails, the listener is gone, and the stream breaks.
                    let _ = queue.send(connection).await;
                }
                Err(error) => tracing::debug!(%remote, %error, "closed a stream that did not send its lane"),
            }
        });
    }
}

/// Waits until the connection must make room for another. Waits forever if the connection has opened a lane.
async fn evicted(eviction: &mut Option<oneshot::Receiver<()>>) {
    match eviction {
        Some(eviction) => {
            let _ = eviction.await;
        }
        None => std::future::pending().await,
    }
}

/// Reads the lane that the other end requests.
async fn read_lane(stream: &mut RecvStream) -> io::Result<Lane> {
    let mut bytes = [0; preface::BYTES];
    stream.read_exact(&mut bytes).await.map_err(io::Error::other)?;
    preface::decode(bytes).map_err(|reason| io::Error::new(io::ErrorKind::InvalidData, reason))
}
