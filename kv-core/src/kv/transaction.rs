//! How a transaction is run.

use super::StateMachine;
use super::apply::ExecContext;
use super::lifetimes::KeyDeadline;
use super::record::{self, Numbers};
use crate::engine::{EngineError, Keys};
use crate::ids::LeaseId;
use crate::message::{
    Command, Condition, Effect, LeaseFailure, Lifetime, Record, Scanned, StepFailure, StepResult,
    TransactionRequest, TransactionStep,
};
use bytes::Bytes;
use std::collections::BTreeMap;

/// A change to be made: the key, its present record, and the new value.
struct PlannedChange<'a> {
    key: &'a [u8],
    found: Option<Numbers>,
    value: Option<(Bytes, KeyDeadline)>,
}

/// A step that has been planned, before anything is done.
struct PlannedStep<'a> {
    change: Option<PlannedChange<'a>>,
    result: StepResult,
    /// What the step reads and writes again.
    rewritten: usize,
}

/// A planned step, or why it fails.
type StepPlan<'a> = Result<PlannedStep<'a>, StepFailure>;

/// How much a transaction may still return or rewrite.
struct Room {
    own: usize,
    /// The limit of its entry.
    shared: usize,
    max: usize,
}

impl Room {
    /// Checks whether this much more may be returned.
    fn fits(&self, weight: usize) -> Result<(), StepFailure> {
        if weight > self.own {
            Err(StepFailure::ResponseTooLarge { max: self.max as u64 })
        } else if weight > self.shared {
            Err(StepFailure::Busy)
        } else {
            Ok(())
        }
    }

    fn of(context: &ExecContext, max: usize) -> Self {
        Self { own: max, shared: context.room, max }
    }

    fn take(&mut self, weight: usize) -> Result<(), StepFailure> {
        self.fits(weight)?;
        self.own -= weight;
        self.shared -= weight;
        Ok(())
    }
}

impl StateMachine {
    /// Runs a transaction within the limits. Nothing is written before it is certain that all of it succeeds.
    pub(super) fn run_transaction(
        &mut self,
        context: &ExecContext,
        transaction: &TransactionRequest,
    ) -> Result<Effect, EngineError> {
        let mut held = true;
        for (key, condition) in &transaction.conditions {
            let (found, holds) = self.read_meta(key, Some(condition))?;
            // Nothing that only a lock's holder may do is done, whatever other conditions hold (rule X5).
            if !holds && matches!(condition, Condition::Held(_)) {
                return Ok(Effect::ConditionFailed { found: found.map(|found| found.modified) });
            }
            held &= holds;
        }
        let steps = if held { &transaction.then } else { &transaction.otherwise };
        let (mut changes, mut results) = (Vec::new(), Vec::with_capacity(steps.len()));
        let mut joining = BTreeMap::new();
        let mut room = Room::of(context, self.limits.sizes().returned_bytes());
        let mut rewritten = 0;
        for (number, step) in (0..).zip(steps) {
            let planned = self.plan(context, step, &room)?;
            match planned.and_then(|planned| {
                room.take(planned.result.weight() + planned.rewritten)?;
                self.join(planned.change.as_ref(), &mut joining).map_err(StepFailure::Lease)?;
                Ok(planned)
            }) {
                Ok(PlannedStep { change, result, rewritten: bytes }) => {
                    rewritten += bytes;
                    changes.extend(change);
                    results.push(result);
                }
                Err(why) => {
                    return Ok(Effect::StepFailed { step: number, why });
                }
            }
        }
        context.rewritten.set(rewritten);
        self.carry_out(context, changes);
        Ok(Effect::Transacted { succeeded: held, results })
    }

    /// Replaces the time to live of a key.
    pub(super) fn run_touch(
        &mut self,
        context: &ExecContext,
        key: &[u8],
        ttl_ms: Option<u64>,
        condition: Option<&Condition>,
    ) -> Result<Effect, EngineError> {
        let (found, holds) = self.read_meta(key, condition)?;
        if !holds {
            return Ok(Effect::ConditionFailed { found: found.map(|found| found.modified) });
        }
        let room = Room::of(context, self.limits.sizes().returned_bytes());
        Ok(match self.plan_touch(context, key, ttl_ms, &room)? {
            Ok(PlannedStep { change, rewritten, result: _ }) => {
                context.rewritten.set(rewritten);
                self.carry_out(context, change.into_iter().collect());
                Effect::Touched { existed: found.is_some() }
            }
            Err(why) => Effect::StepFailed { step: 0, why },
        })
    }

    /// A value in the state is stored together with its deadline, so both are written again. That counts as much as a
    /// get, although no value is returned: without a limit, a small request could write as much as a thousand values.
    fn plan_touch<'a>(
        &self,
        context: &ExecContext,
        key: &'a [u8],
        ttl_ms: Option<u64>,
        room: &Room,
    ) -> Result<StepPlan<'a>, EngineError> {
        let mut found = Ok(Ok(None));
        self.engine.newest(key, &mut |stored| {
            found = record::split(stored).map(|(numbers, value)| {
                room.fits(StepResult::rewritten_weight(value.len()))?;
                Ok(Some((numbers, Bytes::copy_from_slice(value))))
            });
        })?;
        Ok(found?.map(|found| {
            let result = StepResult::Touched { existed: found.is_some() };
            let Some((numbers, value)) = found else {
                return PlannedStep { change: None, result, rewritten: 0 };
            };
            let rewritten = StepResult::rewritten_weight(value.len());
            let at = KeyDeadline::of(Lifetime { ttl_ms, lease: None }, context.timestamp).at;
            let value = Some((value, KeyDeadline { at, with: numbers.ends.with }));
            PlannedStep {
                change: Some(PlannedChange { key, found: Some(numbers), value }),
                result,
                rewritten,
            }
        }))
    }

    fn carry_out(&mut self, context: &ExecContext, changes: Vec<PlannedChange<'_>>) {
        for PlannedChange { key, found, value } in changes {
            let value = value.as_ref().map(|(value, ends)| (&value[..], *ends));
            self.write(context.revision, key, found, value);
        }
    }

    /// Checks whether the lease of a change can take its key in addition to those that are `joining` it in the same
    /// transaction.
    fn join(
        &self,
        change: Option<&PlannedChange<'_>>,
        joining: &mut BTreeMap<LeaseId, usize>,
    ) -> Result<(), LeaseFailure> {
        let Some(change) = change else { return Ok(()) };
        let was = change.found.and_then(|found| found.ends.with);
        match change.value.as_ref().and_then(|(_, ends)| ends.with) {
            Some(lease) if was != Some(lease) => {
                let count = joining.entry(lease).or_default();
                *count += 1;
                self.lifetimes.takes(lease, *count)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Plans a step. A step that reads stops when there is no more room, without copying what does not fit.
    fn plan<'a>(
        &self,
        context: &ExecContext,
        step: &'a TransactionStep,
        room: &Room,
    ) -> Result<StepPlan<'a>, EngineError> {
        let change = |key, found, value, result| {
            Ok(PlannedStep { change: Some(PlannedChange { key, found, value }), result, rewritten: 0 })
        };
        Ok(match step {
            TransactionStep::Put { key, value, life } => {
                let found = self.read_meta(key, None)?.0;
                let value = Some((value.clone(), KeyDeadline::of(*life, context.timestamp)));
                change(key, found, value, StepResult::Put)
            }
            TransactionStep::Delete { key } => {
                let found = self.read_meta(key, None)?.0;
                change(key, found, None, StepResult::Deleted { existed: found.is_some() })
            }
            TransactionStep::Add { key, by } => {
                let (found, number) = self.number(key)?;
                // A sum that does not fit is a failure of the step: wrapping around would be a silent wrong result.
                match number.map(|number| number.checked_add(*by)) {
                    None => Err(StepFailure::NotANumber),
                    Some(None) => Err(StepFailure::OutOfRange),
                    Some(Some(sum)) => {
                        let ends = found.map(|found| found.ends).unwrap_or_default();
                        let value = Some((sum.to_string().into(), ends));
                        change(key, found, value, StepResult::Added { sum })
                    }
                }
            }
            TransactionStep::Get { key } => {
                let found = self.fetch(key, room)?;
                found.map(|found| PlannedStep {
                    change: None,
                    result: StepResult::Got(found.map(Box::new)),
                    rewritten: 0,
                })
            }
            TransactionStep::Scan { from, to, limit } => {
                let result = StepResult::Scanned(Box::new(self.range(
                    from,
                    to.as_deref(),
                    *limit,
                    room.own.min(room.shared),
                )?));
                Ok(PlannedStep { change: None, result, rewritten: 0 })
            }
            TransactionStep::Touch { key, ttl_ms } => self.plan_touch(context, key, *ttl_ms, room)?,
        })
    }

    /// The record of a key, with a copy of the value, if that fits.
    fn fetch(&self, key: &[u8], room: &Room) -> Result<Result<Option<Record>, StepFailure>, EngineError> {
        let mut found = Ok(Ok(None));
        self.engine.newest(key, &mut |stored| {
            found = record::split(stored).and_then(|(_, value)| match room.fits(value.len()) {
                Ok(()) => record::decode(&Bytes::copy_from_slice(stored)).map(|record| Ok(Some(record))),
                Err(why) => Ok(Err(why)),
            });
        })?;
        found
    }

    /// The first records of a range: at most `limit`, and at most one beyond `room` bytes.
    fn range(&self, from: &[u8], to: Option<&[u8]>, limit: u32, room: usize) -> Result<Scanned, EngineError> {
        let limit = limit.clamp(1, Command::MAX_RANGE) as usize;
        let mut scanned = Scanned { records: Vec::new(), more: false };
        let mut bytes = 0;
        let written = self.engine.written();
        for record in written.scan_at(Keys { from, to, reverse: false }, written.revision())? {
            let (key, stored) = record?;
            scanned.more = scanned.records.len() == limit;
            if scanned.more || bytes > room {
                break;
            }
            let record = record::decode(&stored)?;
            bytes += StepResult::record_weight(&key, &record);
            scanned.records.push((key, record));
        }
        Ok(scanned)
    }

    /// The number in a key's value, 0 if the key does not exist; `None` if the value is not a number.
    fn number(&self, key: &[u8]) -> Result<(Option<Numbers>, Option<i64>), EngineError> {
        let mut found = Ok((None, Some(0)));
        self.engine.newest(key, &mut |stored| {
            found = record::split(stored).map(|(numbers, value)| {
                (Some(numbers), std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()))
            });
        })?;
        found
    }
}
