//! What all tasks and threads of a node share.

use super::StopReason;
use super::applier::ApplierQueue;
use super::clock::Clock;
use super::counters::{Counters, Recorder};
use super::credentials::ClientList;
use super::health::Health;
use super::idle::IdleTracker;
use super::inbox::Inbox;
use super::incoming::Incoming;
use super::lanes::Lanes;
use super::members::Members;
use super::merges::MergeQueue;
use super::pool::Pool;
use super::quota::Accounts;
use super::rate::Bucket;
use super::reply::Admission;
use super::skips::Skips;
use super::status::StatusCell;
use super::sync::{Monitor, lock};
use super::tasks::Tasks;
use super::waiters::Waiters;
use super::watches::PendingWatches;
use super::writer::WriteQueue;
use crate::config::{Options, Role};
use crate::ids::{MemberId, Op, View};
use crate::journal::LogReader;
use crate::kv::{Progress, Sources, StateReader};
use kv_transport::Transport;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};

/// How often clients may request a handover from this member.
const HANDOVER_EVERY: Duration = Duration::from_secs(5);

/// How many changes of the member list clients may request from this member after a pause, and how often then. Each
/// delays reads and writes, and ids are used up.
const CHANGES_AT_ONCE: u32 = 64;
const CHANGE_EVERY: Duration = Duration::from_secs(10);

/// What the tasks and threads share. Everything that holds files is dropped when the node stops, so that the
/// directory is free at once.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) me: MemberId,
    pub(super) role: Role,
    pub(super) members: Members,
    pub(super) options: Options,
    pub(super) transport: Arc<dyn Transport>,
    /// The clients that may connect; `None` for all.
    pub(super) clients: Option<ClientList>,
    pub(super) clock: Clock,
    /// Counts the pending work of the threads.
    pub(super) idle: IdleTracker,
    pub(super) tasks: Tasks,
    pub(super) span: tracing::Span,

    /// To the driver.
    pub(super) inbox: Inbox,
    /// To the peers.
    pub(super) lanes: Lanes,
    /// From the peers.
    pub(super) incoming: Incoming,
    /// To the journal thread.
    pub(super) writes: Monitor<WriteQueue>,
    /// To the applier thread.
    pub(super) applier_queue: Monitor<ApplierQueue>,
    /// The progress of what the applier thread reads.
    pub(super) applier_reads: Progress,
    /// To the thread that merges files of the state.
    pub(super) merges: Monitor<MergeQueue>,
    /// To the threads that may wait for the disk.
    pub(super) pool: Pool,
    /// To the thread that reads for the peers.
    pub(super) peers: Pool,
    /// The checkpoints that peers fetch.
    pub(super) sources: Mutex<Sources>,
    /// To the clients.
    pub(super) waiters: Waiters,
    /// Clients that follow what changes.
    pub(super) watches: PendingWatches,
    /// The skips of revisions that the applier thread has applied.
    pub(super) skips: Mutex<Skips>,
    /// What an operator must see.
    pub(super) health: Health,
    /// What the parts count.
    pub(super) counters: Counters,
    pub(super) admission: Arc<Admission>,
    /// What each client holds.
    pub(super) accounts: Accounts,

    /// The turn to decode a large request.
    pub(super) large_requests: Semaphore,

    /// How often clients may have the primary role given away.
    changes: Mutex<Bucket>,
    handovers: Mutex<Bucket>,

    /// What the driver reports about itself.
    pub(super) status: StatusCell,
    /// How often the driver has given a sign of life on request.
    pub(super) pings_answered: watch::Sender<u64>,
    /// Shutting down: no new calls.
    pub(super) closing: watch::Sender<bool>,
    /// Why the node is about to stop: it serves nobody any more, but gives the primary role away first.
    pub(super) retiring: watch::Sender<Option<StopReason>>,
    /// Why the node stops; the first reason counts.
    pub(super) stop: watch::Sender<Option<StopReason>>,

    /// The last op that is durable in the journal.
    durable_op: AtomicU64,
    /// The replica's view.
    view: AtomicU64,
    log: Mutex<Option<LogReader>>,
    state: Mutex<Option<StateReader>>,
    /// Counts the states that this member has had. An error found in an earlier state does not concern the present
    /// one.
    state_life: AtomicU64,
    /// The disk is out of reach: set when the node stops.
    pub(super) fence: Arc<AtomicBool>,
    jitter: Mutex<fastrand::Rng>,
}

fn set_once(slot: &watch::Sender<Option<StopReason>>, reason: StopReason) {
    slot.send_if_modified(|slot| {
        let first = slot.is_none();
        if first {
            *slot = Some(reason);
        }
        first
    });
}

/// What [`Shared`] is made from.
pub(super) struct SharedParts {
    pub(super) me: MemberId,
    pub(super) role: Role,
    pub(super) members: Members,
    pub(super) options: Options,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) clients: Option<ClientList>,
    pub(super) span: tracing::Span,
    pub(super) fence: Arc<AtomicBool>,
    pub(super) log: LogReader,
    /// Counts the syncs of the journal.
    pub(super) syncs: Arc<Recorder>,
    pub(super) durable_op: Op,
    pub(super) clock: Clock,
    pub(super) quiet: IdleTracker,
    pub(super) seed: u64,
}

impl Shared {
    pub(super) fn new(parts: SharedParts) -> Arc<Self> {
        Arc::new(Self {
            lanes: Lanes::default(),
            me: parts.me,
            role: parts.role,
            counters: Counters::new(parts.syncs),
            members: parts.members,
            transport: parts.transport,
            clients: parts.clients,
            tasks: Tasks::new(parts.span.clone()),
            span: parts.span,
            inbox: Inbox::default(),
            incoming: Incoming::default(),
            writes: Monitor::watched(&parts.quiet),
            applier_queue: Monitor::watched(&parts.quiet),
            applier_reads: Progress::default(),
            merges: Monitor::watched(&parts.quiet),
            pool: Pool::watched(&parts.quiet),
            peers: Pool::watched(&parts.quiet),
            idle: parts.quiet,
            sources: Mutex::default(),
            waiters: Waiters::default(),
            watches: PendingWatches::default(),
            skips: Mutex::default(),
            accounts: Accounts::default(),
            large_requests: Semaphore::new(1),
            changes: Mutex::new(Bucket::burst(CHANGE_EVERY, CHANGES_AT_ONCE, parts.clock.monotonic())),
            handovers: Mutex::new(Bucket::burst(HANDOVER_EVERY, 1, parts.clock.monotonic())),
            health: Health::default(),
            admission: Admission::new(parts.options.client_memory_bytes),
            options: parts.options,
            status: StatusCell::default(),
            pings_answered: watch::Sender::new(0),
            closing: watch::Sender::new(false),
            retiring: watch::Sender::new(None),
            stop: watch::Sender::new(None),
            durable_op: AtomicU64::new(parts.durable_op.get()),
            view: AtomicU64::new(0),
            log: Mutex::new(Some(parts.log)),
            state: Mutex::new(None),
            state_life: AtomicU64::new(0),
            fence: parts.fence,
            clock: parts.clock,
            jitter: Mutex::new(fastrand::Rng::with_seed(parts.seed)),
        })
    }

    /// Stops the node for this reason, unless it stops already.
    pub(super) fn stop(&self, reason: StopReason) {
        set_once(&self.stop, reason);
    }

    /// Returns whether the node stops or shuts down, and so takes no new calls.
    pub(super) fn is_ending(&self) -> bool {
        *self.closing.borrow() || self.stop.borrow().is_some()
    }

    /// Hands over the primary role, if this member has it, and then stops. For a member whose disk has failed, but
    /// whose knowledge is still correct.
    pub(super) fn hand_over_and_stop(&self, reason: StopReason) {
        set_once(&self.retiring, reason);
    }

    /// A part of the node has failed, although what the member knows is still correct: logs this, hands over the
    /// primary role, and then stops. While the node ends, the fence closes the files to its parts. Then they fail,
    /// too, but this is no failure of the disk, and nothing happens.
    pub(super) fn part_failed(&self, what: &'static str, error: &dyn std::fmt::Display, reason: StopReason) {
        if !self.fence.load(Ordering::SeqCst) {
            tracing::error!(%error, "{what}: this member stops");
            self.hand_over_and_stop(reason);
        }
    }

    /// Returns a guard that stops the node if the scope that it is in panics.
    pub(super) fn guard(self: &Arc<Self>, part: &'static str) -> impl Drop + Send + use<> {
        StopOnPanic { shared: self.clone(), part }
    }

    /// Runs a part that the node needs, for as long as the node runs. If the part panics, the node stops.
    pub(super) fn run_part(
        self: &Arc<Self>,
        part: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let guard = self.guard(part);
        self.tasks.spawn(async move {
            let _guard = guard;
            task.await;
        });
    }

    /// Returns whether a change of the member list is made now.
    pub(super) fn may_change_members(&self) -> bool {
        lock(&self.changes).take(self.clock.monotonic())
    }

    /// Returns whether a client's request for a handover is granted now.
    pub(super) fn may_hand_over(&self) -> bool {
        lock(&self.handovers).take(self.clock.monotonic())
    }

    /// Returns a reader of the log; `None` once the node has stopped. Do not keep it.
    pub(super) fn log(&self) -> Option<LogReader> {
        lock(&self.log).clone()
    }

    /// Returns a reader of the state; `None` on a witness, before the directory is formatted, and once the node has
    /// stopped. Do not keep it.
    pub(super) fn state(&self) -> Option<StateReader> {
        lock(&self.state).clone()
    }

    /// The state is open.
    pub(super) fn set_state(&self, reader: StateReader) {
        self.replace_state(Some(reader));
    }

    fn replace_state(&self, reader: Option<StateReader>) {
        let mut state = lock(&self.state);
        self.state_life.fetch_add(1, Ordering::SeqCst);
        let old = std::mem::replace(&mut *state, reader);
        drop(state);
        // Only now: it may hold the last reference to a state, which takes long to free, and readers wait for the lock.
        drop(old);
    }

    /// The number of the present state. Read it before the state whose errors are reported with it.
    pub(super) fn state_life(&self) -> u64 {
        self.state_life.load(Ordering::SeqCst)
    }

    /// The state and its checkpoints are no longer available.
    pub(super) fn take_state(&self) {
        self.replace_state(None);
        lock(&self.sources).clear();
    }

    /// Drops everything that holds files.
    pub(super) fn release_files(&self) {
        *lock(&self.log) = None;
        self.take_state();
    }

    /// Entries up to here are durable in the own journal.
    pub(super) fn durable_op(&self) -> Op {
        Op::new(self.durable_op.load(Ordering::SeqCst))
    }

    /// Sets [`durable_op`](Self::durable_op). Only the driver does: at a cut, it lowers the op before anything above
    /// the cut is reported as committed, even while the journal thread still writes older entries (rule D7).
    pub(super) fn set_durable_op(&self, op: Op) {
        self.durable_op.store(op.get(), Ordering::SeqCst);
    }

    /// The replica's view. Everything applied here was committed in this view or before.
    pub(super) fn view(&self) -> View {
        View::new(self.view.load(Ordering::SeqCst))
    }

    /// The driver calls this before it reports anything that the view has committed.
    pub(super) fn set_view(&self, view: View) {
        let before = self.view.swap(view.get(), Ordering::SeqCst);
        assert!(
            before <= view.get(),
            "a member's view does not go back, or a read could be answered from before it"
        );
    }

    /// A random time between half of this time and all of it.
    pub(super) fn jitter(&self, at_most: Duration) -> Duration {
        at_most.mul_f64(0.5 + lock(&self.jitter).f64() / 2.0)
    }
}

struct StopOnPanic {
    shared: Arc<Shared>,
    part: &'static str,
}

impl Drop for StopOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.stop(StopReason::Panicked { part: self.part });
        }
    }
}
