//! Damaged states of several members: whether their intact parts can still be combined, so that a cluster without an
//! intact state must recover. This is not assumed, but computed from the contents of the disks, by opening and reading
//! them as members do (rule T9b).

use super::switch;
use super::world::World;
use bytes::Bytes;
use kv_core::config::Role;
use kv_core::engine::Snapshot;
use kv_core::ids::{Anchor, Op};
use kv_core::kv::{Limits, Receiver, StateMachine};
use kv_core::message::{CheckpointAlignment, Entry};
use kv_core::storage::simulated::Disk;
use std::collections::BTreeSet;

impl World {
    /// Whether the states of data members are damaged, and their intact parts cannot be combined to a state at this op.
    pub(super) fn no_state_is_left(&self, op: Op) -> bool {
        let is_there = |whole: Op| whole >= op;
        self.plan.damage.is_some_and(|plan| plan.states) && !self.whole_state(None).is_some_and(is_there)
    }

    /// The last op at which the readable pieces on the disks make up a complete state. `instead` replaces the disk of a
    /// member.
    pub(super) fn whole_state(&self, instead: Option<(usize, &Disk)>) -> Option<Op> {
        self.whole_state_of(0..self.members.len(), instead)
    }

    /// The same for these members only.
    pub(super) fn whole_state_of(
        &self,
        members: impl Iterator<Item = usize>,
        instead: Option<(usize, &Disk)>,
    ) -> Option<Op> {
        let offered: Vec<Snapshot> = members
            .filter(|member| !self.members[*member].wiped)
            .flat_map(|member| {
                let replaced = instead.filter(|(changed, _)| *changed == member).map(|(_, disk)| disk);
                self.offered(member, replaced.unwrap_or(&self.members[member].disk))
            })
            .collect();
        let points: BTreeSet<Anchor> = offered.iter().map(Snapshot::anchor).collect();
        points.into_iter().rev().find(|at| self.is_whole(*at, &offered)).map(|at| at.op)
    }

    /// The checkpoints that a member can offer: its present one, and the one at the last op of its log.
    fn offered(&self, member: usize, disk: &Disk) -> Vec<Snapshot> {
        let as_it_is = self.opened_state(member, disk, Op::ZERO);
        let as_far_as_possible = self.opened_state(member, disk, self.checker.committed());
        as_it_is.into_iter().chain(as_far_as_possible).collect()
    }

    /// The state on a copy of a disk, damaged or not, after applying entries up to an op if possible.
    fn opened_state(&self, member: usize, disk: &Disk, through: Op) -> Option<Snapshot> {
        let slot = &self.members[member];
        if self.plan.in_memory || slot.role == Role::Witness {
            return None;
        }
        let _right = switch::to(None);
        let disk = disk.fork();
        let (journal, recovered) = self.opened(member, &disk)?;
        let (storage, limits) = (disk.storage(), Limits::from(&slot.options));
        let log = journal.reader();
        // A log may end in entries that were never committed, in place of those that were.
        let is_committed = |entry: &Entry| self.checker.hash(entry.header.op) == Some(entry.header.hash());
        let read = |op| log.read(op).ok().flatten().filter(is_committed);
        match StateMachine::open_or_set_aside(&storage, &limits).ok()? {
            Some(state) if recovered.alignment(state.checkpoint()) == CheckpointAlignment::Lost => None,
            Some(mut state) => {
                state.apply_through(through, read).ok()?;
                state.snapshot()
            }
            None => {
                let mut aside = Receiver::open(storage, limits).ok()?.open_aside().ok()??;
                aside.apply_through(through, read).ok()?;
                aside.snapshot()
            }
        }
    }

    /// Whether all pieces of the state at a point can be read, each from at least one disk.
    fn is_whole(&self, at: Anchor, offered: &[Snapshot]) -> bool {
        let mut after = Bytes::new();
        loop {
            let here = offered.iter().filter(|offered| offered.anchor() == at);
            let mut pieces = here.map(|offered| offered.chunk(&after, self.piece_bytes()));
            match pieces.find_map(Result::ok).map(|chunk| chunk.end) {
                None => return false,
                Some(kv_core::message::ChunkEnd::Last) => return true,
                Some(kv_core::message::ChunkEnd::More(next)) => after = next,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::change_plan::ChangePlan;
    use super::super::clock::SECOND;
    use super::super::plan::{DamagePlan, Fault, Plan};
    use super::super::report::{Options, STATELESS};
    use super::super::world::World;
    use fastrand::Rng;
    use kv_core::config::Role;
    use std::collections::BTreeMap;

    /// Rule T9b: all machines lose power, again and again, and several states are damaged then. If the intact parts can
    /// be combined, all members have a state in the end, regardless of what their sources do meanwhile. If not, they
    /// stop and keep their files.
    #[test]
    fn t9b_states_of_several_members_are_damaged_at_once() {
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        for seed in (0..60).chain([64, 118]) {
            let mut rng = Rng::with_seed(seed);
            let mut plan = Plan::draw(&mut rng);
            plan.roles = vec![Role::Data; [3, 3, 5][rng.usize(..3)]];
            plan.heal_quorum_only = false;
            plan.chaos = plan.chaos.min(15 * SECOND);
            plan.in_memory = false;
            plan.changes = ChangePlan::NONE;
            plan.damage = Some(DamagePlan { victim: None, chance: 80, states: true });
            plan.faults =
                vec![(Fault::PowerCutAll, 4), (Fault::Kill, 2), (Fault::SlowDisk, 1), (Fault::Rot, 1)];
            let mut world = World::with_plan(seed, plan, rng, &Options::default());
            world.run();
            let report = world.into_report();
            assert_eq!(report.violation, None, "seed {seed}");
            for (what, count) in report.counts {
                *counts.entry(what).or_default() += count;
            }
        }
        let count = |what: &str| counts.get(what).copied().unwrap_or_default();
        let damaged = count("states damaged while no other is whole");
        let in_vain = count(STATELESS);
        assert!(
            damaged >= 10 && in_vain * 4 <= damaged,
            "{damaged} damaged, {in_vain} runs end without a state"
        );
    }
}
