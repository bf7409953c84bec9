//! The state against a model of a few lines, and random workloads for the other tests.

use super::*;
use crate::ids::LeaseId;
use crate::message::{
    Expiry, LeaseCommand, LeaseFailure, LeaseInfo, Scanned, StepFailure, StepResult, TransactionRequest,
    TransactionStep,
};
use std::collections::{BTreeMap, BTreeSet};

/// What the data should be.
#[derive(Clone, Default, Debug)]
pub(super) struct Model {
    pub(super) records: Records,
    /// What the data was at each revision, from zero on: empty if nobody wants to know.
    pub(super) past: Vec<Records>,
    /// The requests that it has followed: they name leases.
    requests: u64,
    /// Those that ran.
    ran: BTreeSet<(SessionId, RequestNumber)>,
    /// The revisions of the expiries.
    pub(super) expiries: BTreeSet<Revision>,
    /// How long each lease lasts, and its deadline.
    leases: BTreeMap<LeaseId, (u64, u64)>,
}

/// The keys.
pub(super) type Records = BTreeMap<Bytes, Record>;

/// Stamps are whole milliseconds, and clocks differ by a thousandth.
fn ends(now: u64, ttl_ms: u64) -> u64 {
    now + ttl_ms + ttl_ms.div_ceil(1000) + 1
}

impl Model {
    /// Follows the outcomes that the state returns; checks that they are right.
    fn follow(&mut self, request: &Request, applied: &Applied) {
        self.requests += 1;
        let Ok(outcome) = &applied.result else { return };
        let is_first = self.ran.insert((request.session, request.number));
        if !is_first && request.number > RequestNumber::ZERO {
            return;
        }
        assert_eq!(outcome.revision, applied.revision, "{request:?} ran now");
        let (at, now) = (outcome.revision, outcome.timestamp.get());
        let expected = match &request.operation {
            Operation::Command(command) => self.execute(at, now, command),
            Operation::Expire(due) => {
                if !due.is_empty() {
                    self.expiries.insert(at);
                }
                self.expire(now, due)
            }
            Operation::OpenSession { .. } | Operation::CloseSession | Operation::Reconfigure(_) => return,
        };
        assert_eq!(outcome.effect, expected, "{request:?}");
    }

    fn execute(&mut self, at: Revision, now: u64, command: &Command) -> Effect {
        let (key, condition) = match command {
            Command::Put { key, condition, .. }
            | Command::Delete { key, condition }
            | Command::Touch { key, condition, .. } => (key, condition.as_ref()),
            Command::DeleteRange { from, to, limit } => return self.delete_range(from, to.as_ref(), *limit),
            Command::Transaction(transaction) => return self.transact(at, now, transaction),
            Command::Lease(command) => return self.lease(now, *command),
            Command::SkipRevisions { .. } => {
                return Effect::RevisionsSkipped { kept: limits().fixed.history_revisions };
            }
        };
        match (condition.is_none_or(|condition| self.holds(key, condition)), command) {
            (true, Command::Put { value, life, .. }) => {
                if life.lease.is_some_and(|lease| !self.leases.contains_key(&lease)) {
                    return Effect::LeaseFailed(LeaseFailure::Unknown);
                }
                self.put(at, now, key, value, *life);
                Effect::Put
            }
            (true, Command::Touch { ttl_ms, .. }) => {
                Effect::Touched { existed: self.touch(at, now, key, *ttl_ms) }
            }
            (true, _) => Effect::Deleted { existed: self.records.remove(key).is_some() },
            (false, _) => {
                let found = self.records.get(key);
                Effect::ConditionFailed { found: found.map(|found| found.modified) }
            }
        }
    }

    fn delete_range(&mut self, from: &Bytes, to: Option<&Bytes>, limit: u32) -> Effect {
        let inside = self.records.range(from.clone()..).map(|(key, _)| key.clone());
        let inside: Vec<Bytes> = inside.take_while(|key| to.is_none_or(|to| key < to)).collect();
        let mut count = 0;
        for key in inside.iter().take(limit.clamp(1, 1000) as usize) {
            self.records.remove(key);
            count += 1;
        }
        Effect::RangeDeleted { count, more: inside.len() > count as usize }
    }

    fn holds(&self, key: &Bytes, condition: &Condition) -> bool {
        let found = self.records.get(key);
        match condition {
            Condition::Absent => found.is_none(),
            Condition::Present => found.is_some(),
            Condition::Revision(revision) => found.is_some_and(|found| found.modified == *revision),
            Condition::Created(revision) | Condition::Held(revision) => {
                found.is_some_and(|found| found.created == *revision)
            }
            Condition::Value(value) => found.is_some_and(|found| found.value == *value),
        }
    }

    fn put(&mut self, at: Revision, now: u64, key: &Bytes, value: &Bytes, life: Lifetime) {
        let (created, version) =
            self.records.get(key).map_or((at, 0), |found| (found.created, found.version));
        let (value, version) = (value.clone(), version + 1);
        let expires = life.ttl_ms.map(|ms| Timestamp::new(ends(now, ms)));
        let record = Record { value, created, modified: at, version, expires, lease: life.lease };
        self.records.insert(key.clone(), record);
    }

    fn touch(&mut self, at: Revision, now: u64, key: &Bytes, ttl_ms: Option<u64>) -> bool {
        let Some(record) = self.records.get_mut(key) else { return false };
        (record.modified, record.version) = (at, record.version + 1);
        record.expires = ttl_ms.map(|ms| Timestamp::new(ends(now, ms)));
        true
    }

    fn transact(&mut self, at: Revision, now: u64, transaction: &TransactionRequest) -> Effect {
        let (locks, conditions): (Vec<_>, Vec<_>) =
            transaction.conditions.iter().partition(|(_, condition)| matches!(condition, Condition::Held(_)));
        if let Some((key, _)) = locks.into_iter().find(|(key, condition)| !self.holds(key, condition)) {
            return Effect::ConditionFailed { found: self.records.get(key).map(|found| found.modified) };
        }
        let held = conditions.into_iter().all(|(key, condition)| self.holds(key, condition));
        let steps = if held { &transaction.then } else { &transaction.otherwise };
        let old = self.records.clone();
        let mut results = Vec::new();
        for (number, step) in (0..).zip(steps) {
            results.push(match step {
                TransactionStep::Put { key, value, life } => {
                    if life.lease.is_some_and(|lease| !self.leases.contains_key(&lease)) {
                        self.records = old;
                        let why = StepFailure::Lease(LeaseFailure::Unknown);
                        return Effect::StepFailed { step: number, why };
                    }
                    self.put(at, now, key, value, *life);
                    StepResult::Put
                }
                TransactionStep::Delete { key } => {
                    StepResult::Deleted { existed: self.records.remove(key).is_some() }
                }
                TransactionStep::Add { key, by } => {
                    let found = old.get(key);
                    let text = found.map_or("0".into(), |found| String::from_utf8_lossy(&found.value));
                    let Ok(number_there) = text.parse::<i64>() else {
                        self.records = old;
                        return Effect::StepFailed { step: number, why: StepFailure::NotANumber };
                    };
                    let Some(sum) = number_there.checked_add(*by) else {
                        self.records = old;
                        return Effect::StepFailed { step: number, why: StepFailure::OutOfRange };
                    };
                    let ends = found.map(|found| (found.expires, found.lease)).unwrap_or_default();
                    self.put(at, now, key, &sum.to_string().into(), Lifetime::FOREVER);
                    let record = self.records.get_mut(key).expect("it was put");
                    (record.expires, record.lease) = ends;
                    StepResult::Added { sum }
                }
                TransactionStep::Touch { key, ttl_ms } => {
                    StepResult::Touched { existed: self.touch(at, now, key, *ttl_ms) }
                }
                TransactionStep::Get { key } => StepResult::Got(old.get(key).cloned().map(Box::new)),
                TransactionStep::Scan { from, to, limit } => {
                    let inside = old.range(from.clone()..);
                    let inside = inside.filter(|(key, _)| to.as_ref().is_none_or(|to| *key < to));
                    let inside = inside.map(|(key, record)| (key.clone(), record.clone()));
                    let mut records: Vec<_> = inside.collect();
                    let limit = (*limit).clamp(1, 1000) as usize;
                    let more = records.len() > limit;
                    records.truncate(limit);
                    StepResult::Scanned(Box::new(Scanned { records, more }))
                }
            });
        }
        Effect::Transacted { succeeded: held, results }
    }

    fn lease(&mut self, now: u64, command: LeaseCommand) -> Effect {
        let unknown = Effect::LeaseFailed(LeaseFailure::Unknown);
        match command {
            LeaseCommand::Grant { .. } if self.leases.len() == limits().fixed.max_leases => {
                Effect::LeaseFailed(LeaseFailure::TooMany)
            }
            LeaseCommand::Grant { ttl_ms } => {
                let lease = LeaseId::new(self.requests);
                self.leases.insert(lease, (ttl_ms, ends(now, ttl_ms)));
                Effect::LeaseGranted(lease)
            }
            LeaseCommand::KeepAlive { lease } => self.leases.get_mut(&lease).map_or(unknown, |found| {
                found.1 = ends(now, found.0);
                Effect::LeaseKept
            }),
            LeaseCommand::Revoke { lease } => match self.leases.remove(&lease) {
                Some(_) => Effect::LeaseRevoked { keys: self.remove_those_of(lease) },
                None => unknown,
            },
            LeaseCommand::Info { lease } => self.leases.get(&lease).map_or(unknown, |(ttl_ms, deadline)| {
                let keys = self.records.values().filter(|record| record.lease == Some(lease)).count();
                let (deadline, keys) = (Timestamp::new(*deadline), u32::try_from(keys).unwrap());
                Effect::Lease(LeaseInfo { ttl_ms: *ttl_ms, deadline, keys })
            }),
        }
    }

    fn remove_those_of(&mut self, lease: LeaseId) -> u32 {
        let before = self.records.len();
        self.records.retain(|_, record| record.lease != Some(lease));
        u32::try_from(before - self.records.len()).unwrap()
    }

    fn expire(&mut self, now: u64, due: &[Expiry]) -> Effect {
        let (mut keys, mut leases) = (0, 0);
        for expiry in due {
            match expiry {
                Expiry::Key { key, modified } => {
                    let over = |record: &Record| {
                        record.modified == *modified && record.expires.is_some_and(|at| at.get() <= now)
                    };
                    if self.records.get(key).is_some_and(over) {
                        self.records.remove(key);
                        keys += 1;
                    }
                }
                Expiry::Lease { lease } => {
                    if self.leases.get(lease).is_some_and(|(_, deadline)| *deadline <= now) {
                        self.leases.remove(lease);
                        keys += self.remove_those_of(*lease);
                        leases += 1;
                    }
                }
            }
        }
        Effect::Expired { keys, leases }
    }

    /// What should be proposed at `now`.
    pub(super) fn due(&self, now: Timestamp) -> Vec<Expiry> {
        let leases = self.leases.iter().filter(|(_, (_, deadline))| *deadline <= now.get());
        let mut leases: Vec<_> = leases.map(|(id, (_, deadline))| (*deadline, *id)).collect();
        leases.sort_unstable();
        let keys =
            self.records.iter().filter_map(|(key, record)| Some((record.expires?, key, record.modified)));
        let mut keys: Vec<_> = keys.filter(|(at, ..)| *at <= now).collect();
        keys.sort_unstable();
        let leases = leases.into_iter().map(|(_, lease)| Expiry::Lease { lease });
        leases
            .chain(keys.into_iter().map(|(_, key, modified)| Expiry::Key { key: key.clone(), modified }))
            .collect()
    }

    /// The same of a read point.
    pub(super) fn check_point(&self, point: &crate::engine::ReadView) {
        let mut scan = point.scan(b"").unwrap();
        for (key, record) in &self.records {
            let (found, stored) = scan.next().unwrap().unwrap();
            assert_eq!(found, key);
            assert_eq!(point.get(key).unwrap().as_ref(), Some(&stored));
            assert_eq!(record::decode(&stored).unwrap(), *record);
        }
        assert!(scan.next().is_none());
    }

    pub(super) fn check(&self, reader: &StateReader) {
        let expected: Vec<_> = self.records.clone().into_iter().collect();
        assert_eq!(contents(reader), expected);
    }
}

/// Makes random entries: few keys, so that they collide; all conditions; retries, sessions opened, closed and expiring;
/// keys and leases that expire, whether it is proposed rightly or not.
#[derive(Debug)]
pub(super) struct Workload {
    pub(super) rng: fastrand::Rng,
    pub(super) log: Log,
    pub(super) model: Model,
    pub(super) keys: u64,
    sessions: Vec<(SessionId, u64)>,
    earlier: Vec<Request>,
}

impl Workload {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            rng: fastrand::Rng::with_seed(seed),
            log: Log::new(),
            model: Model::default(),
            keys: 40,
            sessions: Vec::new(),
            earlier: Vec::new(),
        }
    }

    /// Other entries on top of the same log.
    pub(super) fn continued(&self, seed: u64) -> Self {
        Self { model: self.model.clone(), log: self.log.clone(), ..Self::new(seed) }
    }

    /// A lease that was granted, or perhaps not.
    fn lease(&mut self) -> LeaseId {
        let known: Vec<LeaseId> = self.model.leases.keys().copied().collect();
        let guessed = LeaseId::new(self.rng.u64(..=self.model.requests));
        if self.rng.u8(..10) == 0 { guessed } else { self.rng.choice(known).unwrap_or(guessed) }
    }

    fn life(&mut self) -> Lifetime {
        let (ttl_ms, lease) = (self.rng.u8(..4) == 0, self.rng.u8(..8) == 0);
        Lifetime { ttl_ms: ttl_ms.then(|| self.rng.u64(1..2_000)), lease: lease.then(|| self.lease()) }
    }

    fn lease_command(&mut self) -> LeaseCommand {
        match self.rng.u8(..8) {
            0..3 => LeaseCommand::Grant { ttl_ms: self.rng.u64(100..3_000) },
            3 => LeaseCommand::Revoke { lease: self.lease() },
            4 => LeaseCommand::Info { lease: self.lease() },
            _ => LeaseCommand::KeepAlive { lease: self.lease() },
        }
    }

    /// Keys that are due, not due yet, or were put again since.
    fn expiry(&mut self) -> Request {
        let now = Timestamp::new(self.log.timestamp + if self.rng.bool() { 0 } else { 500 });
        let mut due = self.model.due(now);
        for expiry in &mut due {
            if let Expiry::Key { modified, .. } = expiry
                && self.rng.u8(..8) == 0
            {
                *modified = modified.previous();
            }
        }
        Request::expiry(due)
    }

    fn command(&mut self) -> Command {
        if self.rng.u8(..12) == 0 {
            return Command::Lease(self.lease_command());
        }
        let life = self.life();
        let rng = &mut self.rng;
        let key = Bytes::from(format!("key{:04}", rng.u64(..self.keys)));
        let condition = match rng.u8(..14) {
            5 => Some(Condition::Held(self.log.next_revision.back(rng.u64(..40)))),
            4 => Some(Condition::Created(self.log.next_revision.back(rng.u64(..40)))),
            0 => Some(Condition::Absent),
            1 => Some(Condition::Present),
            2 => Some(Condition::Revision(self.log.next_revision.back(rng.u64(..40)))),
            3 => Some(Condition::Value(Bytes::from(vec![rng.u8(..3); 20]))),
            _ => None,
        };
        match rng.u8(..16) {
            0..4 => return Command::Delete { key, condition },
            6 => {
                let ttl_ms = rng.bool().then_some(life.ttl_ms).flatten();
                return Command::Touch { key, ttl_ms, condition };
            }
            4 if rng.bool() => {
                let to = rng.bool().then(|| format!("key{:04}", rng.u64(..self.keys)).into());
                return Command::DeleteRange { from: key, to, limit: rng.u32(0..6) };
            }
            4..6 => {
                let conditions = condition.into_iter().map(|condition| (key.clone(), condition)).collect();
                let put =
                    TransactionStep::Put { key: key.clone(), value: vec![rng.u8(..3); 20].into(), life };
                let counter = Bytes::from(format!("number{}", rng.u8(..3)));
                // Sometimes beyond the range of a counter.
                let by = if rng.u8(..4) == 0 { i64::MAX } else { rng.i64(-9..9) };
                let other = Bytes::from(format!("key{:04}", rng.u64(..self.keys)));
                let scan = TransactionStep::Scan { from: other.clone(), to: None, limit: rng.u32(0..6) };
                let otherwise = vec![
                    TransactionStep::Delete { key: other.clone() },
                    TransactionStep::Get { key: other.clone() },
                    scan,
                ];
                let read = TransactionStep::Get { key: if rng.bool() { key } else { other } };
                let touched = Bytes::from(format!("number{}", 3 + rng.u8(..3)));
                let touch = match rng.u8(..3) {
                    0 => TransactionStep::Put { key: touched, value: "1".into(), life },
                    _ => TransactionStep::Touch { key: touched, ttl_ms: life.ttl_ms },
                };
                let then = vec![put, TransactionStep::Add { key: counter, by }, read, touch];
                return Command::Transaction(TransactionRequest { conditions, then, otherwise });
            }
            _ => {}
        }
        let len = if rng.u8(..20) == 0 { rng.usize(..9000) } else { 20 };
        Command::Put { key, value: vec![rng.u8(..3); len].into(), condition, life }
    }

    fn request(&mut self) -> Request {
        if self.sessions.is_empty() || self.rng.u8(..60) == 0 {
            return open(self.rng.u128(..));
        }
        if self.rng.u8(..8) == 0 {
            return self.expiry();
        }
        if !self.earlier.is_empty() && self.rng.u8(..8) == 0 {
            return self.earlier[self.rng.usize(..self.earlier.len())].clone();
        }
        let at = self.rng.usize(..self.sessions.len());
        let command = Operation::Command(self.command());
        let (session, number) = &mut self.sessions[at];
        *number += 1;
        if self.rng.u8(..100) == 0 {
            return request(*session, *number, Operation::CloseSession);
        }
        request(*session, *number, command)
    }

    /// The next entry.
    pub(super) fn entry(&mut self) -> (Entry, Vec<Request>) {
        let jump = if self.rng.u8(..100) == 0 { 12_000 } else { 50 };
        self.log.timestamp += self.rng.u64(..jump);
        let count = self.rng.usize(1..10);
        let requests: Vec<Request> = (0..count).map(|_| self.request()).collect();
        (self.log.entry(&requests), requests)
    }

    /// Takes note of what became of it.
    pub(super) fn applied(&mut self, requests: &[Request], applied: &[Applied]) {
        for (request, applied) in requests.iter().zip(applied) {
            self.model.follow(request, applied);
            // None is kept, or none of this revision yet.
            if self.model.past.len() as u64 == applied.revision.get() {
                self.model.past.push(self.model.records.clone());
            }
            match &applied.result {
                Ok(Outcome { effect: Effect::SessionOpened(session), .. }) => {
                    self.sessions.push((*session, 0));
                }
                Err(Rejection::SessionExpired) => {
                    self.sessions.retain(|(session, _)| *session != request.session);
                }
                _ => {}
            }
            if self.earlier.len() < 50 {
                self.earlier.push(request.clone());
            } else {
                let at = self.rng.usize(..50);
                self.earlier[at] = request.clone();
            }
        }
    }

    /// Makes and applies an entry.
    pub(super) fn step(&mut self, state: &mut StateMachine) -> Entry {
        let (entry, requests) = self.entry();
        let applied = state.apply(&entry).unwrap();
        state.check_invariants();
        self.applied(&requests, &applied);
        entry
    }
}

#[test]
fn random_workloads_match_a_simple_map() {
    for seed in 0..20 {
        let mut state = StateMachine::in_memory(limits());
        let mut workload = Workload::new(seed);
        for _ in 0..300 {
            workload.step(&mut state);
        }
        workload.model.check(&state.reader());
        // Everything ends, and nothing is left of it.
        let now = Timestamp::new(u64::MAX >> 2);
        workload.log.timestamp = now.get();
        while !workload.model.due(now).is_empty() {
            let due = state.due(ExpiryQuery { keys: now, leases: Some(now), tick: false });
            assert_eq!(due, workload.model.due(now), "in the order of the deadlines");
            let expiry = [Request::expiry(due)];
            let applied = state.apply(&workload.log.entry(&expiry)).unwrap();
            workload.applied(&expiry, &applied);
        }
        assert_eq!(state.deadlines(), Deadlines::default());
        workload.model.check(&state.reader());
    }
}

#[test]
fn memory_holds_one_version_of_each_key_and_no_deleted_keys() {
    let limits = limits_without_history();
    let mut machine = Machine { state: StateMachine::in_memory(limits), log: Log::new() };
    let session = machine.open();
    for n in 1..2000 {
        let key = format!("key{}", n % 10);
        let request =
            if n % 20 < 10 { put(session, n, &key, "value", None) } else { delete(session, n, &key, None) };
        machine.run(&[request]);
        assert!(machine.state.memtable_bytes() < 5000, "{}", machine.state.memtable_bytes());
    }
    for n in 0..10 {
        machine.run(&[delete(session, 2000 + n, &format!("key{n}"), None)]);
    }
    machine.open();
    assert_eq!(machine.state.memtable_bytes(), 0);
}
