//! Linearizability by replay. The committed log is applied, in the order of revisions, to the model. Every answer that
//! a client received must be the model's answer at its revision, between what was reported before the call began and
//! what was committed when it ended.

use super::history::{Action, Ended, Ending, RecordedCall};
use super::model::{Model, Session};
use super::report::Finding;
use bytes::Bytes;
use kv_core::ids::{Revision, SessionId};
use kv_core::message::{
    Command, Condition, Effect, LeaseCommand, Operation, Outcome, Record, Rejection, Request, Scanned,
    StepFailure, StepResult, TransactionRequest, TransactionStep,
};
use std::collections::BTreeMap;

impl Model {
    /// Applies the next committed request, and compares the result with the one that a member returned.
    ///
    /// # Errors
    /// If the result is not the one that the request must have here.
    pub(super) fn commit(
        &mut self,
        revision: Revision,
        request: &Request,
        result: &Result<Outcome, Rejection>,
    ) -> Result<(), Finding> {
        let taken = revisions(&request.operation, self.revision);
        // A skip raises the ids as it raises the revision, whatever its result.
        self.requests += taken.max(1);
        let takes = taken > 0;
        if revision != self.revision.advance(taken) {
            let found = format!("{revision:?} of {request:?} follows {:?}", self.revision);
            return Err(("each change takes the next revision, a skip several, and nothing else any", found));
        }
        self.revision = revision;
        if let Some(session) = self.sessions.get_mut(&request.session) {
            session.acked_through = session.acked_through.max(request.acked_through);
        }
        let outcome = match result {
            Ok(outcome) => outcome,
            Err(rejection) => return self.rejected(revision, request, *rejection),
        };
        let session = self.sessions.get(&request.session);
        let ran = session.is_some_and(|session| session.results.contains_key(&request.number));
        if outcome.revision != revision || ran && !takes {
            return self.repeated(revision, request, outcome);
        }
        self.first_run(revision, request, outcome)
    }

    fn rejected(
        &mut self,
        revision: Revision,
        request: &Request,
        rejection: Rejection,
    ) -> Result<(), Finding> {
        self.rejections += 1;
        let known = self.sessions.get(&request.session);
        let acknowledged = known.is_some_and(|session| session.acked_through >= request.number);
        if rejection == Rejection::Forgotten && !acknowledged {
            let found = format!("{revision:?} {request:?} was never acknowledged by its client");
            return Err(("only acknowledged results are forgotten", found));
        }
        Ok(())
    }

    fn repeated(&mut self, revision: Revision, request: &Request, outcome: &Outcome) -> Result<(), Finding> {
        self.repeats += 1;
        let session = self.sessions.get(&request.session);
        let first = session.and_then(|session| session.results.get(&request.number));
        if first != Some(outcome) {
            let found =
                format!("{revision:?} repeats {request:?}: {outcome:?}, but the first result was {first:?}");
            return Err(("a repeated request returns its first result", found));
        }
        Ok(())
    }

    fn first_run(&mut self, revision: Revision, request: &Request, outcome: &Outcome) -> Result<(), Finding> {
        if outcome.timestamp != self.stamp {
            let found = format!("{revision:?} {request:?}: {outcome:?} in an entry of {:?}", self.stamp);
            return Err(("an outcome contains the stamp of its entry", found));
        }
        let command = match &request.operation {
            Operation::Expire(due) => {
                let expected = self.expire(revision, due);
                return check_effect(revision, request, &outcome.effect, &expected);
            }
            Operation::OpenSession { .. } => {
                let session = SessionId::new(self.requests);
                self.sessions.insert(session, Session::default());
                return check_effect(revision, request, &outcome.effect, &Effect::SessionOpened(session));
            }
            Operation::CloseSession => {
                return check_effect(revision, request, &outcome.effect, &Effect::SessionClosed);
            }
            Operation::Reconfigure(next) => {
                let expected = Effect::EpochBegan { epoch: next.epoch };
                return check_effect(revision, request, &outcome.effect, &expected);
            }
            Operation::Command(command) => command,
        };
        let Some(session) = self.sessions.get_mut(&request.session) else {
            return Err(("requests run in open sessions only", format!("{revision:?} {request:?}")));
        };
        if let Some(before) = session.results.insert(request.number, outcome.clone()) {
            let found = format!("{revision:?} {request:?} ran again: it ran at {:?}", before.revision);
            return Err(("each request of a session runs once", found));
        }
        let expected = self.execute(revision, command)?;
        check_effect(revision, request, &outcome.effect, &expected)?;
        self.ran.entry(revision).or_default().push((command.clone(), expected));
        Ok(())
    }

    fn execute(&mut self, revision: Revision, command: &Command) -> Result<Effect, Finding> {
        let (key, condition) = match command {
            Command::Put { key, condition, .. }
            | Command::Delete { key, condition }
            | Command::Touch { key, condition, .. } => (key, condition.as_ref()),
            Command::Transaction(transaction) => return self.transact(revision, transaction),
            Command::DeleteRange { from, to, limit } => {
                return Ok(self.delete_range(revision, from, to.as_ref(), *limit));
            }
            Command::Lease(command) => return Ok(self.lease(revision, *command)),
            Command::SkipRevisions { .. } => return Ok(Effect::RevisionsSkipped { kept: self.kept }),
        };
        let before = self.at(key, revision);
        if !condition.is_none_or(|condition| holds(condition, before.as_ref())) {
            return Ok(Effect::ConditionFailed { found: before.map(|record| record.modified) });
        }
        Ok(match command {
            Command::Put { value, life, .. } => {
                if let Err(why) = self.joins(key, *life, &[]) {
                    return Ok(Effect::LeaseFailed(why));
                }
                self.put(revision, key, before, value, *life)?;
                Effect::Put
            }
            Command::Touch { ttl_ms, .. } => {
                Effect::Touched { existed: self.touch(revision, key, before, *ttl_ms) }
            }
            _ => Effect::Deleted { existed: self.delete(revision, key, before) },
        })
    }

    fn transact(&mut self, revision: Revision, transaction: &TransactionRequest) -> Result<Effect, Finding> {
        for (key, condition) in &transaction.conditions {
            let record = self.at(key, revision);
            if matches!(condition, Condition::Held(_)) && !holds(condition, record.as_ref()) {
                return Ok(Effect::ConditionFailed { found: record.map(|record| record.modified) });
            }
        }
        let held = transaction
            .conditions
            .iter()
            .all(|(key, condition)| holds(condition, self.at(key, revision).as_ref()));
        let steps = if held { &transaction.then } else { &transaction.otherwise };
        // All steps see the state before: the sums are computed before anything is changed.
        let mut sums = BTreeMap::new();
        let mut joining = Vec::new();
        for (number, step) in (0..).zip(steps) {
            if let TransactionStep::Put { key, life, .. } = step {
                if let Err(why) = self.joins(key, *life, &joining) {
                    return Ok(Effect::StepFailed { step: number, why: StepFailure::Lease(why) });
                }
                joining.push((key, *life));
            }
            if let TransactionStep::Add { key, by } = step {
                let old = self.at(key, revision).map_or("0".into(), |record| record.value);
                let Some(old) = String::from_utf8_lossy(&old).parse::<i64>().ok() else {
                    return Ok(Effect::StepFailed { step: number, why: StepFailure::NotANumber });
                };
                let Some(sum) = old.checked_add(*by) else {
                    return Ok(Effect::StepFailed { step: number, why: StepFailure::OutOfRange });
                };
                sums.insert(key.clone(), sum);
            }
        }
        let mut reads: Vec<StepResult> =
            steps.iter().filter_map(|step| self.read_in_transaction(revision, step)).collect();
        let mut results = Vec::new();
        for step in steps {
            let before = step.changes().and_then(|key| self.at(key, revision));
            results.push(match step {
                TransactionStep::Put { key, value, life } => {
                    self.put(revision, key, before, value, *life)?;
                    StepResult::Put
                }
                TransactionStep::Delete { key } => {
                    StepResult::Deleted { existed: self.delete(revision, key, before) }
                }
                TransactionStep::Add { key, .. } => {
                    let sum = sums[key];
                    let ends = before.as_ref().map_or((None, None), |record| (record.expires, record.lease));
                    self.set(revision, key, before, sum.to_string().into(), ends);
                    StepResult::Added { sum }
                }
                TransactionStep::Touch { key, ttl_ms } => {
                    StepResult::Touched { existed: self.touch(revision, key, before, *ttl_ms) }
                }
                TransactionStep::Get { .. } | TransactionStep::Scan { .. } => reads.remove(0),
            });
        }
        Ok(Effect::Transacted { succeeded: held, results })
    }

    /// What a reading step finds before the transaction.
    fn read_in_transaction(&self, revision: Revision, step: &TransactionStep) -> Option<StepResult> {
        match step {
            TransactionStep::Put { .. }
            | TransactionStep::Delete { .. }
            | TransactionStep::Add { .. }
            | TransactionStep::Touch { .. } => None,
            TransactionStep::Get { key } => Some(StepResult::Got(self.at(key, revision).map(Box::new))),
            TransactionStep::Scan { from, to, limit } => {
                let limit = (*limit).clamp(1, Command::MAX_RANGE) as usize;
                let mut records = self.range(from, to.as_ref(), revision);
                let more = records.len() > limit;
                records.truncate(limit);
                Some(StepResult::Scanned(Box::new(Scanned { records, more })))
            }
        }
    }

    /// Compares one call with the model.
    ///
    /// # Errors
    /// If its answer differs from the model's.
    pub(super) fn check(&self, call: &RecordedCall) -> Result<(), Finding> {
        let Some(ended) = &call.ended else { return Ok(()) };
        self.check_times(call, ended)?;
        let ran = |revision: &Revision, command: &Command, effect: Effect| {
            self.ran.get(revision).is_some_and(|all| all.contains(&(command.clone(), effect)))
        };
        let holds = match (&call.action, &ended.ending) {
            (_, Ending::Unknown) => true,
            (action, Ending::NotApplied) => self.has_no_effect(action),
            (Action::Close, Ending::Closed) => true,
            (Action::Write(command), Ending::Put(revision)) => ran(revision, command, Effect::Put),
            (Action::Write(command), Ending::Deleted { existed, revision }) => {
                ran(revision, command, Effect::Deleted { existed: *existed })
            }
            (Action::Write(command), Ending::ConditionFailed { found, revision }) => revision
                .is_none_or(|revision| ran(&revision, command, Effect::ConditionFailed { found: *found })),
            (Action::Write(command), Ending::RangeDeleted { count, more, revision }) => {
                ran(revision, command, Effect::RangeDeleted { count: *count, more: *more })
            }
            (Action::Many { keys, .. }, Ending::Records { records, more, revision }) => {
                revision.is_none_or(|revision| {
                    let there = keys.iter().filter_map(|key| Some((key.clone(), self.at(key, revision)?)));
                    !more && there.eq(records.iter().cloned())
                })
            }
            (Action::Write(command), Ending::Lease { effect, revision }) => {
                ran(revision, command, effect.clone())
            }
            (Action::Write(command), Ending::Transacted { succeeded: held, results, revision }) => {
                ran(revision, command, Effect::Transacted { succeeded: *held, results: results.clone() })
            }
            (Action::Write(command), Ending::StepFailed { step, why, revision }) => {
                ran(revision, command, Effect::StepFailed { step: *step, why: *why })
            }
            (Action::Get { key, .. }, Ending::Value { record, revision }) => {
                revision.is_none_or(|revision| self.at(key, revision) == *record)
            }
            (Action::Scan { from, to, limit, .. }, Ending::Records { records, more, revision }) => revision
                .is_none_or(|revision| self.scan_fits(from, to.as_ref(), *limit, revision, records, *more)),
            (Action::Past { query, mode }, ending) => {
                self.past_fits(query, *mode, call.floor, ended.ceiling, ending)
            }
            _ => false,
        };
        if holds {
            return Ok(());
        }
        let at = ended.ending.revision();
        let ran = at.and_then(|revision| self.ran.get(&revision));
        let found = format!("client {}: {call:?}; at {at:?} ran {ran:?}", call.client);
        Err(("answers are those of the committed history", found))
    }

    fn check_times(&self, call: &RecordedCall, ended: &Ended) -> Result<(), Finding> {
        let Some(revision) = ended.ending.revision() else { return Ok(()) };
        let takes =
            matches!(&call.action, Action::Write(command) if command_revisions(command, call.floor) > 0);
        let fresh = if takes { revision > call.floor } else { revision >= call.floor };
        if !fresh && !call.action.is_local() {
            let found = format!(
                "{call:?}: {revision:?}, but {:?} was returned to a client before it began",
                call.floor
            );
            return Err(("an answer is at least as new as all earlier answers", found));
        }
        if revision > ended.ceiling {
            let found = format!("{call:?}: {revision:?}, but only {:?} was committed", ended.ceiling);
            return Err(("answers contain only committed changes", found));
        }
        Ok(())
    }

    fn has_no_effect(&self, action: &Action) -> bool {
        match action {
            Action::Write(Command::Put { value, .. }) => !self.values.contains_key(value),
            Action::Write(Command::Transaction(transaction)) => {
                let mut steps = transaction.then.iter().chain(&transaction.otherwise);
                steps.all(|step| !matches!(step, TransactionStep::Put { value, .. } if self.values.contains_key(value)))
            }
            Action::Write(
                Command::Delete { .. }
                | Command::DeleteRange { .. }
                | Command::Lease(_)
                | Command::Touch { .. }
                | Command::SkipRevisions { .. },
            )
            | Action::Close
            | Action::Get { .. }
            | Action::Many { .. }
            | Action::Scan { .. }
            | Action::Past { .. } => true,
        }
    }

    fn scan_fits(
        &self,
        from: &Bytes,
        to: Option<&Bytes>,
        limit: u32,
        revision: Revision,
        records: &[(Bytes, Record)],
        more: bool,
    ) -> bool {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let all = self.range(from, to, revision);
        let shown = records.len();
        shown <= limit && all.get(..shown) == Some(records) && (more == (shown < all.len()))
    }
}

/// Rule N8, written differently from the code under test.
fn revisions(operation: &Operation, last: Revision) -> u64 {
    match operation {
        Operation::OpenSession { .. } | Operation::CloseSession | Operation::Reconfigure(_) => 0,
        Operation::Command(command) => command_revisions(command, last),
        Operation::Expire(due) => u64::from(!due.is_empty()),
    }
}

fn command_revisions(command: &Command, last: Revision) -> u64 {
    match command {
        Command::Lease(
            LeaseCommand::Grant { .. } | LeaseCommand::KeepAlive { .. } | LeaseCommand::Info { .. },
        ) => 0,
        Command::SkipRevisions { to } => to.get().saturating_sub(last.get()),
        _ => 1,
    }
}

fn holds(condition: &Condition, record: Option<&Record>) -> bool {
    match (condition, record) {
        (Condition::Absent, None) | (Condition::Present, Some(_)) => true,
        (Condition::Revision(wanted), Some(record)) => record.modified == *wanted,
        (Condition::Value(wanted), Some(record)) => record.value == *wanted,
        (Condition::Created(wanted) | Condition::Held(wanted), Some(record)) => record.created == *wanted,
        (_, _) => false,
    }
}

fn check_effect(
    revision: Revision,
    request: &Request,
    actual: &Effect,
    expected: &Effect,
) -> Result<(), Finding> {
    if actual == expected {
        return Ok(());
    }
    let found = format!("{revision:?} {request:?}: {actual:?}, but the model expects {expected:?}");
    Err(("results are those of the model", found))
}

#[cfg(test)]
mod tests {
    use super::super::history::History;
    use super::super::model::Leases;
    use super::*;
    use kv_core::ids::{LeaseId, RequestNumber, Timestamp};
    use kv_core::message::Lifetime;

    fn r(revision: u64) -> Revision {
        Revision::new(revision)
    }

    fn put(value: &str, condition: Option<Condition>) -> Command {
        Command::Put { key: "k".into(), value: value.to_owned().into(), condition, life: Lifetime::FOREVER }
    }

    fn request(number: u64, operation: Operation) -> Request {
        let open = matches!(operation, Operation::OpenSession { .. });
        Request {
            session: SessionId::new(u64::from(!open)),
            number: RequestNumber::new(number),
            acked_through: RequestNumber::ZERO,
            operation,
        }
    }

    fn outcome(revision: u64, effect: Effect) -> Result<Outcome, Rejection> {
        Ok(Outcome { revision: r(revision), timestamp: Timestamp::ZERO, effect })
    }

    /// A model at revision 1, with session 1 open.
    fn model() -> Model {
        let mut model = Model { revision: r(1), leases: Leases::at_most(9), ..Model::default() };
        let open = request(0, Operation::OpenSession { nonce: 1 });
        let session = SessionId::new(1);
        model.commit(r(1), &open, &outcome(1, Effect::SessionOpened(session))).unwrap();
        model
    }

    fn commit(
        model: &mut Model,
        at: u64,
        number: u64,
        command: Command,
        first: u64,
        effect: Effect,
    ) -> Result<(), Finding> {
        model.commit(r(at), &request(number, Operation::Command(command)), &outcome(first, effect))
    }

    #[test]
    fn rejects_a_request_that_ran_twice() {
        let mut model = model();
        commit(&mut model, 2, 1, put("a", None), 2, Effect::Put).unwrap();
        assert!(commit(&mut model, 3, 1, put("a", None), 3, Effect::Put).is_err());
    }

    #[test]
    fn rejects_a_revision_without_a_change_and_a_lease_with_a_wrong_id() {
        let granted = |lease| Effect::LeaseGranted(LeaseId::new(lease));
        let grant = || Command::Lease(LeaseCommand::Grant { ttl_ms: 100 });
        commit(&mut model(), 1, 1, grant(), 1, granted(2)).unwrap();
        assert!(commit(&mut model(), 2, 1, grant(), 2, granted(2)).is_err());
        assert!(commit(&mut model(), 1, 1, grant(), 1, granted(1)).is_err());
        assert!(commit(&mut model(), 1, 1, put("a", None), 1, Effect::Put).is_err());
    }

    #[test]
    fn a_skip_raises_ids_whatever_its_result() {
        let mut model = model();
        let skip = |session, to| Request {
            session: SessionId::new(session),
            ..request(1, Operation::Command(Command::SkipRevisions { to: r(to) }))
        };
        model.commit(r(100), &skip(9, 100), &Err(Rejection::SessionExpired)).unwrap();
        let skipped = outcome(200, Effect::RevisionsSkipped { kept: 0 });
        (0..2).for_each(|_| model.commit(r(200), &skip(1, 200), &skipped).unwrap());
        // The request that opened the session, 99 and 100 for the skips, and a copy.
        let granted = |lease| Effect::LeaseGranted(LeaseId::new(lease));
        let grant = Command::Lease(LeaseCommand::Grant { ttl_ms: 100 });
        commit(&mut model, 200, 2, grant, 200, granted(202)).unwrap();
    }

    #[test]
    fn requests_without_a_revision_run_once_too() {
        let mut model = model();
        let grant = || Command::Lease(LeaseCommand::Grant { ttl_ms: 100 });
        let granted = |lease| Effect::LeaseGranted(LeaseId::new(lease));
        commit(&mut model, 1, 1, grant(), 1, granted(2)).unwrap();
        commit(&mut model, 1, 1, grant(), 1, granted(2)).unwrap();
        assert!(commit(&mut model, 1, 1, grant(), 1, granted(4)).is_err());
    }

    #[test]
    fn rejects_a_call_that_ran_under_two_numbers() {
        let mut model = model();
        commit(&mut model, 2, 1, put("a", None), 2, Effect::Put).unwrap();
        assert!(commit(&mut model, 3, 2, put("a", None), 3, Effect::Put).is_err());
    }

    #[test]
    fn a_repeated_request_must_return_its_first_result() {
        let mut model = model();
        commit(&mut model, 2, 1, put("a", None), 2, Effect::Put).unwrap();
        commit(&mut model, 3, 1, put("a", None), 2, Effect::Put).unwrap();
        assert!(commit(&mut model, 4, 1, put("a", None), 2, Effect::Deleted { existed: true }).is_err());
    }

    #[test]
    fn rejects_a_wrong_result_of_a_condition() {
        let mut model = model();
        commit(&mut model, 2, 1, put("a", Some(Condition::Absent)), 2, Effect::Put).unwrap();
        let failed = Effect::ConditionFailed { found: Some(r(2)) };
        commit(&mut model, 3, 2, put("b", Some(Condition::Absent)), 3, failed).unwrap();
        assert!(commit(&mut model, 4, 3, put("c", Some(Condition::Revision(r(3)))), 4, Effect::Put).is_err());
    }

    #[test]
    fn rejects_the_loss_of_an_unacknowledged_result() {
        let mut model = model();
        let forgotten = request(1, Operation::Command(put("a", None)));
        assert!(model.commit(r(2), &forgotten, &Err(Rejection::Forgotten)).is_err());
    }

    #[test]
    fn rejects_a_read_that_misses_a_write_acknowledged_before_it() {
        let mut model = model();
        commit(&mut model, 2, 1, put("a", None), 2, Effect::Put).unwrap();
        let mut history = History::default();
        let write = history.begin(0, Action::Write(put("a", None)), 1);
        history.end(write, Ending::Put(r(2)), 2, r(2));
        let read = history.begin(1, Action::Get { key: "k".into(), local: false }, 3);
        history.end(read, Ending::Value { record: None, revision: Some(r(1)) }, 4, r(2));
        assert!(model.check(&history.calls()[write]).is_ok());
        assert!(model.check(&history.calls()[read]).is_err());
    }

    #[test]
    fn accepts_a_stale_read_only_if_staleness_is_allowed() {
        let mut model = model();
        commit(&mut model, 2, 1, put("a", None), 2, Effect::Put).unwrap();
        let mut history = History::default();
        let write = history.begin(0, Action::Write(put("a", None)), 1);
        history.end(write, Ending::Put(r(2)), 2, r(2));
        let stale = history.begin(1, Action::Get { key: "k".into(), local: true }, 3);
        history.end(stale, Ending::Value { record: None, revision: Some(r(1)) }, 4, r(2));
        let wrong = history.begin(1, Action::Get { key: "k".into(), local: true }, 5);
        history.end(wrong, Ending::Value { record: None, revision: Some(r(2)) }, 6, r(2));
        assert!(model.check(&history.calls()[stale]).is_ok());
        assert!(model.check(&history.calls()[wrong]).is_err());
    }

    #[test]
    fn rejects_an_answer_that_contains_uncommitted_changes() {
        let mut model = model();
        commit(&mut model, 2, 1, put("a", None), 2, Effect::Put).unwrap();
        let mut history = History::default();
        let write = history.begin(0, Action::Write(put("a", None)), 1);
        history.end(write, Ending::Put(r(2)), 2, r(1));
        assert!(model.check(&history.calls()[write]).is_err());
    }

    #[test]
    fn rejects_a_write_reported_as_not_applied_that_ran() {
        let mut model = model();
        commit(&mut model, 2, 1, put("a", None), 2, Effect::Put).unwrap();
        let mut history = History::default();
        let write = history.begin(0, Action::Write(put("a", None)), 1);
        history.end(write, Ending::NotApplied, 2, r(2));
        assert!(model.check(&history.calls()[write]).is_err());
    }

    #[test]
    fn checks_scans_with_their_limits() {
        let mut model = model();
        for (at, key) in [(2, "a"), (3, "b"), (4, "c")] {
            let command = Command::Put {
                key: key.into(),
                value: key.to_owned().into(),
                condition: None,
                life: Default::default(),
            };
            commit(&mut model, at, at, command, at, Effect::Put).unwrap();
        }
        let record = |at, key: &'static str| {
            (
                Bytes::from(key),
                Record {
                    value: key.into(),
                    created: r(at),
                    modified: r(at),
                    version: 1,
                    expires: None,
                    lease: None,
                },
            )
        };
        let fits = |limit, revision, records: &[(Bytes, Record)], more| {
            model.scan_fits(&"a".into(), None, limit, r(revision), records, more)
        };
        assert!(fits(10, 4, &[record(2, "a"), record(3, "b"), record(4, "c")], false));
        assert!(fits(10, 3, &[record(2, "a"), record(3, "b")], false));
        assert!(fits(1, 4, &[record(2, "a")], true));
        assert!(!fits(10, 4, &[record(2, "a"), record(4, "c")], false));
        assert!(!fits(1, 4, &[record(2, "a")], false));
        assert!(!fits(1, 4, &[record(2, "a"), record(3, "b")], true));
    }
}
