//! Which member list a start uses: the one in the data directory, that of the running cluster, or the configured one.

use super::error::StartError;
use crate::config::{Cluster, Configuration, Member, Role};
use crate::ids::MemberId;
use crate::journal::{OpenError, Owned};

/// What the data directory says before it is opened.
#[derive(Clone, Debug)]
pub(crate) enum Stored {
    /// The directory is empty.
    Nothing,
    /// The member list was never changed. The directory contains only a hash of it.
    Founded,
    /// The member list of the epoch that the member is in.
    List(Configuration),
}

impl Stored {
    /// Checks the owner of the directory, and returns what else it says.
    pub(crate) fn of(found: Option<Owned>, cluster: &str, me: MemberId) -> Result<Self, StartError> {
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

/// Where a member list differs from the one that applies, one text for each difference.
pub(crate) fn differences(applies: &Cluster, configured: &Cluster) -> Vec<String> {
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
pub(crate) fn warn_if_outdated(applies: &Configuration, cluster: &Cluster, configured: Option<&Cluster>) {
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

/// The role of a member that the list does not contain any more.
pub(crate) fn former_role(configured: Option<&Cluster>, me: MemberId, has_state: bool) -> Role {
    let listed = configured.and_then(|configured| configured.member(me)).map(|member| member.role);
    listed.unwrap_or(if has_state { Role::Data } else { Role::Witness })
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
