//! Watches: questions for what changes after a place in the history. One that can be answered is answered at once, from
//! the history, by a bounded piece; one that cannot waits in an index by what it follows, until a change of it is
//! applied. So a slow client costs no memory, because it asks for the next piece when it has taken the last, and one
//! that waits costs no time. The decisions are those of [`Watchers`]; here is what runs them, on threads.

use super::pool::{self, JobOwner, Kind};
use super::reply::{Outbox, Responder, WatchSlot};
use super::shared::Shared;
use super::sync::lock;
use crate::config::Role;
use crate::kv::{IsolationDetector, ParkedWatch, WatchPoll, Watchers};
use crate::message::{Answer, Position, WatchQuery};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The most events in one answer, and in one step of looking for those who wait for them.
const MAX_EVENTS: usize = 1000;
/// About the most bytes in one answer.
const MAX_BYTES: usize = 1 << 20;
/// A watch is answered after this time at the latest, though nothing of it has changed: then it goes on from a later
/// place, and both ends know that the other is there.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// How often those whose time is over are answered.
const SWEEP: Duration = Duration::from_secs(1);
/// So many that were woken are answered by one job.
const SHARE: usize = 32;

/// The way back to who has asked.
#[derive(Debug)]
struct WatchResponder {
    call: u64,
    reply: Responder,
    watching: WatchSlot,
}

/// One client's question.
#[derive(Debug)]
struct PendingWatch {
    query: WatchQuery,
    asked: WatchResponder,
}

/// The watches of a node that wait.
#[derive(Debug, Default)]
pub(super) struct PendingWatches {
    waiting: Mutex<Watchers<WatchResponder>>,
    /// How many wait, for the applier to see without waiting.
    count: AtomicUsize,
    /// A job that wakes them is under way, and will see what is published before it begins.
    scheduled: AtomicBool,
}

impl PendingWatches {
    fn with<T>(&self, change: impl FnOnce(&mut Watchers<WatchResponder>) -> T) -> T {
        let mut waiting = lock(&self.waiting);
        let result = change(&mut waiting);
        self.count.store(waiting.len(), Ordering::SeqCst);
        result
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// The connection is closed, and whoever asked over it is gone.
    pub(super) fn cancel_all(&self, outbox: &Arc<Outbox>) {
        let gone = self.with(|waiting| waiting.cancel_all(outbox.name()));
        drop(gone);
    }

    /// The client has lost interest.
    pub(super) fn cancel(&self, outbox: &Arc<Outbox>, call: u64) {
        // Before the look at who waits: one that does not wait yet never will.
        outbox.unwatch(call);
        // What it holds may take locks when it goes.
        let gone = self.with(|waiting| waiting.cancel((outbox.name(), call)));
        drop(gone);
    }
}

/// Takes in a client's question.
pub(super) fn begin(shared: &Arc<Shared>, query: WatchQuery, call: u64, reply: Responder) {
    if shared.role == Role::Witness {
        let text = format!("member {} is a witness and holds no data: ask a data member", shared.me);
        return reply.send(Answer::Refused(text));
    }
    let Some(watching) = reply.watching() else {
        let text = format!("more than {} watches on one connection: use another client", WatchSlot::MOST);
        return reply.send(Answer::Refused(text));
    };
    poll_all(shared, vec![PendingWatch { query, asked: WatchResponder { call, reply, watching } }]);
}

/// Answers watches, or lets them wait, on the threads that may wait for the disk.
fn poll_all(shared: &Arc<Shared>, watches: Vec<PendingWatch>) {
    for (whose, share) in pool::shares(watches, SHARE, |watch| watch.asked.reply.owner()) {
        let pool = shared.clone();
        shared.pool.run(Kind::Watch, whose, move || share.into_iter().for_each(|watch| poll(&pool, watch)));
    }
}

/// Answers a watch if there is something to deliver, and parks it otherwise.
fn poll(shared: &Arc<Shared>, mut watch: PendingWatch) {
    while !watch.asked.watching.is_taken_back() {
        // One who asks for much and takes none of it keeps nobody busy.
        if watch.asked.reply.is_backlogged() {
            return watch.asked.reply.send(Answer::Overloaded);
        }
        // A node without a state has no answer; another member has.
        let elsewhere = Answer::NotPrimary { hint: None };
        let life = shared.state_life();
        let Some(state) = shared.state() else { return watch.asked.reply.send(elsewhere) };
        let next = match state.poll(&watch.query, MAX_EVENTS, MAX_BYTES) {
            Ok(WatchPoll::Answer(answer)) => return watch.asked.reply.send(answer),
            Ok(WatchPoll::Nothing(next)) => next,
            Err(error) => {
                shared.state_failed(life, error);
                return watch.asked.reply.send(elsewhere);
            }
        };
        watch.query.after = Some(next.clone());
        match wait(shared, watch, &next) {
            None => return,
            Some(again) => watch = again,
        }
    }
}

/// Parks a watch that has nothing to deliver up to `after`; returns it if there may be something by now.
fn wait(
    shared: &Arc<Shared>,
    PendingWatch { query, asked }: PendingWatch,
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
        // What was applied between the look and the wait has woken nobody.
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
    Some(PendingWatch { query, asked })
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
        shared.pool.run(Kind::Watch, JobOwner::NODE, move || {
            pool.watches.scheduled.store(false, Ordering::SeqCst);
            dispatch(&pool);
        });
    }
}

/// Goes through what has changed since this was last done, and wakes who follows it.
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
        let watches = woken.watches.into_iter().map(|it| PendingWatch { query: it.query, asked: it.with });
        poll_all(shared, watches.collect());
        match woken.next {
            Some(next) => after = next,
            None => return,
        }
    }
}

/// Answers those whose time is over, until the node stops.
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
    }
}
