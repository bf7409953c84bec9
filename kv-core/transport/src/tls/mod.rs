//! Who is at the other end, proved by certificates: the same for TLS over TCP and for QUIC.
//!
//! Every member and every client has an [`Identity`]: a certificate, its key, and the roots by which it judges the
//! certificates of others, all in PEM files. Who somebody is stands in a URI of the certificate (see [`Name`]); host names
//! and addresses play no part, so that a certificate stays good when a member moves. [`Identity::server_config`] and
//! [`Identity::client_config`] are what a transport gives to `rustls`; [`peer_of`] then returns the other end's identity.
//!
//! - TLS 1.3 only, by `ring`, whatever the process' default is. Both ends show a certificate.
//! - A peer's certificate must chain to a root, be within its dates, be for the use that it is put to, and hold a name.
//! - Every handshake is a full one: there are no tickets, nothing is resumed and nothing is sent early. So nobody comes in on
//!   a certificate that was good at an earlier time.
//! - Files that change are taken over by [`Identity::refresh`], for every handshake from then on.

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

/// What is asked for as the server's name, where one must be. It is not sent, and not looked at.
pub const SERVER_NAME: &str = "kv";

/// Who is at the other end, by the certificates that it has shown and that have been verified.
///
/// # Errors
/// [`TlsError::NoCertificate`] if it has shown none; [`TlsError::Name`] if it holds no name, or more than one.
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
