//! The member list of an epoch, and how a change of it makes the next list.

use super::{Cluster, ConfigError, Member, Role};
use crate::ids::{Anchor, Epoch, Hash, MemberId, Op, View};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The most bytes of an encoded configuration. All copies of the superblock contain it.
const MOST_BYTES: usize = 1536;

/// The last epoch. Nobody can count so far.
const LAST_EPOCH: Epoch = Epoch::new((1 << 22) - 1);

/// Identifies a data directory. It is drawn when the directory is first written, so a member that has lost its disk has
/// another one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct DiskId(pub u128);

/// Identifies the history of a cluster from its first change on. Two clusters that were formed with the same name have
/// different ones.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct HistoryId(pub u128);

impl HistoryId {
    /// What members of later epochs compare, instead of their member lists.
    #[must_use]
    pub fn fingerprint(self) -> Hash {
        Hash::of(&self.0.to_le_bytes())
    }
}

/// The ids that members have or had: one bit for each.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct UsedIds([u8; 32]);

impl UsedIds {
    /// Whether a member has or had this id.
    #[must_use]
    pub const fn contains(&self, id: MemberId) -> bool {
        self.0[(id.get() / 8) as usize] >> (id.get() % 8) & 1 == 1
    }

    fn insert(&mut self, id: MemberId) {
        self.0[usize::from(id.get() / 8)] |= 1 << (id.get() % 8);
    }

    fn is_full(&self) -> bool {
        self.0 == [u8::MAX; 32]
    }
}

/// A member of a configuration.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ConfiguredMember {
    /// Its address.
    pub address: String,
    /// What it does.
    pub role: Role,
    /// It has no vote.
    pub is_standby: bool,
    /// The disk on which it has promised to keep what it acknowledges; `None` for a standby, and for a founder whose
    /// disk no change has named yet.
    pub disk: Option<DiskId>,
}

/// The member list of an epoch, with what must be known to enter the epoch.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Configuration {
    /// The number of the epoch.
    pub epoch: Epoch,
    /// `None` in epoch 0.
    pub history: Option<HistoryId>,
    /// All members.
    pub members: BTreeMap<MemberId, ConfiguredMember>,
    /// The ids that no new member can have.
    pub used: UsedIds,
    /// The first view of the epoch.
    pub first: View,
    /// The stop of the epoch before; [`Anchor::ZERO`] in epoch 0.
    pub stop: Anchor,
    /// Identifies the change that led to it; 0 in epoch 0.
    pub nonce: u128,
}

/// A change of one member.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Change {
    /// A new member, which is a standby at first.
    Add {
        /// An id that no member has or had.
        id: MemberId,
        /// The address of the member.
        address: String,
        /// What it will do.
        role: Role,
    },
    /// A standby gets a vote.
    Promote {
        /// The standby.
        id: MemberId,
        /// The disk on which it has the log.
        disk: DiskId,
    },
    /// A member goes.
    Remove {
        /// The member.
        id: MemberId,
    },
    /// A standby gets the vote of a member that goes.
    Replace {
        /// The member that goes.
        old: MemberId,
        /// The standby.
        new: MemberId,
        /// The disk on which the standby has the log.
        disk: DiskId,
    },
    /// A member has another address.
    Address {
        /// The member.
        id: MemberId,
        /// The new address.
        address: String,
    },
    /// A data member becomes a witness, or the reverse.
    Role {
        /// The member.
        id: MemberId,
        /// The new role.
        role: Role,
    },
}

/// A request for the next configuration.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChangeRequest {
    /// The epoch that it ends. In any other epoch, it fails.
    pub ends: Epoch,
    /// Identifies it, so that a retry can be answered.
    pub nonce: u128,
    /// What changes.
    pub change: Change,
    /// The primary of the first view of the next epoch.
    pub first: MemberId,
    /// The history id, if the cluster has none yet.
    pub history: HistoryId,
    /// The disks of members that stay, and whose disks no change has named yet.
    pub disks: BTreeMap<MemberId, DiskId>,
}

/// Why a change was refused. Nothing has changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ChangeRefused {
    /// Another change was faster.
    #[error(
        "the member list was changed meanwhile (epoch {present}, not {ends}): check the member list, and try again"
    )]
    OtherEpoch {
        /// The epoch that the request would end.
        ends: Epoch,
        /// The present epoch.
        present: Epoch,
    },
    /// A member has or had this id.
    #[error("member id {0} has been used before, and an id is used only once: choose another one")]
    UsedId(MemberId),
    /// All ids were used.
    #[error("all 256 member ids have been used: restore a backup into a new cluster to add members")]
    NoIdLeft,
    /// There is no such member.
    #[error("the cluster has no member {0}: see kv member list")]
    Unknown(MemberId),
    /// The member has a vote already.
    #[error("member {0} is no standby: it has a vote already")]
    NotAStandby(MemberId),
    /// A standby cannot be replaced.
    #[error("member {0} is a standby and has no vote to pass on: remove it, and promote the other one")]
    NotAVoter(MemberId),
    /// Nobody would be left.
    #[error("member {0} is the last one with a vote: add another member first, and promote it")]
    LastVoter(MemberId),
    /// The list would be the same.
    #[error("member {0} is as requested already")]
    Unchanged(MemberId),
    /// The list would not be valid.
    #[error(transparent)]
    Invalid(ConfigError),
    /// The list would be too long.
    #[error(
        "the member list would take {bytes} bytes, and at most {MOST_BYTES} are possible: use shorter addresses"
    )]
    TooLong {
        /// The encoded length.
        bytes: usize,
    },
    /// The request names a member as the first primary that cannot be it.
    #[error("member {0} cannot be the primary of the next epoch: name a data member that has a vote in it")]
    NoPrimary(MemberId),
    /// Two members name one disk.
    #[error(
        "member {0} has a copy of the data directory of another member: give it an empty directory and a new id"
    )]
    DiskInUse(MemberId),
    /// There are no more epochs.
    #[error("the member list has been changed too often: restore a backup into a new cluster")]
    LastEpoch,
}

impl Configuration {
    /// The configuration of a cluster that forms with this member list.
    #[must_use]
    pub fn founding(cluster: &Cluster) -> Self {
        let mut used = UsedIds::default();
        cluster.members().for_each(|member| used.insert(member.id));
        let configured = |member: &Member| {
            let Member { id, address, role, is_standby } = member.clone();
            (id, ConfiguredMember { address, role, is_standby, disk: None })
        };
        Self {
            epoch: Epoch::ZERO,
            history: None,
            members: cluster.members().map(configured).collect(),
            used,
            first: View::ZERO,
            stop: Anchor::ZERO,
            nonce: 0,
        }
    }

    /// The member list for the protocol.
    ///
    /// # Errors
    /// If the list is not valid. A configuration that was decoded, or that a change made, is valid.
    pub fn cluster(&self, name: &str) -> Result<Cluster, ConfigError> {
        let mut builder = Cluster::builder(name);
        for (id, member) in &self.members {
            let ConfiguredMember { address, role, is_standby, .. } = member;
            builder = match is_standby {
                true => builder.with_standby(id.get(), address, *role),
                false => builder.with(id.get(), address, *role),
            };
        }
        builder.build()
    }

    /// The configuration that follows this one by a change, whose stop is at this point.
    ///
    /// # Errors
    /// Why the change is impossible, as far as the list itself shows it.
    pub fn after(&self, request: &ChangeRequest, stop: Anchor) -> Result<Self, ChangeRefused> {
        if request.ends != self.epoch {
            return Err(ChangeRefused::OtherEpoch { ends: request.ends, present: self.epoch });
        }
        if self.epoch >= LAST_EPOCH {
            return Err(ChangeRefused::LastEpoch);
        }
        let mut next = Self {
            epoch: self.epoch.next(),
            history: self.history.or(Some(request.history)),
            stop,
            nonce: request.nonce,
            ..self.clone()
        };
        next.change(&request.change)?;
        for (id, disk) in &request.disks {
            let member = next.members.get_mut(id).filter(|member| !member.is_standby);
            if let Some(member) = member {
                member.disk = member.disk.or(Some(*disk));
            }
        }
        if let Some(id) = next.shares_a_disk() {
            return Err(ChangeRefused::DiskInUse(id));
        }
        let cluster = next.cluster("next").map_err(ChangeRefused::Invalid)?;
        let data = cluster.voters().filter(|member| member.role == Role::Data);
        let turn = data.map(|member| member.id).position(|id| id == request.first);
        let turn = turn.ok_or(ChangeRefused::NoPrimary(request.first))?;
        next.first = View::of(next.epoch, turn as u64);
        let bytes = next.longest();
        if bytes > MOST_BYTES {
            return Err(ChangeRefused::TooLong { bytes });
        }
        assert!(next.is_sound(), "the next list can be read again");
        Ok(next)
    }

    fn change(&mut self, change: &Change) -> Result<(), ChangeRefused> {
        match change {
            Change::Add { id, address, role } => {
                if self.used.is_full() {
                    return Err(ChangeRefused::NoIdLeft);
                }
                if self.used.contains(*id) {
                    return Err(ChangeRefused::UsedId(*id));
                }
                self.used.insert(*id);
                let (address, role) = (address.clone(), *role);
                self.members.insert(*id, ConfiguredMember { address, role, is_standby: true, disk: None });
            }
            Change::Promote { id, disk } => self.promote(*id, *disk)?,
            Change::Remove { id } => {
                let is_standby = self.member(*id)?.is_standby;
                if !is_standby && self.members.values().filter(|member| !member.is_standby).count() == 1 {
                    return Err(ChangeRefused::LastVoter(*id));
                }
                self.members.remove(id);
            }
            Change::Replace { old, new, disk } => {
                if self.member(*old)?.is_standby {
                    return Err(ChangeRefused::NotAVoter(*old));
                }
                self.promote(*new, *disk)?;
                self.members.remove(old);
            }
            Change::Address { id, address } => {
                let member = self.member(*id)?;
                if member.address == *address {
                    return Err(ChangeRefused::Unchanged(*id));
                }
                member.address.clone_from(address);
            }
            Change::Role { id, role } => {
                let member = self.member(*id)?;
                if member.role == *role {
                    return Err(ChangeRefused::Unchanged(*id));
                }
                member.role = *role;
            }
        }
        Ok(())
    }

    /// A member whose disk another member has, too.
    fn shares_a_disk(&self) -> Option<MemberId> {
        let mut known = BTreeSet::new();
        let mut disks = self.members.iter().filter_map(|(id, member)| Some((*id, member.disk?)));
        disks.find(|(_, disk)| !known.insert(*disk)).map(|(id, _)| id)
    }

    fn member(&mut self, id: MemberId) -> Result<&mut ConfiguredMember, ChangeRefused> {
        self.members.get_mut(&id).ok_or(ChangeRefused::Unknown(id))
    }

    fn promote(&mut self, id: MemberId, disk: DiskId) -> Result<(), ChangeRefused> {
        let member = self.member(id)?;
        if !member.is_standby {
            return Err(ChangeRefused::NotAStandby(id));
        }
        (member.is_standby, member.disk) = (false, Some(disk));
        Ok(())
    }

    /// Encodes it.
    ///
    /// # Panics
    /// Never: a configuration always encodes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("a configuration always encodes")
    }

    /// How many bytes it has encoded at most, whatever the stop is.
    fn longest(&self) -> usize {
        let stop = Anchor::new(Op::new(u64::MAX >> 2), Hash::new(u128::MAX));
        Self { stop, ..self.clone() }.encode().len()
    }

    /// Decodes what [`encode`](Self::encode) returned; `None` for anything else, and for a list that is not valid.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > MOST_BYTES {
            return None;
        }
        match postcard::take_from_bytes::<Self>(bytes) {
            Ok((configuration, [])) if configuration.is_sound() => Some(configuration),
            _ => None,
        }
    }

    /// Whether a change, or the forming of a cluster, can have made it. Bytes that were decoded may be anything.
    pub(crate) fn is_sound(&self) -> bool {
        let Ok(cluster) = self.cluster("decoded") else { return false };
        let data = cluster.voters().filter(|member| member.role == Role::Data).count() as u64;
        let begins = match self.epoch {
            Epoch::ZERO => self.history.is_none() && self.stop == Anchor::ZERO && self.first == View::ZERO,
            _ => self.history.is_some() && self.stop != Anchor::ZERO,
        };
        begins
            && self.epoch <= LAST_EPOCH
            && (self.epoch == Epoch::ZERO || self.longest() <= MOST_BYTES)
            && self.first.epoch() == self.epoch
            && self.first.number() < data
            && self.members.keys().all(|id| self.used.contains(*id))
            && self.members.values().all(|member| !member.is_standby || member.disk.is_none())
            && self.shares_a_disk().is_none()
    }
}

#[cfg(test)]
mod tests;
