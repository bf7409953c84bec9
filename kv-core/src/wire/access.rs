//! Who may send what: the role that each message, call and operation requires of the end that sends it.
//!
//! What arrives without the role is not answered: the connection is closed. The role is what the hello claimed and the gate
//! believed, which with TLS is what the certificate proves; nobody can change it later.

use crate::config::Role;
use crate::message::{ClientCall, Message, Operation};
use kv_transport::Lane;

/// Who is at the end of a connection that opened it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Party {
    /// A member, on the lane that this connection is for.
    Member {
        /// Its role in the configuration.
        role: Role,
        /// The lane.
        lane: Lane,
    },
    /// A client, on the Client lane.
    Client,
}

impl Party {
    /// Whether it may send this: on the lane of the message, and, what only a primary or whoever holds the
    /// state has reason to send, only a data member.
    #[must_use]
    pub fn may_send_message(self, message: &Message) -> bool {
        let Self::Member { role, lane } = self else { return false };
        lane == message.lane() && (role == Role::Data || !needs_data(message))
    }

    /// Whether it may have this ordered: a client everything but an expiry, which is the primary's own.
    #[must_use]
    pub const fn may_order(self, operation: &Operation) -> bool {
        match operation {
            Operation::OpenSession { .. } | Operation::CloseSession | Operation::Command(_) => {
                matches!(self, Self::Client)
            }
            Operation::Expire(_) => false,
        }
    }

    /// Whether it may ask for this. Every client may ask for everything.
    #[must_use]
    pub const fn may_call(self, call: &ClientCall) -> bool {
        match call {
            ClientCall::Write(_)
            | ClientCall::Read { .. }
            | ClientCall::Watch(_)
            | ClientCall::Unwatch { .. }
            | ClientCall::Status
            | ClientCall::Handover => {
                matches!(self, Self::Client)
            }
        }
    }
}

/// Whether only a data member has a reason to send this: a witness is never primary, and has no state to hand on.
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
        | Message::Formation { .. } => false,
    }
}
