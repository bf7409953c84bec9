//! The wire layout: every message round-trips, and nothing else is accepted.

mod access;
mod extremes;
mod formats;
mod hello;
mod io;

use super::*;
use crate::config::{Change, Cluster, Configuration, DiskId, FixedOptions, HistoryId, Options, Role};
use crate::ids::{
    Anchor, ClusterId, Epoch, Hash, Instant, LeaseId, MemberId, Op, RequestNumber, Revision, Round,
    SessionId, Timestamp, View,
};
use crate::message::{
    Age, Answer, ChangeCall, Chunk, ChunkEnd, ClientCall, Command, Condition, Effect, Entry, EntryError,
    EntryHeader, Event, EventKind, Extent, FetchWhat, FormationStep, Fresh, Latencies, LeaseFailure,
    LeaseInfo, Lifetime, Load, LogPoint, LogSummary, MemberState, MemberStatus, MembersAnswer, Moment,
    Operation, Outcome, PeerStatus, Position, Query, ReadMode, Record, RefusalKind, Rejection, Request,
    Scanned, Slot, StepFailure, StepResult, SuccessorRefusal, WatchQuery, body_of,
};
use bytes::{BufMut, BytesMut};
use kv_transport::{Lane, Peer};
use std::time::Duration;

const FAR: u64 = 1 << 62;

fn anchor(op: u64) -> Anchor {
    Anchor::new(Op::new(op), Hash::of(&op.to_le_bytes()))
}

fn request(number: u64) -> Request {
    Request {
        session: SessionId::new(9),
        number: RequestNumber::new(number),
        acked_through: RequestNumber::new(number - 1),
        operation: Operation::Command(Command::Put {
            key: "key".into(),
            value: "value".into(),
            condition: Some(Condition::Revision(Revision::new(3))),
            life: Lifetime { ttl_ms: Some(10_000), lease: Some(LeaseId::new(4)) },
        }),
    }
}

fn entry(op: u64) -> Entry {
    let body = body_of([&request(1).encode(), &request(2).encode()]);
    let header = EntryHeader {
        cluster: ClusterId::of_name("test"),
        view: View::new(3),
        op: Op::new(op),
        parent: Hash::of(b"parent"),
        first_revision: Revision::new(2 * op),
        timestamp: Timestamp::new(1_700_000_000_000),
        request_count: 2,
        revision_count: 2,
        body_len: u32::try_from(body.len()).unwrap(),
        body_hash: Hash::of(&body),
    };
    Entry { header, body }
}

fn chunk(end: ChunkEnd) -> Chunk {
    Chunk::new("a".into(), "rows".into(), end)
}

/// Rule T2: a piece that was damaged in transit, or does not continue, is refused.
#[test]
fn t2_a_damaged_chunk_is_refused() {
    let mut damaged = chunk(ChunkEnd::More("b".into()));
    damaged.checksum = Hash::of(b"other rows");
    let backwards = chunk(ChunkEnd::More("a".into()));
    let mut long = chunk(ChunkEnd::Last);
    long = Chunk::new(vec![b'a'; 70 << 10].into(), long.rows, long.end);
    for chunk in [damaged, backwards, long] {
        let message = Message::SnapshotChunk { nonce: 1, view: View::new(3), at: anchor(4), chunk };
        assert!(decode_message(encode_message(&message)).is_err(), "{message:?}");
    }
}

/// A source steps over rows that nobody needs, and may find none in a piece.
#[test]
fn a_chunk_may_be_empty() {
    let Chunk { after, end, .. } = chunk(ChunkEnd::More("b".into()));
    let chunk = Chunk::new(after, Bytes::new(), end);
    let message = Message::SnapshotChunk { nonce: 1, view: View::new(3), at: anchor(4), chunk };
    assert_eq!(decode_message(encode_message(&message)).unwrap(), message);
}

/// The configuration of an epoch 1.
fn configuration() -> Configuration {
    let members = Cluster::builder("c").member(0, "a:1").witness(1, "b:1").member(2, "c:1").build().unwrap();
    let mut founding = Configuration::founding(&members);
    founding.members.get_mut(&MemberId::new(2)).unwrap().disk = Some(DiskId(7));
    let (epoch, first) = (Epoch::new(1), View::of(Epoch::new(1), 1));
    Configuration { epoch, first, history: Some(HistoryId(8)), stop: anchor(33), ..founding }
}

/// A change as a stop contains it.
fn next_configuration() -> Configuration {
    Configuration { stop: Anchor::ZERO, ..configuration() }
}

fn messages() -> Vec<Message> {
    let view = View::new(7);
    let hashes: Vec<_> = (4..9).map(|op| (Op::new(op), Hash::of(&[1]))).collect();
    let log = LogSummary {
        log_view: View::new(6),
        checkpoint: anchor(2),
        commit: anchor(3),
        lacks: Vec::new(),
        head: Op::new(6),
        suffix: vec![Slot::Present(Hash::of(b"4")), Slot::Faulty(Some(Hash::of(b"5"))), Slot::Faulty(None)],
        tail: vec![(Op::new(9), Slot::Present(Hash::of(b"9")))],
        extent: Extent::Open,
    };
    let (from, through) = (Op::new(3), Op::new(9));
    let moment = Moment { life: u64::MAX, at: Instant::new(7) };
    let fresh = Some(Fresh { op: Op::new(5), since: moment });
    let long = Duration::new(u64::MAX, 999_999_999);
    let age = Age { least: long, followed: true, moved: Some(long) };
    vec![
        Message::Prepare { view, commit: anchor(4), entry: entry(5) },
        Message::PrepareOk { view, log: anchor(5) },
        Message::Commit { view, commit: anchor(5), age, round: Round::new(8), trim: Op::new(1), fresh },
        Message::CommitOk {
            view,
            round: Round::new(8),
            log: Some(anchor(5)),
            checkpoint: Op::new(4),
            sent: moment,
        },
        Message::StartViewChange { view },
        Message::DoViewChange { view, log, ages: vec![age] },
        Message::StartView { view, commit: anchor(3), hashes: hashes.clone(), nonce: u64::MAX },
        Message::GetState { view, nonce: u64::MAX },
        Message::TooOld {
            nonce: 1,
            checkpoint: LogPoint {
                anchor: anchor(4),
                next_revision: Revision::new(9),
                timestamp: Timestamp::new(1),
            },
            primary_of: Some(view),
        },
        Message::GetSnapshot { nonce: 2, at: Some(anchor(4)), after: Some("place".into()) },
        Message::GetSnapshot { nonce: 2, at: Some(anchor(4)), after: None },
        Message::SnapshotChunk {
            nonce: 2,
            view: View::new(3),
            at: anchor(4),
            chunk: chunk(ChunkEnd::More("b".into())),
        },
        Message::SnapshotChunk { nonce: 2, view: View::new(3), at: anchor(4), chunk: chunk(ChunkEnd::Last) },
        Message::SnapshotGone { nonce: 3, stateless: true },
        Message::StateDigest { op: Op::new(1024), digest: Hash::of(b"state") },
        Message::AskEpoch { epoch: Epoch::new(3), disk: DiskId(6) },
        Message::Epoch {
            configuration: Box::new(configuration()),
            settled: true,
            ended: 9,
            view: View::of(Epoch::new(1), 4),
            checkpoint: Some(LogPoint {
                anchor: anchor(40),
                next_revision: Revision::new(30),
                timestamp: Timestamp::new(1_700_000_000_000),
            }),
        },
        Message::Fetch { from, through, hash: Some(Hash::of(b"9")), nonce: 1, what: FetchWhat::Entries },
        Message::Headers { nonce: 1, hashes },
        Message::NewState { nonce: 1, entries: vec![entry(5), entry(6)] },
        Message::Formation { step: FormationStep::Formatted, ask: true },
    ]
}

fn client_messages() -> Vec<ClientMessage> {
    let get = Query::Get { key: "key".into(), at: None };
    let scan = Query::Scan {
        from: Bytes::new(),
        to: Some("z".into()),
        limit: 10,
        reverse: false,
        keys_only: false,
        at: None,
    };
    let past = Query::Many { keys: vec!["key".into()], at: Some(Revision::new(5)) };
    let calls = [
        ClientCall::Write(request(7).encode()),
        ClientCall::Read { mode: ReadMode::Linearizable, query: get },
        ClientCall::Read { mode: ReadMode::Local, query: scan },
        ClientCall::Read { mode: ReadMode::AtLeast(Revision::new(7)), query: past.clone() },
        ClientCall::Read { mode: ReadMode::MaxStaleness(Duration::from_millis(1500)), query: past },
        ClientCall::Read {
            mode: ReadMode::Local,
            query: Query::Count { from: "a".into(), to: None, at: Some(Revision::new(5)) },
        },
        ClientCall::Watch(WatchQuery {
            from: "a".into(),
            to: Some("b".into()),
            after: Some(Position { revision: Revision::new(9), key: Some("ab".into()) }),
            previous: true,
        }),
        ClientCall::Unwatch { call: 6 },
        ClientCall::Status,
        ClientCall::Handover { to: None },
        ClientCall::Handover { to: Some(MemberId::new(2)) },
        ClientCall::Members,
        ClientCall::Change(Box::new(ChangeCall {
            ends: Epoch::new(1),
            nonce: 1 << 100,
            change: Change::Add { id: MemberId::new(5), address: "e:1".to_owned(), role: Role::Data },
        })),
        ClientCall::Change(Box::new(ChangeCall {
            ends: Epoch::new(2),
            nonce: 6,
            change: Change::Remove { id: MemberId::new(0) },
        })),
    ];
    (1..).zip(calls).map(|(call, what)| ClientMessage { call, what }).collect()
}

fn server_messages() -> Vec<ServerMessage> {
    let (revision, timestamp) = (Revision::new(12), Timestamp::new(99));
    let (expires, lease) = (Some(timestamp), Some(LeaseId::new(6)));
    let (value, created) = ("value".into(), Revision::new(3));
    let record = Record { value, created, modified: revision, version: 2, expires, lease };
    let scanned = Scanned { records: vec![("key".into(), record.clone())], more: true };
    let results = vec![
        StepResult::Put,
        StepResult::Deleted { existed: false },
        StepResult::Added { sum: -1 },
        StepResult::Got(Some(Box::new(record.clone()))),
        StepResult::Got(None),
        StepResult::Scanned(Box::new(scanned)),
        StepResult::Touched { existed: true },
    ];
    let effects = [
        Effect::Transacted { succeeded: true, results },
        Effect::StepFailed { step: 2, why: StepFailure::ResponseTooLarge { max: 9 } },
        Effect::SessionOpened(SessionId::new(3)),
        Effect::LeaseGranted(LeaseId::new(4)),
        Effect::SessionClosed,
        Effect::Put,
        Effect::Deleted { existed: true },
        Effect::ConditionFailed { found: Some(Revision::new(4)) },
        Effect::Lease(LeaseInfo { ttl_ms: 100, deadline: timestamp, keys: 3 }),
        Effect::LeaseFailed(LeaseFailure::Unknown),
        Effect::Touched { existed: true },
        Effect::RevisionsSkipped { kept: 1 << 30 },
    ];
    let status = MemberStatus {
        id: MemberId::new(1),
        role: Role::Data,
        state: MemberState::Primary,
        view: View::new(3),
        primary: Some(MemberId::new(1)),
        head: Op::new(9),
        commit: Op::new(8),
        applied: Op::new(8),
        revision,
        checkpoint: Op::new(5),
        last_failover_ms: Some(120),
        peers: vec![PeerStatus { id: MemberId::new(2), acknowledged: Op::new(8), alive: true }],
        load: Load { clients: 2, watches: 1, reads: Latencies::new([0, 3]), writes: Latencies::default() },
        uptime_ms: 5000,
        version: "0.1.0".to_owned(),
    };
    let mut answers: Vec<_> = effects
        .into_iter()
        .map(|effect| Answer::Written(Ok(Outcome { revision, timestamp, effect })))
        .collect();
    answers.extend([
        Answer::Written(Err(Rejection::SessionExpired)),
        Answer::Written(Err(Rejection::ResultDropped)),
        Answer::Value { record: Some(record.clone()), revision },
        Answer::Records {
            records: vec![("key".into(), record.clone())],
            next: Some("next".into()),
            revision,
        },
        Answer::Watched {
            events: vec![Event {
                revision,
                key: "key".into(),
                kind: EventKind::Put,
                record: Some(record.clone()),
                previous: Some(record),
            }],
            next: Position::after(revision),
            more: true,
        },
        Answer::Compacted { oldest: revision },
        Answer::Future { newest: revision },
        Answer::Status(Box::new(status)),
        Answer::Done,
        Answer::NotPrimary { hint: Some(MemberId::new(2)) },
        Answer::Abandoned,
        Answer::Overloaded,
        Answer::Refused("too long".into()),
        Answer::Counted { count: 1 << 40, next: Some("next".into()), revision },
        Answer::HandoverRefused(SuccessorRefusal::Behind(MemberId::new(2))),
        Answer::Members(Box::new(MembersAnswer { configuration: configuration(), settled: true, ended: 1 })),
        Answer::ChangeRefused { kind: RefusalKind::Conflict, reason: "it is no standby".into() },
    ]);
    (1..).zip(answers).map(|(call, answer)| ServerMessage { call, answer }).collect()
}

#[test]
fn enums_are_printed_and_serialized_by_name_and_a_newer_state_is_unknown() {
    use MemberState::{Backup, CatchingUp, Damaged, Forming, Primary, Unknown, ViewChange};
    let names = ["forming", "primary", "backup", "view-change", "catching-up", "damaged", "unknown"];
    for (state, name) in
        [Forming, Primary, Backup, ViewChange, CatchingUp, Damaged, Unknown].into_iter().zip(names)
    {
        assert_eq!(state.to_string(), name);
        assert_eq!(serde_json::to_value(state).unwrap(), name);
        assert_eq!(serde_json::from_value::<MemberState>(name.into()).unwrap(), state);
    }
    assert_eq!(serde_json::from_value::<MemberState>("dreaming".into()).unwrap(), Unknown);
    for newer in 6..=127 {
        assert_eq!(postcard::from_bytes::<MemberState>(&[newer]).unwrap(), Unknown);
    }
    for (role, name) in [(Role::Data, "data"), (Role::Witness, "witness")] {
        assert_eq!((role.to_string(), serde_json::to_value(role).unwrap()), (name.to_owned(), name.into()));
    }
    for (kind, name) in
        [(EventKind::Put, "put"), (EventKind::Deleted, "deleted"), (EventKind::Expired, "expired")]
    {
        assert_eq!((kind.to_string(), serde_json::to_value(kind).unwrap()), (name.to_owned(), name.into()));
    }
    assert!(postcard::from_bytes::<Role>(&[2]).is_err(), "who can be primary is not guessed");
}

fn expectation() -> Expectation {
    let member = |id: u8, role: Role| MemberInfo {
        id: MemberId::new(id),
        address: format!("127.0.0.1:700{id}"),
        role,
    };
    Expectation {
        cluster: "test".into(),
        me: MemberId::new(0),
        members: vec![member(0, Role::Data), member(1, Role::Data), member(2, Role::Witness)],
        epoch: Epoch::ZERO,
        former: Vec::new(),
        fingerprint: Hash::of(b"configuration"),
        options: FixedOptions::from(&Options::default()),
        life: 1,
        authenticated: false,
        limits: Limits {
            max_key_bytes: 4096,
            max_value_bytes: 1 << 20,
            max_in_flight_per_session: 256,
            session_ttl: Duration::from_secs(600),
            client_idle_timeout: Duration::from_secs(60),
        },
    }
}

/// The expectation of the member that calls `expectation()`'s.
fn caller() -> Expectation {
    Expectation { me: MemberId::new(1), ..expectation() }
}

fn hellos() -> Vec<Hello> {
    let mut hellos = vec![Hello::client(ClusterId::of_name("test"), "someone")];
    hellos.extend(
        [Lane::Control, Lane::Log, Lane::Bulk].map(|lane| Hello::member(&caller(), MemberId::new(0), lane)),
    );
    hellos
}

fn replies() -> Vec<HelloReply> {
    let welcome = expectation()
        .check(&hellos()[0], Lane::Client, &Peer::Unauthenticated)
        .expect("the hello of a client of this cluster");
    vec![HelloReply::Ok(welcome), HelloReply::Refused { reason: "no".into(), temporary: true }]
}

/// One frame of everything, with the kind as which it is read.
fn frames() -> Vec<(Kind, Bytes)> {
    let mut frames: Vec<_> = messages().iter().map(|m| (Kind::Message, encode_message(m))).collect();
    frames.extend(client_messages().iter().map(|m| (Kind::Client, encode_client_message(m))));
    frames.extend(server_messages().iter().map(|m| (Kind::Server, encode_server_message(m))));
    frames.extend(hellos().iter().map(|m| (Kind::Hello, encode_hello(m))));
    frames.extend(replies().iter().map(|m| (Kind::HelloReply, encode_hello_reply(m))));
    frames
}

/// Parses and decodes whatever a frame of this kind may be.
fn decode(kind: Kind, bytes: Bytes) -> Result<(), WireError> {
    let frame = Frame::parse(bytes, kind, DEFAULT_MAX_FRAME)?;
    match kind {
        Kind::Hello => frame.hello().map(drop),
        Kind::HelloReply => frame.hello_reply().map(drop),
        Kind::Message => frame.message().map(drop),
        Kind::Client => frame.client_message().map(drop),
        Kind::Server => frame.server_message().map(drop),
        Kind::Alive => frame.alive().map(drop),
    }
}

/// A frame with any body under right checksums.
fn sealed(kind: Kind, body: &[u8]) -> Bytes {
    let mut frame = BytesMut::zeroed(HEADER_BYTES);
    frame.extend_from_slice(body);
    frame::seal(kind, frame)
}

/// A header that announces `len` bytes under a right checksum.
fn header_announcing(kind_code: u8, len: u32) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    let mut out = &mut header[..];
    out.put_slice(b"kvfr");
    out.put_u8(kind_code);
    out.put_uint_le(0, 3);
    out.put_u32_le(len);
    out.put_u64_le(0);
    let checksum = xxhash_rust::xxh3::xxh3_64(&header[..HEADER_BYTES - 8]);
    header[HEADER_BYTES - 8..].copy_from_slice(&checksum.to_le_bytes());
    header
}

#[test]
fn every_message_round_trips() {
    for message in messages() {
        assert_eq!(decode_message(encode_message(&message)).unwrap(), message);
    }
    for message in client_messages() {
        assert_eq!(decode_client_message(encode_client_message(&message)).unwrap(), message);
    }
    for message in server_messages() {
        assert_eq!(decode_server_message(encode_server_message(&message)).unwrap(), message);
    }
    for hello in hellos() {
        let frame = Frame::parse(encode_hello(&hello), Kind::Hello, 0).unwrap();
        assert_eq!(frame.hello().unwrap(), hello);
    }
    for reply in replies() {
        let frame = Frame::parse(encode_hello_reply(&reply), Kind::HelloReply, 0).unwrap();
        assert_eq!(frame.hello_reply().unwrap(), reply);
    }
}

#[test]
fn the_layout_of_version_1_does_not_change() {
    let message = Message::PrepareOk { view: View::new(300), log: Anchor::new(Op::new(5), Hash::new(6)) };
    let frame = encode_message(&message);
    assert_eq!(&frame[..12], b"kvfr\x03\0\0\0\x05\0\0\0");
    assert_eq!(&frame[HEADER_BYTES..], [1, 0xac, 2, 5, 6], "variant, view, op, hash");
    assert_eq!(frame[12..20], xxhash_rust::xxh3::xxh3_64(&frame[HEADER_BYTES..]).to_le_bytes());
    assert_eq!(frame[20..28], xxhash_rust::xxh3::xxh3_64(&frame[..20]).to_le_bytes());
}

#[test]
fn every_single_bit_flip_is_refused() {
    for (kind, frame) in frames() {
        for bit in 0..frame.len() * 8 {
            let mut damaged = frame.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(kind, damaged.into()).is_err(), "bit {bit} of a {kind:?} frame");
        }
    }
}

#[test]
fn every_truncation_and_every_trailing_byte_is_refused() {
    for (kind, frame) in frames() {
        for len in 0..frame.len() {
            let error = decode(kind, frame.slice(..len)).unwrap_err();
            assert!(matches!(error, WireError::Truncated), "{len} bytes: {error}");
        }
        let longer = [&frame[..], &[0]].concat();
        assert!(matches!(decode(kind, longer.into()), Err(WireError::Malformed(_))));
        // The same behind right checksums: one byte more or less in the body.
        let body = &frame[HEADER_BYTES..];
        let longer = [body, &[0]].concat();
        assert!(decode(kind, sealed(kind, &longer)).is_err(), "a trailing byte in {kind:?}");
        assert!(decode(kind, sealed(kind, &body[..body.len() - 1])).is_err(), "a missing byte in {kind:?}");
    }
}

#[test]
fn a_heartbeat_contains_nothing_or_a_clock() {
    assert_eq!(encode_alive().len(), HEADER_BYTES);
    decode(Kind::Alive, encode_alive()).unwrap();
    for wall in [0, 1_700_000_000_000, (1 << 62) - 1] {
        let bytes = encode_alive_at(Timestamp::new(wall));
        let frame = Frame::parse(bytes, Kind::Alive, DEFAULT_MAX_FRAME).unwrap();
        assert_eq!(frame.alive().unwrap(), Some(Timestamp::new(wall)));
    }
    assert!(decode(Kind::Alive, sealed(Kind::Alive, &[1, 2])).is_err(), "a trailing byte");
    let error = decode(Kind::Alive, sealed(Kind::Alive, &[0; 11])).unwrap_err();
    assert!(matches!(error, WireError::TooLong { len: 11, max: 10, .. }), "{error}");
    decode(Kind::Message, encode_alive()).unwrap_err();
}

#[test]
fn a_frame_is_refused_as_any_other_kind() {
    let kinds = [Kind::Hello, Kind::HelloReply, Kind::Message, Kind::Client, Kind::Server];
    for (kind, frame) in frames() {
        for other in kinds.into_iter().filter(|other| *other != kind) {
            let error = decode(other, frame.clone()).unwrap_err();
            assert!(matches!(error, WireError::UnexpectedKind { .. }), "{kind:?} as {other:?}: {error}");
        }
    }
}

#[test]
fn garbage_is_refused_without_a_panic() {
    let mut rng = fastrand::Rng::with_seed(1);
    let all = frames();
    for round in 0..20_000 {
        let (kind, frame) = &all[rng.usize(..all.len())];
        // Nonsense from the first byte on, nonsense in a good frame, and a good body with a few bytes changed.
        let mut garbage = vec![0; rng.usize(..300)];
        rng.fill(&mut garbage);
        assert!(decode(*kind, garbage.clone().into()).is_err(), "round {round}");
        let _ = decode(*kind, sealed(*kind, &garbage));
        let mut body = frame[HEADER_BYTES..].to_vec();
        for _ in 0..rng.usize(1..4) {
            let at = rng.usize(..body.len());
            body[at] = if rng.bool() { rng.u8(..) } else { 0xff };
        }
        let _ = decode(*kind, sealed(*kind, &body));
    }
}

#[test]
fn counters_near_their_end_are_refused() {
    let view = View::new(FAR);
    let op = Op::new(FAR);
    let good = View::new(1);
    let far_entry = |change: fn(&mut EntryHeader)| {
        let mut entry = entry(5);
        change(&mut entry.header);
        Message::Prepare { view: good, commit: anchor(1), entry }
    };
    let log = LogSummary {
        log_view: good,
        checkpoint: anchor(0),
        commit: anchor(1),
        lacks: Vec::new(),
        head: Op::new(1),
        suffix: vec![],
        tail: vec![],
        extent: Extent::Through(Op::new(1)),
    };
    let bad = [
        Message::StartViewChange { view },
        Message::StartViewChange { view: View::new(u64::MAX) },
        Message::GetState { view, nonce: 0 },
        Message::PrepareOk { view: good, log: Anchor::new(op, Hash::ZERO) },
        Message::StateDigest { op, digest: Hash::ZERO },
        Message::Commit {
            view: good,
            commit: anchor(1),
            age: Age::default(),
            round: Round::new(FAR),
            trim: Op::ZERO,
            fresh: None,
        },
        Message::Commit {
            view: good,
            commit: anchor(1),
            age: Age::default(),
            round: Round::ZERO,
            trim: op,
            fresh: None,
        },
        Message::Commit {
            view: good,
            commit: anchor(1),
            age: Age::default(),
            round: Round::ZERO,
            trim: Op::ZERO,
            fresh: Some(Fresh { op, since: Moment { life: 1, at: Instant::ZERO } }),
        },
        Message::Fetch { from: Op::new(1), through: op, hash: None, nonce: 0, what: FetchWhat::Headers },
        Message::Headers { nonce: 0, hashes: vec![(op, Hash::ZERO)] },
        Message::Headers { nonce: 0, hashes: vec![(Op::new(5), Hash::ZERO), (Op::new(4), Hash::ZERO)] },
        Message::Headers { nonce: 0, hashes: vec![(Op::new(5), Hash::ZERO), (Op::new(7), Hash::ZERO)] },
        Message::DoViewChange { view, log: log.clone(), ages: Vec::new() },
        Message::DoViewChange {
            view: good,
            log: LogSummary { log_view: view, ..log.clone() },
            ages: Vec::new(),
        },
        Message::DoViewChange {
            view: good,
            log: LogSummary { head: Op::new(2), ..log.clone() },
            ages: Vec::new(),
        },
        Message::DoViewChange {
            view: good,
            log: LogSummary { extent: Extent::Through(Op::ZERO), ..log.clone() },
            ages: Vec::new(),
        },
        Message::DoViewChange {
            view: good,
            log: LogSummary {
                tail: vec![(Op::new(1), Slot::Faulty(None))],
                extent: Extent::Open,
                ..log.clone()
            },
            ages: Vec::new(),
        },
        Message::DoViewChange {
            view: good,
            log: LogSummary { tail: vec![(Op::new(3), Slot::Faulty(None))], ..log.clone() },
            ages: Vec::new(),
        },
        Message::DoViewChange { view: good, log, ages: vec![Age::default(); 100] },
        far_entry(|header| header.view = View::new(FAR)),
        far_entry(|header| header.op = Op::new(FAR)),
        far_entry(|header| header.op = Op::ZERO),
        far_entry(|header| header.first_revision = Revision::new(FAR)),
        far_entry(|header| header.first_revision = Revision::ZERO),
        far_entry(|header| header.timestamp = Timestamp::new(FAR)),
    ];
    for message in bad {
        let error = decode_message(encode_message(&message)).unwrap_err();
        assert!(
            matches!(error, WireError::Malformed(_) | WireError::OutOfRange { .. }),
            "{message:?}: {error}"
        );
    }
    // A request is decoded when it is dispatched.
    for request in [
        Request { session: SessionId::new(FAR), ..request(1) },
        Request { number: RequestNumber::new(FAR), ..request(1) },
        Request { acked_through: RequestNumber::new(u64::MAX), ..request(1) },
    ] {
        assert!(Request::decode(&request.encode()).is_err(), "{request:?}");
    }
    let written = |revision, effect| {
        let outcome = Outcome { revision: Revision::new(revision), timestamp: Timestamp::ZERO, effect };
        ServerMessage { call: 1, answer: Answer::Written(Ok(outcome)) }
    };
    for message in [
        written(FAR, Effect::Put),
        written(1, Effect::SessionOpened(SessionId::new(FAR))),
        written(1, Effect::LeaseGranted(LeaseId::new(FAR))),
    ] {
        assert!(decode_server_message(encode_server_message(&message)).is_err(), "{message:?}");
    }
}

#[test]
fn an_entry_that_differs_from_its_header_is_refused() {
    for change in [0, 3, 20] {
        let mut entry = entry(5);
        let mut body = entry.body.to_vec();
        body[change] ^= 1;
        entry.body = body.into();
        let prepare = Message::Prepare { view: View::new(1), commit: anchor(1), entry: entry.clone() };
        assert!(matches!(decode_message(encode_message(&prepare)), Err(WireError::Entry(_))));
        let state = Message::NewState { nonce: 1, entries: vec![entry] };
        assert!(matches!(decode_message(encode_message(&state)), Err(WireError::Entry(_))));
    }
    let mut counts = entry(5);
    counts.header.revision_count = 1;
    let prepare = Message::Prepare { view: View::new(1), commit: anchor(1), entry: counts };
    let error = decode_message(encode_message(&prepare)).unwrap_err();
    assert!(matches!(error, WireError::Entry(EntryError::Revisions { counted: 1, found: 2 })), "{error}");
}

#[test]
fn lengths_are_refused_by_their_kind() {
    // F-input-2: the header's checksum is right, the length is not.
    for (code, kind) in [(1, Kind::Hello), (2, Kind::HelloReply), (3, Kind::Message)] {
        let max = kind.limit(1000);
        for len in [max + 1, u32::MAX as usize] {
            let header = header_announcing(code, u32::try_from(len).unwrap());
            let error = Frame::parse(Bytes::copy_from_slice(&header), kind, 1000).unwrap_err();
            assert!(matches!(error, WireError::TooLong { len: l, max: m, .. } if l == len && m == max));
        }
        assert!(matches!(decode(kind, sealed(kind, &[])), Err(WireError::Malformed(_))), "length 0");
    }
    // And a length that was changed on the way is not even looked at.
    let mut header = header_announcing(3, 10);
    header[11] = 0xff;
    let error = Frame::parse(Bytes::copy_from_slice(&header), Kind::Message, 1000).unwrap_err();
    assert!(matches!(error, WireError::HeaderChecksum));
}

#[test]
fn the_framing_finds_the_borders() {
    let _ = framing();
    for (_, frame) in frames() {
        assert_eq!(frame::announced_len(&frame[..HEADER_BYTES]), Some(frame.len()));
    }
    assert_eq!(frame::announced_len(&[7; HEADER_BYTES]), None);
    // F-net-14: a receiver that trusted a damaged length would hold back the following frames.
    let mut damaged = frames()[0].1[..HEADER_BYTES].to_vec();
    damaged[8] ^= 1;
    assert_eq!(frame::announced_len(&damaged), None);
}
