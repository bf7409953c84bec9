//! Whether some members can continue without the others. It is computed from what they would vote, by the functions
//! that decide. The simulator may keep members away forever, and must know whether the present ones have a good
//! reason to wait.

use super::Replica;
use super::context::lost;
use super::decide::{LogDecision, Quorums, decide};
use crate::config::Cluster;
use crate::ids::{MemberId, Op};
use crate::message::LogSummary;
use std::collections::BTreeMap;

/// Why members cannot continue before others come back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StallReason {
    /// They are fewer than a quorum.
    TooFew,
    /// They do not have the entry at this op intact, and cannot rule out that it was committed (rule V5g).
    Undecided(Op),
    /// None of them has the entry at this op, or a state that covers it (rules V5h and T8).
    Missing(Op),
}

/// What a member would report in a view change.
#[derive(Clone, Debug)]
pub struct Vote {
    member: MemberId,
    log: LogSummary,
}

impl Replica {
    /// Returns what this member would report, after it has requested a state without success if it has none. Call it
    /// on a replica that was just created from what is durable.
    #[must_use]
    pub fn vote(&self) -> Vote {
        let mut log = self.cx.summary();
        log.lacks = self.cx.missing_runs(log.commit);
        Vote { member: self.cx.me, log }
    }
}

/// Returns why these members cannot continue by themselves, if they cannot.
#[must_use]
pub fn stall_reason(cluster: &Cluster, votes: &[Vote]) -> Option<StallReason> {
    let quorums = Quorums {
        members: cluster.voter_count(),
        view_change: cluster.view_change_quorum(),
        nack: cluster.nack_quorum(),
    };
    let logs: BTreeMap<MemberId, LogSummary> = votes
        .iter()
        .filter(|vote| cluster.is_voter(vote.member))
        .map(|vote| (vote.member, vote.log.clone()))
        .collect();
    match decide(&logs, quorums) {
        LogDecision::TooFew => return Some(StallReason::TooFew),
        LogDecision::Stuck(op) => return Some(StallReason::Undecided(op)),
        LogDecision::Log(_) if logs.len() < cluster.replication_quorum() => return Some(StallReason::TooFew),
        // Everything above the base was kept because one of them has it.
        LogDecision::Log(_) => {}
    }
    lost(&logs, logs.len()).map(StallReason::Missing)
}
