//! All sessions of a state.

use super::{DuplicateCheck, RequestResult, Session};
use crate::ids::{RequestNumber, Revision, SessionId, Timestamp};
use crate::message::Rejection;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// The limits of sessions. They decide what requests do, so they are equal on all members.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionLimits {
    /// The largest number of sessions.
    pub max: usize,
    /// A session that is silent for this long expires.
    pub ttl: Duration,
    /// The most requests in flight per session.
    pub window: usize,
    /// The most bytes of results that are kept for one session; at least the weight of one result.
    pub session_bytes: usize,
    /// The most bytes of results that are kept for all sessions together; at least that of one session.
    pub all_bytes: usize,
}

/// Sessions that changed since the changes were last taken; `None` for a removed session.
pub type SessionChanges = Vec<(SessionId, Option<Arc<Session>>)>;

/// The sessions of a state, in id order.
#[derive(Clone, Debug)]
pub struct Sessions {
    limits: SessionLimits,
    /// Shared with a checkpoint that is being written, and copied on the first change after that.
    sessions: BTreeMap<SessionId, Arc<Session>>,
    /// The same sessions, the longest silent first; ties by id.
    silence: BTreeSet<(Timestamp, SessionId)>,
    /// The results, the oldest first, with their weights.
    kept: BTreeMap<(Revision, SessionId, RequestNumber), usize>,
    /// The total weight.
    held: usize,
    /// What a checkpoint must write. `None` if changes are not tracked.
    changed: Option<BTreeSet<SessionId>>,
}

impl Sessions {
    /// Creates an empty table. `tracked`: changes are collected for [`take_changes`](Self::take_changes), which must be
    /// called from time to time.
    #[must_use]
    pub fn new(limits: SessionLimits, tracked: bool) -> Self {
        Self {
            limits,
            sessions: BTreeMap::new(),
            silence: BTreeSet::new(),
            kept: BTreeMap::new(),
            held: 0,
            changed: tracked.then(BTreeSet::new),
        }
    }

    /// Restores a stored session after a restart.
    pub fn restore(&mut self, id: SessionId, session: Session) {
        self.silence.insert((session.last_heard, id));
        for (revision, number, weight) in session.kept() {
            self.kept.insert((revision, id, number), weight);
            self.held += weight;
        }
        self.sessions.insert(id, Arc::new(session));
    }

    /// The number of sessions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether there are none.
    #[cfg(feature = "internals")]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// The existing session that was opened last.
    #[cfg(feature = "internals")]
    #[must_use]
    pub fn newest(&self) -> Option<SessionId> {
        self.sessions.last_key_value().map(|(id, _)| *id)
    }

    /// All sessions in id order.
    #[cfg(feature = "internals")]
    pub fn iter(&self) -> impl Iterator<Item = (SessionId, &Session)> {
        self.sessions.iter().map(|(id, session)| (*id, &**session))
    }

    /// Removes the sessions that were silent for the ttl at `now`, the stamp of an entry. Call it before the requests
    /// of the entry.
    pub fn expire(&mut self, now: Timestamp) {
        let ttl = u64::try_from(self.limits.ttl.as_millis()).unwrap_or(u64::MAX);
        while let Some(&(heard, id)) = self.silence.first() {
            if now.distance_from(heard) < ttl {
                break;
            }
            self.close(id);
        }
    }

    /// Opens a session. If there are too many, the one that was silent longest is evicted (of several, the oldest).
    pub fn open(&mut self, id: SessionId, now: Timestamp) {
        while self.sessions.len() >= self.limits.max {
            let Some(&(_, evicted)) = self.silence.first() else { break };
            self.close(evicted);
        }
        self.restore(id, Session::new(now));
        self.mark(id);
    }

    /// Decides on a request at its place in the log. Every request counts as a sign of life, and its `acked_through` is
    /// processed in any case.
    pub fn decide(
        &mut self,
        id: SessionId,
        number: RequestNumber,
        acked_through: RequestNumber,
        now: Timestamp,
    ) -> DuplicateCheck {
        let window = self.limits.window as u64;
        let Some(session) = self.sessions.get_mut(&id) else {
            return DuplicateCheck::Answered(Err(Rejection::SessionExpired));
        };
        let session = Arc::make_mut(session);
        if session.last_heard != now {
            self.silence.remove(&(session.last_heard, id));
            self.silence.insert((now, id));
            session.last_heard = now;
        }
        for (revision, number) in session.acknowledge(acked_through) {
            self.held -= self.kept.remove(&(revision, id, number)).unwrap_or(0);
        }
        let decision = session.decide(number, window);
        self.mark(id);
        decision
    }

    /// Stores the outcome of a request for which [`decide`](Self::decide) returned [`DuplicateCheck::Run`]. Rule E7: if
    /// the results take too much, the oldest are dropped, first of this session and then of all.
    pub fn record(&mut self, id: SessionId, number: RequestNumber, answer: RequestResult) {
        // There is no session any more if the request has closed it.
        let Some(session) = self.sessions.get_mut(&id).filter(|session| session.stored(number).is_none())
        else {
            return;
        };
        let (revision, weight) = super::measure(&answer);
        Arc::make_mut(session).keep(number, answer);
        self.kept.insert((revision, id, number), weight);
        self.held += weight;
        while let Some((revision, number)) = self.oldest_beyond(id, self.limits.session_bytes) {
            self.drop_result(revision, id, number);
        }
        while self.held > self.limits.all_bytes {
            // A session that takes more than a fair share is reduced first.
            let share = self.limits.all_bytes / self.sessions.len();
            let own = self.oldest_beyond(id, share).map(|(revision, number)| (revision, id, number));
            let Some((revision, id, number)) = own.or_else(|| self.kept.keys().next().copied()) else {
                break;
            };
            self.drop_result(revision, id, number);
        }
    }

    /// The oldest result of a session whose results weigh more than this.
    fn oldest_beyond(&self, id: SessionId, bytes: usize) -> Option<(Revision, RequestNumber)> {
        self.sessions.get(&id).filter(|session| session.weight() > bytes)?.oldest()
    }

    fn drop_result(&mut self, revision: Revision, id: SessionId, number: RequestNumber) {
        self.held -= self.kept.remove(&(revision, id, number)).unwrap_or(0);
        if let Some(session) = self.sessions.get_mut(&id) {
            Arc::make_mut(session).drop_result(number);
            self.mark(id);
        }
    }

    /// Removes a session. Its id is never used again.
    pub fn close(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.remove(&id) {
            self.silence.remove(&(session.last_heard, id));
            for (revision, number, _) in session.kept() {
                self.held -= self.kept.remove(&(revision, id, number)).unwrap_or(0);
            }
            self.mark(id);
        }
    }

    /// The result of a request, if it is still kept.
    #[cfg(feature = "internals")]
    #[must_use]
    pub fn stored(&self, id: SessionId, number: RequestNumber) -> Option<&RequestResult> {
        self.sessions.get(&id)?.stored(number)
    }

    /// The sessions that changed since the last call, in id order.
    pub fn take_changes(&mut self) -> SessionChanges {
        let changed = self.changed.as_mut().map(std::mem::take).unwrap_or_default();
        changed.into_iter().map(|id| (id, self.sessions.get(&id).cloned())).collect()
    }

    fn mark(&mut self, id: SessionId) {
        if let Some(changed) = &mut self.changed {
            changed.insert(id);
        }
    }

    /// Asserts that the indexes hold the same sessions and results, and that each session is within its limits.
    #[cfg(feature = "internals")]
    pub fn check_invariants(&self) {
        assert_eq!(self.sessions.len(), self.silence.len());
        assert!(self.sessions.len() <= self.limits.max);
        assert_eq!(self.held, self.sessions.values().map(|session| session.weight()).sum::<usize>());
        assert_eq!(self.held, self.kept.values().sum::<usize>());
        assert!(self.held <= self.limits.all_bytes);
        for (id, session) in &self.sessions {
            assert!(self.silence.contains(&(session.last_heard, *id)));
            assert!(session.is_within(&self.limits));
        }
    }
}
