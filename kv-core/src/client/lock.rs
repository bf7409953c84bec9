//! Locks and elections. A lock is a key that belongs to a lease. Fencing tokens keep out former holders.

use super::handle::MAX_DEADLINE;
use super::ops::OpFuture;
use super::{Client, Lease, Transacted, Transaction};
use crate::error::{LockError, ReadError, WatchError, WriteError};
use crate::ids::{LeaseId, Revision};
use crate::message::{Condition, LeaseFailure, Lifetime, StepResult};
use bytes::Bytes;
use std::fmt;
use std::future::{IntoFuture, pending};
use std::ops::Deref;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

/// The key of a waiting client consists of the name of the lock, this text, and the id of the client's lease.
const QUEUE: &[u8] = b"\0waits/";

/// If a lock's key cannot be watched, the key is read again after this time.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The default time to live of a lock's lease.
const TTL: Duration = Duration::from_secs(10);

/// Identifies one tenure of a lock by the revision at which the tenure began. A tenure is the time during which one
/// holder has the lock. Each new holder of a lock gets a greater token. To reject writes of former holders, a resource
/// outside the cluster remembers the greatest token that it has seen, and rejects writes with smaller tokens. If a
/// transaction uses [`Transaction::fenced`], the cluster itself checks the token.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FencingToken(Revision);

impl FencingToken {
    /// Returns the token of the tenure that began at this revision.
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

impl Transaction {
    /// Requires that the lock `name` is still held in the tenure that `token` identifies. If the lock is released or
    /// lost before the transaction is applied, the transaction changes nothing and fails with [`WriteError::LockLost`].
    /// The steps after [`otherwise`](Self::otherwise) are not run either.
    pub fn fenced(self, name: impl AsRef<[u8]>, token: FencingToken) -> Self {
        self.condition(name, Condition::Held(token.revision().sendable()))
    }
}

/// A builder that waits for a lock, and acquires it, when the builder is awaited: returned by [`Client::lock`] and
/// [`Election::campaign`].
#[derive(Clone, Debug)]
#[must_use = "nothing is done before this is awaited"]
pub struct LockRequest {
    client: Client,
    name: Bytes,
    value: Bytes,
    ttl: Duration,
    wait: Option<Duration>,
}

/// Why a client can no longer be sure that it holds a lock: returned by [`Lock::lost`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockLoss {
    /// The cluster reports that the lock's lease has ended.
    #[error("the lock's lease has ended")]
    LeaseEnded,
    /// The lock's key was removed, for example by a client. The key may have been created again after the removal.
    #[error("the lock's key was removed")]
    KeyRemoved,
    /// The lease could not be renewed in time, so another client may hold the lock.
    #[error("the lock's lease could not be renewed in time: another client may hold the lock")]
    AtRisk,
}

/// A lock that this client has acquired, by awaiting [`Client::lock`] or [`Election::campaign`].
///
/// While the lock is held, the lock's name exists as a key. This key belongs to a lease that the client renews. The
/// lock is lost when the lease ends, or when a client removes the key. A holder that was paused may not know that it
/// has lost the lock. So protect every action that only the holder may perform. To change keys in this cluster, use
/// [`transaction`](Self::transaction). For other resources, use the [token](Self::token).
///
/// If this value is dropped, the client no longer renews the lease, so the lock is released when the lease's time to
/// live is over. [`release`](Self::release) releases the lock at once.
#[derive(Debug)]
pub struct Lock {
    client: Client,
    name: Bytes,
    token: FencingToken,
    lease: Lease,
}

impl LockRequest {
    pub(super) fn new(client: Client, name: Bytes) -> Self {
        Self { client, name, value: Bytes::new(), ttl: TTL, wait: None }
    }

    /// Sets the value of the lock's key, which other clients can read. Default: empty.
    pub fn value(mut self, value: impl Into<Bytes>) -> Self {
        self.value = value.into();
        self
    }

    /// Sets the time to live of the lock's lease. If the client cannot renew the lease for this long, the lock is
    /// released. Default 10 s; 100 ms to 30 days.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets how long to wait for the lock, at most a year. The time starts when the builder is awaited. Zero means to
    /// try once, without waiting. Default: wait forever.
    ///
    /// Awaiting the builder may take longer than this time, because requests that grant or revoke the lock's lease are
    /// not cut short when the time is over. If `at_most` is zero, requests that read or write the lock's key are not
    /// cut short either. The client's deadline limits each of these requests.
    pub fn wait(mut self, at_most: Duration) -> Self {
        self.wait = Some(at_most);
        self
    }

    /// Acquires the lock if it is free. Does not join the queue.
    async fn attempt(&self, lease: LeaseId) -> Result<Option<FencingToken>, LockError> {
        let put = self.client.put(&self.name, self.value.clone()).if_absent().lease(lease);
        let error = match put.await {
            Ok(written) => return Ok(Some(FencingToken(written.revision))),
            Err(error) => error,
        };
        if !(error.is_condition_failed() || error.outcome_unknown()) {
            return Err(error.into());
        }
        // An earlier attempt with an unknown outcome may have succeeded.
        let found = self.client.get(&self.name).await?;
        let own =
            found.filter(|record| record.lease == Some(lease)).map(|record| FencingToken(record.created));
        if own.is_none() && error.outcome_unknown() { Err(error.into()) } else { Ok(own) }
    }

    /// Acquires the lock with this lease. Gives up at the time `until`.
    async fn get_with(&self, lease: &Lease, until: Option<Instant>) -> Result<FencingToken, LockError> {
        if self.wait.is_some_and(|wait| wait.is_zero()) {
            return self.attempt(lease.id()).await?.ok_or(LockError::Held);
        }
        tokio::select! {
            biased;
            token = self.wait_with(lease.id()) => token,
            () = lease.ended() => Err(WriteError::Lease(LeaseFailure::Unknown).into()),
            () = at(until) => Err(LockError::Held),
        }
    }

    /// Waits in the queue until the lock is acquired with this lease.
    async fn wait_with(&self, lease: LeaseId) -> Result<FencingToken, LockError> {
        let queue = Queue::new(self, lease);
        loop {
            let place = match queue.try_acquire().await {
                // The attempt can be repeated safely.
                Err(LockError::Write(error)) if error.outcome_unknown() => queue.try_acquire().await?,
                place => place?,
            };
            match place {
                QueuePosition::Holder(token) => return Ok(token),
                QueuePosition::Behind { front, at } => queue.until_gone(&front, at).await?,
            }
        }
    }
}

/// The queue of a lock. Each waiting client has a key in the queue. The key belongs to the client's lease and contains
/// the id of the lease, so the keys have the order in which the leases were granted. Each client watches only the key
/// ahead of its own key.
struct Queue<'a> {
    lock: &'a LockRequest,
    lease: LeaseId,
    /// The prefix of all keys of the queue.
    keys: Bytes,
    own: Bytes,
}

/// The position of a client in the queue.
enum QueuePosition {
    Holder(FencingToken),
    /// The client waits for the removal of the key `front`: the key ahead of its own key or, at the head of the queue,
    /// the lock's key. `front` existed at the revision `at`.
    Behind {
        front: Bytes,
        at: Revision,
    },
}

impl<'a> Queue<'a> {
    fn new(lock: &'a LockRequest, lease: LeaseId) -> Self {
        let keys = [&lock.name, QUEUE].concat();
        let own = [&keys[..], &lease.get().to_be_bytes()].concat().into();
        Self { lock, lease, keys: keys.into(), own }
    }

    /// Acquires the lock if it is free. Otherwise joins the queue, or stays in it.
    async fn try_acquire(&self) -> Result<QueuePosition, LockError> {
        let LockRequest { client, name, value, .. } = self.lock;
        let life = Lifetime::lease(self.lease);
        let take = client.transaction().if_absent(name).put_for(name, value.clone(), life).delete(&self.own);
        let Transacted { succeeded, results, revision, .. } =
            take.otherwise().get(name).put_for(&self.own, "", life).await?;
        if succeeded {
            return Ok(QueuePosition::Holder(FencingToken(revision)));
        }
        if let Some(StepResult::Got(Some(record))) = results.first()
            && record.lease == Some(self.lease)
        {
            // An earlier attempt with an unknown outcome has succeeded.
            return Ok(QueuePosition::Holder(FencingToken(record.created)));
        }
        let ahead = client.scan_range(self.keys.clone()..self.own.clone());
        let ahead = ahead.reverse().keys_only().limit(1).snapshot().await?;
        Ok(match ahead.records.first() {
            Some((front, _)) => QueuePosition::Behind { front: front.clone(), at: ahead.revision },
            None => QueuePosition::Behind { front: name.clone(), at: revision },
        })
    }

    /// Waits until `key`, which existed at the revision `at`, has been removed.
    async fn until_gone(&self, key: &Bytes, at: Revision) -> Result<(), LockError> {
        let mut events = self.lock.client.watch_key(key).after(at).stream();
        while let Some(event) = events.next().await {
            match event {
                Ok(event) if event.record.is_some() => {}
                Ok(_) | Err(WatchError::Compacted { .. }) => return Ok(()),
                Err(WatchError::Read(error)) => return Err(error.into()),
                Err(WatchError::Malformed(why)) => return Err(ReadError::from(why).into()),
                Err(WatchError::Refused(why)) => return Err(ReadError::Refused(why).into()),
                Err(WatchError::Closed) => return Err(ReadError::Closed.into()),
            }
        }
        Ok(())
    }
}

/// Waits until this time. Without a time, this never returns.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}

/// Revokes a lease when dropped, so that the lease's key does not stay in the queue. After [`keep`](Self::keep), the
/// lease is not revoked.
struct RevokeOnDrop(Option<Lease>);

impl RevokeOnDrop {
    fn keep(mut self) -> Lease {
        self.0.take().expect("it is there until it is kept")
    }
}

impl Deref for RevokeOnDrop {
    type Target = Lease;

    fn deref(&self) -> &Lease {
        self.0.as_ref().expect("it is there until it is kept")
    }
}

impl Drop for RevokeOnDrop {
    fn drop(&mut self) {
        if let Some(lease) = self.0.take() {
            lease.give_back();
        }
    }
}

impl IntoFuture for LockRequest {
    type Output = Result<Lock, LockError>;
    type IntoFuture = OpFuture<Self::Output>;

    /// Waits until the lock is free, and acquires it. Waiting clients form a queue, in the order in which they began to
    /// wait. Each client watches the key of the client ahead of it. The first client in the queue can be overtaken only
    /// by a client that asks for the lock at the moment at which the lock is released.
    ///
    /// A waiting client has a key of its own, which begins with the name of the lock and a zero byte. The key is
    /// removed when the client acquires the lock or the client's lease ends.
    ///
    /// # Cancel safety
    /// If the future is dropped, the client leaves the queue, and releases the lock if it has just acquired the lock.
    /// This happens at once if possible. Otherwise, for example if the cluster cannot be reached, it happens when the
    /// lease ends. The client's other calls, leases and locks are not affected.
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let until = self.wait.map(|wait| Instant::now() + wait.min(MAX_DEADLINE));
            loop {
                let lease = RevokeOnDrop(Some(self.client.lease(self.ttl).await?));
                match self.get_with(&lease, until).await {
                    Ok(token) => {
                        let Self { client, name, .. } = self;
                        return Ok(Lock { client, name, token, lease: lease.keep() });
                    }
                    // The lease ended during the wait, because this process was paused or disconnected: begin again.
                    Err(error) if error.is_lease_ended() => {}
                    Err(error) => {
                        // If this fails, the lease ends when its time to live is over.
                        let _ = lease.keep().revoke().await;
                        return Err(error);
                    }
                }
            }
        })
    }
}

impl Lock {
    /// Returns the token that identifies this tenure.
    #[must_use]
    pub fn token(&self) -> FencingToken {
        self.token
    }

    /// Returns the name of the lock, which is its key.
    #[must_use]
    pub fn name(&self) -> &Bytes {
        &self.name
    }

    /// Returns the lease of the lock. You can attach other keys to this lease.
    #[must_use]
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Starts a transaction that takes effect only if this lock is still held when the transaction is applied. If the
    /// lock is no longer held, the transaction changes nothing, and fails with [`WriteError::LockLost`].
    pub fn transaction(&self) -> Transaction {
        self.client.transaction().fenced(&self.name, self.token)
    }

    /// Asks the cluster whether this lock is still held.
    ///
    /// # Errors
    /// The errors of a read.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn is_held(&self) -> Result<bool, ReadError> {
        let found = self.client.get(&self.name).await?;
        Ok(found.is_some_and(|record| record.created == self.token.revision()))
    }

    /// Waits until this client can no longer be sure that it holds the lock, and returns the reason: see [`LockLoss`].
    /// To notice a removal of the lock's key without delay, this method watches the key.
    ///
    /// While this method runs, it uses one of the client's [watches](super::Watch), whose number is limited.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn lost(&self) -> LockLoss {
        tokio::select! {
            biased;
            () = self.lease.ended() => LockLoss::LeaseEnded,
            () = self.lease.at_risk() => LockLoss::AtRisk,
            () = self.key_gone() => LockLoss::KeyRemoved,
        }
    }

    /// Waits until the key no longer belongs to this tenure.
    async fn key_gone(&self) {
        loop {
            let mut events = self.client.watch_key(&self.name).after(self.token.revision()).stream();
            while let Some(Ok(event)) = events.next().await {
                // A put by another client does not end the tenure. A removal ends it, even if the key was created
                // again.
                if event.record.is_none_or(|record| record.created != self.token.revision()) {
                    return;
                }
            }
            // The watch has ended, because members no longer keep some of its changes, or because the member serves no
            // more watches. Read the present state instead.
            if let Ok(false) = self.is_held().await {
                return;
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Releases the lock now, and removes all other keys that belong to the lock's lease.
    ///
    /// # Errors
    /// If the lock's lease has ended already, returns an error for which [`WriteError::is_lease_ended`] is true. The
    /// other errors are the errors of a put. After any of these other errors, the client no longer renews the lease. So
    /// the lock is released when the lease's time to live is over, or earlier if the release takes effect after all.
    ///
    /// # Cancel safety
    /// If the future is dropped, the client no longer renews the lease. So the lock is released when the lease's time
    /// to live is over, or earlier if the release takes effect after all.
    pub async fn release(self) -> Result<(), WriteError> {
        self.lease.revoke().await.map(drop)
    }
}

/// An election among the clients that campaign under one name: returned by [`Client::election`]. The leader is the
/// client that holds the lock with that name. The value of the lock describes the leader.
#[derive(Clone, Debug)]
pub struct Election {
    client: Client,
    name: Bytes,
}

/// The current leader.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Leader {
    /// The value with which the leader campaigned.
    pub value: Bytes,
    /// The token of the leader's tenure.
    pub token: FencingToken,
}

impl Election {
    pub(super) fn new(client: Client, name: Bytes) -> Self {
        Self { client, name }
    }

    /// When the returned builder is awaited, it waits until this client becomes the leader. While this client is the
    /// leader, other clients can read `value`.
    pub fn campaign(&self, value: impl Into<Bytes>) -> LockRequest {
        LockRequest::new(self.client.clone(), self.name.clone()).value(value)
    }

    /// Returns the current leader, if there is one.
    ///
    /// # Errors
    /// The errors of a read.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn leader(&self) -> Result<Option<Leader>, ReadError> {
        let found = self.client.get(&self.name).await?;
        Ok(found.map(|record| Leader { value: record.value, token: FencingToken(record.created) }))
    }
}
