//! How the other end's certificate is verified in a handshake, and which certificate is sent to it.

use super::files::Material;
use super::{Name, TlsError, name_of};
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use std::fmt::{self, Debug};
use std::sync::{Arc, PoisonError, RwLock};

/// The current material, read at each handshake.
pub(super) struct Current {
    material: RwLock<Arc<Material>>,
    pub(super) provider: Arc<CryptoProvider>,
}

impl Current {
    pub(super) fn new(material: Material, provider: Arc<CryptoProvider>) -> Arc<Self> {
        Arc::new(Self { material: RwLock::new(Arc::new(material)), provider })
    }

    pub(super) fn get(&self) -> Arc<Material> {
        self.material.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set(&self, material: Material) {
        *self.material.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(material);
    }

    fn algorithms(&self) -> &WebPkiSupportedAlgorithms {
        &self.provider.signature_verification_algorithms
    }
}

impl Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Current").field("name", &self.get().name).finish_non_exhaustive()
    }
}

fn refused(reason: TlsError) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(reason))))
}

/// If the issuer has the name of a root but another key, the library reports a bad signature. This turns the error into
/// one that the other end understands.
fn unsigned(error: Error) -> Error {
    match error {
        Error::InvalidCertificate(CertificateError::BadSignature) => CertificateError::UnknownIssuer.into(),
        other => other,
    }
}

/// How signatures are verified: the same at both ends.
macro_rules! verifies_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls12_signature(message, cert, dss, self.algorithms())
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, cert, dss, self.algorithms())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.algorithms().supported_schemes()
        }
    };
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.get().own.clone())
    }
}

impl ResolvesClientCert for Current {
    fn resolve(&self, _roots: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.get().own.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// The verifier of the accepting end: members and clients are verified by the roots for their kind. Their permissions
/// are decided later.
impl ClientCertVerifier for Current {
    /// Sends no hints, because the roots may change, and a caller has only one certificate.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let (current, name) = (self.get(), name_of(end_entity));
        // An authority for clients must not be able to sign members, and an authority for members must not be able to
        // sign clients.
        let is_client = matches!(name, Ok(Name::Client { .. }));
        let roots = if is_client { &current.client_roots } else { &current.roots };
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), self.provider.clone())
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        let verified = verifier.verify_client_cert(end_entity, intermediates, now).map_err(unsigned)?;
        name.map_err(refused)?;
        Ok(verified)
    }

    verifies_signatures!();
}

/// The verifier of the connecting end: only members listen.
impl ServerCertVerifier for Current {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let roots = self.get().roots.clone();
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.algorithms().all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &roots, intermediates, now, algorithms)
            .map_err(unsigned)?;
        match name_of(end_entity).map_err(refused)? {
            Name::Member { .. } => Ok(ServerCertVerified::assertion()),
            client @ Name::Client { .. } => Err(refused(TlsError::NotAMember(client.to_string()))),
        }
    }

    verifies_signatures!();
}
