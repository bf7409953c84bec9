//! Locks and elections.
//!
//! These are etcd's own, which are made of keys: each client that waits has a key, whose name begins with the name of
//! the lock and ends with the id of the client's lease. The client whose key was created first holds the lock. So
//! clients of etcd that do the same with transactions and watches take part, but clients of kv's own locks do not.

use super::super::door::Door;
use super::super::errors::{self, Code, Failure};
use super::super::respond::{self, Response};
use super::json::{Blob, Int, blob, is_default, number, parse};
use super::lease::result_line;
use super::messages::{Done, Header, KeyValue};
use super::write::lease_of;
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use hyper::StatusCode;
use kv_core::client::{LeaseId, Lifetime, Record, Revision, StepResult};
use kv_core::error::{ReadError, WatchError};
use serde::{Deserialize, Serialize};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;

/// How long a lock without a lease is held, if it is not released.
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
    let place = Place::take(door, &request.name, request.lease, &Bytes::new()).await?;
    place.wait().await?;
    // The lease may have ended during the wait.
    let Some(record) = door.client.get(&place.key).await?.filter(|record| record.created == place.created)
    else {
        return Err(Failure::new(Code::FailedPrecondition, "mutex: session is expired"));
    };
    let header = door.header(Some(record.modified.max(place.created)));
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
    let place = Place::take(door, &request.name, request.lease, &request.value.0).await?;
    if let Some(former) = place.former.as_ref().filter(|former| former.value != request.value.0) {
        // An earlier campaign of this client, perhaps one without an answer, had another value.
        change(door, &place.key, former.created, &request.value.0).await?;
    }
    place.wait().await?;
    let Some(record) = door.client.get(&place.key).await?.filter(|record| record.created == place.created)
    else {
        return Err(Failure::new(Code::FailedPrecondition, "election: session is expired"));
    };
    let header = door.header(Some(record.modified));
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

pub(super) async fn leader(door: &Door, body: &[u8]) -> Result<Response, Failure> {
    let request: LeaderRequest = parse(body)?;
    let (leader, revision) = first(door, &prefix(&request.name)?).await?;
    let kv = leader.ok_or_else(|| Failure::new(Code::NotFound, "election: no leader"))?;
    Ok(respond::json(StatusCode::OK, &Leader { header: door.header(Some(revision)), kv }))
}

/// The leader now, and each later leader and value: a line for each.
pub(super) async fn observe(door: &Arc<Door>, body: &[u8]) -> Result<Response, Failure> {
    let request: LeaderRequest = parse(body)?;
    let observer = Observer {
        door: door.clone(),
        prefix: prefix(&request.name)?,
        leader: None,
        seen: None,
        _permit: door.watch_permit()?,
    };
    let lines = stream::unfold(Some(observer), |observer| async {
        let mut observer = observer?;
        match observer.next().await {
            Ok((kv, revision)) => {
                let header = observer.door.header(Some(revision));
                Some((result_line(&Leader { header, kv }).into(), Some(observer)))
            }
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
    let at = door.newest(false).await?;
    let mut all = pin!(door.client.scan(prefix).keys_only().at(at).stream());
    let mut first: Option<(Bytes, Record)> = None;
    while let Some(found) = all.next().await {
        let (key, record) = found?;
        if first.as_ref().is_none_or(|(_, first)| record.created < first.created) {
            first = Some((key, record));
        }
    }
    let Some((key, _)) = first else { return Ok((None, at)) };
    let record = door.client.get(&key).at(at).await?;
    Ok((record.map(|record| KeyValue::new(key, record)), at))
}

/// The place of a client among those that wait.
struct Place {
    door: Arc<Door>,
    prefix: Bytes,
    key: Bytes,
    created: Revision,
    lease: LeaseId,
    /// The record of the key, if the client had a place already.
    former: Option<Record>,
    is_kept: bool,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    async fn take(door: &Arc<Door>, name: &Blob, lease: Int, value: &Bytes) -> Result<Self, Failure> {
        let prefix = prefix(name)?;
        let permit = door.watch_permit()?;
        let lease = match lease_of(lease)? {
            Some(lease) => lease,
            None => door.client.lease(TTL).detached().await?.id(),
        };
        let key: Bytes = [&prefix[..], format!("{:x}", lease.get()).as_bytes()].concat().into();
        let life = Lifetime::lease(lease);
        let put = door.client.transaction().if_absent(&key).put_for(&key, value.clone(), life);
        let done = put.otherwise().get(&key).await?;
        let former = match done.results.into_iter().next() {
            Some(StepResult::Got(record)) if !done.succeeded => record.map(|record| *record),
            _ => None,
        };
        let created = former.as_ref().map_or(done.revision, |record| record.created);
        Ok(Self { door: door.clone(), prefix, key, created, lease, former, is_kept: false, _permit: permit })
    }

    /// Waits until all keys that were created earlier are gone.
    async fn wait(&self) -> Result<(), Failure> {
        loop {
            let at = self.door.newest(false).await?;
            let before = match self.before(at).await {
                Err(error) if error.is_compacted() => continue,
                before => before?,
            };
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
        let leave = self.door.client.transaction().if_created(&self.key, self.created).delete(&self.key);
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
    _permit: OwnedSemaphorePermit,
}

impl Observer {
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
            let (leader, at) = match first(&self.door, &self.prefix).await {
                Err(failure) if failure == errors::compacted() => continue,
                found => found?,
            };
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
