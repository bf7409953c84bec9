//! The applier thread. It owns the state, applies committed entries in order, and answers the waiting clients. It
//! starts checkpoints, each on a thread of its own.

use super::StopReason;
use super::merges;
use super::shared::Shared;
use super::sync::lock;
use super::transfer::{self, Task};
use super::watches;
use crate::engine::{EngineError, steps};
use crate::ids::{Instant, Op};
use crate::journal::JournalReadError;
use crate::kv::{
    Applied, Checkpoint, CheckpointDone, Deadlines, ExpiryQuery, Progress, Receiver, StateAside, StateMachine,
};
use crate::message::Request;
use crate::replica::Input;
use crate::storage::Storage;
use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// How many entries are applied before the driver is notified.
const RUN: u64 = 64;

/// How long the applier pauses to let a running checkpoint catch up.
const PACE: Duration = Duration::from_millis(2);

/// How often the applier checks whether an entry has been repaired.
const REPAIR_LOOK: Duration = Duration::from_millis(20);

/// A checkpoint is also due when this many times [`Options::checkpoint_bytes`](crate::Options) have been applied
/// since the last one, even if little of it is in memory: the journal must keep those entries until then, and a
/// restart must apply them.
const APPLIED_PER_CHECKPOINT: usize = 4;

/// A checkpoint is also due after this many entries. Each entry takes memory on all members, including a witness,
/// until every member has a checkpoint above it.
pub(super) const ENTRIES_PER_CHECKPOINT: u64 = 8192;

/// The work of the applier thread.
#[derive(Debug, Default)]
pub(super) struct ApplierQueue {
    /// The opened state, until the thread takes it.
    opened: Option<Opened>,
    /// What to do with the state of another member.
    pub(super) tasks: VecDeque<Task>,
    /// A checkpoint was requested: by a peer that fetches the state, because the last checkpoint may not be usable for
    /// it, or because revisions were skipped.
    pub(super) asked: bool,
    /// The driver's request for what has expired.
    pub(super) expiry: Option<ExpiryQuery>,
    /// A reader found that the state is damaged: the [`state_life`](Shared::state_life) of that state, and the error.
    pub(super) lost: Option<(u64, EngineError)>,
    /// A reader found damage in the state that is set aside.
    pub(super) reopen: bool,
    /// Apply up to here.
    commit: Op,
    /// The progress of the running checkpoint.
    pub(super) merging: Option<Progress>,
    /// Files of the state were merged, or that has failed.
    pub(super) merged: Option<Result<(), EngineError>>,
    /// Files that were merged are still read, perhaps only by views that readers have left since.
    pub(super) release: bool,
    /// The result of the checkpoint that has ended.
    done: Option<Result<CheckpointDone, EngineError>>,
    /// A checkpoint waits until the journal is durable. The journal thread resets this.
    pub(super) wants_durable: bool,
    closed: bool,
}

impl ApplierQueue {
    /// Entries up to here are committed.
    pub(super) fn commit(&mut self, op: Op) {
        self.commit = self.commit.max(op);
    }

    /// Drops what the thread has not taken.
    pub(super) fn release(&mut self) {
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
    /// `None` if the state was lost: then another one is fetched.
    pub(super) state: Option<StateMachine>,
    pub(super) receiver: Receiver,
    pub(super) storage: Arc<dyn Storage>,
}

/// Passes what was opened to the applier.
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
    steps::report_to(shared.applier_reads.clone());
    let mut applier = Applier {
        shared: shared.clone(),
        state: state.map(Box::new),
        storage,
        receiver,
        frozen: None,
        merge_began: Instant::ZERO,
        merge_took: Duration::ZERO,
        is_regular: false,
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
    applier.consider_merges();
    if let Err(reason) = applier.run() {
        shared.part_failed("cannot apply an entry", &reason, reason.clone());
    }
    if let Some(thread) = applier.checkpoint {
        // The result does not matter here: the guard has recorded a panic.
        let _ = thread.join();
    }
}

struct Applier {
    shared: Arc<Shared>,
    /// `None` while the state is lost.
    state: Option<Box<StateMachine>>,
    storage: Arc<dyn Storage>,
    receiver: Receiver,
    /// The frozen state that will be checkpointed once the journal has all of it.
    frozen: Option<Checkpoint>,
    /// When the running checkpoint began.
    merge_began: Instant,
    /// How long the last checkpoint took that was due because of what had been applied.
    merge_took: Duration,
    /// The running checkpoint, or the one that waits for the journal, is due because of what has been applied, and was
    /// not only requested.
    is_regular: bool,
    /// The thread that makes the running checkpoint.
    checkpoint: Option<JoinHandle<()>>,
    /// Bytes applied since the last checkpoint began.
    bytes: usize,
    /// At this op there was nothing to checkpoint.
    nothing_at: Op,
    /// A checkpoint was requested, although little has been applied.
    asked: bool,
    /// The deadlines that the driver knows.
    deadlines: Deadlines,
    /// Whether an expiry was applied since the last report.
    expired: bool,
    /// A damaged state that was set aside while there is no other. Peers can fetch its intact parts.
    aside: Option<StateAside>,
}

/// Rule D8: whether other members can repair the journal. A member without peers reports the disk error instead,
/// because the disk may be readable later.
fn is_mended_by_others(shared: &Shared, error: &JournalReadError) -> bool {
    match error {
        JournalReadError::Faulty { .. } => true,
        JournalReadError::Disk { .. } => shared.members.now().cluster.len() > 1,
    }
}

/// Whether so much has been applied since the last checkpoint that the next one is due.
fn is_enough(state: &StateMachine, bytes: usize, limit: usize) -> bool {
    state.memtable_bytes() >= limit
        || state.applied().op.distance_from(state.checkpoint().op) >= ENTRIES_PER_CHECKPOINT
        || bytes >= limit.saturating_mul(APPLIED_PER_CHECKPOINT)
}

/// What the applier does next.
enum ApplierAction {
    Apply(Op),
    Expire(ExpiryQuery),
    Finish(Result<CheckpointDone, EngineError>),
    Merged(Result<(), EngineError>),
    Transfer(Task),
    Checkpoint,
    Lose(EngineError),
    Reopen,
    /// The journal has caught up, and a checkpoint was waiting for that.
    Retry,
    /// Readers may have left views that are not freed yet.
    Prune,
    /// Readers hold so much memory that the applier must wait until they release it.
    Release,
    Stop,
}

impl Applier {
    fn run(&mut self) -> Result<(), StopReason> {
        loop {
            let action = self.next();
            if matches!(action, ApplierAction::Stop) {
                return Ok(());
            }
            let done = self.carry_out(action);
            self.report_deadlines();
            match done.and_then(|()| self.begin_checkpoint()) {
                Err(StopReason::Engine(error)) if self.shared.can_replace_state(&error) => {
                    self.discard_state(error)?
                }
                done => done?,
            }
        }
    }

    fn carry_out(&mut self, action: ApplierAction) -> Result<(), StopReason> {
        match action {
            ApplierAction::Apply(through) => self.apply(through)?,
            ApplierAction::Expire(ask) => self.expire(ask),
            ApplierAction::Finish(result) => self.finish(result)?,
            ApplierAction::Merged(result) => self.merged(result)?,
            ApplierAction::Transfer(task) => self.transfer(task)?,
            ApplierAction::Checkpoint if self.state.is_none() => self.advance_set_aside_state(),
            ApplierAction::Checkpoint => self.asked = true,
            ApplierAction::Lose(error) => return Err(error.into()),
            ApplierAction::Reopen => self.open_aside(),
            ApplierAction::Prune => self.prune(),
            ApplierAction::Release => self.release(),
            ApplierAction::Retry | ApplierAction::Stop => {}
        }
        Ok(())
    }

    /// Discards a damaged state: no more reads are answered from it, and another state is fetched (rule T9).
    fn discard_state(&mut self, error: EngineError) -> Result<(), StopReason> {
        let detail = match &error {
            EngineError::Damaged { detail } => detail.clone(),
            other => other.to_string(),
        };
        tracing::error!(detail, "the state is damaged: fetching the state of another member");
        self.shared.take_state();
        self.state = None;
        self.frozen = None;
        if let Some(thread) = self.checkpoint.take() {
            // The result of that checkpoint is discarded too.
            let _ = thread.join();
        }
        merges::wait(&self.shared);
        self.shared.applier_queue.with(|plan| (plan.done, plan.lost, plan.merging) = (None, None, None));
        StateMachine::set_aside(&*self.storage)?;
        self.open_aside();
        self.shared.inbox.transferred(Input::StateLost);
        Ok(())
    }

    /// Rule T9a: opens the damaged state aside, so that peers can still fetch its intact parts.
    fn open_aside(&mut self) {
        self.aside = None;
        lock(&self.shared.sources).clear();
        match self.receiver.open_aside() {
            Ok(Some(state)) => {
                lock(&self.shared.sources).publish(state.snapshot());
                self.aside = Some(state);
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "nothing of the damaged state can be read"),
        }
    }

    /// Rule T9b: a peer that fetches the state has requested a checkpoint. Checkpoints of members whose states are
    /// damaged in different places complete each other if they are at the same op, so this applies entries up to the
    /// last committed one.
    fn advance_set_aside_state(&mut self) {
        let (Some(log), Some(state)) = (self.shared.log(), &mut self.aside) else { return };
        let through = self.shared.applier_queue.with(|plan| plan.commit).min(self.shared.durable_op());
        match state.apply_through(through, |op| log.read(op).ok().flatten()) {
            Ok(()) => lock(&self.shared.sources).publish(state.snapshot()),
            Err(error) => {
                tracing::debug!(%error, "cannot apply more entries to the damaged state");
                self.open_aside();
            }
        }
    }

    fn transfer(&mut self, task: Task) -> Result<(), StopReason> {
        let result = match task {
            Task::Stage(at, chunk) => transfer::stage(&mut self.receiver, at, &chunk)?,
            Task::Install(at) => {
                assert!(
                    self.checkpoint.is_none(),
                    "a state is not replaced while a checkpoint of it is written"
                );
                let result = transfer::install(&mut self.receiver, &self.shared, at, &mut self.state)?;
                if self.state.is_some() {
                    self.aside = None;
                }
                self.consider_merges();
                if matches!(result, Input::SnapshotInstalled { .. }) {
                    // The frozen state belongs to the old state.
                    self.frozen = None;
                }
                (self.bytes, self.nothing_at) = (0, Op::ZERO);
                result
            }
            Task::Discard(at) => return Ok(self.receiver.discard_at(at)?),
        };
        self.shared.inbox.transferred(result);
        if let Some(state) = &self.state {
            self.shared.inbox.applied(state.applied().op);
            watches::published(&self.shared);
        }
        Ok(())
    }

    fn next(&self) -> ApplierAction {
        let state = self.state.as_deref();
        let applied = state.map(|state| state.applied().op);
        let full = state.is_some_and(StateMachine::is_full);
        let present = self.shared.state_life();
        let (waits_for_journal, merging) = (self.frozen.is_some(), self.checkpoint.is_some());
        self.shared.applier_queue.wait(|plan| {
            // The old state must not be replaced while a checkpoint of it is being written.
            let waits = merging && matches!(plan.tasks.front(), Some(Task::Install(_)));
            if plan.closed {
                Some(ApplierAction::Stop)
            } else if let Some((_, error)) =
                plan.lost.take().filter(|(life, _)| applied.is_some() && *life == present)
            {
                Some(ApplierAction::Lose(error))
            } else if std::mem::take(&mut plan.reopen) && applied.is_none() {
                Some(ApplierAction::Reopen)
            } else if let Some(result) = plan.merged.take() {
                // Before a checkpoint that failed because a merge had failed: this one knows the reason.
                Some(ApplierAction::Merged(result))
            } else if let Some(result) = plan.done.take() {
                Some(ApplierAction::Finish(result))
            } else if let Some(task) = plan.tasks.pop_front_if(|_| !waits) {
                Some(ApplierAction::Transfer(task))
            } else if let Some(ask) = plan.expiry.take_if(|_| applied.is_some()) {
                Some(ApplierAction::Expire(ask))
            } else if let Some(applied) = applied.filter(|applied| plan.commit > *applied && !full) {
                Some(ApplierAction::Apply(plan.commit.min(applied.advance(RUN))))
            } else if std::mem::take(&mut plan.release) {
                Some(ApplierAction::Prune)
            } else if std::mem::take(&mut plan.asked) {
                Some(ApplierAction::Checkpoint)
            } else if waits_for_journal && !plan.wants_durable {
                Some(ApplierAction::Retry)
            } else if full && !merging && !waits_for_journal {
                Some(ApplierAction::Release)
            } else {
                None
            }
        })
    }

    /// Waits a little for readers, and frees the memory that they have released. If that is enough, the checkpoint
    /// that is due begins.
    fn release(&mut self) {
        self.shared.applier_queue.pause(PACE);
        self.prune();
    }

    fn prune(&mut self) {
        if let Some(state) = &mut self.state {
            state.release();
        }
    }

    fn apply(&mut self, through: Op) -> Result<(), StopReason> {
        if self.is_ahead() {
            self.shared.applier_queue.pause(PACE);
            return Ok(());
        }
        let begun = std::time::Instant::now();
        let idle = self.frozen.is_none() && self.checkpoint.is_none();
        let limit = self.shared.options.checkpoint_bytes;
        let (Some(log), Some(state)) = (self.shared.log(), &mut self.state) else { return Ok(()) };
        let before = state.applied().op;
        while state.applied().op < through && !state.is_full() {
            if idle && state.applied().op > self.nothing_at && is_enough(state, self.bytes, limit) {
                // Stop at the op where the checkpoint is due, not where the batch ends. So members with the same log
                // usually make their checkpoints at the same ops, and can complete each other (rule T9b).
                break;
            }
            let op = state.applied().op.next();
            let entry = match log.read(op) {
                Ok(entry) => entry.ok_or(StopReason::Missing { op })?,
                Err(error) if is_mended_by_others(&self.shared, &error) => {
                    // The entry is fetched from a peer. A member that waits too long is replaced as primary.
                    self.shared.inbox.applied(state.applied().op);
                    self.shared.inbox.faulty(op);
                    self.shared.applier_queue.pause(REPAIR_LOOK);
                    return Ok(());
                }
                Err(error) => return Err(StopReason::Log(Arc::new(error))),
            };
            let applied = state.apply(&entry)?;
            assert!(state.applied().op == op, "what is read next follows what was applied");
            self.expired |= applied.iter().any(Applied::is_expiry);
            self.bytes += entry.body.len();
            if let Some((op, digest)) = state.compared() {
                self.shared.inbox.digest(op, digest);
            }
            self.shared.waiters.applied(applied);
            if entry.header.skips_revisions() {
                // A checkpoint will drop the history that is too old now, even if nobody writes any more.
                lock(&self.shared.skips).note(self.shared.clock.monotonic(), state.revision());
            }
        }
        if state.applied().op > before {
            self.shared.counters.applies.add(begun.elapsed());
        }
        self.shared.inbox.applied(state.applied().op);
        watches::published(&self.shared);
        Ok(())
    }

    /// Whether the applier has applied more beside a running checkpoint than the time passed allows, if the
    /// checkpoint takes as long as the last regular one. So writers that are faster than checkpoints are slowed down
    /// gradually, and do not stop completely at the end of one.
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

    /// Builds the request that removes what has expired, or only records the time.
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

    /// Freezes the state when a checkpoint is due, and starts to write it once the journal has all of it (rule D7).
    /// It freezes at once because a member whose journal is slower than those of the others always applies entries
    /// that are not durable here yet, and would otherwise never begin.
    fn begin_checkpoint(&mut self) -> Result<(), StopReason> {
        if self.is_due()
            && let Some(state) = &mut self.state
        {
            self.is_regular = is_enough(state, self.bytes, self.shared.options.checkpoint_bytes);
            (self.bytes, self.asked) = (0, false);
            self.frozen = state.begin_checkpoint();
            if self.frozen.is_none() && !state.is_full() {
                self.nothing_at = state.applied().op;
            }
        }
        let Some(frozen) = &self.frozen else { return Ok(()) };
        // Set before the check, so that the journal thread cannot become durable unnoticed in between.
        self.shared.applier_queue.with(|plan| plan.wants_durable = true);
        if self.shared.durable_op() < frozen.anchor().op {
            return Ok(());
        }
        self.shared.applier_queue.with(|plan| plan.wants_durable = false);
        let Some(checkpoint) = self.frozen.take() else { return Ok(()) };
        assert!(self.checkpoint.is_none(), "two checkpoints would write the same file");
        tracing::debug!(op = %checkpoint.anchor().op, "checkpoint begins");
        self.merge_began = self.shared.clock.monotonic();
        self.shared.applier_queue.with(|plan| plan.merging = Some(checkpoint.progress()));
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
        self.shared.applier_queue.with(|plan| plan.merging = None);
        let took = self.shared.clock.monotonic().since(self.merge_began);
        if self.is_regular {
            // One that was only requested may have little to write. It does not show how long others take.
            self.merge_took = took;
        }
        let done = result?;
        self.shared.counters.checkpoints.add(took);
        let anchor = done.anchor();
        assert!(self.checkpoint.is_some(), "a checkpoint that ends had begun");
        if let Some(state) = &mut self.state {
            state.finish_checkpoint(done);
            let mut sources = lock(&self.shared.sources);
            sources.publish(state.snapshot());
            sources.expire(self.shared.clock.monotonic());
        }
        if let Some(thread) = self.checkpoint.take() {
            // It has reported its result, so it did not panic.
            let _ = thread.join();
        }
        tracing::debug!(op = %anchor.op, "checkpoint is durable");
        self.consider_merges();
        self.shared.inbox.checkpointed(anchor);
        Ok(())
    }

    /// Files of the state were merged: what is read from now on is read from the new ones.
    fn merged(&mut self, result: Result<(), EngineError>) -> Result<(), StopReason> {
        match result {
            // Nobody has the state that could replace it. What is intact can still be read: merges are tried again
            // later. Steps before may have succeeded.
            Err(error @ EngineError::Damaged { .. }) if !self.shared.can_replace_state(&error) => {
                tracing::error!(%error, "cannot merge files of the state: they are damaged");
            }
            result => result?,
        }
        if let Some(state) = &mut self.state {
            state.finish_merge();
            lock(&self.shared.sources).publish(state.snapshot());
        }
        // The files that are not used any more now are closed by the thread that merges: that may take a while.
        self.consider_merges();
        Ok(())
    }

    fn consider_merges(&self) {
        let merger = self.state.as_ref().and_then(|state| state.merger());
        self.shared.merges.change(|queue| queue.consider(merger));
    }
}
