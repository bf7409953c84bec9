//! Reading the data directory of a member that is stopped: to check it, and to save what is in it.
//!
//! Use this when a cluster has lost so many members for good that the others cannot form a quorum. Open the directory
//! of each member that is left with [`DataDirectory::open`], choose the one that is ahead of all others
//! ([`is_ahead_of`](DataDirectory::is_ahead_of)), and write its [`records`](DataDirectory::records) to a new cluster.
//! This is what `kv recover` does.
//!
//! Nothing here changes a directory, except that a file named `LOCK` may be created.

use crate::config::{Cluster, MemberId, Options, View};
use crate::engine::{EngineError, Keys};
use crate::ids::{Epoch, LeaseId, Op, Revision, Timestamp};
use crate::journal::{Identity, Journal, JournalOptions, JournalReadError, OpenError, Owned};
use crate::kv::{Limits, RevisionView, StateMachine};
use crate::message::{CheckpointAlignment, Extent, Record};
use crate::storage::{Directory, DirectoryError, Overlay, Storage};
use bytes::Bytes;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The file that every member's directory has once the cluster has formed.
const SUPERBLOCK: &str = "superblock";

/// How much of the journal is kept in memory. Each entry is read once.
const CACHE_BYTES: usize = 0;

/// A page of records is about this long.
const PAGE_BYTES: usize = 1 << 20;
const PAGE_RECORDS: usize = 10_000;

/// Why a data directory could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OfflineError {
    /// The directory cannot be used. A running member has locked its directory: stop the member first.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The path does not lead to the data directory of a member that has taken part in a cluster.
    #[error(
        "{path} is not the data directory of a member: it contains no file named superblock. Name the directory that the member was started with",
        path = .0.display()
    )]
    NotADataDirectory(PathBuf),
    /// The journal cannot be opened.
    #[error(transparent)]
    Journal(#[from] OpenError),
    /// An entry of the journal cannot be read.
    #[error(transparent)]
    Entry(#[from] JournalReadError),
    /// The state cannot be read.
    #[error(transparent)]
    State(#[from] EngineError),
    /// The directory has entries that follow a state, but not that state.
    #[error(
        "member {member} has no state that its journal continues: it is a witness, or its state was lost or set aside as \
         damaged. The journal is of view {log_view}, and has the ops after {after} up to {last}. Use the data directory of \
         another member"
    )]
    NoState {
        /// The member whose directory it is.
        member: MemberId,
        /// See [`DataDirectory::log_view`].
        log_view: View,
        /// The op before the oldest entry of the journal.
        after: Op,
        /// The op of the last entry of the journal that can be read.
        last: Op,
    },
}

/// The member list in a data directory.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct StoredList {
    /// The member whose directory it is.
    pub member: MemberId,
    /// The number of the list: how many changes led to it.
    pub epoch: Epoch,
    /// The members. The list lacks the owner of the directory if it was removed.
    pub cluster: Cluster,
}

/// Returns the member list in the data directory; `None` if it contains none, because it is empty, cannot be read, or
/// the cluster has never changed its list. The directory is neither locked nor changed, and its member may be running.
#[must_use]
pub fn stored_list(path: impl AsRef<Path>) -> Option<StoredList> {
    let Owned { cluster: name, member, membership } = Owned::at(path.as_ref()).ok()??;
    let configuration = membership?.configuration;
    let cluster = configuration.cluster(&name).ok()?;
    Some(StoredList { member, epoch: configuration.epoch, cluster })
}

/// What a member that is stopped has stored: its state, with all entries of its journal applied.
pub struct DataDirectory {
    cluster: String,
    member: MemberId,
    log_view: View,
    checkpoint: Op,
    state: StateMachine,
    unreadable: Option<UnreadableEntries>,
    /// Keeps the directory locked.
    _storage: Arc<dyn Storage>,
}

/// Entries of a journal that cannot be read, and that may have been acknowledged to clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct UnreadableEntries {
    /// The first op that cannot be read.
    pub first: Op,
    /// The last op that the journal may have had; `None` if this is not known.
    pub last: Option<Op>,
}

impl std::fmt::Debug for DataDirectory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DataDirectory")
            .field("cluster", &self.cluster)
            .field("member", &self.member)
            .field("log_view", &self.log_view)
            .field("checkpoint", &self.checkpoint)
            .field("last_op", &self.last_op())
            .field("unreadable", &self.unreadable)
            .finish_non_exhaustive()
    }
}

impl DataDirectory {
    /// Opens the data directory of a member that is stopped, and locks it until the value is dropped. Applies the
    /// entries of the journal to the state in memory, up to the first one that cannot be read. This includes entries at
    /// the end for which the member does not know whether the cluster had committed them: one of them may be a write
    /// that was acknowledged to its client.
    ///
    /// Blocks. Takes memory for what the entries change since the last checkpoint of the member, which is usually below
    /// three times [`checkpoint_bytes`](Options::checkpoint_bytes), and for all other purposes less than 100 MiB.
    ///
    /// # Errors
    /// [`OfflineError`] says what cannot be read, and what to do.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OfflineError> {
        let path = path.as_ref();
        let found = path.join(SUPERBLOCK).try_exists();
        if !found.map_err(|source| DirectoryError::Disk { doing: "look", path: path.to_owned(), source })? {
            let names = path.read_dir().into_iter().flatten().flatten();
            let mut names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
            return Err(match names.find(|name| name.starts_with("journal-")) {
                Some(file) => OpenError::SuperblockMissing { file }.into(),
                None => OfflineError::NotADataDirectory(path.to_owned()),
            });
        }
        Self::read(Directory::open(path)?)?.ok_or_else(|| OfflineError::NotADataDirectory(path.to_owned()))
    }

    /// `None` if the storage is not formatted.
    fn read(disk: Arc<dyn Storage>) -> Result<Option<Self>, OfflineError> {
        let storage: Arc<dyn Storage> = Arc::new(Overlay::new(disk));
        let Some(identity) = Identity::read(&*storage)? else { return Ok(None) };
        let (cluster, member) = (identity.cluster_name.clone(), identity.member);
        let options = Options::default();
        let limits = Limits { fixed: identity.options.clone(), ..Limits::from(&options) };
        let sizes = JournalOptions { segment_bytes: options.segment_bytes, cache_bytes: CACHE_BYTES };
        let (journal, recovered) = Journal::open(storage.clone(), identity, sizes)?;
        let mut state = StateMachine::open(storage.clone(), limits)?;
        let checkpoint = state.applied().op;
        if recovered.alignment(state.applied()) == CheckpointAlignment::Lost {
            let (log_view, after, last) = (recovered.log_view, recovered.floor.op, recovered.head());
            return Err(OfflineError::NoState { member, log_view, after, last });
        }
        let log = journal.reader();
        while let Some(entry) = log.read(state.applied().op.next())? {
            // Entries behind a gap, and those that a state from another member has replaced, do not follow.
            if entry.header.parent != state.applied().hash {
                break;
            }
            state.apply(&entry)?;
        }
        let unreadable = recovered.damage.map(|damage| UnreadableEntries {
            first: state.applied().op.next(),
            last: match damage.extent {
                Extent::Through(op) => Some(op),
                Extent::Open => None,
            },
        });
        let unreadable = unreadable.filter(|entries| entries.last.is_none_or(|last| last >= entries.first));
        let log_view = recovered.log_view;
        Ok(Some(Self { cluster, member, log_view, checkpoint, state, unreadable, _storage: storage }))
    }

    /// The name of the cluster.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The member whose directory it is.
    #[must_use]
    pub fn member(&self) -> MemberId {
        self.member
    }

    /// The op of the last checkpoint. What follows it comes from the journal.
    #[must_use]
    pub fn checkpoint(&self) -> Op {
        self.checkpoint
    }

    /// The last view whose log this member has taken over. Entries at the end of a log of an earlier view may have been
    /// replaced by others since then.
    #[must_use]
    pub fn log_view(&self) -> View {
        self.log_view
    }

    /// Whether this member must be chosen before `other` to save the data of their cluster: a checkpoint of this member
    /// has more than all that `other` has; or the log of this member is of a later view, or of the same view and
    /// longer. The cluster chooses in the same way between logs. The length alone decides nothing: a primary that was
    /// cut off can have a long log of entries that the cluster has replaced.
    #[must_use]
    pub fn is_ahead_of(&self, other: &Self) -> bool {
        if self.checkpoint > other.last_op() || other.checkpoint > self.last_op() {
            return self.checkpoint > other.last_op();
        }
        (self.log_view, self.last_op()) > (other.log_view, other.last_op())
    }

    /// The op of the last entry that could be read.
    #[must_use]
    pub fn last_op(&self) -> Op {
        self.state.applied().op
    }

    /// The revision at that op.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.state.revision()
    }

    /// The time of that op, on the clock of the cluster.
    #[must_use]
    pub fn timestamp(&self) -> Timestamp {
        self.state.timestamp()
    }

    /// Entries after that op that cannot be read, because the journal is damaged.
    #[must_use]
    pub fn unreadable(&self) -> Option<UnreadableEntries> {
        self.unreadable
    }

    /// All keys and their records, in the order of the keys. The iterator reads from the disk, and blocks.
    ///
    /// # Errors
    /// Each item can be an error of the disk or a damaged block of the state. The iterator ends after an error.
    pub fn records(&self) -> impl Iterator<Item = Result<(Bytes, Record), OfflineError>> + use<> {
        Records { view: self.state.reader().newest(), next: Some(Bytes::new()), page: Vec::new().into_iter() }
    }

    /// The time to live of a lease; `None` if the lease has ended.
    #[must_use]
    pub fn lease_ttl(&self, lease: LeaseId) -> Option<Duration> {
        self.state.lease_ttl_ms(lease).map(Duration::from_millis)
    }

    /// Reads every block of the files of the state, and compares it with its checksum. Passes the number of bytes that
    /// were read to `progress`, from time to time. (The journal was checked when the directory was opened.) Blocks.
    ///
    /// # Errors
    /// Names the first damaged block. Or an error of the disk.
    pub fn verify_state(&self, mut progress: impl FnMut(u64)) -> Result<(), OfflineError> {
        let Some(snapshot) = self.state.snapshot() else { return Ok(()) };
        let mut place = Bytes::new();
        loop {
            let (read, next) = snapshot.scrub(&place, PAGE_BYTES)?;
            progress(read as u64);
            match next {
                Some(next) => place = next,
                None => return Ok(()),
            }
        }
    }
}

/// See [`DataDirectory::records`].
struct Records {
    view: RevisionView,
    /// Where the next page begins.
    next: Option<Bytes>,
    page: std::vec::IntoIter<(Bytes, Record)>,
}

impl Iterator for Records {
    type Item = Result<(Bytes, Record), OfflineError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(record) = self.page.next() {
                return Some(Ok(record));
            }
            let from = self.next.take()?;
            let keys = Keys { from: &from, to: None, reverse: false };
            match self.view.scan(keys, false, PAGE_RECORDS, PAGE_BYTES) {
                Ok(page) => (self.page, self.next) = (page.records.into_iter(), page.next),
                Err(error) => return Some(Err(error.into())),
            }
        }
    }
}
