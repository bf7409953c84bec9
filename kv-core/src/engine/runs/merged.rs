//! The rows of several runs in one order. Of rows at the same place, only that of the newest run is seen.

use super::super::EngineError;
use super::super::place::removes;
use super::file::FileCursor;
use super::run::{Run, RunCursor};
use bytes::Bytes;
use std::sync::Arc;

/// A cursor at a row. Do not use it after an error.
#[derive(Debug)]
pub(crate) struct Merged {
    /// In the order of the runs: the newest first.
    cursors: Vec<RunCursor>,
    reverse: bool,
    /// How the places begin that are looked for. A run whose rows begin otherwise is not read.
    prefix: Vec<u8>,
    /// The cursor that is at the row.
    at: Option<usize>,
}

impl Merged {
    fn new(runs: &[Arc<Run>], reverse: bool, keep: bool) -> Self {
        let cursors = runs.iter().map(|run| RunCursor::new(run.clone(), keep)).collect();
        Self { cursors, reverse, prefix: Vec::new(), at: None }
    }

    /// At the first row at or after a place. `keep`: what is read may be needed again soon.
    pub(crate) fn from(runs: &[Arc<Run>], place: &[u8], keep: bool) -> Result<Self, EngineError> {
        let mut merged = Self::new(runs, false, keep);
        merged.cursors.iter_mut().try_for_each(|cursor| cursor.seek(place))?;
        merged.settle()?;
        Ok(merged)
    }

    /// At the first row whose place begins so. What lies behind those rows may be missing.
    pub(crate) fn starting_with(runs: &[Arc<Run>], prefix: &[u8]) -> Result<Self, EngineError> {
        let mut merged = Self { prefix: prefix.to_vec(), ..Self::new(runs, false, true) };
        merged.cursors.iter_mut().try_for_each(|cursor| cursor.seek(prefix))?;
        merged.settle()?;
        Ok(merged)
    }

    /// At the last row before a place, to go backwards.
    pub(crate) fn before(runs: &[Arc<Run>], place: &[u8]) -> Result<Self, EngineError> {
        let mut merged = Self::new(runs, true, true);
        merged.cursors.iter_mut().try_for_each(|cursor| cursor.seek_before(place))?;
        merged.settle()?;
        Ok(merged)
    }

    /// Moves on to the first row at or after a place; in reverse, to the last row before it.
    pub(crate) fn skip_to(&mut self, place: &[u8]) -> Result<(), EngineError> {
        for cursor in &mut self.cursors {
            match cursor.bound() {
                Some(at) if self.reverse && at >= place => cursor.seek_before(place)?,
                Some(at) if !self.reverse && at < place => cursor.seek(place)?,
                Some(_) | None => {}
            }
        }
        self.settle()
    }

    /// Finds the cursor with the next row, and moves those on whose row it hides.
    fn settle(&mut self) -> Result<(), EngineError> {
        loop {
            self.at = self.least()?;
            let Some(cursor) = self.at.map(|at| &mut self.cursors[at]).filter(|cursor| cursor.is_ahead())
            else {
                return Ok(());
            };
            if cursor.bound().is_some_and(|bound| !bound.starts_with(&self.prefix)) {
                self.at = None;
                return Ok(());
            }
            cursor.arrive(self.reverse)?;
        }
    }

    /// The cursor with the next row. If it may be that of a cursor whose row is ahead, that cursor.
    fn least(&mut self) -> Result<Option<usize>, EngineError> {
        let mut least = None;
        for index in 0..self.cursors.len() {
            let Some(best) = least else {
                least = self.cursors[index].bound().map(|_| index);
                continue;
            };
            let (Some(place), Some(first)) = (self.cursors[index].bound(), self.cursors[best].bound()) else {
                continue;
            };
            if place != first {
                if (place < first) != self.reverse {
                    least = Some(index);
                }
            } else if self.cursors[index].is_ahead() {
                least = Some(index);
            } else if !self.cursors[best].is_ahead() {
                self.cursors[index].advance(self.reverse)?;
            }
        }
        Ok(least)
    }

    fn cursor(&self) -> Option<&RunCursor> {
        self.cursors.get(self.at?)
    }

    /// The place of the row; `None` at the end.
    pub(crate) fn place(&self) -> Option<&[u8]> {
        self.cursor()?.place()
    }

    /// About the length of the stored value.
    pub(crate) fn value_len(&self) -> Result<usize, EngineError> {
        self.cursor().and_then(RunCursor::cursor).map_or(Ok(0), FileCursor::value_len)
    }

    /// The stored value, unless it is so large that it is read by itself. Such a value removes nothing.
    pub(crate) fn small_value(&self) -> Result<Option<&[u8]>, EngineError> {
        self.cursor().and_then(RunCursor::cursor).map_or(Ok(None), FileCursor::small_value)
    }

    /// Whether the row removes its key.
    pub(crate) fn removes(&self) -> Result<bool, EngineError> {
        Ok(self.small_value()?.is_some_and(removes))
    }

    /// The stored value.
    pub(crate) fn value(&self) -> Result<Bytes, EngineError> {
        self.cursor().and_then(RunCursor::cursor).map_or_else(|| Ok(Bytes::new()), FileCursor::value)
    }

    /// Moves to the next row.
    pub(crate) fn advance(&mut self) -> Result<(), EngineError> {
        let Some(at) = self.at else { return Ok(()) };
        self.cursors[at].advance(self.reverse)?;
        self.settle()
    }
}
