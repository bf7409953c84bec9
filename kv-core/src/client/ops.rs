//! The operations put, delete and read. Each operation is a builder, which runs when it is awaited.

use super::call::{Call, CallError, Cause, Reply};
use super::{Client, Closed};
use crate::error::{ReadError, WriteError};
use crate::ids::{LeaseId, MemberId, Revision, Timestamp};
use crate::message::{
    Answer, Command, Condition, Effect, Lifetime, Outcome, Query, ReadMode, Record, millis,
};
use bytes::Bytes;
use std::collections::HashMap;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

/// The future of an operation.
pub(super) type OpFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The result of a put or a [`Batch`](super::Batch).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Written {
    /// The revision of the write. It is now the [`modified`](Record::modified) revision of each key that was put.
    pub revision: Revision,
    /// The time at which the write was applied, on the cluster's clock.
    pub timestamp: Timestamp,
}

/// The result of a delete.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Deleted {
    /// Whether the key existed.
    pub existed: bool,
    /// The revision of the delete.
    pub revision: Revision,
    /// The time at which the write was applied, on the cluster's clock.
    pub timestamp: Timestamp,
}

/// A builder that sets a key when it is awaited: returned by [`Client::put`].
#[derive(Clone, Debug)]
#[must_use = "nothing is done before this is awaited"]
pub struct Put {
    pub(super) client: Client,
    pub(super) key: Bytes,
    pub(super) value: Bytes,
    pub(super) condition: Option<Condition>,
    pub(super) life: Lifetime,
    pub(super) deadline: Option<Duration>,
}

/// A builder that removes a key when it is awaited: returned by [`Client::delete`].
#[derive(Clone, Debug)]
#[must_use = "nothing is done before this is awaited"]
pub struct Delete {
    pub(super) client: Client,
    pub(super) key: Bytes,
    pub(super) condition: Option<Condition>,
    pub(super) deadline: Option<Duration>,
}

/// A builder that reads a key when it is awaited: returned by [`Client::get`].
#[derive(Clone, Debug)]
#[must_use = "nothing is done before this is awaited"]
pub struct Get {
    key: Bytes,
    how: ReadOptions,
}

/// The mode and the options of a read.
#[derive(Clone, Debug)]
pub(super) struct ReadOptions {
    client: Client,
    pub(super) mode: ReadMode,
    pub(super) only: Option<MemberId>,
    pub(super) at: Option<Revision>,
    pub(super) deadline: Option<Duration>,
}

impl ReadOptions {
    /// The options of a linearizable read at the newest revision.
    pub(super) const fn new(client: Client) -> Self {
        Self { client, mode: ReadMode::Linearizable, only: None, at: None, deadline: None }
    }

    /// Checks a read (of one key, several keys or one page), and runs the read.
    pub(super) async fn run(&self, query: Query) -> Result<Reply, ReadError> {
        let Self { client, mode, only, deadline, .. } = self;
        // If a request is larger than any valid request, members close the connection. So check the size here.
        query.check(client.limits().sizes())?;
        if let Some(member) = only {
            client.check_data_member(*member)?;
        }
        if let Some(Answer::Value { record, revision }) = client.read_in_process(*mode, *only, &query) {
            // Without this, a task that only reads would never let others run.
            tokio::task::coop::consume_budget().await;
            return Ok(Reply::Value { record, revision });
        }
        let call = Call::Read { mode: *mode, query, prefer: client.local(), only: *only };
        match client.call(call, 0, deadline.unwrap_or(client.default_deadline())).await {
            Ok(Ok(Reply::Compacted { oldest })) => Err(ReadError::Compacted { oldest }),
            Ok(Ok(Reply::Future { newest })) => Err(ReadError::Future { newest }),
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(CallError::NotApplied(Cause::Refused(reason)))) => Err(ReadError::Refused(reason)),
            Ok(Err(CallError::NotApplied(cause) | CallError::OutcomeUnknown(cause))) => {
                Err(ReadError::Unavailable(cause))
            }
            Err(Closed) => Err(ReadError::Closed),
        }
    }
}

/// The methods that set a condition on whether the key exists.
macro_rules! existence {
    ($name:ident) => {
        impl $name {
            /// Condition: the key does not exist.
            pub fn if_absent(mut self) -> Self {
                self.condition = Some(Condition::Absent);
                self
            }

            /// Condition: the key exists.
            pub fn if_present(mut self) -> Self {
                self.condition = Some(Condition::Present);
                self
            }
        }
    };
}

existence!(Put);
existence!(Delete);

/// The methods that set a condition on the content of the key, and the deadline of a write.
macro_rules! conditions {
    ($name:ident) => {
        impl $name {
            /// Condition: the key exists and was last changed at this revision.
            pub fn if_revision(mut self, revision: Revision) -> Self {
                self.condition = Some(Condition::Revision(revision.sendable()));
                self
            }

            /// Condition: the key exists and has this value.
            pub fn if_value(mut self, value: impl Into<Bytes>) -> Self {
                self.condition = Some(Condition::Value(value.into()));
                self
            }

            /// Sets how long the operation may take, retries included. Default: the client's deadline.
            pub fn deadline(mut self, deadline: Duration) -> Self {
                self.deadline = Some(deadline);
                self
            }
        }
    };
}

pub(super) use conditions;

conditions!(Put);
conditions!(Delete);

/// The methods that set the freshness and the deadline of a read.
macro_rules! freshness {
    ($name:ident, $deadline:literal) => {
        impl $name {
            /// Reads the state of any one member. This is fast and does not need the primary (the member that orders
            /// all writes), but the state may be stale.
            pub fn local(mut self) -> Self {
                self.how.mode = $crate::message::ReadMode::Local;
                self
            }

            /// Reads the state of any member that has applied this revision or a later revision. A member that lags
            /// waits up to a second for the revision. If the member has not applied it by then, the client asks again.
            /// Use this to read your own writes, or any writes whose revision you know, without asking the primary. If
            /// no member applies the revision before the deadline, the read fails with
            /// [`Unavailable`](crate::error::ReadError::Unavailable).
            pub fn at_least(mut self, revision: $crate::ids::Revision) -> Self {
                self.how.mode = $crate::message::ReadMode::AtLeast(revision.sendable());
                self
            }

            /// Reads the state of any member that can prove that its state is recent enough. The state must contain
            /// every write that was acknowledged to any client at least `bound` before the read began. While a backup
            /// hears from its primary, it can prove a bound of a few [heartbeat](field@crate::Options::heartbeat)
            /// intervals. So it answers a read with such a bound, or a longer one, without the primary. If a member
            /// cannot prove the bound, the client asks other members. The primary always answers, if necessary with a
            /// linearizable read. A bound of zero is a linearizable read. If the primary is needed and there is none
            /// before the deadline, the read fails with [`Unavailable`](crate::error::ReadError::Unavailable).
            ///
            /// The bound assumes that monotonic clocks run within 10 % of the true rate and do not stop. It depends
            /// neither on wall clocks nor on message delays.
            pub fn max_staleness(mut self, bound: std::time::Duration) -> Self {
                self.how.mode = $crate::message::ReadMode::MaxStaleness(bound);
                self
            }

            /// Asks only this member, which must not be a witness (a member that stores no data). This can be combined
            /// with every kind of freshness. Default: any member that can answer.
            ///
            /// If the member cannot answer before the deadline, the read fails with
            /// [`Unavailable`](crate::error::ReadError::Unavailable). The client asks no other member. A linearizable
            /// read at a member that is not the primary fails in this way.
            pub fn member(mut self, id: $crate::ids::MemberId) -> Self {
                self.how.only = Some(id);
                self
            }

            /// Reads the state at this revision, without later changes. Members keep the last
            /// [`history_revisions`](field@crate::Options::history_revisions) revisions, or fewer if the changes of
            /// these revisions exceed [`history_bytes`](field@crate::Options::history_bytes) bytes. A read at an older
            /// revision returns [`Compacted`](crate::error::ReadError::Compacted). A read at a revision that does not
            /// exist yet returns [`Future`](crate::error::ReadError::Future).
            ///
            /// Default: the newest revision.
            pub fn at(mut self, revision: $crate::ids::Revision) -> Self {
                self.how.at = Some(revision.sendable());
                self
            }

            #[doc = $deadline]
            pub fn deadline(mut self, deadline: std::time::Duration) -> Self {
                self.how.deadline = Some(deadline);
                self
            }
        }
    };
}

pub(super) use freshness;

freshness!(Get, "Sets how long the operation may take, retries included. Default: the client's deadline.");
freshness!(
    GetMany,
    "Sets how long the operation may take, retries included. Default: the client's deadline."
);

impl Put {
    pub(super) fn new(client: Client, key: Bytes, value: Bytes) -> Self {
        Self { client, key, value, condition: None, life: Lifetime::FOREVER, deadline: None }
    }

    /// Makes the key expire this long after the put, on the cluster's clock. The key never expires early. It expires
    /// late: by about a thousandth of this time, plus a delay that is usually less than a second. Every reader sees the
    /// key until it is removed. The time is rounded up to whole milliseconds, and may be up to a hundred years.
    /// Default: the key does not expire.
    ///
    /// Each put replaces the time to live. After a later put without a time to live, the key does not expire.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.life.ttl_ms = Some(millis(ttl));
        self
    }

    /// Makes the key belong to this lease, so that the key is removed when the lease ends. If the lease has ended
    /// already or takes no more keys, the put changes nothing and fails with [`WriteError::Lease`]. If the key also has
    /// a [time to live](Self::ttl), the key is removed when the lease ends or the time to live is over, whichever comes
    /// first. Default: no lease.
    ///
    /// Each put replaces the lease. After a later put without a lease, the key belongs to no lease.
    pub fn lease(mut self, lease: LeaseId) -> Self {
        self.life.lease = Some(lease.sendable());
        self
    }
}

impl Delete {
    pub(super) fn new(client: Client, key: Bytes) -> Self {
        Self { client, key, condition: None, deadline: None }
    }
}

/// The result of a read, and the revision of the state that was read: returned by [`Get::with_revision`],
/// [`GetMany::with_revision`], [`Count::with_revision`](super::Count::with_revision) and
/// [`TypedGet::with_revision`](super::TypedGet::with_revision).
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct AtRevision<T> {
    /// The result of the read.
    pub found: T,
    /// The revision of the state that was read. The result reflects every change up to this revision, including
    /// removals, and no later change. If this revision is passed to [`at_least`](Get::at_least), a later read sees no
    /// older state. If it is passed to [`at`](Get::at), a later read sees the same state.
    pub revision: Revision,
}

impl Get {
    /// Runs the read, and also returns the revision of the state that was read.
    ///
    /// # Errors
    /// The same errors as when the builder itself is awaited.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn with_revision(self) -> Result<AtRevision<Option<Record>>, ReadError> {
        let Self { key, how } = self;
        match how.run(Query::Get { key, at: how.at }).await? {
            Reply::Value { record, revision } => Ok(AtRevision { found: record, revision }),
            other => Err(unexpected_reply(&other)),
        }
    }

    pub(super) fn new(client: Client, key: Bytes) -> Self {
        Self { key, how: ReadOptions::new(client) }
    }
}

impl IntoFuture for Put {
    type Output = Result<Written, WriteError>;
    type IntoFuture = OpFuture<Self::Output>;

    /// Runs the put.
    ///
    /// # Cancel safety
    /// Dropping the future stops the retries. The put may have been applied, or may still be applied. It is applied at
    /// most once. The client's other calls are not affected.
    fn into_future(self) -> Self::IntoFuture {
        let Self { client, key, value, condition, life, deadline } = self;
        Box::pin(async move {
            let outcome = write(&client, Command::Put { key, value, condition, life }, deadline).await?;
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
    /// Dropping the future stops the retries. The delete may have been applied, or may still be applied. It is applied
    /// at most once. The client's other calls are not affected.
    fn into_future(self) -> Self::IntoFuture {
        let Self { client, key, condition, deadline } = self;
        Box::pin(async move {
            let outcome = write(&client, Command::Delete { key, condition }, deadline).await?;
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

/// A builder that reads several keys at one revision when it is awaited: returned by [`Client::get_many`].
#[derive(Clone, Debug)]
#[must_use = "nothing is done before this is awaited"]
pub struct GetMany {
    keys: Vec<Bytes>,
    how: ReadOptions,
}

impl GetMany {
    /// Runs the read, and also returns the revision at which all keys were read.
    ///
    /// # Errors
    /// The same errors as when the builder itself is awaited.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn with_revision(self) -> Result<AtRevision<Vec<Option<Record>>>, ReadError> {
        let Self { keys, how } = self;
        match how.run(Query::Many { keys: keys.clone(), at: how.at }).await? {
            Reply::Records { records, revision, .. } => {
                let records: HashMap<Bytes, Record> = records.into_iter().collect();
                let found = keys.iter().map(|key| records.get(key).cloned()).collect();
                Ok(AtRevision { found, revision })
            }
            other => Err(unexpected_reply(&other)),
        }
    }

    pub(super) fn new(client: Client, keys: Vec<Bytes>) -> Self {
        Self { keys, how: ReadOptions::new(client) }
    }
}

impl IntoFuture for GetMany {
    /// One element for each requested key, in the same order: the record of the key, or `None` if the key does not
    /// exist.
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

/// Checks the sizes of a write, runs the write, and waits for its outcome.
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
        Ok(Ok(other)) => Err(WriteError::OutcomeUnknown(unexpected_answer(&other))),
        Ok(Err(CallError::NotApplied(Cause::Refused(reason)))) => Err(WriteError::Refused(reason)),
        Ok(Err(CallError::NotApplied(cause))) => Err(WriteError::NotApplied(cause)),
        Ok(Err(CallError::OutcomeUnknown(cause))) => Err(WriteError::OutcomeUnknown(cause)),
        Err(Closed) => Err(WriteError::Closed),
    }
}

/// Returns the error, with the reason, for a request that ran at `revision` and changed nothing.
pub(super) fn failure(revision: Revision, effect: Effect) -> WriteError {
    match effect {
        Effect::ConditionFailed { found } => WriteError::ConditionFailed { found, revision },
        Effect::StepFailed { step, why } => WriteError::StepFailed { step: step as usize, why, revision },
        effect => other_effect(effect),
    }
}

/// Returns the error for an effect that is neither a success nor a failed condition or step (see [`failure`] for
/// these). It is a lease failure, or an effect that does not fit the operation, such as `Deleted` after a put.
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
        | Effect::Touched { .. }
        | Effect::RevisionsSkipped { .. }
        | Effect::SessionOpened(_)
        | Effect::EpochBegan { .. }
        | Effect::SessionClosed => WriteError::OutcomeUnknown(unexpected_answer(&effect)),
    }
}

/// The error for an answer of the wrong kind, such as a page instead of a value.
pub(super) fn unexpected_reply(reply: &Reply) -> ReadError {
    ReadError::Unavailable(unexpected_answer(reply))
}

fn unexpected_answer(answer: &dyn std::fmt::Debug) -> Cause {
    Cause::Refused(format!("a member answered something else: {answer:?}"))
}
