//! Entries whose stored copy can no longer be read. They are requested from the peers in turn, by op and hash, and
//! written again. Until then they are neither served nor acknowledged, and votes list them as faulty (rule V4).

use super::{Context, Halt, Output};
use crate::ids::{Instant, MemberId, Op, WriteSeq};
use crate::message::{Entry, Extent, FetchWhat, Message, Write};
use std::collections::BTreeMap;
use std::time::Duration;
use tracing::{info, warn};

/// How many are requested at once. The others wait.
const MOST: usize = 64;

/// The repairs in progress.
#[derive(Debug, Default)]
pub(crate) struct Repairs {
    list: BTreeMap<Op, Repair>,
}

#[derive(Debug)]
struct Repair {
    nonce: u64,
    /// The number of requests. Each goes to the next peer.
    turns: usize,
    patience: Duration,
    ask_at: Instant,
    /// The write that restores the entry.
    writing: Option<WriteSeq>,
}

impl Repairs {
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.list.values().filter(|repair| repair.writing.is_none()).map(|repair| repair.ask_at).min()
    }
}

impl Context {
    /// A stored entry cannot be read.
    pub(crate) fn on_faulty(&mut self, op: Op) {
        let is_ours = op > self.log.floor().max(self.trimmed()) && op <= self.log.durable().op;
        if !is_ours || self.repairs.list.contains_key(&op) {
            return;
        }
        if self.cluster.len() == 1 {
            if op == self.applied.next() {
                self.halt(Halt::Lost { op });
            } else if op <= self.applied && op > self.checkpoint {
                // The state contains it, and replaces it once it is durable.
                self.outputs.push_back(Output::MakeCheckpoint);
            }
            return;
        }
        warn!(%op, "cannot read a stored entry: fetching it from another member");
        self.log.mark_faulty(op);
        self.begin_repair(op);
    }

    /// Requests an entry, unless too many are requested already. Then it waits. The one that is to be applied first
    /// never waits.
    fn begin_repair(&mut self, op: Op) {
        let is_next = self.first_to_apply() == Some(op);
        if is_next || self.repairs.list.len() < MOST {
            let (nonce, patience) = (self.nonce(), self.options.failure_timeout_min);
            let ask_at = self.now.monotonic;
            self.repairs.list.insert(op, Repair { nonce, turns: 0, patience, ask_at, writing: None });
            self.ask_for_repairs();
        }
    }

    /// Whether an entry that the log may have held is missing. An entry that could not be read once may be readable
    /// later.
    pub(crate) fn misses_entries(&self) -> bool {
        let reached = Extent::Through(self.log.head().op);
        !self.log.past_gap().is_empty() || self.damage.is_some_and(|extent| extent > reached)
    }

    /// Sends the requests that are due.
    pub(crate) fn ask_for_repairs(&mut self) {
        let (now, most) = (self.now.monotonic, self.options.failure_timeout_max);
        let mut peers: Vec<MemberId> = self.cluster.peers(self.me).map(|peer| peer.id).collect();
        if peers.is_empty() {
            // They were removed.
            return;
        }
        // Standbys last: they may have little of the log.
        peers.sort_by_key(|peer| (!self.cluster.is_voter(*peer), *peer));
        let mut questions = Vec::new();
        for (op, repair) in &mut self.repairs.list {
            if repair.writing.is_some() || now < repair.ask_at {
                continue;
            }
            let to = peers[repair.turns % peers.len()];
            repair.turns += 1;
            repair.ask_at = now.after(repair.patience);
            repair.patience = (repair.patience * 2).min(most);
            questions.push((to, *op, repair.nonce));
        }
        for (to, op, nonce) in questions {
            let hash = self.log.hash(op);
            let what = FetchWhat::Entries;
            self.send(to, Message::Fetch { from: op, through: op, hash, nonce, what });
        }
    }

    /// Whether an entry was requested from all peers and none has answered.
    pub(crate) fn has_no_source(&self, op: Op) -> bool {
        let unanswered = |repair: &Repair| repair.writing.is_none() && repair.turns >= self.cluster.len();
        self.repairs.list.get(&op).is_some_and(unanswered)
    }

    /// Whether a request for an unreadable entry has this nonce.
    pub(crate) fn is_repair(&self, nonce: u64) -> bool {
        self.repairs.list.values().any(|repair| repair.nonce == nonce)
    }

    /// Rule T8: whether the own state cannot get as far as `op` by applying entries, because one of them is unreadable
    /// and no peer has supplied it.
    pub(crate) fn is_stuck_below(&self, op: Op) -> bool {
        !self.is_witness() && self.first_to_apply().is_some_and(|bad| bad <= op && self.has_no_source(bad))
    }

    /// The first unreadable entry that is still to be applied.
    fn first_to_apply(&self) -> Option<Op> {
        self.log.faulty_above(self.applied).next()
    }

    /// Takes the requested entries from an answer, to write them again.
    pub(crate) fn on_repaired(&mut self, nonce: u64, entries: &[Entry]) {
        for entry in entries {
            let op = entry.header.op;
            let fits = entry.header.cluster == self.cluster.id() && self.log.holds(entry.header.anchor());
            let is_due = |repair: &Repair| repair.nonce == nonce && repair.writing.is_none();
            if fits && self.repairs.list.get(&op).is_some_and(is_due) {
                let seq = self.write(Write::Repair(entry.clone()));
                if let Some(repair) = self.repairs.list.get_mut(&op) {
                    repair.writing = Some(seq);
                }
            }
        }
    }

    /// Ends the repairs of entries that are durable again, cut or dropped. Returns whether an entry is durable again.
    pub(crate) fn end_repairs(&mut self) -> bool {
        let (durable, trimmed) = (self.writes.durable, self.trimmed());
        let (log, mut any_back) = (&mut self.log, false);
        self.repairs.list.retain(|op, repair| {
            let is_written = repair.writing.is_some_and(|seq| seq <= durable);
            if is_written {
                info!(%op, "repaired the entry");
                log.unmark_faulty(*op);
                any_back = true;
            }
            !is_written && log.is_faulty(*op) && *op > trimmed
        });
        any_back
    }

    /// Requests the next entry that waits for its repair. The one that is to be applied first comes before all others.
    pub(crate) fn begin_next_repair(&mut self) {
        let waits = |op: &Op| !self.repairs.list.contains_key(op);
        let first = self.first_to_apply().filter(waits);
        if let Some(op) = first.or_else(|| self.log.faulty_above(self.trimmed()).find(waits)) {
            self.begin_repair(op);
        }
    }
}
