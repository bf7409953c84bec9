//! Single operations: builders to be awaited.

use super::{Call, CallError, Cause, Client, Reply};
use crate::error::{ReadError, WriteError};
use crate::ids::{LeaseId, Revision, Timestamp};
use crate::message::{Command, Effect, Guard, Lifetime, Outcome, Query, ReadMode, Record, millis};
use bytes::Bytes;
use std::collections::HashMap;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

/// The future of an operation.
pub(super) type OpFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A put, or a [`Batch`](super::Batch), that was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Written {
    /// The revision of the put: from here on the key's `modified`.
    pub revision: Revision,
    /// When, by the cluster's clock.
    pub timestamp: Timestamp,
}

/// A delete that was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Deleted {
    /// Whether there was something to delete.
    pub existed: bool,
    /// The revision of the delete.
    pub revision: Revision,
    /// When, by the cluster's clock.
    pub timestamp: Timestamp,
}

/// Sets a key: created by [`Client::put`], run by awaiting it.
#[derive(Clone, Debug)]
#[must_use = "nothing is done before this is awaited"]
pub struct Put {
    pub(super) client: Client,
    pub(super) key: Bytes,
    pub(super) value: Bytes,
    pub(super) guard: Option<Guard>,
    pub(super) life: Lifetime,
    pub(super) deadline: Option<Duration>,
}

/// Removes a key: created by [`Client::delete`], run by awaiting it.
#[derive(Clone, Debug)]
#[must_use = "nothing is done before this is awaited"]
pub struct Delete {
    pub(super) client: Client,
    pub(super) key: Bytes,
    pub(super) guard: Option<Guard>,
    pub(super) deadline: Option<Duration>,
}

/// Reads a key: created by [`Client::get`], run by awaiting it.
#[derive(Clone, Debug)]
#[must_use = "nothing is done before this is awaited"]
pub struct Get {
    client: Client,
    key: Bytes,
    mode: ReadMode,
    at: Option<Revision>,
    deadline: Option<Duration>,
}

/// The conditions and the deadline of a write.
macro_rules! guards {
    ($name:ident) => {
        impl $name {
            /// Only if the key does not exist.
            pub fn if_absent(mut self) -> Self {
                self.guard = Some(Guard::Absent);
                self
            }

            /// Only if the key exists.
            pub fn if_present(mut self) -> Self {
                self.guard = Some(Guard::Present);
                self
            }

            /// Only if the key exists and was last changed at this revision.
            pub fn if_revision(mut self, revision: Revision) -> Self {
                self.guard = Some(Guard::Revision(revision));
                self
            }

            /// Only if the key exists and has this value.
            pub fn if_value(mut self, value: impl Into<Bytes>) -> Self {
                self.guard = Some(Guard::Value(value.into()));
                self
            }

            /// How long it may take, retries included. Default: the client's.
            pub fn deadline(mut self, deadline: Duration) -> Self {
                self.deadline = Some(deadline);
                self
            }
        }
    };
}

guards!(Put);
guards!(Delete);

/// How fresh a read must be, and its deadline.
macro_rules! freshness {
    ($name:ident, $deadline:literal) => {
        impl $name {
            /// Reads what some member happens to have applied: fast, available without a primary, possibly stale.
            pub fn local(mut self) -> Self {
                self.mode = $crate::message::ReadMode::Local;
                self
            }

            /// Reads what some member has applied, as soon as that is this revision or a later one: one that lags behind waits for
            /// it. So you read your own writes, or what someone told you of, without a word from the primary. Where no
            /// member gets that far before the deadline, it is [`Unavailable`](crate::error::ReadError::Unavailable).
            pub fn at_least(mut self, revision: $crate::ids::Revision) -> Self {
                self.mode = $crate::message::ReadMode::AtLeast(revision.min($crate::wire::LAST_REVISION));
                self
            }

            /// Reads what some member has applied, if that holds every write that was acknowledged to anyone until this long before the
            /// read began. A backup that hears of its primary can tell so of states that are a few heartbeats old
            /// ([`heartbeat`](crate::Options::heartbeat)), and answers by itself; where one cannot, others are asked, and the primary
            /// answers always: as for a linearizable read, if need be. So a bound of zero is a linearizable read. Where the primary
            /// is needed and there is none before the deadline, it is [`Unavailable`](crate::error::ReadError::Unavailable).
            ///
            /// It rests on monotonic clocks that go at between nine and eleven tenths of the true rate, and do not stand still; not on
            /// wall clocks, and not on how long messages take.
            pub fn max_staleness(mut self, bound: std::time::Duration) -> Self {
                self.mode = $crate::message::ReadMode::MaxStaleness(bound);
                self
            }

            /// Reads the state as it was at this revision. Members keep the last
            /// [`history_revisions`](crate::Options::history_revisions) and up to
            /// [`history_bytes`](crate::Options::history_bytes); what is older is
            /// [`Compacted`](crate::error::ReadError::Compacted), and what is yet to come is
            /// [`Future`](crate::error::ReadError::Future).
            ///
            /// Default: the newest.
            pub fn at(mut self, revision: $crate::ids::Revision) -> Self {
                self.at = Some(revision.min($crate::wire::LAST_REVISION));
                self
            }

            #[doc = $deadline]
            pub fn deadline(mut self, deadline: std::time::Duration) -> Self {
                self.deadline = Some(deadline);
                self
            }
        }
    };
}

pub(super) use freshness;

freshness!(Get, "How long it may take, retries included. Default: the client's.");
freshness!(GetMany, "How long it may take, retries included. Default: the client's.");

impl Put {
    pub(super) fn new(client: Client, key: Bytes, value: Bytes) -> Self {
        Self { client, key, value, guard: None, life: Lifetime::FOREVER, deadline: None }
    }

    /// The key goes by itself this long after the put, by the cluster's clock: never earlier, and usually within a fraction of a
    /// second. Until it has gone it is there for every reader. In whole milliseconds; up to a hundred years. Default: it stays.
    ///
    /// Each put sets it anew: a later one without a time to live leaves a key that stays.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.life.ttl_ms = Some(millis(ttl));
        self
    }

    /// The key goes with this lease, when that has ended. If it has ended already, nothing is put
    /// ([`WriteError::Lease`]). Beside a [time to live](Self::ttl), whichever comes first. Default: it depends on none.
    ///
    /// Each put sets it anew: a later one without a lease leaves a key that depends on none.
    pub fn lease(mut self, lease: LeaseId) -> Self {
        self.life.lease = Some(lease);
        self
    }
}

impl Delete {
    pub(super) fn new(client: Client, key: Bytes) -> Self {
        Self { client, key, guard: None, deadline: None }
    }
}

impl Get {
    pub(super) fn new(client: Client, key: Bytes) -> Self {
        Self { client, key, mode: ReadMode::Linearizable, at: None, deadline: None }
    }
}

impl IntoFuture for Put {
    type Output = Result<Written, WriteError>;
    type IntoFuture = OpFuture<Self::Output>;

    /// Runs the put.
    ///
    /// # Cancel safety
    /// Dropping the future stops the retries; the put may have been done, or may still be, once. Nothing else is affected.
    fn into_future(self) -> Self::IntoFuture {
        let Self { client, key, value, guard, life, deadline } = self;
        Box::pin(async move {
            let outcome = write(&client, Command::Put { key, value, guard, life }, deadline).await?;
            match outcome.effect {
                Effect::Put => Ok(Written { revision: outcome.revision, timestamp: outcome.timestamp }),
                effect => Err(other_effect(effect)),
            }
        })
    }
}

impl IntoFuture for Delete {
    type Output = Result<Deleted, WriteError>;
    type IntoFuture = OpFuture<Self::Output>;

    /// Runs the delete.
    ///
    /// # Cancel safety
    /// As for [`Put`].
    fn into_future(self) -> Self::IntoFuture {
        let Self { client, key, guard, deadline } = self;
        Box::pin(async move {
            let outcome = write(&client, Command::Delete { key, guard }, deadline).await?;
            let Outcome { revision, timestamp, effect } = outcome;
            match effect {
                Effect::Deleted { existed } => Ok(Deleted { existed, revision, timestamp }),
                effect => Err(other_effect(effect)),
            }
        })
    }
}

impl IntoFuture for Get {
    type Output = Result<Option<Record>, ReadError>;
    type IntoFuture = OpFuture<Self::Output>;

    /// Runs the read.
    ///
    /// # Cancel safety
    /// Cancel safe.
    fn into_future(self) -> Self::IntoFuture {
        let Self { client, key, mode, at, deadline } = self;
        Box::pin(async move {
            match read(&client, mode, Query::Get { key, at }, deadline).await? {
                Reply::Value { record, .. } => Ok(record),
                other => Err(misfit(&other)),
            }
        })
    }
}

/// Reads several keys at one revision: created by [`Client::get_many`], run by awaiting it.
#[derive(Clone, Debug)]
#[must_use = "nothing is done before this is awaited"]
pub struct GetMany {
    client: Client,
    keys: Vec<Bytes>,
    mode: ReadMode,
    at: Option<Revision>,
    deadline: Option<Duration>,
}

impl GetMany {
    pub(super) fn new(client: Client, keys: Vec<Bytes>) -> Self {
        Self { client, keys, mode: ReadMode::Linearizable, at: None, deadline: None }
    }
}

impl IntoFuture for GetMany {
    /// A record, or its absence, for each key that was asked for.
    type Output = Result<Vec<Option<Record>>, ReadError>;
    type IntoFuture = OpFuture<Self::Output>;

    /// Runs the read.
    ///
    /// # Cancel safety
    /// Cancel safe.
    fn into_future(self) -> Self::IntoFuture {
        let Self { client, keys, mode, at, deadline } = self;
        Box::pin(async move {
            match read(&client, mode, Query::Many { keys: keys.clone(), at }, deadline).await? {
                Reply::Records { records, .. } => {
                    let found: HashMap<Bytes, Record> = records.into_iter().collect();
                    Ok(keys.iter().map(|key| found.get(key).cloned()).collect())
                }
                other => Err(misfit(&other)),
            }
        })
    }
}

/// Checks a write's sizes, runs it, and waits for its outcome.
pub(super) async fn write(
    client: &Client,
    command: Command,
    deadline: Option<Duration>,
) -> Result<Outcome, WriteError> {
    command.check(client.limits().sizes())?;
    let size = command.payload_bytes();
    let deadline = deadline.unwrap_or(client.default_deadline());
    match client.call(Call::Write(command), size, deadline).await {
        Ok(Ok(Reply::Written(outcome))) => Ok(outcome),
        Ok(Ok(other)) => Err(WriteError::OutcomeUnknown(nonsense(&other))),
        Ok(Err(CallError::NotApplied(Cause::Refused(reason)))) => Err(WriteError::Refused(reason)),
        Ok(Err(CallError::NotApplied(cause))) => Err(WriteError::NotApplied(cause)),
        Ok(Err(CallError::OutcomeUnknown(cause))) => Err(WriteError::OutcomeUnknown(cause)),
        Err(super::handle::Closed) => Err(WriteError::Closed),
    }
}

/// An outcome that is not the operation's own.
pub(super) fn other_effect(effect: Effect) -> WriteError {
    match effect {
        Effect::GuardFailed { found } => WriteError::GuardFailed { found },
        Effect::LeaseFailed(why) => WriteError::Lease(why),
        Effect::StepFailed { step, why } => WriteError::StepFailed { step: step as usize, why },
        Effect::Put
        | Effect::Deleted { .. }
        | Effect::Transacted { .. }
        | Effect::RangeDeleted { .. }
        | Effect::LeaseGranted
        | Effect::LeaseKept
        | Effect::LeaseRevoked { .. }
        | Effect::Lease(_)
        | Effect::Expired { .. }
        | Effect::SessionOpened
        | Effect::SessionClosed => WriteError::OutcomeUnknown(nonsense(&effect)),
    }
}

/// Checks a read of one key, several or one page, and runs it.
pub(super) async fn read(
    client: &Client,
    mode: ReadMode,
    query: Query,
    deadline: Option<Duration>,
) -> Result<Reply, ReadError> {
    // Members close a connection over which more comes than any request has.
    query.check(client.limits().sizes())?;
    let call = Call::Read { mode, query, prefer: client.local() };
    match client.call(call, 0, deadline.unwrap_or(client.default_deadline())).await {
        Ok(Ok(Reply::Compacted { oldest })) => Err(ReadError::Compacted { oldest }),
        Ok(Ok(Reply::Future { newest })) => Err(ReadError::Future { newest }),
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(error)) => Err(match error {
            CallError::NotApplied(Cause::Refused(reason)) => ReadError::Refused(reason),
            CallError::NotApplied(cause) | CallError::OutcomeUnknown(cause) => ReadError::Unavailable(cause),
        }),
        Err(super::handle::Closed) => Err(ReadError::Closed),
    }
}

/// A page where a value was due, or the other way round.
pub(super) fn misfit(reply: &Reply) -> ReadError {
    ReadError::Unavailable(nonsense(reply))
}

fn nonsense(answer: &dyn std::fmt::Debug) -> Cause {
    Cause::Refused(format!("a member answered something else: {answer:?}"))
}
