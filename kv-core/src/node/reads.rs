//! Reads: those that wait for the replica's word, those that wait for an op to be applied, and how they are carried out.

use super::pool;
use super::reply::Reply;
use super::shared::Shared;
use crate::engine::EngineError;
use crate::ids::Op;
use crate::kv::StateReader;
use crate::message::{Answer, Query};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The most records in one answer.
const MAX_RECORDS: usize = 10_000;
/// About the most bytes in one answer.
const MAX_BYTES: usize = 1 << 20;
/// So many reads are handed to one thread at once, where there are more.
const SHARE: usize = 32;

type Read = (Query, Reply);

/// The linearizable reads that wait. Bounded by the node's admission.
#[derive(Debug, Default)]
pub(super) struct Reads {
    /// For the replica to say that they may go on.
    unconfirmed: HashMap<u64, Read>,
    /// For this op to be applied.
    unapplied: BTreeMap<Op, Vec<Read>>,
    next: u64,
}

impl Reads {
    /// Takes in a read, and names it.
    pub(super) fn add(&mut self, query: Query, reply: Reply) -> u64 {
        self.next += 1;
        self.unconfirmed.insert(self.next, (query, reply));
        self.next
    }

    /// These may be answered from what has applied `op`.
    pub(super) fn confirmed(&mut self, tickets: &[u64], op: Op, applied: Op, shared: &Arc<Shared>) {
        let confirmed = tickets.iter().filter_map(|ticket| self.unconfirmed.remove(ticket));
        if applied >= op {
            run(shared, confirmed.collect());
        } else {
            self.unapplied.entry(op).or_default().extend(confirmed);
        }
    }

    /// Entries up to here are applied.
    pub(super) fn applied(&mut self, applied: Op, shared: &Arc<Shared>) {
        while let Some(first) = self.unapplied.first_entry()
            && *first.key() <= applied
        {
            run(shared, first.remove());
        }
    }

    /// These cannot be answered here.
    pub(super) fn refused(&mut self, tickets: &[u64], answer: &Answer) {
        for (_, reply) in tickets.iter().filter_map(|ticket| self.unconfirmed.remove(ticket)) {
            reply.send(answer.clone());
        }
    }
}

/// Carries reads out, on the threads that may wait for the disk.
pub(super) fn run(shared: &Arc<Shared>, mut reads: Vec<Read>) {
    while !reads.is_empty() {
        let share = if reads.len() > SHARE { reads.len().div_ceil(pool::THREADS) } else { reads.len() };
        let rest = reads.split_off(share);
        let share = std::mem::replace(&mut reads, rest);
        let pool = shared.clone();
        shared.pool.run(move || {
            for (query, reply) in share {
                // One who asks for much and takes none of it keeps nobody busy.
                let answer = if reply.is_hopeless() { Answer::Overloaded } else { answer(&pool, &query) };
                reply.send(answer);
            }
        });
    }
}

fn answer(shared: &Shared, query: &Query) -> Answer {
    // A node without a state (it has just stopped) answers nothing; another member can.
    let elsewhere = Answer::NotPrimary { hint: None };
    let Some(state) = shared.state() else { return elsewhere };
    read(&state, query).unwrap_or_else(|error| {
        shared.state_failed(error);
        elsewhere
    })
}

fn read(state: &StateReader, query: &Query) -> Result<Answer, EngineError> {
    match query {
        Query::Get { key } => {
            let (record, revision) = state.get(key)?;
            Ok(Answer::Value { record, revision })
        }
        Query::Many { keys } => {
            let fits = keys.len() <= Query::MAX_KEYS;
            let page = if fits { state.get_many(keys, MAX_BYTES)? } else { None };
            Ok(match page {
                Some(page) => Answer::Records { records: page.records, more: false, revision: page.revision },
                None => Answer::Refused(format!(
                    "too much at once: read up to {} keys, with {} KiB together",
                    Query::MAX_KEYS,
                    MAX_BYTES >> 10
                )),
            })
        }
        Query::Scan { from, to, limit } => {
            let limit = usize::try_from(*limit).unwrap_or(MAX_RECORDS).clamp(1, MAX_RECORDS);
            let page = state.scan(from, to.as_deref(), limit, MAX_BYTES)?;
            Ok(Answer::Records { records: page.records, more: page.more, revision: page.revision })
        }
    }
}
