//! `/v3/kv/txn`.
//!
//! In kv, all steps of a transaction see the state before it. In etcd, each step sees the steps before it. So a range
//! is read after the transaction: at its revision if earlier steps of the list change keys of the range, and otherwise
//! at the revision before. A transaction takes exactly one revision, so these are exactly the states that etcd would
//! show. A range of which earlier and later steps change keys is refused.
//!
//! Comparisons that kv has no condition for are made here, on the condition that their keys do not change until the
//! transaction is applied. If they do, they are made again. So are all comparisons if transactions are inside of the
//! transaction: in etcd, too, each of them sees the state before the outer transaction. The requests of the lists that
//! are run then become one transaction of kv.

use super::super::door::Door;
use super::super::errors::Failure;
use super::super::respond::{self, Response};
use super::compare::Guards;
use super::json::is_default;
use super::messages::{DeleteRangeResponse, Header, KeyValue, PutResponse, RangeResponse, count};
use super::plan::{Op, Outcomes, Step, Txn, add_all};
use super::range::{Found, Selection, State, check_size};
use super::write::too_busy;
use crate::attempts::{MAX_ATTEMPTS, pause};
use crate::memory::Share;
use kv_core::client::{Record, Revision, StepResult, Transacted};
use serde::Serialize;

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
    #[serde(rename = "response_txn")]
    Txn(TxnResponse),
}

pub(super) async fn run(door: &Door, body: &[u8], mut share: Share) -> Result<Response, Failure> {
    let txn = Txn::new(body)?;
    let Run { outcomes, ops, done } = if txn.is_nested() {
        decide(door, &txn, &mut share).await?
    } else {
        // Both lists are checked, whichever of them is run.
        let (then, otherwise) = (txn.ops(&vec![Some(true)])?, txn.ops(&vec![Some(false)])?);
        if txn.compares.are_conditions() {
            submit(door, &txn, then, otherwise).await?
        } else {
            decide(door, &txn, &mut share).await?
        }
    };
    let revision = done.revision;
    let responses = answer(door, &ops, done, &mut share).await.map_err(|failure| {
        // The answer is lost, but not what the transaction has done.
        let what = format_args!(
            "the transaction was applied at revision {revision}, but what it reads was not read"
        );
        if ops.iter().any(|op| op.changes().is_some()) { failure.after(what) } else { failure }
    })?;
    let response = response(&txn, &outcomes, door.header(Some(revision)), &mut responses.into_iter());
    Ok(respond::json_of(share, &response))
}

/// A transaction that was applied.
struct Run {
    outcomes: Outcomes,
    /// The requests that were run.
    ops: Vec<Op>,
    done: Transacted,
}

/// Runs a transaction whose comparisons the cluster makes.
async fn submit(door: &Door, txn: &Txn, then: Vec<Op>, otherwise: Vec<Op>) -> Result<Run, Failure> {
    let transaction = add_all(&then, txn.compares.conditions(door.client.transaction()));
    let done = add_all(&otherwise, transaction.otherwise()).await?;
    let ops = if done.succeeded { then } else { otherwise };
    Ok(Run { outcomes: vec![Some(done.succeeded)], ops, done })
}

/// Makes the comparisons here, and runs the lists that they choose on the condition that they would have the same
/// results then.
async fn decide(door: &Door, txn: &Txn, share: &mut Share) -> Result<Run, Failure> {
    for attempt in 0..MAX_ATTEMPTS {
        let Some((outcomes, guards)) = compare(door, txn, share).await? else { continue };
        let ops = txn.ops(&outcomes)?;
        let transaction =
            guards.iter().fold(door.client.transaction(), |transaction, (key, seen)| match seen {
                Some(revision) => transaction.if_revision(key, *revision),
                None => transaction.if_absent(key),
            });
        let done = add_all(&ops, transaction).await?;
        if done.succeeded {
            return Ok(Run { outcomes, ops, done });
        }
        pause(attempt).await;
    }
    Err(too_busy())
}

/// Makes the comparisons of the transaction, and of those inside of it that are run. Returns nothing if a key has
/// changed meanwhile.
async fn compare(door: &Door, txn: &Txn, share: &mut Share) -> Result<Option<(Outcomes, Guards)>, Failure> {
    let (mut outcomes, mut guards) = (Outcomes::new(), Guards::new());
    let mut left = vec![txn];
    while let Some(txn) = left.pop() {
        let Some(succeeded) = txn.compares.decide(door, share, &mut guards).await? else { return Ok(None) };
        txn.set_outcome(&mut outcomes, succeeded);
        left.extend(txn.list(succeeded).iter().filter_map(|step| match step {
            Step::Txn(txn) => Some(txn),
            Step::Op(_) => None,
        }));
    }
    Ok(Some((outcomes, guards)))
}

/// The answer to a transaction, which takes the answers to its requests from `responses`.
fn response(
    txn: &Txn,
    outcomes: &Outcomes,
    header: Header,
    responses: &mut impl Iterator<Item = ResponseOp>,
) -> TxnResponse {
    let succeeded = txn.outcome(outcomes);
    let steps = txn.list(succeeded).iter();
    let responses = steps.filter_map(|step| match step {
        Step::Op(_) => responses.next(),
        Step::Txn(txn) => Some(ResponseOp::Txn(response(txn, outcomes, header, responses))),
    });
    TxnResponse { header, succeeded, responses: responses.collect() }
}

/// The answers to the requests that were run.
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
