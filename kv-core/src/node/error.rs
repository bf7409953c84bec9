//! Why a node did not start, and why it stopped.

use crate::config::{ConfigError, OptionMismatch};
use crate::engine::EngineError;
use crate::error::{AdminError, ConnectError};
use crate::ids::{Epoch, MemberId, Op};
use crate::journal::{JournalReadError, JournalWriteError, OpenError};
use crate::replica::Halt;
use crate::storage::DirectoryError;
use kv_transport::TransportError;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Why a node did not start.
///
/// The start checks as much as possible before it changes anything on disk, except that it creates the data directory
/// with its lock file. If the disk failed, or after [`Engine`](Self::Engine), [`StateLost`](Self::StateLost) or
/// [`Thread`](Self::Thread), the start may have made the repairs that every start makes. For example, it removes an
/// entry that is incomplete after a crash.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration or the options are wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There is no member list: the data directory contains none, and none was configured.
    #[error(
        "no member list was given, and the data directory contains none: name the members with which the cluster formed, or \
         addresses of the cluster to join (NodeBuilder::join)"
    )]
    NoMembers,
    /// The member was removed from the cluster, which goes on without it.
    #[error("this member was removed from the cluster in epoch {epoch}: its data directory can be deleted")]
    Removed {
        /// The first epoch without it.
        epoch: Epoch,
    },
    /// The builder got no transport.
    #[error("no transport was given: call NodeBuilder::transport")]
    NoTransport,
    /// The builder got no data directory.
    #[error("no data directory was given: call NodeBuilder::data_dir")]
    NoStorage,
    /// The transport's certificate belongs to someone else.
    #[error(
        "the certificate belongs to {found}, but this is member {me} of {cluster:?}: use the certificate of this member"
    )]
    OtherIdentity {
        /// The owner of the certificate.
        found: String,
        /// The id of this member.
        me: MemberId,
        /// The cluster of this member.
        cluster: String,
    },
    /// The file with the list of clients cannot be read.
    #[error("cannot read the client list {}: {source}", file.display())]
    ClientList {
        /// The path of the file.
        file: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// A list of clients was given, but the transport does not authenticate callers.
    #[error("a client list requires certificates: without them, a client can claim any name")]
    ListWithoutCertificates,
    /// The node cannot listen on the address.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The data directory cannot be used, or something else uses it: another process, or another node of this process.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The journal cannot be opened. For example, it belongs to another member or cluster, has another format or is
    /// damaged, or the disk failed.
    #[error("{0}{advice}", advice = Advice(DiskProblem::of_open(.0)))]
    Journal(#[from] OpenError),
    /// The state cannot be opened, or the disk failed.
    #[error("{0}{advice}", advice = Advice(DiskProblem::of_state(.0)))]
    Engine(#[from] EngineError),
    /// The state is older than the superblock says.
    #[error(
        "the state is at op {found}, but it was at op {recorded} before: it was lost or replaced by an old copy. \
         Bring the whole data directory back as it was when the member last ran"
    )]
    StateLost {
        /// The op of the state.
        found: Op,
        /// The op that the superblock records for the state.
        recorded: Op,
    },
    /// The member could not join the cluster.
    #[error("cannot join the cluster: {0}")]
    Join(#[from] JoinError),
    /// The system could not start a thread.
    #[error("cannot start a thread: {0}: raise the limit on processes or free memory")]
    Thread(#[source] io::Error),
}

impl StartError {
    /// Returns the mismatch if the node did not start because a fixed option differs from the value that it had when
    /// the cluster formed.
    #[must_use]
    pub const fn other_option(&self) -> Option<&OptionMismatch> {
        match self {
            Self::Journal(OpenError::OtherOption(mismatch))
            | Self::Engine(EngineError::OtherOption(mismatch)) => Some(mismatch),
            _ => None,
        }
    }

    /// Returns whether another start will fail in the same way until an operator has changed something. A supervisor
    /// should then not start the member again. If this is `false`, another start may succeed later: for example, after
    /// another process has released the address.
    #[must_use]
    pub const fn needs_operator(&self) -> bool {
        match self {
            Self::Config(_)
            | Self::NoMembers
            | Self::Removed { .. }
            | Self::NoTransport
            | Self::NoStorage
            | Self::OtherIdentity { .. }
            | Self::ListWithoutCertificates
            | Self::StateLost { .. } => true,
            Self::Journal(error) => !matches!(error, OpenError::Disk { .. }),
            Self::Engine(error) => error.needs_operator(),
            Self::Directory(error) => matches!(error, DirectoryError::NotADirectory(_)),
            Self::Join(error) => error.needs_operator(),
            Self::ClientList { .. } | Self::Transport(_) | Self::Thread(_) => false,
        }
    }
}

/// Why a member with an empty directory did not join its cluster. Nothing was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// No member could be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// No member has sent its list.
    #[error("no member has sent its member list: {0}")]
    List(AdminError),
    /// A member has sent a list that no member can have.
    #[error(
        "the member list that was received is malformed: check that the addresses are those of the cluster's members"
    )]
    Malformed,
    /// The cluster does not know the member.
    #[error("the cluster has no member {0}: add it first")]
    NotListed(MemberId),
    /// The member was removed from the cluster.
    #[error("member {0} was removed from the cluster, and an id is used only once: add it with another id")]
    Removed(MemberId),
    /// The directory of a member that has a vote is empty.
    #[error(
        "member {0} has a vote, but its data directory is empty: its disk was lost. It cannot take part without what it stored. \
         Add a member with another id, and let it replace this one"
    )]
    HasVote(MemberId),
    /// A member refuses this one, for example because an option differs.
    #[error("member {id} refuses this member: {reason}")]
    Refused {
        /// The member that refuses.
        id: MemberId,
        /// What is wrong, and what to do about it.
        reason: String,
    },
}

impl JoinError {
    const fn needs_operator(&self) -> bool {
        match self {
            Self::Connect(error) => !error.is_retryable(),
            Self::List(_) => false,
            Self::Malformed
            | Self::NotListed(_)
            | Self::Removed(_)
            | Self::HasVote(_)
            | Self::Refused { .. } => true,
        }
    }
}

/// Why a node stopped.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StopReason {
    /// [`Node::shutdown`](super::Node::shutdown) was called.
    #[error("the node was shut down")]
    Shutdown,
    /// The [`Node`](super::Node) was dropped.
    #[error("the node was dropped")]
    Dropped,
    /// The protocol halted the member.
    #[error(transparent)]
    Halted(Halt),
    /// The journal could not be written. Everything acknowledged before is safe. [`disk_problem`](Self::disk_problem)
    /// returns what to do before the next start.
    #[error("the journal failed: {0}{advice}", advice = Advice(DiskProblem::of_write(.0)))]
    Journal(Arc<JournalWriteError>),
    /// A committed entry could not be read, and no peer can repair it.
    #[error("the journal cannot be read: {0}{advice}", advice = Advice(DiskProblem::of_read(.0)))]
    Log(Arc<JournalReadError>),
    /// A committed entry is not in the journal. This is a bug.
    #[error("the committed entry {op} is not in the journal: please report this")]
    Missing {
        /// The op of the entry.
        op: Op,
    },
    /// The state could not be read, changed or made durable.
    #[error("the state failed: {0}{advice}", advice = Advice(DiskProblem::of_state(.0)))]
    Engine(#[from] EngineError),
    /// A disk operation did not return within five seconds after the member stopped. The member has stopped and reports
    /// nothing more, but one of its threads still waits, and the data directory stays locked until the disk returns or
    /// the process ends.
    #[error(
        "{stopped}, and an operation of the disk does not finish: the data directory stays locked until it does, or the process ends"
    )]
    DiskHangs {
        /// Why the member stopped.
        stopped: Box<Self>,
    },
    /// The data directory, or a file in it, was removed or replaced while the member was using it. The member notices
    /// the change within about a second. Writes that it acknowledged in that time may be only on the other members.
    #[error(
        "the data directory changed under the running member: {0}. If it was moved, move it back and start the member again; \
         if it was deleted, this member cannot take part any more"
    )]
    DirectoryChanged(Arc<io::Error>),
    /// The system could not start a thread.
    #[error("cannot start a thread: {0}: raise the limit on processes or free memory")]
    Thread(Arc<io::Error>),
    /// A part of the node panicked. This is a bug.
    #[error("{part} panicked: please report this with the panic's text")]
    Panicked {
        /// The name of the part that panicked.
        part: &'static str,
    },
}

impl StopReason {
    /// Returns whether the member was stopped on purpose.
    #[must_use]
    pub const fn is_intended(&self) -> bool {
        match self {
            Self::Shutdown | Self::Dropped => true,
            Self::DiskHangs { stopped } => stopped.is_intended(),
            Self::Halted(_)
            | Self::Journal(_)
            | Self::Log(_)
            | Self::Missing { .. }
            | Self::Engine(_)
            | Self::DirectoryChanged(_)
            | Self::Thread(_)
            | Self::Panicked { .. } => false,
        }
    }

    /// Returns whether the member would stop again until an operator has changed something, or could lose data if it
    /// were restarted before that. A supervisor should then not start the member again. If this is `false`, a restart
    /// is safe, and may help.
    #[must_use]
    pub const fn needs_operator(&self) -> bool {
        match self {
            Self::Halted(_) | Self::DirectoryChanged(_) => true,
            Self::Engine(error) => error.needs_operator(),
            Self::DiskHangs { stopped } => stopped.needs_operator(),
            Self::Shutdown
            | Self::Dropped
            | Self::Journal(_)
            | Self::Log(_)
            | Self::Missing { .. }
            | Self::Thread(_)
            | Self::Panicked { .. } => false,
        }
    }

    /// Returns the problem with the disk, if the member stopped because of one.
    #[must_use]
    pub fn disk_problem(&self) -> Option<DiskProblem> {
        match self {
            Self::Journal(error) => DiskProblem::of_write(error),
            Self::Log(error) => DiskProblem::of_read(error),
            Self::Engine(error) => DiskProblem::of_state(error),
            Self::DiskHangs { stopped } => stopped.disk_problem().or(Some(DiskProblem::Failed)),
            Self::Shutdown
            | Self::Dropped
            | Self::Halted(_)
            | Self::Missing { .. }
            | Self::DirectoryChanged(_)
            | Self::Thread(_)
            | Self::Panicked { .. } => None,
        }
    }
}

/// A problem with a disk, and what to do about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskProblem {
    /// No space is left, or a quota or a limit on file sizes is reached.
    #[error("the disk is full: free some space, then start the member again")]
    Full,
    /// The file system is read-only.
    #[error(
        "the file system is read-only: find out why in the system's log, make it writable, then start the member again"
    )]
    ReadOnly,
    /// The disk failed in another way.
    #[error(
        "the disk failed: the system's log may have the reason. Start the member again once the disk works"
    )]
    Failed,
}

impl DiskProblem {
    fn of(error: &io::Error) -> Self {
        use io::ErrorKind::{FileTooLarge, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        // The other kinds of errors say no more than that the disk failed.
        match error.kind() {
            StorageFull | QuotaExceeded | FileTooLarge => Self::Full,
            ReadOnlyFilesystem | PermissionDenied => Self::ReadOnly,
            _ => Self::Failed,
        }
    }

    fn of_open(error: &OpenError) -> Option<Self> {
        if let OpenError::Disk { source, .. } = error { Some(Self::of(source)) } else { None }
    }

    fn of_write(error: &JournalWriteError) -> Option<Self> {
        if let JournalWriteError::Disk { source, .. } = error { Some(Self::of(source)) } else { None }
    }

    fn of_read(error: &JournalReadError) -> Option<Self> {
        if let JournalReadError::Disk { source, .. } = error { Some(Self::of(source)) } else { None }
    }

    fn of_state(error: &EngineError) -> Option<Self> {
        if let EngineError::Io { source, .. } = error { Some(Self::of(source)) } else { None }
    }
}

/// The end of an error message: what to do, if anything.
struct Advice(Option<DiskProblem>);

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |trouble| write!(f, ". {trouble}"))
    }
}

/// Why a handover did not happen.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandoverError {
    /// No other member can be primary.
    #[error("no other member holds data: nobody can take the primary role")]
    NoOther,
    /// No other member became primary in time.
    #[error("no other member took the primary role in time: too few are up and have caught up with this one")]
    TimedOut,
    /// The node has stopped.
    #[error("the node has stopped: {0}")]
    Stopped(StopReason),
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The error names the system's reason and one action, wherever the disk has failed.
    #[test]
    fn f_disk_11_the_remedy_for_a_disk_is_reported_once() {
        let source = || io::Error::from(io::ErrorKind::StorageFull);
        let engine = || EngineError::Io { doing: "write", source: Arc::new(source()) };
        let texts = [
            StartError::Journal(OpenError::Disk { doing: "create the superblock".into(), source: source() })
                .to_string(),
            StartError::Engine(engine()).to_string(),
            StopReason::Engine(engine()).to_string(),
            StopReason::Journal(Arc::new(JournalWriteError::Disk {
                doing: "write".into(),
                source: source(),
            }))
            .to_string(),
            StopReason::Log(Arc::new(JournalReadError::Disk { op: Op::ZERO, source: source() })).to_string(),
        ];
        for text in texts {
            let advice =
                ["free some space", "start", "check the disk"].map(|word| text.matches(word).count());
            assert_eq!(advice, [1, 1, 0], "{text}");
        }
    }

    /// A supervisor that restarts a member in vain hides the problem, and one that does not restart it leaves the
    /// cluster without redundancy.
    #[test]
    fn only_what_a_restart_cannot_solve_needs_an_operator() {
        let disk = || EngineError::Io {
            doing: "write",
            source: Arc::new(io::Error::from(io::ErrorKind::StorageFull)),
        };
        let inconsistent = || EngineError::inconsistent("order");
        let hangs = |stopped| StopReason::DiskHangs { stopped: Box::new(stopped) };
        let stops = [
            (StopReason::Shutdown, false),
            (StopReason::Engine(disk()), false),
            (hangs(StopReason::Engine(disk())), false),
            (StopReason::Panicked { part: "the driver" }, false),
            (StopReason::Engine(inconsistent()), true),
            (StopReason::Halted(Halt::NoState), true),
            (hangs(StopReason::Halted(Halt::NoState)), true),
            (StopReason::DirectoryChanged(Arc::new(io::ErrorKind::NotFound.into())), true),
        ];
        for (reason, needs) in stops {
            assert_eq!(reason.needs_operator(), needs, "{reason}");
        }
        let busy = StartError::Directory(DirectoryError::Locked(PathBuf::from("data")));
        let file = StartError::Directory(DirectoryError::NotADirectory(PathBuf::from("data")));
        let full = OpenError::Disk { doing: "write".into(), source: io::ErrorKind::StorageFull.into() };
        let starts = [
            (busy, false),
            (StartError::Journal(full), false),
            (StartError::Engine(disk()), false),
            (StartError::Thread(io::ErrorKind::OutOfMemory.into()), false),
            (file, true),
            (StartError::Journal(OpenError::NewerFormat { found: 2, known: 1 }), true),
            (StartError::Engine(inconsistent()), true),
            (StartError::StateLost { found: Op::ZERO, recorded: Op::new(1) }, true),
        ];
        for (error, needs) in starts {
            assert_eq!(error.needs_operator(), needs, "{error}");
        }
    }
}
