//! The clients: what each knows, and the random calls that it makes.

use super::clock::{Clock, Time};
use super::history::Action;
use super::operator::Operator;
use super::plan::{Load, Plan, beside, pick};
use super::streams::Stream;
use bytes::Bytes;
use fastrand::Rng;
use kv_core::client::{ClientProtocol, ProtocolOptions, WatchCursor};
use kv_core::config::Role;
use kv_core::ids::{Epoch, Instant, LeaseId, MemberId, Revision};
use kv_core::message::{
    Command, Condition, Effect, LeaseCommand, Lifetime, Query, ReadMode, Record, TransactionRequest,
    TransactionStep,
};
use std::collections::BTreeMap;
use std::time::Duration;

/// A client's connection to one member.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Connection {
    pub(super) state: ConnectionState,
    /// Counts connections: messages of an earlier connection are void.
    pub(super) epoch: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum ConnectionState {
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
    pub(super) protocol: ClientProtocol,
    pub(super) clock: Clock,
    pub(super) connections: Vec<Connection>,
    /// The calls in progress, with their numbers in the history.
    pub(super) calls: BTreeMap<u64, usize>,
    /// The calls of watchers, with their numbers.
    pub(super) watching: BTreeMap<u64, usize>,
    pub(super) timer: Option<Time>,
    /// Counts values: no value is written twice.
    pub(super) values: u64,
    /// The last known revision and value of each key.
    pub(super) seen: BTreeMap<Bytes, (Revision, Bytes)>,
    /// Leases that were recently granted to it.
    pub(super) leases: Vec<LeaseId>,
    /// The number of ended calls.
    pub(super) ended: u64,
    /// After the healing: the calls that must still succeed.
    pub(super) finals: Vec<Action>,
    pub(super) final_call: Option<usize>,
    /// It competes for the lock, and makes no other calls.
    pub(super) holder: Option<Holder>,
    /// It changes the member list, and makes no other calls.
    pub(super) operator: Option<Operator>,
    /// The epoch of the member list that it knows.
    pub(super) list: Epoch,
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
            connections: vec![Connection::default(); plan.machines()],
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
            operator: None,
            list: Epoch::ZERO,
        }
    }

    /// The present connection to a member.
    pub(super) fn epoch(&self, member: usize) -> u32 {
        self.connections[member].epoch
    }

    /// Returns whether it changes the member list once more.
    pub(super) fn has_changes_to_make(&self) -> bool {
        self.operator.as_ref().is_some_and(|operator| !operator.finished)
    }

    /// Returns whether no call is in progress.
    pub(super) fn is_idle(&self) -> bool {
        self.calls.is_empty()
    }

    /// Returns whether the calls that had to succeed have succeeded.
    pub(super) fn is_satisfied(&self) -> bool {
        self.is_idle() && self.finals.is_empty() && self.final_call.is_none()
    }

    pub(super) fn draw(&mut self, client: usize, load: &Load, rng: &mut Rng) -> Action {
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
        let mut other = beside(rng);
        if other.u32(0..100) == 0 {
            let known = self.known();
            let to = known.advance(*pick(&mut other, &[0, 1, 2, 500]));
            return Action::Write(Command::SkipRevisions { to });
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
        let mut other = beside(rng);
        if other.u32(0..6) == 0 {
            let condition = (other.u32(0..4) == 0).then(|| self.condition(&key, &mut other));
            return Command::Touch { key, ttl_ms: life.ttl_ms, condition };
        }
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

    /// The newest revision that the client knows.
    fn known(&self) -> Revision {
        self.seen.values().map(|(revision, _)| *revision).max().unwrap_or_default()
    }

    /// A read at a revision close to those that it knows, or of a state that is not older than the newest of them.
    fn draw_past(&self, key: Bytes, rng: &mut Rng) -> Action {
        let known = self.known();
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
        let mut other = beside(rng);
        let query = match rng.u32(0..3) {
            _ if other.u32(0..6) == 0 => Query::Count { from: key, to: None, at },
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
        let mut other = beside(rng);
        let third = (first + 2) % load.keys;
        if other.u32(0..6) == 0 && !others.contains(&third) {
            let ttl_ms = (load.brief > 0 && other.bool()).then_some(1_000);
            transaction.then.push(TransactionStep::Touch { key: key(third), ttl_ms });
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

    pub(super) fn learn_lease(&mut self, action: Option<&Action>, effect: &Effect) {
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

pub(super) fn key(number: u32) -> Bytes {
    format!("key{number}").into()
}

/// A key that is only used for counters.
fn counter(number: u32) -> Bytes {
    format!("kount{number}").into()
}

/// The lock's key. It is below all keys that the other clients remove.
const LOCK: Bytes = Bytes::from_static(b"a lock");

/// The state of a client that competes for the lock.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Holder {
    pub(super) ttl_ms: u64,
    pub(super) lease: Option<LeaseId>,
    /// When the last successful renewal was first sent, on the client's clock; and how wrong clocks had been by then.
    pub(super) since: Instant,
    pub(super) wrong: i128,
    /// It has put the lock's key, and has neither released it nor learned that the lease has ended. It releases it at
    /// that time.
    pub(super) holds: bool,
    pub(super) leaves_at: Time,
    /// When it tries to acquire the lock again.
    pub(super) rests_until: Time,
    /// The call in progress, when it was sent, and how wrong clocks had been by then.
    pub(super) call: Option<(usize, Instant, i128)>,
}

impl Holder {
    pub(super) fn ttl(&self) -> Duration {
        Duration::from_millis(self.ttl_ms)
    }

    pub(super) fn next(&self, now: Instant, time: Time) -> Command {
        let Some(lease) = self.lease else {
            return Command::Lease(LeaseCommand::Grant { ttl_ms: self.ttl_ms });
        };
        if self.holds && self.leaves_at <= time {
            return Command::Lease(LeaseCommand::Revoke { lease });
        }
        if self.holds || now.since(self.since) > self.ttl() / 3 {
            return Command::Lease(LeaseCommand::KeepAlive { lease });
        }
        let life = Lifetime { ttl_ms: None, lease: Some(lease) };
        Command::Put { key: LOCK, value: Bytes::new(), condition: Some(Condition::Absent), life }
    }
}

/// The range of a watcher.
#[derive(Clone, Debug)]
pub(super) struct Range {
    pub(super) from: Bytes,
    pub(super) to: Option<Bytes>,
    pub(super) previous: bool,
}

/// What a watcher is doing.
#[derive(Debug)]
pub(super) enum Doing {
    /// To begin.
    Resting,
    /// About to read the present content, because the history before it is gone.
    Lost,
    /// Reading the present content at one revision: the records so far, and the next key.
    Reading { next: Bytes, at: Option<Revision>, records: BTreeMap<Bytes, Record> },
    /// Following.
    Following(Box<WatchCursor>),
}

/// A watching client.
#[derive(Debug)]
pub(super) struct Watcher {
    pub(super) client: usize,
    pub(super) range: Range,
    pub(super) doing: Doing,
    pub(super) stream: Stream,
    /// All events up to this revision have been taken.
    pub(super) complete: Revision,
    /// The call in progress.
    pub(super) call: Option<u64>,
    /// How long it takes to process one event.
    pub(super) slowness: Time,
    /// Its next turn.
    pub(super) turn: Option<Time>,
}

impl Watcher {
    pub(super) fn new(client: usize) -> Self {
        let range = Range { from: Bytes::new(), to: None, previous: false };
        Self {
            client,
            stream: Stream::new(Bytes::new(), None, false, None),
            range,
            doing: Doing::Resting,
            complete: Revision::ZERO,
            call: None,
            slowness: 0,
            turn: None,
        }
    }
}
