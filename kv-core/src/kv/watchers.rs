//! Watches as a member answers them: what there is to answer at once, and which of the parked ones are concerned by what has
//! changed. What runs all this, and when, is the node's affair.

use super::{ChangeQuery, Changes, Compacted, StateReader};
use crate::engine::EngineError;
use crate::ids::{Instant, Revision};
use crate::message::{Answer, Position, WatchQuery, after_prefix, successor};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

/// The answer to a watch, if there is one yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Look {
    /// Answer the watch with this.
    Answer(Answer),
    /// Nothing up to this place.
    Nothing(Position),
}

impl StateReader {
    /// Looks for the answer to a watch, with so many events and bytes at most.
    ///
    /// # Errors
    /// If the disk fails or is damaged.
    pub fn look(&self, query: &WatchQuery, max_events: usize, max_bytes: usize) -> Result<Look, EngineError> {
        let WatchQuery { from, to, after, previous } = query;
        let Some(after) = after.clone() else {
            let next = Position::after(self.revision());
            return Ok(Look::Answer(Answer::Watched { events: Vec::new(), next, more: false }));
        };
        let query =
            ChangeQuery { from, to: to.as_deref(), after, previous: *previous, max_events, max_bytes };
        Ok(match self.changes(&query)? {
            Ok(Changes { events, next, more }) if more || !events.is_empty() => {
                Look::Answer(Answer::Watched { events, next, more })
            }
            Ok(Changes { next, .. }) => Look::Nothing(next),
            Err(Compacted { oldest }) => Look::Answer(Answer::Compacted { oldest }),
        })
    }

    /// What has changed after a place, whichever key: a step of [`Watchers::changed`].
    ///
    /// # Errors
    /// If the disk fails or is damaged.
    pub fn all_changes(
        &self,
        after: Position,
        max_events: usize,
        max_bytes: usize,
    ) -> Result<Result<Changes, Compacted>, EngineError> {
        self.changes(&ChangeQuery { from: b"", to: None, after, previous: false, max_events, max_bytes })
    }
}

/// Names a question: the connection that it came over, and its number there. No two that wait have one name: numbers grow on a connection.
pub type WatchId = (usize, u64);

/// A question that waits.
#[derive(Debug)]
pub struct Waiting<T> {
    /// What is followed. Up to its place it was looked at, and there is nothing.
    pub query: WatchQuery,
    /// Who asks.
    pub id: WatchId,
    /// It is answered by then, though nothing has changed.
    pub until: Instant,
    /// What the owner keeps with it.
    pub with: T,
}

impl<T> Waiting<T> {
    fn place(&self) -> Position {
        self.query.after.clone().unwrap_or(Position::after(Revision::ZERO))
    }

    /// All of the revisions up to here are behind it.
    fn behind(&self) -> Revision {
        self.query.after.as_ref().map_or(Revision::ZERO, Position::behind)
    }
}

/// What a watch follows, as far as it can be looked up by a key.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Place {
    Key(Bytes),
    Prefix(Bytes),
    Range,
}

impl Place {
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

/// Those who were woken.
#[derive(Debug)]
pub struct Woken<T> {
    /// They are to be looked at again.
    pub watches: Vec<Waiting<T>>,
    /// Where there may be more changes at once.
    pub next: Option<Position>,
}

/// Questions that wait, by what they follow.
#[derive(Debug)]
pub struct Watchers<T> {
    waiting: HashMap<u64, Waiting<T>>,
    next: u64,
    by_key: HashMap<Bytes, BTreeSet<u64>>,
    by_prefix: HashMap<Bytes, BTreeSet<u64>>,
    /// How many prefixes of each length there are.
    lengths: BTreeMap<usize, usize>,
    ranges: BTreeSet<u64>,
    by_id: BTreeMap<WatchId, u64>,
    /// By when each is answered.
    by_deadline: BTreeSet<(Instant, u64)>,
    /// Changes up to here have woken whoever waited for them.
    dispatched: Revision,
    /// The newest revision of which any change has woken others. Whoever is to wait has looked at least so far.
    begun: Revision,
    /// Nobody waits any more: the node stops.
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
    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nobody waits.
    #[cfg(feature = "internals")]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether questions may come to wait, in a state that has reached this revision: not once this is closed, nor in a state behind what
    /// has woken others already, which was lost and is being caught up.
    #[must_use]
    pub fn keeps(&self, reached: Revision) -> bool {
        !self.closed && reached >= self.dispatched.max(self.begun)
    }

    /// Changes up to here have woken whoever waited for them: where [`changed`](Self::changed) goes on.
    #[must_use]
    pub const fn dispatched(&self) -> Revision {
        self.dispatched
    }

    /// Parks a watch that has nothing to deliver up to its position, in a state that has `reached` this revision. If that
    /// has moved on beyond the place, [`changed`](Self::changed) must be called.
    ///
    /// Gives it back if it must be looked at again, because what came after its place has woken the others already; or if nobody may
    /// [come to wait](Self::keeps).
    #[must_use = "what is given back does not wait"]
    pub fn wait(&mut self, waiting: Waiting<T>, reached: impl FnOnce() -> Revision) -> Option<Waiting<T>> {
        let looked = waiting.behind();
        let is_late = self.dispatched.max(self.begun) > looked;
        if self.closed || is_late {
            return Some(waiting);
        }
        if self.waiting.is_empty() {
            // Nobody has waited for what came before.
            self.dispatched = self.dispatched.max(looked.min(reached()));
        }
        self.insert(waiting);
        None
    }

    fn insert(&mut self, waiting: Waiting<T>) {
        self.next += 1;
        let id = self.next;
        match Place::of(&waiting.query) {
            Place::Key(key) => drop(self.by_key.entry(key).or_default().insert(id)),
            Place::Prefix(prefix) => {
                *self.lengths.entry(prefix.len()).or_default() += 1;
                self.by_prefix.entry(prefix).or_default().insert(id);
            }
            Place::Range => drop(self.ranges.insert(id)),
        }
        let before = self.by_id.insert(waiting.id, id);
        debug_assert_eq!(before, None, "{:?} asks twice", waiting.id);
        self.by_deadline.insert((waiting.until, id));
        self.waiting.insert(id, waiting);
    }

    fn remove(&mut self, id: u64) -> Option<Waiting<T>> {
        fn forget(map: &mut HashMap<Bytes, BTreeSet<u64>>, key: &Bytes, id: u64) {
            if let Some(ids) = map.get_mut(key) {
                ids.remove(&id);
                if ids.is_empty() {
                    map.remove(key);
                }
            }
        }
        let waiting = self.waiting.remove(&id)?;
        match Place::of(&waiting.query) {
            Place::Key(key) => forget(&mut self.by_key, &key, id),
            Place::Prefix(prefix) => {
                forget(&mut self.by_prefix, &prefix, id);
                if let Some(count) = self.lengths.get_mut(&prefix.len()) {
                    *count -= 1;
                }
                self.lengths.retain(|_, count| *count > 0);
            }
            Place::Range => drop(self.ranges.remove(&id)),
        }
        self.by_id.remove(&waiting.id);
        self.by_deadline.remove(&(waiting.until, id));
        Some(waiting)
    }

    /// Whoever asked has lost interest.
    pub fn cancel(&mut self, id: WatchId) -> Option<Waiting<T>> {
        let number = self.by_id.get(&id).copied()?;
        self.remove(number)
    }

    /// A connection is gone, and everyone who asked over it.
    pub fn cancel_all(&mut self, connection: usize) -> Vec<Waiting<T>> {
        let asked = self.by_id.range((connection, 0)..=(connection, u64::MAX));
        let ids: Vec<u64> = asked.map(|(_, id)| *id).collect();
        self.take(ids)
    }

    /// Who follows this key.
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

    fn take(&mut self, ids: impl IntoIterator<Item = u64>) -> Vec<Waiting<T>> {
        ids.into_iter().filter_map(|id| self.remove(id)).collect()
    }

    fn take_all(&mut self) -> Vec<Waiting<T>> {
        let mut ids: Vec<u64> = self.waiting.keys().copied().collect();
        ids.sort_unstable();
        self.take(ids)
    }

    /// Takes out who is concerned by what [`StateReader::all_changes`] has found after [`dispatched`](Self::dispatched), or after what
    /// this returned as `next`.
    ///
    /// They go on from where all have been woken: nothing of theirs is before that, and to look through it again would take the longer
    /// the longer they have waited.
    pub fn changed(&mut self, found: &Result<Changes, Compacted>) -> Woken<T> {
        let before = self.dispatched;
        let mut woken = self.concerned(found);
        for waiting in woken.watches.iter_mut().filter(|waiting| waiting.behind() < before) {
            waiting.query.after = Some(Position::after(before));
        }
        woken
    }

    fn concerned(&mut self, found: &Result<Changes, Compacted>) -> Woken<T> {
        match found {
            Ok(changes) => {
                let dispatched = changes.next.behind();
                let mut ids = BTreeSet::new();
                changes.events.iter().for_each(|event| self.followers(&event.key, &mut ids));
                self.dispatched = self.dispatched.max(dispatched);
                self.begun = self.begun.max(changes.next.revision);
                Woken { watches: self.take(ids), next: changes.more.then(|| changes.next.clone()) }
            }
            // Too far behind to know who is concerned.
            Err(Compacted { oldest }) => {
                self.dispatched = self.dispatched.max(*oldest);
                Woken { watches: self.take_all(), next: Some(Position::after(*oldest)) }
            }
        }
    }

    /// Takes out whose time is over, or all if this member is `lost`, each with its answer. Costs nothing for those who go on waiting.
    pub fn over(&mut self, now: Instant, lost: bool) -> Vec<(Waiting<T>, Answer)> {
        let over = if lost {
            self.take_all()
        } else {
            let due: Vec<u64> = self.by_deadline.range(..=(now, u64::MAX)).map(|(_, id)| *id).collect();
            self.take(due)
        };
        let dispatched = self.dispatched;
        let answer = |it: &Waiting<T>| {
            let next = if it.behind() < dispatched { Position::after(dispatched) } else { it.place() };
            match lost {
                true => Answer::NotPrimary { hint: None },
                false => Answer::Watched { events: Vec::new(), next, more: false },
            }
        };
        over.into_iter().map(|it| (answer(&it), it)).map(|(answer, it)| (it, answer)).collect()
    }

    /// From now on nobody may wait. Returns those who did.
    pub fn close(&mut self) -> Vec<Waiting<T>> {
        self.closed = true;
        self.take_all()
    }
}

/// Whether a member may be cut off, and never learn what the others have written: it has not heard of a primary for too long.
#[derive(Debug, Default)]
pub struct CutOff {
    since: Option<Instant>,
}

impl CutOff {
    /// Now this member `hears` of a primary, or does not.
    pub fn look(&mut self, now: Instant, hears: bool, patience: Duration) -> bool {
        let since = self.since.unwrap_or(now);
        self.since = (!hears).then_some(since);
        !hears && now.since(since) > patience
    }
}
