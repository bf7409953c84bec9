//! Who this process is.

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

/// Who this process is, and whom it believes: a certificate, its key, and roots, from files that may change while it runs.
///
/// Clones share what they hold: a [`refresh`](Self::refresh) of one is one of all, and of every configuration that was made
/// from them.
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
    /// Reads the files. They must fit one another, and be such that others would accept the certificate: valid now, with a
    /// [`Name`], for the use it will be put to, and a member's signed by one of the roots.
    ///
    /// It blocks on the files.
    ///
    /// # Errors
    /// [`TlsError`] names the file and what is wrong with it.
    pub fn from_files(files: Files) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let material = Material::parse(&files, files.read()?, &provider)?;
        Ok(Self { files, current: Current::new(material, provider) })
    }

    /// Who the certificate is for. It never changes.
    #[must_use]
    pub fn name(&self) -> Name {
        self.current.get().name.clone()
    }

    /// The files that it was made from.
    #[must_use]
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// When the certificate ends, as the time since the beginning of 1970 (UTC), or one of those that lead from it to a root, if that is earlier; `None`: never. It changes with a
    /// [`refresh`](Self::refresh).
    #[must_use]
    pub fn expires(&self) -> Option<Duration> {
        self.current.get().expires
    }

    /// For the end that accepts: TLS 1.3 with a certificate from both ends, and no resumption of any kind. Each handshake
    /// uses what is current then. `alpn` is the one application protocol that is spoken; empty: it is not negotiated.
    ///
    /// [`peer_of`](super::peer_of) returns the identity in the other end's certificate; the caller decides whether to accept it.
    #[must_use]
    pub fn server_config(&self, alpn: &[u8]) -> Arc<ServerConfig> {
        let mut config = ServerConfig::builder_with_provider(self.current.provider().clone())
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

    /// For the end that connects: as [`server_config`](Self::server_config). The other end must prove to be a member, of
    /// whichever cluster; host names are not looked at. Where `rustls` wants a name, give it
    /// [`SERVER_NAME`](super::SERVER_NAME).
    #[must_use]
    pub fn client_config(&self, alpn: &[u8]) -> Arc<ClientConfig> {
        let mut config = ClientConfig::builder_with_provider(self.current.provider().clone())
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

    /// Reads the files again, and uses what they hold from the next handshake on if they have changed; returns whether they
    /// have. Connections that are open stay so. Cheap enough to be called every second; it blocks on the files.
    ///
    /// # Errors
    /// [`TlsError`] if they cannot be used as they are: while a new certificate is there and its key not yet, for example. What
    /// was read last goes on being used, and the next call tries again.
    pub fn refresh(&self) -> Result<bool, TlsError> {
        let contents = self.files.read()?;
        let old = self.current.get();
        if contents == old.contents {
            return Ok(false);
        }
        let material = Material::parse(&self.files, contents, self.current.provider())?;
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
