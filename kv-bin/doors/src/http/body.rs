//! The bodies of requests.

use super::door::Door;
use super::errors::{Code, Failure};
use crate::memory::Share;
use hyper::StatusCode;
use hyper::body::{Body, Bytes};
use std::future::poll_fn;
use std::pin::Pin;
use tokio::time::timeout;

/// Reads a body, whose memory is counted in `share`.
pub(super) async fn read<B>(door: &Door, mut body: B, share: &mut Share) -> Result<Bytes, Failure>
where
    B: Body<Data = Bytes, Error: std::fmt::Display> + Unpin,
{
    let max = door.options.max_body_bytes;
    let too_large = || {
        let message = format!("the body of the request has more than {max} bytes, which is the most");
        Failure::with_status(StatusCode::PAYLOAD_TOO_LARGE, Code::ResourceExhausted, message)
    };
    if body.size_hint().lower() > max as u64 {
        return Err(too_large());
    }
    let read = async {
        let mut bytes = Vec::new();
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            let frame = frame.map_err(|error| {
                Failure::invalid(format!("the body of the request is incomplete: {error}"))
            })?;
            // Trailers say nothing.
            let Ok(data) = frame.into_data() else { continue };
            if bytes.len() + data.len() > max {
                return Err(too_large());
            }
            if !share.set(2 * (bytes.len() + data.len())) {
                return Err(Failure::no_memory());
            }
            bytes.extend_from_slice(&data);
        }
        Ok(bytes.into())
    };
    timeout(door.options.body_timeout, read).await.unwrap_or_else(|_| {
        let message = format!("the body of the request took longer than {:?}", door.options.body_timeout);
        Err(Failure::with_status(StatusCode::REQUEST_TIMEOUT, Code::DeadlineExceeded, message))
    })
}
