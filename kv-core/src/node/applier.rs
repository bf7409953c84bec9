//! The applier thread: owns the state, applies committed entries in order, answers those who wait, and has checkpoints
//! made, each on a thread of its own.

use super::StopReason;
use super::shared::Shared;
use crate::engine::EngineError;
use crate::ids::Op;
use crate::journal::ReadError;
use crate::kv::{CheckpointDone, State};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// So many entries are applied before the driver is told.
const RUN: u64 = 64;

/// How often an entry that is being repaired is looked at.
const REPAIR_LOOK: Duration = Duration::from_millis(20);

/// A checkpoint is also due when this many times [`Options::checkpoint_bytes`](crate::Options) have been applied since
/// the last, though they may have left little in memory: the journal keeps them until then, and a restart applies them.
const APPLIED_PER_CHECKPOINT: usize = 4;

/// What the applier is to do.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The state, until the thread takes it.
    state: Option<Box<State>>,
    /// Apply up to here.
    commit: Op,
    /// How the checkpoint that ran has ended.
    done: Option<Result<CheckpointDone, EngineError>>,
    /// A checkpoint waits for the journal to be durable; the journal thread withdraws it.
    pub(super) wants_durable: bool,
    closed: bool,
}

impl Plan {
    /// Entries up to here are committed.
    pub(super) fn commit(&mut self, op: Op) {
        self.commit = self.commit.max(op);
    }

    /// Lets go of a state that the thread did not come to take.
    pub(super) fn let_go(&mut self) {
        self.state = None;
        self.done = None;
    }

    /// Ends the thread.
    pub(super) fn close(&mut self) {
        self.closed = true;
    }
}

/// Hands the opened state to the applier.
pub(super) fn give_state(shared: &Shared, state: State) {
    shared.set_state(state.reader());
    shared.plan.change(|plan| plan.state = Some(Box::new(state)));
}

/// Runs until the node stops.
pub(super) fn run(shared: &Arc<Shared>) {
    let state = shared.plan.wait(|plan| if plan.closed { Some(None) } else { plan.state.take().map(Some) });
    let Some(state) = state else { return };
    let mut applier =
        Applier { shared: shared.clone(), state, checkpoint: None, bytes: 0, nothing_at: Op::ZERO };
    if let Err(reason) = applier.run() {
        tracing::error!(%reason, "cannot apply: this member stops");
        shared.retire(reason);
    }
    if let Some(thread) = applier.checkpoint {
        // It has nothing to say that matters now; a panic in it has been noted by its guard.
        let _ = thread.join();
    }
}

struct Applier {
    shared: Arc<Shared>,
    state: Box<State>,
    /// The thread that makes the running checkpoint.
    checkpoint: Option<JoinHandle<()>>,
    /// Bytes applied since the last checkpoint began.
    bytes: usize,
    /// There was nothing to checkpoint here.
    nothing_at: Op,
}

/// What comes next.
enum Step {
    Apply(Op),
    Finish(Result<CheckpointDone, EngineError>),
    /// The journal has caught up, and a checkpoint waited for that.
    Retry,
    Stop,
}

impl Applier {
    fn run(&mut self) -> Result<(), StopReason> {
        loop {
            match self.next() {
                Step::Apply(through) => self.apply(through)?,
                Step::Finish(result) => self.finish(result)?,
                Step::Retry => {}
                Step::Stop => return Ok(()),
            }
            self.begin_checkpoint()?;
        }
    }

    fn next(&self) -> Step {
        let (applied, full, due) = (self.state.applied().op, self.state.is_full(), self.is_due());
        self.shared.plan.wait(|plan| {
            if plan.closed {
                Some(Step::Stop)
            } else if let Some(result) = plan.done.take() {
                Some(Step::Finish(result))
            } else if plan.commit > applied && !full {
                Some(Step::Apply(plan.commit.min(applied.advance(RUN))))
            } else if due && !plan.wants_durable {
                Some(Step::Retry)
            } else {
                None
            }
        })
    }

    fn apply(&mut self, through: Op) -> Result<(), StopReason> {
        let Some(log) = self.shared.log() else { return Ok(()) };
        while self.state.applied().op < through && !self.state.is_full() {
            let op = self.state.applied().op.next();
            let entry = match log.read(op) {
                Ok(entry) => entry.ok_or(StopReason::Missing { op })?,
                Err(ReadError::Faulty { .. }) => {
                    // It is fetched from a peer. Whoever waits longer than the cluster's patience is fenced.
                    self.shared.inbox.applied(self.state.applied().op);
                    self.shared.inbox.faulty(op);
                    self.shared.plan.pause(REPAIR_LOOK);
                    return Ok(());
                }
                Err(error) => return Err(StopReason::Log(Arc::new(error))),
            };
            let applied = self.state.apply(&entry)?;
            self.bytes += entry.body.len();
            self.shared.waiters.applied(applied);
        }
        self.shared.inbox.applied(self.state.applied().op);
        Ok(())
    }

    /// Whether a checkpoint is due and none runs.
    fn is_due(&self) -> bool {
        let limit = self.shared.options.checkpoint_bytes;
        let due =
            self.state.overlay_bytes() >= limit || self.bytes >= limit.saturating_mul(APPLIED_PER_CHECKPOINT);
        due && self.checkpoint.is_none() && self.state.applied().op > self.nothing_at
    }

    fn begin_checkpoint(&mut self) -> Result<(), StopReason> {
        if !self.is_due() {
            return Ok(());
        }
        // A checkpoint covers only what is durable in the own journal: what is committed may be durable elsewhere only. Asked
        // for before looking, so that the journal thread cannot slip in between.
        self.shared.plan.look(|plan| plan.wants_durable = true);
        if self.shared.durable_op() < self.state.applied().op {
            return Ok(());
        }
        self.shared.plan.look(|plan| plan.wants_durable = false);
        self.bytes = 0;
        let Some(checkpoint) = self.state.begin_checkpoint() else {
            self.nothing_at = self.state.applied().op;
            return Ok(());
        };
        tracing::debug!(op = %checkpoint.anchor().op, "checkpoint begins");
        let shared = self.shared.clone();
        let thread = std::thread::Builder::new().name("kv-checkpoint".to_owned()).spawn(move || {
            let _guard = shared.guard("the checkpoint");
            let done = shared.span.in_scope(|| checkpoint.run());
            shared.plan.change(|plan| plan.done = Some(done));
        });
        self.checkpoint = Some(thread.map_err(|error| StopReason::Thread(Arc::new(error)))?);
        Ok(())
    }

    fn finish(&mut self, result: Result<CheckpointDone, EngineError>) -> Result<(), StopReason> {
        let done = result?;
        let anchor = done.anchor();
        self.state.finish_checkpoint(done);
        if let Some(thread) = self.checkpoint.take() {
            // It has handed in its result, so there is no panic to learn of.
            let _ = thread.join();
        }
        tracing::debug!(op = %anchor.op, "checkpoint is durable");
        self.shared.inbox.checkpointed(anchor);
        Ok(())
    }
}
