//! What an operator is doing: a client that changes the member list.

use super::clock::Time;
use kv_core::config::{Cluster, Configuration};
use kv_core::message::{ChangeCall, MembersAnswer};
use std::collections::BTreeSet;

/// An operator.
#[derive(Debug)]
pub(super) struct Operator {
    /// The newest list that it has seen.
    pub(super) known: Configuration,
    pub(super) doing: Doing,
    pub(super) rests_until: Time,
    /// Changes that it asked for.
    pub(super) old: Vec<ChangeCall>,
    /// When everything is healed, one more change is made.
    pub(super) finished: bool,
}

#[derive(Debug)]
pub(super) enum Doing {
    Resting,
    /// Waits for the lists of all members.
    Listing {
        waiting: BTreeSet<u64>,
        newest: Option<Box<MembersAnswer>>,
        job: Option<Job>,
    },
    /// Has asked a member for the change.
    Asking {
        call: u64,
        before: bool,
        job: Job,
    },
    /// Acts at the next turn.
    Pausing(Job),
}

/// A change under way.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) call: ChangeCall,
    pub(super) until: Time,
    /// An attempt may have been the one that succeeded.
    pub(super) may_be_done: bool,
    /// The change is ordered, or another may have been.
    pub(super) is_ordered: bool,
    pub(super) is_last: bool,
}

impl Operator {
    pub(super) fn new(cluster: &Cluster) -> Self {
        Self {
            known: Configuration::founding(cluster),
            doing: Doing::Resting,
            rests_until: 0,
            old: Vec::new(),
            finished: false,
        }
    }

    /// Whether it does nothing.
    pub(super) const fn is_idle(&self) -> bool {
        matches!(self.doing, Doing::Resting)
    }

    /// Whether a change is under way.
    pub(super) const fn has_job(&self) -> bool {
        !matches!(self.doing, Doing::Resting | Doing::Listing { job: None, .. })
    }
}
