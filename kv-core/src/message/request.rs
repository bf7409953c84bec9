//! What clients ask for, and what they get.

use super::{Expiry, LeaseCommand, LeaseFailure, LeaseInfo, Lifetime, Record, bounded};
use crate::ids::{LeaseId, RequestNumber, Revision, SessionId, Timestamp};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// One request, as it stands in the log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Request {
    /// The session; zero only for [`Operation::OpenSession`] and [`Operation::Expire`].
    pub session: SessionId,
    /// The client's number for it; a retry keeps it. Zero only where there is no session.
    pub number: RequestNumber,
    /// The client has the results of all numbers up to here: they may be forgotten and never run again.
    pub acked_through: RequestNumber,
    /// What to do.
    pub operation: Operation,
}

/// What a request does.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Operation {
    /// Opens a session; its id is this request's number in the log. A retry with the same nonce opens another: the first one
    /// is never used and expires.
    OpenSession {
        /// Chosen at random by the client, so that it knows the answer for its own.
        nonce: u128,
    },
    /// Forgets the session.
    CloseSession,
    /// Changes the data.
    Command(Command),
    /// Removes what has expired. Proposed by the primary; not accepted from clients.
    Expire(#[serde(deserialize_with = "bounded::list::<_, _, { Expiry::MOST }>")] Vec<Expiry>),
}

/// A change of the data.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Command {
    /// Sets a key.
    Put {
        /// The key.
        key: Bytes,
        /// The value.
        value: Bytes,
        /// What must hold for it to be done.
        guard: Option<Guard>,
        /// How long it stays.
        life: Lifetime,
    },
    /// Removes a key.
    Delete {
        /// The key.
        key: Bytes,
        /// What must hold for it to be done.
        guard: Option<Guard>,
    },
    /// Does several things at once, at one revision.
    Transaction(TransactionRequest),
    /// Removes keys from the beginning of a range. It ends early, and reports that there are more, once the values of the removed keys have
    /// 16 MiB.
    DeleteRange {
        /// The first key (inclusive).
        from: Bytes,
        /// The end (exclusive); none for the end of the key space.
        to: Option<Bytes>,
        /// At most this many; more than [`Command::MAX_RANGE`] count as that, none as one.
        limit: u32,
    },
    /// Does something with a lease.
    Lease(LeaseCommand),
}

/// Several changes that are done together or not at all. All guards and all steps see the state before it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TransactionRequest {
    /// Conditions on keys. Without any, they hold.
    #[serde(deserialize_with = "bounded::list::<_, _, { TransactionRequest::MAX_GUARDS }>")]
    pub guards: Vec<(Bytes, Guard)>,
    /// What is done if all guards hold. No key is named twice.
    #[serde(deserialize_with = "bounded::list::<_, _, { TransactionRequest::MAX_STEPS }>")]
    pub then: Vec<Step>,
    /// What is done if one does not. No key is named twice.
    #[serde(deserialize_with = "bounded::list::<_, _, { TransactionRequest::MAX_STEPS }>")]
    pub otherwise: Vec<Step>,
}

/// One part of a transaction: a change, or a look at what is there.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Step {
    /// Sets a key.
    Put {
        /// The key.
        key: Bytes,
        /// The value.
        value: Bytes,
        /// How long it stays.
        life: Lifetime,
    },
    /// Removes a key.
    Delete {
        /// The key.
        key: Bytes,
    },
    /// Adds to a counter: a key whose value is a whole number in decimal digits. An absent key counts as 0. It stays as long as it
    /// would have.
    Add {
        /// The key.
        key: Bytes,
        /// How much, also below zero.
        by: i64,
    },
    /// Reads a key, as it was before the transaction.
    Get {
        /// The key.
        key: Bytes,
    },
    /// Reads keys in order, as they were before the transaction.
    Scan {
        /// The first key (inclusive).
        from: Bytes,
        /// The end (exclusive); none for the end of the key space.
        to: Option<Bytes>,
        /// At most this many; more than [`Command::MAX_RANGE`] count as that, none as one.
        limit: u32,
    },
}

impl Step {
    /// The key that it changes.
    #[must_use]
    pub const fn changes(&self) -> Option<&Bytes> {
        match self {
            Self::Put { key, .. } | Self::Delete { key } | Self::Add { key, .. } => Some(key),
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
        }
    }

    fn payload_bytes(&self) -> usize {
        match self {
            Self::Put { key, value, .. } => key.len() + value.len(),
            Self::Delete { key } | Self::Add { key, .. } | Self::Get { key } => key.len(),
            Self::Scan { from, to, limit: _ } => from.len() + to.as_ref().map_or(0, Bytes::len),
        }
    }
}

/// A condition on the present state of the key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Guard {
    /// The key does not exist.
    Absent,
    /// The key exists.
    Present,
    /// The key exists and was last changed at this revision.
    Revision(Revision),
    /// The key exists and has this value.
    Value(Bytes),
    /// The key exists and was created at this revision: it has not been gone since.
    Created(Revision),
}

/// The stored result of a request: the same bytes for every retry.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// The revision at which the request first ran: its own, or, if it takes none ([`Request::takes_revision`]), the last one before it.
    pub revision: Revision,
    /// The stamp of the entry in which it ran.
    pub timestamp: Timestamp,
    /// What it did.
    pub effect: Effect,
}

/// What a request did.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Effect {
    /// The session with this id is open.
    SessionOpened(SessionId),
    /// The session is gone.
    SessionClosed,
    /// The put was done.
    Put,
    /// The delete was done; whether there was something to delete.
    Deleted {
        /// Whether the key existed.
        existed: bool,
    },
    /// The guard did not hold: nothing was changed.
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
    /// The transaction was done.
    Transacted {
        /// Whether the guards held: which of the two lists of steps was done.
        succeeded: bool,
        /// What each step did, in their order.
        results: Vec<StepResult>,
    },
    /// A step of the transaction could not be done: nothing was changed.
    StepFailed {
        /// Which, from 0, of those that were to be done.
        step: u32,
        /// Why the step failed.
        why: StepFailure,
    },
    /// The lease with this id is granted.
    LeaseGranted(LeaseId),
    /// The lease began anew.
    LeaseKept,
    /// The lease has ended, and its keys are gone.
    LeaseRevoked {
        /// How many they were.
        keys: u32,
    },
    /// The lease as it stands.
    Lease(LeaseInfo),
    /// It could not be done with the lease: nothing was changed.
    LeaseFailed(LeaseFailure),
    /// What had expired was removed.
    Expired {
        /// How many keys, those of leases included.
        keys: u32,
        /// How many leases.
        leases: u32,
    },
}

/// What a step did, or found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub enum StepResult {
    /// The key was set.
    Put,
    /// The key is gone.
    Deleted {
        /// Whether it existed.
        existed: bool,
    },
    /// The counter was changed.
    Added {
        /// What it is now.
        sum: i64,
    },
    /// What the key held before the transaction; `None` if it did not exist.
    Got(Option<Box<Record>>),
    /// What the range held before the transaction.
    Scanned(Box<Scanned>),
}

/// What a transaction found in a range.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Scanned {
    /// Keys and records in order.
    pub records: Vec<(Bytes, Record)>,
    /// Whether the range holds more.
    pub more: bool,
}

impl StepResult {
    /// What a result counts for, and what each record in it does besides: the same everywhere, because what is kept depends on it.
    const WEIGHT: usize = 16;
    const RECORD: usize = 128;

    /// The record that a step of [`Transaction::get`](crate::client::Transaction::get) found.
    #[must_use]
    pub fn record(&self) -> Option<&Record> {
        match self {
            Self::Got(record) => record.as_deref(),
            Self::Put | Self::Deleted { .. } | Self::Added { .. } | Self::Scanned(_) => None,
        }
    }

    /// About how much memory it takes.
    #[must_use]
    pub fn weight(&self) -> usize {
        Self::WEIGHT
            + match self {
                Self::Put | Self::Deleted { .. } | Self::Added { .. } | Self::Got(None) => 0,
                Self::Got(Some(record)) => Self::record_weight(&[], record),
                Self::Scanned(scanned) => {
                    let records = scanned.records.iter();
                    Self::RECORD
                        + records.map(|(key, record)| Self::record_weight(key, record)).sum::<usize>()
                }
            }
    }

    /// About how much memory a record takes in a result.
    pub(crate) fn record_weight(key: &[u8], record: &Record) -> usize {
        Self::RECORD + key.len() + record.value.len()
    }
}

impl Effect {
    /// About how much memory it takes besides its own size: the same number everywhere.
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
            | Self::Expired { .. } => 0,
        }
    }
}

/// Why a step could not be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum StepFailure {
    /// The value is no whole number in decimal digits, from -2^63 to 2^63 - 1.
    #[error("the value is not a whole number in decimal digits")]
    NotANumber,
    /// The sum would be below -2^63 or above 2^63 - 1.
    #[error("the sum does not fit into 64 bits")]
    OutOfRange,
    /// The put's lease does not take the key.
    #[error(transparent)]
    Lease(LeaseFailure),
    /// What the transaction reads is more than one may return.
    #[error("the transaction would return more than {max} bytes")]
    ResponseTooLarge {
        /// The limit in bytes. It follows from the largest key and the largest value (see [`Transaction`](crate::client::Transaction)).
        max: u64,
    },
    /// Others that were applied together with it have returned as much as may be returned at once. It can be tried again.
    #[error("transactions are reading too much data at the moment: try again")]
    Busy,
}

/// Why an applied request had no outcome of its own. Deterministic: equal on every member.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// The session is unknown: it expired, was evicted or was closed. Earlier requests of it may have run.
    #[error("the session has expired")]
    SessionExpired,
    /// The client has acknowledged the result of this number, or of a greater one.
    #[error("the request number was already acknowledged")]
    Forgotten,
    /// More requests are in flight than the session's window allows. Not run.
    #[error("too many requests are in flight in this session")]
    WindowExceeded,
    /// The request breaks a limit or does not decode. Not run.
    #[error("the request is malformed or too large")]
    Invalid,
    /// It has run, once, and what it returned is not kept any more: it was large, and others have returned much since.
    #[error("the request was executed, but its result is no longer stored")]
    ResultDropped,
}

/// Why a request is not acceptable.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The bytes do not decode, or a list in them is more than ten times as long as it may be.
    #[error("the bytes are not a request, or its lists are more than ten times too long")]
    Malformed,
    /// The key is empty or too long.
    #[error("the key has {len} bytes: keys have 1 to {max}")]
    Key {
        /// Its length in bytes.
        len: usize,
        /// The greatest length allowed, in bytes.
        max: usize,
    },
    /// The value is too long.
    #[error("the value has {len} bytes: values have up to {max}")]
    Value {
        /// Its length in bytes.
        len: usize,
        /// The greatest length allowed, in bytes.
        max: usize,
    },
    /// The transaction has too many guards or steps.
    #[error("the transaction has {len} {what}: up to {max} are allowed")]
    TooManyOps {
        /// Guards, or steps of one list.
        what: &'static str,
        /// Their number.
        len: usize,
        /// The greatest value allowed.
        max: usize,
    },
    /// The transaction's keys and values are too much together.
    #[error("the transaction's keys and values have {len} bytes together: up to {max} are allowed")]
    Transaction {
        /// Their bytes.
        len: usize,
        /// The greatest value allowed.
        max: usize,
    },
    /// A time to live is too short or too long.
    #[error("invalid time to live {ms} ms: {min} to {max} ms are allowed")]
    Ttl {
        /// In milliseconds.
        ms: u64,
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// Too many keys are read at once.
    #[error("the read has {count} keys with {bytes} bytes: up to {most} keys with {max} bytes are allowed")]
    Keys {
        /// Their number.
        count: usize,
        /// The greatest number allowed.
        most: usize,
        /// About their bytes together.
        bytes: usize,
        /// The greatest value allowed.
        max: usize,
    },
    /// Two steps that would be done together change the same key.
    #[error("two steps of the transaction change the key {:?}: combine them", String::from_utf8_lossy(key))]
    DuplicateKey {
        /// The key.
        key: Bytes,
    },
}

/// How large keys and values may be, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SizeLimits {
    /// The largest key.
    pub max_key_bytes: usize,
    /// The largest value.
    pub max_value_bytes: usize,
}

impl SizeLimits {
    pub(super) fn key(self, key: &Bytes) -> Result<(), RequestError> {
        let (len, max) = (key.len(), self.max_key_bytes);
        if len == 0 || len > max { Err(RequestError::Key { len, max }) } else { Ok(()) }
    }

    fn value(self, value: &Bytes) -> Result<(), RequestError> {
        let (len, max) = (value.len(), self.max_value_bytes);
        if len > max { Err(RequestError::Value { len, max }) } else { Ok(()) }
    }

    pub(super) fn range(self, from: &Bytes, to: Option<&Bytes>) -> Result<(), RequestError> {
        // The smallest key above the largest one is a byte longer.
        let max = self.max_key_bytes + 1;
        let too_long = [Some(from), to].into_iter().flatten().find(|end| end.len() > max);
        too_long.map_or(Ok(()), |end| Err(RequestError::Key { len: end.len(), max }))
    }

    /// How many bytes the longest request has at most: two of the largest keys and values, and what belongs to them.
    #[must_use]
    pub(crate) const fn request_bytes(self) -> usize {
        2 * (self.max_key_bytes + self.max_value_bytes) + (64 << 10)
    }

    /// How much a transaction may return: the largest key, the largest value, and 256 KiB. A record counts as its key, its value and
    /// 128 bytes, and each result as 16.
    #[must_use]
    pub const fn returned_bytes(self) -> usize {
        self.max_key_bytes + self.max_value_bytes + (256 << 10)
    }

    fn guard(self, guard: &Guard) -> Result<(), RequestError> {
        match guard {
            Guard::Value(value) => self.value(value),
            Guard::Absent | Guard::Present | Guard::Revision(_) | Guard::Created(_) => Ok(()),
        }
    }
}

impl Command {
    /// The most keys that one request removes.
    pub const MAX_RANGE: u32 = 1000;

    /// Whether it keeps to the limits. Asked by the client, at the door, and again when it is applied.
    ///
    /// # Errors
    /// [`RequestError`] names the part that does not.
    pub fn check(&self, limits: SizeLimits) -> Result<(), RequestError> {
        match self {
            Self::Put { key, value, guard, life } => {
                limits.key(key)?;
                limits.value(value)?;
                life.check()?;
                guard.iter().try_for_each(|guard| limits.guard(guard))
            }
            Self::Delete { key, guard } => {
                limits.key(key)?;
                guard.iter().try_for_each(|guard| limits.guard(guard))
            }
            Self::Transaction(transaction) => transaction.check(limits),
            Self::DeleteRange { from, to, limit: _ } => limits.range(from, to.as_ref()),
            Self::Lease(command) => command.check(),
        }
    }

    /// Bytes of its keys and values.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        match self {
            Self::Put { key, value, guard, life: _ } => {
                key.len() + value.len() + guard.as_ref().map_or(0, Guard::payload_bytes)
            }
            Self::Delete { key, guard } => key.len() + guard.as_ref().map_or(0, Guard::payload_bytes),
            Self::Transaction(transaction) => transaction.payload_bytes(),
            Self::DeleteRange { from, to, .. } => from.len() + to.as_ref().map_or(0, Bytes::len),
            Self::Lease(_) => 0,
        }
    }
}

impl Guard {
    fn payload_bytes(&self) -> usize {
        match self {
            Self::Value(value) => value.len(),
            Self::Absent | Self::Present | Self::Revision(_) | Self::Created(_) => 0,
        }
    }
}

impl TransactionRequest {
    /// The most guards.
    pub const MAX_GUARDS: usize = 64;
    /// The most steps in each of its lists.
    pub const MAX_STEPS: usize = 1000;
    /// Keys and values of a transaction may have as many bytes together as twice the largest key and the largest value, or this many
    /// if that is more.
    pub const MIN_BYTES: usize = 4 << 10;

    fn check(&self, limits: SizeLimits) -> Result<(), RequestError> {
        let lists = [
            ("guards", self.guards.len(), Self::MAX_GUARDS),
            ("steps", self.then.len(), Self::MAX_STEPS),
            ("steps for the other case", self.otherwise.len(), Self::MAX_STEPS),
        ];
        if let Some((what, len, max)) = lists.into_iter().find(|(_, len, max)| len > max) {
            return Err(RequestError::TooManyOps { what, len, max });
        }
        let max = (2 * (limits.max_key_bytes + limits.max_value_bytes)).max(Self::MIN_BYTES);
        let len = self.payload_bytes();
        if len > max {
            return Err(RequestError::Transaction { len, max });
        }
        for (key, guard) in &self.guards {
            limits.key(key)?;
            limits.guard(guard)?;
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
        let guards = self.guards.iter().map(|(key, guard)| key.len() + guard.payload_bytes());
        let steps = self.then.iter().chain(&self.otherwise).map(Step::payload_bytes);
        guards.sum::<usize>() + steps.sum::<usize>()
    }
}
