//! What has changed since a revision: what watches are served from.

use super::StateReader;
use super::record;
use crate::engine::{EngineError, HistoryChange, ReadView};
use crate::ids::Revision;
use crate::message::{Event, Position};
use bytes::Bytes;

/// So many steps are taken at once: one for each change, also of other keys, and one for each 256 bytes read for it.
pub(super) const MAX_STEPS: usize = if cfg!(test) { 1024 } else { 16_384 };

/// Which changes are asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChangeQuery<'a> {
    /// The first key (inclusive).
    pub from: &'a [u8],
    /// The end (exclusive); none for the end of the key space.
    pub to: Option<&'a [u8]>,
    /// Those behind this place are left out.
    pub after: Position,
    /// Whether the events carry the keys' previous values.
    pub previous: bool,
    /// At most this many events. At least 1.
    pub max_events: usize,
    /// No more events once they have this many bytes of keys and values, and twice as many only if it is a single one.
    pub max_bytes: usize,
}

/// Events in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Changes {
    /// All events of the range between the query's position and `next`.
    pub events: Vec<Event>,
    /// Where to go on, on whichever member. Moves on also when nothing of the range has changed.
    pub next: Position,
    /// Whether there may be more at once; otherwise there is when the state has moved on.
    pub more: bool,
}

/// What was asked for is older than what is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("compacted: the oldest revision that is kept is {oldest}")]
pub struct Compacted {
    /// The oldest revision that can be read, and after which all changes are known.
    pub oldest: Revision,
}

impl StateReader {
    /// What has changed since a place in the past: events in order, none left out, none twice, however often and wherever it is called
    /// with what the last call returned as `next`. After a place that this member has not reached there is nothing yet.
    ///
    /// An answer is bounded: a revision that has changed many keys may be delivered in several. It costs a few look-ups for each event, and
    /// a step for each change of other keys.
    ///
    /// # Errors
    /// If the disk fails or is damaged. Inside: [`Compacted`], if the place is older than what is kept.
    pub fn changes(&self, query: &ChangeQuery<'_>) -> Result<Result<Changes, Compacted>, EngineError> {
        let view = self.latest();
        let Position { revision, key } = &query.after;
        let floor = view.floor();
        if *revision < floor || key.is_some() && *revision == floor {
            return Ok(Err(Compacted { oldest: floor }));
        }
        let (mut events, mut bytes, mut last) = (Vec::new(), 0, query.after.clone());
        let mut steps = 0;
        for change in view.changes(*revision, key.as_deref())? {
            let HistoryChange { revision, key, steps: taken } = change?;
            let mut full = events.len() >= query.max_events || bytes >= query.max_bytes || steps >= MAX_STEPS;
            if !full && *key >= *query.from && query.to.is_none_or(|to| *key < *to) {
                let event = event(&view, revision, key.clone(), query.previous)?;
                // A large one goes alone: with others it might not fit a frame.
                full = !events.is_empty() && bytes + size(&event) > query.max_bytes.saturating_mul(2);
                if !full {
                    bytes += size(&event);
                    events.push(event);
                }
            }
            if full {
                // All of the revisions before the next change are behind.
                let next = if revision > last.revision { Position::after(revision.back(1)) } else { last };
                return Ok(Ok(Changes { events, next, more: true }));
            }
            last = Position { revision, key: Some(key) };
            steps += taken;
        }
        let reached = view.revision() >= query.after.revision;
        let next = if reached { Position::after(view.revision()) } else { query.after.clone() };
        Ok(Ok(Changes { events, next, more: false }))
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
