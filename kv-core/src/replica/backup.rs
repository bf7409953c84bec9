//! A backup in normal status: its log is a prefix of the log of the primary that it follows (rules N1 to N6).

use super::Halt;
use super::context::Context;
use super::monitor::PrimaryMonitor;
use crate::ids::{Anchor, Hash, Instant, MemberId, Op, Round};
use crate::message::{Age, Entry, FetchWhat, Fresh, Message};
use tracing::debug;

/// The content of a primary's `Commit`, except its view.
#[derive(Debug)]
pub(super) struct Heartbeat {
    pub(super) commit: Anchor,
    pub(super) age: Age,
    pub(super) round: Round,
    pub(super) trim: Op,
    pub(super) fresh: Option<Fresh>,
}

#[derive(Debug)]
pub(super) struct Backup {
    pub(super) watch: PrimaryMonitor,
    /// A request to the primary for the entries between the head and a Prepare that arrived too early.
    gap: Option<Gap>,
}

/// A request for missed entries.
#[derive(Debug)]
struct Gap {
    nonce: u64,
    expires: Instant,
}

impl Backup {
    pub(super) fn new(cx: &mut Context) -> Self {
        debug!(view = %cx.view, head = ?cx.log.head(), "backup");
        assert!(cx.log_view == cx.view, "a backup has installed its view's log");
        cx.attempts = 0;
        Self { watch: PrimaryMonitor::new(cx), gap: None }
    }

    /// Rule V1: a backup of the first view has never heard its primary.
    pub(super) fn first(cx: &mut Context) -> Self {
        let Self { watch, gap } = Self::new(cx);
        Self { watch: watch.waiting_for_first(), gap }
    }

    /// The nonce of the request for missed entries.
    pub(super) fn gap_nonce(&self) -> Option<u64> {
        self.gap.as_ref().map(|gap| gap.nonce)
    }

    /// The log was rebased: answers to requests about the earlier log no longer count.
    pub(super) fn on_rebased(&mut self) {
        self.gap = None;
    }

    pub(super) fn on_prepare(&mut self, cx: &mut Context, commit: Anchor, entry: Entry) {
        let head = cx.log.head();
        let (op, hash) = (entry.header.op, entry.header.hash());
        if op > head.op.next() {
            self.on_gap(cx, op.previous(), entry.header.parent);
        } else if op == head.op.next() {
            if cx.log.follows(&entry.header) && entry.header.cluster == cx.cluster.id() {
                assert!(!cx.log.contradicts(entry.header.anchor()), "a backup has no gap");
                cx.append_run(vec![entry], true, |_| true);
            } else {
                // Rule N5: once the log of this view is installed, the head is a point of the primary's log.
                return cx.halt(Halt::Diverged { op: head.op, ours: head.hash, theirs: entry.header.parent });
            }
        } else if let Some(ours) = cx.log.hash(op).filter(|ours| *ours != hash) {
            return cx.halt(Halt::Diverged { op, ours, theirs: hash });
        } else if op <= cx.log.durable().op {
            self.acknowledge(cx);
        }
        cx.note_commit(cx.view, commit);
    }

    /// Entries up to `through` are missing: requests them from the primary.
    fn on_gap(&mut self, cx: &mut Context, through: Op, hash: Hash) {
        let (now, nonce) = (cx.now.monotonic, cx.nonce());
        if self.gap.as_ref().is_some_and(|gap| gap.expires > now) {
            return;
        }
        let nonce = self.gap_nonce().unwrap_or(nonce);
        self.gap = Some(Gap { nonce, expires: now.after(cx.options.heartbeat * 2) });
        let (from, hash) = (cx.log.head().op.next(), Some(hash));
        cx.send(cx.primary(), Message::Fetch { from, through, hash, nonce, what: FetchWhat::Entries });
    }

    /// Appends missed entries. The log of a primary only grows within its view, so the entries that it sends after
    /// our head belong to its log.
    pub(super) fn fill_gap(&mut self, cx: &mut Context, from: MemberId, nonce: u64, entries: Vec<Entry>) {
        if from != cx.primary() || self.gap_nonce() != Some(nonce) {
            return;
        }
        self.gap = None;
        self.watch.sign_of_life(cx);
        cx.append_run(entries, true, |_| true);
    }

    /// Rule N4: acknowledges to the primary what is durable here, in the log of this view.
    pub(super) fn acknowledge(&self, cx: &mut Context) {
        let primary = cx.primary();
        if primary != cx.me && !cx.transfer.is_rebasing() {
            cx.send(primary, Message::PrepareOk { view: cx.view, log: cx.durable_prefix() });
        }
    }

    /// Rules N4 and N5: learns what is committed, and acknowledges what is durable.
    pub(super) fn on_commit(&self, cx: &mut Context, from: MemberId, heartbeat: &Heartbeat) {
        cx.note_commit(cx.view, heartbeat.commit);
        if cx.halted {
            return;
        }
        cx.checkpoint_of_witness();
        cx.on_trim(heartbeat.trim);
        let log = (!cx.transfer.is_rebasing()).then(|| cx.durable_prefix());
        cx.answer_heartbeat(from, heartbeat.round, log);
    }
}
