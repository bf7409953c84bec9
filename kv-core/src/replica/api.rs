//! What goes into a replica and what comes out.

use crate::ids::{Anchor, Hash, Instant, MemberId, Op, Timestamp, View, WriteSeq};
use crate::message::{Chunk, ChunkEnd, LogPoint, Message, Write};
use bytes::Bytes;

/// The time of an input: monotonic for every decision, wall only for stamps in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Now {
    /// Since the node started; never goes back.
    pub monotonic: Instant,
    /// Milliseconds since 1970; may jump.
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
    /// Requests to be ordered, each encoded with `Request::encode`. Dropped unless [`Replica::is_serving`] and there is
    /// room (`Replica::proposal_room`): look before.
    ///
    /// [`Replica::is_serving`]: super::Replica::is_serving
    Propose {
        /// The requests.
        requests: Vec<Bytes>,
    },
    /// A linearizable read waits; answered by [`Output::ReadReady`] or [`Output::ReadsRefused`].
    Read {
        /// The driver's name for it.
        ticket: u64,
    },
    /// Every write up to this one is durable.
    Durable {
        /// The last durable write.
        seq: WriteSeq,
    },
    /// Committed entries up to here have been applied.
    Applied {
        /// The last applied op.
        op: Op,
    },
    /// Nothing has been applied, because a checkpoint must come first; and that gets on.
    Applying,
    /// The state has this digest after this op, which is one at which members compare theirs.
    StateDigest {
        /// The op number.
        op: Op,
        /// The digest of everything that was applied up to it.
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
    /// The pieces of the snapshot at `at` that were given out before are stored, as far as `end`. Also reported once at the
    /// start, if an earlier life left some.
    Staged {
        /// The snapshot.
        at: Anchor,
        /// What comes after what is stored.
        end: ChunkEnd,
    },
    /// The snapshot verified, and its state is the engine's now, durably. Committed entries above it are to be applied next.
    SnapshotInstalled {
        /// Where it stands.
        point: LogPoint,
    },
    /// What was stored of the snapshot did not verify, or the state here has overtaken it: it was thrown away.
    SnapshotRefused {
        /// The op that the snapshot is at.
        at: Anchor,
    },
    /// What [`Output::ReadSnapshot`] for this member itself has found in the state that is set aside.
    OwnPiece {
        /// As it would go to a peer.
        message: Message,
    },
    /// The engine's state is damaged and was given up.
    StateLost,
    /// The connection to a peer broke or was refused: a hint that it is dead.
    PeerLost {
        /// The id of the peer.
        peer: MemberId,
    },
    /// The time that `poll_timeout` named has come.
    Timeout,
    /// Give the primary role to another member, if this one has it.
    Handover,
}

/// Something to do. Carry them out in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Hand to the journal. Writes are carried out in this order, each durable before the next kind begins; consecutive
    /// appends may share one sync. Answered by [`Input::Durable`].
    Write {
        /// Its place in the order.
        seq: WriteSeq,
        /// What to write.
        write: Write,
    },
    /// Send a message. May be lost.
    Send {
        /// The receiver.
        to: MemberId,
        /// The message.
        message: Message,
    },
    /// Read these entries from the journal and send them all (the replica has bounded their bytes). May be dropped, if an
    /// entry cannot be read or the peer's queue is full.
    SendEntries {
        /// The receiver.
        to: MemberId,
        /// The first op.
        from: Op,
        /// The last op, with the hash that its entry has now. Send nothing if what is read has another one: the log was cut
        /// in the meantime.
        through: Anchor,
        /// How to wrap them.
        wrap: Wrap,
    },
    /// Make a checkpoint soon: what there is was of no use to a member that fetches one. A state that is set aside is brought to the last op
    /// that is known to be committed, if that can be done.
    MakeCheckpoint,
    /// Read the next piece of a snapshot, and send it as a [`Message::SnapshotChunk`]; if there is no such snapshot, send
    /// [`Message::SnapshotGone`]. May be slow, and may be dropped.
    ReadSnapshot {
        /// To whom. To this member itself: of the state that is set aside, answered by [`Input::OwnPiece`].
        to: MemberId,
        /// Goes into the answer.
        nonce: u64,
        /// Which; `None` for the last durable checkpoint. It is kept for a while for the next piece to be read.
        at: Option<Anchor>,
        /// The place after which to go on.
        after: Bytes,
    },
    /// Store a piece of a snapshot beside the state; what was stored of another one goes. Answered by [`Input::Staged`], or by
    /// [`Input::SnapshotRefused`].
    StageChunk {
        /// The op that the snapshot is at.
        at: Anchor,
        /// The piece. It follows the one before, or is the first.
        chunk: Chunk,
    },
    /// Verify what is stored as a whole, and put it in the place of the state, unless that has applied as much. Answered by
    /// [`Input::SnapshotInstalled`] or [`Input::SnapshotRefused`].
    InstallSnapshot {
        /// The op that the snapshot is at.
        at: Anchor,
    },
    /// Throw away what is stored of this snapshot, if that is what is stored: it is of no use any more. Not answered.
    DiscardSnapshot {
        /// The op that the snapshot is at.
        at: Anchor,
    },
    /// Everything up to here is committed: apply it, in order, from the journal (the entry may still be in its memory only).
    Commit {
        /// The new commit point.
        commit: Anchor,
    },
    /// The reads with these tickets may be answered from state that has applied `op`.
    ReadReady {
        /// The tickets of the reads that may go on.
        tickets: Vec<u64>,
        /// What must be applied first.
        op: Op,
    },
    /// The reads with these tickets cannot be answered here: this member is not (any more) the serving primary.
    ReadsRefused {
        /// The tickets of the reads that are refused.
        tickets: Vec<u64>,
    },
    /// The view, the status or the serving primary changed.
    Status(ReplicaStatus),
    /// The proposals given to this replica and not yet committed have an unknown fate: make whoever waits retry elsewhere.
    ProposalsAbandoned,
    /// Stop this member for good, now, and report why. No other output follows.
    Halt(Halt),
}

/// How [`Output::SendEntries`] wraps what it reads.
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
        /// The nonce of the `Fetch` that is answered.
        nonce: u64,
    },
}

/// Where a replica stands, for status pages and hints to clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplicaStatus {
    /// The view.
    pub view: View,
    /// What it does.
    pub status: Status,
    /// The primary of the view, if this member knows it to be serving (itself included).
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
    /// Between views.
    ViewChange,
    /// Making its log the log of the view; acknowledges nothing yet.
    CatchingUp,
    /// Its log is damaged: it votes, and acknowledges nothing until it has learned the log from a primary.
    Damaged,
}

/// Why a replica stops for good.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Halt {
    /// This member's disk is empty, but the cluster was formed with it.
    #[error(
        "the data directory is empty, but member {peer} reports that the cluster is formed: this member's disk was lost. \
         Bring the directory back, for example by mounting its disk; this member cannot take part without it"
    )]
    DiskLoss {
        /// The member that reported it.
        peer: MemberId,
    },
    /// An entry that was applied here differs from the one committed in the cluster.
    #[error(
        "op {op} was applied here as {ours}, but the cluster committed {theirs}: the histories have diverged"
    )]
    Diverged {
        /// The op at which the logs differ.
        op: Op,
        /// The hash here.
        ours: Hash,
        /// The hash there.
        theirs: Hash,
    },
    /// A quorum has applied the same entries, and has another state.
    #[error(
        "the state after op {op} has the digest {ours} here and {theirs} on a quorum of members that have applied the same entries: \
         this member's memory, processor or build is not to be trusted. Find out why before it runs again; its data directory \
         holds a wrong state"
    )]
    StateDiffers {
        /// Where it was found out.
        op: Op,
        /// The digest here.
        ours: Hash,
        /// The digest there.
        theirs: Hash,
    },
    /// No intact copy of an entry is left that may have been acknowledged.
    #[error(
        "op {op} may have been acknowledged, and no intact copy of its entry is left on any member: bring the data \
         directory of one that held it back from a copy, or set up a new cluster from a backup"
    )]
    Lost {
        /// The op of the entry that is lost.
        op: Op,
    },
    /// No data member has an intact state.
    #[error(
        "no data member has an intact state: the states of all of them are damaged, and their intact parts together are incomplete. \
         Nothing was deleted: each has its file `state.damaged`, and its journal. Bring the data directory of one of them back from a \
         copy, or set up a new cluster from a backup"
    )]
    NoState,
    /// This member lacks entries that no peer keeps.
    #[error("entries from op {from} on are needed, and peers no longer keep them")]
    BehindJournals {
        /// The first op needed.
        from: Op,
    },
}
