//! Which member list a start uses: the one in the data directory, that of the running cluster, or the configured one.

use super::error::StartError;
use super::joining;
use crate::config::{Cluster, ConfigError, Configuration, Member, Role};
use crate::ids::MemberId;
use crate::journal::{OpenError, Owned};
use crate::message::MembersAnswer;
use kv_transport::Transport;
use std::sync::Arc;

/// What the data directory says before it is opened.
#[derive(Clone, Debug)]
pub(super) enum Stored {
    /// The directory is empty.
    Nothing,
    /// The member list was never changed. The directory contains only a hash of it.
    Founded,
    /// The member list of the epoch that the member is in.
    List(Configuration),
}

impl Stored {
    /// Checks the owner of the directory, and returns what else it says.
    pub(super) fn of(found: Option<Owned>, cluster: &str, me: MemberId) -> Result<Self, StartError> {
        let Some(found) = found else { return Ok(Self::Nothing) };
        if found.cluster != cluster {
            let (found, expected) = (found.cluster, cluster.to_owned());
            return Err(OpenError::ForeignCluster { found, expected }.into());
        }
        if found.member != me {
            return Err(OpenError::ForeignMember { found: found.member, expected: me }.into());
        }
        match found.membership {
            None => Ok(Self::Founded),
            Some(membership) if membership.retired => {
                Err(StartError::Removed { epoch: membership.configuration.epoch })
            }
            Some(membership) => Ok(Self::List(membership.configuration)),
        }
    }
}

/// What the builder was told about the cluster.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) name: String,
    pub(super) me: MemberId,
    /// The configured member list.
    pub(super) configured: Option<Cluster>,
    /// Addresses of the cluster that an empty directory joins.
    pub(super) join: Box<[String]>,
    pub(super) listen: Option<String>,
}

/// What a start uses.
#[derive(Debug)]
pub(super) struct Choice {
    pub(super) cluster: Cluster,
    /// `None` if the list was never changed.
    pub(super) configuration: Option<Configuration>,
    /// The answer of the cluster that the member joins.
    pub(super) joined: Option<MembersAnswer>,
    pub(super) role: Role,
    /// Where the member listens.
    pub(super) address: String,
}

impl Wanted {
    /// The member list is that of the data directory, or, if there is none yet, that of the cluster which the member
    /// joins. From the first change on, the configured one no longer counts.
    pub(super) async fn choose(
        self,
        (stored, has_state): (Stored, bool),
        transport: &Arc<dyn Transport>,
    ) -> Result<Choice, StartError> {
        let Self { name, me, configured, join, listen } = self;
        let joined = match &stored {
            Stored::Nothing if !join.is_empty() => {
                Some(joining::ask(&name, me, &join, transport.clone()).await?)
            }
            _ => None,
        };
        let configuration = match stored {
            Stored::List(configuration) => Some(configuration),
            Stored::Nothing | Stored::Founded => joined.as_ref().map(|answer| answer.configuration.clone()),
        };
        let cluster = match (&configuration, &configured) {
            (Some(configuration), _) => configuration.cluster(&name)?,
            (None, Some(configured)) => configured.clone(),
            (None, None) => return Err(StartError::NoMembers),
        };
        cluster.members().try_for_each(|member| transport.check_address(&member.address))?;
        if let Some(configuration) = &configuration {
            warn_if_outdated(configuration, &cluster, configured.as_ref());
        }
        let former = configured.as_ref().and_then(|configured| configured.member(me));
        let listed = cluster.member(me).or(former.filter(|_| configuration.is_some()));
        let (role, address) = match (listed, &configuration, listen) {
            (Some(member), _, listen) => (member.role, listen.unwrap_or_else(|| member.address.clone())),
            // It was removed, and may have to tell the others what it has.
            (None, Some(_), Some(listen)) => (if has_state { Role::Data } else { Role::Witness }, listen),
            (None, ..) => return Err(ConfigError::NotAMember(me).into()),
        };
        Ok(Choice { cluster, configuration, joined, role, address })
    }
}

/// Where a member list differs from the one that applies, one text for each difference.
fn differences(applies: &Cluster, configured: &Cluster) -> Vec<String> {
    let mut found = Vec::new();
    for Member { id, address, role, .. } in configured.members() {
        let Some(listed) = applies.member(*id) else {
            found.push(format!("member {id} is not in the list"));
            continue;
        };
        if listed.role != *role {
            found.push(format!("member {id} is {}, not {role}", listed.role));
        }
        if listed.address != *address {
            found.push(format!("member {id} is at {}, not at {address}", listed.address));
        }
    }
    let missing = applies.members().filter(|member| configured.member(member.id).is_none());
    found.extend(missing.map(|Member { id, address, .. }| format!("member {id} at {address} was added")));
    found
}

/// Logs that the configuration contains an outdated list.
fn warn_if_outdated(applies: &Configuration, cluster: &Cluster, configured: Option<&Cluster>) {
    let differences = configured.map(|configured| differences(cluster, configured)).unwrap_or_default();
    if !differences.is_empty() {
        tracing::warn!(
            epoch = %applies.epoch,
            differences = differences.join("; "),
            "the configured member list is outdated and is not used: the cluster has changed its members since. Update the \
             configuration when convenient"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_difference_is_named() {
        let built = |builder: crate::config::ClusterBuilder| builder.build().expect("valid");
        let applies = Cluster::builder("demo").member(0, "a:1").member(1, "b:2").witness(3, "d:4");
        let configured = Cluster::builder("demo").member(0, "a:1").member(1, "b:1").member(2, "c:1");
        let found = differences(&built(applies.clone()), &built(configured.member(3, "d:4")));
        let expected = [
            "member 1 is at b:2, not at b:1",
            "member 2 is not in the list",
            "member 3 is witness, not data",
        ];
        assert_eq!(found, expected);
        let fewer = Cluster::builder("demo").member(0, "a:1").member(1, "b:2");
        assert_eq!(differences(&built(applies.clone()), &built(fewer)), ["member 3 at d:4 was added"]);
        assert!(differences(&built(applies.clone()), &built(applies)).is_empty());
    }
}
