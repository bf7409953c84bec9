//! Reads: those that wait for the replica's confirmation, those that wait for an op to be applied, and their
//! execution.

use super::pool;
use super::reply::Responder;
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
/// At most this many reads of one client are passed to a thread at once.
const SHARE: usize = 32;

pub(super) type Read = (Query, Responder);

/// What a state must have applied before a read may be answered from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum MinApplied {
    /// Everything up to this op.
    Op(Op),
    /// Everything up to this revision.
    Revision(Revision),
}

impl MinApplied {
    /// Returns whether a state has applied it.
    fn is_met_by(self, state: &StateReader) -> bool {
        match self {
            Self::Op(op) => state.applied().op >= op,
            Self::Revision(revision) => state.revision() >= revision,
        }
    }
}

/// How long a read waits for the revision that it must see. After that, the client can try another member.
const PATIENCE: Duration = Duration::from_secs(1);

/// The reads that wait. Bounded by the admission of the node.
#[derive(Debug, Default)]
pub(super) struct Reads {
    /// Reads that the replica has not confirmed yet. All those that began together share a ticket.
    unconfirmed: HashMap<u64, Vec<Read>>,
    /// Reads that wait for this op to be applied.
    unapplied: BTreeMap<Op, Vec<Read>>,
    /// Reads that wait for this revision to be applied, each until its deadline.
    awaited: BTreeMap<Revision, Vec<(Read, Instant)>>,
    next: u64,
}

impl Reads {
    /// Adds reads that begin together, and returns their ticket.
    pub(super) fn add(&mut self, reads: Vec<Read>) -> u64 {
        self.next += 1;
        self.unconfirmed.insert(self.next, reads);
        self.next
    }

    /// These reads may be answered from a state that has applied `op`.
    pub(super) fn confirmed(&mut self, tickets: &[u64], op: Op, applied: Op, shared: &Arc<Shared>) {
        let confirmed = tickets.iter().filter_map(|ticket| self.unconfirmed.remove(ticket)).flatten();
        if applied >= op {
            run(shared, confirmed.collect(), MinApplied::Op(op));
        } else {
            self.unapplied.entry(op).or_default().extend(confirmed);
        }
    }

    /// Entries up to here are applied.
    pub(super) fn applied(&mut self, applied: Op, shared: &Arc<Shared>) {
        while let Some(first) = self.unapplied.first_entry()
            && *first.key() <= applied
        {
            let least = MinApplied::Op(*first.key());
            run(shared, first.remove(), least);
        }
        self.run_awaited(shared);
    }

    /// Adds a read that must see this revision or a later one.
    pub(super) fn wait(&mut self, at_least: Revision, read: Read, now: Instant, shared: &Arc<Shared>) {
        self.awaited.entry(at_least).or_default().push((read, now.after(PATIENCE)));
        // The revision may have been applied in the meantime.
        self.run_awaited(shared);
    }

    fn run_awaited(&mut self, shared: &Arc<Shared>) {
        let Some(newest) = shared.state().map(|state| state.revision()) else { return };
        while let Some(first) = self.awaited.first_entry()
            && *first.key() <= newest
        {
            let least = MinApplied::Revision(*first.key());
            run(shared, first.remove().into_iter().map(|(read, _)| read).collect(), least);
        }
    }

    /// Refuses the reads whose waiting time is over.
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

    /// Refuses these reads: they cannot be answered here.
    pub(super) fn refused(&mut self, tickets: &[u64], answer: &Answer) {
        let refused = tickets.iter().filter_map(|ticket| self.unconfirmed.remove(ticket)).flatten();
        for (_, reply) in refused {
            reply.send(answer.clone());
        }
    }
}

/// Runs reads: at once if the answer is in memory, otherwise on the threads that may wait for the disk.
pub(super) fn run(shared: &Arc<Shared>, mut reads: Vec<Read>, least: MinApplied) {
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
    for (whose, share) in pool::shares(reads, SHARE, |(_, reply)| reply.owner()) {
        let state = shared.clone();
        shared.pool.run(pool::Kind::Read, whose, move || {
            for (query, reply) in share {
                // A client that reads much and takes none of the answers causes no work.
                let answer =
                    if reply.is_backlogged() { Answer::Overloaded } else { answer(&state, &query, least) };
                reply.send(answer);
            }
        });
    }
}

fn answer(shared: &Shared, query: &Query, least: MinApplied) -> Answer {
    // A node without a state has just stopped, and answers nothing. Another member can.
    let elsewhere = Answer::NotPrimary { hint: None };
    let life = shared.state_life();
    // Checked here, not when the read was confirmed: the state may have been replaced by an older one in the
    // meantime.
    let Some(state) = shared.state().filter(|state| least.is_met_by(state)) else { return elsewhere };
    state.answer(query, MAX_RECORDS, MAX_BYTES).unwrap_or_else(|error| {
        shared.state_failed(life, error);
        elsewhere
    })
}
