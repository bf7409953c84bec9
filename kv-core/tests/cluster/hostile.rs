//! Malicious or faulty peers and clients. A normal client continues to work meanwhile.

use super::harness::{Harness, Net, eventually, id, options, patient_options};
use super::load::Load;
use super::refusals::{Ends, ask, assert_closed, say_hello};
use bytes::{BufMut, Bytes, BytesMut};
use kv_core::config::{FixedOptions, Role};
use kv_core::error::WriteError;
use kv_core::ids::{
    self, Anchor, ClusterId, Hash, Op, RequestNumber, Revision, Round, SessionId, Timestamp, View,
};
use kv_core::message::{
    Age, Answer, Chunk, ChunkEnd, ClientCall, ClientMessage, Command, Effect, Entry, EntryHeader, Extent,
    FetchWhat, FormationStep, LogSummary, Message, Moment, Operation, Outcome, Position, Query, ReadMode,
    Rejection, Request, ServerMessage, WatchQuery, body_of,
};
use kv_core::transport::{Connection, Lane};
use kv_core::wire::{
    self, Caller, FrameReader, FrameWriter, Hello, HelloReply, Kind, MAX_HELLO, PROTOCOL, VersionRange,
    WireError,
};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, sleep, timeout};
use xxhash_rust::xxh3::xxh3_64;

/// Counters from here on are nobody's.
const FAR: u64 = 1 << 62;
/// A connection that is to be closed is closed before this; the longest that is waited for at the other end is a third.
const SOON: Duration = Duration::from_secs(30);

/// A frame with any body, or a header that announces another length, under right checksums.
fn frame(kind: u8, body: &[u8], announced: Option<u32>) -> Bytes {
    let mut out = BytesMut::new();
    out.put_slice(b"kvfr");
    out.put_u8(kind);
    out.put_uint_le(0, 3);
    out.put_u32_le(announced.unwrap_or_else(|| u32::try_from(body.len()).expect("short")));
    out.put_u64_le(xxh3_64(body));
    let checksum = xxh3_64(&out);
    out.put_u64_le(checksum);
    out.put_slice(body);
    out.freeze()
}

/// Writes, and ignores that the connection may be closed meanwhile.
async fn send(writer: &mut FrameWriter<kv_core::transport::Writer>, bytes: Bytes) {
    writer.push(bytes);
    let _ = writer.flush().await;
}

/// The member closes the connection, whatever signs of life or answers come before.
async fn assert_ends(what: &str, (mut reader, _writer): Ends, kind: Kind) {
    let end = async { while let Ok(Some(_)) = reader.read(kind).await {} };
    timeout(SOON, end).await.unwrap_or_else(|_| panic!("it is not closed: {what}"));
}

fn clients_hello() -> Hello {
    Hello::client(ClusterId::of_name("test"), "hostile")
}

/// Two members that serve, and an impostor in the place of the third.
struct Impostor {
    harness: Harness,
    /// The hash of the member list: a member sends it to the process at the third member's address.
    fingerprint: Hash,
}

impl Impostor {
    /// The third is a member with this role.
    async fn start(net: Net, role: Role) -> Self {
        let mut harness = Harness::with(net, &[Role::Data, Role::Data, role], options()).await;
        harness.kill(2);
        let address = harness.address(2);
        // A dropped node releases its address a moment later.
        let mut listener = None;
        eventually("the address is free", async || {
            listener = harness.net.transport(&address).bind(&address).await.ok();
            listener.is_some()
        })
        .await;
        let mut listener = listener.expect("it is free");
        let fingerprint = loop {
            let Connection { reader, .. } = listener.accept().await.expect("they call");
            // One that was closed meanwhile sends nothing.
            let Ok(hello) = FrameReader::new(reader, 0).read_hello().await else { continue };
            let Caller::Member { fingerprint, .. } = hello.caller else { panic!("{hello:?}") };
            break fingerprint;
        };
        harness.level_enough().await;
        Self { harness, fingerprint }
    }

    fn hello(&self, to: usize, lane: Lane) -> Hello {
        let (fingerprint, options) = (self.fingerprint, FixedOptions::from(&self.harness.options));
        let caller = Caller::Member { id: id(2), to: id(to), fingerprint, options, life: 1 };
        Hello { protocol: PROTOCOL, cluster: ClusterId::of_name("test"), lane, features: 0, caller }
    }

    /// A connection on which it is believed to be the third member.
    async fn connect(&self, to: usize, lane: Lane) -> Ends {
        let hello = self.hello(to, lane);
        let address = self.harness.address(2);
        let (reply, ends) = super::refusals::say_hello_from(&self.harness, &address, to, &hello).await;
        assert!(matches!(reply, HelloReply::Ok(_)), "{reply:?}");
        ends
    }
}

/// F-input-1: nonsense of all sorts before the hello is answered by nothing.
pub(crate) async fn f_input_1_garbage_before_the_hello_is_closed_without_an_answer(net: Net) {
    let harness = Harness::with(net, &[Role::Data], options()).await;
    let load = Load::start(&harness.client().await, 2);
    let transport = harness.net.transport("stranger");
    let mut random = fastrand::Rng::with_seed(1);
    let noise: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(100_000).collect();
    let hello = wire::encode_hello(&clients_hello());
    let damaged = |at: usize| {
        let mut hello = hello.to_vec();
        hello[at] ^= 1;
        hello
    };
    let garbage = [
        vec![0; 4096],
        vec![0xff; 4096],
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        [&[0x16, 3, 1, 2, 0, 1][..], &[7; 600]].concat(),
        noise,
        damaged(5),
        damaged(20),
        damaged(hello.len() - 1),
    ];
    for lane in Lane::ALL {
        for bytes in &garbage {
            let Connection { mut reader, mut writer, .. } =
                transport.connect(&harness.address(0), lane).await.expect("it connects");
            // Closing may be faster than writing.
            let _ = writer.write_all(bytes).await;
            let _ = writer.flush().await;
            timeout(SOON, assert_closed(&mut reader)).await.expect("it is closed");
        }
    }
    load.progress(10).await;
    load.check(&harness).await;
}

/// F-input-2: lengths that no frame has, before the hello and after it; the checksum of the header is right.
pub(crate) async fn f_input_2_lengths_that_no_frame_has_are_closed_at_the_header(net: Net) {
    let impostor = Impostor::start(net, Role::Data).await;
    let harness = &impostor.harness;
    let transport = harness.net.transport("stranger");
    let too_long = u32::try_from(MAX_HELLO + 1).expect("short");
    for (lane, len) in Lane::ALL.into_iter().zip([0, too_long, 1 << 31, u32::MAX]) {
        let Connection { mut reader, mut writer, .. } =
            transport.connect(&harness.address(0), lane).await.expect("it connects");
        let _ = writer.write_all(&frame(1, b"", Some(len))).await;
        let _ = writer.flush().await;
        timeout(SOON, assert_closed(&mut reader)).await.expect("it is closed");
    }
    for len in [0, u32::MAX] {
        let (_, mut ends) = say_hello(harness, 0, &clients_hello()).await;
        send(&mut ends.1, frame(4, b"", Some(len))).await;
        assert_ends("a client's length", ends, Kind::Server).await;
        let mut ends = impostor.connect(0, Lane::Log).await;
        send(&mut ends.1, frame(3, b"", Some(len))).await;
        assert_ends("a member's length", ends, Kind::Alive).await;
    }
    harness.client().await.put("key", "value").await.expect("a put");
}

/// F-input-3: a hello that arrives byte by byte is too late, and so is one that never ends.
pub(crate) async fn f_input_3_a_hello_that_takes_too_long_is_closed(net: Net) {
    let harness = Harness::with(net, &[Role::Data], options()).await;
    let transport = harness.net.transport("stranger");
    let hello = wire::encode_hello(&clients_hello());
    let slow = Lane::ALL.map(|lane| {
        let (transport, address, hello) = (transport.clone(), harness.address(0), hello.clone());
        async move {
            let Connection { mut reader, mut writer, .. } =
                transport.connect(&address, lane).await.expect("it connects");
            let dribble = async {
                for byte in &hello[..hello.len() - 1] {
                    if writer.write_all(&[*byte]).await.and(writer.flush().await).is_err() {
                        return;
                    }
                    sleep(Duration::from_millis(200)).await;
                }
            };
            let begin = Instant::now();
            tokio::select! {
                () = assert_closed(&mut reader) => {}
                () = async { dribble.await; std::future::pending().await } => {}
            }
            assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
        }
    });
    futures::future::join_all(slow).await;
    harness.client().await.put("key", "value").await.expect("a put");
}

fn entry(change: impl FnOnce(&mut EntryHeader)) -> Entry {
    let body = body_of([&Bytes::from_static(b"nonsense")]);
    let mut header = EntryHeader {
        cluster: ClusterId::of_name("test"),
        view: View::new(1),
        op: Op::new(1_000_000),
        parent: Hash::ZERO,
        first_revision: Revision::new(1_000_000),
        timestamp: Timestamp::new(1),
        request_count: 1,
        revision_count: 0,
        body_len: u32::try_from(body.len()).expect("short"),
        body_hash: Hash::of(&body),
    };
    change(&mut header);
    Entry { header, body }
}

/// F-input-5: numbers near the end of their range, from a peer that is accepted as a member.
pub(crate) async fn f_input_5_views_and_ops_near_the_maximum_close_the_link_and_change_nothing(net: Net) {
    let mut impostor = Impostor::start(net, Role::Data).await;
    impostor.harness.client().await.put("key", "value").await.expect("a put");
    impostor.harness.level().await;
    let before = [0, 1].map(|member| impostor.harness.status(member));
    let near = Anchor::ZERO;
    for far in [FAR, FAR + 1, i64::MAX as u64, u64::MAX] {
        let (view, op) = (View::new(far), Op::new(far));
        let (good, anchor) = (View::new(1), Anchor::new(op, Hash::ZERO));
        let messages = [
            Message::StartViewChange { view },
            Message::GetState { view, nonce: 1 },
            Message::Commit {
                view,
                commit: near,
                age: Age::default(),
                round: Round::ZERO,
                trim: Op::ZERO,
                fresh: None,
            },
            Message::Commit {
                view: good,
                commit: anchor,
                age: Age::default(),
                round: Round::ZERO,
                trim: Op::ZERO,
                fresh: None,
            },
            Message::Commit {
                view: good,
                commit: near,
                age: Age::default(),
                round: Round::new(far),
                trim: Op::ZERO,
                fresh: None,
            },
            Message::Commit {
                view: good,
                commit: near,
                age: Age::default(),
                round: Round::ZERO,
                trim: op,
                fresh: None,
            },
            Message::StartView { view, commit: near, hashes: Vec::new(), nonce: 0 },
            Message::StartView { view: good, commit: anchor, hashes: vec![(op, Hash::ZERO)], nonce: 0 },
            Message::PrepareOk { view, log: near },
            Message::PrepareOk { view: good, log: anchor },
            Message::Prepare { view: good, commit: near, entry: entry(|it| it.view = view) },
            Message::Prepare { view: good, commit: near, entry: entry(|it| it.op = op) },
            Message::Prepare {
                view: good,
                commit: near,
                entry: entry(|it| it.first_revision = Revision::new(far)),
            },
            Message::Prepare {
                view: good,
                commit: near,
                entry: entry(|it| it.timestamp = Timestamp::new(far)),
            },
            Message::Fetch { from: op, through: op, hash: None, nonce: 1, what: FetchWhat::Entries },
            Message::GetSnapshot { nonce: 1, at: Some(anchor), after: Some(Bytes::new()) },
        ];
        for message in messages {
            let mut ends = impostor.connect(0, message.lane()).await;
            send(&mut ends.1, wire::encode_message(&message)).await;
            assert_ends(&format!("{message:?}"), ends, Kind::Alive).await;
        }
    }
    let statuses = |harness: &Harness| [0, 1].map(|member| harness.status(member));
    let after = statuses(&impostor.harness);
    for (before, after) in before.iter().zip(&after) {
        assert_eq!((before.view, before.head, before.commit), (after.view, after.head, after.commit));
    }
    // What is on disk shows the same.
    impostor.harness.kill(0);
    impostor.harness.start(0).await;
    let client = impostor.harness.client().await;
    client.put("key", "value").await.expect("a put");
    for status in statuses(&impostor.harness) {
        assert!(status.view.get() < 1_000 && status.head.get() < 1_000, "{status:?}");
    }
}

/// A message of each kind that names a view, in `view`.
fn in_view(view: View) -> Vec<Message> {
    let (op, near) = (Op::new(1), Anchor::ZERO);
    let (age, round, trim) = (Age::default(), Round::ZERO, Op::ZERO);
    let log = LogSummary {
        log_view: view,
        checkpoint: near,
        commit: near,
        lacks: Vec::new(),
        head: near.op,
        suffix: Vec::new(),
        tail: Vec::new(),
        extent: Extent::Through(near.op),
    };
    let sent = Moment { life: 1, at: ids::Instant::new(1) };
    let chunk = Chunk::new(Bytes::new(), Bytes::from_static(b"rows"), ChunkEnd::Last);
    let messages = vec![
        Message::Prepare { view, commit: near, entry: entry(|it| it.view = view) },
        Message::PrepareOk { view, log: near },
        Message::Commit { view, commit: near, age, round, trim, fresh: None },
        Message::CommitOk { view, round, log: None, checkpoint: Op::ZERO, sent },
        Message::StartViewChange { view },
        Message::DoViewChange { view, log, ages: Vec::new() },
        Message::StartView { view, commit: near, hashes: vec![(op, Hash::ZERO)], nonce: 0 },
        Message::GetState { view, nonce: 1 },
        Message::SnapshotChunk { nonce: 1, view, at: near, chunk },
    ];
    assert!(messages.iter().all(|message| message.view() == Some(view)));
    messages
}

/// F-input-5: views of epochs that the members have not entered. A decoder accepts them, unless the number within the
/// epoch is near its end.
pub(crate) async fn f_input_5_views_of_other_epochs_change_nothing(net: Net) {
    let mut impostor = Impostor::start(net, Role::Data).await;
    impostor.harness.client().await.put("key", "value").await.expect("a put");
    impostor.harness.level().await;
    let epochs = [1, 2, (1 << 22) - 1].map(ids::Epoch::new);
    // Each member is the primary of one of these.
    let views = || epochs.into_iter().flat_map(|epoch| (0..3).map(move |number| View::of(epoch, number)));
    for lane in [Lane::Log, Lane::Control, Lane::Bulk] {
        let on_lane = |view: View| in_view(view).into_iter().filter(|message| message.lane() == lane);
        for to in [0, 1] {
            for number in [1 << 39, (1 << 40) - 1] {
                let mut ends = impostor.connect(to, lane).await;
                for message in views().flat_map(on_lane) {
                    let frame = wire::encode_message(&message);
                    assert_eq!(wire::decode_message(frame.clone()).ok().as_ref(), Some(&message));
                    send(&mut ends.1, frame).await;
                }
                // The frames before this one have been heard when it has closed the link.
                for message in on_lane(View::new(number)) {
                    assert!(wire::decode_message(wire::encode_message(&message)).is_err(), "{message:?}");
                    send(&mut ends.1, wire::encode_message(&message)).await;
                }
                assert_ends(&format!("a view of number {number:x}"), ends, Kind::Alive).await;
            }
        }
    }
    let client = impostor.harness.client().await;
    client.put("key", "another").await.expect("a put");
    impostor.harness.kill(0);
    impostor.harness.start(0).await;
    impostor.harness.client().await.put("key", "a third").await.expect("a put");
    for status in [0, 1].map(|member| impostor.harness.status(member)) {
        assert_eq!(status.view.epoch(), ids::Epoch::ZERO, "{status:?}");
    }
}

/// F-input-6: gaps, repetitions and floods of well-formed messages.
pub(crate) async fn f_input_6_gaps_and_floods_of_good_frames_are_survived(net: Net) {
    const FLOOD: usize = 20_000;
    let impostor = Impostor::start(net, Role::Data).await;
    let harness = &impostor.harness;
    let load = Load::start(&harness.client().await, 2);
    load.progress(10).await;
    let view = harness.status(0).view;
    let far = Anchor::new(Op::new(1_000_000_000), Hash::ZERO);
    let messages = [
        Message::Prepare { view, commit: far, entry: entry(|it| it.view = view) },
        Message::PrepareOk { view, log: far },
        Message::Fetch { from: Op::new(1), through: far.op, hash: None, nonce: 1, what: FetchWhat::Entries },
        Message::GetSnapshot { nonce: 1, at: None, after: Some(Bytes::new()) },
        Message::Formation { step: FormationStep::Empty, ask: true },
        Message::Commit {
            view,
            commit: far,
            age: Age::default(),
            round: Round::ZERO,
            trim: far.op,
            fresh: None,
        },
    ];
    let floods = messages.iter().flat_map(|message| [(message, 0), (message, 1)]).map(|(message, to)| {
        let impostor = &impostor;
        async move {
            // A newer connection of the same lane ends the one before it: so does this member's flood.
            let (_reader, mut writer) = impostor.connect(to, message.lane()).await;
            for _ in 0..FLOOD / 12 {
                writer.push(wire::encode_message(message));
                if writer.queued_bytes() > 64 << 10 && writer.flush().await.is_err() {
                    return;
                }
            }
            let _ = writer.flush().await;
        }
    });
    let progress = load.progress(50);
    let (_, _) = tokio::join!(futures::future::join_all(floods), progress);
    // And a client that asks on and on.
    let (_, (mut reader, mut writer)) = say_hello(harness, 0, &clients_hello()).await;
    let asking = async {
        for call in 1..=FLOOD as u64 {
            writer.push(wire::encode_client_message(&ClientMessage { call, what: ClientCall::Status }));
            if writer.queued_bytes() > 16 << 10 {
                writer.flush().await.expect("it is answered");
            }
        }
        writer.flush().await.expect("it is answered");
    };
    let hearing = async {
        for call in 1..=FLOOD as u64 {
            let answer = reader.read_server_message().await.expect("an answer").expect("an answer");
            assert_eq!(answer.call, call);
        }
    };
    tokio::join!(asking, hearing);
    load.progress(10).await;
    assert_eq!(load.check(harness).await, 0);
}

/// A request as a client would write it, and as it would not.
pub(crate) fn request(session: u64, number: u64, operation: Operation) -> ClientCall {
    let request = Request {
        session: SessionId::new(session),
        number: RequestNumber::new(number),
        acked_through: RequestNumber::ZERO,
        operation,
    };
    ClientCall::Write(request.encode())
}

fn put(session: u64, number: u64, value: &'static str) -> ClientCall {
    let put =
        Command::Put { key: "key".into(), value: value.into(), condition: None, life: Default::default() };
    request(session, number, Operation::Command(put))
}

/// Opens a session by hand, and returns its id.
async fn open_session((reader, writer): &mut Ends, call: u64) -> u64 {
    let what = request(0, 0, Operation::OpenSession { nonce: fastrand::u128(..) });
    match ask(reader, writer, ClientMessage { call, what }).await {
        Answer::Written(Ok(Outcome { effect: Effect::SessionOpened(session), .. })) => session.get(),
        other => panic!("{other:?}"),
    }
}

/// The position of the request with this number among the sent ones.
fn order_of(number: u64) -> usize {
    usize::try_from(number).expect("few") - 1
}

/// What the request with this number puts.
fn nth(number: u64) -> &'static str {
    ["a", "b", "c"][order_of(number)]
}

/// F-input-7: recorded frames are sent again, on the same connection and on others, in the same order and in another.
pub(crate) async fn f_input_7_replayed_frames_are_applied_once(net: Net) {
    let harness = Harness::with(net, &[Role::Data], options()).await;
    let (_, mut ends) = say_hello(&harness, 0, &clients_hello()).await;
    let session = open_session(&mut ends, 1).await;
    let mut outcomes = Vec::new();
    for number in 1..=3 {
        let what = put(session, number, nth(number));
        outcomes.push(ask(&mut ends.0, &mut ends.1, ClientMessage { call: 1 + number, what }).await);
    }
    for order in [[1, 2, 3], [3, 2, 1], [2, 2, 2]] {
        let (_, mut again) = say_hello(&harness, 0, &clients_hello()).await;
        for (call, number) in (1..).zip(order) {
            let what = put(session, number, nth(number));
            let answer = ask(&mut again.0, &mut again.1, ClientMessage { call, what }).await;
            assert_eq!(answer, outcomes[order_of(number)], "the stored outcome, bit for bit");
        }
    }
    // The same frame on the same connection is not answered; the next one is.
    let same = wire::encode_client_message(&ClientMessage { call: 4, what: put(session, 3, "c") });
    send(&mut ends.1, same).await;
    let status = ask(&mut ends.0, &mut ends.1, ClientMessage { call: 5, what: ClientCall::Status }).await;
    assert!(matches!(status, Answer::Status(_)), "{status:?}");
    let record = harness.client().await.get("key").await.expect("a get").expect("a record");
    assert_eq!((record.version, &record.value[..]), (3, &b"c"[..]));
}

/// One of each kind of frame, with the lane on which it would be right; of messages, one of each.
fn all_frames() -> Vec<(&'static str, Option<Lane>, Bytes)> {
    let (view, near) = (View::new(1), Anchor::ZERO);
    let point = kv_core::message::LogPoint {
        anchor: near,
        next_revision: Revision::new(1),
        timestamp: Timestamp::new(1),
    };
    let log = LogSummary {
        log_view: view,
        checkpoint: near,
        commit: near,
        head: Op::ZERO,
        suffix: Vec::new(),
        lacks: Vec::new(),
        tail: Vec::new(),
        extent: Extent::Through(Op::ZERO),
    };
    let rows = Bytes::from_static(b"rows");
    let chunk = Chunk::new(Bytes::new(), rows, ChunkEnd::Last);
    let messages = [
        Message::Prepare { view, commit: near, entry: entry(|_| {}) },
        Message::PrepareOk { view, log: near },
        Message::Commit {
            view,
            commit: near,
            age: Age::default(),
            round: Round::ZERO,
            trim: Op::ZERO,
            fresh: None,
        },
        Message::CommitOk {
            view,
            round: Round::ZERO,
            log: None,
            checkpoint: Op::ZERO,
            sent: Moment { life: 1, at: ids::Instant::ZERO },
        },
        Message::StartViewChange { view: View::new(1_000_000) },
        Message::DoViewChange { view: View::new(1_000_000), log, ages: Vec::new() },
        Message::StartView {
            view: View::new(1_000_000),
            commit: near,
            hashes: vec![(Op::new(1), Hash::ZERO)],
            nonce: 0,
        },
        Message::GetState { view: View::new(1_000_000), nonce: 1 },
        Message::Fetch {
            from: Op::new(1),
            through: Op::new(2),
            hash: None,
            nonce: 1,
            what: FetchWhat::Entries,
        },
        Message::Headers { nonce: 1, hashes: vec![(Op::new(1), Hash::ZERO)] },
        Message::NewState { nonce: 1, entries: vec![entry(|_| {})] },
        Message::TooOld { nonce: 1, checkpoint: point, primary_of: Some(View::new(1_000_000)) },
        Message::GetSnapshot { nonce: 1, at: None, after: Some(Bytes::new()) },
        Message::SnapshotChunk { nonce: 1, view, at: near, chunk },
        Message::SnapshotGone { nonce: 1, stateless: true },
        Message::Formation { step: FormationStep::Empty, ask: true },
    ];
    let mut all: Vec<_> = messages
        .iter()
        .map(|message| (message.name(), Some(message.lane()), wire::encode_message(message)))
        .collect();
    let call = |what| wire::encode_client_message(&ClientMessage { call: 1, what });
    let query = Query::Get { key: Bytes::from_static(b"key"), at: None };
    all.extend([
        ("Write", Some(Lane::Client), call(put(1, 1, "value"))),
        ("Read", Some(Lane::Client), call(ClientCall::Read { mode: ReadMode::Local, query })),
        ("Status", Some(Lane::Client), call(ClientCall::Status)),
        ("Handover", Some(Lane::Client), call(ClientCall::Handover { to: None })),
        ("Alive", Some(Lane::Client), wire::encode_alive()),
        ("Server", None, wire::encode_server_message(&ServerMessage { call: 1, answer: Answer::Done })),
        ("Hello", None, wire::encode_hello(&clients_hello())),
        (
            "HelloReply",
            None,
            wire::encode_hello_reply(&HelloReply::Refused { reason: "no".to_owned(), temporary: false }),
        ),
        ("a kind that nobody knows", None, frame(7, b"", None)),
        ("kind zero", None, frame(0, b"", None)),
    ]);
    all
}

/// F-input-9: whatever it is, a caller that has not sent a valid hello is not listened to.
pub(crate) async fn f_input_9_every_kind_from_a_stranger_is_denied(net: Net) {
    let harness = Harness::with(net, &[Role::Data], options()).await;
    harness.client().await.put("key", "value").await.expect("a put");
    let before = harness.status(0);
    let transport = harness.net.transport("stranger");
    for lane in Lane::ALL {
        for (name, _, bytes) in all_frames() {
            if name == "Hello" {
                continue; // That is what is expected: others try it on the wrong lane and with wrong contents.
            }
            let Connection { mut reader, mut writer, .. } =
                transport.connect(&harness.address(0), lane).await.expect("it connects");
            let _ = writer.write_all(&bytes).await;
            let _ = writer.flush().await;
            let closed = timeout(SOON, assert_closed(&mut reader)).await;
            closed.unwrap_or_else(|_| panic!("{name} on {lane} is not closed"));
        }
    }
    let after = harness.status(0);
    assert_eq!((after.view, after.head, &after.state), (before.view, before.head, &before.state));
}

/// F-input-9, F-input-4 within the protocol: a client does not speak as a member, a member not as a client, on no other
/// lane than its connection is for, and a witness not as a primary.
pub(crate) async fn f_input_9_every_kind_from_the_wrong_role_or_on_the_wrong_lane_is_denied(net: Net) {
    let impostor = Impostor::start(net, Role::Witness).await;
    let harness = &impostor.harness;
    harness.client().await.put("key", "value").await.expect("a put");
    let view = harness.status(0).view;
    for (name, right, bytes) in all_frames() {
        if right != Some(Lane::Client) {
            let (_, mut ends) = say_hello(harness, 0, &clients_hello()).await;
            send(&mut ends.1, bytes.clone()).await;
            assert_ends(&format!("{name} from a client"), ends, Kind::Server).await;
        }
        for lane in [Lane::Control, Lane::Log, Lane::Bulk] {
            let witness = !["Prepare", "Commit", "StartView", "SnapshotChunk"].contains(&name);
            if right == Some(lane) && witness {
                continue;
            }
            let mut ends = impostor.connect(0, lane).await;
            send(&mut ends.1, bytes.clone()).await;
            assert_ends(&format!("{name} from a witness on {lane}"), ends, Kind::Alive).await;
        }
    }
    assert_eq!(harness.status(0).view, view);
    harness.client().await.put("key", "value").await.expect("a put");
}

/// F-input-9: a hello on another lane than it names, a client's on a member's lane, a member's on the clients'.
pub(crate) async fn f_input_9_a_hello_on_the_wrong_lane_is_refused(net: Net) {
    let impostor = Impostor::start(net, Role::Data).await;
    let harness = &impostor.harness;
    let transport = harness.net.transport(&harness.address(2));
    for lane in Lane::ALL {
        let clients = Hello { lane, ..clients_hello() };
        let hellos =
            Lane::ALL.map(|lane| impostor.hello(0, lane)).into_iter().chain([clients, clients_hello()]);
        for hello in hellos {
            let right =
                hello.lane == lane && (lane == Lane::Client) == matches!(hello.caller, Caller::Client { .. });
            if right {
                continue;
            }
            let connection = transport.connect(&harness.address(0), lane).await.expect("it connects");
            let mut ends = (FrameReader::new(connection.reader, 0), FrameWriter::new(connection.writer));
            send(&mut ends.1, wire::encode_hello(&hello)).await;
            let reply = ends.0.read_hello_reply().await.expect("a reply");
            let HelloReply::Refused { reason, temporary: false } = reply else { panic!("let in: {hello:?}") };
            assert!(reason.contains("this kind of caller may not use lane"), "{reason}");
        }
    }
}

/// F-input-10: lists that claim to be endless, and lists in lists as deep as the message goes.
pub(crate) async fn f_input_10_endless_lists_are_refused(net: Net) {
    let impostor = Impostor::start(net, Role::Data).await;
    let harness = &impostor.harness;
    let endless = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
    // The last byte of each is the length of an empty list.
    let lists = [
        Message::Headers { nonce: 1, hashes: Vec::new() },
        Message::NewState { nonce: 1, entries: Vec::new() },
        Message::GetSnapshot { nonce: 1, at: None, after: Some(Bytes::new()) },
    ];
    for message in lists {
        for len in [&endless[..], &[0xff, 0xff, 0xff, 0xff, 7], &[0x80, 0x80, 4]] {
            let body = wire::encode_message(&message).slice(wire::HEADER_BYTES..);
            let body = [&body[..body.len() - 1], len, &[1; 1000]].concat();
            let mut ends = impostor.connect(0, message.lane()).await;
            send(&mut ends.1, frame(3, &body, None)).await;
            assert_ends(message.name(), ends, Kind::Alive).await;
        }
    }
    // A client's call, its request, and the key within: each claims to be longer than the frame.
    let write = wire::encode_client_message(&ClientMessage { call: 1, what: put(1, 1, "v") });
    let body = write.slice(wire::HEADER_BYTES..);
    let longer = [&body[..2], &endless, &body[3..]].concat();
    let (_, mut ends) = say_hello(harness, 0, &clients_hello()).await;
    send(&mut ends.1, frame(4, &longer, None)).await;
    assert_ends("a request of endless length", ends, Kind::Server).await;
    let (_, mut ends) = say_hello(harness, 0, &clients_hello()).await;
    // Session, number, acknowledged, a command, a put, and a key without an end.
    let what = ClientCall::Write([&[1, 1, 0, 2, 0][..], &endless, b"key"].concat().into());
    let answer = ask(&mut ends.0, &mut ends.1, ClientMessage { call: 1, what }).await;
    assert!(matches!(&answer, Answer::Refused(why) if why.contains("not a request")), "{answer:?}");
    harness.client().await.put("key", "value").await.expect("a put");
}

/// F-load-4, smaller than the drill: a silent crowd, a crowd that sends hellos, and both again and again. Those within
/// come to harm neither way, and afterwards there is room.
pub(crate) async fn f_load_4_a_storm_of_connections_is_capped_and_passes(net: Net) {
    const CROWD: usize = 300;
    let mut few = options();
    few.max_connections = 32;
    let harness = Harness::with(net, &[Role::Data], few).await;
    let load = Load::start(&harness.client().await, 2);
    load.progress(10).await;
    let transport = harness.net.transport("stranger");
    let hello = clients_hello();
    for _ in 0..3 {
        let mut silent = Vec::new();
        for _ in 0..CROWD {
            silent.extend(transport.connect(&harness.address(0), Lane::Client).await.ok());
        }
        let mut let_in = Vec::new();
        for _ in 0..64 {
            // With TLS, a member that is busy with the crowd may refuse a caller in the handshake already.
            let Ok(connection) = transport.connect(&harness.address(0), Lane::Client).await else { continue };
            let mut reader = FrameReader::new(connection.reader, 0);
            let mut writer = FrameWriter::new(connection.writer);
            send(&mut writer, wire::encode_hello(&hello)).await;
            match reader.read_hello_reply().await {
                Ok(HelloReply::Ok(_)) => let_in.push((reader, writer)),
                Ok(HelloReply::Refused { temporary, .. }) => assert!(temporary, "it may come again"),
                // More than are heard at once.
                Err(_) => {}
            }
        }
        assert!(let_in.len() < 32, "one place is the load's: {} were let in", let_in.len());
        load.progress(10).await;
    }
    eventually("there is room again", async || {
        matches!(say_hello(&harness, 0, &hello).await.0, HelloReply::Ok(_))
    })
    .await;
    assert_eq!(load.check(&harness).await, 0);
}

/// F-load-5: a client that asks for much and reads nothing is dropped: its place is free again. Nobody else notices.
pub(crate) async fn f_load_5_a_client_that_never_reads_is_dropped(net: Net) {
    let mut two = options();
    two.max_connections = 2;
    let harness = Harness::with(net, &[Role::Data], two).await;
    let client = harness.client().await;
    client.put("large", vec![7; 1 << 20]).await.expect("a put");
    let load = Load::start(&client, 2);
    let (reply, (_reader, mut writer)) = say_hello(&harness, 0, &clients_hello()).await;
    assert!(matches!(reply, HelloReply::Ok(_)), "{reply:?}");
    let query = Query::Scan {
        from: Bytes::new(),
        to: None,
        limit: u32::MAX,
        reverse: false,
        keys_only: false,
        at: None,
    };
    let deaf = async {
        for call in 1..1_000 {
            let what = ClientCall::Read { mode: ReadMode::Local, query: query.clone() };
            send(&mut writer, wire::encode_client_message(&ClientMessage { call, what })).await;
        }
        std::future::pending().await
    };
    let dropped = async {
        while !matches!(say_hello(&harness, 0, &clients_hello()).await.0, HelloReply::Ok(_)) {
            sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        it = timeout(2 * SOON, dropped) => it.expect("it is dropped"),
        () = deaf => {}
    }
    load.progress(100).await;
    drop(client);
    assert_eq!(load.check(&harness).await, 0);
}

/// F-load-9: one client sends more watches than all clients may park. The excess is refused, and its own reads and
/// another client's calls continue.
pub(crate) async fn f_load_9_parked_watches_do_not_delay_calls(net: Net) {
    let harness = Harness::with(net, &[Role::Data], options()).await;
    let client = harness.client().await;
    let seen = client.put("key", "value").await.expect("a put").revision;
    let query = WatchQuery {
        from: "elsewhere".into(),
        to: Some("elsewhere/".into()),
        after: Some(Position::after(seen)),
        previous: false,
    };
    let mut crowd = Vec::new();
    for _ in 0..134 {
        let (reply, mut ends) = say_hello(&harness, 0, &clients_hello()).await;
        assert!(matches!(reply, HelloReply::Ok(_)), "{reply:?}");
        for call in 1..=500 {
            let what = ClientCall::Watch(query.clone());
            ends.1.push(wire::encode_client_message(&ClientMessage { call, what }));
        }
        ends.1.flush().await.expect("it is read");
        crowd.push(ends);
    }
    let turned_away = async {
        loop {
            let (answers, _, _) = futures::future::select_all(
                crowd.iter_mut().map(|(reader, _)| Box::pin(reader.read_server_message())),
            )
            .await;
            let answer = answers.expect("it is open").expect("it is open").answer;
            if answer == Answer::Overloaded {
                return;
            }
        }
    };
    timeout(SOON, turned_away).await.expect("there are more than all may have");
    // Whoever has all these watches can still read: they take no places from calls.
    let query = Query::Get { key: "key".into(), at: None };
    let what = ClientCall::Read { mode: ReadMode::Local, query };
    let (reader, writer) = &mut crowd[0];
    let answer = timeout(SOON, ask(reader, writer, ClientMessage { call: 501, what })).await;
    assert!(matches!(answer, Ok(Answer::Value { record: Some(_), .. })), "{answer:?}");
    for n in 0..100 {
        client.put("key", n.to_string()).deadline(SOON).await.expect("a put");
        assert_eq!(
            client.get("key").deadline(SOON).await.expect("a get").expect("it is there").value,
            n.to_string()
        );
    }
}

/// A client that never completes its frame, and one that is idle and sends no heartbeats.
pub(crate) async fn f_input_3_a_client_that_sends_nothing_or_half_a_frame_is_closed(net: Net) {
    let mut impatient = options();
    impatient.client_idle_timeout = Duration::from_secs(1);
    let harness = Harness::with(net, &[Role::Data], impatient).await;
    // The library's client shows life.
    let quiet = harness.client().await;
    quiet.put("key", "value").await.expect("a put");
    let (_, silent) = say_hello(&harness, 0, &clients_hello()).await;
    let (_, mut half) = say_hello(&harness, 0, &clients_hello()).await;
    let write = wire::encode_client_message(&ClientMessage { call: 1, what: put(1, 1, "v") });
    send(&mut half.1, write.slice(..write.len() - 1)).await;
    tokio::join!(
        assert_ends("a silent client", silent, Kind::Server),
        assert_ends("half a frame", half, Kind::Server)
    );
    // Longer than a silent one is borne with, and on the same connection.
    quiet.put("key", "again").await.expect("a put");
}

/// F-conf-4, F-conf-3: versions without one in common are reported at both ends, and those with one meet there.
pub(crate) async fn f_conf_4_versions_meet_or_are_refused_with_the_reason(net: Net) {
    let harness = Harness::with(net, &[Role::Data], options()).await;
    let range = |min, max| VersionRange { min, max };
    let newest = PROTOCOL.max;
    for (protocol, meets) in [
        (range(newest, newest), true),
        (range(newest, newest + 1), true),
        (range(0, newest), true),
        (range(0, u16::MAX), true),
        (range(newest + 1, newest + 2), false),
        (range(0, 0), false),
        (range(newest + 1, newest - 1), false),
    ] {
        let (reply, _) = say_hello(&harness, 0, &Hello { protocol, ..clients_hello() }).await;
        match reply {
            HelloReply::Ok(welcome) => assert!(meets && welcome.protocol == newest, "{protocol}"),
            HelloReply::Refused { reason, temporary } => {
                assert!(!meets && !temporary, "{protocol}: {reason}");
                assert!(reason.contains("upgrade the older one"), "{reason}");
            }
        }
    }
    // The rest of another version's hello need not be understood.
    let connection = harness
        .net
        .transport("stranger")
        .connect(&harness.address(0), Lane::Client)
        .await
        .expect("it connects");
    let mut ends = (FrameReader::new(connection.reader, 0), FrameWriter::new(connection.writer));
    let later = [newest + 1, newest + 2].map(|version| u8::try_from(version).expect("one byte in a hello"));
    send(&mut ends.1, frame(1, &[&later, &b"whatever they say"[..]].concat(), None)).await;
    let reply = ends.0.read_hello_reply().await.expect("a reply");
    let theirs = format!("{} to {}", later[0], later[1]);
    assert!(matches!(&reply, HelloReply::Refused { reason, .. } if reason.contains(&theirs)), "{reply:?}");
}

/// F-conf-4: a member that answers with a version that was not offered is refused.
pub(crate) async fn f_conf_4_an_answer_in_another_version_is_an_error_at_the_caller(net: Net) {
    let unknown = PROTOCOL.max + 1;
    let harness = Harness::new(net, &[Role::Data], options());
    let address = harness.address(0);
    let mut listener = harness.net.transport(&address).bind(&address).await.expect("nobody is there");
    let connecting = tokio::spawn({
        let transport = harness.net.transport("client");
        let address = address.clone();
        async move {
            let builder = kv_core::Client::builder("test").address(address).transport(transport);
            builder.connect_timeout(Duration::from_secs(2)).connect().await
        }
    });
    while !connecting.is_finished() {
        let Ok(Ok(connection)) = timeout(Duration::from_millis(100), listener.accept()).await else {
            continue;
        };
        let mut ends = (FrameReader::new(connection.reader, 0), FrameWriter::new(connection.writer));
        if ends.0.read_hello().await.is_ok() {
            // `Ok`, the next version, and the contents of that version.
            let later = u8::try_from(unknown).expect("one byte in a hello");
            send(&mut ends.1, frame(2, &[&[0, later], &b"whatever it says"[..]].concat(), None)).await;
        }
    }
    let error = connecting.await.expect("it does not panic").expect_err("it cannot be gone on with");
    assert!(error.to_string().contains(&format!("protocol versions {unknown} to {unknown}")), "{error}");
    let wrong = WireError::Version { theirs: VersionRange::just(unknown), ours: PROTOCOL };
    assert!(error.to_string().contains(&wrong.to_string()), "{error}");
}

/// F-load-1: far more than a member takes in: it answers everything, most of it `Overloaded`, and is there for others
/// at once.
pub(crate) async fn f_load_1_excess_load_is_shed_and_has_no_lasting_effect(net: Net) {
    const CROWD: usize = 20;
    const CALLS: u64 = 40;
    let mut small = options();
    small.client_memory_bytes = 16 << 20;
    let harness = Harness::with(net, &[Role::Data], small).await;
    // Sessions first: opening one is shed like any other request.
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        let (_, mut ends) = say_hello(&harness, 0, &clients_hello()).await;
        let session = open_session(&mut ends, 1).await;
        crowd.push((session, ends));
    }
    let crowd = crowd.into_iter().map(|(session, (mut reader, mut writer))| async move {
        let asking = async {
            for number in 1..=CALLS {
                let value = vec![7; 256 << 10].into();
                let put =
                    Command::Put { key: "overload".into(), value, condition: None, life: Default::default() };
                let what = request(session, number, Operation::Command(put));
                writer.push(wire::encode_client_message(&ClientMessage { call: 1 + number, what }));
                writer.flush().await.expect("it is taken in time");
            }
        };
        let hearing = async {
            let mut shed = 0;
            for _ in 1..=CALLS {
                match reader.read_server_message().await.expect("an answer").expect("an answer").answer {
                    Answer::Written(Ok(_)) => {}
                    Answer::Overloaded => shed += 1,
                    other => panic!("{other:?}"),
                }
            }
            shed
        };
        tokio::join!(asking, hearing).1
    });
    let shed: u64 = futures::future::join_all(crowd).await.into_iter().sum();
    let all = CROWD as u64 * CALLS;
    println!("{shed} of {all} were shed");
    let after = timeout(Duration::from_secs(10), async { harness.client().await.put("key", "value").await });
    after.await.expect("within ten seconds").expect("a put");
    let record = harness.client().await.get("overload").await.expect("a get").expect("a record");
    assert_eq!(record.version, all - shed, "what was shed was not done, and everything else was");
}

/// F-load-6: there are more sessions than allowed: those that were silent longest are evicted, the same on every
/// member. Their requests do not run again.
pub(crate) async fn f_load_6_a_full_session_table_evicts_the_most_silent_and_repeats_nothing(net: Net) {
    const ROOM: u64 = 8;
    const OPENED: u64 = 20;
    // No view changes but for the handover: this test speaks to one member, and repeats nothing that was abandoned.
    let mut few = patient_options();
    few.max_sessions = usize::try_from(ROOM).expect("few");
    let harness = Harness::with(net, &[Role::Data; 3], few).await;
    let primary = harness.primary().await;
    let (_, mut ends) = say_hello(&harness, primary, &clients_hello()).await;
    let write = |session: u64, key: u64| {
        let put = Command::Put {
            key: format!("key/{key}").into(),
            value: "value".into(),
            condition: None,
            life: Default::default(),
        };
        request(session, 1, Operation::Command(put))
    };
    let mut call = 0;
    let mut sessions = Vec::new();
    for key in 0..OPENED {
        let session = open_session(&mut ends, call + 1).await;
        call += 2;
        let answer = ask(&mut ends.0, &mut ends.1, ClientMessage { call, what: write(session, key) }).await;
        assert!(matches!(answer, Answer::Written(Ok(_))), "{answer:?}");
        sessions.push((session, key, answer));
    }
    harness.node(primary).handover().await.expect("another takes over");
    let next = harness.primary().await;
    for member in [next, next] {
        let (_, mut ends) = say_hello(&harness, member, &clients_hello()).await;
        for (call, (session, key, first)) in (1..).zip(&sessions) {
            let what = write(*session, *key);
            let again = ask(&mut ends.0, &mut ends.1, ClientMessage { call: 2 * call, what }).await;
            // A client whose session was evicted may still get the outcome from memory.
            let gone = *key < OPENED - ROOM;
            let expired = Answer::Written(Err(Rejection::SessionExpired));
            assert!(again == *first || gone && again == expired, "session {key}: {again:?}");
            // But it can do nothing new.
            let close = request(
                *session,
                2,
                Operation::Command(Command::Delete { key: "none".into(), condition: None }),
            );
            let new = ask(&mut ends.0, &mut ends.1, ClientMessage { call: 2 * call + 1, what: close }).await;
            assert_eq!(new == expired, gone, "session {key}: {new:?}");
        }
    }
    let client = harness.client().await;
    for key in 0..OPENED {
        let record = client.get(format!("key/{key}")).await.expect("a get").expect("a record");
        assert_eq!(record.version, 1, "key {key}");
    }
}

/// F-load-6, rule E5: many clients share few sessions. A client whose session was evicted repeats, in a new session,
/// only requests that certainly did not run. So each add is applied once.
pub(crate) async fn f_load_6_many_clients_share_few_sessions_and_none_is_refused(net: Net) {
    const CLIENTS: i64 = 12;
    const ADDS: i64 = 8;
    let mut few = options();
    few.max_sessions = 4;
    let harness = Harness::with(net, &[Role::Data; 3], few).await;
    harness.primary().await;
    let mut work = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        let client = harness.client().await;
        work.spawn(async move {
            let mut unknown = 0;
            for _ in 0..ADDS {
                match client.add("sum", 1).await {
                    Ok(_) => {}
                    // On a busy machine an attempt is sent again before it is answered: then nobody knows.
                    Err(WriteError::OutcomeUnknown(_)) => unknown += 1,
                    Err(error) => panic!("it can be sent under the next session: {error}"),
                }
            }
            unknown
        });
    }
    let mut unknown = 0;
    while let Some(done) = work.join_next().await {
        unknown += done.expect("no client fails");
    }
    let sum = harness.client().await.add("sum", 0).await.expect("an add");
    let all = CLIENTS * ADDS;
    assert!(sum.sum <= all && sum.sum >= all - unknown, "{} of {all}, unknown: {unknown}", sum.sum);
}
