//! A simulated disk: write cache and durable image, power cuts, torn writes, damage; deterministic under a seed.

use crate::storage::{File, Storage};
use std::io;
use std::sync::Arc;

/// How a power cut tears an unsynced write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Tearing {
    /// Each 512 B sector by itself.
    Sector,
    /// Each 4 KiB block by itself.
    Block,
}

/// What a disk has been asked to do so far.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[non_exhaustive]
pub struct Counters {
    /// Calls of any kind that can fail.
    pub operations: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
    /// Bytes written.
    pub written: u64,
    /// Syncs of files and of the directory.
    pub syncs: u64,
}

/// A simulated disk. A clone is the same disk.
#[derive(Clone, Debug)]
pub struct Disk {}

impl Default for Disk {
    fn default() -> Self {
        Self::new()
    }
}

impl Disk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        unimplemented!()
    }

    /// The disk as a [`Storage`]: the same one.
    #[must_use]
    pub fn storage(&self) -> Arc<dyn Storage> {
        Arc::new(self.clone())
    }

    /// A power cut: each unsynced write is kept, lost or torn, each unsynced name kept or lost. Handles opened before are
    /// dead, injected failures are gone.
    pub fn crash(&self, rng: &mut fastrand::Rng) {
        let _ = rng;
        unimplemented!()
    }

    /// Sets how a power cut tears. [`Tearing::Sector`] at first.
    pub fn set_tearing(&self, tearing: Tearing) {
        let _ = tearing;
        unimplemented!()
    }

    /// Fails the `operations`-th operation from now (1 is the next) and all after it, until [`crash`](Self::crash).
    pub fn fail_after(&self, operations: u64) {
        let _ = operations;
        unimplemented!()
    }

    /// Flips one bit of a file, in cache and image. False if the file is shorter.
    pub fn flip_bit(&self, name: &str, offset: u64, bit: u8) -> bool {
        let _ = (name, offset, bit);
        unimplemented!()
    }

    /// What was asked so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        unimplemented!()
    }
}

impl Storage for Disk {
    fn open(&self, _name: &str) -> io::Result<Arc<dyn File>> {
        unimplemented!()
    }

    fn create(&self, _name: &str) -> io::Result<Arc<dyn File>> {
        unimplemented!()
    }

    fn rename(&self, _from: &str, _to: &str) -> io::Result<()> {
        unimplemented!()
    }

    fn remove(&self, _name: &str) -> io::Result<()> {
        unimplemented!()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        unimplemented!()
    }

    fn sync_directory(&self) -> io::Result<()> {
        unimplemented!()
    }
}
