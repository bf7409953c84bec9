//! Checkpoints, and dropping what nobody needs any more.

use super::Replica;
use crate::ids::{Anchor, Instant, Op, WriteSeq};
use crate::message::Write;

#[derive(Debug)]
pub(super) struct Trimming {
    /// Entries at or below may be gone from the own journal.
    trim: Op,
    /// The checkpoint that others are told: it is durable.
    told: Op,
    /// The write of the present checkpoint.
    written: WriteSeq,
    /// When a witness takes its next checkpoint.
    next_at: Instant,
}

impl Trimming {
    pub(super) fn new(trim: Op, checkpoint: Op, now: Instant) -> Self {
        Self { trim, told: checkpoint, written: WriteSeq::ZERO, next_at: now }
    }
}

impl Replica {
    pub(super) fn on_checkpointed(&mut self, checkpoint: Anchor) {
        if checkpoint.op > self.checkpoint {
            assert!(self.log.holds(checkpoint), "a checkpoint lies on the committed log");
            assert!(checkpoint.op <= self.log.durable().op, "a checkpoint covers durable entries only");
            self.checkpoint = checkpoint.op;
            self.trimming.written = self.write(Write::Checkpoint(checkpoint));
        }
    }

    pub(super) fn checkpoint_durable(&mut self) {
        if self.is_durable(self.trimming.written) {
            self.trimming.told = self.checkpoint;
        }
    }

    /// What this member holds without needing the log below, after a crash too.
    pub(super) fn told_checkpoint(&self) -> Op {
        self.trimming.told
    }

    /// A witness has no engine: for it, what is durable and committed is held. It makes the point durable now and then, because
    /// what it only knows to be committed is forgotten by a restart, and it asks then for hashes from further below.
    pub(super) fn checkpoint_of_witness(&mut self) {
        let now = self.now.monotonic;
        let held = self.commit.min(self.log.durable().op);
        if self.is_witness() && held > self.checkpoint && now >= self.trimming.next_at {
            self.trimming.next_at = now.after(self.options.suspect_max);
            self.on_checkpointed(self.anchor(held));
        }
    }

    /// Drops what nobody needs any more.
    pub(super) fn on_trim(&mut self, trim: Op) {
        let trim = trim.min(self.checkpoint);
        if trim > self.trimming.trim {
            self.trimming.trim = trim;
            self.write(Write::Trim(trim));
            // Some ops below stay in memory: a peer that installs a view compares hashes around its own commit point.
            let keep = trim.back(2 * u64::from(self.options.pipeline));
            if keep > self.log.floor() {
                self.log.trim(keep);
            }
        }
    }
}
