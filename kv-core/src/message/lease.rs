//! The lifetimes of keys: time to live, leases, and the request with which the primary removes expired keys and leases.

use super::{Request, RequestError};
use crate::ids::{LeaseId, RequestNumber, Revision, SessionId, Timestamp};
use crate::message::Operation;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long a key is kept after a put. By default, with neither field set, the key is kept forever. A put with neither
/// field also clears the lifetime that an earlier put has set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Lifetime {
    /// The key is kept for at least this many milliseconds after the timestamp of the put's log entry.
    pub ttl_ms: Option<u64>,
    /// The key is kept as long as this lease, and is removed when the lease ends.
    pub lease: Option<LeaseId>,
}

impl Lifetime {
    /// The key is kept forever.
    pub const FOREVER: Self = Self { ttl_ms: None, lease: None };
    /// The shortest time to live.
    pub const MIN_TTL_MS: u64 = 1;
    /// The longest time to live: a hundred years.
    pub const MAX_TTL_MS: u64 = 100 * 365 * 86_400_000;

    /// The key is kept for this time on the cluster's clock, rounded up to whole milliseconds.
    #[must_use]
    pub fn ttl(ttl: Duration) -> Self {
        Self { ttl_ms: Some(millis(ttl)), lease: None }
    }

    /// The key is kept as long as this lease.
    #[must_use]
    pub const fn lease(lease: LeaseId) -> Self {
        Self { ttl_ms: None, lease: Some(lease) }
    }

    /// Returns the same lifetime, with a lease id that can be sent.
    #[must_use]
    pub(crate) fn sendable(self) -> Self {
        Self { lease: self.lease.map(LeaseId::sendable), ..self }
    }

    /// The timestamp at which a key or lease ends that lasts `ttl_ms` from `stamp` on. A millisecond is added, because
    /// timestamps are rounded down. A thousandth of `ttl_ms` is added, because clocks differ (rule X1).
    #[must_use]
    pub(crate) fn deadline(stamp: Timestamp, ttl_ms: u64) -> Timestamp {
        stamp.advance(ttl_ms).advance(ttl_ms.div_ceil(1000) + 1)
    }

    pub(super) fn check(self) -> Result<(), RequestError> {
        Self::check_ttl(self.ttl_ms)
    }

    pub(super) fn check_ttl(ttl_ms: Option<u64>) -> Result<(), RequestError> {
        ttl_ms.map_or(Ok(()), |ms| within(ms, Self::MIN_TTL_MS, Self::MAX_TTL_MS))
    }
}

/// Whole milliseconds, rounded up.
#[must_use]
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

fn within(ms: u64, min: u64, max: u64) -> Result<(), RequestError> {
    if (min..=max).contains(&ms) { Ok(()) } else { Err(RequestError::Ttl { ms, min, max }) }
}

/// A request about a lease. Keys belong to a lease, and its holder must renew it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum LeaseCommand {
    /// Creates a lease. The id of the lease is the number of this request in the log (rule E1 of `PROTOCOL.md`).
    Grant {
        /// The lease ends this long after the log entry in which it was last renewed, or a little later, never earlier.
        ttl_ms: u64,
    },
    /// Renews a lease that has not been ended, even if its time is over.
    KeepAlive {
        /// The lease to renew or end.
        lease: LeaseId,
    },
    /// Ends a lease now. The keys of the lease are removed at the same revision.
    Revoke {
        /// The lease to renew or end.
        lease: LeaseId,
    },
    /// Returns the state of a lease, and changes nothing.
    Info {
        /// The lease to inspect.
        lease: LeaseId,
    },
}

impl LeaseCommand {
    /// The shortest lease.
    pub const MIN_TTL_MS: u64 = 100;
    /// The longest lease: thirty days.
    pub const MAX_TTL_MS: u64 = 30 * 86_400_000;
    /// The most keys of one lease, so that its end is one bounded step.
    pub const MAX_KEYS: usize = 1000;

    pub(super) fn check(self) -> Result<(), RequestError> {
        match self {
            Self::Grant { ttl_ms } => within(ttl_ms, Self::MIN_TTL_MS, Self::MAX_TTL_MS),
            Self::KeepAlive { .. } | Self::Revoke { .. } | Self::Info { .. } => Ok(()),
        }
    }
}

/// Why a request about a lease failed. Nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum LeaseFailure {
    /// There is no lease with this id: it has ended, or never existed.
    #[error("the lease has ended")]
    Unknown,
    /// The lease has as many keys as a lease may have.
    #[error("the lease has {} keys, and no more are allowed", LeaseCommand::MAX_KEYS)]
    Full,
    /// The cluster has as many leases as it may have (`max_leases`).
    #[error("the cluster has as many leases as max_leases allows")]
    TooMany,
}

/// The state of a lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub struct LeaseInfo {
    /// How long the lease lasts after each renewal, in milliseconds.
    pub ttl_ms: u64,
    /// The lease ends once the cluster's clock has reached this time, unless the lease is renewed.
    pub deadline: Timestamp,
    /// The number of keys that belong to the lease.
    pub keys: u32,
}

/// A proposal of the primary to remove a key or lease that has expired. The item is removed only if it has not changed
/// since, and the timestamp of the log entry has reached the item's deadline (rule X2). So the same removal may be
/// proposed twice, late, or by two primaries.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Expiry {
    /// A key with a time to live.
    Key {
        key: Bytes,
        /// The revision of the put that set its deadline.
        modified: Revision,
    },
    /// A lease, with its keys.
    Lease {
        /// The lease that is due.
        lease: LeaseId,
    },
}

impl Expiry {
    /// The most items in one request of the primary.
    pub(crate) const MOST: usize = 4 * LeaseCommand::MAX_KEYS;
}

impl Request {
    /// The request with which the primary removes expired keys and leases. It belongs to no session, and clients must
    /// not send it.
    #[must_use]
    pub fn expiry(due: Vec<Expiry>) -> Self {
        Self {
            session: SessionId::ZERO,
            number: RequestNumber::ZERO,
            acked_through: RequestNumber::ZERO,
            operation: Operation::Expire(due),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Command, Condition, TransactionRequest, TransactionStep};
    use super::*;

    #[test]
    fn a_part_of_a_millisecond_counts_as_one() {
        let ttl = |nanos| Lifetime::ttl(Duration::from_nanos(nanos)).ttl_ms;
        assert_eq!([ttl(0), ttl(1), ttl(1_000_000), ttl(1_000_001)], [Some(0), Some(1), Some(1), Some(2)]);
        assert_eq!(Lifetime::ttl(Duration::MAX).ttl_ms, Some(u64::MAX));
    }

    #[test]
    fn lifetimes_round_trip() {
        let (lease, key) = (LeaseId::new(1 << 40), Bytes::from_static(b"key"));
        let life = Lifetime { ttl_ms: Some(1 << 41), lease: Some(lease) };
        let put = Command::Put { key: key.clone(), value: Bytes::new(), condition: None, life };
        let step =
            TransactionStep::Put { key: key.clone(), value: Bytes::new(), life: Lifetime::lease(lease) };
        let conditions = vec![(key.clone(), Condition::Created(Revision::new(5)))];
        let transaction = TransactionRequest { conditions, then: vec![step], otherwise: Vec::new() };
        let leases = [
            LeaseCommand::Grant { ttl_ms: 500 },
            LeaseCommand::KeepAlive { lease },
            LeaseCommand::Revoke { lease },
            LeaseCommand::Info { lease },
        ];
        let commands = [put, Command::Transaction(transaction)].into_iter();
        let mut requests: Vec<Request> = commands
            .chain(leases.map(Command::Lease))
            .map(|command| Request { operation: Operation::Command(command), ..Request::expiry(Vec::new()) })
            .collect();
        let due = vec![Expiry::Key { key, modified: Revision::new(9) }, Expiry::Lease { lease }];
        requests.push(Request::expiry(due));
        for request in requests {
            let bytes = request.encode();
            assert_eq!(Request::decode(&bytes).as_ref(), Ok(&request));
            assert!((0..bytes.len()).all(|len| Request::decode(&bytes[..len]).is_err()), "{request:?}");
        }
    }

    #[test]
    fn lifetimes_have_a_minimum_and_a_maximum() {
        let of = |ttl_ms| Lifetime { ttl_ms: Some(ttl_ms), lease: None }.check();
        let refused = |ms| Err(RequestError::Ttl { ms, min: 1, max: Lifetime::MAX_TTL_MS });
        assert_eq!([of(0), of(u64::MAX)], [refused(0), refused(u64::MAX)]);
        assert_eq!([of(1), of(Lifetime::MAX_TTL_MS), Lifetime::FOREVER.check()], [Ok(()), Ok(()), Ok(())]);
        let grant = |ttl_ms| LeaseCommand::Grant { ttl_ms }.check().is_ok();
        assert_eq!([99, 100, 30 * 86_400_000, 30 * 86_400_000 + 1].map(grant), [false, true, true, false]);
    }
}
