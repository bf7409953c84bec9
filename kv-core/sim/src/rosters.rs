//! The member lists of the epochs, and what must hold between them (rules M2, M6 and M9).

use super::member::index;
use super::report::Checked;
use kv_core::config::{Cluster, Configuration, DiskId, Role};
use kv_core::ids::{Epoch, MemberId};
use std::collections::BTreeMap;

/// The member list of one epoch.
#[derive(Debug)]
pub(super) struct Roster {
    pub(super) configuration: Configuration,
    pub(super) cluster: Cluster,
    /// The members that vote.
    pub(super) voters: Vec<usize>,
}

impl Roster {
    fn new(configuration: Configuration, cluster: Cluster) -> Self {
        let voting = configuration.members.iter().filter(|(_, member)| !member.is_standby);
        let voters = voting.map(|(id, _)| index(*id)).collect();
        Self { configuration, cluster, voters }
    }

    /// Whether the member is on the list, with or without a vote.
    pub(super) fn lists(&self, member: usize) -> bool {
        self.configuration.members.keys().any(|id| index(*id) == member)
    }

    /// The disk that the list names for a member.
    pub(super) fn disk_of(&self, member: usize) -> Option<DiskId> {
        self.configuration.members.iter().find(|(id, _)| index(**id) == member)?.1.disk
    }

    /// The members that keep data.
    pub(super) fn data(&self) -> Vec<MemberId> {
        let all = self.configuration.members.iter();
        all.filter(|(_, member)| member.role == Role::Data).map(|(id, _)| *id).collect()
    }
}

/// The member lists of all epochs that a member has entered.
#[derive(Debug)]
pub(super) struct Rosters(BTreeMap<Epoch, Roster>);

impl Rosters {
    /// The founders.
    pub(super) fn new(cluster: &Cluster) -> Self {
        let founding = Roster::new(Configuration::founding(cluster), cluster.clone());
        Self(BTreeMap::from([(Epoch::ZERO, founding)]))
    }

    /// The list of an epoch.
    pub(super) fn of(&self, epoch: Epoch) -> Option<&Roster> {
        self.0.get(&epoch)
    }

    /// The last list.
    pub(super) fn newest(&self) -> &Roster {
        self.0.last_key_value().expect("there is a first list").1
    }

    /// All lists, the oldest first.
    pub(super) fn all(&self) -> impl Iterator<Item = &Roster> {
        self.0.values()
    }

    /// A member has entered an epoch with this list. Returns whether it is the first.
    pub(super) fn add(&mut self, configuration: &Configuration) -> Result<bool, (&'static str, String)> {
        let epoch = configuration.epoch;
        if let Some(known) = self.of(epoch) {
            if known.configuration == *configuration {
                return Ok(false);
            }
            let found = format!("{epoch:?}: {configuration:?}, and {:?}", known.configuration);
            return Err(("an epoch has one configuration", found));
        }
        self.check_new(configuration)?;
        let cluster = configuration.cluster(self.newest().cluster.name());
        let cluster = cluster.map_err(|error| ("a configuration is valid", error.to_string()))?;
        self.0.insert(epoch, Roster::new(configuration.clone(), cluster));
        Ok(true)
    }

    /// Rule M6, and that a change is made once.
    fn check_new(&self, configuration: &Configuration) -> Checked {
        let before = || self.0.values().filter(|roster| roster.configuration.epoch < configuration.epoch);
        if let Some(same) = before().find(|roster| roster.configuration.nonce == configuration.nonce) {
            let found = format!("{configuration:?}, and {:?}", same.configuration);
            return Err(("a change is made once", found));
        }
        for id in configuration.members.keys() {
            let had = before().skip_while(|roster| !roster.configuration.members.contains_key(id));
            if let Some(without) =
                had.into_iter().find(|roster| !roster.configuration.members.contains_key(id))
            {
                let found = format!("{id:?} is in {configuration:?}, and was removed in {without:?}");
                return Err(("an id is given to one member", found));
            }
        }
        Ok(())
    }

    /// The smallest view-change quorum so far.
    pub(super) fn smallest_quorum(&self) -> usize {
        self.all().map(|roster| roster.cluster.view_change_quorum()).min().unwrap_or(1)
    }
}
