//! Recent versions in memory: an ordered concurrent map by (key, revision). One writer, any number of readers.

use super::change::KeyChange;
use super::key::Key;
use super::keys::Keys;
use super::steps;
use super::version::{AsVersionKey, Value, VersionKey};
use crate::ids::Revision;
use bytes::Bytes;
use crossbeam_skiplist::SkipMap;
use crossbeam_skiplist::map::Entry;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering as Memory};

/// About how much memory a version takes besides the bytes of its key and value: the node of the map, the writer's
/// index, and the overhead of the allocator.
const VERSION_OVERHEAD: usize = 256;

/// About how much it takes in the order of changes.
const NOTE_BYTES: usize = size_of::<VersionKey>();

/// The versions of a range of revisions.
#[derive(Debug, Default)]
pub(super) struct Memtable {
    versions: SkipMap<VersionKey, KeyChange>,
    /// The keys that each entry changed, in the order of revisions and keys, under the last of its revisions. Empty if
    /// no history is kept.
    notes: SkipMap<Revision, Arc<[VersionKey]>>,
    bytes: AtomicUsize,
}

impl Memtable {
    /// Frees up to `count` versions; no reader is left. Returns how many there were.
    pub(super) fn free_some(&self, count: usize) -> usize {
        let notes = (0..count).map_while(|_| self.notes.pop_front());
        let notes = notes.map(|note| self.forget_bytes(NOTE_BYTES * note.value().len())).count();
        let versions = (0..count).map_while(|_| self.versions.pop_front());
        let versions = versions.map(|it| self.forget_bytes(weight(it.key(), it.value()))).count();
        notes.max(versions)
    }

    fn forget_bytes(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Memory::Relaxed);
    }

    /// Records the keys that an entry has changed, in any order within a revision.
    pub(super) fn note(&self, mut changed: Vec<VersionKey>) {
        let Some(last) = changed.last().map(|version| version.revision) else { return };
        changed.sort_unstable_by(|one, other| {
            one.revision.cmp(&other.revision).then_with(|| one.key.cmp(&other.key))
        });
        self.bytes.fetch_add(NOTE_BYTES * changed.len(), Memory::Relaxed);
        self.notes.insert(last, changed.into());
    }

    /// Drops the records of changes up to `through`, in whole entries.
    pub(super) fn forget_notes(&self, through: Revision) {
        while let Some(first) = self.notes.front().filter(|first| *first.key() <= through) {
            self.bytes.fetch_sub(NOTE_BYTES * first.value().len(), Memory::Relaxed);
            first.remove();
        }
    }

    /// The records of changes from `since` on, entry by entry, in order. They may begin with a few earlier changes of
    /// the same entry.
    ///
    /// It steps from entry to entry instead of using `SkipMap::range`, which never releases the entries that it has
    /// passed (crossbeam-skiplist 0.1.3).
    pub(super) fn notes(&self, since: Revision) -> impl Iterator<Item = Arc<[VersionKey]>> {
        let first = self.notes.lower_bound(Bound::Included(&since));
        std::iter::successors(first, Entry::next)
            .map(|entry| entry.value().clone())
            .inspect(|_| steps::count(1))
    }

    /// Adds a version. It is the newest of its key, because revisions only grow.
    pub(super) fn insert(&self, version: VersionKey, change: KeyChange) {
        self.bytes.fetch_add(weight(&version, &change), Memory::Relaxed);
        self.versions.insert(version, change);
    }

    /// Removes a version that no reader can need.
    pub(super) fn remove(&self, version: &VersionKey) {
        if let Some(removed) = self.versions.remove(version) {
            self.bytes.fetch_sub(weight(removed.key(), removed.value()), Memory::Relaxed);
        }
    }

    /// The version of `key` that is seen at `at`; `None` if there is none in this memtable.
    pub(super) fn get(&self, key: &[u8], at: Revision) -> Option<(Revision, KeyChange)> {
        let entry = self.first_from(key, at)?;
        (entry.key().key.as_slice() == key).then(|| (entry.key().revision, entry.value().clone()))
    }

    /// Returns a cursor over the keys, and over what is seen of them at `at`.
    pub(super) fn cursor(&self, keys: Keys<'_>, at: Revision) -> MemtableCursor<'_> {
        let entry = match keys.to {
            _ if !keys.reverse => self.first_from(keys.from, Revision::new(u64::MAX)),
            Some(to) => self.last_below(to),
            None => self.versions.back(),
        };
        let mut cursor =
            MemtableCursor { memtable: self, entry, key: None, seen: false, at, reverse: keys.reverse };
        cursor.settle_on_visible();
        cursor
    }

    /// All versions: keys ascending, and of one key the newest first.
    pub(super) fn versions(&self) -> impl Iterator<Item = Entry<'_, VersionKey, KeyChange>> {
        self.versions.iter()
    }

    /// The oldest version of the greatest key below `key`.
    fn last_below(&self, key: &[u8]) -> Option<Entry<'_, VersionKey, KeyChange>> {
        steps::count(1);
        self.versions.upper_bound(Bound::Excluded(&(key, Revision::new(u64::MAX)) as &dyn AsVersionKey))
    }

    fn first_from(&self, key: &[u8], at: Revision) -> Option<Entry<'_, VersionKey, KeyChange>> {
        steps::count(1);
        self.versions.lower_bound(Bound::Included(&(key, at) as &dyn AsVersionKey))
    }

    /// Counts memory that is held elsewhere until this memtable is in a checkpoint.
    pub(super) fn charge(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Memory::Relaxed);
    }

    /// About how much memory the versions take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Memory::Relaxed)
    }
}

fn weight(version: &VersionKey, change: &KeyChange) -> usize {
    VERSION_OVERHEAD + version.key.heap_bytes() + change.value().map_or(0, Bytes::len)
}

/// How many versions are stepped over before a look-up is used instead.
const STEPS: usize = 4;

/// A cursor at a key, and at the version of it that is seen at one revision, if there is one: all its versions here may
/// be newer.
pub(super) struct MemtableCursor<'a> {
    memtable: &'a Memtable,
    /// The version, if one is seen; otherwise, unless in reverse, the first version of the next key.
    entry: Option<Entry<'a, VersionKey, KeyChange>>,
    key: Option<Key>,
    seen: bool,
    at: Revision,
    reverse: bool,
}

impl MemtableCursor<'_> {
    /// The current key; `None` at the end.
    pub(super) fn key(&self) -> Option<&Key> {
        self.key.as_ref()
    }

    /// What is seen of the key: `None` if the layers below must be asked, `Some(None)` if the key was removed.
    pub(super) fn value(&self) -> Option<Value> {
        let entry = self.entry.as_ref().filter(|_| self.seen)?;
        Some(entry.value().value().cloned())
    }

    /// Moves to the next key, in a few steps and look-ups, however many versions there are.
    pub(super) fn advance(&mut self) {
        let Some(key) = self.key.take() else { return };
        if self.reverse {
            self.entry = self.memtable.last_below(key.as_slice());
        } else if self.seen {
            // No version has revision zero, so this is just after the oldest version of the key.
            self.skip(|version| version.key == key, (key.as_slice(), Revision::ZERO));
        }
        self.settle_on_visible();
    }

    /// Moves from any version of a key to the one that is seen.
    fn settle_on_visible(&mut self) {
        let at = self.at;
        self.key = self.entry.as_ref().map(|entry| entry.key().key.clone());
        let Some(key) = self.key.clone() else { return };
        if self.reverse {
            self.entry = self.memtable.first_from(key.as_slice(), at);
        } else {
            self.skip(|version| version.key == key && version.revision > at, (key.as_slice(), at));
        }
        self.seen = self.entry.as_ref().is_some_and(|entry| entry.key().key == key);
    }

    /// Moves past the versions for which `passed` is true: step by step, or directly to `target` if there are many.
    fn skip(&mut self, passed: impl Fn(&VersionKey) -> bool, target: (&[u8], Revision)) {
        for _ in 0..STEPS {
            if !self.entry.as_ref().is_some_and(|entry| passed(entry.key())) {
                return;
            }
            steps::count(1);
            self.entry = self.entry.take().and_then(|entry| entry.next());
        }
        if self.entry.as_ref().is_some_and(|entry| passed(entry.key())) {
            self.entry = self.memtable.first_from(target.0, target.1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::counted::Counted;
    use super::*;

    fn memtable(versions: &[(&str, u64, Option<&str>)]) -> Memtable {
        let memtable = Memtable::default();
        for (key, revision, value) in versions {
            let version = VersionKey { key: Key::from(key.as_bytes()), revision: Revision::new(*revision) };
            let value = value.map(|value| KeyChange::Set(Bytes::copy_from_slice(value.as_bytes())));
            memtable.insert(version, value.unwrap_or(KeyChange::Delete));
        }
        memtable
    }

    fn walk(memtable: &Memtable, from: &str, at: u64) -> Vec<(String, Option<String>)> {
        let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        let mut cursor = memtable.cursor(Keys::from(from.as_bytes()), Revision::new(at));
        let mut found = Vec::new();
        while let Some(key) = cursor.key().cloned() {
            if let Some(value) = cursor.value() {
                found.push((String::from_utf8(key.as_slice().to_vec()).unwrap(), value.map(text)));
            }
            cursor.advance();
        }
        found
    }

    /// Compares every walk and every look-up at every revision with a simple implementation, with many and with few
    /// versions per key.
    #[test]
    fn a_key_is_seen_as_its_newest_version_at_the_revision() {
        let mut rng = fastrand::Rng::with_seed(5);
        for keys in [1, 2, 5, 30] {
            let names: Vec<String> = (0..keys).map(|n| format!("k{n:02}")).collect();
            let versions: Vec<(&str, u64, Option<&str>)> = (1..60)
                .map(|revision| {
                    (
                        names[rng.usize(..keys)].as_str(),
                        revision,
                        [None, Some("a"), Some("b")][rng.usize(..3)],
                    )
                })
                .collect();
            let memtable = memtable(&versions);
            for at in 0..62 {
                let newest = |name: &&String| {
                    let version =
                        versions.iter().rev().find(|version| version.0 == **name && version.1 <= at)?;
                    Some((version.0.to_string(), version.2.map(ToString::to_string)))
                };
                for from in ["", "k", "k01", "k015", "k07", "z"] {
                    let rest = names.iter().filter(|name| name.as_str() >= from);
                    assert_eq!(
                        walk(&memtable, from, at),
                        rest.filter_map(|name| newest(&name)).collect::<Vec<_>>()
                    );
                }
                for name in &names {
                    let found = memtable
                        .get(name.as_bytes(), Revision::new(at))
                        .map(|(_, change)| change.value().is_some());
                    assert_eq!(found, newest(&name).map(|(_, value)| value.is_some()));
                }
            }
        }
    }

    #[test]
    fn bytes_are_counted_in_and_out() {
        let memtable = memtable(&[("a", 1, Some("one")), ("a", 2, None)]);
        assert_eq!(memtable.bytes(), 2 * VERSION_OVERHEAD + 3);
        for revision in [1, 1, 2, 3] {
            memtable.remove(&VersionKey { key: Key::from(&b"a"[..]), revision: Revision::new(revision) });
        }
        assert_eq!(memtable.bytes(), 0);
    }

    /// All ways to read, beside removals: versions that were removed and that nobody reads are freed.
    #[test]
    fn removed_versions_are_released_after_the_read() {
        const ENTRIES: u64 = 900;
        let (memtable, live) = (Memtable::default(), Counted::default());
        let long = Key::from(&[b'k'; 64][..]);
        let Key::Shared(shared) = &long else { panic!("a long key is shared") };
        for number in 1..=ENTRIES {
            let revision = Revision::new(number);
            let value = live.value();
            let version = VersionKey { key: Key::from(format!("k{number:04}").as_bytes()), revision };
            memtable.insert(version, KeyChange::Set(value));
            memtable.note(vec![VersionKey { key: long.clone(), revision }]);
            // A watch that begins here, one that reads everything, scans in both directions, and look-ups.
            let since = Revision::new(number.saturating_sub(20));
            assert!(memtable.notes(since).count() > 0);
            assert_eq!(memtable.notes(since).take(1).count(), 1);
            for reverse in [false, true] {
                let mut cursor = memtable.cursor(Keys { from: b"", to: Some(b"k0500"), reverse }, revision);
                for _ in 0..30 {
                    cursor.advance();
                }
            }
            let newest = memtable.get(format!("k{number:04}").as_bytes(), revision);
            assert!(newest.is_some_and(|(at, _)| at == revision));
            assert!(memtable.versions().take(3).count() > 0);
            if number > 100 {
                let old = Revision::new(number - 100);
                let key = Key::from(format!("k{:04}", old.get()).as_bytes());
                memtable.remove(&VersionKey { key, revision: old });
                memtable.forget_notes(old);
            }
        }
        // The map frees removed versions later, in small steps, when it is used.
        let released = || live.held() + Arc::strong_count(shared);
        for number in 0..100_000 {
            if released() <= 300 {
                break;
            }
            let version = VersionKey { key: Key::from(&b"a"[..]), revision: Revision::new(ENTRIES + number) };
            memtable.insert(version.clone(), KeyChange::Delete);
            memtable.remove(&version);
        }
        assert!(released() <= 300, "{} of {} are alive", released(), 2 * ENTRIES);
        while memtable.free_some(64) > 0 {}
        drop(memtable);
    }
}
