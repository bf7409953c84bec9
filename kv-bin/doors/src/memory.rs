//! How much memory all connections of a door take together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A share of up to this size is always allowed, so that small requests are served whatever others do.
const ALWAYS: usize = 64 << 10;

/// What all connections take together, and how much they may.
#[derive(Debug)]
pub(crate) struct Memory {
    used: AtomicUsize,
    max: usize,
}

impl Memory {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), max })
    }

    /// A share of no bytes.
    pub(crate) fn share(self: &Arc<Self>) -> Share {
        Share { memory: self.clone(), bytes: 0 }
    }

    #[cfg(test)]
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

/// What one connection, or one command that it runs, takes. It is given back on drop.
#[derive(Debug)]
pub(crate) struct Share {
    memory: Arc<Memory>,
    bytes: usize,
}

impl Share {
    /// Makes this share larger. The result is that of [`set`](Self::set).
    #[cfg(feature = "http")]
    pub(crate) fn add(&mut self, bytes: usize) -> bool {
        self.set(self.bytes.saturating_add(bytes))
    }

    #[cfg(feature = "http")]
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Sets the size of this share. Returns `false` if it has grown and all shares are too large together. The owner
    /// must then give the memory back soon.
    pub(crate) fn set(&mut self, bytes: usize) -> bool {
        let before = std::mem::replace(&mut self.bytes, bytes);
        if bytes <= before {
            self.memory.used.fetch_sub(before - bytes, Ordering::Relaxed);
            return true;
        }
        let grown = bytes - before;
        let used = self.memory.used.fetch_add(grown, Ordering::Relaxed).saturating_add(grown);
        bytes <= ALWAYS || used <= self.memory.max
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_bounded_together() {
        let memory = Memory::new(300_000);
        let (mut one, mut other) = (memory.share(), memory.share());
        assert!(one.set(200_000));
        assert!(!other.set(100_001));
        assert!(other.set(ALWAYS));
        assert!(one.set(250_000 - ALWAYS));
        assert!(other.set(50_000 + ALWAYS));
        drop(other);
        assert_eq!(memory.used(), 250_000 - ALWAYS);
        drop(one);
        assert_eq!(memory.used(), 0);
    }
}
