//! Client sessions: the window of outstanding requests, stored results, expiry. Pure, replicated state: everything
//! here follows from the log alone, so it is equal on all members.
//!
//! # Exactly once
//! Whether a request runs is decided when its entry is applied ([`Sessions::decide`]), never earlier: the same request
//! may stand in the log more than once. For one number of one session there is at most one run, and after it every copy
//! gets the same result, bit for bit, until the client says that it has it (`acked_through`).
//!
//! "Not run" must be as final as a result: a client that hears it may report it, while another copy of the request is
//! still on its way into the log. Therefore
//! - a number at or below `acked_through` never runs again ([`Rejection::Forgotten`]);
//! - a number that broke a limit keeps that answer, stored like a result ([`Rejection::Invalid`]);
//! - a number beyond the window *closes the session's door*: it and every number from it on are refused
//!   ([`Rejection::WindowExceeded`]) for the rest of the session. (Refusing it only while the window is full would let a
//!   later copy run.) Each request carries `acked_through`, and it counts before the window is looked at, so a client
//!   that keeps to its window never gets here, however its requests are reordered.
//! - an unknown session stays unknown: ids are revisions, never used twice ([`Rejection::SessionExpired`]).
//!
//! Results that are kept take no more than a stated amount of memory (rule E7). Those of transactions that read may be large:
//! where they are too much, of one session or of all together, the oldest give way to [`Rejection::ResultDropped`].

mod table;

pub use table::{Changes, SessionLimits, Sessions};

use crate::ids::{RequestNumber, Revision, Timestamp};
use crate::message::{Outcome, Rejection};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What became of a request that was decided on.
pub type Answer = Result<Outcome, Rejection>;

/// What to do with a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decision {
    /// It is new: run it, and [`record`](Sessions::record) what it did.
    Run,
    /// It does not run; this is its answer.
    Answered(Answer),
}

/// One client's session.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Session {
    /// The client has the results of all numbers up to here. Only grows; no result at or below it is kept.
    acked_through: RequestNumber,
    /// Numbers from here on are refused for ever: the lowest that was ever beyond the window.
    closed_from: Option<RequestNumber>,
    /// The stamp of the last entry with a request of this session.
    last_heard: Timestamp,
    /// What became of the numbers above `acked_through`.
    results: BTreeMap<RequestNumber, Answer>,
}

impl Session {
    fn new(now: Timestamp) -> Self {
        Self {
            acked_through: RequestNumber::ZERO,
            closed_from: None,
            last_heard: now,
            results: BTreeMap::new(),
        }
    }

    /// Whether it holds no more than requests can have led to.
    pub(crate) fn keeps_to(&self, limits: &SessionLimits) -> bool {
        self.results.len() <= limits.window
            && self.results.keys().all(|number| *number > self.acked_through)
            && self.weight() <= limits.session_bytes
    }

    /// What its large results take.
    pub(crate) fn weight(&self) -> usize {
        self.large().map(|(_, _, weight)| weight).sum()
    }

    /// Its large results: when they ran, and what they take.
    fn large(&self) -> impl Iterator<Item = (Revision, RequestNumber, usize)> {
        self.results.iter().filter_map(|(number, answer)| {
            let (revision, weight) = large(answer)?;
            Some((revision, *number, weight))
        })
    }

    /// The client needs no results up to here. Says which large ones were dropped.
    fn acknowledge(&mut self, through: RequestNumber) -> Vec<(Revision, RequestNumber)> {
        let mut dropped = Vec::new();
        self.acked_through = self.acked_through.max(through);
        while let Some(first) = self.results.first_entry().filter(|first| *first.key() <= self.acked_through)
        {
            let (number, answer) = first.remove_entry();
            dropped.extend(large(&answer).map(|(revision, _)| (revision, number)));
        }
        dropped
    }

    fn decide(&mut self, number: RequestNumber, window: u64) -> Decision {
        if number <= self.acked_through {
            return Decision::Answered(Err(Rejection::Forgotten));
        }
        if let Some(answer) = self.results.get(&number) {
            return Decision::Answered(answer.clone());
        }
        if number.distance_from(self.acked_through) > window
            && self.closed_from.is_none_or(|from| number < from)
        {
            self.closed_from = Some(number);
        }
        if self.closed_from.is_some_and(|from| number >= from) {
            return Decision::Answered(Err(Rejection::WindowExceeded));
        }
        Decision::Run
    }
}

/// When a result that counts as a large one ran, and what it takes.
fn large(answer: &Answer) -> Option<(Revision, usize)> {
    /// A smaller one is like any other.
    const SMALL: usize = 256;
    let outcome = answer.as_ref().ok()?;
    let weight = outcome.effect.weight();
    (weight > SMALL).then_some((outcome.revision, weight))
}

#[cfg(test)]
mod tests;
