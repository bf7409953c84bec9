//! What all connections of a door share.

use super::HttpOptions;
use super::connections::Connections;
use super::errors::{Code, Failure};
use super::leases::Leases;
use super::samples::Samples;
use crate::memory::Memory;
use kv_core::client::Revision;
use kv_core::config::{MemberId, Role};
use kv_core::error::ReadError;
use kv_core::{Client, Node};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

/// How many reads that visit many keys run at the same time.
const MAX_EXPENSIVE_READS: usize = 4;

#[derive(Debug)]
pub(super) struct Door {
    pub(super) client: Client,
    /// The client of watches, so that a lot of changes does not delay other requests. With a member in this process, it
    /// is another one.
    pub(super) watcher: Client,
    /// The member in this process, if there is one.
    pub(super) node: Option<Arc<Node>>,
    pub(super) options: HttpOptions,
    pub(super) memory: Arc<Memory>,
    /// What the pages show of all members.
    pub(super) samples: Samples,
    pub(super) connections: Arc<Connections>,
    /// Each request that waits for changes takes one of these.
    pub(super) watches: Arc<Semaphore>,
    /// Each read that visits many keys for a short answer takes one of these meanwhile.
    expensive_reads: Semaphore,
    pub(super) leases: Leases,
    /// All members with their addresses, once they are known.
    pub(super) members: OnceLock<Vec<(MemberId, Role, String)>>,
    /// The newest revision that an answer has named.
    seen: AtomicU64,
    /// The latest view that an answer has named.
    view: AtomicU64,
}

impl Door {
    pub(super) fn new(client: Client, node: Option<Arc<Node>>, options: HttpOptions) -> Self {
        let memory = Memory::new(options.max_memory_bytes);
        let watches = Arc::new(Semaphore::new(options.max_watches.min(Semaphore::MAX_PERMITS)));
        let watcher = node.as_ref().map_or_else(|| client.clone(), |node| node.client());
        Self {
            client,
            watcher,
            node,
            options,
            memory,
            samples: Samples::default(),
            connections: Arc::default(),
            watches,
            expensive_reads: Semaphore::new(MAX_EXPENSIVE_READS),
            leases: Leases::default(),
            members: OnceLock::new(),
            seen: AtomicU64::new(0),
            view: AtomicU64::new(0),
        }
    }

    /// The right to wait for changes, until it is dropped.
    pub(super) fn watch_permit(&self) -> Result<OwnedSemaphorePermit, Failure> {
        self.watches.clone().try_acquire_owned().map_err(|_| {
            let max = self.options.max_watches;
            let message =
                format!("the server has {max} watches and waiting clients already, which is the most");
            Failure::new(Code::ResourceExhausted, message)
        })
    }

    /// Waits until there are few reads that visit many keys. They are not refused, because each of them ends.
    pub(super) async fn expensive_read(&self) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed.
        self.expensive_reads.acquire().await.ok()
    }

    /// The newest revision that is known here. The cluster may have a newer one.
    pub(super) fn known_revision(&self, least: Revision) -> Revision {
        let applied = self.node.as_ref().map_or(Revision::ZERO, |node| node.status().revision);
        let known = applied.max(least).get();
        Revision::new(self.seen.fetch_max(known, Ordering::Relaxed).max(known))
    }

    /// The latest view that is known here, which is at least this one. Clients take an earlier view than before for an
    /// answer of a member that was cut off.
    pub(super) fn known_view(&self, least: u64) -> u64 {
        let known = self.node.as_ref().map_or(0, |node| node.status().view.get()).max(least);
        self.view.fetch_max(known, Ordering::Relaxed).max(known)
    }

    /// The newest revision: of the cluster or, if `local`, of any member.
    pub(super) async fn newest(&self, local: bool) -> Result<Revision, ReadError> {
        let get = self.client.get([0]);
        Ok(if local { get.local() } else { get }.with_revision().await?.revision)
    }
}
