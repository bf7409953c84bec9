//! Locks and elections: keys that depend on a lease, and tokens that fence off whoever held them before.

use super::ops::OpFuture;
use super::{Client, Lease, Transact};
use crate::error::{LockError, ReadError, WriteError};
use crate::ids::Revision;
use bytes::Bytes;
use std::fmt;
use std::future::IntoFuture;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// The lease of a lock, unless said otherwise.
const TTL: Duration = Duration::from_secs(10);

/// How often one that waits for a lock looks whether it is free.
const LOOK_MIN: Duration = Duration::from_millis(10);
const LOOK_MAX: Duration = Duration::from_millis(500);

/// Tells one tenure of a lock from all others: the revision at which it began. Tokens of one lock grow, so whoever keeps the greatest token
/// that it has seen, and refuses smaller ones, is never written to by a former holder. The cluster itself does so for writes with
/// [`Transact::fenced`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FencingToken(Revision);

impl FencingToken {
    /// The token that was written down as this revision.
    #[must_use]
    pub const fn new(revision: Revision) -> Self {
        Self(revision)
    }

    /// The revision at which the tenure began.
    #[must_use]
    pub const fn revision(self) -> Revision {
        self.0
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Transact {
    /// Condition: the tenure of the lock `name` that has this token has not ended. However late the transaction arrives, nothing of it
    /// is done after the lock was let go, or lost.
    pub fn fenced(self, name: impl AsRef<[u8]>, token: FencingToken) -> Self {
        self.if_created(name, token.revision())
    }
}

/// Waits for a lock: created by [`Client::lock`] and [`Election::campaign`], run by awaiting it.
#[derive(Debug)]
#[must_use = "nothing is done before this is awaited"]
pub struct Acquire {
    client: Client,
    name: Bytes,
    value: Bytes,
    ttl: Duration,
    wait: Option<Duration>,
}

/// A lock that is held: got from [`Client::lock`] or [`Election::campaign`].
///
/// It is a key that exists while it is held, by its name, and depends on a lease that is kept alive. It is lost when the lease ends, or when
/// somebody removes the key. A holder that was frozen meanwhile does not know: what only a holder may do has to be fenced, by
/// [`transaction`](Self::transaction) in this store and by the [token](Self::token) elsewhere.
///
/// Dropping it lets it go when its lease has run out; [`release`](Self::release) does so at once.
#[derive(Debug)]
pub struct Lock {
    client: Client,
    name: Bytes,
    token: FencingToken,
    lease: Lease,
}

impl Acquire {
    pub(super) fn new(client: Client, name: Bytes) -> Self {
        Self { client, name, value: Bytes::new(), ttl: TTL, wait: None }
    }

    /// What the lock's key holds meanwhile, for others to see. Default: nothing.
    pub fn value(mut self, value: impl Into<Bytes>) -> Self {
        self.value = value.into();
        self
    }

    /// How long it stays with a holder that shows no life. Default 10 s; 100 ms to 30 days.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// How long to wait while somebody else holds it; zero for not at all. Default: for ever.
    pub fn wait(mut self, at_most: Duration) -> Self {
        self.wait = Some(at_most);
        self
    }

    /// One try. `None`: somebody else holds it.
    async fn attempt(&self, lease: &Lease) -> Result<Option<Revision>, LockError> {
        let put = self.client.put(&self.name, self.value.clone()).if_absent().lease(lease.id());
        let error = match put.await {
            Ok(written) => return Ok(Some(written.revision)),
            Err(error) => error,
        };
        if !(error.is_guard_failed() || error.outcome_unknown()) {
            return Err(error.into());
        }
        // It may be a former try's, whose outcome never came.
        let found = self.client.get(&self.name).await?;
        let own = found.filter(|record| record.lease == Some(lease.id())).map(|record| record.created);
        if own.is_none() && error.outcome_unknown() { Err(error.into()) } else { Ok(own) }
    }
}

impl IntoFuture for Acquire {
    type Output = Result<Lock, LockError>;
    type IntoFuture = OpFuture<Self::Output>;

    /// Waits until the lock is free and takes it. Those who wait look again and again, at growing intervals of up to half a second;
    /// who comes next is a matter of luck.
    ///
    /// # Cancel safety
    /// Dropping the future lets the lock go when its lease has run out, if it was got at that moment. Nothing else is affected.
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let begun = Instant::now();
            let mut lease = self.client.lease(self.ttl).await?;
            let mut pause = LOOK_MIN;
            loop {
                match self.attempt(&lease).await {
                    Ok(Some(created)) => {
                        let Self { client, name, .. } = self;
                        return Ok(Lock { client, name, token: FencingToken(created), lease });
                    }
                    Ok(None) => {}
                    // This process was frozen, or cut off, while it waited.
                    Err(error) if error.is_lease_ended() => {
                        lease = self.client.lease(self.ttl).await?;
                        continue;
                    }
                    Err(error) => return Err(error),
                }
                let left = self.wait.map(|wait| wait.saturating_sub(begun.elapsed()));
                if left.is_some_and(|left| left.is_zero()) {
                    // Not needed any more; if this fails it ends by itself.
                    let _ = lease.revoke().await;
                    return Err(LockError::Held);
                }
                let jitter = 0.5 + fastrand::f64() / 2.0;
                sleep(pause.mul_f64(jitter).min(left.unwrap_or(pause))).await;
                pause = (pause * 2).min(LOOK_MAX);
            }
        })
    }
}

impl Lock {
    /// Tells this tenure from all others.
    #[must_use]
    pub fn token(&self) -> FencingToken {
        self.token
    }

    /// The lock's name, which is its key.
    #[must_use]
    pub fn name(&self) -> &Bytes {
        &self.name
    }

    /// The lease on which it depends: other keys of the holder may depend on it too.
    #[must_use]
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// A transaction that is done only if this lock is still held then.
    pub fn transaction(&self) -> Transact {
        self.client.transaction().fenced(&self.name, self.token)
    }

    /// Whether it surely is held still, asked of the cluster.
    ///
    /// # Errors
    /// As for a read.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn is_held(&self) -> Result<bool, ReadError> {
        let found = self.client.get(&self.name).await?;
        Ok(found.is_some_and(|record| record.created == self.token.revision()))
    }

    /// Lets it go now, with everything else that depends on its lease.
    ///
    /// # Errors
    /// [`WriteError::is_lease_ended`] if it was lost already; others as for a put: then it is let go when its lease has run out.
    ///
    /// # Cancel safety
    /// Dropping the future lets it go when its lease has run out, or before.
    pub async fn release(self) -> Result<(), WriteError> {
        self.lease.revoke().await.map(drop)
    }
}

/// An election among those who campaign under one name: created by [`Client::election`]. The leader is who holds the lock of that name; the
/// lock's value is what the leader has to say of itself.
#[derive(Clone, Debug)]
pub struct Election {
    client: Client,
    name: Bytes,
}

/// Who leads.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Leader {
    /// What it says of itself.
    pub value: Bytes,
    /// Its tenure.
    pub token: FencingToken,
}

impl Election {
    pub(super) fn new(client: Client, name: Bytes) -> Self {
        Self { client, name }
    }

    /// Waits to be the leader. `value` is what others see then.
    pub fn campaign(&self, value: impl Into<Bytes>) -> Acquire {
        Acquire::new(self.client.clone(), self.name.clone()).value(value)
    }

    /// Who leads now, if anybody does.
    ///
    /// # Errors
    /// As for a read.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn leader(&self) -> Result<Option<Leader>, ReadError> {
        let found = self.client.get(&self.name).await?;
        Ok(found.map(|record| Leader { value: record.value, token: FencingToken(record.created) }))
    }
}
