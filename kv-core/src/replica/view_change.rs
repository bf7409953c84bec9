//! Between two views: `DoViewChange`, and at the primary of the new view the decision about its log (rules V3 to V6).

use super::Halt;
use super::context::{Context, Flow, Suspicion, lost, well_formed};
use super::decide::{LogDecision, Quorums, decide};
use super::install::{Install, Summaries};
use crate::ids::{Instant, MemberId, Op, View, WriteSeq};
use crate::message::{LogSummary, Message};
use std::time::Duration;
use tracing::{debug, info};

/// The longest patience with a view, in multiples of `failure_timeout_max`. Jitter at most doubles it.
const MOST_PATIENCE: u32 = 4;

#[derive(Debug)]
pub(super) struct ViewChange {
    /// The write that makes the view, and the log that is reported, durable. Nothing is sent in the view before.
    persisted: WriteSeq,
    /// The summary that this member has sent.
    sent: Option<LogSummary>,
    /// The latest summary of each member, this one included.
    summaries: Summaries,
    /// All members have answered once, and their answers amount to a loss.
    doubted: bool,
    resend_at: Instant,
    /// Rule R6: nothing is sent before this time.
    held_until: Option<Instant>,
    /// When to vote for the next view.
    patience_ends: Instant,
    /// The limit even if an installation makes progress: other members may be further.
    patience_ends_at_last: Instant,
    pub(super) suspicion: Option<Suspicion>,
    /// At the primary of the view, once the log is decided.
    pub(super) install: Option<Install>,
}

/// How long a view change may take.
pub(super) fn patience(cx: &mut Context) -> Duration {
    let doubled = cx.options.failure_timeout_min * 4 * (1 << cx.attempts.min(4));
    cx.jittered(doubled.min(cx.options.failure_timeout_max * MOST_PATIENCE))
}

impl ViewChange {
    /// `persisted` is the write of the present view.
    pub(super) fn new(cx: &mut Context, persisted: WriteSeq) -> Self {
        cx.attempts += 1;
        let patience = patience(cx);
        let (now, held_until) = (cx.now.monotonic, cx.held_until());
        // The time of the promise does not count as patience.
        let patience = patience + held_until.map_or(Duration::ZERO, |until| until.since(now));
        Self {
            held_until,
            persisted,
            sent: None,
            summaries: Summaries::new(),
            doubted: false,
            resend_at: now.after(cx.options.heartbeat * 4),
            patience_ends: now.after(patience),
            patience_ends_at_last: now.after(cx.options.failure_timeout_max * (MOST_PATIENCE * 2)),
            suspicion: None,
            install: None,
        }
    }

    pub(super) fn next_timeout(&self) -> Instant {
        let vote = self.suspicion.map_or(self.patience_ends, |suspicion| suspicion.resend_at);
        let install = self.install.as_ref().map_or(vote, |install| install.retry_at);
        let held = self.held_until.unwrap_or(vote);
        self.resend_at.min(vote).min(install).min(held)
    }

    pub(super) fn on_durable(&mut self, cx: &mut Context) -> Flow {
        self.send_when_durable(cx)?;
        self.drive_install(cx)
    }

    pub(super) fn on_timeout(&mut self, cx: &mut Context) -> Flow {
        let now = cx.now.monotonic;
        self.end_hold(cx)?;
        if now >= self.resend_at {
            self.send_do_view_change(cx);
        }
        match self.suspicion {
            Some(vote) if now >= vote.resend_at => cx.suspect(&mut self.suspicion, vote.target)?,
            None if now >= self.patience_ends => cx.suspect(&mut self.suspicion, cx.view.next())?,
            Some(_) | None => {}
        }
        self.drive_install(cx)
    }

    // -- the summaries (rules V3, V4)

    /// Rule V3: once the view is durable, messages may be sent in it.
    pub(super) fn send_when_durable(&mut self, cx: &mut Context) -> Flow {
        let held = cx.held_until().is_some() || cx.transfer.is_rebasing();
        if held || self.sent.is_some() || !cx.is_durable(self.persisted) {
            return Flow::Continue(());
        }
        self.send_summary(cx)
    }

    fn send_summary(&mut self, cx: &mut Context) -> Flow {
        let summary = cx.summary();
        self.sent = Some(summary.clone());
        self.summaries.insert(cx.me, summary);
        self.send_do_view_change(cx);
        self.decide_log(cx)
    }

    fn send_do_view_change(&mut self, cx: &mut Context) {
        self.resend_at = cx.now.monotonic.after(cx.options.heartbeat * 4);
        if let Some(log) = self.sent.clone() {
            let ages = cx.ages_of(&log);
            cx.broadcast(&Message::DoViewChange { view: cx.view, log, ages });
        }
    }

    /// What was sent before is outdated: the log was rebased, an entry was repaired, or no state can be had.
    pub(super) fn send_summary_again(&mut self, cx: &mut Context) -> Flow {
        // A decision stands, whatever was sent about this log. Its entries and `log_view` may still be on their way
        // to the disk, and must not be sent yet.
        if self.sent.is_none() || self.install.is_some() {
            return self.drive_install(cx);
        }
        self.sent = None;
        self.send_when_durable(cx)
    }

    /// The log has changed: what was sent about it is outdated, and is sent again when the change is durable (rule D1).
    pub(super) fn on_appended(&mut self, cx: &Context) {
        (self.persisted, self.sent) = (cx.writes.last, None);
    }

    /// A member that is or was in `view` sends a summary.
    pub(super) fn on_do_view_change(
        &mut self,
        cx: &mut Context,
        from: MemberId,
        view: View,
        log: LogSummary,
    ) -> Flow {
        self.end_hold(cx)?;
        if view != cx.view || !well_formed(&log, u64::from(cx.options.pipeline_depth)) {
            return Flow::Continue(());
        }
        self.summaries.insert(from, log);
        self.decide_log(cx)
    }

    /// Rule R6: the promise has ended or was released, so the summary may be sent.
    fn end_hold(&mut self, cx: &mut Context) -> Flow {
        let held = cx.held_until();
        if self.held_until.take_if(|_| held.is_none()).is_some() {
            self.send_when_durable(cx)?;
        }
        Flow::Continue(())
    }

    // -- the decision (rules V5, V6)

    /// At the primary of the view: decides its log as soon as the votes allow, and starts to install it.
    fn decide_log(&mut self, cx: &mut Context) -> Flow {
        if self.halt_if_lost(cx) || cx.primary() != cx.me {
            return Flow::Continue(());
        }
        if cx.transfer.stateless {
            return self.yield_view(cx);
        }
        if Self::leaves_to_others(cx) {
            return self.yield_view(cx);
        }
        let quorums = Quorums {
            members: cx.cluster.voter_count(),
            view_change: cx.cluster.view_change_quorum(),
            nack: cx.cluster.nack_quorum(),
        };
        if self.sent.is_none() || self.install.is_some() {
            return Flow::Continue(());
        }
        let everyone = self.summaries.len() == quorums.members;
        let decided = match decide(&self.summaries, quorums) {
            LogDecision::Log(decided) => decided,
            LogDecision::Stuck(op) => {
                if everyone {
                    self.on_lost(cx, op);
                }
                return Flow::Continue(());
            }
            LogDecision::TooFew => return Flow::Continue(()),
        };
        debug!(view = %cx.view, base = ?decided.base, above = decided.suffix.len(), "the log is decided");
        let mut hashes = vec![(decided.base.op, decided.base.hash)];
        for hash in decided.suffix {
            let op = hashes.last().map_or(decided.base.op, |(op, _)| op.next());
            hashes.push((op, hash));
        }
        self.install = Some(Install::new(&hashes, cx.now.monotonic));
        self.drive_install(cx)
    }

    /// Rule V5h: every member has answered, and none has an entry that was committed, so waiting would never end.
    /// Returns true if this member lacks the entry too, and so decides nothing.
    fn halt_if_lost(&mut self, cx: &mut Context) -> bool {
        let lost = lost(&self.summaries, cx.cluster.voter_count()).filter(|op| cx.lacks_for_good(*op));
        if let Some(op) = lost {
            self.on_lost(cx, op);
        }
        lost.is_some()
    }

    /// Rule V5i: by the answers of all members, none has the entry at `op`. Halts if that happens twice, because the
    /// first answers may be older than a repair.
    fn on_lost(&mut self, cx: &mut Context, op: Op) {
        if self.doubted {
            return cx.halt(Halt::Lost { op });
        }
        self.doubted = true;
        self.summaries.retain(|member, _| *member == cx.me);
        self.send_do_view_change(cx);
    }

    /// Rule T7: a new primary that must fetch a state passes the view on to another member at once, until all members
    /// have had a turn.
    pub(super) fn yield_view(&mut self, cx: &mut Context) -> Flow {
        if cx.primary() != cx.me || self.suspicion.is_some() {
            return Flow::Continue(());
        }
        if Self::all_had_a_turn(cx) {
            let soon = cx.now.monotonic.after(cx.options.failure_timeout_min);
            self.patience_ends = self.patience_ends.min(soon);
            return Flow::Continue(());
        }
        info!(view = %cx.view, "too far behind to be primary");
        cx.suspect(&mut self.suspicion, cx.view.next())
    }

    /// Rule T7: this member could not apply what it would commit, and others have not all had a turn.
    fn leaves_to_others(cx: &Context) -> bool {
        cx.fetches_to_go_on() && !Self::all_had_a_turn(cx)
    }

    /// Rule T7: none of the last `N` views has started.
    fn all_had_a_turn(cx: &Context) -> bool {
        cx.attempts as usize > cx.cluster.voter_count()
    }

    // -- the installation of the decided log (rule V6)

    fn drive_install(&mut self, cx: &mut Context) -> Flow {
        if Self::leaves_to_others(cx) {
            return self.yield_view(cx);
        }
        match &mut self.install {
            Some(install) => install.drive(cx, Some(&self.summaries)),
            None => Flow::Continue(()),
        }
    }

    /// An installation that makes progress is worth waiting for, up to the longest patience. The log keeps what it
    /// has fetched.
    pub(super) fn on_install_progress(&mut self, cx: &mut Context, patience: Duration) -> Flow {
        let ends = cx.now.monotonic.after(patience);
        self.patience_ends = self.patience_ends.max(ends.min(self.patience_ends_at_last));
        self.drive_install(cx)
    }

    /// The log was rebased: answers to requests about the earlier log no longer count.
    pub(super) fn on_rebased(&mut self) {
        if let Some(install) = &mut self.install {
            install.restart_requests();
        }
    }
}
