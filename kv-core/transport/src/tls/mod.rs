//! Authentication by certificates, the same for TLS over TCP and for QUIC.
//!
//! Every member and every client has an [`Identity`]: a certificate, its key, and the roots by which it verifies the
//! certificates of others, all in PEM files. The name of the owner is in a URI of the certificate (see [`Name`]). Host
//! names and addresses are not used, so a certificate stays valid when a member moves. A transport passes
//! [`Identity::server_config`] and [`Identity::client_config`] to `rustls`; [`peer_of`] then returns the other end's
//! identity.
//!
//! - TLS 1.3 only, with the cryptography of `ring`, whatever the default provider of the process is. Both ends send a
//!   certificate.
//! - The certificate of a peer must chain to a root, be valid now, be for its intended use, and contain a name.
//! - Every handshake is a full one: there are no tickets, no resumption and no early data. So nobody is accepted with a
//!   certificate that was only valid earlier.
//! - [`Identity::refresh`] loads changed files. Every later handshake uses them.

#[cfg(feature = "certs")]
mod authority;
mod error;
mod files;
mod identity;
mod name;
mod verify;

#[cfg(feature = "certs")]
pub use authority::{Authority, AuthorityError, Issued, Validity};
pub use error::{TlsError, explain, explain_sent};
pub use files::Files;
pub use identity::Identity;
pub use name::{Name, NameError};
pub use rustls;

use crate::Peer;
use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

/// The server name to use where `rustls` requires one. The name is neither sent nor checked.
pub const SERVER_NAME: &str = "kv";

/// The identity of the other end, from its verified certificates.
///
/// # Errors
/// [`TlsError::NoCertificate`] if the other end has sent no certificate; [`TlsError::Name`] if its certificate contains
/// no name, or more than one.
pub fn peer_of(certificates: Option<&[CertificateDer<'_>]>) -> Result<Peer, TlsError> {
    let leaf = certificates.and_then(<[_]>::first).ok_or(TlsError::NoCertificate)?;
    Ok(name_of(leaf)?.into())
}

/// The name in a certificate.
fn name_of(certificate: &CertificateDer<'_>) -> Result<Name, TlsError> {
    let parsed =
        EndEntityCert::try_from(certificate).map_err(|e| TlsError::Malformed { reason: e.to_string() })?;
    Ok(Name::among(parsed.valid_uri_names())?)
}
