//! Refusals: why a socket did not become a connection, and how the other end is informed.

use kv_transport::{TransportError, preface};
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The first byte of a handshake in TLS.
pub(crate) const TLS_HANDSHAKE: u8 = 0x16;
/// The answer to a caller without TLS at a port that requires it: a preface of no lane.
pub(crate) const WANTS_TLS: [u8; preface::BYTES] = *b"kvt\n\x01\xff\x00\x00";
/// The answer to a caller with TLS at a port without it: anything that is not TLS.
pub(crate) const SPEAKS_NO_TLS: [u8; preface::BYTES] = *b"kvt\n\x01\xfe\x00\x00";
/// How often data is read from a caller after the closing message.
const PARTING_READS: usize = 64;

/// Why a socket did not become a connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The socket broke, or the other end does not speak this protocol.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The two ends do not accept each other.
    #[error("{0}")]
    Handshake(String),
}

impl Failure {
    /// The error that `connect` reports.
    pub(crate) fn on_connect(self, address: &str) -> TransportError {
        match self {
            Self::Io(error) => TransportError::connect(address, error),
            Self::Handshake(reason) => TransportError::handshake(address, reason),
        }
    }
}

pub(crate) fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// Sends the closing message, and closes the socket. Data that the other end still sends is read and dropped, because
/// closing a socket with unread data resets it, and the message might be lost. The accepting end limits the time.
pub(crate) async fn part(mut socket: TcpStream, last_word: &[u8]) {
    if socket.write_all(last_word).await.is_ok() && socket.shutdown().await.is_ok() {
        let mut unread = [0; 1024];
        for _ in 0..PARTING_READS {
            if !matches!(socket.read(&mut unread).await, Ok(1..)) {
                break;
            }
        }
    }
}
