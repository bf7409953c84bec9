//! Whom a member calls and whom it hears, by the lists that it knows. The node keeps such a list for its links and its
//! door; this is the same list, without addresses.

use kv_core::config::{Cluster, Configuration};
use kv_core::ids::Epoch;
use kv_core::transport::Lane;
use std::collections::BTreeSet;

/// The members that a process knows.
#[derive(Clone, Debug, Default)]
pub(super) struct Reach {
    /// Those of its epoch.
    present: BTreeSet<usize>,
    /// Those of the epoch before that are gone.
    former: BTreeSet<usize>,
    /// Those of a later epoch, of which it has been told.
    later: BTreeSet<usize>,
    pub(super) is_changed: bool,
}

impl Reach {
    /// A process starts with the list in its file, and then the one on its disk.
    pub(super) fn new(file: &Cluster, configuration: &Configuration) -> Self {
        let present = file.members().map(|member| usize::from(member.id.get())).collect();
        let mut reach = Self { present, ..Self::default() };
        if configuration.epoch > Epoch::ZERO {
            reach.enter(configuration);
        }
        reach
    }

    /// The member has entered an epoch.
    pub(super) fn enter(&mut self, configuration: &Configuration) {
        let present: BTreeSet<usize> = configuration.members.keys().map(|id| usize::from(id.get())).collect();
        self.former = self.present.difference(&present).copied().collect();
        self.later.clear();
        (self.present, self.is_changed) = (present, true);
    }

    /// The member was told of a later epoch.
    pub(super) fn told_of(&mut self, configuration: &Configuration) {
        self.later.extend(configuration.members.keys().map(|id| usize::from(id.get())));
    }

    pub(super) fn calls(&self, other: usize) -> bool {
        [&self.present, &self.former, &self.later].into_iter().any(|all| all.contains(&other))
    }

    pub(super) fn hears(&self, other: usize, lane: Lane, is_changed: bool) -> bool {
        let is_former = (self.former.contains(&other) || self.later.contains(&other)) && lane != Lane::Log;
        let is_news = (is_changed || self.is_changed) && lane == Lane::Control;
        self.present.contains(&other) || is_former || is_news
    }
}
