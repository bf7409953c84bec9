//! Client sessions: the window of outstanding requests, stored results, expiry. Pure, replicated state: everything here
//! follows from the log alone, so it is equal on all members.
//!
//! # Exactly once
//! Whether a request runs is decided when its entry is applied ([`Sessions::decide`]), never earlier: the log may
//! contain the same request more than once. For one number of one session there is at most one run, and after it every
//! copy gets the same result, bit for bit, until the client confirms that it has it (`acked_through`).
//!
//! "Not run" must be as final as a result: a client that receives it may report it, while another copy of the request
//! is still on its way into the log. Therefore
//! - a number at or below `acked_through` never runs again ([`Rejection::Forgotten`]);
//! - a number that exceeded a limit keeps that answer, stored like a result ([`Rejection::Invalid`]);
//! - a number beyond the window *closes the session to all numbers from it on*: they are refused
//!   ([`Rejection::WindowExceeded`]) for the rest of the session. (If they were refused only while the window is full,
//!   a later copy could run.) Each request contains `acked_through`, which is processed before the window is checked,
//!   so a client that respects its window never gets here, however its requests are reordered;
//! - an unknown session stays unknown: ids count the requests of the log, and are never used twice
//!   ([`Rejection::SessionExpired`]).
//!
//! The stored results take a bounded amount of memory (rule E7), small ones counting like large ones. If they take too
//! much, in one session or in all together, the oldest are replaced by [`Rejection::ResultDropped`], which takes one
//! bit.

mod dropped;
mod table;

pub use table::{SessionChanges, SessionLimits, Sessions};

use crate::ids::{RequestNumber, Revision, Timestamp};
use crate::message::{Outcome, Rejection};
use dropped::Dropped;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The stored result of a request.
pub type RequestResult = Result<Outcome, Rejection>;

/// How to treat a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DuplicateCheck {
    /// It is new: run it, and [`record`](Sessions::record) the result.
    Run,
    /// It does not run. This is its answer.
    Answered(RequestResult),
}

/// One client's session.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Session {
    /// The client has the results of all numbers up to this one. It only grows, and no result at or below it is kept.
    acked_through: RequestNumber,
    /// Numbers from this one on are refused permanently: the lowest number that was ever beyond the window.
    closed_from: Option<RequestNumber>,
    /// The stamp of the last entry that contains a request of this session.
    last_heard: Timestamp,
    /// The stored results of numbers above `acked_through`.
    results: BTreeMap<RequestNumber, RequestResult>,
    /// The other numbers above `acked_through` that ran.
    dropped: Dropped,
    /// The weight of the results. Invariant: the sum of their weights.
    weight: usize,
}

/// The outcome of a request that ran and whose result is no longer kept.
static DROPPED: RequestResult = Err(Rejection::ResultDropped);

impl Session {
    fn new(now: Timestamp) -> Self {
        Self {
            acked_through: RequestNumber::ZERO,
            closed_from: None,
            last_heard: now,
            results: BTreeMap::new(),
            dropped: Dropped::default(),
            weight: 0,
        }
    }

    /// Returns whether it holds no more than requests can have caused.
    pub(crate) fn is_within(&self, limits: &SessionLimits) -> bool {
        let window = limits.window as u64;
        let fits = |number: &RequestNumber| {
            *number > self.acked_through && number.distance_from(self.acked_through) <= window
        };
        let twice = |number: &RequestNumber| self.dropped.contains(self.place(*number));
        self.results.keys().all(|number| fits(number) && !twice(number))
            && self.dropped.room() < limits.window + 64
            && self.dropped.places().last().is_none_or(|place| *place < limits.window)
            && self.weight == self.kept().map(|(_, _, weight)| weight).sum::<usize>()
            && self.weight <= limits.session_bytes
    }

    /// The weight of its results.
    pub(crate) const fn weight(&self) -> usize {
        self.weight
    }

    /// Its results: when they ran, and their weights.
    fn kept(&self) -> impl Iterator<Item = (Revision, RequestNumber, usize)> {
        self.results.iter().map(|(number, answer)| {
            let (revision, weight) = measure(answer);
            (revision, *number, weight)
        })
    }

    /// Its oldest result, unless it has no other.
    fn oldest(&self) -> Option<(Revision, RequestNumber)> {
        let kept = self.kept().map(|(revision, number, _)| (revision, number));
        kept.min().filter(|_| self.results.len() > 1)
    }

    /// The result of a number, if it has run and the client may still ask.
    fn stored(&self, number: RequestNumber) -> Option<&RequestResult> {
        let dropped = || {
            let ran = number > self.acked_through && self.dropped.contains(self.place(number));
            ran.then_some(&DROPPED)
        };
        self.results.get(&number).or_else(dropped)
    }

    /// The place of a number above those that the client has acknowledged, from 0.
    const fn place(&self, number: RequestNumber) -> u64 {
        number.get().saturating_sub(self.acked_through.get()).saturating_sub(1)
    }

    fn keep(&mut self, number: RequestNumber, answer: RequestResult) {
        self.weight += measure(&answer).1;
        self.results.insert(number, answer);
    }

    /// Drops the result of a number, and remembers that it ran.
    fn drop_result(&mut self, number: RequestNumber) {
        if let Some(answer) = self.results.remove(&number) {
            self.weight -= measure(&answer).1;
            self.dropped.insert(usize::try_from(self.place(number)).expect("within the window"));
        }
    }

    /// The client needs no results up to this number. Returns those that were dropped.
    fn acknowledge(&mut self, through: RequestNumber) -> Vec<(Revision, RequestNumber)> {
        let mut forgotten = Vec::new();
        if through <= self.acked_through {
            return forgotten;
        }
        self.dropped.shift(through.distance_from(self.acked_through));
        self.acked_through = through;
        while let Some(first) = self.results.first_entry().filter(|first| *first.key() <= self.acked_through)
        {
            let (number, answer) = first.remove_entry();
            let (revision, weight) = measure(&answer);
            self.weight -= weight;
            forgotten.push((revision, number));
        }
        forgotten
    }

    fn decide(&mut self, number: RequestNumber, window: u64) -> DuplicateCheck {
        if number <= self.acked_through {
            return DuplicateCheck::Answered(Err(Rejection::Forgotten));
        }
        if let Some(answer) = self.stored(number) {
            return DuplicateCheck::Answered(answer.clone());
        }
        if number.distance_from(self.acked_through) > window
            && self.closed_from.is_none_or(|from| number < from)
        {
            self.closed_from = Some(number);
        }
        if self.closed_from.is_some_and(|from| number >= from) {
            return DuplicateCheck::Answered(Err(Rejection::WindowExceeded));
        }
        DuplicateCheck::Run
    }
}

/// About how much memory a result takes besides the data of its effect: its number and itself in the session, and an
/// entry in the list of all results.
pub(crate) const RESULT_BYTES: usize = 192;

/// When a result ran, as far as that is known, and its weight. A request that did not run counts as the oldest. Results
/// of one revision (rule N8) are in the order of their sessions and numbers.
fn measure(answer: &RequestResult) -> (Revision, usize) {
    match answer {
        Ok(outcome) => (outcome.revision, RESULT_BYTES + outcome.effect.weight()),
        Err(_) => (Revision::ZERO, RESULT_BYTES),
    }
}

#[cfg(test)]
mod tests;
