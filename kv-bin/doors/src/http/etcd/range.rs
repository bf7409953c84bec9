//! `/v3/kv/range`, and the reads of transactions.

use super::super::door::Door;
use super::super::errors::{Code, Failure};
use super::super::respond::{self, Response};
use super::json::parse;
use super::messages::{KeyValue, RangeRequest, RangeResponse, SortOrder, SortTarget};
use super::span::Span;
use crate::memory::Share;
use bytes::Bytes;
use futures::StreamExt as _;
use kv_core::client::{Record, Revision, Scan};
use std::pin::pin;

/// The most keys that are read at first. Most ranges have fewer, and then the revision is known at once.
const FIRST: usize = 500;

/// What to read.
#[derive(Clone, Debug)]
pub(super) struct Selection {
    pub(super) span: Span,
    /// The most keys; `None` for all.
    limit: Option<usize>,
    order: SortOrder,
    target: SortTarget,
    keys_only: bool,
    count_only: bool,
    /// The least and the greatest `mod_revision` and `create_revision`.
    modified: (u64, u64),
    created: (u64, u64),
}

/// Which state to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    Newest,
    /// That of any member, which may be stale.
    Local,
    At(Revision),
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) records: Vec<KeyValue>,
    pub(super) more: bool,
    pub(super) count: u64,
    pub(super) revision: Revision,
}

impl Found {
    pub(super) fn response(self) -> RangeResponse {
        RangeResponse { header: None, kvs: self.records, more: self.more, count: self.count }
    }
}

impl Selection {
    pub(super) fn new(request: &RangeRequest) -> Result<Self, Failure> {
        let most = |number: Option<u64>| number.unwrap_or(u64::MAX);
        let range = |min: Option<u64>, max| (min.unwrap_or(0), most(max));
        Ok(Self {
            span: Span::new(&request.key, &request.range_end)?,
            limit: request.limit.positive().map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
            order: request.sort_order,
            target: request.sort_target,
            keys_only: request.keys_only.0,
            count_only: request.count_only.0,
            modified: range(request.min_mod_revision.positive(), request.max_mod_revision.positive()),
            created: range(request.min_create_revision.positive(), request.max_create_revision.positive()),
        })
    }

    /// The single key that this reads, if the answer depends only on its record.
    pub(super) fn single(&self) -> Option<&Bytes> {
        match &self.span {
            Span::Key(key) => Some(key),
            Span::Range(..) => None,
        }
    }

    /// The answer of a selection of a single key.
    pub(super) fn of_record(&self, record: Option<Record>, revision: Revision) -> Found {
        let mut found = Found { revision, ..Found::default() };
        if let (Some(key), Some(record)) = (self.single(), record) {
            found.count = 1;
            found.records.push(KeyValue::new(key.clone(), record));
            self.finish(&mut found);
        }
        found
    }

    /// Whether some keys of the range may be left out because of their revisions.
    fn has_filter(&self) -> bool {
        (self.modified, self.created) != ((0, u64::MAX), (0, u64::MAX))
    }

    /// Whether the records are wanted in the order of their keys. They may have to be reversed.
    fn is_by_key(&self) -> bool {
        self.target == SortTarget::Key
    }

    fn is_wanted(&self, record: &KeyValue) -> bool {
        let within = |(min, max): (u64, u64), revision| (min..=max).contains(&revision);
        within(self.modified, record.mod_revision) && within(self.created, record.create_revision)
    }

    /// Leaves out, sorts, and cuts what was found.
    fn finish(&self, found: &mut Found) {
        let records = &mut found.records;
        records.retain(|record| self.is_wanted(record));
        match self.target {
            // It was read in this order.
            SortTarget::Key => {}
            SortTarget::Version => records.sort_by_key(|record| record.version),
            SortTarget::Create => records.sort_by_key(|record| record.create_revision),
            SortTarget::Mod => records.sort_by_key(|record| record.mod_revision),
            SortTarget::Value => records.sort_by(|one, other| one.value.cmp(&other.value)),
        }
        if !self.is_by_key() && self.order == SortOrder::Descend {
            records.reverse();
        }
        if let Some(limit) = self.limit.filter(|limit| *limit < records.len()) {
            records.truncate(limit);
            found.more = true;
        }
        if self.count_only {
            (found.more, *records) = (false, Vec::new());
        }
        if self.keys_only {
            records.iter_mut().for_each(|record| record.value = Bytes::new());
        }
    }

    fn scan(&self, door: &Door, after: Option<&Bytes>) -> Scan {
        let reverse = self.is_by_key() && self.order == SortOrder::Descend;
        let scan = match after {
            None => self.span.scan(&door.client),
            Some(key) => door.client.scan_range(self.span.beyond(key, reverse)),
        };
        let scan = if reverse { scan.reverse() } else { scan };
        if self.keys_only && self.target != SortTarget::Value { scan.keys_only() } else { scan }
    }

    /// Reads. The memory of what was found is counted in `share`.
    pub(super) async fn read(&self, door: &Door, state: State, share: &mut Share) -> Result<Found, Failure> {
        if let Some(key) = self.single() {
            let get = door.client.get(key);
            let read = match state {
                State::Newest => get,
                State::Local => get.local(),
                State::At(at) => get.at(at),
            };
            let read = read.with_revision().await?;
            return Ok(self.of_record(read.found, read.revision));
        }
        if self.span.is_empty() {
            let revision = match state {
                State::At(at) => at,
                _ => door.newest(state == State::Local).await?,
            };
            return Ok(Found { revision, ..Found::default() });
        }
        if self.count_only {
            return self.count(door, state).await;
        }
        self.read_range(door, state, share).await
    }

    async fn count(&self, door: &Door, state: State) -> Result<Found, Failure> {
        let count = self.span.count(&door.client);
        let read = match state {
            State::Newest => count,
            State::Local => count.local(),
            State::At(at) => count.at(at),
        };
        let read = read.with_revision().await?;
        Ok(Found { count: read.found, revision: read.revision, ..Found::default() })
    }

    async fn read_range(&self, door: &Door, state: State, share: &mut Share) -> Result<Found, Failure> {
        // If everything must be seen, it is sorted or left out here.
        let sees_all = !self.is_by_key() || self.has_filter();
        let wanted = if sees_all {
            usize::MAX
        } else {
            self.limit.map_or(usize::MAX, |limit| limit.saturating_add(1))
        };
        // So few records cannot have too many bytes.
        let record_bytes =
            door.client.max_key_bytes() + if self.keys_only { 0 } else { door.client.max_value_bytes() };
        let first = (door.options.max_answer_bytes / record_bytes.max(1)).clamp(1, FIRST).min(wanted);
        let scan = self.scan(door, None).limit(first);
        let scan = match state {
            State::Newest => scan,
            State::Local => scan.local(),
            State::At(at) => scan.at(at),
        };
        let page = scan.snapshot().await?;
        let mut found = Found { revision: page.revision, ..Found::default() };
        let mut bytes = 0;
        let mut last = None;
        let is_complete = page.records.len() < first;
        for (key, record) in page.records {
            last = Some(key.clone());
            found.count += 1;
            self.keep(door, KeyValue::new(key, record), &mut found, &mut bytes, share)?;
        }
        if !is_complete && found.count < wanted as u64 {
            let scan = self.scan(door, last.as_ref()).at(found.revision);
            let scan = if state == State::Local { scan.at_least(found.revision) } else { scan };
            let mut rest =
                pin!(if wanted == usize::MAX { scan } else { scan.limit(wanted - first) }.stream());
            while let Some(record) = rest.next().await {
                let (key, record) = record?;
                found.count += 1;
                self.keep(door, KeyValue::new(key, record), &mut found, &mut bytes, share)?;
            }
        }
        if !sees_all && self.limit.is_some_and(|limit| found.count > limit as u64) {
            // etcd counts also the keys beyond the limit.
            let count = self.span.count(&door.client).at(found.revision);
            let count = if state == State::Local { count.at_least(found.revision) } else { count };
            found.count = count.await?;
        }
        self.finish(&mut found);
        Ok(found)
    }

    fn keep(
        &self,
        door: &Door,
        record: KeyValue,
        found: &mut Found,
        bytes: &mut usize,
        share: &mut Share,
    ) -> Result<(), Failure> {
        if !self.is_wanted(&record) {
            return Ok(());
        }
        *bytes += record.weight();
        check_size(door, *bytes)?;
        // The answer in JSON takes more than the records, and both are there at the same time.
        if !share.set(3 * *bytes) {
            return Err(Failure::no_memory());
        }
        found.records.push(record);
        Ok(())
    }
}

/// Refuses an answer with too many bytes.
pub(super) fn check_size(door: &Door, bytes: usize) -> Result<(), Failure> {
    let max = door.options.max_answer_bytes;
    if bytes <= max {
        return Ok(());
    }
    let message = format!("the answer would have more than {max} bytes: read less at once, with limit");
    Err(Failure::new(Code::ResourceExhausted, message))
}

pub(super) async fn run(door: &Door, body: &[u8], mut share: Share) -> Result<Response, Failure> {
    let request: RangeRequest = parse(body)?;
    let selection = Selection::new(&request)?;
    let state = match request.revision.positive() {
        Some(revision) => State::At(Revision::new(revision)),
        None if request.serializable.0 => State::Local,
        None => State::Newest,
    };
    let found = selection.read(door, state, &mut share).await?;
    // A read of the past also reports the present revision, as far as it is known.
    let revision = match state {
        State::At(_) => None,
        _ => Some(found.revision),
    };
    let mut response = found.response();
    response.header = Some(door.header(revision));
    Ok(respond::json_of(share, &response))
}
