//! The state of a watch between two answers. It determines the next request, processes the answer, and does no I/O.
//! [`ClientProtocol`](super::ClientProtocol) runs the calls of the watch.

use super::call::{Call, CallError, Cause, Reply};
use crate::error::WatchError;
use crate::ids::{MemberId, Revision};
use crate::message::{Event, Position, RequestError, SizeLimits, WatchQuery};
use std::collections::VecDeque;

/// The position of a watch, and the events that it has received. Make the call that [`call`](Self::call) returns, pass
/// the result to [`on_result`](Self::on_result), and take the events before the next call.
#[derive(Debug)]
pub struct WatchCursor {
    query: WatchQuery,
    /// The member that answered last.
    prefer: Option<MemberId>,
    /// Received events that have not been taken yet.
    waiting: VecDeque<Event>,
}

impl WatchCursor {
    /// Creates a watch that begins at the position of this query.
    pub const fn new(query: WatchQuery) -> Self {
        Self { query, prefer: None, waiting: VecDeque::new() }
    }

    /// Checks that the keys at both ends of the watched range are not longer than the limits allow.
    pub fn check(&self, limits: SizeLimits) -> Result<(), RequestError> {
        self.query.check(limits)
    }

    /// Returns the next call. It first asks the member that answered last. If no member has answered yet, it first asks
    /// `local`: the member that runs in the same process as the client, if there is one.
    pub fn call(&self, local: Option<MemberId>) -> Call {
        Call::Watch { query: self.query.clone(), prefer: self.prefer.or(local) }
    }

    /// Returns the position from which the next call continues; `None` if no position was given and no member has
    /// answered yet.
    pub const fn place(&self) -> Option<&Position> {
        self.query.after.as_ref()
    }

    /// Takes the next received event.
    pub fn take(&mut self) -> Option<Event> {
        self.waiting.pop_front()
    }

    /// Returns the last revision up to which all events have been taken. A revision without events for this watch
    /// counts as taken. If the watch began without a position and no member has answered yet, this is 0.
    pub fn complete(&self) -> Revision {
        let place = || self.place().map_or(Revision::ZERO, Position::behind);
        self.waiting.front().map_or_else(place, |next| next.revision.back(1))
    }

    /// Processes the result of a call. Afterwards, take the events that have arrived. If there are none, make the next
    /// call.
    ///
    /// # Errors
    /// If this result ends the watch. The error states why.
    pub fn on_result(&mut self, result: Result<Reply, CallError>) -> Result<(), WatchError> {
        match result {
            Ok(Reply::Watched { member, events, next }) => {
                self.waiting = events.into();
                self.query.after = Some(next);
                self.prefer = Some(member);
                Ok(())
            }
            Ok(Reply::Compacted { oldest }) => Err(WatchError::Compacted { oldest }),
            Err(
                CallError::NotApplied(Cause::Refused(why)) | CallError::OutcomeUnknown(Cause::Refused(why)),
            ) => Err(WatchError::Refused(why)),
            // The watch continues: the next call tries again.
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::call::FailureReason;
    use crate::message::EventKind;

    fn cursor() -> WatchCursor {
        let after = Some(Position::after(Revision::new(5)));
        WatchCursor::new(WatchQuery { from: "a".into(), to: None, after, previous: false })
    }

    fn event(revision: u64, key: &'static str) -> Event {
        let revision = Revision::new(revision);
        Event { revision, key: key.into(), kind: EventKind::Deleted, record: None, previous: None }
    }

    fn asks(cursor: &WatchCursor) -> (Option<Position>, Option<MemberId>) {
        match cursor.call(Some(MemberId::new(1))) {
            Call::Watch { query, prefer } => (query.after, prefer),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn w1_a_watch_continues_where_the_answer_ends_at_the_same_member() {
        let mut cursor = cursor();
        let local = Some(MemberId::new(1));
        assert_eq!(asks(&cursor), (Some(Position::after(Revision::new(5))), local));
        // A part of revision 7.
        let next = Position { revision: Revision::new(7), key: Some("b".into()) };
        let events = vec![event(6, "a"), event(7, "b")];
        let reply = Reply::Watched { member: MemberId::new(2), events, next: next.clone() };
        cursor.on_result(Ok(reply)).unwrap();
        assert_eq!(asks(&cursor), (Some(next), Some(MemberId::new(2))));
        assert_eq!((cursor.take(), cursor.take()), (Some(event(6, "a")), Some(event(7, "b"))));
        assert_eq!(cursor.take(), None);
    }

    #[test]
    fn it_retries_from_its_position_until_it_is_compacted() {
        let mut cursor = cursor();
        let before = asks(&cursor);
        for error in [Cause::Deadline(FailureReason::Silent), Cause::SessionExpired] {
            cursor.on_result(Err(CallError::NotApplied(error))).unwrap();
        }
        cursor.on_result(Ok(Reply::Done)).unwrap();
        assert_eq!(asks(&cursor), before);
        let refused = Err(CallError::NotApplied(Cause::Refused("no".into())));
        assert_eq!(cursor.on_result(refused), Err(WatchError::Refused("no".into())));
        let oldest = Revision::new(8);
        assert_eq!(cursor.on_result(Ok(Reply::Compacted { oldest })), Err(WatchError::Compacted { oldest }));
    }

    #[test]
    fn w1_a_revision_is_complete_when_its_last_event_was_taken() {
        let mut cursor = cursor();
        assert_eq!(cursor.complete(), Revision::new(5), "it begins there");
        let reply = |events, revision, key| {
            let next = Position { revision: Revision::new(revision), key };
            Ok(Reply::Watched { member: MemberId::new(2), events, next })
        };
        cursor
            .on_result(reply(vec![event(7, "a"), event(7, "b"), event(9, "a")], 9, Some("a".into())))
            .unwrap();
        let taken = |cursor: &mut WatchCursor| {
            cursor.take().unwrap();
            cursor.complete().get()
        };
        assert_eq!(cursor.complete().get(), 6, "nothing has changed in between");
        assert_eq!([(); 3].map(|()| taken(&mut cursor)), [6, 8, 8], "of 9 there may be more");
        cursor.on_result(reply(vec![event(9, "b"), event(12, "a")], 12, None)).unwrap();
        assert_eq!([(); 2].map(|()| taken(&mut cursor)), [11, 12], "that was all of it");
        cursor.on_result(reply(vec![], 20, None)).unwrap();
        assert_eq!(cursor.complete(), Revision::new(20));
    }
}
