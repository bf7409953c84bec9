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
            Ending::Compacted(oldest) => query.at().is_some_and(|at| at < *oldest) && *oldest <= ceiling,
            Ending::Future(newest) => {
                let is_fresh = matches!(mode, ReadMode::Local | ReadMode::AtLeast(_)) || *newest >= floor;
                query.at().is_some_and(|at| at > *newest) && is_fresh && *newest <= ceiling
            }
            Ending::Value { revision: Some(revision), record } => {
                let right = match query {
                    Query::Get { key, .. } => self.at(key, *revision) == *record,
                    Query::Many { .. } | Query::Scan { .. } => false,
                };
                right && is_due(query, mode, floor, *revision)
            }
            Ending::Records { revision: Some(revision), records, more } => {
                self.page_fits(query, *revision, records, *more) && is_due(query, mode, floor, *revision)
            }
            _ => false,
        }
    }

    fn page_fits(&self, query: &Query, at: Revision, records: &[(Bytes, Record)], more: bool) -> bool {
        match query {
            Query::Get { .. } => false,
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

/// Whether a state of this revision had to be read.
fn is_due(query: &Query, mode: ReadMode, floor: Revision, revision: Revision) -> bool {
    match (query.at(), mode) {
        (Some(at), _) => revision == at,
        (None, ReadMode::AtLeast(least)) => revision >= least,
        (None, ReadMode::MaxStaleness(_)) => revision >= floor,
        (None, _) => true,
    }
}
