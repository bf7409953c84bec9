//! Public errors: one enum for each kind of operation.

pub use crate::client::call::{Cause, FailureReason};
pub use crate::message::{LeaseFailure, RefusalKind, RequestError, StepFailure, SuccessorRefusal};

use crate::client::call::CallError;
use crate::ids::{MemberId, Revision};

/// Why a client could not connect.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// No address was given.
    #[error("no address: give the address of at least one member")]
    NoAddress,
    /// No transport was given.
    #[error("no transport: choose one, such as TCP")]
    NoTransport,
    /// A member answered, but it rejected this client, or this client rejected it. A retry does not help.
    #[error("{address} refuses: {reason}")]
    Refused {
        /// The address of the member.
        address: String,
        /// What is wrong, and what to do about it.
        reason: String,
    },
    /// The cluster has no data member, so no member can serve a client.
    #[error("{address} reports no member that holds data")]
    NoDataMember {
        /// The address of the member that was asked.
        address: String,
    },
    /// An address was given for a member id that the cluster does not have.
    #[error("the cluster has no member {id}, according to {address}: use the ids of its members")]
    UnknownMember {
        /// The id that was given.
        id: MemberId,
        /// The address of the member that was asked.
        address: String,
    },
    /// No member accepted this client in time. This includes members that refuse clients only for a while, because they
    /// are shutting down or have too many connections.
    #[error("no member answers: {0}")]
    Unreachable(String),
}

impl ConnectError {
    /// Returns whether the same call may succeed later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Unreachable(_))
    }
}

/// Why a write failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The condition did not hold. Nothing was changed.
    #[error("the condition did not hold at revision {revision}: {}", Found(.found))]
    ConditionFailed {
        /// The revision at which the key was last changed; `None` if the key does not exist.
        found: Option<Revision>,
        /// The revision at which the condition was checked. A read with `.at_least(revision)` sees the state in which
        /// the condition did not hold, or a later one.
        revision: Revision,
    },
    /// The transaction requires a lock that was released or lost before the transaction could take effect. Nothing was
    /// changed. See [`Lock::transaction`](crate::client::Lock::transaction) and
    /// [`Transaction::fenced`](crate::client::Transaction::fenced).
    #[error("the lock was no longer held at revision {revision}: nothing was changed")]
    LockLost {
        /// The revision at which the lock was checked. A read with `.at_least(revision)` sees the state at that check,
        /// or a later one.
        revision: Revision,
    },
    /// The key is empty or too long. Nothing was changed.
    #[error("the key has {len} bytes: keys have 1 to {max}")]
    Key {
        /// The length of the key in bytes.
        len: usize,
        /// The greatest length allowed, in bytes.
        max: usize,
    },
    /// The value is too long. Nothing was changed.
    #[error("the value has {len} bytes: values have up to {max}")]
    Value {
        /// The length of the value in bytes.
        len: usize,
        /// The greatest length allowed, in bytes.
        max: usize,
    },
    /// The lease has ended or takes no more keys, or no further lease is allowed. Nothing was changed.
    #[error(transparent)]
    Lease(LeaseFailure),
    /// A time to live is out of range, or the transaction is malformed or exceeds a limit. Nothing was changed.
    #[error(transparent)]
    Malformed(RequestError),
    /// A step of the transaction failed. Nothing was changed.
    #[error("step {step} failed: {why}")]
    StepFailed {
        /// A transaction has two lists of steps: one is run if all conditions hold, and the other is run
        /// [otherwise](crate::client::Transaction::otherwise). This is the index of the failed step in the list that
        /// was run. The first step of a list has index 0.
        step: usize,
        /// Why the step failed.
        why: StepFailure,
        /// The revision at which the step failed. A read with `.at_least(revision)` sees the state in which the step
        /// failed, or a later one.
        revision: Revision,
    },
    /// The cluster refuses the request. Nothing was changed. The text is the reason.
    #[error("refused: {0}")]
    Refused(String),
    /// The write was not applied and will not be applied. The same call may succeed later.
    #[error("not applied: {0}")]
    NotApplied(Cause),
    /// It is unknown whether the write was applied or will be applied. The write is applied at most once.
    #[error("the outcome is unknown: {0}")]
    OutcomeUnknown(Cause),
    /// The client was closed. Nothing was changed.
    #[error("the client is closed")]
    Closed,
}

impl From<RequestError> for WriteError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Key { len, max } => Self::Key { len, max },
            RequestError::Value { len, max } => Self::Value { len, max },
            error @ (RequestError::Malformed
            | RequestError::TooManyOps { .. }
            | RequestError::Transaction { .. }
            | RequestError::Keys { .. }
            | RequestError::Skip { .. }
            | RequestError::Ttl { .. }
            | RequestError::DuplicateKey { .. }) => Self::Malformed(error),
        }
    }
}

impl WriteError {
    /// Returns true if nothing was changed and the same call may succeed later. This is the case for
    /// [`NotApplied`](Self::NotApplied) and for [`StepFailure::Busy`].
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::NotApplied(_) | Self::StepFailed { why: StepFailure::Busy, .. })
    }

    /// Returns whether the write may have been applied, or may still be applied.
    #[must_use]
    pub const fn outcome_unknown(&self) -> bool {
        matches!(self, Self::OutcomeUnknown(_))
    }

    /// Returns whether the write failed because its lease has ended or never existed.
    #[must_use]
    pub const fn is_lease_ended(&self) -> bool {
        matches!(
            self,
            Self::Lease(LeaseFailure::Unknown)
                | Self::StepFailed { why: StepFailure::Lease(LeaseFailure::Unknown), .. }
        )
    }

    /// Returns whether the write failed because the lock that the transaction requires was no longer held.
    #[must_use]
    pub const fn is_lock_lost(&self) -> bool {
        matches!(self, Self::LockLost { .. })
    }

    /// Returns whether the write failed because its condition did not hold.
    #[must_use]
    pub const fn is_condition_failed(&self) -> bool {
        matches!(self, Self::ConditionFailed { .. })
    }
}

/// Why a lock was not acquired.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// The waiting time ended before the lock was acquired, usually because another client held the lock. The cluster
    /// may also have been unable to answer in that time.
    #[error("another client holds the lock")]
    Held,
    /// A write failed. The lock may have been acquired nevertheless. In that case, the client has tried to revoke the
    /// lock's lease. If the lease was not revoked, the lock is released when the lease's time to live is over.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A read failed. The lock may have been acquired nevertheless: see [`Write`](Self::Write).
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl LockError {
    /// Returns whether the waiting time ended before the lock was acquired: [`Held`](Self::Held).
    #[must_use]
    pub const fn is_held(&self) -> bool {
        matches!(self, Self::Held)
    }

    /// Returns whether the same call may succeed later. This is true for:
    /// - [`Held`](Self::Held);
    /// - a write error that is [retryable](WriteError::is_retryable), or whose [outcome is
    ///   unknown](WriteError::outcome_unknown);
    /// - a read error that is [retryable](ReadError::is_retryable).
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Held => true,
            Self::Write(error) => error.is_retryable() || error.outcome_unknown(),
            Self::Read(error) => error.is_retryable(),
        }
    }

    /// Returns whether the lease ended while the client waited for the lock.
    pub(crate) const fn is_lease_ended(&self) -> bool {
        matches!(self, Self::Write(error) if error.is_lease_ended())
    }
}

struct Found<'a>(&'a Option<Revision>);

impl std::fmt::Display for Found<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(revision) => write!(f, "the key was last changed at revision {revision}"),
            None => f.write_str("the key does not exist"),
        }
    }
}

/// Why a read failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The key is empty or too long.
    #[error("the key has {len} bytes: keys have 1 to {max}")]
    Key {
        /// The length of the key in bytes.
        len: usize,
        /// The greatest length allowed, in bytes.
        max: usize,
    },
    /// The range of keys, or the number of keys, is not allowed.
    #[error(transparent)]
    Malformed(RequestError),
    /// The read was restricted to a member that the cluster does not have.
    #[error("the cluster has no member {0}: kv status lists its members")]
    UnknownMember(MemberId),
    /// The read was restricted to a member that is a witness, which stores no data.
    #[error("member {0} is a witness, which holds no data: ask a data member")]
    Witness(MemberId),
    /// The cluster refuses the read. The text is the reason.
    #[error("refused: {0}")]
    Refused(String),
    /// The member that was asked no longer keeps the revision.
    #[error("the revision is compacted: the oldest readable revision is {oldest}")]
    Compacted {
        /// The oldest revision that this member can read.
        oldest: Revision,
    },
    /// The member that was asked has not reached the revision. If the read is linearizable, the revision does not exist
    /// yet. Otherwise, the revision may exist, but this member has not applied it yet.
    #[error("the revision does not exist yet: the newest revision is {newest}")]
    Future {
        /// The newest revision that the member can read.
        newest: Revision,
    },
    /// The read got no valid answer, usually because the deadline passed. The same call may succeed later.
    #[error("not read: {0}")]
    Unavailable(Cause),
    /// The client was closed.
    #[error("the client is closed")]
    Closed,
}

impl From<RequestError> for ReadError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Key { len, max } => Self::Key { len, max },
            error => Self::Malformed(error),
        }
    }
}

impl ReadError {
    /// Returns whether the same call may succeed later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Future { .. })
    }

    /// Returns whether the read failed because its revision is no longer kept.
    #[must_use]
    pub const fn is_compacted(&self) -> bool {
        matches!(self, Self::Compacted { .. })
    }
}

/// Why a watch ended.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WatchError {
    /// Members no longer keep some of the changes that the watch needs. To continue, use
    /// [`Watch::follow`](crate::client::Watch::follow), which reads the present state and watches the changes after it.
    #[error("history compacted: changes are available only after revision {oldest}")]
    Compacted {
        /// The member that answered keeps all changes after this revision.
        oldest: Revision,
    },
    /// The range of keys is not allowed.
    #[error(transparent)]
    Malformed(RequestError),
    /// The cluster refuses the watch. The text is the reason.
    #[error("refused: {0}")]
    Refused(String),
    /// [`Watch::follow`](crate::client::Watch::follow) could not read the present state.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The client was closed.
    #[error("the client is closed")]
    Closed,
}

impl WatchError {
    /// Returns whether the watch ended because members no longer keep some of its changes.
    #[must_use]
    pub const fn is_compacted(&self) -> bool {
        matches!(self, Self::Compacted { .. })
    }
}

/// Why a status call or a handover (a request to the primary to pass its role to another member) failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// The member did not answer, or it refused.
    #[error("{0}")]
    Unavailable(Cause),
    /// No member that answered is the primary.
    #[error("no primary was found")]
    NoPrimary,
    /// No member has this id.
    #[error("the cluster has no member {0}")]
    UnknownMember(MemberId),
    /// The member that a handover names cannot take over now. The primary has kept its role.
    #[error(transparent)]
    Successor(#[from] SuccessorRefusal),
    /// The client was closed.
    #[error("the client is closed")]
    Closed,
}

impl AdminError {
    pub(crate) fn of(error: CallError) -> Self {
        let (CallError::NotApplied(cause) | CallError::OutcomeUnknown(cause)) = error;
        Self::Unavailable(cause)
    }
}

/// Why a change of the member list was not seen to be done.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MembershipError {
    /// The cluster does not make the change. Nothing has changed.
    #[error("{reason}")]
    Refused {
        /// What to do about it.
        kind: RefusalKind,
        /// The reason, for a person.
        reason: String,
    },
    /// No member answered, or none was the primary. Nothing has changed.
    #[error(transparent)]
    Unavailable(AdminError),
    /// The change was not seen to be done in time. It may be done or not, now or later.
    #[error(
        "it is not known whether the member list was changed: list the members. If change {} was made, and is the one that was asked for, it is done",
        ends + 1
    )]
    OutcomeUnknown {
        /// The list that was to be changed: how many changes had led to it.
        ends: u64,
    },
}

impl From<crate::client::Closed> for AdminError {
    fn from(_: crate::client::Closed) -> Self {
        Self::Closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_kind_of_write_error_may_have_changed_something() {
        let cause = || Cause::Deadline(FailureReason::Silent);
        let errors = [
            WriteError::ConditionFailed { found: None, revision: Revision::new(8) },
            WriteError::LockLost { revision: Revision::new(8) },
            WriteError::Key { len: 0, max: 9 },
            WriteError::Value { len: 10, max: 9 },
            WriteError::Lease(LeaseFailure::Unknown),
            WriteError::StepFailed { step: 0, why: StepFailure::Busy, revision: Revision::new(8) },
            WriteError::StepFailed {
                step: 0,
                why: StepFailure::ResponseTooLarge { max: 9 },
                revision: Revision::new(8),
            },
            WriteError::Refused("no".into()),
            WriteError::NotApplied(cause()),
            WriteError::OutcomeUnknown(cause()),
            WriteError::Closed,
        ];
        let unknown: Vec<_> = errors.iter().filter(|error| error.outcome_unknown()).collect();
        assert_eq!(unknown, [&WriteError::OutcomeUnknown(cause())]);
        let retryable: Vec<_> = errors.iter().filter(|error| error.is_retryable()).collect();
        let crowded = WriteError::StepFailed { step: 0, why: StepFailure::Busy, revision: Revision::new(8) };
        assert_eq!(retryable, [&crowded, &WriteError::NotApplied(cause())]);
        let condition: Vec<_> = errors.iter().filter(|error| error.is_condition_failed()).collect();
        assert_eq!(condition, [&WriteError::ConditionFailed { found: None, revision: Revision::new(8) }]);
    }

    #[test]
    fn errors_describe_what_happened_in_one_line() {
        let found = Some(Revision::new(7));
        let cases = [
            (
                WriteError::ConditionFailed { found, revision: Revision::new(8) }.to_string(),
                "the condition did not hold at revision 8: the key was last changed at revision 7",
            ),
            (
                WriteError::ConditionFailed { found: None, revision: Revision::new(8) }.to_string(),
                "the condition did not hold at revision 8: the key does not exist",
            ),
            (WriteError::Key { len: 0, max: 9 }.to_string(), "the key has 0 bytes: keys have 1 to 9"),
            (WriteError::NotApplied(Cause::SessionExpired).to_string(), "not applied: the session expired"),
            (
                ReadError::Compacted { oldest: Revision::new(5) }.to_string(),
                "the revision is compacted: the oldest readable revision is 5",
            ),
            (
                ReadError::Unavailable(Cause::Deadline(FailureReason::NoPrimary)).to_string(),
                "not read: the deadline passed: no primary was found",
            ),
            (
                AdminError::Unavailable(Cause::Failed(FailureReason::Unreachable)).to_string(),
                "no member could be reached",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(text, expected);
        }
    }
}
