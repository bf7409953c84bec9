//! The wall time that goes into the log: the median of the members' clocks, so that one clock that is far off moves nothing.

use crate::ids::{MemberId, Timestamp};
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(super) struct Stamp {
    /// Each peer's clock minus ours, in milliseconds, when it last told.
    offsets: BTreeMap<MemberId, i64>,
}

impl Stamp {
    pub(super) fn on_peer_clock(&mut self, peer: MemberId, theirs: Timestamp, ours: Timestamp) {
        let signed = |stamp: Timestamp| i64::try_from(stamp.get()).unwrap_or(i64::MAX);
        self.offsets.insert(peer, signed(theirs).saturating_sub(signed(ours)));
    }

    /// The stamp of the next entry: never before `last`. `None` while fewer than `quorum` clocks are known.
    pub(super) fn next(&self, last: Timestamp, ours: Timestamp, quorum: usize) -> Option<Timestamp> {
        let mut offsets: Vec<i64> = self.offsets.values().copied().chain([0]).collect();
        if offsets.len() < quorum {
            return None;
        }
        offsets.sort_unstable();
        let median = offsets[(offsets.len() - 1) / 2];
        Some(last.max(Timestamp::new(ours.get().saturating_add_signed(median))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rule N7 of PROTOCOL.md.
    #[test]
    fn n7_one_clock_in_the_year_2099_moves_no_stamp() {
        let now = Timestamp::new(1_700_000_000_000);
        let far = Timestamp::new(4_070_908_800_000);
        let mut stamp = Stamp::default();
        stamp.on_peer_clock(MemberId::new(1), far, now);
        stamp.on_peer_clock(MemberId::new(2), now, now);
        assert_eq!(stamp.next(Timestamp::ZERO, now, 2), Some(now));
        let mut far_itself = Stamp::default();
        far_itself.on_peer_clock(MemberId::new(1), now, far);
        far_itself.on_peer_clock(MemberId::new(2), now, far);
        assert_eq!(far_itself.next(Timestamp::ZERO, far, 2), Some(now));
    }

    /// Rule N7 of PROTOCOL.md.
    #[test]
    fn n7_stamps_never_go_back_and_wait_for_a_quorum_of_clocks() {
        let last = Timestamp::new(5_000);
        assert_eq!(Stamp::default().next(last, Timestamp::new(9_000), 2), None);
        assert_eq!(Stamp::default().next(last, Timestamp::new(4_000), 1), Some(last));
        assert_eq!(Stamp::default().next(last, Timestamp::new(6_000), 1), Some(Timestamp::new(6_000)));
    }
}
