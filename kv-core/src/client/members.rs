//! Shows the member list, and changes it.

use super::Client;
use super::call::{Call, CallError, Cause, Reply};
use crate::config::{Change, Configuration, DiskId, Role};
use crate::error::{AdminError, MembershipError, RefusalKind};
use crate::ids::{Epoch, MemberId};
use crate::message::{ChangeCall, MembersAnswer};
use futures::stream::{FuturesUnordered, StreamExt};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// How long a client waits before it asks again.
const PAUSE: Duration = Duration::from_millis(50);

/// How long it looks for the outcome of a change before it asks for the same change again.
const AGAIN: Duration = Duration::from_millis(500);

/// How long it waits for further answers after the first one.
const SOON: Duration = Duration::from_millis(100);

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

    /// Changes the member list, and returns the list when the change is done: from then on, the cluster no longer
    /// needs a member that was removed. While the change is made, for about one round between the members, reads wait
    /// or are repeated, and writes wait.
    ///
    /// Only one change can be in progress; concurrent ones are refused. A list has at most 15 members, and takes
    /// at most 1,536 bytes with their addresses. An id is never used again, and there are 256 of them. If the primary
    /// is removed, the member that has caught up furthest is the next primary.
    ///
    /// Every client that may connect may make this call: see [`NodeBuilder::clients`](crate::NodeBuilder::clients).
    ///
    /// # Errors
    /// [`MembershipError::Refused`] if the cluster does not make the change, for example because the standby to be
    /// promoted has not caught up. [`MembershipError::OutcomeUnknown`] if the change was not seen to be done within the
    /// client's [deadline](crate::ClientBuilder::deadline): then it may be done or not, now or later, which
    /// [`members`](Self::members) shows.
    ///
    /// # Cancel safety
    /// If the future is dropped, the list may still change.
    pub async fn change_members(&self, change: MemberChange) -> Result<MemberList, MembershipError> {
        let deadline = Instant::now() + self.default_deadline();
        let call =
            ChangeCall { ends: Epoch::ZERO, nonce: fastrand::u128(1..), change: change.into_request() };
        let mut attempts = Attempts { call, in_doubt: false };
        let done = timeout_at(deadline, self.attempt(&mut attempts)).await;
        done.unwrap_or_else(|_| Err(attempts.ended(AdminError::NoPrimary)))
    }

    /// Asks for the change until it is done or refused. The cluster makes a change that ends this epoch only once, so
    /// the call can be repeated.
    async fn attempt(&self, attempts: &mut Attempts) -> Result<MemberList, MembershipError> {
        loop {
            self.attempt_once(attempts).await?;
            let until = Instant::now() + AGAIN;
            while attempts.in_doubt && Instant::now() < until {
                if let Some(done) = self.look(attempts).await {
                    return done;
                }
                sleep(PAUSE).await;
            }
            sleep(PAUSE).await;
        }
    }

    /// Asks the primary for the change, if there is one. An error ends the attempts.
    async fn attempt_once(&self, attempts: &mut Attempts) -> Result<(), MembershipError> {
        let Some(member) = self.primary().await else { return Ok(()) };
        if !attempts.in_doubt {
            // The change is meant for the list that the cluster has now.
            match self.list_of(member).await {
                Ok(list) => attempts.call.ends = list.configuration.epoch,
                Err(AdminError::Closed) => return Err(attempts.ended(AdminError::Closed)),
                Err(_) => return Ok(()),
            }
        }
        let call = Call::Change { member, change: Box::new(attempts.call.clone()) };
        let was_in_doubt = std::mem::replace(&mut attempts.in_doubt, true);
        let answer = self.call(call, 0, self.default_deadline()).await;
        if matches!(answer, Ok(Ok(Reply::Done) | Err(CallError::OutcomeUnknown(_)))) {
            return Ok(());
        }
        // This attempt has done nothing.
        attempts.in_doubt = was_in_doubt;
        match answer {
            Err(error) => Err(attempts.ended(error.into())),
            Ok(Ok(Reply::ChangeRefused { kind, reason })) if !was_in_doubt => {
                Err(MembershipError::Refused { kind, reason })
            }
            Ok(_) => Ok(()),
        }
    }

    /// Looks whether the change is done; `None` if that is not known yet.
    async fn look(&self, attempts: &Attempts) -> Option<Result<MemberList, MembershipError>> {
        let list = match self.newest_list().await {
            Ok(list) => list,
            Err(AdminError::Closed) => return Some(Err(attempts.ended(AdminError::Closed))),
            Err(_) => return None,
        };
        let (epoch, ends) = (list.configuration.epoch, attempts.call.ends);
        if epoch <= ends || !list.settled {
            return None;
        }
        Some(if list.configuration.nonce == attempts.call.nonce {
            Ok(MemberList::of(list))
        } else if epoch == ends.next() {
            let reason = "another change was made first: list the members, and decide again".to_owned();
            Err(MembershipError::Refused { kind: RefusalKind::Conflict, reason })
        } else {
            // Which change came first is not known here.
            Err(attempts.ended(AdminError::NoPrimary))
        })
    }

    /// The ids in the member list that this client knows.
    #[cfg(feature = "internals")]
    #[must_use]
    pub fn known_ids(&self) -> Vec<MemberId> {
        self.known_members().iter().map(|member| member.id).collect()
    }

    /// The newest list that a member answers with soon after the first answer.
    pub(crate) async fn newest_list(&self) -> Result<MembersAnswer, AdminError> {
        let members = self.known_members();
        let answers = members.iter().map(|member| self.list_of(member.id));
        let answers = first_and_soon(answers, Result::is_ok).await;
        let mut newest: Result<MembersAnswer, AdminError> = Err(AdminError::NoPrimary);
        let age = |answer: &MembersAnswer| (answer.configuration.epoch, answer.settled);
        for answer in answers {
            let is_better = match (&newest, &answer) {
                (Ok(known), Ok(other)) => age(other) > age(known),
                // A refusal tells more than that somebody is not there.
                (Err(AdminError::Unavailable(Cause::Refused(_))), Err(_)) => false,
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
}

/// A change while it is asked for.
struct Attempts {
    call: ChangeCall,
    /// An attempt may have been ordered.
    in_doubt: bool,
}

impl Attempts {
    /// Nothing more will be known.
    fn ended(&self, error: AdminError) -> MembershipError {
        if self.in_doubt {
            MembershipError::OutcomeUnknown { ends: self.call.ends.get().into() }
        } else {
            MembershipError::Unavailable(error)
        }
    }
}

/// Waits for the first result that is useful, and then a little for further ones: a member that is gone does not delay
/// the others' answers. Returns all results that have come.
pub(super) async fn first_and_soon<T>(
    calls: impl Iterator<Item = impl Future<Output = T>>,
    is_useful: impl Fn(&T) -> bool,
) -> Vec<T> {
    let mut calls: FuturesUnordered<_> = calls.collect();
    let mut results = Vec::new();
    let mut until = None;
    while let Some(result) = match until {
        None => calls.next().await,
        Some(until) => timeout_at(until, calls.next()).await.ok().flatten(),
    } {
        if is_useful(&result) {
            until.get_or_insert(Instant::now() + SOON);
        }
        results.push(result);
    }
    results
}
