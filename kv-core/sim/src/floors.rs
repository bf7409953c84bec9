//! Which revisions a member must refuse as compacted, and which it must not (rules R3 and W2). The answers are compared
//! where they are given: a client does not know which state has answered it, and this state decides.

use super::report::Checked;
use kv_core::engine::EngineError;
use kv_core::ids::Revision;
use kv_core::kv::{ChangePage, Compacted, PositionSource, StateReader, WatchPoll};
use kv_core::message::{Answer, Position, Query, WatchQuery};

/// The history of a state.
#[derive(Clone, Copy, Debug)]
pub(super) struct Floors {
    /// The oldest revision that is stored.
    stored: Revision,
    /// The oldest revision that counts as kept.
    kept: Revision,
    newest: Revision,
}

impl Floors {
    /// Of this state, in a cluster that keeps so many revisions.
    pub(super) fn of(state: &StateReader, revisions: u64) -> Self {
        let (stored, newest) = (state.stored_floor(), state.revision());
        Self { stored, kept: stored.max(newest.back(revisions)), newest }
    }

    /// A read was answered from the state.
    pub(super) fn check_read(&self, query: &Query, answer: &Result<Answer, EngineError>) -> Checked {
        let expected = match query.at() {
            Some(at) if at < self.kept => Some(Answer::Compacted { oldest: self.kept }),
            Some(at) if at > self.newest => Some(Answer::Future { newest: self.newest }),
            _ => None,
        };
        let Ok(answer) = answer else { return Ok(()) };
        let found = matches!(answer, Answer::Compacted { .. } | Answer::Future { .. }).then_some(answer);
        if found == expected.as_ref() {
            return Ok(());
        }
        let found = format!("{query:?} in {self:?}: {answer:?}, not {expected:?}");
        Err(("what is kept can be read, and nothing else", found))
    }

    /// A watch was looked at.
    pub(super) fn check_poll(
        &self,
        query: &WatchQuery,
        source: PositionSource,
        looked: &Result<WatchPoll, EngineError>,
    ) -> Checked {
        let (Some(after), Ok(looked)) = (&query.after, looked) else { return Ok(()) };
        let found = match looked {
            WatchPoll::Answer(Answer::Compacted { oldest }) => Some(*oldest),
            WatchPoll::Answer(_) | WatchPoll::Nothing(_) => None,
        };
        self.check_position(after, source, found)
    }

    /// The changes after a position were matched against the parked watches.
    pub(super) fn check_match(&self, after: &Position, found: &Result<ChangePage, Compacted>) -> Checked {
        self.check_position(after, PositionSource::Member, found.as_ref().err().map(|error| error.oldest))
    }

    fn check_position(&self, after: &Position, source: PositionSource, found: Option<Revision>) -> Checked {
        let floor = match source {
            PositionSource::Client => self.kept,
            PositionSource::Member => self.stored,
        };
        let is_gone = after.revision < floor || after.key.is_some() && after.revision == floor;
        let expected = is_gone.then_some(self.kept);
        if found == expected {
            return Ok(());
        }
        let found =
            format!("{after:?} of {source:?} in {self:?}: compacted up to {found:?}, not {expected:?}");
        Err(("a watch ends exactly if its history is gone", found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kv_core::message::Record;

    const FLOORS: Floors = Floors { stored: r(5), kept: r(8), newest: r(10) };

    const fn r(revision: u64) -> Revision {
        Revision::new(revision)
    }

    #[test]
    fn a_read_is_refused_exactly_below_what_is_kept() {
        let read = |at: u64, answer: Answer| {
            FLOORS.check_read(&Query::Get { key: "k".into(), at: Some(r(at)) }, &Ok(answer)).is_ok()
        };
        let value = |at| {
            let record: Option<Record> = None;
            Answer::Value { record, revision: r(at) }
        };
        let compacted = |oldest| Answer::Compacted { oldest: r(oldest) };
        assert!(read(8, value(8)) && read(7, compacted(8)) && read(11, Answer::Future { newest: r(10) }));
        assert!(!read(7, value(7)), "it is stored, and counts as dropped");
        assert!(!read(8, compacted(9)) && !read(7, compacted(9)) && !read(8, compacted(8)));
        assert!(!read(11, value(11)) && !read(10, Answer::Future { newest: r(10) }));
    }

    #[test]
    fn a_watch_is_ended_exactly_below_what_is_kept_or_stored() {
        let poll = |after: Position, source, oldest: Option<u64>| {
            let query = WatchQuery { from: "k".into(), to: None, after: Some(after), previous: false };
            let nothing = WatchPoll::Nothing(Position::after(r(10)));
            let compacted = |oldest| WatchPoll::Answer(Answer::Compacted { oldest: r(oldest) });
            FLOORS.check_poll(&query, source, &Ok(oldest.map_or(nothing, compacted))).is_ok()
        };
        let at = |revision| Position::after(r(revision));
        let within = |revision| Position { revision: r(revision), key: Some("k".into()) };
        use PositionSource::{Client, Member};
        assert!(
            poll(at(8), Client, None) && poll(at(7), Client, Some(8)) && poll(within(8), Client, Some(8))
        );
        assert!(!poll(at(7), Client, None) && !poll(at(7), Client, Some(9)) && !poll(at(8), Client, Some(9)));
        assert!(poll(at(5), Member, None) && poll(at(4), Member, Some(8)) && !poll(at(7), Member, Some(8)));
        let found: Result<ChangePage, Compacted> = Err(Compacted { oldest: r(8) });
        assert!(FLOORS.check_match(&at(4), &found).is_ok() && FLOORS.check_match(&at(5), &found).is_err());
    }
}
