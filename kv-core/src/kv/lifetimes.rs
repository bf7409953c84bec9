//! What expires: keys with a time to live, and leases with their keys. Pure, replicated state.
//!
//! Nothing here removes anything because time passes. It only knows what is due, in the order of the deadlines. A
//! request in the log removes what is due (rules X1 and X2), so that all members remove it at the same revision.

use crate::engine::{EngineError, Row, Rows};
use crate::ids::{LeaseId, Revision, Timestamp};
use crate::message::{Expiry, LeaseCommand, LeaseFailure, LeaseInfo, Lifetime};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The prefix of the rows of deadlines; the deadline follows, big-endian, and the key.
const DEADLINE: &[u8] = b"deadline/";

/// The prefix of the rows of leases; the id follows, big-endian. The value is the time to live and the deadline.
const LEASE: &[u8] = b"lease/";

/// The prefix of the rows of leased keys; the id of the lease follows, big-endian, and the key. There is one row per
/// key, so a row is never larger than a piece of a transfer may be, and keeping a lease alive writes none of them.
const LEASE_KEY: &[u8] = b"lease-key/";

/// The most keys in one expiry, including those of leases; and the most bytes of keys that it names.
const MOST_KEYS: usize = LeaseCommand::MAX_KEYS;
const MOST_BYTES: usize = 64 << 10;

/// When a key expires.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct KeyDeadline {
    /// At this stamp.
    pub(super) at: Option<Timestamp>,
    /// With this lease.
    pub(super) with: Option<LeaseId>,
}

impl KeyDeadline {
    /// The deadline of a put in an entry with this stamp.
    pub(super) fn of(life: Lifetime, now: Timestamp) -> Self {
        Self { at: life.ttl_ms.map(|ms| Lifetime::deadline(now, ms)), with: life.lease }
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Lease {
    ttl_ms: u64,
    deadline: Timestamp,
    keys: BTreeSet<Bytes>,
}

/// Splits a name into the lease id at its beginning and the rest.
fn lease_of(name: &[u8]) -> Result<(LeaseId, &[u8]), EngineError> {
    let (id, rest) = name.split_first_chunk().ok_or_else(|| EngineError::damaged("a lease has no id"))?;
    Ok((LeaseId::new(u64::from_be_bytes(*id)), rest))
}

/// The earliest deadlines.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Deadlines {
    /// The earliest deadline of a key with a time to live.
    pub key: Option<Timestamp>,
    pub lease: Option<Timestamp>,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Lifetimes {
    max_leases: usize,
    /// Keys with a time to live, with the revision of the put that set it. The earliest deadline comes first.
    keys: BTreeMap<(Timestamp, Bytes), Revision>,
    leases: BTreeMap<LeaseId, Lease>,
    /// The same leases by deadline, the earliest first.
    deadlines: BTreeSet<(Timestamp, LeaseId)>,
    /// What a checkpoint must write. `None` if changes are not tracked.
    changed: Option<LifetimeChanges>,
}

#[derive(Clone, Debug, Default)]
struct LifetimeChanges {
    keys: BTreeSet<(Timestamp, Bytes)>,
    leases: BTreeSet<LeaseId>,
    lease_keys: BTreeSet<(LeaseId, Bytes)>,
}

impl Lifetimes {
    /// Creates an empty set. `tracked`: changes are collected for [`take_changes`](Self::take_changes).
    pub(super) fn new(max_leases: usize, tracked: bool) -> Self {
        let changed = tracked.then(LifetimeChanges::default);
        Self { max_leases, changed, ..Self::default() }
    }

    /// Loads what a checkpoint wrote.
    pub(super) fn load(rows: &Rows, max_leases: usize) -> Result<Self, EngineError> {
        let damaged = |what| move || EngineError::damaged(what);
        let mut all = Self::new(max_leases, true);
        for (name, revision) in rows.starting_with(DEADLINE)? {
            let (at, key) =
                name[DEADLINE.len()..].split_at_checked(8).ok_or_else(damaged("a deadline is too short"))?;
            let at = at.try_into().map_err(|_| EngineError::damaged("a deadline is too short"))?;
            let revision = revision.as_slice().try_into();
            let revision = revision.map_err(|_| EngineError::damaged("a deadline has no revision"))?;
            let at = Timestamp::new(u64::from_be_bytes(at));
            all.keys.insert((at, Bytes::copy_from_slice(key)), Revision::new(u64::from_be_bytes(revision)));
        }
        for (name, bytes) in rows.starting_with(LEASE)? {
            let (id, rest) = lease_of(&name[LEASE.len()..])?;
            let (ttl_ms, deadline) =
                postcard::from_bytes(&bytes).map_err(|_| EngineError::damaged("a lease cannot be read"))?;
            let too_long = ttl_ms > LeaseCommand::MAX_TTL_MS;
            if !rest.is_empty() || too_long || all.leases.len() >= max_leases {
                return Err(EngineError::damaged("a lease breaks the limits"));
            }
            all.deadlines.insert((deadline, id));
            all.leases.insert(id, Lease { ttl_ms, deadline, keys: BTreeSet::new() });
        }
        for (name, _) in rows.starting_with(LEASE_KEY)? {
            let (id, key) = lease_of(&name[LEASE_KEY.len()..])?;
            let lease = all.leases.get_mut(&id).ok_or_else(damaged("a key belongs to no lease"))?;
            lease.keys.insert(Bytes::copy_from_slice(key));
            if lease.keys.len() > LeaseCommand::MAX_KEYS {
                return Err(EngineError::damaged("a lease breaks the limits"));
            }
        }
        Ok(all)
    }

    /// The rows that changed since the last call.
    pub(super) fn take_changes(&mut self) -> Vec<Row> {
        let LifetimeChanges { keys, leases, lease_keys } =
            self.changed.as_mut().map(std::mem::take).unwrap_or_default();
        let deadlines = keys.into_iter().map(|place| {
            let name = [DEADLINE, &place.0.get().to_be_bytes(), &place.1].concat();
            (name, self.keys.get(&place).map(|put| put.get().to_be_bytes().to_vec()))
        });
        let leases = leases.into_iter().map(|id| {
            let lease = self.leases.get(&id).map(|lease| (lease.ttl_ms, lease.deadline));
            let encode = |lease| postcard::to_stdvec(&lease).expect("plain data always encodes");
            ([LEASE, &id.get().to_be_bytes()].concat(), lease.map(encode))
        });
        let held = lease_keys.into_iter().map(|(id, key)| {
            let there = self.leases.get(&id).is_some_and(|lease| lease.keys.contains(&key));
            ([LEASE_KEY, &id.get().to_be_bytes(), &key].concat(), there.then(Vec::new))
        });
        deadlines.chain(leases).chain(held).collect()
    }

    /// Notes what has changed, if changes are tracked.
    fn mark(&mut self, note: impl FnOnce(&mut LifetimeChanges) -> bool) {
        if let Some(changed) = &mut self.changed {
            note(changed);
        }
    }

    /// The deadline of a key has changed: the key was set by the put at `revision`, or (without a revision) removed.
    pub(super) fn moved(
        &mut self,
        key: &[u8],
        was: KeyDeadline,
        is: KeyDeadline,
        revision: Option<Revision>,
    ) {
        if was == KeyDeadline::default() && is == KeyDeadline::default() {
            return;
        }
        let key = Bytes::copy_from_slice(key);
        if let Some(at) = was.at {
            let place = (at, key.clone());
            self.keys.remove(&place);
            self.mark(|changed| changed.keys.insert(place));
        }
        if let (Some(at), Some(revision)) = (is.at, revision) {
            let place = (at, key.clone());
            self.keys.insert(place.clone(), revision);
            self.mark(|changed| changed.keys.insert(place));
        }
        if was.with == is.with {
            return;
        }
        if let Some((id, lease)) = was.with.and_then(|id| Some((id, self.leases.get_mut(&id)?))) {
            lease.keys.remove(&key);
            self.mark(|changed| changed.lease_keys.insert((id, key.clone())));
        }
        if let Some((id, lease)) = is.with.and_then(|id| Some((id, self.leases.get_mut(&id)?))) {
            lease.keys.insert(key.clone());
            self.mark(|changed| changed.lease_keys.insert((id, key)));
        }
    }

    /// Checks whether the lease can take `count` more keys.
    pub(super) fn takes(&self, lease: LeaseId, count: usize) -> Result<(), LeaseFailure> {
        let lease = self.leases.get(&lease).ok_or(LeaseFailure::Unknown)?;
        if lease.keys.len() + count > LeaseCommand::MAX_KEYS { Err(LeaseFailure::Full) } else { Ok(()) }
    }

    pub(super) fn grant(&mut self, id: LeaseId, ttl_ms: u64, now: Timestamp) -> Result<(), LeaseFailure> {
        if self.leases.len() >= self.max_leases {
            return Err(LeaseFailure::TooMany);
        }
        let deadline = Lifetime::deadline(now, ttl_ms);
        self.leases.insert(id, Lease { ttl_ms, deadline, keys: BTreeSet::new() });
        self.deadlines.insert((deadline, id));
        self.mark(|changed| changed.leases.insert(id));
        Ok(())
    }

    pub(super) fn keep_alive(&mut self, id: LeaseId, now: Timestamp) -> Result<(), LeaseFailure> {
        let lease = self.leases.get_mut(&id).ok_or(LeaseFailure::Unknown)?;
        self.deadlines.remove(&(lease.deadline, id));
        lease.deadline = Lifetime::deadline(now, lease.ttl_ms);
        self.deadlines.insert((lease.deadline, id));
        self.mark(|changed| changed.leases.insert(id));
        Ok(())
    }

    pub(super) fn info(&self, id: LeaseId) -> Result<LeaseInfo, LeaseFailure> {
        let Lease { ttl_ms, deadline, keys } = self.leases.get(&id).ok_or(LeaseFailure::Unknown)?;
        let keys = u32::try_from(keys.len()).unwrap_or(u32::MAX);
        Ok(LeaseInfo { ttl_ms: *ttl_ms, deadline: *deadline, keys })
    }

    pub(super) fn deadline(&self, id: LeaseId) -> Option<Timestamp> {
        self.leases.get(&id).map(|lease| lease.deadline)
    }

    /// Ends a lease, and returns the keys that must be removed with it.
    pub(super) fn end(&mut self, id: LeaseId) -> Option<BTreeSet<Bytes>> {
        let lease = self.leases.remove(&id)?;
        self.deadlines.remove(&(lease.deadline, id));
        self.mark(|changed| changed.leases.insert(id));
        for key in &lease.keys {
            self.mark(|changed| changed.lease_keys.insert((id, key.clone())));
        }
        Some(lease.keys)
    }

    /// The earliest deadlines.
    pub(super) fn next(&self) -> Deadlines {
        Deadlines {
            key: self.keys.first_key_value().map(|((at, _), _)| *at),
            lease: self.deadlines.first().map(|(at, _)| *at),
        }
    }

    /// Returns the keys that are due at `keys` and the leases that are due at `leases`: at most as many as one request
    /// can contain, the longest overdue first.
    pub(super) fn due(&self, keys: Timestamp, leases: Option<Timestamp>) -> Vec<Expiry> {
        let (mut due, mut count, mut bytes) = (Vec::new(), 0, 0);
        // The first one always fits, because a lease has no more keys than one request may remove. So the queue moves
        // on.
        for (at, lease) in &self.deadlines {
            let dependent = self.leases.get(lease).map_or(0, |lease| lease.keys.len());
            if leases.is_none_or(|now| *at > now) || count + dependent > MOST_KEYS || due.len() >= MOST_KEYS {
                break;
            }
            count += dependent;
            due.push(Expiry::Lease { lease: *lease });
        }
        for ((at, key), modified) in &self.keys {
            if *at > keys || count >= MOST_KEYS || due.len() >= MOST_KEYS || bytes > MOST_BYTES {
                break;
            }
            (count, bytes) = (count + 1, bytes + key.len());
            due.push(Expiry::Key { key: key.clone(), modified: *modified });
        }
        due
    }

    /// Adds everything, in a fixed order, to a digest.
    #[cfg(feature = "internals")]
    pub(super) fn digest(&self, add: &mut dyn FnMut(&[u8])) {
        for ((at, key), revision) in &self.keys {
            add(&at.get().to_le_bytes());
            add(key);
            add(&revision.get().to_le_bytes());
        }
        for (id, lease) in &self.leases {
            add(&id.get().to_le_bytes());
            add(&postcard::to_stdvec(lease).expect("plain data always encodes"));
        }
    }

    /// The existing lease that was granted last.
    #[cfg(feature = "internals")]
    pub(super) fn newest(&self) -> Option<LeaseId> {
        self.leases.last_key_value().map(|(id, _)| *id)
    }

    #[cfg(feature = "internals")]
    pub(super) fn check_invariants(&self) {
        assert_eq!(self.leases.len(), self.deadlines.len());
        assert!(self.leases.len() <= self.max_leases);
        for (id, lease) in &self.leases {
            assert!(self.deadlines.contains(&(lease.deadline, *id)));
            assert!(lease.keys.len() <= LeaseCommand::MAX_KEYS);
        }
    }
}
