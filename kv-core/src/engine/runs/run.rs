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

/// A cursor at a row of a run.
#[derive(Debug)]
pub(super) struct RunCursor {
    run: Arc<Run>,
    file: usize,
    cursor: Option<FileCursor>,
    keep: bool,
}

impl RunCursor {
    pub(super) fn new(run: Arc<Run>, keep: bool) -> Self {
        Self { run, file: 0, cursor: None, keep }
    }

    /// Moves to the first row at or after a place.
    pub(super) fn seek(&mut self, place: &[u8]) -> Result<(), EngineError> {
        let behind = self.run.behind_clip(place);
        let place = behind.as_deref().unwrap_or(place);
        self.enter(self.run.file_from(place), To::From(place))
    }

    /// Moves to the last row before a place.
    pub(super) fn seek_before(&mut self, place: &[u8]) -> Result<(), EngineError> {
        let files = self.run.files.partition_point(|file| *file.meta().first < *place);
        self.enter(files.wrapping_sub(1), To::Before(place))?;
        self.end_at_clip();
        Ok(())
    }

    /// Moves within a file, if there is one of this number.
    fn enter(&mut self, file: usize, to: To<'_>) -> Result<(), EngineError> {
        (self.file, self.cursor) = (file, None);
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
        if reverse {
            self.enter(self.file.wrapping_sub(1), To::Last)?;
            self.end_at_clip();
            Ok(())
        } else {
            self.enter(self.file + 1, To::First)
        }
    }
}
