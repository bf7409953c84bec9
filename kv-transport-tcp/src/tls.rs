//! TLS over a socket.

use crate::refusal::{Failure, TLS_HANDSHAKE, WANTS_TLS, invalid, part};
use kv_transport::tls::rustls::pki_types::{CertificateDer, ServerName};
use kv_transport::tls::rustls::{self};
use kv_transport::tls::{Identity, SERVER_NAME, explain, peer_of};
use kv_transport::{Connection, Lane, Peer, preface};
use std::fmt::{self, Debug};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, WriteHalf};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// The protocol that both ends announce.
const ALPN: &[u8] = b"kvt/1";

/// The answer to the preface. It informs the connecting end that its certificate was accepted, because the handshake of
/// the connecting end completes before that.
const ACCEPTED: u8 = 1;

/// Creates the connecting and the accepting ends of connections.
#[derive(Clone)]
pub(crate) struct Tls {
    pub(crate) identity: Identity,
    acceptor: TlsAcceptor,
    connector: TlsConnector,
    server_name: ServerName<'static>,
}

impl Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tls").field(&self.identity).finish()
    }
}

impl Tls {
    pub(crate) fn new(identity: Identity) -> Self {
        Self {
            acceptor: identity.server_config(ALPN).into(),
            connector: identity.client_config(ALPN).into(),
            server_name: ServerName::try_from(SERVER_NAME).expect("it has the form of a name"),
            identity,
        }
    }

    /// Creates the connecting end. Waits until the other end has accepted this end's certificate, so that a refusal is
    /// reported here.
    pub(crate) async fn open(
        &self,
        socket: TcpStream,
        lane: Lane,
        remote: &str,
    ) -> Result<Connection, Failure> {
        let connecting = self.connector.connect(self.server_name.clone(), socket).into_fallible();
        let mut stream = match connecting.await {
            Ok(stream) => stream,
            Err((error, socket)) => {
                // The other end receives the reason, which has been written. There is no need to wait.
                drop(socket);
                return Err(failure(error));
            }
        };
        let answered = async {
            stream.write_all(&preface::encode(lane)).await?;
            stream.flush().await?;
            stream.read_u8().await
        };
        if answered.await.map_err(failure)? != ACCEPTED {
            return Err(invalid("it does not speak kv").into());
        }
        let peer = peer(stream.get_ref().1.peer_certificates())?;
        Ok(connection(stream, lane, peer, remote.to_owned()))
    }

    /// Creates the accepting end.
    pub(crate) async fn accept(&self, socket: TcpStream, remote: SocketAddr) -> Result<Connection, Failure> {
        let mut first = [0];
        if socket.peek(&mut first).await? == 1 && first != [TLS_HANDSHAKE] {
            part(socket, &WANTS_TLS).await;
            return Err(Failure::Handshake("it does not speak TLS, and this port requires it".to_owned()));
        }
        let mut stream = match self.acceptor.accept(socket).into_fallible().await {
            Ok(stream) => stream,
            Err((error, socket)) => {
                part(socket, &[]).await;
                return Err(failure(error));
            }
        };
        let mut bytes = [0; preface::BYTES];
        stream.read_exact(&mut bytes).await.map_err(failure)?;
        let lane = preface::decode(bytes).map_err(invalid)?;
        let peer = peer(stream.get_ref().1.peer_certificates())?;
        stream.write_all(&[ACCEPTED]).await?;
        stream.flush().await?;
        Ok(connection(stream, lane, peer, remote.to_string()))
    }
}

fn peer(certificates: Option<&[CertificateDer<'_>]>) -> Result<Peer, Failure> {
    peer_of(certificates).map_err(|error| Failure::Handshake(error.to_string()))
}

/// The reason of a failed handshake: the TLS error, if there is one.
fn failure(error: io::Error) -> Failure {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(reason) => Failure::Handshake(explain(reason)),
        None if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
            let text = "it closed the connection during the TLS handshake: its log may have the reason";
            io::Error::new(error.kind(), text).into()
        }
        None => error.into(),
    }
}

fn connection<S>(stream: S, lane: Lane, peer: Peer, remote: String) -> Connection
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (reader, writer) = tokio::io::split(stream);
    Connection { lane, peer, remote, reader: Box::new(reader), writer: Box::new(Ending(writer)) }
}

/// The writing half. It ends its direction when it is dropped.
struct Ending<S: AsyncWrite>(WriteHalf<S>);

impl<S: AsyncWrite + Unpin> AsyncWrite for Ending<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl<S: AsyncWrite> Drop for Ending<S> {
    fn drop(&mut self) {
        // Sends as much as possible without waiting. Data that the socket does not accept now is lost, which is
        // allowed.
        let mut context = Context::from_waker(Waker::noop());
        let _ = Pin::new(&mut self.0).poll_shutdown(&mut context);
    }
}
