//! Which request is answered by what.

use super::activity::Busy;
use super::body;
use super::dials;
use super::door::Door;
use super::errors::{Code, Failure};
use super::etcd::{self, Call};
use super::guard;
use super::respond::{self, Response};
use hyper::body::{Body, Bytes};
use hyper::header::{ALLOW, CONNECTION, HOST};
use hyper::{Method, Request};
use std::sync::Arc;

/// What a path leads to.
enum Target {
    Version,
    Health,
    /// A page about the member.
    Dial,
    /// A call of etcd's gateway.
    Call(Call),
}

fn find(path: &str) -> Option<Target> {
    Some(match path {
        "/version" => Target::Version,
        "/health" => Target::Health,
        _ if dials::PATHS.contains(&path) => Target::Dial,
        _ => Target::Call(Call::find(path)?),
    })
}

/// Answers a request; on a connection that `is_spare`, only one for a page that is answered at once.
pub(super) async fn answer<B>(door: &Arc<Door>, request: Request<B>, busy: &Busy, is_spare: bool) -> Response
where
    B: Body<Data = Bytes, Error: std::fmt::Display> + Unpin,
{
    let mut is_unread = !request.body().is_end_stream();
    let failure = match route(door, request, (busy, is_spare), &mut is_unread).await {
        Ok(response) => return response,
        Err(failure) => failure,
    };
    let mut response = failure.response();
    if let Some(allowed) = failure.allow {
        respond::header(response.headers_mut(), ALLOW, allowed);
    }
    if is_unread {
        // The rest of the body would be taken for the next request.
        respond::header(response.headers_mut(), CONNECTION, "close");
    }
    response
}

/// Answers a request, or returns why it failed, and whether a part of the body may be unread.
async fn route<B>(
    door: &Arc<Door>,
    request: Request<B>,
    (busy, is_spare): (&Busy, bool),
    is_unread: &mut bool,
) -> Result<Response, Failure>
where
    B: Body<Data = Bytes, Error: std::fmt::Display> + Unpin,
{
    guard::check(request.headers(), &door.options.hosts)?;
    let path = request.uri().path();
    let target = find(path).ok_or_else(|| {
        let message = format!(
            "there is nothing at {path:?}: the calls of etcd's gateway begin with /v3/, and the pages are /version, /health, {}",
            dials::PATHS.join(", ")
        );
        Failure::new(Code::NotFound, message)
    })?;
    let (allowed, is_allowed) = match target {
        Target::Call(_) => ("POST", request.method() == Method::POST),
        _ => ("GET, HEAD", matches!(*request.method(), Method::GET | Method::HEAD)),
    };
    if !is_allowed {
        let message = format!("{path} is called with {allowed}, not with {}", request.method());
        return Err(Failure::not_offered(message).with_allowed(allowed));
    }
    if is_spare && !dials::PROMPT.contains(&path) {
        return Err(Failure::too_many_connections());
    }
    if !matches!(target, Target::Call(_)) || door.options.pages_only {
        busy.received();
    }
    match target {
        Target::Version => Ok(etcd::version()),
        Target::Health => Ok(etcd::health(door, request.uri().query()).await),
        Target::Dial => dials::answer(door, path)
            .await
            .ok_or_else(|| Failure::new(Code::NotFound, format!("there is no page {path}"))),
        Target::Call(_) if door.options.pages_only => {
            let message = "only pages about the member are served here, and no keys: ask for the calls of etcd's gateway at \
                           a door without --http-pages-only";
            Err(Failure::new(Code::PermissionDenied, message))
        }
        Target::Call(call) => {
            let mut share = door.memory.share();
            let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).map(str::to_owned);
            let body = body::read(door, request.into_body(), &mut share).await?;
            *is_unread = false;
            busy.received();
            etcd::run(door, call, &body, share, host.as_deref()).await
        }
    }
}
