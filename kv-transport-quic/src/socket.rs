//! A UDP socket that reports when the kernel learns that nobody listens at the other end, and that can be closed while
//! connections still use it.

use quinn::udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use quinn::{AsyncUdpSocket, UdpPoller};
use socket2::{Domain, Protocol, SockAddr, Type};
use std::fmt::{self, Debug};
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::task::{Context, Poll, ready};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::watch;

/// The requested size of the kernel's buffers in each direction. The kernel may grant less.
const BUFFER_BYTES: usize = 4 << 20;
/// How many errors are skipped in a row before other tasks get a turn.
const ERRORS_IN_A_ROW: usize = 16;

/// Waits for an event of a socket.
type Waiting = Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>;

/// A UDP socket.
pub(crate) struct Socket {
    /// `None` after the socket was closed.
    io: RwLock<Option<Arc<UdpSocket>>>,
    state: UdpSocketState,
    address: SocketAddr,
    is_connected: bool,
    /// How often the kernel reported that nobody listens.
    refusals: watch::Sender<u64>,
    /// Waits for the next such report.
    report: Mutex<Option<Waiting>>,
}

impl Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Socket {
    /// Listens on `address`.
    pub(crate) fn bind(address: SocketAddr) -> io::Result<Arc<Self>> {
        Self::new(address, None)
    }

    /// Exchanges datagrams with `remote` only, from any free port.
    pub(crate) fn connect(remote: SocketAddr) -> io::Result<Arc<Self>> {
        let local = match remote {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        // On other systems, a connected socket cannot send with an explicit address, as is done here.
        Self::new(local, cfg!(target_os = "linux").then_some(remote))
    }

    fn new(local: SocketAddr, remote: Option<SocketAddr>) -> io::Result<Arc<Self>> {
        let socket = socket2::Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        // The kernel reduces the size to the allowed maximum.
        let _ = socket.set_recv_buffer_size(BUFFER_BYTES);
        let _ = socket.set_send_buffer_size(BUFFER_BYTES);
        socket.bind(&SockAddr::from(local))?;
        if let Some(remote) = remote {
            socket.connect(&SockAddr::from(remote))?;
        }
        let socket = std::net::UdpSocket::from(socket);
        Ok(Arc::new(Self {
            state: UdpSocketState::new(UdpSockRef::from(&socket))?,
            address: socket.local_addr()?,
            is_connected: remote.is_some(),
            io: RwLock::new(Some(Arc::new(UdpSocket::from_std(socket)?))),
            refusals: watch::Sender::new(0),
            report: Mutex::default(),
        }))
    }

    /// Closes the socket. Its port is free at once, and nothing is sent or received any more.
    pub(crate) fn close(&self) {
        *self.io.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Counts how often the other machine has answered that nobody listens there. The count is only a hint, because
    /// anyone who guesses the port can forge such an answer.
    pub(crate) fn refusals(&self) -> watch::Receiver<u64> {
        self.refusals.subscribe()
    }

    fn io(&self) -> Option<Arc<UdpSocket>> {
        self.io.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// An error either concerns an earlier datagram, or means that the current datagram is lost. Connections tolerate
    /// both.
    fn on_error(&self, error: &io::Error) {
        if error.kind() == io::ErrorKind::ConnectionRefused {
            self.refusals.send_modify(|count| *count += 1);
        } else {
            tracing::trace!(local = %self.address, %error, "a datagram is lost");
        }
    }
}

impl Socket {
    /// Counts what the kernel has reported. To the runtime, such a report does not make a socket readable, so it would
    /// not be noticed before the next datagram.
    #[cfg(target_os = "linux")]
    fn poll_report(&self, io: &Arc<UdpSocket>, cx: &mut Context<'_>) {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..ERRORS_IN_A_ROW {
            let waiting = report.get_or_insert_with(|| {
                let io = io.clone();
                Box::pin(async move { io.ready(Interest::ERROR).await.map(drop) })
            });
            let Poll::Ready(reported) = waiting.as_mut().poll(cx) else { return };
            *report = None;
            // The runtime ends.
            if reported.is_err() {
                return;
            }
            // The runtime has no report any more, before the kernel has none.
            let _ = io.try_io(Interest::ERROR, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
            if let Ok(Some(error)) = io.take_error() {
                self.on_error(&error);
            }
        }
        cx.waker().wake_by_ref();
    }

    #[cfg(not(target_os = "linux"))]
    fn poll_report(&self, _: &Arc<UdpSocket>, _: &mut Context<'_>) {}
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Poller { socket: self, waiting: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let Some(io) = self.io() else { return Ok(()) };
        let send = || io.try_io(Interest::WRITABLE, || self.state.try_send(UdpSockRef::from(&*io), transmit));
        match send() {
            // The error concerns an earlier datagram, and the current datagram was not sent.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                self.on_error(&error);
                // The connection resends lost data.
                let _ = send();
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
            Err(error) => {
                self.on_error(&error);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let Some(io) = self.io() else { return Poll::Pending };
        if self.is_connected {
            self.poll_report(&io, cx);
        }
        for _ in 0..ERRORS_IN_A_ROW {
            ready!(io.poll_recv_ready(cx))?;
            let received =
                io.try_io(Interest::READABLE, || self.state.recv(UdpSockRef::from(&*io), bufs, meta));
            match received {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => self.on_error(&error),
                Ok(count) => return Poll::Ready(Ok(count)),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }
}

/// Waits until the socket accepts datagrams again.
struct Poller {
    socket: Arc<Socket>,
    waiting: Option<Waiting>,
}

impl Debug for Poller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poller").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl UdpPoller for Poller {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(io) = self.socket.io() else { return Poll::Ready(Ok(())) };
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(async move { io.writable().await }));
        let writable = ready!(waiting.as_mut().poll(cx));
        self.waiting = None;
        Poll::Ready(writable)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn a_refusal_is_reported_without_another_datagram() {
        let gone = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let socket = Socket::connect(gone).unwrap();
        let mut refusals = socket.refusals();
        let io = socket.io().unwrap();
        io.writable().await.unwrap();
        let transmit =
            Transmit { destination: gone, ecn: None, contents: b"x", segment_size: None, src_ip: None };
        socket.try_send(&transmit).unwrap();
        let mut buffer = [0; 2048];
        let received = std::future::poll_fn(|cx| {
            socket.poll_recv(cx, &mut [IoSliceMut::new(&mut buffer)], &mut [RecvMeta::default()])
        });
        tokio::select! {
            received = received => panic!("{received:?}"),
            changed = refusals.changed() => changed.unwrap(),
            () = tokio::time::sleep(Duration::from_secs(10)) => panic!("no report"),
        }
        assert_eq!(*refusals.borrow(), 1);
    }
}
