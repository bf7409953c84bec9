//! Segment files: their names, their headers, and their creation.
//!
//! The first block of a segment is its header, eight times, once in each sector:
//! ```text
//! checksum u64 | magic [8] | format u32 | generation u32 | cluster u128 | member u32 | file u32 | blocks u32
//! ```
//! A file is filled with zeros once, under another name. To recycle it, a header with a new generation is written. That
//! header is durable, and named in the superblock, before the first entry is written.

use super::block::{self, BLOCK_BYTES, SECTOR_BYTES, u32_at, u64_at, u128_at};
use super::location::{Generation, SegmentNumber};
use crate::ids::{ClusterId, MemberId};
use crate::storage::{File, Storage};
use std::io;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

const PREFIX: &str = "journal-";
const NEW_NAME: &str = "journal.new";
const MAGIC: [u8; 8] = *b"kvjournl";
pub(super) const FORMAT: u32 = 4;
const HEADER_BYTES: usize = 8 + 8 + 4 + 4 + 16 + 4 + 4 + 4;
/// The largest number of blocks in a segment: 1 GiB.
pub(super) const MOST_BLOCKS: u32 = 1 << 18;
/// Zeros are written in pieces of this size.
const FILL_BYTES: usize = 1 << 20;

/// The owner of the segments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Owner {
    pub(super) cluster: ClusterId,
    pub(super) member: MemberId,
}

/// A segment file.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) number: SegmentNumber,
    pub(super) file: Arc<dyn File>,
    /// The length of the file in blocks, header included.
    pub(super) blocks: u32,
}

/// The header block of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Header {
    /// Zeros: the file has never been used.
    Blank,
    /// The greatest generation in an intact copy, the length of the file when it was created, and whether all copies
    /// agree.
    Known { generation: Generation, blocks: u32, complete: bool },
    /// No copy is intact.
    Damaged,
    /// An intact copy belongs to another member.
    Foreign,
    /// An intact copy has another format.
    OtherFormat(u32),
}

pub(super) fn name(number: SegmentNumber) -> String {
    format!("{PREFIX}{:08}", number.get())
}

/// The number in a segment's name; `None` if it is not the name of a segment.
pub(super) fn parse_name(name: &str) -> Option<SegmentNumber> {
    let digits = name.strip_prefix(PREFIX)?;
    let number = digits.parse().ok().map(SegmentNumber::new)?;
    (self::name(number) == name).then_some(number)
}

/// Whether this is the name of a segment, or of one that is being created.
pub(crate) fn is_segment(name: &str) -> bool {
    name == NEW_NAME || parse_name(name).is_some()
}

impl Segment {
    /// Creates a file of zeros, and gives it its name only when all of it is durable: a shorter one would be damaged,
    /// not new.
    pub(super) fn create(storage: &dyn Storage, number: SegmentNumber, blocks: u32) -> io::Result<Self> {
        match storage.remove(NEW_NAME) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let segment = Self { number, file: storage.create(NEW_NAME)?, blocks };
        if let Err(error) = segment.fill() {
            if error.kind() == io::ErrorKind::StorageFull {
                // Others need the space that it occupies.
                let _ = storage.remove(NEW_NAME);
            }
            return Err(error);
        }
        storage.rename(NEW_NAME, &name(number))?;
        storage.sync_directory()?;
        Ok(segment)
    }

    /// Overwrites the whole file with zeros, durably.
    pub(super) fn fill(&self) -> io::Result<()> {
        let bytes = self.blocks as usize * BLOCK_BYTES;
        let zeros = vec![0; FILL_BYTES.min(bytes)];
        for from in (0..bytes).step_by(FILL_BYTES) {
            self.file.write_at(&zeros[..zeros.len().min(bytes - from)], from as u64)?;
        }
        self.file.sync()
    }

    /// Begins a new generation: nothing in the file counts any more.
    pub(super) fn begin(&self, generation: Generation, owner: Owner) -> io::Result<()> {
        self.write_header(generation, owner)?;
        self.file.sync()
    }

    /// Writes the header, without syncing it.
    pub(super) fn write_header(&self, generation: Generation, owner: Owner) -> io::Result<()> {
        let mut header = vec![0; 8];
        header.extend_from_slice(&MAGIC);
        header.extend_from_slice(&FORMAT.to_le_bytes());
        header.extend_from_slice(&generation.get().to_le_bytes());
        header.extend_from_slice(&owner.cluster.get().to_le_bytes());
        header.extend_from_slice(&u32::from(owner.member.get()).to_le_bytes());
        header.extend_from_slice(&self.number.get().to_le_bytes());
        header.extend_from_slice(&self.blocks.to_le_bytes());
        header.resize(SECTOR_BYTES, 0);
        let checksum = xxh3_64(&header[8..]);
        header[..8].copy_from_slice(&checksum.to_le_bytes());
        self.file.write_at(&header.repeat(BLOCK_BYTES / SECTOR_BYTES), 0)
    }
}

/// Reads a header block.
pub(super) fn decode_header(block: &[u8], number: SegmentNumber, owner: Owner) -> Header {
    if block::is_zero(block) {
        return Header::Blank;
    }
    let mut known: Option<(Generation, u32)> = None;
    let mut complete = true;
    for sector in block.chunks_exact(SECTOR_BYTES) {
        if xxh3_64(&sector[8..]) != u64_at(sector, 0) || sector[8..16] != MAGIC {
            complete = false;
            continue;
        }
        let format = u32_at(sector, 16);
        if format != FORMAT {
            return Header::OtherFormat(format);
        }
        let found = (u128_at(sector, 24), u32_at(sector, 40), u32_at(sector, 44));
        if found != (owner.cluster.get(), u32::from(owner.member.get()), number.get()) {
            return Header::Foreign;
        }
        let read = (Generation::new(u32_at(sector, 20)), u32_at(sector, 48));
        complete &= known.is_none_or(|other| other == read);
        known = known.max(Some(read));
    }
    match known {
        Some((generation, blocks)) if blocks <= MOST_BLOCKS => Header::Known { generation, blocks, complete },
        _ => Header::Damaged,
    }
}

const _: () = assert!(HEADER_BYTES <= SECTOR_BYTES, "a header fits a sector");
