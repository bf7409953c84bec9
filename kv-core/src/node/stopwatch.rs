//! Measures how long entries take, from what the driver of a primary sees: until they are committed, and until each
//! peer has acknowledged them.

use super::counters::Counters;
use crate::ids::{Instant, MemberId, Op};
use crate::message::Message;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What is being measured. A member that does not serve as the primary measures nothing.
#[derive(Debug, Default)]
pub(super) struct Stopwatch {
    /// The last op of each append that is not committed yet, and when it was made.
    appended: VecDeque<(Op, Instant)>,
    /// For each peer, an op that was sent to it and when. Only one at a time: a sample is enough, and costs little.
    sent: BTreeMap<MemberId, (Op, Instant)>,
    /// The peers whose connection broke, and that have not acknowledged anything since.
    away: BTreeSet<MemberId>,
}

impl Stopwatch {
    /// The primary has made entries up to this op.
    pub(super) fn appended(&mut self, op: Op, now: Instant) {
        self.appended.push_back((op, now));
    }

    /// Entries up to this op are committed. `now` is called only if that ends a measurement.
    pub(super) fn committed(&mut self, op: Op, now: impl FnOnce() -> Instant, counters: &Counters) {
        if self.appended.front().is_none_or(|(appended, _)| *appended > op) {
            return;
        }
        let now = now();
        while let Some((_, since)) = self.appended.pop_front_if(|(appended, _)| *appended <= op) {
            counters.commits.add(now.since(since));
        }
    }

    /// Entries up to this op are sent to the peer. `now` is called only if that begins a measurement.
    pub(super) fn sent(&mut self, peer: MemberId, op: Op, now: impl FnOnce() -> Instant) {
        if self.away.contains(&peer) {
            return;
        }
        self.sent.entry(peer).or_insert_with(|| (op, now()));
    }

    /// The peer has sent this message. `now` is called only if that ends a measurement.
    pub(super) fn heard(
        &mut self,
        peer: MemberId,
        message: &Message,
        now: impl FnOnce() -> Instant,
        counters: &Counters,
    ) {
        let (Message::PrepareOk { log, .. } | Message::CommitOk { log: Some(log), .. }) = message else {
            return;
        };
        self.away.remove(&peer);
        if self.sent.get(&peer).is_some_and(|(op, _)| *op <= log.op)
            && let Some((_, since)) = self.sent.remove(&peer)
        {
            counters.acknowledgements(peer).add(now().since(since));
        }
    }

    /// The connection with the peer broke. What was sent to it, and what is sent until it acknowledges something again,
    /// says nothing about how fast it is.
    pub(super) fn lost(&mut self, peer: MemberId) {
        self.sent.remove(&peer);
        self.away.insert(peer);
    }

    /// The status of this member has changed: it may be another view, and what was measured may never end.
    pub(super) fn reset(&mut self) {
        // A peer that was away still is.
        *self = Self { away: std::mem::take(&mut self.away), ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Anchor, View};
    use std::time::Duration;

    fn at(ms: u64) -> Instant {
        Instant::ZERO.after(Duration::from_millis(ms))
    }

    fn counters() -> Counters {
        Counters::new(Default::default())
    }

    fn ok(op: u64) -> Message {
        Message::PrepareOk { view: View::ZERO, log: Anchor { op: Op::new(op), ..Anchor::ZERO } }
    }

    #[test]
    fn each_append_is_measured_until_its_last_entry_is_committed() {
        let (mut stopwatch, counters) = (Stopwatch::default(), counters());
        for (op, ms) in [(3, 10), (4, 20), (9, 30)] {
            stopwatch.appended(Op::new(op), at(ms));
        }
        stopwatch.committed(Op::new(2), || at(40), &counters);
        assert_eq!(counters.commits.latencies().count(), 0);
        stopwatch.committed(Op::new(8), || at(50), &counters);
        assert_eq!(counters.commits.durations().sum(), Duration::from_millis(40 + 30));
        stopwatch.reset();
        stopwatch.committed(Op::new(9), || at(60), &counters);
        assert_eq!(
            counters.commits.latencies().count(),
            2,
            "another view: nobody knows when it was appended"
        );
    }

    #[test]
    fn one_acknowledgement_of_a_peer_is_measured_at_a_time() {
        let (mut stopwatch, counters, peer) = (Stopwatch::default(), counters(), MemberId::new(1));
        let sum = || counters.acknowledgements(peer).durations().sum();
        stopwatch.sent(peer, Op::new(5), || at(10));
        stopwatch.sent(peer, Op::new(6), || at(15));
        for (from, op) in [(peer, 4), (MemberId::new(2), 5)] {
            stopwatch.heard(from, &ok(op), || at(20), &counters);
        }
        assert_eq!(sum(), Duration::ZERO);
        stopwatch.heard(peer, &ok(7), || at(30), &counters);
        stopwatch.heard(peer, &ok(8), || at(40), &counters);
        assert_eq!(sum(), Duration::from_millis(20));
        stopwatch.sent(peer, Op::new(9), || at(50));
        stopwatch.lost(peer);
        stopwatch.sent(peer, Op::new(10), || at(60));
        stopwatch.reset();
        stopwatch.sent(peer, Op::new(11), || at(70));
        stopwatch.heard(peer, &ok(11), || at(9000), &counters);
        assert_eq!(sum(), Duration::from_millis(20), "it was away");
        stopwatch.sent(peer, Op::new(12), || at(9010));
        stopwatch.heard(peer, &ok(12), || at(9015), &counters);
        assert_eq!(sum(), Duration::from_millis(25), "it is back");
    }
}
