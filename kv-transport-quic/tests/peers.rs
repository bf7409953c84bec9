//! How the end of a peer is detected, and what a connection survives. Idle timeouts are an hour except where they are
//! tested, so that they detect nothing.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod raw;

use kv_transport::tls::{Authority, Files, Identity, Name, Validity};
use kv_transport::{Connection, Lane, Listener, Peer, Transport, TransportError};
use kv_transport_quic::Quic;
use raw::Between;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

const LONG: Duration = Duration::from_secs(30);
const NEVER: Duration = Duration::from_secs(3600);

async fn pair(server: &Quic, client: &Quic, lane: Lane) -> (Box<dyn Listener>, Connection, Connection) {
    let mut listener = server.bind("127.0.0.1:0").await.unwrap();
    let near = client.connect(&listener.local_address(), lane).await.unwrap();
    let far = timeout(LONG, listener.accept()).await.unwrap().unwrap();
    (listener, near, far)
}

async fn ping(near: &mut Connection, far: &mut Connection) {
    near.writer.write_all(b"?").await.unwrap();
    assert_eq!(timeout(LONG, far.reader.read_u8()).await.unwrap().unwrap(), b'?');
    far.writer.write_all(b"!").await.unwrap();
    assert_eq!(timeout(LONG, near.reader.read_u8()).await.unwrap().unwrap(), b'!');
}

/// What a reader gets that waits for bytes that never come.
async fn end(connection: &mut Connection) -> std::io::Error {
    timeout(LONG, connection.reader.read_u8()).await.expect("it is noticed").unwrap_err()
}

/// Another process that listens, and where.
fn listening_process() -> (Child, String) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "listen_until_killed", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line =
        lines.map_while(Result::ok).find_map(|line| Some(line.split_once("listens on ")?.1.to_owned()));
    (child, line.expect("it prints where it listens"))
}

#[tokio::test]
#[ignore = "the process that others here start and kill"]
async fn listen_until_killed() {
    let mut listener = Quic::insecure().idle_timeout(NEVER).bind("127.0.0.1:0").await.unwrap();
    println!("\nlistens on {}", listener.local_address());
    let mut accepted = Vec::new();
    // Nobody waits for it longer than that, should it not be killed.
    while let Ok(connection) = timeout(LONG * 4, listener.accept()).await {
        let mut connection = connection.unwrap();
        connection.writer.write_all(b"!").await.unwrap();
        accepted.push(connection);
    }
}

#[tokio::test]
async fn f_net_11_a_killed_process_is_detected_without_traffic() {
    let (mut child, address) = listening_process();
    let quic = Quic::insecure().idle_timeout(NEVER);
    let mut lanes = Vec::new();
    for lane in Lane::ALL {
        let mut connection = quic.connect(&address, lane).await.unwrap();
        assert_eq!(connection.reader.read_u8().await.unwrap(), b'!');
        lanes.push(connection);
    }
    child.kill().unwrap();
    child.wait().unwrap();
    for connection in &mut lanes {
        let error = end(connection).await;
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
        connection.writer.write_all(b"?").await.unwrap_err();
    }
    let error = quic.connect(&address, Lane::Control).await.unwrap_err();
    assert!(error.is_refused(), "{error}");
}

#[tokio::test]
async fn a_restarted_process_resets_the_connections_of_its_predecessor() {
    let (client, old, new) = (Quic::insecure(), Quic::insecure(), Quic::insecure());
    started_anew(&client.idle_timeout(NEVER), &old.idle_timeout(NEVER), &new.idle_timeout(NEVER)).await;
}

#[tokio::test]
async fn a_restarted_process_with_its_key_resets_the_connections_of_its_predecessor() {
    let pki = Pki::new();
    let member = |id| Quic::new(pki.identity(&Pki::member(id))).idle_timeout(NEVER);
    started_anew(&member(0), &member(1), &member(1)).await;
}

async fn started_anew(client: &Quic, old: &Quic, new: &Quic) {
    let mut listener = old.bind("127.0.0.1:0").await.unwrap();
    let between = Between::new(&listener.local_address()).await;
    let mut near = client.connect(&between.address, Lane::Log).await.unwrap();
    let mut far = listener.accept().await.unwrap();
    ping(&mut near, &mut far).await;
    let mut anew = new.bind("127.0.0.1:0").await.unwrap();
    between.lead_to(&anew.local_address());
    let error = end(&mut near).await;
    assert!(error.to_string().contains("restarted"), "{error}");
    let mut near = client.connect(&between.address, Lane::Log).await.unwrap();
    let mut far = timeout(LONG, anew.accept()).await.unwrap().unwrap();
    ping(&mut near, &mut far).await;
}

#[tokio::test]
async fn f_net_12_a_connection_survives_a_new_address_of_the_caller() {
    let quic = Quic::insecure().idle_timeout(NEVER);
    let mut listener = quic.bind("127.0.0.1:0").await.unwrap();
    let mut between = Between::new(&listener.local_address()).await;
    let mut near = quic.connect(&between.address, Lane::Log).await.unwrap();
    let mut far = listener.accept().await.unwrap();
    for _ in 0..3 {
        ping(&mut near, &mut far).await;
        between.rebind().await;
    }
    ping(&mut near, &mut far).await;
}

#[tokio::test]
async fn f_net_12_a_silent_connection_is_closed_at_both_ends() {
    let quic = Quic::insecure().idle_timeout(Duration::from_secs(3));
    let mut listener = quic.bind("127.0.0.1:0").await.unwrap();
    let between = Between::new(&listener.local_address()).await;
    let mut near = quic.connect(&between.address, Lane::Log).await.unwrap();
    let mut far = listener.accept().await.unwrap();
    ping(&mut near, &mut far).await;
    between.cut();
    for connection in [&mut near, &mut far] {
        let error = end(connection).await;
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut, "{error}");
    }
}

#[tokio::test]
async fn a_quiet_connection_does_not_end() {
    let quic = Quic::insecure().idle_timeout(Duration::from_secs(3));
    let (_listener, mut near, mut far) = pair(&quic, &quic, Lane::Log).await;
    tokio::time::sleep(Duration::from_secs(7)).await;
    ping(&mut near, &mut far).await;
}

#[tokio::test]
async fn a_new_stream_does_not_join_a_connection_that_has_fallen_silent() {
    let quic = Quic::insecure().idle_timeout(NEVER);
    let mut listener = quic.bind("127.0.0.1:0").await.unwrap();
    let between = Between::new(&listener.local_address()).await;
    let near = quic.connect(&between.address, Lane::Log).await.unwrap();
    let far = listener.accept().await.unwrap();
    between.cut();
    // Until the silence is noticed, new streams still join, and hear nothing.
    let joins =
        async || timeout(Duration::from_millis(50), quic.connect(&between.address, Lane::Log)).await.is_ok();
    timeout(LONG, async { while joins().await {} }).await.expect("the silence is noticed");
    drop((near, far));
}

/// An attacker that knows the ports claims, in place of the kernel, that nobody listens there.
#[tokio::test]
#[cfg(target_os = "linux")]
async fn a_forged_port_unreachable_message_ends_no_connection() {
    use socket2::{Domain, Protocol, Socket, Type};
    let Ok(forger) = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)) else {
        return eprintln!("skipped: it takes root to forge");
    };
    let quic = Quic::insecure().idle_timeout(NEVER);
    let (listener, mut near, mut far) = pair(&quic, &quic, Lane::Log).await;
    let to: std::net::SocketAddr = listener.local_address().parse().unwrap();
    let from: std::net::SocketAddr = far.remote.parse().unwrap();
    let word = port_unreachable(from.port(), to.port());
    for _ in 0..40 {
        forger.send_to(&word, &std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        ping(&mut near, &mut far).await;
    }
}

/// What the kernel would answer to a datagram on this machine, from one port to another.
#[cfg(target_os = "linux")]
fn port_unreachable(from: u16, to: u16) -> Vec<u8> {
    let mut word = vec![3, 3, 0, 0, 0, 0, 0, 0];
    // The head of the datagram that it is about: IP, then UDP.
    word.extend([0x45, 0, 0, 36, 0, 0, 0, 0, 64, 17, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1]);
    word.extend(from.to_be_bytes());
    word.extend(to.to_be_bytes());
    word.extend([0, 16, 0, 0]);
    let sum: u32 = word.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    word[2..4].copy_from_slice(&sum.to_be_bytes());
    word
}

struct Pki(Authority, tempfile::TempDir);

impl Pki {
    fn new() -> Self {
        Self(Authority::new("demo", Validity::days(1)).unwrap(), tempfile::tempdir().unwrap())
    }

    fn member(id: u8) -> Name {
        Name::Member { cluster: "demo".into(), id }
    }

    fn client(name: &str) -> Name {
        Name::Client { cluster: "demo".into(), name: name.into() }
    }

    /// The identity of `name`, always with the same key.
    fn identity(&self, name: &Name) -> Identity {
        let files = Files::of(name, self.1.path());
        if !files.certificate.exists() {
            self.0.save(self.1.path()).unwrap();
            self.0.issue(name, Validity::days(1)).unwrap().save(&files).unwrap();
        }
        Identity::from_files(files).unwrap()
    }
}

#[tokio::test]
async fn both_ends_know_the_identity_of_the_other() {
    let pki = Pki::new();
    let quic = |name: &Name| Quic::new(pki.identity(name));
    let (_listener, near, far) = pair(&quic(&Pki::member(1)), &quic(&Pki::client("app")), Lane::Client).await;
    assert_eq!(near.peer, Peer::Member { cluster: "demo".into(), id: 1 });
    assert_eq!(far.peer, Peer::Client { cluster: "demo".into(), name: "app".into() });
}

#[tokio::test]
async fn certificates_of_another_root_or_none_are_refused_with_the_reason() {
    let (ours, theirs) = (Pki::new(), Pki::new());
    let mut listener = Quic::new(ours.identity(&Pki::member(0))).bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_address();
    // It is the connecting end that judges first.
    let error = Quic::new(theirs.identity(&Pki::member(1))).connect(&address, Lane::Log).await.unwrap_err();
    assert!(matches!(error, TransportError::Handshake { .. }), "{error:?}");
    assert!(error.to_string().contains("certificate"), "{error}");
    // An end that accepts any certificate learns the refusal from the other end.
    let error = Quic::insecure().connect(&address, Lane::Log).await.unwrap_err();
    assert!(matches!(error, TransportError::Handshake { .. }), "{error:?}");
    assert!(error.to_string().contains("the certificate of this end is missing"), "{error}");
    let accepted = timeout(Duration::from_millis(100), listener.accept()).await;
    assert!(accepted.is_err(), "{accepted:?}");
}

#[tokio::test]
async fn f_conf_6_a_connection_opened_after_a_refresh_uses_the_new_certificate() {
    let (old, new) = (Pki::new(), Pki::new());
    let client = Quic::new(old.identity(&Pki::client("app")));
    assert_eq!(client.identity(), Peer::Client { cluster: "demo".into(), name: "app".into() });
    assert!(!client.refresh().unwrap());
    let server = Quic::new(old.identity(&Pki::member(1)));
    let (mut listener, mut near, mut far) = pair(&server, &client, Lane::Client).await;
    // From now on, all that this one shows and believes is of another root.
    new.identity(&Pki::client("app"));
    let (files, others) =
        (Files::of(&Pki::client("app"), old.1.path()), Files::of(&Pki::client("app"), new.1.path()));
    for (to, from) in
        [(files.certificate, others.certificate), (files.key, others.key), (files.roots, others.roots)]
    {
        std::fs::copy(from, to).unwrap();
    }
    assert!(client.refresh().unwrap());
    let error = client.connect(&listener.local_address(), Lane::Client).await.unwrap_err();
    assert!(matches!(error, TransportError::Handshake { .. }), "{error:?}");
    ping(&mut near, &mut far).await;
    let accepted = timeout(Duration::from_millis(100), listener.accept()).await;
    assert!(accepted.is_err(), "{accepted:?}");
}
