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
    /// The memory of the content; it is given back when the content has been written.
    _share: Option<Share>,
    busy: Option<Busy>,
}

enum Content {
    Whole(Bytes),
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
            Content::Whole(bytes) if bytes.is_empty() => None,
            Content::Whole(bytes) => Some(std::mem::take(bytes)),
            Content::Parts(parts) => ready!(parts.poll_next_unpin(cx)),
        };
        Poll::Ready(part.map(|part| Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.content, Content::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
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
    respond(status, content_type, Content::Whole(bytes.into()), None)
}

/// An answer in JSON.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    bytes(status, "application/json", encode(value))
}

/// An answer in JSON whose memory is counted.
pub(super) fn json_of(mut share: Share, value: &impl Serialize) -> Response {
    let bytes = encode(value);
    // It is there already, so this refuses nothing.
    share.set(bytes.len());
    respond(StatusCode::OK, "application/json", Content::Whole(bytes), Some(share))
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
