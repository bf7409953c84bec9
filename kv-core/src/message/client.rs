//! The messages between clients and members, on the Client lane.

use super::{Load, Outcome, Position, Rejection, RequestError, SizeLimits, WatchQuery};
use crate::config::{Change, Configuration, Role};
use crate::ids::{Epoch, LeaseId, MemberId, Op, Revision, Timestamp, View};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// From a client to a member.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClientMessage {
    /// The client's number for this attempt, which the answer contains. The numbers on a connection grow. A member
    /// ignores a message whose number is not greater than all earlier ones, so that `NotPrimary` and similar answers
    /// are final for an attempt.
    pub call: u64,
    /// The call.
    pub what: ClientCall,
}

/// A call of a client.
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
    /// Return the changes of a range since a position in the history. The member answers when there are changes, or
    /// after half a minute.
    Watch(WatchQuery),
    /// Cancel the `Watch` with this number. There is no answer.
    Unwatch {
        /// The call number of the watch, on the same connection.
        call: u64,
    },
    /// Return the status of this member.
    Status,
    /// Hand over the primary role, if this member has it.
    Handover {
        /// The member that must be the next primary; `None` for any. If a successor is named, only the primary answers
        /// with `Done`, and it refuses a successor that could not take over at once.
        to: Option<MemberId>,
    },
    /// Return the member list of the epoch that this member is in.
    Members,
    /// Change the member list, if this member is the primary. `Done` means that the change is in the log; whether it is
    /// committed, the lists of members show.
    Change(Box<ChangeCall>),
}

/// A change of the member list, as a client asks for it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChangeCall {
    /// The epoch that it ends.
    pub ends: Epoch,
    /// Drawn at random by the client, which finds it in the list that the change has led to.
    pub nonce: u128,
    /// The change. The primary fills in the disk of a member that gains a vote.
    pub change: Change,
}

/// The answer to [`ClientCall::Members`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MembersAnswer {
    /// The configuration of the epoch.
    pub configuration: Configuration,
    /// The epoch has committed an entry of its own, so what led to it is done (rule M12).
    pub settled: bool,
    /// What a member that joins must know of ended epochs (rule M13).
    pub ended: u64,
}

/// How fresh a read must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ReadMode {
    /// The state must contain every write that was acknowledged before the read began. Answered only by the primary.
    #[default]
    Linearizable,
    /// Any state that the member has applied: may be stale.
    Local,
    /// The state of the member once it has applied this revision or a later one. The member waits at most a second for
    /// the revision.
    AtLeast(Revision),
    /// The state must contain every write that was acknowledged this long before the read arrived, in true time (rule
    /// R4). Any member that can prove this answers. The primary always answers. If necessary, it asks a quorum, as for
    /// a linearizable read.
    MaxStaleness(Duration),
}

/// What to read.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Query {
    /// One key.
    Get {
        /// The key.
        key: Bytes,
        /// The revision to read at; `None` for the newest.
        at: Option<Revision>,
    },
    /// Several keys at one revision. The answer contains the records of those that exist.
    Many {
        /// The keys: up to [`Query::MAX_KEYS`].
        #[serde(deserialize_with = "super::bounded::list::<_, _, { Query::MAX_KEYS }>")]
        keys: Vec<Bytes>,
        /// The revision to read at; `None` for the newest.
        at: Option<Revision>,
    },
    /// Keys in order.
    Scan {
        /// The first key (inclusive).
        from: Bytes,
        /// The end (exclusive); `None` for the end of the key space.
        to: Option<Bytes>,
        /// The most records to return. The member may return fewer and report that there are more.
        limit: u32,
        /// Whether to begin at the end.
        reverse: bool,
        /// Whether to leave out the values. They are then empty.
        keys_only: bool,
        /// The revision to read at; `None` for the newest.
        at: Option<Revision>,
    },
    /// The number of keys of a range.
    Count {
        /// The first key (inclusive).
        from: Bytes,
        /// The end (exclusive); `None` for the end of the key space.
        to: Option<Bytes>,
        /// The revision to read at; `None` for the newest.
        at: Option<Revision>,
    },
}

impl Query {
    /// The most keys in one read.
    pub const MAX_KEYS: usize = 1000;

    /// Checks that the query is within the limits. The client checks a query before it sends it. The member checks it
    /// on arrival, because a waiting query holds memory.
    ///
    /// # Errors
    /// [`RequestError`] names the part that exceeds a limit.
    pub fn check(&self, limits: SizeLimits) -> Result<(), RequestError> {
        /// The overhead of each of several keys, in bytes.
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
            Self::Scan { from, to, .. } | Self::Count { from, to, .. } => limits.range(from, to.as_ref()),
        }
    }

    /// The revision to read at; `None` for the newest.
    #[must_use]
    pub const fn at(&self) -> Option<Revision> {
        match self {
            Self::Get { at, .. } | Self::Many { at, .. } | Self::Scan { at, .. } | Self::Count { at, .. } => {
                *at
            }
        }
    }
}

/// The value of a key, and its revisions.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub struct Record {
    /// The value.
    pub value: Bytes,
    /// The revision at which the key was created. If the key was removed and created again, the last creation counts.
    pub created: Revision,
    /// The revision at which the key was last changed.
    pub modified: Revision,
    /// How many times the key was put or touched since it was created; 1 after the first put.
    pub version: u64,
    /// When the key expires, on the cluster's clock, if it has a time to live. The key is removed at this time or a
    /// little later, never earlier. It exists until it is removed.
    pub expires: Option<Timestamp>,
    /// The lease that the key belongs to.
    pub lease: Option<LeaseId>,
}

/// A change of one key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub struct Event {
    /// The revision of the change.
    pub revision: Revision,
    /// The key.
    pub key: Bytes,
    /// The kind of change.
    pub kind: EventKind,
    /// The new record; `None` if the key was removed.
    pub record: Option<Record>,
    /// The previous record, if requested; `None` if the key did not exist.
    pub previous: Option<Record>,
}

/// The kind of a change. Printed and serialized as its name in lower case.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum EventKind {
    /// The key was set.
    Put,
    /// The key was removed.
    Deleted,
    /// The key was removed because it had expired.
    Expired,
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
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
    /// The write was applied. Contains its stored outcome, or the reason why it has none.
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
        /// Keys and records in order. The list may be empty although the range continues, because the work for one
        /// answer is limited.
        records: Vec<(Bytes, Record)>,
        /// Where the next call begins: at this first key or, in a reverse scan, at this exclusive end. `None` if there
        /// is no more.
        next: Option<Bytes>,
        /// The revision of the state that was read.
        revision: Revision,
    },
    /// The requested revision is no longer kept.
    Compacted {
        /// The oldest revision that this member can read.
        oldest: Revision,
    },
    /// This member has not applied the requested revision. The revision may not exist yet, or only other members may
    /// have applied it.
    Future {
        /// The newest revision that this member can read.
        newest: Revision,
    },
    /// The answer to [`ClientCall::Watch`].
    Watched {
        /// All events of the range between the query's position and `next`, in order.
        events: Vec<Event>,
        /// The position to continue at, on any member. It advances even if nothing in the range has changed.
        next: Position,
        /// Whether there may be more events now.
        more: bool,
    },
    /// The answer to [`ClientCall::Status`].
    Status(Box<MemberStatus>),
    /// A handover was started, or was not needed.
    Done,
    /// This member is not the serving primary. The call was **not** proposed here.
    NotPrimary {
        /// The member that is probably the serving primary.
        hint: Option<MemberId>,
    },
    /// The call was proposed here, and then this member lost the primary role. The outcome is unknown. Retry with the
    /// same request number.
    Abandoned,
    /// Too much is in flight. The call was **not** proposed here.
    Overloaded,
    /// The call exceeds a limit, or asks a witness for data. The call was **not** proposed. The text names the limit
    /// and what to do.
    Refused(String),
    /// The answer to [`Query::Count`].
    Counted {
        /// The number of keys from the beginning of the range up to `next`.
        count: u64,
        /// Where the next call begins, because the work for one answer is limited. `None` if this was all.
        next: Option<Bytes>,
        /// The revision of the state that was read.
        revision: Revision,
    },
    /// The member that a handover names cannot take over now. The primary has kept its role.
    HandoverRefused(SuccessorRefusal),
    /// The answer to [`ClientCall::Members`].
    Members(Box<MembersAnswer>),
    /// The primary does not order this change of the member list. Nothing has changed.
    ChangeRefused {
        /// What to do about it.
        kind: RefusalKind,
        /// The reason, for a person.
        reason: String,
    },
}

/// Why a change of the member list is refused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub enum RefusalKind {
    /// The members that would vote cannot be relied on yet: one that is needed is not reachable, or has not caught up.
    /// The same change can succeed later.
    NotReady,
    /// The list is not the one that the change was made for: another change came first.
    Conflict,
    /// This list cannot be changed in this way.
    Invalid,
}

/// Why the primary does not hand over its role to a certain member. The primary keeps the role.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum SuccessorRefusal {
    /// The cluster has no member with this id.
    #[error("the cluster has no member {0}")]
    Unknown(MemberId),
    /// The member is a witness, and so is never primary.
    #[error("member {0} is a witness: it holds no data and cannot be primary; name a data member")]
    Witness(MemberId),
    /// The primary has not heard from the member lately: the member is down, frozen or cut off.
    #[error("the primary has not heard from member {0} lately: check that it runs and can be reached")]
    Silent(MemberId),
    /// The member lacks entries of the log, or has not adopted the log of this view yet.
    #[error("member {0} has not caught up with the primary: wait until it has, and try again")]
    Behind(MemberId),
}

/// The status of a member.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MemberStatus {
    /// The id of the member.
    pub id: MemberId,
    /// The role of the member.
    pub role: Role,
    /// What the member is doing.
    pub state: MemberState,
    /// The view of the member.
    pub view: View,
    /// The serving primary, as far as the member knows.
    pub primary: Option<MemberId>,
    /// The last op of the member's log.
    pub head: Op,
    /// The last op that the member knows to be committed.
    pub commit: Op,
    /// The last op that the member has applied.
    pub applied: Op,
    /// The revision of the state that the member has applied.
    pub revision: Revision,
    /// The op of the member's last durable checkpoint.
    pub checkpoint: Op,
    /// How long the last change of primary took, as this member saw it, in milliseconds. The time counts from the first
    /// suspicion until the new primary served.
    pub last_failover_ms: Option<u64>,
    /// If the member is the primary, the progress of its peers.
    pub peers: Vec<PeerStatus>,
    /// The clients of the member, and the calls that the member has answered.
    pub load: Load,
    /// Milliseconds since the member started.
    pub uptime_ms: u64,
    /// The version of kv that the member runs, such as `0.1.0`.
    pub version: String,
}

/// What a member is doing. Printed and serialized as its name in lower case, as in `view-change`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum MemberState {
    /// The member opens its data, or waits for the cluster to form. To form, a cluster needs all of its members.
    Forming,
    /// The member serves as the primary.
    Primary,
    /// The member follows a primary and keeps up with it, or waits until a primary serves.
    Backup,
    /// The member is changing from one view to the next.
    ViewChange,
    /// The member is not ready to replace its primary: it replaces its log with the log of the view, it fetches a state
    /// or has none, it lacks more than 10,000 committed entries, or it has not heard from the primary yet.
    CatchingUp,
    /// The member's log is damaged. The member votes, but acknowledges nothing until it has received the log from a
    /// primary.
    Damaged,
    /// A state that this version of kv does not know. The member runs a newer version.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for MemberState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// The progress of a peer, as its primary sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub struct PeerStatus {
    /// The id of the peer.
    pub id: MemberId,
    /// The last op that the peer has acknowledged in this view.
    pub acknowledged: Op,
    /// Whether the peer has answered recently.
    pub alive: bool,
}
