//! Writes rows, in the order of their places, into the files of a run.
//!
//! ```text
//! file:  (block of rows * | filter | block of the index) * | higher blocks of the index * | the highest one again
//! ```

use super::super::EngineError;
use super::super::control::{Control, Progress};
use super::super::place::{Part, removes, split_version};
use super::block::BlockBuilder;
use super::cache::Cache;
use super::file::RunFile;
use super::filter;
use super::index::{BlockRef, FileMeta, NodeRef, name_of};
use crate::ids::Hash;
use crate::storage::{File, Storage};
use bytes::Bytes;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A block of the index has at least so many entries, however long their places are. So each level is much shorter than
/// the one below it.
const LEAST_ENTRIES: usize = 4;

/// The lowest blocks of the index have a filter of at most so many keys, about 16 KiB: a small cache must hold it.
const MOST_KEYS: usize = 13_000;

/// This much is collected for one write.
const WRITE_BYTES: usize = 256 << 10;

/// What was written is synced after this many bytes, so that no single sync has much to do. A long sync looks like a
/// disk that hangs, and delays the syncs of the journal.
const SYNC_AFTER: u64 = 8 << 20;

/// Where files are written, and by whom.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) control: Arc<Control>,
    pub(crate) cache: Arc<Cache>,
    /// The number of the next file, if it is free.
    pub(crate) next: Arc<AtomicU64>,
    /// Counts what is written.
    pub(crate) progress: Progress,
}

impl Target {
    /// Creates a file of the next free number. Another writer in the same folder may have taken some.
    fn create(&self) -> Result<(u64, Arc<dyn File>), EngineError> {
        loop {
            self.control.check()?;
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            match self.storage.create(&name_of(number)) {
                Ok(file) => return Ok((number, file)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(EngineError::io("create", error)),
            }
        }
    }
}

/// Writes one file.
struct FileWriter {
    number: u64,
    file: Arc<dyn File>,
    control: Arc<Control>,
    progress: Progress,
    /// What was not written yet, and where it begins.
    buffer: Vec<u8>,
    written: u64,
    synced: u64,
    rows: BlockBuilder,
    /// The part that its rows belong to.
    part: Option<Part>,
    /// The index, from the lowest level up, each with the last place below it.
    levels: Vec<(BlockBuilder, Bytes)>,
    /// The keys of the lowest block of the index.
    hashes: Vec<u64>,
    key: Vec<u8>,
    first: Bytes,
    row_bytes: u64,
    removals: u64,
}

impl FileWriter {
    fn create(target: &Target, first: &[u8]) -> Result<Self, EngineError> {
        let (number, file) = target.create()?;
        Ok(Self {
            number,
            file,
            control: target.control.clone(),
            progress: target.progress.clone(),
            buffer: Vec::new(),
            written: 0,
            synced: 0,
            rows: BlockBuilder::default(),
            part: None,
            levels: vec![Default::default()],
            hashes: Vec::new(),
            key: Vec::new(),
            first: Bytes::copy_from_slice(first),
            row_bytes: 0,
            removals: 0,
        })
    }

    fn len(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    fn push(&mut self, place: &[u8], value: &[u8]) -> Result<(), EngineError> {
        // A bad block takes only rows of one part with it: without those of the state itself, it could not be opened.
        let is_next_part = !self.rows.is_empty() && self.part != Part::of(place);
        if is_next_part || !self.rows.takes(place, value) {
            self.end_rows();
            if self.buffer.len() >= WRITE_BYTES {
                self.flush()?;
            }
        }
        self.part = Part::of(place);
        match self.part {
            Some(Part::Data) => {
                let (start, _) = split_version(place)?;
                if self.key != start {
                    self.key.clear();
                    self.key.extend_from_slice(start);
                    self.hashes.push(filter::hash_of(start));
                }
                self.removals += u64::from(removes(value));
            }
            Some(Part::Rows) => self.row_bytes += (place.len() + value.len()) as u64,
            Some(Part::Notes) | None => {}
        }
        self.rows.push(place, value);
        Ok(())
    }

    fn end_rows(&mut self) {
        if self.rows.is_empty() {
            return;
        }
        let mut rows = std::mem::take(&mut self.rows);
        let (first, node) = self.end_block(&mut rows, None);
        self.rows = rows;
        self.add(0, &first, &node);
    }

    /// Ends a block, and returns its first place and how it is referred to.
    fn end_block(&mut self, block: &mut BlockBuilder, filter: Option<BlockRef>) -> (Bytes, NodeRef) {
        let (first, last) = block.ends();
        let (first, last) = (Bytes::copy_from_slice(first), Bytes::copy_from_slice(last));
        let start = self.buffer.len();
        block.finish(&mut self.buffer);
        (first, NodeRef { block: self.refer_from(start), filter, last })
    }

    /// Refers to the end of the buffer.
    fn refer_from(&self, start: usize) -> BlockRef {
        let bytes = &self.buffer[start..];
        let len = u32::try_from(bytes.len()).expect("a row is limited");
        BlockRef { offset: self.written + start as u64, len, hash: Hash::of(bytes).get() }
    }

    fn flush(&mut self) -> Result<(), EngineError> {
        self.control.check()?;
        let error = |error| EngineError::io("write", error);
        self.file.write_at(&self.buffer, self.written).map_err(error)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        self.progress.step();
        if self.written - self.synced >= SYNC_AFTER {
            self.sync()?;
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), EngineError> {
        self.control.check()?;
        self.file.sync().map_err(|error| EngineError::io("sync", error))?;
        self.synced = self.written;
        self.progress.step();
        Ok(())
    }

    /// Adds an entry to a level of the index.
    fn add(&mut self, level: usize, first: &[u8], node: &NodeRef) {
        let mut entry = Vec::new();
        node.encode(first, &mut entry);
        if self.levels.len() == level {
            self.levels.push(Default::default());
        }
        let (block, last) = &mut self.levels[level];
        block.push(first, &entry);
        last.clone_from(&node.last);
        // Ended as soon as it is full, and not when the next entry comes: the filter holds the keys up to here.
        let is_full = block.len() >= LEAST_ENTRIES && !block.takes(first, &entry);
        if is_full || (level == 0 && self.hashes.len() >= MOST_KEYS) {
            let (first, node) = self.end_level(level);
            self.add(level + 1, &first, &node);
        }
    }

    fn end_level(&mut self, level: usize) -> (Bytes, NodeRef) {
        let filter = if level == 0 { self.end_filter() } else { None };
        let (mut block, last) = std::mem::take(&mut self.levels[level]);
        let (first, node) = self.end_block(&mut block, filter);
        self.levels[level].0 = block;
        (first, NodeRef { last, ..node })
    }

    fn end_filter(&mut self) -> Option<BlockRef> {
        // The next versions of the same key may belong to the next block of the index. The row that follows was not
        // noted yet, because a block of rows is ended first.
        self.key.clear();
        if self.hashes.is_empty() {
            return None;
        }
        let filter = filter::build(&std::mem::take(&mut self.hashes));
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&filter);
        Some(self.refer_from(start))
    }

    /// Makes the file durable; its name is durable after a sync of the directory.
    fn finish(&mut self, cache: &Arc<Cache>) -> Result<RunFile, EngineError> {
        self.end_rows();
        let mut level = 0;
        let root = loop {
            let is_top = self.levels.len() == level + 1;
            if !self.levels[level].0.is_empty() {
                let (first, node) = self.end_level(level);
                if is_top {
                    break node;
                }
                self.add(level + 1, &first, &node);
            }
            level += 1;
        };
        let second_root = self.len();
        self.buffer.extend_from_within(self.buffer.len() - root.block.len as usize..);
        self.flush()?;
        self.sync()?;
        let levels = u8::try_from(level + 1).expect("a file has few levels");
        let first = self.first.clone();
        let meta = FileMeta {
            number: self.number,
            len: self.written,
            row_bytes: self.row_bytes,
            removals: self.removals,
            first,
            levels,
            root,
            second_root,
        };
        Ok(RunFile::new(meta, Some(self.file.clone()), cache))
    }
}

/// Writes files one after the other. Files that nobody takes are removed.
pub(crate) struct RunWriter {
    target: Target,
    file_bytes: u64,
    writer: Option<FileWriter>,
    files: Vec<Arc<RunFile>>,
}

impl RunWriter {
    /// `file_bytes`: about how long a file gets.
    pub(crate) fn new(target: Target, file_bytes: u64) -> Self {
        Self { target, file_bytes, writer: None, files: Vec::new() }
    }

    /// Adds a row. Its place is behind that of the row before.
    pub(crate) fn push(&mut self, place: &[u8], value: &[u8]) -> Result<(), EngineError> {
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => self.writer.insert(FileWriter::create(&self.target, place)?),
        };
        writer.push(place, value)?;
        if writer.len() >= self.file_bytes { self.end_file() } else { Ok(()) }
    }

    /// How long the files are so far.
    pub(crate) fn bytes(&self) -> u64 {
        let ended: u64 = self.files.iter().map(|file| file.meta().len).sum();
        ended + self.writer.as_ref().map_or(0, FileWriter::len)
    }

    fn end_file(&mut self) -> Result<(), EngineError> {
        if let Some(writer) = &mut self.writer {
            let file = writer.finish(&self.target.cache)?;
            self.writer = None;
            self.files.push(Arc::new(file));
        }
        Ok(())
    }

    /// The files, durable except for their names.
    pub(crate) fn finish(mut self) -> Result<NewFiles, EngineError> {
        self.end_file()?;
        Ok(NewFiles { files: std::mem::take(&mut self.files), target: self.target.clone() })
    }
}

impl Target {
    /// Removes files that no manifest names.
    fn remove(&self, numbers: impl Iterator<Item = u64>) {
        if self.control.check().is_err() {
            // As if the process had ended. What no manifest names is removed when the state is opened.
            return;
        }
        for number in numbers {
            // The next start tries again.
            let _ = self.storage.remove(&name_of(number));
        }
    }
}

impl Drop for RunWriter {
    fn drop(&mut self) {
        let unfinished = self.writer.as_ref().map(|writer| writer.number);
        self.target.remove(self.files.iter().map(|file| file.meta().number).chain(unfinished));
    }
}

/// Files that no manifest names yet. If nobody takes them, they are removed.
#[derive(Debug)]
pub(crate) struct NewFiles {
    files: Vec<Arc<RunFile>>,
    target: Target,
}

impl NewFiles {
    pub(crate) fn all(&self) -> &[Arc<RunFile>] {
        &self.files
    }

    /// They were to be named by a manifest. Removes them if there was no room for it; otherwise it names them, or may
    /// do so.
    pub(crate) fn settle<T>(self, done: &Result<T, EngineError>) {
        if !done.as_ref().is_err_and(EngineError::is_full_disk) {
            drop(self.take());
        }
    }

    /// A manifest names them, or may do so.
    pub(crate) fn take(mut self) -> Vec<Arc<RunFile>> {
        std::mem::take(&mut self.files)
    }
}

impl Drop for NewFiles {
    fn drop(&mut self) {
        self.target.remove(self.files.iter().map(|file| file.meta().number));
    }
}
