//! Scans, which read a range page after page.

use super::Client;
use super::call::Reply;
use super::ops::{OpFuture, ReadOptions, freshness, unexpected_reply};
use super::range::Ends;
use crate::error::ReadError;
use crate::ids::Revision;
use crate::message::{Query, ReadMode, Record};
use bytes::Bytes;
use futures::stream::{self, Stream, TryStreamExt};
use std::future::IntoFuture;

/// How many records one page may contain. A member may return fewer.
const PAGE: usize = 1000;

/// A builder that reads keys in order: returned by [`Client::scan`] and [`Client::scan_range`]. To run it, await it, or
/// call [`snapshot`](Self::snapshot) or [`stream`](Self::stream).
///
/// A long scan is read in pages. All pages are read at one revision: the revision of the first page, or the revision
/// given to [`at`](Self::at). The options for freshness apply to the first page in the same way as to any other read.
/// The scan does not see writes after the revision at which it reads. If the members stop keeping the revision before
/// the scan ends, the scan fails with [`Compacted`](ReadError::Compacted). In that case, start the scan again.
///
/// A member does a limited amount of work for one page. If the member has to step over many removed keys or old
/// revisions, or if the values are large, the page ends early, and the scan continues with the next page.
#[derive(Debug)]
#[must_use = "nothing is done before this is awaited"]
pub struct Scan {
    from: Bytes,
    to: Option<Bytes>,
    limit: Option<usize>,
    reverse: bool,
    keys_only: bool,
    how: ReadOptions,
}

freshness!(Scan, "Sets how long each page may take, retries included. Default: the client's deadline.");

impl Scan {
    pub(super) fn new(client: Client, (from, to): Ends) -> Self {
        Self { from, to, limit: None, reverse: false, keys_only: false, how: ReadOptions::new(client) }
    }

    /// Returns at most this many records. Default: all.
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Returns the records in reverse order of their keys.
    pub fn reverse(mut self) -> Self {
        self.reverse = true;
        self
    }

    /// Leaves the value of every returned record empty. Members do not send the values.
    pub fn keys_only(mut self) -> Self {
        self.keys_only = true;
        self
    }

    /// Runs the scan, and returns its records and the revision at which they were read. To follow later changes, start
    /// a watch after that revision.
    ///
    /// # Errors
    /// The same errors as when the builder itself is awaited.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn snapshot(self) -> Result<Snapshot, ReadError> {
        let (mut records, mut revision) = (Vec::new(), self.how.at.unwrap_or_default());
        let mut rest = Some(self);
        while let Some(scan) = rest.take() {
            let page = scan.page().await?;
            records.extend(page.records);
            (revision, rest) = (page.revision, page.rest);
        }
        Ok(Snapshot { records, revision })
    }

    /// Returns the records as a stream. The stream requests the next page when all records of the current page have
    /// been taken. It ends after the first error.
    ///
    /// # Cancel safety
    /// Dropping the stream stops the scan.
    pub fn stream(self) -> impl Stream<Item = Result<(Bytes, Record), ReadError>> + Send + 'static {
        self.pages().map_ok(|page| stream::iter(page.into_iter().map(Ok))).try_flatten()
    }

    /// Returns the pages as a stream, which ends after the first error.
    fn pages(self) -> impl Stream<Item = Result<Vec<(Bytes, Record)>, ReadError>> + Send + 'static {
        self.pages_at().map_ok(|(records, _)| records)
    }

    /// Returns the pages as a stream, each with the revision at which it was read. The stream ends after the first
    /// error.
    pub(super) fn pages_at(
        self,
    ) -> impl Stream<Item = Result<(Vec<(Bytes, Record)>, Revision), ReadError>> + Send + 'static {
        stream::try_unfold(Some(self), |scan| async {
            let Some(scan) = scan.filter(|scan| scan.limit != Some(0)) else { return Ok(None) };
            let page = scan.page().await?;
            Ok(Some(((page.records, page.revision), page.rest)))
        })
    }

    /// Reads the next page. Returns the page, with the scan that continues after the page.
    async fn page(mut self) -> Result<Page, ReadError> {
        let wanted = self.limit.unwrap_or(PAGE).min(PAGE);
        let limit = u32::try_from(wanted).expect("a page is small");
        let (from, to, reverse, keys_only, at) =
            (self.from.clone(), self.to.clone(), self.reverse, self.keys_only, self.how.at);
        let query = Query::Scan { from, to, limit, reverse, keys_only, at };
        let (mut records, next, revision) = match self.how.run(query).await? {
            Reply::Records { records, next, revision } => (records, next, revision),
            other => return Err(unexpected_reply(&other)),
        };
        records.truncate(wanted);
        if let Some(limit) = &mut self.limit {
            *limit -= records.len();
        }
        let Some(next) = next else { return Ok(Page { records, revision, rest: None }) };
        let moves_on = match (self.reverse, &self.to) {
            (false, _) => next > self.from,
            (true, Some(to)) => next < *to,
            (true, None) => true,
        };
        if !moves_on {
            // The same request would be repeated forever.
            return Err(unexpected_reply(&Reply::Records { records, next: Some(next), revision }));
        }
        if self.reverse {
            self.to = Some(next);
        } else {
            self.from = next;
        }
        self.how.at = Some(revision);
        if self.how.mode != ReadMode::Linearizable {
            // Another member may answer the next request, and may lag behind this member.
            self.how.mode = ReadMode::AtLeast(revision);
        }
        Ok(Page { records, revision, rest: Some(self) })
    }
}

/// One page of a scan.
struct Page {
    records: Vec<(Bytes, Record)>,
    revision: Revision,
    /// The rest of the scan; `None` after the last page.
    rest: Option<Scan>,
}

/// The content of a range at one revision.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Snapshot {
    /// Keys and records in the order of the scan.
    pub records: Vec<(Bytes, Record)>,
    /// The revision at which the range was read.
    pub revision: Revision,
}

impl IntoFuture for Scan {
    type Output = Result<Vec<(Bytes, Record)>, ReadError>;
    type IntoFuture = OpFuture<Self::Output>;

    /// Runs the scan and collects its records.
    ///
    /// # Cancel safety
    /// Cancel safe.
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.pages().try_concat())
    }
}
