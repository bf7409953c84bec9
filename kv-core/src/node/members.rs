//! The members as this node knows them now: whom it calls, whom it hears, and what callers are checked against.

use super::sync::lock;
use crate::config::{Cluster, Configuration};
use crate::ids::MemberId;
use crate::wire::{Expectation, MemberInfo};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// The members of the epoch that this member is in.
#[derive(Clone, Debug)]
pub(super) struct MemberList {
    pub(super) cluster: Cluster,
    pub(super) expectation: Expectation,
    /// Those of the epoch before, and of a later one of which this member has been told. They may lack what is here, or
    /// have what is missing here.
    others: BTreeMap<MemberId, String>,
}

/// The present list. It changes when the member enters an epoch.
#[derive(Debug)]
pub(super) struct Members {
    me: MemberId,
    list: Mutex<Arc<MemberList>>,
}

impl MemberList {
    /// Where this member is reached; `None` if it is not known any more.
    pub(super) fn address(&self, id: MemberId) -> Option<&str> {
        let listed = self.cluster.member(id).map(|member| member.address.as_str());
        listed.or_else(|| self.others.get(&id).map(String::as_str))
    }
}

impl Members {
    pub(super) fn new(me: MemberId, cluster: Cluster, expectation: Expectation) -> Self {
        let list = MemberList { cluster, expectation, others: BTreeMap::new() };
        Self { me, list: Mutex::new(Arc::new(list)) }
    }

    pub(super) fn now(&self) -> Arc<MemberList> {
        lock(&self.list).clone()
    }

    /// This member has entered the epoch of this configuration. Returns all that it calls from now on: the members of
    /// this epoch, and of the one before.
    pub(super) fn enter(&self, configuration: &Configuration) -> Vec<MemberId> {
        let before = self.now();
        let cluster = configuration.cluster(before.cluster.name()).expect("a configuration is valid");
        let gone = before.cluster.members().map(|member| (member.id, member.address.clone()));
        let others: BTreeMap<MemberId, String> =
            gone.filter(|(id, _)| cluster.member(*id).is_none() && *id != self.me).collect();
        let former = others.keys().copied().collect();
        let expectation = Expectation {
            members: member_infos(&cluster),
            fingerprint: configuration.history.map_or(cluster.fingerprint(), |history| history.fingerprint()),
            epoch: configuration.epoch,
            former,
            ..before.expectation.clone()
        };
        self.set(MemberList { cluster, expectation, others })
    }

    /// Members of a later epoch must be asked.
    pub(super) fn reach(&self, configuration: &Configuration) -> Vec<MemberId> {
        let mut list = MemberList::clone(&self.now());
        let later = configuration.members.iter().filter(|(id, _)| list.cluster.member(**id).is_none());
        let later: Vec<_> = later.map(|(id, member)| (*id, member.address.clone())).collect();
        list.others.extend(later.into_iter().filter(|(id, _)| *id != self.me));
        // They are called because of what is missing here, so their answers must be heard.
        list.expectation.former = list.others.keys().copied().collect();
        self.set(list)
    }

    fn set(&self, list: MemberList) -> Vec<MemberId> {
        let called =
            list.cluster.peers(self.me).map(|peer| peer.id).chain(list.others.keys().copied()).collect();
        *lock(&self.list) = Arc::new(list);
        called
    }
}

/// The members, as they are announced to callers.
pub(super) fn member_infos(cluster: &Cluster) -> Vec<MemberInfo> {
    let info = |member: &crate::config::Member| MemberInfo {
        id: member.id,
        address: member.address.clone(),
        role: member.role,
    };
    cluster.members().map(info).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Change, ChangeRequest, HistoryId, Options, Role};
    use crate::ids::{Anchor, Hash, Op};
    use crate::node::builder::expectation;
    use crate::wire::Hello;
    use kv_transport::{Lane, Peer};

    fn members(me: u8, cluster: &Cluster) -> Members {
        let me = MemberId::new(me);
        Members::new(me, cluster.clone(), expectation(cluster, me, &Options::default()))
    }

    /// A member that is an epoch behind asks the members that came since, and must hear their answers.
    #[test]
    fn m13_whom_a_member_is_told_to_ask_is_heard() {
        let cluster =
            Cluster::builder("demo").member(0, "a:1").member(1, "a:2").build().expect("it is valid");
        let (new, name) = (MemberId::new(2), "a:3".to_owned());
        let request = ChangeRequest {
            ends: crate::ids::Epoch::ZERO,
            nonce: 1,
            change: Change::Add { id: new, address: name, role: Role::Data },
            first: MemberId::new(0),
            history: HistoryId(1),
            disks: BTreeMap::new(),
        };
        let stop = Anchor::new(Op::new(1), Hash::new(1));
        let later = Configuration::founding(&cluster).after(&request, stop).expect("it is possible");
        let (behind, newcomer) =
            (members(0, &cluster), members(2, &later.cluster("demo").expect("it is valid")));
        newcomer.enter(&later);
        let is_heard = |lane| {
            let hello = Hello::member(&newcomer.now().expectation, MemberId::new(0), lane);
            behind.now().expectation.check(&hello, lane, &Peer::Unauthenticated).is_ok()
        };
        assert!(is_heard(Lane::Control) && !is_heard(Lane::Bulk), "it may only tell of its epoch");
        assert!(behind.reach(&later).contains(&new));
        assert!(is_heard(Lane::Control) && is_heard(Lane::Bulk));
        assert!(!is_heard(Lane::Log), "it is in another epoch");
    }
}
