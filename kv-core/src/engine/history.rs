//! How much history a state holds.

use super::EngineError;
use super::change::{CHANGE_OVERHEAD, Retention};
use crate::ids::Revision;
use serde::{Deserialize, Serialize};

/// The name of the row with the range, among the rows that belong to the state besides the data.
pub(super) const RANGE: &[u8] = b"history";

/// The history of a state, and its size. All of it follows from the log, so it is the same on all members.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct HistoryRange {
    /// The revision of the state.
    pub(super) revision: Revision,
    /// The changes up to this revision are dropped. It is the oldest revision that can be read.
    pub(super) floor: Revision,
    /// The weight of the changes after it.
    pub(super) bytes: u64,
    /// The bytes of the present keys and values.
    pub(super) live: u64,
}

/// A change: its revision and its weight.
pub(super) type Weighed = (Revision, u64);

impl HistoryRange {
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, EngineError> {
        let range: Option<Self> = postcard::from_bytes(bytes).ok();
        range
            .filter(|range| range.floor <= range.revision && range.revision.get() <= u64::MAX >> 2)
            .ok_or_else(|| EngineError::damaged("the range of its history cannot be read"))
    }

    pub(super) fn encode(self) -> Vec<u8> {
        postcard::to_stdvec(&self).expect("plain data always encodes")
    }

    /// How many changes the history holds, at most.
    pub(super) fn most_changes(&self) -> u64 {
        self.bytes / CHANGE_OVERHEAD as u64
    }

    /// How much the state takes on disk, about, if its files hold nothing that is not needed.
    pub(super) fn needed(&self) -> u64 {
        self.live.saturating_add(self.bytes)
    }

    /// The range of the state at `revision`, in which `live` bytes more are present: the history that is kept so far,
    /// and what was `added`, without what need not be kept any more, oldest first and in whole revisions.
    pub(super) fn extended(
        self,
        revision: Revision,
        retention: Retention,
        live: i64,
        kept: impl Iterator<Item = Result<Weighed, EngineError>>,
        added: &[Weighed],
    ) -> Result<Self, EngineError> {
        let mut range = Self { revision, live: self.live.saturating_add_signed(live), ..self };
        if !retention.is_some() {
            return Ok(Self { floor: revision, bytes: 0, ..range });
        }
        let new: u64 = added.iter().map(|(_, weight)| weight).sum();
        range.bytes = range.bytes.saturating_add(new);
        range.floor = range.floor.max(retention.through(revision));
        for change in kept.chain(added.iter().copied().map(Ok)) {
            let (at, weight) = change?;
            if at > range.floor && range.bytes <= retention.bytes {
                break;
            }
            range.floor = range.floor.max(at);
            range.bytes = range.bytes.saturating_sub(weight);
        }
        Ok(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_revisions_are_dropped_oldest_first() {
        let at = Revision::new;
        let retention = Retention { revisions: 10, bytes: 100 };
        let before = HistoryRange { revision: at(4), floor: at(1), bytes: 60, live: 9 };
        let kept = [(at(2), 20), (at(2), 20), (at(4), 20)];
        let extend = |added: &[Weighed], to| {
            before.extended(at(to), retention, -2, kept.into_iter().map(Ok), added).unwrap()
        };
        let range = extend(&[(at(5), 40)], 5);
        assert_eq!(range, HistoryRange { revision: at(5), floor: at(1), bytes: 100, live: 7 });
        let range = extend(&[(at(5), 41)], 5);
        assert_eq!((range.floor, range.bytes), (at(2), 61), "the second change at 2 goes with the first");
        let range = extend(&[(at(5), 101)], 6);
        assert_eq!((range.floor, range.bytes), (at(5), 0));
        let range = extend(&[], 13);
        assert_eq!((range.floor, range.bytes), (at(3), 20), "however small they are");
    }

    #[test]
    fn a_range_that_no_checkpoint_writes_is_damage() {
        let range = HistoryRange { revision: Revision::new(1), floor: Revision::new(2), bytes: 0, live: 0 };
        assert!(HistoryRange::decode(&range.encode()).is_err());
        assert!(HistoryRange::decode(b"").is_err());
    }
}
