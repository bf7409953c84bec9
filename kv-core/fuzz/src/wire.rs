//! What comes over the wire: frames, hellos, requests.

use super::dice::{CLUSTER, Dice};
use bytes::Bytes;
use kv_core::config::{FixedOptions, Options, Role};
use kv_core::ids::{ClusterId, Epoch, Hash, MemberId, Timestamp, View};
use kv_core::kv::{Limits, StateMachine};
use kv_core::message::{Entry, EntryHeader, Request, body_of, revisions_of};
use kv_core::transport::{Lane, Peer};
use kv_core::wire::{
    Expectation, Frame, FrameReader, Kind, MemberInfo, decode_client_message, decode_message,
    decode_server_message, encode_client_message, encode_message, encode_server_message,
};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// The body of a frame with valid checksums. An accepted message round-trips.
pub fn wire(data: &[u8]) {
    let Some((first, body)) = data.split_first() else { return };
    let body = Bytes::copy_from_slice(body);
    let frame = |kind| Frame::unchecked(kind, body.clone());
    match first % 3 {
        0 => {
            if let Ok(message) = frame(Kind::Message).message() {
                assert_eq!(decode_message(encode_message(&message)).expect("it was accepted"), message);
            }
        }
        1 => {
            if let Ok(message) = frame(Kind::Client).client_message() {
                let again = decode_client_message(encode_client_message(&message));
                assert_eq!(again.expect("it was accepted"), message);
            }
        }
        _ => {
            if let Ok(message) = frame(Kind::Server).server_message() {
                let again = decode_server_message(encode_server_message(&message));
                assert_eq!(again.expect("it was accepted"), message);
            }
        }
    }
}

/// A byte stream including checksums, from its first byte on. Memory grows only with the received bytes.
pub fn stream(data: &[u8]) {
    let Some((first, mut rest)) = data.split_first() else { return };
    let mut reader = FrameReader::new(&mut rest, 64 << 10);
    let kind = [Kind::Hello, Kind::HelloReply, Kind::Message, Kind::Client, Kind::Server, Kind::Alive]
        [usize::from(first % 6)];
    loop {
        // It is all there, so nothing is waited for.
        let mut reading = pin!(reader.read(kind));
        match reading.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(Some(frame))) => assert!(frame.body_len() < data.len()),
            Poll::Ready(Ok(None) | Err(_)) => return,
            Poll::Pending => panic!("nothing is waited for"),
        }
    }
}

/// The body of a hello, judged on every lane; and of its reply.
pub fn hello(data: &[u8]) {
    let body = Bytes::copy_from_slice(data);
    // Any result is fine.
    let _ = Frame::unchecked(Kind::HelloReply, body.clone()).hello_reply();
    let Ok(hello) = Frame::unchecked(Kind::Hello, body).hello() else { return };
    let member = |id| MemberInfo { id: MemberId::new(id), address: "a:1".into(), role: Role::Data };
    let expectation = Expectation {
        cluster: CLUSTER.into(),
        me: MemberId::new(1),
        members: (0..3).map(member).collect(),
        epoch: Epoch::ZERO,
        former: Vec::new(),
        fingerprint: Hash::ZERO,
        options: FixedOptions::from(&Options::default()),
        life: 1,
        authenticated: false,
        limits: kv_core::wire::Limits {
            max_key_bytes: 1,
            max_value_bytes: 1,
            max_in_flight_per_session: 1,
            session_ttl: Duration::from_secs(1),
            client_idle_timeout: Duration::from_secs(60),
        },
    };
    for lane in [Lane::Control, Lane::Log, Lane::Bulk, Lane::Client] {
        if expectation.check(&hello, lane, &Peer::Unauthenticated).is_ok() {
            assert_eq!(hello.cluster, ClusterId::of_name(CLUSTER), "a stranger is let in");
        }
    }
}

/// Arbitrary requests in an entry of the log: two members that apply it arrive at the same state.
pub fn requests(data: &[u8]) {
    let mut dice = Dice(data);
    let mut options = Options::default();
    (options.max_key_bytes, options.max_value_bytes) = (16, 64);
    (options.max_sessions, options.max_in_flight_per_session, options.max_leases) = (2, 4, 2);
    options.session_ttl = Duration::from_secs(1);
    (options.history_revisions, options.history_bytes) = (100, 64 << 10);
    let limits = Limits::from(&options);
    let (mut one, mut other) = (StateMachine::in_memory(limits.clone()), StateMachine::in_memory(limits));
    let mut timestamp = 1_000;
    while !dice.is_empty() {
        let mut batch = Vec::new();
        for _ in 0..=dice.below(3) {
            let len = dice.below(64).min(dice.0.len() as u64);
            let (bytes, rest) = dice.0.split_at(usize::try_from(len).expect("short"));
            dice.0 = rest;
            if let Ok(request) = Request::decode(bytes) {
                assert_eq!(Request::decode(&request.encode()).as_ref(), Ok(&request));
            }
            batch.push(Bytes::copy_from_slice(bytes));
        }
        timestamp += dice.below(2_000);
        let body = body_of(&batch);
        let header = EntryHeader {
            cluster: ClusterId::of_name(CLUSTER),
            view: View::ZERO,
            op: one.applied().op.next(),
            parent: one.applied().hash,
            first_revision: one.revision().next(),
            timestamp: Timestamp::new(timestamp),
            request_count: u32::try_from(batch.len()).expect("few"),
            revision_count: revisions_of(&batch, one.revision().next()),
            body_len: u32::try_from(body.len()).expect("short"),
            body_hash: Hash::of(&body),
        };
        let entry = Entry { header, body };
        entry.check().expect("it matches the header");
        let results = (one.apply(&entry).expect("memory"), other.apply(&entry).expect("memory"));
        assert_eq!(format!("{:?}", results.0), format!("{:?}", results.1));
    }
    assert_eq!(one.digest().expect("memory"), other.digest().expect("memory"));
}
