//! The JSON gateway of etcd v3.

use super::door::Door;
use super::errors::Failure;
use super::respond::{self, Response};
use crate::memory::Share;
use hyper::StatusCode;
use hyper::body::Bytes;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// The version of etcd whose gateway a door follows. Clients choose paths and features by it.
const ETCD_VERSION: &str = "3.5.0";
/// How long the answer to `/health` may take.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);

/// The calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Call {}

impl Call {
    /// The call at this path.
    pub(super) fn find(_path: &str) -> Option<Self> {
        None
    }
}

/// Runs a call. The memory of its body is counted in `share`.
pub(super) async fn run(
    _door: &Arc<Door>,
    call: Call,
    _body: &Bytes,
    _share: Share,
) -> Result<Response, Failure> {
    match call {}
}

pub(super) fn version() -> Response {
    respond::json(
        StatusCode::OK,
        &json!({"etcdserver": ETCD_VERSION, "etcdcluster": ETCD_VERSION, "kv": env!("CARGO_PKG_VERSION")}),
    )
}

/// Whether the cluster answers reads. With `serializable=true`, any member may answer.
pub(super) async fn health(door: &Door, query: Option<&str>) -> Response {
    let read = door.client.get("health").deadline(HEALTH_TIMEOUT);
    let is_local = query.is_some_and(|query| query.split('&').any(|part| part == "serializable=true"));
    match if is_local { read.local().await } else { read.await } {
        Ok(_) => respond::json(StatusCode::OK, &json!({"health": "true", "reason": ""})),
        Err(error) => {
            let body = json!({"health": "false", "reason": error.to_string()});
            respond::json(StatusCode::SERVICE_UNAVAILABLE, &body)
        }
    }
}
