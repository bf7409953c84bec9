//! The journal thread: makes writes durable, all that have come since the last time at once.

use super::StopReason;
use super::applier::Opened;
use super::shared::Shared;
use crate::engine::EngineError;
use crate::ids::WriteSeq;
use crate::journal::Journal;
use crate::kv::{Limits, Receiver, StateMachine};
use crate::message::{FormationStep, Write};
use crate::storage::Storage;
use std::sync::Arc;

/// Writes and bytes that may wait; the driver takes nothing that leads to more while they do.
const MAX_WRITES: usize = 1024;
const MAX_BYTES: usize = 16 << 20;

/// What waits for the journal thread.
#[derive(Debug, Default)]
pub(super) struct WriteQueue {
    queue: Vec<(WriteSeq, Write)>,
    bytes: usize,
    /// The last one that was added.
    last: WriteSeq,
    /// Nothing becomes durable any more (rule D4): what comes is forgotten, so that messages go on being heard.
    failed: bool,
    closed: bool,
}

impl WriteQueue {
    /// Adds writes, in order.
    pub(super) fn extend(&mut self, writes: &mut Vec<(WriteSeq, Write)>) {
        if self.failed {
            return writes.clear();
        }
        for (seq, _) in writes.iter() {
            // The journal reports only the last write of a batch as durable, and the replica takes it for all before.
            assert!(
                *seq == self.last.next(),
                "writes are executed in the order in which they were requested"
            );
            self.last = *seq;
        }
        self.bytes += writes.iter().map(|(_, write)| size(write)).sum::<usize>();
        self.queue.append(writes);
    }

    /// Whether more may come.
    pub(super) fn has_room(&self) -> bool {
        self.queue.len() < MAX_WRITES && self.bytes < MAX_BYTES
    }

    /// How many wait.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    fn fail(&mut self) {
        *self = Self { failed: true, closed: self.closed, last: self.last, ..Self::default() };
    }

    /// Ends the thread. What waits is forgotten.
    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    /// What waits; `None` to wait for it.
    fn take(&mut self) -> Option<Option<Vec<(WriteSeq, Write)>>> {
        if self.closed {
            return Some(None);
        }
        self.bytes = 0;
        let queue = std::mem::take(&mut self.queue);
        (!queue.is_empty()).then_some(Some(queue))
    }
}

fn size(write: &Write) -> usize {
    match write {
        Write::Append(entries) => entries.iter().map(|entry| entry.body.len()).sum(),
        Write::Repair(entry) => entry.body.len(),
        Write::Formation(_)
        | Write::View(_)
        | Write::Checkpoint(_)
        | Write::Trim(_)
        | Write::Rebase(_)
        | Write::Enter(_)
        | Write::Retire => 0,
    }
}

/// Opens the state of a member whose directory has just been formatted.
#[derive(Debug)]
pub(super) struct StateOpener {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) limits: Limits,
}

fn open(storage: Arc<dyn Storage>, limits: Limits) -> Result<Opened, EngineError> {
    let state = Some(StateMachine::open(storage.clone(), limits.clone())?);
    Ok(Opened { state, receiver: Receiver::open(storage.clone(), limits)?, storage })
}

/// Runs the journal until the node stops. `opener` is there on a data member that has not been formatted yet: its state
/// is opened between formatting and telling so, and thus before anyone can ask for it.
pub(super) fn run(mut journal: Journal, shared: &Arc<Shared>, mut opener: Option<StateOpener>) {
    while let Some(batch) = shared.writes.wait(WriteQueue::take) {
        let (seqs, writes): (Vec<WriteSeq>, Vec<Write>) = batch.into_iter().unzip();
        if let Err(error) = journal.execute_at(shared.clock.now().wall, &writes) {
            shared.writes.change(WriteQueue::fail);
            let error = Arc::new(error);
            return shared.part_failed("the journal failed", &error, StopReason::Journal(error.clone()));
        }
        if writes.contains(&Write::Formation(FormationStep::Formatted))
            && let Some(StateOpener { storage, limits }) = opener.take()
        {
            match open(storage, limits) {
                Ok(opened) => super::applier::give_state(shared, opened),
                Err(error) => return shared.hand_over_and_stop(StopReason::Engine(error)),
            }
        }
        if let Some(seq) = seqs.last() {
            shared.inbox.durable(*seq);
        }
    }
}
