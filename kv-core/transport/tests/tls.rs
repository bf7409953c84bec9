//! Identities: the contents of their files, and which peers they accept.

#![cfg(feature = "certs")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use kv_transport::Peer;
use kv_transport::tls::rustls::pki_types::ServerName;
use kv_transport::tls::rustls::{self, ClientConnection, ServerConnection};
use kv_transport::tls::{
    Authority, Files, Identity, Name, SERVER_NAME, TlsError, Validity, explain, peer_of,
};
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

const DAY: Duration = Duration::from_secs(86_400);

fn member(id: u8) -> Name {
    Name::Member { cluster: "demo".into(), id }
}

fn client(name: &str) -> Name {
    Name::Client { cluster: "demo".into(), name: name.into() }
}

fn authority() -> Authority {
    Authority::new("demo", Validity::days(2)).unwrap()
}

fn expired() -> Validity {
    Validity::between(SystemTime::now() - 10 * DAY, SystemTime::now() - 3 * DAY)
}

fn files(folder: &Path) -> Files {
    Files::new(folder.join("own.pem"), folder.join("own.key"), folder.join("roots.pem"))
}

/// Writes what `name` gets from `issuer`, and `roots` as its roots.
fn write(folder: &Path, issuer: &Authority, name: &Name, validity: Validity, roots: &[&Authority]) {
    let issued = issuer.issue(name, validity).unwrap();
    let files = files(folder);
    fs::write(&files.certificate, issued.certificate).unwrap();
    fs::write(&files.key, issued.key).unwrap();
    fs::write(&files.roots, roots.iter().map(|root| root.certificate()).collect::<String>()).unwrap();
}

fn load(folder: &Path) -> Result<Identity, TlsError> {
    Identity::from_files(files(folder))
}

/// The identity of `name`, signed by `issuer`, which is also the root.
fn identity(folder: &TempDir, issuer: &Authority, name: &Name) -> Identity {
    write(folder.path(), issuer, name, Validity::days(1), &[issuer]);
    load(folder.path()).unwrap()
}

#[test]
fn an_identity_reports_when_its_certificate_expires() {
    let (folder, own, other) = (tempfile::tempdir().unwrap(), authority(), authority());
    let until = SystemTime::now() + 5 * DAY;
    for (name, root) in [(member(0), &own), (client("app"), &own), (client("app"), &other)] {
        let validity = Validity::between(SystemTime::now() - DAY, until);
        write(folder.path(), &own, &name, validity, &[root]);
        let reported = SystemTime::UNIX_EPOCH + load(folder.path()).unwrap().expires().expect("it ends");
        let apart = reported.max(until).duration_since(reported.min(until)).unwrap();
        assert!(apart <= Duration::from_secs(1), "{name}: {reported:?}, not {until:?}");
    }
    // It is reported again for new files.
    let identity = load(folder.path()).unwrap();
    write(folder.path(), &own, &client("app"), Validity::days(300), &[&own]);
    assert!(identity.refresh().unwrap());
    assert!(SystemTime::UNIX_EPOCH + identity.expires().unwrap() > SystemTime::now() + 299 * DAY);
}

/// Who is seen by the accepting end, and by the connecting one; or why an end refuses.
fn handshake(server: &Identity, caller: &Identity) -> Result<(Peer, Peer), (&'static str, rustls::Error)> {
    let name = ServerName::try_from(SERVER_NAME).unwrap();
    let mut near = ClientConnection::new(caller.client_config(b"kv"), name).unwrap();
    let mut far = ServerConnection::new(server.server_config(b"kv")).unwrap();
    while near.is_handshaking() || far.is_handshaking() {
        let mut bytes = Vec::new();
        while near.wants_write() {
            near.write_tls(&mut bytes).unwrap();
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            far.read_tls(&mut rest).unwrap();
            far.process_new_packets().map_err(|error| ("server", error))?;
        }
        let mut bytes = Vec::new();
        while far.wants_write() {
            far.write_tls(&mut bytes).unwrap();
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            near.read_tls(&mut rest).unwrap();
            near.process_new_packets().map_err(|error| ("client", error))?;
        }
    }
    assert!(!near.is_early_data_accepted());
    assert_eq!(near.tls13_tickets_received(), 0);
    assert_eq!(near.handshake_kind(), Some(rustls::HandshakeKind::Full));
    Ok((peer_of(far.peer_certificates()).unwrap(), peer_of(near.peer_certificates()).unwrap()))
}

/// Why `end` refuses.
fn refusal(server: &Identity, caller: &Identity, end: &str) -> String {
    let (refused_by, error) = handshake(server, caller).unwrap_err();
    assert_eq!(refused_by, end, "{error}");
    explain(&error)
}

#[test]
fn members_and_clients_learn_the_identity_of_the_other_end() {
    let authority = authority();
    let (a, b, c) = (TempDir::new().unwrap(), TempDir::new().unwrap(), TempDir::new().unwrap());
    let first = identity(&a, &authority, &member(0));
    let second = identity(&b, &authority, &member(1));
    let app = identity(&c, &authority, &client("app"));
    assert_eq!(first.name(), member(0));
    assert_eq!(handshake(&first, &second).unwrap(), (member(1).into(), member(0).into()));
    assert_eq!(handshake(&second, &app).unwrap(), (client("app").into(), member(1).into()));
    // Again: nothing is resumed, which `handshake` asserts.
    assert_eq!(handshake(&second, &app).unwrap(), (client("app").into(), member(1).into()));
}

/// The authority of clients cannot make a member, at neither end of a connection, and that of members makes no clients.
#[test]
fn an_authority_of_clients_makes_no_members() {
    let (of_members, of_clients) = (authority(), authority());
    let folders: [TempDir; 4] = std::array::from_fn(|_| TempDir::new().unwrap());
    let [here, there, app, forged] = folders.each_ref().map(TempDir::path);
    let roots = here.join("client-roots.pem");
    fs::write(&roots, of_clients.certificate()).unwrap();
    let with_roots = |folder: &Path| Identity::from_files(files(folder).client_roots(&roots)).unwrap();
    write(here, &of_members, &member(0), Validity::days(1), &[&of_members]);
    write(there, &of_members, &member(1), Validity::days(1), &[&of_members]);
    write(app, &of_clients, &client("app"), Validity::days(1), &[&of_members]);
    let (first, second) = (with_roots(here), with_roots(there));
    assert_eq!(handshake(&first, &second).unwrap(), (member(1).into(), member(0).into()));
    assert_eq!(handshake(&first, &load(app).unwrap()).unwrap(), (client("app").into(), member(0).into()));
    // A member by the authority of clients: it believes in itself, and nobody else does.
    write(forged, &of_clients, &member(1), Validity::days(1), &[&of_clients, &of_members]);
    let impostor = load(forged).unwrap();
    assert!(refusal(&first, &impostor, "server").contains("not signed by one of the roots here"));
    assert!(refusal(&impostor, &second, "client").contains("not signed by one of the roots here"));
    assert!(
        refusal(&impostor, &load(app).unwrap(), "client").contains("not signed by one of the roots here")
    );
    // A client by the authority of members.
    write(forged, &of_members, &client("app"), Validity::days(1), &[&of_members]);
    assert!(
        refusal(&first, &load(forged).unwrap(), "server").contains("not signed by one of the roots here")
    );
    // Until it is one of theirs, too.
    fs::write(&roots, of_clients.certificate().to_owned() + of_members.certificate()).unwrap();
    assert!(first.refresh().unwrap());
    assert_eq!(handshake(&first, &load(forged).unwrap()).unwrap(), (client("app").into(), member(0).into()));
    // An empty file shuts nobody out: the last valid contents stay in use.
    fs::write(&roots, "").unwrap();
    let error = first.refresh().unwrap_err().to_string();
    assert!(error.contains("client-roots.pem"), "{error}");
    assert_eq!(handshake(&first, &load(app).unwrap()).unwrap(), (client("app").into(), member(0).into()));
}

#[test]
fn nobody_may_listen_with_a_clients_certificate() {
    let authority = authority();
    let (a, b) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let app = identity(&a, &authority, &client("app"));
    let first = identity(&b, &authority, &member(0));
    assert!(refusal(&app, &first, "client").contains("serverAuth and clientAuth for a member"));
}

#[test]
fn a_certificate_of_another_authority_is_refused_at_either_end() {
    // One has the same name as ours and another key; the other another name.
    for theirs in [authority(), Authority::new("other", Validity::days(1)).unwrap()] {
        let ours = authority();
        let (a, b, c) = (TempDir::new().unwrap(), TempDir::new().unwrap(), TempDir::new().unwrap());
        let here = identity(&a, &ours, &member(0));
        let stranger = identity(&b, &theirs, &member(1));
        write(c.path(), &theirs, &client("app"), Validity::days(1), &[&ours]);
        let trusting = load(c.path()).unwrap();
        assert!(refusal(&here, &stranger, "client").contains("not signed by one of the roots"));
        assert!(refusal(&here, &trusting, "server").contains("not signed by one of the roots"));
    }
}

#[test]
fn a_certificate_that_expires_while_its_owner_runs_is_refused() {
    let authority = authority();
    let (a, b) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let here = identity(&a, &authority, &member(0));
    let soon = Validity::between(SystemTime::now() - DAY, SystemTime::now() + Duration::from_secs(2));
    write(b.path(), &authority, &member(1), soon, &[&authority]);
    let there = load(b.path()).unwrap();
    // Its dates are in whole seconds.
    while SystemTime::now() < soon.until + Duration::from_secs(1) {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(refusal(&here, &there, "server").contains("its certificate has expired"));
    assert!(refusal(&there, &here, "client").contains("its certificate has expired"));
}

#[test]
fn an_expired_certificate_or_one_that_is_not_valid_yet_is_reported_at_the_start() {
    let (authority, folder) = (authority(), TempDir::new().unwrap());
    write(folder.path(), &authority, &member(0), expired(), &[&authority]);
    let error = load(folder.path()).unwrap_err();
    assert!(matches!(error, TlsError::Dates { expired: true, .. }), "{error}");
    assert!(error.to_string().ends_with("own.pem expired 3 days ago: renew it"), "{error}");
    let later = Validity::between(SystemTime::now() + 2 * DAY + DAY / 2, SystemTime::now() + 9 * DAY);
    write(folder.path(), &authority, &client("app"), later, &[&authority]);
    let error = load(folder.path()).unwrap_err();
    assert!(error.to_string().contains("is valid only in 2 days: check the clock"), "{error}");
}

#[test]
fn an_unacceptable_member_certificate_is_reported_at_the_start() {
    let (ours, theirs, folder) = (authority(), authority(), TempDir::new().unwrap());
    write(folder.path(), &theirs, &member(0), Validity::days(1), &[&ours]);
    assert!(matches!(load(folder.path()), Err(TlsError::Untrusted { .. })));
    write(folder.path(), &theirs, &client("app"), Validity::days(1), &[&ours]);
    assert_eq!(load(folder.path()).unwrap().name(), client("app"));
}

#[test]
fn a_key_of_another_certificate_is_reported() {
    let (authority, folder) = (authority(), TempDir::new().unwrap());
    write(folder.path(), &authority, &member(0), Validity::days(1), &[&authority]);
    fs::write(files(folder.path()).key, authority.key()).unwrap();
    let error = load(folder.path()).unwrap_err();
    assert!(matches!(error, TlsError::OtherKey { .. }), "{error}");
    assert!(error.to_string().contains("own.key does not belong to the certificate in"), "{error}");
}

#[test]
fn a_missing_or_wrong_file_is_reported() {
    let (authority, folder) = (authority(), TempDir::new().unwrap());
    let files = files(folder.path());
    for path in [&files.certificate, &files.key, &files.roots] {
        let name = path.file_name().unwrap().to_str().unwrap();
        let refused = |start: &str| {
            let error = load(folder.path()).unwrap_err().to_string();
            assert!(
                error.contains(start) && error.contains(name) && !error.contains('\n'),
                "{name}: {error}"
            );
        };
        write(folder.path(), &authority, &member(0), Validity::days(1), &[&authority]);
        fs::write(path, "").unwrap();
        refused(" in PEM: there is no BEGIN");
        fs::write(path, "hello\n").unwrap();
        refused(" in PEM: there is no BEGIN");
        fs::write(path, "-----BEGIN CERTIFICATE-----\n????\n-----END CERTIFICATE-----\n").unwrap();
        refused(name);
        fs::write(path, [0xff; 100]).unwrap();
        refused(name);
        fs::write(path, vec![b'x'; 2 << 20]).unwrap();
        refused("far too large");
        fs::remove_file(path).unwrap();
        refused("cannot read ");
        fs::create_dir(path).unwrap();
        refused("cannot read ");
        fs::remove_dir(path).unwrap();
    }
}

#[test]
fn an_authoritys_own_certificate_is_no_identity() {
    let (authority, folder) = (authority(), TempDir::new().unwrap());
    let files = files(folder.path());
    fs::write(&files.certificate, authority.certificate()).unwrap();
    fs::write(&files.key, authority.key()).unwrap();
    fs::write(&files.roots, authority.certificate()).unwrap();
    let error = load(folder.path()).unwrap_err().to_string();
    assert!(error.contains("contains no URI of the form kv://CLUSTER/member/ID"), "{error}");
}

#[test]
fn new_files_are_used_from_the_next_handshake_on() {
    let (old, new) = (authority(), Authority::new("next", Validity::days(2)).unwrap());
    let (a, b) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let here = identity(&a, &old, &member(0));
    let there = identity(&b, &old, &member(1));
    let (accepting, clone) = (here.server_config(b"kv"), here.clone());
    assert!(!here.refresh().unwrap());

    // Each authority is trusted everywhere before it signs.
    write(a.path(), &old, &member(0), Validity::days(1), &[&old, &new]);
    assert!(here.refresh().unwrap() && !clone.refresh().unwrap());
    write(b.path(), &new, &member(1), Validity::days(1), &[&old, &new]);
    assert!(there.refresh().unwrap());
    handshake(&here, &there).unwrap();
    write(a.path(), &new, &member(0), Validity::days(1), &[&new]);
    assert!(here.refresh().unwrap());
    handshake(&here, &there).unwrap();
    handshake(&there, &here).unwrap();

    // A peer with a certificate of the old authority is refused, also by configurations that were made before.
    let c = TempDir::new().unwrap();
    write(c.path(), &old, &member(1), Validity::days(1), &[&old, &new]);
    let late = load(c.path()).unwrap();
    assert!(refusal(&here, &late, "server").contains("not signed by one of the roots here"));
    assert_eq!(accepting.alpn_protocols, [b"kv"]);
}

#[test]
fn new_files_that_cannot_be_used_leave_the_old_ones_in_use() {
    let authority = authority();
    let (a, b) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let here = identity(&a, &authority, &member(0));
    let there = identity(&b, &authority, &member(1));
    let files = files(a.path());
    let next = authority.issue(&member(0), Validity::days(1)).unwrap();
    fs::write(&files.certificate, &next.certificate).unwrap();
    for _ in 0..2 {
        assert!(matches!(here.refresh(), Err(TlsError::OtherKey { .. })));
        handshake(&here, &there).unwrap();
    }
    fs::write(&files.key, &next.key).unwrap();
    assert!(here.refresh().unwrap());
    handshake(&here, &there).unwrap();

    write(a.path(), &authority, &member(2), Validity::days(1), &[&authority]);
    let error = here.refresh().unwrap_err();
    assert!(error.to_string().contains("kv://demo/member/2, this is kv://demo/member/0"), "{error}");
    assert_eq!(handshake(&here, &there).unwrap().1, member(0).into());
    fs::remove_file(&files.roots).unwrap();
    assert!(matches!(here.refresh(), Err(TlsError::Read { .. })));
    handshake(&here, &there).unwrap();
}

#[test]
fn a_peer_without_a_certificate_is_refused() {
    let (authority, a) = (authority(), TempDir::new().unwrap());
    let here = identity(&a, &authority, &member(0));
    let mut roots = rustls::RootCertStore::empty();
    let pem = authority.certificate().as_bytes();
    let root =
        <rustls::pki_types::CertificateDer<'_> as rustls::pki_types::pem::PemObject>::from_pem_slice(pem);
    roots.add(root.unwrap()).unwrap();
    let provider = rustls::crypto::ring::default_provider().into();
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(std::sync::Arc::new(Anybody))
        .with_no_client_auth();
    let mut near = ClientConnection::new(config.into(), ServerName::try_from("kv").unwrap()).unwrap();
    let mut far = ServerConnection::new(here.server_config(b"")).unwrap();
    let refused = loop {
        let mut bytes = Vec::new();
        near.write_tls(&mut bytes).unwrap();
        far.read_tls(&mut &bytes[..]).unwrap();
        if let Err(error) = far.process_new_packets() {
            break error;
        }
        let mut bytes = Vec::new();
        far.write_tls(&mut bytes).unwrap();
        near.read_tls(&mut &bytes[..]).unwrap();
        near.process_new_packets().unwrap();
    };
    assert_eq!(explain(&refused), "it sent no certificate");
    assert!(matches!(peer_of(None), Err(TlsError::NoCertificate)));
    assert!(matches!(peer_of(Some(&[])), Err(TlsError::NoCertificate)));
    assert!(matches!(peer_of(Some(&[vec![1, 2, 3].into()])), Err(TlsError::Malformed { .. })));
}

/// Accepts whatever a server shows.
#[derive(Debug)]
struct Anybody;

impl rustls::client::danger::ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("not TLS 1.3".into()))
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
