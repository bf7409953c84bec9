//! What all tasks and threads of a node share.

use super::StopReason;
use super::applier::ApplierQueue;
use super::clock::Clock;
use super::credentials::ClientList;
use super::health::Health;
use super::idle::IdleTracker;
use super::inbox::Inbox;
use super::incoming::Incoming;
use super::lanes::Lanes;
use super::pool::Pool;
use super::quota::Accounts;
use super::rate::Bucket;
use super::reply::Admission;
use super::status::StatusCell;
use super::sync::{Monitor, lock};
use super::tasks::Tasks;
use super::waiters::Waiters;
use super::watches::Watches;
use super::writer::Writes;
use crate::config::{Cluster, Options, Role};
use crate::ids::{MemberId, Op, View};
use crate::journal::LogReader;
use crate::kv::{Sources, StateReader};
use crate::wire::Expectation;
use kv_transport::Transport;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};

/// So often clients may have the primary role given away, each time by this member.
const HANDOVER_EVERY: Duration = Duration::from_secs(5);

/// See the module. Whatever holds files is taken away when the node stops, so that the directory is free at once.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) me: MemberId,
    pub(super) role: Role,
    pub(super) cluster: Cluster,
    pub(super) options: Options,
    pub(super) expectation: Expectation,
    pub(super) transport: Arc<dyn Transport>,
    /// The clients that are let in, if not all are.
    pub(super) clients: Option<ClientList>,
    pub(super) clock: Clock,
    /// What the threads have to do.
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
    pub(super) writes: Monitor<Writes>,
    /// To the applier thread.
    pub(super) applier_queue: Monitor<ApplierQueue>,
    /// To the threads that may wait for the disk.
    pub(super) pool: Pool,
    /// To the thread that reads for the peers.
    pub(super) peers: Pool,
    /// The checkpoints that peers fetch.
    pub(super) sources: Mutex<Sources>,
    /// To the clients.
    pub(super) waiters: Waiters,
    /// Clients that follow what changes.
    pub(super) watches: Watches,
    /// What an operator must see.
    pub(super) health: Health,
    pub(super) admission: Arc<Admission>,
    /// What each client holds.
    pub(super) accounts: Accounts,

    /// The turn to decode a large request.
    pub(super) large_requests: Semaphore,

    /// How often clients may have the primary role given away.
    handovers: Mutex<Bucket>,

    /// What the driver reports about itself.
    pub(super) status: StatusCell,
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
    /// Counts the states that this member has had: what is found out about an earlier one is no word on the present.
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
    pub(super) cluster: Cluster,
    pub(super) options: Options,
    pub(super) expectation: Expectation,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) clients: Option<ClientList>,
    pub(super) span: tracing::Span,
    pub(super) fence: Arc<AtomicBool>,
    pub(super) log: LogReader,
    pub(super) durable_op: Op,
    pub(super) clock: Clock,
    pub(super) quiet: IdleTracker,
    pub(super) seed: u64,
}

impl Shared {
    pub(super) fn new(parts: SharedParts) -> Arc<Self> {
        Arc::new(Self {
            lanes: Lanes::new(&parts.cluster, parts.me),
            me: parts.me,
            role: parts.role,
            cluster: parts.cluster,
            expectation: parts.expectation,
            transport: parts.transport,
            clients: parts.clients,
            tasks: Tasks::new(parts.span.clone()),
            span: parts.span,
            inbox: Inbox::default(),
            incoming: Incoming::default(),
            writes: Monitor::watched(&parts.quiet),
            applier_queue: Monitor::watched(&parts.quiet),
            pool: Pool::watched(&parts.quiet),
            peers: Pool::watched(&parts.quiet),
            idle: parts.quiet,
            sources: Mutex::default(),
            waiters: Waiters::default(),
            watches: Watches::default(),
            accounts: Accounts::default(),
            large_requests: Semaphore::new(1),
            handovers: Mutex::new(Bucket::every(HANDOVER_EVERY, parts.clock.monotonic())),
            health: Health::default(),
            admission: Admission::new(parts.options.client_memory_bytes),
            options: parts.options,
            status: StatusCell::new(),
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

    /// Makes the node stop for this reason, unless it stops already.
    pub(super) fn stop(&self, reason: StopReason) {
        set_once(&self.stop, reason);
    }

    /// Makes the node give the primary role away, where it has it, and then stop: its disk is of no use any more, but what it
    /// knows is still right.
    pub(super) fn retire(&self, reason: StopReason) {
        set_once(&self.retiring, reason);
    }

    /// A guard that stops the node if what it stands in panics.
    pub(super) fn guard(self: &Arc<Self>, part: &'static str) -> impl Drop + Send + use<> {
        StopOnPanic { shared: self.clone(), part }
    }

    /// Runs a part of the node, without which it is of no use: for as long as the node runs, and if it panics the node stops.
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

    /// Whether a client's wish that the primary role be given away is followed: once in a while.
    pub(super) fn may_hand_over(&self) -> bool {
        lock(&self.handovers).take(self.clock.monotonic())
    }

    /// Reads the log; `None` once the node has stopped. Not to be kept.
    pub(super) fn log(&self) -> Option<LogReader> {
        lock(&self.log).clone()
    }

    /// Reads the state; `None` on a witness, before the directory is formatted, and once the node has stopped. Not to be kept.
    pub(super) fn state(&self) -> Option<StateReader> {
        lock(&self.state).clone()
    }

    /// The state is open.
    pub(super) fn set_state(&self, reader: StateReader) {
        let mut state = lock(&self.state);
        self.state_life.fetch_add(1, Ordering::SeqCst);
        *state = Some(reader);
    }

    /// Which state this is. To be read before the state is taken whose errors are reported with it.
    pub(super) fn state_life(&self) -> u64 {
        self.state_life.load(Ordering::SeqCst)
    }

    /// The state is not there any more, and so are its checkpoints.
    pub(super) fn take_state(&self) {
        {
            let mut state = lock(&self.state);
            self.state_life.fetch_add(1, Ordering::SeqCst);
            *state = None;
        }
        lock(&self.sources).clear();
    }

    /// Lets go of everything that holds files.
    pub(super) fn let_go(&self) {
        *lock(&self.log) = None;
        self.take_state();
    }

    /// Entries up to here are durable in the own journal.
    pub(super) fn durable_op(&self) -> Op {
        Op::new(self.durable_op.load(Ordering::SeqCst))
    }

    /// See [`durable_op`](Self::durable_op). Only the driver changes it: at a cut it goes back before anything above the cut
    /// is reported as committed, while the journal thread may still be busy with what stood there before (rule D7).
    pub(super) fn set_durable_op(&self, op: Op) {
        self.durable_op.store(op.get(), Ordering::SeqCst);
    }

    /// The replica's view. What this member has applied was committed in it, or before.
    pub(super) fn view(&self) -> View {
        View::new(self.view.load(Ordering::SeqCst))
    }

    /// The driver reports it before anything that the view has committed.
    pub(super) fn set_view(&self, view: View) {
        self.view.store(view.get(), Ordering::SeqCst);
    }

    /// Between half of this time and all of it.
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
