//! Turns a socket into a [`Connection`], at both ends.

use crate::refusal::{Failure, SPEAKS_NO_TLS, TLS_HANDSHAKE, WANTS_TLS, invalid, part};
#[cfg(feature = "tls")]
use crate::tls;
use kv_transport::{Connection, Lane, Peer, Reader, Writer, preface};
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;

/// A silent peer is probed after this long.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
/// The interval between probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// After this many unanswered probes the connection is broken.
const KEEPALIVE_PROBES: u32 = 3;
/// A peer that has not acknowledged sent data for this long is gone. (Probes are sent only while there is no data.)
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED: Duration = Duration::from_secs(15);
/// The protection of a connection.
#[derive(Clone, Debug)]
pub(crate) enum Security {
    /// No encryption, and no authentication.
    None,
    /// The connection is encrypted, and both ends are authenticated by certificates.
    #[cfg(feature = "tls")]
    Tls(tls::Tls),
}

/// Connects to `address` and sends the lane. `remote` is the address before it was resolved.
pub(crate) async fn open(
    address: SocketAddr,
    lane: Lane,
    remote: &str,
    security: &Security,
) -> Result<Connection, Failure> {
    let mut socket = TcpStream::connect(address).await?;
    if is_connected_to_itself(&socket) {
        return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "nobody listens there").into());
    }
    configure(&socket)?;
    match security {
        Security::None => {
            socket.write_all(&preface::encode(lane)).await?;
            let (reader, writer) = socket.into_split();
            let reader = Hinted { reader, first: true };
            Ok(plain(Box::new(reader), Box::new(writer), lane, remote.to_owned()))
        }
        #[cfg(feature = "tls")]
        Security::Tls(tls) => tls.open(socket, lane, remote).await,
    }
}

/// Reads the lane that the other end requests and, with TLS, its identity.
pub(crate) async fn accept(
    mut socket: TcpStream,
    remote: SocketAddr,
    security: &Security,
) -> Result<Connection, Failure> {
    configure(&socket)?;
    match security {
        Security::None => {
            let mut bytes = [0; preface::BYTES];
            socket.read_exact(&mut bytes).await?;
            if bytes[0] == TLS_HANDSHAKE {
                part(socket, &SPEAKS_NO_TLS).await;
                return Err(Failure::Handshake("it speaks TLS, and this port does not".to_owned()));
            }
            let lane = preface::decode(bytes).map_err(invalid)?;
            let (reader, writer) = socket.into_split();
            Ok(plain(Box::new(reader), Box::new(writer), lane, remote.to_string()))
        }
        #[cfg(feature = "tls")]
        Security::Tls(tls) => tls.accept(socket, remote).await,
    }
}

fn plain(reader: Reader, writer: Writer, lane: Lane, remote: String) -> Connection {
    Connection { lane, peer: Peer::Unauthenticated, remote, reader, writer }
}

/// The reading half without TLS at the connecting end: fails with a clear error if the other end requires TLS.
struct Hinted {
    reader: OwnedReadHalf,
    first: bool,
}

impl AsyncRead for Hinted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.reader).poll_read(cx, buf))?;
        if self.first && buf.filled().len() > before {
            self.first = false;
            if buf.filled()[before..].starts_with(&WANTS_TLS) {
                return Poll::Ready(Err(invalid("it requires TLS: give this end a certificate, too")));
            }
        }
        Poll::Ready(Ok(()))
    }
}

fn configure(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    let socket = SockRef::from(socket);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    Ok(())
}

/// Whether a socket is connected to itself. Rarely, this happens to a connection to an unused local port, if the kernel
/// chooses the same port as its source. Such a socket must not be kept, because it would occupy the port that a
/// listener needs.
fn is_connected_to_itself(socket: &TcpStream) -> bool {
    matches!((socket.local_addr(), socket.peer_addr()), (Ok(local), Ok(peer)) if local == peer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, TcpSocket};

    #[tokio::test]
    async fn a_socket_connected_to_itself_is_distinguished_from_others() {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let own = socket.local_addr().unwrap();
        let to_itself = socket.connect(own).await.unwrap();
        assert!(is_connected_to_itself(&to_itself));

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to_other = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        assert!(!is_connected_to_itself(&to_other));
    }

    #[tokio::test]
    async fn sockets_send_at_once_and_probe_silent_peers_at_both_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let opened = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        for socket in [&opened, &accepted] {
            configure(socket).unwrap();
            assert!(socket.nodelay().unwrap());
            assert!(SockRef::from(socket).keepalive().unwrap());
            #[cfg(target_os = "linux")]
            assert_eq!(SockRef::from(socket).tcp_user_timeout().unwrap(), Some(UNACKNOWLEDGED));
        }
    }
}
