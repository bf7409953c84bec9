//! The inputs and outputs of a replica.

use crate::config::{ChangeRefused, ChangeRequest, Cluster, Configuration, DiskId, Options};
use crate::ids::{Anchor, Epoch, Hash, Instant, MemberId, Op, Timestamp, View, WriteSeq};
use crate::message::{Chunk, ChunkEnd, LogPoint, Message, RefusalKind, Write};
use bytes::Bytes;

/// The configuration of a replica.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ReplicaConfig {
    /// The members and their quorums.
    pub cluster: Cluster,
    /// Which member this is.
    pub me: MemberId,
    /// Time-outs and limits.
    pub options: Options,
    /// The seed of its jitter and its nonces. It must be different in each life.
    pub seed: u64,
    /// The state that goes with the log was damaged and set aside. Another one is fetched from a peer.
    pub stateless: bool,
    /// The part of a snapshot that an earlier life has stored, and where it ends.
    pub staged: Option<(Anchor, ChunkEnd)>,
    /// How many bytes of entries a peer is sent beyond its acknowledgements.
    pub window_bytes: usize,
    /// The id of its disk.
    pub disk: DiskId,
}

impl ReplicaConfig {
    /// Creates a configuration. The member list counts in epoch 0 only.
    #[must_use]
    pub const fn new(cluster: Cluster, me: MemberId, options: Options, seed: u64) -> Self {
        let window_bytes = super::WINDOW_BYTES;
        let disk = DiskId(0);
        Self { cluster, me, options, seed, stateless: false, staged: None, window_bytes, disk }
    }
}

/// The time of an input. The monotonic clock is used for every decision, and the wall clock only for stamps in the
/// log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Now {
    /// The time since the node started. It never goes back.
    pub monotonic: Instant,
    /// Milliseconds since 1970. It may jump.
    pub wall: Timestamp,
}

/// Something that happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// A message came from a peer whose identity the transport has checked.
    Message {
        /// Who sent it.
        from: MemberId,
        /// The message.
        message: Message,
    },
    /// Requests to be ordered, each encoded with `Request::encode`. They are dropped unless [`Replica::is_serving`]
    /// and there is room (`Replica::proposal_room`), so check first.
    ///
    /// [`Replica::is_serving`]: super::Replica::is_serving
    Propose {
        /// The requests.
        requests: Vec<Bytes>,
    },
    /// A linearizable read. It is answered by [`Output::ReadReady`] or [`Output::ReadsRefused`].
    Read {
        /// The driver's identifier for it.
        ticket: u64,
    },
    /// All writes up to this one are durable.
    Durable {
        /// The last durable write.
        seq: WriteSeq,
    },
    /// Committed entries up to here have been applied.
    Applied {
        /// The last applied op.
        op: Op,
    },
    /// Nothing was applied, but there was progress: on a checkpoint that must come first, or on reading the state.
    Applying,
    /// The digest of the state after this op, at which members compare their digests.
    StateDigest {
        /// The op number.
        op: Op,
        /// The digest of everything that was applied up to that op.
        digest: Hash,
    },
    /// The engine's checkpoint at this op is durable: record it in the superblock.
    Checkpointed {
        /// The checkpoint.
        checkpoint: Anchor,
    },
    /// The stored entry at this op cannot be read.
    Faulty {
        /// The op number.
        op: Op,
    },
    /// The pieces of the snapshot at `at` are stored up to `end`. Also reported once at the start, if an earlier life
    /// of the member stored some.
    Staged {
        /// The snapshot.
        at: Anchor,
        /// Where the next piece begins.
        end: ChunkEnd,
    },
    /// The snapshot was verified, and its state is durably the state of the engine. Committed entries above it must
    /// be applied next.
    SnapshotInstalled {
        /// The point in the log that the state belongs to.
        point: LogPoint,
        /// The configuration in it; `None` in epoch 0.
        configuration: Option<Box<Configuration>>,
    },
    /// The stored snapshot was discarded: it could not be verified, or the own state is already ahead of it.
    SnapshotRefused {
        /// The op that the snapshot is at.
        at: Anchor,
    },
    /// The answer to an [`Output::ReadSnapshot`] for this member itself, from the state that is set aside.
    OwnPiece {
        /// The message that would be sent to a peer.
        message: Message,
    },
    /// The state of the engine was damaged, and was discarded.
    StateLost,
    /// The connection to a peer broke or was refused: the peer may be dead.
    PeerLost {
        /// The id of the peer.
        peer: MemberId,
    },
    /// The time that `poll_timeout` returned has come.
    Timeout,
    /// Pass the primary role to another member, if this one has it.
    Handover,
    /// Change the member list, if this member is the primary and `Replica::check_change` does not refuse it.
    Change {
        /// The change.
        change: Box<ChangeRequest>,
    },
    /// The answer to [`Output::ReadStop`].
    Stop {
        /// The stop that was read.
        stop: Anchor,
        /// The configuration in it.
        configuration: Box<Configuration>,
    },
    /// Pass the primary role to this member, if this one has it and `Replica::check_successor` does not
    /// refuse it.
    HandoverTo {
        /// The id of the next primary.
        successor: MemberId,
    },
}

/// An action for the driver. Outputs must be carried out in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Pass the write to the journal. Writes must be carried out in this order, each durable before the next kind
    /// begins; consecutive appends may share one sync. Answered by [`Input::Durable`].
    Write {
        /// Its position in the order.
        seq: WriteSeq,
        /// What to write.
        write: Write,
    },
    /// Send a message. It may be lost.
    Send {
        /// The receiver.
        to: MemberId,
        /// The message.
        message: Message,
    },
    /// Read these entries from the journal and send all of them (the replica has limited their bytes). They may not be
    /// durable yet: an earlier output wrote them. The output may be dropped if an entry cannot be read or the peer's
    /// queue is full.
    SendEntries {
        /// The receiver.
        to: MemberId,
        /// The first op.
        from: Op,
        /// The last op, with the current hash of its entry. Send nothing if the entry that is read has another hash:
        /// the log was cut in the meantime.
        through: Anchor,
        /// How to wrap them.
        wrap: Wrap,
    },
    /// Make a checkpoint soon: a member that fetches one cannot use the last. If the state is set aside, first apply
    /// entries to it up to the last op that is known to be committed, if possible.
    MakeCheckpoint,
    /// Read the next piece of a snapshot, and send it as a [`Message::SnapshotChunk`]; if there is no such snapshot,
    /// send [`Message::SnapshotGone`]. This may be slow, and may be dropped.
    ReadSnapshot {
        /// The receiver. For this member itself, read the state that is set aside, and answer with
        /// [`Input::OwnPiece`].
        to: MemberId,
        /// To be copied to the answer.
        nonce: u64,
        /// Which snapshot; `None` for the last durable checkpoint. Keep it for a while, so that the next piece can be
        /// read.
        at: Option<Anchor>,
        /// The position after which the piece begins.
        after: Bytes,
    },
    /// Store a piece of a snapshot beside the state, and drop what is stored of any other snapshot. Answered by
    /// [`Input::Staged`] or [`Input::SnapshotRefused`].
    StageChunk {
        /// The op that the snapshot is at.
        at: Anchor,
        /// The piece. It follows the one before, or is the first.
        chunk: Chunk,
    },
    /// Verify the stored snapshot as a whole, and replace the state with it, unless the state has already applied as
    /// much. Answered by [`Input::SnapshotInstalled`] or [`Input::SnapshotRefused`].
    InstallSnapshot {
        /// The op that the snapshot is at.
        at: Anchor,
    },
    /// Discard the stored part of this snapshot, if there is any. There is no answer.
    DiscardSnapshot {
        /// The op that the snapshot is at.
        at: Anchor,
    },
    /// Read the stop at this point from the journal. Answered by [`Input::Stop`], or by [`Input::Faulty`].
    ReadStop {
        /// The last entry of the epoch.
        stop: Anchor,
    },
    /// This member is in another epoch, and so has other peers. Its own role may be another one, or it may have been
    /// removed.
    Entered {
        /// The configuration of the epoch.
        configuration: Box<Configuration>,
    },
    /// There is a later epoch, and this member lacks what leads to it: members of this configuration must be called.
    Reach {
        /// The configuration of that epoch.
        configuration: Box<Configuration>,
    },
    /// Everything up to this point is committed. Apply it in order from the journal (the entry may still be in its
    /// memory only).
    Commit {
        /// The new commit point.
        commit: Anchor,
    },
    /// The reads with these tickets may be answered from a state that has applied `op`.
    ReadReady {
        /// The tickets of the reads.
        tickets: Vec<u64>,
        /// What must be applied first.
        op: Op,
    },
    /// The reads with these tickets cannot be answered here, because this member is not, or no longer, the serving
    /// primary.
    ReadsRefused {
        /// The tickets of the reads that are refused.
        tickets: Vec<u64>,
    },
    /// The view, the status or the serving primary changed.
    Status(ReplicaStatus),
    /// The outcome of the proposals that were given to this replica and are not yet committed is unknown: make their
    /// clients retry elsewhere.
    ProposalsAbandoned,
    /// Stop this member permanently, at once, and report the reason. No other output follows.
    Halt(Halt),
}

/// Why a change of the member list was not ordered. Nothing has changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ChangeRefusal {
    /// The list itself forbids it.
    #[error(transparent)]
    Impossible(ChangeRefused),
    /// This member is not the primary, or passes its role on, or another change is under way.
    #[error("the primary is busy with another change or with a handover: try again")]
    Busy,
    /// A member on which the next list relies lacks data.
    #[error("member {0} is not reachable, or does not have all data yet: wait until it follows the primary")]
    NotLevel(MemberId),
    /// A role is for ever.
    #[error(
        "a member keeps its role: add a new member with the other role and a new id, and remove this one"
    )]
    Role,
    /// The request names another disk for a member than it has.
    #[error("the request names another disk for member {0} than it has: list the members and decide again")]
    OtherDisk(MemberId),
    /// The last voter would be another one.
    #[error("member {0} would be left alone, and only the primary can be: hand the role over to it first")]
    LeftAlone(MemberId),
    /// The next list could not go on.
    #[error(
        "only {level} of the members that would vote have all data and are reachable, and {needed} are needed: bring the others back first"
    )]
    TooFewLevel {
        /// How many have all data.
        level: usize,
        /// How many are needed.
        needed: usize,
    },
}

impl ChangeRefusal {
    /// What the client is told; `None` if it is only told to try again.
    #[must_use]
    pub const fn kind(&self) -> Option<RefusalKind> {
        match self {
            Self::Busy => None,
            Self::Impossible(ChangeRefused::OtherEpoch { .. }) => Some(RefusalKind::Conflict),
            Self::Impossible(_) | Self::Role | Self::OtherDisk(_) => Some(RefusalKind::Invalid),
            Self::NotLevel(_) | Self::LeftAlone(_) | Self::TooFewLevel { .. } => Some(RefusalKind::NotReady),
        }
    }
}

/// How [`Output::SendEntries`] wraps the entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wrap {
    /// One [`Message::Prepare`] each, in this view.
    Prepare {
        /// The view.
        view: View,
        /// What is committed.
        commit: Anchor,
    },
    /// One [`Message::NewState`] for all.
    NewState {
        /// The nonce of the `Fetch` that this answers.
        nonce: u64,
    },
}

/// The status of a replica, for status pages and for hints to clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplicaStatus {
    /// The view.
    pub view: View,
    /// What it does.
    pub status: Status,
    /// The primary of the view, if this member knows that it serves. It may be this member.
    pub primary: Option<MemberId>,
}

/// What a replica is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Status {
    /// Waiting until all members have been seen once.
    Forming,
    /// Part of a view.
    Normal,
    /// In between two views.
    ViewChange,
    /// Replaces its log with the log of the view. Acknowledges nothing yet.
    CatchingUp,
    /// It was removed from the cluster. It tells the others what it has, until they go on without it.
    Removed,
    /// Its log is damaged. It votes, but acknowledges nothing until it has received the log from a primary.
    Damaged,
}

/// Why a replica stops permanently.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Halt {
    /// The disk of this member is empty, although the cluster has formed, and a cluster forms only with all of its
    /// members.
    #[error(
        "the data directory is empty, but member {peer} reports that the cluster is formed: this member's disk was lost. \
         Bring the directory back, for example by mounting its disk; this member cannot take part without it"
    )]
    DiskLoss {
        /// The member that reported it.
        peer: MemberId,
    },
    /// The member list names another disk for this member: this directory is new, or a copy.
    #[error(
        "the member list of epoch {epoch} names another disk for this member: its directory was lost and made anew, or is a copy. \
         Bring the directory back, or add a new member with a new id in its place"
    )]
    OtherDisk {
        /// The epoch of the list.
        epoch: Epoch,
    },
    /// This member was removed from the cluster.
    #[error("this member was removed from the cluster in epoch {epoch}: its data directory can be deleted")]
    Removed {
        /// The first epoch without it.
        epoch: Epoch,
    },
    /// An entry that was applied here differs from the one that the cluster committed.
    #[error(
        "op {op} was applied here as {ours}, but the cluster committed {theirs}: the histories have diverged"
    )]
    Diverged {
        /// The op at which the logs differ.
        op: Op,
        /// The hash of the entry here.
        ours: Hash,
        /// The hash of the committed entry.
        theirs: Hash,
    },
    /// A quorum of members has applied the same entries as this member, but has another state.
    #[error(
        "the state after op {op} has the digest {ours} here and {theirs} on a quorum of members that have applied the same entries: \
         this member's memory, processor or build is not to be trusted. Find out why before it runs again; its data directory \
         holds a wrong state"
    )]
    StateDiffers {
        /// The op at which the digests were compared.
        op: Op,
        /// The digest of this member.
        ours: Hash,
        /// The digest of the quorum.
        theirs: Hash,
    },
    /// An entry may have been acknowledged, and no intact copy of it is left.
    #[error(
        "op {op} may have been acknowledged, and no member has an intact copy of its entry, or a state that contains it: put \
         back what was moved out of the data directories, restore the data directory of a member that held the entry from \
         an intact copy with everything that it acknowledged, or set up a new cluster from a backup"
    )]
    Lost {
        /// The op of the lost entry.
        op: Op,
    },
    /// No data member has an intact state.
    #[error(
        "no data member has an intact state: the states of all of them are damaged, and their intact parts together are incomplete. \
         Nothing was deleted: each has its file `state.damaged`, and its journal. Restore the data directory of one of them from an \
         intact copy with everything that it acknowledged, or set up a new cluster from a backup"
    )]
    NoState,
    /// This member lacks entries that no peer keeps.
    #[error("entries from op {from} on are needed, and peers no longer keep them")]
    BehindJournals {
        /// The first op that it needs.
        from: Op,
    },
}
