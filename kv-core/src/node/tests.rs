//! Parts of a node against peers and clients that misbehave, under a clock that is not waited for.

mod gate;
mod in_process;
mod merges;
mod readers;
mod states;
mod turns;
mod watches;

use super::accept::Acceptor;
use super::builder::expectation;
use super::clock::Clock;
use super::fence::Fence;
use super::idle::IdleTracker;
use super::link::Link;
use super::members::Members;
use super::shared::{Shared, SharedParts};
use crate::config::{Cluster, FixedOptions, Options, Role};
use crate::ids::{ClusterId, MemberId, Op};
use crate::journal::{Identity, Journal, JournalOptions};
use crate::message::{ClientCall, ClientMessage, Message};
use crate::storage::{Directory, Storage};
use crate::wire::{self, FrameReader, FrameWriter, Hello, HelloReply, WireError};
use bytes::Bytes;
use kv_transport::{Connection, Lane, Listener, Memory, Reader, Transport, Writer};
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout};

const ME: MemberId = MemberId::new(0);
const PEER: MemberId = MemberId::new(1);

/// The shared state of member 0 of three. None of its parts runs.
struct Bench {
    network: Memory,
    shared: Arc<Shared>,
    _dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        Self::with(Options::default())
    }

    fn with(options: Options) -> Self {
        let members = ["a:1", "b:1", "c:1"];
        let cluster =
            (0..).zip(members).fold(Cluster::builder("test"), |builder, (id, at)| builder.member(id, at));
        let (cluster, network) = (cluster.build().unwrap(), Memory::new());
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity {
            cluster: cluster.id(),
            cluster_name: cluster.name().to_owned(),
            fingerprint: cluster.fingerprint(),
            member: ME,
            options: FixedOptions::from(&options),
        };
        let sizes = JournalOptions { segment_bytes: options.segment_bytes, cache_bytes: 0 };
        let (journal, _) = Journal::open(Directory::open(dir.path()).unwrap(), identity, sizes).unwrap();
        let shared = Shared::new(SharedParts {
            clock: Clock::start(),
            quiet: IdleTracker::default(),
            me: ME,
            role: Role::Data,
            members: {
                let expectation = expectation(&cluster, ME, &options);
                Members::new(ME, cluster, expectation)
            },
            options,
            clients: None,
            transport: Arc::new(network.clone()),
            span: tracing::Span::none(),
            fence: Arc::default(),
            log: journal.reader(),
            syncs: Arc::default(),
            durable_op: Op::ZERO,
            seed: 1,
        });
        Self { network, shared, _dir: dir }
    }

    /// Starts to accept at this member's address.
    async fn open_door(&self) {
        let listener = self.network.bind("a:1").await.unwrap();
        self.shared.tasks.spawn(Acceptor::new(self.shared.clone()).run(listener));
    }

    /// Starts the Control link to the peer.
    fn start_link(&self) {
        let links = self.shared.lanes.set(&[PEER].into());
        for (peer, lane, queue) in links.into_iter().filter(|(_, lane, _)| *lane == Lane::Control) {
            self.shared.tasks.spawn(Link::new(self.shared.clone(), peer, lane, queue).run());
        }
    }

    /// Connects to this member and sends a hello.
    async fn call(&self, lane: Lane, hello: &Hello) -> Ends {
        let mut ends = ends(self.network.connect("a:1", lane).await.unwrap());
        ends.1.push(wire::encode_hello(hello));
        ends.1.flush().await.unwrap();
        let reply = ends.0.read_hello_reply().await.unwrap();
        assert!(matches!(reply, HelloReply::Ok(_)), "{reply:?}");
        ends
    }

    fn peers_hello(&self, lane: Lane) -> Hello {
        let expectation = expectation(&self.shared.members.now().cluster, PEER, &self.shared.options);
        Hello::member(&expectation, ME, lane)
    }
}

type Ends = (FrameReader<Reader>, FrameWriter<Writer>);

fn ends(connection: Connection) -> Ends {
    (FrameReader::new(connection.reader, wire::DEFAULT_MAX_FRAME), FrameWriter::new(connection.writer))
}

/// Accepts as the peer does, and lets the caller in.
async fn accept(listener: &mut Box<dyn Listener>, bench: &Bench) -> Ends {
    let connection = listener.accept().await.unwrap();
    let (lane, peer) = (connection.lane, connection.peer.clone());
    let mut ends = ends(connection);
    let hello = ends.0.read_hello().await.unwrap();
    let welcome = expectation(&bench.shared.members.now().cluster, PEER, &bench.shared.options)
        .check(&hello, lane, &peer)
        .unwrap();
    ends.1.push(wire::encode_hello_reply(&HelloReply::Ok(welcome)));
    ends.1.flush().await.unwrap();
    ends
}

/// F-net-11: a connection on which nothing arrives is reopened, even if writing to it never fails.
#[tokio::test(start_paused = true)]
async fn a_half_open_link_is_reopened() {
    let bench = Bench::new();
    let mut listener = bench.network.bind("b:1").await.unwrap();
    bench.start_link();
    let half_open = accept(&mut listener, &bench).await;
    let opened = Instant::now();
    let (mut reader, _writer) = accept(&mut listener, &bench).await;
    assert!(opened.elapsed() < Duration::from_secs(5), "{:?}", opened.elapsed());
    assert!(bench.shared.inbox.take(true, true).lost.contains(&PEER), "a hint for the replica");
    drop(half_open);

    // Until it has read the reply, it drops messages that are queued.
    tokio::time::sleep(Duration::from_millis(1)).await;
    let vote = Message::StartViewChange { view: crate::ids::View::new(1) };
    bench.shared.lanes.send(PEER, vote.clone());
    assert_eq!(reader.read_message().await.unwrap(), Some(vote));
}

#[tokio::test(start_paused = true)]
async fn a_link_with_heartbeats_stays_open() {
    let bench = Bench::new();
    let mut listener = bench.network.bind("b:1").await.unwrap();
    bench.start_link();
    let (_reader, mut writer) = accept(&mut listener, &bench).await;
    for _ in 0..60 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        writer.push(wire::encode_alive());
        writer.flush().await.unwrap();
    }
    timeout(Duration::from_millis(100), listener.accept()).await.expect_err("one connection is enough");
    assert!(bench.shared.inbox.take(true, true).lost.is_empty());
}

/// The peer's process was killed: its system resets or refuses at once, and the replica is notified at once.
#[tokio::test(start_paused = true)]
async fn a_link_that_breaks_is_a_hint_and_refusals_are_not_repeated() {
    let bench = Bench::new();
    let mut listener = bench.network.bind("b:1").await.unwrap();
    bench.start_link();
    let connection = accept(&mut listener, &bench).await;
    let broke = Instant::now();
    drop((connection, listener));
    bench.shared.inbox.arrived().await;
    assert!(bench.shared.inbox.take(true, true).lost.contains(&PEER));
    assert!(broke.elapsed() < Duration::from_millis(10));
    // The first refusal after it was up is reported again; then there is nothing new to report.
    tokio::time::sleep(Duration::from_secs(1)).await;
    bench.shared.inbox.take(true, true);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(bench.shared.inbox.take(true, true).lost.is_empty());

    let mut listener = bench.network.bind("b:1").await.unwrap();
    let returned = Instant::now();
    accept(&mut listener, &bench).await;
    assert!(returned.elapsed() <= Duration::from_millis(500), "the back-off is bounded");
}

/// F-net-11, at the accepting end: it sends heartbeats, and a newer connection of the same peer and lane ends the older
/// one without notifying the replica.
#[tokio::test(start_paused = true)]
async fn a_newer_connection_of_a_peer_ends_the_older_one() {
    let bench = Bench::new();
    bench.open_door().await;
    let hello = bench.peers_hello(Lane::Control);
    let (mut old, _old_writer) = bench.call(Lane::Control, &hello).await;
    let (mut new, mut writer) = bench.call(Lane::Control, &hello).await;
    let end = async { while let Ok(Some(_)) = old.read(wire::Kind::Alive).await {} };
    timeout(Duration::from_secs(10), end).await.expect("the older one ends");
    for _ in 0..10 {
        timeout(Duration::from_secs(1), new.read(wire::Kind::Alive))
            .await
            .expect("it shows life")
            .unwrap()
            .unwrap();
    }
    let vote = Message::StartViewChange { view: crate::ids::View::new(1) };
    writer.push(wire::encode_message(&vote));
    writer.flush().await.unwrap();
    bench.shared.inbox.arrived().await;
    let batch = bench.shared.inbox.take(true, true);
    assert_eq!(batch.control.into_iter().collect::<Vec<_>>(), [(PEER, vote)]);
    assert!(batch.lost.is_empty());
}

/// The sender does not choose the lane: data on the Control lane would let it wait behind data.
#[tokio::test(start_paused = true)]
async fn a_message_on_the_wrong_lane_closes_the_connection() {
    let bench = Bench::new();
    bench.open_door().await;
    let (mut reader, mut writer) = bench.call(Lane::Log, &bench.peers_hello(Lane::Log)).await;
    writer.push(wire::encode_message(&Message::StartViewChange { view: crate::ids::View::new(1) }));
    writer.flush().await.unwrap();
    let end = async { while let Ok(Some(_)) = reader.read(wire::Kind::Alive).await {} };
    timeout(Duration::from_secs(10), end).await.expect("it ends");
    assert!(bench.shared.inbox.take(true, true).control.is_empty());
}

/// F-input-3: a silent caller is not waited for.
#[tokio::test(start_paused = true)]
async fn a_caller_without_a_hello_is_closed_in_time() {
    let bench = Bench::new();
    bench.open_door().await;
    for lane in Lane::ALL {
        let mut connection = bench.network.connect("a:1", lane).await.unwrap();
        let begin = Instant::now();
        let mut rest = Vec::new();
        connection.reader.read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty() && begin.elapsed() <= Duration::from_secs(4), "{:?}", begin.elapsed());
    }
}

/// F-load-4, F-input-3: a silent crowd keeps nobody out for longer than the deadline, and members not at all.
#[tokio::test(start_paused = true)]
async fn silent_clients_do_not_block_members() {
    let bench = Bench::new();
    bench.open_door().await;
    let mut crowd = Vec::new();
    for _ in 0..1000 {
        crowd.push(bench.network.connect("a:1", Lane::Client).await.unwrap());
    }
    let begin = Instant::now();
    bench.call(Lane::Control, &bench.peers_hello(Lane::Control)).await;
    assert!(begin.elapsed() < Duration::from_millis(100));
    tokio::time::sleep(Duration::from_secs(4)).await;
    bench.call(Lane::Client, &Hello::client(ClusterId::of_name("test"), "late")).await;
}

/// F-load-5: a client that never reads is dropped.
#[tokio::test(start_paused = true)]
async fn a_client_that_never_reads_is_dropped() {
    let bench = Bench::new();
    bench.open_door().await;
    let (mut reader, mut writer) =
        bench.call(Lane::Client, &Hello::client(ClusterId::of_name("test"), "deaf")).await;
    let begin = Instant::now();
    let mut call = 0;
    let broke = loop {
        call += 1;
        writer.push(wire::encode_client_message(&ClientMessage { call, what: ClientCall::Status }));
        if let Err(error) = writer.flush().await {
            break error;
        }
        assert!(call < 1_000_000, "it answers on and on");
    };
    assert!(begin.elapsed() < Duration::from_secs(15), "{:?} {broke}", begin.elapsed());
    // What had been written is still there, and then nothing more comes.
    let end = async { while let Ok(Some(_)) = reader.read_server_message().await {} };
    timeout(Duration::from_secs(1), end).await.expect("it ends");
}

/// F-input-9: a client's messages are not a member's, whatever the lane.
#[tokio::test(start_paused = true)]
async fn a_client_cannot_speak_as_a_member() {
    let bench = Bench::new();
    bench.open_door().await;
    let (mut reader, mut writer) =
        bench.call(Lane::Client, &Hello::client(ClusterId::of_name("test"), "x")).await;
    writer.push(wire::encode_message(&Message::StartViewChange { view: crate::ids::View::new(9) }));
    writer.flush().await.unwrap();
    let ended = reader.read_server_message().await;
    assert!(matches!(ended, Ok(None) | Err(WireError::Truncated | WireError::Io(_))), "{ended:?}");

    let hello = Hello { lane: Lane::Control, ..Hello::client(ClusterId::of_name("test"), "x") };
    let mut ends = ends(bench.network.connect("a:1", Lane::Control).await.unwrap());
    ends.1.push(wire::encode_hello(&hello));
    ends.1.flush().await.unwrap();
    assert!(matches!(ends.0.read_hello_reply().await.unwrap(), HelloReply::Refused { .. }));
}

/// Whatever a dropped node still does ends at the disk.
#[test]
fn a_closed_fence_blocks_everything() {
    let dir = tempfile::tempdir().unwrap();
    let closed = Arc::<AtomicBool>::default();
    let fence = Fence::new(Directory::open(dir.path()).unwrap(), closed.clone(), Arc::default());
    let file = fence.create("file").unwrap();
    file.write_at(b"before", 0).unwrap();
    file.sync().unwrap();
    closed.store(true, Ordering::SeqCst);
    let errors = [
        file.write_at(b"after", 0).unwrap_err(),
        file.sync().unwrap_err(),
        file.set_len(0).unwrap_err(),
        file.read_at(&mut [0; 1], 0).unwrap_err(),
        file.len().unwrap_err(),
        fence.create("other").unwrap_err(),
        fence.open("file").unwrap_err(),
        fence.rename("file", "other").unwrap_err(),
        fence.remove("file").unwrap_err(),
        fence.list().unwrap_err(),
        fence.sync_directory().unwrap_err(),
    ];
    assert!(errors.iter().all(|error| error.kind() == ErrorKind::Other), "{errors:?}");
    assert_eq!(std::fs::read(dir.path().join("file")).unwrap(), Bytes::from_static(b"before"));
}
