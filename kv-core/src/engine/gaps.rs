//! Ranges of keys that are known to be empty, so that a scan need not step over the same removed keys again and again.
//!
//! Scans find them: a run of removed keys between two present keys. They are hints: correct, but incomplete. They save
//! time, and no result depends on them. Before a put can be read, the writer removes its key from the gap that contains
//! it.

use super::key::Key;
use crate::ids::Revision;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Mutex, PoisonError};

/// The shortest run of removed keys that is remembered.
pub(super) const WORTH: usize = if cfg!(test) { 4 } else { 32 };

/// How many gaps are remembered. A new one replaces another.
const MOST: usize = 1024;

/// Gaps between longer keys are not remembered, so all gaps together take at most 1 MiB.
const LONGEST_KEY: usize = 512;

/// How many of the last puts are remembered. The result of a scan that took longer than this many puts is not used.
const RECENT: usize = 1024;

/// An empty range. It begins at the key under which it is stored.
#[derive(Clone, Debug)]
struct Gap {
    /// The end of the range (exclusive); `None` for the end of the key space.
    to: Option<Key>,
    /// The range is empty at this revision and all later ones.
    since: Revision,
}

#[derive(Debug)]
struct Inner {
    gaps: BTreeMap<Key, Gap>,
    /// The last puts, oldest first.
    puts: VecDeque<(Revision, Key)>,
    /// Puts up to this revision are no longer remembered.
    forgotten: Revision,
    /// The revision of the last write, or of the state at the start.
    written: Revision,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Gaps(Mutex<Inner>);

fn ends_after(to: Option<&Key>, key: &[u8]) -> bool {
    to.is_none_or(|to| to.as_slice() > key)
}

impl Inner {
    /// The last gap that begins at or before the key, depending on the bound.
    fn last_to(&self, key: Bound<&[u8]>) -> Option<(&Key, &Gap)> {
        self.gaps.range::<[u8], _>((Bound::Unbounded, key)).next_back()
    }
}

impl Gaps {
    /// Creates an empty list for a state at this revision.
    pub(super) fn new(revision: Revision) -> Self {
        let (gaps, puts) = (BTreeMap::new(), VecDeque::new());
        Self(Mutex::new(Inner { gaps, puts, forgotten: revision, written: revision }))
    }

    fn with<R>(&self, change: impl FnOnce(&mut Inner) -> R) -> R {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A key is written, but not readable yet. `put`: the key exists afterwards.
    pub(super) fn written(&self, key: &Key, revision: Revision, put: bool) {
        self.with(|inner| {
            inner.written = revision;
            if !put {
                return;
            }
            if inner.puts.len() >= RECENT
                && let Some((oldest, _)) = inner.puts.pop_front()
            {
                inner.forgotten = oldest;
            }
            inner.puts.push_back((revision, key.clone()));
            let Some((from, gap)) = inner.last_to(Bound::Included(key.as_slice())) else { return };
            if !ends_after(gap.to.as_ref(), key.as_slice()) {
                return;
            }
            // The ranges before and after the key stay empty. A queue, for example, puts keys at one end of its gap.
            let (from, gap) = (from.clone(), gap.clone());
            inner.gaps.remove(&from);
            let behind = Key::from(&[key.as_slice(), &[0]].concat()[..]);
            if ends_after(gap.to.as_ref(), behind.as_slice()) && inner.gaps.len() + 1 < MOST {
                inner.gaps.insert(behind, gap.clone());
            }
            if from < *key {
                inner.gaps.insert(from, Gap { to: Some(key.clone()), ..gap });
            }
        });
    }

    /// The gap around `key` for a reader at a revision: its beginning and its end.
    pub(super) fn around(&self, key: &[u8], at: Revision) -> Option<(Key, Option<Key>)> {
        self.with(|inner| {
            let (from, gap) = inner.last_to(Bound::Included(key))?;
            let holds = gap.since <= at && ends_after(gap.to.as_ref(), key);
            holds.then(|| (from.clone(), gap.to.clone()))
        })
    }

    /// The gap that ends after every key below `to`, for a reader at a revision: its beginning.
    pub(super) fn below(&self, to: Option<&[u8]>, at: Revision) -> Option<Key> {
        self.with(|inner| {
            let (from, gap) = inner.last_to(to.map_or(Bound::Unbounded, Bound::Excluded))?;
            let reaches = match (gap.to.as_ref(), to) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(end), Some(to)) => end.as_slice() >= to,
            };
            (gap.since <= at && reaches).then(|| from.clone())
        })
    }

    /// A reader at a revision has found no key from `from` to `to`. A reader of unpublished versions is the writer
    /// itself.
    pub(super) fn found(&self, from: Key, to: Option<Key>, at: Revision) {
        let long = |key: &Key| key.as_slice().len() > LONGEST_KEY;
        if long(&from) || to.as_ref().is_some_and(|to| long(to) || *to <= from) {
            return;
        }
        self.with(|inner| {
            let since = at.min(inner.written);
            let inside = |key: &Key| *key >= from && to.as_ref().is_none_or(|to| key < to);
            let newer = inner.puts.iter().rev().take_while(|(revision, _)| *revision > at);
            if at < inner.forgotten || newer.map(|(_, key)| key).any(inside) {
                return;
            }
            let mut gap = (from, Gap { to, since });
            // Merge it with the gaps that it overlaps or touches.
            while let Some((other, old)) = inner
                .gaps
                .range::<Key, _>((
                    Bound::Unbounded,
                    gap.1.to.as_ref().map_or(Bound::Unbounded, Bound::Included),
                ))
                .next_back()
                && old.to.as_ref().is_none_or(|to| *to >= gap.0)
            {
                let other = other.clone();
                let Some(old) = inner.gaps.remove(&other) else { break };
                gap.0 = gap.0.min(other);
                gap.1.to = gap.1.to.zip(old.to).map(|(one, two)| one.max(two));
                gap.1.since = gap.1.since.max(old.since);
            }
            if inner.gaps.len() >= MOST {
                inner.gaps.pop_first();
            }
            inner.gaps.insert(gap.0, gap.1);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn key(number: u8) -> Key {
        Key::from(&[number][..])
    }

    /// Random puts, removals and finds, compared with a set of keys: a gap that is returned is empty, at that revision
    /// and now.
    #[test]
    fn a_gap_is_empty_for_every_reader() {
        for seed in 0..300 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let gaps = Gaps::new(Revision::ZERO);
            // The keys that were present at each revision.
            let mut history: Vec<BTreeSet<u8>> = vec![BTreeSet::new()];
            for step in 1..200_u64 {
                let revision = Revision::new(step);
                let mut keys = history[history.len() - 1].clone();
                let (name, put) = (rng.u8(..40), rng.u8(..4) == 0);
                gaps.written(&key(name), revision, put);
                if put {
                    keys.insert(name)
                } else {
                    keys.remove(&name)
                };
                history.push(keys);
                // A scan that began some time ago ends now.
                let at = step - rng.u64(..step.min(4));
                let seen = &history[usize::try_from(at).unwrap()];
                let from = rng.u8(..40);
                let to = seen.range(from..).next().copied();
                if to != Some(from) {
                    gaps.found(key(from), to.map(key), Revision::new(at));
                }
                let at = step - rng.u64(..step.min(4));
                let seen = &history[usize::try_from(at).unwrap()];
                let asked = rng.u8(..40);
                let number = |key: &Key| key.as_slice()[0] + u8::from(key.as_slice().len() > 1);
                if let Some((from, to)) = gaps.around(&[asked], Revision::new(at)) {
                    let (from, to) = (number(&from), to.as_ref().map_or(u8::MAX, number));
                    assert!(from <= asked && asked < to);
                    assert_eq!(seen.range(from..to).next(), None, "seed {seed}, step {step}");
                }
                if let Some(from) = gaps.below(Some(&[asked]), Revision::new(at)) {
                    assert!(number(&from) <= asked);
                    assert_eq!(seen.range(number(&from)..asked).next(), None, "seed {seed}, step {step}");
                }
            }
            assert!(gaps.with(|inner| inner.gaps.len()) <= 40);
        }
    }

    #[test]
    fn a_key_put_during_a_scan_is_in_no_gap() {
        let gaps = Gaps::new(Revision::ZERO);
        gaps.written(&key(5), Revision::new(7), true);
        gaps.found(key(1), Some(key(9)), Revision::new(6));
        assert_eq!(gaps.around(&[3], Revision::new(8)), None);
        // There were too many puts since then to know.
        for revision in 8..20 + RECENT as u64 {
            gaps.written(&key(200), Revision::new(revision), true);
        }
        gaps.found(key(10), Some(key(20)), Revision::new(9));
        assert_eq!(gaps.around(&[12], Revision::new(u64::MAX)), None);
    }

    #[test]
    fn their_number_and_size_are_bounded() {
        let gaps = Gaps::new(Revision::ZERO);
        for number in 0..5000_u32 {
            let from = Key::from(&(2 * number).to_be_bytes()[..]);
            gaps.found(
                from,
                Some(Key::from(&[&(2 * number).to_be_bytes()[..], &[0]].concat()[..])),
                Revision::ZERO,
            );
        }
        assert_eq!(gaps.with(|inner| inner.gaps.len()), MOST);
        gaps.found(Key::from(&[7; 4096][..]), None, Revision::ZERO);
        assert_eq!(gaps.around(&[8], Revision::ZERO), None);
    }
}
