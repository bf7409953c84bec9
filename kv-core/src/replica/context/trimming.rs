//! Checkpoints, and dropping entries that no member needs any more.

use super::Context;
use crate::ids::{Anchor, Instant, Op, WriteSeq};
use crate::message::Write;
use std::time::Duration;
use tracing::error;

/// How often a witness logs that its journal is full.
const ALARM_EVERY: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Trimming {
    /// The own journal may have dropped entries at or below this op.
    trim: Op,
    /// The durable checkpoint that is reported to others.
    reported: Op,
    /// The write of the present checkpoint.
    written: WriteSeq,
    /// When a witness takes its next checkpoint.
    next_at: Instant,
    /// When a witness logs again that its journal is full.
    alarm_at: Instant,
}

impl Trimming {
    pub(crate) fn new(trim: Op, checkpoint: Op, now: Instant) -> Self {
        Self { trim, reported: checkpoint, written: WriteSeq::ZERO, next_at: now, alarm_at: now }
    }
}

impl Context {
    pub(crate) fn on_checkpointed(&mut self, checkpoint: Anchor) {
        if checkpoint.op > self.checkpoint {
            assert!(self.log.holds(checkpoint), "a checkpoint lies on the committed log");
            assert!(checkpoint.op <= self.log.durable().op, "a checkpoint covers durable entries only");
            self.checkpoint = checkpoint.op;
            self.trimming.written = self.write(Write::Checkpoint(checkpoint));
            self.discard_outdated_snapshot();
        }
    }

    pub(crate) fn checkpoint_durable(&mut self) {
        if self.is_durable(self.trimming.written) {
            self.trimming.reported = self.checkpoint;
        }
    }

    /// The op up to which this member needs no log, even after a crash.
    pub(crate) fn reported_checkpoint(&self) -> Op {
        // A member without a state holds nothing, whatever it once had.
        if self.transfer.stateless { Op::ZERO } else { self.trimming.reported }
    }

    /// A witness has no engine: what is durable and committed counts as held. It makes that point durable regularly.
    /// Otherwise a restart would forget what is known to be committed, and the witness would request hashes from
    /// further below.
    pub(crate) fn checkpoint_of_witness(&mut self) {
        let now = self.now.monotonic;
        let held = self.applicable().min(self.log.durable().op);
        if self.is_witness() && held > self.checkpoint && now >= self.trimming.next_at {
            self.trimming.next_at = now.after(self.options.failure_timeout_max);
            self.on_checkpointed(self.anchor(held));
        }
    }

    /// The own journal may have dropped entries at or below this op.
    pub(crate) fn trimmed(&self) -> Op {
        self.trimming.trim
    }

    /// The log has been rebased on this point. Everything at or below it is in the state. Reported when it is
    /// durable.
    pub(crate) fn note_rebase(&mut self, anchor: Anchor, keeps: bool, seq: WriteSeq) {
        self.checkpoint = self.checkpoint.max(anchor.op);
        self.trimming.written = seq;
        if !keeps {
            self.trimming.trim = self.trimming.trim.max(anchor.op);
        }
    }

    /// The state has been replaced by an older one, on the same log.
    pub(crate) fn state_went_back(&mut self, op: Op) {
        self.checkpoint = op;
        self.trimming.reported = op;
    }

    /// Rule T8: drops entries that no member needs any more, and entries beyond the budget even if members that are
    /// away need them. `needless` is the smallest checkpoint of all members.
    pub(crate) fn on_trim(&mut self, needless: Op) {
        if self.own_stop().is_some() || !self.is_settled() {
            // Rule M7: those that the next epoch needs may lack the last entries of this one.
            return;
        }
        let own = self.reported_checkpoint();
        let mut trim = needless.max(self.beyond_budget(own)).min(own);
        if let Some(held) = self.transfer.holds_above(self.now.monotonic) {
            trim = trim.min(held);
        }
        if trim > self.trimming.trim {
            self.trimming.trim = trim;
            self.write(Write::Trim(trim));
            // Some ops below stay in memory: a peer that installs a view compares hashes around its own commit point.
            let keep = trim.back(2 * u64::from(self.options.pipeline_depth));
            if keep > self.log.floor() {
                self.log.trim(keep);
            }
        }
    }

    /// The last op, at most `own`, whose entries exceed the budget of the journal. The limit of a witness only
    /// protects its disk: what it then drops may be needed, and the cluster may have to wait for the member that has
    /// it.
    fn beyond_budget(&mut self, own: Op) -> Op {
        let witness = self.is_witness();
        let budget =
            if witness { self.options.witness_journal_bytes } else { self.options.journal_retention_bytes };
        let beyond = self.log.beyond_budget(budget, own);
        let now = self.now.monotonic;
        if witness && beyond > self.trimming.trim && now >= self.trimming.alarm_at {
            self.trimming.alarm_at = now.after(ALARM_EVERY);
            error!(
                op = %beyond,
                bytes = budget,
                "the journal of this witness is full: dropping entries that a data member still needs. Bring that member back"
            );
        }
        beyond
    }
}
