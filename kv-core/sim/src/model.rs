//! The model of the state: a few lines that share no code with the real state machine.

use super::report::Finding;
use bytes::Bytes;
use kv_core::ids::{LeaseId, RequestNumber, Revision, SessionId, Timestamp};
use kv_core::message::{Command, Effect, EventKind, Lifetime, Outcome, Record};
use std::collections::{BTreeMap, HashMap};

/// The model of a session.
#[derive(Default, Debug)]
pub(super) struct Session {
    pub(super) results: BTreeMap<RequestNumber, Outcome>,
    pub(super) acked_through: RequestNumber,
}

/// The model: every key's whole history, and which requests ran.
#[derive(Default, Debug)]
pub(super) struct Model {
    /// How many requests were applied: they name sessions and leases. A skip counts as often as it takes revisions.
    pub(super) requests: u64,
    pub(super) revision: Revision,
    /// How many revisions members keep.
    pub(super) kept: u64,
    /// The stamp of the present entry.
    pub(super) stamp: Timestamp,
    pub(super) leases: Leases,
    pub(super) keys: BTreeMap<Bytes, Vec<(Revision, Option<Record>)>>,
    pub(super) sessions: HashMap<SessionId, Session>,
    /// Commands that ran, by revision: one that took it, and then any number that took none.
    pub(super) ran: HashMap<Revision, Vec<(Command, Effect)>>,
    pub(super) repeats: u64,
    pub(super) rejections: u64,
    /// Values, by the revision that put them: the clients never write a value twice.
    pub(super) values: HashMap<Bytes, Revision>,
    /// The kind of each change, in the order in which watches deliver them.
    pub(super) changes: BTreeMap<(Revision, Bytes), EventKind>,
}

/// The leases of the model.
#[derive(Debug, Default)]
pub(super) struct Leases {
    /// The largest number of leases.
    pub(super) max: usize,
    /// How long each lasts, and its deadline.
    pub(super) all: BTreeMap<LeaseId, (u64, Timestamp)>,
}

impl Leases {
    /// Creates an empty set of at most this many leases.
    pub(super) fn at_most(max: usize) -> Self {
        Self { max, all: BTreeMap::new() }
    }
}

/// When something ends that lasts this long: stamps are whole milliseconds, and clocks differ by a thousandth.
pub(super) fn ends(stamp: Timestamp, ttl_ms: u64) -> Timestamp {
    stamp.advance(ttl_ms + ttl_ms.div_ceil(1000) + 1)
}

impl Model {
    /// Creates an empty model with this limit on leases.
    pub(super) fn of(max_leases: usize, kept: u64) -> Self {
        Self { leases: Leases::at_most(max_leases), kept, ..Self::default() }
    }

    /// The last revision.
    pub(super) const fn revision(&self) -> Revision {
        self.revision
    }

    /// The kind of each change.
    pub(super) const fn changes(&self) -> &BTreeMap<(Revision, Bytes), EventKind> {
        &self.changes
    }

    /// How many requests had run before.
    pub(super) const fn repeats(&self) -> u64 {
        self.repeats
    }

    /// How many requests did not run.
    pub(super) const fn rejections(&self) -> u64 {
        self.rejections
    }

    /// The requests of an entry with this stamp follow.
    pub(super) fn begin(&mut self, stamp: Timestamp) {
        self.stamp = self.stamp.max(stamp);
    }

    /// The present records of all keys.
    pub(super) fn present(&self) -> Vec<(Bytes, Record)> {
        self.range(&Bytes::new(), None, self.revision)
    }

    /// The records of a range in the state at `revision`.
    pub(super) fn range(&self, from: &Bytes, to: Option<&Bytes>, revision: Revision) -> Vec<(Bytes, Record)> {
        let keys = self.keys.range(from.clone()..).map(|(key, _)| key);
        keys.take_while(|key| to.is_none_or(|to| *key < to))
            .filter_map(|key| Some((key.clone(), self.at(key, revision)?)))
            .collect()
    }

    /// The record of `key` in the state at `revision`.
    pub(super) fn at(&self, key: &[u8], revision: Revision) -> Option<Record> {
        let versions = self.keys.get(key)?;
        let count = versions.partition_point(|(since, _)| *since <= revision);
        versions.get(count.checked_sub(1)?)?.1.clone()
    }

    pub(super) fn delete_range(
        &mut self,
        revision: Revision,
        from: &Bytes,
        to: Option<&Bytes>,
        limit: u32,
    ) -> Effect {
        let all = self.range(from, to, revision);
        let mut count = 0;
        for (key, record) in all.iter().take(limit.clamp(1, 1000) as usize) {
            self.delete(revision, key, Some(record.clone()));
            count += 1;
        }
        Effect::RangeDeleted { count, more: all.len() > count as usize }
    }

    /// A client's value, which it never writes twice.
    pub(super) fn put(
        &mut self,
        revision: Revision,
        key: &Bytes,
        before: Option<Record>,
        value: &Bytes,
        life: Lifetime,
    ) -> Result<(), Finding> {
        if let Some(other) = self.values.insert(value.clone(), revision) {
            let found = format!("{value:?} was put at {other:?} and again at {revision:?}");
            return Err(("each call runs once", found));
        }
        let ends = (life.ttl_ms.map(|ms| ends(self.stamp, ms)), life.lease);
        self.set(revision, key, before, value.clone(), ends);
        Ok(())
    }

    pub(super) fn set(
        &mut self,
        revision: Revision,
        key: &Bytes,
        before: Option<Record>,
        value: Bytes,
        (expires, lease): (Option<Timestamp>, Option<LeaseId>),
    ) {
        let (created, version) = before.map_or((revision, 1), |record| (record.created, record.version + 1));
        let record = Record { value, created, modified: revision, version, expires, lease };
        self.keys.entry(key.clone()).or_default().push((revision, Some(record)));
        self.changes.insert((revision, key.clone()), EventKind::Put);
    }

    /// Replaces the time to live of a key, and returns whether the key exists.
    pub(super) fn touch(
        &mut self,
        revision: Revision,
        key: &Bytes,
        before: Option<Record>,
        ttl_ms: Option<u64>,
    ) -> bool {
        let Some(record) = before else { return false };
        let ends = (ttl_ms.map(|ms| ends(self.stamp, ms)), record.lease);
        self.set(revision, key, Some(record.clone()), record.value, ends);
        true
    }

    pub(super) fn delete(&mut self, revision: Revision, key: &Bytes, before: Option<Record>) -> bool {
        self.remove(revision, key, before, EventKind::Deleted)
    }

    pub(super) fn remove(
        &mut self,
        revision: Revision,
        key: &Bytes,
        before: Option<Record>,
        how: EventKind,
    ) -> bool {
        self.keys.entry(key.clone()).or_default().push((revision, None));
        if before.is_some() {
            self.changes.insert((revision, key.clone()), how);
        }
        before.is_some()
    }
}
