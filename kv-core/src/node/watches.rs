//! Watches: questions for what changes after a place in the history. One that can be answered is answered at once, from the history, by
//! a bounded piece; one that cannot waits in an index by what it follows, until a change of it is applied. So a slow client costs no
//! memory, because it asks for the next piece when it has taken the last, and one that waits costs no time.

use super::reply::{Reply, Watching};
use super::shared::Shared;
use super::sync::lock;
use crate::config::Role;
use crate::ids::{Instant, Revision};
use crate::kv::ChangeQuery;
use crate::message::{Answer, Position, WatchQuery, after_prefix, successor};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The most events in one answer, and in one step of looking for those who wait for them.
const MAX_EVENTS: usize = 1000;
/// About the most bytes in one answer.
const MAX_BYTES: usize = 1 << 20;
/// A watch is answered after this time at the latest, though nothing of it has changed: then it goes on from a later place, and both ends
/// know that the other is there.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// How often those who wait are looked through.
const SWEEP: Duration = Duration::from_secs(1);
/// So many that were woken are answered by one job.
const SHARE: usize = 32;

/// One client's question.
#[derive(Debug)]
pub(super) struct Watch {
    query: WatchQuery,
    call: u64,
    reply: Reply,
    _watching: Watching,
}

/// A watch that waits.
#[derive(Debug)]
struct Waiting {
    watch: Watch,
    /// Where it goes on.
    after: Position,
    until: Instant,
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

/// Those who wait, by what they follow.
#[derive(Debug, Default)]
struct Index {
    waiting: HashMap<u64, Waiting>,
    next: u64,
    by_key: HashMap<Bytes, BTreeSet<u64>>,
    by_prefix: HashMap<Bytes, BTreeSet<u64>>,
    /// How many prefixes of each length there are.
    lengths: BTreeMap<usize, usize>,
    ranges: BTreeSet<u64>,
    by_call: HashMap<(usize, u64), u64>,
    /// Changes up to here have woken whoever waited for them. Whoever is to wait has looked at least so far.
    dispatched: Revision,
    /// Nobody waits any more: the node stops.
    closed: bool,
}

impl Index {
    fn insert(&mut self, waiting: Waiting) {
        self.next += 1;
        let id = self.next;
        match Place::of(&waiting.watch.query) {
            Place::Key(key) => drop(self.by_key.entry(key).or_default().insert(id)),
            Place::Prefix(prefix) => {
                *self.lengths.entry(prefix.len()).or_default() += 1;
                self.by_prefix.entry(prefix).or_default().insert(id);
            }
            Place::Range => drop(self.ranges.insert(id)),
        }
        self.by_call.insert((waiting.watch.reply.connection(), waiting.watch.call), id);
        self.waiting.insert(id, waiting);
    }

    fn remove(&mut self, id: u64) -> Option<Waiting> {
        fn forget(map: &mut HashMap<Bytes, BTreeSet<u64>>, key: &Bytes, id: u64) {
            if let Some(ids) = map.get_mut(key) {
                ids.remove(&id);
                if ids.is_empty() {
                    map.remove(key);
                }
            }
        }
        let waiting = self.waiting.remove(&id)?;
        match Place::of(&waiting.watch.query) {
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
        self.by_call.remove(&(waiting.watch.reply.connection(), waiting.watch.call));
        Some(waiting)
    }

    /// Who follows this key.
    fn followers(&self, key: &[u8], found: &mut BTreeSet<u64>) {
        found.extend(self.by_key.get(key).into_iter().flatten());
        for length in self.lengths.range(..=key.len()).map(|(length, _)| *length) {
            found.extend(self.by_prefix.get(&key[..length]).into_iter().flatten());
        }
        let follows = |id: &&u64| {
            self.waiting.get(id).is_some_and(|waiting| {
                let WatchQuery { from, to, .. } = &waiting.watch.query;
                key >= &from[..] && to.as_ref().is_none_or(|to| key < &to[..])
            })
        };
        found.extend(self.ranges.iter().filter(follows));
    }

    fn take(&mut self, ids: impl IntoIterator<Item = u64>) -> Vec<Waiting> {
        ids.into_iter().filter_map(|id| self.remove(id)).collect()
    }

    fn take_if(&mut self, wanted: impl Fn(&Waiting) -> bool) -> Vec<Waiting> {
        let ids: Vec<u64> =
            self.waiting.iter().filter(|(_, waiting)| wanted(waiting)).map(|(id, _)| *id).collect();
        self.take(ids)
    }
}

/// The watches of a node that wait.
#[derive(Debug, Default)]
pub(super) struct Watches {
    index: Mutex<Index>,
    /// How many wait, for the applier to see without waiting.
    count: AtomicUsize,
    /// A job that wakes them is under way, and will see what is published before it begins.
    scheduled: AtomicBool,
}

impl Watches {
    fn with<T>(&self, change: impl FnOnce(&mut Index) -> T) -> T {
        let mut index = lock(&self.index);
        let result = change(&mut index);
        self.count.store(index.waiting.len(), Ordering::SeqCst);
        result
    }

    /// The client has lost interest.
    pub(super) fn cancel(&self, connection: usize, call: u64) {
        // What it holds may take locks when it goes.
        let gone = self.with(|index| {
            let id = index.by_call.get(&(connection, call)).copied();
            id.and_then(|id| index.remove(id))
        });
        drop(gone);
    }
}

/// Takes in a client's question.
pub(super) fn begin(shared: &Arc<Shared>, query: WatchQuery, call: u64, reply: Reply) {
    if shared.role == Role::Witness {
        let text = format!("member {} is a witness and holds no data: ask a data member", shared.me);
        return reply.send(Answer::Refused(text));
    }
    let Some(watching) = reply.watching() else {
        let text = format!("more than {} watches on one connection: use another client", Watching::MOST);
        return reply.send(Answer::Refused(text));
    };
    look_all(shared, vec![Watch { query, call, reply, _watching: watching }]);
}

/// Answers watches, or lets them wait, on the threads that may wait for the disk.
fn look_all(shared: &Arc<Shared>, mut watches: Vec<Watch>) {
    while !watches.is_empty() {
        let rest = watches.split_off(watches.len().min(SHARE));
        let share = std::mem::replace(&mut watches, rest);
        let pool = shared.clone();
        shared.pool.run(move || share.into_iter().for_each(|watch| look(&pool, watch)));
    }
}

/// Answers a watch if there is something to be told, and lets it wait otherwise.
fn look(shared: &Arc<Shared>, mut watch: Watch) {
    loop {
        // One who asks for much and takes none of it keeps nobody busy.
        if watch.reply.is_hopeless() {
            return watch.reply.send(Answer::Overloaded);
        }
        // A node without a state has nothing to tell; another member has.
        let Some(state) = shared.state() else { return watch.reply.send(Answer::NotPrimary { hint: None }) };
        let WatchQuery { from, to, after, previous } = &watch.query;
        let Some(after) = after.clone() else {
            let next = Position::after(state.revision());
            return watch.reply.send(Answer::Watched { events: Vec::new(), next, more: false });
        };
        let query = ChangeQuery {
            from,
            to: to.as_deref(),
            after,
            previous: *previous,
            max_events: MAX_EVENTS,
            max_bytes: MAX_BYTES,
        };
        let changes = match state.changes(&query) {
            Ok(Ok(changes)) => changes,
            Ok(Err(compacted)) => {
                return watch.reply.send(Answer::Compacted { oldest: compacted.oldest });
            }
            Err(error) => {
                shared.state_failed(error);
                return watch.reply.send(Answer::NotPrimary { hint: None });
            }
        };
        let (next, more) = (changes.next, changes.more);
        if more || !changes.events.is_empty() {
            return watch.reply.send(Answer::Watched { events: changes.events, next, more });
        }
        watch.query.after = Some(next.clone());
        match wait(shared, watch, next) {
            None => return,
            Some(again) => watch = again,
        }
    }
}

/// Lets a watch wait that has nothing to be told up to `after`; gives it back if there may be something by now.
fn wait(shared: &Arc<Shared>, watch: Watch, after: Position) -> Option<Watch> {
    let looked = after.revision;
    let until = shared.clock.monotonic().after(shared.jitter(LONGEST_WAIT));
    let watch = shared.watches.with(|index| {
        if index.closed || index.dispatched > looked {
            return Some(watch);
        }
        if index.waiting.is_empty() {
            // Nobody has waited for what came before.
            let reached = shared.state().map_or(looked, |state| state.revision());
            index.dispatched = index.dispatched.max(looked.min(reached));
        }
        index.insert(Waiting { watch, after, until });
        None
    });
    let Some(watch) = watch else {
        // What was applied between the look and the wait has woken nobody.
        if shared.state().is_none_or(|state| state.revision() > looked) {
            wake(shared);
        }
        return None;
    };
    if lock(&shared.watches.index).closed {
        watch.reply.send(Answer::NotPrimary { hint: None });
        return None;
    }
    Some(watch)
}

/// Something was applied, and published.
pub(super) fn published(shared: &Arc<Shared>) {
    if shared.watches.count.load(Ordering::SeqCst) > 0 {
        wake(shared);
    }
}

/// Has those woken who wait for what was published.
fn wake(shared: &Arc<Shared>) {
    if !shared.watches.scheduled.swap(true, Ordering::SeqCst) {
        let pool = shared.clone();
        shared.pool.run(move || {
            pool.watches.scheduled.store(false, Ordering::SeqCst);
            dispatch(&pool);
        });
    }
}

/// Goes through what has changed since this was last done, and wakes who follows it.
fn dispatch(shared: &Arc<Shared>) {
    let mut after = Position::after(lock(&shared.watches.index).dispatched);
    loop {
        let Some(state) = shared.state() else { return };
        let query = ChangeQuery {
            from: b"",
            to: None,
            after,
            previous: false,
            max_events: MAX_EVENTS,
            max_bytes: MAX_BYTES,
        };
        let (woken, next, more) = match state.changes(&query) {
            Ok(Ok(changes)) => {
                // A revision that is told in several pieces is not all there yet.
                let Position { revision, key } = &changes.next;
                let dispatched = if key.is_some() { revision.back(1) } else { *revision };
                let woken = shared.watches.with(|index| {
                    let mut ids = BTreeSet::new();
                    changes.events.iter().for_each(|event| index.followers(&event.key, &mut ids));
                    index.dispatched = index.dispatched.max(dispatched);
                    index.take(ids)
                });
                (woken, changes.next, changes.more)
            }
            // Too far behind to know who is concerned.
            Ok(Err(compacted)) => {
                let woken = shared.watches.with(|index| {
                    index.dispatched = index.dispatched.max(compacted.oldest);
                    index.take_if(|_| true)
                });
                (woken, Position::after(compacted.oldest), true)
            }
            Err(error) => return shared.state_failed(error),
        };
        look_all(shared, woken.into_iter().map(|waiting| waiting.watch).collect());
        if !more {
            return;
        }
        after = next;
    }
}

/// Looks through those who wait, until the node stops.
pub(super) async fn sweep(shared: Arc<Shared>) {
    let mut closing = shared.closing.subscribe();
    // As long as nobody is known to be primary.
    let mut lost_since = None;
    loop {
        let closes = tokio::select! {
            () = tokio::time::sleep(SWEEP) => *closing.borrow(),
            _ = closing.changed() => true,
        };
        let now = shared.clock.monotonic();
        if closes {
            let all = shared.watches.with(|index| {
                index.closed = true;
                index.take_if(|_| true)
            });
            all.into_iter().for_each(|it| it.watch.reply.send(Answer::NotPrimary { hint: None }));
            return;
        }
        let since = match shared.board.primary() {
            Some(_) => None,
            None => Some(lost_since.unwrap_or(now)),
        };
        lost_since = since;
        // A member that hears of no primary may be cut off, and never learn what the others have written.
        let patience = shared.options.suspect_max * 2;
        let lost = since.is_some_and(|since| now.since(since) > patience) || shared.state().is_none();
        let (over, dispatched) = shared.watches.with(|index| {
            let over = |it: &Waiting| lost || it.until <= now || it.watch.reply.is_gone();
            (index.take_if(over), index.dispatched)
        });
        for Waiting { watch, after, .. } in over {
            let next = if after.revision < dispatched { Position::after(dispatched) } else { after };
            watch.reply.send(match lost {
                true => Answer::NotPrimary { hint: None },
                false => Answer::Watched { events: Vec::new(), next, more: false },
            });
        }
    }
}
