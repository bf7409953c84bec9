//! Leases: keys can belong to a lease, and are removed when its holder stops renewing it.

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

/// A lease counts as alive for this many tenths of its time to live, counted from before it was requested. The rest
/// covers clock errors: the clock of this process may run at nine tenths of the true rate, and the cluster's clock at
/// eleven tenths.
const BELIEVED: u32 = 8;

/// For how long a lease counts as alive after it was requested or renewed.
pub fn believed(ttl: Duration) -> Duration {
    ttl / 10 * BELIEVED
}

/// How many times a lease is renewed within its time to live.
const BEATS: u32 = 3;

/// The longest pause before a failed renewal is repeated.
const RETRY: Duration = Duration::from_millis(200);

/// Requests a lease: created by [`Client::lease`], run by awaiting it, or by [`detached`](Self::detached).
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

    /// Requests a lease that is renewed only by calls of [`LeaseHandle::keep_alive`].
    ///
    /// # Errors
    /// As for awaiting the request.
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

    /// Requests the lease, and renews it from then on.
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

/// A lease with a known id. It is renewed only by [`keep_alive`](Self::keep_alive).
#[derive(Clone, Debug)]
pub struct LeaseHandle {
    client: Client,
    id: LeaseId,
}

impl LeaseHandle {
    pub(super) fn new(client: Client, id: LeaseId) -> Self {
        Self { client, id: id.sendable() }
    }

    /// The id of the lease. It is unique in the cluster and never used again. Leases that are granted later have
    /// greater ids.
    #[must_use]
    pub fn id(&self) -> LeaseId {
        self.id
    }

    async fn run(&self, command: LeaseCommand, deadline: Option<Duration>) -> Result<Effect, WriteError> {
        Ok(write(&self.client, Command::Lease(command), deadline).await?.effect)
    }

    /// Renews the lease: its time to live starts again.
    ///
    /// # Errors
    /// [`WriteError::is_lease_ended`] if it has ended; others as for a put.
    ///
    /// # Cancel safety
    /// Dropping the future stops the retries. The lease may have been renewed.
    pub async fn keep_alive(&self) -> Result<(), WriteError> {
        self.keep_alive_within(None).await
    }

    async fn keep_alive_within(&self, deadline: Option<Duration>) -> Result<(), WriteError> {
        match self.run(LeaseCommand::KeepAlive { lease: self.id }, deadline).await? {
            Effect::LeaseKept => Ok(()),
            effect => Err(other_effect(effect)),
        }
    }

    /// Revokes the lease, and returns the number of its keys. All of them are removed at one revision.
    ///
    /// # Errors
    /// [`WriteError::is_lease_ended`] if it has ended already; others as for a put.
    ///
    /// # Cancel safety
    /// Dropping the future stops the retries. The lease may have been revoked, or may still be revoked.
    pub async fn revoke(&self) -> Result<u64, WriteError> {
        match self.run(LeaseCommand::Revoke { lease: self.id }, None).await? {
            Effect::LeaseRevoked { keys } => Ok(keys.into()),
            effect => Err(other_effect(effect)),
        }
    }

    /// Returns the lease's time to live, its deadline and the number of its keys; `None` if it has ended. The answer is
    /// as fresh as a linearizable read, and is ordered like a write.
    ///
    /// # Errors
    /// As for a put.
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

/// What this process knows of its lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum LeaseState {
    /// It was last renewed by a request that was first sent at this time.
    Kept(Since),
    /// The cluster has reported that it ended.
    Ended,
}

/// A lease that the client renews as long as this value exists: created by [`Client::lease`].
///
/// [`Put::lease`](super::Put::lease) and [`Lifetime::lease`](crate::message::Lifetime::lease) make a key belong to the
/// lease. Up to 1,000 keys can belong to it. All of them are removed at the revision at which the lease ends. The lease
/// ends when it is [revoked](Self::revoke), or when its time to live passes on the cluster's clock without a renewal.
/// It never ends early, but it may end a little late, because the primary checks leases only at its heartbeats. A new
/// primary first gives every holder `failure_timeout_max` (2 s by default) to renew.
///
/// If this value is dropped, the client stops renewing the lease, and the lease ends when its time to live is over.
///
/// What this process knows depends on its own clock and on the last successful renewal. The process may be paused for a
/// minute between [`is_alive`](Self::is_alive) and the next line. So an action that must not happen after the end of
/// the lease has to be protected where it takes effect, by a [fencing token](super::FencingToken).
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

    /// Returns whether the lease has certainly not ended. This returns true for eight tenths of the time to live,
    /// counted from when the last successful renewal was first sent. On Linux, the time during which the machine was
    /// suspended counts too.
    ///
    /// This assumes only that the clock of this process and the clock of the primary each run within 10 % of the true
    /// rate. While this returns true, the cluster has neither ended the lease nor given a lock on it to another holder,
    /// unless the lease was revoked or the key of the lock was removed.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        matches!(*self.known.borrow(), LeaseState::Kept(since) if since.elapsed() < believed(self.ttl))
    }

    /// Returns when [`is_alive`](Self::is_alive) is no longer true. If the machine was suspended, this may return up to
    /// a second late. `is_alive` may become true again later, if a renewal still succeeds in time.
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

    /// Returns when the cluster has reported that the lease ended. Never returns after the client was closed, because a
    /// closed client does not ask the cluster: see [`at_risk`](Self::at_risk).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn ended(&self) {
        let mut known = self.known.clone();
        if known.wait_for(|known| *known == LeaseState::Ended).await.is_err() {
            // The task has ended with the client, and the cluster has reported nothing.
            std::future::pending::<()>().await;
        }
    }

    /// Returns the lease's time to live, its deadline and the number of its keys, as the cluster knows them; `None` if
    /// it has ended.
    ///
    /// # Errors
    /// As for a put.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn info(&self) -> Result<Option<LeaseInfo>, WriteError> {
        self.it.info().await
    }

    /// Revokes the lease, and returns the number of its keys. All of them are removed at one revision.
    ///
    /// # Errors
    /// [`WriteError::is_lease_ended`] if it has ended already; others as for a put. After an error, the client does not
    /// renew the lease any more.
    ///
    /// # Cancel safety
    /// Dropping the future stops the renewals. If the lease was not revoked, it ends when its time to live is over.
    pub async fn revoke(self) -> Result<u64, WriteError> {
        self.task.0.abort();
        self.it.revoke().await
    }
}

impl Lease {
    /// Revokes the lease without waiting. If that fails, the lease ends when its time to live is over.
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
            // The client has retried until its deadline. The remaining time of the lease is for further attempts.
            Err(WriteError::Closed) => return,
            Err(_) => pause = (beat / 4).min(RETRY),
        }
    }
}
