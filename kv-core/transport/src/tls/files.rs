//! The files of an identity, and their content.

use super::error::{distance, wrong_with};
use super::{Name, TlsError, name_of};
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::sign::CertifiedKey;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use webpki::{EndEntityCert, KeyUsage};

/// The largest allowed file, in bytes.
const LARGEST: u64 = 1 << 20;

/// The latest time in a certificate: the end of the year 9999, in seconds since 1970.
const END_OF_TIME: Duration = Duration::from_secs(253_402_300_799);

/// The files of an identity: three or four files in PEM.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Files {
    /// The certificate, followed by any intermediate certificates up to a root.
    pub certificate: PathBuf,
    /// Its private key: PKCS #8, SEC 1 or PKCS #1.
    pub key: PathBuf,
    /// The certificates of the trusted authorities: one, or several while an authority is being replaced.
    pub roots: PathBuf,
    /// For a member: the certificates of the authorities that sign clients. These authorities cannot sign members. If
    /// they are given, `roots` cannot sign clients. Default: none, so that `roots` sign both.
    pub client_roots: Option<PathBuf>,
}

impl Files {
    /// These three files, and no separate authorities for clients.
    pub fn new(certificate: impl Into<PathBuf>, key: impl Into<PathBuf>, roots: impl Into<PathBuf>) -> Self {
        let (certificate, key, roots) = (certificate.into(), key.into(), roots.into());
        Self { certificate, key, roots, client_roots: None }
    }

    /// Trusts clients only if one of these authorities has signed their certificates.
    #[must_use]
    pub fn client_roots(mut self, path: impl Into<PathBuf>) -> Self {
        self.client_roots = Some(path.into());
        self
    }

    /// The files that `kv certs` writes for `name`: `member-ID.pem`, `member-ID.key`, `client-NAME.pem`,
    /// `client-NAME.key`, and `ca.pem`, all in `folder`.
    pub fn of(name: &Name, folder: impl AsRef<Path>) -> Self {
        let (folder, stem) = (folder.as_ref(), name.file_stem());
        Self::new(
            folder.join(format!("{stem}.pem")),
            folder.join(format!("{stem}.key")),
            folder.join("ca.pem"),
        )
    }

    /// Reads the files.
    pub(super) fn read(&self) -> Result<Contents, TlsError> {
        Ok(Contents {
            certificate: read(&self.certificate)?,
            key: read(&self.key)?,
            roots: read(&self.roots)?,
            client_roots: self.client_roots.as_deref().map(read).transpose()?,
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |source| TlsError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() as u64 > LARGEST {
        return Err(failed(io::Error::other("it is far too large to be in PEM")));
    }
    Ok(bytes)
}

/// The content of the files.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    roots: Vec<u8>,
    client_roots: Option<Vec<u8>>,
}

/// The content of files that match each other.
pub(super) struct Material {
    pub(super) name: Name,
    pub(super) own: Arc<CertifiedKey>,
    pub(super) roots: Arc<RootCertStore>,
    /// The roots for clients, which may be the same as those for members.
    pub(super) client_roots: Arc<RootCertStore>,
    /// When the certificate or an intermediate certificate expires.
    pub(super) expires: Option<Duration>,
    /// The content from which it was made.
    pub(super) contents: Contents,
}

impl Material {
    pub(super) fn parse(
        files: &Files,
        contents: Contents,
        provider: &CryptoProvider,
    ) -> Result<Self, TlsError> {
        let chain = certificates(&files.certificate, &contents.certificate)?;
        let key = private_key(&files.key, &contents.key)?;
        let own_roots = Arc::new(roots(&files.roots, &contents.roots)?);
        let client_roots = match (&files.client_roots, &contents.client_roots) {
            (Some(path), Some(bytes)) => Arc::new(roots(path, bytes)?),
            _ => own_roots.clone(),
        };
        let name = name_of(&chain[0]).map_err(|e| in_file(&files.certificate, e))?;
        let own = CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                TlsError::OtherKey { certificate: files.certificate.clone(), key: files.key.clone() }
            }
            other => unusable(&files.key, other.to_string()),
        })?;
        check(files, &name, &own.cert, &own_roots, provider)?;
        let expires = expiry(&own.cert, &own_roots, provider);
        Ok(Self { name, own: Arc::new(own), roots: own_roots, client_roots, expires, contents })
    }
}

fn certificates(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let not_pem = |reason: String| TlsError::Pem { path: path.to_owned(), wanted: "certificate", reason };
    let found: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(bytes).collect();
    match found {
        Ok(found) if found.is_empty() => Err(not_pem("there is no BEGIN CERTIFICATE in it".to_owned())),
        Ok(found) => Ok(found),
        Err(error) => Err(not_pem(error.to_string())),
    }
}

fn private_key(path: &Path, bytes: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    let contains = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
    if contains(b"-----BEGIN ENCRYPTED PRIVATE KEY-----") || contains(b"Proc-Type: 4,ENCRYPTED") {
        return Err(TlsError::EncryptedKey { path: path.to_owned() });
    }
    PrivateKeyDer::from_pem_slice(bytes).map_err(|error| {
        let reason = match error {
            pem::Error::NoItemsFound => "there is no BEGIN PRIVATE KEY in it".to_owned(),
            other => other.to_string(),
        };
        TlsError::Pem { path: path.to_owned(), wanted: "private key", reason }
    })
}

fn roots(path: &Path, bytes: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for root in certificates(path, bytes)? {
        roots.add(root).map_err(|_| unusable(path, "a certificate in it is malformed".to_owned()))?;
    }
    Ok(roots)
}

/// Checks whether others would accept this certificate. The others check it too, but here the operator can see the
/// error and fix it.
fn check(
    files: &Files,
    name: &Name,
    chain: &[CertificateDer<'static>],
    roots: &RootCertStore,
    provider: &CryptoProvider,
) -> Result<(), TlsError> {
    let path = &files.certificate;
    let parsed = EndEntityCert::try_from(&chain[0]).map_err(|e| unusable(path, wrong_with(&e)))?;
    let is_member = matches!(name, Name::Member { .. });
    let mut uses = vec![("clientAuth", KeyUsage::client_auth())];
    if is_member {
        uses.push(("serverAuth", KeyUsage::server_auth()));
    }
    let now = SystemTime::now();
    let dates = |expired, end: UnixTime| {
        let by = distance(now, Duration::from_secs(end.as_secs()));
        TlsError::Dates { path: path.clone(), expired, by }
    };
    for (purpose, usage) in uses {
        let algorithms = provider.signature_verification_algorithms.all;
        let verified = parsed.verify_for_usage(
            algorithms,
            &roots.roots,
            &chain[1..],
            UnixTime::now(),
            usage,
            None,
            None,
        );
        let problem = match verified {
            Ok(_) => continue,
            Err(webpki::Error::CertExpired { not_after, .. }) => dates(true, not_after),
            Err(webpki::Error::CertNotValidYet { not_before, .. }) => dates(false, not_before),
            // Members and clients may have different authorities: a client need not trust the authority that signed its
            // own certificate.
            Err(error) if is_unknown_issuer(&error) && !is_member => continue,
            Err(error) if is_unknown_issuer(&error) => {
                TlsError::Untrusted { certificate: path.clone(), roots: files.roots.clone() }
            }
            Err(webpki::Error::RequiredEkuNotFoundContext(_)) => {
                TlsError::Usage { path: path.clone(), usage: purpose }
            }
            Err(error) => unusable(path, wrong_with(&error)),
        };
        return Err(problem);
    }
    Ok(())
}

/// When the first certificate of the chain expires; `None` if it does not expire. The time is found by checking whether
/// the chain is valid at later times, because `webpki` gives no other access to the dates.
fn expiry(
    chain: &[CertificateDer<'static>],
    roots: &RootCertStore,
    provider: &CryptoProvider,
) -> Option<Duration> {
    let parsed = EndEntityCert::try_from(&chain[0]).ok()?;
    let algorithms = provider.signature_verification_algorithms.all;
    let (mut at, mut expires) = (END_OF_TIME, None);
    loop {
        let usage = KeyUsage::client_auth();
        let when = UnixTime::since_unix_epoch(at);
        let verified =
            parsed.verify_for_usage(algorithms, &roots.roots, &chain[1..], when, usage, None, None);
        match verified {
            Err(webpki::Error::CertExpired { not_after, .. }) if not_after.as_secs() < at.as_secs() => {
                at = Duration::from_secs(not_after.as_secs());
                expires = Some(at);
            }
            _ => return expires,
        }
    }
}

/// If the issuer has the name of a root but another key, `webpki` reports a bad signature.
fn is_unknown_issuer(error: &webpki::Error) -> bool {
    matches!(error, webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey)
}

fn unusable(path: &Path, reason: String) -> TlsError {
    TlsError::Unusable { path: path.to_owned(), reason }
}

/// Turns an error of a certificate into an error of the file that contains it.
fn in_file(path: &Path, error: TlsError) -> TlsError {
    match error {
        TlsError::Name(reason) => TlsError::Nameless { path: path.to_owned(), reason },
        other => unusable(path, other.to_string()),
    }
}
