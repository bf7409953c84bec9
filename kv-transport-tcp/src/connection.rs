//! From a socket to a [`Connection`], at both ends.

use kv_transport::{Connection, Lane, Peer, preface};
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A silent peer is probed after this long.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
/// Probes follow one another after this long.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// After so many unanswered probes the connection is broken.
const KEEPALIVE_PROBES: u32 = 3;

/// Connects to `address` and tells the lane.
pub(crate) async fn open(address: SocketAddr, lane: Lane) -> io::Result<TcpStream> {
    let mut socket = TcpStream::connect(address).await?;
    if is_connected_to_itself(&socket) {
        return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "nobody listens there"));
    }
    configure(&socket)?;
    socket.write_all(&preface::encode(lane)).await?;
    Ok(socket)
}

/// Reads which lane the other end asks for.
pub(crate) async fn accept(mut socket: TcpStream, remote: SocketAddr) -> io::Result<Connection> {
    configure(&socket)?;
    let mut bytes = [0; preface::BYTES];
    socket.read_exact(&mut bytes).await?;
    let lane = preface::decode(bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    Ok(connection(socket, lane, remote.to_string()))
}

/// The connection over a socket on which the lane has been told. TLS will stand here, and tell the peer.
pub(crate) fn connection(socket: TcpStream, lane: Lane, remote: String) -> Connection {
    let (reader, writer) = socket.into_split();
    Connection {
        lane,
        peer: Peer::Unauthenticated,
        remote,
        reader: Box::new(reader),
        writer: Box::new(writer),
    }
}

fn configure(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    SockRef::from(socket).set_tcp_keepalive(&keepalive)
}

/// Connecting to a local port on which nobody listens can, rarely, end up connected to itself: if the kernel
/// picks that very port as the source. Kept, it would also hold the port against the one who should listen.
fn is_connected_to_itself(socket: &TcpStream) -> bool {
    matches!((socket.local_addr(), socket.peer_addr()), (Ok(local), Ok(peer)) if local == peer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, TcpSocket};

    #[tokio::test]
    async fn a_socket_connected_to_itself_is_told_from_others() {
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
        let opened = open(listener.local_addr().unwrap(), Lane::Log).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        configure(&accepted).unwrap();
        for socket in [&opened, &accepted] {
            assert!(socket.nodelay().unwrap());
            assert!(SockRef::from(socket).keepalive().unwrap());
        }
    }
}
