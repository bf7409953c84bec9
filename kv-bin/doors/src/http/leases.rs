//! The times to live of leases, which never change, so that a renewal need not ask for them.

use kv_core::client::LeaseId;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// How many leases are remembered.
const MAX: usize = 10_000;

#[derive(Debug, Default)]
pub(super) struct Leases(Mutex<HashMap<LeaseId, u64>>);

impl Leases {
    pub(super) fn remember(&self, lease: LeaseId, ttl_ms: u64) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX && !known.contains_key(&lease) {
            // Those that are still renewed are learned again.
            known.clear();
        }
        known.insert(lease, ttl_ms);
    }

    pub(super) fn ttl_ms(&self, lease: LeaseId) -> Option<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&lease).copied()
    }
}
