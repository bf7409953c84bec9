//! The read index rounds of the primary (rules R1, R4 and R5). They are numbered, and every member that is still in the
//! view answers. From a confirmed round, each member also learns how old its state can be at most.

use super::Output;
use super::context::Context;
use crate::ids::{Instant, MemberId, Op, Round};
use crate::message::{Fresh, Moment};
use std::collections::BTreeMap;

/// The current round, and the linearizable reads that wait for it or for the next one. If no read waits, each
/// heartbeat begins a round unless one is in progress.
#[derive(Debug)]
pub(super) struct Rounds {
    /// The head when the view started. Reads wait until it is committed (rule R1).
    inherited: Op,
    last: Round,
    under_way: Option<UnderWay>,
    /// When the last confirmed round began.
    confirmed_since: Option<Instant>,
    /// The op that the last confirmed round proved.
    proved: Op,
    in_round: Vec<u64>,
    waiting: Vec<u64>,
    peers: BTreeMap<MemberId, Answers>,
}

#[derive(Clone, Copy, Debug)]
struct UnderWay {
    /// Everything that was acknowledged to anyone before the round began is at or below this op.
    op: Op,
    /// When the round began.
    since: Instant,
}

/// What one peer has answered.
#[derive(Clone, Copy, Debug, Default)]
struct Answers {
    round: Round,
    /// When, by its own clock, the peer sent its latest message that arrived; the same as of the beginning of the
    /// present round, and of the last confirmed round.
    moment: Option<Moment>,
    moment_asked: Option<Moment>,
    moment_confirmed: Option<Moment>,
}

impl Rounds {
    pub(super) fn new(cx: &Context) -> Self {
        Self {
            inherited: cx.log.head().op,
            last: Round::ZERO,
            under_way: None,
            confirmed_since: None,
            proved: Op::ZERO,
            in_round: Vec::new(),
            waiting: Vec::new(),
            peers: cx.cluster.peers(cx.me).map(|peer| (peer.id, Answers::default())).collect(),
        }
    }

    /// The newest round.
    pub(super) const fn last(&self) -> Round {
        self.last
    }

    pub(super) const fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// Whether a read waits for a round that has not begun, and none that others wait for is in progress. A round
    /// without waiting reads is replaced by one with waiting reads.
    pub(super) fn is_next_due(&self) -> bool {
        self.in_round.is_empty() && !self.waiting.is_empty()
    }

    pub(super) fn on_read(&mut self, ticket: u64) {
        self.waiting.push(ticket);
    }

    /// A peer has answered a round. Within one life of the peer, the latest moment counts: messages may overtake each
    /// other.
    pub(super) fn on_answer(&mut self, from: MemberId, round: Round, sent: Moment) {
        let peer =
            self.peers.get_mut(&from).expect("every other member is a peer, and only members are heard");
        peer.round = peer.round.max(round);
        peer.moment = peer.moment.filter(|last| last.life == sent.life && last.at > sent.at).or(Some(sent));
    }

    /// What the last confirmed round proves to a peer.
    pub(super) fn fresh(&self, peer: MemberId) -> Option<Fresh> {
        let since = self.peers.get(&peer)?.moment_confirmed?;
        Some(Fresh { op: self.proved, since })
    }

    pub(super) fn begin(&mut self, cx: &Context) {
        self.last = self.last.next();
        self.in_round = std::mem::take(&mut self.waiting);
        self.under_way = Some(UnderWay { op: self.read_index(cx), since: cx.now.monotonic });
        for peer in self.peers.values_mut() {
            peer.moment_asked = peer.moment;
        }
    }

    /// Rule R1: the op that a read which begins now must see.
    fn read_index(&self, cx: &Context) -> Op {
        cx.commit.max(self.inherited)
    }

    /// Ends the present round if a quorum has answered it.
    pub(super) fn confirm(&mut self, cx: &mut Context) {
        let Some(UnderWay { op, since }) = self.under_way else { return };
        let has_answered =
            |(id, peer): &(&MemberId, &Answers)| peer.round >= self.last && cx.cluster.is_voter(**id);
        let answers = 1 + self.peers.iter().filter(has_answered).count();
        if answers < cx.cluster.replication_quorum() {
            return;
        }
        self.under_way = None;
        self.confirmed_since = Some(since);
        for peer in self.peers.values_mut() {
            peer.moment_confirmed = peer.moment_asked;
        }
        self.proved = op;
        cx.note_fresh(op, since);
        let tickets = std::mem::take(&mut self.in_round);
        if !tickets.is_empty() {
            cx.outputs.push_back(Output::ReadReady { tickets, op });
        }
    }

    /// Rule R5: as long as the promises of a quorum hold, reads need no round.
    pub(super) fn read_by_lease(&mut self, cx: &mut Context) {
        if cx.is_leased(self.confirmed_since) && !self.waiting.is_empty() {
            let (tickets, op) = (std::mem::take(&mut self.waiting), self.read_index(cx));
            cx.outputs.push_back(Output::ReadReady { tickets, op });
        }
    }

    /// The role ends: the reads that wait must be retried elsewhere.
    pub(super) fn refuse(&mut self, cx: &mut Context) {
        let mut tickets = std::mem::take(&mut self.in_round);
        tickets.append(&mut self.waiting);
        if !tickets.is_empty() {
            cx.outputs.push_back(Output::ReadsRefused { tickets });
        }
    }
}
