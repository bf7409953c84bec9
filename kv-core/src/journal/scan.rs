//! Reads a segment from front to back: which entries are intact, and what else was written.

use super::block::{self, BLOCK_BYTES, BLOCK_PAYLOAD, BlockState, Sector, Seed, Stamp};
use super::location::{EntryLocation, Generation, Position, SegmentNumber};
use super::record::{self, Local};
use super::segment::{self, Header, MOST_BLOCKS, Owner, Segment};
use crate::ids::{Hash, Incarnation, Op, Revision};
use crate::message::EntryMeta;
use crate::storage::File;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

/// How many blocks are read at once.
const WINDOW: u32 = 256;

/// An intact entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) op: Op,
    pub(super) parent: Hash,
    pub(super) first_revision: Revision,
    pub(super) meta: EntryMeta,
    pub(super) place: EntryLocation,
}

/// The intact entries that no cut has voided; of two at one op, the one that was written last.
pub(super) type Live = BTreeMap<Op, Found>;

/// A block that was written in this generation and is not part of an intact entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Remnant {
    /// Intact, but part of an entry that was never written completely.
    Fragment { op: Op, incarnation: Incarnation },
    /// Damaged, or part of something that cannot have been written. It is identified by its intact sectors, if they
    /// agree.
    Damaged { known: Option<(Op, Incarnation)> },
}

impl Remnant {
    /// The op and incarnation of the block, if known.
    pub(super) const fn stamp(&self) -> Option<(Op, Incarnation)> {
        match *self {
            Self::Fragment { op, incarnation } => Some((op, incarnation)),
            Self::Damaged { known } => known,
        }
    }
}

/// A statement found at a position: everything up to `synced_through` was durable when it was written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    pub(super) synced_through: Op,
    pub(super) incarnation: Incarnation,
    pub(super) position: Position,
}

/// The content of a segment.
#[derive(Debug)]
pub(super) struct Scan {
    pub(super) segment: Segment,
    /// The generation in the header or, if sectors are of later ones, the latest of those.
    pub(super) generation: Generation,
    pub(super) header: Header,
    pub(super) found: Vec<Found>,
    pub(super) remnants: Vec<(Position, Remnant)>,
    pub(super) claims: Vec<Claim>,
    /// The first block after everything that was ever written in this generation. At least 1.
    pub(super) used: u32,
}

impl Scan {
    /// Whether the file has never been used.
    pub(super) fn is_blank(&self) -> bool {
        self.header == Header::Blank && self.generation == Generation::ZERO
    }

    /// Whether a sector holds what was never written there.
    pub(super) fn is_damaged(&self) -> bool {
        self.remnants.iter().any(|(_, remnant)| matches!(remnant, Remnant::Damaged { .. }))
    }

    /// The incarnations of everything that was written in this generation.
    pub(super) fn incarnations(&self) -> impl Iterator<Item = Incarnation> {
        let fragments = self.remnants.iter().filter_map(|(_, remnant)| match remnant {
            Remnant::Fragment { incarnation, .. } => Some(*incarnation),
            Remnant::Damaged { .. } => None,
        });
        self.found.iter().map(|found| found.place.incarnation).chain(fragments)
    }
}

/// Reads a segment file. Unreadable parts count as damaged.
pub(super) fn scan(number: SegmentNumber, file: Arc<dyn File>, owner: Owner) -> io::Result<Scan> {
    let mut header = [0; BLOCK_BYTES];
    let header = match file.read_at(&mut header, 0) {
        Ok(()) => segment::decode_header(&header, number, owner),
        Err(_) => Header::Damaged,
    };
    let length = file.len()? / BLOCK_BYTES as u64;
    let length = u32::try_from(length).unwrap_or(MOST_BLOCKS).min(MOST_BLOCKS);
    let (mut generation, blocks) = match header {
        Header::Known { generation, blocks, .. } => (generation, blocks),
        Header::Blank | Header::Damaged | Header::Foreign | Header::OtherFormat(_) => {
            (Generation::ZERO, length)
        }
    };
    let segment = Segment { number, file, blocks };
    let mut reader = Reader::new(&segment, owner, generation);
    reader.read_all();
    // The header is damaged, or a write of it was lost. The sectors show the generation, and the blocks are judged
    // again by it: the first pass took the newest of them for something strange.
    if reader.newest > generation {
        generation = reader.newest;
        reader = Reader::new(&segment, owner, generation);
        reader.read_all();
    }
    let Reader { found, remnants, claims, used, .. } = reader;
    Ok(Scan { generation, header, found, remnants, claims, used, segment })
}

/// Reads the blocks in order and assembles entries.
struct Reader<'a> {
    segment: &'a Segment,
    owner: Owner,
    seed: Seed,
    generation: Generation,
    /// The latest generation found in a sector.
    newest: Generation,
    building: Option<Building>,
    found: Vec<Found>,
    remnants: Vec<(Position, Remnant)>,
    claims: Vec<Claim>,
    used: u32,
}

/// An entry whose blocks so far are all whole.
struct Building {
    start: u32,
    stamp: Stamp,
    length: usize,
    record: Vec<u8>,
}

impl<'a> Reader<'a> {
    fn new(segment: &'a Segment, owner: Owner, generation: Generation) -> Self {
        Self {
            segment,
            owner,
            seed: Seed::new(owner.cluster, owner.member, segment.number),
            generation,
            newest: generation,
            building: None,
            found: Vec::new(),
            remnants: Vec::new(),
            claims: Vec::new(),
            used: 1,
        }
    }

    fn read_all(&mut self) {
        let mut window = vec![0; WINDOW.min(self.segment.blocks) as usize * BLOCK_BYTES];
        let mut at = 1;
        while at < self.segment.blocks {
            let blocks = WINDOW.min(self.segment.blocks - at);
            let window = &mut window[..blocks as usize * BLOCK_BYTES];
            if self.segment.file.read_at(window, offset(at)).is_err() {
                // One unreadable sector must cost the block that it is in, not all blocks of the window.
                read_block_by_block(&*self.segment.file, window, at);
            }
            for (block, bytes) in (at..).zip(window.chunks_exact(BLOCK_BYTES)) {
                self.on_block(block, bytes);
            }
            at += blocks;
        }
        self.abandon();
    }

    fn on_block(&mut self, at: u32, bytes: &[u8]) {
        let sectors = block::sectors(bytes, self.generation, self.seed, at);
        for sector in &sectors {
            if let Sector::Newer(generation) = sector {
                self.newest = self.newest.max(*generation);
            }
        }
        let state = block::classify_block(&sectors);
        if state != BlockState::Untouched {
            // Damaged blocks count as used: the next write must not destroy the last trace of what was there.
            self.used = at + 1;
        }
        if let Sector::Current(stamp) = sectors[0] {
            self.note_claim(at, stamp, bytes);
        }
        match state {
            BlockState::Whole(stamp) if is_sane(stamp) => self.on_whole(at, stamp, bytes),
            BlockState::Torn(stamp) if is_sane(stamp) => {
                self.abandon();
                self.remnant(at, fragment(stamp));
            }
            BlockState::Untouched => self.abandon(),
            BlockState::Whole(_) | BlockState::Torn(_) | BlockState::Damaged => {
                self.abandon();
                self.remnant(at, Remnant::Damaged { known: identify(&sectors) });
            }
        }
    }

    fn on_whole(&mut self, at: u32, stamp: Stamp, bytes: &[u8]) {
        // The next block of the entry that is being assembled; anything else ends that entry.
        let expected = self.building.as_ref().map(|b| Stamp { index: at - b.start, ..b.stamp });
        if expected != Some(stamp) {
            self.abandon();
            if stamp.index > 0 {
                return self.remnant(at, fragment(stamp));
            }
            let local = block::payload(bytes).next().and_then(Local::decode);
            let rest = (self.segment.blocks - at) as usize * BLOCK_PAYLOAD;
            let Some(local) = local.filter(|local| local.length <= rest) else {
                return self.remnant(at, damaged(stamp));
            };
            self.building = Some(Building { start: at, stamp, length: local.length, record: Vec::new() });
        }
        let building = self.building.as_mut().expect("it was there or has just begun");
        block::payload(bytes).for_each(|payload| building.record.extend_from_slice(payload));
        if building.record.len() >= building.length {
            self.finish(at);
        }
    }

    /// Block `last` completes the entry.
    fn finish(&mut self, last: u32) {
        let Some(Building { start, stamp, record, .. }) = self.building.take() else { return };
        let Some((entry, hash, local)) = record::decode(record, stamp.op, self.owner.cluster) else {
            return (start..=last).for_each(|at| self.remnant(at, damaged(stamp)));
        };
        let header = &entry.header;
        let meta = EntryMeta::with_hash(header, hash).written_at(local.written);
        let place = EntryLocation {
            segment: self.segment.number,
            generation: self.generation,
            block: start,
            blocks: last + 1 - start,
            incarnation: stamp.incarnation,
        };
        let (parent, first_revision) = (header.parent, header.first_revision);
        self.found.push(Found { op: stamp.op, parent, first_revision, meta, place });
    }

    /// The entry in progress is incomplete.
    fn abandon(&mut self) {
        if let Some(Building { start, stamp, record, .. }) = self.building.take() {
            let blocks = u32::try_from(record.len() / BLOCK_PAYLOAD).expect("within a segment");
            (start..start + blocks).for_each(|at| self.remnant(at, fragment(stamp)));
        }
    }

    fn remnant(&mut self, at: u32, remnant: Remnant) {
        self.remnants.push((Position { generation: self.generation, block: at }, remnant));
    }

    /// The first sector of an entry counts by itself, whatever happened to the others.
    fn note_claim(&mut self, at: u32, stamp: Stamp, bytes: &[u8]) {
        let local = block::payload(bytes).next().and_then(Local::decode);
        if let Some(local) = local.filter(|_| stamp.index == 0 && is_sane(stamp)) {
            self.claims.push(Claim {
                synced_through: local.synced_through,
                incarnation: stamp.incarnation,
                position: Position { generation: self.generation, block: at },
            });
        }
    }
}

fn fragment(stamp: Stamp) -> Remnant {
    Remnant::Fragment { op: stamp.op, incarnation: stamp.incarnation }
}

fn damaged(stamp: Stamp) -> Remnant {
    Remnant::Damaged { known: Some((stamp.op, stamp.incarnation)) }
}

/// What the intact sectors of a damaged block agree on.
fn identify(sectors: &[Sector]) -> Option<(Op, Incarnation)> {
    let mut stamps = sectors.iter().filter_map(|sector| match sector {
        Sector::Current(stamp) => Some(*stamp),
        Sector::Zero | Sector::Older | Sector::Newer(_) | Sector::Bad => None,
    });
    let first = stamps.next().filter(|stamp| is_sane(*stamp))?;
    stamps.all(|stamp| stamp == first).then_some((first.op, first.incarnation))
}

fn is_sane(stamp: Stamp) -> bool {
    stamp.op > Op::ZERO && record::in_range(&[stamp.op.get(), stamp.incarnation.get()])
}

pub(super) fn offset(block: u32) -> u64 {
    u64::from(block) * BLOCK_BYTES as u64
}

/// Reads what can be read. The rest is filled with bytes that match no checksum.
fn read_block_by_block(file: &dyn File, window: &mut [u8], first: u32) {
    for (at, block) in (first..).zip(window.chunks_exact_mut(BLOCK_BYTES)) {
        if file.read_at(block, offset(at)).is_err() {
            block.fill(0xEE);
        }
    }
}
