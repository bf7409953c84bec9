//! All sessions of a state.

use super::{Answer, Decision, Session};
use crate::ids::{RequestNumber, Revision, SessionId, Timestamp};
use crate::message::Rejection;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// The limits of sessions. They decide what requests do: equal on all members.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionLimits {
    /// The most sessions kept.
    pub max: usize,
    /// A session silent for this long is forgotten.
    pub ttl: Duration,
    /// The most requests in flight per session.
    pub window: usize,
    /// The most bytes of results kept for one session; at least what one result takes.
    pub session_bytes: usize,
    /// The most bytes of results kept for all sessions together; at least that of one.
    pub all_bytes: usize,
}

/// Sessions that changed since the changes were last taken; `None` for one that is gone.
pub type Changes = Vec<(SessionId, Option<Arc<Session>>)>;

/// The sessions of a state, in id order.
#[derive(Clone, Debug)]
pub struct Sessions {
    limits: SessionLimits,
    /// Shared with a checkpoint that is being written; copied on the first change after that.
    sessions: BTreeMap<SessionId, Arc<Session>>,
    /// The same sessions, the one that was silent longest first; ties by id.
    silence: BTreeSet<(Timestamp, SessionId)>,
    /// The results, the oldest first, and what each takes.
    kept: BTreeMap<(Revision, SessionId, RequestNumber), usize>,
    /// What they take together.
    held: usize,
    /// What a checkpoint must write. `None`: nobody takes it.
    changed: Option<BTreeSet<SessionId>>,
}

impl Sessions {
    /// No sessions. `tracked`: changes are collected for [`take_changes`](Self::take_changes), which must be called
    /// from time to time.
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

    /// Puts a stored session back, as a restart does.
    pub fn restore(&mut self, id: SessionId, session: Session) {
        self.silence.insert((session.last_heard, id));
        for (revision, number, weight) in session.kept() {
            self.kept.insert((revision, id, number), weight);
            self.held += weight;
        }
        self.sessions.insert(id, Arc::new(session));
    }

    /// How many there are.
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

    /// The session that was opened last, of those that there are.
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

    /// Forgets the sessions that were silent for the ttl at `now`, the stamp of an entry: call it before the entry's own
    /// requests are looked at.
    pub fn expire(&mut self, now: Timestamp) {
        let ttl = u64::try_from(self.limits.ttl.as_millis()).unwrap_or(u64::MAX);
        while let Some(&(heard, id)) = self.silence.first() {
            if now.distance_from(heard) < ttl {
                break;
            }
            self.close(id);
        }
    }

    /// Opens a session. If there are too many, the one that was silent longest goes (of several, the oldest).
    pub fn open(&mut self, id: SessionId, now: Timestamp) {
        while self.sessions.len() >= self.limits.max {
            let Some(&(_, evicted)) = self.silence.first() else { break };
            self.close(evicted);
        }
        self.restore(id, Session::new(now));
        self.mark(id);
    }

    /// Decides on a request at its place in the log. Every request counts as a sign of life, and its `acked_through`
    /// counts whatever becomes of it.
    pub fn decide(
        &mut self,
        id: SessionId,
        number: RequestNumber,
        acked_through: RequestNumber,
        now: Timestamp,
    ) -> Decision {
        let window = self.limits.window as u64;
        let Some(session) = self.sessions.get_mut(&id) else {
            return Decision::Answered(Err(Rejection::SessionExpired));
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

    /// Stores the outcome of a request for which [`decide`](Self::decide) returned [`Decision::Run`]. Rule E7: if that is too much, the
    /// oldest results are dropped, of this session and then of all.
    pub fn record(&mut self, id: SessionId, number: RequestNumber, answer: Answer) {
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
            // Whoever takes more than a fair share gives first.
            let share = self.limits.all_bytes / self.sessions.len();
            let own = self.oldest_beyond(id, share).map(|(revision, number)| (revision, id, number));
            let Some((revision, id, number)) = own.or_else(|| self.kept.keys().next().copied()) else {
                break;
            };
            self.drop_result(revision, id, number);
        }
    }

    /// The oldest result of a session whose results take more than this.
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

    /// Forgets a session. Its id is never used again.
    pub fn close(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.remove(&id) {
            self.silence.remove(&(session.last_heard, id));
            for (revision, number, _) in session.kept() {
                self.held -= self.kept.remove(&(revision, id, number)).unwrap_or(0);
            }
            self.mark(id);
        }
    }

    /// What became of a request, if it is still kept.
    #[cfg(feature = "internals")]
    #[must_use]
    pub fn stored(&self, id: SessionId, number: RequestNumber) -> Option<&Answer> {
        self.sessions.get(&id)?.stored(number)
    }

    /// The sessions that changed since the last call, in id order.
    pub fn take_changes(&mut self) -> Changes {
        let changed = self.changed.as_mut().map(std::mem::take).unwrap_or_default();
        changed.into_iter().map(|id| (id, self.sessions.get(&id).cloned())).collect()
    }

    fn mark(&mut self, id: SessionId) {
        if let Some(changed) = &mut self.changed {
            changed.insert(id);
        }
    }

    /// Asserts that the indexes hold the same sessions and results, and that each session keeps to its limits.
    #[cfg(feature = "internals")]
    pub fn check_invariants(&self) {
        assert_eq!(self.sessions.len(), self.silence.len());
        assert!(self.sessions.len() <= self.limits.max);
        assert_eq!(self.held, self.sessions.values().map(|session| session.weight()).sum::<usize>());
        assert_eq!(self.held, self.kept.values().sum::<usize>());
        assert!(self.held <= self.limits.all_bytes);
        for (id, session) in &self.sessions {
            assert!(self.silence.contains(&(session.last_heard, *id)));
            assert!(session.keeps_to(&self.limits));
        }
    }
}
