//! What a transaction of etcd asks for, and how its requests become steps of kv.
//!
//! Transactions can be inside of others. Whatever their comparisons will result in, a transaction is checked as a whole
//! before anything is done. So it depends only on the transaction whether it is refused, and not on the state.

use super::super::errors::Failure;
use super::compare::{Compares, Comparison};
use super::json::{List, parse};
use super::messages::{DeleteRangeRequest, PutRequest, RangeRequest};
use super::range::Selection;
use super::span::Span;
use super::write::lease_of;
use bytes::Bytes;
use kv_core::client::{Lifetime, Transaction};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::HashMap;

/// The most comparisons, in all transactions inside of one another: as many conditions as a transaction of kv has.
const MAX_COMPARES: usize = 64;
/// The most requests in a list, and the most that can be run. Each becomes up to two steps of kv, which has up to
/// 1,000.
const MAX_REQUESTS: usize = 500;
/// The most requests in all lists of all transactions inside of one another.
const MAX_ALL_REQUESTS: usize = 2 * MAX_REQUESTS;
/// How many transactions can be inside of one another.
const MAX_DEPTH: usize = 8;

#[derive(Deserialize, Debug, Default)]
#[serde(default)]
struct TxnRequest<'a> {
    compare: List<Comparison, MAX_COMPARES>,
    #[serde(borrow)]
    success: List<RequestOp<'a>, MAX_REQUESTS>,
    #[serde(borrow)]
    failure: List<RequestOp<'a>, MAX_REQUESTS>,
}

/// One of the fields is set.
#[derive(Deserialize, Debug, Default)]
#[serde(default)]
struct RequestOp<'a> {
    #[serde(alias = "requestRange")]
    request_range: Option<RangeRequest>,
    #[serde(alias = "requestPut")]
    request_put: Option<PutRequest>,
    #[serde(alias = "requestDeleteRange")]
    request_delete_range: Option<DeleteRangeRequest>,
    /// It is read later, when it is known that there are not too many requests already.
    #[serde(borrow, alias = "requestTxn")]
    request_txn: Option<&'a RawValue>,
}

/// A transaction, which can be inside of another one.
#[derive(Debug)]
pub(super) struct Txn {
    /// The outer transaction has number 0, and each one inside has a number of its own.
    number: usize,
    pub(super) compares: Compares,
    then: Vec<Step>,
    otherwise: Vec<Step>,
}

#[derive(Debug)]
pub(super) enum Step {
    Op(Op),
    Txn(Txn),
}

/// By the number of each transaction: whether its comparisons hold. `None` if that does not matter.
pub(super) type Outcomes = Vec<Option<bool>>;

impl Txn {
    pub(super) fn new(body: &[u8]) -> Result<Self, Failure> {
        let mut parser = Parser::default();
        let txn = parser.parse(body, 1)?;
        if txn.most_requests() > MAX_REQUESTS {
            return Err(Failure::invalid(format!(
                "the transaction, with those inside of it, can run more than {MAX_REQUESTS} requests, which is the most"
            )));
        }
        if txn.is_nested() {
            let mut places = Vec::new();
            txn.add_places(&mut Vec::new(), &mut places);
            check(&places)?;
        }
        Ok(txn)
    }

    /// Whether another transaction is inside.
    pub(super) fn is_nested(&self) -> bool {
        self.then.iter().chain(&self.otherwise).any(|step| matches!(step, Step::Txn(_)))
    }

    pub(super) const fn list(&self, succeeded: bool) -> &Vec<Step> {
        if succeeded { &self.then } else { &self.otherwise }
    }

    /// Whether the comparisons hold.
    pub(super) fn outcome(&self, outcomes: &Outcomes) -> bool {
        outcomes.get(self.number).copied().flatten().unwrap_or(false)
    }

    pub(super) fn set_outcome(&self, outcomes: &mut Outcomes, succeeded: bool) {
        if outcomes.len() <= self.number {
            outcomes.resize(self.number + 1, None);
        }
        outcomes[self.number] = Some(succeeded);
    }

    /// The requests that are run with these outcomes, in their order.
    pub(super) fn ops(&self, outcomes: &Outcomes) -> Result<Vec<Op>, Failure> {
        let mut ops = Vec::new();
        self.add_ops(outcomes, &mut ops);
        arrange(ops)
    }

    fn add_ops(&self, outcomes: &Outcomes, ops: &mut Vec<Op>) {
        for step in self.list(self.outcome(outcomes)) {
            match step {
                Step::Op(op) => ops.push(op.clone()),
                Step::Txn(txn) => txn.add_ops(outcomes, ops),
            }
        }
    }

    /// How many requests it runs at most. A transaction inside is one, too.
    fn most_requests(&self) -> usize {
        let of = |list: &[Step]| {
            let each = list.iter().map(|step| match step {
                Step::Op(_) => 1,
                Step::Txn(txn) => 1 + txn.most_requests(),
            });
            each.sum::<usize>()
        };
        of(&self.then).max(of(&self.otherwise))
    }

    fn add_places<'a>(&'a self, path: &mut Vec<(usize, bool)>, places: &mut Vec<Place<'a>>) {
        for succeeded in [true, false] {
            path.push((self.number, succeeded));
            for step in self.list(succeeded) {
                match step {
                    Step::Op(op) => places.push(Place { path: path.clone(), op }),
                    Step::Txn(txn) => txn.add_places(path, places),
                }
            }
            path.pop();
        }
    }
}

/// Reads a transaction with all those inside of it.
#[derive(Default)]
struct Parser {
    transactions: usize,
    compares: usize,
    requests: usize,
}

impl Parser {
    fn parse(&mut self, body: &[u8], depth: usize) -> Result<Txn, Failure> {
        if depth > MAX_DEPTH {
            return Err(Failure::invalid(format!(
                "more than {MAX_DEPTH} transactions are inside of one another, which is the most"
            )));
        }
        let request: TxnRequest<'_> = parse(body)?;
        self.compares += request.compare.0.len();
        self.requests += request.success.0.len() + request.failure.0.len();
        for (what, number, max) in
            [("comparisons", self.compares, MAX_COMPARES), ("requests", self.requests, MAX_ALL_REQUESTS)]
        {
            if number > max {
                return Err(Failure::invalid(format!(
                    "the transaction, with those inside of it, has more than {max} {what}, which is the most"
                )));
            }
        }
        let number = self.transactions;
        self.transactions += 1;
        let compares = Compares::new(request.compare.0)?;
        let mut list = |requests: Vec<RequestOp<'_>>| {
            requests.iter().map(|request| self.step(request, depth)).collect::<Result<Vec<_>, _>>()
        };
        let (then, otherwise) = (list(request.success.0)?, list(request.failure.0)?);
        Ok(Txn { number, compares, then, otherwise })
    }

    fn step(&mut self, request: &RequestOp<'_>, depth: usize) -> Result<Step, Failure> {
        let RequestOp { request_range, request_put, request_delete_range, request_txn } = request;
        Ok(match (request_range, request_put, request_delete_range, request_txn) {
            (Some(range), None, None, None) => Step::Op(Op::range(range)?),
            (None, Some(put), None, None) => Step::Op(Op::put(put)?),
            (None, None, Some(delete), None) => Step::Op(Op::delete(delete)?),
            (None, None, None, Some(txn)) => Step::Txn(self.parse(txn.get().as_bytes(), depth + 1)?),
            _ => return Err(Failure::invalid("each request of a transaction has exactly one of its fields")),
        })
    }
}

/// A request of a list.
#[derive(Clone, Debug)]
pub(super) enum Op {
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
    fn range(range: &RangeRequest) -> Result<Self, Failure> {
        if range.revision.0 > 0 {
            let message = "a range at a revision is not offered inside of a transaction: read it on its own";
            return Err(Failure::not_offered(message));
        }
        Ok(Self::Read { selection: Selection::new(range)?, sees_changes: false })
    }

    fn put(put: &PutRequest) -> Result<Self, Failure> {
        if put.ignore_value.0 || put.ignore_lease.0 {
            let message = "ignore_value and ignore_lease are not offered inside of a transaction";
            return Err(Failure::not_offered(message));
        }
        let (key, value) = (put.key.0.clone(), put.value.0.clone());
        let life = Lifetime { ttl_ms: None, lease: lease_of(put.lease)? };
        Ok(Self::Put { key, value, life, previous: put.prev_kv.0 })
    }

    fn delete(delete: &DeleteRangeRequest) -> Result<Self, Failure> {
        let Span::Key(key) = Span::new(&delete.key, &delete.range_end)? else {
            let message = "the removal of a range is not offered inside of a transaction: remove single keys, or the range \
                           on its own";
            return Err(Failure::not_offered(message));
        };
        Ok(Self::Delete { key, previous: delete.prev_kv.0 })
    }

    pub(super) fn changes(&self) -> Option<&Bytes> {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } => Some(key),
            Self::DeleteAgain | Self::Get(_) | Self::Read { .. } => None,
        }
    }

    const fn is_removal(&self) -> bool {
        matches!(self, Self::Delete { .. })
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

pub(super) fn add_all(ops: &[Op], transaction: Transaction) -> Transaction {
    ops.iter().fold(transaction, |transaction, op| op.add_to(transaction))
}

fn duplicate() -> Failure {
    Failure::invalid("etcdserver: duplicate key given in txn request")
}

fn range_between() -> Failure {
    Failure::not_offered(
        "a range of which requests before and after it change keys is not offered inside of a transaction",
    )
}

/// Checks requests that are all run, and decides how each is done.
fn arrange(mut ops: Vec<Op>) -> Result<Vec<Op>, Failure> {
    // The keys that are changed, and whether they are removed.
    let mut changed = HashMap::new();
    for op in &mut ops {
        let is_removal = op.is_removal();
        match op.changes().and_then(|key| changed.insert(key.clone(), is_removal)) {
            None => {}
            Some(true) if is_removal => *op = Op::DeleteAgain,
            Some(_) => return Err(duplicate()),
        }
    }
    let changes: Vec<Option<Bytes>> = ops.iter().map(|op| op.changes().cloned()).collect();
    for (index, op) in ops.iter_mut().enumerate() {
        let Op::Read { selection, sees_changes } = op else { continue };
        let is_changed =
            |changes: &[Option<Bytes>]| changes.iter().flatten().any(|key| selection.span.contains(key));
        match (is_changed(&changes[..index]), is_changed(&changes[index..])) {
            (true, true) => return Err(range_between()),
            (true, false) => *sees_changes = true,
            (false, _) if selection.single().is_some() => *op = Op::Get(selection.clone()),
            (false, _) => {}
        }
    }
    Ok(ops)
}

/// A request, and where it is.
struct Place<'a> {
    /// The list of each transaction around it, the outer one first.
    path: Vec<(usize, bool)>,
    op: &'a Op,
}

impl Place<'_> {
    /// Whether both requests can be run: they are not in the two lists of the same transaction.
    fn meets(&self, other: &Self) -> bool {
        let fork = self.path.iter().zip(&other.path).find(|(ours, theirs)| ours != theirs);
        fork.is_none_or(|(ours, theirs)| ours.0 != theirs.0)
    }

    /// Whether this request is run whenever the other one is.
    fn is_run_with(&self, other: &Self) -> bool {
        other.path.starts_with(&self.path)
    }
}

/// Checks that the requests can be run, whatever the comparisons of the transactions around them result in.
fn check(places: &[Place<'_>]) -> Result<(), Failure> {
    // The requests before that change a key.
    let mut changing: HashMap<&Bytes, Vec<&Place<'_>>> = HashMap::new();
    for place in places {
        let Some(key) = place.op.changes() else { continue };
        let before = changing.entry(key).or_default();
        for other in before.iter().filter(|other| other.meets(place)) {
            match (other.op.is_removal(), place.op.is_removal()) {
                (true, true) => {}
                (false, true) if !other.is_run_with(place) && !place.is_run_with(other) => {
                    // The only case that etcd allows.
                    return Err(Failure::not_offered(
                        "the removal of a key that an earlier transaction inside of the same one puts is not offered",
                    ));
                }
                _ => return Err(duplicate()),
            }
        }
        before.push(place);
    }
    for (index, range) in places.iter().enumerate() {
        let Op::Read { selection, .. } = range.op else { continue };
        let is_changed_by = |place: &Place<'_>| {
            place.op.changes().is_some_and(|key| selection.span.contains(key)) && place.meets(range)
        };
        if !places[..index].iter().any(is_changed_by) {
            continue;
        }
        // If a removal is certain to be run before, this one removes nothing.
        let is_first = |(after, place): (usize, &Place<'_>)| {
            !places[..index + 1 + after].iter().any(|before| {
                before.op.is_removal()
                    && before.op.changes() == place.op.changes()
                    && (before.is_run_with(place) || before.is_run_with(range))
            })
        };
        let mut after = places[index + 1..].iter().enumerate();
        if after.any(|(after, place)| {
            is_changed_by(place) && (!place.op.is_removal() || is_first((after, place)))
        }) {
            return Err(range_between());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(body: &str) -> String {
        Txn::new(body.as_bytes()).expect_err("it is too much").message
    }

    /// A body of a few bytes for each request must not take much more memory, however deep it is.
    #[test]
    fn bodies_are_bounded_before_they_are_read_whole() {
        let deep = format!("{}{{}}{}", r#"{"success":[{"requestTxn":"#.repeat(50_000), "}]}".repeat(50_000));
        assert!(error(&deep).contains("more than 8 transactions"), "{}", error(&deep));
        let list = format!("[{}{{}}]", "{},".repeat(499));
        let wide = format!(
            r#"{{"success":[{}{{}}]}}"#,
            format!(r#"{{"request_txn":{{"failure":{list}}}}},"#).repeat(300)
        );
        assert!(error(&wide).contains("exactly one"), "{}", error(&wide));
        let list = list.replace("{}", r#"{"request_txn":{}}"#);
        let wide = format!(
            r#"{{"success":[{}{{}}]}}"#,
            format!(r#"{{"request_txn":{{"failure":{list}}}}},"#).repeat(300)
        );
        assert!(error(&wide).contains("more than 1000 requests"), "{}", error(&wide));
        assert!(Txn::new(format!(r#"{{"success":{list}}}"#).as_bytes()).is_ok_and(|txn| txn.is_nested()));
    }
}
