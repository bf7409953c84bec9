//! The log as the protocol sees it: a hash chain of entries, without their bodies, and how much of it is durable
//! here.

use crate::ids::{Anchor, Epoch, Hash, Op, Revision, Timestamp, WriteSeq};
use crate::message::{EntryHeader, EntryMeta, EntryPastGap, LogPoint, Recovered};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The journal stores each entry in whole blocks.
const BLOCK_BYTES: u64 = 4096;

/// About how much an entry takes on disk: its body and a header, in whole blocks.
fn cost(meta: &EntryMeta) -> u64 {
    (u64::from(meta.body_len) + 256).next_multiple_of(BLOCK_BYTES)
}

#[derive(Debug)]
pub(crate) struct Log {
    /// The point below the oldest remembered entry.
    floor: Anchor,
    floor_next_revision: Revision,
    floor_timestamp: Timestamp,
    /// The epoch of the entry after the floor; `None` if it is not known. Then the entry whose parent is the floor
    /// shows it.
    floor_next_epoch: Option<Epoch>,
    /// Begins with op `floor + 1`. Each entry contains the hash of the one before.
    entries: VecDeque<EntryMeta>,
    /// Everything up to here is durable. Invariant: `floor <= durable <= head`.
    durable: Op,
    /// What is known above the head of a damaged log. An intact entry becomes part of the log as soon as it follows
    /// the head.
    past_gap: BTreeMap<Op, EntryPastGap>,
    /// Entries of the log whose stored copy cannot be read. Invariant: they are above the floor, and were durable
    /// once.
    faulty: BTreeSet<Op>,
    /// The appends in progress: the write, and the head that it makes durable. Both ascend.
    pending: VecDeque<(WriteSeq, Op)>,
    /// About how much the remembered entries take on disk.
    bytes: u64,
}

impl Log {
    pub(crate) fn new(recovered: &Recovered) -> Self {
        let head = recovered.floor.op.advance(recovered.entries.len() as u64);
        Self {
            floor: recovered.floor,
            floor_next_revision: recovered.floor_next_revision,
            floor_timestamp: recovered.floor_timestamp,
            floor_next_epoch: match recovered.entries.first() {
                None if recovered.floor == Anchor::ZERO => Some(Epoch::ZERO),
                first => first.map(EntryMeta::epoch),
            },
            entries: recovered.entries.iter().copied().collect(),
            durable: head,
            past_gap: recovered.damage.as_ref().map(|damage| damage.past_gap.clone()).unwrap_or_default(),
            faulty: BTreeSet::new(),
            pending: VecDeque::new(),
            bytes: recovered.entries.iter().map(cost).sum(),
        }
    }

    pub(crate) fn floor(&self) -> Op {
        self.floor.op
    }

    pub(crate) fn head(&self) -> Anchor {
        let op = self.floor.op.advance(self.entries.len() as u64);
        Anchor::new(op, self.entries.back().map_or(self.floor.hash, |meta| meta.hash))
    }

    pub(crate) fn durable(&self) -> Anchor {
        self.anchor(self.durable).expect("durable lies between floor and head")
    }

    pub(crate) fn next_revision(&self) -> Revision {
        self.entries.back().map_or(self.floor_next_revision, |meta| meta.next_revision)
    }

    pub(crate) fn timestamp(&self) -> Timestamp {
        self.entries.back().map_or(self.floor_timestamp, |meta| meta.timestamp)
    }

    /// Whether the entry after the head may be of this epoch (rule M1).
    fn continues_with(&self, epoch: Epoch) -> bool {
        self.entries
            .back()
            .map_or(self.floor_next_epoch, |last| Some(last.next_epoch()))
            .is_none_or(|it| it == epoch)
    }

    /// The stop at the head, if the head is one: the log of its epoch ends there (rule M1).
    pub(crate) fn stop(&self) -> Option<Anchor> {
        self.entries.back().filter(|last| last.is_stop()).map(|_| self.head())
    }

    pub(crate) fn meta(&self, op: Op) -> Option<&EntryMeta> {
        if op <= self.floor.op {
            return None;
        }
        let index = op.distance_from(self.floor.op) - 1;
        self.entries.get(usize::try_from(index).ok()?)
    }

    /// The hash at `op`, for ops from the floor to the head.
    pub(crate) fn hash(&self, op: Op) -> Option<Hash> {
        if op == self.floor.op { Some(self.floor.hash) } else { self.meta(op).map(|meta| meta.hash) }
    }

    pub(crate) fn anchor(&self, op: Op) -> Option<Anchor> {
        self.hash(op).map(|hash| Anchor::new(op, hash))
    }

    /// What is needed to continue the log after `op`.
    pub(crate) fn point(&self, op: Op) -> Option<LogPoint> {
        let (next_revision, timestamp) = match self.meta(op) {
            Some(meta) => (meta.next_revision, meta.timestamp),
            None => (self.floor_next_revision, self.floor_timestamp),
        };
        self.anchor(op).map(|anchor| LogPoint { anchor, next_revision, timestamp })
    }

    /// Restarts the log at this point. As in the journal, of the entries behind damage only those
    /// that follow the point are kept. Everything at or below the point is durable elsewhere.
    pub(crate) fn restart(&mut self, point: LogPoint) {
        let op = point.anchor.op;
        let differs = self.head().op >= op || self.contradicts(point.anchor);
        self.floor = point.anchor;
        self.floor_next_revision = point.next_revision;
        self.floor_timestamp = point.timestamp;
        self.floor_next_epoch = None;
        self.entries.clear();
        self.bytes = 0;
        self.pending.clear();
        self.faulty.clear();
        self.past_gap.retain(|behind, _| *behind > op);
        if differs {
            self.past_gap.clear();
        }
        self.link_past_gap();
        self.durable = self.head().op;
    }

    pub(crate) fn holds(&self, anchor: Anchor) -> bool {
        self.hash(anchor.op) == Some(anchor.hash)
    }

    /// Whether an entry with this header can be appended: it has the next op and the hash of the head, and it belongs
    /// to the epoch of the head or, if the head is a stop, to the next one.
    pub(crate) fn follows(&self, header: &EntryHeader) -> bool {
        let head = self.head();
        header.op == head.op.next()
            && header.parent == head.hash
            && self.continues_with(header.view.epoch())
            && header.first_revision == self.next_revision()
            && header.timestamp >= self.timestamp()
    }

    pub(crate) fn append(&mut self, header: &EntryHeader) {
        assert!(self.follows(header), "the caller has checked that the entry follows");
        assert!(!self.contradicts(header.anchor()), "only what was there before is filled in");
        self.push(EntryMeta::of(header));
        self.link_past_gap();
    }

    fn push(&mut self, meta: EntryMeta) {
        self.bytes += cost(&meta);
        self.entries.push_back(meta);
    }

    // -- damage

    /// What is known above the head of a damaged log.
    pub(crate) fn past_gap(&self) -> &BTreeMap<Op, EntryPastGap> {
        &self.past_gap
    }

    /// The last op that is known at all, and the last whose entry is intact.
    pub(crate) fn last_known(&self) -> Op {
        self.past_gap.last_key_value().map_or(self.head().op, |(op, _)| *op)
    }

    pub(crate) fn last_intact(&self) -> Op {
        let intact = |behind: &EntryPastGap| matches!(behind, EntryPastGap::Intact { .. });
        let last = self.past_gap.iter().rev().find(|(_, behind)| intact(behind));
        last.map_or(self.head().op, |(op, _)| *op)
    }

    /// The last of the missing ops right above the head, with the hash of its entry.
    pub(crate) fn gap(&self) -> Option<Anchor> {
        let (op, behind) = self.past_gap.first_key_value()?;
        Some(match behind {
            EntryPastGap::Intact { parent, .. } => Anchor::new(op.previous(), *parent),
            EntryPastGap::Pinned(hash) => Anchor::new(*op, *hash),
        })
    }

    /// Whether an entry differs from the lost one at its op: that hash is known, or the next entry contains another.
    pub(crate) fn contradicts(&self, entry: Anchor) -> bool {
        let differs = self.past_gap.get(&entry.op).is_some_and(|behind| behind.hash() != entry.hash);
        let child = self.past_gap.get(&entry.op.next());
        differs || matches!(child, Some(EntryPastGap::Intact { parent, .. }) if *parent != entry.hash)
    }

    /// As in the journal: entries behind the damage now follow the head, and become part of the log.
    fn link_past_gap(&mut self) {
        loop {
            let head = self.head();
            self.past_gap.remove(&head.op);
            match self.past_gap.get(&head.op.next()) {
                Some(EntryPastGap::Intact { meta, parent })
                    if *parent == head.hash && self.continues_with(meta.epoch()) =>
                {
                    let meta = *meta;
                    self.push(meta);
                }
                Some(EntryPastGap::Intact { .. } | EntryPastGap::Pinned(_)) | None => return,
            }
        }
    }

    pub(crate) fn is_faulty(&self, op: Op) -> bool {
        self.faulty.contains(&op)
    }

    /// The unreadable entries above `op`, ascending.
    pub(crate) fn faulty_above(&self, op: Op) -> impl Iterator<Item = Op> {
        self.faulty.range(op.next()..).copied()
    }

    pub(crate) fn forget_past_gap(&mut self) {
        self.past_gap.clear();
    }

    pub(crate) fn has_faulty(&self) -> bool {
        !self.faulty.is_empty()
    }

    pub(crate) fn mark_faulty(&mut self, op: Op) {
        assert!(
            op > self.floor.op && op <= self.durable,
            "only an entry that was durable once can be faulty"
        );
        self.faulty.insert(op);
    }

    pub(crate) fn unmark_faulty(&mut self, op: Op) {
        self.faulty.remove(&op);
    }

    /// The head will be durable when `seq` is.
    pub(crate) fn appended(&mut self, seq: WriteSeq) {
        self.pending.push_back((seq, self.head().op));
    }

    /// Everything up to `seq` is durable. Returns whether the durable part grew.
    pub(crate) fn on_durable(&mut self, seq: WriteSeq) -> bool {
        let before = self.durable;
        while let Some(&(_, op)) = self.pending.front().filter(|(first, _)| *first <= seq) {
            self.durable = self.durable.max(op);
            self.pending.pop_front();
        }
        self.durable > before
    }

    /// Forgets everything above `op`.
    pub(crate) fn cut(&mut self, op: Op) {
        assert!(op >= self.floor.op, "nothing at or below the floor is cut");
        let keep = op.distance_from(self.floor.op);
        let cut = self.entries.split_off(usize::try_from(keep).unwrap_or(usize::MAX).min(self.entries.len()));
        self.bytes -= cut.iter().map(cost).sum::<u64>();
        self.durable = self.durable.min(op);
        self.past_gap.clear();
        self.faulty.retain(|faulty| *faulty <= op);
        for (_, through) in &mut self.pending {
            *through = (*through).min(op);
        }
    }

    /// The last op that must be dropped so that the rest takes no more than `budget` bytes on disk; at most `most`,
    /// where the search ends.
    pub(crate) fn beyond_budget(&self, budget: u64, most: Op) -> Op {
        let mut excess = self.bytes.saturating_sub(budget);
        let mut op = self.floor.op;
        for meta in &self.entries {
            if excess == 0 || op >= most {
                break;
            }
            excess = excess.saturating_sub(cost(meta));
            op = op.next();
        }
        op
    }

    /// Drops entries at or below `op`, which must be durable.
    pub(crate) fn trim(&mut self, op: Op) {
        assert!(op <= self.durable, "only durable entries are trimmed");
        while self.floor.op < op {
            let meta = self.entries.pop_front().expect("op is at or below the head");
            self.bytes -= cost(&meta);
            self.floor = Anchor::new(self.floor.op.next(), meta.hash);
            self.faulty.remove(&self.floor.op);
            self.floor_next_revision = meta.next_revision;
            self.floor_timestamp = meta.timestamp;
            self.floor_next_epoch = Some(meta.next_epoch());
        }
    }

    /// The last op of a run, from `from` and at most up to `through`, of readable entries whose bodies fit into
    /// `max_bytes`; at least `from`.
    pub(crate) fn run_within(&self, from: Op, through: Op, max_bytes: usize) -> Op {
        let mut last = from;
        let mut bytes = self.meta(from).map_or(0, |meta| meta.body_len as usize);
        while last < through {
            let Some(meta) = self.meta(last.next()).filter(|_| !self.is_faulty(last.next())) else { break };
            bytes = bytes.saturating_add(meta.body_len as usize);
            if bytes > max_bytes {
                break;
            }
            last = last.next();
        }
        last
    }

    #[cfg(feature = "internals")]
    pub(crate) fn check_invariants(&self) {
        assert!(self.floor.op <= self.durable, "durable is not below the floor");
        assert!(self.durable <= self.head().op, "durable is not above the head");
        assert!(
            self.past_gap.keys().all(|op| *op > self.head().op),
            "what stands behind the damage is above the head"
        );
        assert!(
            self.faulty.iter().all(|op| *op > self.floor.op && *op <= self.durable),
            "faulty entries are held"
        );
        assert!(self.pending.iter().is_sorted(), "appends end in order");
    }
}

#[cfg(test)]
mod tests;
