//! What clients ask for, and what they get.

use crate::ids::{RequestNumber, Revision, SessionId, Timestamp};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// One request, as it stands in the log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Request {
    /// The session; zero only for [`Operation::OpenSession`].
    pub session: SessionId,
    /// The client's number for it; a retry keeps it. Zero only for [`Operation::OpenSession`].
    pub number: RequestNumber,
    /// The client has the results of all numbers up to here: they may be forgotten and never run again.
    pub acked_through: RequestNumber,
    /// What to do.
    pub operation: Operation,
}

/// What a request does.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Operation {
    /// Opens a session; its id is this request's revision. A retry with the same nonce opens another: the first one
    /// is never used and expires.
    OpenSession {
        /// Chosen at random by the client, so that it knows the answer for its own.
        nonce: u128,
    },
    /// Forgets the session.
    CloseSession,
    /// Changes the data.
    Command(Command),
}

/// A change of the data.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Command {
    /// Sets a key.
    Put {
        /// The key.
        key: Bytes,
        /// The value.
        value: Bytes,
        /// What must hold for it to be done.
        guard: Option<Guard>,
    },
    /// Removes a key.
    Delete {
        /// The key.
        key: Bytes,
        /// What must hold for it to be done.
        guard: Option<Guard>,
    },
}

/// A condition on the present state of the key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Guard {
    /// The key does not exist.
    Absent,
    /// The key exists.
    Present,
    /// The key exists and was last changed at this revision.
    Revision(Revision),
    /// The key exists and has this value.
    Value(Bytes),
}

/// The stored result of a request: the same bytes for every retry.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// The revision at which the request first ran.
    pub revision: Revision,
    /// The stamp of the entry in which it ran.
    pub timestamp: Timestamp,
    /// What it did.
    pub effect: Effect,
}

/// What a request did.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Effect {
    /// The session named by the outcome's revision is open.
    SessionOpened,
    /// The session is gone.
    SessionClosed,
    /// The put was done.
    Put,
    /// The delete was done; whether there was something to delete.
    Deleted {
        /// Whether the key existed.
        existed: bool,
    },
    /// The guard did not hold: nothing was changed.
    GuardFailed {
        /// The revision at which the key was last changed; `None` if it does not exist.
        found: Option<Revision>,
    },
}

/// Why an applied request had no outcome of its own. Deterministic: equal on every member.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// The session is unknown: it expired, was evicted or was closed. Earlier requests of it may have run.
    #[error("the session has expired")]
    SessionExpired,
    /// The number is at or below what the client said it has the results of.
    #[error("the request number was acknowledged already")]
    Forgotten,
    /// More requests are in flight than the session's window allows. Not run.
    #[error("too many requests are in flight in this session")]
    WindowExceeded,
    /// The request breaks a limit or does not decode. Not run.
    #[error("the request is malformed or too large")]
    Invalid,
}

/// Why a request is not acceptable.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The bytes do not decode.
    #[error("the bytes are not a request")]
    Malformed,
    /// The key is empty or too long.
    #[error("the key has {len} bytes: keys have 1 to {max}")]
    Key {
        /// Its length.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// The value is too long.
    #[error("the value has {len} bytes: values have up to {max}")]
    Value {
        /// Its length.
        len: usize,
        /// The limit.
        max: usize,
    },
}
