//! Pages about the member.

use super::door::Door;
use super::respond::{self, Response};
use hyper::StatusCode;

/// The paths of all pages.
pub(super) const PATHS: [&str; 1] = ["/livez"];

/// The page at this path, if there is one.
pub(super) async fn answer(_door: &Door, path: &str) -> Option<Response> {
    match path {
        "/livez" => Some(respond::bytes(StatusCode::OK, "text/plain", "ok\n")),
        _ => None,
    }
}
