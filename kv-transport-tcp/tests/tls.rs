//! TCP with TLS does what every transport has to do, knows both ends, and reports why it refuses one.

#![cfg(feature = "tls")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use kv_transport::conformance::{Held, Subject};
use kv_transport::tls::{Authority, Files, Identity, Name, Validity};
use kv_transport::{Connection, Lane, Listener, Peer, Transport, TransportError};
use kv_transport_tcp::Tcp;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const LONG: Duration = Duration::from_secs(30);

fn member(id: u8) -> Name {
    Name::Member { cluster: "demo".into(), id }
}

fn client() -> Name {
    Name::Client { cluster: "demo".into(), name: "app".into() }
}

/// An authority, and a folder for all that it signs.
struct Pki {
    authority: Authority,
    folder: TempDir,
}

impl Pki {
    fn new() -> Self {
        let (authority, folder) =
            (Authority::new("demo", Validity::days(1)).unwrap(), TempDir::new().unwrap());
        authority.save(&folder).unwrap();
        Self { authority, folder }
    }

    fn issue(&self, name: &Name, validity: Validity) -> Identity {
        let files = Files::of(name, &self.folder);
        self.authority.issue(name, validity).unwrap().save(&files).unwrap();
        Identity::from_files(files).unwrap()
    }

    fn identity(&self, name: &Name) -> Identity {
        self.issue(name, Validity::days(1))
    }

    fn tcp(&self, name: &Name) -> Tcp {
        Tcp::with_tls(self.identity(name))
    }
}

fn subject() -> Subject {
    let pki = Pki::new();
    let patient = pki.tcp(&member(0)).preface_timeout(Duration::from_secs(3600));
    Subject::new(patient, "127.0.0.1:0").client(pki.tcp(&client())).garbage(open_garbage)
}

kv_transport::conformance!(subject());

/// Silent, half a record, an HTTP request, a plain peer, or TLS that goes wrong, by turns.
async fn open_garbage(address: String) -> Held {
    static TURN: AtomicUsize = AtomicUsize::new(0);
    let openings: [&[u8]; 5] = [
        b"",
        b"\x16\x03\x01",
        b"GET / HTTP/1.1\r\n\r\n",
        b"kvt\n\x01\x01\x00\x00",
        b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00",
    ];
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(openings[TURN.fetch_add(1, Ordering::Relaxed) % 5]).await.unwrap();
    Box::new(socket)
}

async fn listen(tcp: &Tcp) -> (Box<dyn Listener>, String) {
    let listener = tcp.bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_address();
    (listener, address)
}

async fn accept(listener: &mut Box<dyn Listener>) -> Connection {
    timeout(LONG, listener.accept()).await.unwrap().unwrap()
}

/// Why `tcp` is refused, as its error shows.
async fn refused(tcp: &Tcp, address: &str) -> String {
    let error = timeout(LONG, tcp.connect(address, Lane::Log)).await.unwrap().unwrap_err();
    assert!(matches!(error, TransportError::Handshake { .. }), "{error:?}");
    let text = error.to_string();
    assert!(
        text.starts_with(&format!("no secure connection with {address}: ")) && !text.contains('\n'),
        "{text}"
    );
    text
}

#[tokio::test]
async fn both_ends_know_each_other() {
    let pki = Pki::new();
    let (mut listener, address) = listen(&pki.tcp(&member(0))).await;
    for (name, peer) in [
        (member(1), Peer::Member { cluster: "demo".into(), id: 1 }),
        (client(), Peer::Client { cluster: "demo".into(), name: "app".into() }),
    ] {
        let near = pki.tcp(&name).connect(&address, Lane::Log).await.unwrap();
        assert_eq!(near.peer, Peer::Member { cluster: "demo".into(), id: 0 });
        assert_eq!(accept(&mut listener).await.peer, peer);
    }
}

#[tokio::test]
async fn a_refused_peer_receives_the_reason_and_delays_nobody() {
    let (ours, theirs) = (Pki::new(), Pki::new());
    let soon = Validity::between(SystemTime::now() - LONG, SystemTime::now() + Duration::from_secs(2));
    let short = Tcp::with_tls(ours.issue(&member(2), soon));
    let (mut listener, address) = listen(&ours.tcp(&member(0))).await;

    let error = refused(&theirs.tcp(&member(1)), &address).await;
    assert!(error.ends_with("its certificate is not signed by one of the roots here"), "{error}");
    // A peer that trusts this member, but is not trusted by it.
    std::fs::copy(ours.folder.path().join("ca.pem"), theirs.folder.path().join("ca.pem")).unwrap();
    let error = refused(&theirs.tcp(&client()), &address).await;
    assert!(error.contains("it reports that the certificate of this end is "), "{error}");
    while SystemTime::now() < soon.until + Duration::from_secs(1) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let error = refused(&short, &address).await;
    assert!(error.contains("the certificate of this end has expired"), "{error}");

    ours.tcp(&member(1)).connect(&address, Lane::Bulk).await.unwrap();
    assert_eq!(accept(&mut listener).await.lane, Lane::Bulk);
}

#[tokio::test]
async fn nobody_may_listen_with_a_clients_certificate() {
    let pki = Pki::new();
    let (_listener, address) = listen(&pki.tcp(&client())).await;
    let error = refused(&pki.tcp(&member(1)), &address).await;
    assert!(error.contains("serverAuth and clientAuth for a member"), "{error}");
}

#[tokio::test]
async fn where_only_one_end_speaks_tls_both_report_it() {
    let pki = Pki::new();
    let (_plain, address) = listen(&Tcp::new()).await;
    let error = refused(&pki.tcp(&member(0)), &address).await;
    assert!(error.contains("it does not speak TLS"), "{error}");

    let (_secure, address) = listen(&pki.tcp(&member(0))).await;
    let mut near = Tcp::new().connect(&address, Lane::Log).await.unwrap();
    near.writer.write_all(&[7; 5000]).await.unwrap();
    let error = timeout(LONG, near.reader.read(&mut [0; 64])).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("it requires TLS"), "{error}");
}

#[tokio::test]
async fn an_unfinished_handshake_is_closed_in_time() {
    let pki = Pki::new();
    let (mut listener, address) =
        listen(&pki.tcp(&member(0)).preface_timeout(Duration::from_millis(200))).await;
    for opening in [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01", b"kv", b"GET /"] {
        let mut socket = TcpStream::connect(&address).await.unwrap();
        socket.write_all(opening).await.unwrap();
        let mut rest = Vec::new();
        // An end or a reset, possibly after a last message.
        let _ = timeout(LONG, socket.read_to_end(&mut rest)).await.unwrap();
    }
    pki.tcp(&client()).connect(&address, Lane::Client).await.unwrap();
    assert_eq!(accept(&mut listener).await.lane, Lane::Client);
}

#[tokio::test]
async fn the_oldest_of_too_many_handshakes_is_closed() {
    let pki = Pki::new();
    let tcp = pki.tcp(&member(0)).preface_timeout(LONG * 2).max_half_open(4);
    let (mut listener, address) = listen(&tcp).await;
    let mut silent = Vec::new();
    for _ in 0..10 {
        let mut socket = TcpStream::connect(&address).await.unwrap();
        socket.write_all(b"\x16\x03\x01").await.unwrap();
        silent.push(socket);
    }
    for socket in silent.iter_mut().take(6) {
        assert!(!matches!(timeout(LONG, socket.read(&mut [0])).await.unwrap(), Ok(1..)));
    }
    pki.tcp(&client()).connect(&address, Lane::Client).await.unwrap();
    assert_eq!(accept(&mut listener).await.lane, Lane::Client);
}

#[tokio::test]
async fn new_certificates_are_used_without_a_new_listener() {
    let pki = Pki::new();
    let here = pki.tcp(&member(0));
    assert_eq!(here.identity(), Peer::Member { cluster: "demo".into(), id: 0 });
    let (mut listener, address) = listen(&here).await;
    let app = pki.tcp(&client());
    let mut near = app.connect(&address, Lane::Client).await.unwrap();
    let mut far = accept(&mut listener).await;

    // Another authority takes over at the member, at once: the client's roots are the old ones.
    let next = Pki::new();
    next.identity(&member(0));
    for file in ["ca.pem", "member-0.pem", "member-0.key"] {
        std::fs::copy(next.folder.path().join(file), pki.folder.path().join(file)).unwrap();
    }
    assert!(here.refresh().unwrap());
    assert!(refused(&app, &address).await.contains("not signed by one of the roots here"));
    next.tcp(&client()).connect(&address, Lane::Bulk).await.unwrap();
    assert_eq!(accept(&mut listener).await.lane, Lane::Bulk);

    near.writer.write_all(&[7]).await.unwrap();
    near.writer.flush().await.unwrap();
    assert_eq!(far.reader.read_u8().await.unwrap(), 7);
}

/// F-load-4: a source that calls far too often and completes no handshake costs no more than its allowed handshakes,
/// and members are accepted.
#[tokio::test]
async fn f_load_4_a_storm_of_handshakes_from_one_source_does_not_block_members() {
    let pki = Pki::new();
    let tcp = pki.tcp(&member(0)).max_handshakes_per_second(4).preface_timeout(Duration::from_secs(3600));
    let mut listener = tcp.bind("127.0.0.1:0").await.unwrap();
    listener.keep_places_for(vec!["127.0.0.1:1".to_owned()]);
    let address = listener.local_address();
    let accepting = tokio::spawn(async move {
        let connection = listener.accept().await.unwrap();
        (listener, connection)
    });
    let mut crowd = Vec::new();
    for _ in 0..300 {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        crowd.push(socket.connect(address.parse().unwrap()).await.unwrap());
    }
    let (_listener, connection) = {
        let mut near =
            timeout(LONG, pki.tcp(&member(1)).connect(&address, Lane::Log)).await.unwrap().unwrap();
        near.writer.flush().await.unwrap();
        timeout(LONG, accepting).await.unwrap().unwrap()
    };
    assert_eq!(connection.lane, Lane::Log);
    // A closed caller reads its end; one that may continue its handshake waits. Two are allowed per second.
    let mut open = 0;
    for socket in &mut crowd {
        let ended = timeout(Duration::from_millis(20), socket.read_u8()).await;
        open += usize::from(ended.is_err());
    }
    assert!((1..64).contains(&open), "{open} of 300 were let in");
}
