//! How the requests of an entry are run.

use super::lifetimes::KeyDeadline;
use super::record::{self, Numbers};
use super::{REQUEST_BYTES, StateMachine};
use crate::engine::{EngineError, KeyChange, Keys};
use crate::ids::{LeaseId, RequestNumber, Revision, SessionId, Timestamp};
use crate::message::{
    Command, Condition, Effect, Entry, Expiry, LeaseCommand, LeaseFailure, Operation, Outcome, Rejection,
    Request,
};
use crate::session::{DuplicateCheck, RequestResult};
use std::cell::Cell;

/// The result of one request of an applied entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Applied {
    /// The request's own revision, or the last one, if it takes any (rule N8). Duplicates and rejected requests take
    /// one too. Otherwise the last revision before it.
    pub revision: Revision,
    /// Its session; zero if it opens a session, was proposed by the primary itself, or cannot be decoded.
    pub session: SessionId,
    /// Its number; zero if the session is.
    pub number: RequestNumber,
    /// The nonce of a request that opened a session.
    pub nonce: Option<u128>,
    /// The result that every copy of the request gets.
    pub result: Result<Outcome, Rejection>,
}

impl Applied {
    /// Returns whether it has removed what had expired.
    #[must_use]
    pub fn is_expiry(&self) -> bool {
        matches!(&self.result, Ok(Outcome { effect: Effect::Expired { .. }, .. }))
    }
}

/// How many bytes of values one request may remove with a range of keys (and one value beyond that). The engine reads
/// the values although they are not returned. Equal on all members, because it decides what a request does.
const RANGE_BYTES: usize = if cfg!(test) { 1 << 20 } else { 16 << 20 };

/// How many bytes the requests of one entry may return and rewrite together: they are all in memory at once.
const RETURNED_BYTES: usize = 16 << 20;

/// The context of the running request.
pub(super) struct ExecContext {
    /// Its number in the log. What it creates is named by it.
    pub(super) request: u64,
    /// Its own revision, or the last one before it.
    pub(super) revision: Revision,
    pub(super) timestamp: Timestamp,
    /// How much it may still return or rewrite, together with the others of its entry.
    pub(super) room: usize,
    /// How much it has read and written again.
    pub(super) rewritten: Cell<usize>,
}

impl ExecContext {
    fn outcome(&self, effect: Effect) -> RequestResult {
        Ok(Outcome { revision: self.revision, timestamp: self.timestamp, effect })
    }
}

impl StateMachine {
    /// Runs the requests of the next entry. The caller publishes the result.
    pub(super) fn run(&mut self, entry: &Entry) -> Result<Vec<Applied>, EngineError> {
        self.timestamp = self.timestamp.max(entry.header.timestamp);
        // Before the requests of the entry: whether a session is alive must not depend on their order.
        self.sessions.expire(self.timestamp);
        let mut applied = Vec::with_capacity(entry.header.requests() as usize);
        let mut room = RETURNED_BYTES;
        for bytes in entry.requests() {
            let taken = Request::revisions(&bytes, self.revision);
            self.revision = self.revision.advance(taken);
            // A request that cannot be decoded counts too: sessions and leases are named by this number, on all members
            // alike. A skip counts as often as it takes revisions, whatever its result: where the content of another
            // cluster is restored, a client of that cluster must not find its id in use by somebody else.
            self.requests += taken.max(1);
            let (request, revision, timestamp) = (self.requests, self.revision, self.timestamp);
            let context = ExecContext { request, revision, timestamp, room, rewritten: Cell::new(0) };
            let done = self.run_request(&context, &bytes)?;
            let returned = done.result.as_ref().map_or(0, |outcome| outcome.effect.weight());
            room = room.saturating_sub(returned + context.rewritten.get());
            applied.push(done);
        }
        assert_eq!(self.revision.next(), entry.header.next_revision(), "the entry was checked");
        if let Some(configuration) = entry.next_configuration() {
            self.configuration = Some(configuration);
        }
        self.applied = entry.header.anchor();
        self.engine.charge(REQUEST_BYTES * applied.len());
        Ok(applied)
    }

    fn run_request(&mut self, context: &ExecContext, bytes: &[u8]) -> Result<Applied, EngineError> {
        let mut applied = Applied {
            revision: context.revision,
            session: SessionId::ZERO,
            number: RequestNumber::ZERO,
            nonce: None,
            result: Err(Rejection::Invalid),
        };
        // No member can decode it, so all of them reject it at the same place. It is no failure of this member.
        let Ok(request) = Request::decode(bytes) else { return Ok(applied) };
        if let Operation::OpenSession { nonce } = request.operation {
            if request.session == SessionId::ZERO && request.number == RequestNumber::ZERO {
                let session = SessionId::new(context.request);
                self.sessions.open(session, context.timestamp);
                applied.nonce = Some(nonce);
                applied.result = context.outcome(Effect::SessionOpened(session));
            }
            return Ok(applied);
        }
        if let Operation::Expire(due) = request.operation {
            if request.session == SessionId::ZERO && request.number == RequestNumber::ZERO {
                applied.result = context.outcome(self.expire(context, due)?);
            }
            return Ok(applied);
        }
        if let Operation::Reconfigure(next) = request.operation {
            // It is the only request of a stop, which was checked when it was read.
            applied.nonce = Some(next.nonce);
            applied.result = context.outcome(Effect::EpochBegan { epoch: next.epoch });
            return Ok(applied);
        }
        (applied.session, applied.number) = (request.session, request.number);
        if request.number != RequestNumber::ZERO {
            applied.result = self.run_in_session(context, request)?;
        }
        Ok(applied)
    }

    fn run_in_session(
        &mut self,
        context: &ExecContext,
        request: Request,
    ) -> Result<RequestResult, EngineError> {
        let Request { session, number, acked_through, operation } = request;
        let decision = self.sessions.decide(session, number, acked_through, context.timestamp);
        if let DuplicateCheck::Answered(answer) = decision {
            return Ok(answer);
        }
        let answer = match operation {
            Operation::CloseSession => {
                self.sessions.close(session);
                context.outcome(Effect::SessionClosed)
            }
            Operation::Command(command) => self.run_command(context, command)?,
            // Handled above: they have no session.
            Operation::OpenSession { .. } | Operation::Expire(_) | Operation::Reconfigure(_) => {
                Err(Rejection::Invalid)
            }
        };
        // Whatever the result is: a retry must get the same one.
        self.sessions.record(session, number, answer.clone());
        Ok(answer)
    }

    fn run_command(&mut self, context: &ExecContext, command: Command) -> Result<RequestResult, EngineError> {
        if command.check(self.limits.sizes()).is_err() {
            return Ok(Err(Rejection::Invalid));
        }
        let (key, value, condition) = match command {
            Command::Put { key, value, condition, life } => {
                (key, Some((value, KeyDeadline::of(life, context.timestamp))), condition)
            }
            Command::Delete { key, condition } => (key, None, condition),
            Command::Transaction(transaction) => {
                return Ok(context.outcome(self.run_transaction(context, &transaction)?));
            }
            Command::DeleteRange { from, to, limit } => {
                return Ok(context.outcome(self.delete_range(
                    context.revision,
                    &from,
                    to.as_deref(),
                    limit,
                )?));
            }
            Command::Lease(command) => return Ok(context.outcome(self.run_lease(context, command)?)),
            Command::SkipRevisions { to: _ } => {
                // The revisions are taken already, by the bytes of the request.
                let kept = self.limits.fixed.history_revisions;
                return Ok(context.outcome(Effect::RevisionsSkipped { kept }));
            }
            Command::Touch { key, ttl_ms, condition } => {
                return Ok(context.outcome(self.run_touch(context, &key, ttl_ms, condition.as_ref())?));
            }
        };
        let (found, holds) = self.read_meta(&key, condition.as_ref())?;
        if !holds {
            return Ok(context.outcome(Effect::ConditionFailed { found: found.map(|found| found.modified) }));
        }
        if let Some(lease) = value.as_ref().and_then(|(_, ends)| ends.with)
            && found.and_then(|found| found.ends.with) != Some(lease)
            && let Err(why) = self.lifetimes.takes(lease, 1)
        {
            return Ok(context.outcome(Effect::LeaseFailed(why)));
        }
        self.write(context.revision, &key, found, value.as_ref().map(|(value, ends)| (&value[..], *ends)));
        let existed = found.is_some();
        Ok(context.outcome(if value.is_some() { Effect::Put } else { Effect::Deleted { existed } }))
    }

    fn delete_range(
        &mut self,
        at: Revision,
        from: &[u8],
        to: Option<&[u8]>,
        limit: u32,
    ) -> Result<Effect, EngineError> {
        // Clamped here and not refused: what is in the log is run, and every member clamps alike.
        let limit = limit.clamp(1, Command::MAX_RANGE);
        let (mut keys, mut count, mut more, mut bytes) = (Vec::new(), 0, false, 0);
        let written = self.engine.written();
        // The values are not copied. Where it ends depends only on the data, so it is the same on all members.
        let mut scan = written.scan_at(Keys { from, to, reverse: false }, written.revision())?.heads();
        while let Some((key, head)) = scan.next().transpose()? {
            more = count == limit || bytes >= RANGE_BYTES;
            if more {
                break;
            }
            let numbers = Numbers { stored: scan.value_bytes(), ..record::split(&head)?.0 };
            bytes += numbers.stored;
            keys.push((key, numbers));
            count += 1;
        }
        drop(scan);
        // After the scan: a scan of what is being written must not see its own removals.
        for (key, found) in keys {
            self.remove(at, &key, found, KeyChange::Delete);
        }
        Ok(Effect::RangeDeleted { count, more })
    }

    fn run_lease(&mut self, context: &ExecContext, command: LeaseCommand) -> Result<Effect, EngineError> {
        let done = match command {
            LeaseCommand::Grant { ttl_ms } => {
                let lease = LeaseId::new(context.request);
                self.lifetimes.grant(lease, ttl_ms, context.timestamp).map(|()| Effect::LeaseGranted(lease))
            }
            LeaseCommand::KeepAlive { lease } => {
                self.lifetimes.keep_alive(lease, context.timestamp).map(|()| Effect::LeaseKept)
            }
            LeaseCommand::Revoke { lease } => {
                match self.end_lease(context.revision, lease, KeyChange::Delete)? {
                    Some(keys) => Ok(Effect::LeaseRevoked { keys }),
                    None => Err(LeaseFailure::Unknown),
                }
            }
            LeaseCommand::Info { lease } => self.lifetimes.info(lease).map(Effect::Lease),
        };
        Ok(done.unwrap_or_else(Effect::LeaseFailed))
    }

    /// Rule X2: removes what has not changed since it was proposed, and is due by the stamp of this entry.
    fn expire(&mut self, context: &ExecContext, due: Vec<Expiry>) -> Result<Effect, EngineError> {
        let (mut keys, mut leases) = (0, 0);
        for expiry in due {
            match expiry {
                Expiry::Key { key, modified } => {
                    let Some(found) = self.read_meta(&key, None)?.0 else { continue };
                    // The primary found it due some time ago. A write since then may have given it another deadline, or
                    // none.
                    let is_it = found.modified == modified;
                    let is_due = found.ends.at.is_some_and(|at| at <= context.timestamp);
                    if is_it && is_due {
                        self.remove(context.revision, &key, found, KeyChange::Expire);
                        keys += 1;
                    }
                }
                Expiry::Lease { lease } => {
                    if self.lifetimes.deadline(lease).is_some_and(|at| at <= context.timestamp)
                        && let Some(count) = self.end_lease(context.revision, lease, KeyChange::Expire)?
                    {
                        (keys, leases) = (keys + count, leases + 1);
                    }
                }
            }
        }
        Ok(Effect::Expired { keys, leases })
    }

    /// Removes a lease with its keys, and returns their number.
    fn end_lease(
        &mut self,
        at: Revision,
        lease: LeaseId,
        how: KeyChange,
    ) -> Result<Option<u32>, EngineError> {
        let Some(keys) = self.lifetimes.end(lease) else { return Ok(None) };
        for key in &keys {
            if let Some(found) = self.read_meta(key, None)?.0 {
                self.remove(at, key, found, how.clone());
            }
        }
        Ok(Some(u32::try_from(keys.len()).unwrap_or(u32::MAX)))
    }

    /// Sets or removes a key. `found` is its present record.
    pub(super) fn write(
        &mut self,
        at: Revision,
        key: &[u8],
        found: Option<Numbers>,
        value: Option<(&[u8], KeyDeadline)>,
    ) {
        let Some((value, ends)) = value else {
            if let Some(found) = found {
                self.remove(at, key, found, KeyChange::Delete);
            }
            return;
        };
        let was = found.map(|found| found.ends).unwrap_or_default();
        self.lifetimes.moved(key, was, ends, Some(at));
        let numbers = Numbers {
            created: found.map_or(at, |found| found.created),
            modified: at,
            version: found.map_or(1, |found| found.version.saturating_add(1)),
            ends,
            stored: 0,
        };
        let former = found.map(|found| found.stored);
        self.engine.write(key, at, KeyChange::Set(record::encode(numbers, value)), former);
    }

    /// Removes an existing key.
    fn remove(&mut self, at: Revision, key: &[u8], found: Numbers, how: KeyChange) {
        self.lifetimes.moved(key, found.ends, KeyDeadline::default(), None);
        self.engine.write(key, at, how, Some(found.stored));
    }

    /// Returns the numbers of a key's record, and whether the condition holds.
    pub(super) fn read_meta(
        &self,
        key: &[u8],
        condition: Option<&Condition>,
    ) -> Result<(Option<Numbers>, bool), EngineError> {
        let mut found = Ok(None);
        self.engine.newest(key, &mut |stored| {
            found = record::split(stored).map(|(numbers, value)| {
                let equal = matches!(condition, Some(Condition::Value(wanted)) if wanted == value);
                Some((numbers, equal))
            });
        })?;
        let found = found?;
        let holds = match condition {
            None => true,
            Some(Condition::Absent) => found.is_none(),
            Some(Condition::Present) => found.is_some(),
            Some(Condition::Revision(wanted)) => {
                found.is_some_and(|(numbers, _)| numbers.modified == *wanted)
            }
            Some(Condition::Created(wanted) | Condition::Held(wanted)) => {
                found.is_some_and(|(numbers, _)| numbers.created == *wanted)
            }
            Some(Condition::Value(_)) => found.is_some_and(|(_, equal)| equal),
        };
        Ok((found.map(|(numbers, _)| numbers), holds))
    }
}
