//! `/v3/kv/put`, `/v3/kv/deleterange` and `/v3/kv/compaction`.

use super::super::door::Door;
use super::super::errors::{self, Code, Failure};
use super::super::respond::{self, Response};
use super::json::{Flag, Int, parse};
use super::messages::{DeleteRangeRequest, DeleteRangeResponse, Done, KeyValue, PutRequest, PutResponse};
use super::span::Span;
use crate::memory::Share;
use bytes::Bytes;
use hyper::StatusCode;
use kv_core::client::{LeaseId, Revision, StepResult};
use kv_core::error::WriteError;
use serde::Deserialize;
use std::collections::HashSet;
use std::time::Duration;

/// How often a request is tried again because others have changed its keys meanwhile.
pub(super) const MAX_ATTEMPTS: u32 = 100;
/// The longest pause between two such attempts.
const MAX_PAUSE: Duration = Duration::from_millis(20);
/// How many keys a range may have whose records are returned as it is removed: one less than a transaction has steps.
const MAX_PREVIOUS: usize = 999;

/// The lease that a request names; none if it is 0.
pub(super) fn lease_of(id: Int) -> Result<Option<LeaseId>, Failure> {
    match u64::try_from(id.0) {
        Ok(0) => Ok(None),
        Ok(id) => Ok(Some(LeaseId::new(id))),
        Err(_) => Err(kv_core::error::LeaseFailure::Unknown.into()),
    }
}

/// Waits a random time, which is longer after more attempts.
pub(super) async fn pause(attempt: u32) {
    let most = MAX_PAUSE.min(Duration::from_micros(200) * 2_u32.saturating_pow(attempt.min(10)));
    tokio::time::sleep(most.mul_f64(fastrand::f64())).await;
}

/// Others have changed the keys before each attempt.
pub(super) fn too_busy() -> Failure {
    let message = format!(
        "nothing was changed: {MAX_ATTEMPTS} times, other clients have changed the keys before this could"
    );
    Failure::new(Code::Unavailable, message)
}

pub(super) async fn put(door: &Door, body: &[u8], share: Share) -> Result<Response, Failure> {
    let request: PutRequest = parse(body)?;
    let (revision, previous) = if request.ignore_value.0 || request.ignore_lease.0 {
        put_part(door, &request).await?
    } else {
        let lease = lease_of(request.lease)?;
        let put = door.client.put(&request.key.0, request.value.0);
        let put = lease.into_iter().fold(put, |put, lease| put.lease(lease));
        if request.prev_kv.0 {
            let written = put.previous().await?;
            (written.revision, written.previous)
        } else {
            (put.await?.revision, None)
        }
    };
    let prev_kv = previous.filter(|_| request.prev_kv.0).map(|record| KeyValue::new(request.key.0, record));
    let response = PutResponse { header: door.header(Some(revision)), prev_kv };
    Ok(respond::json_of(share, &response))
}

/// Puts only the value or only the lease, and keeps the other one.
async fn put_part(
    door: &Door,
    request: &PutRequest,
) -> Result<(Revision, Option<kv_core::client::Record>), Failure> {
    if request.ignore_value.0 && !request.value.0.is_empty() {
        return Err(Failure::invalid("etcdserver: value is provided"));
    }
    if request.ignore_lease.0 && request.lease.0 != 0 {
        return Err(Failure::invalid("etcdserver: lease is provided"));
    }
    let key = &request.key.0;
    let new_lease = lease_of(request.lease)?;
    for attempt in 0..MAX_ATTEMPTS {
        let Some(record) = door.client.get(key).await? else {
            return Err(Failure::invalid("etcdserver: key not found"));
        };
        if record.expires.is_some() && request.ignore_lease.0 {
            let message = "nothing was changed: the key has a time to live of its own, which etcd does not know and which \
                           ignore_lease cannot keep";
            return Err(Failure::new(Code::FailedPrecondition, message));
        }
        let value = if request.ignore_value.0 { record.value.clone() } else { request.value.0.clone() };
        let lease = if request.ignore_lease.0 { record.lease } else { new_lease };
        let put = door.client.put(key, value).if_revision(record.modified);
        match lease.into_iter().fold(put, |put, lease| put.lease(lease)).await {
            Ok(written) => return Ok((written.revision, Some(record))),
            Err(WriteError::ConditionFailed { .. }) => pause(attempt).await,
            // The lease that the key had has ended, and so has the key.
            Err(error) if error.is_lease_ended() && request.ignore_lease.0 => pause(attempt).await,
            Err(error) => return Err(error.into()),
        }
    }
    Err(too_busy())
}

pub(super) async fn delete_range(door: &Door, body: &[u8], mut share: Share) -> Result<Response, Failure> {
    let request: DeleteRangeRequest = parse(body)?;
    let span = Span::new(&request.key, &request.range_end)?;
    let (deleted, previous, revision) = match &span {
        _ if span.is_empty() => (0, Vec::new(), door.newest(false).await?),
        Span::Key(key) if request.prev_kv.0 => {
            let deleted = door.client.delete(key).previous().await?;
            let previous: Vec<_> =
                deleted.previous.into_iter().map(|record| KeyValue::new(key.clone(), record)).collect();
            (previous.len() as u64, previous, deleted.revision)
        }
        Span::Key(key) => {
            let deleted = door.client.delete(key).await?;
            (deleted.existed.into(), Vec::new(), deleted.revision)
        }
        Span::Range(..) if request.prev_kv.0 => delete_with_previous(door, &span, &mut share).await?,
        Span::Range(..) => {
            let deleted = span.delete(&door.client).await.map_err(of_range)?;
            (deleted.count, Vec::new(), deleted.revision)
        }
    };
    let header = door.header(Some(revision));
    Ok(respond::json_of(share, &DeleteRangeResponse { header, deleted, prev_kvs: previous }))
}

/// A range that is large is removed in steps. After an error, some of them may have been done.
fn of_range(error: WriteError) -> Failure {
    match error {
        WriteError::NotApplied(cause) => {
            Failure::outcome_unknown(format_args!("a part of the range may have been removed: {cause}"))
        }
        error => error.into(),
    }
}

/// Removes a range and returns what was in it.
async fn delete_with_previous(
    door: &Door,
    span: &Span,
    share: &mut Share,
) -> Result<(u64, Vec<KeyValue>, Revision), Failure> {
    let mut previous = Vec::new();
    let mut bytes = 0;
    for attempt in 0..MAX_ATTEMPTS {
        let present = span.scan(&door.client).keys_only().limit(MAX_PREVIOUS + 1).snapshot().await?;
        if present.records.len() > MAX_PREVIOUS {
            let message = format!(
                "the range has more than {MAX_PREVIOUS} keys, whose records cannot be returned together: remove it in parts, \
                 or without prev_kv"
            );
            return Err(if previous.is_empty() {
                Failure::new(Code::ResourceExhausted, message)
            } else {
                Failure::outcome_unknown(message)
            });
        }
        let keys: HashSet<Bytes> = present.records.into_iter().map(|(key, _)| key).collect();
        if keys.is_empty() {
            return Ok((previous.len() as u64, previous, present.revision));
        }
        let transaction = span.read_in(door.client.transaction(), MAX_PREVIOUS);
        let removed = keys.iter().fold(transaction, |transaction, key| transaction.delete(key)).await;
        let removed = match removed {
            Ok(removed) => removed,
            Err(error) if previous.is_empty() => return Err(error.into()),
            Err(error) => {
                let message = format!("a part of the range has been removed: {error}");
                return Err(Failure::outcome_unknown(message));
            }
        };
        let Some(StepResult::Scanned(scanned)) = removed.results.into_iter().next() else {
            return Err(Failure::outcome_unknown("the cluster has answered something else"));
        };
        let mut is_all = !scanned.more;
        for (key, record) in scanned.records {
            // A key that was added in the meantime is not removed yet.
            if keys.contains(&key) {
                let record = KeyValue::new(key, record);
                bytes += record.weight();
                previous.push(record);
            } else {
                is_all = false;
            }
        }
        share.set(3 * bytes);
        if is_all {
            return Ok((previous.len() as u64, previous, removed.revision));
        }
        pause(attempt).await;
    }
    Err(Failure::outcome_unknown(
        "a part of the range has been removed, while other clients have added keys to it",
    ))
}

#[derive(Deserialize, Debug, Default)]
#[serde(default)]
struct CompactionRequest {
    revision: Int,
    /// Whether to wait until the space is free. kv frees it later, and needs no such request.
    #[serde(rename = "physical")]
    _physical: Flag,
}

pub(super) async fn compaction(door: &Door, body: &[u8]) -> Result<Response, Failure> {
    let request: CompactionRequest = parse(body)?;
    let revision = Revision::new(request.revision.positive().unwrap_or_default());
    let newest = door.client.raise_revision(Revision::ZERO).await?.revision;
    if revision > newest {
        return Err(errors::future());
    }
    let compacted = door.client.compact().before(revision).await?;
    if compacted.oldest > revision {
        return Err(errors::compacted());
    }
    Ok(respond::json(StatusCode::OK, &Done { header: door.header(Some(compacted.revision)) }))
}
