//! Rules for every message, whoever sent it. A message that decodes and violates one is refused.

use super::{PROTOCOL, VersionRange, WireError};
use crate::ids::{Epoch, Op, Revision, View};
use crate::message::{Chunk, ChunkEnd, Entry, Extent, LogSummary, Message};

/// Keys are at most 64 KiB.
const MOST_PLACE_BYTES: usize = (64 << 10) + 32;

/// Checks a message between members. Its counters were checked when they were decoded.
pub(super) fn message(message: &Message) -> Result<(), WireError> {
    match message {
        Message::Prepare { entry: e, .. } => entry(e),
        Message::DoViewChange { log, ages, .. } => {
            summary(log)?;
            require(ages.len() <= log.suffix.len() + log.tail.len() + 1, "the number of ages")
        }
        Message::StartView { hashes, .. } | Message::Headers { hashes, .. } => {
            consecutive(hashes.iter().map(|(at, _)| *at))
        }
        Message::NewState { entries, .. } => {
            entries.iter().try_for_each(entry)?;
            consecutive(entries.iter().map(|e| e.header.op))
        }
        Message::GetSnapshot { after, .. } => after.as_deref().map_or(Ok(()), place),
        Message::SnapshotChunk { chunk: c, view, .. } => {
            require(has_next(*view), "the number of a view")?;
            chunk(c)
        }
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
        Message::AskEpoch { epoch: asked, .. } => epoch(*asked),
        Message::Epoch { configuration, ended, view, checkpoint, .. } => {
            require(configuration.is_sound(), "a configuration")?;
            require(view.epoch() == configuration.epoch, "the epoch of a view")?;
            // This member moves to the next numbers.
            require(
                View::of_number(configuration.epoch, ended.saturating_add(2)).is_some(),
                "the number of a view",
            )?;
            require(has_next(*view) && *view >= configuration.first, "the number of a view")?;
            let least = configuration.stop.op;
            require(checkpoint.is_none_or(|it| it.anchor.op > least), "a checkpoint before its epoch")
        }
    }
}

/// Whether a member can move to the views after this one.
fn has_next(view: View) -> bool {
    View::of_number(view.epoch(), view.number() + 2).is_some()
}

/// Views have few bits for their epochs.
fn epoch(epoch: Epoch) -> Result<(), WireError> {
    require(epoch.get() >> 22 == 0, "an epoch")
}

fn require(holds: bool, field: &'static str) -> Result<(), WireError> {
    if holds { Ok(()) } else { Err(WireError::OutOfRange { field }) }
}

/// A place in a snapshot is a key with some overhead.
fn place(after: &[u8]) -> Result<(), WireError> {
    require(after.len() <= MOST_PLACE_BYTES, "a place")
}

fn chunk(chunk: &Chunk) -> Result<(), WireError> {
    place(&chunk.after)?;
    if let ChunkEnd::More(next) = &chunk.end {
        place(next)?;
        // There may be no rows: the source has stepped over what nobody needs.
        require(*next > chunk.after, "the end of a chunk")?;
    }
    require(chunk.is_intact(), "the checksum of a chunk")
}

fn entry(entry: &Entry) -> Result<(), WireError> {
    let header = &entry.header;
    require(header.op > Op::ZERO && header.first_revision > Revision::ZERO, "an entry's place")?;
    Ok(entry.check()?)
}

fn summary(log: &LogSummary) -> Result<(), WireError> {
    let mut lacks = log.lacks.iter();
    require(lacks.all(|run| run.first <= run.last && run.last <= log.commit.op), "what a log lacks")?;
    let length = log.head.distance_from(log.commit.op);
    require(log.suffix.len() as u64 == length, "the length of a log's suffix")?;
    let is_above = log.tail.first().is_none_or(|(op, _)| *op > log.head);
    let is_sorted = log.tail.is_sorted_by(|(one, _), (next, _)| one < next);
    require(is_above && is_sorted, "the order of a log's tail")?;
    require(Extent::Through(log.last_listed()) <= log.extent, "the extent of a log")
}

fn consecutive(ops: impl Iterator<Item = Op>) -> Result<(), WireError> {
    require(ops.is_sorted_by(|before, at| *at == before.next()), "the order of ops")
}

/// Checks the versions of the other end, or the one that it has chosen: this end must speak one of them.
pub(super) fn version(theirs: VersionRange) -> Result<(), WireError> {
    let ours = PROTOCOL;
    ours.common(theirs).map(drop).ok_or(WireError::Version { theirs, ours })
}
