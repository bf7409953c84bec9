//! What a transaction does.

use super::State;
use super::apply::Turn;
use super::lifetimes::Ends;
use super::record::{self, Numbers};
use crate::engine::EngineError;
use crate::ids::LeaseId;
use crate::message::{Effect, LeaseFailure, Step, StepFailure, StepResult, Transaction};
use bytes::Bytes;
use std::collections::BTreeMap;

/// A change that is to be made: the key, what was found there, and the new value.
struct Change<'a> {
    key: &'a [u8],
    found: Option<Numbers>,
    value: Option<(Bytes, Ends)>,
}

impl State {
    /// Runs a transaction that keeps to the limits. Nothing is written before all of it is known to be done.
    pub(super) fn run_transaction(
        &mut self,
        turn: &Turn,
        transaction: &Transaction,
    ) -> Result<Effect, EngineError> {
        let mut held = true;
        for (key, guard) in &transaction.guards {
            held &= self.look(key, Some(guard))?.1;
        }
        let steps = if held { &transaction.then } else { &transaction.otherwise };
        let (mut changes, mut results) = (Vec::new(), Vec::with_capacity(steps.len()));
        let mut joining = BTreeMap::new();
        for (number, step) in (0..).zip(steps) {
            let planned = self.plan(turn, step)?;
            match planned.and_then(|(change, result)| {
                self.join(&change, &mut joining).map_err(StepFailure::Lease)?;
                Ok((change, result))
            }) {
                Ok((change, result)) => {
                    changes.push(change);
                    results.push(result);
                }
                Err(why) => {
                    #[cfg(any(test, feature = "sim"))]
                    if self.bug == Some(crate::sim::Bug::HalfATransaction) {
                        self.carry_out(turn, changes);
                    }
                    return Ok(Effect::StepFailed { step: number, why });
                }
            }
        }
        self.carry_out(turn, changes);
        Ok(Effect::Transacted { held, results })
    }

    fn carry_out(&mut self, turn: &Turn, changes: Vec<Change<'_>>) {
        for Change { key, found, value } in changes {
            let value = value.as_ref().map(|(value, ends)| (&value[..], *ends));
            self.write(turn.revision, key, found, value);
        }
    }

    /// Whether the lease of a change takes its key beside those that are `joining` it in the same transaction.
    fn join(&self, change: &Change<'_>, joining: &mut BTreeMap<LeaseId, usize>) -> Result<(), LeaseFailure> {
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

    fn plan<'a>(
        &self,
        turn: &Turn,
        step: &'a Step,
    ) -> Result<Result<(Change<'a>, StepResult), StepFailure>, EngineError> {
        let key = &step.key()[..];
        Ok(match step {
            Step::Put { value, life, .. } => {
                let found = self.look(key, None)?.0;
                let value = Some((value.clone(), Ends::of(*life, turn.timestamp)));
                Ok((Change { key, found, value }, StepResult::Put))
            }
            Step::Delete { .. } => {
                let found = self.look(key, None)?.0;
                Ok((Change { key, found, value: None }, StepResult::Deleted { existed: found.is_some() }))
            }
            Step::Add { by, .. } => {
                let (found, number) = self.number(key)?;
                match number.map(|number| number.checked_add(*by)) {
                    None => Err(StepFailure::NotANumber),
                    Some(None) => Err(StepFailure::OutOfRange),
                    Some(Some(sum)) => {
                        let ends = found.map(|found| found.ends).unwrap_or_default();
                        let value = Some((sum.to_string().into(), ends));
                        Ok((Change { key, found, value }, StepResult::Added { sum }))
                    }
                }
            }
        })
    }

    /// The number that a key holds, 0 if it does not exist; `None` if it holds something else.
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
