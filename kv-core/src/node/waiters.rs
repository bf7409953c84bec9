//! Who waits for which proposed request. The driver adds, the applier answers.

use super::inbox::RequestKey;
use super::reply::Responder;
use super::sync::lock;
use crate::kv::Applied;
use crate::message::Answer;
use std::collections::HashMap;
use std::sync::Mutex;

/// How many retries of one request may wait beside the first; the oldest of them gives way.
const MORE: usize = 4;

#[derive(Debug)]
struct WaitingResponders {
    first: Responder,
    /// Retries that came in over other connections.
    more: Vec<Responder>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    waiting: Mutex<HashMap<RequestKey, WaitingResponders>>,
}

impl Waiters {
    /// Adds a waiter. Returns whether it is the first, that is, whether the request is yet to be proposed.
    pub(super) fn join(&self, key: RequestKey, reply: Responder) -> bool {
        use std::collections::hash_map::Entry;
        match lock(&self.waiting).entry(key) {
            Entry::Vacant(place) => {
                place.insert(WaitingResponders { first: reply, more: Vec::new() });
                true
            }
            Entry::Occupied(mut place) => {
                let more = &mut place.get_mut().more;
                if more.len() == MORE {
                    more.remove(0);
                }
                more.push(reply);
                false
            }
        }
    }

    /// Answers those who wait for these requests.
    pub(super) fn applied(&self, applied: Vec<Applied>) {
        let mut waiting = lock(&self.waiting);
        if waiting.is_empty() {
            return;
        }
        for request in applied {
            let Some(found) = waiting.remove(&key_of(&request)) else { continue };
            for reply in found.more {
                reply.send(Answer::Written(request.result.clone()));
            }
            found.first.send(Answer::Written(request.result));
        }
    }

    /// Answers every waiter that the fate of the request is unknown.
    pub(super) fn abandon(&self) {
        let waiting = std::mem::take(&mut *lock(&self.waiting));
        for found in waiting.into_values() {
            for reply in found.more.into_iter().chain([found.first]) {
                reply.send(Answer::Abandoned);
            }
        }
    }
}

fn key_of(applied: &Applied) -> RequestKey {
    match applied.nonce {
        Some(nonce) => RequestKey::Open(nonce),
        None => RequestKey::Numbered(applied.session, applied.number),
    }
}

#[cfg(test)]
mod tests {
    use super::super::reply::Outbox;
    use super::*;
    use crate::ids::{RequestNumber, Revision, SessionId};
    use crate::message::Rejection;
    use crate::node::metrics::RequestKind;
    use crate::node::reply::Admission;

    const KEY: RequestKey = RequestKey::Numbered(SessionId::new(1), RequestNumber::new(2));

    fn applied() -> Applied {
        Applied {
            revision: Revision::new(9),
            session: SessionId::new(1),
            number: RequestNumber::new(2),
            nonce: None,
            result: Err(Rejection::Forgotten),
        }
    }

    #[tokio::test]
    async fn a_retry_is_not_proposed_again_and_all_callers_are_answered() {
        let (waiters, outbox) =
            (Waiters::default(), Outbox::new(Admission::new(1 << 20), std::sync::Arc::default()));
        assert!(waiters.join(KEY, Responder::new(outbox.clone(), 1, RequestKind::Write, None)));
        assert!(!waiters.join(KEY, Responder::new(outbox.clone(), 2, RequestKind::Write, None)));
        waiters.applied(vec![applied()]);
        let mut calls: Vec<u64> =
            outbox.take(usize::MAX).await.iter().map(|(answer, _)| answer.call).collect();
        calls.sort_unstable();
        assert_eq!(calls, [1, 2]);
        assert!(
            waiters.join(KEY, Responder::new(outbox, 3, RequestKind::Write, None)),
            "nobody waits any more"
        );
    }

    #[tokio::test]
    async fn abandoned_callers_get_an_unknown_outcome() {
        let (waiters, outbox) =
            (Waiters::default(), Outbox::new(Admission::new(1 << 20), std::sync::Arc::default()));
        assert!(waiters.join(KEY, Responder::new(outbox.clone(), 1, RequestKind::Write, None)));
        waiters.abandon();
        assert_eq!(outbox.take(usize::MAX).await[0].0.answer, Answer::Abandoned);
        assert!(outbox.is_idle());
    }

    #[test]
    fn retries_of_one_request_are_bounded() {
        let (waiters, outbox) =
            (Waiters::default(), Outbox::new(Admission::new(1 << 20), std::sync::Arc::default()));
        for call in 0..100 {
            waiters.join(KEY, Responder::new(outbox.clone(), call, RequestKind::Write, None));
        }
        assert_eq!(lock(&waiters.waiting)[&KEY].more.len(), MORE);
    }
}
