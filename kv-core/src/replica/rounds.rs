//! The primary's rounds of confirmation (rule R1): numbered, and answered by whoever still stands in its view.

use super::state::State;
use super::{Output, Replica};
use crate::ids::{Op, Round};
use crate::message::Message;

/// Linearizable reads that wait for a confirmation (rule R1).
#[derive(Debug, Default)]
pub(super) struct Reads {
    pub(super) round: Round,
    pub(super) in_round: Vec<u64>,
    op: Op,
    pub(super) waiting: Vec<u64>,
}

impl Replica {
    pub(super) fn on_read(&mut self, ticket: u64) {
        match &mut self.state {
            #[cfg(any(test, feature = "sim"))]
            State::Primary(primary) if primary.joins_round(self.bug) => primary.reads.in_round.push(ticket),
            State::Primary(primary) if primary.is_serving() => primary.reads.waiting.push(ticket),
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
            let quorum = self.cluster.replication_quorum();
            let commit = self.commit;
            let State::Primary(primary) = &mut self.state else { return };
            if !primary.is_serving() {
                return;
            }
            let reads = &mut primary.reads;
            if !reads.in_round.is_empty() {
                let confirmed = 1 + primary.peers.values().filter(|peer| peer.round >= reads.round).count();
                if confirmed < quorum {
                    return;
                }
                let tickets = std::mem::take(&mut reads.in_round);
                self.outputs.push_back(Output::ReadReady { tickets, op: reads.op });
            }
            if reads.waiting.is_empty() {
                return;
            }
            reads.in_round = std::mem::take(&mut reads.waiting);
            reads.round = reads.round.next();
            reads.op = commit.max(primary.inherited);
            #[cfg(any(test, feature = "sim"))]
            super::planted::read_op(self.bug, &mut reads.op, commit);
            self.send_commit();
        }
    }

    pub(super) fn send_commit(&mut self) {
        let State::Primary(primary) = &self.state else { return };
        let known = primary.peers.values().map(|peer| peer.checkpoint.unwrap_or(Op::ZERO));
        let trim = known.chain([self.told_checkpoint()]).min().unwrap_or(Op::ZERO);
        let message =
            Message::Commit { view: self.view, commit: self.commit(), round: primary.reads.round, trim };
        self.broadcast(&message);
        self.on_trim(trim);
    }
}
