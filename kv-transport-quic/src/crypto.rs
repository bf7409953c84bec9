//! Encryption: TLS, and the secrets of an endpoint.

use kv_transport::Peer;
use kv_transport::tls::{Identity, peer_of, rustls};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ConnectionId, ConnectionIdGenerator, EndpointConfig};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::version::TLS13;
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// The only application protocol.
const ALPN: &[u8] = b"kv";
const CONNECTION_ID_BYTES: usize = 8;

/// The identity of this end, and whom it trusts. Without an identity, it trusts everybody.
#[derive(Clone, Debug)]
pub(crate) struct Trust(pub(crate) Option<Identity>);

impl Trust {
    pub(crate) fn server(&self) -> io::Result<QuicServerConfig> {
        let config = match &self.0 {
            None => Arc::new(ephemeral_server().map_err(io::Error::other)?),
            Some(identity) => identity.server_config(ALPN),
        };
        QuicServerConfig::try_from(config).map_err(io::Error::other)
    }

    pub(crate) fn client(&self) -> io::Result<QuicClientConfig> {
        let config = match &self.0 {
            None => Arc::new(trusting_client().map_err(io::Error::other)?),
            Some(identity) => identity.client_config(ALPN),
        };
        QuicClientConfig::try_from(config).map_err(io::Error::other)
    }

    /// The identity of the other end of `connection`.
    pub(crate) fn peer(&self, connection: &quinn::Connection) -> io::Result<Peer> {
        if self.0.is_none() {
            return Ok(Peer::Unauthenticated);
        }
        let shown = connection.peer_identity().and_then(|shown| shown.downcast().ok());
        let shown: Option<Box<Vec<CertificateDer<'static>>>> = shown;
        peer_of(shown.as_deref().map(Vec::as_slice))
            .map_err(|error| io::Error::new(io::ErrorKind::PermissionDenied, error))
    }

    /// The settings of an endpoint. A restarted process notifies the peers of its predecessor that their connections
    /// are gone. It authenticates the notification with a secret that both processes have, because the secret is
    /// derived from the private key.
    pub(crate) fn endpoint(&self) -> EndpointConfig {
        let secret = match &self.0 {
            // Without authentication, anyone who sees the traffic could forge the end of a connection anyway.
            None => Vec::new(),
            // The file is missing only while it is being replaced.
            Some(identity) => std::fs::read(&identity.files().key).unwrap_or_else(|_| random::<32>().into()),
        };
        let key =
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), b"kv: the end of a QUIC connection");
        let mut config = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, key.as_ref())));
        config.cid_generator(|| Box::new(RandomIds));
        // A restart resets all earlier connections at the same time. An answer is no larger than the packet that it
        // answers.
        config.min_reset_interval(Duration::from_millis(1));
        config
    }
}

/// Connection ids without a pattern. The default ids contain a check, so that a process would not recognize the ids of
/// its predecessor.
#[derive(Debug)]
struct RandomIds;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&random::<CONNECTION_ID_BYTES>())
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

fn random<const BYTES: usize>() -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    SystemRandom::new().fill(&mut bytes).expect("the system has randomness");
    bytes
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Creates a certificate without an identity for this listener.
fn ephemeral_server() -> Result<ServerConfig, Box<dyn std::error::Error + Send + Sync>> {
    let made = rcgen::generate_simple_self_signed(Vec::new())?;
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der())?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)?;
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// Trusts every certificate.
fn trusting_client() -> Result<ClientConfig, rustls::Error> {
    let provider = provider();
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting(provider)))
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    config.enable_sni = false;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

#[derive(Debug)]
struct Trusting(Arc<CryptoProvider>);

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
