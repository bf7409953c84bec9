//! The replicated log on disk: superblock, segments, recovery.
//!
//! [`Journal`] is written by one thread, and [`LogReader`] reads on any thread. The files, in one directory:
//! - `superblock`: what must never be lost, in four copies (`superblock.rs`);
//! - `journal-NNNNNNNN`: segments of fixed size, filled with zeros once and recycled (`segment.rs`), in which entries
//!   occupy whole blocks (`record.rs`, `block.rs`). Within a generation of a segment, blocks are written front to back
//!   and each once. So the order of writing is known, and the result of a power cut can be distinguished from damage
//!   (`verdict.rs`).
//!
//! Opening reads everything (`scan.rs`), decides without writing (`recovery.rs`), and only then repairs.

mod block;
mod chain;
mod cuts;
mod damage;
mod error;
mod location;
mod reader;
mod rebase;
mod record;
mod recovery;
mod scan;
mod segment;
mod segments;
mod store;
mod superblock;
#[cfg(test)]
mod tests;
mod verdict;

pub use error::{JournalReadError, JournalWriteError, OpenError};
pub use reader::LogReader;
pub(crate) use segment::is_segment;

use crate::config::FixedOptions;
use crate::ids::{ClusterId, Hash, MemberId, Timestamp};
use crate::message::{Entry, FormationStep, Membership, Recovered, Write};
use crate::storage::Storage;
use block::BLOCK_BYTES;
use recovery::Recovery;
use scan::Scan;
use segment::Owner;
use segments::Segments;
use std::path::Path;
use std::sync::Arc;
use store::Store;
use superblock::{Loaded, Superblock, SuperblockFile};
use tracing::{info, warn};
use verdict::Verdict;

/// The owner of the directory. All of it must match the superblock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    pub cluster: ClusterId,
    /// Its name, for messages.
    pub cluster_name: String,
    /// The fingerprint of the member list: ids and roles.
    pub fingerprint: Hash,
    pub member: MemberId,
    /// The options that are fixed when the directory is formatted (rule F6).
    pub options: FixedOptions,
}

/// Sizes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JournalOptions {
    /// The size of a segment file in bytes: 16 KiB to 1 GiB, rounded down to 4 KiB. A larger entry gets a file of its
    /// own size (rule D9). Files of another size are still read, and are replaced when they are dropped.
    pub segment_bytes: u64,
    /// How many bytes of durable entries are kept in memory for readers.
    pub cache_bytes: usize,
}

/// The log on disk. One thread owns it, and its calls block.
#[derive(Debug)]
pub struct Journal {
    storage: Arc<dyn Storage>,
    identity: Identity,
    /// The number of blocks in a new segment.
    blocks: u32,
    reader: LogReader,
    state: JournalState,
}

/// What a directory says about its member, before it is opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Owned {
    /// The name of the cluster.
    pub cluster: String,
    /// The member.
    pub member: MemberId,
    /// `None` in epoch 0.
    pub membership: Option<Membership>,
}

impl Owned {
    /// Reads the directory without locking or changing it; `None` if it has no journal. A member may be running on it.
    ///
    /// # Errors
    /// The superblock cannot be read, or is gone.
    pub fn at(path: &Path) -> Result<Option<Self>, OpenError> {
        if let Some(found) = superblock::peek(&path.join(superblock::NAME))? {
            return Ok(Some(found.into()));
        }
        let names = path.read_dir().into_iter().flatten().flatten();
        let mut names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
        match names.find(|name| segment::parse_name(name).is_some()) {
            Some(file) => Err(OpenError::SuperblockMissing { file }),
            None => Ok(None),
        }
    }

    /// The same for a storage.
    ///
    /// # Errors
    /// The superblock cannot be read.
    #[cfg(any(feature = "internals", feature = "testing"))]
    pub fn read(storage: &dyn Storage) -> Result<Option<Self>, OpenError> {
        Ok(Loaded::read(storage)?.map(|loaded| loaded.superblock.into()))
    }
}

impl From<Superblock> for Owned {
    fn from(superblock: Superblock) -> Self {
        let Superblock { cluster_name: cluster, member, membership, .. } = superblock;
        Self { cluster, member, membership }
    }
}

#[derive(Debug)]
enum JournalState {
    /// Nothing is on disk.
    Empty,
    Formatted(Box<Store>),
    /// A write failed.
    Stopped,
}

impl Identity {
    /// The owner of what is in the storage; `None` if no journal is there.
    ///
    /// # Errors
    /// The superblock cannot be read.
    pub fn read(storage: &dyn Storage) -> Result<Option<Self>, OpenError> {
        let superblock = Loaded::read(storage)?.map(|loaded| loaded.superblock);
        Ok(superblock.map(|found| Self {
            cluster: found.cluster,
            cluster_name: found.cluster_name,
            fingerprint: found.fingerprint,
            member: found.member,
            options: found.options,
        }))
    }
}

impl Journal {
    /// Opens the journal in the storage. If the storage is empty, the journal holds nothing, and writes nothing until
    /// `Write::Formation(Formatted)`.
    ///
    /// Before it returns, a torn tail is cut, missing copies of the superblock are completed, and everything that is
    /// reported is durable. If [`Recovered::damage`] is reported, appends *fill*: they must be the missing entries, and
    /// the entries behind the damage become part of the log again as soon as they follow the head. Anything else must
    /// first be cut by a `Write::View`.
    ///
    /// # Errors
    /// [`OpenError`] names what is wrong and what to do. A refusal changes nothing on disk.
    pub fn open(
        storage: Arc<dyn Storage>,
        identity: Identity,
        options: JournalOptions,
    ) -> Result<(Self, Recovered), OpenError> {
        let blocks = options.segment_bytes / BLOCK_BYTES as u64;
        let Some(blocks) = u32::try_from(blocks).ok().filter(|n| (4..=segment::MOST_BLOCKS).contains(n))
        else {
            return Err(OpenError::SegmentBytes(options.segment_bytes));
        };
        let owner = Owner { cluster: identity.cluster, member: identity.member };
        let reader = LogReader::new(owner, options.cache_bytes);
        let names = storage
            .list()
            .map_err(|source| OpenError::Disk { doing: "list the data directory".into(), source })?;
        let loaded = Loaded::read(&*storage)?;
        let Some(loaded) = loaded else {
            return match names.into_iter().find(|name| segment::parse_name(name).is_some()) {
                Some(file) => Err(OpenError::SuperblockMissing { file }),
                None => {
                    let journal = Self { storage, identity, blocks, reader, state: JournalState::Empty };
                    Ok((journal, Recovered::empty()))
                }
            };
        };
        loaded.superblock.check_identity(&identity)?;
        if loaded.superblock.cuts.is_full() {
            believe_the_disk_only(&*storage, &names)?;
        }
        let scans = scan_all(&*storage, &names, owner)?;
        recovery::check_files(&loaded.superblock, &scans)?;
        let recovery = recovery::recover(&loaded.superblock, &scans);
        let verdict = recovery.verdict;
        report(&loaded.superblock, &recovery, verdict);

        // Nothing has been written so far, and nothing is refused from here on. The names come first: the previous
        // process may have crashed before it made them durable.
        storage
            .sync_directory()
            .map_err(|source| OpenError::Disk { doing: "sync the data directory".into(), source })?;
        let (file, superblock) = loaded.complete()?;
        let registered = superblock.generation.max(superblock.cuts.settled().position.generation);
        let mut segments = Segments::new(Arc::clone(&storage), owner, blocks, registered);
        let last = recovery.last_by_generation();
        for scan in &scans {
            segments.register(scan, last.get(&scan.generation).copied().unwrap_or_default(), &superblock);
            reader.add_file(&scan.segment);
        }
        segments.rewrite(&scans, &recovery.unsynced).map_err(OpenError::from)?;
        let (floor, slots) = (superblock.floor.anchor.op, recovery.slots.clone());
        let mut store = Store::new(file, superblock, segments, reader.clone());
        store.apply_recovery(recovery, verdict).map_err(OpenError::from)?;
        reader.recover(floor, slots.into_iter(), &store.past_gap);
        let recovered = store.recovered();
        let state = JournalState::Formatted(Box::new(store));
        Ok((Self { storage, identity, blocks, reader, state }, recovered))
    }

    /// Executes the writes in order. All of them are durable when it returns. Consecutive appends share one sync.
    ///
    /// # Errors
    /// Final: every later call fails too. Drop the journal and stop the member.
    pub fn execute(&mut self, writes: &[Write]) -> Result<(), JournalWriteError> {
        self.execute_at(Timestamp::ZERO, writes)
    }

    /// The same as [`execute`](Self::execute), when the wall clock shows `wall`: recovery returns that time for each
    /// entry ([`EntryMeta::written`]).
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    ///
    /// [`EntryMeta::written`]: crate::message::EntryMeta::written
    pub fn execute_at(&mut self, wall: Timestamp, writes: &[Write]) -> Result<(), JournalWriteError> {
        let done = self.execute_all(writes, wall);
        if done.is_err() {
            self.state = JournalState::Stopped;
        }
        done
    }

    /// A handle for reading entries, on any thread.
    #[must_use]
    pub fn reader(&self) -> LogReader {
        self.reader.clone()
    }

    fn execute_all(&mut self, writes: &[Write], wall: Timestamp) -> Result<(), JournalWriteError> {
        let mut appends: Vec<(u64, &Entry)> = Vec::new();
        let mut changed = false;
        for (at, write) in writes.iter().enumerate() {
            if let Write::Formation(step) = write {
                self.form(*step)?;
                continue;
            }
            let store = self.store()?;
            let number = if reader::changes_log(write) { store.reader.begin(write) } else { 0 };
            match write {
                Write::Append(entries) => {
                    appends.extend(entries.iter().map(|entry| (number, entry)));
                    if !matches!(writes.get(at + 1), Some(Write::Append(_))) {
                        store.append(&std::mem::take(&mut appends), wall)?;
                    }
                }
                Write::View(record) => store.view(record)?,
                Write::Checkpoint(checkpoint) => changed |= store.checkpoint(*checkpoint)?,
                Write::Trim(op) => store.trim = store.trim.max(*op),
                Write::Repair(entry) => store.repair(number, entry)?,
                Write::Rebase(rebase) => store.rebase(rebase)?,
                Write::Enter(record) => store.enter(record)?,
                Write::Retire => store.retire()?,
                Write::Formation(_) => unreachable!("handled above"),
            }
            let last = !matches!(writes.get(at + 1), Some(Write::Checkpoint(_) | Write::Trim(_)));
            if last && matches!(write, Write::Checkpoint(_) | Write::Trim(_)) {
                store.drop_old(std::mem::take(&mut changed))?;
            }
        }
        assert!(appends.is_empty() && !changed, "all that was requested is durable");
        if let JournalState::Formatted(store) = &self.state {
            store.check_invariants();
        }
        Ok(())
    }

    fn store(&mut self) -> Result<&mut Store, JournalWriteError> {
        match &mut self.state {
            JournalState::Formatted(store) => Ok(store),
            JournalState::Empty => Err(JournalWriteError::NotFormatted),
            JournalState::Stopped => Err(JournalWriteError::Stopped),
        }
    }

    fn form(&mut self, step: FormationStep) -> Result<(), JournalWriteError> {
        if let JournalState::Empty = self.state {
            if step == FormationStep::Empty {
                return Ok(());
            }
            let superblock = Superblock::new(&self.identity);
            self.state = JournalState::Formatted(Box::new(self.format(superblock)?));
        }
        self.store()?.form(step)
    }

    /// Formats an empty directory as that of a member which the member list contains already, as a standby: the cluster
    /// has formed without it. Returns what recovery would find now.
    ///
    /// # Errors
    /// If the disk fails. What is there is no journal then, or a whole one.
    pub fn join(&mut self, membership: Membership) -> Result<Recovered, JournalWriteError> {
        assert!(matches!(self.state, JournalState::Empty), "only an empty directory is formatted");
        let superblock = Superblock {
            formation: FormationStep::Formed,
            view: membership.configuration.first,
            membership: Some(membership),
            ..Superblock::new(&self.identity)
        };
        let store = self.format(superblock)?;
        let recovered = store.recovered();
        self.state = JournalState::Formatted(Box::new(store));
        Ok(recovered)
    }

    /// The superblock first: segments without one would look like a lost superblock.
    fn format(&self, superblock: Superblock) -> Result<Store, JournalWriteError> {
        let file = SuperblockFile::create(&*self.storage, &superblock)?;
        let owner = Owner { cluster: self.identity.cluster, member: self.identity.member };
        let mut segments =
            Segments::new(Arc::clone(&self.storage), owner, self.blocks, superblock.generation);
        segments.prepare(&self.reader)?;
        Ok(Store::new(file, superblock, segments, self.reader.clone()))
    }
}

/// Void blocks are erased while the list of cuts is full, and the cuts are dropped when that is durable. If an earlier
/// process crashed or failed at that point, this may read zeros that never reached the disk, and the cuts would be
/// dropped too early. (Entries and headers of which that may be true are written again; see [`Segments::rewrite`].)
fn believe_the_disk_only(storage: &dyn Storage, names: &[String]) -> Result<(), OpenError> {
    for name in names.iter().filter(|name| segment::parse_name(name).is_some()) {
        let file = storage.open(name).and_then(|file| file.sync().and_then(|()| file.drop_cache()));
        file.map_err(|source| OpenError::Disk { doing: format!("sync {name}"), source })?;
    }
    Ok(())
}

fn scan_all(storage: &dyn Storage, names: &[String], owner: Owner) -> Result<Vec<Scan>, OpenError> {
    let segments = names.iter().filter_map(|name| Some((name, segment::parse_name(name)?)));
    let scans = segments.map(|(name, number)| {
        let scanned = storage.open(name).and_then(|file| scan::scan(number, file, owner));
        scanned.map_err(|source| OpenError::Disk { doing: format!("read {name}"), source })
    });
    scans.collect()
}

fn report(superblock: &Superblock, recovery: &Recovery, verdict: Verdict) {
    let (view, log_view, head) = (superblock.view, superblock.log_view, recovery.chain.head().anchor);
    let floor = recovery.chain.floor().anchor.op;
    match verdict {
        Verdict::Whole => info!(%view, %log_view, %floor, ?head, "the journal is intact"),
        Verdict::Torn => {
            info!(%view, %log_view, %floor, ?head, why = recovery.why, "the journal's torn end is cut");
        }
        Verdict::Faulty => {
            warn!(%view, %log_view, %floor, ?head, why = recovery.why, "the journal is damaged");
        }
    }
}
