//! Digests of the state: each data member sends them at fixed ops, and each receiver compares them with its own (rule
//! S1).

use super::{Context, Halt};
use crate::config::Role;
use crate::ids::{Hash, MemberId, Op};
use crate::message::Message;
use std::collections::{BTreeMap, BTreeSet};
use tracing::error;

/// How many digests of a member are kept. Members that are further apart are not compared at that op. A state that
/// differs keeps differing, so dropping some digests loses nothing.
const KEPT: usize = 64;

/// The digests received from peers.
#[derive(Debug, Default)]
pub(crate) struct Digests {
    own: BTreeMap<Op, Hash>,
    received: BTreeMap<MemberId, BTreeMap<Op, Hash>>,
    /// Peers with a different digest that this process has already logged.
    differ: BTreeSet<MemberId>,
}

fn keep(list: &mut BTreeMap<Op, Hash>, op: Op, digest: Hash) {
    list.insert(op, digest);
    while list.len() > KEPT {
        list.pop_first();
    }
}

/// The result of comparing the digests at one op.
#[derive(PartialEq, Eq, Debug)]
enum DigestComparison {
    /// A quorum has another state.
    Wrong { ours: Hash, theirs: Hash },
    /// These members have another state, and nobody knows which state is wrong.
    Doubt(BTreeMap<MemberId, Hash>),
}

impl Digests {
    fn compare(&self, op: Op, quorum: usize) -> Option<DigestComparison> {
        let ours = *self.own.get(&op)?;
        let received = self.received.iter().filter_map(|(peer, list)| Some((*peer, *list.get(&op)?)));
        let others: BTreeMap<MemberId, Hash> = received.filter(|(_, digest)| *digest != ours).collect();
        let count = |digest: Hash| others.values().filter(|other| **other == digest).count();
        match others.values().find(|digest| count(**digest) >= quorum) {
            Some(theirs) => Some(DigestComparison::Wrong { ours, theirs: *theirs }),
            None => Some(DigestComparison::Doubt(others)),
        }
    }
}

impl Context {
    /// The own state has this digest at `op`. Sends it to all members that hold a state.
    pub(crate) fn on_own_digest(&mut self, op: Op, digest: Hash) {
        keep(&mut self.digests.own, op, digest);
        let peers = self.cluster.peers(self.me).filter(|peer| peer.role == Role::Data);
        let peers: Vec<MemberId> = peers.map(|peer| peer.id).collect();
        for to in peers {
            self.send(to, Message::StateDigest { op, digest });
        }
        self.compare_digests(op);
    }

    /// The digest of a standby proves nothing about other states: the standby itself compares it with those of the
    /// voters.
    pub(crate) fn on_state_digest(&mut self, from: MemberId, op: Op, digest: Hash) {
        if !self.cluster.is_voter(from) {
            return;
        }
        keep(self.digests.received.entry(from).or_default(), op, digest);
        self.compare_digests(op);
    }

    fn compare_digests(&mut self, op: Op) {
        match self.digests.compare(op, self.cluster.replication_quorum()) {
            Some(DigestComparison::Wrong { ours, theirs }) => {
                self.halt(Halt::StateDiffers { op, ours, theirs })
            }
            Some(DigestComparison::Doubt(others)) => {
                for (peer, digest) in others {
                    if self.digests.differ.insert(peer) {
                        error!(%peer, %op, theirs = %digest, "a peer that has applied the same entries has another state");
                    }
                }
            }
            None => {}
        }
    }

    /// The state was discarded or replaced.
    pub(crate) fn forget_digests(&mut self) {
        self.digests.own.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digests(own: u128, received: &[u128]) -> Digests {
        let mut digests = Digests::default();
        keep(&mut digests.own, Op::new(8), Hash::new(own));
        for (peer, digest) in (1..).zip(received) {
            keep(digests.received.entry(MemberId::new(peer)).or_default(), Op::new(8), Hash::new(*digest));
        }
        digests
    }

    #[test]
    fn s1_only_a_quorum_that_agrees_proves_divergence() {
        let judge = |own, received: &[u128], quorum| digests(own, received).compare(Op::new(8), quorum);
        let wrong =
            |ours, theirs| Some(DigestComparison::Wrong { ours: Hash::new(ours), theirs: Hash::new(theirs) });
        assert_eq!(judge(1, &[1, 1], 2), Some(DigestComparison::Doubt(BTreeMap::new())));
        assert_eq!(judge(1, &[2, 2], 2), wrong(1, 2));
        for received in [&[2, 1][..], &[2], &[2, 3]] {
            let doubt = judge(1, received, 2);
            assert!(
                matches!(&doubt, Some(DigestComparison::Doubt(others)) if !others.is_empty()),
                "{doubt:?}"
            );
        }
        assert_eq!(judge(1, &[2, 3, 3, 3], 3), wrong(1, 3));
        assert_eq!(digests(1, &[2, 2]).compare(Op::new(9), 2), None, "nothing is known of that op");
    }

    #[test]
    fn only_the_latest_digests_are_kept() {
        let mut list = BTreeMap::new();
        for op in 1..=1000 {
            keep(&mut list, Op::new(op), Hash::ZERO);
        }
        assert_eq!(list.first_key_value().map(|(op, _)| *op), Some(Op::new(1001 - KEPT as u64)));
        assert_eq!(list.len(), KEPT);
    }
}
