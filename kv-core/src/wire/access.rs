//! Access control: the role that each message, call and operation requires of its sender.
//!
//! If a sender does not have the role, its frame is not answered and the connection is closed. The role is the one that
//! the hello claimed and that was accepted; with TLS, the certificate must prove it. It cannot change later.

use crate::config::Role;
use crate::message::{ClientCall, Message, Operation};
use kv_transport::Lane;

/// The end that opened a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Party {
    /// A member, on the lane that this connection is for.
    Member {
        /// Its role in the configuration.
        role: Role,
        lane: Lane,
    },
    /// A client, on the Client lane.
    Client,
}

impl Party {
    /// Returns whether it may send this message: on the lane of the message and, for messages that only a primary or
    /// the holder of a state has reason to send, only a data member.
    #[must_use]
    pub fn may_send_message(self, message: &Message) -> bool {
        let Self::Member { role, lane } = self else { return false };
        lane == message.lane() && (role == Role::Data || !needs_data(message))
    }

    /// Returns whether it may have this operation ordered. A client may request everything except an expiry, which only
    /// the primary proposes.
    #[must_use]
    pub const fn may_order(self, operation: &Operation) -> bool {
        match operation {
            Operation::OpenSession { .. } | Operation::CloseSession | Operation::Command(_) => {
                matches!(self, Self::Client)
            }
            Operation::Expire(_) | Operation::Reconfigure(_) => false,
        }
    }

    /// Returns whether it may make this call. Every client may make every call.
    #[must_use]
    pub const fn may_call(self, call: &ClientCall) -> bool {
        match call {
            ClientCall::Write(_)
            | ClientCall::Read { .. }
            | ClientCall::Watch(_)
            | ClientCall::Unwatch { .. }
            | ClientCall::Status
            | ClientCall::Handover { .. }
            | ClientCall::Members
            | ClientCall::Change(_) => {
                matches!(self, Self::Client)
            }
        }
    }
}

/// Whether only a data member has a reason to send this: a witness is never primary, and has no state.
const fn needs_data(message: &Message) -> bool {
    match message {
        Message::Prepare { .. }
        | Message::Commit { .. }
        | Message::StartView { .. }
        | Message::SnapshotChunk { .. }
        | Message::StateDigest { .. } => true,
        Message::PrepareOk { .. }
        | Message::CommitOk { .. }
        | Message::StartViewChange { .. }
        | Message::DoViewChange { .. }
        | Message::GetState { .. }
        | Message::Fetch { .. }
        | Message::Headers { .. }
        | Message::NewState { .. }
        | Message::TooOld { .. }
        | Message::GetSnapshot { .. }
        | Message::SnapshotGone { .. }
        | Message::Formation { .. }
        | Message::AskEpoch { .. }
        | Message::Epoch { .. } => false,
    }
}
