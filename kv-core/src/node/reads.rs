//! Reads: those that wait for the replica's word, those that wait for an op to be applied, and how they are carried out.

use super::pool;
use super::reply::Reply;
use super::shared::Shared;
use crate::ids::{Instant, Op, Revision};
use crate::kv::StateReader;
use crate::message::{Answer, Query};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// The most records in one answer.
const MAX_RECORDS: usize = 10_000;
/// About the most bytes in one answer.
const MAX_BYTES: usize = 1 << 20;
/// So many reads of one client are handed to a thread at once, at most.
const SHARE: usize = 32;

type Read = (Query, Reply);

/// What a state must have applied for a read to be answered from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Least {
    /// Everything up to this op.
    Op(Op),
    /// Everything up to this revision.
    Revision(Revision),
}

impl Least {
    /// Whether a state has applied it.
    fn is_met_by(self, state: &StateReader) -> bool {
        match self {
            Self::Op(op) => state.applied().op >= op,
            Self::Revision(revision) => state.revision() >= revision,
        }
    }
}

/// How long a read waits for the revision that it must see. It may be known elsewhere by then.
const PATIENCE: Duration = Duration::from_secs(1);

/// The reads that wait. Bounded by the node's admission.
#[derive(Debug, Default)]
pub(super) struct Reads {
    /// For the replica to release them.
    unconfirmed: HashMap<u64, Read>,
    /// For this op to be applied.
    unapplied: BTreeMap<Op, Vec<Read>>,
    /// For this revision to be applied, until then.
    awaited: BTreeMap<Revision, Vec<(Read, Instant)>>,
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
            run(shared, confirmed.collect(), Least::Op(op));
        } else {
            self.unapplied.entry(op).or_default().extend(confirmed);
        }
    }

    /// Entries up to here are applied.
    pub(super) fn applied(&mut self, applied: Op, shared: &Arc<Shared>) {
        while let Some(first) = self.unapplied.first_entry()
            && *first.key() <= applied
        {
            let least = Least::Op(*first.key());
            run(shared, first.remove(), least);
        }
        self.run_awaited(shared);
    }

    /// A read that is to see this revision or a later one.
    pub(super) fn wait(&mut self, at_least: Revision, read: Read, now: Instant, shared: &Arc<Shared>) {
        self.awaited.entry(at_least).or_default().push((read, now.after(PATIENCE)));
        // It may have been applied while the read was on its way.
        self.run_awaited(shared);
    }

    fn run_awaited(&mut self, shared: &Arc<Shared>) {
        let Some(newest) = shared.state().map(|state| state.revision()) else { return };
        while let Some(first) = self.awaited.first_entry()
            && *first.key() <= newest
        {
            let least = Least::Revision(*first.key());
            run(shared, first.remove().into_iter().map(|(read, _)| read).collect(), least);
        }
    }

    /// Sends those away that have waited for long enough.
    pub(super) fn on_time(&mut self, now: Instant, shared: &Shared) {
        if self.awaited.is_empty() {
            return;
        }
        let newest = shared.state().map_or(Revision::ZERO, |state| state.revision());
        for waiting in self.awaited.values_mut() {
            for ((_, reply), _) in waiting.extract_if(.., |(_, until)| *until <= now) {
                reply.send(Answer::Future { newest });
            }
        }
        self.awaited.retain(|_, waiting| !waiting.is_empty());
    }

    /// These cannot be answered here.
    pub(super) fn refused(&mut self, tickets: &[u64], answer: &Answer) {
        for (_, reply) in tickets.iter().filter_map(|ticket| self.unconfirmed.remove(ticket)) {
            reply.send(answer.clone());
        }
    }
}

/// Carries reads out: at once where memory has the answer, and otherwise on the threads that may wait for the disk.
pub(super) fn run(shared: &Arc<Shared>, mut reads: Vec<Read>, least: Least) {
    if let Some(state) = shared.state().filter(|state| least.is_met_by(state)) {
        let mut others = Vec::new();
        for (query, reply) in reads {
            match state.answer_from_memory(&query) {
                Some(answer) => reply.send(answer),
                None => others.push((query, reply)),
            }
        }
        reads = others;
    }
    for (whose, share) in pool::shares(reads, SHARE, |(_, reply)| reply.whose()) {
        let state = shared.clone();
        shared.pool.run(pool::Kind::Read, whose, move || {
            for (query, reply) in share {
                // One who asks for much and takes none of it keeps nobody busy.
                let answer =
                    if reply.is_hopeless() { Answer::Overloaded } else { answer(&state, &query, least) };
                reply.send(answer);
            }
        });
    }
}

fn answer(shared: &Shared, query: &Query, least: Least) -> Answer {
    // A node without a state (it has just stopped) answers nothing; another member can.
    let elsewhere = Answer::NotPrimary { hint: None };
    let life = shared.state_life();
    // Looked at here, and not when the read was confirmed: another state may have taken the place of that one meanwhile, and be older.
    let Some(state) = shared.state().filter(|state| least.is_met_by(state)) else { return elsewhere };
    state.answer(query, MAX_RECORDS, MAX_BYTES).unwrap_or_else(|error| {
        shared.state_failed(life, error);
        elsewhere
    })
}
