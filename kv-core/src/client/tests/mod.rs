//! The client against members with scripted answers.

mod calls;
mod connections;
mod lists;
mod reads;

use super::*;
use crate::config::{FixedOptions, Options, Role};
use crate::error::{AdminError, ConnectError, ReadError, WriteError};
use crate::ids::{Epoch, Hash, MemberId, Op, RequestNumber, Revision, SessionId, Timestamp, View};
use crate::message::{
    Answer, ClientCall, ClientMessage, Command, Condition, Effect, Load, MemberState, MemberStatus,
    Operation, Outcome, Query, ReadMode, Record, Request, ServerMessage, SuccessorRefusal,
};
use crate::wire::{self, Expectation, FrameReader, FrameWriter, HelloReply, Limits, MemberInfo, Welcome};
use bytes::Bytes;
use kv_transport::{Connection, Listener, Memory, Transport};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

const A: MemberId = MemberId::new(0);
const B: MemberId = MemberId::new(1);
const C: MemberId = MemberId::new(2);

/// Three data members whose answers the test supplies.
struct Cluster {
    network: Memory,
    members: Vec<JoinHandle<()>>,
    calls: mpsc::UnboundedReceiver<Incoming>,
    sender: mpsc::UnboundedSender<Incoming>,
}

/// A call that has reached a member.
#[derive(Debug)]
struct Incoming {
    member: MemberId,
    message: ClientMessage,
    /// To answer on the same connection; `None` closes it.
    answers: mpsc::UnboundedSender<Option<ServerMessage>>,
}

fn expectation(me: MemberId) -> Expectation {
    let info = |id: MemberId| MemberInfo { id, address: address(id), role: Role::Data };
    Expectation {
        cluster: "test".into(),
        me,
        members: [A, B, C].map(info).to_vec(),
        epoch: Epoch::ZERO,
        former: Vec::new(),
        fingerprint: Hash::ZERO,
        options: FixedOptions::from(&Options::default()),
        life: 1,
        authenticated: false,
        limits: Limits {
            max_key_bytes: 100,
            max_value_bytes: 1000,
            max_in_flight_per_session: 16,
            session_ttl: Duration::from_secs(600),
            client_idle_timeout: Duration::from_secs(60),
        },
    }
}

fn address(id: MemberId) -> String {
    format!("member-{id}:7000")
}

impl Cluster {
    async fn start() -> Self {
        let (sender, calls) = mpsc::unbounded_channel();
        let mut cluster = Self { network: Memory::new(), members: Vec::new(), calls, sender };
        for id in [A, B, C] {
            cluster.add(&address(id), expectation(id)).await;
        }
        cluster
    }

    /// Adds a member that listens there.
    async fn add(&mut self, address: &str, expectation: Expectation) {
        let listener = self.network.bind(address).await.unwrap();
        self.members.push(tokio::spawn(serve(listener, expectation, self.sender.clone())));
    }

    /// Answers calls until this future is dropped. What gets `None` is not answered.
    async fn answer_all(&mut self, mut answer: impl FnMut(MemberId, &ClientCall) -> Option<Answer>) {
        loop {
            let incoming = self.next().await;
            if let Some(answer) = answer(incoming.member, &incoming.message.what) {
                incoming.answer(answer);
            }
        }
    }

    /// A client that knows the address of A.
    async fn client(&self) -> Client {
        self.builder().connect().await.unwrap()
    }

    fn builder(&self) -> ClientBuilder {
        // With this seed A is asked first.
        let seed = (0..).find(|seed| fastrand::Rng::with_seed(*seed).usize(..3) == 0).unwrap();
        Client::builder("test").address(address(A)).transport(Arc::new(self.network.clone())).seed(seed)
    }

    /// The next call that reaches any member.
    async fn next(&mut self) -> Incoming {
        let next = tokio::time::timeout(Duration::from_secs(60), self.calls.recv());
        next.await.expect("no call came").expect("the cluster keeps a sender")
    }

    /// No call is on its way.
    async fn quiet(&mut self) {
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        assert!(self.calls.try_recv().is_err(), "no call was due");
    }

    /// Answers the opening of a session that comes next.
    async fn open_session(&mut self, session: u64) {
        let open = self.next().await;
        assert!(matches!(open.request().operation, Operation::OpenSession { .. }), "{open:?}");
        open.written(1, Effect::SessionOpened(SessionId::new(session)));
    }

    /// Member `id` goes away with all its connections, and its address refuses.
    async fn kill(&mut self, id: MemberId) {
        let member = &mut self.members[usize::from(id.get())];
        member.abort();
        assert!(member.await.unwrap_err().is_cancelled());
    }
}

/// Accepts connections and passes calls on. Ends with all its connections.
async fn serve(
    listener: Box<dyn Listener>,
    expectation: Expectation,
    calls: mpsc::UnboundedSender<Incoming>,
) {
    serve_version(wire::PROTOCOL.max, listener, expectation, calls).await;
}

/// The same, with this version of the protocol.
async fn serve_version(
    version: u16,
    mut listener: Box<dyn Listener>,
    expectation: Expectation,
    calls: mpsc::UnboundedSender<Incoming>,
) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok(connection) = listener.accept().await {
        connections.spawn(converse(version, connection, expectation.clone(), calls.clone()));
    }
}

async fn converse(
    version: u16,
    connection: Connection,
    expectation: Expectation,
    calls: mpsc::UnboundedSender<Incoming>,
) {
    let Connection { lane, peer, reader, writer, .. } = connection;
    let (mut reader, mut writer) = (FrameReader::new(reader, 1 << 20), FrameWriter::new(writer));
    let hello = reader.read_hello().await.unwrap();
    let (reply, refused) = match expectation.check(&hello, lane, &peer) {
        Ok(welcome) => (HelloReply::Ok(Welcome { protocol: version, ..welcome }), false),
        Err(refusal) => ((&refusal).into(), true),
    };
    writer.push(wire::encode_hello_reply(&reply));
    writer.flush().await.unwrap();
    if refused {
        return;
    }
    let (answers, mut to_send) = mpsc::unbounded_channel();
    let reading = async {
        while let Ok(Some(message)) = reader.read_client_message().await {
            let _ = calls.send(Incoming { member: expectation.me, message, answers: answers.clone() });
        }
    };
    let writing = async {
        while let Some(Some(answer)) = to_send.recv().await {
            writer.push(wire::encode_server_message(&answer));
            if writer.flush().await.is_err() {
                return;
            }
        }
    };
    tokio::select! { () = reading => {}, () = writing => {} }
}

impl Incoming {
    fn request(&self) -> Request {
        let ClientCall::Write(bytes) = &self.message.what else { panic!("not a write: {self:?}") };
        Request::decode(bytes).unwrap()
    }

    fn answer(&self, answer: Answer) {
        let _ = self.answers.send(Some(ServerMessage { call: self.message.call, answer }));
    }

    /// Breaks the connection on which it came.
    fn hang_up(&self) {
        let _ = self.answers.send(None);
    }

    fn written(&self, revision: u64, effect: Effect) {
        let (revision, timestamp) = (Revision::new(revision), Timestamp::new(77));
        self.answer(Answer::Written(Ok(Outcome { revision, timestamp, effect })));
    }

    /// Asserts that it is this request, at this member.
    #[track_caller]
    fn assert_write(&self, member: MemberId, session: u64, number: u64, acked: u64, command: Command) {
        assert_eq!(self.member, member);
        let expected = Request {
            session: SessionId::new(session),
            number: RequestNumber::new(number),
            acked_through: RequestNumber::new(acked),
            operation: Operation::Command(command),
        };
        assert_eq!(self.request(), expected);
    }
}

fn put(key: &'static str, value: &'static str) -> Command {
    Command::Put { key: key.into(), value: value.into(), condition: None, life: Default::default() }
}

fn record(value: &'static str, revision: u64) -> Record {
    let revision = Revision::new(revision);
    Record {
        value: value.into(),
        created: revision,
        modified: revision,
        version: 1,
        expires: None,
        lease: None,
    }
}

fn status(id: MemberId, state: MemberState, view: u64) -> MemberStatus {
    MemberStatus {
        id,
        role: Role::Data,
        state,
        view: View::new(view),
        primary: None,
        head: Op::ZERO,
        commit: Op::ZERO,
        applied: Op::ZERO,
        revision: Revision::ZERO,
        checkpoint: Op::ZERO,
        last_failover_ms: None,
        peers: Vec::new(),
        load: Load::default(),
        uptime_ms: 1,
        version: "0.1.0".to_owned(),
    }
}

/// A client of A whose session 9 is open, with its first put done.
async fn ready() -> (Cluster, Client) {
    let mut cluster = Cluster::start().await;
    let client = cluster.client().await;
    let write = spawn_put(&client, "first", "1");
    cluster.open_session(9).await;
    let first = cluster.next().await;
    first.assert_write(A, 9, 1, 0, put("first", "1"));
    first.written(10, Effect::Put);
    assert_eq!(write.await.unwrap().unwrap().revision, Revision::new(10));
    (cluster, client)
}

fn spawn_put(
    client: &Client,
    key: &'static str,
    value: &'static str,
) -> JoinHandle<Result<Written, WriteError>> {
    tokio::spawn(client.put(key, value).into_future())
}
