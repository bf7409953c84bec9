//! What is behind the first bad entry of a damaged log, and how far that log may have reached. Pure, like all of
//! recovery.

use super::chain::{ChainEntry, HeldPastGap};
use super::location::{Generation, Position};
use super::scan::{Found, Live, Remnant, Scan};
use super::segment::Header;
use super::superblock::{Mark, Superblock};
use crate::ids::Op;
use crate::message::{EntryPastGap, Extent};
use std::collections::BTreeMap;

/// The intact entries above the head that agree with each other. If two do not, the one that was written later
/// determines the log. An entry that would follow the head but does not chain to it is not used.
pub(super) fn past_gap(live: &Live, head: Mark) -> BTreeMap<Op, HeldPastGap> {
    let first = head.anchor.op.next().next();
    let mut kept: BTreeMap<Op, HeldPastGap> = BTreeMap::new();
    let mut above = None;
    for (op, found) in live.range(first..).rev() {
        let agrees = above.is_none_or(|child: &Found| {
            child.op != op.next()
                || (child.parent == found.meta.hash
                    && child.first_revision == found.meta.next_revision
                    && child.meta.epoch() == found.meta.next_epoch())
        });
        if agrees {
            let held = ChainEntry { meta: found.meta, place: found.place };
            kept.insert(*op, HeldPastGap { held, parent: found.parent });
            above = Some(found);
        }
    }
    kept
}

/// The same, as recovery reports it: with the hashes of bad entries that an intact one contains.
pub(super) fn reported(hidden: &BTreeMap<Op, HeldPastGap>, head: Op) -> BTreeMap<Op, EntryPastGap> {
    let mut reported = BTreeMap::new();
    for (op, HeldPastGap { held, parent }) in hidden {
        if op.previous() > head {
            reported.entry(op.previous()).or_insert(EntryPastGap::Pinned(*parent));
        }
        reported.insert(*op, EntryPastGap::Intact { meta: held.meta, parent: *parent });
    }
    reported
}

/// How far a log with this head may have reached: to the highest op of which there is a trace, and one further for
/// every damaged block after it whose op is not readable. (Everything in older segments is known to be synced since the
/// newest was begun.) If a synced op has left no trace, more may be missing than anything shows.
pub(super) fn extent<'a>(
    superblock: &Superblock,
    scans: impl Iterator<Item = &'a Scan> + Clone,
    live: &Live,
    head: Op,
    synced: Op,
) -> Extent {
    let newest = superblock.generation;
    let is_whole =
        |scan: &Scan| matches!(scan.header, Header::Known { generation, .. } if generation == newest);
    if newest > Generation::ZERO && !scans.clone().any(is_whole) {
        return Extent::Open;
    }
    let cuts = &superblock.cuts;
    let remnants = || scans.clone().flat_map(|scan| &scan.remnants);
    let pieces = remnants().filter_map(|(position, remnant)| {
        let (op, incarnation) = remnant.stamp()?;
        (!cuts.is_void(op, incarnation, *position)).then_some((op, *position))
    });
    let entries = live.iter().map(|(op, found)| (*op, found.place.start()));
    let (top, last) = entries.chain(pieces).max().unwrap_or_default();
    let from = last.max(cuts.settled().position);
    let unknown = remnants().filter(|(position, remnant)| {
        remnant.stamp().is_none() && position.generation == newest && *position >= from
    });
    let unknown = unknown.filter(|(_, remnant)| matches!(remnant, Remnant::Damaged { .. })).count();
    let reach = top.max(head).advance(unknown as u64);
    if synced > reach { Extent::Open } else { Extent::Through(reach) }
}

/// What was durable when each intact entry was written, as the entry records, by location.
#[derive(Debug)]
pub(super) struct Claims {
    /// Ascending; with the greatest op that is claimed there or later.
    list: Vec<(Position, Op)>,
    own: BTreeMap<Position, Op>,
}

impl Claims {
    pub(super) fn new(claims: impl Iterator<Item = (Position, Op)>) -> Self {
        let own: BTreeMap<Position, Op> = claims.collect();
        let mut list: Vec<(Position, Op)> = own.iter().map(|(position, op)| (*position, *op)).collect();
        let mut greatest = Op::ZERO;
        for (_, op) in list.iter_mut().rev() {
            greatest = greatest.max(*op);
            *op = greatest;
        }
        Self { list, own }
    }

    /// Whether something that was written later proves that the entry of `op` at this position was durable.
    pub(super) fn proves_durable(&self, op: Op, position: Position) -> bool {
        let after = self.list.partition_point(|(at, _)| *at <= position);
        self.list.get(after).is_some_and(|(_, claimed)| *claimed >= op)
    }

    /// Whether this was written after something that the log had above it: a second time, because the first copy was
    /// bad.
    pub(super) fn is_second_copy(&self, op: Op, position: Position) -> bool {
        self.own.get(&position).is_some_and(|claimed| *claimed >= op)
    }
}
