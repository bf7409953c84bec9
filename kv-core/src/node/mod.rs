//! The server: one member of a cluster, running on tokio.

// How it is built:
//
//  peers ──▶ accept ─▶ incoming ─┐                      ┌─▶ lanes ─▶ link ──▶ peers
//                                ▼                      │
//  clients ▶ accept ▶ connection ▶ inbox ─▶ driver (owns the replica) ─▶ writes ─▶ journal thread
//              ▲          │        ▲ ▲ ▲        │                                        │
//              └─ reply ◀─┼────────┼─┼─┴────────┼──────────── durable ◀──────────────────┘
//                   ▲     │        │ │          └▶ queue ─▶ applier thread (owns the state) ─▶ checkpoint thread
//                   │     │        │ └───────────── applied ◀─────┘   │
//                   ├─────┼────────┼──────────── waiters ◀────────────┘
//                   └── reads ◀────┴─── pool (threads that may wait for the disk)
//
// - The *driver* is one task. It owns the `Replica`, takes all waiting events from the inbox together, and carries out
//   the replica's outputs. The driver never waits for the disk or the network.
// - The *journal thread* makes journal writes durable. It takes all waiting writes together. When all of them are
//   durable, it reports the last write.
// - The *applier thread* applies committed entries in order and answers the waiting clients. It also starts the
//   checkpoints; each checkpoint runs on a thread of its own. A witness has no applier and no checkpoints.
// - Two *pools* of threads perform the reads that may have to wait for the disk. One pool reads the state for clients.
//   The other pool reads old entries and the state for peers.
// - Each member opens one connection for each peer and lane (class of traffic), and sends to its peers only on these
//   connections. It receives from its peers on the connections that it accepted.
// - The parts count what they do (`counters`, `meter`, `stopwatch`), and `metrics` returns what was counted.
// - `health` checks all of these parts twice a second, and logs the conditions that an operator must know.
// - Every queue is bounded. Queues of messages are bounded by bytes: a full queue to a peer drops messages, and a full
//   queue from a peer makes that peer wait. Calls and watches are bounded by number and bytes over all connections. The
//   node answers further calls and watches with `Overloaded`. No client can use up a limit alone (`quota`).

mod accept;
mod applier;
mod budget;
mod builder;
mod changes;
mod clock;
mod connection;
mod counters;
mod credentials;
mod driver;
mod error;
mod fence;
mod folder;
mod handover;
mod health;
mod idle;
mod in_process;
mod inbox;
mod incoming;
mod joining;
mod lanes;
mod link;
mod members;
mod merges;
mod meter;
mod metrics;
mod pool;
mod quota;
mod rate;
mod reads;
mod reply;
mod scrub;
mod shared;
mod skips;
mod status;
mod stop;
mod stopwatch;
mod stored;
mod sync;
mod tasks;
mod transfer;
mod waiters;
mod watches;
mod writer;

pub use builder::NodeBuilder;
#[cfg(feature = "testing")]
pub(crate) use builder::Test;
pub use error::{DiskProblem, HandoverError, JoinError, StartError, StopReason};
pub use metrics::{
    Durations, Metrics, PeerMetrics, PrimaryChange, RequestCount, RequestKind, RequestOutcome,
};

pub use crate::engine::EngineError;
pub use crate::ids::{Incarnation, Op};
pub use crate::journal::{JournalReadError, JournalWriteError, OpenError as JournalOpenError};
pub use crate::message::{Latencies, Load, MemberState, MemberStatus, PeerStatus};
pub use crate::replica::Halt;
pub use crate::storage::DirectoryError;

use crate::client::Client;
use crate::config::{Cluster, Role};
use crate::ids::MemberId;
use crate::journal::Journal;
use crate::replica::{Replica, Status};
use accept::Acceptor;
use driver::Driver;
use in_process::InProcess;
use kv_transport::Listener;
use shared::Shared;
use std::sync::Arc;
use std::time::Duration;
use stop::{Threads, Urgency};
use tokio::sync::watch;
use tokio::time::timeout;
use writer::StateOpener;

/// How long [`Node::handover`] waits until another member serves as the primary.
const HANDOVER_WITHIN: Duration = Duration::from_secs(5);
/// How long [`Node::shutdown`] waits until another member serves as the primary.
const LAST_HANDOVER_WITHIN: Duration = Duration::from_secs(1);
/// How long the node waits until the last answers have been sent to clients.
const DRAIN_WITHIN: Duration = Duration::from_millis(250);

/// A running member of a cluster.
///
/// Dropping a node stops the member at once, like `kill -9`: acknowledged writes are safe, and the outcome of other
/// writes is unknown. When the drop returns, the threads of the member have ended and its directory is free. The only
/// exception is a disk operation that takes longer than five seconds ([`StopReason::DiskHangs`]). The tasks of the
/// member end when the runtime next runs them. After that, the port of the member is free. If you start a node on the
/// same address, the start waits for the port for up to one second. A node may be dropped anywhere: in a task, in a
/// `LocalSet`, in a panic, outside of a runtime, and while a runtime ends.
///
/// [`shutdown`](Self::shutdown) stops the member gracefully, so that no client call fails.
#[derive(Debug)]
pub struct Node {
    shared: Arc<Shared>,
    acceptor: Arc<Acceptor>,
    threads: Arc<Threads>,
    stopped: watch::Receiver<Option<StopReason>>,
    address: String,
}

impl Node {
    /// Configures the member `id` of `cluster`. The list in `cluster` is that with which the cluster forms. After the
    /// first change of the list ([`Client::change_members`]), the list in the data directory is used instead; if the
    /// configured one differs, the start logs a warning.
    pub fn builder(cluster: Cluster, id: u8) -> NodeBuilder {
        NodeBuilder::new(cluster.name().to_owned(), Some(cluster), MemberId::new(id))
    }

    /// Configures the member `id` of a cluster that has changed its member list, without a list: the member was added
    /// to the cluster with this name. Its first start needs [`NodeBuilder::join`]. A later start finds the list in the
    /// data directory.
    pub fn added(cluster: impl Into<String>, id: u8) -> NodeBuilder {
        NodeBuilder::new(cluster.into(), None, MemberId::new(id))
    }

    /// Starts the threads and tasks of a member whose data has been opened.
    fn run(
        shared: Arc<Shared>,
        replica: Replica,
        applied: Op,
        journal: Journal,
        opener: Option<StateOpener>,
        mut listener: Box<dyn Listener>,
    ) -> Result<Self, StartError> {
        let threads = Arc::new(Threads::default());
        if let Err(error) = start_threads(&shared, &threads, journal, opener) {
            threads.end(&shared);
            return Err(StartError::Thread(error));
        }
        let address = listener.local_address();
        tracing::info!(parent: &shared.span, address, role = %shared.role, "started");
        let members = shared.members.now();
        listener.keep_places_for(shared.members.peer_addresses());
        let acceptor = Acceptor::new(shared.clone());
        shared.run_part("the listener", acceptor.clone().run(listener));
        link::open(&shared, &members.called(shared.me));
        if members.expectation.authenticated {
            shared.run_part("the watch over certificates", credentials::run(shared.clone()));
        }
        shared.run_part("the watch over the cluster's health", health::run(shared.clone()));
        shared.run_part("the sweep of watches", watches::sweep(shared.clone()));
        shared.run_part("the scrubber", scrub::run(shared.clone(), shared.options.scrub_bytes_per_second));
        shared.run_part("the driver", Driver::new(shared.clone(), replica, applied).run());
        let stopped = stop::supervise(shared.clone(), threads.clone());
        Ok(Self { shared, acceptor, threads, stopped, address })
    }

    /// The id of the member.
    #[must_use]
    pub fn id(&self) -> MemberId {
        self.shared.me
    }

    /// The address that the member listens on, with the actual port.
    #[must_use]
    pub fn local_address(&self) -> &str {
        &self.address
    }

    /// The status of the member. This method never blocks. The numbers may be a few milliseconds old.
    #[must_use]
    pub fn status(&self) -> MemberStatus {
        status::status(&self.shared)
    }

    /// The numbers by which the member is monitored. This method never blocks, and reads a few hundred numbers.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        metrics::metrics(&self.shared)
    }

    /// Whether the member runs, and its main task does something within two seconds. If this returns false, only a
    /// restart of the member helps. A member that cannot serve, for example because there is no quorum, is responsive.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn is_responsive(&self) -> bool {
        metrics::is_responsive(&self.shared).await
    }

    /// A new client of the cluster. It reaches this member inside the process, and the other members through the
    /// transport. It works no matter which member is the primary. Each call returns a separate client with a session of
    /// its own.
    ///
    /// The client answers a get in the task of the caller, from this member's memory, if all of these conditions hold:
    /// - The get was made with [`local`](crate::client::Get::local), or with
    ///   [`at_least`](crate::client::Get::at_least) and a revision that this member has already applied.
    /// - The get was not made with [`at`](crate::client::Get::at).
    /// - If the get was made with [`member`](crate::client::Get::member), it names this member.
    /// - This member has recently applied a change of the key, no matter who made the change.
    ///
    /// Such gets do not count in [`Load::reads`](crate::node::Load::reads).
    ///
    /// # Panics
    /// If this is called outside a tokio runtime.
    #[must_use]
    pub fn client(&self) -> Client {
        let member = InProcess {
            acceptor: Arc::downgrade(&self.acceptor),
            shared: Arc::downgrade(&self.shared),
            id: self.shared.me,
            identity: self.shared.transport.identity(),
        };
        let members = self.shared.members.now();
        Client::builder(members.cluster.name())
            .transport(self.shared.transport.clone())
            .name(format!("member {}", self.shared.me))
            .local_member(member)
            .start(
                members.expectation.members.clone(),
                members.expectation.epoch.get().into(),
                members.expectation.limits,
            )
    }

    /// Waits until the cluster has formed, and this member knows that a primary is serving requests. (The primary is
    /// the member that orders all writes.) A cluster forms once: at its first start, when all members are up.
    ///
    /// # Errors
    /// The reason why the member stopped, if it stops during the wait.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn wait_formed(&self) -> Result<(), StopReason> {
        let mut status = self.shared.status.watch();
        let formed = status
            .wait_for(|status| status.is_some_and(|it| it.status == Status::Normal && it.primary.is_some()));
        tokio::select! {
            biased;
            reason = self.stopping() => Err(reason),
            _ = formed => Ok(()),
        }
    }

    /// Passes the primary role to another member, and returns when that member serves. If this member is not the
    /// primary, this method does nothing.
    ///
    /// # Errors
    /// The handover fails if no other member takes the role within five seconds, if there is no other data member, or
    /// if the node stops or has stopped.
    ///
    /// # Cancel safety
    /// If you drop the future, the handover may continue.
    pub async fn handover(&self) -> Result<(), HandoverError> {
        tokio::select! {
            biased;
            reason = self.stopping() => Err(HandoverError::Stopped(reason)),
            handed = handover::hand_over(&self.shared, HANDOVER_WITHIN) => handed,
        }
    }

    /// Stops the member gracefully. If the member is the primary, it first passes the role to another member, and waits
    /// up to one second for that member to serve as the primary. Then this member answers pending requests, ends all
    /// tasks and threads, and releases the port and the directory. If you call this method again, the later call waits
    /// until the member has stopped.
    ///
    /// A shutdown takes a few seconds at most. If a disk operation takes longer than five seconds, the shutdown does
    /// not wait for the thread of that operation. In that case, the directory stays locked, and
    /// [`stopped`](Self::stopped) returns [`StopReason::DiskHangs`].
    ///
    /// # Cancel safety
    /// If you drop the future, the member may keep running, or may still stop.
    pub async fn shutdown(&self) {
        tokio::select! {
            biased;
            _ = self.stopping() => {}
            () = self.wind_down() => self.shared.stop(StopReason::Shutdown),
        }
        self.stopped().await;
    }

    async fn wind_down(&self) {
        if let Err(error) = handover::hand_over(&self.shared, LAST_HANDOVER_WITHIN).await {
            tracing::info!(parent: &self.shared.span, %error, "shutting down as primary");
        }
        self.shared.closing.send_replace(true);
        // Some clients read their answers slowly or not at all. The shutdown waits for them for at most `DRAIN_WITHIN`.
        let _ = timeout(DRAIN_WITHIN, self.acceptor.no_clients()).await;
    }

    /// Waits until the member has stopped, and returns the reason. When this method returns, the port of the member is
    /// free. The directory is free too, except if the reason is [`StopReason::DiskHangs`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn stopped(&self) -> StopReason {
        reason(self.stopped.clone()).await
    }

    /// Waits until the member begins to stop.
    async fn stopping(&self) -> StopReason {
        reason(self.shared.stop.subscribe()).await
    }
}

/// Waits for the reason.
async fn reason(mut slot: watch::Receiver<Option<StopReason>>) -> StopReason {
    match slot.wait_for(Option::is_some).await {
        Ok(reason) => reason.clone().unwrap_or(StopReason::Dropped),
        // The runtime of the member is gone.
        Err(_) => StopReason::Dropped,
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.shared.stop(StopReason::Dropped);
        // Nothing here waits for the runtime: the runtime may need this very thread, or may be gone.
        self.shared.tasks.take().abort_all();
        self.threads.end(&self.shared);
    }
}

fn start_threads(
    shared: &Arc<Shared>,
    threads: &Threads,
    journal: Journal,
    opener: Option<StateOpener>,
) -> std::io::Result<()> {
    threads
        .start(shared, "kv-journal", Urgency::Prompt, move |shared| writer::run(journal, shared, opener))?;
    if shared.role == Role::Data {
        threads.start(shared, "kv-applier", Urgency::Prompt, applier::run)?;
        threads.start(shared, "kv-merge", Urgency::Background, merges::run)?;
    }
    for _ in 0..pool::THREADS {
        threads.start(shared, "kv-reader", Urgency::Background, |shared| shared.pool.work())?;
    }
    threads.start(shared, "kv-sender", Urgency::Prompt, |shared| shared.peers.work())?;
    Ok(())
}

#[cfg(test)]
mod tests;
