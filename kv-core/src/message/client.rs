//! The messages between clients and members, on the Client lane.

use super::{Load, Outcome, Position, Rejection, RequestError, SizeLimits, WatchQuery};
use crate::ids::{LeaseId, MemberId, Op, Revision, Timestamp, View};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// From a client to a member.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClientMessage {
    /// The client's number for this attempt; returned in the answer. It grows on a connection: a member ignores a message
    /// whose number is not above all before it, so that `NotPrimary` and the like are the last word on an attempt.
    pub call: u64,
    /// What it wants.
    pub what: ClientCall,
}

/// What a client wants.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ClientCall {
    /// Order and apply this request (encoded with `Request::encode`).
    Write(Bytes),
    /// Read.
    Read {
        /// How fresh the answer must be.
        mode: ReadMode,
        /// What to read.
        query: Query,
    },
    /// What has changed in a range since a place in the history? Answered when there is something, or after half a minute.
    Watch(WatchQuery),
    /// The `Watch` of this number is not waited for any more. Not answered.
    Unwatch {
        /// Its call number, on the same connection.
        call: u64,
    },
    /// Where does this member stand?
    Status,
    /// Hand the primary role over, if this member has it.
    Handover,
}

/// How fresh a read must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ReadMode {
    /// At least as new as every write acknowledged before it began. Answered by the primary only.
    #[default]
    Linearizable,
    /// What the asked member happens to have applied: may be stale.
    Local,
    /// What the asked member has applied, once that is this revision or a later one: it waits for it, for a second at most.
    AtLeast(Revision),
    /// At least as new as every write acknowledged so long before the read came, by true time (rule R4). Answered by whoever knows,
    /// and by the primary always: it asks a quorum, as for a linearizable read, where it does not know.
    MaxStaleness(Duration),
}

/// What to read.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Query {
    /// One key.
    Get {
        /// The key.
        key: Bytes,
        /// The revision to read at; none for the newest.
        at: Option<Revision>,
    },
    /// Some keys, all at one revision; answered by the records of those that exist.
    Many {
        /// The keys: up to [`Query::MAX_KEYS`].
        #[serde(deserialize_with = "super::bounded::list::<_, _, { Query::MAX_KEYS }>")]
        keys: Vec<Bytes>,
        /// The revision to read at; none for the newest.
        at: Option<Revision>,
    },
    /// Keys in order.
    Scan {
        /// The first key (inclusive).
        from: Bytes,
        /// The end (exclusive); none for the end of the key space.
        to: Option<Bytes>,
        /// At most this many. The member may answer fewer and report that there are more.
        limit: u32,
        /// Whether to begin at the end.
        reverse: bool,
        /// Whether the values are left out: they are empty.
        keys_only: bool,
        /// The revision to read at; none for the newest.
        at: Option<Revision>,
    },
}

impl Query {
    /// The most keys that are read at once.
    pub const MAX_KEYS: usize = 1000;

    /// Whether it keeps to the limits. Asked by the client, and at the door: what waits to be read holds memory.
    ///
    /// # Errors
    /// [`RequestError`] names the part that does not.
    pub fn check(&self, limits: SizeLimits) -> Result<(), RequestError> {
        /// What each of several keys takes besides its bytes.
        const OVERHEAD: usize = 8;
        match self {
            Self::Get { key, .. } => limits.key(key),
            Self::Many { keys, .. } => {
                keys.iter().try_for_each(|key| limits.key(key))?;
                let bytes = keys.iter().map(|key| key.len() + OVERHEAD).sum::<usize>();
                let (count, most, max) = (keys.len(), Self::MAX_KEYS, limits.request_bytes());
                let fits = count <= most && bytes <= max;
                if fits { Ok(()) } else { Err(RequestError::Keys { count, most, bytes, max }) }
            }
            Self::Scan { from, to, .. } => limits.range(from, to.as_ref()),
        }
    }

    /// The revision to read at; none for the newest.
    #[must_use]
    pub const fn at(&self) -> Option<Revision> {
        match self {
            Self::Get { at, .. } | Self::Many { at, .. } | Self::Scan { at, .. } => *at,
        }
    }
}

/// A key's value with its history's numbers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// The value.
    pub value: Bytes,
    /// The revision that created the key (since it was last absent).
    pub created: Revision,
    /// The revision that last changed it.
    pub modified: Revision,
    /// How many times it was put since it was created; the first put makes 1.
    pub version: u64,
    /// When it expires, by the cluster's clock, if it was put with a time to live. It is there until it is removed, which is then or
    /// a little later, never earlier.
    pub expires: Option<Timestamp>,
    /// The lease that it depends on.
    pub lease: Option<LeaseId>,
}

/// What became of one key at one revision.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub struct Event {
    /// The revision of the change.
    pub revision: Revision,
    /// The key.
    pub key: Bytes,
    /// What was done to it.
    pub kind: EventKind,
    /// What it holds since; `None` if it is gone.
    pub record: Option<Record>,
    /// What it held before, if that was asked for; `None` if it did not exist.
    pub previous: Option<Record>,
}

/// What was done to a key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub enum EventKind {
    /// It was set.
    Put,
    /// It was removed.
    Deleted,
    /// It was removed because its time was over.
    Expired,
}

/// From a member to a client.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ServerMessage {
    /// The call that is answered.
    pub call: u64,
    /// The answer.
    pub answer: Answer,
}

/// The answer to a call.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// The write was applied: its stored outcome, or why it has none.
    Written(Result<Outcome, Rejection>),
    /// The answer to [`Query::Get`].
    Value {
        /// The record, if the key exists.
        record: Option<Record>,
        /// The revision of the state that was read.
        revision: Revision,
    },
    /// The answer to [`Query::Scan`] and [`Query::Many`].
    Records {
        /// Keys and records in order. May be none though the range goes on: an answer ends after so many steps.
        records: Vec<(Bytes, Record)>,
        /// Where the range goes on: the first key of the next question, or in reverse its (exclusive) end. None if this was all.
        next: Option<Bytes>,
        /// The revision of the state that was read.
        revision: Revision,
    },
    /// The revision that was asked for is not kept any more.
    Compacted {
        /// The oldest one that this member can read.
        oldest: Revision,
    },
    /// This member has not applied the revision that was asked for. It may be yet to come, or applied elsewhere.
    Future {
        /// The newest one that this member can read.
        newest: Revision,
    },
    /// The answer to [`ClientCall::Watch`].
    Watched {
        /// All events of the range between the question's position and `next`, in order.
        events: Vec<Event>,
        /// Where to go on, at whichever member. Moves on also when nothing of the range has changed.
        next: Position,
        /// Whether there may be more at once.
        more: bool,
    },
    /// The answer to [`ClientCall::Status`].
    Status(Box<MemberStatus>),
    /// Done (a handover was started, or was not needed).
    Done,
    /// This member is not the serving primary. The call was **not** proposed here.
    NotPrimary {
        /// Who probably is.
        hint: Option<MemberId>,
    },
    /// The call was proposed here, and then this member ceased to be primary: its fate is unknown. Retry with the same number.
    Abandoned,
    /// Too much is in flight. The call was **not** proposed here.
    Overloaded,
    /// The call breaks a limit, or asks a witness for data. **Not** proposed. The text names the limit and what to do.
    Refused(String),
}

/// Where a member stands.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MemberStatus {
    /// Its id.
    pub id: MemberId,
    /// `data` or `witness`.
    pub role: String,
    /// `forming`, `primary`, `backup`, `view-change`, `catching-up`, `damaged`.
    pub state: String,
    /// Its view.
    pub view: View,
    /// The primary it knows to be serving.
    pub primary: Option<MemberId>,
    /// The last op of its log.
    pub head: Op,
    /// What it knows to be committed.
    pub commit: Op,
    /// What it has applied.
    pub applied: Op,
    /// The revision of its applied state.
    pub revision: Revision,
    /// Its durable checkpoint.
    pub checkpoint: Op,
    /// How long the last change of primary took as seen here, in milliseconds: from the first suspicion to serving.
    pub last_failover_ms: Option<u64>,
    /// At the primary: how far its peers are.
    pub peers: Vec<PeerStatus>,
    /// What clients have of it.
    pub load: Load,
    /// Milliseconds since the member started.
    pub uptime_ms: u64,
}

/// How far a peer is, as its primary sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PeerStatus {
    /// The id of the peer.
    pub id: MemberId,
    /// The last op that it acknowledged in this view.
    pub acknowledged: Op,
    /// Whether it has answered lately.
    pub alive: bool,
}
