//! Pages about the member, for people and for the programs that watch it. They only read.

mod exposition;
mod html;
mod metrics;
mod page;
mod probes;
mod status;
#[cfg(test)]
mod tests;

pub use status::{explain, status_fields};

use super::door::Door;
use super::respond::{self, Response};
use hyper::StatusCode;
use kv_core::node::MemberStatus;

/// The paths of all pages.
pub(super) const PATHS: [&str; 6] = ["/", "/livez", "/readyz", "/primary", "/metrics", "/status"];

/// Those that ask no other member, so that each is answered at once or, if this member hangs, soon.
pub(super) const PROMPT: [&str; 4] = ["/livez", "/readyz", "/primary", "/metrics"];

/// The page at this path, if there is one.
pub(super) async fn answer(door: &Door, path: &str) -> Option<Response> {
    let metrics = || door.node.as_ref().map(|node| node.metrics());
    Some(match path {
        "/" => page::answer(door).await,
        "/livez" => match &door.node {
            Some(node) => probe(probes::live(node).await),
            None => probe(Ok("ok".to_owned())),
        },
        "/readyz" => of_member(door, probes::ready).await,
        "/primary" => of_member(door, probes::primary).await,
        "/metrics" => metrics().map_or_else(no_member, |metrics| {
            let text = metrics::text(&metrics, &door.options.cluster);
            respond::bytes(StatusCode::OK, exposition::CONTENT_TYPE, text)
        }),
        "/status" => {
            let (sample, _) = door.samples.take(&door.client).await;
            respond::json(StatusCode::OK, &status::object(&sample.members))
        }
        _ => return None,
    })
}

/// What `ask` finds in the status of the member. A member that does not respond does not update its status either.
async fn of_member(door: &Door, ask: fn(&MemberStatus) -> Result<String, String>) -> Response {
    let Some(node) = &door.node else { return no_member() };
    probe(probes::live(node).await.and_then(|_| ask(&node.status())))
}

/// One line, and a status that tells the same.
fn probe(found: Result<String, String>) -> Response {
    let (status, line) = match found {
        Ok(line) => (StatusCode::OK, line),
        Err(line) => (StatusCode::SERVICE_UNAVAILABLE, line),
    };
    respond::bytes(status, "text/plain", line + "\n")
}

fn no_member() -> Response {
    probe(Err("no member runs in this process: ask a member".to_owned()))
}
