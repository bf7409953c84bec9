//! What is turned away, and how.

use super::harness::{Harness, Net, eventually, id, options};
use super::hostile::request;
use bytes::Bytes;
use kv_core::Client;
use kv_core::config::{Cluster, FixedOptions, Options, Role};
use kv_core::error::{ConnectError, WriteError};
use kv_core::ids::{ClusterId, Hash};
use kv_core::message::{
    Answer, ClientCall, ClientMessage, Command, Lifetime, Operation, Query, ReadMode, ServerMessage,
};
use kv_core::node::{Node, StartError};
use kv_core::transport::{Lane, Reader, TransportError, Writer};
use kv_core::wire::{self, Caller, FrameReader, FrameWriter, Hello, HelloReply, PROTOCOL};
use tokio::io::AsyncReadExt;

/// The name is wrong, the address is right.
pub(crate) async fn f_net_16_another_clusters_client_is_refused(net: Net) {
    let harness = Harness::three(net).await;
    let wrong = Client::builder("another")
        .address(harness.address(0))
        .transport(harness.net.transport("client"))
        .connect()
        .await
        .expect_err("it is refused");
    assert!(matches!(&wrong, ConnectError::Refused { reason, .. } if reason.contains("\"test\"")), "{wrong}");
}

/// F-net-16: both are refused, and the cluster continues.
pub(crate) async fn f_conf_3_a_member_with_another_configuration_is_refused(net: Net) {
    let harness = Harness::three(net).await;
    let mut wider = harness.options.clone();
    wider.max_in_flight_per_session = 7;
    let expectation = |cluster: &str, fingerprint, options: &Options| Hello {
        protocol: PROTOCOL,
        cluster: ClusterId::of_name(cluster),
        lane: Lane::Control,
        features: 0,
        caller: Caller::Member {
            id: id(1),
            to: id(0),
            fingerprint,
            options: FixedOptions::from(options),
            life: 1,
        },
    };
    for (hello, reason) in [
        (expectation("another", Hash::ZERO, &harness.options), "cluster \"test\""),
        (expectation("test", Hash::ZERO, &harness.options), "member list of member 1 differs"),
        (
            expectation("test", Hash::ZERO, &wider),
            "member 1 has max_in_flight_per_session 7, member 0 has 256",
        ),
    ] {
        let (reply, _) = say_hello_from(&harness, &harness.address(1), 0, &hello).await;
        let HelloReply::Refused { reason: text, temporary } = reply else { panic!("let in") };
        assert!(text.contains(reason) && !temporary, "{text}");
    }
    harness.client().await.put("key", "value").await.expect("a put");
}

/// F-disk-18.
pub(crate) async fn a_second_node_on_one_directory_is_refused(net: Net) {
    let mut harness = Harness::three(net).await;
    let running = harness.nodes[0].take();
    let cluster = Cluster::builder("test").member(0, harness.net.address()).build().expect("valid");
    let second = Node::builder(cluster, 0)
        .transport(harness.net.transport(&harness.address(0)))
        .data_dir(harness.dirs[0].path())
        .start()
        .await
        .expect_err("it is refused");
    assert!(matches!(second, StartError::Directory(_)), "{second}");
    assert!(second.to_string().contains("in use by another process"), "{second}");
    drop(running);
    harness.start(0).await;
}

pub(crate) async fn an_address_in_use_is_refused_and_nothing_changes(net: Net) {
    let mut harness = Harness::three(net).await;
    let dir = harness.dirs[0].path().join("fresh");
    let second = Node::builder(harness.cluster.clone(), 0)
        .transport(harness.net.transport(&harness.address(0)))
        .data_dir(&dir)
        .options(options())
        .start()
        .await
        .expect_err("it is refused");
    assert!(
        matches!(&second, StartError::Transport(TransportError::Bind { address, .. }) if *address == harness.address(0)),
        "{second}"
    );
    assert!(!dir.exists(), "it made a directory before it had its address");
    harness.kill(0);
    harness.start(0).await;
}

/// F-disk-19.
pub(crate) async fn another_members_directory_is_refused(net: Net) {
    let mut harness = Harness::three(net).await;
    harness.kill(0);
    harness.kill(1);
    harness.dirs.swap(0, 1);
    let before = listing(&harness, 0);
    let error = harness.try_start(0).await.expect_err("it is refused");
    assert!(matches!(error, StartError::Journal(_)), "{error}");
    assert!(error.to_string().contains("member 1"), "{error}");
    assert_eq!(listing(&harness, 0), before, "nothing has changed");
    harness.dirs.swap(0, 1);
    harness.start_all().await;
}

fn listing(harness: &Harness, member: usize) -> Vec<(std::ffi::OsString, Vec<u8>)> {
    let files = std::fs::read_dir(harness.dirs[member].path()).expect("it can be listed");
    let mut files: Vec<_> = files
        .map(|file| file.expect("it can be listed"))
        .map(|file| (file.file_name(), std::fs::read(file.path()).expect("it can be read")))
        .collect();
    files.sort();
    files
}

pub(crate) async fn f_load_4_connections_beyond_the_limit_are_refused(net: Net) {
    let mut few = options();
    few.max_connections = 2;
    let harness = Harness::with(net, &[Role::Data], few).await;
    let hello = Hello::client(ClusterId::of_name("test"), "crowd");
    let (first, kept) = say_hello(&harness, 0, &hello).await;
    assert!(matches!(first, HelloReply::Ok(_)), "{first:?}");
    let (second, _also_kept) = say_hello(&harness, 0, &hello).await;
    assert!(matches!(second, HelloReply::Ok(_)), "{second:?}");
    let (third, _) = say_hello(&harness, 0, &hello).await;
    assert!(
        matches!(&third, HelloReply::Refused { reason, temporary: true } if reason.contains("max_connections")),
        "{third:?}"
    );
    drop(kept);
    eventually("there is room again", async || {
        let (reply, _) = say_hello(&harness, 0, &hello).await;
        matches!(reply, HelloReply::Ok(_))
    })
    .await;
}

/// By the client, which knows the limits, and by the member, which trusts no client.
pub(crate) async fn f_load_3_oversized_requests_are_refused_with_the_limit(net: Net) {
    let mut small = options();
    small.max_key_bytes = 16;
    small.max_value_bytes = 64;
    let harness = Harness::with(net, &[Role::Data], small).await;
    let client = harness.client().await;
    let key = client.put("k".repeat(17), "value").await.expect_err("too long");
    assert_eq!(key, WriteError::Key { len: 17, max: 16 });
    let value = client.put("key", "v".repeat(65)).await.expect_err("too long");
    assert_eq!(value, WriteError::Value { len: 65, max: 64 });
    client.put("k".repeat(16), "v".repeat(64)).await.expect("it just fits");

    let put = |key: String, value: String| {
        Operation::Command(Command::Put {
            key: key.into(),
            value: value.into(),
            condition: None,
            life: Default::default(),
        })
    };
    let lasting = |ms| {
        let life = Lifetime { ttl_ms: Some(ms), lease: None };
        Operation::Command(Command::Put { key: "key".into(), value: "value".into(), condition: None, life })
    };
    let calls = [
        (request(1, 1, put("k".repeat(17), String::new())), "17 bytes"),
        (request(1, 1, put(String::new(), String::new())), "0 bytes"),
        (request(1, 1, put("key".to_owned(), "v".repeat(65))), "65 bytes"),
        (request(0, 1, put("key".to_owned(), String::new())), "session"),
        (request(1, 0, put("key".to_owned(), String::new())), "session"),
        (request(1, 1, Operation::OpenSession { nonce: 1 }), "session"),
        (request(1, 1, lasting(0)), "0 ms"),
        (request(1, 1, lasting(u64::MAX)), "invalid time to live"),
        (request(0, 0, Operation::Expire(Vec::new())), "only the primary"),
        (request(1, 1, Operation::Expire(Vec::new())), "only the primary"),
        (ClientCall::Write(Bytes::from_static(b"nonsense")), "not a request"),
    ];
    let hello = Hello::client(ClusterId::of_name("test"), "hostile");
    let (_, (mut reader, mut writer)) = say_hello(&harness, 0, &hello).await;
    for (call, (what, reason)) in (1..).zip(calls) {
        let answer = ask(&mut reader, &mut writer, ClientMessage { call, what }).await;
        assert!(matches!(&answer, Answer::Refused(text) if text.contains(reason)), "{answer:?}");
    }
    let query = Query::Get { key: Bytes::from_static(b"key"), at: None };
    let read = ClientCall::Read { mode: ReadMode::Linearizable, query };
    let answer = ask(&mut reader, &mut writer, ClientMessage { call: 99, what: read }).await;
    assert!(matches!(answer, Answer::Value { record: None, .. }), "{answer:?}");
}

pub(crate) async fn assert_closed(reader: &mut Reader) {
    let mut rest = Vec::new();
    // A reset is as good as an end.
    let _ = reader.read_to_end(&mut rest).await;
    assert_eq!(rest, b"", "a stranger receives no answer");
}

pub(crate) type Ends = (FrameReader<Reader>, FrameWriter<Writer>);

pub(crate) async fn say_hello(harness: &Harness, member: usize, hello: &Hello) -> (HelloReply, Ends) {
    say_hello_from(harness, "stranger", member, hello).await
}

pub(crate) async fn say_hello_from(
    harness: &Harness,
    from: &str,
    member: usize,
    hello: &Hello,
) -> (HelloReply, Ends) {
    let transport = harness.net.transport(from);
    let connection = transport.connect(&harness.address(member), hello.lane).await.expect("it connects");
    let mut reader = FrameReader::new(connection.reader, wire::DEFAULT_MAX_FRAME);
    let mut writer = FrameWriter::new(connection.writer);
    writer.push(wire::encode_hello(hello));
    writer.flush().await.expect("it can be written");
    let reply = reader.read_hello_reply().await.expect("a reply");
    (reply, (reader, writer))
}

pub(crate) async fn ask(
    reader: &mut FrameReader<Reader>,
    writer: &mut FrameWriter<Writer>,
    message: ClientMessage,
) -> Answer {
    let asked = message.call;
    writer.push(wire::encode_client_message(&message));
    writer.flush().await.expect("it can be written");
    let ServerMessage { call, answer } =
        reader.read_server_message().await.expect("an answer").expect("an answer");
    assert_eq!(call, asked);
    answer
}
