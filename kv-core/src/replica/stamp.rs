//! The wall time that goes into the log: the median of the members' clocks, so that one clock that is far off moves nothing.

use super::state::State;
use super::{Now, Replica};
use crate::ids::{Instant, MemberId, Timestamp};
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(super) struct Stamp {
    /// Each peer's wall clock minus our monotonic one, in milliseconds, when it last told: a step of our own wall clock changes
    /// nothing about what we know of theirs.
    peers: BTreeMap<MemberId, i64>,
}

impl Stamp {
    pub(super) fn on_peer_clock(&mut self, peer: MemberId, theirs: Timestamp, now: Instant) {
        self.peers.insert(peer, signed(theirs.get()).saturating_sub(millis(now)));
    }

    /// The stamp of the next entry: never before `last`. `None` while fewer than `quorum` clocks are known.
    pub(super) fn next(&self, last: Timestamp, now: Now, quorum: usize) -> Option<Timestamp> {
        let own = signed(now.wall.get()).saturating_sub(millis(now.monotonic));
        let mut offsets: Vec<i64> = self.peers.values().copied().chain([own]).collect();
        if offsets.len() < quorum {
            return None;
        }
        offsets.sort_unstable();
        let median = offsets[(offsets.len() - 1) / 2];
        let stamp = u64::try_from(median.saturating_add(millis(now.monotonic))).unwrap_or(0);
        Some(last.max(Timestamp::new(stamp)))
    }
}

impl Replica {
    /// What an entry would be stamped with that was made `now`; `None` if this member would make none. It is no promise: the next
    /// entry's stamp may be less, if a clock is set back.
    #[must_use]
    pub fn stamp(&self, now: Now) -> Option<Timestamp> {
        let State::Primary(primary) = &self.state else { return None };
        let quorum = self.cluster.replication_quorum();
        primary.stamp.next(self.log.timestamp(), now, quorum).filter(|_| primary.is_serving())
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn millis(now: Instant) -> i64 {
    signed(now.get() / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TODAY: u64 = 1_700_000_000_000;
    const FAR: u64 = 4_070_908_800_000;

    fn now(ms: u64, wall: u64) -> Now {
        Now { monotonic: Instant::new(ms * 1_000_000), wall: Timestamp::new(wall) }
    }

    fn hear(stamp: &mut Stamp, peer: u8, wall: u64, ms: u64) {
        stamp.on_peer_clock(MemberId::new(peer), Timestamp::new(wall), Instant::new(ms * 1_000_000));
    }

    /// Rule N7 of PROTOCOL.md.
    #[test]
    fn n7_one_clock_in_the_year_2099_moves_no_stamp() {
        let mut stamp = Stamp::default();
        hear(&mut stamp, 1, FAR, 5);
        hear(&mut stamp, 2, TODAY, 5);
        assert_eq!(stamp.next(Timestamp::ZERO, now(5, TODAY), 2), Some(Timestamp::new(TODAY)));
        let mut far_itself = Stamp::default();
        hear(&mut far_itself, 1, TODAY, 5);
        hear(&mut far_itself, 2, TODAY, 5);
        assert_eq!(far_itself.next(Timestamp::ZERO, now(5, FAR), 2), Some(Timestamp::new(TODAY)));
    }

    /// Rule N7 of PROTOCOL.md: the clock is set after the peers were heard.
    #[test]
    fn n7_a_primary_whose_clock_is_set_forward_stamps_as_before() {
        let mut stamp = Stamp::default();
        hear(&mut stamp, 1, TODAY, 5);
        hear(&mut stamp, 2, TODAY, 5);
        assert_eq!(stamp.next(Timestamp::ZERO, now(10, FAR), 2), Some(Timestamp::new(TODAY + 5)));
    }

    /// Rule N7 of PROTOCOL.md.
    #[test]
    fn n7_stamps_never_go_back_and_wait_for_a_quorum_of_clocks() {
        let last = Timestamp::new(5_000);
        assert_eq!(Stamp::default().next(last, now(1, 9_000), 2), None);
        assert_eq!(Stamp::default().next(last, now(1, 4_000), 1), Some(last));
        assert_eq!(Stamp::default().next(last, now(1, 6_000), 1), Some(Timestamp::new(6_000)));
    }
}
