//! A call between its begin and its end.

use crate::client::call::{CallError, Cause, FailureReason};
use crate::ids::{Instant, MemberId, RequestNumber};
use crate::message::{Operation, Query, ReadMode, WatchQuery};
use bytes::Bytes;

/// What a call does.
#[derive(Debug)]
pub(super) enum Kind {
    /// Opens the session: the core's own.
    Open(Bytes),
    /// A request of the session: a command, or its closing.
    Request {
        /// Whether it closes the session.
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
        /// The place, in the list of members, of the first one to ask.
        start: usize,
        /// Whether it is the only one to ask.
        only: bool,
    },
    /// A watch, which any member answers, when there is something.
    Watch {
        /// What to follow.
        query: WatchQuery,
        /// The place, in the list of members, of the first one to ask.
        start: usize,
    },
    /// One attempt at one member: its status.
    Status(MemberId),
    /// One attempt at one member: hand over.
    Handover(MemberId),
}

/// A request before and after its first attempt. Numbered is sent: a number belongs to one session and one request.
#[derive(Debug)]
pub(super) enum Body {
    /// Never sent.
    New(Operation),
    /// Sent, and again with the same bytes.
    Numbered(RequestNumber, Bytes),
}

impl Kind {
    /// The number, once it has been sent.
    pub(super) const fn number(&self) -> Option<RequestNumber> {
        match self {
            Self::Request { body: Body::Numbered(number, _), .. } => Some(*number),
            _ => None,
        }
    }

    /// Whether repeating it in secret could change the data: its attempts must be accounted for.
    const fn has_effect(&self) -> bool {
        matches!(self, Self::Request { .. } | Self::Handover(_))
    }

    /// Whether it may be tried only once, at one member.
    pub(super) const fn is_single(&self) -> bool {
        matches!(self, Self::Status(_) | Self::Handover(_))
    }
}

/// Where a call stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// A request that was never sent: waits for the session and the window.
    Queued,
    /// To be sent as soon as a primary is known, or as the next question in the search for it.
    Parked,
    /// Waits before the next attempt.
    Pausing {
        /// Until then.
        until: Instant,
    },
    /// Waits for an answer.
    Sent {
        /// The latest attempt.
        attempt: u64,
        /// Until then; then the member counts as silent.
        until: Instant,
    },
}

/// A call between its begin and its end.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) kind: Kind,
    pub(super) deadline: Instant,
    pub(super) phase: Phase,
    /// How many attempts were made.
    pub(super) tries: u32,
    /// How many of them met with silence, at a member that was silent to everyone.
    pub(super) silences: u32,
    /// How often a member asked it to retry later.
    pub(super) pauses: u32,
    /// The attempts that may still be answered.
    pub(super) attempts: Vec<u64>,
    /// An attempt that will not be answered any more may have been proposed.
    pub(super) tainted: bool,
    /// What stood in the way last.
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
            tainted: false,
            reason: FailureReason::Waiting,
        }
    }

    /// When something is due for it.
    pub(super) fn timer(&self) -> Instant {
        match self.phase {
            Phase::Queued | Phase::Parked => self.deadline,
            Phase::Pausing { until } | Phase::Sent { until, .. } => until.min(self.deadline),
        }
    }

    /// How it ends if it ends now, for `cause`: *not applied* is reported only if no attempt can have been proposed.
    pub(super) fn error(&self, cause: Cause) -> CallError {
        if self.kind.has_effect() && !self.is_surely_undone() {
            CallError::OutcomeUnknown(cause)
        } else {
            CallError::NotApplied(cause)
        }
    }

    /// Whether each attempt was answered, so that none can have changed anything.
    pub(super) fn is_surely_undone(&self) -> bool {
        !self.tainted && self.attempts.is_empty()
    }

    /// Forgets an attempt that was answered or cannot be answered any more. True if it was the latest, so that the call
    /// needs another.
    pub(super) fn resolve(&mut self, attempt: u64) -> bool {
        self.attempts.retain(|open| *open != attempt);
        matches!(self.phase, Phase::Sent { attempt: latest, .. } if latest == attempt)
    }
}
