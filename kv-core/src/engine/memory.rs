//! The engine without a disk: the memtable alone.

use super::change::{KeyChange, Retention};
use super::layers::Layers;
use super::read_view::{ReadView, Reader};
use super::{Checkpointed, Engine, EngineError, Frozen, Merger};
use crate::ids::{Anchor, Hash, Revision};

/// Keeps everything in memory, and loses it with the process.
#[derive(Debug)]
pub struct Memory {
    layers: Layers,
}

impl Memory {
    /// Creates an empty engine that keeps this much history.
    #[must_use]
    pub fn new(retention: Retention) -> Self {
        Self { layers: Layers::new(Anchor::ZERO, Revision::ZERO, None, false, retention) }
    }
}

impl Engine for Memory {
    fn newest(&self, key: &[u8], see: &mut dyn FnMut(&[u8])) -> Result<(), EngineError> {
        self.layers.newest(key, see)
    }

    fn write(&mut self, key: &[u8], revision: Revision, change: KeyChange, former: Option<usize>) {
        self.layers.write(key, revision, change, former);
    }

    fn take_write_digest(&mut self) -> Hash {
        self.layers.take_write_digest()
    }

    fn publish(&mut self, applied: Anchor, revision: Revision) {
        self.layers.publish(applied, revision);
    }

    fn charge(&mut self, _bytes: usize) {}

    fn written(&self) -> ReadView {
        self.layers.written()
    }

    fn reader(&self) -> Reader {
        self.layers.reader()
    }

    fn checkpoint(&self) -> Anchor {
        Anchor::ZERO
    }

    fn memtable_bytes(&self) -> usize {
        self.layers.active().bytes()
    }

    fn dead_bytes(&self) -> usize {
        0
    }

    fn is_full(&self) -> bool {
        false
    }

    fn release(&mut self) {}

    fn snapshot(&self) -> Option<super::Snapshot> {
        None
    }

    fn freeze(&mut self) -> Option<Frozen> {
        None
    }

    fn checkpointed(&mut self, _done: Checkpointed) {}

    fn merger(&self) -> Option<Merger> {
        None
    }

    fn merged(&mut self) {}
}
