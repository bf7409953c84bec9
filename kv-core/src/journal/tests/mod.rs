//! What the journal promises, tested on a simulated disk.

mod damage;
mod mending;
mod model;
mod power;
mod reading;
mod rebasing;
mod refusals;

use super::*;
use crate::config::{FixedOptions, Options};
use crate::ids::{Anchor, Incarnation, Op, Revision, Timestamp, View};
use crate::message::{Cut, EntryHeader, ViewRecord, body_of, revisions_of};
use crate::storage::simulated::Disk;
use bytes::Bytes;

pub(super) const CLUSTER: &str = "demo";

pub(super) fn identity() -> Identity {
    Identity {
        cluster: ClusterId::of_name(CLUSTER),
        cluster_name: CLUSTER.into(),
        fingerprint: Hash::of(b"members"),
        member: MemberId::new(1),
        options: FixedOptions::from(&Options::default()),
    }
}

/// Segments of 8 blocks.
pub(super) fn options() -> JournalOptions {
    JournalOptions { segment_bytes: 8 * 4096, cache_bytes: 0 }
}

pub(super) fn open(disk: &Disk) -> Result<(Journal, Recovered), OpenError> {
    Journal::open(disk.storage(), identity(), options())
}

pub(super) fn formed() -> (Disk, Journal) {
    let disk = Disk::new();
    let (mut journal, recovered) = open(&disk).unwrap();
    assert_eq!(recovered, Recovered::empty());
    let steps = [FormationStep::Formatted, FormationStep::Formed];
    journal.execute(&steps.map(Write::Formation)).unwrap();
    (disk, journal)
}

/// The entry after `last`, with one request of `bytes` times `fill`.
pub(super) fn entry_after(last: Option<&Entry>, fill: u8, bytes: usize) -> Entry {
    let request = Bytes::from(vec![fill; bytes]);
    let body = body_of([&request]);
    let parent = last.map_or(Anchor::ZERO, |entry| entry.header.anchor());
    let first_revision = last.map_or(Revision::new(1), |entry| entry.header.next_revision());
    let header = EntryHeader {
        cluster: ClusterId::of_name(CLUSTER),
        view: View::new(u64::from(fill)),
        op: parent.op.next(),
        parent: parent.hash,
        first_revision,
        timestamp: Timestamp::new(last.map_or(1, |entry| entry.header.timestamp.get() + 1)),
        request_count: 1,
        revision_count: revisions_of([&request], first_revision),
        body_len: u32::try_from(body.len()).unwrap(),
        body_hash: Hash::of(&body),
    };
    Entry { header, body }
}

/// `count` entries after `last`, of `bytes` each.
pub(super) fn entries_after(last: Option<&Entry>, fill: u8, bytes: usize, count: usize) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for _ in 0..count {
        entries.push(entry_after(entries.last().or(last), fill, bytes));
    }
    entries
}

pub(super) fn entry_at(entries: &[Entry], at: u64) -> Option<&Entry> {
    entries.iter().find(|entry| entry.header.op == op(at))
}

pub(super) fn view(view: u64, log_view: u64, cut: Option<(Anchor, u64)>) -> Write {
    Write::View(ViewRecord {
        view: View::new(view),
        log_view: View::new(log_view),
        cut: cut.map(|(after, incarnation)| Cut { after, incarnation: Incarnation::new(incarnation) }),
        damaged: false,
    })
}

pub(super) fn head(recovered: &Recovered) -> u64 {
    recovered.floor.op.get() + recovered.entries.len() as u64
}

/// The segment files, in the order of their names.
pub(super) fn segments(disk: &Disk) -> Vec<String> {
    disk.names().into_iter().filter(|name| segment::parse_name(name).is_some()).collect()
}

pub(super) fn op(op: u64) -> Op {
    Op::new(op)
}

/// How many seeds a test runs through: `usual`, or that many times `KV_TEST_EFFORT`.
pub(super) fn seeds(usual: u64) -> u64 {
    usual * std::env::var("KV_TEST_EFFORT").ok().and_then(|effort| effort.parse().ok()).unwrap_or(1)
}
