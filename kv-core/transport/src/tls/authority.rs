//! Creates certificates, for development and tests.

use super::{Files, Name};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::fmt::{self, Debug};
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Certificates are valid from this long before their creation, so that a clock that is slightly behind accepts them.
const BACKDATED: Duration = Duration::from_secs(3600);

/// The time for which a certificate is valid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Validity {
    /// Not before.
    pub from: SystemTime,
    /// Not after.
    pub until: SystemTime,
}

impl Validity {
    /// Valid from an hour ago until this many days from now.
    #[must_use]
    pub fn days(days: u32) -> Self {
        let now = SystemTime::now();
        Self { from: now - BACKDATED, until: now + Duration::from_secs(u64::from(days) * 86_400) }
    }

    /// Valid between these times, in whole seconds.
    #[must_use]
    pub fn between(from: SystemTime, until: SystemTime) -> Self {
        Self { from, until }
    }
}

/// A certificate and its key, in PEM.
#[derive(Clone)]
#[non_exhaustive]
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

impl Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

impl Issued {
    /// Writes the certificate and the key to their files, and replaces existing files. Each file is complete at any
    /// time. Only the owner of the key's file can read it (mode 0600, on systems with modes).
    ///
    /// # Errors
    /// The system's error.
    pub fn save(&self, files: &Files) -> io::Result<()> {
        replace(&files.key, &self.key, true)?;
        replace(&files.certificate, &self.certificate, false)
    }
}

/// Writes a file beside `path`, and renames it to `path`.
fn replace(path: &Path, text: &str, secret: bool) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, if secret { 0o600 } else { 0o644 });
    #[cfg(not(unix))]
    let _ = secret;
    let mut file = options.open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)
}

/// Whether `key` belongs to one of these certificates. Every peer would refuse certificates that another key signs.
fn is_key_of(certificates: &str, key: &KeyPair) -> bool {
    CertificateDer::pem_slice_iter(certificates.as_bytes()).flatten().any(|certificate| {
        webpki::anchor_from_trusted_cert(&certificate)
            .is_ok_and(|anchor| anchor.subject_public_key_info.ends_with(key.public_key_raw()))
    })
}

/// Signs certificates for the members and clients of a cluster. For development and tests: anyone who has its key can
/// become a member.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

impl Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// A certificate could not be created.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a certificate: {0}")]
pub struct AuthorityError(String);

impl From<rcgen::Error> for AuthorityError {
    fn from(error: rcgen::Error) -> Self {
        Self(error.to_string())
    }
}

impl Authority {
    /// Creates an authority for the cluster of this name.
    ///
    /// # Errors
    /// [`AuthorityError`] if the name or the dates cannot be encoded in a certificate, or the system provides no
    /// randomness.
    pub fn new(cluster: &str, validity: Validity) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate()?;
        let mut params = authority(cluster)?;
        set_dates(&mut params, validity);
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), certificate })
    }

    /// Loads an authority that [`new`](Self::new) created for a cluster of this name, from its certificate and key in
    /// PEM.
    ///
    /// # Errors
    /// [`AuthorityError`] if the key is not valid, or is not the key of the certificate. While an authority is being
    /// replaced, `certificate` may contain the old and the new certificate.
    pub fn from_pem(cluster: &str, certificate: &str, key: &str) -> Result<Self, AuthorityError> {
        let key = KeyPair::from_pem(key)?;
        if !is_key_of(certificate, &key) {
            return Err(AuthorityError("the authority's key does not belong to its certificate".to_owned()));
        }
        Ok(Self { issuer: Issuer::new(authority(cluster)?, key), certificate: certificate.to_owned() })
    }

    /// Its own certificate in PEM: the root that members and clients trust.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Its own key in PEM.
    #[must_use]
    pub fn key(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Writes its own certificate and key to `ca.pem` and `ca.key` in `folder`, as [`Issued::save`] does.
    ///
    /// # Errors
    /// The system's error.
    pub fn save(&self, folder: impl AsRef<Path>) -> io::Result<()> {
        let folder = folder.as_ref();
        replace(&folder.join("ca.key"), &self.key(), true)?;
        replace(&folder.join("ca.pem"), &self.certificate, false)
    }

    /// Issues a certificate for `name` with a new key. Both ends of a connection may use a member's certificate; only
    /// the connecting end may use a client's.
    ///
    /// # Errors
    /// [`AuthorityError`] if the dates cannot be encoded in a certificate, or the system provides no randomness.
    pub fn issue(&self, name: &Name, validity: Validity) -> Result<Issued, AuthorityError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name.to_string());
        params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(name.to_string())?)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match name {
            Name::Member { .. } => {
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
            }
            Name::Client { .. } => vec![ExtendedKeyUsagePurpose::ClientAuth],
        };
        set_dates(&mut params, validity);
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Issued { certificate, key: key.serialize_pem() })
    }
}

/// The parameters of the authority of a cluster. The parameters are the same each time, so only the key of the
/// authority must be kept.
fn authority(cluster: &str) -> Result<CertificateParams, AuthorityError> {
    if cluster.is_empty() || cluster.len() > 100 {
        return Err(AuthorityError(format!(
            "the cluster's name has {} bytes: give it 1 to 100",
            cluster.len()
        )));
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("kv authority of {cluster}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn set_dates(params: &mut CertificateParams, validity: Validity) {
    let since_1970 = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + since_1970(validity.from);
    params.not_after = epoch + since_1970(validity.until);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::{Files, Identity};

    /// The result of verifying a certificate for `name` that may be used for `uses`, with the key that `key` makes of
    /// the right one.
    fn refusal(name: &Name, uses: &[ExtendedKeyUsagePurpose], key: impl FnOnce(String) -> String) -> String {
        let authority = Authority::new("demo", Validity::days(2)).unwrap();
        let own = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(name.to_string()).unwrap())];
        params.is_ca = IsCa::ExplicitNoCa;
        params.extended_key_usages = uses.to_vec();
        let certificate = params.signed_by(&own, &authority.issuer).unwrap().pem();
        let folder = tempfile::tempdir().unwrap();
        let files = Files::of(name, folder.path());
        fs::write(&files.certificate, certificate).unwrap();
        fs::write(&files.key, key(own.serialize_pem())).unwrap();
        fs::write(&files.roots, authority.certificate()).unwrap();
        let text = Identity::from_files(files).map_or_else(|error| error.to_string(), |_| String::new());
        assert!(!text.contains(['{', '\n']), "no value of the program's: {text}");
        text.replace(&folder.path().display().to_string(), "certs")
    }

    #[test]
    fn a_certificate_for_another_use_is_refused_with_what_it_lacks() {
        let member = Name::Member { cluster: "demo".into(), id: 0 };
        let client = Name::Client { cluster: "demo".into(), name: "app".into() };
        let (for_server, for_client) =
            (ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth);
        let same = |key| key;
        assert_eq!(refusal(&client, std::slice::from_ref(&for_client), same), "");
        assert_eq!(refusal(&member, &[for_client.clone(), for_server.clone()], same), "");
        for (name, uses, file, lacks) in [
            (&client, [for_server.clone()], "certs/client-app.pem", "lacks clientAuth"),
            (&member, [for_server], "certs/member-0.pem", "lacks clientAuth"),
            (&member, [for_client], "certs/member-0.pem", "lacks serverAuth"),
        ] {
            let text = refusal(name, &uses, same);
            assert!(text.contains(file) && text.contains(lacks), "{text}");
        }
    }

    #[test]
    fn a_key_of_another_authority_is_refused() {
        let authority = || Authority::new("demo", Validity::days(1)).unwrap();
        let (old, new) = (authority(), authority());
        let both = format!("{}{}", old.certificate(), new.certificate());
        for (certificate, key, accepted) in [
            (new.certificate(), new.key(), true),
            (&both, old.key(), true),
            (new.certificate(), old.key(), false),
            ("no certificate", old.key(), false),
        ] {
            assert_eq!(Authority::from_pem("demo", certificate, &key).is_ok(), accepted, "{certificate}");
        }
    }

    #[test]
    fn an_encrypted_key_is_reported_as_encrypted() {
        let client = Name::Client { cluster: "demo".into(), name: "app".into() };
        let pkcs8 = |key: String| key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        let pkcs1 = |_| {
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n"
                .to_owned()
        };
        let uses = [ExtendedKeyUsagePurpose::ClientAuth];
        for text in [refusal(&client, &uses, pkcs8), refusal(&client, &uses, pkcs1)] {
            assert!(
                text.contains("certs/client-app.key is encrypted") && text.contains("openssl pkey"),
                "{text}"
            );
        }
    }
}
