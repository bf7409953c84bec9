//! Requests that are written without reading first, such as `SET`, `INCR` and `DEL`. Several of them, from one
//! connection, become one transaction: its steps are the changes, and their results are enough to answer every request.

use super::super::reply::Reply;
use super::Call;
use super::expiry::{Unit, plain_ttl};
use super::strings::SetOptions;
use bytes::Bytes;
use kv_core::client::{Lifetime, StepResult, Transaction};
use std::collections::{HashMap, HashSet};
use std::time::Duration;

/// A transaction may have this many steps.
const MAX_STEPS: usize = 1000;
/// A group that has at least this many bytes takes no more requests.
const MAX_GROUP_BYTES: usize = 256 << 10;

/// A step of the transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    Put { value: Bytes, ttl_ms: Option<u64> },
    Add(i64),
    Delete,
    Touch { ttl_ms: u64 },
    Get,
}

/// How a request is answered from the results of the steps.
#[derive(Clone, PartialEq, Debug)]
enum Recipe {
    Known(Reply),
    /// The sum after this step, without what later requests have added in the same step.
    Sum {
        step: usize,
        total: i64,
    },
    Deleted(Vec<usize>),
    Touched(usize),
    Got(usize),
}

/// A group of requests.
#[derive(Debug, Default)]
pub(crate) struct Direct {
    steps: Vec<(Bytes, Step)>,
    /// The step that changes a key. A transaction may have only one for each key.
    changes: HashMap<Bytes, usize>,
    recipes: Vec<Recipe>,
    bytes: usize,
    /// How many bytes the replies have that repeat values of the group.
    read_bytes: usize,
    /// Whether the group may have any number of bytes, because its requests belong together.
    is_transaction: bool,
}

impl Direct {
    /// A group for the requests of one transaction.
    pub(crate) fn transaction() -> Self {
        Self { is_transaction: true, ..Self::default() }
    }

    /// Adds a request; `false` if it does not fit into this group.
    pub(crate) fn push(&mut self, call: &Call, now: u64) -> bool {
        let Some(add) = call.spec.direct else { return false };
        let bytes: usize = call.request.iter().map(Bytes::len).sum();
        let may_end = !self.recipes.is_empty() && !self.is_transaction;
        let is_full = may_end && self.bytes + bytes > MAX_GROUP_BYTES;
        // Most requests have at most one step for each key.
        let steps = self.steps.len() + call.keys().count();
        if is_full || steps > MAX_STEPS || !add(self, &call.request, now) {
            return false;
        }
        self.bytes += bytes;
        true
    }

    /// The number of requests.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.recipes.len()
    }

    /// Whether a step changes something.
    pub(crate) fn is_write(&self) -> bool {
        !self.changes.is_empty()
    }

    /// The only step.
    pub(crate) fn only_step(&self) -> Option<&(Bytes, Step)> {
        if self.steps.len() == 1 { self.steps.first() } else { None }
    }

    /// Adds the steps to a transaction.
    pub(crate) fn steps(&self, transaction: Transaction) -> Transaction {
        self.steps.iter().fold(transaction, |transaction, (key, step)| match step {
            Step::Put { value, ttl_ms } => {
                transaction.put_for(key, value.clone(), Lifetime { ttl_ms: *ttl_ms, lease: None })
            }
            Step::Add(by) => transaction.add(key, *by),
            Step::Delete => transaction.delete(key),
            Step::Touch { ttl_ms } => transaction.touch(key, Duration::from_millis(*ttl_ms)),
            Step::Get => transaction.get(key),
        })
    }

    /// The replies to the requests, in order.
    pub(crate) fn replies(self, results: &[StepResult]) -> Vec<Reply> {
        let reply = |recipe| match recipe {
            Recipe::Known(reply) => reply,
            Recipe::Sum { step, total } => match (results.get(step), self.steps.get(step)) {
                (Some(StepResult::Added { sum }), Some((_, Step::Add(all)))) => {
                    // All parts have the same sign, so no sum in between is out of range.
                    Reply::Integer(sum.wrapping_sub(all.wrapping_sub(total)))
                }
                _ => unexpected(),
            },
            Recipe::Deleted(steps) => {
                let existed = |step: &&usize| {
                    matches!(results.get(**step), Some(StepResult::Deleted { existed: true }))
                };
                Reply::count(steps.iter().filter(existed).count())
            }
            Recipe::Touched(step) => match results.get(step) {
                Some(StepResult::Touched { existed }) => Reply::flag(*existed),
                _ => unexpected(),
            },
            Recipe::Got(step) => match results.get(step) {
                Some(StepResult::Got(found)) => Reply::value(found.as_ref().map(|found| found.value.clone())),
                _ => unexpected(),
            },
        };
        self.recipes.into_iter().map(reply).collect()
    }

    fn change(&mut self, key: &Bytes, step: Step) -> usize {
        self.steps.push((key.clone(), step));
        self.changes.insert(key.clone(), self.steps.len() - 1);
        self.steps.len() - 1
    }

    /// Whether a put of this key can be added: as a new step, or in place of an earlier put of the group.
    fn takes_put(&self, key: &Bytes) -> bool {
        self.changes.get(key).is_none_or(|step| matches!(self.steps[*step].1, Step::Put { .. }))
    }

    fn put(&mut self, key: &Bytes, value: &Bytes, ttl_ms: Option<u64>) {
        let step = Step::Put { value: value.clone(), ttl_ms };
        match self.changes.get(key) {
            Some(&at) => self.steps[at].1 = step,
            None => {
                self.change(key, step);
            }
        }
    }

    fn put_one(&mut self, key: &Bytes, value: &Bytes, ttl_ms: Option<u64>) -> bool {
        let takes = self.takes_put(key);
        if takes {
            self.put(key, value, ttl_ms);
            self.recipes.push(Recipe::Known(Reply::OK));
        }
        takes
    }

    /// Reads what was there before the transaction, and changes it.
    fn exchange(&mut self, key: &Bytes, step: Step) -> bool {
        if self.changes.contains_key(key) || self.steps.len() + 2 > MAX_STEPS {
            return false;
        }
        self.steps.push((key.clone(), Step::Get));
        self.recipes.push(Recipe::Got(self.steps.len() - 1));
        self.change(key, step);
        true
    }

    fn add(&mut self, key: &Bytes, by: i64) -> bool {
        let (step, total) = match self.changes.get(key).map(|at| (*at, &self.steps[*at].1)) {
            None => (self.change(key, Step::Add(by)), by),
            // A later addition of the other sign could hide that an earlier one was out of range.
            Some((at, Step::Add(before))) if (*before < 0) == (by < 0) => {
                let Some(total) = before.checked_add(by) else { return false };
                self.steps[at].1 = Step::Add(total);
                (at, total)
            }
            Some(_) => return false,
        };
        self.recipes.push(Recipe::Sum { step, total });
        true
    }
}

fn unexpected() -> Reply {
    Reply::error("ERR the cluster has answered something else")
}

pub(super) fn get(direct: &mut Direct, request: &[Bytes], _now: u64) -> bool {
    // A group that only reads is no transaction.
    if !direct.is_write() {
        return false;
    }
    let key = &request[1];
    let recipe = match direct.changes.get(key).map(|step| &direct.steps[*step].1) {
        Some(Step::Put { value, .. }) => {
            let value = value.clone();
            // A large value that is read many times must not become a large reply.
            direct.read_bytes += value.len();
            if direct.read_bytes > MAX_GROUP_BYTES {
                return false;
            }
            Recipe::Known(Reply::Bulk(value))
        }
        Some(Step::Delete) => Recipe::Known(Reply::Null),
        Some(Step::Add(_) | Step::Touch { .. } | Step::Get) => return false,
        None => {
            direct.steps.push((key.clone(), Step::Get));
            Recipe::Got(direct.steps.len() - 1)
        }
    };
    direct.recipes.push(recipe);
    true
}

pub(super) fn set(direct: &mut Direct, request: &[Bytes], now: u64) -> bool {
    let ttl = match &request[3..] {
        [] => None,
        options => match SetOptions::parse(options, now) {
            // A deadline that has passed removes the key.
            Ok(SetOptions {
                if_absent: false,
                if_present: false,
                if_value: None,
                get: false,
                keep_ttl: false,
                expires: Some(at),
            }) if at > now => Some(at - now),
            _ => return false,
        },
    };
    direct.put_one(&request[1], &request[2], ttl)
}

pub(super) fn getset(direct: &mut Direct, request: &[Bytes], _now: u64) -> bool {
    direct.exchange(&request[1], Step::Put { value: request[2].clone(), ttl_ms: None })
}

pub(super) fn getdel(direct: &mut Direct, request: &[Bytes], _now: u64) -> bool {
    direct.exchange(&request[1], Step::Delete)
}

pub(super) fn setex(direct: &mut Direct, request: &[Bytes], _now: u64) -> bool {
    put_for(direct, request, Unit::Seconds)
}

pub(super) fn psetex(direct: &mut Direct, request: &[Bytes], _now: u64) -> bool {
    put_for(direct, request, Unit::Milliseconds)
}

fn put_for(direct: &mut Direct, request: &[Bytes], unit: Unit) -> bool {
    plain_ttl(&request[..3], unit).is_some_and(|ttl| direct.put_one(&request[1], &request[3], Some(ttl)))
}

pub(super) fn mset(direct: &mut Direct, request: &[Bytes], _now: u64) -> bool {
    let pairs = request[1..].chunks_exact(2);
    let is_right = pairs.remainder().is_empty() && pairs.clone().all(|pair| direct.takes_put(&pair[0]));
    if is_right {
        pairs.for_each(|pair| direct.put(&pair[0], &pair[1], None));
        direct.recipes.push(Recipe::Known(Reply::OK));
    }
    is_right
}

pub(super) fn incr(direct: &mut Direct, request: &[Bytes], _now: u64) -> bool {
    direct.add(&request[1], 1)
}

pub(super) fn decr(direct: &mut Direct, request: &[Bytes], _now: u64) -> bool {
    direct.add(&request[1], -1)
}

pub(super) fn incrby(direct: &mut Direct, request: &[Bytes], _now: u64) -> bool {
    super::integer(&request[2]).is_ok_and(|by| direct.add(&request[1], by))
}

pub(super) fn decrby(direct: &mut Direct, request: &[Bytes], _now: u64) -> bool {
    let by = super::integer(&request[2]).ok().and_then(i64::checked_neg);
    by.is_some_and(|by| direct.add(&request[1], by))
}

pub(super) fn del(direct: &mut Direct, request: &[Bytes], _now: u64) -> bool {
    let keys = &request[1..];
    if keys.iter().any(|key| direct.changes.contains_key(key)) {
        return false;
    }
    let mut seen = HashSet::new();
    // A key that is named twice is removed, and counts, once.
    let once = keys.iter().filter(|key| seen.insert(*key));
    let steps = once.map(|key| direct.change(key, Step::Delete)).collect();
    direct.recipes.push(Recipe::Deleted(steps));
    true
}

pub(super) fn expire(direct: &mut Direct, request: &[Bytes], _now: u64) -> bool {
    touch(direct, request, Unit::Seconds)
}

pub(super) fn pexpire(direct: &mut Direct, request: &[Bytes], _now: u64) -> bool {
    touch(direct, request, Unit::Milliseconds)
}

fn touch(direct: &mut Direct, request: &[Bytes], unit: Unit) -> bool {
    let Some(ttl_ms) = plain_ttl(request, unit) else { return false };
    if direct.changes.contains_key(&request[1]) {
        return false;
    }
    let step = direct.change(&request[1], Step::Touch { ttl_ms });
    direct.recipes.push(Recipe::Touched(step));
    true
}
