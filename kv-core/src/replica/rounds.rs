//! The read index rounds of the primary (rules R1 and R4). They are numbered, and every member that is still in the
//! view answers. A confirmed round also proves to each member how old its state is at most.

use super::state::ReplicaState;
use super::{Now, Output, Replica};
use crate::ids::{Instant, Op, Round};
use crate::message::{Fresh, Message, Moment};
use std::time::Duration;

/// The current round, and the linearizable reads that wait for it or for the next one. If no read waits, each
/// heartbeat begins a round unless one is in progress.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    last: Round,
    under_way: Option<UnderWay>,
    /// When the last confirmed round began.
    confirmed: Option<Instant>,
    pub(super) in_round: Vec<u64>,
    pub(super) waiting: Vec<u64>,
}

#[derive(Clone, Copy, Debug)]
struct UnderWay {
    /// Everything that was acknowledged to anyone before the round began is at or below this op.
    op: Op,
    /// When the round began.
    since: Instant,
}

impl Rounds {
    pub(super) const fn confirmed_since(&self) -> Option<Instant> {
        self.confirmed
    }
}

impl Replica {
    pub(super) fn on_read(&mut self, ticket: u64) {
        match &mut self.state {
            ReplicaState::Primary(primary) if primary.is_serving() => primary.rounds.waiting.push(ticket),
            _ => {
                self.outputs.push_back(Output::ReadsRefused { tickets: vec![ticket] });
                return;
            }
        }
        self.confirm_reads();
    }

    /// Ends the present round if a quorum has answered it, and starts the next if reads wait.
    pub(super) fn confirm_reads(&mut self) {
        loop {
            self.confirm_round();
            self.read_by_lease();
            let ReplicaState::Primary(primary) = &mut self.state else { return };
            // A round without waiting reads is replaced by one with waiting reads.
            if !primary.is_serving()
                || !primary.rounds.in_round.is_empty()
                || primary.rounds.waiting.is_empty()
            {
                return;
            }
            self.begin_round();
            self.send_commit();
        }
    }

    /// Rule R5.
    fn read_by_lease(&mut self) {
        let (leased, commit) = (self.is_leased(), self.commit);
        let ReplicaState::Primary(primary) = &mut self.state else { return };
        if leased && !primary.rounds.waiting.is_empty() {
            let (tickets, op) = (std::mem::take(&mut primary.rounds.waiting), commit.max(primary.inherited));
            self.outputs.push_back(Output::ReadReady { tickets, op });
        }
    }

    fn begin_round(&mut self) {
        let (commit, since) = (self.commit, self.now.monotonic);
        let ReplicaState::Primary(primary) = &mut self.state else { return };
        let rounds = &mut primary.rounds;
        rounds.last = rounds.last.next();
        rounds.in_round = std::mem::take(&mut rounds.waiting);
        let op = commit.max(primary.inherited);
        rounds.under_way = Some(UnderWay { op, since });
        for peer in primary.peers.values_mut() {
            peer.moment_asked = peer.moment;
        }
    }

    fn confirm_round(&mut self) {
        let quorum = self.cluster.replication_quorum();
        let ReplicaState::Primary(primary) = &mut self.state else { return };
        if !primary.is_serving() {
            return;
        }
        let rounds = &mut primary.rounds;
        let Some(UnderWay { op, since }) = rounds.under_way else { return };
        let answers = 1 + primary.peers.values().filter(|peer| peer.round >= rounds.last).count();
        if answers < quorum {
            return;
        }
        rounds.under_way = None;
        rounds.confirmed = Some(since);
        for peer in primary.peers.values_mut() {
            peer.moment_confirmed = peer.moment_asked;
        }
        let tickets = std::mem::take(&mut rounds.in_round);
        primary.confirmed = op;
        self.note_fresh(op, since);
        if !tickets.is_empty() {
            self.outputs.push_back(Output::ReadReady { tickets, op });
        }
    }

    /// Sends a sign of life to all, with the number of the newest round.
    pub(super) fn send_commit(&mut self) {
        let (view, commit, own) = (self.view, self.commit(), self.reported_checkpoint());
        let age = self.age_of(commit);
        let ReplicaState::Primary(primary) = &self.state else { return };
        let known = primary.peers.values().map(|peer| peer.checkpoint.unwrap_or(Op::ZERO));
        let trim = known.chain([own]).min().unwrap_or(Op::ZERO);
        let (round, op) = (primary.rounds.last, primary.confirmed);
        for (to, peer) in &primary.peers {
            let fresh = peer.moment_confirmed.map(|since| Fresh { op, since });
            let message = Message::Commit { view, commit, age, round, trim, fresh };
            self.outputs.push_back(Output::Send { to: *to, message });
        }
        self.on_trim(trim);
    }

    /// Sends a heartbeat, which also begins a round.
    pub(super) fn heartbeat(&mut self) {
        let next = self.now.monotonic.after(self.options.heartbeat);
        let ReplicaState::Primary(primary) = &mut self.state else { return };
        primary.heartbeat_at = next;
        if primary.is_serving() && primary.rounds.under_way.is_none() {
            self.begin_round();
        }
        self.send_commit();
        self.confirm_reads();
    }

    // -- reads of bounded age (rule R4)

    /// The present time of this life, for others to return.
    pub(super) const fn moment(&self) -> Moment {
        Moment { life: self.life, at: self.now.monotonic }
    }

    /// The primary has sent what a confirmed round proves to this member. It stays true, whatever happens to the
    /// primary, and however late the message arrives.
    pub(super) fn on_fresh(&mut self, fresh: Fresh) {
        let Fresh { op, since } = fresh;
        if since.life == self.life && since.at <= self.now.monotonic {
            self.note_fresh(op, since.at);
        }
    }

    fn note_fresh(&mut self, op: Op, since: Instant) {
        if self.fresh.is_none_or(|(_, before)| before < since) {
            self.fresh = Some((op, since));
        }
    }

    /// Rule R4: returns the op that a state of this member must have applied to contain everything acknowledged to
    /// anyone until `bound` before now. `None` if no round proves such an op.
    #[must_use]
    pub fn fresh(&self, now: Now, bound: Duration) -> Option<Op> {
        let (op, since) = self.fresh?;
        // A clock runs at no less than nine tenths of the true rate.
        (now.monotonic.since(since) <= bound / 10 * 9).then_some(op)
    }
}
