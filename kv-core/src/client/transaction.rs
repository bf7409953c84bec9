//! Several changes at once.

use super::Client;
use super::ops::{OpFuture, failure, other_effect, write};
use super::range::{ends_of, ends_of_prefix};
use crate::error::WriteError;
use crate::ids::{Revision, Timestamp};
use crate::message::{
    Command, Condition, Effect, Lifetime, Outcome, StepResult, TransactionRequest, TransactionStep, millis,
};
use bytes::Bytes;
use std::future::IntoFuture;
use std::ops::RangeBounds;
use std::time::Duration;

/// A builder that runs a transaction when it is awaited: returned by [`Client::transaction`]. A transaction consists of
/// conditions and two lists of *steps* (changes and reads). The first list is run if all conditions hold, the second
/// list otherwise. Either the transaction is applied as a whole, exactly once and at one revision, or it is not applied
/// at all.
///
/// All conditions and all steps, including steps that read, see the state before the transaction. Two steps of the same
/// list must not change the same key.
///
/// # Limits
/// `max_key_bytes` and `max_value_bytes` are [options](crate::Options) of the cluster.
///
/// | what | at most |
/// |---|---|
/// | conditions | 64 |
/// | steps in each list | 1,000 |
/// | keys and values together | 2 x (`max_key_bytes` + `max_value_bytes`), or 4 KiB if that is more |
/// | results of the steps that are run | `max_key_bytes` + `max_value_bytes` + 256 KiB. Each scan takes 144 bytes, and each other step (also a put, delete or add) 16 bytes. In addition, each record that a get or a scan returns takes 128 bytes + the size of its value, and in a scan also the size of its key |
///
/// If the results would exceed this limit, the transaction changes nothing and fails with
/// [`StepFailure::ResponseTooLarge`](crate::message::StepFailure::ResponseTooLarge). The results of all transactions in
/// one log entry together take at most 16 MiB. If a transaction would exceed that, it changes nothing and fails with
/// [`StepFailure::Busy`](crate::message::StepFailure::Busy).
///
/// # Retries
/// To answer retries, the cluster stores the result of each write; a transaction, with all its steps, is one write. The
/// stored results take up to 4 MiB for each client, and up to 32 MiB for all clients together. Each stored result takes
/// at least 192 bytes. If the options of the cluster allow a single result that is larger than one of these two limits,
/// this limit is raised to the size of the largest possible result. When later results exceed a limit, the cluster
/// drops stored results. If the answer of a call is lost, and its stored result is dropped before the retry arrives,
/// the call ends as [outcome unknown](WriteError::OutcomeUnknown).
///
/// An answer is lost if a member or a connection
/// fails, if the primary changes, or if the member does not send the answer. A member sends every answer that is 4 KiB
/// or smaller. It sends a larger answer only if this exceeds none of these limits:
/// - 64 MiB of memory for the unread answers of one connection
/// - three quarters of [`client_memory_bytes`](field@crate::Options::client_memory_bytes) for the requests and unread
///   answers of all connections together
/// - half of these three quarters for the requests and unread answers of one client, and less if other clients also
///   use memory
///
/// ```no_run
/// # async fn example(client: kv_core::Client) -> Result<(), kv_core::error::WriteError> {
/// // Moves 30 from one account to the other, unless the first was changed since it was read at `seen`.
/// # let seen = kv_core::client::Revision::ZERO;
/// let moved = client.transaction().if_revision("account/a", seen).add("account/a", -30).add("account/b", 30).await?;
/// if !moved.succeeded {
///     println!("somebody was faster");
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is done before this is awaited"]
pub struct Transaction {
    client: Client,
    transaction: TransactionRequest,
    /// Whether further steps belong to the list that is run if a condition does not hold.
    otherwise: bool,
    deadline: Option<Duration>,
}

/// The result of a transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Transacted {
    /// Whether all conditions held. If not, the steps after [`Transaction::otherwise`] were run, if there are any.
    pub succeeded: bool,
    /// The result of each step that was run, in order.
    pub results: Vec<StepResult>,
    /// The revision of the transaction, which is now the `modified` revision of each key that it set.
    pub revision: Revision,
    /// The time at which the transaction was applied, on the cluster's clock.
    pub timestamp: Timestamp,
}

impl Transaction {
    pub(super) fn new(client: Client) -> Self {
        Self { client, transaction: TransactionRequest::default(), otherwise: false, deadline: None }
    }

    pub(super) fn condition(mut self, key: impl AsRef<[u8]>, condition: Condition) -> Self {
        self.transaction.conditions.push((Bytes::copy_from_slice(key.as_ref()), condition));
        self
    }

    pub(super) fn step(mut self, step: TransactionStep) -> Self {
        let TransactionRequest { then, otherwise, .. } = &mut self.transaction;
        if self.otherwise {
            otherwise.push(step)
        } else {
            then.push(step)
        }
        self
    }

    /// Condition: the key does not exist.
    pub fn if_absent(self, key: impl AsRef<[u8]>) -> Self {
        self.condition(key, Condition::Absent)
    }

    /// Condition: the key exists.
    pub fn if_present(self, key: impl AsRef<[u8]>) -> Self {
        self.condition(key, Condition::Present)
    }

    /// Condition: the key exists and was last changed at this revision.
    pub fn if_revision(self, key: impl AsRef<[u8]>, revision: Revision) -> Self {
        self.condition(key, Condition::Revision(revision.sendable()))
    }

    /// Condition: the key exists and has this value.
    pub fn if_value(self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Self {
        self.condition(key, Condition::Value(value.into()))
    }

    /// Condition: the key exists, was created at this revision, and has existed since then. For the key of a lock, the
    /// [fencing token](super::FencingToken) contains this revision.
    pub fn if_created(self, key: impl AsRef<[u8]>, revision: Revision) -> Self {
        self.condition(key, Condition::Created(revision.sendable()))
    }

    /// Step: sets a key.
    pub fn put(self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Self {
        self.put_for(key, value, Lifetime::FOREVER)
    }

    /// Step: sets a key with a time to live or a lease ([`Lifetime`]). If the lease has ended or takes no more keys,
    /// the transaction changes nothing.
    pub fn put_for(self, key: impl AsRef<[u8]>, value: impl Into<Bytes>, life: Lifetime) -> Self {
        self.step(TransactionStep::Put {
            key: Bytes::copy_from_slice(key.as_ref()),
            value: value.into(),
            life: life.sendable(),
        })
    }

    /// Step: removes a key, if it exists.
    pub fn delete(self, key: impl AsRef<[u8]>) -> Self {
        self.step(TransactionStep::Delete { key: Bytes::copy_from_slice(key.as_ref()) })
    }

    /// Step: adds to a counter. A counter is a key whose value is a 64-bit integer in decimal digits. An absent key
    /// counts as 0. If the value is not such a number, or the sum does not fit into 64 bits, the transaction changes
    /// nothing. The key keeps its time to live or lease.
    pub fn add(self, key: impl AsRef<[u8]>, by: i64) -> Self {
        self.step(TransactionStep::Add { key: Bytes::copy_from_slice(key.as_ref()), by })
    }

    /// Step: gives a key a new time to live, which begins now, and keeps the value and the lease of the key. See
    /// [`Client::touch`]. The result of the step is [`StepResult::Touched`]. The step counts as much as a
    /// [`get`](Self::get) of the key towards the limit for data that is read.
    pub fn touch(self, key: impl AsRef<[u8]>, ttl: Duration) -> Self {
        self.step(TransactionStep::Touch {
            key: Bytes::copy_from_slice(key.as_ref()),
            ttl_ms: Some(millis(ttl)),
        })
    }

    /// Step: removes the time to live of a key, so that the key does not expire, and keeps the value and the lease of
    /// the key. See [`Client::persist`]. In all other respects, it is like [`touch`](Self::touch).
    pub fn persist(self, key: impl AsRef<[u8]>) -> Self {
        self.step(TransactionStep::Touch { key: Bytes::copy_from_slice(key.as_ref()), ttl_ms: None })
    }

    /// Step: reads the record that a key had before the transaction. The result of the step is [`StepResult::Got`]; see
    /// [`StepResult::record`].
    pub fn get(self, key: impl AsRef<[u8]>) -> Self {
        self.step(TransactionStep::Get { key: Bytes::copy_from_slice(key.as_ref()) })
    }

    /// Step: reads the first keys that begin with `prefix`, in the state before the transaction. It reads up to `limit`
    /// keys, and at most 1,000. The result of the step is [`StepResult::Scanned`].
    pub fn scan(self, prefix: impl AsRef<[u8]>, limit: u32) -> Self {
        let (from, to) = ends_of_prefix(prefix.as_ref());
        self.step(TransactionStep::Scan { from, to, limit })
    }

    /// Step: reads the first keys of a range. In all other respects, it is like [`scan`](Self::scan).
    pub fn scan_range<K: AsRef<[u8]>>(self, range: impl RangeBounds<K>, limit: u32) -> Self {
        let (from, to) = ends_of(&range);
        self.step(TransactionStep::Scan { from, to, limit })
    }

    /// Begins the second list of steps, which is run if a condition does not hold: all later steps belong to it.
    pub fn otherwise(mut self) -> Self {
        self.otherwise = true;
        self
    }

    /// Sets how long the operation may take, retries included. Default: the client's deadline.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }
}

impl IntoFuture for Transaction {
    type Output = Result<Transacted, WriteError>;
    type IntoFuture = OpFuture<Self::Output>;

    /// Runs the transaction.
    ///
    /// # Cancel safety
    /// Dropping the future stops the retries. The transaction may have been applied, or may still be applied. It is
    /// applied at most once. The client's other calls are not affected.
    fn into_future(self) -> Self::IntoFuture {
        let Self { client, transaction, otherwise: _, deadline } = self;
        Box::pin(async move {
            let outcome = write(&client, Command::Transaction(transaction), deadline).await?;
            let Outcome { revision, timestamp, effect } = outcome;
            match effect {
                Effect::Transacted { succeeded, results } => {
                    Ok(Transacted { succeeded, results, revision, timestamp })
                }
                // The condition that `Transaction::fenced` adds did not hold. A failed condition of any other kind is
                // not an error: the result then has `succeeded: false`.
                Effect::ConditionFailed { .. } => Err(WriteError::LockLost { revision }),
                effect => Err(failure(revision, effect)),
            }
        })
    }
}

/// A builder that adds to a counter when it is awaited: returned by [`Client::add`].
#[derive(Clone, Debug)]
#[must_use = "nothing is done before this is awaited"]
pub struct Add(Transaction);

/// The result of an addition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Added {
    /// The counter's new value.
    pub sum: i64,
    /// The revision of the addition. It is now the `modified` revision of the key.
    pub revision: Revision,
}

impl Add {
    pub(super) fn new(client: Client, key: &[u8], by: i64) -> Self {
        Self(Transaction::new(client).add(key, by))
    }

    /// Sets how long the operation may take, retries included. Default: the client's deadline.
    pub fn deadline(self, deadline: Duration) -> Self {
        Self(self.0.deadline(deadline))
    }
}

impl IntoFuture for Add {
    type Output = Result<Added, WriteError>;
    type IntoFuture = OpFuture<Self::Output>;

    /// Runs the addition.
    ///
    /// # Cancel safety
    /// Dropping the future stops the retries. The addition may have been applied, or may still be applied. It is
    /// applied at most once. The client's other calls are not affected.
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let Transacted { results, revision, succeeded, .. } = self.0.await?;
            match results[..] {
                [StepResult::Added { sum }] => Ok(Added { sum, revision }),
                _ => Err(other_effect(Effect::Transacted { succeeded, results })),
            }
        })
    }
}
