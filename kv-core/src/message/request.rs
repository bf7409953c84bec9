//! The requests of clients, and their results.

use super::{
    Condition, Expiry, LeaseCommand, LeaseFailure, LeaseInfo, Lifetime, Record, RequestError, SizeLimits,
    bounded,
};
use crate::config::Configuration;
use crate::ids::{Epoch, LeaseId, RequestNumber, Revision, SessionId, Timestamp};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A request, as it is stored in the log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Request {
    /// The session. Zero only for [`Operation::OpenSession`], [`Operation::Expire`] and [`Operation::Reconfigure`].
    pub session: SessionId,
    /// The client's number for the request, which a retry keeps. Zero only without a session.
    pub number: RequestNumber,
    /// The client has received the results of all requests up to this number. Members may drop these results, and never
    /// run these requests again.
    pub acked_through: RequestNumber,
    /// What to do.
    pub operation: Operation,
}

/// What a request does.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Operation {
    /// Opens a session. The id of the session is the number of this request in the log (rule E1 of `PROTOCOL.md`). A
    /// retry with the same nonce opens another session; the first one is never used and expires.
    OpenSession {
        /// Chosen at random by the client, so that it recognizes its own answer.
        nonce: u128,
    },
    /// Closes the session.
    CloseSession,
    /// Changes the data.
    Command(Command),
    /// Removes expired keys and leases. Only the primary proposes this; members do not accept it from clients.
    Expire(#[serde(deserialize_with = "bounded::list::<_, _, { Expiry::MOST }>")] Vec<Expiry>),
    /// Changes the member list, and so ends the epoch. It is the only request of a stop, and is in no other entry. It
    /// belongs to no session (rule M1). The configuration does not name the stop, because the stop contains it.
    Reconfigure(Box<Configuration>),
}

/// A change of the data.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Command {
    /// Sets a key.
    Put {
        key: Bytes,
        value: Bytes,
        /// The condition under which the key is changed.
        condition: Option<Condition>,
        /// How long the key is kept.
        life: Lifetime,
    },
    /// Removes a key.
    Delete {
        key: Bytes,
        /// The condition under which the key is changed.
        condition: Option<Condition>,
    },
    /// Runs several steps at one revision.
    Transaction(TransactionRequest),
    /// Removes keys from the beginning of a range. The removal ends early, and reports that there are more keys, once
    /// the removed values have 16 MiB.
    DeleteRange {
        /// The first key (inclusive).
        from: Bytes,
        /// The end (exclusive); `None` for the end of the key space.
        to: Option<Bytes>,
        /// The most keys. A greater number than [`Command::MAX_RANGE`] counts as `MAX_RANGE`, and 0 counts as 1.
        limit: u32,
    },
    /// A request about a lease.
    Lease(LeaseCommand),
    /// Replaces the time to live of a key, and keeps its value and its lease.
    Touch {
        key: Bytes,
        /// The new time to live, in milliseconds from the timestamp of the log entry; `None` for none.
        ttl_ms: Option<u64>,
        /// The condition under which the key is changed.
        condition: Option<Condition>,
    },
    /// Takes all revisions up to `to`, and changes no key. So the history that is too old by then is dropped, and the
    /// ids of later sessions and leases are raised too. It takes none if `to` is in the past: a copy of a skip skips
    /// nothing more.
    SkipRevisions {
        /// The last revision that it takes. A greater one than [`Command::MAX_SKIP_TO`] is refused.
        to: Revision,
    },
}

/// Several steps that are all run or not at all. All conditions and all steps see the state before the transaction.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TransactionRequest {
    /// The conditions on keys. All must hold; an empty list holds.
    #[serde(deserialize_with = "bounded::list::<_, _, { TransactionRequest::MAX_CONDITIONS }>")]
    pub conditions: Vec<(Bytes, Condition)>,
    /// The steps to run if all conditions hold. No key may be changed twice.
    #[serde(deserialize_with = "bounded::list::<_, _, { TransactionRequest::MAX_STEPS }>")]
    pub then: Vec<TransactionStep>,
    /// The steps to run if a condition does not hold. No key may be changed twice.
    #[serde(deserialize_with = "bounded::list::<_, _, { TransactionRequest::MAX_STEPS }>")]
    pub otherwise: Vec<TransactionStep>,
}

/// A step of a transaction: a change, or a read.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum TransactionStep {
    /// Sets a key.
    Put {
        key: Bytes,
        value: Bytes,
        /// How long the key is kept.
        life: Lifetime,
    },
    /// Removes a key.
    Delete { key: Bytes },
    /// Adds to a counter: a key whose value is a whole number in decimal digits. A missing key counts as 0. The key
    /// keeps its lifetime.
    Add {
        key: Bytes,
        /// The amount, which may be negative.
        by: i64,
    },
    /// Reads a key, as it was before the transaction.
    Get { key: Bytes },
    /// Reads keys in order, as they were before the transaction.
    Scan {
        /// The first key (inclusive).
        from: Bytes,
        /// The end (exclusive); `None` for the end of the key space.
        to: Option<Bytes>,
        /// The most keys. A greater number than [`Command::MAX_RANGE`] counts as `MAX_RANGE`, and 0 counts as 1.
        limit: u32,
    },
    /// Replaces the time to live of a key, and keeps its value and its lease.
    Touch {
        key: Bytes,
        /// The new time to live, in milliseconds from the timestamp of the log entry; `None` for none.
        ttl_ms: Option<u64>,
    },
}

impl TransactionStep {
    /// The key that it changes.
    #[must_use]
    pub const fn changes(&self) -> Option<&Bytes> {
        match self {
            Self::Put { key, .. }
            | Self::Delete { key }
            | Self::Add { key, .. }
            | Self::Touch { key, .. } => Some(key),
            Self::Get { .. } | Self::Scan { .. } => None,
        }
    }

    fn check(&self, limits: SizeLimits) -> Result<(), RequestError> {
        match self {
            Self::Put { key, value, life } => {
                limits.key(key)?;
                limits.value(value)?;
                life.check()
            }
            Self::Delete { key } | Self::Add { key, .. } | Self::Get { key } => limits.key(key),
            Self::Scan { from, to, limit: _ } => limits.range(from, to.as_ref()),
            Self::Touch { key, ttl_ms } => {
                limits.key(key)?;
                Lifetime::check_ttl(*ttl_ms)
            }
        }
    }

    fn payload_bytes(&self) -> usize {
        match self {
            Self::Put { key, value, .. } => key.len() + value.len(),
            Self::Delete { key }
            | Self::Add { key, .. }
            | Self::Get { key }
            | Self::Touch { key, ttl_ms: _ } => key.len(),
            Self::Scan { from, to, limit: _ } => from.len() + to.as_ref().map_or(0, Bytes::len),
        }
    }
}

/// The stored result of a request: every retry gets the same bytes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// The revision at which the request first ran: its own (the last of them, if it takes several) or, if it takes
    /// none, the last revision before it.
    pub revision: Revision,
    /// The timestamp of the log entry in which the request ran.
    pub timestamp: Timestamp,
    /// What the request did.
    pub effect: Effect,
}

/// What a request has done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Effect {
    /// The session with this id is open.
    SessionOpened(SessionId),
    SessionClosed,
    /// The key was set.
    Put,
    /// The key was removed, if it existed.
    Deleted {
        /// Whether the key existed.
        existed: bool,
    },
    /// The condition did not hold: nothing was changed. In a transaction, only [`Condition::Held`] leads to this
    /// outcome.
    ConditionFailed {
        /// The revision at which the key was last changed; `None` if it does not exist.
        found: Option<Revision>,
    },
    /// Keys of the range were removed.
    RangeDeleted {
        /// Their number.
        count: u32,
        /// Whether the range holds more.
        more: bool,
    },
    /// The transaction was run.
    Transacted {
        /// Whether the conditions held, which decides which list of steps was run.
        succeeded: bool,
        /// The results of the steps, in order.
        results: Vec<StepResult>,
    },
    /// A step of the transaction failed: nothing was changed.
    StepFailed {
        /// The index of the step, from 0, in the list that was run.
        step: u32,
        /// Why the step failed.
        why: StepFailure,
    },
    /// The lease with this id is granted.
    LeaseGranted(LeaseId),
    /// The lease was renewed.
    LeaseKept,
    /// The lease was ended, and its keys removed.
    LeaseRevoked {
        /// The number of its keys.
        keys: u32,
    },
    /// The state of the lease.
    Lease(LeaseInfo),
    /// The request about the lease failed: nothing was changed.
    LeaseFailed(LeaseFailure),
    /// Expired keys and leases were removed.
    Expired {
        /// The number of removed keys, including those of leases.
        keys: u32,
        /// The number of ended leases.
        leases: u32,
    },
    /// The time to live of the key was replaced, if the key exists.
    Touched {
        /// Whether the key exists.
        existed: bool,
    },
    /// Revisions were skipped.
    RevisionsSkipped {
        /// The members keep at most this many revisions (`history_revisions`).
        kept: u64,
    },
    /// The member list was changed.
    EpochBegan {
        /// The epoch that began with the change.
        epoch: Epoch,
    },
}

/// What one step of a transaction did or found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub enum StepResult {
    /// The key was set.
    Put,
    /// The key was removed, if it existed.
    Deleted {
        /// Whether it existed.
        existed: bool,
    },
    /// The counter was changed.
    Added {
        /// The new value.
        sum: i64,
    },
    /// The record before the transaction; `None` if the key did not exist.
    Got(Option<Box<Record>>),
    /// The records of the range before the transaction.
    Scanned(Box<Scanned>),
    /// The time to live of the key was replaced, if the key exists.
    Touched {
        /// Whether the key exists.
        existed: bool,
    },
}

/// What a transaction found in a range.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub struct Scanned {
    /// Keys and records in order.
    pub records: Vec<(Bytes, Record)>,
    /// Whether the range holds more.
    pub more: bool,
}

impl StepResult {
    /// The weight of a result, and of each record in it, besides the data. The weight is the same on every member,
    /// because it decides which results are kept.
    const WEIGHT: usize = 16;
    const RECORD: usize = 128;

    /// The record that a step of [`Transaction::get`](crate::client::Transaction::get) has found.
    #[must_use]
    pub fn record(&self) -> Option<&Record> {
        match self {
            Self::Got(record) => record.as_deref(),
            Self::Put
            | Self::Deleted { .. }
            | Self::Added { .. }
            | Self::Scanned(_)
            | Self::Touched { .. } => None,
        }
    }

    /// About how much memory the result takes, in bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        Self::WEIGHT
            + match self {
                Self::Put
                | Self::Deleted { .. }
                | Self::Added { .. }
                | Self::Got(None)
                | Self::Touched { .. } => 0,
                Self::Got(Some(record)) => Self::record_weight(&[], record),
                Self::Scanned(scanned) => {
                    let records = scanned.records.iter();
                    Self::RECORD
                        + records.map(|(key, record)| Self::record_weight(key, record)).sum::<usize>()
                }
            }
    }

    /// About how much memory a record takes in a result, in bytes.
    pub(crate) fn record_weight(key: &[u8], record: &Record) -> usize {
        Self::RECORD + key.len() + record.value.len()
    }

    /// What a value that is read and written again counts, in bytes: as much as the result of a get.
    pub(crate) const fn rewritten_weight(value_bytes: usize) -> usize {
        Self::RECORD + value_bytes
    }
}

impl Effect {
    /// About how much memory the value takes besides its own size, in bytes. The number is the same on every member.
    #[must_use]
    pub fn weight(&self) -> usize {
        match self {
            Self::Transacted { results, .. } => results.iter().map(StepResult::weight).sum(),
            Self::SessionOpened(_)
            | Self::SessionClosed
            | Self::Put
            | Self::Deleted { .. }
            | Self::ConditionFailed { .. }
            | Self::RangeDeleted { .. }
            | Self::StepFailed { .. }
            | Self::LeaseGranted(_)
            | Self::LeaseKept
            | Self::LeaseRevoked { .. }
            | Self::Lease(_)
            | Self::LeaseFailed(_)
            | Self::Expired { .. }
            | Self::Touched { .. }
            | Self::RevisionsSkipped { .. }
            | Self::EpochBegan { .. } => 0,
        }
    }
}

/// Why a step failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum StepFailure {
    /// The value is not a whole number in decimal digits, from -2^63 to 2^63 - 1.
    #[error("the value is not a whole number in decimal digits")]
    NotANumber,
    /// The sum would be below -2^63 or above 2^63 - 1.
    #[error("the sum does not fit into 64 bits")]
    OutOfRange,
    /// The lease of the put cannot take the key.
    #[error(transparent)]
    Lease(LeaseFailure),
    /// The transaction reads more than a transaction may read.
    #[error("the transaction would read more than {max} bytes")]
    ResponseTooLarge {
        /// The limit in bytes. It follows from the largest key and the largest value (see
        /// [`Transaction`](crate::client::Transaction)).
        max: u64,
    },
    /// Other requests in the same log entry have used up the data that the requests of one entry may read. Try again.
    #[error("transactions are reading too much data at the moment: try again")]
    Busy,
}

/// Why an applied request has no outcome of its own. The reason is the same on every member.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// The session is unknown, because it has expired, or was evicted or closed. Earlier requests of the session may
    /// have run.
    #[error("the session has expired")]
    SessionExpired,
    /// The client has acknowledged the result of this number, or of a greater one.
    #[error("the request number was already acknowledged")]
    Forgotten,
    /// More requests are in flight than the session's window allows. The request was not run.
    #[error("too many requests are in flight in this session")]
    WindowExceeded,
    /// The request exceeds a limit or does not decode. The request was not run.
    #[error("the request is malformed or too large")]
    Invalid,
    /// The request has run once, but its result is no longer kept, because it was large and later requests have
    /// returned much data.
    #[error("the request was executed, but its result is no longer stored")]
    ResultDropped,
}

impl Command {
    /// The most keys that one request removes.
    pub const MAX_RANGE: u32 = 1000;
    /// The greatest revision that a skip reaches. As many further changes have revisions before the numbers end.
    pub const MAX_SKIP_TO: Revision = Revision::new(1 << 61);

    /// Checks that the request is within the limits. The client checks a request before it sends it, the member checks
    /// it on arrival, and the state machine checks it when it is applied.
    ///
    /// # Errors
    /// [`RequestError`] names the part that exceeds a limit.
    pub fn check(&self, limits: SizeLimits) -> Result<(), RequestError> {
        match self {
            Self::Put { key, value, condition, life } => {
                limits.key(key)?;
                limits.value(value)?;
                life.check()?;
                condition.iter().try_for_each(|condition| limits.condition(condition))
            }
            Self::Delete { key, condition } => {
                limits.key(key)?;
                condition.iter().try_for_each(|condition| limits.condition(condition))
            }
            Self::Transaction(transaction) => transaction.check(limits),
            Self::DeleteRange { from, to, limit: _ } => limits.range(from, to.as_ref()),
            Self::Lease(command) => command.check(),
            Self::SkipRevisions { to } if *to > Self::MAX_SKIP_TO => {
                Err(RequestError::Skip { to: *to, max: Self::MAX_SKIP_TO })
            }
            Self::SkipRevisions { .. } => Ok(()),
            Self::Touch { key, ttl_ms, condition } => {
                limits.key(key)?;
                Lifetime::check_ttl(*ttl_ms)?;
                condition.iter().try_for_each(|condition| limits.condition(condition))
            }
        }
    }

    /// The size of the keys and values, in bytes.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        match self {
            Self::Put { key, value, condition, life: _ } => {
                key.len() + value.len() + condition.as_ref().map_or(0, Condition::payload_bytes)
            }
            Self::Delete { key, condition } | Self::Touch { key, condition, ttl_ms: _ } => {
                key.len() + condition.as_ref().map_or(0, Condition::payload_bytes)
            }
            Self::Transaction(transaction) => transaction.payload_bytes(),
            Self::DeleteRange { from, to, .. } => from.len() + to.as_ref().map_or(0, Bytes::len),
            Self::Lease(_) | Self::SkipRevisions { .. } => 0,
        }
    }
}

impl TransactionRequest {
    /// The most conditions.
    pub const MAX_CONDITIONS: usize = 64;
    /// The most steps in each of its lists.
    pub const MAX_STEPS: usize = 1000;
    /// The keys and values of a transaction may together have 2 x (`max_key_bytes` + `max_value_bytes`) bytes, or this
    /// many bytes if that is more.
    pub const MIN_BYTES: usize = 4 << 10;

    fn check(&self, limits: SizeLimits) -> Result<(), RequestError> {
        let lists = [
            ("conditions", self.conditions.len(), Self::MAX_CONDITIONS),
            ("steps", self.then.len(), Self::MAX_STEPS),
            ("alternative steps", self.otherwise.len(), Self::MAX_STEPS),
        ];
        if let Some((what, len, max)) = lists.into_iter().find(|(_, len, max)| len > max) {
            return Err(RequestError::TooManyOps { what, len, max });
        }
        let max = (2 * (limits.max_key_bytes + limits.max_value_bytes)).max(Self::MIN_BYTES);
        let len = self.payload_bytes();
        if len > max {
            return Err(RequestError::Transaction { len, max });
        }
        for (key, condition) in &self.conditions {
            limits.key(key)?;
            limits.condition(condition)?;
        }
        for steps in [&self.then, &self.otherwise] {
            let mut changed = BTreeSet::new();
            for step in steps {
                step.check(limits)?;
                if let Some(key) = step.changes().filter(|key| !changed.insert(*key)) {
                    return Err(RequestError::DuplicateKey { key: key.clone() });
                }
            }
        }
        Ok(())
    }

    fn payload_bytes(&self) -> usize {
        let conditions = self.conditions.iter().map(|(key, condition)| key.len() + condition.payload_bytes());
        let steps = self.then.iter().chain(&self.otherwise).map(TransactionStep::payload_bytes);
        conditions.sum::<usize>() + steps.sum::<usize>()
    }
}
