//! How a member answers watches: which can be answered at once, and which parked watches a change affects. The node
//! decides when this runs.

use super::{ChangePage, ChangeQuery, Compacted, StateReader};
use crate::engine::EngineError;
use crate::ids::{Instant, Revision};
use crate::message::{Answer, Position, WatchQuery, after_prefix, successor};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

/// The answer to a watch, if there is one yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WatchPoll {
    /// Answer the watch with this.
    Answer(Answer),
    /// There is nothing up to this position.
    Nothing(Position),
}

/// Who has named the position of a watch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PositionSource {
    /// The client. History that counts as dropped is not read for it.
    Client,
    /// This member: it has found nothing to deliver up to the position. What it still stores after it is delivered.
    Member,
}

impl StateReader {
    /// Returns the answer to a watch, if there is one, with at most this many events and bytes.
    ///
    /// # Errors
    /// If the disk fails or is damaged.
    pub fn poll(
        &self,
        query: &WatchQuery,
        source: PositionSource,
        max_events: usize,
        max_bytes: usize,
    ) -> Result<WatchPoll, EngineError> {
        let WatchQuery { from, to, after, previous } = query;
        let Some(after) = after.clone() else {
            let next = Position::after(self.revision());
            return Ok(WatchPoll::Answer(Answer::Watched { events: Vec::new(), next, more: false }));
        };
        let query =
            ChangeQuery { from, to: to.as_deref(), after, previous: *previous, max_events, max_bytes };
        let found = match source {
            PositionSource::Client => self.changes(&query)?,
            PositionSource::Member => self.stored_changes(&query)?,
        };
        Ok(match found {
            Ok(ChangePage { events, next, more }) if more || !events.is_empty() => {
                WatchPoll::Answer(Answer::Watched { events, next, more })
            }
            Ok(ChangePage { next, .. }) => WatchPoll::Nothing(next),
            Err(Compacted { oldest }) => WatchPoll::Answer(Answer::Compacted { oldest }),
        })
    }

    /// Returns the changes of all keys after a position up to which this member has matched all changes: a step of
    /// [`Watchers::changed`].
    ///
    /// # Errors
    /// If the disk fails or is damaged.
    pub fn all_changes(
        &self,
        after: Position,
        max_events: usize,
        max_bytes: usize,
    ) -> Result<Result<ChangePage, Compacted>, EngineError> {
        self.stored_changes(&ChangeQuery {
            from: b"",
            to: None,
            after,
            previous: false,
            max_events,
            max_bytes,
        })
    }
}

/// Identifies a watch: its connection, and its number there. Two parked watches never have the same id, because the
/// numbers on a connection grow.
pub type WatchId = (usize, u64);

/// A parked watch.
#[derive(Debug)]
pub struct ParkedWatch<T> {
    /// What it watches. Up to the position of the query, there is nothing to deliver.
    pub query: WatchQuery,
    /// Identifies the watch.
    pub id: WatchId,
    /// The deadline: it is answered then even if nothing has changed.
    pub until: Instant,
    /// The data of the owner.
    pub with: T,
}

impl<T> ParkedWatch<T> {
    fn place(&self) -> Position {
        self.query.after.clone().unwrap_or(Position::after(Revision::ZERO))
    }

    /// All revisions up to this one are complete.
    fn behind(&self) -> Revision {
        self.query.after.as_ref().map_or(Revision::ZERO, Position::behind)
    }
}

/// The keys that a watch follows, in a form that can be looked up by a key.
#[derive(Clone, PartialEq, Eq, Debug)]
enum WatchTarget {
    Key(Bytes),
    Prefix(Bytes),
    Range,
}

impl WatchTarget {
    fn of(query: &WatchQuery) -> Self {
        if query.to.as_ref().is_some_and(|to| *to == successor(&query.from)) {
            Self::Key(query.from.clone())
        } else if query.to == after_prefix(&query.from) {
            Self::Prefix(query.from.clone())
        } else {
            Self::Range
        }
    }
}

/// The watches that were woken.
#[derive(Debug)]
pub struct WokenWatches<T> {
    /// They must be polled again.
    pub watches: Vec<ParkedWatch<T>>,
    /// Where there may be more changes now.
    pub next: Option<Position>,
}

/// The parked watches, by what they follow.
#[derive(Debug)]
pub struct Watchers<T> {
    waiting: HashMap<u64, ParkedWatch<T>>,
    next: u64,
    by_key: HashMap<Bytes, BTreeSet<u64>>,
    by_prefix: HashMap<Bytes, BTreeSet<u64>>,
    /// The number of prefixes of each length.
    lengths: BTreeMap<usize, usize>,
    ranges: BTreeSet<u64>,
    by_id: BTreeMap<WatchId, u64>,
    /// The watches by deadline.
    by_deadline: BTreeSet<(Instant, u64)>,
    /// All changes up to this revision have been matched against the parked watches (rule W3).
    dispatched: Revision,
    /// The newest revision of which any change has been matched. A watch may be parked only if it was polled at this
    /// revision or later.
    begun: Revision,
    /// No watch may be parked any more: the node stops.
    closed: bool,
}

impl<T> Default for Watchers<T> {
    fn default() -> Self {
        Self {
            waiting: HashMap::new(),
            next: 0,
            by_key: HashMap::new(),
            by_prefix: HashMap::new(),
            lengths: BTreeMap::new(),
            ranges: BTreeSet::new(),
            by_id: BTreeMap::new(),
            by_deadline: BTreeSet::new(),
            dispatched: Revision::ZERO,
            begun: Revision::ZERO,
            closed: false,
        }
    }
}

impl<T> Watchers<T> {
    /// The number of parked watches.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Returns whether no watch is parked.
    #[cfg(feature = "internals")]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Returns whether watches may be parked in a state that has reached this revision. They may not be parked after
    /// `close`, nor in a state that does not include every revision for which matching has begun: that state was
    /// replaced, and is catching up.
    #[must_use]
    pub fn keeps(&self, reached: Revision) -> bool {
        !self.closed && reached >= self.dispatched.max(self.begun)
    }

    /// All changes up to this revision have been matched. [`changed`](Self::changed) continues here.
    #[must_use]
    pub const fn dispatched(&self) -> Revision {
        self.dispatched
    }

    /// Parks a watch that has nothing to deliver up to its position, in a state that has `reached` this revision. If
    /// the state has advanced beyond the position, [`changed`](Self::changed) must be called.
    ///
    /// Returns the watch if it must be polled again, because later changes have already been matched, or if no watch
    /// may be parked any more.
    #[must_use = "what is given back does not wait"]
    pub fn wait(
        &mut self,
        waiting: ParkedWatch<T>,
        reached: impl FnOnce() -> Revision,
    ) -> Option<ParkedWatch<T>> {
        let looked = waiting.behind();
        let is_late = self.dispatched.max(self.begun) > looked;
        if self.closed || is_late {
            return Some(waiting);
        }
        if self.waiting.is_empty() {
            // No watch has waited for earlier changes.
            self.dispatched = self.dispatched.max(looked.min(reached()));
        }
        self.insert(waiting);
        None
    }

    fn insert(&mut self, waiting: ParkedWatch<T>) {
        self.next += 1;
        let id = self.next;
        match WatchTarget::of(&waiting.query) {
            WatchTarget::Key(key) => drop(self.by_key.entry(key).or_default().insert(id)),
            WatchTarget::Prefix(prefix) => {
                *self.lengths.entry(prefix.len()).or_default() += 1;
                self.by_prefix.entry(prefix).or_default().insert(id);
            }
            WatchTarget::Range => drop(self.ranges.insert(id)),
        }
        let before = self.by_id.insert(waiting.id, id);
        debug_assert_eq!(before, None, "{:?} asks twice", waiting.id);
        self.by_deadline.insert((waiting.until, id));
        self.waiting.insert(id, waiting);
    }

    fn remove(&mut self, id: u64) -> Option<ParkedWatch<T>> {
        fn forget(map: &mut HashMap<Bytes, BTreeSet<u64>>, key: &Bytes, id: u64) {
            if let Some(ids) = map.get_mut(key) {
                ids.remove(&id);
                if ids.is_empty() {
                    map.remove(key);
                }
            }
        }
        let waiting = self.waiting.remove(&id)?;
        match WatchTarget::of(&waiting.query) {
            WatchTarget::Key(key) => forget(&mut self.by_key, &key, id),
            WatchTarget::Prefix(prefix) => {
                forget(&mut self.by_prefix, &prefix, id);
                if let Some(count) = self.lengths.get_mut(&prefix.len()) {
                    *count -= 1;
                }
                self.lengths.retain(|_, count| *count > 0);
            }
            WatchTarget::Range => drop(self.ranges.remove(&id)),
        }
        self.by_id.remove(&waiting.id);
        self.by_deadline.remove(&(waiting.until, id));
        Some(waiting)
    }

    /// The client has cancelled the watch.
    pub fn cancel(&mut self, id: WatchId) -> Option<ParkedWatch<T>> {
        let number = self.by_id.get(&id).copied()?;
        self.remove(number)
    }

    /// A connection is closed: removes all its watches.
    pub fn cancel_all(&mut self, connection: usize) -> Vec<ParkedWatch<T>> {
        let asked = self.by_id.range((connection, 0)..=(connection, u64::MAX));
        let ids: Vec<u64> = asked.map(|(_, id)| *id).collect();
        self.take(ids)
    }

    /// Finds the watches that follow this key.
    fn followers(&self, key: &[u8], found: &mut BTreeSet<u64>) {
        found.extend(self.by_key.get(key).into_iter().flatten());
        for length in self.lengths.range(..=key.len()).map(|(length, _)| *length) {
            found.extend(self.by_prefix.get(&key[..length]).into_iter().flatten());
        }
        let follows = |id: &&u64| {
            self.waiting.get(id).is_some_and(|waiting| {
                let WatchQuery { from, to, .. } = &waiting.query;
                key >= &from[..] && to.as_ref().is_none_or(|to| key < &to[..])
            })
        };
        found.extend(self.ranges.iter().filter(follows));
    }

    fn take(&mut self, ids: impl IntoIterator<Item = u64>) -> Vec<ParkedWatch<T>> {
        ids.into_iter().filter_map(|id| self.remove(id)).collect()
    }

    fn take_all(&mut self) -> Vec<ParkedWatch<T>> {
        let mut ids: Vec<u64> = self.waiting.keys().copied().collect();
        ids.sort_unstable();
        self.take(ids)
    }

    /// Removes and returns the watches that are affected by what [`StateReader::all_changes`] has found after
    /// [`dispatched`](Self::dispatched), or after the `next` that this returned.
    ///
    /// They continue from the position up to which all watches have been woken. There is nothing for them before it,
    /// and searching that part again would take longer the longer they have been parked.
    pub fn changed(&mut self, found: &Result<ChangePage, Compacted>) -> WokenWatches<T> {
        let before = self.dispatched;
        let mut woken = self.take_affected(found);
        for waiting in woken.watches.iter_mut().filter(|waiting| waiting.behind() < before) {
            waiting.query.after = Some(Position::after(before));
        }
        woken
    }

    fn take_affected(&mut self, found: &Result<ChangePage, Compacted>) -> WokenWatches<T> {
        match found {
            Ok(changes) => {
                let dispatched = changes.next.behind();
                let mut ids = BTreeSet::new();
                changes.events.iter().for_each(|event| self.followers(&event.key, &mut ids));
                self.dispatched = self.dispatched.max(dispatched);
                self.begun = self.begun.max(changes.next.revision);
                WokenWatches { watches: self.take(ids), next: changes.more.then(|| changes.next.clone()) }
            }
            // Too far behind to know which watches are affected.
            Err(Compacted { oldest }) => {
                self.dispatched = self.dispatched.max(*oldest);
                WokenWatches { watches: self.take_all(), next: Some(Position::after(*oldest)) }
            }
        }
    }

    /// Removes the watches whose deadline has passed, or all if this member is `lost`, each with its answer. Costs
    /// nothing for the watches that stay.
    pub fn take_expired(&mut self, now: Instant, lost: bool) -> Vec<(ParkedWatch<T>, Answer)> {
        let over = if lost {
            self.take_all()
        } else {
            let due: Vec<u64> = self.by_deadline.range(..=(now, u64::MAX)).map(|(_, id)| *id).collect();
            self.take(due)
        };
        let dispatched = self.dispatched;
        let answer = |it: &ParkedWatch<T>| {
            let next = if it.behind() < dispatched { Position::after(dispatched) } else { it.place() };
            match lost {
                true => Answer::NotPrimary { hint: None },
                false => Answer::Watched { events: Vec::new(), next, more: false },
            }
        };
        over.into_iter().map(|it| (answer(&it), it)).map(|(answer, it)| (it, answer)).collect()
    }

    /// No watch may be parked from now on. Returns all parked watches.
    pub fn close(&mut self) -> Vec<ParkedWatch<T>> {
        self.closed = true;
        self.take_all()
    }
}

/// Detects that a member may be isolated, and may never learn what the others have written: it has not heard of a
/// primary for too long.
#[derive(Debug, Default)]
pub struct IsolationDetector {
    since: Option<Instant>,
}

impl IsolationDetector {
    /// Returns whether the member is isolated. `hears`: whether it hears of a primary now.
    pub fn is_isolated(&mut self, now: Instant, hears: bool, patience: Duration) -> bool {
        let since = self.since.unwrap_or(now);
        self.since = (!hears).then_some(since);
        !hears && now.since(since) > patience
    }
}
