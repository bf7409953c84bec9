//! Reads entries: from memory while they are new, later from the segments.

use super::block::Seed;
use super::chain::HeldPastGap;
use super::error::JournalReadError;
use super::location::{EntryLocation, SegmentNumber};
use super::scan::offset;
use super::segment::{Owner, Segment};
use super::{block::BLOCK_BYTES, record};
use crate::ids::{Anchor, Epoch, Hash, Op};
use crate::message::{Entry, Write};
use crate::storage::File;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many rewritten entries stay in memory although they are old.
const MENDED: usize = 64;

/// Reads entries. Cheap to clone, and shared between threads.
#[derive(Clone, Debug)]
pub struct LogReader {
    shared: Arc<Mutex<Shared>>,
    owner: Owner,
}

/// What readers and the journal share. The journal lags behind what has been staged: `staged` and `executed` count the
/// writes that change the log, and a slot knows which of them appended it, so that the journal never changes the slot
/// of a later one.
#[derive(Default, Debug)]
struct Shared {
    /// The op below the first slot.
    floor: Op,
    slots: VecDeque<Slot>,
    staged: u64,
    executed: u64,
    /// The bytes of durable entries' bodies that are in memory.
    cached: usize,
    cache_bytes: usize,
    /// No entry at or below this op is in memory, except some that were rewritten.
    evicted: Op,
    /// Rewritten entries at or below `evicted`, the latest at the end: a reader that could not read them will come
    /// again.
    mended: VecDeque<Op>,
    files: HashMap<SegmentNumber, Segment>,
    /// Intact entries above the head of a damaged log, until they follow it.
    past_gap: BTreeMap<Op, HeldPastGap>,
}

#[derive(Debug)]
struct Slot {
    hash: Hash,
    write: u64,
    entry: Option<Box<Entry>>,
    /// Where it is durable. If neither this nor `entry` is set, it is damaged.
    place: Option<EntryLocation>,
}

/// An entry on disk.
struct Stored {
    hash: Hash,
    place: EntryLocation,
    file: Arc<dyn File>,
}

/// What recovery found at an op: nothing readable, or the hash and the location of an entry.
pub(super) type Recovered = Option<(Hash, EntryLocation)>;

impl LogReader {
    pub(super) fn new(owner: Owner, cache_bytes: usize) -> Self {
        let shared = Shared { cache_bytes, ..Shared::default() };
        Self { shared: Arc::new(Mutex::new(shared)), owner }
    }

    /// Makes the entries of a write readable at once, before the journal has executed it, and the entries that it cuts
    /// unreadable. Call it in the order of the writes. Other kinds of writes have no effect.
    pub fn stage(&self, write: &Write) {
        let mut shared = self.lock();
        if changes_log(write) {
            shared.staged += 1;
            shared.apply(write);
        }
    }

    /// The entry at `op`; `None` if it is not in the log (below the floor, or above the head). The intact entries
    /// behind the damage of a damaged log count.
    ///
    /// # Errors
    /// [`JournalReadError::Faulty`] if it is damaged on disk.
    pub fn read(&self, op: Op) -> Result<Option<Entry>, JournalReadError> {
        // The loop ends: it repeats only if the entry was moved in the meantime.
        loop {
            let stored = {
                let shared = self.lock();
                if let Some(entry) = shared.slot(op).and_then(|slot| slot.entry.as_deref()) {
                    return Ok(Some(entry.clone()));
                }
                match shared.stored(op)? {
                    Some(stored) => stored,
                    None => return Ok(None),
                }
            };
            if let Some(read) = self.read_stored(op, &stored) {
                return read.map(Some);
            }
        }
    }

    /// Reads the stored entry at `op`, even if it is in memory, to check whether it can be read. Returns the number of
    /// bytes read; `None` if nothing is stored there (yet).
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn verify(&self, op: Op) -> Result<Option<usize>, JournalReadError> {
        let stored = {
            let shared = self.lock();
            match shared.find(op) {
                Some((_, Some(_))) => shared.stored(op)?,
                Some((_, None)) | None => None,
            }
        };
        let Some(stored) = stored else { return Ok(None) };
        let read = self.read_stored(op, &stored).transpose()?;
        Ok(read.map(|_| stored.place.blocks as usize * BLOCK_BYTES))
    }

    /// The first and the last op that may be in the log.
    #[must_use]
    pub fn bounds(&self) -> (Op, Op) {
        let shared = self.lock();
        (shared.floor.next(), shared.head())
    }

    /// The length of all segment files, also of those that wait to be recycled.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        let blocks: u64 = self.lock().files.values().map(|segment| u64::from(segment.blocks)).sum();
        blocks * BLOCK_BYTES as u64
    }

    /// `None` if, while it was being read, the entry was dropped, cut or rewritten, and its blocks were used again.
    fn read_stored(&self, op: Op, stored: &Stored) -> Option<Result<Entry, JournalReadError>> {
        let Stored { hash, place, file } = stored;
        let mut blocks = vec![0; place.blocks as usize * BLOCK_BYTES];
        let read = match file.read_at(&mut blocks, offset(place.block)) {
            Ok(()) => {
                let seed = Seed::new(self.owner.cluster, self.owner.member, place.segment);
                record::decode_blocks(&blocks, place, op, *hash, self.owner.cluster, seed)
                    .ok_or(JournalReadError::Faulty { op })
            }
            Err(source) => Err(JournalReadError::Disk { op, source }),
        };
        // A failed read proves damage only if the entry is still there: its blocks may have been used again meanwhile.
        let is_there = read.is_ok() || self.lock().find(op) == Some((*hash, Some(*place)));
        is_there.then_some(read)
    }

    pub(super) fn recover(
        &self,
        floor: Op,
        entries: impl Iterator<Item = Recovered>,
        past_gap: &BTreeMap<Op, HeldPastGap>,
    ) {
        let mut shared = self.lock();
        shared.floor = floor;
        shared.slots = entries
            .map(|found| Slot {
                hash: found.map_or(Hash::ZERO, |(hash, _)| hash),
                write: 0,
                entry: None,
                place: found.map(|(_, place)| place),
            })
            .collect();
        shared.evicted = shared.head();
        shared.past_gap.clone_from(past_gap);
    }

    pub(super) fn add_file(&self, segment: &Segment) {
        self.lock().files.insert(segment.number, segment.clone());
    }

    /// The journal begins with a write that changes the log. Returns its number, for [`Self::placed`].
    pub(super) fn begin(&self, write: &Write) -> u64 {
        let mut shared = self.lock();
        shared.executed += 1;
        if shared.executed > shared.staged {
            shared.staged = shared.executed;
            shared.apply(write);
        }
        shared.executed
    }

    /// The entries of the writes with these numbers are durable at these locations.
    pub(super) fn placed(&self, places: &[(u64, Op, EntryLocation)]) {
        let mut shared = self.lock();
        let evicted = shared.evicted;
        for (write, op, place) in places {
            let Some(slot) = shared.slot_mut(*op).filter(|slot| slot.write == *write) else { continue };
            slot.place = Some(*place);
            let bytes = slot.entry.as_ref().map_or(0, |entry| entry.body.len());
            shared.cached += bytes;
            if *op <= evicted {
                shared.mended.push_back(*op);
            }
        }
        shared.evict();
    }

    /// The entries at or below `floor` have been dropped, and these files with them.
    pub(super) fn drop_through(&self, floor: Op, segments: &[SegmentNumber]) {
        let mut shared = self.lock();
        while shared.floor < floor
            && let Some(slot) = shared.slots.pop_front()
        {
            shared.floor = shared.floor.next();
            shared.forget(&slot);
        }
        segments.iter().for_each(|segment| {
            shared.files.remove(segment);
        });
    }

    /// The location of the entry at `op`, if it is durable.
    #[cfg(test)]
    pub(super) fn place(&self, op: Op) -> Option<EntryLocation> {
        self.lock().slot(op).and_then(|slot| slot.place)
    }

    /// The bytes of durable entries that are in memory.
    #[cfg(test)]
    pub(super) fn cached(&self) -> usize {
        let shared = self.lock();
        let held =
            shared.slots.iter().filter(|slot| slot.place.is_some()).filter_map(|slot| slot.entry.as_ref());
        let bytes = held.map(|entry| entry.body.len()).sum();
        assert_eq!(shared.cached, bytes, "the count is right");
        bytes
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) const fn changes_log(write: &Write) -> bool {
    match write {
        Write::Append(_) | Write::Repair(_) | Write::Rebase(_) | Write::Enter(_) => true,
        Write::View(record) => record.cut.is_some(),
        Write::Formation(_) | Write::Checkpoint(_) | Write::Trim(_) | Write::Retire => false,
    }
}

impl Shared {
    fn head(&self) -> Op {
        self.floor.advance(self.slots.len() as u64)
    }

    fn index(&self, op: Op) -> Option<usize> {
        let above = usize::try_from(op.distance_from(self.floor)).ok()?;
        above.checked_sub(1)
    }

    fn slot(&self, op: Op) -> Option<&Slot> {
        self.slots.get(self.index(op)?)
    }

    fn slot_mut(&mut self, op: Op) -> Option<&mut Slot> {
        let index = self.index(op)?;
        self.slots.get_mut(index)
    }

    fn apply(&mut self, write: &Write) {
        match write {
            Write::Append(entries) => {
                for entry in entries {
                    debug_assert_eq!(entry.header.op, self.head().next(), "entries are staged in order");
                    self.slots.push_back(Slot {
                        hash: entry.header.hash(),
                        write: self.staged,
                        entry: Some(Box::new(entry.clone())),
                        place: None,
                    });
                    self.link_past_gap(entry.header.next_epoch());
                }
            }
            Write::View(record) => {
                if let Some(cut) = record.cut {
                    self.cut(cut.after.op);
                }
            }
            Write::Enter(record) => self.cut(record.cut.after.op),
            Write::Repair(entry) => self.replace(entry),
            Write::Rebase(rebase) => {
                if rebase.adopted.is_some() {
                    // Nothing of the own log is above.
                    let last = self.head().min(rebase.point.anchor.op).max(self.floor);
                    self.cut(last);
                }
                self.restart(rebase.point.anchor);
            }
            Write::Formation(_) | Write::Checkpoint(_) | Write::Trim(_) | Write::Retire => {}
        }
    }

    fn cut(&mut self, after: Op) {
        while self.head() > after
            && let Some(slot) = self.slots.pop_back()
        {
            self.forget(&slot);
        }
        self.evicted = self.evicted.min(after);
        self.past_gap.clear();
    }

    /// The hash and the location of an entry; no location if it is in memory or damaged.
    fn find(&self, op: Op) -> Option<(Hash, Option<EntryLocation>)> {
        let slot = self.slot(op).map(|slot| (slot.hash, slot.place));
        slot.or_else(|| self.past_gap.get(&op).map(|hidden| (hidden.held.meta.hash, Some(hidden.held.place))))
    }

    fn stored(&self, op: Op) -> Result<Option<Stored>, JournalReadError> {
        let Some((hash, place)) = self.find(op) else { return Ok(None) };
        let place = place.ok_or(JournalReadError::Faulty { op })?;
        let segment = self.files.get(&place.segment).ok_or(JournalReadError::Faulty { op })?;
        Ok(Some(Stored { hash, place, file: Arc::clone(&segment.file) }))
    }

    /// As in the journal: entries behind the damage now follow the head, and become part of the log.
    /// `next_epoch` is the epoch after that head (rule M1).
    fn link_past_gap(&mut self, mut next_epoch: Epoch) {
        while let Some(entry) = self.past_gap.first_entry() {
            let last = self.slots.back().map(|slot| slot.hash);
            if *entry.key() != self.floor.advance(self.slots.len() as u64 + 1)
                || last != Some(entry.get().parent)
                || entry.get().held.meta.epoch() != next_epoch
            {
                return;
            }
            let held = entry.remove().held;
            next_epoch = held.meta.next_epoch();
            let (hash, place) = (held.meta.hash, Some(held.place));
            self.slots.push_back(Slot { hash, write: 0, entry: None, place });
        }
    }

    /// Drops everything except what follows this point, if the point is in the log. As in the journal
    /// (`Store::rebase`).
    fn restart(&mut self, point: Anchor) {
        // Both the floor and the point are committed, so at the same op they are equal.
        let held = self.slot(point.op).is_some_and(|slot| slot.hash == point.hash);
        if held || point.op <= self.floor {
            return;
        }
        let another = self.head() >= point.op
            || self.past_gap.get(&point.op).is_some_and(|hidden| hidden.held.meta.hash != point.hash);
        self.slots.clear();
        self.cached = 0;
        (self.floor, self.evicted) = (point.op, point.op);
        self.past_gap.retain(|op, _| *op > point.op);
        let next =
            self.past_gap.get(&point.op.next()).map(|hidden| (hidden.parent == point.hash, hidden.held));
        match next {
            _ if another => self.past_gap.clear(),
            Some((false, _)) => self.past_gap.clear(),
            Some((true, held)) => {
                self.past_gap.pop_first();
                let (hash, place) = (held.meta.hash, Some(held.place));
                self.slots.push_back(Slot { hash, write: 0, entry: None, place });
                self.link_past_gap(held.meta.next_epoch());
                self.evicted = self.head();
            }
            None => {}
        }
    }

    /// An entry that could not be read any more has been restored.
    fn replace(&mut self, entry: &Entry) {
        let staged = self.staged;
        let hash = entry.header.hash();
        let Some(slot) = self.slot_mut(entry.header.op).filter(|slot| slot.hash == hash) else { return };
        let cached = slot.place.and(slot.entry.as_ref()).map_or(0, |entry| entry.body.len());
        (slot.entry, slot.place, slot.write) = (Some(Box::new(entry.clone())), None, staged);
        self.cached -= cached;
    }

    fn forget(&mut self, slot: &Slot) {
        if let (Some(_), Some(entry)) = (slot.place, &slot.entry) {
            self.cached -= entry.body.len();
        }
    }

    /// Evicts entries from memory, oldest first, if they are durable and there are too many.
    fn evict(&mut self) {
        self.evicted = self.evicted.max(self.floor);
        while self.cached > self.cache_bytes {
            let op = self.evicted.next();
            if !self.release(op) {
                break;
            }
            self.evicted = op;
        }
        while (self.cached > self.cache_bytes || self.mended.len() > MENDED)
            && let Some(op) = self.mended.pop_front()
        {
            // Above that, it counts like any other entry since a cut.
            if op <= self.evicted {
                self.release(op);
            }
        }
    }

    /// Removes the entry at `op` from memory if it is durable. Returns whether it is.
    fn release(&mut self, op: Op) -> bool {
        let Some(slot) = self.slot_mut(op).filter(|slot| slot.place.is_some()) else { return false };
        let bytes = slot.entry.take().map_or(0, |entry| entry.body.len());
        self.cached -= bytes;
        true
    }
}
