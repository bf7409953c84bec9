//! A checkpoint that is sent to another member: it is read in pieces, in the order of its rows.
//!
//! ```text
//! row: length of place u32 | place | length of value u32 | value
//! ```
//! The rows of one checkpoint are the same on all members, however their runs lie. So a transfer may continue from
//! another source that has the checkpoint.

use super::EngineError;
use super::base::Base;
use super::canon::Canon;
use super::runs::{Merged, Run, RunFile};
use crate::ids::{Anchor, Hash};
use crate::message::{Chunk, ChunkEnd};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A piece of a snapshot reads at most about this many times its length of what is not needed, so that it takes a
/// moment: removed keys may lie there side by side.
const IDLE: usize = 4;

/// A durable checkpoint. It does not change while it is held, and the disk keeps its files for as long. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Snapshot {
    anchor: Anchor,
    base: Arc<Base>,
}

impl Snapshot {
    pub(super) fn new(anchor: Anchor, base: Arc<Base>) -> Self {
        Self { anchor, base }
    }

    /// The op that it is at.
    #[must_use]
    pub fn anchor(&self) -> Anchor {
        self.anchor
    }

    /// How many runs hold it.
    #[cfg(test)]
    pub(super) fn runs(&self) -> usize {
        self.base.runs().len()
    }

    /// The rows after the place `after`, about `max_bytes` of them. There may be few rows or none, and more behind
    /// them.
    ///
    /// # Errors
    /// If the disk fails or is damaged.
    pub fn chunk(&self, after: &[u8], max_bytes: usize) -> Result<Chunk, EngineError> {
        let (mut rows, mut last) = (BytesMut::new(), Bytes::new());
        let is_last = match self.read(after, max_bytes, &mut rows, &mut last) {
            Ok(is_last) => is_last,
            // The intact rows before the damage may be the only copies, and another source may have the next ones.
            Err(_) if !last.is_empty() => false,
            Err(error) => return Err(error),
        };
        let end = if is_last { ChunkEnd::Last } else { ChunkEnd::More(last) };
        Ok(Chunk::new(Bytes::copy_from_slice(after), rows.freeze(), end))
    }

    /// Reads rows, and returns whether they are the last ones. `last`: how far it has gone through them.
    fn read(
        &self,
        after: &[u8],
        max_bytes: usize,
        out: &mut BytesMut,
        last: &mut Bytes,
    ) -> Result<bool, EngineError> {
        let mut canon = Canon::new(self.base.floor(), true, after);
        let mut idle = 0;
        let from = if after.is_empty() { Vec::new() } else { [after, &[0]].concat() };
        let mut rows = Merged::from(self.base.runs(), &from, false)?;
        while let Some(place) = rows.place() {
            if canon.needs(place, || rows.removes())? {
                if !out.is_empty() && out.len() >= max_bytes {
                    return Ok(false);
                }
                let value = rows.value()?;
                put_row(out, place, &value);
                *last = Bytes::copy_from_slice(place);
            } else {
                idle += place.len() + rows.value_len()?;
                if idle >= IDLE.saturating_mul(max_bytes) {
                    *last = Bytes::copy_from_slice(place);
                    return Ok(false);
                }
            }
            rows.advance()?;
        }
        Ok(true)
    }

    /// Reads the files in the order of their numbers, from the place that the last call has returned, about `max_bytes`
    /// of them, to find damage. Returns the number of bytes read, and the place to continue at, if there is more. Files
    /// that were created since the first call of a round are not read.
    ///
    /// # Errors
    /// If the disk fails or is damaged.
    pub fn scrub(&self, place: &[u8], max_bytes: usize) -> Result<(usize, Option<Bytes>), EngineError> {
        let mut files: Vec<&Arc<RunFile>> = self.base.runs().iter().flat_map(|run| &run.files).collect();
        files.sort_unstable_by_key(|file| file.meta().number);
        let newest = files.last().map_or(0, |file| file.meta().number);
        let ScrubPlace { newest, file, offset } =
            ScrubPlace::decode(place).unwrap_or(ScrubPlace { newest, file: 0, offset: 0 });
        let mut read = 0;
        for next in files {
            let number = next.meta().number;
            if number < file || number > newest {
                continue;
            }
            let from = if number == file { offset } else { 0 };
            if read >= max_bytes {
                return Ok((read, Some(ScrubPlace { newest, file: number, offset: from }.encode())));
            }
            let (more, rest) = next.scrub(from, max_bytes - read)?;
            read += more;
            if let Some(offset) = rest {
                return Ok((read, Some(ScrubPlace { newest, file: number, offset }.encode())));
            }
        }
        Ok((read, None))
    }
}

/// The files of snapshots that are sent to other members: their numbers, and how long they are. Merged or not, they
/// take room on the disk until the snapshots are dropped.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HeldFiles(BTreeMap<u64, u64>);

impl HeldFiles {
    /// The files of these.
    pub(crate) fn of<'a>(snapshots: impl IntoIterator<Item = &'a Snapshot>) -> Self {
        let files =
            snapshots.into_iter().flat_map(|snapshot| snapshot.base.runs()).flat_map(|run| &run.files);
        Self(files.map(|file| (file.meta().number, file.meta().len)).collect())
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many bytes of this run are in them.
    pub(super) fn bytes_in(&self, run: &Run) -> u64 {
        run.files.iter().filter_map(|file| self.0.get(&file.meta().number)).sum()
    }

    /// How many bytes are in those that this state does not need any more: they were merged.
    pub(super) fn bytes_without(&self, base: &Base) -> u64 {
        let files = base.runs().iter().flat_map(|run| &run.files);
        let needed: BTreeSet<u64> = files.map(|file| file.meta().number).collect();
        self.0.iter().filter(|(number, _)| !needed.contains(number)).map(|(_, len)| len).sum()
    }
}

/// How far a round of the scrub is.
struct ScrubPlace {
    /// The newest file of the round.
    newest: u64,
    file: u64,
    offset: u64,
}

impl ScrubPlace {
    fn decode(mut bytes: &[u8]) -> Option<Self> {
        let mut number = || bytes.try_get_u64().ok();
        Some(Self { newest: number()?, file: number()?, offset: number()? })
    }

    fn encode(&self) -> Bytes {
        [self.newest, self.file, self.offset].map(u64::to_be_bytes).concat().into()
    }
}

/// The digest of a set of rows: the sum of their hashes, whatever their order. So a receiver can compute it piece by
/// piece, and a source need not read everything for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct RowSum(u128);

impl RowSum {
    /// Adds a row.
    pub(super) fn add(&mut self, place: &[u8], value: &[u8]) {
        let mut row = BytesMut::with_capacity(place.len() + value.len() + 8);
        put_row(&mut row, place, value);
        self.0 = self.0.wrapping_add(Hash::of(&row).get());
    }

    /// The digest of all rows. Reads everything.
    pub(super) fn of(base: &Base) -> Result<Self, EngineError> {
        let mut sum = Self::default();
        let mut rows = Merged::from(base.runs(), &[], false)?;
        while let Some(place) = rows.place() {
            sum.add(place, &rows.value()?);
            rows.advance()?;
        }
        Ok(sum)
    }
}

fn put_row(out: &mut BytesMut, place: &[u8], value: &[u8]) {
    for bytes in [place, value] {
        out.put_u32_le(u32::try_from(bytes.len()).expect("keys and values are limited"));
        out.put_slice(bytes);
    }
}

/// The rows of a chunk. An invalid row yields `None`, which ends the iteration.
pub(super) struct Rows(Bytes);

/// A row of a chunk: its place and its value.
pub(super) type Row = (Bytes, Bytes);

impl Rows {
    pub(super) fn of(chunk: &Chunk) -> Self {
        Self(chunk.rows.clone())
    }

    fn bytes(&mut self) -> Option<Bytes> {
        let length = usize::try_from(self.0.try_get_u32_le().ok()?).ok()?;
        (length <= self.0.len()).then(|| self.0.split_to(length))
    }
}

impl Iterator for Rows {
    type Item = Option<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let row = self.bytes().and_then(|place| Some((place, self.bytes()?)));
        if row.is_none() {
            self.0.clear();
        }
        Some(row)
    }
}
