//! `/v3/watch`: an answer that goes on, with one line for each part.

use super::super::door::Door;
use super::super::errors::Failure;
use super::super::respond::{self, Response};
use super::json::{Blob, Flag, Int, List, blob, choices, is_default, number, parse_all};
use super::lease::result_line;
use super::messages::{Header, KeyValue};
use super::span::Span;
use crate::memory::Share;
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, stream};
use kv_core::client::{Event, EventKind, Revision, WatchStream};
use kv_core::error::WatchError;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};

/// Events that are there at the same time are sent together, up to about so many bytes.
const LINE_BYTES: usize = 64 << 10;
/// About how much the client fetches ahead. It is there while a line is not taken.
const AHEAD_BYTES: usize = 1 << 20;
/// How often a client is told how far it is, if it asks for that.
const PROGRESS: Duration = Duration::from_secs(60);

choices!(
    /// Which events are left out.
    Filter { Put = "NOPUT", Delete = "NODELETE" }
);

#[derive(Deserialize, Debug, Default)]
#[serde(default)]
struct WatchRequest {
    #[serde(alias = "createRequest")]
    create_request: Option<CreateRequest>,
    #[serde(alias = "cancelRequest")]
    cancel_request: Option<IgnoredAny>,
    #[serde(alias = "progressRequest")]
    progress_request: Option<IgnoredAny>,
}

#[derive(Deserialize, Debug, Default)]
#[serde(default)]
struct CreateRequest {
    key: Blob,
    #[serde(alias = "rangeEnd")]
    range_end: Blob,
    #[serde(alias = "startRevision")]
    start_revision: Int,
    #[serde(alias = "progressNotify")]
    progress_notify: Flag,
    filters: List<Filter, 16>,
    #[serde(alias = "prevKv")]
    prev_kv: Flag,
    #[serde(alias = "watchId")]
    watch_id: Int,
}

#[derive(Serialize, Debug, Default)]
struct WatchResponse {
    #[serde(skip_serializing_if = "Option::is_none")]
    header: Option<Header>,
    #[serde(serialize_with = "super::json::signed", skip_serializing_if = "is_default")]
    watch_id: i64,
    #[serde(skip_serializing_if = "is_default")]
    created: bool,
    #[serde(skip_serializing_if = "is_default")]
    canceled: bool,
    #[serde(serialize_with = "number", skip_serializing_if = "is_default")]
    compact_revision: u64,
    #[serde(skip_serializing_if = "is_default")]
    cancel_reason: String,
    #[serde(skip_serializing_if = "is_default")]
    fragment: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    events: Vec<WatchEvent>,
}

#[derive(Serialize, Debug)]
struct WatchEvent {
    /// Left out for a put.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    kv: Changed,
    #[serde(skip_serializing_if = "Option::is_none")]
    prev_kv: Option<KeyValue>,
}

#[derive(Serialize, Debug)]
#[serde(untagged)]
enum Changed {
    Put(KeyValue),
    Removed {
        #[serde(serialize_with = "blob")]
        key: Bytes,
        #[serde(serialize_with = "number")]
        mod_revision: u64,
    },
}

impl WatchEvent {
    fn new(event: Event) -> Self {
        let Event { revision, key, record, previous, .. } = event;
        let prev_kv = previous.map(|record| KeyValue::new(key.clone(), record));
        match record {
            Some(record) => Self { kind: None, kv: Changed::Put(KeyValue::new(key, record)), prev_kv },
            None => {
                let kv = Changed::Removed { key, mod_revision: revision.get() };
                Self { kind: Some("DELETE"), kv, prev_kv }
            }
        }
    }

    fn weight(&self) -> usize {
        let kv = match &self.kv {
            Changed::Put(record) => record.weight(),
            Changed::Removed { key, .. } => key.len() + 128,
        };
        kv + self.prev_kv.as_ref().map_or(0, KeyValue::weight)
    }
}

/// A running watch.
struct Watching {
    door: Arc<Door>,
    events: WatchStream,
    id: i64,
    filters: Vec<Filter>,
    /// Whether the client wants to know from time to time how far it is.
    progress: bool,
    /// When the client was last told how far it is.
    last_sent: Instant,
    /// The first line.
    created: Option<Vec<u8>>,
    /// Why the watch ends.
    end: Option<Failure>,
    compacted: Option<Revision>,
    has_ended: bool,
    /// The memory of a line that has not been taken yet.
    share: Share,
    _permit: OwnedSemaphorePermit,
}

pub(super) async fn run(door: &Arc<Door>, body: &[u8]) -> Result<Response, Failure> {
    // The second request would be about another watch.
    let mut requests: Vec<WatchRequest> = parse_all(body, 1)?;
    let request = match requests.pop() {
        Some(WatchRequest { create_request: Some(create), cancel_request: None, progress_request: None }) => {
            create
        }
        Some(WatchRequest { create_request: None, cancel_request: Some(_), .. }) => {
            return Err(Failure::not_offered("to cancel a watch, close its connection"));
        }
        Some(WatchRequest { create_request: None, progress_request: Some(_), .. }) => {
            return Err(Failure::not_offered(
                "to learn of the progress of a watch, create it with progress_notify",
            ));
        }
        _ => return Err(Failure::invalid("the body has no create_request")),
    };
    let span = Span::new(&request.key, &request.range_end)?;
    if span.is_empty() {
        return Err(Failure::invalid("the range is empty: range_end is not behind key"));
    }
    let permit = door.watch_permit()?;
    let (after, header) = match request.start_revision.positive() {
        Some(start) => (Revision::new(start - 1), door.header(None)),
        None => {
            let newest = door.newest(false).await?;
            (newest, door.header(Some(newest)))
        }
    };
    let watch = span.watch(&door.watcher).after(after);
    let events = if request.prev_kv.0 { watch.previous() } else { watch }.stream();
    let id = request.watch_id.0;
    let created =
        WatchResponse { header: Some(header), watch_id: id, created: true, ..WatchResponse::default() };
    let watching = Watching {
        door: door.clone(),
        events,
        id,
        filters: request.filters.0,
        progress: request.progress_notify.0,
        last_sent: Instant::now(),
        created: Some(result_line(&created)),
        end: None,
        compacted: None,
        has_ended: false,
        share: door.memory.share(),
        _permit: permit,
    };
    let lines = stream::unfold(watching, |mut watching| async {
        let line = watching.line().await?;
        Some((line.into(), watching))
    });
    Ok(respond::parts(lines.boxed()))
}

impl Watching {
    /// The next line; `None` at the end.
    async fn line(&mut self) -> Option<Vec<u8>> {
        self.share.set(0);
        let line = self.next_line().await;
        self.last_sent = Instant::now();
        line
    }

    async fn next_line(&mut self) -> Option<Vec<u8>> {
        if let Some(created) = self.created.take() {
            return Some(created);
        }
        loop {
            if self.has_ended {
                return None;
            }
            if let Some(failure) = self.end.take() {
                self.has_ended = true;
                return Some(self.last_line(&failure));
            }
            let Some(response) = self.collect().await else { continue };
            let line = result_line(&response);
            drop(response);
            if self.share.set(line.len() + AHEAD_BYTES) {
                return Some(line);
            }
            // The client can continue after the last line that it has.
            self.share.set(0);
            self.end = Some(Failure::no_memory());
        }
    }

    /// Collects events, so that all events of a revision are sent together. `None` if there is nothing to send.
    async fn collect(&mut self) -> Option<WatchResponse> {
        let first = if self.progress {
            match timeout_at(self.last_sent + PROGRESS, self.events.next()).await {
                Ok(first) => first,
                Err(_) => return self.progress(),
            }
        } else {
            self.events.next().await
        };
        let (mut events, mut bytes, mut fragment) = (Vec::new(), 0, false);
        let mut next = first;
        loop {
            let event = match next {
                Some(Ok(event)) => event,
                Some(Err(error)) => {
                    self.fail(error);
                    break;
                }
                None => {
                    self.has_ended = true;
                    break;
                }
            };
            let revision = event.revision;
            if self.is_wanted(&event) {
                let event = WatchEvent::new(event);
                bytes += event.weight();
                events.push(event);
            }
            let is_complete = self.events.complete() >= revision;
            if is_complete && bytes >= LINE_BYTES {
                break;
            }
            if bytes >= self.door.options.max_answer_bytes {
                fragment = true;
                break;
            }
            next = if is_complete {
                match self.events.next().now_or_never() {
                    Some(next) => next,
                    None => break,
                }
            } else {
                self.events.next().await
            };
        }
        if events.is_empty() {
            return None;
        }
        let header = Some(self.header());
        Some(WatchResponse { header, watch_id: self.id, fragment, events, ..WatchResponse::default() })
    }

    /// A header with a revision up to which the client has everything.
    fn header(&self) -> Header {
        self.door.header(Some(self.events.complete()))
    }

    fn progress(&mut self) -> Option<WatchResponse> {
        // If nothing is known yet, it is asked again after the same time.
        self.last_sent = Instant::now();
        let is_known = self.events.complete() > Revision::ZERO;
        is_known.then(|| WatchResponse {
            header: Some(self.header()),
            watch_id: self.id,
            ..WatchResponse::default()
        })
    }

    fn is_wanted(&self, event: &Event) -> bool {
        let filter = if event.kind == EventKind::Put { Filter::Put } else { Filter::Delete };
        !self.filters.contains(&filter)
    }

    fn fail(&mut self, error: WatchError) {
        if let WatchError::Compacted { oldest } = &error {
            self.compacted = Some(*oldest);
        }
        self.end = Some(error.into());
    }

    /// What the client gets at the end of the watch.
    fn last_line(&self, failure: &Failure) -> Vec<u8> {
        if let Some(oldest) = self.compacted {
            return result_line(&WatchResponse {
                header: Some(self.door.header(None)),
                watch_id: self.id,
                canceled: true,
                // A watch can start at this revision.
                compact_revision: oldest.get() + 1,
                cancel_reason: failure.message.clone(),
                ..WatchResponse::default()
            });
        }
        failure.stream_line().to_vec()
    }
}
