//! The identity of this process.

use super::files::Material;
use super::verify::Current;
use super::{Files, Name, TlsError};
use rustls::client::Resumption;
use rustls::server::NoServerSessionStorage;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::Duration;

/// The identity of this process, and whom it trusts: a certificate, its key, and roots, from files that may change
/// while it runs.
///
/// Clones share their content: [`refresh`](Self::refresh) affects all of them, and every configuration made from them.
#[derive(Clone)]
pub struct Identity {
    files: Files,
    current: Arc<Current>,
}

impl Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("name", &self.name().to_string())
            .field("files", &self.files)
            .finish()
    }
}

impl Identity {
    /// Reads the files. They must match each other, and others must be able to accept the certificate: it must be valid
    /// now, contain a [`Name`], and be for its intended use. The certificate of a member must be signed by one of the
    /// roots.
    ///
    /// Blocks on the files.
    ///
    /// # Errors
    /// [`TlsError`] names the file and what is wrong with it.
    pub fn from_files(files: Files) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let material = Material::parse(&files, files.read()?, &provider)?;
        Ok(Self { files, current: Current::new(material, provider) })
    }

    /// The name in the certificate. It never changes.
    #[must_use]
    pub fn name(&self) -> Name {
        self.current.get().name.clone()
    }

    /// The files from which the identity was read.
    #[must_use]
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// When the certificate expires, or one of its intermediate certificates if that is earlier, as the time since the
    /// beginning of 1970 (UTC); `None` if it never expires. A [`refresh`](Self::refresh) may change this.
    #[must_use]
    pub fn expires(&self) -> Option<Duration> {
        self.current.get().expires
    }

    /// The configuration for the accepting end: TLS 1.3, a certificate from both ends, and no resumption of any kind.
    /// Each handshake uses the current files. `alpn` is the only application protocol; if it is empty, none is
    /// negotiated.
    ///
    /// [`peer_of`](super::peer_of) returns the identity in the other end's certificate. The caller decides whether to
    /// accept it.
    #[must_use]
    pub fn server_config(&self, alpn: &[u8]) -> Arc<ServerConfig> {
        let mut config = ServerConfig::builder_with_provider(self.current.provider.clone())
            .with_protocol_versions(&[&TLS13])
            .expect("ring has what TLS 1.3 needs")
            .with_client_cert_verifier(self.current.clone())
            .with_cert_resolver(self.current.clone());
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        config.alpn_protocols = protocols(alpn);
        Arc::new(config)
    }

    /// The configuration for the connecting end, like [`server_config`](Self::server_config). The other end must prove
    /// that it is a member, of any cluster. Host names are not checked: if `rustls` requires a name, use
    /// [`SERVER_NAME`](super::SERVER_NAME).
    #[must_use]
    pub fn client_config(&self, alpn: &[u8]) -> Arc<ClientConfig> {
        let mut config = ClientConfig::builder_with_provider(self.current.provider.clone())
            .with_protocol_versions(&[&TLS13])
            .expect("ring has what TLS 1.3 needs")
            .dangerous()
            .with_custom_certificate_verifier(self.current.clone())
            .with_client_cert_resolver(self.current.clone());
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        config.enable_sni = false;
        config.alpn_protocols = protocols(alpn);
        Arc::new(config)
    }

    /// Reads the files again, and returns whether they have changed. If so, later handshakes use the new content. Open
    /// connections are not affected. This is cheap enough to be called every second. Blocks on the files.
    ///
    /// # Errors
    /// [`TlsError`] if the files cannot be used, for example because a new certificate has been written, but its key
    /// has not been written yet. The old content stays in use, and the next call tries again.
    pub fn refresh(&self) -> Result<bool, TlsError> {
        let contents = self.files.read()?;
        let old = self.current.get();
        if contents == old.contents {
            return Ok(false);
        }
        let material = Material::parse(&self.files, contents, &self.current.provider)?;
        if material.name != old.name {
            let (expected, found) = (old.name.to_string(), material.name.to_string());
            return Err(TlsError::Renamed { path: self.files.certificate.clone(), expected, found });
        }
        self.current.set(material);
        Ok(true)
    }
}

fn protocols(alpn: &[u8]) -> Vec<Vec<u8>> {
    if alpn.is_empty() { Vec::new() } else { vec![alpn.to_vec()] }
}
