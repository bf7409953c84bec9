//! How a primary gives up its role (rule V8), and to whom it can pass it on.

use super::{Leaving, Primary};
use crate::config::Role;
use crate::ids::{Instant, MemberId, Op, Round, View};
use crate::message::{Message, SuccessorRefusal};
use crate::replica::context::{Context, Flow, Suspicion};
use crate::replica::detector::Detector;
use std::iter;
use std::time::Duration;
use tracing::info;

impl Primary {
    pub(in crate::replica) fn on_timeout(&mut self, cx: &mut Context) -> Flow {
        let now = cx.now.monotonic;
        match self.leaving {
            Leaving::Abdicated(suspicion) if now >= suspicion.resend_at => {
                return self.vote_to_be_left(cx, suspicion.target);
            }
            Leaving::Abdicated(_) => return Flow::Continue(()),
            Leaving::Draining { until, .. } if now >= until => return self.abdicate(cx, "handed over"),
            Leaving::No | Leaving::Draining { .. } | Leaving::Stopping { .. } => {}
        }
        if now < self.heartbeat_at {
            return Flow::Continue(());
        }
        self.watch_quorum(cx);
        if let Some(why) = self.reason_to_abdicate(cx) {
            return self.abdicate(cx, why);
        }
        if self.pace.is_slow() {
            info!(view = %cx.view, "this disk is much slower than those of the other members: handing over");
            self.on_handover(cx, None)?;
        }
        self.heartbeat(cx);
        Flow::Continue(())
    }

    /// Checks whether a quorum was heard since the last heartbeat was due, and how late this check itself is.
    pub(super) fn watch_quorum(&mut self, cx: &Context) {
        let (now, heartbeat) = (cx.now.monotonic, cx.options.heartbeat);
        let (short, long) = (cx.options.failure_timeout_min * 4, cx.options.failure_timeout_max * 2);
        let quorum = cx.cluster.replication_quorum();
        let late = now.since(self.heartbeat_at);
        let Some(heard) = self.quorum_heard_at(cx, quorum, now) else { return };
        let detector = self
            .quorum
            .get_or_insert_with(|| Detector::new(self.started_at, heartbeat, short.min(long), long));
        if heard > detector.last() {
            detector.heard(heard);
            self.absent = Duration::ZERO;
        }
        if late > heartbeat {
            self.absent += late;
        }
    }

    pub(super) fn reason_to_abdicate(&self, cx: &Context) -> Option<&'static str> {
        let now = cx.now.monotonic;
        let long = cx.options.failure_timeout_max * 2;
        if cx.cluster.replication_quorum() == 1 {
            return None;
        }
        let waiting_since = cx.writes.waiting_since();
        let stalled = waiting_since.is_some_and(|at| now.since(at) > cx.options.failure_timeout_max);
        let hung = cx.applied < cx.commit && now.since(cx.applied_at) > long;
        let (heard, bound) =
            self.quorum.as_ref().map_or((self.started_at, long), |it| (it.last(), it.bound()));
        if now.since(heard).saturating_sub(self.absent) > bound {
            Some("a quorum does not answer")
        } else if stalled {
            Some("the disk does not finish a write")
        } else if hung {
            Some("committed entries are not applied")
        } else {
            None
        }
    }

    /// Stops serving: sends no more signs of life, and votes to leave the view. Silence alone would block a group
    /// that needs this member's vote.
    pub(in crate::replica) fn abdicate(&mut self, cx: &mut Context, why: &'static str) -> Flow {
        if self.abdication().is_some() {
            return Flow::Continue(());
        }
        let target = self.view_of_the_next(cx);
        info!(view = %cx.view, %target, why, "abdicating");
        self.leave(cx);
        // Sends what is known to be committed along, so that the successor has less to find out.
        let commit = Message::Commit {
            view: cx.view,
            commit: cx.commit(),
            age: cx.age_of(cx.commit()),
            round: Round::ZERO,
            trim: Op::ZERO,
            fresh: None,
        };
        cx.broadcast(&commit);
        self.vote_to_be_left(cx, target)
    }

    pub(super) fn vote_to_be_left(&mut self, cx: &mut Context, target: View) -> Flow {
        let resend_at = cx.now.monotonic.after(cx.options.heartbeat * 2);
        self.leaving = Leaving::Abdicated(Suspicion { target, resend_at });
        cx.send_vote(target)
    }

    /// Rule V2: another member votes for `view`. A member that leaves anyway leaves for the view that others want.
    pub(in crate::replica) fn on_vote(&mut self, cx: &mut Context, view: View) -> Flow {
        match self.abdication() {
            Some(own) if own.target < view => self.vote_to_be_left(cx, view),
            own => cx.count_votes(own.map(|own| own.target)),
        }
    }

    /// The view to leave for: the next one whose primary is the named successor, if that has all entries and was heard
    /// recently; otherwise the next one whose primary was heard recently; the next view if there is none.
    pub(super) fn view_of_the_next(&self, cx: &Context) -> View {
        let named = match self.leaving {
            Leaving::Draining { successor, .. } => successor.filter(|id| self.has_all(cx, *id)),
            Leaving::No | Leaving::Stopping { .. } | Leaving::Abdicated(_) => None,
        };
        let now = cx.now.monotonic;
        let views = || {
            iter::successors(Some(cx.view.next()), |view| Some(view.next())).take(cx.cluster.voter_count())
        };
        let alive = |view: &View| self.hears(cx, cx.cluster.primary(*view), now);
        let of_named = views().find(|view| Some(cx.cluster.primary(*view)) == named).filter(alive);
        of_named.or_else(|| views().find(alive)).unwrap_or_else(|| cx.view.next())
    }

    /// Whether this peer was heard recently.
    pub(super) fn hears(&self, cx: &Context, peer: MemberId, now: Instant) -> bool {
        let heard_at = self.peers.get(&peer).and_then(|peer| peer.heard_at);
        heard_at.is_some_and(|at| now.since(at) <= cx.options.failure_timeout_min)
    }

    /// Rule M7: no witness has dropped entries above this op.
    pub(super) fn trimmed_by_witnesses(&self, cx: &Context) -> Op {
        let of_peers = cx.cluster.peers(cx.me).filter(|peer| peer.role == Role::Data);
        let of_peers = of_peers.filter_map(|peer| self.peers.get(&peer.id)?.checkpoint);
        of_peers.fold(cx.reported_checkpoint(), Op::max)
    }

    /// Rule V8: why this member cannot hand over its role to `id` now. A successor may lack what is in flight, because
    /// it receives this before the primary abdicates.
    pub(in crate::replica) fn check_successor(
        &self,
        cx: &Context,
        id: MemberId,
        now: Instant,
    ) -> Result<(), SuccessorRefusal> {
        match cx.cluster.voters().find(|member| member.id == id).map(|member| member.role) {
            None => return Err(SuccessorRefusal::Unknown(id)),
            Some(Role::Witness) => return Err(SuccessorRefusal::Witness(id)),
            Some(Role::Data) => {}
        }
        self.check_level(cx, id, now)
    }

    /// Whether this member has all that is committed, except for what is in flight, and was heard recently.
    pub(in crate::replica) fn check_level(
        &self,
        cx: &Context,
        id: MemberId,
        now: Instant,
    ) -> Result<(), SuccessorRefusal> {
        let Some(peer) = self.peers.get(&id) else { return Ok(()) };
        let in_flight = u64::from(cx.options.pipeline_depth);
        // It has no state, or does not report one.
        let is_stateless = peer.lacks_checkpoint(cx);
        if !self.hears(cx, id, now) {
            Err(SuccessorRefusal::Silent(id))
        } else if !peer.installed || is_stateless || cx.commit.distance_from(peer.acked) > in_flight {
            Err(SuccessorRefusal::Behind(id))
        } else {
            Ok(())
        }
    }

    pub(in crate::replica) fn on_handover(&mut self, cx: &mut Context, successor: Option<MemberId>) -> Flow {
        if !self.is_serving() || cx.cluster.voter_count() == 1 || successor == Some(cx.me) {
            return Flow::Continue(());
        }
        if successor.is_some_and(|id| self.check_successor(cx, id, cx.now.monotonic).is_err()) {
            return Flow::Continue(());
        }
        let until = cx.now.monotonic.after(cx.options.failure_timeout_min);
        self.leaving = Leaving::Draining { until, successor };
        if self.queue.is_empty() && self.is_drained(cx) {
            return self.abdicate(cx, "handed over");
        }
        Flow::Continue(())
    }

    /// Whether a handover has begun, all entries are committed, and the named successor has them.
    pub(super) fn is_drained(&self, cx: &Context) -> bool {
        let Leaving::Draining { successor, .. } = self.leaving else { return false };
        cx.commit == cx.log.head().op && successor.is_none_or(|id| self.has_all(cx, id))
    }

    /// Whether this peer has acknowledged all entries.
    pub(super) fn has_all(&self, cx: &Context, id: MemberId) -> bool {
        self.peers.get(&id).is_some_and(|peer| peer.acked == cx.log.head().op)
    }
}
