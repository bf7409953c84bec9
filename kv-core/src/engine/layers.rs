//! The writer's side: what it adds, how that is published, and how old versions are freed.

use super::EngineError;
use super::base::Base;
use super::change::{KeyChange, Retention, weight};
use super::gaps::Gaps;
use super::key::Key;
use super::memtable::{Memtable, Note};
use super::read_view::{ReadView, Reader};
use super::version::{Value, VersionKey};
use super::write_digest::WriteDigest;
use crate::ids::{Anchor, Hash, Revision};
use std::collections::{HashMap, VecDeque, hash_map};
use std::sync::Arc;

/// How many versions of a retired memtable are freed for each version that is written, and the least per entry.
const SHED: usize = 4;
const SHED_LEAST: usize = 64;
/// How many are freed at once while the writer waits for memory.
const SHED_IDLE: usize = 4096;

/// The newest version of each key of a memtable. Only the writer uses it: a look-up here costs a fraction of one in the
/// ordered map, and the writer looks up every key that it writes.
type Index = HashMap<Key, (Revision, Value)>;

/// About what a present key takes on disk besides its bytes and those of its value.
const PRESENT_OVERHEAD: usize = 24;

/// How many bytes a key of this length counts as while it has a value of that length.
fn present(key: usize, value: usize) -> i64 {
    i64::try_from(PRESENT_OVERHEAD + key + value).unwrap_or(i64::MAX)
}

/// A view that is no longer the newest.
#[derive(Debug)]
struct Retired {
    view: Arc<ReadView>,
    /// The versions that only readers of this view or an older one can see; if history is kept, those that were
    /// superseded after it.
    superseded: Vec<Superseded>,
}

/// A version in the active memtable that is not the newest of its key, or is a removal with nothing left below it.
#[derive(Debug)]
struct Superseded {
    version: VersionKey,
    /// Readers at an earlier revision see it.
    until: Revision,
}

/// A memtable that is in the base now, and the rest of its index.
#[derive(Debug)]
struct RetiredMemtable {
    memtable: Arc<Memtable>,
    index: hash_map::IntoIter<Key, (Revision, Value)>,
}

/// The layers as the writer sees them.
#[derive(Debug)]
pub(super) struct Layers {
    reader: Reader,
    active: Arc<Memtable>,
    index: Index,
    frozen: Option<(Arc<Memtable>, Index)>,
    base: Option<Arc<Base>>,
    /// There is a disk: a removed key may still exist below, so its removal must be kept.
    over_disk: bool,
    published: Revision,
    /// How much history is kept.
    retention: Retention,
    /// The oldest revision that can be read.
    floor: Revision,
    /// The keys that the present entry has changed, if history is kept.
    changed: Vec<Note>,
    /// The versions in the active memtable that the present entry has superseded.
    superseded: Vec<Superseded>,
    /// Without a disk, the history: the weight of each revision after the floor, and the versions that each has
    /// superseded.
    weights: VecDeque<(Revision, u64)>,
    weight: u64,
    kept: VecDeque<Superseded>,
    /// Older views that readers may hold, oldest first.
    retired: VecDeque<Retired>,
    /// Freed in small steps: freeing everything at once would delay the writer by tens of milliseconds.
    dead: VecDeque<RetiredMemtable>,
    /// How many versions were written since something was last freed.
    written: usize,
    write_digest: WriteDigest,
    gaps: Arc<Gaps>,
}

impl Layers {
    pub(super) fn new(
        applied: Anchor,
        revision: Revision,
        base: Option<Arc<Base>>,
        over_disk: bool,
        retention: Retention,
    ) -> Self {
        let active = Arc::new(Memtable::default());
        let (frozen, floor) = (None, base.as_ref().map_or(revision, |base| base.floor()));
        let gaps = Arc::new(Gaps::new(revision));
        let view = ReadView {
            applied,
            revision,
            floor,
            active: active.clone(),
            frozen,
            base: base.clone(),
            gaps: gaps.clone(),
        };
        Self {
            reader: Reader::new(view),
            active,
            index: Index::new(),
            frozen: None,
            base,
            over_disk,
            published: revision,
            retention,
            floor,
            changed: Vec::new(),
            superseded: Vec::new(),
            weights: VecDeque::new(),
            weight: 0,
            kept: VecDeque::new(),
            retired: VecDeque::new(),
            dead: VecDeque::new(),
            written: 0,
            write_digest: WriteDigest::default(),
            gaps,
        }
    }

    pub(super) fn reader(&self) -> Reader {
        self.reader.clone()
    }

    pub(super) fn newest(&self, key: &[u8], see: &mut dyn FnMut(&[u8])) -> Result<(), EngineError> {
        let frozen = || self.frozen.as_ref().and_then(|(_, index)| index.get(key));
        if let Some((_, value)) = self.index.get(key).or_else(frozen) {
            if let Some(value) = value {
                see(value);
            }
            return Ok(());
        }
        match &self.base {
            Some(base) => base.get(key, see),
            None => Ok(()),
        }
    }

    pub(super) fn written(&self) -> ReadView {
        self.read_view(self.reader.latest().applied(), Revision::new(u64::MAX))
    }

    fn read_view(&self, applied: Anchor, revision: Revision) -> ReadView {
        ReadView {
            applied,
            revision,
            floor: self.floor,
            active: self.active.clone(),
            frozen: self.frozen.as_ref().map(|(frozen, _)| frozen.clone()),
            base: self.base.clone(),
            gaps: self.gaps.clone(),
        }
    }

    pub(super) fn write(&mut self, key: &[u8], revision: Revision, change: KeyChange, former: Option<usize>) {
        assert!(revision > self.published, "what is written has a revision of its own (rule N8)");
        let version = VersionKey { key: Key::from(key), revision };
        let value = change.value().cloned();
        let removed = value.is_none();
        self.write_digest.note(key, revision, &change);
        self.gaps.written(&version.key, revision, !removed);
        let present = value.as_ref().map_or(0, |value| present(key.len(), value.len()));
        self.active.count_live(present - former.map_or(0, |former| self::present(key.len(), former)));
        let former = former.unwrap_or_default();
        self.active.insert(version.clone(), change);
        self.written += 1;
        let keeps = self.retention.is_some();
        if keeps {
            self.changed.push((version.clone(), u32::try_from(former).unwrap_or(u32::MAX)));
        }
        if let Some((older, before)) = self.index.insert(version.key.clone(), (revision, value)) {
            assert!(older < revision, "the revisions of a key grow");
            debug_assert_eq!(
                before.map_or(0, |before| before.len()),
                former,
                "the length of the former value"
            );
            let older = VersionKey { key: version.key.clone(), revision: older };
            if keeps {
                self.supersede(older, revision);
            } else if older.revision > self.published {
                // Never published: it was written and superseded within this entry.
                self.active.remove(&older);
            } else {
                self.superseded.push(Superseded { version: older, until: revision });
            }
        }
        if removed && !self.over_disk {
            // Once the versions below it are removed, it hides nothing.
            self.superseded.push(Superseded { version, until: revision });
        }
        if keeps && !self.over_disk {
            self.weights.push_back((revision, weight(key.len(), former)));
        }
    }

    /// With a disk, history waits for a checkpoint. Otherwise it is freed in small steps.
    fn supersede(&mut self, version: VersionKey, until: Revision) {
        if !self.over_disk {
            self.superseded.push(Superseded { version, until });
        }
    }

    /// Returns a digest of what was written since the last call.
    pub(super) fn take_write_digest(&mut self) -> Hash {
        self.write_digest.take()
    }

    pub(super) fn publish(&mut self, applied: Anchor, revision: Revision) {
        assert!(revision >= self.published && applied.op >= self.applied().op, "readers never go back");
        self.active.note(std::mem::take(&mut self.changed));
        self.raise_floor(revision);
        assert!(self.floor <= revision, "the newest revision can be read");
        let old = self.reader.replace(self.read_view(applied, revision));
        self.published = revision;
        self.retired.push_back(Retired { view: old, superseded: std::mem::take(&mut self.superseded) });
        self.prune();
        self.free_in_proportion();
    }

    /// In a state at `revision`, nothing below the floor can be read.
    fn raise_floor(&mut self, revision: Revision) {
        if !self.retention.is_some() {
            self.floor = revision;
        } else if !self.over_disk {
            let new = self.weights.iter().rev().take_while(|(at, _)| *at > self.published);
            self.weight += new.map(|(_, weight)| weight).sum::<u64>();
            self.floor = self.floor.max(self.retention.through(revision));
            while let Some((at, weight)) = self.weights.front()
                && (*at <= self.floor || self.weight > self.retention.bytes)
            {
                self.floor = self.floor.max(*at);
                self.weight -= weight;
                self.weights.pop_front();
            }
        }
    }

    /// Removes the versions that no reader can see any more: those superseded after views that nobody holds.
    fn prune(&mut self) {
        while let Some(oldest) = self.retired.front_mut() {
            // Readers take only the newest view, so a view that nobody holds is never taken again.
            if Arc::get_mut(&mut oldest.view).is_none() {
                break;
            }
            let superseded = std::mem::take(&mut oldest.superseded);
            self.retired.pop_front();
            if self.retention.is_some() {
                self.kept.extend(superseded);
            } else {
                superseded.into_iter().for_each(|superseded| self.remove(&superseded.version));
            }
        }
        let floor = self.retired.front().map_or(self.floor, |oldest| oldest.view.floor);
        while let Some(superseded) = self.kept.pop_front_if(|superseded| superseded.until <= floor) {
            self.remove(&superseded.version);
        }
        if !self.over_disk {
            self.active.forget_notes(floor);
        }
    }

    fn remove(&mut self, version: &VersionKey) {
        self.active.remove(version);
        let is_newest = |(newest, _): &(Revision, Value)| *newest == version.revision;
        if !self.over_disk && self.index.get(&version.key).is_some_and(is_newest) {
            self.index.remove(&version.key);
        }
    }

    /// About how much memory is used by memtables that are in the base: readers hold them, or they are not freed yet.
    pub(super) fn dead_bytes(&self) -> usize {
        self.dead.iter().map(|dead| dead.memtable.bytes()).sum()
    }

    /// Frees what no reader holds, while nothing is written.
    pub(super) fn release(&mut self) {
        self.prune();
        self.free_some(SHED_IDLE);
    }

    /// Frees a part of the retired memtables, in proportion to what was written.
    fn free_in_proportion(&mut self) {
        let count = SHED_LEAST.max(SHED * std::mem::take(&mut self.written));
        self.free_some(count);
    }

    /// Frees a part of the oldest retired memtable that no reader holds. A long read keeps only the memtables that it
    /// reads.
    fn free_some(&mut self, count: usize) {
        let mut all = self.dead.iter_mut();
        let Some(at) = all.position(|dead| Arc::get_mut(&mut dead.memtable).is_some()) else { return };
        let dead = &mut self.dead[at];
        let keys = dead.index.by_ref().take(count).count();
        let versions = dead.memtable.free_some(count);
        if keys < count && versions < count {
            self.dead.remove(at);
        }
    }

    /// What the last checkpoint left.
    pub(super) fn base(&self) -> Option<Arc<Base>> {
        self.base.clone()
    }

    pub(super) fn active(&self) -> &Memtable {
        &self.active
    }

    pub(super) fn frozen(&self) -> Option<&Memtable> {
        self.frozen.as_ref().map(|(frozen, _)| &**frozen)
    }

    pub(super) fn applied(&self) -> Anchor {
        self.reader.latest().applied
    }

    pub(super) fn retention(&self) -> Retention {
        self.retention
    }

    /// The revision of the published view.
    pub(super) fn revision(&self) -> Revision {
        self.published
    }

    /// Starts a new memtable. What is published so far is in the frozen one, which no longer changes.
    pub(super) fn freeze(&mut self) -> Arc<Memtable> {
        assert!(self.frozen.is_none(), "one checkpoint at a time");
        assert!(self.superseded.is_empty() && self.changed.is_empty(), "between two entries");
        let frozen = std::mem::take(&mut self.active);
        self.frozen = Some((frozen.clone(), std::mem::take(&mut self.index)));
        // The frozen memtable is dropped as a whole soon, so its old versions need no pruning.
        self.retired.clear();
        self.republish();
        frozen
    }

    /// The frozen memtable is in `base` now.
    pub(super) fn unfreeze(&mut self, base: Arc<Base>) {
        let (memtable, index) = self.frozen.take().expect("a checkpoint that ends had begun");
        self.dead.push_back(RetiredMemtable { memtable, index: index.into_iter() });
        self.floor = self.floor.max(base.floor());
        self.base = Some(base);
        self.republish();
    }

    /// The same checkpoint lies in other files now.
    pub(super) fn rebase(&mut self, base: Arc<Base>) {
        self.base = Some(base);
        self.republish();
    }

    /// Publishes the same state in different layers.
    fn republish(&mut self) {
        let applied = self.applied();
        // Nobody holds the old view because of this, so that it is dropped at once if no reader does.
        self.publish(applied, self.published);
    }
}

#[cfg(test)]
mod tests {
    use super::super::counted::Counted;
    use super::super::disk::Disk;
    use super::super::{Engine, Keys};
    use super::*;
    use crate::ids::Op;

    struct Writer {
        engine: Disk,
        live: Counted,
        revision: u64,
        /// How many exist.
        keys: u64,
    }

    impl Writer {
        fn new(retention: Retention) -> Self {
            Self::with_limit(retention, 1 << 30)
        }

        fn with_limit(retention: Retention, overlay_limit: usize) -> Self {
            let storage = crate::storage::simulated::Disk::new().storage();
            let engine = Disk::open(storage, 1 << 20, overlay_limit).expect("it is empty");
            let engine = engine.at(Anchor::ZERO, Revision::ZERO, retention);
            Self { engine, live: Counted::default(), revision: 0, keys: 0 }
        }

        fn put(&mut self, keys: u64) {
            for key in 0..keys {
                self.revision += 1;
                let value = self.live.value();
                let revision = Revision::new(self.revision);
                let former = (key < self.keys).then_some(value.len());
                self.keys = self.keys.max(key + 1);
                self.engine.write(
                    format!("key/{key:04}").as_bytes(),
                    revision,
                    KeyChange::Set(value),
                    former,
                );
                self.engine.publish(Anchor::new(Op::new(self.revision), Hash::ZERO), revision);
            }
        }

        fn checkpoint(&mut self) {
            let frozen = self.engine.freeze().expect("something is new");
            self.engine.checkpointed(frozen.run(Vec::new()).expect("the disk is good"));
        }

        /// Waits until at most `most` values exist, or their number does not fall any more, and returns it. A value
        /// removed from a map is freed when no thread of this process is still in an older access to some map, and that
        /// includes the threads of other tests.
        fn live(&self, most: usize) -> usize {
            let view = self.engine.reader().latest();
            for _ in 0..10_000 {
                if self.live.held() <= most {
                    break;
                }
                // Each access helps the reclamation.
                (0..128).for_each(|_| drop(view.get(b"key/0000").expect("it can be read")));
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            self.live.held()
        }
    }

    /// A reader that holds an old view keeps what it reads. Memtables created later are freed nevertheless.
    #[test]
    fn a_long_read_keeps_only_the_memtables_that_it_reads() {
        let mut writer = Writer::new(Retention::NONE);
        writer.put(500);
        let held = writer.engine.reader().latest();
        for _ in 0..10 {
            writer.checkpoint();
            writer.put(500);
        }
        // The memtables that are read, those that are being freed, and the newest.
        let (live, most) = (writer.live(4 * 500), 4 * 500);
        assert!(live <= most, "{live} of {} values are alive", 11 * 500);
        assert_eq!(held.scan(b"").expect("it can be read").count(), 500);
        drop(held);
        writer.checkpoint();
        writer.put(500);
        writer.put(500);
        writer.checkpoint();
        writer.put(1000);
        let live = writer.live(3 * 1000);
        assert!(live <= 3 * 1000, "{live} values are alive");
    }

    /// What readers keep is bounded, however many readers hold however many old views: first checkpoints wait, and then
    /// the writer. When the readers release the views, the writer continues.
    #[test]
    fn memory_held_by_readers_is_bounded_and_the_writer_waits() {
        const KEYS: u64 = 100;
        let mut probe = Writer::new(Retention::NONE);
        probe.put(KEYS);
        let one = probe.engine.memtable_bytes();
        let mut writer = Writer::with_limit(Retention::NONE, 2 * one);
        let mut held = Vec::new();
        for round in 0.. {
            assert!(round < 100, "the writer is never stopped: {} values are alive", writer.live.held());
            if writer.engine.is_full() {
                break;
            }
            writer.put(KEYS);
            held.push(writer.engine.reader().latest());
            if let Some(frozen) = writer.engine.freeze() {
                writer.engine.checkpointed(frozen.run(Vec::new()).expect("the disk is good"));
            }
        }
        // Four retired memtables, and two in the newest view.
        let most = (4 + 2) * usize::try_from(KEYS).expect("few");
        let live = writer.live(most);
        assert!(live <= most, "{live} values are alive");
        assert_eq!(writer.engine.dead_bytes(), 4 * one);
        writer.engine.release();
        assert!(writer.engine.is_full(), "they still read");
        drop(held);
        writer.engine.release();
        assert!(!writer.engine.is_full(), "{} bytes are dead", writer.engine.dead_bytes());
        writer.checkpoint();
        (0..10).for_each(|_| writer.engine.release());
        assert_eq!(writer.engine.dead_bytes(), 0);
    }

    /// Watches and scans read all the time beside writes and merges. The live values are those of the last memtables.
    #[test]
    fn memory_does_not_grow_with_the_number_of_writes() {
        let mut writer = Writer::new(Retention { revisions: 1000, bytes: 1 << 20 });
        for _ in 0..30 {
            writer.put(200);
            let point = writer.engine.reader().latest();
            let since = point.revision().back(150).max(point.floor());
            assert!(point.changes(since, None).expect("it can be read").count() >= 150);
            for reverse in [false, true] {
                let keys = Keys { from: b"", to: None, reverse };
                let scan = point.scan_at(keys, point.revision()).expect("it can be read");
                assert_eq!(scan.count(), 200);
            }
            drop(point);
            writer.checkpoint();
        }
        // What was removed from the map is freed a little later, when this thread uses the map.
        let live = writer.live(2000);
        assert!(live <= 2000, "{live} of 6,000 values are alive");
    }
}
