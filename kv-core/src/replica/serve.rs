//! Answers to peers that request entries, hashes or snapshots.

use super::state::ReplicaState;
use super::{Output, Replica, Wrap, primary};
use crate::ids::{Anchor, Hash, MemberId, Op};
use crate::message::{EntryPastGap, FetchWhat, Message};
use bytes::Bytes;
use std::time::Duration;
use tracing::trace;

/// How many hashes one answer contains at most.
const MOST_HASHES: usize = 1024;

/// How long entries above a snapshot are kept for the peer that fetches it, after its last sign of life.
pub(super) const HOLD: Duration = Duration::from_secs(30);

impl Replica {
    /// Serves entries or hashes of the log that has `hash` at `through`, and of no other; without a hash, what is
    /// known to be committed (rule N6). The hashes of committed entries are the same in every log.
    pub(super) fn on_fetch(
        &mut self,
        to: MemberId,
        from: Op,
        through: Op,
        hash: Option<Hash>,
        nonce: u64,
        what: FetchWhat,
    ) {
        let is_ours = hash.is_none_or(|hash| self.known_hash(through) == Some(hash));
        let through = match hash {
            Some(_) if is_ours => through,
            // Below the remembered entries it is not known which log has this hash. The answer is the same as for a
            // range.
            Some(_) if what == FetchWhat::Entries && through <= self.trimmed() => {
                return self.too_old(to, nonce);
            }
            Some(_) if what == FetchWhat::Entries => return,
            Some(_) | None => through.min(self.commit),
        };
        match what {
            FetchWhat::Headers => {
                // A peer that knows the last hash learns nothing from it.
                let news =
                    if hash.is_some() && is_ours && from < through { through.previous() } else { through };
                if news < self.log.floor() {
                    return self.too_old(to, nonce);
                }
                self.serve_hashes(to, from, through, nonce);
            }
            FetchWhat::Entries => self.serve_entries(to, from, through, nonce),
        }
    }

    /// A peer that knows less to be committed than it holds may request hashes from below the point where all have
    /// trimmed, or where damage has raised the floor. Its log agrees above.
    fn serve_hashes(&mut self, to: MemberId, from: Op, through: Op, nonce: u64) {
        let mut hashes = Vec::new();
        let mut op = from.max(self.log.floor());
        while op <= through && hashes.len() < MOST_HASHES {
            // Behind damage, some hashes are not known. An answer must have no gaps.
            match self.known_hash(op) {
                Some(hash) => hashes.push((op, hash)),
                None if hashes.is_empty() => {}
                None => break,
            }
            op = op.next();
        }
        if hashes.is_empty() {
            trace!(%to, %from, %through, "cannot serve a fetch of hashes");
            self.too_old(to, nonce);
        } else {
            self.send(to, Message::Headers { nonce, hashes });
        }
    }

    /// Serves the first run of intact entries from `from` on.
    fn serve_entries(&mut self, to: MemberId, from: Op, through: Op, nonce: u64) {
        if from > through {
            trace!(%to, %from, %through, "cannot serve a fetch");
            return self.too_old(to, nonce);
        }
        if from <= self.trimmed() || self.log.is_faulty(from) {
            return self.answer_what_is_missing(to, from, nonce);
        }
        let head = self.log.head().op;
        let through = if from <= head {
            let last = self.log.run_within(from, through.min(head), primary::RUN_BYTES);
            self.anchor(last)
        } else {
            // One by one: intact entries behind damage may be the only copies.
            match self.log.past_gap().get(&from) {
                Some(EntryPastGap::Intact { meta, .. }) => Anchor::new(from, meta.hash),
                Some(EntryPastGap::Pinned(_)) | None => return,
            }
        };
        self.outputs.push_back(Output::SendEntries { to, from, through, wrap: Wrap::NewState { nonce } });
    }

    /// A peer needs an entry that is missing or unreadable here (rule T8).
    pub(super) fn answer_what_is_missing(&mut self, to: MemberId, op: Op, nonce: u64) {
        // If no peer has it, only a state can help. Until then, waiting is cheaper.
        let bad_for_good = !self.is_witness() && op <= self.reported_checkpoint() && self.has_no_source(op);
        if op <= self.trimmed() || bad_for_good {
            trace!(%to, %op, "the entries that a peer needs next were dropped");
            self.too_old(to, nonce);
        }
    }

    /// Answers a peer that needs entries which were dropped (rule T8).
    pub(super) fn too_old(&mut self, to: MemberId, nonce: u64) {
        let Some(checkpoint) = self.log.point(self.reported_checkpoint()) else { return };
        let primary_of = matches!(self.state, ReplicaState::Primary(_)).then_some(self.view);
        self.send(to, Message::TooOld { nonce, checkpoint, primary_of });
    }

    pub(super) fn on_get_snapshot(
        &mut self,
        from: MemberId,
        nonce: u64,
        at: Option<Anchor>,
        after: Option<Bytes>,
    ) {
        let above = at.map_or(self.checkpoint, |at| at.op);
        let until = self.now.monotonic.after(HOLD);
        self.transfer.held.insert(from, (above, until));
        let Some(after) = after else {
            if at.is_none() && !self.is_witness() {
                self.outputs.push_back(Output::MakeCheckpoint);
            }
            return;
        };
        if self.is_witness() {
            return self.send(from, Message::SnapshotGone { nonce, stateless: true });
        }
        self.outputs.push_back(Output::ReadSnapshot { to: from, nonce, at, after });
    }
}
