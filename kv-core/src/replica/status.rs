//! The status of a replica, for its driver and for tests.

use super::state::ReplicaState;
use super::{ChangeRefusal, Now, Replica, ReplicaStatus, Status};
use crate::config::{Change, ChangeRequest, Configuration, HistoryId};
use crate::ids::{Anchor, Epoch, Instant, MemberId, Op, Timestamp, View};
use crate::message::{PeerStatus, SuccessorRefusal};
use std::collections::BTreeSet;
use std::time::Duration;

impl Replica {
    /// Returns whether this member is the primary and accepts proposals and reads.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        matches!(&self.state, ReplicaState::Primary(primary) if primary.is_serving())
    }

    /// How many more bytes of requests the replica would queue. Zero if it is not serving.
    #[must_use]
    pub fn proposal_room(&self) -> usize {
        match &self.state {
            ReplicaState::Primary(primary) => primary.proposal_room(&self.cx),
            _ => 0,
        }
    }

    /// The view.
    #[must_use]
    pub const fn view(&self) -> View {
        self.cx.view
    }

    /// The last view whose log was installed here.
    #[cfg(feature = "internals")]
    #[must_use]
    pub const fn log_view(&self) -> View {
        self.cx.log_view
    }

    /// The last op of the log.
    #[must_use]
    pub fn head(&self) -> Anchor {
        self.cx.log.head()
    }

    /// The last op that is known here to be committed.
    #[must_use]
    pub fn commit(&self) -> Anchor {
        self.cx.commit()
    }

    /// The last op that is durable in the own journal. A checkpoint must not cover more.
    #[must_use]
    pub fn durable(&self) -> Anchor {
        self.cx.log.durable()
    }

    /// The durable checkpoint.
    #[must_use]
    pub const fn checkpoint(&self) -> Op {
        self.cx.checkpoint
    }

    /// If this member is the primary: the progress of the peers.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerStatus> {
        match &self.state {
            ReplicaState::Primary(primary) => primary.peer_status(&self.cx),
            _ => Vec::new(),
        }
    }

    /// If this member is the primary: the peers that have acknowledged anything in this view. The progress of the
    /// others is not known.
    #[must_use]
    pub fn acknowledging(&self) -> BTreeSet<MemberId> {
        match &self.state {
            ReplicaState::Primary(primary) => primary.acknowledging().collect(),
            _ => BTreeSet::new(),
        }
    }

    /// Rule V8: checks whether this member, if it is the primary, would hand over its role to `successor` now. A member
    /// that is not the primary refuses no one.
    ///
    /// # Errors
    /// Why it would not.
    pub fn check_successor(&self, successor: MemberId, now: Instant) -> Result<(), SuccessorRefusal> {
        match &self.state {
            ReplicaState::Primary(primary) => primary.check_successor(&self.cx, successor, now),
            _ => Ok(()),
        }
    }

    /// Rule M7: checks whether this member, if it is the primary, would order this change of the member list now.
    ///
    /// # Errors
    /// Why it would not.
    pub fn check_change(&self, change: &ChangeRequest, now: Instant) -> Result<(), ChangeRefusal> {
        match &self.state {
            ReplicaState::Primary(primary) => primary.check_change(&self.cx, change, now).map(drop),
            _ => Err(ChangeRefusal::Busy),
        }
    }

    /// If this member is the primary: its request for this change of the member list, which ends the epoch `ends`.
    /// `history` is used if this is the first change.
    #[must_use]
    pub fn change_request(&self, id: (Epoch, u128, HistoryId), change: Change) -> Option<ChangeRequest> {
        match &self.state {
            ReplicaState::Primary(primary) => Some(primary.change_request(&self.cx, id, change)),
            _ => None,
        }
    }

    /// Rule M12: whether the epoch has committed an entry of its own.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.cx.is_settled()
    }

    /// Rule M13: no ended epoch has committed anything in a view with a greater number.
    #[must_use]
    pub const fn ended(&self) -> u64 {
        self.cx.epochs.ended
    }

    /// The configuration of the epoch that this member is in.
    #[must_use]
    pub const fn configuration(&self) -> &Configuration {
        &self.cx.epochs.configuration
    }

    /// Returns the stamp of an entry that would be made `now`; `None` if this member would make none. It is not a
    /// promise: a later call may know less.
    #[must_use]
    pub fn stamp(&self, now: Now) -> Option<Timestamp> {
        match &self.state {
            ReplicaState::Primary(primary) => primary.stamp(&self.cx, now),
            _ => None,
        }
    }

    /// Returns how much time has passed since the last entry, as an entry made `now` would show it; `None` if this
    /// member would make none.
    #[must_use]
    pub fn idle(&self, now: Now) -> Option<Duration> {
        let last = self.cx.log.timestamp();
        self.stamp(now).map(|stamp| Duration::from_millis(stamp.get() - last.get()))
    }

    /// Returns how much of the stamps that this member made in this life is based on wall clocks.
    #[cfg(feature = "internals")]
    #[must_use]
    pub const fn wall_clock_credit(&self) -> Duration {
        self.cx.credited
    }

    /// Rule R4: returns the op that a state of this member must have applied to contain everything acknowledged to
    /// anyone until `bound` before now. `None` if no round proves such an op.
    #[must_use]
    pub fn fresh(&self, now: Now, bound: Duration) -> Option<Op> {
        self.cx.fresh(now, bound)
    }

    /// Returns whether a state is being fetched. Until it is complete, this member is behind and cannot be primary.
    #[must_use]
    pub const fn is_transferring(&self) -> bool {
        self.cx.transfer.is_running()
    }

    /// Returns whether this data member has no state, and is fetching another.
    #[must_use]
    pub const fn has_lost_state(&self) -> bool {
        self.cx.transfer.stateless
    }

    /// Returns whether the log lacks entries that this member may have acknowledged. They are fetched from other
    /// members.
    #[must_use]
    pub fn has_damaged_log(&self) -> bool {
        self.cx.is_damaged()
    }

    /// The status of this replica.
    #[must_use]
    pub fn status(&self) -> ReplicaStatus {
        let status = match &self.state {
            ReplicaState::Forming(_) => Status::Forming,
            ReplicaState::Backup(_) | ReplicaState::CatchingUp(_) if self.cx.is_damaged() => Status::Damaged,
            ReplicaState::Primary(_) | ReplicaState::Backup(_) => Status::Normal,
            ReplicaState::ViewChange(_) => Status::ViewChange,
            ReplicaState::CatchingUp(_) | ReplicaState::Entering(_) => Status::CatchingUp,
            ReplicaState::Retired(_) => Status::Removed,
        };
        let primary = match &self.state {
            ReplicaState::Primary(primary) if primary.is_serving() => Some(self.cx.me),
            ReplicaState::Backup(_) | ReplicaState::CatchingUp(_) if self.state.own_vote().is_none() => {
                Some(self.cx.primary()).filter(|id| *id != self.cx.me)
            }
            _ => None,
        };
        ReplicaStatus { view: self.cx.view, status, primary }
    }

    /// Asserts what must hold between any two steps. It is cheap, and is meant for tests and the simulator.
    ///
    /// # Panics
    /// If the replica has a bug.
    #[cfg(feature = "internals")]
    pub fn check_invariants(&self) {
        let cx = &self.cx;
        cx.check_invariants();
        if matches!(self.state, ReplicaState::Primary(_) | ReplicaState::Backup(_)) {
            cx.check_view_of_epoch();
        }
        match &self.state {
            ReplicaState::Primary(primary) => {
                assert!(cx.primary() == cx.me, "only the primary of its view is primary");
                assert!(cx.log_view == cx.view, "a primary has installed its view's log");
                primary.check_invariants(cx.log.head().op);
            }
            ReplicaState::Backup(_) => {
                assert!(cx.log_view == cx.view, "a backup has installed its view's log");
            }
            ReplicaState::Forming(_)
            | ReplicaState::CatchingUp(_)
            | ReplicaState::ViewChange(_)
            | ReplicaState::Entering(_)
            | ReplicaState::Retired(_) => {}
        }
        let normal = matches!(self.state, ReplicaState::Primary(_) | ReplicaState::Backup(_));
        assert!(!normal || !cx.is_damaged(), "a damaged member is not in normal status");
    }

    /// What this member would report in a view change.
    #[cfg(test)]
    pub(super) fn vote_for_tests(&self) -> crate::message::LogSummary {
        self.cx.summary()
    }

    /// The hashes of the committed ops above the first `count`.
    #[cfg(test)]
    pub(super) fn committed_above(&self, count: usize) -> Vec<crate::ids::Hash> {
        (count as u64 + 1..=self.cx.commit.get()).map(|op| self.cx.anchor(Op::new(op)).hash).collect()
    }
}
