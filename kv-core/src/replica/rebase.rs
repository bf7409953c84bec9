//! Rebases the log on a state that was fetched (rules T3 and T5).

use super::state::ReplicaState;
use super::{Output, Replica};
use crate::message::{LogPoint, LogRebase, Write};

impl Replica {
    /// Rule T3: rebases the log on `point`. Entries above that chain to it are kept.
    pub(super) fn rebase_log(&mut self, point: LogPoint) {
        let LogPoint { anchor, .. } = point;
        let keeps = self.log.holds(anchor);
        if keeps && anchor.op <= self.checkpoint {
            // A lost state was fetched: the entries after it are applied again, from the log.
            self.state_went_back(anchor.op);
            self.applied = anchor.op;
            let commit = self.commit();
            self.outputs.push_back(Output::Commit { commit });
            return;
        }
        if !keeps {
            self.log.restart(point);
        }
        self.incarnation = self.incarnation.next();
        let seq = self.write(Write::Rebase(LogRebase { point, incarnation: self.incarnation }));
        self.note_rebase(anchor, keeps, seq);
        self.entry_arrived(anchor, false);
        if anchor.op > self.commit {
            self.commit = anchor.op;
            self.forget_ages_below(anchor.op);
            self.outputs.push_back(Output::Commit { commit: anchor });
        }
        self.commit_by_pipeline();
        self.applied = anchor.op;
        self.applied_at = self.now.monotonic;
        self.transfer.rebasing = Some(seq);
        // Rule T8: a late answer about the log before must not begin another transfer.
        if let Some(install) = self.state.install_mut() {
            install.restart_requests();
        }
        match &mut self.state {
            ReplicaState::CatchingUp(catching) => {
                if catching.install.as_ref().is_some_and(|install| install.ends_below(anchor.op)) {
                    // The view has committed more since its log was sent.
                    catching.install = None;
                    self.ask_for_state();
                } else {
                    self.drive_install();
                }
            }
            ReplicaState::Backup(backup) => backup.gap = None,
            ReplicaState::Forming(_) | ReplicaState::Primary(_) | ReplicaState::ViewChange(_) => {}
        }
    }

    /// Rule T5: sends what was withheld.
    pub(super) fn rebase_durable(&mut self) {
        if self.transfer.rebasing.is_none_or(|seq| !self.is_durable(seq)) {
            return;
        }
        self.transfer.rebasing = None;
        match &self.state {
            ReplicaState::Backup(_) => self.acknowledge(),
            ReplicaState::ViewChange(_) => self.send_summary_again(),
            ReplicaState::Forming(_) | ReplicaState::Primary(_) | ReplicaState::CatchingUp(_) => {}
        }
    }
}
