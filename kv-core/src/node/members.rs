//! The members as this node knows them now: whom it calls, whom it hears, and what callers are checked against.

use super::sync::lock;
use crate::config::{Cluster, Configuration, Member};
use crate::ids::{MemberId, Op};
use crate::message::{Answer, MembersAnswer, ServerMessage};
use crate::wire::{Expectation, MemberInfo};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;

/// The members of the epoch that this member is in.
#[derive(Clone, Debug)]
pub(super) struct MemberList {
    pub(super) cluster: Cluster,
    pub(super) expectation: Expectation,
    /// From epoch 1 on.
    configuration: Option<Configuration>,
    /// The members of the epoch before that are gone. They may lack what is here, or have what is missing here.
    gone: BTreeMap<MemberId, String>,
    /// The former addresses of members that the last change has moved.
    moved: BTreeMap<MemberId, String>,
    /// A later epoch, of which this member has been told. Its members have what is missing here.
    later: Option<Configuration>,
}

/// The present list. It changes when the member enters an epoch.
#[derive(Debug)]
pub(super) struct Members {
    me: MemberId,
    list: Mutex<Arc<MemberList>>,
    /// The epoch of the list, for callers that look often.
    epoch: AtomicU32,
    /// The op of the stop before the epoch.
    stop: AtomicU64,
    /// Notified of each change.
    changed: Notify,
}

impl MemberList {
    /// Where this member is called; `None` if it is not called any more. If it was moved, it may still be at its former
    /// address, so that one is the second.
    pub(super) fn addresses(&self, id: MemberId) -> Option<(&str, Option<&str>)> {
        let listed = self.cluster.member(id).map(|member| member.address.as_str());
        let later = || Some(self.later.as_ref()?.members.get(&id)?.address.as_str());
        let first = listed.or_else(|| self.gone.get(&id).map(String::as_str)).or_else(later)?;
        Some((first, self.moved.get(&id).map(String::as_str)))
    }

    /// All that this member calls.
    pub(super) fn called(&self, me: MemberId) -> BTreeSet<MemberId> {
        let listed = self.cluster.peers(me).map(|peer| peer.id);
        let later = self.later.iter().flat_map(|later| later.members.keys().copied());
        listed.chain(self.gone.keys().copied()).chain(later).filter(|id| *id != me).collect()
    }
}

impl Members {
    pub(super) fn new(me: MemberId, cluster: Cluster, expectation: Expectation) -> Self {
        let list = MemberList {
            cluster,
            expectation,
            configuration: None,
            gone: BTreeMap::new(),
            moved: BTreeMap::new(),
            later: None,
        };
        let (epoch, stop, changed) = Default::default();
        Self { me, list: Mutex::new(Arc::new(list)), epoch, stop, changed }
    }

    pub(super) fn now(&self) -> Arc<MemberList> {
        lock(&self.list).clone()
    }

    /// Waits for a change of the list since the last call. For one caller.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The addresses of the other members.
    pub(super) fn peer_addresses(&self) -> Vec<String> {
        self.now().cluster.peers(self.me).map(|peer| peer.address.clone()).collect()
    }

    /// The epoch of the list.
    pub(super) fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Acquire)
    }

    /// The first op that a state must contain before reads are answered from it. A member that was just added may have
    /// the state of an empty cluster.
    pub(super) fn first_op(&self) -> Op {
        Op::new(self.stop.load(Ordering::Acquire))
    }

    /// Tells a client of the list, without a question.
    pub(super) fn announcement(&self) -> Option<ServerMessage> {
        let configuration = self.now().configuration.clone()?;
        let answer = MembersAnswer { configuration, settled: false, ended: 0 };
        Some(ServerMessage { call: 0, answer: Answer::Members(Box::new(answer)) })
    }

    /// This member has entered the epoch of this configuration. Returns all that it calls from now on: the members of
    /// this epoch, of the one before, and of a later one.
    pub(super) fn enter(&self, configuration: &Configuration) -> BTreeSet<MemberId> {
        let before = self.now();
        let cluster = configuration.cluster(before.cluster.name()).expect("a configuration is valid");
        let (mut gone, mut moved) = (BTreeMap::new(), BTreeMap::new());
        for Member { id, address, .. } in before.cluster.members().filter(|member| member.id != self.me) {
            match cluster.member(*id) {
                None => drop(gone.insert(*id, address.clone())),
                Some(now) if now.address != *address => drop(moved.insert(*id, address.clone())),
                Some(_) => {}
            }
        }
        let expectation = Expectation {
            members: member_infos(&cluster),
            fingerprint: configuration.history.map_or(cluster.fingerprint(), |history| history.fingerprint()),
            epoch: configuration.epoch,
            ..before.expectation.clone()
        };
        let later = before.later.clone().filter(|later| later.epoch > configuration.epoch);
        let configuration = Some(configuration.clone());
        self.set(MemberList { cluster, expectation, configuration, gone, moved, later })
    }

    /// At a start: the same, if the epoch is later than the one of the list.
    pub(super) fn enter_if_later(&self, configuration: Option<&Configuration>) {
        if let Some(later) = configuration.filter(|it| it.epoch.get() > self.epoch()) {
            self.enter(later);
        }
    }

    /// Members of a later epoch must be asked.
    pub(super) fn reach(&self, configuration: &Configuration) -> BTreeSet<MemberId> {
        let mut list = MemberList::clone(&self.now());
        if list.later.as_ref().is_none_or(|later| later.epoch < configuration.epoch) {
            list.later = Some(configuration.clone());
        }
        self.set(list)
    }

    fn set(&self, mut list: MemberList) -> BTreeSet<MemberId> {
        let called = list.called(self.me);
        // Whoever is called because of what is missing here, or there, must be heard.
        let others = called.iter().filter(|id| list.cluster.member(**id).is_none());
        list.expectation.former = others.copied().collect();
        let (epoch, stop) =
            list.configuration.as_ref().map_or((0, Op::ZERO), |it| (it.epoch.get(), it.stop.op));
        *lock(&self.list) = Arc::new(list);
        self.stop.store(stop.get(), Ordering::Release);
        self.epoch.store(epoch, Ordering::Release);
        self.changed.notify_one();
        called
    }
}

/// The members, as they are announced to callers.
pub(super) fn member_infos(cluster: &Cluster) -> Vec<MemberInfo> {
    let info =
        |member: &Member| MemberInfo { id: member.id, address: member.address.clone(), role: member.role };
    cluster.members().map(info).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ConfiguredMember, HistoryId, Options, Role};
    use crate::ids::{Anchor, Epoch, Hash};
    use crate::node::builder::expectation;
    use crate::wire::Hello;
    use kv_transport::{Lane, Peer};

    const ME: MemberId = MemberId::new(2);

    /// The members with these ids and ports.
    fn configuration(epoch: u32, members: &[(u8, u16)]) -> Configuration {
        let member = |(id, port): &(u8, u16)| {
            let address = format!("127.0.0.1:{port}");
            (
                MemberId::new(*id),
                ConfiguredMember { address, role: Role::Data, is_standby: false, disk: None },
            )
        };
        let founded = Configuration::founding(
            &Cluster::builder("test").member(0, "127.0.0.1:1").build().expect("valid"),
        );
        Configuration {
            epoch: Epoch::new(epoch),
            history: Some(HistoryId(1)),
            members: members.iter().map(member).collect(),
            stop: Anchor::new(Op::new(epoch.into()), Hash::new(1)),
            ..founded
        }
    }

    fn members() -> Members {
        let cluster = configuration(1, &[(0, 1), (1, 2), (2, 3)]).cluster("test").expect("valid");
        let expectation = expectation(&cluster, ME, &Options::default());
        Members::new(ME, cluster, expectation)
    }

    fn ids(called: &BTreeSet<MemberId>) -> Vec<u8> {
        called.iter().map(|id| id.get()).collect()
    }

    /// It lags by some epochs, and only members of the last one are left.
    #[test]
    fn members_of_a_later_epoch_are_called_until_it_is_entered() {
        let members = members();
        let later = configuration(4, &[(2, 3), (3, 4), (4, 5)]);
        assert_eq!(ids(&members.reach(&later)), [0, 1, 3, 4]);
        assert_eq!(ids(&members.enter(&configuration(1, &[(0, 1), (1, 2), (2, 3), (3, 4)]))), [0, 1, 3, 4]);
        assert_eq!(ids(&members.enter(&configuration(2, &[(1, 2), (2, 3), (3, 4)]))), [0, 1, 3, 4]);
        assert_eq!(members.now().addresses(MemberId::new(4)), Some(("127.0.0.1:5", None)));
        assert_eq!(ids(&members.enter(&later)), [1, 3, 4]);
        assert_eq!(members.now().addresses(MemberId::new(0)), None);
        assert_eq!((members.epoch(), members.first_op()), (4, Op::new(4)));
    }

    /// A member that is an epoch behind asks the members that came since, and must hear their answers.
    #[test]
    fn m13_whom_a_member_is_told_to_ask_is_heard() {
        let (behind, newcomer) = (members(), members());
        let later = configuration(4, &[(0, 1), (1, 2), (2, 3), (3, 4)]);
        newcomer.enter(&later);
        let theirs = Expectation { me: MemberId::new(3), ..newcomer.now().expectation.clone() };
        let is_heard = |lane| {
            let hello = Hello::member(&theirs, ME, lane);
            behind.now().expectation.check(&hello, lane, &Peer::Unauthenticated).is_ok()
        };
        assert!(is_heard(Lane::Control) && !is_heard(Lane::Bulk), "it may only tell of its epoch");
        behind.reach(&later);
        assert!(is_heard(Lane::Control) && is_heard(Lane::Bulk));
        assert!(!is_heard(Lane::Log), "it is in another epoch");
    }

    #[test]
    fn a_member_that_moves_is_called_at_both_addresses() {
        let members = members();
        members.enter(&configuration(1, &[(0, 9), (1, 2), (2, 3)]));
        let of = |id| {
            members.now().addresses(MemberId::new(id)).map(|(a, b)| (a.to_owned(), b.map(str::to_owned)))
        };
        assert_eq!(of(0), Some(("127.0.0.1:9".into(), Some("127.0.0.1:1".into()))));
        assert_eq!(of(1), Some(("127.0.0.1:2".into(), None)));
    }
}
