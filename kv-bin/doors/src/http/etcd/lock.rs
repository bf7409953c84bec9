//! Locks and elections.
//!
//! These are etcd's own, which are made of keys: each client that waits has a key, whose name begins with the name of
//! the lock and ends with the id of the client's lease. The client whose key was created first holds the lock. So
//! clients of etcd that do the same with transactions and watches take part, but clients of kv's own locks do not.

use super::super::door::Door;
use super::super::errors::{Code, Failure};
use super::super::respond::{self, Response};
use super::json::{Blob, Int, blob, is_default, number, parse};
use super::lease::result_line;
use super::messages::{Done, Header, KeyValue, count};
use super::range::again;
use super::write::lease_of;
use crate::memory::Share;
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use hyper::StatusCode;
use kv_core::client::{LeaseHandle, LeaseId, Lifetime, Record, Revision, StepResult};
use kv_core::error::{ReadError, WatchError};
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;

/// How long a lock without a lease is held, if it is not released. While the client waits, it is renewed.
const TTL: Duration = Duration::from_secs(60);

#[derive(Deserialize, Debug, Default)]
#[serde(default)]
struct LockRequest {
    name: Blob,
    lease: Int,
}

#[derive(Serialize, Debug)]
struct Locked {
    header: Header,
    #[serde(serialize_with = "blob")]
    key: Bytes,
}

#[derive(Deserialize, Debug, Default)]
#[serde(default)]
struct UnlockRequest {
    key: Blob,
}

#[derive(Deserialize, Debug, Default)]
#[serde(default)]
struct CampaignRequest {
    name: Blob,
    lease: Int,
    value: Blob,
}

#[derive(Deserialize, Debug, Default)]
#[serde(default)]
struct LeaderKey {
    key: Blob,
    rev: Int,
}

#[derive(Deserialize, Debug, Default)]
#[serde(default)]
struct LeaderRequest {
    name: Blob,
    leader: Option<LeaderKey>,
    value: Blob,
}

#[derive(Serialize, Debug)]
struct Elected {
    header: Header,
    leader: Tenure,
}

/// What a leader needs for its further calls.
#[derive(Serialize, Debug)]
struct Tenure {
    #[serde(serialize_with = "blob")]
    name: Bytes,
    #[serde(serialize_with = "blob")]
    key: Bytes,
    #[serde(serialize_with = "number")]
    rev: u64,
    #[serde(serialize_with = "number", skip_serializing_if = "is_default")]
    lease: u64,
}

#[derive(Serialize, Debug)]
struct Leader {
    header: Header,
    kv: KeyValue,
}

pub(super) async fn lock(door: &Arc<Door>, body: &[u8]) -> Result<Response, Failure> {
    let request: LockRequest = parse(body)?;
    let place = Place::take(door, &request.name, request.lease, Bytes::new()).await?;
    let Some(revision) = place.hold().await? else {
        return Err(Failure::new(Code::FailedPrecondition, "mutex: session is expired"));
    };
    let header = door.header(Some(revision));
    let key = place.keep();
    Ok(respond::json(StatusCode::OK, &Locked { header, key }))
}

pub(super) async fn unlock(door: &Door, body: &[u8]) -> Result<Response, Failure> {
    let request: UnlockRequest = parse(body)?;
    let deleted = door.client.delete(&request.key.0).await?;
    Ok(respond::json(StatusCode::OK, &Done { header: door.header(Some(deleted.revision)) }))
}

pub(super) async fn campaign(door: &Arc<Door>, body: &[u8]) -> Result<Response, Failure> {
    let request: CampaignRequest = parse(body)?;
    let place = Place::take(door, &request.name, request.lease, request.value.0).await?;
    let Some(revision) = place.hold().await? else {
        return Err(Failure::new(Code::FailedPrecondition, "election: session is expired"));
    };
    let header = door.header(Some(revision));
    let (rev, lease) = (place.created.get(), place.lease.get());
    let leader = Tenure { name: request.name.0, key: place.keep(), rev, lease };
    Ok(respond::json(StatusCode::OK, &Elected { header, leader }))
}

/// Changes the value of a key of an election that was created at this revision.
async fn change(door: &Door, key: &Bytes, created: Revision, value: &Bytes) -> Result<Revision, Failure> {
    let not_leader = || Failure::new(Code::FailedPrecondition, "election: not leader");
    let record =
        door.client.get(key).await?.filter(|record| record.created == created).ok_or_else(not_leader)?;
    let life = Lifetime { ttl_ms: None, lease: record.lease };
    let put = door.client.transaction().if_created(key, created).put_for(key, value.clone(), life).await?;
    if put.succeeded { Ok(put.revision) } else { Err(not_leader()) }
}

/// The key and the revision by which a leader identifies itself.
fn tenure(request: &LeaderRequest) -> Result<(Bytes, Revision), Failure> {
    let leader = request.leader.as_ref().filter(|leader| !leader.key.0.is_empty());
    let leader = leader.ok_or_else(|| Failure::invalid("\"leader\" field must be provided"))?;
    Ok((leader.key.0.clone(), Revision::new(leader.rev.positive().unwrap_or_default())))
}

pub(super) async fn proclaim(door: &Door, body: &[u8]) -> Result<Response, Failure> {
    let request: LeaderRequest = parse(body)?;
    let (key, created) = tenure(&request)?;
    let revision = change(door, &key, created, &request.value.0).await?;
    Ok(respond::json(StatusCode::OK, &Done { header: door.header(Some(revision)) }))
}

pub(super) async fn resign(door: &Door, body: &[u8]) -> Result<Response, Failure> {
    let request: LeaderRequest = parse(body)?;
    let (key, created) = tenure(&request)?;
    let done = door.client.transaction().if_created(&key, created).delete(&key).await?;
    Ok(respond::json(StatusCode::OK, &Done { header: door.header(Some(done.revision)) }))
}

pub(super) async fn leader(door: &Door, body: &[u8], mut share: Share) -> Result<Response, Failure> {
    let request: LeaderRequest = parse(body)?;
    let (leader, revision) = first(door, &prefix(&request.name)?).await?;
    let kv = leader.ok_or_else(|| Failure::new(Code::NotFound, "election: no leader"))?;
    count(std::slice::from_ref(&kv), &mut share)?;
    Ok(respond::json_of(share, &Leader { header: door.header(Some(revision)), kv }))
}

/// The leader now, and each later leader and value: a line for each.
pub(super) async fn observe(door: &Arc<Door>, body: &[u8]) -> Result<Response, Failure> {
    let request: LeaderRequest = parse(body)?;
    let observer = Observer {
        door: door.clone(),
        prefix: prefix(&request.name)?,
        leader: None,
        seen: None,
        share: door.memory.share(),
        _permit: door.watch_permit()?,
    };
    let lines = stream::unfold(Some(observer), |observer| async {
        let mut observer = observer?;
        match observer.line().await {
            Ok(line) => Some((line.into(), Some(observer))),
            Err(failure) => Some((failure.stream_line(), None)),
        }
    });
    Ok(respond::parts(lines.boxed()))
}

/// The beginning of the keys of a lock or an election.
fn prefix(name: &Blob) -> Result<Bytes, Failure> {
    if name.0.is_empty() {
        return Err(Failure::invalid("the name is empty"));
    }
    Ok([&name.0[..], b"/"].concat().into())
}

/// The key with this prefix that was created first, and the revision at which it was read.
async fn first(door: &Door, prefix: &Bytes) -> Result<(Option<KeyValue>, Revision), Failure> {
    let mut attempt = 0;
    loop {
        let at = door.newest(false).await?;
        match first_at(door, prefix, at).await {
            Err(error) if error.is_compacted() => again(&mut attempt).await?,
            found => return Ok((found?, at)),
        }
    }
}

async fn first_at(door: &Door, prefix: &Bytes, at: Revision) -> Result<Option<KeyValue>, ReadError> {
    let mut all = pin!(door.client.scan(prefix).keys_only().at(at).stream());
    let mut first: Option<(Bytes, Record)> = None;
    while let Some(found) = all.next().await {
        let (key, record) = found?;
        if first.as_ref().is_none_or(|(_, first)| record.created < first.created) {
            first = Some((key, record));
        }
    }
    let Some((key, _)) = first else { return Ok(None) };
    let record = door.client.get(&key).at(at).await?;
    Ok(record.map(|record| KeyValue::new(key, record)))
}

/// The place of a client among those that wait.
struct Place {
    door: Arc<Door>,
    prefix: Bytes,
    key: Bytes,
    created: Revision,
    /// The revision at which this request wrote the key.
    written: Revision,
    lease: LeaseId,
    /// The lease, if the client has named none: nobody else can renew it.
    own: Option<LeaseHandle>,
    is_kept: bool,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    /// Takes a place, or joins the place that the client has.
    async fn take(door: &Arc<Door>, name: &Blob, lease: Int, value: Bytes) -> Result<Self, Failure> {
        let (prefix, lease) = (prefix(name)?, lease_of(lease)?);
        let permit = door.watch_permit()?;
        // A client that is gone meanwhile must not leave a place behind: if nobody waits for the result, it is dropped.
        let taken = tokio::spawn(Self::write(door.clone(), prefix, lease, value, permit)).await;
        taken.unwrap_or_else(|error| Err(Failure::outcome_unknown(error)))
    }

    async fn write(
        door: Arc<Door>,
        prefix: Bytes,
        lease: Option<LeaseId>,
        value: Bytes,
        permit: OwnedSemaphorePermit,
    ) -> Result<Self, Failure> {
        let (lease, own) = match lease {
            Some(lease) => (lease, None),
            None => {
                let own = door.client.lease(TTL).detached().await?;
                (own.id(), Some(own))
            }
        };
        let key: Bytes = [&prefix[..], format!("{:x}", lease.get()).as_bytes()].concat().into();
        // A key that is there is written too. Its `modified` revision then shows that this request relies on it, so an
        // earlier request of the same client does not remove it when it gives up.
        let put = door.client.transaction().get(&key).put_for(&key, value, Lifetime::lease(lease));
        let done = put.await?;
        let former = done.results.first().and_then(StepResult::record);
        let created = former.map_or(done.revision, |record| record.created);
        // The client may hold the lock by the key that was there, so it is not removed if this request fails.
        let is_kept = former.is_some();
        let written = done.revision;
        Ok(Self { door, prefix, key, created, written, lease, own, is_kept, _permit: permit })
    }

    /// Waits until it is this place's turn, and returns a revision at which it was; `None` if the lease has ended.
    async fn hold(&self) -> Result<Option<Revision>, Failure> {
        // The place is taken, so this failure does not mean that nothing was changed.
        let unknown = |failure: Failure| {
            let key = String::from_utf8_lossy(&self.key);
            failure.after(format_args!("the key {key:?} may keep its place until its lease ends"))
        };
        let waited = tokio::select! {
            waited = self.wait() => waited,
            never = self.renew() => match never {},
        };
        waited.map_err(unknown)?;
        let read = self.door.client.get(&self.key).with_revision().await;
        let read = read.map_err(|error| unknown(error.into()))?;
        let is_there = read.found.is_some_and(|record| record.created == self.created);
        Ok(is_there.then_some(read.revision))
    }

    /// Renews a lease that nobody else can renew.
    async fn renew(&self) -> Infallible {
        let Some(own) = &self.own else { return pending().await };
        loop {
            sleep(TTL / 3).await;
            // If this fails, the next one may succeed in time. If the lease has ended, the key is gone, which is
            // noticed when it is the turn of the client.
            own.keep_alive().await.ok();
        }
    }

    /// Waits until all keys that were created earlier are gone.
    async fn wait(&self) -> Result<(), Failure> {
        let mut attempt = 0;
        loop {
            let at = self.door.newest(false).await?;
            let before = match self.before(at).await {
                Err(error) if error.is_compacted() => {
                    again(&mut attempt).await?;
                    continue;
                }
                before => before?,
            };
            attempt = 0;
            let Some(key) = before else { return Ok(()) };
            let mut events = self.door.watcher.watch_key(&key).after(at).stream();
            loop {
                match events.next().await {
                    Some(Ok(event)) if event.record.is_some() => {}
                    Some(Ok(_)) | Some(Err(WatchError::Compacted { .. })) | None => break,
                    Some(Err(error)) => return Err(error.into()),
                }
            }
        }
    }

    /// The key of the client that is next before this one.
    async fn before(&self, at: Revision) -> Result<Option<Bytes>, ReadError> {
        let mut all = pin!(self.door.client.scan(&self.prefix).keys_only().at(at).stream());
        let mut before: Option<(Revision, Bytes)> = None;
        while let Some(found) = all.next().await {
            let (key, record) = found?;
            let is_nearer = before.as_ref().is_none_or(|(created, _)| record.created > *created);
            if record.created < self.created && is_nearer {
                before = Some((record.created, key));
            }
        }
        Ok(before.map(|(_, key)| key))
    }

    /// Keeps the place when this is dropped.
    fn keep(mut self) -> Bytes {
        self.is_kept = true;
        self.key.clone()
    }
}

impl Drop for Place {
    /// A client that waits no more does not keep others waiting.
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        let Ok(runtime) = Handle::try_current() else { return };
        // If a later request of the client has joined this place, the key has another revision, and stays.
        let leave = self.door.client.transaction().if_revision(&self.key, self.written).delete(&self.key);
        // Otherwise, the key goes when its lease ends.
        runtime.spawn(async move { leave.await.map(drop) });
    }
}

/// Follows an election.
struct Observer {
    door: Arc<Door>,
    prefix: Bytes,
    /// The key of the leader, and when it was created.
    leader: Option<(Bytes, Revision)>,
    /// The revision of the last line.
    seen: Option<Revision>,
    /// The memory of a line that has not been taken yet.
    share: Share,
    _permit: OwnedSemaphorePermit,
}

impl Observer {
    /// The next line of the answer.
    async fn line(&mut self) -> Result<Vec<u8>, Failure> {
        self.share.set(0);
        let (kv, revision) = self.next().await?;
        count(std::slice::from_ref(&kv), &mut self.share)?;
        let line = result_line(&Leader { header: self.door.header(Some(revision)), kv });
        self.share.set(line.len());
        Ok(line)
    }

    /// The next leader, or the next value of the same leader.
    async fn next(&mut self) -> Result<(KeyValue, Revision), Failure> {
        loop {
            if let (Some((key, created)), Some(seen)) = (self.leader.clone(), self.seen) {
                let mut events = self.door.watcher.watch_key(&key).after(seen).stream();
                match events.next().await {
                    Some(Ok(event)) => {
                        self.seen = Some(event.revision);
                        if let Some(record) = event.record.filter(|record| record.created == created) {
                            return Ok((KeyValue::new(key, record), event.revision));
                        }
                    }
                    Some(Err(WatchError::Compacted { .. })) | None => {}
                    Some(Err(error)) => return Err(error.into()),
                }
                self.leader = None;
            }
            let (leader, at) = first(&self.door, &self.prefix).await?;
            self.seen = Some(at);
            if let Some(kv) = leader {
                self.leader = Some((kv.key.clone(), Revision::new(kv.create_revision)));
                return Ok((kv, at));
            }
            let mut events = self.door.watcher.watch(&self.prefix).after(at).stream();
            if let Some(Err(error)) = events.next().await
                && !error.is_compacted()
            {
                return Err(error.into());
            }
        }
    }
}
