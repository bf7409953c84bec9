//! What the requests of an entry do.

use super::record::{self, Numbers};
use super::{REQUEST_BYTES, State};
use crate::engine::{Change, EngineError};
use crate::ids::{RequestNumber, Revision, SessionId, Timestamp};
use crate::message::{Command, Effect, Entry, Guard, Operation, Outcome, Rejection, Request};
use crate::session::{Answer, Decision};

/// What one request of an applied entry did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Applied {
    /// The request's own revision. Every request has one, also a duplicate or one that was rejected.
    pub revision: Revision,
    /// Its session; zero for one that opens a session or does not decode.
    pub session: SessionId,
    /// Its number; zero for one that opens a session or does not decode.
    pub number: RequestNumber,
    /// The nonce of a request that opened a session.
    pub nonce: Option<u128>,
    /// What every copy of it gets.
    pub result: Result<Outcome, Rejection>,
}

/// The request that runs, and when.
struct Turn {
    revision: Revision,
    timestamp: Timestamp,
}

impl Turn {
    fn outcome(&self, effect: Effect) -> Answer {
        Ok(Outcome { revision: self.revision, timestamp: self.timestamp, effect })
    }
}

impl State {
    /// Runs the requests of the next entry; the result is published by the caller.
    pub(super) fn run(&mut self, entry: &Entry) -> Result<Vec<Applied>, EngineError> {
        self.timestamp = self.timestamp.max(entry.header.timestamp);
        // Before the entry's own requests: whether a session is alive must not depend on their order.
        self.sessions.expire(self.timestamp);
        let mut applied = Vec::with_capacity(entry.header.request_count as usize);
        for bytes in entry.requests() {
            self.revision = self.revision.next();
            applied.push(self.run_request(&bytes)?);
        }
        assert_eq!(self.revision.next(), entry.header.next_revision(), "the entry was checked");
        self.applied = entry.header.anchor();
        self.engine.charge(REQUEST_BYTES * applied.len());
        Ok(applied)
    }

    fn run_request(&mut self, bytes: &[u8]) -> Result<Applied, EngineError> {
        let turn = Turn { revision: self.revision, timestamp: self.timestamp };
        let mut applied = Applied {
            revision: turn.revision,
            session: SessionId::ZERO,
            number: RequestNumber::ZERO,
            nonce: None,
            result: Err(Rejection::Invalid),
        };
        let Ok(request) = Request::decode(bytes) else { return Ok(applied) };
        if let Operation::OpenSession { nonce } = request.operation {
            if request.session == SessionId::ZERO && request.number == RequestNumber::ZERO {
                self.sessions.open(SessionId::new(turn.revision.get()), turn.timestamp);
                applied.nonce = Some(nonce);
                applied.result = turn.outcome(Effect::SessionOpened);
            }
            return Ok(applied);
        }
        (applied.session, applied.number) = (request.session, request.number);
        if request.number != RequestNumber::ZERO {
            applied.result = self.run_in_session(&turn, request)?;
        }
        Ok(applied)
    }

    fn run_in_session(&mut self, turn: &Turn, request: Request) -> Result<Answer, EngineError> {
        let Request { session, number, acked_through, operation } = request;
        let decision = self.sessions.decide(session, number, acked_through, turn.timestamp);
        #[cfg(any(test, feature = "sim"))]
        let decision = self.run_again_if_planted(decision);
        if let Decision::Answered(answer) = decision {
            return Ok(answer);
        }
        let answer = match operation {
            Operation::CloseSession => {
                self.sessions.close(session);
                turn.outcome(Effect::SessionClosed)
            }
            Operation::Command(command) => self.run_command(turn, command)?,
            // Dealt with above: it has no session.
            Operation::OpenSession { .. } => Err(Rejection::Invalid),
        };
        self.sessions.record(session, number, answer.clone());
        Ok(answer)
    }

    /// The planted bugs `DedupAtProposal` (nobody looks for duplicates here) and `ForgottenRuns`.
    #[cfg(any(test, feature = "sim"))]
    fn run_again_if_planted(&self, decision: Decision) -> Decision {
        match decision {
            Decision::Answered(Ok(_)) if self.bug == Some(crate::sim::Bug::DedupAtProposal) => Decision::Run,
            Decision::Answered(Err(Rejection::Forgotten))
                if self.bug == Some(crate::sim::Bug::ForgottenRuns) =>
            {
                Decision::Run
            }
            decision => decision,
        }
    }

    fn run_command(&mut self, turn: &Turn, command: Command) -> Result<Answer, EngineError> {
        if command.check(self.limits.sizes()).is_err() {
            return Ok(Err(Rejection::Invalid));
        }
        let (key, value, guard) = match command {
            Command::Put { key, value, guard } => (key, Some(value), guard),
            Command::Delete { key, guard } => (key, None, guard),
            Command::Transaction(transaction) => {
                return Ok(turn.outcome(self.run_transaction(turn.revision, &transaction)?));
            }
            Command::DeleteRange { from, to, limit } => {
                return Ok(turn.outcome(self.delete_range(turn.revision, &from, to.as_deref(), limit)?));
            }
        };
        let (found, holds) = self.look(&key, guard.as_ref())?;
        if !holds {
            return Ok(turn.outcome(Effect::GuardFailed { found: found.map(|found| found.modified) }));
        }
        self.write(turn.revision, &key, found, value.as_deref());
        let existed = found.is_some();
        Ok(turn.outcome(if value.is_some() { Effect::Put } else { Effect::Deleted { existed } }))
    }

    fn delete_range(
        &mut self,
        at: Revision,
        from: &[u8],
        to: Option<&[u8]>,
        limit: u32,
    ) -> Result<Effect, EngineError> {
        let limit = limit.clamp(1, Command::MAX_RANGE);
        let (mut keys, mut count, mut more) = (Vec::new(), 0, false);
        for record in self.engine.written().scan(from)? {
            let (key, _) = record?;
            if to.is_some_and(|to| &key[..] >= to) {
                break;
            }
            more = count == limit;
            if more {
                break;
            }
            keys.push(key);
            count += 1;
        }
        for key in keys {
            self.engine.write(&key, at, Change::Delete);
        }
        Ok(Effect::RangeDeleted { count, more })
    }

    /// Sets or removes a key of which `found` was found.
    pub(super) fn write(&mut self, at: Revision, key: &[u8], found: Option<Numbers>, value: Option<&[u8]>) {
        let Some(value) = value else {
            if found.is_some() {
                self.engine.write(key, at, Change::Delete);
            }
            return;
        };
        let numbers = Numbers {
            created: found.map_or(at, |found| found.created),
            modified: at,
            version: found.map_or(1, |found| found.version.saturating_add(1)),
        };
        self.engine.write(key, at, Change::Set(record::encode(numbers, value)));
    }

    /// The numbers of a key's record, and whether the guard holds.
    pub(super) fn look(
        &self,
        key: &[u8],
        guard: Option<&Guard>,
    ) -> Result<(Option<Numbers>, bool), EngineError> {
        let mut found = Ok(None);
        self.engine.newest(key, &mut |stored| {
            found = record::split(stored).map(|(numbers, value)| {
                let equal = matches!(guard, Some(Guard::Value(wanted)) if wanted == value);
                Some((numbers, equal))
            });
        })?;
        let found = found?;
        let holds = match guard {
            None => true,
            Some(Guard::Absent) => found.is_none(),
            Some(Guard::Present) => found.is_some(),
            Some(Guard::Revision(wanted)) => found.is_some_and(|(numbers, _)| numbers.modified == *wanted),
            Some(Guard::Value(_)) => found.is_some_and(|(_, equal)| equal),
        };
        Ok((found.map(|(numbers, _)| numbers), holds))
    }
}
