//! Clients that watch changes: through the real client's protocol, at random ranges, from random positions, some of
//! them slowly; sometimes one stops and begins again. What each receives is compared with the history.

use super::clients::{Doing, Range};
use super::clock::{MS, SECOND, Time};
use super::events::Event;
use super::plan::{around, pick};
use super::report::Finding;
use super::streams::Stream;
use super::world::World;
use bytes::Bytes;
use kv_core::client::{Call, CallError, CallId, ProtocolInput, Reply, WatchCursor};
use kv_core::error::Cause;
use kv_core::error::WatchError;
use kv_core::ids::Revision;
use kv_core::message::{Position, Query, ReadMode, WatchQuery, after_prefix, successor};
use std::collections::BTreeMap;
use std::time::Duration;

/// The numbers of their calls begin here, far beyond those of others.
pub(super) const CALLS: u64 = 1 << 40;
/// The deadline of one watch call.
const PATIENCE: Duration = Duration::from_secs(3600);

impl World {
    /// Sets its next turn.
    pub(super) fn schedule_watcher(&mut self, watcher: usize, at: Time) {
        let at = at.max(self.now);
        self.watchers[watcher].turn = Some(at);
        self.schedule(at, Event::Watcher { watcher, at });
    }

    /// A watcher's turn: it takes received events, or asks for more.
    pub(super) fn on_watcher(&mut self, watcher: usize, at: Time) {
        if self.watchers[watcher].turn != Some(at) {
            return;
        }
        self.watchers[watcher].turn = None;
        let chaos = self.healed.is_none();
        if self.watchers[watcher].call.is_some() {
            // It has waited long enough.
            if chaos {
                self.forget(watcher);
                self.watchers[watcher].doing = Doing::Resting;
                self.schedule_watcher(watcher, self.now);
            }
            return;
        }
        match self.watchers[watcher].doing {
            Doing::Resting => self.begin_to_follow(watcher),
            Doing::Lost => self.begin_to_read(watcher),
            Doing::Reading { .. } | Doing::Following(_) => {}
        }
        if !self.take_events(watcher) {
            return;
        }
        self.ask(watcher);
        if chaos && self.rng.u32(0..16) == 0 {
            let at = self.now + around(&mut self.rng, self.plan.load.pause * 10);
            self.schedule_watcher(watcher, at);
        }
    }

    fn forget(&mut self, watcher: usize) {
        let one = &mut self.watchers[watcher];
        let Some(call) = one.call.take() else { return };
        let client = one.client;
        self.clients[client].watching.remove(&call);
        self.checker.count("watchers that went away");
        self.core_input(client, ProtocolInput::Cancel { id: CallId::new(call) });
    }

    /// Takes received events. Returns false if that takes time.
    fn take_events(&mut self, watcher: usize) -> bool {
        loop {
            let one = &mut self.watchers[watcher];
            let Doing::Following(asking) = &mut one.doing else { return true };
            let Some(event) = asking.take() else {
                let Some(place) = asking.place() else { return true };
                one.complete = asking.complete();
                let checked = one.stream.on_place(self.checker.model(), place);
                self.check(checked);
                return self.violation.is_none();
            };
            one.complete = asking.complete();
            let checked = one.stream.on_event(self.checker.model(), &event);
            self.trace.note(56, watcher as u64, event.revision.get(), || {
                format!("{:?} watcher {watcher} takes {event:?}", self.now)
            });
            let slowness = one.slowness;
            self.check(checked);
            self.checker.count("events delivered to watchers");
            if slowness > 0 && self.healed.is_none() {
                let at = self.now + around(&mut self.rng, slowness);
                self.schedule_watcher(watcher, at);
                return false;
            }
        }
    }

    fn ask(&mut self, watcher: usize) {
        let number = CALLS + self.next_watch;
        self.next_watch += 1;
        let client = self.watchers[watcher].client;
        let (patience, page) = (self.plan.load.deadline, self.plan.watching.page);
        let one = &mut self.watchers[watcher];
        let (call, patience) = match &one.doing {
            Doing::Resting | Doing::Lost => return,
            Doing::Following(asking) => (asking.call(None), PATIENCE * self.plan.load.patience),
            Doing::Reading { next, at, .. } => {
                let (from, to) = (next.clone(), one.range.to.clone());
                let query = Query::Scan { from, to, limit: page, reverse: false, keys_only: false, at: *at };
                (Call::Read { mode: ReadMode::Linearizable, query, prefer: None, only: None }, patience)
            }
        };
        one.call = Some(number);
        self.trace.note(55, watcher as u64, number, || {
            format!("{:?} watcher {watcher} of c{client} asks as {number}: {call:?}", self.now)
        });
        let deadline = self.client_now(client).after(patience);
        self.clients[client].watching.insert(number, watcher);
        self.core_input(client, ProtocolInput::Call { id: CallId::new(number), call, deadline });
    }

    /// Begins somewhere: now, at a past or future position, where it was, or with the present content.
    fn begin_to_follow(&mut self, watcher: usize) {
        let complete = self.watchers[watcher].complete;
        let newest = self.checker.model().revision().get();
        let after = match self.rng.u32(0..6) {
            0 => None,
            1 => Some(Revision::new(self.rng.u64(0..=newest))),
            2 => Some(Revision::new(newest).back(self.rng.u64(0..20))),
            3 => Some(Revision::new(newest + self.rng.u64(0..3))),
            4 if complete > Revision::ZERO => Some(complete),
            _ => return self.begin_to_read(watcher),
        };
        self.draw_range(watcher);
        let one = &mut self.watchers[watcher];
        let Range { from, to, previous } = one.range.clone();
        let place = after.map(Position::after);
        one.stream = Stream::new(from.clone(), to.clone(), previous, place.clone());
        one.complete = after.unwrap_or_default();
        let query = WatchQuery { from, to, after: place, previous };
        let asking = WatchCursor::new(query);
        self.watchers[watcher].doing = Doing::Following(Box::new(asking));
    }

    /// Begins with the present content, and continues from there.
    fn begin_to_read(&mut self, watcher: usize) {
        self.draw_range(watcher);
        let one = &mut self.watchers[watcher];
        let Range { from, to, previous } = one.range.clone();
        one.doing = Doing::Reading { next: from.clone(), at: None, records: BTreeMap::new() };
        one.stream = Stream::new(from, to, previous, None);
    }

    fn draw_range(&mut self, watcher: usize) {
        let rng = &mut self.rng;
        let key = |number: u32| Bytes::from(format!("key{number}"));
        let (one, other) = (rng.u32(0..self.plan.load.keys), rng.u32(0..=self.plan.load.keys));
        let (from, to) = match rng.u32(0..6) {
            0 => (key(one), Some(successor(&key(one)))),
            1 => (Bytes::from("key"), after_prefix(b"key")),
            2 => (Bytes::from("kount"), after_prefix(b"kount")),
            3 => (key(one.min(other)), Some(key(one.max(other)))),
            4 => (key(one), None),
            _ => (Bytes::new(), None),
        };
        let range = Range { from, to, previous: rng.bool() };
        let slowness = if rng.u32(0..4) == 0 { *pick(rng, &[50 * MS, SECOND]) } else { 0 };
        let slowness = slowness * u64::from(self.plan.load.patience);
        let drawn = &mut self.watchers[watcher];
        (drawn.range, drawn.slowness) = (range, slowness);
    }

    /// A call of a watcher has ended.
    pub(super) fn watch_done(&mut self, watcher: usize, call: u64, result: Result<Reply, CallError>) {
        let one = &mut self.watchers[watcher];
        if one.call != Some(call) {
            return self.fail(("a call ends once", format!("watcher {watcher}: {result:?}")));
        }
        one.call = None;
        self.trace.note(57, watcher as u64, call, || {
            format!("{:?} watcher {watcher} gets the answer to {call}: {result:?}", self.now)
        });
        let checked = match &one.doing {
            Doing::Resting | Doing::Lost => Ok(()),
            Doing::Reading { .. } => self.on_page(watcher, result),
            Doing::Following(_) => self.on_answer_events(watcher, result),
        };
        self.check(checked);
        self.schedule_watcher(watcher, self.now);
    }

    fn on_answer_events(&mut self, watcher: usize, result: Result<Reply, CallError>) -> Result<(), Finding> {
        let model = self.checker.model();
        let one = &mut self.watchers[watcher];
        let Doing::Following(asking) = &mut one.doing else { return Ok(()) };
        let asked = asking.place().cloned();
        match asking.on_result(result) {
            Ok(()) => asking.place().map_or(Ok(()), |place| one.stream.on_answer(model, place)),
            Err(WatchError::Compacted { oldest }) => {
                let checked = one.stream.on_compacted(model, asked.as_ref(), oldest);
                one.doing = Doing::Lost;
                checked
            }
            Err(error) => Err(("a watch goes on", format!("watcher {watcher}: {error}"))),
        }
    }

    fn on_page(&mut self, watcher: usize, result: Result<Reply, CallError>) -> Result<(), Finding> {
        let one = &mut self.watchers[watcher];
        let Doing::Reading { next, at, records } = &mut one.doing else { return Ok(()) };
        match result {
            Ok(Reply::Records { records: page, next: rest, revision }) => {
                records.extend(page);
                *at = Some(revision);
                if let Some(rest) = rest {
                    *next = rest;
                    return Ok(());
                }
                let records = std::mem::take(records);
                one.complete = revision;
                let checked = one.stream.begin_with(self.checker.model(), records, revision);
                let Range { from, to, previous } = one.range.clone();
                let after = Some(Position::after(revision));
                let asking = WatchCursor::new(WatchQuery { from, to, after, previous });
                self.watchers[watcher].doing = Doing::Following(Box::new(asking));
                self.checker.count("ranges read and then followed");
                checked
            }
            Ok(Reply::Compacted { .. }) => {
                one.doing = Doing::Lost;
                Ok(())
            }
            Err(CallError::NotApplied(Cause::Deadline(_))) => Ok(()),
            other => Err(("a watch goes on", format!("watcher {watcher} reads: {other:?}"))),
        }
    }

    /// A watcher that lacks something, if there is one. Those that maintain a copy must have the present content.
    pub(super) fn lagging_watcher(&mut self) -> Option<String> {
        let model = self.checker.model();
        for (number, watcher) in self.watchers.iter().enumerate() {
            let lacks = match &watcher.doing {
                Doing::Following(_) => watcher.stream.lacks(model),
                Doing::Resting | Doing::Lost | Doing::Reading { .. } => Some("it has not begun".into()),
            };
            if let Some(lacks) = lacks {
                return Some(format!("watcher {number} of {:?}: {lacks}", watcher.range));
            }
        }
        let copies = self.watchers.iter().map(|watcher| watcher.stream.check_copy(model, model.revision()));
        let checked = copies.collect::<Result<Vec<()>, _>>().map(drop);
        self.check(checked);
        None
    }
}
