//! Why a transport could not do what was asked.

use std::io;

/// Why a transport could not do what was asked. Its text names the address and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The address cannot be understood.
    #[error("{address:?} is not an address: {reason}")]
    Address {
        /// What was given.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// What was given.
        address: String,
        /// The system's error, and what to do.
        source: io::Error,
    },
    /// The other end cannot be reached.
    #[error("cannot reach {address}: {source}")]
    Connect {
        /// What was given.
        address: String,
        /// The system's error.
        source: io::Error,
    },
    /// The two ends do not accept each other: by their certificates, or since only one of them has any. Trying again helps
    /// only once somebody has mended it.
    #[error("no secure connection with {address}: {reason}")]
    Handshake {
        /// What was given.
        address: String,
        /// Which end has what against the other.
        reason: String,
    },
    /// What the transport is to prove itself by cannot be used.
    #[error("{reason}")]
    Credentials {
        /// Which file, what is wrong with it and what to do.
        reason: String,
    },
    /// Accepting failed; the listener may still be good.
    #[error("cannot accept: {0}")]
    Accept(#[source] io::Error),
    /// The listener is closed.
    #[error("the listener is closed")]
    Closed,
}

impl TransportError {
    /// An [`Address`](Self::Address) error.
    pub fn address(address: &str, reason: impl Into<String>) -> Self {
        Self::Address { address: address.to_owned(), reason: reason.into() }
    }

    /// A [`Bind`](Self::Bind) error that adds to the system's reason what can be done about it.
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

    /// A [`Connect`](Self::Connect) error.
    pub fn connect(address: &str, source: io::Error) -> Self {
        Self::Connect { address: address.to_owned(), source }
    }

    /// A [`Handshake`](Self::Handshake) error.
    pub fn handshake(address: &str, reason: impl Into<String>) -> Self {
        Self::Handshake { address: address.to_owned(), reason: reason.into() }
    }

    /// Nobody listens at the address: the machine answered with a refusal. Unlike silence, this shows that the
    /// process there is gone.
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::Connect { source, .. } if source.kind() == io::ErrorKind::ConnectionRefused)
    }
}
