//! Pages about the member, for people and for the programs that watch it. They only read.

mod exposition;
mod html;
mod metrics;
mod page;
mod probes;
mod status;
#[cfg(test)]
mod tests;

use super::door::Door;
use super::respond::{self, Response};
use hyper::StatusCode;

/// The paths of all pages.
pub(super) const PATHS: [&str; 6] = ["/", "/livez", "/readyz", "/primary", "/metrics", "/status"];

/// The page at this path, if there is one.
pub(super) async fn answer(door: &Door, path: &str) -> Option<Response> {
    let metrics = || door.node.as_ref().map(|node| node.metrics());
    let member = || door.node.as_ref().map(|node| node.status());
    Some(match path {
        "/" => page::answer(door).await,
        "/livez" => match &door.node {
            Some(node) => probe(probes::live(node).await),
            None => probe(Ok("ok".to_owned())),
        },
        "/readyz" => member().map_or_else(no_member, |status| probe(probes::ready(&status))),
        "/primary" => member().map_or_else(no_member, |status| probe(probes::primary(&status))),
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
