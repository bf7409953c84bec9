//! The durable state at one checkpoint: its runs, to be read.

use super::EngineError;
use super::change::{KeyChange, weight};
use super::history::{HistoryRange, RANGE, Weighed};
use super::key::Key;
use super::keys::Keys;
use super::place::{self, Part, StoredRow};
use super::runs::{Merged, Run, hash_of};
use super::steps::{self, STEP_BYTES};
use super::version::Value;
use crate::ids::Revision;
use bytes::Bytes;
use std::sync::Arc;

/// How many versions of a key are passed one by one before a look-up is used instead.
const STEPS: usize = 4;

/// See the module. It does not change while it is held, and the disk keeps its files for as long.
#[derive(Debug)]
pub(super) struct Base {
    /// The newest first. Of one key, all versions in a run are newer than those in the runs behind it.
    runs: Vec<Arc<Run>>,
    range: HistoryRange,
}

impl Base {
    pub(super) fn new(runs: Vec<Arc<Run>>, range: HistoryRange) -> Self {
        Self { runs, range }
    }

    /// Reads the range, which the rows contain.
    pub(super) fn open(runs: Vec<Arc<Run>>) -> Result<Self, EngineError> {
        let mut base = Self { runs, range: HistoryRange::default() };
        if let Some(range) = base.row(RANGE)? {
            base.range = HistoryRange::decode(&range)?;
        }
        Ok(base)
    }

    pub(super) fn runs(&self) -> &[Arc<Run>] {
        &self.runs
    }

    pub(super) fn range(&self) -> HistoryRange {
        self.range
    }

    /// The oldest revision that can be read.
    pub(super) fn floor(&self) -> Revision {
        self.range.floor
    }

    /// The version of the key, whose places begin at `start`, that is seen at a revision: its revision and its stored
    /// value.
    fn find(&self, start: &[u8], at: Revision) -> Result<Option<(Revision, Bytes)>, EngineError> {
        steps::count(1);
        let (place, hash) = (place::version(start, at), Some(hash_of(start)));
        for run in &self.runs {
            if let Some((found, value)) = run.find(&place, start, hash)? {
                return Ok(Some((place::split_version(&found)?.1, value)));
            }
        }
        Ok(None)
    }

    /// Passes the newest value of a key to `see`, if the key exists.
    pub(super) fn get(&self, key: &[u8], see: &mut dyn FnMut(&[u8])) -> Result<(), EngineError> {
        if let Some((_, stored)) = self.find(&place::key_start(key), Revision::new(u64::MAX))? {
            place::decode_value(&stored)?.into_iter().for_each(see);
        }
        Ok(())
    }

    /// The value of a key at a revision, which must not be below the floor.
    pub(super) fn get_at(&self, key: &[u8], at: Revision) -> Result<Value, EngineError> {
        let Some((_, stored)) = self.find(&place::key_start(key), at)? else { return Ok(None) };
        Ok(place::decode_value(&stored)?.map(Bytes::copy_from_slice))
    }

    /// What was done to a key at exactly this revision.
    pub(super) fn change(&self, key: &[u8], revision: Revision) -> Result<KeyChange, EngineError> {
        match self.find(&place::key_start(key), revision)? {
            Some((at, stored)) if at == revision => place::decode_change(&stored),
            Some(_) | None => Err(EngineError::inconsistent("a change is missing")),
        }
    }

    /// The changes from a revision on, or after a change, in order: the revision and the key.
    pub(super) fn changes(&self, since: Revision, after: Option<&[u8]>) -> Result<Notes, EngineError> {
        let mut place = place::note(since, after.unwrap_or_default());
        if after.is_some() {
            place.push(0);
        }
        let runs = if since > self.range.revision { &[][..] } else { &self.runs };
        Ok(Notes(Merged::from(runs, &place, true)?))
    }

    /// The weights of the kept changes, oldest first.
    pub(super) fn weights(&self) -> Result<impl Iterator<Item = Result<Weighed, EngineError>>, EngineError> {
        let notes = self.changes(self.range.floor.next(), None)?;
        Ok(notes
            .map(|note| note.map(|(revision, key, former)| (revision, weight(key.as_slice().len(), former)))))
    }

    /// Returns a cursor over keys as they were at a revision, which must not be below the floor.
    pub(super) fn cursor(&self, keys: Keys<'_>, at: Revision) -> Result<BaseCursor<'_>, EngineError> {
        let from = place::key_start(keys.from);
        let to = keys.to.map_or_else(|| Part::Notes.start().to_vec(), place::key_start);
        let rows = if keys.reverse {
            Merged::before(&self.runs, &to)?
        } else {
            Merged::from(&self.runs, &from, true)?
        };
        let mut cursor =
            BaseCursor { base: self, rows, at, from, to, reverse: keys.reverse, current: None, bytes: 0 };
        cursor.settle()?;
        Ok(cursor)
    }

    /// The row of this name. Those that it has superseded are not read: they may be damaged.
    pub(super) fn row(&self, name: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        let place = place::row(name);
        for run in &self.runs {
            if let Some((found, stored)) = run.find(&place, &place, None)?
                && *found == *place
            {
                return Ok(place::decode_value(&stored)?.map(<[u8]>::to_vec));
            }
        }
        Ok(None)
    }

    /// All rows whose names start with `prefix`, in order.
    pub(super) fn rows(&self, prefix: &[u8]) -> Result<Vec<StoredRow>, EngineError> {
        let prefix = place::row(prefix);
        let mut rows = Merged::starting_with(&self.runs, &prefix)?;
        let mut found = Vec::new();
        while let Some(place) = rows.place().filter(|place| place.starts_with(&prefix)) {
            let name = place[1..].to_vec();
            if let Some(value) = place::decode_value(&rows.value()?)? {
                found.push((name, value.to_vec()));
            }
            rows.advance()?;
        }
        Ok(found)
    }
}

/// The changes from a place on, in order: the revision, the key, and the length of the former value.
pub(super) struct Notes(Merged);

impl Notes {
    fn take(&mut self) -> Result<Option<(Revision, Key, usize)>, EngineError> {
        let Some(place) = self.0.place() else { return Ok(None) };
        let (revision, key) = place::split_note(place)?;
        let (key, former) = (Key::from(key), place::former_len(&self.0.value()?)?);
        steps::count(1);
        self.0.advance()?;
        Ok(Some((revision, key, former)))
    }
}

impl Iterator for Notes {
    type Item = Result<(Revision, Key, usize), EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.take().transpose()
    }
}

/// What is seen of the key at which a cursor is.
enum Seen {
    /// The row at which the cursor is.
    Here,
    /// This stored value. The cursor is at another key.
    Stored(Bytes),
    /// Nothing: all versions are newer.
    Nothing,
}

/// A cursor at a key, and at the version of it that is seen at one revision, if there is one.
pub(super) struct BaseCursor<'a> {
    base: &'a Base,
    rows: Merged,
    at: Revision,
    /// The beginning of the first key, and the end.
    from: Vec<u8>,
    to: Vec<u8>,
    reverse: bool,
    /// The key, and the beginning of its places.
    current: Option<(Key, Vec<u8>, Seen)>,
    bytes: usize,
}

impl BaseCursor<'_> {
    /// The current key; `None` at the end. It may not exist at the revision.
    pub(super) fn key(&self) -> Option<&Key> {
        self.current.as_ref().map(|(key, ..)| key)
    }

    /// Passes its value to `see`; does not call it if the key does not exist. Returns how many bytes were read for it.
    pub(super) fn value(&self, see: &mut dyn FnMut(&[u8])) -> Result<usize, EngineError> {
        let here;
        let stored = match &self.current {
            Some((.., Seen::Here)) => {
                here = self.rows.value()?;
                &here
            }
            Some((.., Seen::Stored(stored))) => stored,
            Some((.., Seen::Nothing)) | None => return Ok(0),
        };
        place::decode_value(stored)?.into_iter().for_each(see);
        // Those of a row were counted when the cursor reached it.
        Ok(0)
    }

    /// How many bytes were read to get here.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Moves to the next key.
    pub(super) fn advance(&mut self) -> Result<(), EngineError> {
        if let Some((_, start, Seen::Here)) = self.current.take() {
            self.pass(&place::key_end(&start), |place| place.starts_with(&start))?;
        }
        self.settle()
    }

    /// The next row of the range.
    fn row(&self) -> Option<&[u8]> {
        let place = self.rows.place()?;
        let inside = if self.reverse { place >= &self.from[..] } else { place < &self.to[..] };
        inside.then_some(place)
    }

    fn step(&mut self) -> Result<(), EngineError> {
        self.rows.advance()?;
        self.count()
    }

    fn count(&mut self) -> Result<(), EngineError> {
        if self.row().is_none() {
            return Ok(());
        }
        let bytes = self.rows.value_len()?;
        self.bytes += bytes;
        steps::count(1 + bytes / STEP_BYTES);
        Ok(())
    }

    /// Moves forward past the rows for which `passed` holds: one by one, or directly to `target` if there are many.
    fn pass(&mut self, target: &[u8], passed: impl Fn(&[u8]) -> bool) -> Result<(), EngineError> {
        for _ in 0..STEPS {
            if !self.row().is_some_and(&passed) {
                return Ok(());
            }
            self.step()?;
        }
        if self.row().is_some_and(&passed) {
            self.rows.skip_to(target)?;
            self.count()?;
        }
        Ok(())
    }

    /// Finds what is seen of the key of the present row.
    fn settle(&mut self) -> Result<(), EngineError> {
        self.bytes = 0;
        let Some(place) = self.row() else { return Ok(()) };
        let bytes = self.rows.value_len()?;
        let (start, revision) = place::split_version(place)?;
        let (key, start) = (place::key_of(start)?, start.to_vec());
        self.bytes = bytes;
        let seen = if self.reverse {
            self.newest_before(&start)?
        } else {
            if revision > self.at {
                let at = self.at;
                let newer = |place: &[u8]| {
                    place.starts_with(&start)
                        && place::split_version(place).is_ok_and(|(_, version)| version > at)
                };
                self.pass(&place::version(&start, at), newer)?;
            }
            if self.row().is_some_and(|place| place.starts_with(&start)) { Seen::Here } else { Seen::Nothing }
        };
        self.current = Some((key, start, seen));
        Ok(())
    }

    /// In reverse: moves before all versions of the key, and returns what is seen of it.
    fn newest_before(&mut self, start: &[u8]) -> Result<Seen, EngineError> {
        let mut seen = Seen::Nothing;
        for _ in 0..STEPS {
            let Some(place) = self.row().filter(|place| place.starts_with(start)) else { return Ok(seen) };
            if place::split_version(place)?.1 > self.at {
                // All others are newer still.
                self.rows.skip_to(start)?;
                self.count()?;
                return Ok(seen);
            }
            seen = Seen::Stored(self.rows.value()?);
            self.step()?;
        }
        if self.row().is_some_and(|place| place.starts_with(start)) {
            self.rows.skip_to(start)?;
            self.count()?;
            seen = self.base.find(start, self.at)?.map_or(Seen::Nothing, |(_, stored)| Seen::Stored(stored));
        }
        Ok(seen)
    }
}
