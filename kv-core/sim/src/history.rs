//! The record of the clients' calls and answers, with times.

use bytes::Bytes;
use kv_core::ids::Revision;
use kv_core::message::{Command, Effect, Query, ReadMode, Record, StepFailure, StepResult};

/// What a client requested.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Action {
    /// A change.
    Write(Command),
    /// Closes the session; the next write opens another.
    Close,
    /// A read of one key.
    Get {
        /// The key.
        key: Bytes,
        /// Whether a stale answer is allowed.
        local: bool,
    },
    /// A read of several keys at once.
    Many {
        /// The keys.
        keys: Vec<Bytes>,
        /// Whether a stale answer is allowed.
        local: bool,
    },
    /// A read of a range from its start.
    Scan {
        /// The first key.
        from: Bytes,
        /// The end.
        to: Option<Bytes>,
        /// The most records.
        limit: u32,
        /// Whether a stale answer is allowed.
        local: bool,
    },
    /// A read at a revision, or of a state that is not older than one.
    Past {
        /// What.
        query: Query,
        /// How fresh.
        mode: ReadMode,
    },
}

/// The answer to a call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Ending {
    /// The put was applied.
    Put(Revision),
    /// The delete was applied.
    Deleted {
        /// Whether the key existed.
        existed: bool,
        /// Its revision.
        revision: Revision,
    },
    /// The condition did not hold.
    ConditionFailed {
        /// When the key was last changed.
        found: Option<Revision>,
        /// The revision, if it was reported.
        revision: Option<Revision>,
    },
    /// Keys of a range were removed.
    RangeDeleted {
        /// How many.
        count: u32,
        /// Whether there are more.
        more: bool,
        /// Its revision.
        revision: Revision,
    },
    /// The transaction was applied.
    Transacted {
        /// Which of its lists was run.
        succeeded: bool,
        /// The results of the steps.
        results: Vec<StepResult>,
        /// Its revision.
        revision: Revision,
    },
    /// A step of the transaction failed.
    StepFailed {
        /// Which.
        step: u32,
        /// Why.
        why: StepFailure,
        /// Its revision.
        revision: Revision,
    },
    /// A request about a lease or a time to live succeeded or failed.
    Lease {
        /// What.
        effect: Effect,
        /// Its revision.
        revision: Revision,
    },
    /// The value of the key.
    Value {
        /// The record.
        record: Option<Record>,
        /// The revision of the state that was read, if it was reported.
        revision: Option<Revision>,
    },
    /// The content of the range.
    Records {
        /// Keys and records.
        records: Vec<(Bytes, Record)>,
        /// Whether there are more.
        more: bool,
        /// The revision of the state that was read, if it was reported.
        revision: Option<Revision>,
    },
    /// The number of keys in the range.
    Counted {
        /// How many.
        count: u64,
        /// Whether there are more.
        more: bool,
        /// The revision of the state that was read.
        revision: Revision,
    },
    /// The revision is no longer kept: the oldest that is.
    Compacted(Revision),
    /// The revision does not exist yet: the newest that does.
    Future(Revision),
    /// The session was closed.
    Closed,
    /// It certainly had no effect.
    NotApplied,
    /// It may have had an effect, or may still have one.
    Unknown,
}

/// One call of one client.
#[derive(Clone, Debug)]
pub(super) struct RecordedCall {
    /// Who.
    pub(super) client: usize,
    /// What it requested.
    pub(super) action: Action,
    /// When it began, in simulated nanoseconds.
    pub(super) start: u64,
    /// The greatest revision that any ended call had reported by then, or by the time that it must see: it must not see
    /// less.
    pub(super) floor: Revision,
    /// When the answer arrived and what it was. `None` while the call is open.
    pub(super) ended: Option<Ended>,
}

/// The end of a call.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    /// When.
    pub(super) at: u64,
    /// The greatest revision committed anywhere by then: the answer must not show more.
    pub(super) ceiling: Revision,
    /// The answer.
    pub(super) ending: Ending,
}

/// All calls of a run.
#[derive(Default, Debug)]
pub(super) struct History {
    calls: Vec<RecordedCall>,
    /// The greatest reported revision, and since when; ascending.
    returned: Vec<(u64, Revision)>,
}

impl Ending {
    /// The revision that the answer reports, if it does.
    pub(super) const fn revision(&self) -> Option<Revision> {
        match self {
            Self::Put(revision)
            | Self::Deleted { revision, .. }
            | Self::RangeDeleted { revision, .. }
            | Self::Transacted { revision, .. }
            | Self::StepFailed { revision, .. }
            | Self::Lease { revision, .. }
            | Self::Counted { revision, .. } => Some(*revision),
            Self::ConditionFailed { revision, .. }
            | Self::Value { revision, .. }
            | Self::Records { revision, .. } => *revision,
            Self::Compacted(_) | Self::Future(_) | Self::Closed | Self::NotApplied | Self::Unknown => None,
        }
    }
}

impl Action {
    /// Whether a stale answer is allowed.
    pub(super) const fn is_local(&self) -> bool {
        matches!(
            self,
            Self::Get { local: true, .. }
                | Self::Many { local: true, .. }
                | Self::Scan { local: true, .. }
                | Self::Past { .. }
        )
    }
}

impl Action {
    /// How old the answer may be, in nanoseconds.
    fn bound(&self) -> u64 {
        match self {
            Self::Past { mode: ReadMode::MaxStaleness(bound), .. } => {
                u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX)
            }
            _ => 0,
        }
    }
}

impl History {
    /// A client begins a call. Returns the number of the call.
    pub(super) fn begin(&mut self, client: usize, action: Action, now: u64) -> usize {
        let floor = self.returned_by(now.saturating_sub(action.bound()));
        self.calls.push(RecordedCall { client, action, start: now, floor, ended: None });
        self.calls.len() - 1
    }

    /// A client receives an answer. Returns false if it already had one, which is a bug of the client.
    pub(super) fn end(&mut self, call: usize, ending: Ending, now: u64, committed: Revision) -> bool {
        let returned = self.returned_by(now);
        let Some(call) = self.calls.get_mut(call).filter(|call| call.ended.is_none()) else { return false };
        // A local read may be answered by a backup. What it reports must be committed, but later calls need not see it.
        if let Some(revision) = ending.revision().filter(|_| !call.action.is_local())
            && revision > returned
        {
            self.returned.push((now, revision));
        }
        call.ended = Some(Ended { at: now, ceiling: committed, ending });
        true
    }

    fn returned_by(&self, time: u64) -> Revision {
        let count = self.returned.partition_point(|(since, _)| *since <= time);
        count.checked_sub(1).map_or(Revision::ZERO, |last| self.returned[last].1)
    }

    /// All calls in the order in which they began.
    pub(super) fn calls(&self) -> &[RecordedCall] {
        &self.calls
    }

    /// The call with this number.
    pub(super) fn call(&self, call: usize) -> Option<&RecordedCall> {
        self.calls.get(call)
    }
}
