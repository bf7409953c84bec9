//! A call, from its beginning to its end.

use crate::client::call::{CallError, Cause, FailureReason};
use crate::ids::{Instant, MemberId, RequestNumber};
use crate::message::{ChangeCall, Operation, Query, ReadMode, WatchQuery};
use bytes::Bytes;

/// The kind of a call.
#[derive(Debug)]
pub(super) enum Kind {
    /// Opens the session: the protocol's own call.
    Open(Bytes),
    /// A request of the session: a command, or the closing of the session.
    Request {
        /// Whether the request closes the session.
        closes: bool,
        /// The request itself.
        body: Body,
    },
    /// A read that only the primary answers.
    Linearizable(Query),
    /// A read that any member answers.
    Anywhere {
        /// How fresh the answer must be.
        mode: ReadMode,
        /// What to read.
        query: Query,
        /// The index of the first member to ask.
        start: usize,
        /// The only member that may be asked.
        only: Option<MemberId>,
    },
    /// A watch. Any member answers it when there are changes.
    Watch {
        /// The range and the position.
        query: WatchQuery,
        /// The index of the first member to ask.
        start: usize,
    },
    /// A status call to one member. There is one attempt.
    Status(MemberId),
    /// A handover call to one member. There is one attempt.
    Handover {
        member: MemberId,
        /// The member that must be the next primary.
        to: Option<MemberId>,
    },
    /// A call for the member list to one member. There is one attempt.
    Members(MemberId),
    /// A change of the member list, at one member. There is one attempt.
    Change { member: MemberId, change: Box<ChangeCall> },
}

/// A request before and after its first attempt. Only a numbered request is sent: a number belongs to one session and
/// one request.
#[derive(Debug)]
pub(super) enum Body {
    /// The request was never sent.
    New(Operation),
    /// The request was sent. Retries send the same bytes.
    Numbered(RequestNumber, Bytes),
}

impl Kind {
    /// The number of the request, once it has been sent.
    pub(super) const fn number(&self) -> Option<RequestNumber> {
        match self {
            Self::Request { body: Body::Numbered(number, _), .. } => Some(*number),
            _ => None,
        }
    }

    /// Whether a hidden retry could change the data, so that its attempts must be tracked.
    const fn has_effect(&self) -> bool {
        matches!(self, Self::Request { .. } | Self::Handover { .. } | Self::Change { .. })
    }

    /// Whether the call has only one attempt, at one member.
    pub(super) const fn is_single(&self) -> bool {
        matches!(self, Self::Status(_) | Self::Handover { .. } | Self::Members(_) | Self::Change { .. })
    }
}

/// The phase of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// A request that was never sent. It waits for the session and the window.
    Queued,
    /// Sent as soon as a primary is known, or as the next attempt in the search for it.
    Parked,
    /// Waits before the next attempt.
    Pausing {
        /// The end of the pause.
        until: Instant,
    },
    /// Waits for an answer.
    Sent {
        /// The latest attempt.
        attempt: u64,
        /// After this time the member counts as silent.
        until: Instant,
    },
}

/// A call, from its beginning to its end.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) kind: Kind,
    pub(super) deadline: Instant,
    pub(super) phase: Phase,
    /// How many attempts were made.
    pub(super) tries: u32,
    /// How many attempts were not answered by a member that has sent nothing else either.
    pub(super) silences: u32,
    /// How often the call has paused before a retry.
    pub(super) pauses: u32,
    /// The attempts that may still be answered.
    pub(super) attempts: Vec<u64>,
    /// An attempt that can no longer be answered may have been proposed.
    pub(super) maybe_proposed: bool,
    /// Why the last attempt failed.
    pub(super) reason: FailureReason,
}

impl Pending {
    pub(super) const fn new(kind: Kind, deadline: Instant, phase: Phase) -> Self {
        Self {
            kind,
            deadline,
            phase,
            tries: 0,
            silences: 0,
            pauses: 0,
            attempts: Vec::new(),
            maybe_proposed: false,
            reason: FailureReason::Waiting,
        }
    }

    /// When the call needs attention.
    pub(super) fn timer(&self) -> Instant {
        match self.phase {
            Phase::Queued | Phase::Parked => self.deadline,
            Phase::Pausing { until } | Phase::Sent { until, .. } => until.min(self.deadline),
        }
    }

    /// How the call ends if it ends now because of `cause`. It is *not applied* only if no attempt can have been
    /// proposed.
    pub(super) fn error(&self, cause: Cause) -> CallError {
        if self.kind.has_effect() && !self.is_surely_undone() {
            CallError::OutcomeUnknown(cause)
        } else {
            CallError::NotApplied(cause)
        }
    }

    /// Whether each attempt was answered, so that none can have changed anything.
    pub(super) fn is_surely_undone(&self) -> bool {
        !self.maybe_proposed && self.attempts.is_empty()
    }

    /// Removes an attempt that was answered or can no longer be answered. Returns true if it was the latest, so that
    /// the call needs another.
    pub(super) fn resolve(&mut self, attempt: u64) -> bool {
        self.attempts.retain(|open| *open != attempt);
        matches!(self.phase, Phase::Sent { attempt: latest, .. } if latest == attempt)
    }
}
