//! Accepts sockets, and returns them once their lane is known.

use crate::Tcp;
use crate::connection::{self, Security};
use crate::refusal::Failure;
use async_trait::async_trait;
use kv_transport::{Connection, ConnectionLimiter, Listener, MemberSources, RefusalThrottle, TransportError};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};

/// How long accepting pauses after a failure, such as having no file descriptors left. It doubles up to
/// [`LONGEST_PAUSE`] while accepting keeps failing.
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// How many connections may wait to be accepted. Further connections stay in the system's backlog.
const READY: usize = 128;

/// A listening socket. A separate task accepts the connections, so that an opener gets an answer however long the user
/// takes to ask for the next connection.
#[derive(Debug)]
pub(crate) struct TcpLanes {
    address: SocketAddr,
    socket: Socket,
    ready: mpsc::Receiver<Connection>,
    accepting: AbortHandle,
    members: MemberSources,
    looking_up: Option<AbortHandle>,
}

/// The socket is shared with the task, and taken from it when the listener is dropped, so that the address is free at
/// once.
type Socket = Arc<Mutex<Option<TcpListener>>>;

impl TcpLanes {
    pub(crate) fn new(socket: TcpListener, settings: Tcp) -> io::Result<Self> {
        let address = socket.local_addr()?;
        let socket = Arc::new(Mutex::new(Some(socket)));
        let (sender, ready) = mpsc::channel(READY);
        let members = MemberSources::default();
        let task = Accepting::new(socket.clone(), address, settings, members.clone()).run(sender);
        let accepting = tokio::spawn(task).abort_handle();
        Ok(Self { address, socket, ready, accepting, members, looking_up: None })
    }
}

impl Drop for TcpLanes {
    fn drop(&mut self) {
        *lock(&self.socket) = None;
        self.accepting.abort();
        self.looking_up.iter().for_each(AbortHandle::abort);
    }
}

#[async_trait]
impl Listener for TcpLanes {
    async fn accept(&mut self) -> Result<Connection, TransportError> {
        self.ready.recv().await.ok_or(TransportError::Closed)
    }

    fn local_address(&self) -> String {
        self.address.to_string()
    }

    fn keep_places_for(&mut self, members: Vec<String>) {
        let looking_up = tokio::spawn(self.members.clone().keep_resolving(members)).abort_handle();
        self.looking_up.replace(looking_up).iter().for_each(AbortHandle::abort);
    }
}

/// The state of the listener's task.
struct Accepting {
    socket: Socket,
    address: SocketAddr,
    settings: Tcp,
    /// Accepted sockets that are about to send their lane, each on a task of its own.
    opening: JoinSet<Option<Connection>>,
    /// Limits the sockets in `opening`. It may also contain some that are done.
    limiter: ConnectionLimiter<AbortHandle>,
    /// Set after a failure: when to accept again, and the length of the pause.
    pause: Option<(Instant, Duration)>,
    log: RefusalThrottle,
}

impl Accepting {
    fn new(socket: Socket, address: SocketAddr, settings: Tcp, members: MemberSources) -> Self {
        let limiter =
            ConnectionLimiter::new(settings.max_handshakes_per_second, settings.max_half_open, members);
        Self {
            socket,
            address,
            settings,
            opening: JoinSet::new(),
            limiter,
            pause: None,
            log: RefusalThrottle::default(),
        }
    }

    /// Returns connections until nobody takes them any more.
    async fn run(mut self, ready: mpsc::Sender<Connection>) {
        loop {
            // Completed openings come first, so that the remaining ones really are half-open.
            tokio::select! {
                biased;
                Some(opened) = self.opening.join_next() => {
                    if let Ok(Some(connection)) = opened
                        && ready.send(connection).await.is_err()
                    {
                        return;
                    }
                }
                accepted = next_socket(&self.socket, self.pause) => match accepted {
                    Ok((socket, remote)) => {
                        self.pause = None;
                        self.begin(socket, remote);
                    }
                    Err(error) => self.on_accept_error(&error),
                }
            }
        }
    }

    /// Reads the lane of an accepted socket on a task of its own.
    fn begin(&mut self, socket: TcpStream, remote: SocketAddr) {
        // Without TLS there is no signature. Callers that have sent the lane are counted by the layer that accepts
        // them.
        if !matches!(self.settings.security, Security::None)
            && !self.limiter.admits(std::time::Instant::now(), remote.ip())
        {
            return tracing::debug!(listener = %self.address, %remote, "closed a socket: too many come at once");
        }
        self.limiter.half_open(AbortHandle::is_finished);
        if let Some(victim) = self.limiter.make_room() {
            tracing::debug!(listener = %self.address, "closed one of too many half-open sockets");
            victim.abort();
        }
        let (deadline, security) = (self.settings.preface_timeout, self.settings.security.clone());
        let (listener, log) = (self.address, self.log.clone());
        let opening = self.opening.spawn(async move {
            let opened = timeout(deadline, connection::accept(socket, remote, &security)).await;
            match opened.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into())) {
                Ok(connection) => return Some(connection),
                Err(Failure::Handshake(reason))
                    if log.is_due(std::time::Instant::now(), remote.ip(), &reason) =>
                {
                    tracing::warn!(%listener, %remote, reason, "refused a connection");
                }
                Err(error) => {
                    tracing::debug!(%remote, %error, "closed a socket that did not become a connection")
                }
            }
            None
        });
        self.limiter.enter(remote.ip(), opening);
    }

    /// A failed accept never ends the listener. A peer that gave up is forgotten. If resources are missing, accepting
    /// pauses, because the kernel would report the same error again at once. Other connections wait in the backlog.
    fn on_accept_error(&mut self, error: &io::Error) {
        if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
            return;
        }
        let pause = match self.pause {
            None => SHORTEST_PAUSE,
            Some((_, last)) => (last * 2).min(LONGEST_PAUSE),
        };
        tracing::warn!(listener = %self.address, %error, ?pause, "cannot accept connections for now");
        self.pause = Some((Instant::now() + pause, pause));
    }
}

/// Accepts the next socket once the pause is over.
async fn next_socket(
    socket: &Socket,
    pause: Option<(Instant, Duration)>,
) -> io::Result<(TcpStream, SocketAddr)> {
    if let Some((until, _)) = pause {
        sleep_until(until).await;
    }
    poll_fn(|cx| lock(socket).as_ref().map_or(Poll::Pending, |socket| socket.poll_accept(cx))).await
}

fn lock(socket: &Socket) -> MutexGuard<'_, Option<TcpListener>> {
    socket.lock().unwrap_or_else(PoisonError::into_inner)
}
