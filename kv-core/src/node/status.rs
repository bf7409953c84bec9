//! The status of the member: written by the driver, and read by anyone without waiting.

use super::counters::count;
use super::metrics::PrimaryChange;
use super::shared::Shared;
use super::sync::lock;
use crate::ids::{Instant, MemberId, Op, View};
use crate::message::{MemberState, MemberStatus, Message, PeerStatus};
use crate::replica::{Replica, ReplicaStatus, Status};
use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::{Duration, UNIX_EPOCH};
use tokio::sync::watch;

/// A suspicion older than this without a view change has been withdrawn.
const SUSPICION: Duration = Duration::from_secs(5);
/// How many primaries are remembered.
const PRIMARIES: usize = 8;

/// What the driver last reported.
#[derive(Debug, Default)]
pub(super) struct StatusCell {
    replica: watch::Sender<Option<ReplicaStatus>>,
    numbers: Mutex<Numbers>,
    /// The last primaries, oldest first.
    primaries: Mutex<VecDeque<PrimaryChange>>,
}

#[derive(Clone, Debug, Default)]
struct Numbers {
    head: Op,
    commit: Op,
    applied: Op,
    checkpoint: Op,
    last_failover: Option<Duration>,
    peers: Vec<PeerStatus>,
}

impl StatusCell {
    /// The primary that is known to serve.
    pub(super) fn primary(&self) -> Option<MemberId> {
        self.replica.borrow().as_ref().and_then(|status| status.primary)
    }

    /// If this member is the primary: what is committed, and the progress of the peers.
    pub(super) fn progress(&self) -> (Option<Op>, Vec<PeerStatus>) {
        let numbers = lock(&self.numbers);
        ((!numbers.peers.is_empty()).then_some(numbers.commit), numbers.peers.clone())
    }

    /// The last primaries that began to serve, oldest first.
    pub(super) fn primaries(&self) -> Vec<PrimaryChange> {
        lock(&self.primaries).iter().copied().collect()
    }

    fn remember(&self, change: PrimaryChange) {
        let mut primaries = lock(&self.primaries);
        if primaries.len() >= PRIMARIES {
            primaries.pop_front();
        }
        primaries.push_back(change);
    }

    /// Notifies of every change.
    pub(super) fn watch(&self) -> watch::Receiver<Option<ReplicaStatus>> {
        self.replica.subscribe()
    }
}

/// The driver's side: observes the replica, and updates the status.
#[derive(Debug, Default)]
pub(super) struct Reporter {
    /// The last primary that served, and its view.
    served: Option<(View, MemberId)>,
    /// When this member voted to leave the view.
    suspected: Option<Instant>,
    last_failover: Option<Duration>,
}

impl Reporter {
    /// The replica sends this message.
    pub(super) fn sending(&mut self, message: &Message, now: Instant) {
        if matches!(message, Message::StartViewChange { .. } | Message::DoViewChange { .. }) {
            self.suspect(now);
        }
    }

    fn suspect(&mut self, now: Instant) {
        match self.suspected {
            Some(since) if now.since(since) < SUSPICION => {}
            _ => self.suspected = Some(now),
        }
    }

    /// The replica reports this status.
    pub(super) fn on_status(&mut self, status: ReplicaStatus, shared: &Shared, now: Instant) {
        tracing::info!(
            view = %status.view,
            state = %state(&status, shared.me),
            primary = status.primary.map(tracing::field::display),
            "member status changed"
        );
        match (status.primary, self.served) {
            (Some(primary), Some((_, before))) if primary != before => {
                let took = self.suspected.take().map(|since| now.since(since));
                self.last_failover = took.or(self.last_failover);
                self.serves(status.view, primary, took, shared);
            }
            (Some(primary), _) => {
                self.suspected = None;
                self.serves(status.view, primary, None, shared);
            }
            (None, Some(_)) => self.suspect(now),
            (None, None) => {}
        }
        let before = shared.status.replica.send_replace(Some(status));
        if before.is_some_and(|before| before.view < status.view) {
            count(&shared.counters.view_changes);
        }
    }

    /// This member serves as the primary of this view.
    fn serves(&mut self, view: View, primary: MemberId, took: Option<Duration>, shared: &Shared) {
        let served = Some((view, primary));
        if self.served != served {
            let at = UNIX_EPOCH + shared.clock.wall();
            shared.status.remember(PrimaryChange { view, primary, at, took });
        }
        self.served = served;
    }

    /// Updates the numbers.
    pub(super) fn numbers(&self, replica: &Replica, applied: Op, shared: &Shared) {
        let mut numbers = lock(&shared.status.numbers);
        numbers.head = replica.head().op;
        numbers.commit = replica.commit().op;
        // What was applied to a lost state no longer counts.
        let lost = replica.has_lost_state();
        numbers.applied = if lost { Op::ZERO } else { applied };
        numbers.checkpoint = if lost { Op::ZERO } else { replica.checkpoint() };
        numbers.last_failover = self.last_failover;
    }

    /// Updates the progress of the peers.
    pub(super) fn peers(replica: &Replica, shared: &Shared) {
        let peers = if replica.is_serving() { replica.peers() } else { Vec::new() };
        lock(&shared.status.numbers).peers = peers;
    }
}

/// The whole status.
pub(super) fn status(shared: &Shared) -> MemberStatus {
    let numbers = lock(&shared.status.numbers).clone();
    let status = *shared.status.replica.borrow();
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    MemberStatus {
        id: shared.me,
        role: shared.role,
        state: status.map_or(MemberState::Forming, |status| state(&status, shared.me)),
        view: status.map_or(View::ZERO, |status| status.view),
        primary: status.and_then(|status| status.primary),
        head: numbers.head,
        commit: numbers.commit,
        applied: numbers.applied,
        revision: shared.state().map(|state| state.revision()).unwrap_or_default(),
        checkpoint: numbers.checkpoint,
        last_failover_ms: numbers.last_failover.map(millis),
        peers: numbers.peers,
        load: shared.admission.meter.load(shared.watches.waiting()),
        uptime_ms: millis(shared.clock.monotonic().since(Instant::ZERO)),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

fn state(status: &ReplicaStatus, me: MemberId) -> MemberState {
    match status.status {
        Status::Forming => MemberState::Forming,
        Status::Normal if status.primary == Some(me) => MemberState::Primary,
        Status::Normal => MemberState::Backup,
        Status::ViewChange => MemberState::ViewChange,
        Status::CatchingUp | Status::Removed => MemberState::CatchingUp,
        Status::Damaged => MemberState::Damaged,
    }
}
