//! State transfer (rules T1 to T9): how a member begins one, takes in its pieces, and goes on from the new state.

use super::Replica;
use super::context::ChunkOutcome;
use super::state::ReplicaState;
use crate::ids::{MemberId, View};
use crate::message::{LogPoint, Message};
use tracing::debug;

impl Replica {
    pub(super) fn on_too_old(
        &mut self,
        from: MemberId,
        nonce: u64,
        checkpoint: LogPoint,
        primary_of: Option<View>,
    ) {
        let cx = &mut self.cx;
        let leads = primary_of == Some(cx.view) && from == cx.primary();
        let settled = cx.now.monotonic >= cx.transfer.settled_at;
        let asked = match &mut self.state {
            _ if cx.epochs.has_asked(nonce) => checkpoint.anchor.op > cx.proven(),
            ReplicaState::Backup(backup) => (leads && settled) || backup.gap_nonce() == Some(nonce),
            state => state.install_mut().is_some_and(|install| install.has_nonce(nonce)),
        };
        let stuck = cx.is_repair(nonce) && cx.is_stuck_below(checkpoint.anchor.op);
        if !(asked || stuck) || !cx.is_usable(checkpoint.anchor) || cx.transfer.is_running() {
            return;
        }
        debug!(%from, ?checkpoint, head = ?cx.log.head(), "a peer has dropped the entries that are needed next");
        if cx.is_witness() {
            // Rule T9c: the member has no state to fetch. A normal primary is trusted here: what it has checkpointed is
            // committed.
            if leads {
                self.rebase_log(checkpoint);
            } else if let Some((beginning, configuration)) = cx.epochs.beginning() {
                self.adopt_epoch(beginning, configuration);
            } else if cx.epochs.has_asked(nonce) {
                cx.send(from, Message::GetSnapshot { nonce, at: None, after: None });
                cx.ask_epoch(from);
            }
            return;
        }
        cx.begin_transfer(from, checkpoint.anchor.op);
        if !cx.transfer.is_running() {
            // There is no other data member.
            return;
        }
        if let ReplicaState::ViewChange(change) = &mut self.state {
            let flow = change.yield_view(cx);
            self.carry_out(flow);
        } else {
            self.as_primary(|primary, cx| primary.abdicate(cx, "its state cannot get past a lost entry"));
        }
    }

    /// A piece of a peer's state or of the state that is set aside here, or the answer that there is none.
    pub(super) fn on_piece(&mut self, from: MemberId, piece: Message) {
        match piece {
            Message::SnapshotChunk { nonce, view, at, chunk } => {
                match self.cx.on_snapshot_chunk(from, nonce, view, at, chunk) {
                    ChunkOutcome::Done => {}
                    ChunkOutcome::NewerView => self.enter_view_change(view),
                    ChunkOutcome::LaterEpoch => self.on_piece_of_later_epoch(from, view),
                    ChunkOutcome::Unusable => self.on_snapshot_gone(from, nonce, false),
                }
            }
            Message::SnapshotGone { nonce, stateless } => self.on_snapshot_gone(from, nonce, stateless),
            _ => {}
        }
    }

    pub(super) fn on_snapshot_gone(&mut self, from: MemberId, nonce: u64, stateless: bool) {
        let Some(gone) = self.cx.on_snapshot_gone(from, nonce, stateless) else { return };
        if let ReplicaState::ViewChange(change) = &mut self.state
            && gone.is_hopeless
        {
            let flow = change.send_summary_again(&mut self.cx);
            self.carry_out(flow);
        }
        self.cx.ask_others(gone);
    }

    /// The log stands on a state that was fetched.
    pub(super) fn rebase_log(&mut self, point: LogPoint) {
        if !self.cx.rebase_log(point, None) {
            return;
        }
        match &mut self.state {
            ReplicaState::CatchingUp(catching) => {
                let flow = catching.on_rebased(&mut self.cx, point.anchor.op);
                self.carry_out(flow);
            }
            ReplicaState::Backup(backup) => backup.on_rebased(),
            ReplicaState::ViewChange(change) => change.on_rebased(),
            // Its state has skipped entries that it has ordered itself, so it never answers their clients.
            ReplicaState::Primary(_) => {
                self.as_primary(|primary, cx| primary.abdicate(cx, "its state was replaced"))
            }
            ReplicaState::Forming(_) | ReplicaState::Entering(_) | ReplicaState::Retired(_) => {}
        }
    }
}
