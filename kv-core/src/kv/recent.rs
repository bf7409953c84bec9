//! The results of the last requests, for readers: a retry of an applied request need not go through the log.

use crate::ids::{RequestNumber, SessionId};
use crate::session::RequestResult;
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, TryLockError};

/// How many results are kept.
const KEPT: usize = 4096;

/// Larger results are not kept, because the log has them too.
const LARGEST: usize = 1024;

type Key = (SessionId, RequestNumber);

/// A bounded cache of results. A reader that finds it locked does without it.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<Results>);

#[derive(Debug, Default)]
struct Results {
    found: HashMap<Key, RequestResult>,
    order: VecDeque<Key>,
}

impl Recent {
    /// Returns the results, or `None` if they are locked.
    fn unlocked(&self) -> Option<MutexGuard<'_, Results>> {
        match self.0.try_lock() {
            Ok(kept) => Some(kept),
            Err(TryLockError::Poisoned(kept)) => Some(kept.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    pub(super) fn insert(&self, results: impl Iterator<Item = (Key, RequestResult)>) {
        let Some(mut kept) = self.unlocked() else { return };
        let small =
            |answer: &RequestResult| answer.as_ref().map_or(0, |outcome| outcome.effect.weight()) <= LARGEST;
        for (key, answer) in results.filter(|(_, answer)| small(answer)) {
            if kept.found.insert(key, answer).is_none() {
                kept.order.push_back(key);
            }
        }
        while kept.order.len() > KEPT {
            if let Some(oldest) = kept.order.pop_front() {
                kept.found.remove(&oldest);
            }
        }
    }

    pub(super) fn get(&self, session: SessionId, number: RequestNumber) -> Option<RequestResult> {
        self.unlocked()?.found.get(&(session, number)).cloned()
    }
}
