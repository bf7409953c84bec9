//! A sorted run: files of disjoint ranges of places, in order.

use super::super::EngineError;
use super::file::{FileCursor, Found, RunFile, To};
use super::index::FileMeta;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A run, as the manifest holds it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct RunMeta {
    pub(crate) id: u64,
    pub(crate) files: Vec<FileMeta>,
    pub(crate) clip: Option<Bytes>,
    pub(crate) into: Option<u64>,
}

impl RunMeta {
    /// The numbers of its files.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u64> {
        self.files.iter().map(|file| file.number)
    }
}

/// A run. It never changes: a change makes another one of the same files.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) id: u64,
    pub(crate) files: Vec<Arc<RunFile>>,
    /// What lies up to here does not count any more: it was merged into another run.
    pub(crate) clip: Option<Bytes>,
    /// The run into which this one is being merged.
    pub(crate) into: Option<u64>,
}

impl Run {
    pub(crate) fn meta(&self) -> RunMeta {
        let files = self.files.iter().map(|file| file.meta().clone()).collect();
        RunMeta { id: self.id, files, clip: self.clip.clone(), into: self.into }
    }

    /// The length of its files.
    pub(crate) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.meta().len).sum()
    }

    /// How many bytes of its rows are neither data nor notes.
    pub(crate) fn row_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.meta().row_bytes).sum()
    }

    /// About how many of its rows remove a key.
    pub(crate) fn removals(&self) -> u64 {
        self.files.iter().map(|file| file.meta().removals).sum()
    }

    /// The same run without what lies up to `clip`.
    pub(crate) fn clipped(&self, clip: &Bytes) -> Self {
        let files = self.files.iter().filter(|file| file.meta().last() > clip).cloned().collect();
        Self { files, clip: Some(clip.clone()), ..*self }
    }

    fn is_clipped(&self, place: &[u8]) -> bool {
        self.clip.as_ref().is_some_and(|clip| place <= &clip[..])
    }

    /// The first file that reaches this place.
    fn file_from(&self, place: &[u8]) -> usize {
        self.files.partition_point(|file| file.meta().last() < place)
    }

    /// The first row at or after `place`, if it begins with `start`. `hash`: that of the key whose rows begin so.
    pub(crate) fn find(
        &self,
        place: &[u8],
        start: &[u8],
        hash: Option<u64>,
    ) -> Result<Option<Found>, EngineError> {
        let behind = self.behind_clip(place);
        let place = behind.as_deref().unwrap_or(place);
        let file = self.files.get(self.file_from(place));
        file.map_or(Ok(None), |file| file.find(place, start, hash))
    }

    /// The first place that counts, if this one does not.
    fn behind_clip(&self, place: &[u8]) -> Option<Vec<u8>> {
        let clip = self.clip.as_ref().filter(|_| self.is_clipped(place))?;
        Some([&clip[..], &[0]].concat())
    }
}

/// A cursor at a row of a run, or somewhere before it.
#[derive(Debug)]
pub(super) struct RunCursor {
    run: Arc<Run>,
    file: usize,
    cursor: Option<FileCursor>,
    /// The next row is in the file, at this place or behind it (in reverse, before it). The file is read only when its
    /// turn comes: if it is damaged, that may never be.
    ahead: Option<Bytes>,
    keep: bool,
}

impl RunCursor {
    pub(super) fn new(run: Arc<Run>, keep: bool) -> Self {
        Self { run, file: 0, cursor: None, ahead: None, keep }
    }

    /// Moves to the first row at or after a place, or before it.
    pub(super) fn seek(&mut self, place: &[u8]) -> Result<(), EngineError> {
        let behind = self.run.behind_clip(place).map(Bytes::from);
        let from = behind.as_deref().unwrap_or(place);
        let file = self.run.file_from(from);
        let first =
            self.run.files.get(file).map(|file| file.meta().first()).filter(|first| first[..] >= *from);
        match (first.cloned(), behind) {
            (Some(bound), _) | (None, Some(bound)) => self.wait_at(file, Some(bound)),
            (None, None) => return self.enter(file, To::From(place)),
        }
        Ok(())
    }

    /// Moves to the last row before a place, or behind it.
    pub(super) fn seek_before(&mut self, place: &[u8]) -> Result<(), EngineError> {
        let files = self.run.files.partition_point(|file| file.meta().first()[..] < *place);
        let file = files.wrapping_sub(1);
        match self.run.files.get(file).map(|file| file.meta().last()).filter(|last| last[..] < *place) {
            Some(last) => self.wait_at(file, Some(last.clone())),
            None => {
                self.enter(file, To::Before(place))?;
                self.end_at_clip();
            }
        }
        Ok(())
    }

    /// Stays before the rows of a file, if there is one of this number.
    fn wait_at(&mut self, file: usize, bound: Option<Bytes>) {
        self.ahead = bound.filter(|_| file < self.run.files.len());
        (self.file, self.cursor) = (file, None);
    }

    /// Moves to the row, if it is only known to be ahead.
    pub(super) fn arrive(&mut self, reverse: bool) -> Result<(), EngineError> {
        match self.ahead.take() {
            Some(_) if reverse => {
                self.enter(self.file, To::Last)?;
                self.end_at_clip();
                Ok(())
            }
            Some(bound) => self.enter(self.file, To::From(&bound)),
            None => Ok(()),
        }
    }

    /// Whether the row is only known to be ahead.
    pub(super) fn is_ahead(&self) -> bool {
        self.ahead.is_some()
    }

    /// The place of the row; if it is ahead, a place that it does not lie before (in reverse, behind).
    pub(super) fn bound(&self) -> Option<&[u8]> {
        self.ahead.as_deref().or_else(|| self.place())
    }

    /// Moves within a file, if there is one of this number.
    fn enter(&mut self, file: usize, to: To<'_>) -> Result<(), EngineError> {
        (self.file, self.cursor, self.ahead) = (file, None, None);
        if let Some(file) = self.run.files.get(file) {
            self.cursor.insert(FileCursor::new(file.clone(), self.keep)).seek(to)?;
        }
        Ok(())
    }

    fn end_at_clip(&mut self) {
        if self.place().is_some_and(|place| self.run.is_clipped(place)) {
            self.cursor = None;
        }
    }

    pub(super) fn place(&self) -> Option<&[u8]> {
        self.cursor.as_ref()?.place()
    }

    pub(super) fn cursor(&self) -> Option<&FileCursor> {
        self.cursor.as_ref()
    }

    /// Moves to the next row, or in reverse to the one before.
    pub(super) fn advance(&mut self, reverse: bool) -> Result<(), EngineError> {
        let Some(cursor) = &mut self.cursor else { return Ok(()) };
        cursor.advance(reverse)?;
        if cursor.place().is_some() {
            if reverse {
                self.end_at_clip();
            }
            return Ok(());
        }
        let next = if reverse { self.file.wrapping_sub(1) } else { self.file + 1 };
        let meta = self.run.files.get(next).map(|file| file.meta());
        let bound = meta.map(|meta| if reverse { meta.last() } else { meta.first() }).cloned();
        self.wait_at(next, bound);
        Ok(())
    }
}
