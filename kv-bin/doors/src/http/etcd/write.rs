//! `/v3/kv/put`, `/v3/kv/deleterange` and `/v3/kv/compaction`.

use super::super::door::Door;
use super::super::errors::{self, Code, Failure};
use super::super::respond::{self, Response};
use super::json::{Flag, Int, parse};
use super::messages::{
    DeleteRangeRequest, DeleteRangeResponse, Done, KeyValue, PutRequest, PutResponse, count,
};
use super::span::Span;
use crate::attempts::{MAX_ATTEMPTS, pause};
use crate::memory::Share;
use bytes::Bytes;
use hyper::StatusCode;
use kv_core::client::{LeaseId, Revision, StepResult};
use kv_core::error::WriteError;
use serde::Deserialize;
use std::collections::HashSet;

/// How many keys a range may have whose records are returned as it is removed.
const MAX_PREVIOUS: usize = 499;
/// How many of its keys are read as they are removed, which is the most that a transaction reads. Other clients may
/// have added keys before them meanwhile.
const MAX_READ: usize = 1000;

const REMOVED_IN_PART: &str = "a part of the range may have been removed";

/// The lease that a request names; none if it is 0.
pub(super) fn lease_of(id: Int) -> Result<Option<LeaseId>, Failure> {
    match u64::try_from(id.0) {
        Ok(0) => Ok(None),
        Ok(id) => Ok(Some(LeaseId::new(id))),
        Err(_) => Err(kv_core::error::LeaseFailure::Unknown.into()),
    }
}

/// Others have changed the keys before each attempt.
pub(super) fn too_busy() -> Failure {
    let message = format!("{MAX_ATTEMPTS} times, other clients have changed the keys before this could");
    Failure::new(Code::Unavailable, message)
}

pub(super) async fn put(door: &Door, body: &[u8], mut share: Share) -> Result<Response, Failure> {
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
    count_changed(prev_kv.as_slice(), revision, &mut share)?;
    let response = PutResponse { header: door.header(Some(revision)), prev_kv };
    Ok(respond::json_of(share, &response))
}

/// Counts the memory of records that were changed at this revision.
fn count_changed(previous: &[KeyValue], revision: Revision, share: &mut Share) -> Result<(), Failure> {
    count(previous, share).map_err(|failure| {
        failure.after(format_args!("it was changed at revision {revision}, but the answer is lost"))
    })
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
            count_changed(&previous, deleted.revision, &mut share)?;
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

/// A range that is large is removed in steps. After an error, some of them may have been done, unless the request is
/// wrong, which shows before the first step.
fn of_range(error: WriteError) -> Failure {
    match error {
        WriteError::Key { .. } | WriteError::Malformed(_) => error.into(),
        error => Failure::from(error).after(REMOVED_IN_PART),
    }
}

/// Removes a range and returns what was in it.
async fn delete_with_previous(
    door: &Door,
    span: &Span,
    share: &mut Share,
) -> Result<(u64, Vec<KeyValue>, Revision), Failure> {
    let mut previous = Vec::new();
    for attempt in 0..MAX_ATTEMPTS {
        let is_first = attempt == 0;
        let later = |failure: Failure| if is_first { failure } else { failure.after(REMOVED_IN_PART) };
        let present = span.scan(&door.client).keys_only().limit(MAX_PREVIOUS + 1).snapshot().await;
        let present = present.map_err(|error| later(error.into()))?;
        if present.records.len() > MAX_PREVIOUS {
            let message = format!(
                "the range has more than {MAX_PREVIOUS} keys, whose records cannot be returned together: remove it in parts, \
                 or without prev_kv"
            );
            return Err(later(Failure::new(Code::ResourceExhausted, message)));
        }
        if present.records.is_empty() {
            return Ok((previous.len() as u64, previous, present.revision));
        }
        let keys = present.records.into_iter().map(|(key, _)| key).collect();
        let removed = remove(door, span, keys).await.map_err(later)?;
        count(&removed.previous, share).map_err(|failure| failure.after(REMOVED_IN_PART))?;
        previous.extend(removed.previous);
        if removed.is_all {
            return Ok((previous.len() as u64, previous, removed.revision));
        }
        pause(attempt).await;
    }
    Err(too_busy().after(REMOVED_IN_PART))
}

/// What one transaction has removed.
struct Removed {
    previous: Vec<KeyValue>,
    /// Whether nothing else was in the range.
    is_all: bool,
    revision: Revision,
}

/// Removes these keys of a range, and returns what they were.
async fn remove(door: &Door, span: &Span, keys: HashSet<Bytes>) -> Result<Removed, Failure> {
    let transaction = span.read_in(door.client.transaction(), MAX_READ);
    let removed = keys.iter().fold(transaction, |transaction, key| transaction.delete(key)).await?;
    let (mut previous, mut is_all, mut deleted) = (Vec::new(), true, 0);
    for result in removed.results {
        match result {
            StepResult::Scanned(scanned) => {
                is_all = !scanned.more;
                for (key, record) in scanned.records {
                    // A key that was added in the meantime is not removed yet.
                    if keys.contains(&key) {
                        previous.push(KeyValue::new(key, record));
                    } else {
                        is_all = false;
                    }
                }
            }
            StepResult::Deleted { existed } => deleted += usize::from(existed),
            _ => {}
        }
    }
    if deleted != previous.len() {
        let message = "other clients have added so many keys that not all records could be read";
        return Err(Failure::new(Code::ResourceExhausted, message).after(REMOVED_IN_PART));
    }
    Ok(Removed { previous, is_all, revision: removed.revision })
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

#[cfg(test)]
mod tests {
    use super::super::json::Blob;
    use super::*;
    use crate::http::HttpOptions;
    use kv_core::testing::TestCluster;

    /// The keys that are removed are those that are returned, even if other clients have added keys meanwhile.
    #[tokio::test(start_paused = true)]
    async fn a_removal_returns_what_it_removes_or_says_that_it_cannot() {
        let cluster = TestCluster::in_memory(1).start().await;
        let door = Door::new(cluster.client().await, None, HttpOptions::default());
        let span = Span::new(&Blob("a".into()), &Blob("zz".into())).unwrap();
        for key in ["a", "b", "c", "z"] {
            door.client.put(key, "x").await.unwrap();
        }
        let keys = |keys: &[&'static str]| keys.iter().map(|key| Bytes::from(*key)).collect();
        // "a" was added after the keys had been read, and "gone" was removed.
        let removed = remove(&door, &span, keys(&["b", "c", "gone"])).await.unwrap();
        let found: Vec<_> = removed.previous.iter().map(|record| &record.key[..]).collect();
        assert_eq!((found, removed.is_all), (vec![&b"b"[..], b"c"], false));
        let removed = remove(&door, &span, keys(&["a", "z"])).await.unwrap();
        assert_eq!((removed.previous.len(), removed.is_all), (2, true));
        // So many are added that the last one is not read.
        let all = (0..MAX_READ)
            .fold(door.client.transaction(), |all, number| all.put(format!("a{number:04}"), "x"));
        all.await.unwrap();
        door.client.put("z", "x").await.unwrap();
        let failure = remove(&door, &span, keys(&["z"])).await.map(drop).unwrap_err();
        assert!(failure.message.starts_with(errors::OUTCOME_UNKNOWN), "{failure:?}");
        assert_eq!(door.client.get("z").await.unwrap(), None);
    }

    /// Whatever ends the removal of a range may do so after its first step.
    #[test]
    fn a_removal_that_has_begun_has_an_unknown_outcome() {
        let is_unknown = |error| of_range(error).message.starts_with(errors::OUTCOME_UNKNOWN);
        assert!(is_unknown(WriteError::Closed));
        assert!(is_unknown(WriteError::Refused("the session is closed".to_owned())));
        assert!(!is_unknown(WriteError::Key { len: 5000, max: 4096 }));
    }
}
