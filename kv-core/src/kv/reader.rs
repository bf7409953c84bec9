//! Reading the applied state.

use super::recent::Recent;
use super::record;
use crate::engine::{EngineError, Point, Reader};
use crate::ids::{Anchor, RequestNumber, Revision, SessionId};
use crate::message::{Outcome, Record, Rejection};
use bytes::Bytes;
use std::sync::Arc;

/// Reads the applied state, each call at one revision. Never waits for the writer, nor makes it wait. Cheap to clone.
#[derive(Clone, Debug)]
pub struct StateReader {
    reader: Reader,
    recent: Arc<Recent>,
}

impl StateReader {
    pub(super) fn new(reader: Reader, recent: Arc<Recent>) -> Self {
        Self { reader, recent }
    }

    pub(super) fn point(&self) -> Arc<Point> {
        self.reader.point()
    }

    /// The last applied op.
    #[must_use]
    pub fn applied(&self) -> Anchor {
        self.reader.point().applied()
    }

    /// The revision of the last applied request.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.reader.point().revision()
    }

    /// The record of a key, and the revision of the state that was read.
    ///
    /// # Errors
    /// If the disk fails or is damaged.
    pub fn get(&self, key: &[u8]) -> Result<(Option<Record>, Revision), EngineError> {
        let point = self.reader.point();
        let stored = point.get(key)?;
        Ok((stored.as_ref().map(record::decode).transpose()?, point.revision()))
    }

    /// The records of those of the keys that exist, in the order of `keys`, and the revision of the state that was read. `None` if they
    /// are too large together: all but the last may have `max_bytes`.
    ///
    /// # Errors
    /// If the disk fails or is damaged.
    pub fn get_many(&self, keys: &[Bytes], max_bytes: usize) -> Result<Option<ScanPage>, EngineError> {
        let point = self.reader.point();
        let mut page = ScanPage { records: Vec::new(), more: false, revision: point.revision() };
        let mut bytes = 0;
        for key in keys {
            let Some(stored) = point.get(key)? else { continue };
            if bytes > max_bytes {
                return Ok(None);
            }
            let record = record::decode(&stored)?;
            bytes += key.len() + record.value.len();
            page.records.push((key.clone(), record));
        }
        Ok(Some(page))
    }

    /// The records from `from` (inclusive) to `to` (exclusive; `None`: to the end): at most `limit`, and no more than
    /// one beyond `max_bytes` of keys and values.
    ///
    /// # Errors
    /// If the disk fails or is damaged.
    pub fn scan(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        limit: usize,
        max_bytes: usize,
    ) -> Result<ScanPage, EngineError> {
        let point = self.reader.point();
        let mut page = ScanPage { records: Vec::new(), more: false, revision: point.revision() };
        let mut bytes = 0;
        for record in point.scan(from)? {
            let (key, stored) = record?;
            if to.is_some_and(|to| &key[..] >= to) {
                break;
            }
            if page.records.len() >= limit || bytes >= max_bytes {
                page.more = true;
                break;
            }
            let record = record::decode(&stored)?;
            bytes += key.len() + record.value.len();
            page.records.push((key, record));
        }
        Ok(page)
    }

    /// The result of a request that was applied lately, if it is at hand. `None` says nothing: propose the request.
    #[must_use]
    pub fn stored(&self, session: SessionId, number: RequestNumber) -> Option<Result<Outcome, Rejection>> {
        self.recent.get(session, number)
    }
}

/// One page of a scan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScanPage {
    /// Keys and records in order.
    pub records: Vec<(Bytes, Record)>,
    /// Whether the range goes on after the last key.
    pub more: bool,
    /// The revision of the state that was read.
    pub revision: Revision,
}
