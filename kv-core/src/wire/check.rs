//! Rules for every message, whoever sent it. A message that decodes and violates one is refused.

use super::{PROTOCOL, VersionRange, WireError};
use crate::ids::{Op, Revision};
use crate::message::{Chunk, ChunkEnd, Entry, Extent, LogSummary, Message};

/// Keys are at most 64 KiB.
const MOST_PLACE_BYTES: usize = (64 << 10) + 32;

/// Checks a message between members. Its counters were checked when they were decoded.
pub(super) fn message(message: &Message) -> Result<(), WireError> {
    match message {
        Message::Prepare { entry: e, .. } => entry(e),
        Message::DoViewChange { log, ages, .. } => {
            summary(log)?;
            if ages.len() > log.suffix.len() + log.tail.len() + 1 {
                return Err(WireError::OutOfRange { field: "the number of ages" });
            }
            Ok(())
        }
        Message::StartView { hashes, .. } | Message::Headers { hashes, .. } => {
            consecutive(hashes.iter().map(|(at, _)| *at))
        }
        Message::NewState { entries, .. } => {
            entries.iter().try_for_each(entry)?;
            consecutive(entries.iter().map(|e| e.header.op))
        }
        Message::GetSnapshot { after, .. } => after.as_deref().map_or(Ok(()), place),
        Message::SnapshotChunk { chunk: c, .. } => chunk(c),
        Message::PrepareOk { .. }
        | Message::Commit { .. }
        | Message::CommitOk { .. }
        | Message::StartViewChange { .. }
        | Message::GetState { .. }
        | Message::Fetch { .. }
        | Message::TooOld { .. }
        | Message::StateDigest { .. }
        | Message::SnapshotGone { .. }
        | Message::Formation { .. } => Ok(()),
    }
}

/// A place in a snapshot is a key with some overhead.
fn place(after: &[u8]) -> Result<(), WireError> {
    if after.len() <= MOST_PLACE_BYTES { Ok(()) } else { Err(WireError::OutOfRange { field: "a place" }) }
}

fn chunk(chunk: &Chunk) -> Result<(), WireError> {
    place(&chunk.after)?;
    if let ChunkEnd::More(next) = &chunk.end {
        place(next)?;
        if *next <= chunk.after || chunk.rows.is_empty() {
            return Err(WireError::OutOfRange { field: "the end of a chunk" });
        }
    }
    if chunk.is_intact() { Ok(()) } else { Err(WireError::OutOfRange { field: "the checksum of a chunk" }) }
}

fn entry(entry: &Entry) -> Result<(), WireError> {
    let header = &entry.header;
    if header.op == Op::ZERO || header.first_revision == Revision::ZERO {
        return Err(WireError::OutOfRange { field: "an entry's place" });
    }
    Ok(entry.check()?)
}

fn summary(log: &LogSummary) -> Result<(), WireError> {
    if !log.lacks.iter().all(|run| run.first <= run.last && run.last <= log.commit.op) {
        return Err(WireError::OutOfRange { field: "what a log lacks" });
    }
    if log.suffix.len() as u64 != log.head.distance_from(log.commit.op) {
        return Err(WireError::OutOfRange { field: "the length of a log's suffix" });
    }
    let is_above = log.tail.first().is_none_or(|(op, _)| *op > log.head);
    if !is_above || !log.tail.is_sorted_by(|(one, _), (next, _)| one < next) {
        return Err(WireError::OutOfRange { field: "the order of a log's tail" });
    }
    if Extent::Through(log.last_listed()) > log.extent {
        return Err(WireError::OutOfRange { field: "the extent of a log" });
    }
    Ok(())
}

fn consecutive(ops: impl Iterator<Item = Op>) -> Result<(), WireError> {
    let mut before: Option<Op> = None;
    for at in ops {
        if before.is_some_and(|before| at != before.next()) {
            return Err(WireError::OutOfRange { field: "the order of ops" });
        }
        before = Some(at);
    }
    Ok(())
}

/// Checks the version that the other end has chosen: it must be one of those that were offered.
pub(super) fn welcome(version: u16) -> Result<(), WireError> {
    let (theirs, ours) = (VersionRange::just(version), PROTOCOL);
    ours.common(theirs).map(drop).ok_or(WireError::Version { theirs, ours })
}
