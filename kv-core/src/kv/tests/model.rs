//! The state against a model of a few lines, and random workloads for the other tests.

use super::*;
use crate::message::{Step, StepFailure, StepResult, Transaction};
use std::collections::BTreeMap;

/// What the data should be.
#[derive(Clone, Default, Debug)]
pub(super) struct Model {
    pub(super) records: Records,
    /// What the data was at each revision, from zero on: empty if nobody wants to know.
    pub(super) past: Vec<Records>,
}

/// Keys with value, created, modified and version.
pub(super) type Records = BTreeMap<Bytes, (Bytes, u64, u64, u64)>;

impl Model {
    /// Follows what the state says it did; checks that guards failed or held as they should.
    fn follow(&mut self, request: &Request, applied: &Applied) {
        let Operation::Command(command) = &request.operation else { return };
        let Ok(outcome) = &applied.result else { return };
        if outcome.revision != applied.revision {
            return;
        }
        let at = outcome.revision.get();
        let (key, guard) = match command {
            Command::Put { key, guard, .. } | Command::Delete { key, guard } => (key, guard.as_ref()),
            Command::DeleteRange { from, to, limit } => {
                let inside = self.records.range(from.clone()..).map(|(key, _)| key.clone());
                let inside: Vec<Bytes> =
                    inside.take_while(|key| to.as_ref().is_none_or(|to| key < to)).collect();
                let mut count = 0;
                for key in inside.iter().take((*limit).clamp(1, 1000) as usize) {
                    self.records.remove(key);
                    count += 1;
                }
                let expected = Effect::RangeDeleted { count, more: inside.len() > count as usize };
                assert_eq!(outcome.effect, expected, "{command:?}");
                return;
            }
            Command::Transaction(transaction) => {
                assert_eq!(outcome.effect, self.transact(at, transaction), "{command:?}");
                return;
            }
        };
        let expected = match (guard.is_none_or(|guard| self.holds(key, guard)), command) {
            (true, Command::Put { value, .. }) => {
                self.put(at, key, value);
                Effect::Put
            }
            (true, _) => Effect::Deleted { existed: self.records.remove(key).is_some() },
            (false, _) => {
                let found = self.records.get(key);
                Effect::GuardFailed { found: found.map(|found| Revision::new(found.2)) }
            }
        };
        assert_eq!(outcome.effect, expected, "{command:?}");
    }

    fn holds(&self, key: &Bytes, guard: &Guard) -> bool {
        let found = self.records.get(key);
        match guard {
            Guard::Absent => found.is_none(),
            Guard::Present => found.is_some(),
            Guard::Revision(revision) => found.is_some_and(|found| found.2 == revision.get()),
            Guard::Value(value) => found.is_some_and(|found| found.0 == value[..]),
        }
    }

    fn put(&mut self, at: u64, key: &Bytes, value: &Bytes) {
        let (created, version) = self.records.get(key).map_or((at, 0), |found| (found.1, found.3));
        self.records.insert(key.clone(), (value.clone(), created, at, version + 1));
    }

    fn transact(&mut self, at: u64, transaction: &Transaction) -> Effect {
        let held = transaction.guards.iter().all(|(key, guard)| self.holds(key, guard));
        let steps = if held { &transaction.then } else { &transaction.otherwise };
        let old = self.records.clone();
        let mut results = Vec::new();
        for (number, step) in (0..).zip(steps) {
            results.push(match step {
                Step::Put { key, value } => {
                    self.put(at, key, value);
                    StepResult::Put
                }
                Step::Delete { key } => StepResult::Deleted { existed: self.records.remove(key).is_some() },
                Step::Add { key, by } => {
                    let text = old.get(key).map_or("0".into(), |found| String::from_utf8_lossy(&found.0));
                    let Ok(number_there) = text.parse::<i64>() else {
                        self.records = old;
                        return Effect::StepFailed { step: number, why: StepFailure::NotANumber };
                    };
                    let Some(sum) = number_there.checked_add(*by) else {
                        self.records = old;
                        return Effect::StepFailed { step: number, why: StepFailure::OutOfRange };
                    };
                    self.put(at, key, &sum.to_string().into());
                    StepResult::Added { sum }
                }
            });
        }
        Effect::Transacted { held, results }
    }

    /// The same of a read point.
    pub(super) fn check_point(&self, point: &crate::engine::Point) {
        let mut scan = point.scan(b"").unwrap();
        for (key, (value, created, modified, version)) in &self.records {
            let (found, stored) = scan.next().unwrap().unwrap();
            assert_eq!(found, key);
            assert_eq!(point.get(key).unwrap().as_ref(), Some(&stored));
            let record = record::decode(&stored).unwrap();
            assert_eq!((record.value, record.created.get()), (value.clone(), *created));
            assert_eq!((record.modified.get(), record.version), (*modified, *version));
        }
        assert!(scan.next().is_none());
    }

    pub(super) fn check(&self, reader: &StateReader) {
        let expected: Vec<_> = self
            .records
            .iter()
            .map(|(key, (value, created, modified, version))| {
                (key.clone(), value.to_vec(), *created, *modified, *version)
            })
            .collect();
        assert_eq!(contents(reader), expected);
    }
}

/// Makes random entries: few keys, so that they collide; all guards; retries, sessions opened, closed and expiring.
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

    fn command(&mut self) -> Command {
        let rng = &mut self.rng;
        let key = Bytes::from(format!("key{:04}", rng.u64(..self.keys)));
        let guard = match rng.u8(..12) {
            0 => Some(Guard::Absent),
            1 => Some(Guard::Present),
            2 => Some(Guard::Revision(self.log.next_revision.back(rng.u64(..40)))),
            3 => Some(Guard::Value(Bytes::from(vec![rng.u8(..3); 20]))),
            _ => None,
        };
        match rng.u8(..16) {
            0..4 => return Command::Delete { key, guard },
            4 if rng.bool() => {
                let to = rng.bool().then(|| format!("key{:04}", rng.u64(..self.keys)).into());
                return Command::DeleteRange { from: key, to, limit: rng.u32(0..6) };
            }
            4..6 => {
                let guards = guard.into_iter().map(|guard| (key.clone(), guard)).collect();
                let put = Step::Put { key, value: vec![rng.u8(..3); 20].into() };
                let counter = Bytes::from(format!("number{}", rng.u8(..3)));
                // Now and then beyond what a counter holds.
                let by = if rng.u8(..4) == 0 { i64::MAX } else { rng.i64(-9..9) };
                let otherwise = vec![Step::Delete { key: format!("key{:04}", rng.u64(..self.keys)).into() }];
                let then = vec![put, Step::Add { key: counter, by }];
                return Command::Transaction(Transaction { guards, then, otherwise });
            }
            _ => {}
        }
        let len = if rng.u8(..20) == 0 { rng.usize(..9000) } else { 20 };
        Command::Put { key, value: vec![rng.u8(..3); len].into(), guard }
    }

    fn request(&mut self) -> Request {
        if self.sessions.is_empty() || self.rng.u8(..60) == 0 {
            return open(self.rng.u128(..));
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
            if !self.model.past.is_empty() {
                self.model.past.push(self.model.records.clone());
            }
            match &applied.result {
                Ok(Outcome { effect: Effect::SessionOpened, revision, .. }) => {
                    self.sessions.push((SessionId::new(revision.get()), 0));
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
    pub(super) fn step(&mut self, state: &mut State) -> Entry {
        let (entry, requests) = self.entry();
        let applied = state.apply(&entry).unwrap();
        state.check_invariants();
        self.applied(&requests, &applied);
        entry
    }
}

#[test]
fn random_workloads_leave_what_a_simple_map_would_hold() {
    for seed in 0..20 {
        let mut state = State::in_memory(limits());
        let mut workload = Workload::new(seed);
        for _ in 0..300 {
            workload.step(&mut state);
        }
        workload.model.check(&state.reader());
    }
}

#[test]
fn memory_holds_one_version_of_each_key_and_nothing_of_deleted_ones() {
    let limits = Limits { history_revisions: 0, ..limits() };
    let mut machine = Machine { state: State::in_memory(limits), log: Log::new() };
    let session = machine.open();
    for n in 1..2000 {
        let key = format!("key{}", n % 10);
        let request =
            if n % 20 < 10 { put(session, n, &key, "value", None) } else { delete(session, n, &key, None) };
        machine.run(&[request]);
        assert!(machine.state.overlay_bytes() < 5000, "{}", machine.state.overlay_bytes());
    }
    for n in 0..10 {
        machine.run(&[delete(session, 2000 + n, &format!("key{n}"), None)]);
    }
    machine.open();
    assert_eq!(machine.state.overlay_bytes(), 0);
}
