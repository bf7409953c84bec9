//! Answers.

use super::activity::Busy;
use crate::memory::Share;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::{HeaderMap, StatusCode};
use serde::Serialize;
use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

pub(super) type Response = hyper::Response<Payload>;

/// The body of an answer.
pub(super) struct Payload {
    content: Content,
    /// The memory of the content; it is given back when almost all of the content has been written.
    _share: Option<Share>,
    busy: Option<Busy>,
}

/// At most so many bytes of a whole answer are handed out at once. The server asks for more when it has written these,
/// so the rest is still here while it is in memory.
const PART_BYTES: usize = 16 << 10;

enum Content {
    /// All bytes, and how many of them have been handed out.
    Whole(Bytes, usize),
    Parts(BoxStream<'static, Bytes>),
}

impl Payload {
    /// Keeps what belongs to the request until its answer has been written.
    pub(super) fn hold(&mut self, busy: Busy) {
        self.busy = Some(busy);
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Payload").finish_non_exhaustive()
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let part = match &mut self.content {
            Content::Whole(bytes, taken) if *taken == bytes.len() => None,
            Content::Whole(bytes, taken) => {
                let from = *taken;
                *taken = bytes.len().min(from + PART_BYTES);
                // A slice would keep all bytes in memory when this is dropped.
                let is_all = *taken - from == bytes.len();
                Some(if is_all { bytes.clone() } else { Bytes::copy_from_slice(&bytes[from..*taken]) })
            }
            Content::Parts(parts) => ready!(parts.poll_next_unpin(cx)),
        };
        Poll::Ready(part.map(|part| Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        // If this was true after the last part, the server would drop this before it has written that part.
        matches!(&self.content, Content::Whole(bytes, _) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(bytes, taken) => SizeHint::with_exact((bytes.len() - taken) as u64),
            Content::Parts(_) => SizeHint::default(),
        }
    }
}

fn respond(
    status: StatusCode,
    content_type: &'static str,
    content: Content,
    share: Option<Share>,
) -> Response {
    let mut response = Response::new(Payload { content, _share: share, busy: None });
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// An answer with these bytes.
pub(super) fn bytes(status: StatusCode, content_type: &'static str, bytes: impl Into<Bytes>) -> Response {
    respond(status, content_type, Content::Whole(bytes.into(), 0), None)
}

/// An answer in JSON.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    bytes(status, "application/json", encode(value))
}

/// An answer in JSON whose memory has been counted, together with that of the request.
pub(super) fn json_of(mut share: Share, value: &impl Serialize) -> Response {
    let bytes = encode(value);
    // Only these bytes are left. If they are more than was counted, then by little.
    share.set(bytes.len());
    respond(StatusCode::OK, "application/json", Content::Whole(bytes, 0), Some(share))
}

/// An answer in parts, as they become available.
pub(super) fn parts(parts: BoxStream<'static, Bytes>) -> Response {
    respond(StatusCode::OK, "application/json", Content::Parts(parts), None)
}

/// A value in JSON.
pub(super) fn encode(value: &impl Serialize) -> Bytes {
    // Only maps whose keys are no strings fail, and there are none.
    serde_json::to_vec(value).unwrap_or_default().into()
}

/// Adds a header whose value is ASCII.
pub(super) fn header(headers: &mut HeaderMap, name: hyper::header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}
