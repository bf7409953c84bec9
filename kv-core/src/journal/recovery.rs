//! Derives the log from what is on disk: which entries count, where the log ends, and whether that end can be trusted.
//! Pure: it neither reads nor writes.

use super::chain::{Chain, ChainEntry, HeldPastGap};
use super::damage::{self, Claims};
use super::error::OpenError;
use super::location::{EntryLocation, Generation, Position};
use super::reader;
use super::scan::{Claim, Found, Live, Remnant, Scan};
use super::segment::{self, Header};
use super::superblock::{Mark, Superblock};
use super::verdict::{Checkpoint, Conditions, Newest, Synced, Tail, Verdict};
use crate::ids::{Anchor, Hash, Incarnation, Op};
use crate::message::Extent;
use std::collections::{BTreeMap, VecDeque};

/// The result of recovery.
#[derive(Debug)]
pub(super) struct Recovery {
    pub(super) chain: Chain,
    /// The slots from the op above the superblock's floor to the head, for readers.
    pub(super) slots: Vec<reader::Recovered>,
    pub(super) verdict: Verdict,
    pub(super) why: &'static str,
    /// Intact entries above the first bad one.
    pub(super) past_gap: BTreeMap<Op, HeldPastGap>,
    /// How far the log may have reached, if its end cannot be trusted.
    pub(super) extent: Extent,
    /// Everything up to this op was durable once, and is not cut.
    pub(super) synced: Op,
    /// Entries of the log that nothing on disk proves to be synced.
    pub(super) unsynced: Vec<Unsynced>,
    /// Blocks that are not part of the log but can be identified.
    pub(super) orphans: Vec<OrphanBlock>,
}

impl Recovery {
    /// The greatest op of the log in each segment that holds any.
    pub(super) fn last_by_generation(&self) -> BTreeMap<Generation, Op> {
        let mut last = BTreeMap::new();
        let head = self.chain.head().anchor.op;
        let ops = (0..).map(|below| head.back(below));
        for (op, (_, place)) in ops.zip(self.slots.iter().rev()).filter_map(|(op, slot)| Some((op, (*slot)?)))
        {
            last.entry(place.generation).or_insert(op);
        }
        for (op, hidden) in &self.past_gap {
            last.insert(hidden.held.place.generation, *op);
        }
        last
    }
}

/// An entry that may only be in the system's cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Unsynced {
    pub(super) op: Op,
    pub(super) hash: Hash,
    pub(super) place: EntryLocation,
}

/// Written blocks that are not part of the log: cut, torn, or in the way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct OrphanBlock {
    pub(super) op: Op,
    pub(super) incarnation: Incarnation,
    pub(super) position: Position,
    pub(super) blocks: u32,
}

impl OrphanBlock {
    pub(super) const fn of(op: Op, place: &EntryLocation) -> Self {
        Self { op, incarnation: place.incarnation, position: place.start(), blocks: place.blocks }
    }
}

/// Refuses files that do not belong to this journal, or that the superblock cannot know.
pub(super) fn check_files(superblock: &Superblock, scans: &[Scan]) -> Result<(), OpenError> {
    for scan in scans {
        let file = segment::name(scan.segment.number);
        match scan.header {
            Header::Foreign => return Err(OpenError::ForeignSegment { file }),
            Header::OtherFormat(found) if found > segment::FORMAT => {
                return Err(OpenError::NewerFormat { found, known: segment::FORMAT });
            }
            Header::OtherFormat(found) => {
                return Err(OpenError::OlderFormat { found, known: segment::FORMAT });
            }
            Header::Blank | Header::Damaged | Header::Known { .. } => {}
        }
        let later = scan.incarnations().any(|incarnation| incarnation > superblock.incarnation);
        if later || (scan.generation > superblock.generation && scan.incarnations().next().is_some()) {
            return Err(OpenError::SuperblockOutdated { file });
        }
    }
    Ok(())
}

/// Assembles the log and judges its end. The files must have passed [`check_files`].
pub(super) fn recover(superblock: &Superblock, scans: &[Scan]) -> Recovery {
    let in_use = superblock.oldest..=superblock.generation;
    let registered = || scans.iter().filter(|scan| in_use.contains(&scan.generation));
    let live = live(superblock, registered());
    let claims = || {
        registered().flat_map(|scan| &scan.claims).map(|claim| {
            let Claim { synced_through, incarnation, position } = *claim;
            (position, superblock.cuts.cap(synced_through, incarnation, position))
        })
    };
    let synced = claims().map(|(_, op)| op).fold(superblock.synced_through, Op::max);

    let above = above(superblock.checkpoint, &live);
    let (floor, mut entries) = below(superblock, &live);
    let newest_is_there = superblock.generation == Generation::ZERO
        || registered().any(|scan| scan.generation == superblock.generation);
    let dropped = superblock.floor.anchor.op == superblock.checkpoint.anchor.op;
    let held = dropped || !entries.is_empty() || !above.is_empty();
    entries.extend(above);
    let chain = Chain::new(floor, entries);
    let head = chain.head().anchor.op;

    let conditions = Conditions {
        newest: if newest_is_there { Newest::Present } else { Newest::Missing },
        checkpoint: if held { Checkpoint::Held } else { Checkpoint::Beyond },
        synced: if head >= synced { Synced::Reached } else { Synced::Short },
        tail: tail(superblock, registered(), &live, head),
    };
    let (verdict, why) = conditions.decide();
    let ops = |from: Op| (1..).map(move |above| from.advance(above));
    let past_gap = damage::past_gap(&live, chain.head());
    let entries = ops(floor.anchor.op).zip(chain.entries().copied());
    let entries = entries.chain(past_gap.iter().map(|(op, hidden)| (*op, hidden.held)));
    let unsynced = unsynced(superblock, &Claims::new(claims()), synced, entries);
    let extent = damage::extent(superblock, registered(), &live, head, synced);
    let slots = ops(superblock.floor.anchor.op)
        .take_while(|op| *op <= head)
        .map(|op| live.get(&op).map(|found| (found.meta.hash, found.place)))
        .collect();
    let orphans = orphans(registered(), &live, head);
    Recovery { chain, slots, verdict, why, past_gap, extent, synced, unsynced, orphans }
}

/// The readable entries that are not known to have reached the disk. For an entry that was written a second time, or
/// while a log was repaired, only what was written after it proves that. Earlier proofs are about the bad copy.
fn unsynced(
    superblock: &Superblock,
    claims: &Claims,
    synced: Op,
    entries: impl Iterator<Item = (Op, ChainEntry)>,
) -> Vec<Unsynced> {
    let mending = superblock.damaged.is_some();
    let is_unsynced = |op: Op, position: Position| {
        let again = mending || claims.is_second_copy(op, position);
        op > synced || (again && !claims.proves_durable(op, position))
    };
    let entries = entries.filter(|(op, held)| is_unsynced(*op, held.place.start()));
    entries.map(|(op, held)| Unsynced { op, hash: held.meta.hash, place: held.place }).collect()
}

fn live<'a>(superblock: &Superblock, scans: impl Iterator<Item = &'a Scan>) -> Live {
    let mut live = BTreeMap::new();
    for found in scans.flat_map(|scan| &scan.found) {
        let place = &found.place;
        if !superblock.cuts.is_void(found.op, place.incarnation, place.start()) {
            let last = live.entry(found.op).or_insert(*found);
            if last.place.start() < place.start() {
                *last = *found;
            }
        }
    }
    live
}

fn above(checkpoint: Mark, live: &Live) -> Vec<ChainEntry> {
    let mut chain = Vec::new();
    let mut head = checkpoint;
    let at_head = live.get(&head.anchor.op).filter(|found| found.meta.hash == head.anchor.hash);
    let mut next_epoch = at_head.map(|found| found.meta.next_epoch());
    while let Some(found) = live.get(&head.anchor.op.next()) {
        let follows = found.parent == head.anchor.hash
            && next_epoch.is_none_or(|epoch| epoch == found.meta.epoch())
            && found.first_revision == head.next_revision
            && found.meta.timestamp >= head.timestamp;
        if !follows {
            break;
        }
        chain.push(ChainEntry { meta: found.meta, place: found.place });
        next_epoch = Some(found.meta.next_epoch());
        head = Mark {
            anchor: Anchor::new(found.op, found.meta.hash),
            next_revision: found.meta.next_revision,
            timestamp: found.meta.timestamp,
        };
    }
    chain
}

/// The chain from the checkpoint downwards, to the floor or to the first missing entry. That one becomes the floor,
/// because its child contains its hash. (The state at the checkpoint covers everything below.)
fn below(superblock: &Superblock, live: &Live) -> (Mark, VecDeque<ChainEntry>) {
    let mut chain = VecDeque::new();
    let mut floor = superblock.checkpoint;
    // The epoch of the entry after the floor: `above` has compared the one after the checkpoint.
    let mut above = None;
    while floor.anchor.op > superblock.floor.anchor.op {
        let fits = |found: &&Found| {
            found.meta.hash == floor.anchor.hash
                && found.meta.next_revision == floor.next_revision
                && above.is_none_or(|epoch| epoch == found.meta.next_epoch())
        };
        let Some(found) = live.get(&floor.anchor.op).filter(fits) else { break };
        chain.push_front(ChainEntry { meta: found.meta, place: found.place });
        above = Some(found.meta.epoch());
        floor = Mark {
            anchor: Anchor::new(found.op.previous(), found.parent),
            next_revision: found.first_revision,
            // The timestamp of the entry after it: the floor's own is not known here, and is not greater.
            timestamp: found.meta.timestamp,
        };
    }
    if floor.anchor.op == superblock.floor.anchor.op {
        floor.timestamp = superblock.floor.timestamp;
    }
    (floor, chain)
}

/// The worst of what follows the head in the order of writing.
fn tail<'a>(superblock: &Superblock, scans: impl Iterator<Item = &'a Scan>, live: &Live, head: Op) -> Tail {
    let settled = superblock.cuts.settled().position;
    let end = live.range(..=head).map(|(_, found)| found.place.end()).fold(settled, Position::max);
    let mut worst = Tail::Untouched;
    for (op, found) in live.range(head.next()..) {
        let in_order = found.place.start() >= end && *op > head.next();
        worst = worst.max(if in_order { Tail::Torn } else { Tail::Conflicting });
    }
    for (position, remnant) in scans.flat_map(|scan| &scan.remnants) {
        let found = match *remnant {
            _ if *position < end => Tail::Untouched,
            Remnant::Damaged { .. } => Tail::Damaged,
            Remnant::Fragment { op, incarnation } => {
                // The log has this op: it was being written a second time.
                match superblock.cuts.is_void(op, incarnation, *position) {
                    true => Tail::Untouched,
                    false => Tail::Torn,
                }
            }
        };
        worst = worst.max(found);
    }
    worst
}

/// Everything that was written and can be identified, but is not part of the log up to the head.
fn orphans<'a>(scans: impl Iterator<Item = &'a Scan>, live: &Live, head: Op) -> Vec<OrphanBlock> {
    let mut orphans = Vec::new();
    for scan in scans {
        for found in &scan.found {
            let in_log =
                found.op <= head && live.get(&found.op).is_some_and(|live| live.place == found.place);
            if !in_log {
                orphans.push(OrphanBlock::of(found.op, &found.place));
            }
        }
        for (position, remnant) in &scan.remnants {
            if let Some((op, incarnation)) = remnant.stamp() {
                orphans.push(OrphanBlock { op, incarnation, position: *position, blocks: 1 });
            }
        }
    }
    orphans
}

#[cfg(test)]
mod tests;
