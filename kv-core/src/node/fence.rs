//! A disk that a stopped node can no longer access. An operation that is still running when the node is dropped ends
//! at its next access, as after `kill -9`.

use crate::storage::{File, Storage};
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How often a member checks a full disk for space, how often it logs a warning, and how soon the wait ends when the
/// node stops.
const LOOK_FOR_ROOM_EVERY: Duration = Duration::from_secs(1);
const WARN_EVERY: Duration = Duration::from_secs(60);
const LOOK_AT_FENCE_EVERY: Duration = Duration::from_millis(20);

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Fence {
    inner: Arc<dyn Storage>,
    closed: Arc<AtomicBool>,
    /// When the last warning about a full disk was logged.
    warned: Arc<Mutex<Option<Instant>>>,
}

#[derive(Debug)]
struct FencedFile {
    inner: Arc<dyn File>,
    closed: Arc<AtomicBool>,
}

fn open(closed: &AtomicBool) -> io::Result<()> {
    if closed.load(Ordering::Relaxed) { Err(io::Error::other("the node has stopped")) } else { Ok(()) }
}

impl Fence {
    /// Wraps `inner` until `closed` is set.
    pub(super) fn new(inner: Arc<dyn Storage>, closed: Arc<AtomicBool>) -> Self {
        Self { inner, closed, warned: Arc::default() }
    }

    fn file(&self, file: io::Result<Arc<dyn File>>) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(FencedFile { inner: file?, closed: self.closed.clone() }))
    }
}

impl Storage for Fence {
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        open(&self.closed)?;
        self.file(self.inner.open(name))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        open(&self.closed)?;
        self.file(self.inner.create(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        open(&self.closed)?;
        self.inner.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        open(&self.closed)?;
        self.inner.remove(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        open(&self.closed)?;
        self.inner.list()
    }

    fn sync_directory(&self) -> io::Result<()> {
        open(&self.closed)?;
        self.inner.sync_directory()
    }

    fn check_names(&self) -> io::Result<()> {
        open(&self.closed)?;
        self.inner.check_names()
    }

    /// Waits a second, or until the node stops. Logs a warning once a minute.
    fn wait_for_room(&self, full: &io::Error) -> bool {
        let now = Instant::now();
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.is_none_or(|warned| now.duration_since(warned) >= WARN_EVERY) {
            *warned = Some(now);
            tracing::warn!(
                error = %full,
                "the disk is full: this member acknowledges nothing and waits. Free some space, and it continues without a restart"
            );
        }
        while !self.closed.load(Ordering::Relaxed) {
            if now.elapsed() >= LOOK_FOR_ROOM_EVERY {
                return true;
            }
            thread::sleep(LOOK_AT_FENCE_EVERY);
        }
        false
    }
}

impl File for FencedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        open(&self.closed)?;
        self.inner.read_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        open(&self.closed)?;
        self.inner.write_at(data, offset)
    }

    fn sync(&self) -> io::Result<()> {
        open(&self.closed)?;
        self.inner.sync()
    }

    fn without_readahead(&self) {
        self.inner.without_readahead();
    }

    fn read_ahead(&self, range: Range<u64>) {
        self.inner.read_ahead(range);
    }

    fn drop_cache(&self) -> io::Result<()> {
        open(&self.closed)?;
        self.inner.drop_cache()
    }

    fn len(&self) -> io::Result<u64> {
        open(&self.closed)?;
        self.inner.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        open(&self.closed)?;
        self.inner.set_len(len)
    }
}
