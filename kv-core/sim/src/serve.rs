//! A member's side of its clients: which clients wait for which write, and what each read waits for.

use super::clock::MS;
use super::events::Event;
use super::waiting::{Key, Way};
use super::world::World;
use super::{Bug, plan::around};
use kv_core::config::Role;
use kv_core::engine::EngineError;
use kv_core::ids::{Op, Revision};
use kv_core::kv::{Applied, StateReader};
use kv_core::message::{
    Answer, ClientCall, ClientMessage, Operation, Query, ReadMode, Request, ServerMessage,
};
use kv_core::replica::Input;

/// The most calls that may wait at one member. More would mean an unbounded queue.
const MAX_WAITING: usize = 10_000;

impl World {
    /// A client's message arrives.
    pub(super) fn on_client_message(
        &mut self,
        client: usize,
        member: usize,
        life: u32,
        epoch: u32,
        message: ClientMessage,
    ) {
        let slot = &self.members[member];
        if slot.process.is_none() || slot.life != life {
            return self.refuse_connection(client, member, epoch);
        }
        self.trace.note(40, (member * 16 + client) as u64, message.call, || {
            format!("{:?} c{client} -> m{member} {message:?}", self.now)
        });
        let place = (epoch, message.call);
        let Some(process) = self.members[member].process.as_deref_mut() else { return };
        if process.serving.last.get(&client).is_some_and(|last| *last >= place) {
            return;
        }
        process.serving.last.insert(client, place);
        let way = Way { client, epoch, call: message.call };
        match message.what {
            ClientCall::Write(bytes) => self.on_write_call(member, way, bytes),
            ClientCall::Read { mode, query } => self.on_read_call(member, way, mode, query),
            ClientCall::Watch(query) => self.on_watch_call(member, way, query),
            ClientCall::Unwatch { call } => self.on_unwatch_call(member, way, call),
            ClientCall::Members => {
                let list = self.list_of(member);
                self.answer(member, way, list);
            }
            ClientCall::Change(call) => match self.change(member, *call) {
                Some(answer) => self.answer(member, way, answer),
                None => self.answer_not_primary(member, way),
            },
            // The simulated clients do not make these calls.
            ClientCall::Status | ClientCall::Handover { .. } => self.answer(member, way, Answer::Done),
        }
    }

    fn on_write_call(&mut self, member: usize, way: Way, bytes: bytes::Bytes) {
        let Ok(request) = Request::decode(&bytes) else {
            return self.answer(member, way, Answer::Refused("the bytes are not a request".into()));
        };
        let room = self.members[member].process.as_ref().map_or(0, |process| process.replica.proposal_room());
        if !self.members[member].is_serving() {
            return self.answer_not_primary(member, way);
        }
        if room < bytes.len() {
            return self.answer(member, way, Answer::Overloaded);
        }
        let Some(process) = self.members[member].process.as_deref_mut() else { return };
        let key = match request.operation {
            Operation::OpenSession { nonce } => Key::Open(nonce),
            _ => Key::Numbered(request.session, request.number),
        };
        let stored = process.state.as_ref().and_then(|state| {
            // A retry of an applied request can be answered at once.
            let asks = self.rng.bool() || self.bug == Some(Bug::DedupAtProposal);
            asks.then(|| state.reader().stored(request.session, request.number)).flatten()
        });
        if let Some(result) = stored {
            return self.answer(member, way, Answer::Written(result));
        }
        let waiting = process.serving.writes.entry(key).or_default();
        waiting.push(way);
        if waiting.len() == 1 {
            self.input(member, Input::Propose { requests: vec![bytes] });
        }
    }

    fn on_read_call(&mut self, member: usize, way: Way, mode: ReadMode, query: Query) {
        if self.members[member].role == Role::Witness {
            return self.answer(member, way, Answer::Refused("a witness holds no data".into()));
        }
        let unconfirmed = self.bug == Some(Bug::ReadUnconfirmed) && self.members[member].is_serving();
        if mode == ReadMode::Local || unconfirmed {
            return self.answer_read(member, way, &query);
        }
        if let ReadMode::AtLeast(revision) = mode {
            if let Some(process) = self.members[member].process.as_deref_mut() {
                process.serving.awaited.push((revision, way, query));
            }
            return self.answer_reads(member);
        }
        if let ReadMode::MaxStaleness(bound) = mode {
            let now = self.clock_of(member);
            let Some(process) = self.members[member].process.as_deref() else { return };
            let applied = process.state.as_ref().map(|state| state.applied().op);
            if process.replica.fresh(now, bound).is_some_and(|op| Some(op) <= applied) {
                self.checker.count("reads known to be fresh");
                return self.answer_read(member, way, &query);
            }
        }
        if !self.members[member].is_serving() {
            return self.answer_not_primary(member, way);
        }
        let settled = self.checker.settled_epoch();
        let Some(process) = self.members[member].process.as_deref_mut() else { return };
        process.serving.tickets += 1;
        let ticket = process.serving.tickets;
        process.serving.reads.insert(ticket, (way, query, settled));
        if process.serving.reads.len() + process.serving.writes.len() + process.serving.ready.len()
            > MAX_WAITING
        {
            return self.fail(("queues are bounded", format!("m{member}: {MAX_WAITING} calls wait")));
        }
        self.input(member, Input::Read { ticket });
    }

    fn answer_not_primary(&mut self, member: usize, way: Way) {
        let hint = self.members[member].process.as_ref().and_then(|process| process.replica.status().primary);
        self.answer(member, way, Answer::NotPrimary { hint });
    }

    /// These reads may be answered from state that has applied `op`.
    pub(super) fn reads_ready(&mut self, member: usize, tickets: &[u64], op: Op) {
        let Some(process) = self.members[member].process.as_deref_mut() else { return };
        let epoch = process.replica.view().epoch();
        let mut late = None;
        for ticket in tickets {
            if let Some((way, query, settled)) = process.serving.reads.remove(ticket) {
                process.serving.ready.push((op, way, query));
                late = late.max(Some(settled).filter(|settled| *settled > epoch));
            }
        }
        if let Some(settled) = late {
            let found = format!("m{member} in {epoch:?}: {settled:?} had committed when it was asked");
            self.fail(("no read is answered in an epoch that is over", found));
        }
        self.answer_reads(member);
    }

    /// These reads cannot be answered here.
    pub(super) fn reads_refused(&mut self, member: usize, tickets: &[u64]) {
        for ticket in tickets {
            let Some(process) = self.members[member].process.as_deref_mut() else { return };
            if let Some((way, ..)) = process.serving.reads.remove(ticket) {
                self.answer_not_primary(member, way);
            }
        }
    }

    /// Answers the reads for which enough has been applied.
    pub(super) fn answer_reads(&mut self, member: usize) {
        let Some(process) = self.members[member].process.as_deref_mut() else { return };
        let Some(state) = &process.state else { return };
        let applied = state.applied().op;
        let (now, later) =
            std::mem::take(&mut process.serving.ready).into_iter().partition(|(op, _, _)| *op <= applied);
        process.serving.ready = later;
        let now: Vec<(Op, Way, Query)> = now;
        let revision = state.revision();
        let (seen, later) =
            std::mem::take(&mut process.serving.awaited).into_iter().partition(|(at, _, _)| *at <= revision);
        process.serving.awaited = later;
        let seen: Vec<(Revision, Way, Query)> = seen;
        let ready = now.into_iter().map(|(_, way, query)| (way, query));
        for (way, query) in ready.chain(seen.into_iter().map(|(_, way, query)| (way, query))) {
            self.answer_read(member, way, &query);
        }
    }

    fn answer_read(&mut self, member: usize, way: Way, query: &Query) {
        let slot = &self.members[member];
        let Some(state) = slot.process.as_ref().and_then(|process| process.state.as_ref()) else { return };
        let answer = if self.bug == Some(Bug::PastIsPresent) {
            present_as_past(&state.reader(), query)
        } else {
            state.reader().answer(query, usize::MAX, 1 << 20)
        };
        let checked = self.floors(&state.reader()).check_read(query, &answer);
        if self.bug != Some(Bug::PastIsPresent) {
            self.check(checked);
        }
        match answer {
            Ok(answer) => self.answer(member, way, answer),
            Err(error) => {
                // Another member can answer it.
                self.answer(member, way, Answer::NotPrimary { hint: None });
                self.state_failed(member, "a state can be read", &error);
            }
        }
    }

    /// Answers the calls that wait for these requests.
    pub(super) fn answer_writes(&mut self, member: usize, applied: Vec<Applied>) {
        for applied in applied {
            let key = match applied.nonce {
                Some(nonce) => Key::Open(nonce),
                None => Key::Numbered(applied.session, applied.number),
            };
            let Some(process) = self.members[member].process.as_deref_mut() else { return };
            for way in process.serving.writes.remove(&key).unwrap_or_default() {
                self.answer(member, way, Answer::Written(applied.result.clone()));
            }
        }
    }

    /// The outcome of everything that was proposed here is unknown.
    pub(super) fn abandon(&mut self, member: usize) {
        let Some(process) = self.members[member].process.as_deref_mut() else { return };
        for way in std::mem::take(&mut process.serving.writes).into_values().flatten() {
            self.answer(member, way, Answer::Abandoned);
        }
    }

    pub(super) fn answer(&mut self, member: usize, way: Way, answer: Answer) {
        let node = self.client_node(way.client);
        let message = Box::new(ServerMessage { call: way.call, answer });
        let event = Event::ToClient { member, client: way.client, epoch: way.epoch, message };
        let route = self.network.route(&mut self.rng, self.now, (member, node), event.lane(), None);
        self.carry(route, member, node, event);
    }

    /// The member of a connection is not running (any more): its machine refuses the connection, if the link back is
    /// open.
    pub(super) fn refuse_connection(&mut self, client: usize, member: usize, epoch: u32) {
        if self.network.is_open(member, self.client_node(client)) {
            let at = self.now + around(&mut self.rng, self.plan.network.delay + MS / 10);
            self.schedule(at, Event::ConnectionGone { client, member, epoch });
        }
    }

    /// The process of a member has ended: its clients notice that, if the link to them is open.
    pub(super) fn break_connections(&mut self, member: usize) {
        for client in 0..self.clients.len() {
            let epoch = self.clients[client].epoch(member);
            self.refuse_connection(client, member, epoch);
        }
    }
}

/// The seeded bug `PastIsPresent`: the present value of a key is returned for a past one, as long as it is not newer.
fn present_as_past(state: &StateReader, query: &Query) -> Result<Answer, EngineError> {
    let (Query::Get { key, .. }, Some(at)) = (query, query.at()) else {
        return state.answer(query, usize::MAX, 1 << 20);
    };
    let record = state.get(key)?.0.filter(|record| record.created <= at);
    Ok(Answer::Value { record, revision: at.min(state.revision()) })
}
