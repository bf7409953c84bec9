//! What can be wrong with certificates, and why a handshake failed.

use super::NameError;
use crate::TransportError;
use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// What is wrong with a certificate, a key, or the files that hold them. Its text names the file and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The path of the file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file does not contain what it should.
    #[error("{} contains no {wanted} in PEM: {reason}", path.display())]
    Pem {
        /// The path of the file.
        path: PathBuf,
        /// `certificate` or `private key`.
        wanted: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The private key is encrypted.
    #[error(
        "the private key in {} is encrypted, and nobody can be asked for its password: write it to a file without one, which only its \
         owner can read (openssl pkey -in OLD -out NEW), and name that", path.display()
    )]
    EncryptedKey {
        /// The path of the file.
        path: PathBuf,
    },
    /// The certificate is not for this use.
    #[error(
        "the certificate in {} is not made for this: its extended key usage lacks {usage}. Issue one with clientAuth for a client, with \
         serverAuth and clientAuth for a member, which calls others as well", path.display()
    )]
    Usage {
        /// The path of the file.
        path: PathBuf,
        /// The missing usage.
        usage: &'static str,
    },
    /// The certificate or the key is of a kind that is not supported.
    #[error("{} cannot be used: {reason}", path.display())]
    Unusable {
        /// The path of the file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The key belongs to another certificate.
    #[error(
        "the key in {} does not belong to the certificate in {}: name two files that were made together", key.display(),
        certificate.display()
    )]
    OtherKey {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// The certificate has expired, or is not valid yet.
    #[error("the certificate in {} {}", path.display(), dates(*expired, *by))]
    Dates {
        /// The path of the file.
        path: PathBuf,
        /// Whether the certificate has expired; otherwise it is not valid yet.
        expired: bool,
        /// The time since it expired, or until it becomes valid.
        by: Duration,
    },
    /// The certificate of a member is not signed by one of the roots, so no other member would accept it.
    #[error(
        "the certificate in {} is not signed by a root in {}: the other members would refuse it", certificate.display(),
        roots.display()
    )]
    Untrusted {
        /// The certificate's file.
        certificate: PathBuf,
        /// The roots' file.
        roots: PathBuf,
    },
    /// The certificate contains no identity.
    #[error("the certificate in {} cannot be used here: {reason}", path.display())]
    Nameless {
        /// The path of the file.
        path: PathBuf,
        /// What is wrong with the name.
        reason: NameError,
    },
    /// The files now contain the certificate of someone else.
    #[error("{} now holds the certificate of {found}, this is {expected}: put back a certificate of {expected}", path.display())]
    Renamed {
        /// The path of the file.
        path: PathBuf,
        /// The name of this process.
        expected: String,
        /// The name in the new certificate.
        found: String,
    },
    /// The other end has sent no certificate.
    #[error("it sent no certificate")]
    NoCertificate,
    /// The certificate of the other end cannot be parsed.
    #[error("its certificate is malformed: {reason}")]
    Malformed {
        /// What is wrong with it.
        reason: String,
    },
    /// The certificate of the other end contains no identity.
    #[error("its certificate cannot be used here: {0}")]
    Name(#[from] NameError),
    /// The other end accepts connections with a client's certificate.
    #[error("the certificate of a client ({0}) was sent where a member should listen")]
    NotAMember(String),
}

impl From<TlsError> for TransportError {
    fn from(error: TlsError) -> Self {
        Self::Credentials { reason: error.to_string() }
    }
}

fn dates(expired: bool, by: Duration) -> String {
    let by = rough(by);
    match expired {
        true => format!("expired {by} ago: renew it"),
        false => format!("is valid only in {by}: check the clock, or wait"),
    }
}

/// Describes what is wrong with this end's own certificate, because the library only names the kind of error.
pub(super) fn wrong_with(error: &webpki::Error) -> String {
    use webpki::Error;
    match error {
        Error::CaUsedAsEndEntity => {
            "it is an authority's: name a certificate that the authority has signed".to_owned()
        }
        Error::EndEntityUsedAsCa => {
            "what has signed it is not the certificate of an authority (it lacks CA:TRUE)".to_owned()
        }
        Error::CertRevoked => "it was revoked".to_owned(),
        Error::InvalidCertValidity => "it ends before it begins".to_owned(),
        Error::UnsupportedCertVersion => "it is not of version 3 of X.509".to_owned(),
        Error::UnsupportedCriticalExtension => {
            "it has a critical extension that is not known here: issue it without".to_owned()
        }
        Error::NameConstraintViolation => "its authority may not sign such names".to_owned(),
        Error::PathLenConstraintViolated | Error::MaximumPathDepthExceeded => {
            "there are more authorities between it and the root than allowed".to_owned()
        }
        other => format!("it is malformed, or of a kind that is not supported ({other:?})"),
    }
}

/// Formats a duration for people.
fn rough(time: Duration) -> String {
    let seconds = time.as_secs();
    let (number, unit) = match seconds {
        0..120 => (seconds, "s"),
        120..7_200 => (seconds / 60, "min"),
        7_200..172_800 => (seconds / 3_600, "h"),
        _ => (seconds / 86_400, "days"),
    };
    format!("{number} {unit}")
}

/// Describes in one line why a handshake failed: which end's certificate is the cause, and what is wrong with that
/// certificate.
#[must_use]
pub fn explain(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(reason) => its_certificate(reason),
        Error::NoCertificatesPresented => TlsError::NoCertificate.to_string(),
        Error::AlertReceived(alert) => alert_received(*alert),
        Error::InvalidMessage(_) => {
            "it does not speak TLS: give both ends certificates, or neither, and check the address".to_owned()
        }
        Error::PeerIncompatible(
            PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::ServerDoesNotSupportTls12Or13,
        ) => "it speaks TLS older than 1.3".to_owned(),
        Error::NoApplicationProtocol => "it speaks TLS, but not the protocol of kv".to_owned(),
        other => format!("the TLS handshake failed: {other}"),
    }
}

fn its_certificate(reason: &CertificateError) -> String {
    match reason {
        CertificateError::Expired => "its certificate has expired: renew it there".to_owned(),
        CertificateError::ExpiredContext { time, not_after } => {
            let since = time.as_secs().saturating_sub(not_after.as_secs());
            format!("its certificate has expired {} ago: renew it there", rough(Duration::from_secs(since)))
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet: check the clocks".to_owned()
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its certificate is not signed by one of the roots here".to_owned()
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "its certificate is not made for this: extended key usage must name clientAuth for a client, serverAuth and clientAuth for a \
             member"
                .to_owned()
        }
        CertificateError::Other(reason) => reason.0.to_string(),
        other => format!("its certificate is refused: {other}"),
    }
}

/// Describes why this end refused the other end in a handshake, if only a text and the alert that this end sent are
/// known.
#[must_use]
pub fn explain_sent(alert: AlertDescription, text: &str) -> String {
    match alert {
        AlertDescription::CertificateExpired => {
            "its certificate has expired, or is not valid yet: renew it there, and check the clocks"
                .to_owned()
        }
        AlertDescription::UnknownCA => its_certificate(&CertificateError::UnknownIssuer),
        AlertDescription::CertificateRequired => TlsError::NoCertificate.to_string(),
        _ => format!("the TLS handshake failed: {text}"),
    }
}

/// What the alert of the other end means for this end.
fn alert_received(alert: AlertDescription) -> String {
    let reason = match alert {
        AlertDescription::CertificateExpired => {
            "has expired, or is not valid yet: renew it, and check the clocks"
        }
        AlertDescription::UnknownCA => "is not signed by one of the roots there",
        AlertDescription::CertificateRequired => "is missing",
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateUnknown
        | AlertDescription::AccessDenied
        | AlertDescription::DecryptError => "is refused: see the log there for the reason",
        AlertDescription::NoApplicationProtocol => {
            return "it speaks TLS, but not the protocol of kv".to_owned();
        }
        AlertDescription::ProtocolVersion => return "it does not speak TLS 1.3".to_owned(),
        other => return format!("it ended the TLS handshake: {other:?}"),
    };
    format!("it reports that the certificate of this end {reason}")
}

/// The time from `now` to `end`, or from `end` to `now`.
pub(super) fn distance(now: SystemTime, end: Duration) -> Duration {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    now.abs_diff(end)
}
