//! Rules that every message keeps, whoever sent it: what decodes and breaks one is refused.

use super::{PROTOCOL, VersionRange, WireError};
use crate::ids::{Anchor, Op, Revision, Round, Timestamp, View};
use crate::message::{
    Answer, Chunk, ChunkEnd, ClientCall, ClientMessage, Effect, Entry, LogSummary, MemberStatus, Message,
    Outcome, ReadMode, Record, ServerMessage, StepResult,
};

/// Counters from the wire are below this: far above what can be counted, far below where arithmetic overflows.
const COUNTER_END: u64 = 1 << 62;

/// The greatest revision that may be asked for. It never comes.
pub(crate) const LAST_REVISION: Revision = Revision::new(COUNTER_END - 1);

/// Keys are at most 64 KiB.
const MOST_PLACE_BYTES: usize = (64 << 10) + 32;

fn counter(field: &'static str, value: u64) -> Result<(), WireError> {
    if value < COUNTER_END { Ok(()) } else { Err(WireError::OutOfRange { field }) }
}

fn view(value: View) -> Result<(), WireError> {
    counter("a view", value.get())
}

fn op(value: Op) -> Result<(), WireError> {
    counter("an op", value.get())
}

fn anchor(value: Anchor) -> Result<(), WireError> {
    op(value.op)
}

fn round(value: Round) -> Result<(), WireError> {
    counter("a read round", value.get())
}

fn revision(value: Revision) -> Result<(), WireError> {
    counter("a revision", value.get())
}

fn timestamp(value: Timestamp) -> Result<(), WireError> {
    counter("a time-stamp", value.get())
}

/// Checks a message between members.
pub(super) fn message(message: &Message) -> Result<(), WireError> {
    match message {
        Message::Prepare { view: v, commit, entry: e } => {
            view(*v)?;
            anchor(*commit)?;
            entry(e)
        }
        Message::PrepareOk { view: v, log } => {
            view(*v)?;
            anchor(*log)
        }
        Message::Commit { view: v, commit, age: _, round: r, trim, fresh } => {
            view(*v)?;
            anchor(*commit)?;
            round(*r)?;
            op(*trim)?;
            fresh.map_or(Ok(()), |fresh| op(fresh.op))
        }
        Message::CommitOk { view: v, round: r, log, checkpoint, sent: _ } => {
            view(*v)?;
            round(*r)?;
            log.map_or(Ok(()), anchor)?;
            op(*checkpoint)
        }
        Message::StartViewChange { view: v } | Message::GetState { view: v, .. } => view(*v),
        Message::DoViewChange { view: v, log, ages } => {
            view(*v)?;
            summary(log)?;
            if ages.len() > log.suffix.len() + 1 {
                return Err(WireError::OutOfRange { field: "the number of ages" });
            }
            Ok(())
        }
        Message::StartView { view: v, commit, hashes, .. } => {
            view(*v)?;
            anchor(*commit)?;
            ascending(hashes.iter().map(|(at, _)| *at))
        }
        Message::Fetch { from, through, .. } => {
            op(*from)?;
            op(*through)
        }
        Message::Headers { hashes, .. } => ascending(hashes.iter().map(|(at, _)| *at)),
        Message::NewState { entries, .. } => {
            entries.iter().try_for_each(entry)?;
            ascending(entries.iter().map(|e| e.header.op))
        }
        Message::TooOld { checkpoint, primary_of, .. } => {
            anchor(checkpoint.anchor)?;
            revision(checkpoint.next_revision)?;
            timestamp(checkpoint.timestamp)?;
            primary_of.map_or(Ok(()), view)
        }
        Message::GetSnapshot { at, after, .. } => {
            at.map_or(Ok(()), anchor)?;
            after.as_deref().map_or(Ok(()), place)
        }
        Message::SnapshotChunk { view: at_view, at, chunk: c, .. } => {
            view(*at_view)?;
            anchor(*at)?;
            chunk(c)
        }
        Message::StateDigest { op: at, .. } => op(*at),
        Message::SnapshotGone { .. } | Message::Formation { .. } => Ok(()),
    }
}

/// A place in a snapshot is a key with a little around it.
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
    view(header.view)?;
    op(header.op)?;
    revision(header.first_revision)?;
    timestamp(header.timestamp)?;
    if header.op == Op::ZERO || header.first_revision == Revision::ZERO {
        return Err(WireError::OutOfRange { field: "an entry's place" });
    }
    Ok(entry.check()?)
}

fn summary(log: &LogSummary) -> Result<(), WireError> {
    view(log.log_view)?;
    anchor(log.checkpoint)?;
    anchor(log.commit)?;
    op(log.head)?;
    if !log.lacks.iter().all(|run| run.first <= run.last && run.last <= log.commit.op) {
        return Err(WireError::OutOfRange { field: "what a log lacks" });
    }
    if log.suffix.len() as u64 != log.head.distance_from(log.commit.op) {
        return Err(WireError::OutOfRange { field: "the length of a log's suffix" });
    }
    Ok(())
}

/// Consecutive ops, in range.
fn ascending(ops: impl Iterator<Item = Op>) -> Result<(), WireError> {
    let mut before: Option<Op> = None;
    for at in ops {
        op(at)?;
        if before.is_some_and(|before| at != before.next()) {
            return Err(WireError::OutOfRange { field: "the order of ops" });
        }
        before = Some(at);
    }
    Ok(())
}

/// Checks a message from a client: of a request only the numbers, the rest is checked where it is decoded.
pub(super) fn client_message(message: &ClientMessage) -> Result<(), WireError> {
    counter("a call number", message.call)?;
    match &message.what {
        ClientCall::Write(request) => {
            // Session, number and acked_through stand first in an encoded request.
            let ((session, number, acked), _) = postcard::take_from_bytes::<(u64, u64, u64)>(request)
                .map_err(|_| WireError::Malformed(super::Kind::Client))?;
            counter("a session", session)?;
            counter("a request number", number)?;
            counter("a request number", acked)
        }
        ClientCall::Read { mode, query } => {
            if let ReadMode::AtLeast(at_least) = mode {
                revision(*at_least)?;
            }
            query.at().map_or(Ok(()), revision)
        }
        ClientCall::Watch(query) => query.after.as_ref().map_or(Ok(()), |after| revision(after.revision)),
        ClientCall::Unwatch { call } => counter("a call number", *call),
        ClientCall::Status | ClientCall::Handover => Ok(()),
    }
}

/// Checks an answer to a client.
pub(super) fn server_message(message: &ServerMessage) -> Result<(), WireError> {
    counter("a call number", message.call)?;
    match &message.answer {
        Answer::Written(Ok(outcome)) => self::outcome(outcome),
        Answer::Value { record, revision: r } => {
            revision(*r)?;
            record.as_ref().map_or(Ok(()), self::record)
        }
        Answer::Records { records, revision: r, .. } => {
            revision(*r)?;
            records.iter().try_for_each(|(_, r)| record(r))
        }
        Answer::Compacted { oldest: r } | Answer::Future { newest: r } => revision(*r),
        Answer::Watched { events, next, .. } => {
            revision(next.revision)?;
            events.iter().try_for_each(|event| {
                revision(event.revision)?;
                event.record.iter().chain(&event.previous).try_for_each(record)
            })
        }
        Answer::Status(it) => status(it),
        Answer::Written(Err(_))
        | Answer::Done
        | Answer::NotPrimary { .. }
        | Answer::Abandoned
        | Answer::Overloaded
        | Answer::Refused(_) => Ok(()),
    }
}

fn outcome(outcome: &Outcome) -> Result<(), WireError> {
    revision(outcome.revision)?;
    timestamp(outcome.timestamp)?;
    match &outcome.effect {
        Effect::ConditionFailed { found } => found.map_or(Ok(()), revision),
        Effect::Lease(info) => timestamp(info.deadline),
        Effect::Transacted { results, .. } => results.iter().try_for_each(step_result),
        Effect::SessionOpened(session) => counter("a session", session.get()),
        Effect::LeaseGranted(lease) => counter("a lease", lease.get()),
        Effect::SessionClosed
        | Effect::Put
        | Effect::Deleted { .. }
        | Effect::RangeDeleted { .. }
        | Effect::StepFailed { .. }
        | Effect::LeaseKept
        | Effect::LeaseRevoked { .. }
        | Effect::LeaseFailed(_)
        | Effect::Expired { .. } => Ok(()),
    }
}

fn step_result(result: &StepResult) -> Result<(), WireError> {
    match result {
        StepResult::Put | StepResult::Deleted { .. } | StepResult::Added { .. } | StepResult::Got(None) => {
            Ok(())
        }
        StepResult::Got(Some(it)) => record(it),
        StepResult::Scanned(scanned) => scanned.records.iter().try_for_each(|(_, it)| record(it)),
    }
}

fn status(status: &MemberStatus) -> Result<(), WireError> {
    view(status.view)?;
    revision(status.revision)?;
    [status.head, status.commit, status.applied, status.checkpoint].into_iter().try_for_each(op)?;
    status.peers.iter().try_for_each(|peer| op(peer.acknowledged))
}

/// Checks the version in which the other end wants to go on: it must be one of those that were offered.
pub(super) fn welcome(version: u16) -> Result<(), WireError> {
    let (theirs, ours) = (VersionRange::just(version), PROTOCOL);
    ours.common(theirs).map(drop).ok_or(WireError::Version { theirs, ours })
}

fn record(record: &Record) -> Result<(), WireError> {
    revision(record.created)?;
    revision(record.modified)?;
    record.expires.map_or(Ok(()), timestamp)?;
    record.lease.map_or(Ok(()), |lease| counter("a lease", lease.get()))?;
    counter("a version", record.version)
}
