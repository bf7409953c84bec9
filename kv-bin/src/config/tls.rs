//! Certificates in the configuration: the files of a member and of a client.

use crate::failure::Failure;
use clap::Args;
use kv_core::config::MemberId;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// The certificate of the authority in a folder of `kv certs`.
pub(crate) const ROOTS: &str = "ca.pem";

/// The names of the settings.
#[cfg(test)]
pub(super) const NAMES: [&str; 6] = ["dir", "certificate", "key", "roots", "client_roots", "clients"];

/// The section `[tls]` of the configuration file.
#[derive(Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct FileTls {
    pub(super) dir: Option<PathBuf>,
    pub(super) certificate: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
    pub(super) roots: Option<PathBuf>,
    pub(super) client_roots: Option<PathBuf>,
    pub(super) clients: Option<PathBuf>,
}

/// The flags of the command line.
#[derive(Args, Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct TlsArgs {
    /// Use TLS with the certificates in this folder, created by `kv certs`.
    #[arg(long, env = "KV_TLS_DIR", value_name = "DIR")]
    pub(crate) tls_dir: Option<PathBuf>,

    /// Use TLS with the certificate in this PEM file, followed by any intermediate certificates.
    #[arg(long, env = "KV_TLS_CERTIFICATE", value_name = "FILE")]
    pub(crate) tls_certificate: Option<PathBuf>,

    /// The private key of the certificate, a PEM file.
    #[arg(long, env = "KV_TLS_KEY", value_name = "FILE")]
    pub(crate) tls_key: Option<PathBuf>,

    /// The certificates of the trusted authorities, a PEM file.
    #[arg(long, env = "KV_TLS_ROOTS", value_name = "FILE")]
    pub(crate) tls_roots: Option<PathBuf>,
}

/// Which clients a member accepts.
#[derive(Args, Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct AdmissionArgs {
    /// With TLS, accept only the clients that this file names, one name per line. The member reloads the file when it
    /// changes.
    #[arg(long, env = "KV_TLS_CLIENTS", value_name = "FILE")]
    pub(crate) tls_clients: Option<PathBuf>,

    /// With TLS, accept clients only if an authority in this PEM file has signed their certificates. Those of
    /// --tls-roots then sign only members [default: the authorities of --tls-roots sign both]
    #[arg(long, env = "KV_TLS_CLIENT_ROOTS", value_name = "FILE")]
    pub(crate) tls_client_roots: Option<PathBuf>,
}

/// The files of a certificate, its key and the roots.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct TlsFiles {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) roots: PathBuf,
    /// For a member: the authorities of clients, if they are different.
    pub(crate) client_roots: Option<PathBuf>,
}

impl TlsFiles {
    /// The files of `stem` in a folder created by `kv certs`.
    pub(crate) fn of(folder: &Path, stem: &str) -> Self {
        Self {
            certificate: folder.join(format!("{stem}.pem")),
            key: folder.join(format!("{stem}.key")),
            roots: folder.join(ROOTS),
            client_roots: None,
        }
    }

    /// Loads the identity from the files.
    #[cfg(feature = "tls")]
    pub(crate) fn identity(&self) -> Result<kv_core::transport::tls::Identity, Failure> {
        use kv_core::transport::tls::{Files, Identity};
        let mut files = Files::new(&self.certificate, &self.key, &self.roots);
        files.client_roots.clone_from(&self.client_roots);
        Identity::from_files(files).map_err(|error| {
            let own = [&self.certificate, &self.key, &self.roots];
            let is_there = own.into_iter().chain(&self.client_roots).all(|file| file.exists());
            let message = if is_there { error.to_string() } else { format!("{error}; kv certs creates it") };
            explain(&error, message)
        })
    }
}

/// The failure to load certificates. What a file says may be wrong in itself; but if two files do not match or a
/// certificate is not valid now, that may pass: the files may be about to be replaced.
#[cfg(feature = "tls")]
fn explain(error: &kv_core::transport::tls::TlsError, message: String) -> Failure {
    use kv_core::transport::tls::TlsError;
    match error {
        TlsError::Read { source, .. } => Failure::unreadable(source, message),
        TlsError::Pem { .. }
        | TlsError::EncryptedKey { .. }
        | TlsError::Usage { .. }
        | TlsError::Unusable { .. }
        | TlsError::Nameless { .. } => Failure::usage(message),
        _ => Failure::failed(message),
    }
}

/// Returns one of the files.
type Part = fn(&TlsFiles) -> &PathBuf;

/// Requires all of these settings, or none.
fn all_or_none(
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    roots: Option<PathBuf>,
) -> Result<Option<TlsFiles>, Failure> {
    let missing: Vec<_> = [(&certificate, "certificate"), (&key, "key"), (&roots, "roots")]
        .into_iter()
        .filter_map(|(path, name)| path.is_none().then_some(format!("--tls-{name}")))
        .collect();
    match (certificate, key, roots) {
        (None, None, None) => Ok(None),
        (Some(certificate), Some(key), Some(roots)) if cfg!(feature = "tls") => {
            Ok(Some(TlsFiles { certificate, key, roots, client_roots: None }))
        }
        (Some(_), Some(_), Some(_)) => Err(Failure::usage(
            "TLS is not compiled into this kv: build it with the feature tls (cargo build -p kv-bin --features tls)",
        )),
        _ => Err(Failure::usage(format!(
            "TLS requires a certificate, its key and roots: also give {}, or all of them with --tls-dir",
            missing.join(" and ")
        ))),
    }
}

/// The files of member `id`; none without TLS.
pub(super) fn of_member(
    args: &TlsArgs,
    admission: &AdmissionArgs,
    file: &FileTls,
    id: MemberId,
) -> Result<Option<TlsFiles>, Failure> {
    let in_folder =
        |dir: &Option<PathBuf>| dir.as_deref().map(|dir| TlsFiles::of(dir, &format!("member-{id}")));
    let (typed, written) = (in_folder(&args.tls_dir), in_folder(&file.dir));
    let pick = |flag: &Option<PathBuf>, line: &Option<PathBuf>, part: Part| -> Result<_, Failure> {
        if let Some(path) = flag.as_ref().or_else(|| typed.as_ref().map(part)) {
            return Ok(Some(path.clone()));
        }
        let line = line.clone().map(|path| super::substitute(path, id)).transpose()?;
        Ok(line.or_else(|| written.as_ref().map(part).cloned()))
    };
    let files = all_or_none(
        pick(&args.tls_certificate, &file.certificate, |files| &files.certificate)?,
        pick(&args.tls_key, &file.key, |files| &files.key)?,
        pick(&args.tls_roots, &file.roots, |files| &files.roots)?,
    )?;
    let client_roots = admission.tls_client_roots.clone().or_else(|| file.client_roots.clone());
    match (files, client_roots) {
        (None, Some(_)) => Err(Failure::usage(
            "authorities for clients require TLS: also give the member's own certificate, with --tls-dir",
        )),
        (files, client_roots) => Ok(files.map(|files| TlsFiles { client_roots, ..files })),
    }
}

/// The files of a client; none without TLS. The certificate and the key in the configuration file belong to a member,
/// and are not used.
pub(super) fn of_client(
    args: &TlsArgs,
    name: Option<&str>,
    file: &FileTls,
) -> Result<Option<TlsFiles>, Failure> {
    let own = args.tls_certificate.is_some() && args.tls_key.is_some();
    let folder = args.tls_dir.as_ref().or(file.dir.as_ref()).filter(|_| !own);
    let found = folder.map(|dir| client_in(dir, name)).transpose()?;
    let part =
        |flag: &Option<PathBuf>, part: Part| flag.as_ref().or_else(|| found.as_ref().map(part)).cloned();
    let roots = part(&args.tls_roots, |files| &files.roots)
        .or_else(|| file.roots.clone())
        .or_else(|| args.tls_dir.as_ref().or(file.dir.as_ref()).map(|dir| dir.join(ROOTS)));
    let (certificate, key) =
        (part(&args.tls_certificate, |files| &files.certificate), part(&args.tls_key, |files| &files.key));
    if certificate.is_none() && key.is_none() && (roots.is_some() || file.certificate.is_some()) {
        return Err(Failure::usage(
            "the members have certificates, and this client needs one, too: name it with --tls-certificate, --tls-key and \
             --tls-roots, or the folder that kv certs created with --tls-dir",
        ));
    }
    all_or_none(certificate, key, roots)
}

/// The client's files in a folder created by `kv certs`: those with this name, or the only ones.
fn client_in(folder: &Path, name: Option<&str>) -> Result<TlsFiles, Failure> {
    if let Some(name) = name {
        return Ok(TlsFiles::of(folder, &format!("client-{name}")));
    }
    let shown = folder.display();
    let entries = std::fs::read_dir(folder).map_err(|error| {
        let message =
            format!("cannot read the folder of certificates {shown}: {error}; create it with kv certs");
        Failure::unreadable(&error, message)
    })?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut stems: Vec<_> = names
        .filter_map(|name| {
            name.strip_suffix(".pem").filter(|stem| stem.starts_with("client-")).map(str::to_owned)
        })
        .collect();
    stems.sort();
    match &stems[..] {
        [stem] => Ok(TlsFiles::of(folder, stem)),
        [] => Err(Failure::usage(format!(
            "{shown} contains no certificate of a client: create one with kv certs --renew --clients NAME --out {shown}"
        ))),
        _ => {
            let names: Vec<_> = stems.iter().filter_map(|stem| stem.strip_prefix("client-")).collect();
            Err(Failure::usage(format!(
                "{shown} contains several clients: choose one with --tls-name {}",
                names.join(" or --tls-name ")
            )))
        }
    }
}

#[cfg(all(test, feature = "tls"))]
mod tests {
    use super::*;
    use kv_core::transport::tls::TlsError;
    use std::io::{Error, ErrorKind};
    use std::time::Duration;

    #[test]
    fn a_failure_to_load_certificates_is_one_of_the_configuration_if_it_cannot_pass() {
        let path = PathBuf::from("member-0.pem");
        let read = |kind: ErrorKind| TlsError::Read { path: path.clone(), source: Error::from(kind) };
        let of = |error: TlsError| explain(&error, error.to_string());
        for wrong in [
            read(ErrorKind::NotFound),
            read(ErrorKind::IsADirectory),
            TlsError::Pem { path: path.clone(), wanted: "certificate", reason: "it is empty".to_owned() },
            TlsError::EncryptedKey { path: path.clone() },
            TlsError::Unusable { path: path.clone(), reason: "its kind".to_owned() },
        ] {
            assert_eq!(of(wrong).code(), Failure::usage("").code());
        }
        for passing in [
            read(ErrorKind::PermissionDenied),
            read(ErrorKind::StaleNetworkFileHandle),
            read(ErrorKind::Other),
            TlsError::OtherKey { certificate: path.clone(), key: path.clone() },
            TlsError::Untrusted { certificate: path.clone(), roots: path.clone() },
            TlsError::Dates { path: path.clone(), expired: true, by: Duration::from_secs(1) },
            TlsError::Dates { path: path.clone(), expired: false, by: Duration::from_secs(1) },
        ] {
            assert_eq!(of(passing).code(), Failure::failed("").code());
        }
    }
}
