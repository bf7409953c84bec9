//! Whether some members can go on without the others: computed from what they would vote, by the functions that decide. The simulator
//! lets members stay away for ever, and has to know whether those who are there wait in vain with good reason.

use super::Replica;
use super::decide::{Decision, Quorums, decide};
use super::lost::lost;
use crate::config::Cluster;
use crate::ids::{MemberId, Op};
use crate::message::LogSummary;
use std::collections::BTreeMap;

/// Why members cannot go on before others come back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StallReason {
    /// They are fewer than a quorum.
    TooFew,
    /// They neither have the entry at this op nor can rule out that it was committed (rule V5g).
    Undecided(Op),
    /// None of them has the entry at this op, or a state that stands for it (rules V5h and T8).
    Missing(Op),
}

/// What a member would report in a view change.
#[derive(Clone, Debug)]
pub struct Vote {
    member: MemberId,
    log: LogSummary,
}

impl Replica {
    /// What it would report, once it has asked for a state in vain if it has none. To be asked of a replica that was just made from what is
    /// durable.
    #[must_use]
    pub fn vote(&self) -> Vote {
        let mut log = self.summary();
        log.lacks = self.missing_runs(log.commit);
        Vote { member: self.me, log }
    }
}

/// Why these members cannot go on by themselves, if they cannot.
#[must_use]
pub fn stall_reason(cluster: &Cluster, votes: &[Vote]) -> Option<StallReason> {
    let quorums = Quorums {
        members: cluster.len(),
        view_change: cluster.view_change_quorum(),
        nack: cluster.nack_quorum(),
    };
    let logs: BTreeMap<MemberId, LogSummary> =
        votes.iter().map(|vote| (vote.member, vote.log.clone())).collect();
    match decide(&logs, quorums) {
        Decision::TooFew => return Some(StallReason::TooFew),
        Decision::Stuck(op) => return Some(StallReason::Undecided(op)),
        Decision::Log(_) if logs.len() < cluster.replication_quorum() => return Some(StallReason::TooFew),
        // What is above the base was kept because one of them has it.
        Decision::Log(_) => {}
    }
    lost(&logs, logs.len()).map(StallReason::Missing)
}
