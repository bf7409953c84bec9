//! `/v3/kv/range`, and the reads of transactions.

use super::super::door::Door;
use super::super::errors::{self, Code, Failure};
use super::super::respond::{self, Response};
use super::json::parse;
use super::messages::{KeyValue, RangeRequest, RangeResponse, SortOrder, SortTarget, count};
use super::span::Span;
use crate::attempts::pause;
use crate::memory::Share;
use bytes::Bytes;
use futures::StreamExt as _;
use kv_core::client::{Record, Revision, Scan};
use std::cmp::Ordering;
use std::pin::pin;

/// The most keys that are read at first. Most ranges have fewer, and then the revision is known at once.
const FIRST: usize = 500;
/// How often a read of the present is tried that takes several requests, all at one revision.
const MAX_ATTEMPTS_TO_READ: u32 = 5;

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

    /// The order in which the records are wanted, if they were not read in it.
    fn order(&self, one: &KeyValue, other: &KeyValue) -> Ordering {
        let order = match self.target {
            SortTarget::Key => Ordering::Equal,
            SortTarget::Version => one.version.cmp(&other.version),
            SortTarget::Create => one.create_revision.cmp(&other.create_revision),
            SortTarget::Mod => one.mod_revision.cmp(&other.mod_revision),
            SortTarget::Value => one.value.cmp(&other.value),
        };
        let order = order.then_with(|| one.key.cmp(&other.key));
        if self.order == SortOrder::Descend { order.reverse() } else { order }
    }

    /// Sorts what was found, and cuts what is beyond the limit.
    fn sort_and_cut(&self, found: &mut Found) {
        if !self.is_by_key() {
            found.records.sort_unstable_by(|one, other| self.order(one, other));
        }
        if let Some(limit) = self.limit.filter(|limit| *limit < found.records.len()) {
            found.records.truncate(limit);
            found.more = true;
        }
    }

    /// Leaves out, sorts, and cuts what was found.
    fn finish(&self, found: &mut Found) {
        found.records.retain(|record| self.is_wanted(record));
        self.sort_and_cut(found);
        let records = &mut found.records;
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
            let found = self.of_record(read.found, read.revision);
            count(&found.records, share)?;
            return Ok(found);
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
        let others = share.bytes();
        let mut attempt = 0;
        loop {
            match self.read_range(door, state, share).await {
                Err(failure) if failure == errors::compacted() && !matches!(state, State::At(_)) => {
                    share.set(others);
                    again(&mut attempt).await?;
                }
                read => return read,
            }
        }
    }

    async fn count(&self, door: &Door, state: State) -> Result<Found, Failure> {
        let _permit = door.expensive_read().await;
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
            let _permit = door.expensive_read().await;
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
        count(std::slice::from_ref(&record), share)?;
        found.records.push(record);
        // Everything must be seen for some orders, but not kept.
        if !self.is_by_key() && self.limit.is_some_and(|limit| found.records.len() / 2 >= limit) {
            self.sort_and_cut(found);
            let kept = found.records.iter().map(KeyValue::weight).sum();
            let freed = std::mem::replace(bytes, kept) - kept;
            share.set(share.bytes() - 3 * freed);
        }
        Ok(())
    }
}

/// Waits before a read of the present is repeated, because the history that it needs was dropped meanwhile. After a few
/// attempts, this is an error.
pub(super) async fn again(attempt: &mut u32) -> Result<(), Failure> {
    *attempt += 1;
    if *attempt == MAX_ATTEMPTS_TO_READ {
        let message = "the members drop the history of the keys faster than they can be read here: read less at once, or \
                       let them keep more revisions";
        return Err(Failure::new(Code::Unavailable, message));
    }
    pause(*attempt).await;
    Ok(())
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
    let header = match state {
        // A read of the past reports the present revision, as far as it is known: at least that of the read.
        State::At(_) => door.header_since(found.revision),
        _ => door.header(Some(found.revision)),
    };
    let mut response = found.response();
    response.header = Some(header);
    Ok(respond::json_of(share, &response))
}
