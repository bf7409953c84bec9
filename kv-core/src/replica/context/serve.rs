//! Answers to peers that request entries, hashes or snapshots.

use super::{Context, Output};
use crate::ids::{Anchor, Hash, MemberId, Op, View};
use crate::message::{EntryPastGap, FetchWhat, Message};
use crate::replica::Wrap;
use bytes::Bytes;
use std::time::Duration;
use tracing::trace;

/// How many hashes one answer contains at most.
const MOST_HASHES: usize = 1024;

/// How long entries above a snapshot are kept for the peer that fetches it, after its last sign of life.
pub(crate) const HOLD: Duration = Duration::from_secs(30);

/// How many bytes of bodies one `SendEntries` may contain.
pub(crate) const RUN_BYTES: usize = 1 << 20;

/// Who requests something.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Requester {
    pub(crate) id: MemberId,
    /// The nonce of its request; zero if it made none.
    pub(crate) nonce: u64,
    /// The view that this member is the primary of, to be sent with a refusal.
    pub(crate) primary_of: Option<View>,
}

impl Context {
    /// Serves entries or hashes of the log that has `hash` at `through`, and of no other; without a hash, what is
    /// known to be committed (rule N6). The hashes of committed entries are the same in every log.
    pub(crate) fn on_fetch(
        &mut self,
        to: Requester,
        from: Op,
        through: Op,
        hash: Option<Hash>,
        what: FetchWhat,
    ) {
        let is_ours = hash.is_none_or(|hash| self.known_hash(through) == Some(hash));
        let through = match hash {
            Some(_) if is_ours => through,
            // Below the remembered entries it is not known which log has this hash. The answer is the same as for a
            // range.
            Some(_) if what == FetchWhat::Entries && through <= self.trimmed() => {
                return self.too_old(to);
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
                    return self.too_old(to);
                }
                self.serve_hashes(to, from, through);
            }
            FetchWhat::Entries => self.serve_entries(to, from, through),
        }
    }

    /// A peer that knows less to be committed than it holds may request hashes from below the point where all have
    /// trimmed, or where damage has raised the floor. Its log agrees above.
    fn serve_hashes(&mut self, to: Requester, from: Op, through: Op) {
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
            trace!(to = %to.id, %from, %through, "cannot serve a fetch of hashes");
            self.too_old(to);
        } else {
            self.send(to.id, Message::Headers { nonce: to.nonce, hashes });
        }
    }

    /// Serves the first run of intact entries from `from` on.
    fn serve_entries(&mut self, to: Requester, from: Op, through: Op) {
        if from > through {
            trace!(to = %to.id, %from, %through, "cannot serve a fetch");
            return self.too_old(to);
        }
        if from <= self.trimmed() || self.log.is_faulty(from) {
            return self.answer_what_is_missing(to, from);
        }
        let head = self.log.head().op;
        let through = if from <= head {
            let last = self.log.run_within(from, through.min(head), RUN_BYTES);
            self.anchor(last)
        } else {
            // One by one: intact entries behind damage may be the only copies.
            match self.log.past_gap().get(&from) {
                Some(EntryPastGap::Intact { meta, .. }) => Anchor::new(from, meta.hash),
                Some(EntryPastGap::Pinned(_)) | None => return,
            }
        };
        let wrap = Wrap::NewState { nonce: to.nonce };
        self.outputs.push_back(Output::SendEntries { to: to.id, from, through, wrap });
    }

    /// A peer needs an entry that is missing or unreadable here (rule T8).
    pub(crate) fn answer_what_is_missing(&mut self, to: Requester, op: Op) {
        // If no peer has it, only a state can help. Until then, waiting is cheaper.
        let bad_for_good = !self.is_witness() && self.has_no_source(op);
        if op <= self.trimmed() || (bad_for_good && op <= self.reported_checkpoint()) {
            trace!(to = %to.id, %op, "the entries that a peer needs next were dropped");
            self.too_old(to);
        } else if bad_for_good && op <= self.applied && !self.transfer.stateless {
            // Only the state in memory contains it.
            self.outputs.push_back(Output::MakeCheckpoint);
        }
    }

    /// Answers a peer that needs entries which were dropped (rule T8).
    pub(crate) fn too_old(&mut self, to: Requester) {
        let Some(checkpoint) = self.log.point(self.reported_checkpoint()) else { return };
        let Requester { id, nonce, primary_of } = to;
        self.send(id, Message::TooOld { nonce, checkpoint, primary_of });
    }

    pub(crate) fn on_get_snapshot(
        &mut self,
        from: MemberId,
        nonce: u64,
        at: Option<Anchor>,
        after: Option<Bytes>,
    ) {
        let above = at.map_or(self.checkpoint, |at| at.op);
        let until = self.now.monotonic.after(HOLD);
        if !self.transfer.stateless {
            self.transfer.held.insert(from, (above, until));
        }
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
