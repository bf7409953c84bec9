//! Reads the applied state.

use super::changes::{Compacted, MAX_STEPS};
use super::recent::Recent;
use super::record;
use crate::engine::{EngineError, Keys, ReadView, Reader};
use crate::ids::{Anchor, RequestNumber, Revision, SessionId};
use crate::message::{Answer, Outcome, Query, Record, Rejection, successor};
use bytes::Bytes;
use std::sync::Arc;

/// Reads the applied state, each call at one revision. It never waits for the writer, and never makes the writer wait.
/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct StateReader {
    reader: Reader,
    recent: Arc<Recent>,
    history_revisions: u64,
}

impl StateReader {
    pub(super) fn new(reader: Reader, recent: Arc<Recent>, history_revisions: u64) -> Self {
        Self { reader, recent, history_revisions }
    }

    /// The oldest revision that clients can read in this view. The engine drops history at checkpoints. Until then, it
    /// may keep more than it should, also revisions from before a [skip](crate::message::Command::SkipRevisions). They
    /// count as dropped at once, and on every member.
    pub(super) fn floor(&self, view: &ReadView) -> Revision {
        view.floor().max(view.revision().back(self.history_revisions))
    }

    pub(super) fn latest(&self) -> Arc<ReadView> {
        self.reader.latest()
    }

    /// The last applied op.
    #[must_use]
    pub fn applied(&self) -> Anchor {
        self.reader.latest().applied()
    }

    /// The last revision that was taken by an applied request.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.reader.latest().revision()
    }

    /// The length of the files of the state.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.latest().file_bytes()
    }

    /// The oldest revision that is stored, whether or not it counts as kept.
    #[cfg(feature = "internals")]
    #[must_use]
    pub fn stored_floor(&self) -> Revision {
        self.latest().floor()
    }

    /// The newest state.
    #[must_use]
    pub fn newest(&self) -> RevisionView {
        let view = self.latest();
        RevisionView { at: view.revision(), view }
    }

    /// The state as it was at a revision.
    ///
    /// # Errors
    /// [`Unreadable`] if the revision is too old, or does not exist yet.
    pub fn at(&self, revision: Revision) -> Result<RevisionView, Unreadable> {
        let view = self.latest();
        let floor = self.floor(&view);
        if revision < floor {
            Err(Unreadable::Compacted(Compacted { oldest: floor }))
        } else if revision > view.revision() {
            Err(Unreadable::Future { newest: view.revision() })
        } else {
            Ok(RevisionView { view, at: revision })
        }
    }

    /// The record of a key, and the revision of the state that was read.
    ///
    /// # Errors
    /// If the disk fails or is damaged.
    #[cfg(feature = "internals")]
    pub fn get(&self, key: &[u8]) -> Result<(Option<Record>, Revision), EngineError> {
        let view = self.newest();
        Ok((view.get(key)?, view.revision()))
    }

    /// The records from `from` (inclusive) to `to` (exclusive; `None` for the end): at most `limit`, and at most one
    /// record beyond `max_bytes` of keys and values.
    ///
    /// # Errors
    /// If the disk fails or is damaged.
    #[cfg(feature = "internals")]
    pub fn scan(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        limit: usize,
        max_bytes: usize,
    ) -> Result<ScanPage, EngineError> {
        self.newest().scan(Keys { from, to, reverse: false }, false, limit, max_bytes)
    }

    /// Runs a query: at most this many records and bytes, or one record beyond the bytes.
    ///
    /// # Errors
    /// If the disk fails or is damaged.
    pub fn answer(&self, query: &Query, max_records: usize, max_bytes: usize) -> Result<Answer, EngineError> {
        let view = match query.at().map_or_else(|| Ok(self.newest()), |at| self.at(at)) {
            Ok(view) => view,
            Err(Unreadable::Compacted(Compacted { oldest })) => return Ok(Answer::Compacted { oldest }),
            Err(Unreadable::Future { newest }) => return Ok(Answer::Future { newest }),
        };
        let revision = view.revision();
        let page = match query {
            Query::Count { from, to, .. } => {
                let keys = Keys { from, to: to.as_deref(), reverse: false };
                let (count, next) = view.count(keys)?;
                return Ok(Answer::Counted { count, next, revision });
            }
            Query::Get { key, .. } => return Ok(Answer::Value { record: view.get(key)?, revision }),
            Query::Many { keys, .. } => {
                let fits = keys.len() <= Query::MAX_KEYS;
                let page = if fits { view.get_many(keys, max_bytes)? } else { None };
                let Some(page) = page else {
                    return Ok(Answer::Refused(format!(
                        "too much at once: read up to {} keys, with {} KiB together",
                        Query::MAX_KEYS,
                        max_bytes >> 10
                    )));
                };
                page
            }
            Query::Scan { from, to, limit, reverse, keys_only, .. } => {
                let limit = usize::try_from(*limit).unwrap_or(max_records).clamp(1, max_records);
                let keys = Keys { from, to: to.as_deref(), reverse: *reverse };
                view.scan(keys, *keys_only, limit, max_bytes)?
            }
        };
        Ok(Answer::Records { records: page.records, next: page.next, revision })
    }

    /// The answer to a query that needs no disk and little work: the newest record of a key that has changed recently.
    #[must_use]
    pub fn answer_from_memory(&self, query: &Query) -> Option<Answer> {
        let Query::Get { key, at: None } = query else { return None };
        let view = self.latest();
        // A record that cannot be decoded is read again, and reported, where other reads are.
        let record = view.get_in_memory(key)?.as_ref().map(record::decode).transpose().ok()?;
        Some(Answer::Value { record, revision: view.revision() })
    }

    /// The stored result of a request that was applied recently, if it is available. `None` proves nothing: propose the
    /// request.
    #[must_use]
    pub fn stored(&self, session: SessionId, number: RequestNumber) -> Option<Result<Outcome, Rejection>> {
        self.recent.get(session, number)
    }
}

/// The state at one revision. Holding it keeps memory and pages of the disk in use, so do not hold it for long.
#[derive(Clone, Debug)]
pub struct RevisionView {
    view: Arc<ReadView>,
    at: Revision,
}

impl RevisionView {
    #[must_use]
    pub const fn revision(&self) -> Revision {
        self.at
    }

    /// The record of a key.
    ///
    /// # Errors
    /// If the disk fails or is damaged.
    pub fn get(&self, key: &[u8]) -> Result<Option<Record>, EngineError> {
        self.view.get_at(key, self.at)?.as_ref().map(record::decode).transpose()
    }

    /// The records of those keys that exist, in the order of `keys`. `None` if they are too large together: all but the
    /// last may have `max_bytes`.
    ///
    /// # Errors
    /// If the disk fails or is damaged.
    pub fn get_many(&self, keys: &[Bytes], max_bytes: usize) -> Result<Option<ScanPage>, EngineError> {
        let mut page = ScanPage { records: Vec::new(), next: None, revision: self.at };
        let mut bytes = 0;
        for key in keys {
            let Some(record) = self.get(key)? else { continue };
            if bytes > max_bytes {
                return Ok(None);
            }
            bytes += key.len() + record.value.len();
            page.records.push((key.clone(), record));
        }
        Ok(Some(page))
    }

    /// The records of a range, with empty values if `keys_only` is set: at most `limit`, and at most one record beyond
    /// `max_bytes` of keys and values. A page also ends after 16,384 steps: one for each key that is visited, present
    /// or removed, and one for each 256 bytes that are read from the disk's cache, wanted or not. So a page may contain
    /// no record although the range continues.
    ///
    /// # Errors
    /// If the disk fails or is damaged.
    pub fn scan(
        &self,
        keys: Keys<'_>,
        keys_only: bool,
        limit: usize,
        max_bytes: usize,
    ) -> Result<ScanPage, EngineError> {
        let mut page = ScanPage { records: Vec::new(), next: None, revision: self.at };
        let mut bytes = 0;
        // In reverse, a page ends before a key that is still to come.
        let next = |key: &[u8]| if keys.reverse { successor(key) } else { Bytes::copy_from_slice(key) };
        let mut scan = self.view.scan_at(keys, self.at)?.within(MAX_STEPS);
        if keys_only {
            scan = scan.heads();
        }
        for record in scan.by_ref() {
            let (key, stored) = record?;
            if page.records.len() >= limit || bytes >= max_bytes {
                page.next = Some(next(&key));
                return Ok(page);
            }
            let mut record = record::decode(&stored)?;
            if keys_only {
                record.value = Bytes::new();
            }
            bytes += key.len() + record.value.len();
            page.records.push((key, record));
        }
        page.next = scan.rest().map(next);
        Ok(page)
    }

    /// The number of keys at the beginning of a range, and where the range continues. It visits as many keys as a page
    /// of [`scan`](Self::scan) does, and copies no values.
    ///
    /// # Errors
    /// If the disk fails or is damaged.
    pub fn count(&self, keys: Keys<'_>) -> Result<(u64, Option<Bytes>), EngineError> {
        let mut scan = self.view.scan_at(keys, self.at)?.within(MAX_STEPS).heads();
        let mut count = 0;
        for record in scan.by_ref() {
            record?;
            count += 1;
        }
        Ok((count, scan.rest().map(Bytes::copy_from_slice)))
    }
}

/// Why the state at a revision cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unreadable {
    /// It is no longer kept.
    #[error(transparent)]
    Compacted(#[from] Compacted),
    /// This member has not applied it: it does not exist yet, or has not arrived here.
    #[error("the newest revision here is {newest}")]
    Future {
        /// The newest revision here.
        newest: Revision,
    },
}

/// One page of a scan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScanPage {
    /// Keys and records in order.
    pub records: Vec<(Bytes, Record)>,
    /// Where the range continues: the first key of the next page, or in reverse its (exclusive) end. `None` if this was
    /// all.
    pub next: Option<Bytes>,
    /// The revision of the state that was read.
    pub revision: Revision,
}
