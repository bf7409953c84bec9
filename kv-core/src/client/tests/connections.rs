//! How a client finds its members, and which error it returns if it does not.

use super::*;

#[tokio::test(start_paused = true)]
async fn the_wrong_cluster_is_refused_with_a_clear_reason() {
    let cluster = Cluster::start().await;
    let error = Client::connect("prod", &address(B), Arc::new(cluster.network.clone())).await.unwrap_err();
    assert!(matches!(error, ConnectError::Refused { .. }) && !error.is_retryable(), "{error:?}");
    assert_eq!(
        error.to_string(),
        "member-1:7000 refuses: this is member 1 of cluster \"test\", you asked for another: check cluster name and \
         address"
    );
}

#[tokio::test(start_paused = true)]
async fn one_address_that_answers_is_enough() {
    let mut cluster = Cluster::start().await;
    cluster.kill(A).await;
    let builder = cluster.builder().address("nowhere:1").address(address(C));
    let client = builder.connect().await.unwrap();
    let read = tokio::spawn(client.get("x").into_future());
    let mut asked = cluster.next().await;
    while asked.member != B {
        asked.answer(Answer::NotPrimary { hint: Some(B) });
        asked = cluster.next().await;
    }
    asked.answer(Answer::Value { record: None, revision: Revision::ZERO });
    assert_eq!(read.await.unwrap().unwrap(), None);
}

/// Behind address translation: the members know each other by addresses that lead nowhere from here.
#[tokio::test(start_paused = true)]
async fn a_client_reaches_members_at_its_configured_addresses() {
    let mut cluster = Cluster::start().await;
    let mut outside = Vec::new();
    for id in [A, B, C] {
        cluster.kill(id).await;
        let listener = cluster.network.bind(&format!("outside-{id}:7000")).await.unwrap();
        outside.push(tokio::spawn(serve(listener, expectation(id), cluster.sender.clone())));
    }
    let client = Client::builder("test")
        .transport(Arc::new(cluster.network.clone()))
        .member_address(B, "nowhere:1")
        .member_address(A, "outside-0:7000")
        .member_address(B, "outside-1:7000")
        .member_address(C, "outside-2:7000")
        .connect()
        .await
        .unwrap();
    let status = client.cluster_status();
    let answer_all = async {
        for _ in [A, B, C] {
            cluster.next().await.hang_up();
        }
    };
    let (status, ()) = tokio::join!(status, answer_all);
    let addresses: Vec<_> = status.iter().map(|report| &report.address[..]).collect();
    assert_eq!(addresses, ["outside-0:7000", "outside-1:7000", "outside-2:7000"]);
    for id in [A, B, C] {
        let read = tokio::spawn(client.get("x").local().member(id).into_future());
        let asked = cluster.next().await;
        assert_eq!(asked.member, id);
        asked.answer(Answer::Value { record: None, revision: Revision::new(3) });
        assert_eq!(read.await.unwrap(), Ok(None));
    }

    // An address that leads to another member is not used, and one for a member that there is not is an error.
    let builder = Client::builder("test").transport(Arc::new(cluster.network.clone()));
    let error = builder.member_address(A, "outside-1:7000").connect().await.unwrap_err();
    assert!(error.to_string().contains("outside-1:7000 is member 1, not 0"), "{error}");
    let builder =
        Client::builder("test").transport(Arc::new(cluster.network.clone())).address("outside-0:7000");
    let error = builder.member_address(MemberId::new(7), "outside-1:7000").connect().await.unwrap_err();
    assert!(
        error.to_string().starts_with("the cluster has no member 7, according to outside-0:7000"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn without_an_answer_every_address_is_listed_with_its_error() {
    let network = Memory::new();
    let start = tokio::time::Instant::now();
    let error = Client::builder("test")
        .address("one:1")
        .address("two:2")
        .transport(Arc::new(network))
        .connect_timeout(Duration::from_secs(1))
        .connect()
        .await
        .unwrap_err();
    assert_eq!(start.elapsed(), Duration::from_secs(1));
    assert!(error.is_retryable());
    let text = error.to_string();
    assert!(
        text.starts_with("no member answers: ") && text.contains("one:1") && text.contains("two:2"),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_is_just_starting_is_waited_for() {
    let network = Memory::new();
    let builder = Client::builder("test").address(address(A)).transport(Arc::new(network.clone()));
    let connecting = tokio::spawn(builder.connect());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let listener = network.bind(&address(A)).await.unwrap();
    let (calls, _calls) = mpsc::unbounded_channel();
    let _member = tokio::spawn(serve(listener, expectation(A), calls));
    assert!(connecting.await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_member_that_never_sends_a_hello_is_given_up() {
    let network = Memory::new();
    let mut silent = network.bind("silent:1").await.unwrap();
    let _accepting = tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok(connection) = silent.accept().await {
            kept.push(connection);
        }
    });
    let cluster = Cluster { network: network.clone(), ..Cluster::start().await };
    let listener = network.bind(&address(A)).await.unwrap();
    let _member = tokio::spawn(serve(listener, expectation(A), cluster.sender.clone()));
    let builder = Client::builder("test").address("silent:1").address(address(A));
    assert!(builder.transport(Arc::new(network)).connect().await.is_ok());
}

#[tokio::test]
async fn missing_settings_are_reported() {
    let error = Client::builder("test").transport(Arc::new(Memory::new())).connect().await.unwrap_err();
    assert!(matches!(error, ConnectError::NoAddress), "{error}");
    let error = Client::builder("test").address("a:1").connect().await.unwrap_err();
    assert!(matches!(error, ConnectError::NoTransport), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_member_at_anothers_address_is_not_used() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client().await;
    cluster.kill(B).await;
    let listener = cluster.network.bind(&address(B)).await.unwrap();
    let _wrong = tokio::spawn(serve(listener, expectation(C), cluster.sender.clone()));
    let read = tokio::spawn(client.get("x").into_future());
    cluster.next().await.answer(Answer::NotPrimary { hint: Some(B) });
    let mut asked = cluster.next().await;
    while asked.member == A {
        asked.answer(Answer::NotPrimary { hint: Some(B) });
        asked = cluster.next().await;
    }
    let sent_to = asked.message.call;
    asked.answer(Answer::Value { record: None, revision: Revision::ZERO });
    assert!(read.await.unwrap().is_ok(), "attempt {sent_to} went to C under its own address");
}

#[tokio::test(start_paused = true)]
async fn calls_that_were_dropped_are_not_sent_late() {
    let mut cluster = Cluster::start().await;
    let builder = cluster.builder();
    let (limits, members) = (expectation(A).limits, expectation(A).members);
    // Nobody accepts at first: connections are opened, and not greeted.
    for id in [A, B, C] {
        cluster.kill(id).await;
    }
    let mut listeners = Vec::new();
    for id in [A, B, C] {
        listeners.push((id, cluster.network.bind(&address(id)).await.unwrap()));
    }
    let client = builder.start(members, 0, limits);
    let error = client.get("x").deadline(Duration::from_millis(100)).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    for (id, listener) in listeners {
        cluster.members.push(tokio::spawn(serve(listener, expectation(id), cluster.sender.clone())));
    }
    cluster.quiet().await;
    let read = tokio::spawn(client.get("y").into_future());
    let incoming = cluster.next().await;
    let query = Query::Get { key: "y".into(), at: None };
    assert_eq!(incoming.message.what, ClientCall::Read { mode: ReadMode::Linearizable, query });
    incoming.answer(Answer::Value { record: None, revision: Revision::ZERO });
    assert!(read.await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_member_of_this_process_is_reached_without_the_transport() {
    let mut cluster = Cluster::start().await;
    cluster.kill(B).await; // Its address refuses; inside the process it lives.
    let client = cluster.builder().local_member(InThisProcess(cluster.sender.clone())).start(
        expectation(B).members,
        0,
        expectation(B).limits,
    );
    assert_eq!(client.get("in memory").local().await, Ok(None));
    let read = tokio::spawn(client.get("x").local().into_future());
    let incoming = cluster.next().await;
    assert_eq!(incoming.member, B, "a local read asks the own member first");
    incoming.answer(Answer::Value { record: None, revision: Revision::ZERO });
    assert!(read.await.unwrap().is_ok());
    let read = tokio::spawn(client.get("x").into_future());
    cluster.next().await.answer(Answer::NotPrimary { hint: Some(C) });
    let incoming = cluster.next().await;
    assert_eq!(incoming.member, C, "and the others are reached by the transport");
    incoming.answer(Answer::Value { record: None, revision: Revision::ZERO });
    assert!(read.await.unwrap().is_ok());
}

/// The task of the client has ended, so the client is of no more use, even for what needs no task.
#[test]
fn a_client_whose_runtime_has_shut_down_reads_nothing_from_memory() {
    let runtime =
        || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("it can start");
    let (first, second) = (runtime(), runtime());
    let client = first.block_on(async {
        let member = InThisProcess(mpsc::unbounded_channel().0);
        let builder = Client::builder("test").transport(Memory::new()).local_member(member);
        builder.start(expectation(B).members, 0, expectation(B).limits)
    });
    assert_eq!(second.block_on(client.get("in memory").local().into_future()), Ok(None));
    drop(first);
    let read = second.block_on(client.get("in memory").local().into_future());
    assert!(matches!(read, Err(ReadError::Closed)), "{read:?}");
}

/// Member B.
struct InThisProcess(mpsc::UnboundedSender<Incoming>);

impl LocalMember for InThisProcess {
    fn id(&self) -> MemberId {
        B
    }

    fn connect(&self) -> Connection {
        let (near, far) = tokio::io::duplex(1 << 16);
        tokio::spawn(converse(wire::PROTOCOL.max, in_process(far), expectation(B), self.0.clone()));
        in_process(near)
    }

    fn read(&self, _: ReadMode, query: &Query) -> Option<Answer> {
        let is_in_memory = *query == Query::Get { key: "in memory".into(), at: None };
        is_in_memory.then_some(Answer::Value { record: None, revision: Revision::ZERO })
    }
}

fn in_process(stream: tokio::io::DuplexStream) -> Connection {
    let (reader, writer) = tokio::io::split(stream);
    Connection {
        lane: kv_transport::Lane::Client,
        peer: kv_transport::Peer::Unauthenticated,
        remote: "this process".into(),
        reader: Box::new(reader),
        writer: Box::new(writer),
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_handle_ends_the_connections() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client().await;
    let clone = client.clone();
    let read = tokio::spawn(clone.get("x").into_future());
    drop((client, clone));
    let incoming = cluster.next().await;
    incoming.answer(Answer::Value { record: None, revision: Revision::ZERO });
    assert!(read.await.unwrap().is_ok(), "a call in flight keeps the client alive");
    tokio::time::timeout(Duration::from_secs(1), incoming.answers.closed()).await.unwrap();
}

/// F-net-11: a device between a client and a member may forget their connection, and silently drop everything that is
/// sent on it.
#[tokio::test(start_paused = true)]
async fn f_net_11_a_connection_without_answers_is_closed() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client().await;
    let read = tokio::spawn(client.get("x").deadline(Duration::from_secs(600)).into_future());
    let first = cluster.next().await;
    let closed = tokio::time::timeout(Duration::from_secs(120), first.answers.closed());
    assert!(closed.await.is_ok(), "it is closed");
    let again = async {
        loop {
            let incoming = cluster.next().await;
            if incoming.member == first.member && !incoming.answers.is_closed() {
                return incoming.answer(Answer::Value { record: None, revision: Revision::ZERO });
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(300), again).await.expect("the member is asked again");
    assert!(read.await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_member_that_does_not_read_blocks_nobody_else() {
    let mut cluster = Cluster::start().await;
    cluster.kill(A).await;
    let mut listener = cluster.network.bind(&address(A)).await.unwrap();
    // Greets, and then never reads again (F-net-15).
    let _stuck = tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok(Connection { lane, peer, reader, writer, .. }) = listener.accept().await {
            let (mut reader, mut writer) = (FrameReader::new(reader, 1 << 20), FrameWriter::new(writer));
            let hello = reader.read_hello().await.unwrap();
            let welcome = expectation(A).check(&hello, lane, &peer).unwrap();
            writer.push(wire::encode_hello_reply(&HelloReply::Ok(welcome)));
            writer.flush().await.unwrap();
            kept.push((reader, writer));
        }
    });
    let client = cluster.client().await;
    let writes: Vec<_> =
        (0..300u32).map(|n| tokio::spawn(client.put(n.to_be_bytes(), vec![0; 1000]).into_future())).collect();
    cluster.open_session(9).await;
    for done in 0..writes.len() {
        let incoming = cluster.next().await;
        assert_eq!(incoming.member, B, "write {done}");
        incoming.written(10, Effect::Put);
    }
    for write in writes {
        assert!(write.await.unwrap().is_ok());
    }
}
