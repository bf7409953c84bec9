//! Watches, which return changes as a stream.

use super::range::Ends;
use super::watch_cursor::WatchCursor;
use super::{Client, Closed, Scan};
use crate::error::{ReadError, WatchError};
use crate::ids::Revision;
use crate::message::{Event, Position, Record, WatchQuery};
use bytes::Bytes;
use futures::stream::{self, BoxStream, Stream, StreamExt};
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

/// The deadline of one watch call. When it has passed, the client makes the next call.
const PATIENCE: Duration = Duration::from_secs(3600);

/// A builder that watches the changes in a range: returned by [`Client::watch`], [`Client::watch_key`] and
/// [`Client::watch_range`]. To run it, call [`stream`](Self::stream) or [`follow`](Self::follow).
///
/// # Limits
/// A member serves up to 512 watches of one client and its clones. A watch beyond that ends with
/// [`WatchError::Refused`]. This also applies to a running watch that moves to the member because another member
/// failed. Waiting for a [lock](Client::lock) uses a watch, too. To run more watches, connect more clients.
///
/// ```no_run
/// # async fn example(client: kv_core::Client) -> Result<(), Box<dyn std::error::Error>> {
/// let seen = client.put("jobs/1", "sweep").await?.revision;
/// let mut events = client.watch("jobs/").after(seen).stream();
/// while let Some(event) = events.next().await {
///     let event = event?;
///     println!("{:?} {:?} at revision {}", event.kind, event.key, event.revision);
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is followed before this is run"]
pub struct Watch {
    client: Client,
    from: Bytes,
    to: Option<Bytes>,
    after: Option<Revision>,
    previous: bool,
}

impl Watch {
    pub(super) fn new(client: Client, (from, to): Ends) -> Self {
        Self { client, from, to, after: None, previous: false }
    }

    /// Starts with the first change after this revision. By default, a watch starts when its first request reaches a
    /// member. The client sends that request when the stream is first polled. A watch that starts in this way may
    /// include changes that other clients made shortly before its start. To miss no change after a certain point, give
    /// the revision of that point, or use [`follow`](Self::follow).
    pub fn after(mut self, revision: Revision) -> Self {
        self.after = Some(revision.sendable());
        self
    }

    /// Includes the previous record of the key in each event.
    pub fn previous(mut self) -> Self {
        self.previous = true;
        self
    }

    /// Returns the changes as a stream. The stream returns each change exactly once, in the order of revisions, and in
    /// the order of keys within a revision. It continues through failovers, restarts and broken connections, and ends
    /// after the first error.
    ///
    /// Any data member (a member that stores data) can serve the stream. The stream returns only committed changes.
    /// While no data member can be reached, or the cluster has no primary, the stream returns nothing. Members keep a
    /// limited number of past changes. If the stream needs older changes, it ends with [`WatchError::Compacted`]. It
    /// never leaves out a change silently.
    ///
    /// The client fetches at most one answer (about a megabyte) ahead, so a slow consumer does not use more memory. If
    /// the consumer falls too far behind, the stream ends with [`WatchError::Compacted`].
    ///
    /// # Cancel safety
    /// Waiting for the next item is cancel safe. Dropping the stream ends the watch.
    #[must_use]
    pub fn stream(self) -> WatchStream {
        let after = self.after.map(Position::after);
        let complete = Arc::new(AtomicU64::new(self.after.unwrap_or_default().get()));
        WatchStream { inner: self.events(after, complete.clone()).boxed(), complete }
    }

    fn events(
        self,
        after: Option<Position>,
        complete: Arc<AtomicU64>,
    ) -> impl Stream<Item = Result<Event, WatchError>> + Send {
        let Self { client, from, to, previous, .. } = self;
        let cursor = WatchCursor::new(WatchQuery { from, to, after, previous });
        stream::unfold(WatchTask { client, cursor, complete, ended: false }, |mut task| async {
            let item = task.next().await?;
            task.ended = item.is_err();
            Some((item, task))
        })
    }

    /// Returns the present records (all read at one revision), then [`Update::UpToDate`], and then every later change
    /// exactly once. Use this to maintain a copy of the range. The stream ends after the first error. After
    /// [`WatchError::Compacted`], call `follow` again and start with an empty copy.
    ///
    /// [`after`](Self::after) has no effect here.
    ///
    /// # Cancel safety
    /// The same as for [`stream`](Self::stream).
    #[must_use]
    pub fn follow(self) -> Follow {
        let pages = Scan::new(self.client.clone(), (self.from.clone(), self.to.clone())).pages_at();
        let start = Following { watch: self, at: Revision::ZERO, part: Part::Pages(pages.boxed()) };
        Follow { inner: stream::unfold(start, Following::next).flat_map(stream::iter).boxed() }
    }
}

/// A running watch.
struct WatchTask {
    client: Client,
    cursor: WatchCursor,
    /// See [`WatchStream::complete`].
    complete: Arc<AtomicU64>,
    ended: bool,
}

impl WatchTask {
    async fn next(&mut self) -> Option<Result<Event, WatchError>> {
        while !self.ended {
            if let Some(event) = self.cursor.take() {
                self.publish_progress();
                return Some(Ok(event));
            }
            if let Err(error) = self.ask().await {
                return Some(Err(error));
            }
        }
        None
    }

    fn publish_progress(&self) {
        self.complete.store(self.cursor.complete().get(), Ordering::Relaxed);
    }

    /// Asks a member for changes, after all received events have been taken. Returns when the member has answered with
    /// events or with a new position, or when the call must be repeated.
    async fn ask(&mut self) -> Result<(), WatchError> {
        self.publish_progress();
        self.cursor.check(self.client.limits().sizes()).map_err(WatchError::Malformed)?;
        let call = self.cursor.call(self.client.local());
        match self.client.call(call, 0, PATIENCE).await {
            Ok(result) => self.cursor.on_result(result),
            Err(Closed) => Err(WatchError::Closed),
        }
    }
}

/// The stream of a watch: returned by [`Watch::stream`].
pub struct WatchStream {
    inner: BoxStream<'static, Result<Event, WatchError>>,
    complete: Arc<AtomicU64>,
}

impl WatchStream {
    /// Returns the next change; `None` after an error.
    ///
    /// # Errors
    /// Returns a single error, when the watch ends: see [`WatchError`].
    ///
    /// # Cancel safety
    /// Cancel safe: a cancelled call loses no item.
    pub async fn next(&mut self) -> Option<Result<Event, WatchError>> {
        poll_fn(|cx| self.poll_next_unpin(cx)).await
    }

    /// Returns the last revision whose events have all been taken from the stream. A new watch [after](Watch::after)
    /// the returned revision continues without a gap. If one revision changes several keys in the range, it has several
    /// events. The returned value advances only when the last of these events has been taken. Changes outside the range
    /// also make new revisions. So while nothing in the range changes, the value still moves up to a recent revision
    /// about every 30 seconds. If the watch was started without a revision, the value is 0 until a member has answered.
    #[must_use]
    pub fn complete(&self) -> Revision {
        Revision::new(self.complete.load(Ordering::Relaxed))
    }
}

impl Stream for WatchStream {
    type Item = Result<Event, WatchError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.inner.poll_next_unpin(cx)
    }
}

impl fmt::Debug for WatchStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchStream").field("complete", &self.complete()).finish_non_exhaustive()
    }
}

/// An item of the stream of [`Watch::follow`].
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Update {
    /// A record that was present at the start.
    Present {
        /// The key.
        key: Bytes,
        /// The record.
        record: Record,
    },
    /// All present records have been returned. Together, they are the content of the range at this revision.
    UpToDate {
        /// The revision at which the records were read. All events that follow have later revisions.
        revision: Revision,
    },
    /// A later change.
    Event(Event),
}

/// The stream of [`Watch::follow`].
pub struct Follow {
    inner: BoxStream<'static, Result<Update, WatchError>>,
}

impl Follow {
    /// Returns the next item; `None` after an error.
    ///
    /// # Errors
    /// Returns a single error, when the watch ends: see [`WatchError`].
    ///
    /// # Cancel safety
    /// Cancel safe: a cancelled call loses no item.
    pub async fn next(&mut self) -> Option<Result<Update, WatchError>> {
        poll_fn(|cx| self.poll_next_unpin(cx)).await
    }
}

impl Stream for Follow {
    type Item = Result<Update, WatchError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.inner.poll_next_unpin(cx)
    }
}

impl fmt::Debug for Follow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follow").finish_non_exhaustive()
    }
}

/// Records, and the revision at which they were read.
type Page = (Vec<(Bytes, Record)>, Revision);

/// The phase that [`Watch::follow`] is in.
enum Part {
    Pages(BoxStream<'static, Result<Page, ReadError>>),
    Events(BoxStream<'static, Result<Event, WatchError>>),
    Ended,
}

struct Following {
    watch: Watch,
    /// The revision at which the range is read.
    at: Revision,
    part: Part,
}

impl Following {
    async fn next(mut self) -> Option<(Vec<Result<Update, WatchError>>, Self)> {
        let event = match &mut self.part {
            Part::Ended => return None,
            Part::Pages(pages) => match pages.next().await {
                Some(Ok((records, revision))) => {
                    self.at = revision;
                    records.into_iter().map(|(key, record)| Ok(Update::Present { key, record })).collect()
                }
                Some(Err(error)) => {
                    self.part = Part::Ended;
                    vec![Err(error.into())]
                }
                None => {
                    let after = Some(Position::after(self.at));
                    self.part = Part::Events(self.watch.clone().events(after, Arc::default()).boxed());
                    vec![Ok(Update::UpToDate { revision: self.at })]
                }
            },
            Part::Events(events) => vec![events.next().await?.map(Update::Event)],
        };
        Some((event, self))
    }
}
