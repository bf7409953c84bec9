//! What a transaction does.

use super::State;
use super::record::{self, Numbers};
use crate::engine::EngineError;
use crate::ids::Revision;
use crate::message::{Effect, Step, StepFailure, StepResult, Transaction};
use bytes::Bytes;

/// A change that is to be made: the key, what was found there, and the new value.
struct Change<'a> {
    key: &'a [u8],
    found: Option<Numbers>,
    value: Option<Bytes>,
}

impl State {
    /// Runs a transaction that keeps to the limits. Nothing is written before all of it is known to be done.
    pub(super) fn run_transaction(
        &mut self,
        at: Revision,
        transaction: &Transaction,
    ) -> Result<Effect, EngineError> {
        let mut held = true;
        for (key, guard) in &transaction.guards {
            held &= self.look(key, Some(guard))?.1;
        }
        let steps = if held { &transaction.then } else { &transaction.otherwise };
        let (mut changes, mut results) = (Vec::new(), Vec::with_capacity(steps.len()));
        for (number, step) in (0..).zip(steps) {
            match self.plan(step)? {
                Ok((change, result)) => {
                    changes.push(change);
                    results.push(result);
                }
                Err(why) => {
                    #[cfg(any(test, feature = "sim"))]
                    if self.bug == Some(crate::sim::Bug::HalfATransaction) {
                        self.carry_out(at, changes);
                    }
                    return Ok(Effect::StepFailed { step: number, why });
                }
            }
        }
        self.carry_out(at, changes);
        Ok(Effect::Transacted { held, results })
    }

    fn carry_out(&mut self, at: Revision, changes: Vec<Change<'_>>) {
        for Change { key, found, value } in changes {
            self.write(at, key, found, value.as_deref());
        }
    }

    fn plan<'a>(&self, step: &'a Step) -> Result<Result<(Change<'a>, StepResult), StepFailure>, EngineError> {
        let key = &step.key()[..];
        Ok(match step {
            Step::Put { value, .. } => {
                let found = self.look(key, None)?.0;
                Ok((Change { key, found, value: Some(value.clone()) }, StepResult::Put))
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
                        let value = Some(sum.to_string().into());
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
