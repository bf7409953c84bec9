//! When a cluster that is only partly healed is excused: if disks were damaged, the returned members may lack entries
//! that only the absent ones have. This is not assumed, but computed from the durable data, with the real recovery and
//! the real decision of a view change.

use super::switch;
use super::world::World;
use kv_core::config::{DiskId, Role};
use kv_core::ids::Op;
use kv_core::message::{CheckpointAlignment, FormationStep};
use kv_core::replica::{self, Replica, ReplicaConfig, StallReason, Vote};

impl World {
    /// Why the returned members cannot continue, if they cannot. A disk that does not open is no excuse.
    pub(super) fn stall_reason(&self) -> Option<StallReason> {
        let back = || (0..self.members.len()).filter(|member| !self.members[*member].away);
        let votes: Vec<Vote> = back().map(|member| self.vote(member)).collect::<Option<_>>()?;
        let is_there = |op: Op| self.whole_state_of(back(), None).is_some_and(|state| state >= op);
        match replica::stall_reason(&self.checker.rosters.newest().cluster, &votes)? {
            // Together, the returned members have a state that covers it.
            StallReason::Missing(op) if is_there(op) => None,
            excuse => Some(excuse),
        }
    }

    /// The vote of a member if it started now.
    fn vote(&self, member: usize) -> Option<Vote> {
        let _right = switch::to(None);
        let slot = &self.members[member];
        let disk = slot.disk.fork();
        let (mut journal, mut recovered) = self.opened(member, &disk)?;
        let state = self.state_on(member, &disk, &recovered);
        let formatted = recovered.formation > FormationStep::Empty;
        let mut config = ReplicaConfig::new(self.cluster.clone(), slot.id, slot.options.clone(), 0);
        config.stateless = slot.role == Role::Data && !self.plan.in_memory && state.is_none() && formatted;
        if let Some(state) = state {
            match recovered.alignment(state.checkpoint()) {
                CheckpointAlignment::OnLog => recovered.checkpoint = state.checkpoint(),
                CheckpointAlignment::Ahead => {
                    recovered = journal.rebase_log(state.point(), state.configuration(), DiskId(0)).ok()?;
                }
                CheckpointAlignment::Lost => return None,
            }
        }
        Some(Replica::new(config, recovered, self.clock_of(member)).vote())
    }
}
