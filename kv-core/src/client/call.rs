//! The inputs and outputs of [`ClientProtocol`](super::ClientProtocol). The *driver* is the tokio task that
//! runs inside a client. It provides the inputs and carries out the outputs.

use crate::ids::{Instant, MemberId, Revision};
use crate::message::{
    ChangeCall, ClientMessage, Command, Event, MemberStatus, MembersAnswer, Outcome, Position, Query,
    ReadMode, Record, RefusalKind, ServerMessage, SuccessorRefusal, WatchQuery,
};
use bytes::Bytes;
use std::fmt;
use std::time::Duration;

/// The id that the driver gives to a call. The driver uses each id only once.
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

/// A call: what the caller wants.
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
        /// The member to ask first. This is ignored if `only` is given, and for a linearizable read, which only the
        /// primary can answer.
        prefer: Option<MemberId>,
        /// Ask this member and no other.
        only: Option<MemberId>,
    },
    /// Watch for changes. The call ends when there are changes or, if there are none, after a while. It returns the
    /// position from which to continue.
    Watch {
        /// The range to watch, and the position to start from.
        query: WatchQuery,
        /// The member to ask first.
        prefer: Option<MemberId>,
    },
    /// Ask this member for its status. The client makes only one attempt.
    Status {
        /// The member that must answer.
        member: MemberId,
    },
    /// Ask this member to hand over the primary role. The client makes only one attempt.
    Handover {
        /// The member that must answer.
        member: MemberId,
        /// The member that must be the next primary; `None` for any.
        to: Option<MemberId>,
    },
    /// Ask this member for the member list. The client makes only one attempt.
    Members {
        /// The member that must answer.
        member: MemberId,
    },
    /// Ask this member to change the member list. The client makes only one attempt.
    Change {
        /// The member that must answer.
        member: MemberId,
        /// The change.
        change: Box<ChangeCall>,
    },
    /// Close the session when all earlier writes have ended.
    CloseSession,
}

/// An input of the protocol.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ProtocolInput {
    /// A call begins. The call ends with one [`ProtocolOutput::Done`], at `deadline` at the latest.
    Call {
        /// The id of the call.
        id: CallId,
        /// The call.
        call: Call,
        /// When the caller stops waiting.
        deadline: Instant,
    },
    /// The caller no longer waits for this call. No [`ProtocolOutput::Done`] follows.
    Cancel {
        /// The id of the call.
        id: CallId,
    },
    /// A member answered.
    Answer {
        /// The member that answered.
        member: MemberId,
        /// The message that arrived.
        message: ServerMessage,
    },
    /// The data members of the cluster are these now: its member list was changed.
    Members(Vec<MemberId>),
    /// Ask this member for the member list, because the list may have changed since.
    AskForList {
        /// A member to which a connection is open.
        member: MemberId,
    },
    /// The connection to this member broke. Messages that were sent on the connection may or may not have arrived.
    ConnectionLost {
        /// The member at the other end.
        member: MemberId,
    },
    /// No connection to this member could be opened. None of the messages for this member that
    /// [`ProtocolOutput::Send`] has given to the driver since the last connection to it was lost, or since the start if
    /// there was none, has left this process, and none ever will.
    Unreachable {
        /// The member at the other end.
        member: MemberId,
    },
    /// The deadline that `poll_timeout` has returned is reached.
    Timeout,
}

/// An action for the driver. Outputs must be carried out in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ProtocolOutput {
    /// Send a message to a member. If there is no connection to the member, open one. The message can get lost. The
    /// driver may report the loss with [`ProtocolInput::ConnectionLost`] or [`ProtocolInput::Unreachable`], but it does
    /// not have to.
    Send {
        /// The member that must receive the message.
        member: MemberId,
        /// The message to send.
        message: ClientMessage,
    },
    /// A call has ended.
    Done {
        /// The id of the call.
        id: CallId,
        /// The outcome of the call.
        result: Result<Reply, CallError>,
    },
}

/// The result of a call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// The outcome of a write. "The condition did not hold" is an outcome too.
    Written(Outcome),
    /// The result of reading one key.
    Value {
        /// The record, if the key exists.
        record: Option<Record>,
        /// The revision of the state that was read.
        revision: Revision,
    },
    /// One page of a scan, or the result of reading several keys.
    Records {
        /// Keys and records in order.
        records: Vec<(Bytes, Record)>,
        /// Where the next page begins: at this key or, in a reverse scan, just below this key. `None` if this is the
        /// last page.
        next: Option<Bytes>,
        /// The revision of the state that was read.
        revision: Revision,
    },
    /// One step of counting a range.
    Counted {
        /// The number of keys up to `next`.
        count: u64,
        /// Where the next step begins. `None` if this is the last step.
        next: Option<Bytes>,
        /// The revision of the state that was read.
        revision: Revision,
    },
    /// The member no longer keeps a revision that the read or the watch needs.
    Compacted {
        /// The oldest revision that the member can read.
        oldest: Revision,
    },
    /// The member has not applied the revision that the read asked for. Possibly, the revision does not exist yet.
    Future {
        /// The newest revision that the member can read.
        newest: Revision,
    },
    /// The result of a watch.
    Watched {
        /// The member that answered.
        member: MemberId,
        /// The changes.
        events: Vec<Event>,
        /// The position from which the next watch call continues.
        next: Position,
    },
    /// The result of a status call.
    Status(Box<MemberStatus>),
    /// The primary has kept its role, because the named successor cannot take over now.
    HandoverRefused(SuccessorRefusal),
    /// The member list.
    Members(Box<MembersAnswer>),
    /// The primary does not order this change of the member list.
    ChangeRefused {
        /// What to do about it.
        kind: RefusalKind,
        /// The reason, for a person.
        reason: String,
    },
    /// The result of any other call.
    Done,
}

/// A call ended without a result. The variant shows whether the call may have had an effect. The [`Cause`] in it shows
/// why the call ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CallError {
    /// The call has had no effect and will have none.
    NotApplied(Cause),
    /// The write may have been applied, may still be applied, or may never be applied. It is applied at most once.
    OutcomeUnknown(Cause),
}

impl CallError {
    /// Why the call ended.
    #[must_use]
    pub const fn cause(&self) -> &Cause {
        match self {
            Self::NotApplied(cause) | Self::OutcomeUnknown(cause) => cause,
        }
    }
}

/// The reason why a call ended without a result.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// The deadline of the call passed.
    #[error("the deadline passed: {0}")]
    Deadline(FailureReason),
    /// The session of the call expired.
    #[error("the session expired")]
    SessionExpired,
    /// The request was executed once, but the cluster no longer stores its result.
    #[error("the request was executed, but its result is no longer stored")]
    ResultDropped,
    /// A member refused the request (for example, because the request exceeds a limit), or the member's answer was of
    /// the wrong kind. The text is the reason.
    #[error("{0}")]
    Refused(String),
    /// The only attempt failed. The client makes only one attempt for a status call or a handover. Any other call ends
    /// in this way only if the client's task has ended, for example because the runtime shut down.
    #[error("{0}")]
    Failed(FailureReason),
}

/// The obstacle that a call faced when it ended. [`Cause::Deadline`] and [`Cause::Failed`] contain it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FailureReason {
    /// The call ended before its first attempt, usually because it waited behind earlier calls.
    #[error("it waited behind earlier calls")]
    Waiting,
    /// No session could be opened.
    #[error("no session could be opened")]
    NoSession,
    /// The members that answered were not the primary.
    #[error("no primary was found")]
    NoPrimary,
    /// The cluster is overloaded.
    #[error("the cluster is overloaded")]
    Overloaded,
    /// No connection to a member could be opened.
    #[error("no member could be reached")]
    Unreachable,
    /// The connection broke.
    #[error("the connection broke")]
    ConnectionLost,
    /// No answer arrived.
    #[error("no answer arrived")]
    Silent,
    /// The members that answered had not applied the requested revision yet.
    #[error("no member has reached that revision yet")]
    Behind,
    /// The primary lost its role.
    #[error("the primary changed")]
    PrimaryChanged,
}

/// Settings of [`ClientProtocol`](super::ClientProtocol).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProtocolOptions {
    /// The greatest number of writes in flight. It must not exceed `max_in_flight_per_session` of the members. Default
    /// 256; at least 1.
    pub window: u32,
    /// A session that is unused for this long is replaced before it is used again. The driver sets this to half of the
    /// members' `session_ttl`. Default 5 min.
    pub session_idle: Duration,
    /// The shortest time after which an unanswered attempt is repeated. The client waits longer if members answer more
    /// slowly, or if earlier attempts of the call were not answered. Default 200 ms.
    pub attempt_min: Duration,
    /// The longest time after which an unanswered attempt is repeated. A repeated attempt costs the members little,
    /// because they recognize the request. Default 1 s.
    pub attempt_max: Duration,
    /// The first pause before a retry. Each further pause is twice as long as the one before. All pauses have jitter.
    /// Default 5 ms.
    pub backoff_min: Duration,
    /// The upper limit of the pause between two attempts of a search for the primary. After 64 attempts of the same
    /// search, the limit is eight times this value. Default 25 ms.
    pub search_max: Duration,
    /// The longest pause between retries while the cluster is overloaded. Default 1 s.
    pub backoff_max: Duration,
    /// How long the client waits for the answer to a watch. Members answer a little earlier, even if nothing has
    /// changed. Default 40 s.
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
