//! Attacks that use as many resources as they can get, by clients with a certificate and by strangers. Each attack runs
//! on a thread of its own, so that it does not slow down the measured client.

use crate::machine::attempt;
use crate::raw;
use kv_core::Client;
use kv_core::ids::{ClusterId, RequestNumber, Revision, SessionId};
use kv_core::message::{
    Answer, ClientCall, ClientMessage, Command, Operation, Position, Request, TransactionRequest,
    TransactionStep, WatchQuery,
};
use kv_core::transport::tls::Identity;
use kv_core::transport::{Lane, Reader, Transport, Writer};
use kv_core::wire::{self, FrameReader, FrameWriter, Hello, HelloReply};
use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};

/// How nice an attack's thread is to the members on the same machine.
const GIVES_WAY: i32 = 10;
/// Connections of the crowd that watches, and watches on each of them.
const WATCHING: usize = 134;
const WATCHES: u64 = 500;
/// A watch that is answered is begun again after this long.
const AGAIN: Duration = Duration::from_secs(1);
/// Connections that send requests of empty steps, and how many steps each has: two bytes on the wire.
const EMPTY: usize = 4;
const EMPTY_STEPS: usize = 1 << 20;
/// Handshakes that strangers begin in a second, from so many addresses, and how often some of them.
const HANDSHAKES: u32 = 5000;
const SOURCES: u8 = 16;
const TICK: Duration = Duration::from_millis(10);
const EACH_TICK: u32 = HANDSHAKES / 100;
/// Half-open connections that strangers keep.
const KEPT: usize = 1024;
/// Different first datagrams of strangers, and strangers that continue their handshakes.
const DATAGRAMS: usize = 512;
const DIALLERS: usize = 4;

/// One that is under way. It ends with its last answer when [`end`](Self::end) is called.
pub(crate) struct Attack {
    stop: oneshot::Sender<()>,
    count: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

/// How often something was done.
#[derive(Clone, Default)]
struct Tally(Arc<AtomicU64>);

impl Tally {
    fn one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Attack {
    fn begin<F: Future<Output = ()>>(attack: impl FnOnce(Tally) -> F + Send + 'static) -> Self {
        let (stop, stopped) = oneshot::channel();
        let tally = Tally::default();
        let count = tally.0.clone();
        let thread = std::thread::spawn(move || {
            // An attacker has a machine of his own: what his load costs him is not to be taken from the members.
            if cfg!(target_os = "linux") {
                give_way();
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = attack(tally) => unreachable!("an attack goes on"),
                    _ = stopped => {}
                }
            });
        });
        Self { stop, count, thread }
    }

    /// The number of its operations.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Ends it, and returns the number of its operations.
    pub(crate) fn end(self) -> u64 {
        // It may have panicked; its end shows that.
        let _ = self.stop.send(());
        self.thread.join().expect("an attack goes on to its end");
        self.count.load(Ordering::Relaxed)
    }

    /// Watches of keys that nobody changes: 134 connections with 500 each. Counts answers.
    pub(crate) fn watches(transport: Arc<dyn Transport>, address: String, seen: Revision) -> Self {
        Self::begin(async move |tally| {
            let mut crowd = JoinSet::new();
            for _ in 0..WATCHING {
                let ends = connect(&*transport, &address).await;
                crowd.spawn(watch(ends, seen, tally.clone()));
            }
            crowd.join_all().await;
            unreachable!("watches are answered for ever");
        })
    }

    /// Two clients that scan again and again: one reads all keys with their values, the other only keys. Counts
    /// records.
    pub(crate) fn scanners(transport: Arc<dyn Transport>, address: String) -> Self {
        Self::begin(async move |tally| {
            let client = Client::builder("kv").transport(transport).address(address).connect();
            let client = client.await.expect("it is let in");
            let scan = async |keys_only: bool| {
                loop {
                    let scan = client.scan("");
                    let scan = if keys_only { scan.keys_only() } else { scan };
                    let mut records = std::pin::pin!(scan.stream());
                    // An error is its own: it asks for more than it gets.
                    while let Some(Ok(_)) = futures::StreamExt::next(&mut records).await {
                        tally.one();
                    }
                }
            };
            tokio::join!(scan(true), scan(false));
        })
    }

    /// Transactions of a million steps, far more than there may be. Counts them.
    pub(crate) fn empty_steps(transport: Arc<dyn Transport>, address: String) -> Self {
        Self::begin(async move |tally| {
            let then = std::iter::repeat_with(|| TransactionStep::Delete { key: "".into() })
                .take(EMPTY_STEPS)
                .collect();
            let transaction = TransactionRequest { conditions: Vec::new(), then, otherwise: Vec::new() };
            let request = Request {
                session: SessionId::new(1),
                number: RequestNumber::new(1),
                acked_through: RequestNumber::ZERO,
                operation: Operation::Command(Command::Transaction(transaction)),
            };
            let request = request.encode();
            let mut crowd = JoinSet::new();
            for _ in 0..EMPTY {
                let (transport, address) = (transport.clone(), address.clone());
                let (request, tally) = (request.clone(), tally.clone());
                crowd.spawn(async move {
                    let mut ends = connect(&*transport, &address).await;
                    // A number that was there before is not answered.
                    for call in 1.. {
                        let what = ClientCall::Write(request.clone());
                        ends.1.push(wire::encode_client_message(&ClientMessage { call, what }));
                        let answered = async {
                            ends.1.flush().await.ok()?;
                            ends.0.read_server_message().await.ok()?
                        };
                        match answered.await.map(|message| message.answer) {
                            Some(Answer::Refused(reason)) if reason.contains("not a request") => {
                                tally.one();
                            }
                            Some(Answer::Overloaded) => {}
                            Some(other) => panic!("it is not refused: {other:?}"),
                            // A member that closes is within its rights.
                            None => ends = connect(&*transport, &address).await,
                        }
                    }
                });
            }
            crowd.join_all().await;
        })
    }

    /// Strangers that begin 5,000 TLS handshakes per second and complete none. Counts them.
    pub(crate) fn handshakes_over_tcp(identity: &Identity, address: String) -> Self {
        let config = identity.client_config(b"kvt/1");
        let mut hello = Vec::new();
        let mut tls = rustls::ClientConnection::new(config, "kv".try_into().unwrap()).unwrap();
        tls.write_tls(&mut hello).unwrap();
        let (hello, address): (Arc<[u8]>, SocketAddr) = (hello.into(), address.parse().unwrap());
        Self::begin(async move |tally| {
            let mut kept = VecDeque::new();
            let mut opening = JoinSet::<Option<TcpStream>>::new();
            let mut tick = interval(TICK);
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            for number in 0.. {
                if number % EACH_TICK == 0 {
                    tick.tick().await;
                }
                while let Some(opened) = opening.try_join_next() {
                    kept.extend(opened.ok().flatten());
                }
                if opening.len() >= KEPT {
                    kept.extend(opening.join_next().await.and_then(|opened| opened.ok().flatten()));
                }
                kept.drain(..kept.len().saturating_sub(KEPT));
                let (hello, tally, from) = (hello.clone(), tally.clone(), source(number));
                opening.spawn(async move {
                    let socket = TcpSocket::new_v4().ok()?;
                    socket.bind(from).ok()?;
                    let mut stream = timeout(AGAIN, socket.connect(address)).await.ok()?.ok()?;
                    stream.write_all(&hello).await.ok()?;
                    tally.one();
                    Some(stream)
                });
            }
        })
    }

    /// Strangers that send the first datagrams of 5,000 QUIC handshakes per second, and a few that continue theirs as
    /// far as they can. Counts them.
    pub(crate) fn handshakes_over_quic(address: String) -> Self {
        Self::begin(async move |tally| {
            let first = raw::first_datagrams(DATAGRAMS).await;
            let mut sockets = Vec::new();
            for number in 0..u32::from(SOURCES) {
                sockets.push(UdpSocket::bind(source(number)).await.unwrap());
            }
            let endpoint = raw::endpoint();
            let mut dialling = JoinSet::new();
            let mut tick = interval(TICK);
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            for (number, datagram) in (0..).zip(first.iter().cycle()) {
                if number % EACH_TICK == 0 {
                    tick.tick().await;
                }
                while dialling.len() < DIALLERS {
                    let (endpoint, address, tally) = (endpoint.clone(), address.clone(), tally.clone());
                    dialling.spawn(async move {
                        let _ = timeout(AGAIN, raw::dial(&endpoint, &address)).await;
                        tally.one();
                    });
                }
                while dialling.try_join_next().is_some() {}
                let socket = &sockets[number as usize % sockets.len()];
                if socket.send_to(datagram, &address).await.is_ok() {
                    tally.one();
                }
            }
        })
    }
}

/// This thread runs only while a core has nothing else to do; where the program `chrt` is missing, it is at least nicer
/// than others. (On Linux both count for this thread alone.)
fn give_way() {
    rustix::process::nice(GIVES_WAY).expect("one may always be nicer");
    let thread = std::fs::read_link("/proc/thread-self").expect("Linux has it");
    let thread = thread.file_name().and_then(|id| id.to_str()).expect("it ends with the thread's id");
    if let Err(error) = attempt("chrt", &["--idle", "--pid", "0", thread]) {
        println!("  the attack takes time from the members: {error}");
    }
}

/// Where a stranger comes from: not from a member's address.
fn source(number: u32) -> SocketAddr {
    let host = u8::try_from(number % u32::from(SOURCES)).expect("few") + 1;
    (Ipv4Addr::new(127, 0, 1, host), 0).into()
}

type Ends = (FrameReader<Reader>, FrameWriter<Writer>);

/// A client's connection, on which anything can be sent.
async fn connect(transport: &dyn Transport, address: &str) -> Ends {
    loop {
        // Too many come at once, or it has too many.
        sleep(TICK).await;
        let Ok(connection) = transport.connect(address, Lane::Client).await else { continue };
        let mut ends = (FrameReader::new(connection.reader, 0), FrameWriter::new(connection.writer));
        ends.1.push(wire::encode_hello(&Hello::client(ClusterId::of_name("kv"), "attacker")));
        if ends.1.flush().await.is_err() {
            continue;
        }
        if let Ok(HelloReply::Ok(_)) = ends.0.read_hello_reply().await {
            ends.0.set_max_frame(wire::DEFAULT_MAX_FRAME);
            return ends;
        }
    }
}

/// Opens as many watches as a connection may have, and repeats the answered ones.
async fn watch((mut reader, mut writer): Ends, seen: Revision, tally: Tally) {
    let query = WatchQuery {
        from: "elsewhere/".into(),
        to: Some("elsewhere0".into()),
        after: Some(Position::after(seen)),
        previous: false,
    };
    let ask = |call| {
        let what = ClientCall::Watch(query.clone());
        wire::encode_client_message(&ClientMessage { call, what })
    };
    let mut next = 0;
    let mut due = WATCHES;
    loop {
        for _ in 0..std::mem::take(&mut due) {
            next += 1;
            writer.push(ask(next));
        }
        writer.push(wire::encode_alive());
        writer.flush().await.expect("a member reads");
        let pause = sleep(AGAIN);
        let mut pause = std::pin::pin!(pause);
        loop {
            tokio::select! {
                message = reader.read_server_message() => {
                    message.expect("it stays open").expect("it stays open");
                    tally.one();
                    due += 1;
                }
                () = &mut pause => break,
            }
        }
    }
}
