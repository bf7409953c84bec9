//! A watch between two answers: what it asks, and what an answer means for it. Pure, as [`Core`](super::Core), under which it runs.

use super::{Call, CallError, Cause, Reply};
use crate::error::WatchError;
use crate::ids::{MemberId, Revision};
use crate::message::{Event, WatchQuery};
use std::collections::VecDeque;

/// See the module. Ask with [`call`](Self::call), give the result to [`on_result`](Self::on_result), and take the events before
/// asking again.
#[derive(Debug)]
pub(crate) struct Asking {
    query: WatchQuery,
    /// Who has answered last.
    prefer: Option<MemberId>,
    /// Events that were told and not taken.
    waiting: VecDeque<Event>,
}

impl Asking {
    /// A watch that begins at the place of this query.
    pub(crate) const fn new(query: WatchQuery) -> Self {
        Self { query, prefer: None, waiting: VecDeque::new() }
    }

    /// The next question: first to `local`, if nobody has answered yet.
    pub(crate) fn call(&self, local: Option<MemberId>) -> Call {
        Call::Watch { query: self.query.clone(), prefer: self.prefer.or(local) }
    }

    /// The next event that was told.
    pub(crate) fn take(&mut self) -> Option<Event> {
        self.waiting.pop_front()
    }

    /// The question has ended: there may be events now. Otherwise ask once more.
    ///
    /// # Errors
    /// If the watch has ended.
    pub(crate) fn on_result(&mut self, result: Result<Reply, CallError>) -> Result<(), WatchError> {
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
            // Another try, for as long as there is somebody who wants to know.
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

/// How far the events that were taken from a watch reach.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    complete: Revision,
    last: Revision,
}

impl Taken {
    /// Of a watch that begins after this revision.
    pub(crate) const fn after(revision: Revision) -> Self {
        Self { complete: revision, last: revision }
    }

    /// One more.
    pub(crate) fn take(&mut self, event: &Event) {
        if event.revision > self.last {
            self.complete = self.complete.max(event.revision.back(1));
            self.last = event.revision;
        }
    }

    /// All events up to this revision were taken. Of the last revision there may be more.
    pub(crate) const fn complete(&self) -> Revision {
        self.complete
    }
}
