//! The two directions of a stream, as the user holds them.

use kv_transport::tls::rustls::{AlertDescription, Error as TlsError};
use kv_transport::tls::{explain, explain_sent};
use kv_transport::{Connection, Lane, Peer};
use quinn::{ConnectionError, ReadError, RecvStream, SendStream, TransportErrorCode, WriteError};
use std::any::Any;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;

/// How long the last data may take to arrive after the writer was dropped.
pub(crate) const LINGER: Duration = Duration::from_secs(3);

/// What must live as long as either direction of a stream.
pub(crate) type Held = Arc<dyn Any + Send + Sync>;

/// The priority of a lane. Bytes of a lane with a higher priority are sent first.
fn priority(lane: Lane) -> i32 {
    match lane {
        Lane::Control => 3,
        Lane::Log => 2,
        Lane::Client => 1,
        Lane::Bulk => 0,
    }
}

/// Makes a [`Connection`] of a stream on which the lane has been sent.
pub(crate) fn connection(
    (send, receive): (SendStream, RecvStream),
    lane: Lane,
    peer: Peer,
    remote: String,
    held: Held,
) -> Connection {
    // This fails only if the stream has ended, and then there is nothing to send.
    let _ = send.set_priority(priority(lane));
    Connection {
        lane,
        peer,
        remote,
        reader: Box::new(Reader { stream: receive, _held: held.clone() }),
        writer: Box::new(Writer { stream: send, held: Some(held) }),
    }
}

struct Reader {
    stream: RecvStream,
    _held: Held,
}

impl AsyncRead for Reader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream.poll_read_buf(cx, buf).map_err(|error| match error {
            ReadError::ConnectionLost(error) => lost(&error),
            ReadError::Reset(_) => {
                io::Error::new(io::ErrorKind::ConnectionReset, "the peer broke the stream")
            }
            ReadError::ClosedStream | ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected => {
                io::Error::other(error)
            }
        })
    }
}

struct Writer {
    stream: SendStream,
    /// `None` only while this end is being dropped.
    held: Option<Held>,
}

impl AsyncWrite for Writer {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf).map_err(|error| match error {
            WriteError::ConnectionLost(error) => lost(&error),
            WriteError::Stopped(_) => {
                io::Error::new(io::ErrorKind::BrokenPipe, "the peer has stopped reading")
            }
            WriteError::ClosedStream => io::Error::new(io::ErrorKind::BrokenPipe, "this direction is ended"),
            WriteError::ZeroRttRejected => io::Error::other(error),
        })
    }

    /// Written data is sent as soon as possible, so there is nothing to flush.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // This fails only if the direction has ended already.
        let _ = self.stream.finish();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Writer {
    /// Ends the direction, and keeps the connection until everything has arrived: a closed connection drops unsent
    /// data.
    fn drop(&mut self) {
        // This fails only if the direction has ended already.
        let _ = self.stream.finish();
        let held = self.held.take();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let arrived = self.stream.stopped();
            runtime.spawn(async move {
                // The data has arrived, or the time is over.
                let _ = timeout(LINGER, arrived).await;
                drop(held);
            });
        }
    }
}

/// Why a connection was lost, as text for users.
pub(crate) fn lost(error: &ConnectionError) -> io::Error {
    use io::ErrorKind;
    let (kind, reason) = match error {
        // Nothing else closes a connection in use.
        ConnectionError::LocallyClosed => {
            (ErrorKind::ConnectionReset, "nobody listens there any more".to_owned())
        }
        ConnectionError::Reset => (ErrorKind::ConnectionReset, "the peer has restarted".to_owned()),
        ConnectionError::ApplicationClosed(_) => {
            (ErrorKind::ConnectionReset, "the peer closed the connection".to_owned())
        }
        ConnectionError::TimedOut => (ErrorKind::TimedOut, "the peer is silent".to_owned()),
        ConnectionError::ConnectionClosed(close) => match alert(close.error_code) {
            Some(alert) => (ErrorKind::PermissionDenied, explain(&TlsError::AlertReceived(alert))),
            None if close.error_code == TransportErrorCode::CONNECTION_REFUSED => {
                (ErrorKind::ConnectionRefused, "it accepts no more connections".to_owned())
            }
            None => (ErrorKind::ConnectionAborted, format!("the peer closed the connection: {close}")),
        },
        ConnectionError::TransportError(failed) => match alert(failed.code) {
            Some(alert) => (ErrorKind::PermissionDenied, explain_sent(alert, &failed.reason)),
            None => (ErrorKind::InvalidData, error.to_string()),
        },
        ConnectionError::VersionMismatch | ConnectionError::CidsExhausted => {
            (ErrorKind::InvalidData, error.to_string())
        }
    };
    io::Error::new(kind, reason)
}

/// The TLS alert in an error, if there is one.
fn alert(code: TransportErrorCode) -> Option<AlertDescription> {
    let alert = u64::from(code).checked_sub(0x100)?;
    Some(AlertDescription::from(u8::try_from(alert).ok()?))
}
