//! Answers to those who ask for entries or hashes.

use super::{Output, Replica, Wrap, primary};
use crate::ids::{Hash, MemberId, Op};
use crate::message::{Behind, FetchWhat, Message};
use tracing::trace;

/// How many hashes one answer tells.
const MOST_HASHES: usize = 1024;

impl Replica {
    /// Serves entries or hashes: of the log that has `hash` at `through` and of no other; without a hash, what is known to be
    /// committed (rule N6). Hashes of what is committed are the same in every log.
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
            #[cfg(any(test, feature = "sim"))]
            Some(_) if self.has_bug(crate::sim::Bug::FetchFromAnyLog) => through.min(self.log.head().op),
            // Below what is remembered nobody can say whose the hash is: it is told what it would be told of a range.
            Some(_) if what == FetchWhat::Entries && through <= self.trimmed() => {
                return self.too_old(to, nonce);
            }
            Some(_) if what == FetchWhat::Entries => return,
            Some(_) | None => through.min(self.commit),
        };
        match what {
            FetchWhat::Headers => {
                // One that knows the last hash learns nothing from it.
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

    /// One that knows less to be committed than it holds may ask from below where all have trimmed, or where damage has raised the
    /// floor; its log agrees above.
    fn serve_hashes(&mut self, to: MemberId, from: Op, through: Op, nonce: u64) {
        let mut hashes = Vec::new();
        let mut op = from.max(self.log.floor());
        while op <= through && hashes.len() < MOST_HASHES {
            // Behind damage, some are not known: an answer is without gaps.
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

    /// The first run of intact entries, from `from` on.
    fn serve_entries(&mut self, to: MemberId, from: Op, through: Op, nonce: u64) {
        if from > through {
            trace!(%to, %from, %through, "cannot serve a fetch");
            return self.too_old(to, nonce);
        }
        if from <= self.trimmed() || self.log.is_faulty(from) {
            return self.tell_what_is_missing(to, from, nonce);
        }
        let head = self.log.head().op;
        let through = if from <= head {
            let last = self.log.run_within(from, through.min(head), primary::RUN_BYTES);
            self.anchor(last)
        } else {
            // One at a time: intact entries behind damage may be the only copies.
            match self.log.behind().get(&from) {
                Some(Behind::Intact { meta, .. }) => crate::ids::Anchor::new(from, meta.hash),
                Some(Behind::Pinned(_)) | None => return,
            }
        };
        self.outputs.push_back(Output::SendEntries { to, from, through, wrap: Wrap::NewState { nonce } });
    }

    /// A peer needs an entry that is not there, or cannot be read (rule T8).
    pub(super) fn tell_what_is_missing(&mut self, to: MemberId, op: Op, nonce: u64) {
        // Where nobody who was asked has it, only a state can help. Until then to wait is cheaper.
        let bad_for_good =
            !self.is_witness() && op <= self.told_checkpoint() && self.was_asked_for_in_vain(op);
        if op <= self.trimmed() || bad_for_good {
            trace!(%to, %op, "what a peer needs next is gone here");
            self.too_old(to, nonce);
        }
    }
}
