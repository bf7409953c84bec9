//! The transport that members and clients use, by name.

use super::TlsFiles;
use crate::failure::Failure;
use clap::ValueEnum;
use kv_core::transport::Transport;
use serde::Deserialize;
use std::sync::Arc;

/// How members and clients connect. A whole cluster uses the same transport.
#[derive(ValueEnum, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TransportKind {
    /// TCP.
    Tcp,
    /// QUIC, over UDP.
    Quic,
}

impl Default for TransportKind {
    /// TCP, unless only QUIC is compiled in.
    fn default() -> Self {
        if cfg!(feature = "quic") && !cfg!(feature = "tcp") { Self::Quic } else { Self::Tcp }
    }
}

impl TransportKind {
    /// Every kind, compiled in or not.
    const ALL: [Self; 2] = [Self::Tcp, Self::Quic];

    /// The name on the command line. The Cargo feature has the same name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Quic => "quic",
        }
    }

    fn is_compiled_in(self) -> bool {
        match self {
            Self::Tcp => cfg!(feature = "tcp"),
            Self::Quic => cfg!(feature = "quic"),
        }
    }

    /// Fails if this `kv` was compiled without it, before anything starts.
    pub(crate) fn check(self) -> Result<(), Failure> {
        if self.is_compiled_in() { Ok(()) } else { Err(missing(self, Self::is_compiled_in)) }
    }

    /// The transport: with certificates, or without authentication.
    pub(crate) fn transport(self, tls: Option<&TlsFiles>) -> Result<Arc<dyn Transport>, Failure> {
        self.check()?;
        #[cfg(feature = "tls")]
        if let Some(files) = tls {
            return self.secure(files.identity()?);
        }
        // Without the feature there are none: parsing the configuration fails.
        let _ = tls;
        match self {
            #[cfg(feature = "tcp")]
            Self::Tcp => Ok(Arc::new(kv_core::transport::tcp::Tcp::new())),
            #[cfg(feature = "quic")]
            Self::Quic => Ok(Arc::new(kv_core::transport::quic::Quic::insecure())),
            #[cfg(not(all(feature = "tcp", feature = "quic")))]
            _ => Err(missing(self, Self::is_compiled_in)),
        }
    }

    /// The transport with this certificate.
    #[cfg(feature = "tls")]
    fn secure(self, identity: kv_core::transport::tls::Identity) -> Result<Arc<dyn Transport>, Failure> {
        match self {
            #[cfg(feature = "tcp")]
            Self::Tcp => Ok(Arc::new(kv_core::transport::tcp::Tcp::with_tls(identity))),
            #[cfg(feature = "quic")]
            Self::Quic => Ok(Arc::new(kv_core::transport::quic::Quic::new(identity))),
            #[cfg(not(all(feature = "tcp", feature = "quic")))]
            _ => {
                drop(identity);
                Err(missing(self, Self::is_compiled_in))
            }
        }
    }
}

/// What to do about a transport that is not compiled in.
fn missing(wanted: TransportKind, is_compiled_in: impl Fn(TransportKind) -> bool) -> Failure {
    let name = wanted.name();
    let others: Vec<_> = TransportKind::ALL
        .into_iter()
        .filter(|kind| is_compiled_in(*kind))
        .map(|kind| format!(", or use --transport {}", kind.name()))
        .collect();
    Failure::usage(format!(
        "the transport {name} is not compiled into this kv: build it with the feature {name} (cargo build -p kv-bin \
         --features {name}){}",
        others.concat()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transports_are_compiled_in_by_feature() {
        for kind in TransportKind::ALL {
            assert_eq!(kind.check().is_ok(), kind.is_compiled_in());
        }
        assert_eq!(TransportKind::default().is_compiled_in(), cfg!(any(feature = "tcp", feature = "quic")));
    }

    #[test]
    fn a_missing_transport_is_reported_with_its_feature_and_alternatives() {
        let text = missing(TransportKind::Quic, |kind| kind == TransportKind::Tcp).to_string();
        for fragment in ["transport quic is not compiled", "--features quic", "or use --transport tcp"] {
            assert!(text.contains(fragment), "{text}");
        }
        let text = missing(TransportKind::Tcp, |_| false).to_string();
        assert!(text.contains("--features tcp") && !text.contains("or use"), "{text}");
    }
}
