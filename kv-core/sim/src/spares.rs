//! Spare machines, and plans with changes of the member list.

use super::change_plan::ChangePlan;
use super::clock::SECOND;
use super::events::Event;
use super::plan::{Plan, pick};
use super::world::World;
use fastrand::Rng;
use kv_core::config::{DiskId, Role};
use kv_core::ids::MemberId;
use kv_core::message::MembersAnswer;

/// One plan in this many changes the member list.
const ONE_OF: u32 = 3;

impl Plan {
    /// Lets operators change the member list in some plans. Drawn last, so that it changes nothing else.
    pub(super) fn perhaps_with_changes(&mut self, rng: &mut Rng) {
        if rng.u32(0..ONE_OF) > 0 {
            return;
        }
        let role = |rng: &mut Rng| if rng.u32(0..5) == 0 { Role::Witness } else { Role::Data };
        self.changes = ChangePlan {
            spares: (0..rng.usize(1..=3)).map(|_| role(rng)).collect(),
            operators: *pick(rng, &[1, 1, 1, 2]),
            pause: *pick(rng, &[SECOND / 10, SECOND / 2, 2 * SECOND]),
            patience: *pick(rng, &[SECOND, 5 * SECOND, 20 * SECOND]),
        };
        // A member whose copy of an entry is the only readable one may be removed (rule M7).
        self.damage = None;
    }

    /// How many machines there are, with the spare ones.
    pub(super) fn machines(&self) -> usize {
        self.roles.len() + self.changes.spares.len()
    }

    /// What a machine does.
    pub(super) fn role_of(&self, machine: usize) -> Role {
        *self.roles.iter().chain(&self.changes.spares).nth(machine).expect("there is such a machine")
    }
}

impl World {
    /// A disk id that no other directory has. It contains which of the disks of the machine it is.
    pub(super) fn fresh_disk(&mut self, member: usize) -> DiskId {
        self.disks += 1;
        DiskId(
            u128::from(self.members[member].disks_lost) << 96 | u128::from(self.disks) << 32 | member as u128,
        )
    }

    /// Whether a voter has lost the disk that the list names for it.
    pub(super) fn has_another_disk(&self, member: usize, disk: DiskId) -> bool {
        disk.0 >> 96 != u128::from(self.members[member].disks_lost)
    }

    /// Whether a machine can be started now. One with an empty disk must be a standby on the newest list that it is
    /// told of; if it is not, it tries again later.
    pub(super) fn may_start(&mut self, member: usize) -> bool {
        let slot = &self.members[member];
        if slot.joined || slot.joining {
            return true;
        }
        let invitation = self.ask_to_join(member);
        let may_start = invitation.is_some();
        self.members[member].invitation = invitation;
        if !may_start {
            let pause = self.plan.changes.pause / 2 + self.rng.u64(0..=self.plan.changes.pause);
            self.schedule(self.now + pause, Event::Start { member });
        }
        may_start
    }

    /// Asks those members that answer for the list.
    fn ask_to_join(&mut self, member: usize) -> Option<MembersAnswer> {
        let mut newest: Option<MembersAnswer> = None;
        for other in 0..self.members.len() {
            let open = self.network.is_open(member, other) && self.network.is_open(other, member);
            let slot = &self.members[other];
            let answers = open && !slot.is_paused() && self.rng.u32(0..4) > 0;
            let Some(process) = slot.process.as_ref().filter(|_| answers) else { continue };
            let list = members_of(&process.replica);
            let age = |list: &MembersAnswer| (list.configuration.epoch, list.settled);
            if newest.as_ref().is_none_or(|known| age(&list) > age(known)) {
                newest = Some(list);
            }
        }
        let (id, role) = (self.members[member].id, self.members[member].role);
        newest.filter(|list| {
            let listed = list.configuration.members.get(&id);
            listed.is_some_and(|listed| listed.is_standby && listed.role == role)
        })
    }

    /// Whether the member list changes: those of the old list and of the new one may all be needed (rule M7).
    pub(super) fn is_changing(&self) -> bool {
        let newest = self.checker.rosters.newest().configuration.epoch;
        let operators = self.clients.iter().filter_map(|client| client.operator.as_ref());
        !self.checker.is_settled(newest)
            || self.checker.may_change()
            || operators.into_iter().any(super::operator::Operator::has_job)
    }

    /// Whether a member must be there when everything is healed: it is on the last list, and has its disk.
    pub(super) fn is_needed(&self, member: usize) -> bool {
        let slot = &self.members[member];
        let listed = self.checker.rosters.newest().configuration.members.get(&slot.id);
        // A voter that has lost its disk cannot come back.
        listed.is_some_and(|listed| !slot.away && (slot.joined || listed.is_standby))
    }

    /// Whether a member that is on no list any more has stopped, or cannot know that it may.
    pub(super) fn is_gone(&self, member: usize) -> bool {
        let slot = &self.members[member];
        // A founder that has lost its disk hears nothing any more.
        let Some(process) = slot.process.as_ref().filter(|_| !slot.wiped) else {
            return slot.away || !slot.joined || slot.wiped;
        };
        // Whoever it could ask may have been removed since, and be gone.
        // And those that are left may not call it any more, so that they cannot answer.
        let stays = |id: &MemberId| {
            let other = super::member::index(*id);
            other != member
                && self.is_needed(other)
                && self.members[other].process.as_ref().is_some_and(|process| process.reach.calls(member))
        };
        !process.replica.configuration().members.keys().any(stays)
    }
}

/// What a member answers when it is asked for the list.
pub(super) fn members_of(replica: &kv_core::replica::Replica) -> MembersAnswer {
    MembersAnswer {
        configuration: replica.configuration().clone(),
        settled: replica.is_settled(),
        ended: replica.ended(),
    }
}
