//! What a primary sends to its peers beyond what they have acknowledged, and what it sends again (rules N2 and N6).

use super::Primary;
use crate::ids::{MemberId, Op};
use crate::replica::context::{Context, RUN_BYTES, Requester};
use crate::replica::{Output, Wrap};

/// How many bytes of entries a peer is sent beyond its acknowledgements: less than the queue of a link holds.
pub(crate) const WINDOW_BYTES: usize = 6 << 20;

impl Primary {
    /// The peers that have acknowledged anything in this view.
    pub(in crate::replica) fn acknowledging(&self) -> impl Iterator<Item = MemberId> {
        self.peers.iter().filter(|(_, peer)| peer.installed).map(|(id, _)| *id)
    }

    /// Sends a peer the entries that it lacks, within its window.
    pub(super) fn replicate_to(&mut self, cx: &mut Context, to: MemberId) {
        let peer = self.peer(to);
        if peer.next > cx.log.head().op {
            return;
        }
        let end = window_end(cx, peer.acked);
        while self.send_run(cx, to, end) {}
    }

    /// Sends a peer the next entries up to `end`, at most so many as are read at once. Returns whether there were any.
    fn send_run(&mut self, cx: &mut Context, to: MemberId, end: Op) -> bool {
        let from = self.peer(to).next;
        if from > end {
            return false;
        }
        if from <= cx.trimmed() || cx.log.is_faulty(from) {
            cx.answer_what_is_missing(unasked(cx, to), from);
            return false;
        }
        let last = cx.log.run_within(from, end, RUN_BYTES);
        self.peer(to).next = last.next();
        let (through, wrap) = (cx.anchor(last), Wrap::Prepare { view: cx.view, commit: cx.commit() });
        cx.outputs.push_back(Output::SendEntries { to, from, through, wrap });
        true
    }

    /// A peer lacks the entry at `op`, which was sent to it: it drops those that arrive before that entry, so they are
    /// sent again, in this order.
    pub(in crate::replica) fn on_lack(&mut self, cx: &mut Context, to: MemberId, op: Op) {
        let peer = self.peer(to);
        // Once for all that was sent: the peer asks again for what is on the way, and a peer whose disk is damaged
        // requests entries in the same way.
        if peer.installed && peer.acked < op && op < peer.next && peer.lacked < op {
            peer.lacked = peer.next.previous();
            peer.next = op;
            peer.is_anew = false;
            peer.moved_at = cx.now.monotonic;
            self.replicate_to(cx, to);
        }
    }

    /// A peer that answers but makes no progress has lost a message.
    pub(super) fn send_anew(&mut self, cx: &mut Context, to: MemberId) {
        let (now, most) = (cx.now.monotonic, cx.options.failure_timeout_max);
        let peer = self.peer(to);
        if peer.acked.next() < peer.next && now.since(peer.moved_at) >= peer.patience {
            peer.next = peer.acked.next();
            peer.moved_at = now;
            peer.patience = (peer.patience * 2).min(most);
            // No more than a run: all of it may still be on a slow way.
            let end = window_end(cx, peer.acked);
            self.peer(to).is_anew = self.send_run(cx, to, end);
        }
    }
}

/// The last entry that a peer is sent before it acknowledges more than `acked`. The bytes are limited too: a link
/// drops what does not fit into its queue, and the peer would drop all that follows.
pub(super) fn window_end(cx: &Context, acked: Op) -> Op {
    let head = cx.log.head().op;
    let end = head.min(acked.advance(u64::from(cx.options.pipeline_depth) * 2));
    if acked < end { cx.log.run_within(acked.next(), end, cx.window_bytes) } else { end }
}

/// A peer that lacks entries, and has not asked for them.
pub(super) const fn unasked(cx: &Context, peer: MemberId) -> Requester {
    Requester { id: peer, nonce: 0, primary_of: Some(cx.view) }
}
