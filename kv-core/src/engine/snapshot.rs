//! A checkpoint that is sent to another member: it is read in pieces, in the order of its rows.
//!
//! ```text
//! row: part u8 | length of key u32 | key | length of value u32 | value        place: part u8 | key
//! ```
//! The rows of one checkpoint are the same on all members, so a transfer may continue from another source that has the
//! checkpoint.

use super::EngineError;
use super::part::Part;
use super::tree_snapshot::TreeSnapshot;
use crate::ids::{Anchor, Hash};
use crate::message::{Chunk, ChunkEnd};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A durable checkpoint. It does not change while it is held, and the disk keeps its pages for as long. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Snapshot {
    anchor: Anchor,
    base: Arc<TreeSnapshot>,
}

impl Snapshot {
    pub(super) fn new(anchor: Anchor, base: Arc<TreeSnapshot>) -> Self {
        Self { anchor, base }
    }

    /// The op that it is at.
    #[must_use]
    pub fn anchor(&self) -> Anchor {
        self.anchor
    }

    /// The rows after the place `after`, about `max_bytes` of them. Nothing else is read.
    ///
    /// # Errors
    /// If the disk fails or is damaged.
    pub fn chunk(&self, after: &[u8], max_bytes: usize) -> Result<Chunk, EngineError> {
        let mut run = Run::default();
        let is_last = match self.read(after, max_bytes, &mut run) {
            Ok(is_last) => is_last,
            // The intact rows before the damage may be the only copies, and another source may have the next ones.
            Err(_) if !run.rows.is_empty() => false,
            Err(error) => return Err(error),
        };
        let end = if is_last { ChunkEnd::Last } else { ChunkEnd::More(run.last) };
        Ok(Chunk::new(Bytes::copy_from_slice(after), run.rows.freeze(), end))
    }

    /// Reads the rows after the place `after`, about `max_bytes` of them, to find damage. Returns the number of bytes
    /// read, and the place to continue after, if there is more.
    ///
    /// # Errors
    /// If the disk fails or is damaged.
    pub fn scrub(&self, after: &[u8], max_bytes: usize) -> Result<(usize, Option<Bytes>), EngineError> {
        let mut run = Run::default();
        let is_last = self.read(after, max_bytes, &mut run)?;
        Ok((run.rows.len(), (!is_last).then_some(run.last)))
    }

    /// Reads rows, and returns whether they are the last ones.
    fn read(&self, after: &[u8], max_bytes: usize, run: &mut Run) -> Result<bool, EngineError> {
        for (part, from) in Part::from_place(after) {
            let mut cursor = self.base.part(part, from)?;
            while let Some(key) = cursor.key() {
                if !run.rows.is_empty() && run.rows.len() >= max_bytes {
                    return Ok(false);
                }
                put_row(&mut run.rows, part, key.as_slice(), &cursor.value().unwrap_or_default());
                run.last = part.place(key.as_slice());
                cursor.advance()?;
            }
        }
        Ok(true)
    }
}

/// Consecutive rows, and the place of the last one.
#[derive(Default)]
struct Run {
    rows: BytesMut,
    last: Bytes,
}

/// The digest of a set of rows: the sum of their hashes, whatever their order. So a receiver can compute it piece by
/// piece, and a source need not read everything for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct RowSum(u128);

impl RowSum {
    /// Adds a row.
    pub(super) fn add(&mut self, part: Part, key: &[u8], value: &[u8]) {
        let mut row = BytesMut::with_capacity(key.len() + value.len() + 16);
        put_row(&mut row, part, key, value);
        self.0 = self.0.wrapping_add(Hash::of(&row).get());
    }
}

/// The digest of all rows. Reads everything.
pub(super) fn digest(base: &TreeSnapshot) -> Result<RowSum, EngineError> {
    let mut sum = RowSum::default();
    for part in Part::ALL {
        let mut cursor = base.part(part, None)?;
        while let Some(key) = cursor.key() {
            sum.add(part, key.as_slice(), &cursor.value().unwrap_or_default());
            cursor.advance()?;
        }
    }
    Ok(sum)
}

fn put_row(out: &mut BytesMut, part: Part, key: &[u8], value: &[u8]) {
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("keys and values are limited");
    out.put_u8(part.code());
    out.put_u32_le(length(key));
    out.put_slice(key);
    out.put_u32_le(length(value));
    out.put_slice(value);
}

/// The rows of a chunk. An invalid row yields `None`, which ends the iteration.
pub(super) struct Rows(Bytes);

/// A row of a chunk.
pub(super) struct Row {
    pub(super) part: Part,
    pub(super) key: Bytes,
    pub(super) value: Bytes,
}

impl Rows {
    pub(super) fn of(chunk: &Chunk) -> Self {
        Self(chunk.rows.clone())
    }

    fn bytes(&mut self) -> Option<Bytes> {
        let length = usize::try_from(self.0.try_get_u32_le().ok()?).ok()?;
        (length <= self.0.len()).then(|| self.0.split_to(length))
    }

    fn row(&mut self) -> Option<Row> {
        let part = Part::of_code(self.0.try_get_u8().ok()?)?;
        Some(Row { part, key: self.bytes()?, value: self.bytes()? })
    }
}

impl Iterator for Rows {
    type Item = Option<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let row = self.row();
        if row.is_none() {
            self.0.clear();
        }
        Some(row)
    }
}
