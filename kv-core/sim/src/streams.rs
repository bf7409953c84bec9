//! What watches must deliver: the history of their range from where they began, complete and in order.

use super::model::Model;
use super::report::Finding;
use bytes::Bytes;
use kv_core::ids::Revision;
use kv_core::message::{Event, EventKind, Position, Record};
use std::collections::BTreeMap;
use std::ops::Bound;

/// The record of one stream.
#[derive(Debug)]
pub(super) struct Stream {
    from: Bytes,
    to: Option<Bytes>,
    previous: bool,
    /// Its position. `None` before it has begun anywhere.
    at: Option<Position>,
    /// The content of the range according to the events so far, if the watch began with the content.
    copy: Option<BTreeMap<Bytes, Record>>,
}

impl Model {
    /// The first change of a range after a position.
    pub(super) fn next_change(
        &self,
        after: &Position,
        from: &Bytes,
        to: Option<&Bytes>,
    ) -> Option<(Revision, Bytes, EventKind)> {
        let start = match &after.key {
            Some(key) => Bound::Excluded((after.revision, key.clone())),
            None => Bound::Included((after.revision.next(), Bytes::new())),
        };
        let mut changes = self.changes().range((start, Bound::Unbounded));
        let found = changes.find(|((_, key), _)| key >= from && to.is_none_or(|to| key < to));
        found.map(|((revision, key), kind)| (*revision, key.clone(), *kind))
    }
}

impl Stream {
    /// A stream that begins at this position; `None`: at the position of the member that answers first.
    pub(super) const fn new(from: Bytes, to: Option<Bytes>, previous: bool, at: Option<Position>) -> Self {
        Self { from, to, previous, at, copy: None }
    }

    /// The range had this content at a revision, and is watched from there.
    pub(super) fn begin_with(
        &mut self,
        model: &Model,
        records: BTreeMap<Bytes, Record>,
        revision: Revision,
    ) -> Result<(), Finding> {
        self.at = Some(Position::after(revision));
        self.copy = Some(records);
        self.check_copy(model, revision)
    }

    /// An event was delivered.
    pub(super) fn on_event(&mut self, model: &Model, event: &Event) -> Result<(), Finding> {
        if event.revision > model.revision() {
            let found = format!("{event:?}, but {:?} is the last that is committed", model.revision());
            return Err(("watches deliver only committed changes", found));
        }
        let Some(at) = &self.at else {
            return Err(("a watch receives its start position", format!("{event:?}")));
        };
        let expected =
            model.next_change(at, &self.from, self.to.as_ref()).map(|(revision, key, kind)| Event {
                record: model.at(&key, revision),
                previous: if self.previous { model.at(&key, revision.previous()) } else { None },
                revision,
                key,
                kind,
            });
        if expected.as_ref() != Some(event) {
            let found = format!(
                "{:?}..{:?} after {at:?} delivers {event:?}, but next is {expected:?}",
                self.from, self.to
            );
            return Err(("a stream is the history of its range", found));
        }
        self.at = Some(Position { revision: event.revision, key: Some(event.key.clone()) });
        if let Some(copy) = &mut self.copy {
            match &event.record {
                Some(record) => drop(copy.insert(event.key.clone(), record.clone())),
                None => drop(copy.remove(&event.key)),
            }
        }
        Ok(())
    }

    /// An answer has arrived: the position that it reports is not beyond anything committed.
    pub(super) fn on_answer(&self, model: &Model, place: &Position) -> Result<(), Finding> {
        let begins_there = self.at.as_ref() == Some(place);
        if place.revision > model.revision() && !begins_there {
            let found = format!("{place:?}, but {:?} is the last that is committed", model.revision());
            return Err(("a place of a watch is committed", found));
        }
        Ok(())
    }

    /// All delivered events have been taken, and the stream reports this position.
    pub(super) fn on_place(&mut self, model: &Model, place: &Position) -> Result<(), Finding> {
        let Some(at) = &self.at else {
            self.at = Some(place.clone());
            return Ok(());
        };
        if let Some((revision, key, kind)) = model.next_change(at, &self.from, self.to.as_ref())
            && is_behind(revision, &key, place)
        {
            let found =
                format!("after {at:?} it goes on at {place:?}, and missed {key:?} {kind:?} at {revision:?}");
            return Err(("no event is passed over", found));
        }
        if rank(at) < rank(place) {
            self.at = Some(place.clone());
        }
        Ok(())
    }

    /// The history really no longer reached back to the requested position.
    pub(super) fn on_compacted(
        &self,
        model: &Model,
        asked: Option<&Position>,
        oldest: Revision,
    ) -> Result<(), Finding> {
        let is_gone = asked.is_some_and(|place| place.behind() < oldest);
        if is_gone && oldest <= model.revision() {
            return Ok(());
        }
        let found = format!("after {asked:?}: compacted up to {oldest:?} of {:?}", model.revision());
        Err(("only what is old is compacted", found))
    }

    /// A change that was not delivered, if there is one.
    pub(super) fn lacks(&self, model: &Model) -> Option<String> {
        let Some(at) = &self.at else { return Some("it has not begun".into()) };
        let next = model.next_change(at, &self.from, self.to.as_ref());
        next.map(|next| format!("after {at:?} it missed {next:?}"))
    }

    /// A client that maintains a copy has the content at a revision.
    pub(super) fn check_copy(&self, model: &Model, revision: Revision) -> Result<(), Finding> {
        let Some(copy) = &self.copy else { return Ok(()) };
        let right = model.range(&self.from, self.to.as_ref(), revision);
        if right.iter().map(|(key, record)| (key, record)).eq(copy) {
            return Ok(());
        }
        Err(("a copy that follows is the range", format!("at {revision:?}: {copy:?}, not {right:?}")))
    }
}

/// Whether an event is before a position.
fn is_behind(revision: Revision, key: &Bytes, place: &Position) -> bool {
    revision < place.revision
        || revision == place.revision && place.key.as_ref().is_none_or(|last| key <= last)
}

/// The order of positions.
fn rank(place: &Position) -> (Revision, bool, Option<&Bytes>) {
    (place.revision, place.key.is_none(), place.key.as_ref())
}
