//! Recent versions in memory: an ordered map by (key, revision). One writer, any number of readers.
//!
//! The map is a B-tree behind a lock that is held for one look-up at a time: a look-up takes less than a microsecond,
//! and readers share the lock. A concurrent skip list made each write and each look-up of the writer several times as
//! expensive, because each of its steps visits another part of the memory.

use super::change::KeyChange;
use super::key::Key;
use super::keys::Keys;
use super::steps;
use super::version::{AsVersionKey, Value, VersionKey};
use crate::ids::Revision;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering as Memory};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// About how much memory a version takes besides the bytes of its key and value: its place in the map, the writer's
/// index, and the overhead of the allocator.
const VERSION_OVERHEAD: usize = 256;

/// About how much it takes in the order of changes.
const NOTE_BYTES: usize = size_of::<Note>();

/// How many versions [`Memtable::versions`] copies at a time.
const COPIED: usize = 256;

type Versions = BTreeMap<VersionKey, KeyChange>;
type Notes = BTreeMap<Revision, Arc<[Note]>>;

/// A change, and the length of the value before it.
pub(super) type Note = (VersionKey, u32);

/// A version and what it is.
type Entry = (VersionKey, KeyChange);

/// The versions of a range of revisions.
#[derive(Debug, Default)]
pub(super) struct Memtable {
    versions: RwLock<Versions>,
    /// The keys that each entry changed, in the order of revisions and keys, under the last of its revisions. Empty if
    /// no history is kept.
    notes: RwLock<Notes>,
    bytes: AtomicUsize,
    /// How many more bytes of keys and values are present than before its first version.
    live: AtomicI64,
}

fn read<T>(map: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    map.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(map: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    map.write().unwrap_or_else(PoisonError::into_inner)
}

fn owned((version, change): (&VersionKey, &KeyChange)) -> Entry {
    (version.clone(), change.clone())
}

impl Memtable {
    /// Frees up to `count` versions; no reader is left. Returns how many there were.
    pub(super) fn free_some(&self, count: usize) -> usize {
        let (mut notes, mut versions) = (write(&self.notes), write(&self.versions));
        let notes = (0..count).map_while(|_| notes.pop_first());
        let notes = notes.map(|(_, note)| self.forget_bytes(NOTE_BYTES * note.len())).count();
        let versions = (0..count).map_while(|_| versions.pop_first());
        let versions = versions.map(|(version, change)| self.forget_bytes(weight(&version, &change))).count();
        notes.max(versions)
    }

    fn forget_bytes(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Memory::Relaxed);
    }

    /// Records the keys that an entry has changed, in any order within a revision.
    pub(super) fn note(&self, mut changed: Vec<Note>) {
        let Some(last) = changed.last().map(|(version, _)| version.revision) else { return };
        changed.sort_unstable_by(|(one, _), (other, _)| {
            one.revision.cmp(&other.revision).then_with(|| one.key.cmp(&other.key))
        });
        self.bytes.fetch_add(NOTE_BYTES * changed.len(), Memory::Relaxed);
        write(&self.notes).insert(last, changed.into());
    }

    /// Drops the records of changes up to `through`, in whole entries.
    pub(super) fn forget_notes(&self, through: Revision) {
        let mut notes = write(&self.notes);
        while let Some(first) = notes.first_entry().filter(|first| *first.key() <= through) {
            self.forget_bytes(NOTE_BYTES * first.remove().len());
        }
    }

    /// The records of changes from `since` on, entry by entry, in order. They may begin with a few earlier changes of
    /// the same entry.
    pub(super) fn notes(&self, since: Revision) -> impl Iterator<Item = Arc<[Note]>> {
        let mut from = Bound::Included(since);
        std::iter::from_fn(move || {
            let notes = read(&self.notes);
            let (last, note) = notes.range((from, Bound::Unbounded)).next()?;
            from = Bound::Excluded(*last);
            steps::count(1);
            Some(note.clone())
        })
    }

    /// Counts bytes of keys and values that are present now, or were before.
    pub(super) fn count_live(&self, bytes: i64) {
        self.live.fetch_add(bytes, Memory::Relaxed);
    }

    /// How many more bytes of keys and values are present than before its first version.
    pub(super) fn live(&self) -> i64 {
        self.live.load(Memory::Relaxed)
    }

    /// Adds a version. It is the newest of its key, because revisions only grow.
    pub(super) fn insert(&self, version: VersionKey, change: KeyChange) {
        self.bytes.fetch_add(weight(&version, &change), Memory::Relaxed);
        write(&self.versions).insert(version, change);
    }

    /// Removes a version that no reader can need.
    pub(super) fn remove(&self, version: &VersionKey) {
        let removed = write(&self.versions).remove(version);
        if let Some(change) = removed {
            self.forget_bytes(weight(version, &change));
        }
    }

    /// The version of `key` that is seen at `at`; `None` if there is none in this memtable.
    pub(super) fn get(&self, key: &[u8], at: Revision) -> Option<(Revision, KeyChange)> {
        steps::count(1);
        let versions = read(&self.versions);
        let (version, change) = first_from(&versions, key, at)?;
        (version.key.as_slice() == key).then(|| (version.revision, change.clone()))
    }

    /// Returns a cursor over the keys, and over what is seen of them at `at`.
    pub(super) fn cursor(&self, keys: Keys<'_>, at: Revision) -> MemtableCursor<'_> {
        let entry = match keys.to {
            _ if !keys.reverse => self.first_from(keys.from, Revision::new(u64::MAX)),
            Some(to) => self.last_below(to),
            None => read(&self.versions).last_key_value().map(owned),
        };
        let mut cursor =
            MemtableCursor { memtable: self, entry, key: None, seen: false, at, reverse: keys.reverse };
        cursor.settle_on_visible();
        cursor
    }

    /// All versions: keys ascending, and of one key the newest first. Nothing may be added meanwhile.
    pub(super) fn versions(&self) -> impl Iterator<Item = Entry> {
        let (mut copied, mut last) = (Vec::new().into_iter(), None::<VersionKey>);
        std::iter::from_fn(move || {
            if copied.as_slice().is_empty() {
                let from = last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
                let next: Vec<Entry> = read(&self.versions)
                    .range::<VersionKey, _>((from, Bound::Unbounded))
                    .take(COPIED)
                    .map(owned)
                    .collect();
                last = next.last().map(|(version, _)| version.clone()).or(last.take());
                copied = next.into_iter();
            }
            copied.next()
        })
    }

    /// The oldest version of the greatest key below `key`.
    fn last_below(&self, key: &[u8]) -> Option<Entry> {
        steps::count(1);
        let end = Bound::Excluded(&(key, Revision::new(u64::MAX)) as &dyn AsVersionKey);
        let versions = read(&self.versions);
        versions.range::<dyn AsVersionKey, _>((Bound::Unbounded, end)).next_back().map(owned)
    }

    fn first_from(&self, key: &[u8], at: Revision) -> Option<Entry> {
        steps::count(1);
        first_from(&read(&self.versions), key, at).map(owned)
    }

    /// The version after this one.
    fn next(&self, version: &VersionKey) -> Option<Entry> {
        steps::count(1);
        let after = (Bound::Excluded(version), Bound::Unbounded);
        read(&self.versions).range::<VersionKey, _>(after).next().map(owned)
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

fn first_from<'a>(
    versions: &'a Versions,
    key: &[u8],
    at: Revision,
) -> Option<(&'a VersionKey, &'a KeyChange)> {
    let from = Bound::Included(&(key, at) as &dyn AsVersionKey);
    versions.range::<dyn AsVersionKey, _>((from, Bound::Unbounded)).next()
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
    entry: Option<Entry>,
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
        let (_, change) = self.entry.as_ref().filter(|_| self.seen)?;
        Some(change.value().cloned())
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
        self.key = self.entry.as_ref().map(|(version, _)| version.key.clone());
        let Some(key) = self.key.clone() else { return };
        if self.reverse {
            self.entry = self.memtable.first_from(key.as_slice(), at);
        } else {
            self.skip(|version| version.key == key && version.revision > at, (key.as_slice(), at));
        }
        self.seen = self.entry.as_ref().is_some_and(|(version, _)| version.key == key);
    }

    /// Moves past the versions for which `passed` is true: step by step, or directly to `target` if there are many.
    fn skip(&mut self, passed: impl Fn(&VersionKey) -> bool, target: (&[u8], Revision)) {
        for _ in 0..STEPS {
            match self.entry.take_if(|(version, _)| passed(version)) {
                Some((version, _)) => self.entry = self.memtable.next(&version),
                None => return,
            }
        }
        if self.entry.as_ref().is_some_and(|(version, _)| passed(version)) {
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
            memtable.note(vec![(VersionKey { key: long.clone(), revision }, 0)]);
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
        assert_eq!(
            (live.held(), Arc::strong_count(shared)),
            (100, 101),
            "those of the last hundred, and `long`"
        );
        while memtable.free_some(64) > 0 {}
        assert_eq!((live.held(), memtable.bytes()), (0, 0));
    }
}
