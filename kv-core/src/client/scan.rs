//! Scans: page after page.

use super::ops::{OpFuture, freshness, misfit, read};
use super::range::{after_prefix, ends_of, successor};
use super::{Client, Reply};
use crate::error::ReadError;
use crate::message::{Query, ReadMode, Record};
use bytes::Bytes;
use futures::stream::{self, Stream, TryStreamExt};
use std::future::IntoFuture;
use std::ops::RangeBounds;
use std::time::Duration;

/// How many records are asked for at once; a member may answer fewer.
const PAGE: usize = 1000;

/// Reads keys in order: created by [`Client::scan`] and [`Client::scan_range`], run by awaiting it or by
/// [`stream`](Self::stream).
///
/// A long scan is read in pages. Each page is as fresh as a read that begins when the page is asked for; writes between two
/// pages are seen by the later one.
#[derive(Debug)]
#[must_use = "nothing is done before this is awaited"]
pub struct Scan {
    client: Client,
    from: Bytes,
    to: Option<Bytes>,
    limit: Option<usize>,
    mode: ReadMode,
    deadline: Option<Duration>,
}

freshness!(Scan, "How long each page may take, retries included. Default: the client's.");

impl Scan {
    pub(super) fn prefix(client: Client, prefix: &[u8]) -> Self {
        let from = Bytes::copy_from_slice(prefix);
        Self {
            client,
            from,
            to: after_prefix(prefix),
            limit: None,
            mode: ReadMode::Linearizable,
            deadline: None,
        }
    }

    pub(super) fn range<K: AsRef<[u8]>>(client: Client, range: &impl RangeBounds<K>) -> Self {
        let (from, to) = ends_of(range);
        Self { client, from, to, limit: None, mode: ReadMode::Linearizable, deadline: None }
    }

    /// At most this many records. Default: all of them.
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = Some(limit);
        self
    }

    /// The records one by one; the next page is asked for when the last one is used up. Ends after the first error.
    ///
    /// # Cancel safety
    /// Dropping the stream stops the scan.
    pub fn stream(self) -> impl Stream<Item = Result<(Bytes, Record), ReadError>> + Send + 'static {
        self.pages().map_ok(|page| stream::iter(page.into_iter().map(Ok))).try_flatten()
    }

    /// Page after page. Ends after the first error.
    fn pages(self) -> impl Stream<Item = Result<Vec<(Bytes, Record)>, ReadError>> + Send + 'static {
        stream::try_unfold(Some(self), |scan| async {
            let Some(scan) = scan.filter(|scan| scan.limit != Some(0)) else { return Ok(None) };
            scan.page().await.map(Some)
        })
    }

    /// The next page, and the scan that goes on after it.
    async fn page(mut self) -> Result<(Vec<(Bytes, Record)>, Option<Self>), ReadError> {
        let wanted = self.limit.unwrap_or(PAGE).min(PAGE);
        let limit = u32::try_from(wanted).expect("a page is small");
        let query = Query::Scan { from: self.from.clone(), to: self.to.clone(), limit };
        let (mut records, more) = match read(&self.client, self.mode, query, self.deadline).await? {
            Reply::Records { records, more, .. } => (records, more),
            other => return Err(misfit(&other)),
        };
        records.truncate(wanted);
        if let Some(limit) = &mut self.limit {
            *limit -= records.len();
        }
        let Some((last, _)) = records.last().filter(|_| more) else { return Ok((records, None)) };
        self.from = successor(last);
        Ok((records, Some(self)))
    }
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
