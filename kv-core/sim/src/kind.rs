//! The kinds of messages between members, for faults that single them out.

use kv_core::message::Message;

/// A kind of message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Prepare,
    PrepareOk,
    Commit,
    CommitOk,
    StartViewChange,
    DoViewChange,
    StartView,
    GetState,
    Fetch,
    Headers,
    NewState,
    TooOld,
    GetSnapshot,
    SnapshotChunk,
    SnapshotGone,
    Formation,
    StateDigest,
    AskEpoch,
    Epoch,
}

impl Kind {
    /// Those of every cluster: the others are sent only after a change of the member list.
    pub(super) const ALL: &[Self] = &[
        Self::Prepare,
        Self::PrepareOk,
        Self::Commit,
        Self::CommitOk,
        Self::StartViewChange,
        Self::DoViewChange,
        Self::StartView,
        Self::GetState,
        Self::Fetch,
        Self::Headers,
        Self::NewState,
        Self::TooOld,
        Self::GetSnapshot,
        Self::SnapshotChunk,
        Self::SnapshotGone,
        Self::Formation,
        Self::StateDigest,
    ];

    /// The kind of a message.
    pub(super) const fn of(message: &Message) -> Self {
        match message {
            Message::Prepare { .. } => Self::Prepare,
            Message::PrepareOk { .. } => Self::PrepareOk,
            Message::Commit { .. } => Self::Commit,
            Message::CommitOk { .. } => Self::CommitOk,
            Message::StartViewChange { .. } => Self::StartViewChange,
            Message::DoViewChange { .. } => Self::DoViewChange,
            Message::StartView { .. } => Self::StartView,
            Message::GetState { .. } => Self::GetState,
            Message::Fetch { .. } => Self::Fetch,
            Message::Headers { .. } => Self::Headers,
            Message::NewState { .. } => Self::NewState,
            Message::TooOld { .. } => Self::TooOld,
            Message::GetSnapshot { .. } => Self::GetSnapshot,
            Message::SnapshotChunk { .. } => Self::SnapshotChunk,
            Message::SnapshotGone { .. } => Self::SnapshotGone,
            Message::Formation { .. } => Self::Formation,
            Message::StateDigest { .. } => Self::StateDigest,
            Message::AskEpoch { .. } => Self::AskEpoch,
            Message::Epoch { .. } => Self::Epoch,
        }
    }
}
