//! The open connections.

use super::activity::Activity;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default)]
pub(super) struct Connections(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    open: BTreeMap<u64, Arc<Activity>>,
}

impl Connections {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn len(&self) -> usize {
        self.inner().open.len()
    }

    /// Adds a connection, until the result is dropped.
    pub(super) fn add(self: &Arc<Self>, activity: Arc<Activity>) -> Open {
        let mut inner = self.inner();
        inner.next += 1;
        let id = inner.next;
        inner.open.insert(id, activity);
        Open { all: self.clone(), id }
    }

    /// Closes the connection that can best be closed, so that there is room for another one. Returns `false` if all
    /// have requests.
    pub(super) fn make_room(&self) -> bool {
        let inner = self.inner();
        let waiting = inner.open.values().filter_map(|activity| Some((activity.worth()?, activity)));
        let Some((_, activity)) = waiting.min_by_key(|(worth, _)| *worth) else { return false };
        activity.give_up();
        true
    }
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Open {
    all: Arc<Connections>,
    id: u64,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.all.inner().open.remove(&self.id);
    }
}
