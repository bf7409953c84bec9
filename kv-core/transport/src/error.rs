//! Errors of transports.

use std::io;

/// Why an operation of a transport failed. In most cases, the text of the error names the address and the cause.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The address is malformed.
    #[error("{address:?} is not an address: {reason}")]
    Address {
        /// The given address.
        address: String,
        /// What is wrong with the address.
        reason: String,
    },
    /// The transport cannot listen on the address.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The given address.
        address: String,
        /// The system's error and, for common causes, what to do.
        source: io::Error,
    },
    /// The other end cannot be reached.
    #[error("cannot reach {address}: {source}")]
    Connect {
        /// The given address.
        address: String,
        /// The system's error.
        source: io::Error,
    },
    /// At least one end does not accept the other, because of a certificate, or because only one end has a certificate.
    /// A retry helps only after somebody has changed the certificates or the configuration.
    #[error("no secure connection with {address}: {reason}")]
    Handshake {
        /// The given address.
        address: String,
        /// Which end does not accept the other, and why.
        reason: String,
    },
    /// The credentials of the transport cannot be used.
    #[error("{reason}")]
    Credentials {
        /// Which file is affected, what is wrong with it, and what to do.
        reason: String,
    },
    /// Accepting a connection failed. The listener may still work.
    #[error("cannot accept: {0}")]
    Accept(#[source] io::Error),
    /// The listener is closed.
    #[error("the listener is closed")]
    Closed,
}

impl TransportError {
    /// Creates an [`Address`](Self::Address) error.
    pub fn address(address: &str, reason: impl Into<String>) -> Self {
        Self::Address { address: address.to_owned(), reason: reason.into() }
    }

    /// Creates a [`Bind`](Self::Bind) error. For common causes, the text also states what to do.
    pub fn bind(address: &str, source: io::Error) -> Self {
        let advice = match source.kind() {
            io::ErrorKind::AddrInUse => "another process listens there: stop it, or choose another port",
            io::ErrorKind::AddrNotAvailable => {
                "this machine has no such address: use one of its own, or 0.0.0.0 for all of them"
            }
            io::ErrorKind::PermissionDenied => {
                "ports below 1024 need privileges: choose a higher one, or grant them"
            }
            _ => return Self::Bind { address: address.to_owned(), source },
        };
        let source = io::Error::new(source.kind(), format!("{source}; {advice}"));
        Self::Bind { address: address.to_owned(), source }
    }

    /// Creates a [`Connect`](Self::Connect) error.
    pub fn connect(address: &str, source: io::Error) -> Self {
        Self::Connect { address: address.to_owned(), source }
    }

    /// Creates a [`Handshake`](Self::Handshake) error.
    pub fn handshake(address: &str, reason: impl Into<String>) -> Self {
        Self::Handshake { address: address.to_owned(), reason: reason.into() }
    }

    /// Returns whether the machine at the address answered that nobody listens there. Such an answer shows that the
    /// process is gone; silence does not.
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::Connect { source, .. } if source.kind() == io::ErrorKind::ConnectionRefused)
    }
}
