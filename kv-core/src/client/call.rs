//! What goes into [`ClientProtocol`](super::ClientProtocol) and what comes out.

use crate::ids::{Instant, MemberId, Revision};
use crate::message::{
    ClientMessage, Command, Event, MemberStatus, Outcome, Position, Query, ReadMode, Record, ServerMessage,
    WatchQuery,
};
use bytes::Bytes;
use std::fmt;
use std::time::Duration;

/// The driver's name for a call. Never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(u64);

impl CallId {
    /// Wraps a plain number.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The plain number.
    #[cfg(feature = "internals")]
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Debug for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "call{}", self.0)
    }
}

/// What is wanted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Call {
    /// Change the data, exactly once.
    Write(Command),
    /// Read the data.
    Read {
        /// How fresh the answer must be.
        mode: ReadMode,
        /// What to read.
        query: Query,
        /// Of a read that any member answers: whom to ask first. Ignored for others.
        prefer: Option<MemberId>,
        /// Ask this member and no other.
        only: Option<MemberId>,
    },
    /// Follow what changes: ends when something has, or after a while, with the place to go on at.
    Watch {
        /// What, and from where.
        query: WatchQuery,
        /// Whom to ask first.
        prefer: Option<MemberId>,
    },
    /// Ask this member where it stands. One attempt.
    Status {
        /// The member that must answer.
        member: MemberId,
    },
    /// Ask this member to hand the primary role over. One attempt.
    Handover {
        /// The member that must answer.
        member: MemberId,
    },
    /// Close the session, when every write before it has ended.
    CloseSession,
}

/// Something that happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ProtocolInput {
    /// A call begins. It ends with one [`ProtocolOutput::Done`], at `deadline` at the latest.
    Call {
        /// Its name.
        id: CallId,
        /// What is wanted.
        call: Call,
        /// When the caller stops waiting.
        deadline: Instant,
    },
    /// Nobody waits for this call any more. No [`ProtocolOutput::Done`] follows.
    Cancel {
        /// Its name.
        id: CallId,
    },
    /// A member answered.
    Answer {
        /// Who.
        member: MemberId,
        /// The message that arrived.
        message: ServerMessage,
    },
    /// The connection to this member broke. What was sent on it may have arrived or not.
    ConnectionLost {
        /// The member at the other end.
        member: MemberId,
    },
    /// No connection to this member could be opened. Nothing sent to it since it was last lost has left, or ever will.
    Unreachable {
        /// The member at the other end.
        member: MemberId,
    },
    /// The time that `poll_timeout` named has come.
    Timeout,
}

/// Something to do. Carry them out in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ProtocolOutput {
    /// Send to a member, opening a connection if there is none. May be lost, if that is reported by
    /// [`ProtocolInput::ConnectionLost`] or [`ProtocolInput::Unreachable`], or never noticed.
    Send {
        /// The member to send it to.
        member: MemberId,
        /// The message to send.
        message: ClientMessage,
    },
    /// A call has ended.
    Done {
        /// Its name.
        id: CallId,
        /// The outcome of the call.
        result: Result<Reply, CallError>,
    },
}

/// The result of a call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// Of a write or of closing the session: its stored outcome. A guard that failed is an outcome.
    Written(Outcome),
    /// Of reading one key.
    Value {
        /// The record, if the key exists.
        record: Option<Record>,
        /// The revision of the state that was read.
        revision: Revision,
    },
    /// Of a scan: one page.
    Records {
        /// Keys and records in order.
        records: Vec<(Bytes, Record)>,
        /// Where the range goes on: the first key of the next page, or in reverse its (exclusive) end. None if this was all.
        next: Option<Bytes>,
        /// The revision of the state that was read.
        revision: Revision,
    },
    /// Of a read at a revision that is not kept any more.
    Compacted {
        /// The oldest one that the member can read.
        oldest: Revision,
    },
    /// Of a read at a revision that is yet to come.
    Future {
        /// The newest one that the member can read.
        newest: Revision,
    },
    /// Of a watch.
    Watched {
        /// Who has answered.
        member: MemberId,
        /// What has changed.
        events: Vec<Event>,
        /// Where to go on.
        next: Position,
    },
    /// Of a status call.
    Status(Box<MemberStatus>),
    /// Of the others.
    Done,
}

/// Why a call ended without a result.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CallError {
    /// It has had no effect and will have none.
    NotApplied(Cause),
    /// A write may have been applied, once, or may still be, once; or never.
    OutcomeUnknown(Cause),
}

impl CallError {
    /// Why it ended.
    #[must_use]
    pub const fn cause(&self) -> &Cause {
        match self {
            Self::NotApplied(cause) | Self::OutcomeUnknown(cause) => cause,
        }
    }
}

/// What ended a call.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// Its deadline came.
    #[error("the deadline passed: {0}")]
    Deadline(FailureReason),
    /// Its session expired.
    #[error("the session expired")]
    SessionExpired,
    /// It breaks a limit or a rule.
    #[error("{0}")]
    Refused(String),
    /// Of a call with one attempt: the member could not be reached, or its connection broke.
    #[error("{0}")]
    Failed(FailureReason),
}

/// What stood in the way when a call ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FailureReason {
    /// Nothing known: it was not tried yet.
    #[error("it waited behind earlier calls")]
    Waiting,
    /// No session could be opened.
    #[error("no session could be opened")]
    NoSession,
    /// The members that answered were not the primary.
    #[error("no primary was found")]
    NoPrimary,
    /// The cluster sheds load.
    #[error("the cluster is overloaded")]
    Overloaded,
    /// No connection could be opened.
    #[error("no member could be reached")]
    Unreachable,
    /// The connection broke.
    #[error("the connection broke")]
    ConnectionLost,
    /// No answer came.
    #[error("no answer arrived")]
    Silent,
    /// No member had applied the revision that was to be seen.
    #[error("no member has reached that revision yet")]
    Behind,
    /// The primary lost its role.
    #[error("the primary changed")]
    PrimaryChanged,
}

/// Settings of [`ClientProtocol`](super::ClientProtocol).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProtocolOptions {
    /// The most writes in flight; never more than the members' session window. Default 256; at least 1.
    pub window: u32,
    /// A session unused for this long is replaced before it is used again: half of the members' session TTL.
    /// Default 5 min.
    pub session_idle: Duration,
    /// The shortest time after which an unanswered attempt is repeated; adapts upwards to the answers' delays, and grows
    /// while a call meets with nothing but silence. Default 200 ms.
    pub attempt_min: Duration,
    /// The longest such time: a repeated attempt costs the members little, since they know the request. Default 1 s.
    pub attempt_max: Duration,
    /// The first pause before a retry; doubles, with jitter. Default 5 ms.
    pub backoff_min: Duration,
    /// The longest pause while looking for the primary; eight times that when it has been missing for long. Default 25 ms.
    pub search_max: Duration,
    /// The longest pause while the cluster sheds load. Default 1 s.
    pub backoff_max: Duration,
    /// How long a member may leave a watch unanswered: a little longer than members do. Default 40 s.
    pub watch_patience: Duration,
}

impl Default for ProtocolOptions {
    fn default() -> Self {
        Self {
            window: 256,
            session_idle: Duration::from_secs(300),
            attempt_min: Duration::from_millis(200),
            attempt_max: Duration::from_secs(1),
            backoff_min: Duration::from_millis(5),
            search_max: Duration::from_millis(25),
            backoff_max: Duration::from_secs(1),
            watch_patience: Duration::from_secs(40),
        }
    }
}
