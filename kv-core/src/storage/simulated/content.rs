//! One simulated file: what a process sees, and what a power cut would leave of it.

use super::Tearing;
use std::ops::Range;
use std::sync::Arc;

/// The bytes of a file as processes see them, and how to undo what is not durable.
#[derive(Clone, Default, Debug)]
pub(super) struct Content {
    bytes: Vec<u8>,
    /// What was done since the last sync, in order.
    unsynced: Vec<FileChange>,
    /// What a failed sync has dropped, although processes still see the new bytes. It is restored in a power cut.
    /// (Linux marks pages clean when their write-back fails.)
    dropped: Vec<(usize, Vec<u8>)>,
    /// Reads of these ranges fail.
    unreadable: Vec<Range<usize>>,
    /// Shared with the open handles.
    open: Arc<()>,
}

/// An unsynced change and how to undo it.
#[derive(Clone, Debug)]
enum FileChange {
    /// `len` bytes were written at `offset`. `other` is what was there before, as far as the file reached (and, while a
    /// power cut is computed, what was written).
    Write { offset: usize, len: usize, other: Vec<u8>, old_len: usize },
    /// The length changed. `tail` is what a shortening removed.
    Length { old_len: usize, new_len: usize, tail: Vec<u8> },
}

/// Which unsynced changes of one file survive a power cut.
#[derive(Clone, Copy, Debug)]
enum Survival {
    /// Those before this one.
    Exactly(usize),
    /// Those before this one, and some sectors of this one.
    Prefix(usize),
    /// Some sectors of all of them.
    Scattered,
}

impl Content {
    pub(super) fn of(bytes: Vec<u8>) -> Self {
        Self { bytes, ..Self::default() }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Must be held by an open handle.
    pub(super) fn opened(&self) -> Arc<()> {
        Arc::clone(&self.open)
    }

    pub(super) fn is_open(&self) -> bool {
        Arc::strong_count(&self.open) > 1
    }

    pub(super) fn is_synced(&self) -> bool {
        self.unsynced.is_empty()
    }

    /// Whether a read of this range touches an unreadable sector.
    pub(super) fn is_unreadable(&self, range: &Range<usize>) -> bool {
        self.unreadable.iter().any(|bad| bad.start < range.end && range.start < bad.end)
    }

    pub(super) fn make_unreadable(&mut self, range: Range<usize>) {
        self.unreadable.push(range);
    }

    pub(super) fn write(&mut self, offset: usize, data: &[u8]) {
        let (old_len, end) = (self.bytes.len(), offset + data.len());
        let known = offset.min(old_len)..end.min(old_len);
        let other = self.bytes[known].to_vec();
        self.unsynced.push(FileChange::Write { offset, len: data.len(), other, old_len });
        put(&mut self.bytes, offset, data);
        self.unreadable.retain(|bad| bad.start < offset || end < bad.end);
    }

    pub(super) fn set_len(&mut self, new_len: usize) {
        let old_len = self.bytes.len();
        let tail = self.bytes.get(new_len..).unwrap_or_default().to_vec();
        self.unsynced.push(FileChange::Length { old_len, new_len, tail });
        self.bytes.resize(new_len, 0);
    }

    pub(super) fn sync(&mut self) {
        for change in std::mem::take(&mut self.unsynced) {
            if let FileChange::Write { offset, len, .. } = change {
                self.keep(offset..(offset + len).min(self.bytes.len()));
            }
        }
    }

    /// A sync fails: what was not yet durable never will be, but can be read until a power cut, or until the cache
    /// drops it.
    pub(super) fn drop_unsynced(&mut self) {
        for change in std::mem::take(&mut self.unsynced) {
            if let FileChange::Write { offset, len, mut other, .. } = change {
                other.resize(len, 0);
                self.dropped.push((offset, other));
            }
        }
    }

    /// The cache drops what a failed sync has dropped, so that reads return what is on the disk. Not while something
    /// waits to be written: the system keeps such pages, and its treatment of the others must not be relied on.
    pub(super) fn forget_dropped(&mut self) {
        if self.unsynced.is_empty() {
            self.put_dropped_back();
        }
    }

    pub(super) fn flip_bit(&mut self, offset: usize, bit: u8) -> bool {
        match self.bytes.get_mut(offset) {
            Some(byte) => {
                *byte ^= 1 << (bit & 7);
                true
            }
            None => false,
        }
    }

    pub(super) fn overwrite(&mut self, offset: usize, bytes: &[u8]) {
        let end = self.bytes.len().min(offset.saturating_add(bytes.len()));
        if let Some(part) = self.bytes.get_mut(offset..end) {
            part.copy_from_slice(&bytes[..end - offset]);
        }
    }

    /// Nothing may be unsynced: undoing it would need the removed bytes.
    pub(super) fn shorten(&mut self, len: usize) {
        if self.unsynced.is_empty() && self.dropped.is_empty() {
            self.bytes.truncate(len);
        }
    }

    /// A power cut that loses everything unsynced.
    pub(super) fn lose_all(&mut self) {
        self.rewind();
        self.unsynced.clear();
        self.put_dropped_back();
    }

    /// A power cut.
    pub(super) fn crash(&mut self, tearing: Tearing, rng: &mut fastrand::Rng) {
        if !self.unsynced.is_empty() {
            self.rewind();
            let changes = std::mem::take(&mut self.unsynced);
            let survival = match rng.u8(..3) {
                0 => Survival::Exactly(rng.usize(..=changes.len())),
                1 => Survival::Prefix(rng.usize(..changes.len())),
                _ => Survival::Scattered,
            };
            for (at, change) in changes.into_iter().enumerate() {
                match survival {
                    Survival::Exactly(whole) | Survival::Prefix(whole) if at < whole => {
                        self.replay(change, 1, || true);
                    }
                    Survival::Exactly(_) => {}
                    Survival::Prefix(whole) if at > whole => {}
                    Survival::Prefix(_) | Survival::Scattered => {
                        self.replay(change, tearing.unit(), || rng.bool());
                    }
                }
            }
        }
        self.put_dropped_back();
    }

    /// Goes back to the durable image, and reverses each change so that it can be replayed.
    fn rewind(&mut self) {
        for change in self.unsynced.iter_mut().rev() {
            match change {
                FileChange::Write { offset, len, other, old_len } => {
                    let new = self.bytes[*offset..*offset + *len].to_vec();
                    let end = *offset + other.len();
                    if !other.is_empty() {
                        self.bytes[*offset..end].copy_from_slice(other);
                    }
                    self.bytes.truncate(*old_len);
                    *other = new;
                }
                FileChange::Length { old_len, new_len, tail } => {
                    self.bytes.truncate(*new_len.min(old_len));
                    self.bytes.extend_from_slice(tail);
                }
            }
        }
    }

    /// Replays a change, as far as `kept` returns true for each aligned unit of it (`unit` 1: all or nothing).
    fn replay(&mut self, change: FileChange, unit: usize, mut kept: impl FnMut() -> bool) {
        match change {
            FileChange::Length { new_len, .. } => {
                if kept() {
                    self.bytes.resize(new_len, 0);
                }
            }
            FileChange::Write { offset, other: new, .. } => {
                let step = if unit == 1 { usize::MAX } else { unit };
                let (mut from, end) = (offset, offset + new.len());
                while from < end {
                    let to = end.min((from / step).saturating_add(1).saturating_mul(step));
                    if kept() {
                        put(&mut self.bytes, from, &new[from - offset..to - offset]);
                        self.keep(from..to);
                    }
                    from = to;
                }
            }
        }
    }

    /// The present bytes in `range` are durable, so nothing is restored there any more: that would also undo damage
    /// that was done to them since.
    fn keep(&mut self, range: Range<usize>) {
        let pieces = |(offset, mut old): (usize, Vec<u8>)| {
            let end = offset + old.len();
            let (from, to) = (range.start.clamp(offset, end), range.end.clamp(offset, end));
            if from >= to {
                return vec![(offset, old)];
            }
            let after = old.split_off(to - offset);
            old.truncate(from - offset);
            vec![(offset, old), (to, after)]
        };
        let pieces = std::mem::take(&mut self.dropped).into_iter().flat_map(pieces);
        self.dropped = pieces.filter(|(_, old)| !old.is_empty()).collect();
    }

    fn put_dropped_back(&mut self) {
        for (offset, old) in std::mem::take(&mut self.dropped).into_iter().rev() {
            let end = (offset + old.len()).min(self.bytes.len());
            if offset < end {
                self.bytes[offset..end].copy_from_slice(&old[..end - offset]);
            }
        }
    }
}

fn put(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if bytes.len() == offset {
        bytes.extend_from_slice(data);
        return;
    }
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(data);
}
