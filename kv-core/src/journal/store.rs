//! A formatted journal: superblock and segments, and how each kind of write changes them.

use super::chain::{Chain, ChainEntry, HeldPastGap};
use super::cuts::CutRecord;
use super::damage;
use super::error::JournalWriteError;
use super::location::EntryLocation;
use super::reader::LogReader;
use super::recovery::{OrphanBlock, Recovery};
use super::segment;
use super::segments::Segments;
use super::superblock::{Superblock, SuperblockFile};
use super::verdict::Verdict;
use super::{block::BLOCK_BYTES, record};
use crate::ids::{Anchor, Hash, Op, Timestamp};
use crate::message::{
    Cut, Damage, Entry, EntryMeta, EpochRecord, Extent, FormationStep, Membership, Recovered, ViewRecord,
};
use std::collections::{BTreeMap, VecDeque};

/// The entries whose segments are checked after each batch of writes: the oldest ones, because the oldest segments are
/// released.
const OLDEST: usize = 32;

#[derive(Debug)]
pub(super) struct Store {
    pub(super) file: SuperblockFile,
    /// As in the file, or about to be written.
    pub(super) superblock: Superblock,
    pub(super) segments: Segments,
    /// The durable log.
    pub(super) chain: Chain,
    /// Written blocks that are not part of the log. Invariant: all that can be identified and are in active segments.
    pub(super) orphans: Vec<OrphanBlock>,
    /// Intact entries above the head, while entries between the head and them are missing.
    pub(super) past_gap: BTreeMap<Op, HeldPastGap>,
    /// Something after the head has been neither filled up to nor cut.
    pub(super) unsettled: bool,
    /// Entries up to this op may be dropped, as far as the checkpoint allows.
    pub(super) trim: Op,
    pub(super) reader: LogReader,
}

/// Encoded entries that wait to be written, all to the present segment.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    places: Vec<(u64, Op, EntryLocation)>,
    held: Vec<ChainEntry>,
}

impl Batch {
    fn blocks(&self) -> u32 {
        u32::try_from(self.bytes.len() / BLOCK_BYTES).expect("within a segment")
    }
}

impl Store {
    /// Creates a store with an empty log.
    pub(super) fn new(
        file: SuperblockFile,
        superblock: Superblock,
        segments: Segments,
        reader: LogReader,
    ) -> Self {
        let chain = Chain::new(superblock.floor, VecDeque::new());
        Self {
            file,
            superblock,
            segments,
            chain,
            orphans: Vec::new(),
            past_gap: BTreeMap::new(),
            unsettled: false,
            trim: Op::ZERO,
            reader,
        }
    }

    /// Uses the result of recovery, and makes durable what it has decided about the end of the log.
    pub(super) fn apply_recovery(
        &mut self,
        recovery: Recovery,
        verdict: Verdict,
    ) -> Result<(), JournalWriteError> {
        self.chain = recovery.chain;
        self.orphans = recovery.orphans;
        self.past_gap = recovery.past_gap;
        match verdict {
            Verdict::Whole => {}
            Verdict::Torn if self.superblock.damaged.is_none() => {
                let incarnation = self.superblock.incarnation.next();
                self.cut(Cut { after: self.chain.head().anchor, incarnation })?;
            }
            // While a log is being repaired, only the replica cuts: what follows the head may be the only copies.
            Verdict::Torn => self.unsettled = true,
            Verdict::Faulty => {
                self.unsettled = true;
                self.superblock.damaged = self.superblock.damaged.max(Some(recovery.extent));
            }
        }
        if self.is_damaged() {
            self.superblock.synced_through = self.superblock.synced_through.max(recovery.synced);
        }
        self.note_synced();
        if self.superblock == *self.file.written() { Ok(()) } else { self.save() }
    }

    fn is_damaged(&self) -> bool {
        self.superblock.damaged.is_some()
    }

    /// Asserts what holds between any two writes.
    pub(super) fn check_invariants(&self) {
        let (floor, head) = (self.chain.floor().anchor.op, self.durable());
        let checkpoint = self.superblock.checkpoint.anchor.op;
        assert!(self.superblock.floor.anchor.op <= checkpoint, "what is dropped is in the state");
        assert!(floor <= checkpoint, "the log reaches down to the checkpoint");
        assert!(checkpoint <= head || self.is_damaged(), "the log reaches up to the checkpoint");
        assert!(self.past_gap.is_empty() || self.is_damaged(), "only a damaged log has a gap");
        assert!(!self.unsettled || self.is_damaged(), "only a damaged log has an unsettled end");
        let first = self.past_gap.first_key_value();
        assert!(first.is_none_or(|(op, _)| *op > head), "what follows the head is a part of the log");
        // These take time, so the tests and the simulator do it, and a release does not.
        debug_assert!(
            self.orphans.iter().all(|orphan| self.segments.is_active(orphan.position.generation)),
            "void blocks in released segments are forgotten"
        );
        debug_assert!(
            self.chain.entries().take(OLDEST).all(|held| self.segments.is_active(held.place.generation)),
            "no entry of the log is in a released segment"
        );
    }

    pub(super) fn recovered(&self) -> Recovered {
        let (superblock, floor) = (&self.superblock, self.chain.floor());
        Recovered {
            formation: superblock.formation,
            view: superblock.view,
            log_view: superblock.log_view,
            checkpoint: superblock.checkpoint.anchor,
            floor: floor.anchor,
            entries: self.chain.entries().map(|held| held.meta).collect(),
            floor_next_revision: floor.next_revision,
            floor_timestamp: floor.timestamp,
            incarnation: superblock.incarnation,
            damage: superblock.damaged.map(|extent| Damage {
                past_gap: damage::reported(&self.past_gap, self.durable()),
                extent: extent
                    .max(Extent::Through(self.past_gap.last_key_value().map_or(Op::ZERO, |(op, _)| *op))),
            }),
            membership: superblock.membership.clone(),
        }
    }

    /// The last durable op.
    fn durable(&self) -> Op {
        self.chain.head().anchor.op
    }

    /// Makes the present superblock durable.
    pub(super) fn save(&mut self) -> Result<(), JournalWriteError> {
        self.note_synced();
        self.file.write(&self.superblock)
    }

    fn note_synced(&mut self) {
        // While the log is damaged, its former extent must not be lost.
        let once = if self.is_damaged() { self.superblock.synced_through } else { Op::ZERO };
        self.superblock.synced_through = self.durable().max(once);
    }

    pub(super) fn form(&mut self, step: FormationStep) -> Result<(), JournalWriteError> {
        if step <= self.superblock.formation {
            return Ok(());
        }
        self.superblock.formation = step;
        self.save()
    }

    /// Appends entries, each with the number of its write, when the wall clock shows `wall`. There is one write and one
    /// sync for each segment.
    pub(super) fn append(
        &mut self,
        entries: &[(u64, &Entry)],
        wall: Timestamp,
    ) -> Result<(), JournalWriteError> {
        let mut batch = Batch::default();
        for (write, entry) in entries {
            let blocks = Self::blocks_for(entry)?;
            if !self.segments.has_room(batch.blocks() + blocks) {
                self.flush(&mut batch)?;
                self.roll(blocks)?;
            }
            self.encode(&mut batch, *write, (entry, wall), blocks)?;
            // This entry closes the gap. What is behind the gap becomes part of the log now, and the next entry follows
            // that.
            if self.past_gap.contains_key(&entry.header.op.next()) {
                self.flush(&mut batch)?;
            }
        }
        self.flush(&mut batch)
    }

    fn blocks_for(entry: &Entry) -> Result<u32, JournalWriteError> {
        let blocks = record::blocks_for(entry.body.len()).filter(|blocks| *blocks < segment::MOST_BLOCKS);
        blocks.ok_or(JournalWriteError::TooLarge { op: entry.header.op, bytes: entry.body.len() })
    }

    fn roll(&mut self, needed: u32) -> Result<(), JournalWriteError> {
        // Saved before anything is written there: an entry in a generation that the superblock does not name would make
        // the next opening refuse the superblock as outdated.
        self.superblock.generation = self.segments.roll(needed, &self.reader)?;
        self.save()
    }

    fn encode(
        &self,
        batch: &mut Batch,
        write: u64,
        (entry, written): (&Entry, Timestamp),
        blocks: u32,
    ) -> Result<(), JournalWriteError> {
        let durable = self.chain.head();
        let op = entry.header.op;
        let last = batch.held.last().map_or(durable.anchor.hash, |held| held.meta.hash);
        let next = durable.anchor.op.advance(batch.held.len() as u64 + 1);
        if op != next || entry.header.parent != last {
            return Err(JournalWriteError::NotNext { op, head: next.previous() });
        }
        let (place, seed) = self.segments.place(batch.blocks(), blocks, self.superblock.incarnation);
        let meta = EntryMeta::of(&entry.header).written_at(written);
        self.check_fill(op, meta.hash)?;
        record::encode(&mut batch.bytes, entry, (meta.hash, written), durable.anchor.op, &place, seed);
        batch.places.push((write, op, place));
        batch.held.push(ChainEntry { meta, place });
        Ok(())
    }

    /// Only the missing entries may be filled in: another entry would leave two logs on the disk, and nothing would
    /// show which one counts.
    fn check_fill(&self, op: Op, hash: Hash) -> Result<(), JournalWriteError> {
        let pinned = self.past_gap.get(&op.next()).map(|hidden| hidden.parent);
        let differs = self.past_gap.contains_key(&op) || pinned.is_some_and(|pinned| pinned != hash);
        if differs { Err(JournalWriteError::Damaged { op, head: self.durable() }) } else { Ok(()) }
    }

    /// Entries behind the damage now follow the head, and become part of the log.
    pub(super) fn link_past_gap(&mut self) {
        while let Some(entry) = self.past_gap.first_entry() {
            let head = self.chain.head().anchor;
            let HeldPastGap { held, parent } = entry.get();
            let is_of_its_epoch = self.chain.next_epoch().is_none_or(|epoch| epoch == held.meta.epoch());
            if *entry.key() != head.op.next() || *parent != head.hash || !is_of_its_epoch {
                return;
            }
            self.chain.push(entry.remove().held);
        }
    }

    fn flush(&mut self, batch: &mut Batch) -> Result<(), JournalWriteError> {
        if batch.held.is_empty() {
            return Ok(());
        }
        let last = self.durable().advance(batch.held.len() as u64);
        self.segments.write(&batch.bytes, last)?;
        batch.held.drain(..).for_each(|held| self.chain.push(held));
        self.link_past_gap();
        self.reader.placed(&batch.places);
        batch.places.clear();
        batch.bytes.clear();
        Ok(())
    }

    /// Rewrites an entry of the log whose stored copy cannot be read. An entry that has been dropped is not needed.
    pub(super) fn repair(&mut self, write: u64, entry: &Entry) -> Result<(), JournalWriteError> {
        let op = entry.header.op;
        if op <= self.chain.floor().anchor.op {
            return Ok(());
        }
        let hash = entry.header.hash();
        let held = self.chain.get(op).filter(|held| held.meta.hash == hash).copied();
        let ChainEntry { meta, place: old } = held.ok_or(JournalWriteError::UnknownPoint { op })?;
        let blocks = Self::blocks_for(entry)?;
        if !self.segments.has_room(blocks) {
            self.roll(blocks)?;
        }
        let (place, seed) = self.segments.place(0, blocks, self.superblock.incarnation);
        let mut bytes = Vec::new();
        record::encode(&mut bytes, entry, (hash, meta.written), self.durable(), &place, seed);
        self.segments.write(&bytes, op)?;
        // If the bad copy becomes readable again some day, a cut must void it like the new one.
        self.orphans.push(OrphanBlock::of(op, &old));
        self.chain.replace(op, ChainEntry { meta, place });
        self.reader.placed(&[(write, op, place)]);
        Ok(())
    }

    pub(super) fn view(&mut self, record: &ViewRecord) -> Result<(), JournalWriteError> {
        if record.view < self.superblock.view || record.log_view < self.superblock.log_view {
            return Err(JournalWriteError::Regress { incarnation: self.superblock.incarnation });
        }
        if let Some(cut) = record.cut {
            self.cut(cut)?;
        }
        self.superblock.view = record.view;
        self.superblock.log_view = record.log_view;
        let once = self.superblock.damaged;
        // While the end of the log is unsettled, the next opening would find the same traces again. So the damage does
        // not end, even if the replica has all that it needs.
        let stays = record.damaged || (self.unsettled && once.is_some());
        self.superblock.damaged = stays.then(|| once.unwrap_or(Extent::Open));
        if once.is_some() && !stays {
            self.forget_the_damage()?;
        }
        self.save()
    }

    /// Rule M3: the log ends with the stop of the epoch before, and what was noted above it is void.
    pub(super) fn enter(&mut self, record: &EpochRecord) -> Result<(), JournalWriteError> {
        let EpochRecord { configuration, disk, ended, cut } = record;
        let is_next = self.superblock.epoch().next() == configuration.epoch;
        let stop = self.chain.head().anchor;
        if !is_next || cut.after != configuration.stop || stop != configuration.stop {
            return Err(JournalWriteError::UnknownPoint { op: configuration.stop.op });
        }
        self.cut(*cut)?;
        let membership =
            Membership { configuration: configuration.clone(), disk: *disk, retired: false, ended: *ended };
        self.superblock.membership = Some(membership);
        (self.superblock.view, self.superblock.log_view) = (configuration.first, configuration.first);
        if self.superblock.damaged.take().is_some() {
            self.forget_the_damage()?;
        }
        self.save()
    }

    /// Rule M9.
    pub(super) fn retire(&mut self) -> Result<(), JournalWriteError> {
        if let Some(membership) = &mut self.superblock.membership {
            membership.retired = true;
        }
        self.save()
    }

    /// Rule D6b: the damage ends with the next save, and the next opening must not find it again, even if nothing is
    /// appended in between. If the checkpoint's own entry is missing, it counts as dropped, because the state covers
    /// it. If the newest segment is missing, another one follows it.
    pub(super) fn forget_the_damage(&mut self) -> Result<(), JournalWriteError> {
        let floor = self.chain.floor();
        if floor.anchor.op > self.superblock.floor.anchor.op {
            self.superblock.floor = floor;
            self.reader.drop_through(floor.anchor.op, &[]);
        }
        if self.segments.is_newest_missing() {
            self.superblock.generation = self.segments.roll(0, &self.reader)?;
        }
        Ok(())
    }

    /// Cuts the log. Durable with the next save.
    pub(super) fn cut(&mut self, cut: Cut) -> Result<(), JournalWriteError> {
        if cut.incarnation <= self.superblock.incarnation {
            return Err(JournalWriteError::Regress { incarnation: cut.incarnation });
        }
        let after = cut.after.op;
        let known = self.chain.mark(after).is_some_and(|mark| mark.anchor == cut.after);
        if !known || after < self.superblock.checkpoint.anchor.op {
            return Err(JournalWriteError::UnknownPoint { op: after });
        }
        self.make_room_for_cut()?;
        self.orphans.extend(self.chain.cut(after).map(|(op, held)| OrphanBlock::of(op, &held.place)));
        self.segments.cut(after);
        self.past_gap.clear();
        self.unsettled = false;
        self.superblock.synced_through = self.superblock.synced_through.min(after);
        self.superblock.incarnation = cut.incarnation;
        let record = CutRecord { after, incarnation: cut.incarnation };
        self.superblock.cuts.push(record, self.segments.frontier());
        self.prune_cuts();
        Ok(())
    }

    pub(super) fn make_room_for_cut(&mut self) -> Result<(), JournalWriteError> {
        if self.superblock.cuts.is_full() { self.erase_void() } else { Ok(()) }
    }

    /// Drops the cuts that void nothing on disk.
    fn prune_cuts(&mut self) {
        let segments = &self.segments;
        self.orphans.retain(|orphan| segments.is_active(orphan.position.generation));
        let written: Vec<_> = self.orphans.iter().map(|orphan| (orphan.op, orphan.incarnation)).collect();
        self.superblock.cuts.prune(&written);
    }

    /// Makes room in the list of cuts: overwrites what they void, after which they are not needed. They stay in the
    /// superblock until that is durable. A half erased part is before the last cut, and is not read.
    fn erase_void(&mut self) -> Result<(), JournalWriteError> {
        let cuts = &self.superblock.cuts;
        let (void, rest): (Vec<OrphanBlock>, Vec<OrphanBlock>) = std::mem::take(&mut self.orphans)
            .into_iter()
            .partition(|orphan| cuts.is_void(orphan.op, orphan.incarnation, orphan.position));
        self.segments.erase(void.iter().map(|orphan| (orphan.position, orphan.blocks)))?;
        self.orphans = rest;
        self.prune_cuts();
        Ok(())
    }

    /// Records a checkpoint. Durable with the next [`drop_old`](Self::drop_old). Returns whether it is new.
    pub(super) fn checkpoint(&mut self, checkpoint: Anchor) -> Result<bool, JournalWriteError> {
        let known = self.superblock.checkpoint.anchor;
        if checkpoint.op < known.op || checkpoint == known {
            return Ok(false);
        }
        let mark = self.chain.mark(checkpoint.op).filter(|mark| mark.anchor == checkpoint);
        self.superblock.checkpoint = mark.ok_or(JournalWriteError::UnknownPoint { op: checkpoint.op })?;
        Ok(true)
    }

    /// Drops segments whose entries are all below the checkpoint and `trim`, and saves the superblock if that or
    /// `changed` requires it. The new floor is durable before a file is reused.
    pub(super) fn drop_old(&mut self, changed: bool) -> Result<(), JournalWriteError> {
        let limit = self.trim.min(self.superblock.checkpoint.anchor.op);
        let (count, last) = if self.is_damaged() { (0, Op::ZERO) } else { self.segments.droppable(limit) };
        // If the chain begins above a damaged entry, its floor is the first point that can be named.
        let floor =
            self.chain.mark(last.max(self.superblock.floor.anchor.op).max(self.chain.floor().anchor.op));
        let Some(floor) = floor.filter(|floor| count > 0 && floor.anchor.op <= limit) else {
            return if changed { self.save() } else { Ok(()) };
        };
        self.superblock.floor = floor;
        self.superblock.oldest = self.segments.oldest_after(count);
        self.save()?;
        // Only now: the superblock no longer refers to what is dropped.
        self.chain.raise(floor);
        let removed = self.segments.release(count)?;
        self.reader.drop_through(floor.anchor.op, &removed);
        self.prune_cuts();
        Ok(())
    }
}
