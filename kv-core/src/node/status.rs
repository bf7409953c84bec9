//! The status of the member: written by the driver, and read by anyone without waiting.

use super::counters::count;
use super::metrics::PrimaryChange;
use super::shared::Shared;
use super::sync::lock;
use crate::config::Role;
use crate::ids::{Instant, MemberId, Op, View};
use crate::message::{MemberState, MemberStatus, Message, PeerStatus};
use crate::replica::{Replica, ReplicaStatus, Status};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Mutex;
use std::time::{Duration, UNIX_EPOCH};
use tokio::sync::watch;

/// A suspicion older than this without a view change has been withdrawn.
const SUSPICION: Duration = Duration::from_secs(5);
/// A member whose state lacks more committed entries than this is catching up, and not ready to serve. A member that
/// keeps up lacks a few hundred, even under load.
const MAX_LAG: u64 = 10_000;
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
    /// The view of the last primary that was heard, and the highest commit number that it has sent.
    heard: Option<(View, Op)>,
    /// Whether a data member has no state, or fetches another.
    lacks_state: bool,
    last_failover: Option<Duration>,
    peers: Vec<PeerStatus>,
    /// Those that have acknowledged anything in this view.
    acknowledging: BTreeSet<MemberId>,
}

impl Numbers {
    /// Whether a backup in this view lacks so much that it could not serve. The commit number of the replica does not
    /// tell this: it is never above the own log, and after a start nobody has been heard yet.
    fn is_behind(&self, view: View, role: Role) -> bool {
        let own = match role {
            Role::Data => self.applied,
            Role::Witness => self.head,
        };
        match self.heard {
            Some((of, commit)) if of == view => self.lacks_state || commit.distance_from(own) > MAX_LAG,
            _ => true,
        }
    }
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

    /// If this member is the primary: the peers that have acknowledged anything in this view.
    pub(super) fn acknowledging(&self) -> BTreeSet<MemberId> {
        lock(&self.numbers).acknowledging.clone()
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
    /// The view of the last primary that was heard, and the highest commit number that it has sent.
    heard: Option<(View, Op)>,
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

    /// The replica has handled a message of this member, with a view and a commit number.
    pub(super) fn heard(&mut self, from: MemberId, view: View, commit: Op, replica: &Replica) {
        if replica.view() != view || replica.status().primary != Some(from) {
            return;
        }
        self.heard = match self.heard {
            Some((of, before)) if of == view => Some((view, before.max(commit))),
            _ => Some((view, commit)),
        };
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
        numbers.heard = self.heard;
        numbers.lacks_state = lost || replica.is_transferring();
        numbers.last_failover = self.last_failover;
    }

    /// Updates the progress of the peers.
    pub(super) fn peers(replica: &Replica, shared: &Shared) {
        let (peers, acknowledging) = if replica.is_serving() {
            (replica.peers(), replica.acknowledging())
        } else {
            (Vec::new(), BTreeSet::new())
        };
        let mut numbers = lock(&shared.status.numbers);
        (numbers.peers, numbers.acknowledging) = (peers, acknowledging);
    }
}

/// The view and the commit number that a primary sends with this message.
pub(super) const fn commit_in(message: &Message) -> Option<(View, Op)> {
    match message {
        Message::Prepare { view, commit, .. }
        | Message::Commit { view, commit, .. }
        | Message::StartView { view, commit, .. } => Some((*view, commit.op)),
        _ => None,
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
        state: status
            .map_or(MemberState::Forming, |status| reported(&status, &numbers, shared.me, shared.role)),
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

/// The state that others see: a backup that lacks much is catching up, whatever its replica does.
fn reported(status: &ReplicaStatus, numbers: &Numbers, me: MemberId, role: Role) -> MemberState {
    match state(status, me) {
        MemberState::Backup if status.primary.is_some() && numbers.is_behind(status.view, role) => {
            MemberState::CatchingUp
        }
        state => state,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_that_lacks_much_is_catching_up() {
        let (me, view, far) = (MemberId::new(1), View::new(7), MAX_LAG + 1);
        let status = ReplicaStatus { view, status: Status::Normal, primary: Some(MemberId::new(0)) };
        // The op that was heard and its view, the own head and what is applied, whether there is no state.
        let found = |heard: Option<(u64, u64)>, head, applied, lacks_state, role| {
            let heard = heard.map(|(view, op)| (View::new(view), Op::new(op)));
            let (head, applied) = (Op::new(head), Op::new(applied));
            // Its replica knows nothing to be committed that it does not have.
            let numbers = Numbers { heard, head, commit: head, applied, lacks_state, ..Numbers::default() };
            reported(&status, &numbers, me, role)
        };
        for (heard, head, applied, lacks_state, role, state) in [
            (Some((7, 9)), 9, 9, false, Role::Data, MemberState::Backup),
            (Some((7, far)), 1, 1, false, Role::Data, MemberState::Backup),
            (Some((7, far)), far, 0, false, Role::Data, MemberState::CatchingUp),
            (Some((7, far)), 0, 0, false, Role::Data, MemberState::CatchingUp),
            (Some((7, far)), 0, 0, false, Role::Witness, MemberState::CatchingUp),
            (Some((7, far)), far, 0, false, Role::Witness, MemberState::Backup),
            (Some((7, 9)), 9, 9, true, Role::Data, MemberState::CatchingUp),
            (Some((6, 9)), 9, 9, false, Role::Data, MemberState::CatchingUp),
            (None, 9, 9, false, Role::Data, MemberState::CatchingUp),
        ] {
            let case = format!("{heard:?} {head} {applied} {lacks_state} {role}");
            assert_eq!(found(heard, head, applied, lacks_state, role), state, "{case}");
        }
        let nobody = ReplicaStatus { primary: None, ..status };
        assert_eq!(
            reported(&nobody, &Numbers::default(), me, Role::Data),
            MemberState::Backup,
            "nobody serves"
        );
    }
}
