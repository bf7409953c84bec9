//! Shows the member list, and changes it.

use super::Client;
use super::call::{Call, Reply};
use crate::config::{Change, Configuration, DiskId, Role};
use crate::error::{AdminError, MembershipError};
use crate::ids::{Epoch, MemberId};
use crate::message::{ChangeCall, MembersAnswer};
use futures::future::join_all;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// How long a client waits before it asks again.
const PAUSE: Duration = Duration::from_millis(50);

/// The member list of a cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct MemberList {
    /// How many changes led to it.
    pub epoch: u64,
    /// Whether the change that led to it is done. Until then, the cluster refuses further changes.
    pub settled: bool,
    /// The members, by id.
    pub members: Vec<ListedMember>,
}

/// A member of a list.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ListedMember {
    /// Its id.
    pub id: MemberId,
    /// The address at which it is reached.
    pub address: String,
    /// What it keeps.
    pub role: Role,
    /// Whether it follows the others without a vote.
    pub standby: bool,
}

/// A change of the member list: of one member, or of one for another.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum MemberChange {
    /// Adds a member, which is a standby at first: it follows the others without a vote.
    Add {
        /// An id that no member has or had: an id is used only once.
        id: MemberId,
        /// The address of the member.
        address: String,
        /// What it keeps. A member keeps its role.
        role: Role,
    },
    /// Gives a standby a vote. It must follow the primary.
    Promote {
        /// The standby.
        id: MemberId,
    },
    /// Removes a member, which then stops.
    Remove {
        /// The member.
        id: MemberId,
    },
    /// Removes a member, and gives its vote to a standby in the same step. The standby must follow the primary.
    Replace {
        /// The member that goes.
        old: MemberId,
        /// The standby.
        new: MemberId,
    },
    /// Gives a member another address.
    Address {
        /// The member.
        id: MemberId,
        /// The new address.
        address: String,
    },
}

impl MemberChange {
    fn into_request(self) -> Change {
        // The primary fills in the disk.
        let disk = DiskId(0);
        match self {
            Self::Add { id, address, role } => Change::Add { id, address, role },
            Self::Promote { id } => Change::Promote { id, disk },
            Self::Remove { id } => Change::Remove { id },
            Self::Replace { old, new } => Change::Replace { old, new, disk },
            Self::Address { id, address } => Change::Address { id, address },
        }
    }
}

impl MemberList {
    fn of(answer: MembersAnswer) -> Self {
        let MembersAnswer { configuration: Configuration { epoch, members, .. }, settled, .. } = answer;
        let listed = members.into_iter().map(|(id, member)| ListedMember {
            id,
            address: member.address,
            role: member.role,
            standby: member.is_standby,
        });
        Self { epoch: u64::from(epoch.get()), settled, members: listed.collect() }
    }
}

impl Client {
    /// Asks all members for the member list, and returns the newest of their answers. A member that is cut off may know
    /// only an earlier list.
    ///
    /// # Errors
    /// If the client is closed, or if no member answers within two seconds (or within the client's deadline, if that is
    /// shorter).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn members(&self) -> Result<MemberList, AdminError> {
        self.newest_list().await.map(MemberList::of)
    }

    /// Changes the member list, and returns the list when the change is done. Only one change can be under way. If
    /// several clients want one at the same time, one of them is served, and the others are refused.
    ///
    /// # Errors
    /// [`MembershipError::Refused`] if the cluster does not make the change, for example because a standby that shall
    /// get a vote lacks data. [`MembershipError::OutcomeUnknown`] if the change was not seen to be done within the
    /// client's deadline: then it may be done or not, now or later, which [`members`](Self::members) shows.
    ///
    /// # Cancel safety
    /// If the future is dropped, the list may still change.
    pub async fn change_members(&self, change: MemberChange) -> Result<MemberList, MembershipError> {
        let deadline = Instant::now() + self.default_deadline();
        let before = self.newest_list().await?;
        let call = ChangeCall {
            ends: before.configuration.epoch,
            nonce: fastrand::u128(1..),
            change: change.into_request(),
        };
        let mut may_be_done = false;
        match timeout_at(deadline, self.ordered(&call, &mut may_be_done)).await {
            Ok(Ok(())) => {}
            Ok(Err(refused @ MembershipError::Refused(_))) if may_be_done => {
                // An earlier attempt may have succeeded, and the list shows that.
                return match timeout_at(deadline, self.done(&call)).await {
                    Ok(Ok(list)) => Ok(list),
                    Ok(Err(MembershipError::Refused(_))) => Err(refused),
                    Ok(Err(error)) => Err(error),
                    Err(_) => Err(MembershipError::OutcomeUnknown),
                };
            }
            Ok(Err(error)) => return Err(error),
            Err(_) if may_be_done => return Err(MembershipError::OutcomeUnknown),
            Err(_) => return Err(MembershipError::Unavailable(AdminError::NoPrimary)),
        }
        timeout_at(deadline, self.done(&call)).await.unwrap_or(Err(MembershipError::OutcomeUnknown))
    }

    /// Asks for the change until a primary has ordered or refused it. If an attempt may have been the one that
    /// succeeded, `may_be_done` is set.
    async fn ordered(&self, call: &ChangeCall, may_be_done: &mut bool) -> Result<(), MembershipError> {
        loop {
            if let Some(member) = self.primary().await {
                let before = std::mem::replace(may_be_done, true);
                match self.change_at(member, call.clone()).await {
                    Ok(Ok(())) => return Ok(()),
                    Ok(Err(why)) => {
                        *may_be_done = before;
                        return Err(MembershipError::Refused(why));
                    }
                    Err(error @ AdminError::Closed) => return Err(error.into()),
                    // It is not known whether it was ordered. The cluster makes a change with this number only once.
                    Err(_) => {}
                }
            }
            sleep(PAUSE).await;
        }
    }

    /// Waits until the epoch of the change has ended, and the next one is settled.
    async fn done(&self, call: &ChangeCall) -> Result<MemberList, MembershipError> {
        loop {
            match self.newest_list().await {
                Ok(list) if list.configuration.epoch > call.ends => {
                    let is_next = list.configuration.epoch == call.ends.next();
                    match (list.configuration.nonce == call.nonce, is_next) {
                        (true, _) if list.settled => return Ok(MemberList::of(list)),
                        (true, _) => {}
                        (false, true) if list.settled => {
                            let why = "another change of the member list was faster: list the members and decide again";
                            return Err(MembershipError::Refused(why.to_owned()));
                        }
                        (false, true) => {}
                        // Which change came first is not known here.
                        (false, false) => return Err(MembershipError::OutcomeUnknown),
                    }
                }
                Err(error @ AdminError::Closed) => return Err(error.into()),
                Ok(_) | Err(_) => {}
            }
            sleep(PAUSE).await;
        }
    }

    pub(crate) async fn newest_list(&self) -> Result<MembersAnswer, AdminError> {
        let members = self.known_members();
        let answers = join_all(members.iter().map(|member| self.list_of(member.id))).await;
        let age = |answer: &MembersAnswer| -> (Epoch, bool) { (answer.configuration.epoch, answer.settled) };
        let mut newest: Result<MembersAnswer, AdminError> = Err(AdminError::NoPrimary);
        for answer in answers {
            let is_better = match (&newest, &answer) {
                (Ok(known), Ok(other)) => age(other) > age(known),
                (Err(_), _) => true,
                (Ok(_), Err(_)) => false,
            };
            if is_better {
                newest = answer;
            }
        }
        newest
    }

    /// Asks one member for the member list, with what a member that joins needs.
    ///
    /// # Errors
    /// As [`member_status`](Self::member_status).
    ///
    /// # Cancel safety
    /// Cancel safe.
    #[cfg(feature = "internals")]
    pub async fn members_at(&self, member: MemberId) -> Result<MembersAnswer, AdminError> {
        self.list_of(member).await
    }

    async fn list_of(&self, member: MemberId) -> Result<MembersAnswer, AdminError> {
        match self.call(Call::Members { member }, 0, self.status_deadline()).await? {
            Ok(Reply::Members(members)) => Ok(*members),
            Ok(other) => unreachable!("a call for the members was answered by {other:?}"),
            Err(error) => Err(AdminError::of(error)),
        }
    }

    /// Asks the primary, which must be this member. `Ok(Err(why))`: it does not change the list.
    async fn change_at(
        &self,
        member: MemberId,
        change: ChangeCall,
    ) -> Result<Result<(), String>, AdminError> {
        let call = Call::Change { member, change: Box::new(change) };
        match self.call(call, 0, self.default_deadline()).await?.map_err(AdminError::of)? {
            Reply::ChangeRefused(why) => Ok(Err(why)),
            _ => Ok(Ok(())),
        }
    }
}
