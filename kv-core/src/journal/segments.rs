//! The segment files in use: writing at the end, moving on to the next, and releasing the oldest.

use super::block::{BLOCK_BYTES, Seed};
use super::error::JournalWriteError;
use super::location::{EntryLocation, Generation, Position, SegmentNumber};
use super::reader::LogReader;
use super::record;
use super::recovery::Unsynced;
use super::scan::{Scan, offset};
use super::segment::{self, Header, Owner, Segment};
use super::superblock::Superblock;
use crate::ids::{Incarnation, Op};
use crate::storage::Storage;
use std::io;
use std::sync::Arc;

/// How many unused files are kept for recycling.
const SPARES: usize = 2;

/// A segment that holds, or will hold, entries of the log.
#[derive(Debug)]
struct Active {
    segment: Segment,
    generation: Generation,
    /// All entries of the log in it are at or below this op.
    last: Op,
    /// As in [`Spare`], which it becomes.
    damaged: bool,
}

/// A file to be recycled.
#[derive(Debug)]
struct Spare {
    segment: Segment,
    /// Whether it holds sectors that would look damaged in a new generation.
    damaged: bool,
}

#[derive(Debug)]
pub(super) struct Segments {
    storage: Arc<dyn Storage>,
    owner: Owner,
    /// The size of new segments in blocks, unless an entry needs a larger one.
    blocks: u32,
    /// In the order of generations.
    active: Vec<Active>,
    spares: Vec<Spare>,
    /// The number of the next file.
    next_number: u32,
    /// The greatest generation so far.
    newest: Generation,
    /// The greatest generation in which an earlier life can have written.
    registered: Generation,
    /// The next free block in the last active segment; `None` if nothing may be written to it.
    next_block: Option<u32>,
}

fn failed(doing: &'static str, segment: &Segment) -> impl FnOnce(io::Error) -> JournalWriteError {
    let doing = format!("{doing} {}", segment::name(segment.number));
    move |source| JournalWriteError::Disk { doing, source }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl Segments {
    pub(super) fn new(storage: Arc<dyn Storage>, owner: Owner, blocks: u32, registered: Generation) -> Self {
        Self {
            storage,
            owner,
            blocks,
            active: Vec::new(),
            spares: Vec::new(),
            next_number: 0,
            newest: registered,
            registered,
            next_block: None,
        }
    }

    /// Registers a file that recovery has read. `last` is the greatest op of the log in it.
    pub(super) fn register(&mut self, scan: &Scan, last: Op, superblock: &Superblock) {
        let Scan { segment, generation, .. } = scan;
        self.next_number = self.next_number.max(segment.number.get().saturating_add(1));
        self.newest = self.newest.max(*generation);
        if *generation > superblock.generation || *generation < superblock.oldest || scan.is_blank() {
            self.spares.push(Spare { segment: segment.clone(), damaged: scan.is_damaged() });
            return;
        }
        let damaged = scan.is_damaged();
        self.active.push(Active { segment: segment.clone(), generation: *generation, last, damaged });
        self.active.sort_by_key(|active| active.generation);
        if *generation == superblock.generation && *generation > Generation::ZERO {
            // Everything before the last cut is void, so nothing new may be written there.
            let settled = superblock.cuts.settled().position;
            let settled = if settled.generation == *generation { settled.block } else { 0 };
            self.next_block = Some(scan.used.max(settled));
        }
    }

    /// Creates spare files before they are needed.
    pub(super) fn prepare(&mut self, reader: &LogReader) -> Result<(), JournalWriteError> {
        while self.spares.len() < SPARES {
            let segment = self.create(self.blocks, reader)?;
            self.spares.push(Spare { segment, damaged: false });
        }
        Ok(())
    }

    fn create(&mut self, blocks: u32, reader: &LogReader) -> Result<Segment, JournalWriteError> {
        let number = SegmentNumber::new(self.next_number);
        self.next_number = self.next_number.checked_add(1).ok_or(JournalWriteError::Exhausted)?;
        let segment = loop {
            match Segment::create(&*self.storage, number, blocks) {
                Ok(segment) => break segment,
                // Nothing was promised yet: unlike any other write, this one may fail and be retried (rule D4).
                Err(full) if is_full(&full) && self.storage.wait_for_room(&full) => {}
                Err(source) => {
                    let doing = format!("create {}", segment::name(number));
                    return Err(JournalWriteError::Disk { doing, source });
                }
            }
        };
        reader.add_file(&segment);
        Ok(segment)
    }

    /// Whether this many blocks fit into the present segment.
    pub(super) fn has_room(&self, blocks: u32) -> bool {
        let last = self.active.last().map_or(0, |active| active.segment.blocks);
        self.next_block.is_some_and(|next| last - next.min(last) >= blocks)
    }

    /// Whether the segment that was written last is missing. Then nothing can be written before the next one is begun.
    pub(super) fn is_newest_missing(&self) -> bool {
        self.next_block.is_none() && self.newest > Generation::ZERO
    }

    /// Everything written so far is before this position.
    pub(super) fn frontier(&self) -> Position {
        match (self.next_block, self.active.last()) {
            (Some(block), Some(last)) => Position { generation: last.generation, block },
            // Not the newest one: the header that shows it may never have reached the disk. Then the same generation
            // begins again after a power cut, and what is written in it must not count as written before.
            _ => Position { generation: self.registered, block: u32::MAX },
        }
    }

    /// Moves on to an empty segment with room for an entry of `needed` blocks. Its generation must be made durable in
    /// the superblock before anything is written. Rule D9: an entry that is larger than the segments gets one of its
    /// own size, which is not recycled.
    pub(super) fn roll(&mut self, needed: u32, reader: &LogReader) -> Result<Generation, JournalWriteError> {
        let generation = self.newest.next().ok_or(JournalWriteError::Exhausted)?;
        let blocks = self.blocks.max(needed + 1);
        assert!(blocks <= segment::MOST_BLOCKS, "larger entries are refused before");
        let fitting = self.spares.iter().position(|spare| spare.segment.blocks == blocks);
        let segment = match fitting.map(|spare| self.spares.swap_remove(spare)) {
            Some(spare) => {
                if spare.damaged {
                    spare.segment.fill().map_err(failed("clear", &spare.segment))?;
                }
                spare.segment
            }
            None => self.create(blocks, reader)?,
        };
        let last = self.active.last().map_or(Generation::ZERO, |active| active.generation);
        assert!(generation > last, "generations are the order of writing");
        segment.begin(generation, self.owner).map_err(failed("begin", &segment))?;
        self.newest = generation;
        self.active.push(Active { segment, generation, last: Op::ZERO, damaged: false });
        self.next_block = Some(1);
        Ok(generation)
    }

    /// The location of an entry of `blocks`, `ahead` blocks after the next free one.
    pub(super) fn place(&self, ahead: u32, blocks: u32, incarnation: Incarnation) -> (EntryLocation, Seed) {
        let last = self.active.last().expect("has_room has found a segment");
        let next = self.next_block.expect("has_room has found a segment");
        let (segment, generation) = (last.segment.number, last.generation);
        assert!(next + ahead + blocks <= last.segment.blocks, "an entry is within one segment");
        let place = EntryLocation { segment, generation, block: next + ahead, blocks, incarnation };
        (place, Seed::new(self.owner.cluster, self.owner.member, segment))
    }

    /// Writes whole blocks at the end, durably. They hold entries up to `last`.
    pub(super) fn write(&mut self, bytes: &[u8], last: Op) -> Result<(), JournalWriteError> {
        let active = self.active.last_mut().expect("has_room has found a segment");
        let next = self.next_block.as_mut().expect("has_room has found a segment");
        active.last = active.last.max(last);
        let segment = &active.segment;
        let blocks = u32::try_from(bytes.len() / BLOCK_BYTES).expect("has_room has measured it");
        assert!(bytes.len().is_multiple_of(BLOCK_BYTES), "a block holds one entry only, or a part of it");
        assert!(*next + blocks <= segment.blocks, "a file keeps the size in its header");
        segment.file.write_at(bytes, offset(*next)).map_err(failed("write", segment))?;
        // One sync for all of it, before anything is acknowledged. After a failed sync nothing is known about these
        // blocks: the caller stops, and the next opening judges what is really there.
        segment.file.sync().map_err(failed("sync", segment))?;
        *next += blocks;
        Ok(())
    }

    /// Entries above `op` are void.
    pub(super) fn cut(&mut self, op: Op) {
        for active in &mut self.active {
            active.last = active.last.min(op);
        }
    }

    /// The generation of the oldest remaining segment when the oldest `count` are released.
    pub(super) fn oldest_after(&self, count: usize) -> Generation {
        self.active.get(count).map_or(Generation::ZERO, |active| active.generation)
    }

    pub(super) fn is_active(&self, generation: Generation) -> bool {
        self.active.iter().any(|active| active.generation == generation)
    }

    fn of(&self, generation: Generation) -> Option<&Segment> {
        self.active.iter().find(|active| active.generation == generation).map(|active| &active.segment)
    }

    /// How many of the oldest segments hold nothing above `limit`, and the greatest op in them. The newest one never
    /// counts.
    pub(super) fn droppable(&self, limit: Op) -> (usize, Op) {
        let older = &self.active[..self.active.len().saturating_sub(1)];
        let count = older.iter().take_while(|active| active.last <= limit).count();
        (count, older[..count].iter().map(|active| active.last).fold(Op::ZERO, Op::max))
    }

    /// Releases the oldest `count` segments: some files are kept for recycling, the others are removed and returned.
    pub(super) fn release(&mut self, count: usize) -> Result<Vec<SegmentNumber>, JournalWriteError> {
        assert!(count < self.active.len(), "the newest segment is being written");
        let released = self.active.drain(..count);
        self.spares.extend(released.map(|Active { segment, damaged, .. }| Spare { segment, damaged }));
        let blocks = self.blocks;
        self.spares.sort_by_key(|spare| spare.segment.blocks != blocks);
        let is_odd = |spare: &Spare| spare.segment.blocks != blocks;
        let mut removed = Vec::new();
        while self.spares.len() > SPARES || self.spares.last().is_some_and(is_odd) {
            let Some(Spare { segment, .. }) = self.spares.pop() else { break };
            self.storage.remove(&segment::name(segment.number)).map_err(failed("remove", &segment))?;
            removed.push(segment.number);
        }
        Ok(removed)
    }

    /// Overwrites blocks with zeros. Only for void blocks before the last cut.
    pub(super) fn erase(
        &self,
        places: impl Iterator<Item = (Position, u32)>,
    ) -> Result<(), JournalWriteError> {
        let mut touched = Vec::new();
        for (position, blocks) in places {
            let Some(segment) = self.of(position.generation) else { continue };
            let frontier = self.frontier();
            assert!(position < frontier, "what is erased was written before the last cut");
            let zeros = vec![0; blocks as usize * BLOCK_BYTES];
            segment.file.write_at(&zeros, offset(position.block)).map_err(failed("write", segment))?;
            if !touched.contains(&position.generation) {
                touched.push(position.generation);
            }
        }
        for segment in touched.into_iter().filter_map(|generation| self.of(generation)) {
            segment.file.sync().map_err(failed("sync", segment))?;
        }
        Ok(())
    }

    /// Rewrites, unchanged, incomplete headers and these entries, and makes them durable. What can be read may never
    /// have reached the disk, if the previous process crashed or one of its syncs failed. (This is the only exception
    /// to "an acknowledged block is never written again". The bytes are the same, so a power cut changes nothing in
    /// them.)
    pub(super) fn rewrite(&self, scans: &[Scan], unsynced: &[Unsynced]) -> Result<(), JournalWriteError> {
        for Active { segment, generation, .. } in &self.active {
            let header =
                scans.iter().find(|scan| scan.segment.number == segment.number).map(|scan| scan.header);
            let whole = Header::Known { generation: *generation, blocks: segment.blocks, complete: true };
            let mut touched = false;
            if header != Some(whole) && *generation > Generation::ZERO {
                segment.write_header(*generation, self.owner).map_err(failed("repair", segment))?;
                touched = true;
            }
            for entry in unsynced.iter().filter(|entry| entry.place.generation == *generation) {
                self.write_again(segment, entry).map_err(failed("write again", segment))?;
                touched = true;
            }
            if touched {
                segment.file.sync().map_err(failed("sync", segment))?;
            }
        }
        Ok(())
    }

    fn write_again(&self, segment: &Segment, entry: &Unsynced) -> io::Result<()> {
        let Unsynced { op, hash, place } = entry;
        let seed = Seed::new(self.owner.cluster, self.owner.member, segment.number);
        let mut blocks = vec![0; place.blocks as usize * BLOCK_BYTES];
        segment.file.read_at(&mut blocks, offset(place.block))?;
        match record::decode_blocks(&blocks, place, *op, *hash, self.owner.cluster, seed) {
            Some(_) => segment.file.write_at(&blocks, offset(place.block)),
            None => Err(io::Error::new(io::ErrorKind::InvalidData, "it reads differently now")),
        }
    }
}
