//! Single operations: builders to be awaited.

use super::Client;
use super::call::{Call, CallError, Cause, Reply};
use crate::error::{ReadError, WriteError};
use crate::ids::{LeaseId, MemberId, Revision, Timestamp};
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
    only: Option<MemberId>,
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
            /// it. So you read your own writes, or those whose revision you know, without asking the primary. Where no
            /// member gets that far before the deadline, it is [`Unavailable`](crate::error::ReadError::Unavailable).
            pub fn at_least(mut self, revision: $crate::ids::Revision) -> Self {
                self.mode = $crate::message::ReadMode::AtLeast(revision.min($crate::ids::Revision::LAST));
                self
            }

            /// Reads what some member has applied, if that holds every write that was acknowledged to anyone until this long before the
            /// read began. A backup that hears from its primary knows this of states that are a few heartbeats old
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

            /// Asks only this data member, whichever freshness is wanted. Default: any member that can answer.
            ///
            /// While the member cannot answer, no other one is asked, and at the deadline the read is
            /// [`Unavailable`](crate::error::ReadError::Unavailable): so it is for a linearizable read of a member that is not the primary.
            pub fn member(mut self, id: $crate::ids::MemberId) -> Self {
                self.only = Some(id);
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
                self.at = Some(revision.min($crate::ids::Revision::LAST));
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

/// What was read, and the revision of the state in which it was found: created by [`Get::with_revision`], [`GetMany::with_revision`] and
/// [`TypedGet::with_revision`](super::TypedGet::with_revision).
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct AtRevision<T> {
    /// What was found.
    pub found: T,
    /// The revision of the state that was read: at least that of the last change of each key, also of one that does not exist. A later read
    /// [at least](Get::at_least) as new sees no older state; one [at](Get::at) it sees the same.
    pub revision: Revision,
}

impl Get {
    /// Runs the read, and returns the revision at which it was read, too.
    ///
    /// # Errors
    /// As the read itself.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn with_revision(self) -> Result<AtRevision<Option<Record>>, ReadError> {
        let Self { client, key, mode, only, at, deadline } = self;
        match read(&client, mode, only, Query::Get { key, at }, deadline).await? {
            Reply::Value { record, revision } => Ok(AtRevision { found: record, revision }),
            other => Err(misfit(&other)),
        }
    }

    pub(super) fn new(client: Client, key: Bytes) -> Self {
        Self { client, key, mode: ReadMode::Linearizable, only: None, at: None, deadline: None }
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
                effect => Err(failure(outcome.revision, effect)),
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
                effect => Err(failure(revision, effect)),
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
        Box::pin(async move { Ok(self.with_revision().await?.found) })
    }
}

/// Reads several keys at one revision: created by [`Client::get_many`], run by awaiting it.
#[derive(Clone, Debug)]
#[must_use = "nothing is done before this is awaited"]
pub struct GetMany {
    client: Client,
    keys: Vec<Bytes>,
    mode: ReadMode,
    only: Option<MemberId>,
    at: Option<Revision>,
    deadline: Option<Duration>,
}

impl GetMany {
    /// Runs the read, and returns the revision at which all of it was read, too.
    ///
    /// # Errors
    /// As the read itself.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn with_revision(self) -> Result<AtRevision<Vec<Option<Record>>>, ReadError> {
        let Self { client, keys, mode, only, at, deadline } = self;
        match read(&client, mode, only, Query::Many { keys: keys.clone(), at }, deadline).await? {
            Reply::Records { records, revision, .. } => {
                let records: HashMap<Bytes, Record> = records.into_iter().collect();
                let found = keys.iter().map(|key| records.get(key).cloned()).collect();
                Ok(AtRevision { found, revision })
            }
            other => Err(misfit(&other)),
        }
    }

    pub(super) fn new(client: Client, keys: Vec<Bytes>) -> Self {
        Self { client, keys, mode: ReadMode::Linearizable, only: None, at: None, deadline: None }
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
        Box::pin(async move { Ok(self.with_revision().await?.found) })
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

/// Why a request that ran at `revision` has changed nothing.
pub(super) fn failure(revision: Revision, effect: Effect) -> WriteError {
    match effect {
        Effect::ConditionFailed { found } => WriteError::ConditionFailed { found, revision },
        Effect::StepFailed { step, why } => WriteError::StepFailed { step: step as usize, why, revision },
        effect => other_effect(effect),
    }
}

/// An outcome that is not the operation's own, of one that has neither conditions nor steps.
pub(super) fn other_effect(effect: Effect) -> WriteError {
    match effect {
        Effect::LeaseFailed(why) => WriteError::Lease(why),
        Effect::ConditionFailed { .. }
        | Effect::StepFailed { .. }
        | Effect::Put
        | Effect::Deleted { .. }
        | Effect::Transacted { .. }
        | Effect::RangeDeleted { .. }
        | Effect::LeaseGranted(_)
        | Effect::LeaseKept
        | Effect::LeaseRevoked { .. }
        | Effect::Lease(_)
        | Effect::Expired { .. }
        | Effect::SessionOpened(_)
        | Effect::SessionClosed => WriteError::OutcomeUnknown(nonsense(&effect)),
    }
}

/// Checks a read of one key, several or one page, and runs it.
pub(super) async fn read(
    client: &Client,
    mode: ReadMode,
    only: Option<MemberId>,
    query: Query,
    deadline: Option<Duration>,
) -> Result<Reply, ReadError> {
    // Members close a connection over which more comes than any request has.
    query.check(client.limits().sizes())?;
    if let Some(member) = only {
        client.check_data_member(member).map_err(ReadError::Refused)?;
    }
    let call = Call::Read { mode, query, prefer: client.local(), only };
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
