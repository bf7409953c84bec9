//! A member's side of watches: the decisions of [`Watchers`], carried out in simulated time. Polling, parking and
//! waking may be separated in time, as on the node's threads.

use super::Bug;
use super::clock::MS;
use super::events::Due;
use super::floors::Floors;
use super::plan::around;
use super::waiting::{Watches, Way};
use super::world::World;
use kv_core::engine::EngineError;
use kv_core::ids::Revision;
use kv_core::kv::{IsolationDetector, ParkedWatch, PositionSource, StateReader, WatchPoll};
use kv_core::message::{
    Answer, Command, Event, EventKind, Lifetime, Operation, Position, Record, Request, WatchQuery,
};
use std::time::Duration;

/// About the most bytes in one answer.
const MAX_BYTES: usize = 1 << 20;
/// The most watches at one member. More would mean an unbounded queue.
const MAX_WAITING: usize = 1_000;

impl World {
    fn watches(&mut self, member: usize) -> Option<&mut Watches> {
        Some(&mut self.members[member].process.as_deref_mut()?.serving.watches)
    }

    /// The most events in one answer. After the healing, few answers should be needed, because messages of clients may
    /// still be lost.
    fn piece(&self) -> usize {
        if self.healed.is_some() { 1000 } else { self.plan.watching.piece }
    }

    /// Whether a thread does something at once, or later.
    fn at_once(&mut self) -> bool {
        self.rng.u32(0..4) > 0
    }

    fn soon(&mut self, member: usize, what: Due) {
        // Sometimes its thread is busy.
        let mean = if self.rng.u32(0..4) == 0 { 20 * MS } else { self.plan.disk.latency / 4 };
        let at = self.now + around(&mut self.rng, mean);
        self.schedule_due(at, member, what);
    }

    /// The history of a state.
    pub(super) fn floors(&self, state: &StateReader) -> Floors {
        Floors::of(state, self.plan.options.history_revisions)
    }

    /// A client makes a watch call.
    pub(super) fn on_watch_call(&mut self, member: usize, way: Way, query: WatchQuery) {
        let source = PositionSource::Client;
        if self.at_once() {
            return self.poll(member, query, source, way);
        }
        let Some(watches) = self.watches(member) else { return };
        let ticket = watches.keep(query, source, way);
        let count = watches.waiting.len() + watches.under_way.len();
        if count > MAX_WAITING {
            return self.fail(("queues are bounded", format!("m{member}: {count} watches")));
        }
        self.soon(member, Due::Look(ticket));
    }

    /// The client has cancelled it.
    pub(super) fn on_unwatch_call(&mut self, member: usize, way: Way, call: u64) {
        if let Some(watches) = self.watches(member) {
            let gone = Way { call, ..way };
            watches.under_way.retain(|_, (_, _, way)| *way != gone);
            drop(watches.waiting.cancel(gone.watch_id()));
        }
    }

    /// A watch is polled.
    pub(super) fn on_poll(&mut self, member: usize, ticket: u64) {
        let kept = self.watches(member).and_then(|watches| watches.under_way.remove(&ticket));
        if let Some((query, source, way)) = kept {
            self.poll(member, query, source, way);
        }
    }

    /// A watch with nothing to deliver is parked.
    pub(super) fn on_wait(&mut self, member: usize, ticket: u64) {
        let kept = self.watches(member).and_then(|watches| watches.under_way.remove(&ticket));
        let Some((query, source, way)) = kept else { return };
        if let Some(again) = self.let_wait(member, query, way) {
            self.poll(member, again, source, way);
        }
    }

    fn poll(&mut self, member: usize, mut query: WatchQuery, mut source: PositionSource, way: Way) {
        loop {
            let Some(process) = self.members[member].process.as_deref() else { return };
            let Some(state) = &process.state else {
                return self.answer(member, way, Answer::NotPrimary { hint: None });
            };
            let looked = state.reader().poll(&query, source, self.piece(), MAX_BYTES);
            let checked = self.floors(&state.reader()).check_poll(&query, source, &looked);
            self.check(checked);
            match self.poll_with_seeded_bug(member, &mut query, looked) {
                Ok(WatchPoll::Answer(answer)) => {
                    self.count_answer(&answer);
                    return self.answer(member, way, answer);
                }
                Ok(WatchPoll::Nothing(next)) => {
                    (query.after, source) = (Some(next), PositionSource::Member);
                }
                Err(error) => {
                    self.answer(member, way, Answer::NotPrimary { hint: None });
                    return self.state_failed(member, "a state can be read", &error);
                }
            }
            if !self.at_once() {
                let Some(watches) = self.watches(member) else { return };
                let ticket = watches.keep(query, source, way);
                return self.soon(member, Due::Wait(ticket));
            }
            match self.let_wait(member, query, way) {
                None => return,
                Some(again) => query = again,
            }
        }
    }

    fn count_answer(&mut self, answer: &Answer) {
        match answer {
            Answer::Watched { events, .. } if events.is_empty() => {}
            Answer::Watched { next: Position { key: Some(_), .. }, .. } => {
                self.checker.count("revisions delivered to watchers in pieces");
            }
            Answer::Watched { .. } => self.checker.count("answers to watchers"),
            _ => self.checker.count("watchers that found history compacted"),
        }
    }

    /// Parks a watch; returns it if it must be polled again.
    fn let_wait(&mut self, member: usize, query: WatchQuery, way: Way) -> Option<WatchQuery> {
        let until = self.clock_of(member).monotonic.after(Duration::from_nanos(self.plan.watching.wait));
        let process = self.members[member].process.as_deref_mut()?;
        let reached = process.state.as_ref().map_or(Revision::ZERO, |state| state.revision());
        let behind = query.after.as_ref().map_or(Revision::ZERO, Position::behind);
        let watches = &mut process.serving.watches;
        let waiting = ParkedWatch { query, id: way.watch_id(), until, with: way };
        if let Some(again) = watches.waiting.wait(waiting, || reached) {
            if !watches.waiting.keeps(reached) {
                self.checker.count("watches of a state that went back");
                self.answer(member, way, Answer::NotPrimary { hint: None });
                return None;
            }
            self.checker.count("watches looked at again");
            return Some(again.query);
        }
        let sweeps = std::mem::replace(&mut watches.sweeping, true);
        if reached > behind {
            self.wake(member);
        }
        if !sweeps {
            // The detector of a node runs always. One that removed itself from the others' lists hears of no primary.
            let hears =
                self.members[member].process.as_ref().is_some_and(|it| it.replica.status().primary.is_some());
            if let Some(watches) = self.watches(member).filter(|_| hears) {
                watches.cut_off = IsolationDetector::default();
            }
            self.schedule_due(self.now + self.plan.watching.sweep, member, Due::Sweep);
        }
        None
    }

    /// Something was applied: watches that wait for it are notified.
    pub(super) fn published(&mut self, member: usize) {
        self.answer_reads(member);
        if self.watches(member).is_some_and(|watches| !watches.waiting.is_empty()) {
            self.wake(member);
        }
    }

    fn wake(&mut self, member: usize) {
        let Some(watches) = self.watches(member) else { return };
        if !std::mem::replace(&mut watches.waking, true) {
            self.soon(member, Due::Wake);
        }
    }

    /// Processes the changes since the last time, and wakes the watches that they affect.
    pub(super) fn on_wake(&mut self, member: usize) {
        let Some(watches) = self.watches(member) else { return };
        watches.waking = false;
        let mut after = watches.woken.take().unwrap_or(Position::after(watches.waiting.dispatched()));
        loop {
            let piece = self.piece();
            let Some(process) = self.members[member].process.as_deref() else { return };
            let Some(state) = &process.state else { return };
            let reader = state.reader();
            let found = match reader.all_changes(after.clone(), piece, MAX_BYTES) {
                Ok(found) => found,
                Err(error) => return self.state_failed(member, "a state can be read", &error),
            };
            let checked = self.floors(&reader).check_match(&after, &found);
            self.check(checked);
            let Some(watches) = self.watches(member) else { return };
            let woken = watches.waiting.changed(&found);
            let source = PositionSource::Member;
            let keep = |waiting: ParkedWatch<Way>| watches.keep(waiting.query, source, waiting.with);
            let tickets: Vec<u64> = woken.watches.into_iter().map(keep).collect();
            for ticket in tickets {
                self.schedule_due(self.now, member, Due::Look(ticket));
            }
            let Some(next) = woken.next else { return };
            if !self.at_once() {
                if let Some(watches) = self.watches(member) {
                    watches.woken = Some(next);
                    watches.waking = true;
                }
                return self.soon(member, Due::Wake);
            }
            after = next;
        }
    }

    /// Checks the deadlines of the parked watches.
    pub(super) fn on_sweep(&mut self, member: usize) {
        let now = self.clock_of(member).monotonic;
        let patience = self.members[member].options.failure_timeout_max * 2;
        let epochs: Vec<u32> = self.clients.iter().map(|client| client.epoch(member)).collect();
        let Some(process) = self.members[member].process.as_deref_mut() else { return };
        let hears = process.replica.status().primary.is_some();
        let watches = &mut process.serving.watches;
        let lost = watches.cut_off.is_isolated(now, hears, patience) || process.state.is_none();
        watches.gone.resize(epochs.len(), 0);
        for (client, (gone, epoch)) in watches.gone.iter_mut().zip(epochs).enumerate() {
            for connection in std::mem::replace(gone, epoch)..epoch {
                watches.waiting.cancel_all(Way::connection(client, connection));
            }
        }
        let over = watches.waiting.take_expired(now, lost);
        watches.sweeping = !watches.waiting.is_empty();
        if watches.sweeping {
            self.schedule_due(self.now + self.plan.watching.sweep, member, Due::Sweep);
        }
        for (waiting, answer) in over {
            self.checker.count(if lost {
                "watches sent elsewhere"
            } else {
                "watches answered with progress"
            });
            self.answer(member, waiting.with, answer);
        }
    }

    /// The seeded bugs `WatchesSkipWhatIsGone` (compacted changes are skipped) and `WatchesTellUncommitted`.
    fn poll_with_seeded_bug(
        &self,
        member: usize,
        query: &mut WatchQuery,
        looked: Result<WatchPoll, EngineError>,
    ) -> Result<WatchPoll, EngineError> {
        let Some(process) = self.members[member].process.as_deref() else { return looked };
        let Some(state) = &process.state else { return looked };
        match (self.bug, &looked) {
            (Some(Bug::WatchesSkipWhatIsGone), Ok(WatchPoll::Answer(Answer::Compacted { oldest }))) => {
                query.after = Some(Position::after(*oldest));
                state.reader().poll(query, PositionSource::Client, self.piece(), MAX_BYTES)
            }
            (Some(Bug::WatchesTellUncommitted), Ok(WatchPoll::Nothing(place))) => {
                let entry = process.log.read(state.applied().op.next()).ok().flatten();
                let requests = entry.iter().flat_map(|entry| {
                    let mut next = entry.header.first_revision;
                    entry.requests().map(move |bytes| {
                        let revision = next;
                        next = next.advance(Request::revisions(&bytes, next.previous()));
                        (revision, bytes)
                    })
                });
                let mut events = requests.filter_map(|(revision, bytes)| put_of(revision, &bytes, query));
                let event = events.find(|event| event.revision > place.revision);
                let delivered = |event: Event| {
                    let next = Position { revision: event.revision, key: Some(event.key.clone()) };
                    WatchPoll::Answer(Answer::Watched { events: vec![event], next, more: true })
                };
                event.map_or(looked, |event| Ok(delivered(event)))
            }
            _ => looked,
        }
    }
}

/// What a request will do to a key, if it is the first put of the key.
fn put_of(revision: Revision, bytes: &[u8], query: &WatchQuery) -> Option<Event> {
    let Operation::Command(Command::Put { key, value, condition: None, life: Lifetime::FOREVER }) =
        Request::decode(bytes).ok()?.operation
    else {
        return None;
    };
    let is_followed = key >= query.from && query.to.as_ref().is_none_or(|to| key < *to);
    let record =
        Record { value, created: revision, modified: revision, version: 1, expires: None, lease: None };
    let event = Event { revision, key, kind: EventKind::Put, record: Some(record), previous: None };
    is_followed.then_some(event)
}
