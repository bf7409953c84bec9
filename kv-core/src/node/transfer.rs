//! State transfer on a node: pieces of the own checkpoints for peers, read by the pool and sent at a bounded rate;
//! pieces of another's for the applier thread, which stores them and puts the whole in the place of its state.

use super::StopReason;
use super::merges;
use super::pool::{JobOwner, Kind};
use super::shared::Shared;
use super::sync::lock;
use crate::config::{Cluster, Role};
use crate::engine::EngineError;
use crate::ids::{Anchor, MemberId};
use crate::kv::{Receiver, StateMachine};
use crate::message::{CHUNK_BYTES, Chunk, Message};
use crate::replica::Input;
use bytes::Bytes;
use std::sync::Arc;

/// A piece of a snapshot that a peer has asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Piece {
    /// Goes into the answer.
    pub(super) nonce: u64,
    /// Which snapshot; `None` for the newest.
    pub(super) at: Option<Anchor>,
    /// The place after which it begins.
    pub(super) after: Bytes,
}

/// What the applier is to do with a snapshot of another member's.
#[derive(Debug)]
pub(super) enum Task {
    /// Store a piece.
    Stage(Anchor, Chunk),
    /// Put the whole in the place of the state.
    Install(Anchor),
    /// Throw it away.
    Discard(Anchor),
}

/// Reads a piece. Blocks.
pub(super) fn read(shared: &Shared, to: MemberId, piece: &Piece) -> Message {
    let Piece { nonce, at, after } = piece;
    let life = shared.state_life();
    let snapshot = lock(&shared.sources).get(to, *at, shared.clock.monotonic());
    let gone = || Message::SnapshotGone { nonce: *nonce, stateless: shared.state().is_none() };
    let Some(snapshot) = snapshot else {
        if at.is_none() {
            shared.applier_queue.change_one(|plan| plan.asked = true);
        }
        return gone();
    };
    match snapshot.chunk(after, CHUNK_BYTES) {
        Ok(chunk) => {
            // Looked at last: no earlier than the view in which the snapshot was committed.
            let view = shared.view();
            Message::SnapshotChunk { nonce: *nonce, view, at: snapshot.anchor(), chunk }
        }
        Err(error) if shared.state().is_some() => {
            shared.state_failed(life, error);
            Message::SnapshotGone { nonce: *nonce, stateless: true }
        }
        Err(error) => {
            // Of a state that is set aside: others may have this piece, and other pieces can be read after it has been
            // opened again.
            tracing::debug!(%error, "a piece of the damaged state cannot be read");
            shared.applier_queue.change(|plan| plan.reopen = true);
            gone()
        }
    }
}

/// Reads a piece of what is set aside here, on a thread of the pool.
pub(super) fn read_own(shared: &Arc<Shared>, piece: Piece) {
    let job = shared.clone();
    shared.peers.run(Kind::Read, JobOwner::NODE, move || {
        let message = read(&job, job.me, &piece);
        job.inbox.transferred(Input::OwnPiece { message });
    });
}

/// Whether another member has data: a damaged state can be replaced by its.
pub(super) fn has_data_peer(cluster: &Cluster, me: MemberId) -> bool {
    cluster.peers(me).any(|peer| peer.role == Role::Data)
}

impl Shared {
    /// The state that was there at `life` cannot be read. If it is damaged it is set aside, and another one is fetched
    /// (rule T9); otherwise, and where there is nobody to fetch it from, this member stops.
    pub(super) fn state_failed(&self, life: u64, error: EngineError) {
        if life != self.state_life() {
            tracing::debug!(%error, "ignoring an error of a state that has been replaced");
        } else if self.can_replace_state(&error) {
            self.applier_queue.change(|plan| plan.lost = Some((life, error)));
        } else {
            self.part_failed("cannot read the state", &error, StopReason::Engine(error.clone()));
        }
    }

    /// Whether another state can take the place of one that failed so.
    pub(super) fn can_replace_state(&self, error: &EngineError) -> bool {
        matches!(error, EngineError::Damaged { .. }) && has_data_peer(&self.members.now().cluster, self.me)
    }
}

/// The applier stores a piece. Returns how far the pieces go.
pub(super) fn stage(receiver: &mut Receiver, at: Anchor, chunk: &Chunk) -> Result<Input, EngineError> {
    receiver.stage(at, chunk)?;
    let progress = receiver.progress().map(|(at, end)| Input::Staged { at, end });
    Ok(progress.unwrap_or(Input::SnapshotRefused { at }))
}

/// The applier verifies the whole, and puts it in the place of `state`. Returns whether it came to that.
pub(super) fn install(
    receiver: &mut Receiver,
    shared: &Shared,
    at: Anchor,
    state: &mut Option<Box<StateMachine>>,
) -> Result<Input, EngineError> {
    if !receiver.may_replace(state.as_deref(), at)? {
        return Ok(Input::SnapshotRefused { at });
    }
    shared.take_state();
    *state = None;
    merges::wait(shared);
    let new = receiver.switch()?;
    let (point, configuration) = (new.point(), new.configuration().cloned().map(Box::new));
    shared.set_state(new.reader());
    lock(&shared.sources).publish(new.snapshot());
    *state = Some(Box::new(new));
    tracing::info!(op = %at.op, "installed the state of another member");
    Ok(Input::SnapshotInstalled { point, configuration })
}
