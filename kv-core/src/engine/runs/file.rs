//! A file of a run, to be read: every block is checked before anything of it is used.

use super::super::steps::{self, STEP_BYTES};
use super::super::{EngineError, steps::pace};
use super::block::{BLOCK_BYTES, Block};
use super::cache::{Cache, Keep};
use super::filter;
use super::index::{BlockRef, FileMeta, NodeRef, name_of};
use super::readahead::Readahead;
use crate::ids::Hash;
use crate::storage::{File, Storage};
use bytes::Bytes;
use std::io;
use std::sync::{Arc, OnceLock};

/// Large values are read in parts of this size, because the thread may have to yield in between.
const READ_AT_ONCE: usize = 64 << 10;

/// See the module.
#[derive(Debug)]
pub(crate) struct RunFile {
    meta: FileMeta,
    /// `None` if it does not exist any more: then the rest of a damaged state is read.
    file: Option<Arc<dyn File>>,
    cache: Arc<Cache>,
    readahead: Readahead,
    /// The highest block of the index, once it was read: every look-up needs it.
    root: OnceLock<Block>,
}

/// A row that was found: its place and its stored value.
pub(crate) type Found = (Bytes, Bytes);

impl RunFile {
    /// Opens a file. `all`: an absent file or one of another length is damage; otherwise it is damage when it is read.
    pub(crate) fn open(
        storage: &dyn Storage,
        meta: FileMeta,
        cache: &Arc<Cache>,
        all: bool,
    ) -> Result<Self, EngineError> {
        let name = name_of(meta.number);
        let file = match storage.open(&name) {
            Ok(file) => Some(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(EngineError::io("open", error)),
        };
        if all {
            let len = file.as_ref().map(|file| file.len()).transpose();
            let len = len.map_err(|error| EngineError::io("read", error))?;
            let detail = match len {
                Some(len) if len == meta.len => None,
                Some(len) => Some(format!("{name} is {len} bytes long and should have {}", meta.len)),
                None => Some(format!("{name} is missing")),
            };
            if let Some(detail) = detail {
                return Err(EngineError::damaged(detail));
            }
        }
        Ok(Self::new(meta, file, cache))
    }

    /// A file that was just written.
    pub(super) fn new(meta: FileMeta, file: Option<Arc<dyn File>>, cache: &Arc<Cache>) -> Self {
        if let Some(file) = &file {
            file.without_readahead();
        }
        Self { meta, file, cache: cache.clone(), readahead: Readahead::new(), root: OnceLock::new() }
    }

    #[cfg(test)]
    pub(super) fn file(&self) -> &dyn File {
        &**self.file.as_ref().expect("it exists")
    }

    pub(crate) fn meta(&self) -> &FileMeta {
        &self.meta
    }

    /// Reads a block and checks it.
    fn read(&self, at: &BlockRef, keep: Keep) -> Result<Bytes, EngineError> {
        let place = (self.meta.number, at.offset);
        if let Some(bytes) = self.cache.get(place) {
            return Ok(bytes);
        }
        let bytes = self.read_from_disk(at)?;
        self.cache.insert(place, &bytes, keep);
        Ok(bytes)
    }

    /// Reads a block of rows. `keep`: it may be needed again soon. A large value is not kept: many small ones are worth
    /// more.
    fn rows(&self, at: &BlockRef, keep: bool) -> Result<Block, EngineError> {
        let keep = if keep && at.len as usize <= BLOCK_BYTES { Keep::Rows } else { Keep::Not };
        Ok(Block::new(self.read(at, keep)?))
    }

    /// Reads a block of the index.
    fn index_block(&self, at: &BlockRef, keep: bool) -> Result<Block, EngineError> {
        if *at == self.meta.root.block {
            return self.root().cloned();
        }
        Ok(Block::new(self.read(at, if keep { Keep::Index } else { Keep::Not })?))
    }

    /// The highest block of the index.
    fn root(&self) -> Result<&Block, EngineError> {
        if let Some(root) = self.root.get() {
            return Ok(root);
        }
        let root = match self.read_from_disk(&self.meta.root.block) {
            Err(error) => self.read_from_disk(&self.second_root()).map_err(|_| error)?,
            Ok(root) => root,
        };
        Ok(self.root.get_or_init(|| Block::new(root)))
    }

    fn second_root(&self) -> BlockRef {
        BlockRef { offset: self.meta.second_root, ..self.meta.root.block }
    }

    /// Whether the keys of a filter may include this one. A filter only saves time: if it is damaged, the rows are
    /// looked at.
    fn may_hold(&self, filter: &BlockRef, hash: u64) -> Result<bool, EngineError> {
        match self.read(filter, Keep::Index) {
            Ok(filter) => Ok(filter::may_hold(&filter, hash)),
            Err(error) if error.is_of_content() => Ok(true),
            Err(error) => Err(error),
        }
    }

    fn read_from_disk(&self, at: &BlockRef) -> Result<Bytes, EngineError> {
        let Some(file) = &self.file else {
            return Err(EngineError::damaged(format!("{} is missing", name_of(self.meta.number))));
        };
        let mut bytes = vec![0; at.len as usize];
        for again in [false, true] {
            let read = self.fill(&**file, at.offset, &mut bytes);
            let good = match read {
                Ok(()) => Hash::of(&bytes).get() == at.hash,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => false,
                Err(error) => return Err(EngineError::io("read", error)),
            };
            if good {
                return Ok(bytes.into());
            }
            // Before it counts as bad, it is read past the system's cache: the fault may have been on the way from the
            // disk, or in memory.
            tracing::warn!(file = self.meta.number, at = at.offset, again, "a block of the state is bad");
            // Reading through the cache is better than not reading at all.
            let _ = file.drop_cache();
        }
        Err(EngineError::damaged(format!(
            "the block of {} bytes at byte {} of {} fails its checksum",
            at.len,
            at.offset,
            name_of(self.meta.number)
        )))
    }

    fn fill(&self, file: &dyn File, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let mut at = offset;
        for part in bytes.chunks_mut(READ_AT_ONCE) {
            self.readahead.reading(file, at..at + part.len() as u64);
            file.read_at(part, at)?;
            at += part.len() as u64;
            pace(part.len() / STEP_BYTES);
        }
        Ok(())
    }

    /// The first row at or after `place`, if it begins with `start`. `hash`: that of the key whose rows begin so.
    pub(super) fn find(
        &self,
        place: &[u8],
        start: &[u8],
        hash: Option<u64>,
    ) -> Result<Option<Found>, EngineError> {
        let is_behind = |first: &[u8]| first > place && !first.starts_with(start);
        if *self.meta.last() < place || is_behind(&self.meta.first) {
            return Ok(None);
        }
        let (mut at, mut filter) = (self.meta.root.block, self.meta.root.filter);
        let mut lower;
        for level in 0..self.meta.levels {
            if let (Some(filter), Some(hash)) = (&filter, hash)
                && !self.may_hold(filter, hash)?
            {
                return Ok(None);
            }
            let block = if level == 0 {
                self.root()?
            } else {
                lower = self.index_block(&at, true)?;
                &lower
            };
            let index = block.partition(|index| block.last(index) < place);
            if index >= block.len() {
                return Err(EngineError::inconsistent("an index ends too early"));
            }
            // A block that cannot be read hides only what is in it.
            if is_behind(block.place(index)) {
                return Ok(None);
            }
            (at, filter) = NodeRef::decode(block.value(index))?;
        }
        let block = self.rows(&at, true)?;
        let index = block.first_from(place);
        if !block.place(index).starts_with(start) {
            return Ok(None);
        }
        let value = block.shared_value(index);
        steps::count(value.len() / STEP_BYTES);
        Ok(Some((block.shared_place(index), value)))
    }

    /// Reads all blocks that begin at `from` or later, from the disk, about `most` bytes of them. Returns how many
    /// bytes it has read, and where it continues, if there are more.
    pub(crate) fn scrub(&self, from: u64, most: usize) -> Result<(usize, Option<u64>), EngineError> {
        let mut scrub = Scrub { file: self, from, most, read: 0, next: None };
        scrub.node(self.meta.root.block, self.meta.root.filter, self.meta.levels)?;
        scrub.block(&self.second_root())?;
        Ok((scrub.read, scrub.next))
    }
}

/// One step of a scrub. Blocks lie in the order in which they are finished: rows, their filter, their index.
struct Scrub<'a> {
    file: &'a RunFile,
    from: u64,
    most: usize,
    read: usize,
    next: Option<u64>,
}

impl Scrub<'_> {
    fn block(&mut self, at: &BlockRef) -> Result<(), EngineError> {
        if at.offset < self.from || self.next.is_some() {
            return Ok(());
        }
        if self.read >= self.most {
            self.next = Some(at.offset);
            return Ok(());
        }
        self.read += self.file.read_from_disk(at)?.len();
        Ok(())
    }

    fn node(&mut self, at: BlockRef, filter: Option<BlockRef>, levels: u8) -> Result<(), EngineError> {
        // It is the last of all that is below it.
        if at.offset < self.from || self.next.is_some() {
            return Ok(());
        }
        if levels > 0 {
            let block = self.file.index_block(&at, false)?;
            for index in 0..block.len() {
                let (at, filter) = NodeRef::decode(block.value(index))?;
                self.node(at, filter, levels - 1)?;
            }
        }
        if let Some(filter) = &filter {
            self.block(filter)?;
        }
        self.block(&at)
    }
}

/// Where a cursor goes within a block.
#[derive(Clone, Copy)]
pub(super) enum To<'a> {
    First,
    Last,
    /// The first row at or after this place, which is not behind the last one.
    From(&'a [u8]),
    /// The last row before this place, which is behind the first one.
    Before(&'a [u8]),
}

/// The row at which a cursor is.
#[derive(Debug)]
enum Leaf {
    Row(Block, usize),
    /// The first or the last row of a block. The index holds its place, so the block is read only when more is wanted:
    /// if it is damaged, that may never be.
    Edge(Edge),
}

#[derive(Debug)]
struct Edge {
    at: BlockRef,
    place: Bytes,
    is_last: bool,
    block: OnceLock<Block>,
}

impl Edge {
    /// Whether it is the only row of its block, and its value is a large one. That is read for each use, and not held.
    fn is_large(&self) -> bool {
        self.at.len as usize > BLOCK_BYTES + self.place.len()
    }

    fn value_len(&self) -> usize {
        (self.at.len as usize).saturating_sub(self.place.len())
    }

    /// The block, and which row of it this one is.
    fn row(&self, file: &RunFile, keep: bool) -> Result<(&Block, usize), EngineError> {
        let block = match self.block.get() {
            Some(block) => block,
            None => {
                let block = file.rows(&self.at, keep)?;
                self.block.get_or_init(|| block)
            }
        };
        let index = if self.is_last { block.len().saturating_sub(1) } else { 0 };
        if block.place(index) == self.place {
            Ok((block, index))
        } else {
            Err(EngineError::inconsistent("a block and its index differ"))
        }
    }
}

/// A cursor at a row of a file. Do not use it after an error.
#[derive(Debug)]
pub(super) struct FileCursor {
    file: Arc<RunFile>,
    /// The blocks of the index, from the root down, each at the entry that leads to the row.
    path: Vec<(Block, usize)>,
    leaf: Option<Leaf>,
    /// Whether what it reads may be needed again soon.
    keep: bool,
}

impl FileCursor {
    pub(super) fn new(file: Arc<RunFile>, keep: bool) -> Self {
        Self { file, path: Vec::new(), leaf: None, keep }
    }

    /// Moves to a row of the file. The caller has compared the place with the file's ends.
    pub(super) fn seek(&mut self, to: To<'_>) -> Result<(), EngineError> {
        self.path.clear();
        self.descend(to)
    }

    fn descend(&mut self, to: To<'_>) -> Result<(), EngineError> {
        for _ in self.path.len()..usize::from(self.file.meta.levels) {
            let at = match self.path.last() {
                None => self.file.meta.root.block,
                Some((block, index)) => NodeRef::decode(block.value(*index))?.0,
            };
            let block = self.file.index_block(&at, self.keep)?;
            let index = match to {
                To::First => 0,
                To::Last => block.len().wrapping_sub(1),
                To::From(place) => block.partition(|index| block.last(index) < place),
                To::Before(place) => block.first_from(place).wrapping_sub(1),
            };
            self.path.push((block, index));
        }
        let ends_early = || EngineError::inconsistent("an index ends too early");
        let (block, index) = self.path.last().ok_or_else(ends_early)?;
        if *index >= block.len() {
            return Err(ends_early());
        }
        let (first, last) = (block.place(*index), block.last(*index));
        let is_last = match to {
            To::First => Some(false),
            To::Last => Some(true),
            To::From(place) => (place <= first).then_some(false),
            To::Before(place) => (place > last).then_some(true),
        };
        let at = NodeRef::decode(block.value(*index))?.0;
        self.leaf = Some(match (is_last, to) {
            (Some(is_last), _) => {
                let place = if is_last { block.shared_last(*index) } else { block.shared_place(*index) };
                Leaf::Edge(Edge { at, place, is_last, block: OnceLock::new() })
            }
            (None, To::From(place)) => {
                let block = self.file.rows(&at, self.keep)?;
                let index = block.first_from(place);
                Leaf::Row(block, index)
            }
            (None, To::Before(place)) => {
                let block = self.file.rows(&at, self.keep)?;
                let index = block.first_from(place).wrapping_sub(1);
                Leaf::Row(block, index)
            }
            (None, To::First | To::Last) => return Err(ends_early()),
        });
        match &self.leaf {
            Some(Leaf::Row(block, index)) if *index >= block.len() => Err(ends_early()),
            _ => Ok(()),
        }
    }

    /// The place of the row; `None` at the end.
    pub(super) fn place(&self) -> Option<&[u8]> {
        match self.leaf.as_ref()? {
            Leaf::Row(block, index) => Some(block.place(*index)),
            Leaf::Edge(edge) => Some(&edge.place),
        }
    }

    /// The length of the stored value; of a large one, about.
    pub(super) fn value_len(&self) -> Result<usize, EngineError> {
        match &self.leaf {
            Some(Leaf::Edge(edge)) if edge.is_large() => Ok(edge.value_len()),
            _ => Ok(self.small_value()?.map_or(0, <[u8]>::len)),
        }
    }

    /// The stored value, unless it is a large one. Those remove nothing.
    pub(super) fn small_value(&self) -> Result<Option<&[u8]>, EngineError> {
        let (block, index) = match &self.leaf {
            Some(Leaf::Row(block, index)) => (block, *index),
            Some(Leaf::Edge(edge)) if !edge.is_large() => edge.row(&self.file, self.keep)?,
            Some(Leaf::Edge(_)) | None => return Ok(None),
        };
        Ok(Some(block.value(index)))
    }

    /// The stored value, as a part of its block.
    pub(super) fn value(&self) -> Result<Bytes, EngineError> {
        let (block, index) = match &self.leaf {
            Some(Leaf::Row(block, index)) => (block, *index),
            Some(Leaf::Edge(edge)) if edge.is_large() => {
                return Ok(self.file.rows(&edge.at, self.keep)?.shared_value(0));
            }
            Some(Leaf::Edge(edge)) => edge.row(&self.file, self.keep)?,
            None => return Ok(Bytes::new()),
        };
        Ok(block.shared_value(index))
    }

    /// Moves to the next row, or in reverse to the one before.
    pub(super) fn advance(&mut self, reverse: bool) -> Result<(), EngineError> {
        let step = |index: usize, len: usize| {
            if reverse { index.checked_sub(1) } else { Some(index + 1).filter(|next| *next < len) }
        };
        let (block, index) = match self.leaf.take() {
            Some(Leaf::Row(block, index)) => (block, index),
            // There is no other row in this direction.
            Some(Leaf::Edge(edge)) if edge.is_large() || edge.is_last != reverse => (Block::default(), 0),
            Some(Leaf::Edge(edge)) => {
                let (block, index) = edge.row(&self.file, self.keep)?;
                (block.clone(), index)
            }
            None => return Ok(()),
        };
        if let Some(next) = step(index, block.len()) {
            self.leaf = Some(Leaf::Row(block, next));
            return Ok(());
        }
        while let Some((block, index)) = self.path.last_mut() {
            if let Some(next) = step(*index, block.len()) {
                *index = next;
                return self.descend(if reverse { To::Last } else { To::First });
            }
            self.path.pop();
        }
        Ok(())
    }
}
