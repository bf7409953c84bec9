//! The file under the B-tree: checks every block it reads.
//!
//! ```text
//! block   0 1 2 3   4     5 .. 516   517   518 .. 1029  ...
//!         heads     sums  data       sums  data
//! ```
//! The B-tree sees one flat file. Its first block, of which it uses a few hundred bytes and rewrites them in place,
//! lives in the [`head`](super::head); data block `i` is its block `i + 1`. Every data block has a checksum in the
//! block of sums at the start of its group.
//!
//! # Why a power cut raises no false alarm
//! A sync writes changed sums and heads and then syncs the one file, so *after a sync* every block and its sum agree.
//! In between a power cut may leave any sector of data or sums old or new. That hurts nobody, because the B-tree is
//! copy-on-write: between two syncs it writes only blocks that its last durable commit does not use, and after a
//! restart it reads only blocks that this commit does use. Such a block was not written, and its sum was not changed:
//! in a torn block of sums it has the same bytes in the old and in the new version of its sector. The exceptions are
//! the B-tree's own header and the length of the file; both are in the head, which is replaced as a whole.
//!
//! What remains readable and wrong: a device that drops the write of a block *and* of its sums.

use super::checksums::{CACHED, ChecksumCache, GROUP, block_at, file_len, sum_of, sums_at};
use super::head::{BLOCK, COPIES, Head, SECTOR, TREE_BYTES};
use super::readahead::Readahead;
use super::steps::STEP_BYTES;
use super::{EngineError, steps};
use crate::storage::File;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Large values are read in parts of this size.
const READ_AT_ONCE: usize = 16 * BLOCK;

const READ: &str = "read";
const WRITE: &str = "write";

/// A checked file; see the module.
pub(super) struct Blocks {
    file: Arc<dyn File>,
    readahead: Readahead,
    inner: Mutex<Inner>,
    /// Allows one sync at a time.
    syncing: Mutex<()>,
    /// The first error. It is final: nothing is written after it.
    failure: Mutex<Option<EngineError>>,
    /// Set when the owner is dropped: nothing is written after that.
    abandoned: Arc<AtomicBool>,
    /// Counts the work of a merge.
    steps: Arc<AtomicU64>,
    /// How many bytes were written since the last sync.
    unsynced: AtomicU64,
}

/// What was written is synced after this many bytes, so that no single sync has much to do. A long sync looks like a
/// disk that hangs, and delays the syncs of the journal.
const SYNC_AFTER: u64 = 8 << 20;

struct Inner {
    /// The head as the B-tree sees it.
    head: Head,
    /// The head as the copies on disk hold it.
    written: Head,
    sums: ChecksumCache,
}

impl fmt::Debug for Blocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blocks").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Blocks {
    /// Initializes an empty file.
    pub(super) fn create(file: Arc<dyn File>, abandoned: Arc<AtomicBool>) -> Result<Self, EngineError> {
        let write = |error| EngineError::io(WRITE, error);
        file.set_len(file_len(0)).map_err(write)?;
        for version in [0, 1] {
            let head = Head::empty(version);
            for index in head.copies() {
                file.write_at(&head.encode(index), head_at(index)).map_err(write)?;
            }
        }
        file.sync().map_err(write)?;
        Ok(Self::new(file, Head::empty(1), abandoned))
    }

    /// Opens a file that [`create`](Self::create) initialized.
    pub(super) fn open(file: Arc<dyn File>, abandoned: Arc<AtomicBool>) -> Result<Self, EngineError> {
        let io = |error| EngineError::io(READ, error);
        // What an earlier process wrote and did not sync is readable now, but lost after a power cut; and what it
        // failed to sync stays readable although no sync will ever make it durable. Only durable data may be relied on,
        // because the journal drops entries that the state contains.
        file.sync().map_err(io)?;
        file.drop_cache().map_err(io)?;
        let len = file.len().map_err(io)?;
        if len < file_len(0) {
            return Err(EngineError::damaged("it is too short to be one"));
        }
        let mut sectors = [[0; SECTOR]; COPIES];
        for (index, sector) in sectors.iter_mut().enumerate() {
            file.read_at(sector, head_at(index)).map_err(io)?;
        }
        let (head, again) = Head::choose(&sectors)?;
        let wanted = file_len(data_blocks(head.len));
        if len < wanted {
            return Err(EngineError::damaged(format!("it is {len} bytes long and should have {wanted}")));
        }
        if !again.is_empty() {
            for (index, sector) in &again {
                file.write_at(sector, head_at(*index)).map_err(|error| EngineError::io(WRITE, error))?;
            }
            file.sync().map_err(|error| EngineError::io(WRITE, error))?;
        }
        if len > wanted {
            // The power was cut while the file was lengthened, or before it was shortened: nothing beyond the length
            // counts.
            file.set_len(wanted).map_err(|error| EngineError::io(WRITE, error))?;
        }
        Ok(Self::new(file, head, abandoned))
    }

    fn new(file: Arc<dyn File>, head: Head, abandoned: Arc<AtomicBool>) -> Self {
        file.without_readahead();
        Self {
            file,
            readahead: Readahead::new(),
            inner: Mutex::new(Inner { written: head.clone(), head, sums: ChecksumCache::new(CACHED) }),
            syncing: Mutex::new(()),
            failure: Mutex::new(None),
            abandoned,
            steps: Arc::default(),
            unsynced: AtomicU64::new(0),
        }
    }

    /// The first error.
    pub(super) fn failure(&self) -> Option<EngineError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops all writing, as if the process had ended.
    pub(super) fn abandon(&self) {
        self.abandoned.store(true, Ordering::SeqCst);
    }

    /// A counter that grows with the work of a merge, to see whether it makes progress.
    pub(super) fn steps(&self) -> &Arc<AtomicU64> {
        &self.steps
    }

    /// The length as the B-tree sees it.
    pub(super) fn len(&self) -> u64 {
        self.inner().head.len
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores the first error, and returns one for the B-tree.
    fn fail(&self, error: EngineError) -> io::Error {
        let failure = io::Error::other(error.clone());
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        failure
    }

    fn fail_io(&self, doing: &'static str, error: io::Error) -> io::Error {
        let error = match error.kind() {
            io::ErrorKind::UnexpectedEof => EngineError::damaged("it ends too early"),
            _ => EngineError::io(doing, error),
        };
        self.fail(error)
    }

    fn check_writable(&self) -> io::Result<()> {
        if self.abandoned.load(Ordering::SeqCst) {
            return Err(io::Error::other("the state was closed"));
        }
        match self.failure() {
            Some(error) => Err(io::Error::other(error)),
            None => Ok(()),
        }
    }

    /// Reads and verifies.
    pub(super) fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let end = offset + out.len() as u64;
        if end > self.len() {
            return Err(self.fail(EngineError::damaged(format!("it refers to byte {end}, beyond its end"))));
        }
        if offset < BLOCK as u64 {
            return self.read_head(offset, out);
        }
        for (blocks, range) in runs(offset, out.len())? {
            let out = &mut out[range];
            let sums = self.with_sums(&blocks, |sums| sums.get(&blocks).map(<[u64]>::to_vec))?;
            let mut at = block_at(blocks.start);
            let mut blocks = blocks.zip(sums);
            // A large value is read in parts, because the thread may have to yield in between.
            for part in out.chunks_mut(READ_AT_ONCE) {
                self.readahead.reading(&*self.file, at..at + part.len() as u64);
                self.file.read_at(part, at).map_err(|error| self.fail_io(READ, error))?;
                for (block, (index, sum)) in part.chunks_exact_mut(BLOCK).zip(&mut blocks) {
                    if sum_of(index, block) != sum && !self.reads_well_again(index, block)? {
                        let detail =
                            format!("block {index}, at byte {} of it, fails its checksum", block_at(index));
                        return Err(self.fail(EngineError::damaged(detail)));
                    }
                }
                at += part.len() as u64;
                steps::pace(part.len() / STEP_BYTES);
            }
        }
        Ok(())
    }

    /// Reads a bad block and its sum again, past the system's cache, before it counts as bad: the fault may have been
    /// on the way from the disk, or in memory.
    fn reads_well_again(&self, index: u64, block: &mut [u8]) -> io::Result<bool> {
        let one = index..index + 1;
        // Reading through the cache is better than not reading at all.
        let _ = self.file.drop_cache();
        self.file.read_at(block, block_at(index)).map_err(|error| self.fail_io(READ, error))?;
        self.inner().sums.forget_clean(index / GROUP);
        let sum = self.with_sums(&one, |sums| sums.get(&one).map(<[u64]>::to_vec))?;
        let good = sum.first() == Some(&sum_of(index, block));
        tracing::warn!(index, good, "a block of the state failed its checksum, and was read again");
        Ok(good)
    }

    fn read_head(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).expect("below the size of a block");
        if start + out.len() > BLOCK {
            return Err(unaligned());
        }
        let mut block = [0; BLOCK];
        block[..TREE_BYTES].copy_from_slice(&self.inner().head.tree);
        out.copy_from_slice(&block[start..start + out.len()]);
        Ok(())
    }

    /// Writes. It is durable after [`sync`](Self::sync).
    pub(super) fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check_writable()?;
        if offset + data.len() as u64 > self.len() {
            return Err(self.fail_io(WRITE, io::Error::other("the B-tree wrote beyond its end")));
        }
        if offset < BLOCK as u64 {
            let start = usize::try_from(offset).expect("below the size of a block");
            let mut inner = self.inner();
            let place = inner.head.tree.get_mut(start..start + data.len()).ok_or_else(unaligned)?;
            place.copy_from_slice(data);
            return Ok(());
        }
        for (blocks, range) in runs(offset, data.len())? {
            let data = &data[range];
            let sums: Vec<u64> = blocks
                .clone()
                .zip(data.chunks_exact(BLOCK))
                .map(|(index, block)| sum_of(index, block))
                .collect();
            self.with_sums(&blocks, |all| all.set(&blocks, &sums).then_some(()))?;
            self.file.write_at(data, block_at(blocks.start)).map_err(|error| self.fail_io(WRITE, error))?;
        }
        self.steps.fetch_add(1, Ordering::Relaxed);
        let written = data.len() as u64;
        if self.unsynced.fetch_add(written, Ordering::Relaxed) + written >= SYNC_AFTER {
            self.sync_file().map_err(|error| self.fail_io(WRITE, error))?;
        }
        Ok(())
    }

    /// Loads the group of `blocks` into memory and calls `use_sums`, which returns `None` if the group is not in
    /// memory.
    fn with_sums<R>(
        &self,
        blocks: &Range<u64>,
        mut use_sums: impl FnMut(&mut ChecksumCache) -> Option<R>,
    ) -> io::Result<R> {
        let group = blocks.start / GROUP;
        loop {
            let evictions = {
                let mut inner = self.inner();
                if let Some(result) = use_sums(&mut inner.sums) {
                    return Ok(result);
                }
                inner.sums.evictions()
            };
            // Not under the lock, so that other readers continue meanwhile.
            let mut block = [0; BLOCK];
            self.file.read_at(&mut block, sums_at(group)).map_err(|error| self.fail_io(READ, error))?;
            let inserted = self.inner().sums.insert(group, &block, evictions, &*self.file);
            inserted.map_err(|error| self.fail_io(WRITE, error))?;
        }
    }

    fn sync_file(&self) -> io::Result<()> {
        self.unsynced.store(0, Ordering::Relaxed);
        self.file.sync()?;
        self.steps.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Makes everything written durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.check_writable()?;
        let _one = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        let (sums, head, longer) = {
            let mut inner = self.inner();
            let longer = inner.head.len > inner.written.len;
            let changed = inner.head.len != inner.written.len || inner.head.tree != inner.written.tree;
            assert!(
                inner.head.version == inner.written.version,
                "a version is written before the next begins"
            );
            if changed {
                inner.head.version += 1;
                inner.written = inner.head.clone();
            }
            (inner.sums.take_dirty(), changed.then(|| inner.head.clone()), longer)
        };
        let written = (|| {
            for (offset, block) in &sums {
                self.file.write_at(block, *offset)?;
            }
            if longer {
                // Of two unsynced changes, either may survive alone. The head must not be the one that does.
                self.sync_file()?;
            }
            if let Some(head) = head {
                for index in head.copies() {
                    self.file.write_at(&head.encode(index), head_at(index))?;
                }
            }
            self.sync_file()
        })();
        written.map_err(|error| self.fail_io("sync", error))
    }

    /// Lengthens the file with zeros, or shortens it. A greater length is durable after [`sync`](Self::sync), a smaller
    /// one at once.
    pub(super) fn set_len(&self, len: u64) -> io::Result<()> {
        self.check_writable()?;
        let old = self.len();
        let (old_blocks, blocks) = (data_blocks(old), data_blocks(len));
        if len < old {
            // The head is written first, durably, so that it never describes more than the file holds.
            self.inner().head.len = len;
            self.sync()?;
            self.inner().sums.truncate(blocks.div_ceil(GROUP));
        } else {
            self.forget_sums(old_blocks..blocks)?;
        }
        self.file.set_len(file_len(blocks)).map_err(|error| self.fail_io(WRITE, error))?;
        self.inner().head.len = len;
        Ok(())
    }

    /// The new blocks of a lengthened file are zeros, whatever was there before the file was shortened.
    fn forget_sums(&self, gained: Range<u64>) -> io::Result<()> {
        let group_end = gained.start.next_multiple_of(GROUP).min(gained.end);
        let blocks = gained.start..group_end;
        if blocks.is_empty() {
            return Ok(());
        }
        let zeros = vec![0; usize::try_from(blocks.end - blocks.start).expect("below the size of a group")];
        self.with_sums(&blocks, |sums| sums.set(&blocks, &zeros).then_some(()))
    }
}

fn head_at(index: usize) -> u64 {
    (index * BLOCK) as u64
}

/// The number of data blocks in a file of this length: all blocks but the first.
fn data_blocks(len: u64) -> u64 {
    len.div_ceil(BLOCK as u64).saturating_sub(1)
}

fn unaligned() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "not at the border of a block")
}

/// Splits a range of whole blocks at the borders of groups, into the data blocks and their place in the buffer.
fn runs(offset: u64, len: usize) -> io::Result<Vec<(Range<u64>, Range<usize>)>> {
    let size = BLOCK as u64;
    if !offset.is_multiple_of(size) || !len.is_multiple_of(BLOCK) {
        return Err(unaligned());
    }
    let first = offset / size - 1;
    let last = first + (len / BLOCK) as u64;
    let mut runs = Vec::new();
    let mut start = first;
    while start < last {
        let end = (start + 1).next_multiple_of(GROUP).min(last);
        let place = |block: u64| usize::try_from(block - first).expect("within the buffer") * BLOCK;
        runs.push((start..end, place(start)..place(end)));
        start = end;
    }
    Ok(runs)
}

#[cfg(test)]
mod tests;
