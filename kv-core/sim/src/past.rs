//! Reads at a past revision, and of a state that is not older than one: what clients must receive.

use super::history::Ending;
use super::model::Model;
use bytes::Bytes;
use kv_core::ids::Revision;
use kv_core::message::{Query, ReadMode, Record};

impl Model {
    /// Whether this is a correct answer to a read of `query`: by the time that it must see, `floor` had been reported
    /// to someone, and when it ended no more than `ceiling` was committed.
    pub(super) fn past_fits(
        &self,
        query: &Query,
        mode: ReadMode,
        floor: Revision,
        ceiling: Revision,
        ending: &Ending,
    ) -> bool {
        match ending {
            Ending::Compacted(oldest) => {
                let is_old = query.at().is_some_and(|at| at < *oldest);
                is_old && *oldest <= ceiling && *oldest >= self.kept_since(mode, floor)
            }
            Ending::Future(newest) => {
                let is_fresh = matches!(mode, ReadMode::Local | ReadMode::AtLeast(_)) || *newest >= floor;
                query.at().is_some_and(|at| at > *newest) && is_fresh && *newest <= ceiling
            }
            Ending::Value { revision: Some(revision), record } => {
                let right = match query {
                    Query::Get { key, .. } => self.at(key, *revision) == *record,
                    Query::Many { .. } | Query::Scan { .. } | Query::Count { .. } => false,
                };
                right && self.is_due(query, mode, floor, *revision)
            }
            Ending::Counted { count, more, revision } => {
                let right = match query {
                    Query::Count { from, to, .. } => {
                        // A count of a range of the simulator's size takes one step.
                        !more && self.range(from, to.as_ref(), *revision).len() as u64 == *count
                    }
                    Query::Get { .. } | Query::Many { .. } | Query::Scan { .. } => false,
                };
                right && self.is_due(query, mode, floor, *revision)
            }
            Ending::Records { revision: Some(revision), records, more } => {
                self.page_fits(query, *revision, records, *more) && self.is_due(query, mode, floor, *revision)
            }
            _ => false,
        }
    }

    /// Whether a state of this revision had to be read, and could be.
    fn is_due(&self, query: &Query, mode: ReadMode, floor: Revision, revision: Revision) -> bool {
        match (query.at(), mode) {
            (Some(at), _) => revision == at && at >= self.kept_since(mode, floor),
            (None, ReadMode::AtLeast(least)) => revision >= least,
            (None, ReadMode::MaxStaleness(_)) => revision >= floor,
            (None, _) => true,
        }
    }

    /// Every state that may answer such a read has dropped the revisions before this one.
    fn kept_since(&self, mode: ReadMode, floor: Revision) -> Revision {
        let oldest_state = match mode {
            ReadMode::Local => Revision::ZERO,
            ReadMode::AtLeast(least) => least,
            _ => floor,
        };
        oldest_state.back(self.kept)
    }

    fn page_fits(&self, query: &Query, at: Revision, records: &[(Bytes, Record)], more: bool) -> bool {
        match query {
            Query::Get { .. } | Query::Count { .. } => false,
            Query::Many { keys, .. } => {
                let there = keys.iter().filter_map(|key| Some((key.clone(), self.at(key, at)?)));
                !more && there.eq(records.iter().cloned())
            }
            Query::Scan { from, to, limit, reverse, keys_only, .. } => {
                let mut all = self.range(from, to.as_ref(), at);
                if *reverse {
                    all.reverse();
                }
                if *keys_only {
                    all.iter_mut().for_each(|(_, record)| record.value = Bytes::new());
                }
                let shown = records.len();
                let is_within = shown <= usize::try_from(*limit).unwrap_or(usize::MAX);
                is_within && all.get(..shown) == Some(records) && more == (shown < all.len())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::Leases;
    use super::*;

    const fn r(revision: u64) -> Revision {
        Revision::new(revision)
    }

    /// A model at revision 100 that keeps 10 revisions.
    fn model() -> Model {
        Model { revision: r(100), kept: 10, leases: Leases::at_most(1), ..Model::default() }
    }

    #[test]
    fn what_every_possible_state_has_dropped_is_not_read() {
        let model = model();
        let fits = |at: u64, mode, ending: &Ending| {
            let query = Query::Get { key: "k".into(), at: Some(r(at)) };
            model.past_fits(&query, mode, r(50), r(100), ending)
        };
        let value = |at| Ending::Value { record: None, revision: Some(r(at)) };
        let compacted = |oldest| Ending::Compacted(r(oldest));
        let (all, least) = (ReadMode::Linearizable, ReadMode::AtLeast(r(30)));
        // A state at 50 keeps 40 and later revisions, and one at 30 keeps 20 and later ones.
        assert!(fits(40, all, &value(40)) && !fits(39, all, &value(39)));
        assert!(fits(20, least, &value(20)) && !fits(19, least, &value(19)));
        assert!(fits(0, ReadMode::Local, &value(0)), "its state may be old");
        assert!(fits(30, all, &compacted(40)) && !fits(30, all, &compacted(39)));
        assert!(!fits(30, all, &compacted(30)) && !fits(30, all, &compacted(101)));
    }
}
