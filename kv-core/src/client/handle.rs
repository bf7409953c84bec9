//! The client's handle.

use super::driver::{Begin, Command};
use super::{
    Acquire, Add, Batch, Call, CallError, CallId, Cause, ClientBuilder, Delete, DeleteRange, Election, Get,
    GetMany, Grant, LeaseById, Put, Reply, Scan, Transact, Trouble, Typed, Watch,
};
use crate::error::{CallFailed, ConnectError};
use crate::ids::{LeaseId, MemberId};
use crate::message::MemberStatus;
use crate::wire::{Limits, MemberInfo};
use bytes::Bytes;
use futures::future::join_all;
use kv_transport::Transport;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::ops::RangeBounds;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

/// Calls that may wait for the task to take them in.
pub(super) const MAX_COMMANDS: usize = 1024;

/// Memory for the calls that have not ended, in KiB; further ones wait.
const ROOM_KIB: u32 = 64 << 10;

/// How long a question to one member may take.
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);

/// How long closing the session may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Longer deadlines are cut to this: a year.
pub(super) const MAX_DEADLINE: Duration = Duration::from_secs(365 * 24 * 3600);

/// A client of a cluster. Clones share one session, one set of connections and one task.
///
/// Calls may be made from many tasks at once; up to the session's window (256 by default) of writes are in flight together,
/// and what waits is bounded to 64 MiB. When the last clone is dropped the connections are closed; the session then expires
/// by itself, or is closed at once by [`close`](Self::close).
///
/// ```no_run
/// use kv_core::{Client, transport::Transport};
/// # async fn example(transport: std::sync::Arc<dyn Transport>) -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::builder("demo").address("127.0.0.1:7000").transport(transport).connect().await?;
///
/// let first = client.put("greeting", "hello").await?;
/// client.put("greeting", "good day").if_revision(first.revision).await?;
/// let record = client.get("greeting").await?.expect("it was put");
/// assert_eq!((&record.value[..], record.version), (&b"good day"[..], 2));
///
/// match client.put("greeting", "hi").if_absent().await {
///     Err(error) if error.is_guard_failed() => {} // nothing was changed
///     Err(error) if error.outcome_unknown() => {} // it was done once, or not at all
///     Err(error) if error.is_retryable() => {}    // it was not done: try again later
///     other => drop(other?),
/// }
///
/// for (key, record) in client.scan("gr").limit(10).await? {
///     println!("{key:?} {:?} since revision {}", record.value, record.modified);
/// }
/// client.close().await;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    commands: mpsc::Sender<Command>,
    cancels: mpsc::UnboundedSender<CallId>,
    /// Changes, by its end, when the task has ended.
    ended: watch::Receiver<()>,
    next_call: AtomicU64,
    closed: AtomicBool,
    room: Arc<Semaphore>,
    members: Vec<MemberInfo>,
    limits: Limits,
    /// The member of this process.
    local: Option<MemberId>,
    deadline: Duration,
}

/// What [`Client::cluster_status`] learned of one member.
#[derive(Debug)]
#[non_exhaustive]
pub struct MemberReport {
    /// The member.
    pub id: MemberId,
    /// Where it is reached.
    pub address: String,
    /// `data` or `witness`.
    pub role: String,
    /// Where it stands, or why that is not known.
    pub status: Result<MemberStatus, CallFailed>,
}

/// The client was closed before the call began.
#[derive(Debug)]
pub(crate) struct Closed;

impl Client {
    /// Starts to configure a client of the cluster with this name.
    pub fn builder(cluster: impl Into<String>) -> ClientBuilder {
        ClientBuilder::new(cluster.into())
    }

    /// Connects with default settings by any one member's address.
    ///
    /// # Errors
    /// As [`ClientBuilder::connect`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn connect(
        cluster: &str,
        address: &str,
        transport: Arc<dyn Transport>,
    ) -> Result<Self, ConnectError> {
        Self::builder(cluster).address(address).transport(transport).connect().await
    }

    pub(super) fn new(
        commands: mpsc::Sender<Command>,
        cancels: mpsc::UnboundedSender<CallId>,
        ended: watch::Receiver<()>,
        members: Vec<MemberInfo>,
        limits: Limits,
        local: Option<MemberId>,
        deadline: Duration,
    ) -> Self {
        let shared = Shared {
            commands,
            cancels,
            ended,
            next_call: AtomicU64::new(1),
            closed: AtomicBool::new(false),
            room: Arc::new(Semaphore::new(ROOM_KIB as usize)),
            members,
            limits,
            local,
            deadline,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Sets a key. Await the builder to run it.
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Put {
        Put::new(self.clone(), Bytes::copy_from_slice(key.as_ref()), value.into())
    }

    /// Removes a key. Await the builder to run it.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Delete {
        Delete::new(self.clone(), Bytes::copy_from_slice(key.as_ref()))
    }

    /// Adds to a counter, a key whose value is a whole number in decimal digits; an absent one counts as 0. Await the builder to
    /// run it.
    pub fn add(&self, key: impl AsRef<[u8]>, by: i64) -> Add {
        Add::new(self.clone(), key.as_ref(), by)
    }

    /// Does several things at once, or none of them. Add conditions and steps, then await the builder to run it.
    pub fn transaction(&self) -> Transact {
        Transact::new(self.clone())
    }

    /// Sets and removes many keys at once. Add them, then await the builder to run it.
    pub fn batch(&self) -> Batch {
        Batch::new(self.clone())
    }

    /// Asks for a lease, on which keys can depend, and keeps it alive: see [`Lease`](super::Lease). It ends when the cluster has not
    /// heard of it for `ttl`: 100 ms to 30 days. Await the builder to run it.
    pub fn lease(&self, ttl: Duration) -> Grant {
        Grant::new(self.clone(), ttl)
    }

    /// A lease that was granted before, perhaps to another client.
    #[must_use]
    pub fn lease_by_id(&self, id: LeaseId) -> LeaseById {
        LeaseById::new(self.clone(), id)
    }

    /// Waits for the lock of this name, and takes it: see [`Lock`](super::Lock). Await the builder to run it. A name is up to 15
    /// bytes shorter than the largest key.
    ///
    /// ```no_run
    /// # async fn example(client: kv_core::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let lock = client.lock("locks/report").await?;
    /// // Done only if the lock is still held when it arrives, however long that takes.
    /// let done = lock.transaction().put("report", "for today").await?;
    /// if !done.held {
    ///     println!("the lock was lost, and nothing was written");
    /// }
    /// lock.release().await?;
    /// # Ok(()) }
    /// ```
    pub fn lock(&self, name: impl AsRef<[u8]>) -> Acquire {
        Acquire::new(self.clone(), Bytes::copy_from_slice(name.as_ref()))
    }

    /// The election of this name.
    pub fn election(&self, name: impl AsRef<[u8]>) -> Election {
        Election::new(self.clone(), Bytes::copy_from_slice(name.as_ref()))
    }

    /// Reads a key: linearizable unless said otherwise. Await the builder to run it.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Get {
        Get::new(self.clone(), Bytes::copy_from_slice(key.as_ref()))
    }

    /// Reads several keys, all at one revision: up to 1,000, with a megabyte together, and keys that have no more bytes together than two
    /// of the largest keys and values. Await the builder to run it.
    pub fn get_many<K: AsRef<[u8]>>(&self, keys: impl IntoIterator<Item = K>) -> GetMany {
        let keys = keys.into_iter().map(|key| Bytes::copy_from_slice(key.as_ref()));
        GetMany::new(self.clone(), keys.collect())
    }

    /// Removes the keys that begin with `prefix`. Await the builder to run it.
    pub fn delete_prefix(&self, prefix: impl AsRef<[u8]>) -> DeleteRange {
        DeleteRange::prefix(self.clone(), prefix.as_ref())
    }

    /// Removes the keys in a range. Await the builder to run it.
    pub fn delete_range<K: AsRef<[u8]>>(&self, range: impl RangeBounds<K>) -> DeleteRange {
        DeleteRange::range(self.clone(), &range)
    }

    /// The keys that begin with `prefix`, as values of a type of yours.
    pub fn typed<T: Serialize + DeserializeOwned + 'static>(&self, prefix: impl AsRef<[u8]>) -> Typed<T> {
        Typed::new(self.clone(), prefix.as_ref())
    }

    /// Reads the keys that begin with `prefix`, in order. Await the builder to run it.
    pub fn scan(&self, prefix: impl AsRef<[u8]>) -> Scan {
        Scan::prefix(self.clone(), prefix.as_ref())
    }

    /// Reads the keys in a range, in order. Await the builder to run it.
    pub fn scan_range<K: AsRef<[u8]>>(&self, range: impl RangeBounds<K>) -> Scan {
        Scan::range(self.clone(), &range)
    }

    /// Follows the keys that begin with `prefix`: each change of them, once, in order.
    pub fn watch(&self, prefix: impl AsRef<[u8]>) -> Watch {
        Watch::prefix(self.clone(), prefix.as_ref())
    }

    /// Follows one key.
    pub fn watch_key(&self, key: impl AsRef<[u8]>) -> Watch {
        Watch::key(self.clone(), key.as_ref())
    }

    /// Follows the keys in a range.
    pub fn watch_range<K: AsRef<[u8]>>(&self, range: impl RangeBounds<K>) -> Watch {
        Watch::range(self.clone(), &range)
    }

    /// Asks every member where it stands, all at once. Members that do not answer within the default deadline or two
    /// seconds, the shorter, are reported with the reason.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn cluster_status(&self) -> Vec<MemberReport> {
        join_all(self.shared.members.iter().map(|member| async {
            let MemberInfo { id, address, role } = member.clone();
            MemberReport { id, address, role, status: self.member_status(id).await }
        }))
        .await
    }

    /// Asks one member where it stands.
    ///
    /// # Errors
    /// If it does not answer within the default deadline or two seconds, the shorter.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn member_status(&self, member: MemberId) -> Result<MemberStatus, CallFailed> {
        if !self.shared.members.iter().any(|known| known.id == member) {
            return Err(CallFailed::UnknownMember(member));
        }
        let deadline = STATUS_TIMEOUT.min(self.shared.deadline);
        match self.call(Call::Status { member }, 0, deadline).await? {
            Ok(Reply::Status(status)) => Ok(*status),
            Ok(other) => unreachable!("a status call was answered by {other:?}"),
            Err(error) => Err(error.into()),
        }
    }

    /// Finds the primary and asks it to hand its role to another member. Returns when that has been started.
    ///
    /// # Errors
    /// If no primary is found, or it does not answer.
    ///
    /// # Cancel safety
    /// Dropping the future may leave the handover going on.
    pub async fn handover(&self) -> Result<(), CallFailed> {
        let reports = self.cluster_status().await;
        let answers = reports.into_iter().filter_map(|report| report.status.ok());
        let primary = answers.filter(|status| status.state == "primary").max_by_key(|status| status.view);
        let member = primary.ok_or(CallFailed::NoPrimary)?.id;
        self.call(Call::Handover { member }, 0, self.shared.deadline).await??;
        Ok(())
    }

    /// Refuses new operations on all clones, waits for those in flight, closes the session (best effort, at most two
    /// seconds) and the connections.
    ///
    /// # Cancel safety
    /// The client goes on closing when the future is dropped.
    pub async fn close(&self) {
        let deadline = Instant::now() + CLOSE_TIMEOUT.min(self.shared.deadline);
        if !self.shared.closed.swap(true, Ordering::AcqRel) {
            let close = Command::Close(self.next_id(), deadline);
            if let Err(mpsc::error::TrySendError::Full(close)) = self.shared.commands.try_send(close) {
                // Passed on by a task of its own, so that dropping this future does not stop it.
                let commands = self.shared.commands.clone();
                tokio::spawn(async move { commands.send(close).await });
            }
        }
        // The sender is dropped when the task has ended.
        while self.shared.ended.clone().changed().await.is_ok() {}
    }

    /// About how much memory is held by calls of this client and its clones that have begun and not ended, in bytes: 0 if there are
    /// none, up to 64 MiB. Further calls wait.
    #[must_use]
    pub fn in_flight_bytes(&self) -> usize {
        (ROOM_KIB as usize).saturating_sub(self.shared.room.available_permits()) << 10
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    pub(super) fn local(&self) -> Option<MemberId> {
        self.shared.local
    }

    pub(super) fn default_deadline(&self) -> Duration {
        self.shared.deadline
    }

    /// Says what is wrong if this is no member with data.
    pub(super) fn check_data_member(&self, id: MemberId) -> Result<(), String> {
        match self.shared.members.iter().find(|member| member.id == id) {
            Some(member) if member.holds_data() => Ok(()),
            Some(_) => Err(format!("member {id} is a witness, which holds no data: ask a data member")),
            None => Err(format!("the cluster has no member {id}: kv status lists its members")),
        }
    }

    fn next_id(&self) -> CallId {
        CallId::new(self.shared.next_call.fetch_add(1, Ordering::Relaxed))
    }

    /// Makes a call that holds about `size` bytes, and waits for its end.
    ///
    /// Dropping the future cancels the call.
    pub(super) async fn call(
        &self,
        call: Call,
        size: usize,
        deadline: Duration,
    ) -> Result<Result<Reply, CallError>, Closed> {
        let deadline = Instant::now() + deadline.min(MAX_DEADLINE);
        let (reply, answer) = oneshot::channel();
        let Ok(begun) = timeout_at(deadline, self.begin(call, size, deadline, reply)).await else {
            return Ok(Err(CallError::NotApplied(Cause::Deadline(Trouble::Waiting))));
        };
        let mut guard = CancelOnDrop { id: begun?, cancels: Some(&self.shared.cancels) };
        let result = answer.await;
        guard.cancels = None;
        // The task ended under the call, as when the runtime shuts down: nobody knows how far it had come.
        let gone = |_| Err(CallError::OutcomeUnknown(Cause::Failed(Trouble::ConnectionLost)));
        Ok(result.unwrap_or_else(gone))
    }

    /// Begins a call of which nobody waits for the end, if there is room for it at once. What is called before [`close`](Self::close) is
    /// done before it.
    pub(super) fn call_and_forget(&self, call: Call) {
        let (Ok(runtime), Ok(permit)) = (Handle::try_current(), self.shared.room.clone().try_acquire_owned())
        else {
            return;
        };
        if self.shared.closed.load(Ordering::Acquire) {
            return;
        }
        let (reply, answer) = oneshot::channel();
        let deadline = Instant::now() + self.shared.deadline;
        let begin = Begin { id: self.next_id(), call, deadline, reply, permit };
        if self.shared.commands.try_send(Command::Call(begin)).is_ok() {
            // As long as somebody waits the call goes on.
            runtime.spawn(answer);
        }
    }

    /// Passes a call on, as soon as there is room for it.
    async fn begin(
        &self,
        call: Call,
        size: usize,
        deadline: Instant,
        reply: oneshot::Sender<Result<Reply, CallError>>,
    ) -> Result<CallId, Closed> {
        let share = u32::try_from(size / 1024 + 1).unwrap_or(ROOM_KIB).min(ROOM_KIB);
        let permit = self.shared.room.clone().acquire_many_owned(share).await.map_err(|_| Closed)?;
        let slot = self.shared.commands.reserve().await.map_err(|_| Closed)?;
        if self.shared.closed.load(Ordering::Acquire) {
            return Err(Closed);
        }
        let id = self.next_id();
        slot.send(Command::Call(Begin { id, call, deadline, reply, permit }));
        Ok(id)
    }
}

/// Gives a call up when its caller goes.
struct CancelOnDrop<'a> {
    id: CallId,
    cancels: Option<&'a mpsc::UnboundedSender<CallId>>,
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(cancels) = self.cancels {
            // Without a task there is nothing to cancel.
            let _ = cancels.send(self.id);
        }
    }
}
