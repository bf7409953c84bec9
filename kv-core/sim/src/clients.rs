//! The clients: they make random calls through the real client's protocol, and record the answers.

use super::clock::{Clock, MS, SECOND, Time};
use super::history::{Action, Ending};
use super::holders::Holder;
use super::plan::{Load, Plan, around, beside, pick};
use super::world::{Event, World, index};
use bytes::Bytes;
use fastrand::Rng;
use kv_core::client::{
    Call, CallError, CallId, ClientProtocol, ProtocolInput, ProtocolOptions, ProtocolOutput, Reply,
};
use kv_core::config::Role;
use kv_core::error::Cause;
use kv_core::ids::{Instant, LeaseId, MemberId, Revision};
use kv_core::message::{
    ClientMessage, Command, Condition, Effect, LeaseCommand, Lifetime, Outcome, Query, ReadMode,
    ServerMessage, TransactionRequest, TransactionStep,
};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long an attempt to connect through a cut takes.
const CONNECT_TIMEOUT: Time = SECOND / 2;

/// A client's connection to one member.
#[derive(Clone, Copy, Debug, Default)]
struct Connection {
    state: ConnectionState,
    /// Counts connections: messages of an earlier connection are void.
    epoch: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum ConnectionState {
    #[default]
    None,
    /// It will fail. Nothing that is sent leaves the client.
    Failing,
    /// Open to this life of the member.
    Open(u32),
}

/// One client.
#[derive(Debug)]
pub(super) struct Client {
    protocol: ClientProtocol,
    pub(super) clock: Clock,
    connections: Vec<Connection>,
    /// The calls in progress, with their numbers in the history.
    calls: BTreeMap<u64, usize>,
    /// The calls of watchers, with their numbers.
    pub(super) watching: BTreeMap<u64, usize>,
    timer: Option<Time>,
    /// Counts values: no value is written twice.
    values: u64,
    /// The last known revision and value of each key.
    seen: BTreeMap<Bytes, (Revision, Bytes)>,
    /// Leases that were recently granted to it.
    leases: Vec<LeaseId>,
    /// The number of ended calls.
    pub(super) ended: u64,
    /// After the healing: the calls that must still succeed.
    finals: Vec<Action>,
    final_call: Option<usize>,
    /// It competes for the lock, and makes no other calls.
    pub(super) holder: Option<Holder>,
}

impl Client {
    pub(super) fn new(plan: &Plan, rng: &mut Rng) -> Self {
        let data = plan.roles.iter().enumerate().filter(|(_, role)| **role == Role::Data);
        let members: Vec<MemberId> =
            data.filter_map(|(id, _)| u8::try_from(id).ok()).map(MemberId::new).collect();
        let (usual, patience) = (ProtocolOptions::default(), plan.load.patience);
        let options = ProtocolOptions {
            window: u32::try_from(plan.options.max_in_flight_per_session).unwrap_or(u32::MAX),
            session_idle: plan.options.session_ttl / 2,
            attempt_min: usual.attempt_min * patience,
            attempt_max: usual.attempt_max * patience,
            backoff_min: usual.backoff_min * patience,
            search_max: usual.search_max * patience,
            backoff_max: usual.backoff_max * patience,
            watch_patience: Duration::from_nanos(plan.watching.patience),
        };
        let protocol = ClientProtocol::new(rng.u64(..), members, options, Instant::ZERO);
        Self {
            protocol,
            clock: Clock::new(rng, plan.clock.drift, plan.clock.wall_drift, plan.clock.skew_ms),
            connections: vec![Connection::default(); plan.roles.len()],
            calls: BTreeMap::new(),
            watching: BTreeMap::new(),
            timer: None,
            values: 0,
            seen: BTreeMap::new(),
            leases: Vec::new(),
            ended: 0,
            finals: Vec::new(),
            final_call: None,
            holder: None,
        }
    }

    /// The present connection to a member.
    pub(super) fn epoch(&self, member: usize) -> u32 {
        self.connections[member].epoch
    }

    /// Returns whether no call is in progress.
    pub(super) fn is_idle(&self) -> bool {
        self.calls.is_empty()
    }

    /// Returns whether the calls that had to succeed have succeeded.
    pub(super) fn is_satisfied(&self) -> bool {
        self.is_idle() && self.finals.is_empty() && self.final_call.is_none()
    }

    fn draw(&mut self, client: usize, load: &Load, rng: &mut Rng) -> Action {
        let key = key(rng.u32(0..load.keys));
        if rng.u32(0..100) < load.reads {
            let mut other = beside(rng);
            if let Some(unit) = load.bounded.filter(|_| other.u32(0..6) == 0) {
                return draw_bounded(key, unit, &mut other);
            }
            let local = match rng.u32(0..10) {
                0 => true,
                1 => return self.draw_past(key, rng),
                _ => false,
            };
            if rng.u32(0..5) == 0 {
                let to = rng.bool().then(|| self::key(rng.u32(0..=load.keys)));
                return Action::Scan { from: key, to, limit: *pick(rng, &[1, 2, 100]), local };
            }
            if rng.u32(0..8) == 0 {
                let some = |rng: &mut Rng| self::key(rng.u32(0..=load.keys));
                let keys: std::collections::BTreeSet<Bytes> = (0..3).map(|_| some(rng)).collect();
                return Action::Many { keys: keys.into_iter().collect(), local };
            }
            return Action::Get { key, local };
        }
        if rng.u32(0..100) == 0 {
            return Action::Close;
        }
        if load.brief > 0 && rng.u32(0..100) < load.brief {
            return Action::Write(self.brief(client, key, load, rng));
        }
        if rng.u32(0..8) == 0 {
            return Action::Write(Command::Transaction(self.transaction(client, load, rng)));
        }
        if rng.u32(0..40) == 0 {
            let to = rng.bool().then(|| self::key(rng.u32(0..=load.keys)));
            return Action::Write(Command::DeleteRange { from: key, to, limit: *pick(rng, &[1, 2, 100]) });
        }
        let condition = (rng.u32(0..100) < load.guarded).then(|| self.condition(&key, rng));
        if rng.u32(0..4) == 0 {
            return Action::Write(Command::Delete { key, condition });
        }
        Action::Write(Command::Put {
            key,
            value: self.value(client, rng),
            condition,
            life: Lifetime::FOREVER,
        })
    }

    /// A call about a lease, or a put that expires.
    fn brief(&mut self, client: usize, key: Bytes, load: &Load, rng: &mut Rng) -> Command {
        let lease = rng.choice(&self.leases).copied();
        if rng.u32(0..3) == 0 {
            return Command::Lease(match (rng.u32(0..6), lease) {
                (0, _) | (_, None) => LeaseCommand::Grant { ttl_ms: *pick(rng, &[100, 500, 3_000]) },
                (1, Some(lease)) => LeaseCommand::Revoke { lease },
                (2, Some(lease)) => LeaseCommand::Info { lease },
                (_, Some(lease)) => LeaseCommand::KeepAlive { lease },
            });
        }
        let life = self.life(rng);
        let value = self.value(client, rng);
        if let (0, Some((revision, _))) = (rng.u32(0..4), self.seen.get(&key)) {
            // Like a lock holder: the key may have been removed since.
            let condition = if revision.get() % 2 == 0 { Condition::Created } else { Condition::Held };
            let conditions = vec![(key.clone(), condition(*revision))];
            let then = vec![TransactionStep::Put { key, value, life }];
            return Command::Transaction(TransactionRequest { conditions, then, otherwise: Vec::new() });
        }
        let condition = (rng.u32(0..100) < load.guarded).then(|| self.condition(&key, rng));
        Command::Put { key, value, condition, life }
    }

    /// The lifetime of a key that expires.
    fn life(&self, rng: &mut Rng) -> Lifetime {
        let lease = rng.choice(&self.leases).copied();
        let ttl_ms = (lease.is_none() || rng.bool()).then(|| *pick(rng, &[1, 100, 1_000, 4_000]));
        Lifetime { ttl_ms, lease: lease.filter(|_| ttl_ms.is_none() || rng.u32(0..4) == 0) }
    }

    /// A read at a revision close to those that it knows, or of a state that is not older than the newest of them.
    fn draw_past(&self, key: Bytes, rng: &mut Rng) -> Action {
        let known = self.seen.values().map(|(revision, _)| *revision).max().unwrap_or_default();
        let at = match rng.u32(0..8) {
            0 => None,
            1 => Some(known.advance(rng.u64(0..3000))),
            _ => Some(known.back(rng.u64(0..300))),
        };
        let mode = match rng.u32(0..3) {
            _ if at.is_none() => ReadMode::AtLeast(known),
            0 => ReadMode::AtLeast(known),
            1 => ReadMode::Local,
            _ => ReadMode::Linearizable,
        };
        let query = match rng.u32(0..3) {
            0 => {
                let (to, limit) = (None, *pick(rng, &[1, 2, 100]));
                let (reverse, keys_only) = (rng.bool(), rng.u32(0..4) == 0);
                Query::Scan { from: key, to, limit, reverse, keys_only, at }
            }
            1 => Query::Many { keys: vec![key], at },
            _ => Query::Get { key, at },
        };
        Action::Past { query, mode }
    }

    /// One or two puts or deletes, and usually a counter, under up to two conditions.
    fn transaction(&mut self, client: usize, load: &Load, rng: &mut Rng) -> TransactionRequest {
        let first = rng.u32(0..load.keys);
        let others = [first, (first + 1) % load.keys];
        let mut transaction = TransactionRequest::default();
        for number in others.into_iter().take(rng.usize(0..=2)) {
            let key = key(number);
            let condition = self.condition(&key, rng);
            transaction.conditions.push((key, condition));
        }
        let brief = load.brief > 0 && rng.u32(0..100) < load.brief;
        let life = if brief { self.life(rng) } else { Lifetime::FOREVER };
        transaction.then.push(TransactionStep::Put { key: key(first), value: self.value(client, rng), life });
        if others[1] != first && rng.bool() {
            transaction.then.push(TransactionStep::Delete { key: key(others[1]) });
        }
        if rng.u32(0..4) != 0 {
            transaction.then.push(TransactionStep::Add { key: counter(rng.u32(0..2)), by: rng.i64(-3..=5) });
        }
        if rng.bool() {
            transaction.otherwise.push(TransactionStep::Put {
                key: key(others[1]),
                value: self.value(client, rng),
                life: Lifetime::FOREVER,
            });
        }
        if rng.u32(0..4) == 0 {
            transaction.otherwise.push(TransactionStep::Add { key: counter(rng.u32(0..2)), by: 1 });
            if others[1] != first {
                transaction.otherwise.push(TransactionStep::Delete { key: key(first) });
            }
        }
        for list in [&mut transaction.then, &mut transaction.otherwise] {
            if rng.u32(0..3) == 0 {
                // At any position it reads the value before the transaction, like a call that asks for the previous
                // value.
                list.insert(rng.usize(0..=list.len()), TransactionStep::Get { key: key(first) });
            }
            if rng.u32(0..8) == 0 {
                let to = rng.bool().then(|| key(load.keys));
                list.push(TransactionStep::Scan { from: key(first), to, limit: *pick(rng, &[0, 1, 2, 100]) });
            }
        }
        // Sometimes a step that fails, so that the whole transaction must have no effect.
        if rng.u32(0..10) == 0 {
            transaction.then.push(TransactionStep::Add { key: counter(2), by: i64::MAX });
        }
        transaction
    }

    pub(super) fn value(&mut self, client: usize, rng: &mut Rng) -> Bytes {
        self.values += 1;
        let pad = *pick(rng, &["", "................................"]);
        format!("{client}-{}{pad}", self.values).into()
    }

    fn learn_lease(&mut self, action: Option<&Action>, effect: &Effect) {
        let asked = match action {
            Some(Action::Write(Command::Lease(
                LeaseCommand::KeepAlive { lease }
                | LeaseCommand::Revoke { lease }
                | LeaseCommand::Info { lease },
            ))) => Some(*lease),
            _ => None,
        };
        match effect {
            Effect::LeaseGranted(lease) => {
                self.leases.push(*lease);
                if self.leases.len() > 3 {
                    self.leases.remove(0);
                }
            }
            // An ended lease is sometimes still used: other clients may know it.
            Effect::LeaseFailed(_) => self.leases.retain(|lease| Some(*lease) != asked),
            _ => {}
        }
    }

    fn condition(&self, key: &Bytes, rng: &mut Rng) -> Condition {
        match (rng.u32(0..4), self.seen.get(key)) {
            (0, Some((revision, _))) | (1, Some((revision, _))) => Condition::Revision(*revision),
            (2, Some((_, value))) => Condition::Value(value.clone()),
            (3, _) => Condition::Present,
            _ => Condition::Absent,
        }
    }
}

/// A read with a bound of a random multiple of `unit`.
fn draw_bounded(key: Bytes, unit: Duration, rng: &mut Rng) -> Action {
    let mode = ReadMode::MaxStaleness(unit * *pick(rng, &[0, 2, 4, 8, 40, 400]));
    let query = match rng.u32(0..4) {
        0 => Query::Scan { from: key, to: None, limit: 100, reverse: false, keys_only: false, at: None },
        1 => Query::Many { keys: vec![key], at: None },
        _ => Query::Get { key, at: None },
    };
    Action::Past { query, mode }
}

fn key(number: u32) -> Bytes {
    format!("key{number}").into()
}

/// A key that is only used for counters.
fn counter(number: u32) -> Bytes {
    format!("kount{number}").into()
}

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
        let refused = matches!(&result, Err(error) if matches!(error.cause(), Cause::Refused(_)));
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
            | Effect::Expired { .. }) => Ending::Lease { effect, revision },
            Effect::StepFailed { step, why } => Ending::StepFailed { step, why, revision },
        },
        Ok(Reply::Value { record, revision }) => Ending::Value { record, revision: Some(revision) },
        Ok(Reply::Records { records, next, revision }) => {
            Ending::Records { records, more: next.is_some(), revision: Some(revision) }
        }
        Ok(Reply::Compacted { oldest }) => Ending::Compacted(oldest),
        Ok(Reply::Future { newest }) => Ending::Future(newest),
        Ok(Reply::Done) => Ending::Closed,
        Ok(Reply::Watched { .. } | Reply::Status(_)) | Err(CallError::NotApplied(_)) => Ending::NotApplied,
        Err(CallError::OutcomeUnknown(_)) => Ending::Unknown,
    }
}
