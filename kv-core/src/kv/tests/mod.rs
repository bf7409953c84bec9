//! Tests of the state machine: requests in memory here, and the disk in the modules.

mod commands;
mod crashes;
mod damage;
mod disk;
mod history;
mod lifetimes;
mod model;
mod readers;
mod revisions;
mod sessions;
mod touch;
mod transactions;
mod transfer;
mod watchers;
mod work;

use super::*;
use crate::config::Options;
use crate::ids::{ClusterId, Op, RequestNumber, SessionId, View};
use crate::message::{
    Command, Condition, Effect, Entry, EntryHeader, Lifetime, Operation, Outcome, Record, Rejection, Request,
    body_of, revisions_of,
};
use crate::storage::simulated::Disk;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::time::Duration;

/// Small, so that every limit is met.
fn limits() -> Limits {
    let options = Options {
        max_key_bytes: 16,
        max_value_bytes: 64 << 10,
        max_sessions: 4,
        session_ttl: Duration::from_secs(10),
        max_in_flight_per_session: 8,
        history_revisions: 500,
        history_bytes: 20_000,
        max_leases: 4,
        checkpoint_bytes: 64 << 10,
        cache_bytes: 1 << 20,
        ..Options::default()
    };
    Limits::from(&options)
}

/// The same, and nothing is kept of the past.
fn limits_without_history() -> Limits {
    let mut limits = limits();
    limits.fixed.history_revisions = 0;
    limits
}

/// Makes the entries of one log.
#[derive(Clone, Debug)]
struct Log {
    head: Anchor,
    next_revision: Revision,
    timestamp: u64,
}

impl Log {
    fn new() -> Self {
        Self { head: Anchor::ZERO, next_revision: Revision::new(1), timestamp: 1000 }
    }

    /// An entry with these encoded requests, at the log's present time.
    fn raw(&mut self, requests: &[Bytes]) -> Entry {
        let body = body_of(requests);
        let header = EntryHeader {
            cluster: ClusterId::of_name("test"),
            view: View::ZERO,
            op: self.head.op.next(),
            parent: self.head.hash,
            first_revision: self.next_revision,
            timestamp: Timestamp::new(self.timestamp),
            request_count: u32::try_from(requests.len()).unwrap(),
            revision_count: revisions_of(requests, self.next_revision),
            body_len: u32::try_from(body.len()).unwrap(),
            body_hash: Hash::of(&body),
        };
        self.head = header.anchor();
        self.next_revision = header.next_revision();
        let entry = Entry { header, body };
        entry.check().unwrap();
        entry
    }

    fn entry(&mut self, requests: &[Request]) -> Entry {
        let encoded: Vec<Bytes> = requests.iter().map(Request::encode).collect();
        self.raw(&encoded)
    }
}

/// A state with its log.
#[derive(Debug)]
struct Machine {
    state: StateMachine,
    log: Log,
}

impl Machine {
    fn in_memory() -> Self {
        Self { state: StateMachine::in_memory(limits()), log: Log::new() }
    }

    fn run(&mut self, requests: &[Request]) -> Vec<Applied> {
        let entry = self.log.entry(requests);
        let applied = self.state.apply(&entry).unwrap();
        self.state.check_invariants();
        assert_eq!(applied.len(), requests.len());
        applied
    }

    fn result(&mut self, request: Request) -> Result<Outcome, Rejection> {
        self.run(&[request]).pop().unwrap().result
    }

    fn effect(&mut self, request: Request) -> Effect {
        self.result(request).unwrap().effect
    }

    fn open(&mut self) -> SessionId {
        match self.effect(open(1)) {
            Effect::SessionOpened(session) => session,
            other => panic!("{other:?}"),
        }
    }

    /// Advances the time.
    fn wait(&mut self, ms: u64) {
        self.log.timestamp += ms;
    }

    fn digest(&self) -> Hash {
        self.state.digest().unwrap()
    }
}

fn open(nonce: u128) -> Request {
    Request {
        session: SessionId::ZERO,
        number: RequestNumber::ZERO,
        acked_through: RequestNumber::ZERO,
        operation: Operation::OpenSession { nonce },
    }
}

fn request(session: SessionId, number: u64, operation: Operation) -> Request {
    let number = RequestNumber::new(number);
    Request { session, number, acked_through: number.back(4), operation }
}

fn put(session: SessionId, number: u64, key: &str, value: &str, condition: Option<Condition>) -> Request {
    let (key, value) = (Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(value.as_bytes()));
    request(
        session,
        number,
        Operation::Command(Command::Put { key, value, condition, life: Lifetime::FOREVER }),
    )
}

fn delete(session: SessionId, number: u64, key: &str, condition: Option<Condition>) -> Request {
    let key = Bytes::copy_from_slice(key.as_bytes());
    request(session, number, Operation::Command(Command::Delete { key, condition }))
}

/// Ends other threads, also when this one fails.
struct SetOnDrop<'a>(&'a std::sync::atomic::AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

/// The files of the state, and what they hold.
fn image(disk: &Disk) -> BTreeMap<String, Vec<u8>> {
    let names = disk.names().into_iter().filter(|name| name.starts_with("state"));
    names.map(|name| (name.clone(), disk.contents(&name).unwrap())).collect()
}

/// The files of its runs.
fn run_files(disk: &Disk) -> BTreeMap<String, Vec<u8>> {
    image(disk).into_iter().filter(|(name, _)| name.starts_with("state-")).collect()
}

/// Some places in each of these files: they are in all blocks.
fn places(files: &BTreeMap<String, Vec<u8>>, every: usize) -> Vec<(String, u64)> {
    let of = |(name, bytes): (&String, &Vec<u8>)| {
        let name = name.clone();
        (0..bytes.len()).step_by(every).map(move |at| (name.clone(), at as u64)).collect::<Vec<_>>()
    };
    files.iter().flat_map(of).collect()
}

/// Everything that a reader sees, key by key.
fn contents(reader: &StateReader) -> Vec<(Bytes, Record)> {
    let page = reader.scan(b"", None, usize::MAX, usize::MAX).unwrap();
    assert!(page.next.is_none());
    page.records
}
