//! Watches: queries for the changes after a position in the history. If there are such changes, a watch is answered at
//! once with a bounded piece of the history. Otherwise it is parked in an index by the keys that it follows, until one
//! of them changes. So a slow client uses no memory, because it asks for the next piece only after it has taken the
//! last one; and a parked watch uses no processor time. [`Watchers`] makes the decisions; this module runs them on
//! threads.

use super::pool::{self, JobOwner, Kind};
use super::reply::{Outbox, Responder, WatchSlot};
use super::shared::Shared;
use super::sync::lock;
use crate::config::Role;
use crate::ids::{Instant, Revision};
use crate::kv::{IsolationDetector, ParkedWatch, PositionSource, WatchPoll, Watchers};
use crate::message::{Answer, Position, WatchQuery};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The most events in one answer, and in one step of matching changes against parked watches.
const MAX_EVENTS: usize = 1000;
/// About the most bytes in one answer.
const MAX_BYTES: usize = 1 << 20;
/// A watch is answered after this time at the latest, even if nothing in its range has changed: its position advances,
/// and both ends see that the other is alive.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// How often watches whose deadline has passed are answered.
const SWEEP: Duration = Duration::from_secs(1);
/// How many woken watches one job answers.
const SHARE: usize = 32;

/// Where to send the answer.
#[derive(Debug)]
struct WatchResponder {
    call: u64,
    reply: Responder,
    watching: WatchSlot,
}

/// A watch of a client.
#[derive(Debug)]
struct PendingWatch {
    query: WatchQuery,
    source: PositionSource,
    asked: WatchResponder,
}

/// The parked watches of a node.
#[derive(Debug, Default)]
pub(super) struct PendingWatches {
    waiting: Mutex<Watchers<WatchResponder>>,
    /// Their number, which the applier can read without locking.
    count: AtomicUsize,
    /// A job that wakes them is scheduled, and will see everything that is published before it begins.
    scheduled: AtomicBool,
}

impl PendingWatches {
    fn with<T>(&self, change: impl FnOnce(&mut Watchers<WatchResponder>) -> T) -> T {
        let mut waiting = lock(&self.waiting);
        let result = change(&mut waiting);
        self.count.store(waiting.len(), Ordering::SeqCst);
        result
    }

    /// The number of parked watches.
    pub(super) fn waiting(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// The connection is closed: cancels its watches.
    pub(super) fn cancel_all(&self, outbox: &Arc<Outbox>) {
        let gone = self.with(|waiting| waiting.cancel_all(outbox.name()));
        drop(gone);
    }

    /// The client has cancelled the watch.
    pub(super) fn cancel(&self, outbox: &Arc<Outbox>, call: u64) {
        // Before the parked watches are searched, so that a watch that is not parked yet never is.
        outbox.unwatch(call);
        // Dropping its contents may take locks.
        let gone = self.with(|waiting| waiting.cancel((outbox.name(), call)));
        drop(gone);
    }
}

/// Accepts a watch of a client.
pub(super) fn begin(shared: &Arc<Shared>, query: WatchQuery, call: u64, reply: Responder) {
    if shared.role == Role::Witness {
        let text = format!("member {} is a witness and holds no data: ask a data member", shared.me);
        return reply.send(Answer::Refused(text));
    }
    let Some(watching) = reply.watching() else {
        let text = format!("more than {} watches on one connection: use another client", WatchSlot::MOST);
        return reply.send(Answer::Refused(text));
    };
    let asked = WatchResponder { call, reply, watching };
    poll_all(shared, vec![PendingWatch { query, source: PositionSource::Client, asked }]);
}

/// Answers or parks watches, on the threads that may wait for the disk.
fn poll_all(shared: &Arc<Shared>, watches: Vec<PendingWatch>) {
    for (whose, share) in pool::shares(watches, SHARE, |watch| watch.asked.reply.owner()) {
        let pool = shared.clone();
        shared.pool.run(Kind::Watch, whose, move || share.into_iter().for_each(|watch| poll(&pool, watch)));
    }
}

/// Answers a watch if there is something to deliver, and parks it otherwise.
fn poll(shared: &Arc<Shared>, mut watch: PendingWatch) {
    while !watch.asked.watching.is_taken_back() {
        // A client that asks for much and takes none of the answers causes no work.
        if watch.asked.reply.is_backlogged() {
            return watch.asked.reply.send(Answer::Overloaded);
        }
        // A node without a state cannot answer. Another member can.
        let elsewhere = Answer::NotPrimary { hint: None };
        let life = shared.state_life();
        let Some(state) = shared.state() else { return watch.asked.reply.send(elsewhere) };
        let next = match state.poll(&watch.query, watch.source, MAX_EVENTS, MAX_BYTES) {
            Ok(WatchPoll::Answer(answer)) => return watch.asked.reply.send(answer),
            Ok(WatchPoll::Nothing(next)) => next,
            Err(error) => {
                shared.state_failed(life, error);
                return watch.asked.reply.send(elsewhere);
            }
        };
        (watch.query.after, watch.source) = (Some(next.clone()), PositionSource::Member);
        match wait(shared, watch, &next) {
            None => return,
            Some(again) => watch = again,
        }
    }
}

/// Parks a watch that has nothing to deliver up to `after`; returns it if there may be something by now.
fn wait(
    shared: &Arc<Shared>,
    PendingWatch { query, source, asked }: PendingWatch,
    after: &Position,
) -> Option<PendingWatch> {
    let looked = after.behind();
    let until = shared.clock.monotonic().after(shared.jitter(LONGEST_WAIT));
    let id = (asked.reply.connection(), asked.call);
    let waiting = ParkedWatch { query, id, until, with: asked };
    let reached = || shared.state().map_or(looked, |state| state.revision());
    let refused = shared.watches.with(|watches| match waiting.with.watching.is_taken_back() {
        true => Some(waiting),
        false => watches.wait(waiting, reached),
    });
    let Some(ParkedWatch { query, with: asked, .. }) = refused else {
        // Changes that were applied between the search and the parking have not woken this watch.
        if shared.state().is_none_or(|state| state.revision() > looked) {
            wake(shared);
        }
        return None;
    };
    let watches = lock(&shared.watches.waiting);
    let keeps = shared.state().is_some_and(|state| watches.keeps(state.revision()));
    drop(watches);
    if !keeps {
        asked.reply.send(Answer::NotPrimary { hint: None });
        return None;
    }
    Some(PendingWatch { query, source, asked })
}

/// Entries were applied and published.
pub(super) fn published(shared: &Arc<Shared>) {
    if shared.watches.count.load(Ordering::SeqCst) > 0 {
        wake(shared);
    }
}

/// Schedules a job that wakes the watches of the published changes.
fn wake(shared: &Arc<Shared>) {
    if !shared.watches.scheduled.swap(true, Ordering::SeqCst) {
        let pool = shared.clone();
        shared.pool.run(Kind::Watch, JobOwner::NODE, move || {
            pool.watches.scheduled.store(false, Ordering::SeqCst);
            dispatch(&pool);
        });
    }
}

/// Goes through all changes since the last call, and wakes the watches that follow them.
fn dispatch(shared: &Arc<Shared>) {
    let mut after = Position::after(lock(&shared.watches.waiting).dispatched());
    loop {
        let life = shared.state_life();
        let Some(state) = shared.state() else { return };
        let found = match state.all_changes(after, MAX_EVENTS, MAX_BYTES) {
            Ok(found) => found,
            Err(error) => return shared.state_failed(life, error),
        };
        let woken = shared.watches.with(|watches| watches.changed(&found));
        let source = PositionSource::Member;
        let again = |it: ParkedWatch<_>| PendingWatch { query: it.query, source, asked: it.with };
        poll_all(shared, woken.watches.into_iter().map(again).collect());
        match woken.next {
            Some(next) => after = next,
            None => return,
        }
    }
}

/// Answers the watches whose deadline has passed, until the node stops.
pub(super) async fn sweep(shared: Arc<Shared>) {
    let mut closing = shared.closing.subscribe();
    let mut cut_off = IsolationDetector::default();
    loop {
        let closes = tokio::select! {
            () = tokio::time::sleep(SWEEP) => *closing.borrow(),
            _ = closing.changed() => true,
        };
        let now = shared.clock.monotonic();
        if closes {
            let all = shared.watches.with(Watchers::close);
            all.into_iter().for_each(|it| it.with.reply.send(Answer::NotPrimary { hint: None }));
            return;
        }
        let hears = shared.status.primary().is_some();
        let lost = cut_off.is_isolated(now, hears, shared.options.failure_timeout_max * 2)
            || shared.state().is_none();
        let over = shared.watches.with(|watches| watches.take_expired(now, lost));
        over.into_iter().for_each(|(it, answer)| it.with.reply.send(answer));
        request_checkpoint(&shared, now);
    }
}

/// Requests a checkpoint if one is due because revisions were skipped.
pub(super) fn request_checkpoint(shared: &Shared, now: Instant) {
    // A state that was lost drops nothing.
    let due = shared.state().is_some()
        && lock(&shared.skips).take_due(now, |revision| is_settled(shared, revision));
    if due {
        shared.applier_queue.change(|plan| plan.asked = true);
    }
}

/// Whether the changes up to this revision were matched against all parked watches, and none of those that were woken
/// waits for a thread. So no watch needs these changes any more, except perhaps one that a thread is answering.
fn is_settled(shared: &Shared, revision: Revision) -> bool {
    let watches = &shared.watches;
    let matched = watches.waiting() == 0 || lock(&watches.waiting).dispatched() >= revision;
    matched && !watches.scheduled.load(Ordering::SeqCst) && !shared.pool.has_watches()
}
