//! Reads of bounded age (rule R4): what a confirmed round of the primary proves to this member.

use super::Context;
use crate::ids::{Anchor, Instant, MemberId, Op, Round};
use crate::message::{Fresh, Message, Moment};
use crate::replica::Now;
use std::time::Duration;

impl Context {
    /// The present time of this life, for others to return.
    const fn moment(&self) -> Moment {
        Moment { life: self.life, at: self.now.monotonic }
    }

    /// Answers a heartbeat, and so its round. `log` is what this member acknowledges; `None` if nothing yet.
    pub(crate) fn answer_heartbeat(&mut self, to: MemberId, round: Round, log: Option<Anchor>) {
        let (view, checkpoint, sent) = (self.view, self.reported_checkpoint(), self.moment());
        self.promise();
        self.send(to, Message::CommitOk { view, round, log, checkpoint, sent });
        if !self.is_voter() {
            // The change that gives it a vote names its disk (rule M6).
            self.send(to, self.ask());
        }
    }

    /// The primary has sent what a confirmed round proves to this member. It stays true, whatever happens to the
    /// primary, and however late the message arrives.
    pub(crate) fn on_fresh(&mut self, fresh: Fresh) {
        let Fresh { op, since } = fresh;
        if since.life == self.life && since.at <= self.now.monotonic {
            self.note_fresh(op, since.at);
        }
    }

    /// Everything that was acknowledged to anyone before `since` is at or below `op`.
    pub(crate) fn note_fresh(&mut self, op: Op, since: Instant) {
        if self.fresh.is_none_or(|(_, before)| before < since) {
            self.fresh = Some((op, since));
        }
    }

    /// The op that a state must have applied to contain everything acknowledged to anyone until `bound` before `now`.
    /// `None` if no round proves such an op.
    pub(crate) fn fresh(&self, now: Now, bound: Duration) -> Option<Op> {
        let (op, since) = self.fresh?;
        // A clock runs at no less than nine tenths of the true rate.
        (now.monotonic.since(since) <= bound / 10 * 9).then_some(op)
    }
}
