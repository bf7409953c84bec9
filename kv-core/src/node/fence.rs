//! A disk that a stopped node can no longer access. An operation that is still running when the node is dropped ends
//! at its next access, as after `kill -9`.

use super::counters::Recorder;
use super::sync::lock;
use crate::journal;
use crate::storage::{File, Storage};
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// How often a member checks a full disk for space, how often it logs a warning, and how soon the wait ends when the
/// node stops.
const LOOK_FOR_ROOM_EVERY: Duration = Duration::from_secs(1);
const WARN_EVERY: Duration = Duration::from_secs(60);
const LOOK_AT_FENCE_EVERY: Duration = Duration::from_millis(20);

/// See the module.
#[derive(Debug)]
pub(super) struct Fence {
    storage: Fenced<dyn Storage>,
    /// Counts the syncs of journal files.
    syncs: Arc<Recorder>,
    /// When the last warning about a full disk was logged.
    warned: Mutex<Option<Instant>>,
}

/// A storage or a file of a node, until the node stops.
#[derive(Debug)]
struct Fenced<T: ?Sized> {
    inner: Arc<T>,
    closed: Arc<AtomicBool>,
    /// Counts the syncs of this file.
    syncs: Option<Arc<Recorder>>,
    /// Whether the next sync follows the creation of the file. It writes all of the file, and no entry waits for it.
    is_new: AtomicBool,
}

impl<T: ?Sized> Fenced<T> {
    fn get(&self) -> io::Result<&T> {
        let is_closed = self.closed.load(Ordering::Relaxed);
        if is_closed { Err(io::Error::other("the node has stopped")) } else { Ok(&self.inner) }
    }
}

impl Fence {
    /// Wraps `inner` until `closed` is set. `syncs` counts the syncs of journal files.
    pub(super) fn new(inner: Arc<dyn Storage>, closed: Arc<AtomicBool>, syncs: Arc<Recorder>) -> Self {
        Self {
            storage: Fenced { inner, closed, syncs: None, is_new: AtomicBool::new(false) },
            syncs,
            warned: Mutex::default(),
        }
    }

    fn file(&self, name: &str, file: io::Result<Arc<dyn File>>, is_new: bool) -> io::Result<Arc<dyn File>> {
        let syncs = journal::is_segment(name).then(|| self.syncs.clone());
        let (closed, is_new) = (self.storage.closed.clone(), AtomicBool::new(is_new));
        Ok(Arc::new(Fenced { inner: file?, closed, syncs, is_new }))
    }
}

impl Storage for Fence {
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.file(name, self.storage.get()?.open(name), false)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.file(name, self.storage.get()?.create(name), true)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.storage.get()?.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.storage.get()?.remove(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.storage.get()?.list()
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.storage.get()?.sync_directory()
    }

    fn check_names(&self) -> io::Result<()> {
        self.storage.get()?.check_names()
    }

    /// Waits a second, or until the node stops. Logs a warning once a minute.
    fn wait_for_room(&self, full: &io::Error) -> bool {
        let now = Instant::now();
        let mut warned = lock(&self.warned);
        if warned.is_none_or(|warned| now.duration_since(warned) >= WARN_EVERY) {
            *warned = Some(now);
            tracing::warn!(
                error = %full,
                "the disk is full: this member acknowledges nothing and waits. Free some space, and it continues without a restart"
            );
        }
        while self.storage.get().is_ok() {
            if now.elapsed() >= LOOK_FOR_ROOM_EVERY {
                return true;
            }
            thread::sleep(LOOK_AT_FENCE_EVERY);
        }
        false
    }
}

impl File for Fenced<dyn File> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.get()?.read_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.get()?.write_at(data, offset)
    }

    fn sync(&self) -> io::Result<()> {
        let Some(syncs) = &self.syncs else { return self.get()?.sync() };
        let begun = Instant::now();
        self.get()?.sync()?;
        if !self.is_new.swap(false, Ordering::Relaxed) {
            syncs.add(begun.elapsed());
        }
        Ok(())
    }

    fn without_readahead(&self) {
        self.inner.without_readahead();
    }

    fn read_ahead(&self, range: Range<u64>) {
        self.inner.read_ahead(range);
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.get()?.drop_cache()
    }

    fn len(&self) -> io::Result<u64> {
        self.get()?.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.get()?.set_len(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Directory;

    /// A new file is filled with zeros under another name, and then used under the same handle.
    #[test]
    fn syncs_of_journal_files_count_except_those_that_fill_a_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let syncs = Arc::<Recorder>::default();
        let inner = Directory::open(folder.path()).unwrap();
        let fence = Fence::new(inner, Arc::default(), syncs.clone());
        let count = || syncs.latencies().count();
        let new = fence.create("journal.new").unwrap();
        new.sync().unwrap();
        assert_eq!(count(), 0);
        fence.rename("journal.new", "journal-00000001").unwrap();
        new.sync().unwrap();
        assert_eq!(count(), 1);
        fence.open("journal-00000001").unwrap().sync().unwrap();
        assert_eq!(count(), 2);
        fence.create("superblock").unwrap().sync().unwrap();
        fence.open("superblock").unwrap().sync().unwrap();
        assert_eq!(count(), 2);
    }
}
