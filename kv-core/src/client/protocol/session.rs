//! The client's side of a session: the numbers of its requests, the window, and which requests have ended.

use crate::ids::{Instant, RequestNumber, SessionId};
use std::collections::BTreeSet;

/// The session of a client.
#[derive(Debug)]
pub(super) enum Session {
    /// There is no session.
    Closed,
    /// A session has been requested.
    Opening,
    /// The session is open.
    Open(OpenSession),
}

/// An open session.
#[derive(Debug)]
pub(super) struct OpenSession {
    /// The id of the session.
    pub(super) id: SessionId,
    /// The number of the next new request.
    next: RequestNumber,
    /// The requests with the numbers up to this one have ended, with or without a result. Members run none of them any
    /// more.
    acked_through: RequestNumber,
    /// Numbers above `acked_through` that have ended.
    ended: BTreeSet<RequestNumber>,
    /// When the last new request was sent.
    pub(super) last_used: Instant,
    /// The request that closes the session was sent.
    pub(super) closing: bool,
    /// The members no longer know the session. No new request is sent under it, and the session is over when the last
    /// request that was sent has ended.
    pub(super) expired: bool,
}

impl OpenSession {
    pub(super) const fn new(id: SessionId, now: Instant) -> Self {
        Self {
            id,
            next: RequestNumber::new(1),
            acked_through: RequestNumber::ZERO,
            ended: BTreeSet::new(),
            last_used: now,
            closing: false,
            expired: false,
        }
    }

    /// Returns whether the window has room for one more number.
    pub(super) fn has_room(&self, window: u32) -> bool {
        self.next.distance_from(self.acked_through) <= u64::from(window)
    }

    /// How many numbers are in flight.
    pub(super) fn outstanding(&self) -> u64 {
        self.next.previous().distance_from(self.acked_through) - self.ended.len() as u64
    }

    pub(super) const fn acked_through(&self) -> RequestNumber {
        self.acked_through
    }

    /// Returns whether nothing more can happen in the session.
    pub(super) fn is_over(&self) -> bool {
        self.closing || (self.expired && self.outstanding() == 0)
    }

    /// Takes the next number.
    pub(super) fn take_number(&mut self, now: Instant) -> RequestNumber {
        let number = self.next;
        self.next = number.next();
        self.last_used = now;
        number
    }

    /// The request with this number has a result or was given up: it must not run any more.
    pub(super) fn end(&mut self, number: RequestNumber) {
        assert!(number < self.next, "{number:?} was never taken");
        let new = number > self.acked_through && self.ended.insert(number);
        assert!(new, "{number:?} ended twice");
        while self.ended.remove(&self.acked_through.next()) {
            self.acked_through = self.acked_through.next();
        }
    }

    /// Asserts that exactly the numbers in `live` have not ended.
    #[cfg(feature = "internals")]
    pub(super) fn check_invariants(&self, window: u32, mut live: BTreeSet<RequestNumber>) {
        assert!(self.next.previous().distance_from(self.acked_through) <= u64::from(window));
        assert!(self.ended.iter().all(|number| *number > self.acked_through.next()));
        assert_eq!(live.len() as u64, self.outstanding());
        live.extend(&self.ended);
        let mut expected = self.acked_through;
        for number in live {
            expected = expected.next();
            assert_eq!(number, expected, "a number is neither live nor ended");
        }
        assert_eq!(expected.next(), self.next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(value: u64) -> RequestNumber {
        RequestNumber::new(value)
    }

    #[test]
    fn acked_through_stops_at_the_first_unfinished_request() {
        let mut session = OpenSession::new(SessionId::new(5), Instant::ZERO);
        let taken: Vec<_> = (0..4).map(|_| session.take_number(Instant::ZERO)).collect();
        assert_eq!(taken, [1, 2, 3, 4].map(number));
        let mut acked = Vec::new();
        for ended in [2, 4, 1, 3] {
            session.end(number(ended));
            acked.push((session.acked_through().get(), session.outstanding()));
        }
        assert_eq!(acked, [(0, 3), (0, 2), (2, 1), (4, 0)]);
    }

    #[test]
    fn the_window_counts_from_the_oldest_number_in_flight() {
        let mut session = OpenSession::new(SessionId::new(5), Instant::ZERO);
        for taken in 1..=3 {
            assert!(session.has_room(3), "before {taken}");
            session.take_number(Instant::ZERO);
        }
        assert!(!session.has_room(3));
        session.end(number(3));
        assert!(!session.has_room(3), "1 still is in flight");
        session.end(number(1));
        assert!(session.has_room(3));
    }
}
