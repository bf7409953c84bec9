//! QUIC spoken by hand, and a network between two ends that can be made to misbehave.

#![allow(dead_code, reason = "each test file uses a part of it")]

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// Believes everything.
#[derive(Debug)]
struct Gullible;

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

pub(crate) fn endpoint() -> Endpoint {
    Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap()
}

/// A connection without a stream.
pub(crate) async fn dial(endpoint: &Endpoint, address: &str) -> Result<Connection, ConnectionError> {
    dial_as(endpoint, address, b"kv").await
}

pub(crate) async fn dial_as(
    endpoint: &Endpoint,
    address: &str,
    protocol: &[u8],
) -> Result<Connection, ConnectionError> {
    endpoint.connect_with(config(protocol), address.parse().unwrap(), "kv").unwrap().await
}

fn config(protocol: &[u8]) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible))
        .with_no_client_auth();
    tls.alpn_protocols = vec![protocol.to_vec()];
    ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()))
}

/// The first datagram of a caller.
pub(crate) async fn first_datagram() -> Vec<u8> {
    first_datagrams(1).await.remove(0)
}

/// The first datagrams of so many.
pub(crate) async fn first_datagrams(count: usize) -> Vec<Vec<u8>> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let endpoint = endpoint();
    let address = socket.local_addr().unwrap();
    let mut datagrams = Vec::new();
    for _ in 0..count {
        let _connecting = endpoint.connect_with(config(b"kv"), address, "kv").unwrap();
        let mut datagram = vec![0; 2000];
        let length = socket.recv(&mut datagram).await.unwrap();
        datagram.truncate(length);
        datagrams.push(datagram);
    }
    datagrams
}

/// Between a caller and a listener. The caller takes its address for the listener's.
#[derive(Debug)]
pub(crate) struct Between {
    pub(crate) address: String,
    inward: Arc<UdpSocket>,
    way: Arc<Mutex<Way>>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Way {
    caller: Option<SocketAddr>,
    listener: SocketAddr,
    outward: Arc<UdpSocket>,
    is_cut: bool,
}

impl Between {
    pub(crate) async fn new(listener: &str) -> Self {
        let inward = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let outward = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let listener = listener.parse().unwrap();
        let way = Way { caller: None, listener, outward: outward.clone(), is_cut: false };
        let way = Arc::new(Mutex::new(way));
        let address = inward.local_addr().unwrap().to_string();
        let there = tokio::spawn(there(inward.clone(), way.clone()));
        let back = tokio::spawn(back(outward, inward.clone(), way.clone()));
        Self { address, inward, way, tasks: vec![there, back] }
    }

    /// From now on the caller seems to be at another address.
    pub(crate) async fn rebind(&mut self) {
        let outward = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        self.way.lock().unwrap().outward = outward.clone();
        self.tasks.push(tokio::spawn(back(outward, self.inward.clone(), self.way.clone())));
    }

    /// From now on another one listens.
    pub(crate) fn lead_to(&self, listener: &str) {
        self.way.lock().unwrap().listener = listener.parse().unwrap();
    }

    /// From now on nothing passes.
    pub(crate) fn cut(&self) {
        self.way.lock().unwrap().is_cut = true;
    }

    /// Where the caller is.
    pub(crate) fn caller(&self) -> SocketAddr {
        self.way.lock().unwrap().caller.unwrap()
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn there(inward: Arc<UdpSocket>, way: Arc<Mutex<Way>>) {
    let mut datagram = vec![0; 70_000];
    loop {
        // An error reports that an earlier datagram was sent to a closed port.
        let Ok((length, from)) = inward.recv_from(&mut datagram).await else { continue };
        let (outward, listener, is_cut) = {
            let mut way = way.lock().unwrap();
            way.caller = Some(from);
            (way.outward.clone(), way.listener, way.is_cut)
        };
        if !is_cut {
            let _ = outward.send_to(&datagram[..length], listener).await;
        }
    }
}

async fn back(outward: Arc<UdpSocket>, inward: Arc<UdpSocket>, way: Arc<Mutex<Way>>) {
    let mut datagram = vec![0; 70_000];
    loop {
        let Ok((length, from)) = outward.recv_from(&mut datagram).await else { continue };
        let to = {
            let way = way.lock().unwrap();
            // What an earlier listener has to send is lost, as if it had died.
            way.caller.filter(|_| !way.is_cut && from == way.listener)
        };
        if let Some(to) = to {
            let _ = inward.send_to(&datagram[..length], to).await;
        }
    }
}
