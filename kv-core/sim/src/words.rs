//! How messages and writes appear in a trace.

use kv_core::ids::Anchor;
use kv_core::message::{Message, Write};

/// What distinguishes a message from others of its kind, for the trace.
pub(super) fn place_of(message: &Message) -> u64 {
    match message {
        Message::Prepare { view, entry, .. } => view.get() << 32 | entry.header.op.get(),
        Message::PrepareOk { view, log } => view.get() << 32 | log.op.get(),
        Message::Commit { view, commit, round, .. } => view.get() << 40 | commit.op.get() << 20 | round.get(),
        Message::CommitOk { view, round, .. } => view.get() << 32 | round.get(),
        Message::StartViewChange { view } | Message::GetState { view, .. } => view.get(),
        Message::DoViewChange { view, log, .. } => view.get() << 32 | log.head.get(),
        Message::StartView { view, commit, .. } => view.get() << 32 | commit.op.get(),
        Message::Fetch { from, through, .. } => from.get() << 32 | through.get(),
        Message::Headers { hashes, .. } => hashes.len() as u64,
        Message::NewState { entries, .. } => entries.len() as u64,
        Message::TooOld { checkpoint, .. } => checkpoint.anchor.op.get(),
        Message::GetSnapshot { after, .. } => after.as_ref().map_or(u64::MAX, |after| after.len() as u64),
        Message::SnapshotChunk { at, .. } => at.op.get(),
        Message::SnapshotGone { .. } => 0,
        Message::StateDigest { op, .. } => op.get(),
        Message::AskEpoch { epoch, .. } => u64::from(epoch.get()),
        Message::Epoch { view, .. } => view.get(),
        Message::Formation { step, ask } => u64::from(*ask) << 8 | *step as u64,
    }
}

/// A short description of a message.
pub(super) fn brief(message: &Message) -> String {
    match message {
        Message::Prepare { view, commit, entry } => {
            let header = &entry.header;
            format!("Prepare {view:?} {:?} of {:?} commit {commit:?}", header.anchor(), header.view)
        }
        Message::NewState { nonce, entries } => {
            let ops: Vec<Anchor> = entries.iter().map(|entry| entry.header.anchor()).collect();
            format!("NewState {nonce:x} {ops:?}")
        }
        other => format!("{other:?}"),
    }
}

pub(super) fn brief_write(write: &Write) -> String {
    match write {
        Write::Append(entries) => {
            let ops: Vec<Anchor> = entries.iter().map(|entry| entry.header.anchor()).collect();
            format!("Append {ops:?}")
        }
        other => format!("{other:?}"),
    }
}
