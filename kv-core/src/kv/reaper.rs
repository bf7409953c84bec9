//! Decides when the primary proposes to remove what has expired.

use super::Deadlines;
use crate::ids::{Instant, Timestamp};
use std::time::Duration;

/// While something will expire, an entry is made at least this often, so that not more time is lost when all members
/// stop.
const TICK: Duration = Duration::from_secs(60);

/// Asks for what is due at the right times, one request at a time (rule X6). It is used by the driver of the replica,
/// and decides nothing: what is removed is decided where the request is applied.
#[derive(Debug)]
pub struct Reaper {
    grace: Duration,
    serving_since: Option<Instant>,
    under_way: bool,
}

/// A query for what is due: the arguments of [`StateMachine::due`](super::StateMachine::due).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExpiryQuery {
    /// Keys that are due at this stamp.
    pub keys: Timestamp,
    /// Leases that are due at this stamp, if they may end now.
    pub leases: Option<Timestamp>,
    /// Whether to propose the request even if nothing is due: an entry that records the time (rule X6).
    pub tick: bool,
}

impl Reaper {
    /// Leases end only after this member has been serving for `grace`: before that, nobody could keep them alive.
    #[must_use]
    pub const fn new(grace: Duration) -> Self {
        Self { grace, serving_since: None, under_way: false }
    }

    /// Returns what to ask for. Call it regularly. `time` returns the stamp of the next entry, if there can be one, and
    /// the time since the last one. The result must be proposed, or [`ended`](Self::ended) called.
    pub fn query(
        &mut self,
        now: Instant,
        is_serving: bool,
        deadlines: Deadlines,
        time: impl FnOnce() -> Option<(Timestamp, Duration)>,
    ) -> Option<ExpiryQuery> {
        if !is_serving {
            (self.serving_since, self.under_way) = (None, false);
            return None;
        }
        let since = *self.serving_since.get_or_insert(now);
        if self.under_way || deadlines == Deadlines::default() {
            return None;
        }
        let (keys, idle) = time()?;
        let leases = (now.since(since) >= self.grace).then_some(keys);
        let is_due = deadlines.key.is_some_and(|at| at <= keys)
            || deadlines.lease.is_some_and(|at| leases.is_some_and(|leases| at <= leases));
        let tick = idle >= TICK;
        self.under_way = is_due || tick;
        self.under_way.then_some(ExpiryQuery { keys, leases, tick })
    }

    /// The request has been applied, or was not proposed.
    pub fn ended(&mut self) {
        self.under_way = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::ZERO.after(Duration::from_millis(ms))
    }

    fn time(ms: u64) -> Option<(Timestamp, Duration)> {
        Some((Timestamp::new(ms), Duration::ZERO))
    }

    const KEY: Deadlines = Deadlines { key: Some(Timestamp::new(100)), lease: None };
    const LEASE: Deadlines = Deadlines { key: None, lease: Some(Timestamp::new(100)) };

    /// Rule X6 of PROTOCOL.md.
    #[test]
    fn x6_a_due_expiry_is_proposed_once() {
        let mut reaper = Reaper::new(Duration::from_millis(50));
        assert_eq!(reaper.query(at(0), true, KEY, || time(99)), None);
        let ask = ExpiryQuery { keys: Timestamp::new(100), leases: None, tick: false };
        assert_eq!(reaper.query(at(2), true, KEY, || time(100)), Some(ask));
        assert_eq!(reaper.query(at(3), true, KEY, || time(101)), None);
        reaper.ended();
        assert_eq!(reaper.query(at(4), true, Deadlines::default(), || time(102)), None);
        assert!(reaper.query(at(4), true, KEY, || time(102)).is_some());
    }

    /// Rule X6 of PROTOCOL.md.
    #[test]
    fn x6_only_a_serving_primary_proposes_and_leases_can_be_renewed_first() {
        let mut reaper = Reaper::new(Duration::from_millis(50));
        assert_eq!(reaper.query(at(0), false, KEY, || time(500)), None);
        assert_eq!(reaper.query(at(100), true, LEASE, || time(500)), None);
        assert_eq!(reaper.query(at(149), true, LEASE, || time(500)), None);
        let all = ExpiryQuery { keys: Timestamp::new(500), leases: Some(Timestamp::new(500)), tick: false };
        assert_eq!(reaper.query(at(150), true, LEASE, || time(500)), Some(all));
        // It stopped serving for a while: the request may be lost, and nobody could keep a lease alive.
        assert_eq!(reaper.query(at(160), false, LEASE, || time(500)), None);
        assert_eq!(reaper.query(at(170), true, LEASE, || time(500)), None);
        assert_eq!(reaper.query(at(220), true, LEASE, || time(500)), Some(all));
    }

    /// Rule X6 of PROTOCOL.md: time is recorded while nothing else happens, as long as something will expire.
    #[test]
    fn x6_the_time_is_recorded_each_minute_while_there_are_deadlines() {
        let mut reaper = Reaper::new(Duration::from_millis(50));
        let idle = |seconds| Some((Timestamp::new(1), Duration::from_secs(seconds)));
        assert_eq!(reaper.query(at(0), true, KEY, || idle(59)), None);
        assert_eq!(reaper.query(at(0), true, Deadlines::default(), || idle(61)), None);
        let tick = ExpiryQuery { keys: Timestamp::new(1), leases: None, tick: true };
        assert_eq!(reaper.query(at(0), true, KEY, || idle(60)), Some(tick));
        assert_eq!(reaper.query(at(0), true, KEY, || idle(61)), None, "it is under way");
    }
}
