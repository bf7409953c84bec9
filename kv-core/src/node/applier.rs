//! The applier thread: owns the state, applies committed entries in order, answers those who wait, and has checkpoints
//! made, each on a thread of its own.

use super::StopReason;
use super::shared::Shared;
use super::sync::lock;
use super::transfer::{Receiving, Task};
use super::watches;
use crate::engine::EngineError;
use crate::ids::{Instant, Op};
use crate::journal::ReadError;
use crate::kv::{Applied, Checkpoint, CheckpointDone, Deadlines, ExpiryQuery, Progress, Receiver, State};
use crate::message::Request;
use crate::replica::Input;
use crate::storage::Storage;
use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// So many entries are applied before the driver is notified.
const RUN: u64 = 64;

/// How long nothing is applied where a checkpoint is to get on first.
const PACE: Duration = Duration::from_millis(2);

/// How often an entry that is being repaired is looked at.
const REPAIR_LOOK: Duration = Duration::from_millis(20);

/// A checkpoint is also due when this many times [`Options::checkpoint_bytes`](crate::Options) have been applied since
/// the last, though they may have left little in memory: the journal keeps them until then, and a restart applies them.
const APPLIED_PER_CHECKPOINT: usize = 4;

/// A checkpoint is also due after so many entries: each takes memory on all members, and on a witness too, until every member has one
/// above it.
const ENTRIES_PER_CHECKPOINT: u64 = 8192;

/// What the applier is to do.
#[derive(Debug, Default)]
pub(super) struct ApplierQueue {
    /// What was opened, until the thread takes it.
    opened: Option<Opened>,
    /// What is to be done with another member's state.
    pub(super) tasks: VecDeque<Task>,
    /// A peer that needs a state asks for a checkpoint: the last one may be of no use to it.
    pub(super) asked: bool,
    /// The driver asks for what is due.
    pub(super) expiry: Option<ExpiryQuery>,
    /// A reader found the state damaged that was there at this [`state_life`](Shared::state_life).
    pub(super) lost: Option<(u64, EngineError)>,
    /// A reader came across the damage of the state that is set aside.
    pub(super) reopen: bool,
    /// Apply up to here.
    commit: Op,
    /// The checkpoint that runs.
    pub(super) merging: Option<Progress>,
    /// How the checkpoint that ran has ended.
    done: Option<Result<CheckpointDone, EngineError>>,
    /// A checkpoint waits for the journal to be durable; the journal thread withdraws it.
    pub(super) wants_durable: bool,
    closed: bool,
}

impl ApplierQueue {
    /// Entries up to here are committed.
    pub(super) fn commit(&mut self, op: Op) {
        self.commit = self.commit.max(op);
    }

    /// Lets go of a state that the thread did not come to take.
    pub(super) fn let_go(&mut self) {
        self.opened = None;
        self.done = None;
        self.tasks.clear();
    }

    /// Ends the thread.
    pub(super) fn close(&mut self) {
        self.closed = true;
    }
}

/// What a data member has on its disk.
#[derive(Debug)]
pub(super) struct Opened {
    /// None if it was lost: another one is fetched.
    pub(super) state: Option<State>,
    pub(super) receiver: Receiver,
    pub(super) storage: Arc<dyn Storage>,
}

/// Hands what was opened to the applier.
pub(super) fn give_state(shared: &Shared, opened: Opened) {
    if let Some(state) = &opened.state {
        shared.set_state(state.reader());
        lock(&shared.sources).publish(state.snapshot());
    }
    shared.applier_queue.change(|plan| plan.opened = Some(opened));
}

/// Runs until the node stops.
pub(super) fn run(shared: &Arc<Shared>) {
    let opened =
        shared.applier_queue.wait(|plan| if plan.closed { Some(None) } else { plan.opened.take().map(Some) });
    let Some(Opened { state, receiver, storage }) = opened else { return };
    let receiving = Receiving(receiver);
    let mut applier = Applier {
        shared: shared.clone(),
        state: state.map(Box::new),
        storage,
        receiving,
        frozen: None,
        merge_began: Instant::ZERO,
        merge_took: Duration::ZERO,
        checkpoint: None,
        bytes: 0,
        nothing_at: Op::ZERO,
        asked: false,
        deadlines: Deadlines::default(),
        expired: false,
        aside: None,
    };
    if applier.state.is_none() {
        applier.open_aside();
    }
    applier.report_deadlines();
    if let Err(reason) = applier.run() {
        tracing::error!(%reason, "cannot apply an entry: this member stops");
        shared.retire(reason);
    }
    if let Some(thread) = applier.checkpoint {
        // Its result does not matter now; a panic in it has been noted by its guard.
        let _ = thread.join();
    }
}

struct Applier {
    shared: Arc<Shared>,
    /// None while it is lost.
    state: Option<Box<State>>,
    storage: Arc<dyn Storage>,
    receiving: Receiving,
    /// The state as it is to be checkpointed, until the journal has all of it.
    frozen: Option<Checkpoint>,
    /// When the last checkpoint began to be written, and how long the one before took.
    merge_began: Instant,
    merge_took: Duration,
    /// The thread that makes the running checkpoint.
    checkpoint: Option<JoinHandle<()>>,
    /// Bytes applied since the last checkpoint began.
    bytes: usize,
    /// There was nothing to checkpoint here.
    nothing_at: Op,
    /// A checkpoint is wanted though little has been applied.
    asked: bool,
    /// What the driver knows.
    deadlines: Deadlines,
    /// An expiry was applied since the last report.
    expired: bool,
    /// The damaged state, while there is no other: what is intact of it is for peers to fetch.
    aside: Option<Box<State>>,
}

/// Rule D8. A member that is alone reports what is wrong with its disk instead: it may be readable later.
fn is_mended_by_others(shared: &Shared, error: &ReadError) -> bool {
    match error {
        ReadError::Faulty { .. } => true,
        ReadError::Disk { .. } => shared.cluster.len() > 1,
    }
}

/// Whether so much has been applied since the last checkpoint that another one is due.
fn is_enough(state: &State, bytes: usize, limit: usize) -> bool {
    state.memtable_bytes() >= limit
        || state.applied().op.distance_from(state.checkpoint().op) >= ENTRIES_PER_CHECKPOINT
        || bytes >= limit.saturating_mul(APPLIED_PER_CHECKPOINT)
}

/// What comes next.
enum Step {
    Apply(Op),
    Expire(ExpiryQuery),
    Finish(Result<CheckpointDone, EngineError>),
    Transfer(Task),
    Checkpoint,
    Lose(EngineError),
    Reopen,
    /// The journal has caught up, and a checkpoint waited for that.
    Retry,
    /// Readers hold so much memory that nothing is applied before they let go.
    Release,
    Stop,
}

impl Applier {
    fn run(&mut self) -> Result<(), StopReason> {
        loop {
            let done = match self.next() {
                Step::Apply(through) => self.apply(through),
                Step::Expire(ask) => {
                    self.expire(ask);
                    Ok(())
                }
                Step::Finish(result) => self.finish(result),
                Step::Transfer(task) => self.transfer(task),
                Step::Checkpoint if self.state.is_none() => {
                    self.bring_aside_to_the_log();
                    Ok(())
                }
                Step::Checkpoint => {
                    self.asked = true;
                    Ok(())
                }
                Step::Reopen => {
                    self.open_aside();
                    Ok(())
                }
                Step::Lose(error) => Err(error.into()),
                Step::Retry => Ok(()),
                Step::Release => {
                    self.release();
                    Ok(())
                }
                Step::Stop => return Ok(()),
            };
            self.report_deadlines();
            match done.and_then(|()| self.begin_checkpoint()) {
                Err(StopReason::Engine(error)) if self.shared.can_replace_state(&error) => {
                    self.lose(error)?
                }
                done => done?,
            }
        }
    }

    /// The state is damaged: nothing is answered from it any more, and another one is fetched (rule T9).
    fn lose(&mut self, error: EngineError) -> Result<(), StopReason> {
        tracing::error!(%error, "discarding the state: fetching that of another member");
        self.shared.take_state();
        self.state = None;
        self.frozen = None;
        if let Some(thread) = self.checkpoint.take() {
            // What it was writing is given up with the rest.
            let _ = thread.join();
        }
        self.shared.applier_queue.look(|plan| (plan.done, plan.lost, plan.merging) = (None, None, None));
        State::set_aside(&*self.storage)?;
        self.open_aside();
        self.shared.inbox.transferred(Input::StateLost);
        Ok(())
    }

    /// Rule T9a: what is intact of a damaged state goes on being there for peers that fetch one.
    fn open_aside(&mut self) {
        self.aside = None;
        lock(&self.shared.sources).clear();
        match self.receiving.0.open_aside() {
            Ok(Some(state)) => {
                lock(&self.shared.sources).publish(state.snapshot());
                self.aside = Some(Box::new(state));
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "nothing of the damaged state can be read"),
        }
    }

    /// Rule T9b: a peer that fetches a state asks for a checkpoint. Those of members whose states are damaged in different places
    /// complete each other if they are at one op: the last that is committed.
    fn bring_aside_to_the_log(&mut self) {
        let (Some(log), Some(state)) = (self.shared.log(), &mut self.aside) else { return };
        let through = self.shared.applier_queue.look(|plan| plan.commit).min(self.shared.durable_op());
        match state.bring_to(through, |op| log.read(op).ok().flatten()) {
            Ok(()) => lock(&self.shared.sources).publish(state.snapshot()),
            Err(error) => {
                tracing::debug!(%error, "the damaged state cannot be brought further");
                self.open_aside();
            }
        }
    }

    fn transfer(&mut self, task: Task) -> Result<(), StopReason> {
        let result = match task {
            Task::Stage(at, chunk) => self.receiving.stage(at, &chunk)?,
            Task::Install(at) => {
                let result = self.receiving.install(&self.shared, at, &mut self.state)?;
                if self.state.is_some() {
                    self.aside = None;
                }
                if matches!(result, Input::SnapshotInstalled { .. }) {
                    // It was of the state before.
                    self.frozen = None;
                }
                (self.bytes, self.nothing_at) = (0, Op::ZERO);
                result
            }
            Task::Discard(at) => return Ok(self.receiving.0.discard_at(at)?),
        };
        self.shared.inbox.transferred(result);
        if let Some(state) = &self.state {
            self.shared.inbox.applied(state.applied().op);
            watches::published(&self.shared);
        }
        Ok(())
    }

    fn next(&self) -> Step {
        let state = self.state.as_deref();
        let applied = state.map(|state| state.applied().op);
        let full = state.is_some_and(State::is_full);
        let present = self.shared.state_life();
        let (waits_for_journal, merging) = (self.frozen.is_some(), self.checkpoint.is_some());
        self.shared.applier_queue.wait(|plan| {
            // The old state is not to be touched while it is written.
            let waits = merging && matches!(plan.tasks.front(), Some(Task::Install(_)));
            if plan.closed {
                Some(Step::Stop)
            } else if let Some((_, error)) =
                plan.lost.take().filter(|(life, _)| applied.is_some() && *life == present)
            {
                Some(Step::Lose(error))
            } else if std::mem::take(&mut plan.reopen) && applied.is_none() {
                Some(Step::Reopen)
            } else if let Some(result) = plan.done.take() {
                Some(Step::Finish(result))
            } else if let Some(task) = plan.tasks.pop_front_if(|_| !waits) {
                Some(Step::Transfer(task))
            } else if let Some(ask) = plan.expiry.take_if(|_| applied.is_some()) {
                Some(Step::Expire(ask))
            } else if let Some(applied) = applied.filter(|applied| plan.commit > *applied && !full) {
                Some(Step::Apply(plan.commit.min(applied.advance(RUN))))
            } else if std::mem::take(&mut plan.asked) {
                Some(Step::Checkpoint)
            } else if waits_for_journal && !plan.wants_durable {
                Some(Step::Retry)
            } else if full && !merging && !waits_for_journal {
                Some(Step::Release)
            } else {
                None
            }
        })
    }

    /// Waits a little for readers, and frees what they have let go of. If that is enough, the checkpoint that is due begins.
    fn release(&mut self) {
        self.shared.applier_queue.pause(PACE);
        if let Some(state) = &mut self.state {
            state.release();
        }
    }

    fn apply(&mut self, through: Op) -> Result<(), StopReason> {
        if self.is_ahead() {
            self.shared.applier_queue.pause(PACE);
            return Ok(());
        }
        let idle = self.frozen.is_none() && self.checkpoint.is_none();
        let limit = self.shared.options.checkpoint_bytes;
        let (Some(log), Some(state)) = (self.shared.log(), &mut self.state) else { return Ok(()) };
        while state.applied().op < through && !state.is_full() {
            if idle && state.applied().op > self.nothing_at && is_enough(state, self.bytes, limit) {
                // Where it is to be made, and not where the batch ends: so all members with one log make theirs at the same ops, as a rule, and
                // can complete each other (rule T9b).
                break;
            }
            let op = state.applied().op.next();
            let entry = match log.read(op) {
                Ok(entry) => entry.ok_or(StopReason::Missing { op })?,
                Err(error) if is_mended_by_others(&self.shared, &error) => {
                    // It is fetched from a peer. Whoever waits longer than the cluster's patience is fenced.
                    self.shared.inbox.applied(state.applied().op);
                    self.shared.inbox.faulty(op);
                    self.shared.applier_queue.pause(REPAIR_LOOK);
                    return Ok(());
                }
                Err(error) => return Err(StopReason::Log(Arc::new(error))),
            };
            let applied = state.apply(&entry)?;
            self.expired |= applied.iter().any(Applied::is_expiry);
            self.bytes += entry.body.len();
            if let Some((op, digest)) = state.compared() {
                self.shared.inbox.digest(op, digest);
            }
            self.shared.waiters.applied(applied);
        }
        self.shared.inbox.applied(state.applied().op);
        watches::published(&self.shared);
        Ok(())
    }

    /// Whether more has been applied beside a running checkpoint than it leaves time for, if it takes as long as the last one. So those
    /// who write faster than checkpoints are made are slowed down bit by bit, and do not come to a stop at its end.
    fn is_ahead(&self) -> bool {
        let (Some(state), true) = (&self.state, self.checkpoint.is_some()) else { return false };
        let limit = self.shared.options.checkpoint_bytes;
        let free = limit / 4;
        let since = self.shared.clock.monotonic().since(self.merge_began);
        if since >= self.merge_took {
            return false;
        }
        let share = since.as_secs_f64() / self.merge_took.as_secs_f64();
        #[allow(clippy::cast_precision_loss, reason = "a part of a limit need not be exact")]
        let allowed = free as f64 + (limit - free) as f64 * share;
        #[allow(clippy::cast_precision_loss, reason = "as above")]
        let held = state.memtable_bytes() as f64;
        held > allowed
    }

    /// Makes the request that removes what is due, or only records the time.
    fn expire(&self, query: ExpiryQuery) {
        let due = self.state.as_ref().map(|state| state.due(query)).unwrap_or_default();
        self.shared.inbox.expiry((query.tick || !due.is_empty()).then(|| Request::expiry(due).encode()));
    }

    fn report_deadlines(&mut self) {
        let deadlines = self.state.as_ref().map(|state| state.deadlines()).unwrap_or_default();
        if deadlines != self.deadlines {
            self.deadlines = deadlines;
            self.shared.inbox.deadlines(deadlines);
        }
        if std::mem::take(&mut self.expired) {
            self.shared.inbox.expired();
        }
    }

    /// Whether a checkpoint is due and none is under way.
    fn is_due(&self) -> bool {
        let Some(state) = &self.state else { return false };
        let due = self.asked || is_enough(state, self.bytes, self.shared.options.checkpoint_bytes);
        due && self.frozen.is_none() && self.checkpoint.is_none() && state.applied().op > self.nothing_at
    }

    /// Freezes the state when a checkpoint is due, and has it written once the journal has all of it (rule D7). Frozen at once: a
    /// member whose journal is slower than the others' always applies what is not durable here yet, and would never come to it.
    fn begin_checkpoint(&mut self) -> Result<(), StopReason> {
        if self.is_due()
            && let Some(state) = &mut self.state
        {
            (self.bytes, self.asked) = (0, false);
            self.frozen = state.begin_checkpoint();
            if self.frozen.is_none() && !state.is_full() {
                self.nothing_at = state.applied().op;
            }
        }
        let Some(frozen) = &self.frozen else { return Ok(()) };
        // Asked for before looking, so that the journal thread cannot slip in between.
        self.shared.applier_queue.look(|plan| plan.wants_durable = true);
        if self.shared.durable_op() < frozen.anchor().op {
            return Ok(());
        }
        self.shared.applier_queue.look(|plan| plan.wants_durable = false);
        let Some(checkpoint) = self.frozen.take() else { return Ok(()) };
        tracing::debug!(op = %checkpoint.anchor().op, "checkpoint begins");
        self.merge_began = self.shared.clock.monotonic();
        self.shared.applier_queue.look(|plan| plan.merging = Some(checkpoint.progress()));
        let shared = self.shared.clone();
        shared.idle.begin();
        let thread = std::thread::Builder::new().name("kv-checkpoint".to_owned()).spawn(move || {
            let _guard = shared.guard("the checkpoint");
            let done = shared.span.in_scope(|| checkpoint.run());
            shared.applier_queue.change(|plan| plan.done = Some(done));
            shared.idle.end();
        });
        self.checkpoint = Some(thread.map_err(|error| StopReason::Thread(Arc::new(error)))?);
        Ok(())
    }

    fn finish(&mut self, result: Result<CheckpointDone, EngineError>) -> Result<(), StopReason> {
        self.shared.applier_queue.look(|plan| plan.merging = None);
        self.merge_took = self.shared.clock.monotonic().since(self.merge_began);
        let done = result?;
        let anchor = done.anchor();
        if let Some(state) = &mut self.state {
            state.finish_checkpoint(done);
            let mut sources = lock(&self.shared.sources);
            sources.publish(state.snapshot());
            sources.expire(self.shared.clock.monotonic());
        }
        if let Some(thread) = self.checkpoint.take() {
            // It has handed in its result, so there is no panic to learn of.
            let _ = thread.join();
        }
        tracing::debug!(op = %anchor.op, "checkpoint is durable");
        self.shared.inbox.checkpointed(anchor);
        Ok(())
    }
}
