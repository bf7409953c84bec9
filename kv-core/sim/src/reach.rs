//! Whom a member calls and whom it hears, by the lists that it knows. The node keeps such a list for its links and its
//! door; this is the same list, without addresses.

use super::member::index;
use super::world::World;
use kv_core::config::{Cluster, Configuration};
use kv_core::ids::Epoch;
use kv_core::message::Message;
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
    is_changed: bool,
}

impl Reach {
    /// A process starts with the list in its file, and then the one on its disk.
    pub(super) fn new(file: &Cluster, configuration: &Configuration) -> Self {
        let present = file.members().map(|member| index(member.id)).collect();
        let mut reach = Self { present, ..Self::default() };
        if configuration.epoch > Epoch::ZERO {
            reach.enter(configuration);
        }
        reach
    }

    /// The member has entered an epoch.
    pub(super) fn enter(&mut self, configuration: &Configuration) {
        let present: BTreeSet<usize> = configuration.members.keys().map(|id| index(*id)).collect();
        self.former = self.present.difference(&present).copied().collect();
        self.later.clear();
        (self.present, self.is_changed) = (present, true);
    }

    /// The member was told of a later epoch.
    pub(super) fn told_of(&mut self, configuration: &Configuration) {
        self.later.extend(configuration.members.keys().map(|id| index(*id)));
    }

    pub(super) fn calls(&self, other: usize) -> bool {
        [&self.present, &self.former, &self.later].into_iter().any(|all| all.contains(&other))
    }

    fn hears(&self, other: usize, lane: Lane, is_changed: bool) -> bool {
        let is_former = (self.former.contains(&other) || self.later.contains(&other)) && lane != Lane::Log;
        let is_news = (is_changed || self.is_changed) && lane == Lane::Control;
        self.present.contains(&other) || is_former || is_news
    }
}

impl World {
    /// Whether a member has a connection for a message to another. It calls only those that it knows.
    pub(super) fn calls(&mut self, from: usize, to: usize) -> bool {
        let calls = self.members[from].process.as_ref().is_none_or(|process| process.reach.calls(to));
        if !calls {
            self.checker.count("messages to unknown members");
        }
        calls
    }

    /// Whether a member hears what another has sent: its door is closed to strangers.
    pub(super) fn hears(&mut self, to: usize, from: usize, message: &Message) -> bool {
        let theirs = self.members[from].process.as_ref().is_none_or(|process| process.reach.is_changed);
        let reach = self.members[to].process.as_ref().map(|process| &process.reach);
        let hears = reach.is_none_or(|reach| reach.hears(from, message.lane(), theirs));
        if !hears {
            self.checker.count("messages of unknown members");
        }
        hears
    }
}
