//! The model of time: leases, deadlines, and what an expiry may remove.

use super::model::{Model, ends};
use bytes::Bytes;
use kv_core::ids::{LeaseId, Revision, Timestamp};
use kv_core::message::{Effect, EventKind, Expiry, LeaseCommand, LeaseFailure, LeaseInfo, Lifetime, Record};

impl Model {
    fn depending(&self, lease: LeaseId) -> Vec<(Bytes, Record)> {
        self.present().into_iter().filter(|(_, record)| record.lease == Some(lease)).collect()
    }

    /// Whether the lease of a put can take the key, in addition to those that join in the same transaction.
    pub(super) fn joins(
        &self,
        key: &Bytes,
        life: Lifetime,
        joining: &[(&Bytes, Lifetime)],
    ) -> Result<(), LeaseFailure> {
        let Some(lease) = life.lease else { return Ok(()) };
        let depending = self.depending(lease);
        let holds = |key: &Bytes| depending.iter().any(|(other, _)| other == key);
        if holds(key) {
            return Ok(());
        }
        let more = joining.iter().filter(|(key, life)| life.lease == Some(lease) && !holds(key)).count();
        match self.leases.all.get(&lease) {
            None => Err(LeaseFailure::Unknown),
            Some(_) if depending.len() + more >= LeaseCommand::MAX_KEYS => Err(LeaseFailure::Full),
            Some(_) => Ok(()),
        }
    }

    /// The effect of a command about a lease.
    pub(super) fn lease(&mut self, revision: Revision, command: LeaseCommand) -> Effect {
        let (count, max, stamp) = (self.leases.all.len(), self.leases.max, self.stamp);
        match command {
            LeaseCommand::Grant { .. } if count >= max => Effect::LeaseFailed(LeaseFailure::TooMany),
            LeaseCommand::Grant { ttl_ms } => {
                let lease = LeaseId::new(self.requests);
                self.leases.all.insert(lease, (ttl_ms, ends(stamp, ttl_ms)));
                Effect::LeaseGranted(lease)
            }
            LeaseCommand::KeepAlive { lease } => match self.leases.all.get_mut(&lease) {
                Some((ttl_ms, deadline)) => {
                    *deadline = ends(stamp, *ttl_ms);
                    Effect::LeaseKept
                }
                None => Effect::LeaseFailed(LeaseFailure::Unknown),
            },
            LeaseCommand::Revoke { lease } if self.leases.all.contains_key(&lease) => {
                Effect::LeaseRevoked { keys: self.end(revision, lease, EventKind::Deleted) }
            }
            LeaseCommand::Revoke { .. } => Effect::LeaseFailed(LeaseFailure::Unknown),
            LeaseCommand::Info { lease } => match self.leases.all.get(&lease) {
                Some(&(ttl_ms, deadline)) => {
                    let keys = u32::try_from(self.depending(lease).len()).unwrap_or(u32::MAX);
                    Effect::Lease(LeaseInfo { ttl_ms, deadline, keys })
                }
                None => Effect::LeaseFailed(LeaseFailure::Unknown),
            },
        }
    }

    fn end(&mut self, revision: Revision, lease: LeaseId, how: EventKind) -> u32 {
        let gone = self.depending(lease);
        for (key, record) in &gone {
            self.remove(revision, key, Some(record.clone()), how);
        }
        self.leases.all.remove(&lease);
        u32::try_from(gone.len()).unwrap_or(u32::MAX)
    }

    /// The effect of an expiry: it must remove what it names, if that is unchanged and its time is over by the stamp.
    pub(super) fn expire(&mut self, revision: Revision, due: &[Expiry]) -> Effect {
        let (mut keys, mut leases) = (0, 0);
        for expiry in due {
            match expiry {
                Expiry::Key { key, modified } => {
                    let Some(record) = self.at(key, revision) else { continue };
                    let over = record.expires.is_some_and(|deadline| deadline <= self.stamp);
                    if record.modified == *modified && over {
                        self.remove(revision, key, Some(record), EventKind::Expired);
                        keys += 1;
                    }
                }
                Expiry::Lease { lease } => {
                    if self.leases.all.get(lease).is_some_and(|(_, deadline)| *deadline <= self.stamp) {
                        keys += self.end(revision, *lease, EventKind::Expired);
                        leases += 1;
                    }
                }
            }
        }
        Effect::Expired { keys, leases }
    }

    /// Something that will end.
    pub(super) fn next_end(&self) -> Option<String> {
        let key = self.present().into_iter().find(|(_, record)| record.expires.is_some());
        let lease = || self.leases.all.iter().next().map(|lease| format!("{lease:?}"));
        key.map(|key| format!("{key:?}")).or_else(lease)
    }

    /// Something whose time was over by `stamp` and that still exists.
    pub(super) fn overdue(&self, stamp: Timestamp) -> Option<String> {
        let key = self.present().into_iter().find(|(_, record)| record.expires.is_some_and(|at| at <= stamp));
        let lease = self.leases.all.iter().find(|(_, (_, deadline))| *deadline <= stamp);
        key.map(|key| format!("{key:?}")).or_else(|| lease.map(|lease| format!("{lease:?}")))
    }
}
