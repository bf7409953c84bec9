//! The calls of the clients: they go through the real client's protocol, and the answers are recorded.

use super::clients::{Connection, ConnectionState, key};
use super::clock::{MS, SECOND, Time};
use super::events::Event;
use super::history::{Action, Ending};
use super::member::index;
use super::plan::around;
use super::world::World;
use kv_core::client::{Call, CallError, CallId, ProtocolInput, ProtocolOutput, Reply};
use kv_core::error::Cause;
use kv_core::ids::Instant;
use kv_core::message::{ClientMessage, Command, Effect, Lifetime, Outcome, Query, ReadMode, ServerMessage};

/// How long an attempt to connect through a cut takes.
const CONNECT_TIMEOUT: Time = SECOND / 2;

impl World {
    pub(super) fn client_now(&self, client: usize) -> Instant {
        self.clients[client].clock.read(self.now).monotonic
    }

    /// A client makes a call, if it has not too many in progress, and schedules the next.
    pub(super) fn next_call(&mut self, client: usize) {
        if self.healed.is_some() {
            return;
        }
        if self.clients[client].holder.is_some() {
            return self.holder_turn(client);
        }
        let load = self.plan.load;
        let one = &mut self.clients[client];
        if one.calls.len() < load.in_flight {
            let action = one.draw(client, &load, &mut self.rng);
            let call = self.begin_call(client, action);
            if self.rng.u32(0..200) == 0 {
                // The caller cancels: what it asked for may still happen.
                if self.clients[client].calls.remove(&(call as u64)).is_some() {
                    self.core_input(client, ProtocolInput::Cancel { id: CallId::new(call as u64) });
                }
            }
        }
        let mut pause = around(&mut self.rng, load.pause);
        if self.rng.u32(0..100) == 0 {
            // Long enough for its session to expire.
            pause += self.rng.u64(0..load.absence);
        }
        self.schedule(self.now + pause, Event::ClientCall { client });
    }

    /// A client makes a call. Returns the number of the call.
    pub(super) fn begin_call(&mut self, client: usize, action: Action) -> usize {
        let deadline = self.client_now(client).after(self.plan.load.deadline);
        let number = self.history.begin(client, action.clone(), self.now);
        self.trace.note(50, client as u64, number as u64, || {
            format!("{:?} c{client} call {number} begins: {action:?}", self.now)
        });
        let read = |local: bool, query| Call::Read {
            mode: if local { ReadMode::Local } else { ReadMode::Linearizable },
            query,
            prefer: None,
            only: None,
        };
        let call = match action {
            Action::Write(command) => Call::Write(command),
            Action::Close => Call::CloseSession,
            Action::Past { query, mode } => Call::Read { mode, query, prefer: None, only: None },
            Action::Get { key, local } => read(local, Query::Get { key, at: None }),
            Action::Many { keys, local } => read(local, Query::Many { keys, at: None }),
            Action::Scan { from, to, limit, local } => {
                read(local, Query::Scan { from, to, limit, reverse: false, keys_only: false, at: None })
            }
        };
        let id = CallId::new(number as u64);
        self.clients[client].calls.insert(id.get(), number);
        self.core_input(client, ProtocolInput::Call { id, call, deadline });
        number
    }

    pub(super) fn core_input(&mut self, client: usize, input: ProtocolInput) {
        let now = self.client_now(client);
        self.clients[client].protocol.handle(now, input);
        while let Some(output) = self.clients[client].protocol.poll_output() {
            match output {
                ProtocolOutput::Send { member, message } => self.client_sends(client, index(member), message),
                ProtocolOutput::Done { id, result } => self.call_done(client, id, result),
            }
        }
        let one = &mut self.clients[client];
        one.protocol.check_invariants();
        let Some(deadline) = one.protocol.poll_timeout() else { return };
        let at = one.clock.reaches(deadline).max(self.now);
        if one.timer.is_none_or(|set| at < set) {
            one.timer = Some(at);
            self.schedule(at, Event::ClientTimer { client, at });
        }
    }

    /// A client's timer fires.
    pub(super) fn on_client_timer(&mut self, client: usize, at: Time) {
        if self.clients[client].timer == Some(at) {
            self.clients[client].timer = None;
            self.trace.note(51, client as u64, 0, || format!("{:?} c{client} timer", self.now));
            self.core_input(client, ProtocolInput::Timeout);
        }
    }

    fn client_sends(&mut self, client: usize, member: usize, message: ClientMessage) {
        let node = self.client_node(client);
        let open = self.network.is_open(node, member) && self.network.is_open(member, node);
        let slot = &self.members[member];
        let connection = &mut self.clients[client].connections[member];
        if connection.state == ConnectionState::None {
            connection.epoch += 1;
            let up = slot.is_up();
            connection.state =
                if open && up { ConnectionState::Open(slot.life) } else { ConnectionState::Failing };
            if connection.state == ConnectionState::Failing {
                let epoch = connection.epoch;
                let wait = if open { MS } else { CONNECT_TIMEOUT };
                self.schedule(self.now + wait, Event::ConnectionGone { client, member, epoch });
            }
        }
        let Connection { state: ConnectionState::Open(life), epoch } =
            self.clients[client].connections[member]
        else {
            return;
        };
        let event = Event::ToMember { client, member, life, epoch, message: Box::new(message) };
        let route = self.network.route(&mut self.rng, self.now, (node, member), event.lane(), None);
        self.carry(route, node, member, event);
    }

    /// A connection of a client has ended, or could not be opened.
    pub(super) fn on_connection_gone(&mut self, client: usize, member: usize, epoch: u32) {
        let connection = &mut self.clients[client].connections[member];
        if connection.epoch != epoch || connection.state == ConnectionState::None {
            return;
        }
        let was = std::mem::take(&mut connection.state);
        self.trace.note(52, (client * 16 + member) as u64, u64::from(epoch), || {
            format!("{:?} c{client} has no connection to m{member}", self.now)
        });
        let member = self.members[member].id;
        let input = match was {
            ConnectionState::Failing => ProtocolInput::Unreachable { member },
            _ => ProtocolInput::ConnectionLost { member },
        };
        self.core_input(client, input);
    }

    /// A member's answer arrives at a client.
    pub(super) fn on_answer(&mut self, member: usize, client: usize, epoch: u32, message: ServerMessage) {
        let connection = self.clients[client].connections[member];
        if connection.epoch != epoch || !matches!(connection.state, ConnectionState::Open(_)) {
            return;
        }
        self.trace.note(53, (client * 16 + member) as u64, message.call, || {
            format!("{:?} m{member} -> c{client} {message:?}", self.now)
        });
        let member = self.members[member].id;
        self.core_input(client, ProtocolInput::Answer { member, message });
    }

    fn call_done(&mut self, client: usize, id: CallId, result: Result<Reply, CallError>) {
        let one = &mut self.clients[client];
        if let Some(watcher) = one.watching.remove(&id.get()) {
            return self.watch_done(watcher, id.get(), result);
        }
        let Some(number) = one.calls.remove(&id.get()) else {
            return self.fail(("a call ends once", format!("c{client} {id:?}: {result:?}")));
        };
        one.ended += 1;
        self.trace.note(54, client as u64, number as u64, || {
            format!("{:?} c{client} call {number} ends: {result:?}", self.now)
        });
        let refused = matches!(&result, Err(error) if matches!(error.cause(), Cause::Refused(_) | Cause::ResultDropped));
        if refused {
            return self.fail(("valid calls are not refused", format!("c{client}: {result:?}")));
        }
        let ending = ending_of(result);
        self.checker.count(match &ending {
            Ending::Unknown => "calls of unknown outcome",
            Ending::NotApplied => "calls not applied",
            Ending::ConditionFailed { .. } => "calls with a failed condition",
            Ending::RangeDeleted { .. } => "ranges deleted",
            Ending::Transacted { .. } => "transactions",
            Ending::StepFailed { .. } => "transactions with a failed step",
            Ending::Closed => "sessions closed",
            Ending::Lease { effect: Effect::LeaseFailed(_), .. } => "leases that had ended",
            Ending::Lease { .. } => "leases granted, kept or ended",
            _ => "calls done",
        });
        self.learn(client, number, &ending);
        self.holder_learns(client, number, &ending);
        let succeeded = !matches!(ending, Ending::Unknown | Ending::NotApplied);
        if self.clients[client].final_call == Some(number) {
            self.clients[client].final_call = None;
            if succeeded {
                self.clients[client].finals.pop();
            }
        }
        if !self.history.end(number, ending, self.now, self.checker.revision()) {
            self.fail(("a call ends once", format!("c{client} {id:?}")));
        }
    }

    fn learn(&mut self, client: usize, call: usize, ending: &Ending) {
        let action = self.history.call(call).map(|call| &call.action);
        if let Ending::Lease { effect, .. } = ending {
            return self.clients[client].learn_lease(action, effect);
        }
        let seen = &mut self.clients[client].seen;
        match (action, ending) {
            (Some(Action::Write(Command::Put { key, value, .. })), Ending::Put(revision)) => {
                seen.insert(key.clone(), (*revision, value.clone()));
            }
            (Some(Action::Get { key, .. }), Ending::Value { record: Some(record), .. }) => {
                seen.insert(key.clone(), (record.modified, record.value.clone()));
            }
            _ => {}
        }
    }

    /// The faults have ended: every client must put and read once more, and succeed.
    pub(super) fn begin_finals(&mut self) {
        for client in 0..self.clients.len() {
            let value = self.clients[client].value(client, &mut self.rng);
            let put =
                Action::Write(Command::Put { key: key(0), value, condition: None, life: Lifetime::FOREVER });
            self.clients[client].finals = vec![Action::Get { key: key(0), local: false }, put];
        }
    }

    /// Lets one client after the other make its last calls. A failed call is repeated with a new value.
    pub(super) fn drive_finals(&mut self) {
        for client in 0..self.clients.len() {
            if self.clients[client].is_satisfied() {
                continue;
            }
            if self.clients[client].is_idle() {
                let value = self.clients[client].value(client, &mut self.rng);
                let Some(next) = self.clients[client].finals.last().cloned() else { return };
                let next = match next {
                    Action::Write(Command::Put { key, condition, life, .. }) => {
                        Action::Write(Command::Put { key, value, condition, life })
                    }
                    other => other,
                };
                // Set before the call, which may end at once.
                self.clients[client].final_call = Some(self.history.calls().len());
                self.begin_call(client, next);
            }
            return;
        }
    }
}

fn ending_of(result: Result<Reply, CallError>) -> Ending {
    match result {
        Ok(Reply::Written(Outcome { revision, effect, .. })) => match effect {
            Effect::Put | Effect::SessionOpened(_) | Effect::SessionClosed => Ending::Put(revision),
            Effect::Deleted { existed } => Ending::Deleted { existed, revision },
            Effect::ConditionFailed { found } => Ending::ConditionFailed { found, revision: Some(revision) },
            Effect::RangeDeleted { count, more } => Ending::RangeDeleted { count, more, revision },
            Effect::Transacted { succeeded, results } => Ending::Transacted { succeeded, results, revision },
            effect @ (Effect::LeaseGranted(_)
            | Effect::LeaseKept
            | Effect::LeaseRevoked { .. }
            | Effect::Lease(_)
            | Effect::LeaseFailed(_)
            | Effect::Expired { .. }
            | Effect::Touched { .. }
            | Effect::EpochBegan { .. }
            | Effect::RevisionsSkipped { .. }) => Ending::Lease { effect, revision },
            Effect::StepFailed { step, why } => Ending::StepFailed { step, why, revision },
        },
        Ok(Reply::Value { record, revision }) => Ending::Value { record, revision: Some(revision) },
        Ok(Reply::Records { records, next, revision }) => {
            Ending::Records { records, more: next.is_some(), revision: Some(revision) }
        }
        Ok(Reply::Counted { count, next, revision }) => {
            Ending::Counted { count, more: next.is_some(), revision }
        }
        Ok(Reply::Compacted { oldest }) => Ending::Compacted(oldest),
        Ok(Reply::Future { newest }) => Ending::Future(newest),
        Ok(Reply::Done) => Ending::Closed,
        Ok(
            Reply::Watched { .. }
            | Reply::Status(_)
            | Reply::HandoverRefused(_)
            | Reply::Members(_)
            | Reply::ChangeRefused { .. },
        )
        | Err(CallError::NotApplied(_)) => Ending::NotApplied,
        Err(CallError::OutcomeUnknown(_)) => Ending::Unknown,
    }
}
