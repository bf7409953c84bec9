//! Every message between members, in the paper's names; log entries; requests.
//!
//! | message | from, to | lane | handled by |
//! |---|---|---|---|
//! | `Prepare` | primary to backups | Log | `Backup::on_prepare` |
//! | `PrepareOk` | backup to primary | Log | `Primary::on_prepare_ok` |
//! | `Commit` | primary to backups | Control | `Backup::on_commit` |
//! | `CommitOk` | backup to primary | Control | `Primary::on_commit_ok` |
//! | `StartViewChange` | any member to all others | Control | `Replica::on_start_view_change` |
//! | `DoViewChange` | any member to all others | Control | `Replica::on_do_view_change` |
//! | `StartView` | primary to backups | Control | `Replica::on_start_view` |
//! | `GetState` | any member to the primary, or to all others | Control | `Replica::on_get_state` |
//! | `Fetch` | any member to another | Bulk | `Context::on_fetch` |
//! | `Headers` | answer to `Fetch` | Bulk | `Install::on_headers` |
//! | `NewState` | answer to `Fetch` | Bulk | `Install::on_new_state` |
//! | `TooOld` | answer to `Fetch`; also primary to backup | Bulk | `Replica::on_too_old` |
//! | `GetSnapshot` | data member to data member | Bulk | `Context::on_get_snapshot` |
//! | `SnapshotChunk` | answer to `GetSnapshot` | Bulk | `Context::on_snapshot_chunk` |
//! | `SnapshotGone` | answer to `GetSnapshot` | Bulk | `Context::on_snapshot_gone` |
//! | `Formation` | any member to another | Control | `Forming::on_formation` |
//! | `StateDigest` | data member to data member | Control | `Context::on_state_digest` |
//! | `AskEpoch` | any member to one that may be in another epoch | Control | `Replica::on_ask_epoch` |
//! | `Epoch` | any member to one that is in an earlier epoch, or asks | Control | `Replica::on_epoch` |

mod bounded;
mod client;
mod condition;
mod durable;
mod entry;
mod lease;
mod limits;
mod load;
mod request;
mod snapshot;
mod watch;

pub use client::{
    Answer, ChangeCall, ClientCall, ClientMessage, Event, EventKind, MemberState, MemberStatus,
    MembersAnswer, PeerStatus, Query, ReadMode, Record, RefusalKind, ServerMessage, SuccessorRefusal,
};
pub use condition::Condition;
pub use durable::{
    CheckpointAlignment, Cut, Damage, EntryMeta, EntryPastGap, EpochRecord, Extent, Membership, Recovered,
    ViewRecord, Write,
};
#[cfg(feature = "internals")]
pub use entry::RequestIter;
pub use entry::{BODY_OVERHEAD, Entry, EntryError, EntryHeader, HEADER_BYTES, body_of, revisions_of};
pub(crate) use lease::millis;
pub use lease::{Expiry, LeaseCommand, LeaseFailure, LeaseInfo, Lifetime};
pub use limits::{RequestError, SizeLimits};
pub use load::{Latencies, Load};
pub use request::{
    Command, Effect, Operation, Outcome, Rejection, Request, Scanned, StepFailure, StepResult,
    TransactionRequest, TransactionStep,
};
pub use snapshot::{AdoptedEpoch, CHUNK_BYTES, Chunk, ChunkEnd, LogPoint, LogRebase};

pub use watch::{Position, WatchQuery, after_prefix, successor};

use crate::config::{Configuration, DiskId};
use crate::ids::{Anchor, Epoch, Hash, Instant, Op, Round, View};
use bytes::Bytes;
use kv_transport::Lane;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A message between members.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Message {
    /// The primary gives an entry its place in the log of `view`.
    Prepare {
        /// The primary's view.
        view: View,
        /// What the primary knows to be committed.
        commit: Anchor,
        entry: Entry,
    },
    /// Everything up to `log` is durable here, and the log of this member is the log of `view`.
    PrepareOk {
        /// The view in which the acknowledgement counts.
        view: View,
        /// The last durable op and its hash.
        log: Anchor,
    },
    /// A sign of life of the primary. It contains the commit number, and asks for confirmation of a read round.
    Commit {
        /// The primary's view.
        view: View,
        /// What the primary knows to be committed.
        commit: Anchor,
        /// The age of the entry at `commit` (rule N7).
        age: Age,
        /// The newest read round.
        round: Round,
        /// Every member that needs the entries at or below this op has them in a checkpoint, so they may be dropped.
        trim: Op,
        /// What the last confirmed round proves to the receiver (rule R4).
        fresh: Option<Fresh>,
    },
    /// The backup is still in `view`. The answer to `Commit`.
    CommitOk {
        /// The backup's view.
        view: View,
        /// The round of the `Commit` that is answered.
        round: Round,
        /// The last durable op of the log of `view`, if that log is installed here. It acknowledges like `PrepareOk`.
        log: Option<Anchor>,
        /// The op below which this member needs no log (for a witness: its durable committed op).
        checkpoint: Op,
        /// When this was sent.
        sent: Moment,
    },
    /// A vote to leave every view below `view`. It expires unless it is repeated. The latest vote of a member replaces
    /// its earlier one, so a vote for the view that the sender is in withdraws its vote.
    StartViewChange {
        /// The view that the sender wants.
        view: View,
    },
    /// The sender has joined the change to `view` and will never again take part in an older one.
    DoViewChange {
        /// The view to start.
        view: View,
        /// The summary of the sender's durable log.
        log: LogSummary,
        /// The ages of the entry at `log.commit` and of those in `log.suffix` and `log.tail`, in that order (rule N7).
        ages: Vec<Age>,
    },
    /// The log of `view` is decided, and durable at its primary.
    StartView {
        /// The view that starts.
        view: View,
        /// What the primary knows to be committed.
        commit: Anchor,
        /// The hashes of the last ops of the log, ascending, up to its head; at least of every op above `commit`.
        hashes: Vec<(Op, Hash)>,
        /// The nonce of the `GetState` that is answered; zero if none is.
        nonce: u64,
    },
    /// Asks the primary of `view` for its `StartView`.
    GetState {
        /// The view that the sender has heard of.
        view: View,
        /// Copied to the answer.
        nonce: u64,
    },
    /// Asks for entries, or only for their hashes.
    Fetch {
        /// The first op wanted.
        from: Op,
        /// The last op wanted.
        through: Op,
        /// The hash that the entry `through` must have, if it is known.
        hash: Option<Hash>,
        /// Copied to the answer.
        nonce: u64,
        /// Entries, or only their hashes.
        what: FetchWhat,
    },
    /// Hashes of consecutive ops of the sender's log, ascending.
    Headers {
        /// The nonce of the `Fetch` that is answered.
        nonce: u64,
        hashes: Vec<(Op, Hash)>,
    },
    /// Consecutive entries of the sender's log, ascending. May be fewer than requested.
    NewState {
        /// The nonce of the `Fetch` that is answered.
        nonce: u64,
        entries: Vec<Entry>,
    },
    /// The sender has dropped the entries that the receiver needs next (rule T8), so the receiver needs a snapshot.
    TooOld {
        /// The nonce of the `Fetch` that is answered; zero if none is.
        nonce: u64,
        /// The sender's durable checkpoint.
        checkpoint: LogPoint,
        /// The view in which the sender is primary, if it is.
        primary_of: Option<View>,
    },
    /// Requests the next piece of a snapshot, or shows that one is still being received.
    GetSnapshot {
        /// Copied to the answer.
        nonce: u64,
        /// The snapshot that was begun; `None` for any that the receiver has.
        at: Option<Anchor>,
        /// The place after which to continue; empty for the beginning. `None` requests no piece: keep the entries after
        /// the snapshot. Or, if `at` is `None` too: make another snapshot, because the last was not usable.
        after: Option<Bytes>,
    },
    /// A piece of a snapshot.
    SnapshotChunk {
        /// The nonce of the `GetSnapshot` that is answered.
        nonce: u64,
        /// The view that the sender is in. The snapshot was committed in that view or an earlier one.
        view: View,
        /// The op that the snapshot is at.
        at: Anchor,
        /// The piece.
        chunk: Chunk,
    },
    /// The sender does not have this snapshot (any more), or cannot read the requested piece.
    SnapshotGone {
        /// The nonce of the `GetSnapshot` that is answered.
        nonce: u64,
        /// The sender has no intact state at all, and is fetching one itself.
        stateless: bool,
    },
    /// How far the sender is in forming the cluster.
    Formation {
        /// Its durable step.
        step: FormationStep,
        /// Whether the sender requests the receiver's step.
        ask: bool,
    },
    /// The digest of the sender's state, to be compared with the receiver's at the same op.
    StateDigest {
        /// The last op that the state contains.
        op: Op,
        /// The digest of everything that was applied up to it.
        digest: Hash,
    },
    /// Asks for the epoch of the receiver, if that is not earlier than the sender's.
    AskEpoch {
        /// The epoch that the sender is in.
        epoch: Epoch,
        /// The sender's disk.
        disk: DiskId,
    },
    /// The epoch that the sender is in, which it has entered: the stop of the epoch before is committed (rule M2).
    Epoch {
        /// The configuration of the epoch.
        configuration: Box<Configuration>,
        /// The epoch has committed an entry of its own, so the members that it removed are not needed (rule M9).
        settled: bool,
        /// Nothing was committed in an earlier epoch in a view with a greater number (rule M13).
        ended: u64,
        /// The view that the sender is in.
        view: View,
        /// The sender's durable checkpoint, if it is in this epoch. A witness that needs entries which were dropped
        /// begins its log there (rule T9c).
        checkpoint: Option<LogPoint>,
    },
}

/// What one member knows about the age of an entry (rule N7). By default, nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Age {
    /// The entry has existed for at least this long.
    pub least: Duration,
    /// The member was present when the entry was made, or received its age from one that was. Then `least` is too small
    /// only by message delays, and wall clocks cannot improve it.
    pub followed: bool,
    /// The entry came from the member's own disk, and the member's wall clock has moved by this much since it was
    /// written there.
    pub moved: Option<Duration>,
}

/// A time on the monotonic clock of one member in one of its lives. Only that life can interpret it; others return it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Moment {
    /// A number that differs in each life of the member.
    pub life: u64,
    /// The time by that clock.
    pub at: Instant,
}

/// Everything that was acknowledged to anyone before some time is at or below some op.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Fresh {
    /// The op number.
    pub op: Op,
    /// A time of the receiver: when it sent the latest message that had arrived when the round began.
    pub since: Moment,
}

/// What a [`Message::Fetch`] requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum FetchWhat {
    /// Only the hashes.
    Headers,
    Entries,
}

/// The durable steps of forming a cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum FormationStep {
    /// Nothing on disk.
    Empty,
    /// The superblock exists.
    Formatted,
    /// The member votes, prepares and acknowledges.
    Formed,
}

/// The summary of a member's durable log in its `DoViewChange`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LogSummary {
    /// The last view whose log was installed here.
    pub log_view: View,
    /// The state is durable up to this point.
    pub checkpoint: Anchor,
    /// The point that is known to be committed (or, if greater, head - pipeline, which is committed by the pipeline
    /// rule).
    pub commit: Anchor,
    /// The ops at or below `commit` whose entries are not intact here and are not covered by a state here, ascending.
    /// Not all of them, if there are many.
    pub lacks: Vec<MissingRun>,
    /// The last op that the log may contain, as far as it is listed.
    pub head: Op,
    /// Every op above `commit` up to `head`, ascending, without gaps.
    pub suffix: Vec<Slot>,
    /// The known ops above `head`, ascending: what is left behind a hole that is too long to be listed. If there are
    /// many, only the last of them.
    pub tail: Vec<(Op, Slot)>,
    /// How far the log may have reached: through the last op of `suffix` and `tail`, or further if the log was damaged.
    pub extent: Extent,
}

impl LogSummary {
    /// The last op that is listed.
    #[must_use]
    pub fn last_listed(&self) -> Op {
        self.tail.last().map_or(self.head, |(op, _)| *op)
    }

    /// Returns whether entries of the log may be missing.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.extent != Extent::Through(self.head)
            || self.suffix.iter().any(|slot| matches!(slot, Slot::Faulty(_)))
    }
}

/// Consecutive committed ops whose entries a log lacks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MissingRun {
    /// The first of them.
    pub first: Op,
    /// The last of them.
    pub last: Op,
    /// The hash of the last one, if something intact still contains it. It identifies the whole log up to that op: an
    /// entry with another hash is not the committed one.
    pub hash: Option<Hash>,
}

/// One op of a [`LogSummary`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Slot {
    /// The entry with this hash is intact here.
    Present(Hash),
    /// There was an entry here that cannot be read. Its hash, if something intact still contains it.
    Faulty(Option<Hash>),
}

impl Message {
    /// The lane on which the message is sent.
    #[must_use]
    pub const fn lane(&self) -> Lane {
        match self {
            Self::Prepare { .. } | Self::PrepareOk { .. } => Lane::Log,
            Self::Fetch { .. }
            | Self::Headers { .. }
            | Self::NewState { .. }
            | Self::TooOld { .. }
            | Self::GetSnapshot { .. }
            | Self::SnapshotChunk { .. }
            | Self::SnapshotGone { .. } => Lane::Bulk,
            Self::Commit { .. }
            | Self::CommitOk { .. }
            | Self::StartViewChange { .. }
            | Self::DoViewChange { .. }
            | Self::StartView { .. }
            | Self::GetState { .. }
            | Self::Formation { .. }
            | Self::StateDigest { .. }
            | Self::AskEpoch { .. }
            | Self::Epoch { .. } => Lane::Control,
        }
    }

    /// The view in which it acts, if it names one. It moves no member to a view of another epoch (rule M4).
    //
    // `primary_of` of `TooOld` is not such a view: it is only compared with that of the receiver.
    #[must_use]
    pub const fn view(&self) -> Option<View> {
        match self {
            Self::Prepare { view, .. }
            | Self::PrepareOk { view, .. }
            | Self::Commit { view, .. }
            | Self::CommitOk { view, .. }
            | Self::StartViewChange { view }
            | Self::DoViewChange { view, .. }
            | Self::StartView { view, .. }
            | Self::GetState { view, .. }
            | Self::SnapshotChunk { view, .. } => Some(*view),
            Self::Fetch { .. }
            | Self::Headers { .. }
            | Self::NewState { .. }
            | Self::TooOld { .. }
            | Self::GetSnapshot { .. }
            | Self::SnapshotGone { .. }
            | Self::Formation { .. }
            | Self::StateDigest { .. }
            | Self::AskEpoch { .. }
            | Self::Epoch { .. } => None,
        }
    }

    /// Its name, for traces.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Prepare { .. } => "Prepare",
            Self::PrepareOk { .. } => "PrepareOk",
            Self::Commit { .. } => "Commit",
            Self::CommitOk { .. } => "CommitOk",
            Self::StartViewChange { .. } => "StartViewChange",
            Self::DoViewChange { .. } => "DoViewChange",
            Self::StartView { .. } => "StartView",
            Self::GetState { .. } => "GetState",
            Self::Fetch { .. } => "Fetch",
            Self::Headers { .. } => "Headers",
            Self::NewState { .. } => "NewState",
            Self::TooOld { .. } => "TooOld",
            Self::GetSnapshot { .. } => "GetSnapshot",
            Self::SnapshotChunk { .. } => "SnapshotChunk",
            Self::SnapshotGone { .. } => "SnapshotGone",
            Self::Formation { .. } => "Formation",
            Self::StateDigest { .. } => "StateDigest",
            Self::AskEpoch { .. } => "AskEpoch",
            Self::Epoch { .. } => "Epoch",
        }
    }
}
