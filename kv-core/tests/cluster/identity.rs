//! Accepted and refused peers, and the reasons of refusals: certificates at both ends, over every transport that has
//! them.

use super::harness::{Harness, Net, eventually, id, options};
use super::logs;
use super::pki::Pki;
use kv_core::config::{FixedOptions, Role};
use kv_core::error::ConnectError;
use kv_core::ids::{ClusterId, Hash};
use kv_core::node::StartError;
use kv_core::transport::tls::{Files, Identity, Name, Validity};
use kv_core::transport::{Lane, Transport};
use kv_core::wire::{self, Caller, FrameReader, FrameWriter, Hello, HelloReply, PROTOCOL};
use kv_core::{Client, Node};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};
use tokio::time::sleep;

/// What member `from` sends to member 0.
fn hello_of_member(harness: &Harness, from: usize) -> Hello {
    let caller = Caller::Member {
        id: id(from),
        to: id(0),
        fingerprint: Hash::ZERO,
        options: FixedOptions::from(&harness.options),
        life: 1,
    };
    Hello { protocol: PROTOCOL, cluster: ClusterId::of_name("test"), lane: Lane::Log, features: 0, caller }
}

/// What member 0 answers.
async fn say_hello(transport: Arc<dyn Transport>, harness: &Harness, hello: &Hello) -> HelloReply {
    let connection = transport.connect(&harness.address(0), hello.lane).await.expect("it connects");
    let mut reader = FrameReader::new(connection.reader, 0);
    let mut writer = FrameWriter::new(connection.writer);
    writer.push(wire::encode_hello(hello));
    writer.flush().await.expect("it can be written");
    reader.read_hello_reply().await.expect("a reply")
}

/// What member 0 answers to a caller with this certificate.
async fn refusal(harness: &Harness, certificate: &Name, hello: &Hello) -> String {
    let transport = harness.net.transport_with(harness.net.pki().identity(certificate));
    refusal_over(transport, harness, hello).await
}

async fn refusal_over(transport: Arc<dyn Transport>, harness: &Harness, hello: &Hello) -> String {
    let reply = say_hello(transport, harness, hello).await;
    let HelloReply::Refused { reason, temporary: false } = reply else { panic!("{reply:?}") };
    reason
}

/// The error of a client with this certificate.
async fn client_error(harness: &Harness, identity: Identity) -> String {
    let transport = harness.net.transport_with(identity);
    let connecting = Client::builder("test").address(harness.address(0)).transport(transport).connect();
    let error = connecting.await.expect_err("it is refused");
    assert!(matches!(error, ConnectError::Refused { .. }) && !error.is_retryable(), "{error:?}");
    error.to_string()
}

async fn log_tells(fragments: &[&str]) {
    eventually(&format!("the log contains {fragments:?}"), async || logs::contain(fragments)).await;
}

pub(crate) async fn f_input_4_a_client_certificate_is_not_accepted_for_a_member(net: Net) {
    logs::keep();
    let harness = Harness::with(net, &[Role::Data], options()).await;
    let name = harness.net.pki().client("would be member");
    let message = refusal(&harness, &name, &hello_of_member(&harness, 1)).await;
    let reason = "certificate is for client \"would be member\" of \"test\", your hello claims member 1";
    assert!(message.contains(reason), "{message}");
    log_tells(&["WARN", "refused a caller", reason]).await;
    harness.client().await.put("key", "value").await.expect("a put");
}

pub(crate) async fn f_net_16_a_member_of_another_cluster_is_refused(net: Net) {
    logs::keep();
    let mut harness = Harness::with(net, &[Role::Data; 3], options()).await;
    // Its certificate is signed by the same authority.
    let name = Name::Member { cluster: "other 1".into(), id: 1 };
    let folder = tempfile::tempdir().expect("a temporary directory");
    let stranger = Identity::from_files(harness.net.pki().issue_in(folder.path(), &name, Validity::days(1)));
    let stranger = harness.net.transport_with(stranger.expect("an identity"));
    let message = refusal_over(stranger.clone(), &harness, &hello_of_member(&harness, 1)).await;
    let reason = "certificate is for member 1 of \"other 1\"";
    assert!(message.contains(reason), "{message}");
    log_tells(&["WARN", "refused a caller", reason]).await;
    let message =
        refusal_over(stranger.clone(), &harness, &Hello::client(ClusterId::of_name("test"), "app")).await;
    assert!(message.contains(reason), "{message}");

    // Nor does it start with that certificate, or with another member's.
    let cluster = harness.cluster.clone();
    harness.kill(1);
    let other = harness.net.transport_with(harness.net.pki().identity(&harness.net.pki().member(2)));
    for (transport, found) in [(stranger, "member 1 of \"other 1\""), (other, "member 2 of \"test\"")] {
        let builder = Node::builder(cluster.clone(), 1).transport(transport).data_dir(harness.dirs[1].path());
        let error = builder.start().await.expect_err("it is refused");
        assert!(matches!(error, StartError::OtherIdentity { .. }), "{error}");
        assert!(error.to_string().contains(found), "{error}");
    }
    harness.start_all().await;
}

pub(crate) async fn f_conf_6_a_removed_member_is_refused_in_every_role(net: Net) {
    logs::keep();
    let harness = Harness::with(net, &[Role::Data], options()).await;
    let removed = harness.net.pki().member(9);
    for hello in [hello_of_member(&harness, 9), Hello::client(ClusterId::of_name("test"), "tool")] {
        let message = refusal(&harness, &removed, &hello).await;
        assert!(
            message.contains("certificate is for member 9, which is not in the member list of member 0"),
            "{message}"
        );
    }
    log_tells(&["WARN", "refused a caller", "certificate is for member 9"]).await;
}

pub(crate) async fn an_expired_certificate_is_refused_and_both_ends_report_it(net: Net) {
    logs::keep();
    let harness = Harness::with(net, &[Role::Data], options()).await;
    let pki = harness.net.pki();
    let until = SystemTime::now() + Duration::from_secs(2);
    let files =
        pki.issue(&pki.client("late"), Validity::between(SystemTime::now() - Duration::from_secs(60), until));
    let late = Identity::from_files(files).expect("it is good for a moment");
    while SystemTime::now() < until + Duration::from_secs(1) {
        sleep(Duration::from_millis(50)).await;
    }
    let message = client_error(&harness, late).await;
    assert!(message.contains("the certificate of this end has expired"), "{message}");
    log_tells(&["WARN", "refused a connection", &harness.address(0), "its certificate has expired"]).await;
}

pub(crate) async fn a_certificate_of_another_authority_is_refused_and_both_ends_report_it(net: Net) {
    logs::keep();
    let harness = Harness::with(net, &[Role::Data], options()).await;
    let other = Pki::new("test");
    let message = client_error(&harness, other.identity(&other.client("app"))).await;
    assert!(message.contains("its certificate is not signed by one of the roots here"), "{message}");
    log_tells(&["WARN", &harness.address(0), "the certificate of this end is not signed"]).await;

    // A client that trusts the member, but is not trusted by it.
    let name = other.member(1);
    std::fs::copy(harness.net.pki().folder().join("ca.pem"), other.folder().join("roots.pem"))
        .expect("it can be copied");
    let mut files = other.issue(&other.client("sly"), Validity::days(1));
    files.roots = other.folder().join("roots.pem");
    let message =
        client_error(&harness, Identity::from_files(files).expect("a client need not trust itself")).await;
    assert!(message.contains("it reports that the certificate of this end is "), "{message}");
    log_tells(&[
        "WARN",
        "refused a connection",
        &harness.address(0),
        "its certificate is not signed by one of the roots",
    ])
    .await;
    let transport = harness.net.transport_with(other.identity(&name));
    transport.connect(&harness.address(0), Lane::Log).await.expect_err("a member of a wrong authority");
    harness.client().await.put("key", "value").await.expect("a put");
}

/// Somebody else at a member's address: neither the other members nor clients take it for that member.
pub(crate) async fn a_listener_must_prove_its_identity(net: Net) {
    logs::keep();
    let mut harness = Harness::new(net, &[Role::Data; 3], options());
    harness.start(0).await;
    harness.start(1).await;
    let pki = harness.net.pki();
    let impostor = harness.net.transport_with(pki.identity(&pki.member(5)));
    let mut listener = impostor.bind(&harness.address(2)).await.expect("the address is free");
    let taken = tokio::spawn(async move {
        let mut connections = Vec::new();
        while let Ok(connection) = listener.accept().await {
            connections.push(connection);
        }
    });
    log_tells(&[
        "WARN",
        "cannot trust the peer",
        &harness.address(2),
        "certificate is of member 5 of \"test\"",
    ])
    .await;
    let connecting = Client::builder("another")
        .address(harness.address(2))
        .transport(harness.net.transport("client"))
        .connect();
    let error = connecting.await.expect_err("it is refused").to_string();
    assert!(error.contains("certificate is of member 5 of \"test\", and a member of \"another\""), "{error}");
    taken.abort();
    let _ = taken.await;
    harness.start_all().await;
    harness.client().await.put("key", "value").await.expect("a put");
}

pub(crate) async fn f_conf_6_clients_are_admitted_and_disconnected_by_a_live_list(net: Net) {
    logs::keep();
    let mut harness = Harness::new(net, &[Role::Data], options());
    let file = harness.net.pki().folder().join("clients");
    std::fs::write(&file, "# ours\nclient\n").expect("it can be written");
    harness.clients = Some(file.clone());
    harness.start_all().await;
    let client = harness.client().await;
    client.put("key", "one").await.expect("a put");
    // The member's own client, and another member's tools, need no line.
    harness.node(0).client().put("key", "two").await.expect("a put");

    let identity = |name: &str| harness.net.pki().identity(&harness.net.pki().client(name));
    let message = client_error(&harness, identity("guest 7")).await;
    assert!(message.contains("client \"guest 7\" is not on the list of clients of member 0"), "{message}");
    log_tells(&["WARN", "refused a caller", "guest 7"]).await;

    std::fs::write(&file, "guest 7\n").expect("it can be written");
    let hello = Hello::client(ClusterId::of_name("test"), "app");
    eventually("the guest is let in", async || {
        let transport = harness.net.transport_with(identity("guest 7"));
        matches!(say_hello(transport, &harness, &hello).await, HelloReply::Ok(_))
    })
    .await;
    // The other client is disconnected, no matter how long it was connected, and receives the reason.
    let started = tokio::time::Instant::now();
    let error = loop {
        match client.put("key", "three").deadline(Duration::from_secs(2)).await {
            Ok(_) => sleep(Duration::from_millis(20)).await,
            Err(error) => break error,
        }
    };
    assert!(started.elapsed() < Duration::from_secs(20), "{error}");
    let message = client_error(&harness, identity("client")).await;
    assert!(message.contains("client \"client\" is not on the list"), "{message}");
    log_tells(&[
        "INFO",
        "closed a connection: the client is no longer on the client list",
        "client \"client\"",
    ])
    .await;
}

pub(crate) async fn a_list_of_clients_needs_certificates(net: Net) {
    let mut harness = Harness::new(net, &[Role::Data], options());
    let folder = tempfile::tempdir().expect("a temporary directory");
    harness.clients = Some(folder.path().join("clients"));
    let error = harness.try_start(0).await.expect_err("it is refused");
    assert!(matches!(error, StartError::ListWithoutCertificates), "{error}");
}

/// An authority is replaced by another under load, step by step, while members are restarted: no request fails.
pub(crate) async fn f_conf_6_all_certificates_are_rotated_under_load(net: Net) {
    logs::keep();
    let mut harness = Harness::three(net).await;
    let client = harness.client().await;
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let load = tokio::spawn({
        let (stop, done) = (stop.clone(), done.clone());
        async move {
            while !stop.load(Ordering::Relaxed) {
                client.put("key", "value").await.expect("no request fails");
                done.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let (old, new) = (harness.net.pki().folder().join("ca.pem"), Pki::new("test"));
    let old_root = std::fs::read_to_string(&old).expect("it can be read");
    let new_root = std::fs::read_to_string(new.folder().join("ca.pem")).expect("it can be read");

    // Both authorities are trusted before the new one signs.
    std::fs::write(&old, format!("{old_root}{new_root}")).expect("it can be written");
    let newcomer = || new.identity(&new.client("newcomer"));
    let both = new.folder().join("ca.pem");
    std::fs::write(&both, format!("{old_root}{new_root}")).expect("it can be written");
    everybody_lets_in(&harness, newcomer()).await;
    for member in 0..3 {
        copy_certificate(&new, harness.net.pki(), &new.member(member));
    }
    copy_certificate(&new, harness.net.pki(), &new.client("client"));
    std::fs::write(&both, &new_root).expect("it can be written");
    everybody_lets_in(&harness, newcomer()).await;
    std::fs::write(&old, &new_root).expect("it can be written");
    eventually("the old authority is not trusted any more", async || {
        let old_client = harness.net.pki().issue(&harness.net.pki().client("old"), Validity::days(1));
        let transport = harness
            .net
            .transport_with(Identity::from_files(old_client).expect("a client need not trust itself"));
        let mut refused = 0;
        for member in 0..3 {
            let connected = transport.connect(&harness.address(member), Lane::Client).await;
            refused += usize::from(connected.is_err());
        }
        refused == 3
    })
    .await;

    // All connections are reopened with only the new certificates.
    for member in 0..3 {
        harness.level_enough().await;
        harness.node(member).shutdown().await;
        harness.nodes[member] = None;
        harness.start_all().await;
    }
    let so_far = done.load(Ordering::Relaxed);
    eventually("the load goes on", async || done.load(Ordering::Relaxed) > so_far + 10).await;
    stop.store(true, Ordering::Relaxed);
    load.await.expect("no request failed");
}

/// Waits until every member has accepted this one's certificate, and is accepted by it.
async fn everybody_lets_in(harness: &Harness, identity: Identity) {
    let transport = harness.net.transport_with(identity);
    eventually("everybody lets the newcomer in", async || {
        let mut connected = 0;
        for member in 0..3 {
            connected += usize::from(transport.connect(&harness.address(member), Lane::Client).await.is_ok());
        }
        connected == 3
    })
    .await;
}

/// Gives `name` the certificate that it has from another authority.
fn copy_certificate(from: &Pki, to: &Pki, name: &Name) {
    let made = from.issue(name, Validity::days(1));
    let files = Files::of(name, to.folder());
    for (made, file) in [(made.key, files.key), (made.certificate, files.certificate)] {
        std::fs::rename(made, file).expect("it can be moved");
    }
}
