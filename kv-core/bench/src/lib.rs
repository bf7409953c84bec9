//! What the benchmarks share: logs with entries of put requests.

use bytes::Bytes;
use kv_core::config::{Cluster, FixedOptions, Options};
use kv_core::ids::{
    Anchor, ClusterId, Hash, MemberId, Op, RequestNumber, Revision, SessionId, Timestamp, View,
};
use kv_core::journal::{Identity, Journal, JournalOptions};
use kv_core::message::{
    Command, Entry, EntryHeader, FormationStep, Lifetime, Operation, Recovered, Request, Write, body_of,
    revisions_of,
};
use kv_core::storage::Directory;
use std::error::Error;
use std::path::Path;

/// Opens the journal of a member in a folder.
///
/// # Errors
/// If the folder cannot be used.
pub fn open_journal(folder: &Path, member: u8) -> Result<(Journal, Recovered), Box<dyn Error + Send + Sync>> {
    let cluster = cluster();
    let identity = Identity {
        cluster: cluster.id(),
        cluster_name: CLUSTER.to_owned(),
        fingerprint: cluster.fingerprint(),
        member: MemberId::new(member),
        options: FixedOptions::from(&Options::default()),
    };
    let options = JournalOptions { segment_bytes: 64 << 20, cache_bytes: 1 << 20 };
    Ok(Journal::open(Directory::open(folder)?, identity, options)?)
}

/// Opens the journal of a member in an empty folder, and formats it.
///
/// # Errors
/// If the folder cannot be used.
pub fn format_journal(folder: &Path, member: u8) -> Result<Journal, Box<dyn Error + Send + Sync>> {
    let (mut journal, _) = open_journal(folder, member)?;
    journal.execute(&[FormationStep::Formatted, FormationStep::Formed].map(Write::Formation))?;
    Ok(journal)
}

/// A cluster of three.
///
/// # Panics
/// Never: the cluster is valid.
#[must_use]
pub fn cluster() -> Cluster {
    let members = (0..3).map(|id| (id, format!("member:{id}")));
    Cluster::builder(CLUSTER).members(members).build().expect("it is valid")
}

/// The size of the values, in bytes.
pub const VALUE_BYTES: usize = 256;

/// The name of the cluster.
pub const CLUSTER: &str = "benchmark";

/// Makes the entries of one log.
#[derive(Clone, Debug)]
pub struct Log {
    head: Anchor,
    next_revision: Revision,
    timestamp: u64,
}

impl Default for Log {
    fn default() -> Self {
        Self { head: Anchor::ZERO, next_revision: Revision::new(1), timestamp: 1_780_000_000_000 }
    }
}

impl Log {
    /// The last entry.
    #[must_use]
    pub const fn head(&self) -> Op {
        self.head.op
    }

    /// Makes the next entry, of these encoded requests.
    pub fn entry(&mut self, requests: &[Bytes]) -> Entry {
        let body = body_of(requests);
        let count = |number: usize| u32::try_from(number).expect("the benchmarks' entries are small");
        self.timestamp += 1;
        let header = EntryHeader {
            cluster: ClusterId::of_name(CLUSTER),
            view: View::ZERO,
            op: self.head.op.next(),
            parent: self.head.hash,
            first_revision: self.next_revision,
            timestamp: Timestamp::new(self.timestamp),
            request_count: count(requests.len()),
            revision_count: revisions_of(requests, self.next_revision),
            body_len: count(body.len()),
            body_hash: Hash::of(&body),
        };
        self.head = header.anchor();
        self.next_revision = header.next_revision();
        Entry { header, body }
    }
}

/// The request that opens the session in which the puts run. It must be the first of the log.
#[must_use]
pub fn open_session() -> Bytes {
    let (session, number) = (SessionId::ZERO, RequestNumber::ZERO);
    let operation = Operation::OpenSession { nonce: 1 };
    Request { session, number, acked_through: number, operation }.encode()
}

/// Makes put requests of one session, to random keys.
#[derive(Debug)]
pub struct Puts {
    keys: u64,
    number: u64,
    rng: fastrand::Rng,
}

impl Puts {
    /// Puts to `keys` different keys.
    #[must_use]
    pub fn new(keys: u64) -> Self {
        Self { keys, number: 0, rng: fastrand::Rng::with_seed(1) }
    }

    /// The next request. All before it count as acknowledged.
    pub fn request(&mut self) -> Request {
        self.number += 1;
        let mut value = vec![0; VALUE_BYTES];
        self.rng.fill(&mut value);
        let key = format!("bench-{:012}", self.rng.u64(..self.keys));
        let (condition, life) = (None, Lifetime::default());
        Request {
            session: SessionId::new(1),
            number: RequestNumber::new(self.number),
            acked_through: RequestNumber::new(self.number - 1),
            operation: Operation::Command(Command::Put {
                key: key.into(),
                value: value.into(),
                condition,
                life,
            }),
        }
    }

    /// The next `count` requests, encoded.
    pub fn encoded(&mut self, count: usize) -> Vec<Bytes> {
        (0..count).map(|_| self.request().encode()).collect()
    }
}
