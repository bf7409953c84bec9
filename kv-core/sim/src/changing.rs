//! What the script of a scenario can do about the member list.

use super::cluster::Cluster;
use kv_core::config::{Change, ConfiguredMember};
use kv_core::ids::{Epoch, MemberId};
use kv_core::message::{Answer, ChangeCall};

/// The id of a member.
pub(super) fn id(member: usize) -> MemberId {
    MemberId::new(u8::try_from(member).expect("few members"))
}

/// A change of an address.
pub(super) fn address(member: usize, address: &str) -> Change {
    Change::Address { id: id(member), address: address.to_owned() }
}

impl Cluster {
    /// Asks a member for a change of the list. Returns whether it is ordered.
    pub(super) fn change_at(&mut self, member: usize, change: Change) -> bool {
        let ends = self.replica(member).configuration().epoch;
        let nonce = 1 + u128::from(self.world.disks);
        self.world.disks += 1;
        let answer = self.world.change(member, ChangeCall { ends, nonce, change });
        matches!(answer, Some(Answer::Done))
    }

    /// The primary changes the list, and enters the next epoch.
    pub(super) fn change(&mut self, change: Change) {
        let (primary, before) = (self.primary(), self.epoch(self.primary()));
        assert!(self.change_at(primary, change), "the change is not refused");
        self.run_until("the next epoch", |c| c.epoch(primary) > before);
        self.run_until("it is settled", |c| {
            c.serving().is_some_and(|primary| c.replica(primary).is_settled())
        });
    }

    /// The epoch that a running member is in.
    pub(super) fn epoch(&self, member: usize) -> Epoch {
        self.replica(member).view().epoch()
    }

    /// What a running member knows of another.
    pub(super) fn listed(&self, at: usize, member: usize) -> Option<&ConfiguredMember> {
        self.replica(at).configuration().members.get(&id(member))
    }

    /// Runs until the spare machine has a disk, and runs.
    pub(super) fn wait_until_joined(&mut self, member: usize) {
        self.run_until("it joins", |c| c.world.members[member].process.is_some());
    }

    /// Whether a member has stopped for good.
    pub(super) fn is_out(&self, member: usize) -> bool {
        self.world.members[member].away
    }
}
