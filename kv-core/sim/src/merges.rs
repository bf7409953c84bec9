//! Merges of the files of a state, beside everything else that a member does.

use super::events::Due;
use super::plan::around;
use super::world::World;
use kv_core::kv::{MergeStep, StateMachine};

impl World {
    /// Some files of the state may have to be merged now.
    pub(super) fn schedule_merge(&mut self, member: usize) {
        let Some(process) = self.process(member) else { return };
        if process.state.is_some() && !process.merging {
            process.merging = true;
            let latency = around(&mut self.rng, self.plan.disk.latency);
            self.schedule_due(self.now + latency, member, Due::Merge);
        }
    }

    /// Does a step of a merge, beside a checkpoint that may be running.
    pub(super) fn on_merge(&mut self, member: usize) {
        let now = self.clock_of(member).monotonic;
        let Some(process) = self.process(member) else { return };
        process.merging = false;
        let Some(merger) = process.state.as_ref().and_then(StateMachine::merger) else { return };
        let under_way = process.checkpoint.is_some();
        let held = process.transfers.sources.held(now);
        process.transfers.was_held |= !held.is_empty();
        let was_held = process.transfers.was_held;
        match merger.step(&held) {
            Ok(MergeStep::Merged) => {
                if let Some(state) = &mut process.state {
                    state.finish_merge();
                    process.transfers.sources.publish(state.snapshot());
                }
                self.checker.count("steps of merges");
                if !held.is_empty() {
                    self.checker.count("steps of merges while a state is sent");
                } else if was_held {
                    self.checker.count("steps of merges after a state was sent");
                }
                if under_way {
                    self.checker.count("steps of merges beside a checkpoint");
                }
                self.schedule_merge(member);
            }
            Ok(MergeStep::Idle | MergeStep::NoRoom) => {}
            Err(error) => self.state_failed(member, "files of the state can be merged", &error),
        }
    }
}
