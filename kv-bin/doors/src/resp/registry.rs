//! The open connections: their names for `CLIENT LIST`, and how `CLIENT KILL` ends one.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::Notify;

/// What other connections can see of a connection.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) id: u64,
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) since: Instant,
    /// Wakes the connection so that it ends.
    pub(crate) kill: Notify,
    pub(crate) details: Mutex<Details>,
}

/// What changes while the connection is open.
#[derive(Clone, Debug, Default)]
pub(crate) struct Details {
    pub(crate) name: String,
    pub(crate) library: String,
    pub(crate) library_version: String,
    pub(crate) command: &'static str,
    pub(crate) protocol: u8,
    pub(crate) subscriptions: usize,
    pub(crate) patterns: usize,
    /// The number of requests in its open transaction; -1 if it has none.
    pub(crate) queued: i64,
}

impl Entry {
    pub(crate) fn details(&self) -> MutexGuard<'_, Details> {
        self.details.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The line of `CLIENT LIST`.
    pub(crate) fn line(&self) -> String {
        let details = self.details().clone();
        format!(
            "id={} addr={} laddr={} fd=-1 name={} age={} idle=0 flags={} db=0 sub={} psub={} ssub=0 multi={} watch=0 qbuf=0 \
             qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem=0 tot-mem=0 events=r cmd={} user=default redir=-1 \
             resp={} lib-name={} lib-ver={}\n",
            self.id,
            self.peer,
            self.local,
            details.name,
            self.since.elapsed().as_secs(),
            if details.subscriptions + details.patterns > 0 { "P" } else { "N" },
            details.subscriptions,
            details.patterns,
            details.queued,
            details.command,
            details.protocol,
            details.library,
            details.library_version,
        )
    }
}

#[derive(Debug, Default)]
pub(crate) struct Registry {
    next: AtomicU64,
    commands: AtomicU64,
    open: Mutex<BTreeMap<u64, Arc<Entry>>>,
}

impl Registry {
    fn open(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Entry>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, peer: SocketAddr, local: SocketAddr) -> Arc<Entry> {
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let details = Details { protocol: 2, queued: -1, ..Details::default() };
        let entry = Entry {
            id,
            peer,
            local,
            since: Instant::now(),
            kill: Notify::new(),
            details: Mutex::new(details),
        };
        let entry = Arc::new(entry);
        self.open().insert(id, entry.clone());
        entry
    }

    pub(crate) fn remove(&self, id: u64) {
        self.open().remove(&id);
    }

    pub(crate) fn all(&self) -> Vec<Arc<Entry>> {
        self.open().values().cloned().collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.open().len()
    }

    pub(crate) fn count_command(&self) {
        self.commands.fetch_add(1, Ordering::Relaxed);
    }

    /// The number of commands that connections have begun.
    pub(crate) fn commands(&self) -> u64 {
        self.commands.load(Ordering::Relaxed)
    }

    /// The number of connections that have been opened so far.
    pub(crate) fn total(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }
}
