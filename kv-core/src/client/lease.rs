//! Leases: promises to show life, on which keys depend.

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

/// A lease is believed in for so many tenths of its time, counted from before it was asked for: this clock may go at nine tenths of the true rate, and
/// the cluster's at eleven.
const BELIEVED: u32 = 8;

/// For how long after it was asked for, or kept alive, a lease is believed in.
pub fn believed(ttl: Duration) -> Duration {
    ttl / 10 * BELIEVED
}

/// So many times within its time is a lease kept alive.
const BEATS: u32 = 3;

/// The longest pause before a sign of life that did not get through is repeated.
const RETRY: Duration = Duration::from_millis(200);

/// Asks for a lease: created by [`Client::lease`], run by awaiting it, or by [`detached`](Self::detached).
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

    /// How long it may take, retries included. Default: the client's.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// A lease that nothing keeps alive but calls of [`LeaseHandle::keep_alive`].
    ///
    /// # Errors
    /// As for the lease itself.
    ///
    /// # Cancel safety
    /// Dropping the future may leave a lease that nobody knows; it ends by itself.
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

    /// Asks for the lease, and keeps it alive from then on.
    ///
    /// # Cancel safety
    /// Dropping the future may leave a lease that nobody knows; it ends by itself.
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let (ttl, sent) = (self.ttl, Since::now());
            let it = self.detached().await?;
            let (state, known) = watch::channel(Known::Kept(sent));
            let task = tokio::spawn(keep_alive(it.clone(), ttl, state)).abort_handle();
            Ok(Lease { it, ttl, known, task: AbortOnDrop(task) })
        })
    }
}

/// A lease by its id, which nothing keeps alive but its own [`keep_alive`](Self::keep_alive).
#[derive(Clone, Debug)]
pub struct LeaseHandle {
    client: Client,
    id: LeaseId,
}

impl LeaseHandle {
    pub(super) fn new(client: Client, id: LeaseId) -> Self {
        Self { client, id }
    }

    /// Its id: unique in the cluster for ever. Leases granted later have greater ones.
    #[must_use]
    pub fn id(&self) -> LeaseId {
        self.id
    }

    async fn run(&self, command: LeaseCommand, deadline: Option<Duration>) -> Result<Effect, WriteError> {
        Ok(write(&self.client, Command::Lease(command), deadline).await?.effect)
    }

    /// Has its time begin anew.
    ///
    /// # Errors
    /// [`WriteError::is_lease_ended`] if it has ended; others as for a put.
    ///
    /// # Cancel safety
    /// Dropping the future stops the retries; it may have been done.
    pub async fn keep_alive(&self) -> Result<(), WriteError> {
        self.keep_alive_within(None).await
    }

    async fn keep_alive_within(&self, deadline: Option<Duration>) -> Result<(), WriteError> {
        match self.run(LeaseCommand::KeepAlive { lease: self.id }, deadline).await? {
            Effect::LeaseKept => Ok(()),
            effect => Err(other_effect(effect)),
        }
    }

    /// Revokes the lease now. Its keys are removed at one revision; returns their number.
    ///
    /// # Errors
    /// [`WriteError::is_lease_ended`] if it has ended already; others as for a put.
    ///
    /// # Cancel safety
    /// Dropping the future stops the retries; it may have been done, or may still be.
    pub async fn revoke(&self) -> Result<u64, WriteError> {
        match self.run(LeaseCommand::Revoke { lease: self.id }, None).await? {
            Effect::LeaseRevoked { keys } => Ok(keys.into()),
            effect => Err(other_effect(effect)),
        }
    }

    /// How it stands; `None` if it has ended. As new as a linearizable read, and ordered like a write.
    ///
    /// # Errors
    /// As for a put.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn look(&self) -> Result<Option<LeaseInfo>, WriteError> {
        match self.run(LeaseCommand::Look { lease: self.id }, None).await? {
            Effect::Lease(info) => Ok(Some(info)),
            Effect::LeaseFailed(LeaseFailure::Unknown) => Ok(None),
            effect => Err(other_effect(effect)),
        }
    }
}

/// What this process knows of its lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Known {
    /// It was kept alive by a request that was first sent then.
    Kept(Since),
    /// The cluster has reported that it ended.
    Ended,
}

/// A lease that is kept alive while this is held: created by [`Client::lease`].
///
/// Keys depend on it by [`Put::lease`](super::Put::lease) and [`Lifetime::lease`](crate::message::Lifetime::lease): up to 1,000, which
/// all go at the revision at which it ends. It ends when it is [revoked](Self::revoke), or when the cluster has not heard of it for its
/// time, by the cluster's clock; then never early, and a little late: the primary looks at every heartbeat, and a new primary gives
/// `failure_timeout_max` (2 s by default) for signs of life first.
///
/// Dropping it stops the signs of life: it ends when its time is over.
///
/// What this process knows is a matter of its own clock and of its last sign of life that got through. It may be frozen for a minute between
/// [`is_alive`](Self::is_alive) and the next line: what must not be done after the end has to be guarded where it is done, by a
/// [fencing token](super::FencingToken).
#[derive(Debug)]
pub struct Lease {
    it: LeaseHandle,
    ttl: Duration,
    known: watch::Receiver<Known>,
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
    /// Its id: the revision at which it was granted.
    #[must_use]
    pub fn id(&self) -> LeaseId {
        self.it.id
    }

    /// How long it lasts from one sign of life to the next.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Whether it surely has not ended: for eight tenths of its time, counted from when the last sign of life that got through was first sent. On Linux
    /// the time counts during which the machine was suspended.
    ///
    /// This rests on the clock of this process and that of the primary going at nine to eleven tenths of the true rate each, and on nothing else: a
    /// lease for which it is true was neither ended by the cluster nor given to another holder of a lock, unless it was revoked or the lock's key was removed.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        matches!(*self.known.borrow(), Known::Kept(since) if since.elapsed() < believed(self.ttl))
    }

    /// Returns when [`is_alive`](Self::is_alive) is not true any more, within a second of it after the machine was suspended. It may be true again
    /// later, if signs of life get through in time after all.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn at_risk(&self) {
        let mut known = self.known.clone();
        loop {
            let Known::Kept(since) = *known.borrow_and_update() else { return };
            tokio::select! {
                () = since.reaches(believed(self.ttl)) => return,
                Ok(()) = known.changed() => {}
            }
        }
    }

    /// Returns when the cluster has reported that it ended. Never once the client is closed, because nobody asks the cluster then: see
    /// [`at_risk`](Self::at_risk).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn ended(&self) {
        let mut known = self.known.clone();
        if known.wait_for(|known| *known == Known::Ended).await.is_err() {
            // Its task is gone with the client, and the cluster has reported nothing.
            std::future::pending::<()>().await;
        }
    }

    /// How it stands, as the cluster has it; `None` if it has ended.
    ///
    /// # Errors
    /// As for a put.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn look(&self) -> Result<Option<LeaseInfo>, WriteError> {
        self.it.look().await
    }

    /// Revokes the lease now. Its keys are removed at one revision; returns their number.
    ///
    /// # Errors
    /// [`WriteError::is_lease_ended`] if it has ended already; others as for a put. After an error it is not kept alive any more.
    ///
    /// # Cancel safety
    /// Dropping the future stops the signs of life: if it was not ended, it ends when its time is over.
    pub async fn revoke(self) -> Result<u64, WriteError> {
        self.task.0.abort();
        self.it.revoke().await
    }
}

impl Lease {
    /// Ends it, without waiting for that. Where it cannot be done, it ends when its time is over.
    pub(super) fn give_back(self) {
        let revoke = LeaseCommand::Revoke { lease: self.it.id };
        self.it.client.call_and_forget(Call::Write(Command::Lease(revoke)));
    }
}

/// Shows life until the lease has ended.
async fn keep_alive(lease: LeaseHandle, ttl: Duration, state: watch::Sender<Known>) {
    let beat = ttl / BEATS;
    let mut pause = beat;
    loop {
        Since::now().reaches(pause).await;
        let sent = Since::now();
        match lease.keep_alive_within(Some(beat)).await {
            Ok(()) => {
                state.send_replace(Known::Kept(sent));
                pause = beat;
            }
            Err(error) if error.is_lease_ended() => {
                state.send_replace(Known::Ended);
                return;
            }
            // The client has tried and waited; what is left of the time is for more of that.
            Err(WriteError::Closed) => return,
            Err(_) => pause = (beat / 4).min(RETRY),
        }
    }
}
