//! What all connections of a door share.

use super::HttpOptions;
use super::samples::Samples;
use crate::memory::Memory;
use kv_core::{Client, Node};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

#[derive(Debug)]
pub(super) struct Door {
    pub(super) client: Client,
    /// The member in this process, if there is one.
    pub(super) node: Option<Arc<Node>>,
    pub(super) options: HttpOptions,
    pub(super) memory: Arc<Memory>,
    /// What the pages show of all members.
    pub(super) samples: Samples,
    /// The number of open connections.
    pub(super) connections: AtomicUsize,
}

impl Door {
    pub(super) fn new(client: Client, node: Option<Arc<Node>>, options: HttpOptions) -> Self {
        let memory = Memory::new(options.max_memory_bytes);
        let (samples, connections) = (Samples::default(), AtomicUsize::new(0));
        Self { client, node, options, memory, samples, connections }
    }
}
