//! Leases. A key can belong to a lease. If the holder stops renewing the lease, the lease ends and its keys are
//! removed.

use super::Client;
use super::call::Call;
use super::elapsed::Since;
use super::ops::{OpFuture, other_effect, write};
use crate::error::WriteError;
use crate::ids::LeaseId;
use crate::message::{Command, Effect, LeaseCommand, LeaseFailure, LeaseInfo, millis};
use std::future::IntoFuture;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// A lease counts as alive for this many tenths of its time to live. This time begins just before the client sends the
/// request for the lease or for a renewal. The remaining tenths cover clock errors: the clock of this process may run
/// at nine tenths of the true rate, and the cluster's clock at eleven tenths.
const BELIEVED: u32 = 8;

/// Returns how long a lease counts as alive after it was requested or renewed.
pub fn believed(ttl: Duration) -> Duration {
    ttl / 10 * BELIEVED
}

/// How many times a lease is renewed within its time to live.
const BEATS: u32 = 3;

/// The longest pause before a failed renewal is repeated.
const RETRY: Duration = Duration::from_millis(200);

/// A builder that requests a lease: returned by [`Client::lease`]. Await it to get a lease that the
/// client renews. To get a lease that you renew yourself, call [`detached`](Self::detached), and await that.
#[derive(Clone, Debug)]
#[must_use = "nothing is done before this is awaited"]
pub struct LeaseRequest {
    client: Client,
    ttl: Duration,
    deadline: Option<Duration>,
}

impl LeaseRequest {
    pub(super) fn new(client: Client, ttl: Duration) -> Self {
        Self { client, ttl, deadline: None }
    }

    /// Sets how long the request may take, retries included. Default: the client's deadline.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Requests a lease that the client does not renew by itself. Renew it with [`LeaseHandle::keep_alive`].
    ///
    /// # Errors
    /// The errors of a put. The error is [`WriteError::Malformed`] if the time to live is not in the range from 100 ms
    /// to 30 days, and [`WriteError::Lease`] if the cluster allows no further lease.
    ///
    /// # Cancel safety
    /// Dropping the future may leave a lease whose id nobody knows. Such a lease ends when its time to live is over.
    pub async fn detached(self) -> Result<LeaseHandle, WriteError> {
        let Self { client, ttl, deadline } = self;
        let grant = Command::Lease(LeaseCommand::Grant { ttl_ms: millis(ttl) });
        let outcome = write(&client, grant, deadline).await?;
        match outcome.effect {
            Effect::LeaseGranted(id) => Ok(LeaseHandle { client, id }),
            effect => Err(other_effect(effect)),
        }
    }
}

impl IntoFuture for LeaseRequest {
    type Output = Result<Lease, WriteError>;
    type IntoFuture = OpFuture<Self::Output>;

    /// Requests the lease. Afterwards, the client renews the lease until the returned [`Lease`] is dropped.
    ///
    /// # Errors
    /// The errors of [`detached`](Self::detached).
    ///
    /// # Cancel safety
    /// Dropping the future may leave a lease whose id nobody knows. Such a lease ends when its time to live is over.
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let (ttl, sent) = (self.ttl, Since::now());
            let it = self.detached().await?;
            let (state, known) = watch::channel(LeaseState::Kept(sent));
            let task = tokio::spawn(keep_alive(it.clone(), ttl, state)).abort_handle();
            Ok(Lease { it, ttl, known, task: AbortOnDrop(task) })
        })
    }
}

/// Renews, revokes or inspects a lease, given only the id of the lease. Unlike [`Lease`], a handle renews the lease
/// only when [`keep_alive`](Self::keep_alive) is called.
#[derive(Clone, Debug)]
pub struct LeaseHandle {
    client: Client,
    id: LeaseId,
}

impl LeaseHandle {
    pub(super) fn new(client: Client, id: LeaseId) -> Self {
        Self { client, id: id.sendable() }
    }

    /// The id of the lease. The id is unique in the cluster and never used again. Leases that are granted later have
    /// greater ids.
    #[must_use]
    pub fn id(&self) -> LeaseId {
        self.id
    }

    async fn run(&self, command: LeaseCommand, deadline: Option<Duration>) -> Result<Effect, WriteError> {
        Ok(write(&self.client, Command::Lease(command), deadline).await?.effect)
    }

    /// Renews the lease, so that its time to live starts again.
    ///
    /// # Errors
    /// If the lease has ended, returns an error for which [`WriteError::is_lease_ended`] is true. The other errors are
    /// the errors of a put.
    ///
    /// # Cancel safety
    /// Dropping the future stops the retries. The lease may have been renewed, or may still be renewed.
    pub async fn keep_alive(&self) -> Result<(), WriteError> {
        self.keep_alive_within(None).await
    }

    async fn keep_alive_within(&self, deadline: Option<Duration>) -> Result<(), WriteError> {
        match self.run(LeaseCommand::KeepAlive { lease: self.id }, deadline).await? {
            Effect::LeaseKept => Ok(()),
            effect => Err(other_effect(effect)),
        }
    }

    /// Revokes the lease, so that it ends now. Returns the number of its keys, all of which are removed at one
    /// revision.
    ///
    /// # Errors
    /// If the lease has ended already, returns an error for which [`WriteError::is_lease_ended`] is true. The other
    /// errors are the errors of a put.
    ///
    /// # Cancel safety
    /// Dropping the future stops the retries. The lease may have been revoked, or may still be revoked.
    pub async fn revoke(&self) -> Result<u64, WriteError> {
        match self.run(LeaseCommand::Revoke { lease: self.id }, None).await? {
            Effect::LeaseRevoked { keys } => Ok(keys.into()),
            effect => Err(other_effect(effect)),
        }
    }

    /// Returns the lease's time to live, the time at which it ends unless it is renewed, and the number of its keys.
    /// Returns `None` if the lease has ended. The request is ordered like a write, so the answer is as fresh as the
    /// answer to a linearizable read.
    ///
    /// # Errors
    /// The errors of a put.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn info(&self) -> Result<Option<LeaseInfo>, WriteError> {
        match self.run(LeaseCommand::Info { lease: self.id }, None).await? {
            Effect::Lease(info) => Ok(Some(info)),
            Effect::LeaseFailed(LeaseFailure::Unknown) => Ok(None),
            effect => Err(other_effect(effect)),
        }
    }
}

/// What this process knows about a lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum LeaseState {
    /// The last request that granted or renewed the lease was first sent at this time.
    Kept(Since),
    /// The cluster has reported that the lease ended.
    Ended,
}

/// A lease that the client renews as long as this value exists. Awaiting [`Client::lease`] returns it.
///
/// [`Put::lease`](super::Put::lease) and [`Lifetime::lease`](crate::message::Lifetime::lease) make a key belong to the
/// lease. Up to 1,000 keys can belong to a lease. When the lease ends, all of them are removed at one revision. A lease
/// ends when it is [revoked](Self::revoke), or when its time to live passes on the [cluster's
/// clock](crate::guide::guarantees#expiry-of-keys-and-leases) without a renewal. Without a revocation, a lease never
/// ends early. It may end a little late, because the primary checks leases only at its heartbeats. A new primary first
/// gives every holder `failure_timeout_max` (2 s by default) to renew.
///
/// If this value is dropped, the client stops renewing the lease, and the lease ends when its time to live is over.
///
/// [`is_alive`](Self::is_alive) does not ask the cluster. It uses only what this process already knows: its own clock,
/// the time of the last successful renewal, and whether the cluster has reported that the lease ended. But the process
/// may be paused for a minute between a call of `is_alive` and the action that depends on it. So if an action must not
/// happen after the end of the lease, protect the action where it takes effect, with a [fencing
/// token](super::FencingToken).
#[derive(Debug)]
pub struct Lease {
    it: LeaseHandle,
    ttl: Duration,
    known: watch::Receiver<LeaseState>,
    task: AbortOnDrop,
}

#[derive(Debug)]
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Lease {
    /// The id of the lease.
    #[must_use]
    pub fn id(&self) -> LeaseId {
        self.it.id
    }

    /// How long the lease lasts after each renewal.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Returns true until eight tenths of the time to live have passed since the client sent the latest successful
    /// renewal. If the client had to send that renewal several times, the first attempt counts. Before the first
    /// successful renewal, the time starts when the client sent the request for the lease. On Linux, the time during
    /// which the machine was suspended counts too. Returns false earlier if the cluster has reported that the lease
    /// ended.
    ///
    /// While this method returns true, the lease has not ended, and a lock that belongs to the lease has no other
    /// holder. There are two exceptions: the lease was revoked, or the key of the lock was removed. The guarantee
    /// assumes only that the clock of this process and the clock of the primary each run within 10 % of the true rate.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        matches!(*self.known.borrow(), LeaseState::Kept(since) if since.elapsed() < believed(self.ttl))
    }

    /// Waits until [`is_alive`](Self::is_alive) is no longer true. If the machine was suspended, this may return up to
    /// a second late. If a renewal succeeds later, before the lease has ended, `is_alive` may become true again.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn at_risk(&self) {
        let mut known = self.known.clone();
        loop {
            let LeaseState::Kept(since) = *known.borrow_and_update() else { return };
            tokio::select! {
                () = since.reaches(believed(self.ttl)) => return,
                Ok(()) = known.changed() => {}
            }
        }
    }

    /// Waits until the cluster has reported that the lease ended. If the client is closed before such a report, this
    /// never returns, because a closed client does not ask the cluster. In that case, use [`at_risk`](Self::at_risk).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn ended(&self) {
        let mut known = self.known.clone();
        if known.wait_for(|known| *known == LeaseState::Ended).await.is_err() {
            // The client was closed, so the task that renews the lease has ended. The cluster has reported nothing.
            std::future::pending::<()>().await;
        }
    }

    /// Returns the lease's time to live, the time at which it ends unless it is renewed, and the number of its keys.
    /// Returns `None` if the lease has ended. The request is ordered like a write, so the answer is as fresh as the
    /// answer to a linearizable read.
    ///
    /// # Errors
    /// The errors of a put.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn info(&self) -> Result<Option<LeaseInfo>, WriteError> {
        self.it.info().await
    }

    /// Revokes the lease, so that it ends now. Returns the number of its keys, all of which are removed at one
    /// revision.
    ///
    /// # Errors
    /// If the lease has ended already, returns an error for which [`WriteError::is_lease_ended`] is true. The other
    /// errors are the errors of a put. After any error, the client does not renew the lease any more.
    ///
    /// # Cancel safety
    /// If you drop the future, the lease may or may not be revoked. The client does not renew it any more, so if it is
    /// not revoked, it ends when its time to live is over.
    pub async fn revoke(self) -> Result<u64, WriteError> {
        self.task.0.abort();
        self.it.revoke().await
    }

    /// Revokes the lease, and does not wait for the answer. If the call fails, the lease ends when its time to live is
    /// over.
    pub(super) fn give_back(self) {
        let revoke = LeaseCommand::Revoke { lease: self.it.id };
        self.it.client.call_and_forget(Call::Write(Command::Lease(revoke)));
    }
}

/// Renews the lease until it has ended.
async fn keep_alive(lease: LeaseHandle, ttl: Duration, state: watch::Sender<LeaseState>) {
    let beat = ttl / BEATS;
    let mut pause = beat;
    loop {
        Since::now().reaches(pause).await;
        let sent = Since::now();
        match lease.keep_alive_within(Some(beat)).await {
            Ok(()) => {
                state.send_replace(LeaseState::Kept(sent));
                pause = beat;
            }
            Err(error) if error.is_lease_ended() => {
                state.send_replace(LeaseState::Ended);
                return;
            }
            Err(WriteError::Closed) => return,
            // The client has retried until the deadline of the call. Try again: the lease may not have ended yet.
            Err(_) => pause = (beat / 4).min(RETRY),
        }
    }
}
