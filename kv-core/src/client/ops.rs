//! Single operations. Await a builder to run it.

use super::Client;
use super::call::{Call, CallError, Cause, Reply};
use crate::error::{ReadError, WriteError};
use crate::ids::{LeaseId, MemberId, Revision, Timestamp};
use crate::message::{Command, Condition, Effect, Lifetime, Outcome, Query, ReadMode, Record, millis};
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
    /// The revision of the put, which is now the key's `modified`.
    pub revision: Revision,
    /// When the write was applied, on the cluster's clock.
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
    /// When the write was applied, on the cluster's clock.
    pub timestamp: Timestamp,
}

/// Sets a key: created by [`Client::put`], run by awaiting it.
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

/// Removes a key: created by [`Client::delete`], run by awaiting it.
#[derive(Clone, Debug)]
#[must_use = "nothing is done before this is awaited"]
pub struct Delete {
    pub(super) client: Client,
    pub(super) key: Bytes,
    pub(super) condition: Option<Condition>,
    pub(super) deadline: Option<Duration>,
}

/// Reads a key: created by [`Client::get`], run by awaiting it.
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
    /// A linearizable read at the newest revision.
    pub(super) const fn new(client: Client) -> Self {
        Self { client, mode: ReadMode::Linearizable, only: None, at: None, deadline: None }
    }

    /// Checks a read of one key, several keys or one page, and runs it.
    pub(super) async fn run(&self, query: Query) -> Result<Reply, ReadError> {
        let Self { client, mode, only, deadline, .. } = self;
        // Members close a connection that sends more than any valid request.
        query.check(client.limits().sizes())?;
        if let Some(member) = only {
            client.check_data_member(*member)?;
        }
        let call = Call::Read { mode: *mode, query, prefer: client.local(), only: *only };
        match client.call(call, 0, deadline.unwrap_or(client.default_deadline())).await {
            Ok(Ok(Reply::Compacted { oldest })) => Err(ReadError::Compacted { oldest }),
            Ok(Ok(Reply::Future { newest })) => Err(ReadError::Future { newest }),
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(error)) => Err(match error {
                CallError::NotApplied(Cause::Refused(reason)) => ReadError::Refused(reason),
                CallError::NotApplied(cause) | CallError::OutcomeUnknown(cause) => {
                    ReadError::Unavailable(cause)
                }
            }),
            Err(super::handle::Closed) => Err(ReadError::Closed),
        }
    }
}

/// The conditions and the deadline of a write.
macro_rules! conditions {
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

conditions!(Put);
conditions!(Delete);

/// The freshness of a read, and its deadline.
macro_rules! freshness {
    ($name:ident, $deadline:literal) => {
        impl $name {
            /// Reads the state that some member has applied. This is fast and needs no primary, but the state may be
            /// stale.
            pub fn local(mut self) -> Self {
                self.how.mode = $crate::message::ReadMode::Local;
                self
            }

            /// Reads the state of some member that has applied this revision or a later one. A member that lags waits
            /// until it has applied the revision. Use it to read your own writes, or any writes whose revision you
            /// know, without asking the primary. If no member gets that far before the deadline, the read is
            /// [`Unavailable`](crate::error::ReadError::Unavailable).
            pub fn at_least(mut self, revision: $crate::ids::Revision) -> Self {
                self.how.mode = $crate::message::ReadMode::AtLeast(revision.sendable());
                self
            }

            /// Reads the state of some member if it contains every write that was acknowledged to any client at least
            /// this long before the read began. A backup that hears from its primary can prove this for a bound of a
            /// few heartbeats ([`heartbeat`](field@crate::Options::heartbeat)), and then answers without the primary.
            /// If a member cannot prove it, the client asks other members. The primary always answers, if necessary
            /// with a linearizable read. A bound of zero is a linearizable read. If the primary is needed and there is
            /// none before the deadline, the read is [`Unavailable`](crate::error::ReadError::Unavailable).
            ///
            /// This assumes that monotonic clocks run within 10 % of the true rate and do not stop. It depends neither
            /// on wall clocks nor on message delays.
            pub fn max_staleness(mut self, bound: std::time::Duration) -> Self {
                self.how.mode = $crate::message::ReadMode::MaxStaleness(bound);
                self
            }

            /// Asks only this data member, whatever the freshness. Default: any member that can answer.
            ///
            /// While the member cannot answer, no other member is asked, and at the deadline the read is
            /// [`Unavailable`](crate::error::ReadError::Unavailable). A linearizable read at a member that is not the
            /// primary ends in this way.
            pub fn member(mut self, id: $crate::ids::MemberId) -> Self {
                self.how.only = Some(id);
                self
            }

            /// Reads the state as it was at this revision. Members keep the last
            /// [`history_revisions`](field@crate::Options::history_revisions) revisions, in up to
            /// [`history_bytes`](field@crate::Options::history_bytes) bytes. A read at an older revision returns
            /// [`Compacted`](crate::error::ReadError::Compacted). A read at a revision that does not exist yet returns
            /// [`Future`](crate::error::ReadError::Future).
            ///
            /// Default: the newest.
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

freshness!(Get, "How long it may take, retries included. Default: the client's.");
freshness!(GetMany, "How long it may take, retries included. Default: the client's.");

impl Put {
    pub(super) fn new(client: Client, key: Bytes, value: Bytes) -> Self {
        Self { client, key, value, condition: None, life: Lifetime::FOREVER, deadline: None }
    }

    /// The key expires this long after the put, on the cluster's clock. It never expires earlier, and usually at most a
    /// fraction of a second later. Until the key is removed, every reader sees it. The time counts in whole
    /// milliseconds, up to a hundred years. Default: the key does not expire.
    ///
    /// Each put replaces the time to live: after a later put without one, the key does not expire.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.life.ttl_ms = Some(millis(ttl));
        self
    }

    /// The key belongs to this lease, and is removed when the lease ends. If the lease has ended already, nothing is
    /// put ([`WriteError::Lease`]). If the key also has a [time to live](Self::ttl), it is removed when the first of
    /// the two ends. Default: no lease.
    ///
    /// Each put replaces the lease: after a later put without one, the key belongs to no lease.
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

/// The result of a read, and the revision of the state that was read: created by [`Get::with_revision`],
/// [`GetMany::with_revision`] and [`TypedGet::with_revision`](super::TypedGet::with_revision).
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct AtRevision<T> {
    /// What was found.
    pub found: T,
    /// The revision of the state that was read. It is at least the revision of the last change of every requested key,
    /// even of a key that was removed. A later read with [`at_least`](Get::at_least) this revision sees no older state.
    /// A later read with [`at`](Get::at) this revision sees the same state.
    pub revision: Revision,
}

impl Get {
    /// Runs the read, and also returns the revision at which it was read.
    ///
    /// # Errors
    /// As for the read itself.
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
    /// most once. Nothing else is affected.
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
    /// As for [`Put`].
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

/// Reads several keys at one revision: created by [`Client::get_many`], run by awaiting it.
#[derive(Clone, Debug)]
#[must_use = "nothing is done before this is awaited"]
pub struct GetMany {
    keys: Vec<Bytes>,
    how: ReadOptions,
}

impl GetMany {
    /// Runs the read, and also returns the revision at which everything was read.
    ///
    /// # Errors
    /// As for the read itself.
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
    /// For each requested key, its record, or `None` if it does not exist.
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
        Ok(Ok(other)) => Err(WriteError::OutcomeUnknown(unexpected_answer(&other))),
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

/// An unexpected outcome of an operation that has neither conditions nor steps.
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
        | Effect::SessionClosed => WriteError::OutcomeUnknown(unexpected_answer(&effect)),
    }
}

/// The error for a page instead of a value, or a value instead of a page.
pub(super) fn unexpected_reply(reply: &Reply) -> ReadError {
    ReadError::Unavailable(unexpected_answer(reply))
}

fn unexpected_answer(answer: &dyn std::fmt::Debug) -> Cause {
    Cause::Refused(format!("a member answered something else: {answer:?}"))
}
