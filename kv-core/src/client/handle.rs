//! The handle of a client.

use super::call::{Call, CallError, CallId, Cause, FailureReason, Reply};
use super::driver::{DriverCommand, KnownMembers, NewCall};
use super::members::first_and_soon;
use super::range::{ends_of, ends_of_key, ends_of_prefix};
use super::{
    Add, Batch, ClientBuilder, Compact, Count, Delete, DeleteRange, Election, Get, GetMany, LeaseHandle,
    LeaseRequest, LocalMember, LockRequest, Put, RaiseRevision, Scan, Touch, Transaction, Typed, Watch,
};
use crate::config::Role;
use crate::error::{AdminError, ConnectError, ReadError};
use crate::ids::{LeaseId, MemberId, Revision};
use crate::message::{Answer, MemberState, MemberStatus, Query, ReadMode, SuccessorRefusal, millis};
use crate::wire::{Limits, MemberInfo};
use bytes::Bytes;
use futures::future::join_all;
use kv_transport::Transport;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::ops::RangeBounds;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

/// The greatest number of calls that may wait until the client's driver task receives them.
pub(super) const MAX_COMMANDS: usize = 1024;

/// The memory budget of unfinished calls, in KiB. While the budget is used up, further calls wait.
const ROOM_KIB: u32 = 64 << 10;

/// How long a status call to one member may take.
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);

/// How long closing the session may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest deadline, and the longest wait for a lock: a year. A longer time is shortened to a year.
pub(super) const MAX_DEADLINE: Duration = Duration::from_secs(365 * 24 * 3600);

/// A client of a cluster. Clones share one session, one set of connections and one task. In a session, the client
/// numbers its writes, so that members recognize a retried write. The cluster gives each write a
/// [revision](crate::ids::Revision), its position in the order of all writes.
///
/// Many tasks may make calls at the same time. Up to 256 writes are in flight at once, or fewer if the cluster's
/// [`max_in_flight_per_session`](field@crate::Options::max_in_flight_per_session) is smaller. Unfinished calls use at
/// most 64 MiB of memory. While this memory is used up, further calls wait. When the last clone is dropped, the
/// connections are closed, and the session expires later. [`close`](Self::close) instead closes the session as soon as
/// the writes in flight have ended.
///
/// ```no_run
/// use kv_core::{Client, transport::Transport};
/// # async fn example(transport: impl Transport) -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::builder("demo").address("127.0.0.1:7000").transport(transport).connect().await?;
///
/// let first = client.put("greeting", "hello").await?;
/// client.put("greeting", "good day").if_revision(first.revision).await?;
/// let record = client.get("greeting").await?.expect("it was put");
/// assert_eq!((&record.value[..], record.version), (&b"good day"[..], 2));
///
/// match client.put("greeting", "hi").if_absent().await {
///     Err(error) if error.is_condition_failed() => {} // nothing was changed
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
    commands: mpsc::Sender<DriverCommand>,
    cancels: mpsc::UnboundedSender<CallId>,
    /// This channel is closed when the task has ended.
    ended: watch::Receiver<()>,
    next_call: AtomicU64,
    closed: AtomicBool,
    room: Arc<Semaphore>,
    members: KnownMembers,
    limits: Limits,
    /// The member that runs in this process, if there is one.
    local: Option<Arc<dyn LocalMember>>,
    deadline: Duration,
}

// Code that catches a panic can continue to use the client: a call that panics leaves nothing half changed, neither in
// the client nor in the member of this process. This is not left to the compiler, because the answer would depend on
// the features of tokio that the application chooses: with `parking_lot`, tokio's channels are not unwind safe.
impl UnwindSafe for Client {}
impl RefUnwindSafe for Client {}

/// Applications may rely on this.
const _: () = {
    const fn check<T: Send + Sync>() {}
    check::<Client>();
};

/// What [`Client::cluster_status`] has learned about one member.
#[derive(Debug)]
#[non_exhaustive]
pub struct MemberReport {
    /// The id of the member.
    pub id: MemberId,
    /// The address at which the client reaches the member.
    pub address: String,
    /// Whether the member stores data or is a witness, a member that stores no data. The role is configured. It does
    /// not depend on which member is the primary.
    pub role: Role,
    /// The status of the member, or the reason why the status is unknown.
    pub status: Result<MemberStatus, AdminError>,
}

/// The client was closed before the call began.
#[derive(Debug)]
pub(crate) struct Closed;

impl Client {
    /// Returns a builder that configures a client of the cluster with this name.
    pub fn builder(cluster: impl Into<String>) -> ClientBuilder {
        ClientBuilder::new(cluster.into())
    }

    /// Connects to the cluster through one of its members, with default settings.
    ///
    /// # Errors
    /// The errors of [`ClientBuilder::connect`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn connect(
        cluster: &str,
        address: &str,
        transport: impl Transport,
    ) -> Result<Self, ConnectError> {
        Self::builder(cluster).address(address).transport(transport).connect().await
    }

    pub(super) fn new(
        commands: mpsc::Sender<DriverCommand>,
        cancels: mpsc::UnboundedSender<CallId>,
        ended: watch::Receiver<()>,
        members: KnownMembers,
        limits: Limits,
        local: Option<Arc<dyn LocalMember>>,
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

    /// Sets a key when the returned builder is awaited.
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Put {
        Put::new(self.clone(), Bytes::copy_from_slice(key.as_ref()), value.into())
    }

    /// Removes a key when the returned builder is awaited.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Delete {
        Delete::new(self.clone(), Bytes::copy_from_slice(key.as_ref()))
    }

    /// Gives a key a new time to live when the returned builder is awaited. The new time to live begins now and
    /// replaces the former one, as with [`Put::ttl`]. The key keeps its value and its lease, and the value is not sent.
    ///
    /// This is a change of the key at a revision of its own: watches see a put with the same value and the new expiry,
    /// [`modified`](super::Record::modified) is the new revision, and [`version`](super::Record::version) grows by one.
    /// If the key does not exist, nothing is changed.
    ///
    /// # Limits
    /// `ttl` is rounded up to whole milliseconds, and may be 1 ms to a hundred years.
    ///
    /// # Errors
    /// A condition that does not hold is [`ConditionFailed`](crate::error::WriteError::ConditionFailed). If many large
    /// values are touched at the same time, the touch changes nothing and fails with
    /// [`StepFailure::Busy`](crate::error::StepFailure::Busy): try again.
    pub fn touch(&self, key: impl AsRef<[u8]>, ttl: Duration) -> Touch {
        Touch::new(self.clone(), Bytes::copy_from_slice(key.as_ref()), Some(millis(ttl)))
    }

    /// Removes the time to live of a key when the returned builder is awaited, so that the key does not expire. If the
    /// key belongs to a lease, it still ends with the lease. In all other respects, this is like
    /// [`touch`](Self::touch).
    pub fn persist(&self, key: impl AsRef<[u8]>) -> Touch {
        Touch::new(self.clone(), Bytes::copy_from_slice(key.as_ref()), None)
    }

    /// Adds to a counter when the returned builder is awaited. A counter is a key whose value is a whole number in
    /// decimal digits. An absent key counts as 0.
    pub fn add(&self, key: impl AsRef<[u8]>, by: i64) -> Add {
        Add::new(self.clone(), key.as_ref(), by)
    }

    /// Runs several steps (changes and reads) at one revision, or none of them. Add conditions and steps to the
    /// returned builder, then await the builder.
    pub fn transaction(&self) -> Transaction {
        Transaction::new(self.clone())
    }

    /// Sets and removes many keys at one revision. Add the puts and deletes to the returned builder, then await the
    /// builder.
    pub fn batch(&self) -> Batch {
        Batch::new(self.clone())
    }

    /// Requests a lease when the returned builder is awaited. The client renews the lease until the resulting
    /// [`Lease`](super::Lease) is dropped. Keys can belong to the lease, and are removed when the lease ends. The lease
    /// ends if it is not renewed for `ttl` (100 ms to 30 days).
    pub fn lease(&self, ttl: Duration) -> LeaseRequest {
        LeaseRequest::new(self.clone(), ttl)
    }

    /// Returns a handle for a lease that was granted before, perhaps to another client.
    #[must_use]
    pub fn lease_by_id(&self, id: LeaseId) -> LeaseHandle {
        LeaseHandle::new(self.clone(), id)
    }

    /// When the returned builder is awaited, it waits for the lock with this name and acquires the lock. See
    /// [`Lock`](super::Lock). The name must be at least 15 bytes shorter than the longest key that the cluster allows.
    ///
    /// ```no_run
    /// # async fn example(client: kv_core::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let lock = client.lock("locks/report").await?;
    /// // Writes nothing and fails with `WriteError::LockLost` if the lock is not held any more.
    /// lock.transaction().put("report", "for today").await?;
    /// lock.release().await?;
    /// # Ok(()) }
    /// ```
    pub fn lock(&self, name: impl AsRef<[u8]>) -> LockRequest {
        LockRequest::new(self.clone(), Bytes::copy_from_slice(name.as_ref()))
    }

    /// Returns a handle for the election with this name, in which clients choose one of themselves as the leader. See
    /// [`Election`].
    pub fn election(&self, name: impl AsRef<[u8]>) -> Election {
        Election::new(self.clone(), Bytes::copy_from_slice(name.as_ref()))
    }

    /// Reads a key when the returned builder is awaited. By default, the read is linearizable.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Get {
        Get::new(self.clone(), Bytes::copy_from_slice(key.as_ref()))
    }

    /// Reads several keys at one revision, when the returned builder is awaited.
    ///
    /// # Limits
    /// One call may read up to 1,000 keys. All keys together may have up to 2 x (`max_key_bytes` + `max_value_bytes`)
    /// bytes; these two are [options](crate::Options) of the cluster. All found records together may have up to about
    /// one megabyte.
    pub fn get_many<K: AsRef<[u8]>>(&self, keys: impl IntoIterator<Item = K>) -> GetMany {
        let keys = keys.into_iter().map(|key| Bytes::copy_from_slice(key.as_ref()));
        GetMany::new(self.clone(), keys.collect())
    }

    /// Removes the keys that begin with `prefix`, when the returned builder is awaited.
    pub fn delete_prefix(&self, prefix: impl AsRef<[u8]>) -> DeleteRange {
        DeleteRange::new(self.clone(), ends_of_prefix(prefix.as_ref()))
    }

    /// Removes the keys in a range, when the returned builder is awaited.
    pub fn delete_range<K: AsRef<[u8]>>(&self, range: impl RangeBounds<K>) -> DeleteRange {
        DeleteRange::new(self.clone(), ends_of(&range))
    }

    /// Returns a view of the keys that begin with `prefix`. In this view, values have the type `T`.
    pub fn typed<T: Serialize + DeserializeOwned + 'static>(&self, prefix: impl AsRef<[u8]>) -> Typed<T> {
        Typed::new(self.clone(), prefix.as_ref())
    }

    /// Reads the keys that begin with `prefix`, in order, when the returned builder is awaited.
    pub fn scan(&self, prefix: impl AsRef<[u8]>) -> Scan {
        Scan::new(self.clone(), ends_of_prefix(prefix.as_ref()))
    }

    /// Reads the keys in a range, in order, when the returned builder is awaited.
    pub fn scan_range<K: AsRef<[u8]>>(&self, range: impl RangeBounds<K>) -> Scan {
        Scan::new(self.clone(), ends_of(&range))
    }

    /// Counts the keys that begin with `prefix`, when the returned builder is awaited.
    pub fn count(&self, prefix: impl AsRef<[u8]>) -> Count {
        Count::new(self.clone(), ends_of_prefix(prefix.as_ref()))
    }

    /// Counts the keys in a range, when the returned builder is awaited.
    pub fn count_range<K: AsRef<[u8]>>(&self, range: impl RangeBounds<K>) -> Count {
        Count::new(self.clone(), ends_of(&range))
    }

    /// Watches the keys that begin with `prefix`. The watch returns each change once, in order.
    pub fn watch(&self, prefix: impl AsRef<[u8]>) -> Watch {
        Watch::new(self.clone(), ends_of_prefix(prefix.as_ref()))
    }

    /// Watches one key.
    pub fn watch_key(&self, key: impl AsRef<[u8]>) -> Watch {
        Watch::new(self.clone(), ends_of_key(key.as_ref()))
    }

    /// Watches the keys in a range.
    pub fn watch_range<K: AsRef<[u8]>>(&self, range: impl RangeBounds<K>) -> Watch {
        Watch::new(self.clone(), ends_of(&range))
    }

    /// Drops the history of past revisions, when the returned builder is awaited. A member refuses to read them as soon
    /// as it has applied this; a member that lags reads them a little longer. Some seconds later, each data member
    /// makes a checkpoint, which drops them from its state. Their bytes leave the disk when the member merges the files
    /// of its state: soon, if these files have more than about twice the bytes that are still needed, and otherwise in
    /// the course of later writes.
    pub fn compact(&self) -> Compact {
        Compact::new(self.clone())
    }

    /// Raises the revision of the cluster to at least `to`, without a change, when the returned builder is awaited.
    /// This drops the history that is more than [`history_revisions`](field@crate::Options::history_revisions)
    /// revisions older, and raises the ids of new sessions and leases by as much. Use it before data is restored into a
    /// new cluster. If `to` is far above every revision of the former cluster, then a watch that resumes from a
    /// revision of the former cluster is told that this revision is compacted, and a condition on such a revision never
    /// holds.
    pub fn raise_revision(&self, to: Revision) -> RaiseRevision {
        RaiseRevision::new(self.clone(), to)
    }

    /// Asks all members at the same time for their status. A member that does not answer within two seconds, or within
    /// the client's deadline if that is shorter, is reported with an error.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn cluster_status(&self) -> Vec<MemberReport> {
        join_all(self.shared.members.now().iter().map(|member| async {
            let MemberInfo { id, address, role } = member.clone();
            MemberReport { id, address, role, status: self.member_status(id).await }
        }))
        .await
    }

    /// Asks one member for its status.
    ///
    /// # Errors
    /// If the client is closed, if the cluster has no member with this id, or if the member refuses or does not answer
    /// within two seconds (or within the client's deadline, if that is shorter).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn member_status(&self, member: MemberId) -> Result<MemberStatus, AdminError> {
        if !self.shared.members.now().iter().any(|known| known.id == member) {
            return Err(AdminError::UnknownMember(member));
        }
        match self.call(Call::Status { member }, 0, self.status_deadline()).await? {
            Ok(Reply::Status(status)) => Ok(*status),
            Ok(other) => unreachable!("a status call was answered by {other:?}"),
            Err(error) => Err(AdminError::of(error)),
        }
    }

    /// Finds the primary (the member that orders all writes) and asks it to pass its role to another member. Returns
    /// when the primary has answered. The handover may still be in progress at that time.
    ///
    /// # Errors
    /// If no primary is found, if the primary does not answer, if the primary was asked for another handover a few
    /// seconds ago, or if the primary has heard from no other data member lately, or none has caught up with it. In the
    /// last three cases, the primary keeps its role.
    ///
    /// # Cancel safety
    /// If the future is dropped, the handover may still take place.
    pub async fn handover(&self) -> Result<(), AdminError> {
        self.hand_over(None).await
    }

    /// Like [`handover`](Self::handover), but asks the primary to pass its role to this member. If this member is the
    /// primary already, there is nothing to do. If it fails before it has taken over, another member takes over.
    ///
    /// # Errors
    /// Like [`handover`](Self::handover), but only this member counts. In addition, if the cluster has no such data
    /// member.
    ///
    /// # Cancel safety
    /// If the future is dropped, the handover may still take place.
    pub async fn handover_to(&self, successor: MemberId) -> Result<(), AdminError> {
        match self.shared.members.now().iter().find(|known| known.id == successor).map(|known| known.role) {
            None => Err(SuccessorRefusal::Unknown(successor).into()),
            Some(Role::Witness) => Err(SuccessorRefusal::Witness(successor).into()),
            Some(Role::Data) => self.hand_over(Some(successor)).await,
        }
    }

    async fn hand_over(&self, to: Option<MemberId>) -> Result<(), AdminError> {
        let member = self.primary().await.ok_or(AdminError::NoPrimary)?;
        let call = Call::Handover { member, to };
        match self.call(call, 0, self.shared.deadline).await?.map_err(AdminError::of)? {
            Reply::HandoverRefused(refusal) => Err(refusal.into()),
            _ => Ok(()),
        }
    }

    /// The member that says that it is the primary.
    pub(super) async fn primary(&self) -> Option<MemberId> {
        let members = self.known_members();
        let calls = members.iter().map(|member| self.member_status(member.id));
        let is_primary = |status: &MemberStatus| status.state == MemberState::Primary;
        let answers = first_and_soon(calls, |answer| answer.as_ref().is_ok_and(is_primary)).await;
        let primaries = answers.into_iter().filter_map(Result::ok).filter(is_primary);
        primaries.max_by_key(|status| status.view).map(|status| status.id)
    }

    /// Closes the client and all of its clones. The client refuses new operations. When the writes in flight have
    /// ended, it closes the session. When all operations have ended, it closes the connections. If the session is not
    /// closed within two seconds (or within the client's deadline, if that is shorter), the session expires later.
    ///
    /// # Cancel safety
    /// If the future is dropped, the closing continues.
    pub async fn close(&self) {
        let deadline = Instant::now() + CLOSE_TIMEOUT.min(self.shared.deadline);
        if !self.shared.closed.swap(true, Ordering::AcqRel) {
            let close = DriverCommand::Close(self.next_id(), deadline);
            if let Err(mpsc::error::TrySendError::Full(close)) = self.shared.commands.try_send(close) {
                // A separate task forwards the command, so that dropping this future does not stop the closing.
                let commands = self.shared.commands.clone();
                tokio::spawn(async move { commands.send(close).await });
            }
        }
        // The sender is dropped when the task has ended.
        while self.shared.ended.clone().changed().await.is_ok() {}
    }

    /// Returns approximately how many bytes of memory the unfinished calls of this client and its clones use. Without
    /// unfinished calls, this is 0. At 64 MiB, further calls wait.
    #[must_use]
    pub fn in_flight_bytes(&self) -> usize {
        (ROOM_KIB as usize).saturating_sub(self.shared.room.available_permits()) << 10
    }

    /// Returns how many bytes a key may have in this cluster
    /// ([`max_key_bytes`](field@crate::Options::max_key_bytes)). The cluster is not asked.
    #[must_use]
    pub fn max_key_bytes(&self) -> usize {
        self.limits().sizes().max_key_bytes
    }

    /// Returns how many bytes a value may have in this cluster
    /// ([`max_value_bytes`](field@crate::Options::max_value_bytes)). The cluster is not asked.
    #[must_use]
    pub fn max_value_bytes(&self) -> usize {
        self.limits().sizes().max_value_bytes
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    /// The id of the member that runs in this process.
    pub(super) fn local(&self) -> Option<MemberId> {
        self.shared.local.as_ref().map(|local| local.id())
    }

    /// Answers a read from the memory of the member that runs in this process. `None` if there is no such member, if
    /// the read asks for another member, if the client is closed or its task has ended, or if the member cannot answer
    /// at once.
    pub(super) fn read_in_process(
        &self,
        mode: ReadMode,
        only: Option<MemberId>,
        query: &Query,
    ) -> Option<Answer> {
        let local = self.shared.local.as_ref()?;
        // The task has ended if the client was closed or its runtime has shut down.
        let is_closed = self.shared.closed.load(Ordering::Acquire) || self.shared.commands.is_closed();
        let is_meant = only.is_none_or(|only| only == local.id());
        if is_meant && !is_closed { local.read(mode, query) } else { None }
    }

    pub(super) fn default_deadline(&self) -> Duration {
        self.shared.deadline
    }

    /// How long a call to one member may take that only asks.
    pub(super) fn status_deadline(&self) -> Duration {
        STATUS_TIMEOUT.min(self.shared.deadline)
    }

    pub(super) fn known_members(&self) -> Arc<[MemberInfo]> {
        self.shared.members.now()
    }

    /// Returns an error if `id` is not a data member.
    pub(super) fn check_data_member(&self, id: MemberId) -> Result<(), ReadError> {
        match self.shared.members.now().iter().find(|member| member.id == id) {
            Some(member) if member.holds_data() => Ok(()),
            Some(_) => Err(ReadError::Witness(id)),
            None => Err(ReadError::UnknownMember(id)),
        }
    }

    fn next_id(&self) -> CallId {
        CallId::new(self.shared.next_call.fetch_add(1, Ordering::Relaxed))
    }

    /// Makes a call whose contents have about `size` bytes, and waits until the call ends.
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
            return Ok(Err(CallError::NotApplied(Cause::Deadline(FailureReason::Waiting))));
        };
        let mut guard = CancelOnDrop { id: begun?, cancels: Some(&self.shared.cancels) };
        let result = answer.await;
        guard.cancels = None;
        // The task ended during the call, for example because the runtime shuts down. The outcome is unknown.
        let gone = |_| Err(CallError::OutcomeUnknown(Cause::Failed(FailureReason::ConnectionLost)));
        Ok(result.unwrap_or_else(gone))
    }

    /// Begins a call and does not wait for its end. The call is not begun if there is no room for it now, if the client
    /// is closed or its task has ended, or outside a tokio runtime. If the call is begun, a later
    /// [`close`](Self::close) waits for its end.
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
        let begin = NewCall { id: self.next_id(), call, deadline, reply, permit };
        if self.shared.commands.try_send(DriverCommand::Call(begin)).is_ok() {
            // The call continues as long as its answer is awaited.
            runtime.spawn(answer);
        }
    }

    /// Passes a call to the task as soon as there is room for it.
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
        slot.send(DriverCommand::Call(NewCall { id, call, deadline, reply, permit }));
        Ok(id)
    }
}

/// Cancels a call when its caller's future is dropped.
struct CancelOnDrop<'a> {
    id: CallId,
    cancels: Option<&'a mpsc::UnboundedSender<CallId>>,
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(cancels) = self.cancels {
            // If the task has ended, there is nothing to cancel.
            let _ = cancels.send(self.id);
        }
    }
}
