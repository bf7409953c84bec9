//! The changes since a revision, which watches deliver.

use super::StateReader;
use super::record;
use crate::engine::{EngineError, HistoryChange, ReadView};
use crate::ids::Revision;
use crate::message::{Event, Position};
use bytes::Bytes;

/// The most steps in one call: one for each change, also of other keys.
pub(super) const MAX_STEPS: usize = if cfg!(test) { 1024 } else { 16_384 };

/// A query for changes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChangeQuery<'a> {
    /// The first key (inclusive).
    pub from: &'a [u8],
    /// The end (exclusive); `None` for the end of the key space.
    pub to: Option<&'a [u8]>,
    /// Only changes after this position are returned.
    pub after: Position,
    /// Whether the events contain the previous values of the keys.
    pub previous: bool,
    /// At most this many events. At least 1.
    pub max_events: usize,
    /// No more events are added once they have this many bytes of keys and values; a single larger event may have twice
    /// as many.
    pub max_bytes: usize,
}

/// Events in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChangePage {
    /// All events of the range between the query's position and `next`.
    pub events: Vec<Event>,
    /// The position to continue at, on any member. It advances even if nothing in the range has changed.
    pub next: Position,
    /// Whether there may be more changes now. Otherwise there are more once the state has advanced.
    pub more: bool,
}

/// The requested position is older than the history that is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("compacted: the oldest revision that is kept is {oldest}")]
pub struct Compacted {
    /// The oldest revision that can be read. All changes after it are known.
    pub oldest: Revision,
}

impl StateReader {
    /// Returns the changes after a position, in order. If each call continues at the `next` of the last one, on any
    /// member, no event is missing and none is returned twice. A position that this member has not reached yields
    /// nothing yet.
    ///
    /// An answer is bounded, so a revision that has changed many keys may be split. It costs a few look-ups for each
    /// event, and a step for each change of other keys.
    ///
    /// # Errors
    /// If the disk fails or is damaged. The inner result is [`Compacted`] if the position is older than the history
    /// that is kept.
    pub fn changes(&self, query: &ChangeQuery<'_>) -> Result<Result<ChangePage, Compacted>, EngineError> {
        let view = self.latest();
        let floor = self.floor(&view);
        self.changes_in(&view, floor, query)
    }

    /// The same for a position that this member itself has reached: whatever is still stored after it is returned. So
    /// a skip of revisions does not end the watches that are parked here.
    pub(super) fn stored_changes(
        &self,
        query: &ChangeQuery<'_>,
    ) -> Result<Result<ChangePage, Compacted>, EngineError> {
        let view = self.latest();
        self.changes_in(&view, view.floor(), query)
    }

    /// The changes since a position that is not older than `floor`.
    fn changes_in(
        &self,
        view: &ReadView,
        floor: Revision,
        query: &ChangeQuery<'_>,
    ) -> Result<Result<ChangePage, Compacted>, EngineError> {
        let Position { revision, key } = &query.after;
        if *revision < floor || key.is_some() && *revision == floor {
            return Ok(Err(Compacted { oldest: floor.max(self.floor(view)) }));
        }
        let (mut events, mut bytes, mut last) = (Vec::new(), 0, query.after.clone());
        for (steps, change) in view.changes(*revision, key.as_deref())?.enumerate() {
            let HistoryChange { revision, key } = change?;
            let mut full = events.len() >= query.max_events || bytes >= query.max_bytes || steps >= MAX_STEPS;
            if !full && *key >= *query.from && query.to.is_none_or(|to| *key < *to) {
                let event = event(view, revision, key.clone(), query.previous)?;
                // A large event is returned alone. With others it might not fit into a frame.
                full = !events.is_empty() && bytes + size(&event) > query.max_bytes.saturating_mul(2);
                if !full {
                    bytes += size(&event);
                    events.push(event);
                }
            }
            if full {
                // All revisions before the next change are complete.
                let next = if revision > last.revision { Position::after(revision.back(1)) } else { last };
                return Ok(Ok(ChangePage { events, next, more: true }));
            }
            last = Position { revision, key: Some(key) };
        }
        let reached = view.revision() >= query.after.revision;
        let next = if reached { Position::after(view.revision()) } else { query.after.clone() };
        Ok(Ok(ChangePage { events, next, more: false }))
    }
}

fn event(view: &ReadView, revision: Revision, key: Bytes, previous: bool) -> Result<Event, EngineError> {
    let change = view.change(&key, revision)?;
    let before = if previous { view.get_at(&key, revision.back(1))? } else { None };
    Ok(Event {
        revision,
        kind: change.kind(),
        record: change.value().map(record::decode).transpose()?,
        previous: before.as_ref().map(record::decode).transpose()?,
        key,
    })
}

fn size(event: &Event) -> usize {
    let values = event.record.iter().chain(&event.previous).map(|record| record.value.len());
    event.key.len() + values.sum::<usize>()
}
