//! `/v3/kv/txn`.
//!
//! In kv, all steps of a transaction see the state before it. In etcd, each step sees the steps before it. So a range
//! is read after the transaction: at its revision if earlier steps of the list change keys of the range, and otherwise
//! at the revision before. A transaction takes exactly one revision, so these are exactly the states that etcd would
//! show. A range of which earlier and later steps change keys is refused.
//!
//! Comparisons that kv has no condition for are made here, on the condition that their keys do not change until the
//! transaction is applied. If they do, they are made again.

use super::super::door::Door;
use super::super::errors::Failure;
use super::super::respond::{self, Response};
use super::compare::{Compares, Comparison};
use super::json::{List, is_default, parse};
use super::messages::{
    DeleteRangeRequest, DeleteRangeResponse, Header, KeyValue, PutRequest, PutResponse, RangeRequest,
    RangeResponse, count,
};
use super::range::{Found, Selection, State, check_size};
use super::span::Span;
use super::write::{lease_of, too_busy};
use crate::attempts::{MAX_ATTEMPTS, pause};
use crate::memory::Share;
use bytes::Bytes;
use kv_core::client::{Lifetime, Record, Revision, StepResult, Transacted, Transaction};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// The most comparisons: as many conditions as a transaction of kv has.
const MAX_COMPARES: usize = 64;
/// The most requests in a list. Each becomes up to two steps of kv, which has up to 1,000.
const MAX_REQUESTS: usize = 500;

#[derive(Deserialize, Debug, Default)]
#[serde(default)]
struct TxnRequest {
    compare: List<Comparison, MAX_COMPARES>,
    success: List<RequestOp, MAX_REQUESTS>,
    failure: List<RequestOp, MAX_REQUESTS>,
}

/// One of the fields is set.
#[derive(Deserialize, Debug, Default)]
#[serde(default)]
struct RequestOp {
    #[serde(alias = "requestRange")]
    request_range: Option<RangeRequest>,
    #[serde(alias = "requestPut")]
    request_put: Option<PutRequest>,
    #[serde(alias = "requestDeleteRange")]
    request_delete_range: Option<DeleteRangeRequest>,
    #[serde(alias = "requestTxn")]
    request_txn: Option<IgnoredAny>,
}

#[derive(Serialize, Debug)]
struct TxnResponse {
    header: Header,
    #[serde(skip_serializing_if = "is_default")]
    succeeded: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    responses: Vec<ResponseOp>,
}

#[derive(Serialize, Debug)]
enum ResponseOp {
    #[serde(rename = "response_range")]
    Range(RangeResponse),
    #[serde(rename = "response_put")]
    Put(PutResponse),
    #[serde(rename = "response_delete_range")]
    DeleteRange(DeleteRangeResponse),
}

/// A request of a list.
#[derive(Debug)]
enum Op {
    Put {
        key: Bytes,
        value: Bytes,
        life: Lifetime,
        previous: bool,
    },
    Delete {
        key: Bytes,
        previous: bool,
    },
    /// The removal of a key that the transaction has removed already.
    DeleteAgain,
    /// A key as it was before the transaction.
    Get(Selection),
    /// A range that is read when the transaction has been applied.
    Read {
        selection: Selection,
        sees_changes: bool,
    },
}

impl Op {
    fn changes(&self) -> Option<&Bytes> {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } => Some(key),
            Self::DeleteAgain | Self::Get(_) | Self::Read { .. } => None,
        }
    }

    /// Adds the steps of the request to a transaction.
    fn add_to(&self, transaction: Transaction) -> Transaction {
        match self {
            Self::Put { key, value, life, previous } => {
                let transaction = if *previous { transaction.get(key) } else { transaction };
                transaction.put_for(key, value.clone(), *life)
            }
            Self::Delete { key, previous } => {
                let transaction = if *previous { transaction.get(key) } else { transaction };
                transaction.delete(key)
            }
            Self::Get(selection) => selection.single().into_iter().fold(transaction, Transaction::get),
            Self::DeleteAgain | Self::Read { .. } => transaction,
        }
    }
}

/// Checks the requests of a list, and decides how each is done.
fn plan(requests: &[RequestOp]) -> Result<Vec<Op>, Failure> {
    let mut ops = Vec::new();
    // The keys that are changed, and whether they are removed.
    let mut changed = HashMap::new();
    for request in requests {
        let op = match request {
            RequestOp { request_txn: Some(_), .. } => {
                return Err(Failure::not_offered("a transaction inside of another one is not offered"));
            }
            RequestOp {
                request_range: Some(range), request_put: None, request_delete_range: None, ..
            } => {
                if range.revision.0 > 0 {
                    let message =
                        "a range at a revision is not offered inside of a transaction: read it on its own";
                    return Err(Failure::not_offered(message));
                }
                Op::Read { selection: Selection::new(range)?, sees_changes: false }
            }
            RequestOp { request_range: None, request_put: Some(put), request_delete_range: None, .. } => {
                if put.ignore_value.0 || put.ignore_lease.0 {
                    let message = "ignore_value and ignore_lease are not offered inside of a transaction";
                    return Err(Failure::not_offered(message));
                }
                let (key, value) = (put.key.0.clone(), put.value.0.clone());
                let life = Lifetime { ttl_ms: None, lease: lease_of(put.lease)? };
                Op::Put { key, value, life, previous: put.prev_kv.0 }
            }
            RequestOp {
                request_range: None, request_put: None, request_delete_range: Some(delete), ..
            } => {
                let Span::Key(key) = Span::new(&delete.key, &delete.range_end)? else {
                    let message = "the removal of a range is not offered inside of a transaction: remove single keys, or the \
                                   range on its own";
                    return Err(Failure::not_offered(message));
                };
                Op::Delete { key, previous: delete.prev_kv.0 }
            }
            _ => return Err(Failure::invalid("each request of a transaction has exactly one of its fields")),
        };
        let is_removal = matches!(op, Op::Delete { .. });
        let before = op.changes().and_then(|key| changed.insert(key.clone(), is_removal));
        ops.push(match before {
            None => op,
            Some(true) if is_removal => Op::DeleteAgain,
            Some(_) => return Err(Failure::invalid("etcdserver: duplicate key given in txn request")),
        });
    }
    let changes: Vec<Option<Bytes>> = ops.iter().map(|op| op.changes().cloned()).collect();
    for (index, op) in ops.iter_mut().enumerate() {
        let Op::Read { selection, sees_changes } = op else { continue };
        let is_changed =
            |changes: &[Option<Bytes>]| changes.iter().flatten().any(|key| selection.span.contains(key));
        match (is_changed(&changes[..index]), is_changed(&changes[index..])) {
            (true, true) => {
                let message = "a range of which requests before and after it change keys is not offered inside of a \
                               transaction";
                return Err(Failure::not_offered(message));
            }
            (true, false) => *sees_changes = true,
            (false, _) if selection.single().is_some() => *op = Op::Get(selection.clone()),
            (false, _) => {}
        }
    }
    Ok(ops)
}

fn add_all(ops: &[Op], transaction: Transaction) -> Transaction {
    ops.iter().fold(transaction, |transaction, op| op.add_to(transaction))
}

pub(super) async fn run(door: &Door, body: &[u8], mut share: Share) -> Result<Response, Failure> {
    let request: TxnRequest = parse(body)?;
    let compares = Compares::new(request.compare.0)?;
    let (then, otherwise) = (plan(&request.success.0)?, plan(&request.failure.0)?);
    let transaction = door.client.transaction();
    let (succeeded, done) = if compares.are_conditions() {
        let transaction = add_all(&then, compares.conditions(transaction));
        let done = add_all(&otherwise, transaction.otherwise()).await?;
        (done.succeeded, done)
    } else {
        decide(door, &compares, &then, &otherwise, &mut share).await?
    };
    let ops = if succeeded { &then } else { &otherwise };
    let revision = done.revision;
    let responses = answer(door, ops, done, &mut share).await.map_err(|failure| {
        // The answer is lost, but not what the transaction has done.
        let what = format_args!(
            "the transaction was applied at revision {revision}, but what it reads was not read"
        );
        if ops.iter().any(|op| op.changes().is_some()) { failure.after(what) } else { failure }
    })?;
    let response = TxnResponse { header: door.header(Some(revision)), succeeded, responses };
    Ok(respond::json_of(share, &response))
}

/// Makes the comparisons here, and runs one of the lists on the condition that they would have the same results then.
async fn decide(
    door: &Door,
    compares: &Compares,
    then: &[Op],
    otherwise: &[Op],
    share: &mut Share,
) -> Result<(bool, Transacted), Failure> {
    for attempt in 0..MAX_ATTEMPTS {
        let Some((succeeded, guards)) = compares.decide(door, share).await? else { continue };
        let transaction =
            guards.iter().fold(door.client.transaction(), |transaction, (key, seen)| match seen {
                Some(revision) => transaction.if_revision(key, *revision),
                None => transaction.if_absent(key),
            });
        let done = add_all(if succeeded { then } else { otherwise }, transaction).await?;
        if done.succeeded {
            return Ok((succeeded, done));
        }
        pause(attempt).await;
    }
    Err(too_busy())
}

/// The answers to the requests of the list that was run.
async fn answer(
    door: &Door,
    ops: &[Op],
    done: Transacted,
    share: &mut Share,
) -> Result<Vec<ResponseOp>, Failure> {
    let header = door.header(Some(done.revision));
    let mut results = done.results.into_iter();
    let mut bytes = 0;
    let mut responses = Vec::new();
    for op in ops {
        let response = match op {
            Op::Put { key, previous, .. } => {
                let before = if *previous { record(results.next()) } else { None };
                results.next();
                let prev_kv = before.map(|record| KeyValue::new(key.clone(), record));
                bytes += weigh(prev_kv.as_slice(), share)?;
                ResponseOp::Put(PutResponse { header, prev_kv })
            }
            Op::Delete { key, previous } => {
                let before = if *previous { record(results.next()) } else { None };
                let deleted = matches!(results.next(), Some(StepResult::Deleted { existed: true }));
                let prev_kvs: Vec<_> =
                    before.into_iter().map(|record| KeyValue::new(key.clone(), record)).collect();
                bytes += weigh(&prev_kvs, share)?;
                let deleted = deleted.into();
                ResponseOp::DeleteRange(DeleteRangeResponse { header, deleted, prev_kvs })
            }
            Op::DeleteAgain => {
                ResponseOp::DeleteRange(DeleteRangeResponse { header, deleted: 0, prev_kvs: Vec::new() })
            }
            Op::Get(selection) => {
                let found = selection.of_record(record(results.next()), done.revision);
                bytes += weigh(&found.records, share)?;
                range_response(found, header)
            }
            Op::Read { selection, sees_changes } => {
                let at = if *sees_changes { done.revision } else { done.revision.back(1) };
                let found = read_at(door, selection, at, share).await?;
                bytes += found.records.iter().map(KeyValue::weight).sum::<usize>();
                range_response(found, header)
            }
        };
        check_size(door, bytes)?;
        responses.push(response);
    }
    Ok(responses)
}

/// Counts the memory of records, and returns their weight.
fn weigh(records: &[KeyValue], share: &mut Share) -> Result<usize, Failure> {
    count(records, share)?;
    Ok(records.iter().map(KeyValue::weight).sum())
}

async fn read_at(
    door: &Door,
    selection: &Selection,
    at: Revision,
    share: &mut Share,
) -> Result<Found, Failure> {
    if at == Revision::ZERO {
        // Before the first change, nothing was there.
        return Ok(Found::default());
    }
    selection.read(door, State::At(at), share).await
}

fn range_response(found: Found, header: Header) -> ResponseOp {
    ResponseOp::Range(RangeResponse { header: Some(header), ..found.response() })
}

/// What a get has found.
fn record(result: Option<StepResult>) -> Option<Record> {
    match result {
        Some(StepResult::Got(record)) => record.map(|record| *record),
        _ => None,
    }
}
