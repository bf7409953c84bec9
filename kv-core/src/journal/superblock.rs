//! The superblock: what this member must never lose, in four copies.
//!
//! ```text
//! copy:  magic [8] | checksum u128 (of what follows) | format u32 | copy u32 | sequence u64 | length u32 | content
//! ```
//! Each copy has 4 KiB of its own. A write goes to two copies, is synced, and then goes to the other two. So whenever
//! the power is cut, two intact copies are left, and everything acknowledged is in all four. The newest intact copy is
//! therefore at least as new as what was acknowledged, unless a device silently lost writes. With fewer than two intact
//! copies, the file is not trusted.

use super::cuts::Cuts;
use super::error::{JournalWriteError, OpenError};
use super::location::Generation;
use super::record::in_range;
use super::{Identity, block};
use crate::config::FixedOptions;
use crate::ids::{Anchor, ClusterId, Epoch, Hash, Incarnation, MemberId, Op, Revision, Timestamp, View};
use crate::message::{Extent, FormationStep, Membership};
use crate::storage::{File, Storage};
use serde::{Deserialize, Serialize};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::{fs, io};
use tracing::warn;
use xxhash_rust::xxh3::xxh3_128;

pub(super) const NAME: &str = "superblock";
const NEW_NAME: &str = "superblock.new";
const MAGIC: [u8; 8] = *b"kvsuperb";
/// What is written from epoch 1 on. What is written before is in the format below, so that an older build can still
/// read it.
const FORMAT: u32 = 3;
/// It contains no [`Membership`]. (Format 1 contained none of the options except `pipeline_depth`.)
const FORMAT_OF_EPOCH_0: u32 = 2;
const COPIES: usize = 4;
const QUORUM: usize = 2;
const ZONE_BYTES: usize = 4096;
const PREFIX_BYTES: usize = 8 + 16 + 4 + 4 + 8 + 4;
const CHECKED_FROM: usize = 8 + 16;
/// The name of a cluster has at most 100 bytes. A longer one would be damage.
const MOST_NAME_BYTES: usize = 256;

/// A point of the log, and what is needed to continue from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Mark {
    pub(super) anchor: Anchor,
    pub(super) next_revision: Revision,
    pub(super) timestamp: Timestamp,
}

impl Mark {
    pub(super) const ZERO: Self =
        Self { anchor: Anchor::ZERO, next_revision: Revision::new(1), timestamp: Timestamp::ZERO };

    fn is_sane(&self) -> bool {
        in_range(&[self.anchor.op.get(), self.next_revision.get(), self.timestamp.get()])
    }
}

/// The durable state of a member besides its log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Superblock {
    pub(super) cluster: ClusterId,
    pub(super) cluster_name: String,
    pub(super) member: MemberId,
    pub(super) fingerprint: Hash,
    /// Rule F6.
    pub(super) options: FixedOptions,
    pub(super) formation: FormationStep,
    pub(super) view: View,
    pub(super) log_view: View,
    /// The log lacks entries that this member may have acknowledged, and may have reached this far. This outlasts the
    /// traces of the damage: a filled log may look complete, and a later life may not see why it is not.
    pub(super) damaged: Option<Extent>,
    pub(super) checkpoint: Mark,
    /// Entries at or below this point have been dropped. Invariant: not above the checkpoint.
    pub(super) floor: Mark,
    pub(super) cuts: Cuts,
    /// The incarnation of the next append.
    pub(super) incarnation: Incarnation,
    /// Everything up to this op was durable when this was written.
    pub(super) synced_through: Op,
    /// The newest segment. Invariant: no newer one holds entries.
    pub(super) generation: Generation,
    /// Segments older than this have been released, whatever they still hold.
    pub(super) oldest: Generation,
    /// `None` in epoch 0. It is encoded behind the rest.
    #[serde(skip)]
    pub(super) membership: Option<Membership>,
}

impl Superblock {
    pub(super) fn new(identity: &Identity) -> Self {
        Self {
            cluster: identity.cluster,
            cluster_name: identity.cluster_name.clone(),
            member: identity.member,
            fingerprint: identity.fingerprint,
            options: identity.options.clone(),
            formation: FormationStep::Formatted,
            view: View::ZERO,
            log_view: View::ZERO,
            damaged: None,
            checkpoint: Mark::ZERO,
            floor: Mark::ZERO,
            cuts: Cuts::default(),
            incarnation: Incarnation::ZERO,
            synced_through: Op::ZERO,
            generation: Generation::ZERO,
            oldest: Generation::ZERO,
            membership: None,
        }
    }

    /// The epoch that the member is in.
    pub(super) fn epoch(&self) -> Epoch {
        self.membership.as_ref().map_or(Epoch::ZERO, |membership| membership.configuration.epoch)
    }

    /// Refuses the directory of another cluster, member or configuration.
    pub(super) fn check_identity(&self, identity: &Identity) -> Result<(), OpenError> {
        if self.cluster != identity.cluster {
            return Err(OpenError::ForeignCluster {
                found: self.cluster_name.clone(),
                expected: identity.cluster_name.clone(),
            });
        }
        if self.member != identity.member {
            return Err(OpenError::ForeignMember { found: self.member, expected: identity.member });
        }
        self.options.check(&identity.options)?;
        // From epoch 1 on, the log decides who is a member, and not a file.
        if self.membership.is_none() && self.fingerprint != identity.fingerprint {
            let (cluster, fingerprint) = (self.cluster_name.clone(), self.fingerprint);
            return Err(OpenError::OtherConfiguration { cluster, fingerprint, difference: String::new() });
        }
        Ok(())
    }

    /// Whether this member can have written this. A checksum does not show that.
    fn is_sound(&self) -> bool {
        let numbers = [self.incarnation.get(), self.synced_through.get()];
        let reach = self.damaged.map_or(0, |extent| match extent {
            Extent::Through(op) => op.get(),
            Extent::Open => 0,
        });
        in_range(&numbers)
            && in_range(&[reach])
            && self.view.is_sane()
            && self.log_view.is_sane()
            && self.checkpoint.is_sane()
            && self.floor.is_sane()
            && self.floor.anchor.op <= self.checkpoint.anchor.op
            && self.log_view <= self.view
            && self.view.epoch() == self.epoch()
            && self
                .membership
                .as_ref()
                .is_none_or(|it| it.configuration.is_sound() && it.configuration.epoch > Epoch::ZERO)
            && self.oldest <= self.generation
            && self.formation != FormationStep::Empty
            && self.cuts.is_sound(self.incarnation)
    }

    /// Asserts that this may replace `earlier` on disk: the next life would believe it.
    fn check_follows(&self, earlier: &Self) {
        assert!(self.is_sound(), "a superblock that is written is one that would be accepted when read");
        assert!(self.view >= earlier.view, "the view does not go back (rule V1)");
        assert!(self.log_view >= earlier.log_view, "the log's view does not go back");
        assert!(self.incarnation >= earlier.incarnation, "an incarnation is not used twice");
        assert!(self.generation >= earlier.generation, "a generation is not used twice");
        assert!(self.oldest >= earlier.oldest, "a released segment is not taken back");
        assert!(self.formation >= earlier.formation, "a member does not leave its cluster");
        assert!(self.checkpoint.anchor.op >= earlier.checkpoint.anchor.op, "a checkpoint does not go back");
        assert!(self.epoch() >= earlier.epoch(), "the epoch does not go back (rule M3)");
        if let (Some(now), Some(before)) = (&self.membership, &earlier.membership) {
            assert!(now.disk == before.disk, "a disk keeps its id");
            assert!(now.retired >= before.retired, "a retired member does not come back");
        }
        assert!(self.options == earlier.options, "these options are fixed when the directory is formatted");
    }
}

/// The file with the four copies.
#[derive(Debug)]
pub(super) struct SuperblockFile {
    file: Arc<dyn File>,
    sequence: u64,
    /// What is durable in all copies.
    written: Superblock,
}

/// A file that could be read, but must not be written yet: see [`Loaded::complete`].
#[derive(Debug)]
pub(super) struct Loaded {
    file: Arc<dyn File>,
    pub(super) superblock: Superblock,
    sequence: u64,
    /// The copies in the order in which they are replaced: damaged ones, then older ones, then the newest.
    order: [usize; COPIES],
}

/// The state of one copy.
enum Copy {
    Intact(u64, Box<Superblock>),
    /// Another version wrote it.
    OtherFormat(u32),
    Damaged,
}

impl SuperblockFile {
    /// Creates the file under its final name only when all of it is durable.
    pub(super) fn create(storage: &dyn Storage, superblock: &Superblock) -> Result<Self, JournalWriteError> {
        let failed = |source| JournalWriteError::Disk { doing: "create the superblock".into(), source };
        match storage.remove(NEW_NAME) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let file = storage.create(NEW_NAME).map_err(failed)?;
        let mut all = Vec::with_capacity(COPIES * ZONE_BYTES);
        for copy in 0..COPIES {
            all.extend_from_slice(&encode(superblock, 1, copy));
        }
        file.write_at(&all, 0).map_err(failed)?;
        file.sync().map_err(failed)?;
        storage.rename(NEW_NAME, NAME).map_err(failed)?;
        storage.sync_directory().map_err(failed)?;
        Ok(Self { file, sequence: 1, written: superblock.clone() })
    }

    /// What is durable in all copies.
    pub(super) fn written(&self) -> &Superblock {
        &self.written
    }

    /// Makes `superblock` durable in all copies.
    pub(super) fn write(&mut self, superblock: &Superblock) -> Result<(), JournalWriteError> {
        let failed = |source| JournalWriteError::Disk { doing: "write the superblock".into(), source };
        superblock.check_follows(&self.written);
        self.sequence += 1;
        for pair in [[0, 1], [2, 3]] {
            let both = pair.map(|copy| encode(superblock, self.sequence, copy)).concat();
            self.file.write_at(&both, offset(pair[0])).map_err(failed)?;
            self.file.sync().map_err(failed)?;
        }
        self.written.clone_from(superblock);
        Ok(())
    }
}

impl Loaded {
    /// Reads the copies and uses the newest; `None` if there is no such file. Writes nothing.
    pub(super) fn read(storage: &dyn Storage) -> Result<Option<Self>, OpenError> {
        let file = match storage.open(NAME) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(OpenError::Disk { doing: "open the superblock".into(), source }),
        };
        let Newest { superblock, sequence, ages } = newest(|zone, offset| file.read_at(zone, offset))?;
        let mut order = [0, 1, 2, 3];
        order.sort_by_key(|copy| ages[*copy]);
        Ok(Some(Self { file, superblock, sequence, order }))
    }

    /// Rewrites all copies, one after the other, so that no later damage to some of them can bring an older state back.
    /// (All of them, because a readable copy may never have reached the disk: after a failed sync it stays in the
    /// system's cache.)
    pub(super) fn complete(self) -> Result<(SuperblockFile, Superblock), OpenError> {
        let failed = |source| OpenError::Disk { doing: "repair the superblock".into(), source };
        for copy in self.order {
            let zone = encode(&self.superblock, self.sequence, copy);
            self.file.write_at(&zone, offset(copy)).map_err(failed)?;
            self.file.sync().map_err(failed)?;
        }
        let written = self.superblock.clone();
        Ok((SuperblockFile { file: self.file, sequence: self.sequence, written }, self.superblock))
    }
}

/// The newest intact copy.
struct Newest {
    superblock: Superblock,
    sequence: u64,
    /// The sequence number of each copy; 0 for one that is damaged.
    ages: [u64; COPIES],
}

/// Reads the copies, and finds the newest. An unreadable copy counts as damaged.
fn newest(read: impl Fn(&mut [u8], u64) -> io::Result<()>) -> Result<Newest, OpenError> {
    let mut newest: Option<(u64, Superblock)> = None;
    let mut ages = [0; COPIES];
    for (copy, age) in ages.iter_mut().enumerate() {
        let mut zone = [0; ZONE_BYTES];
        let found = read(&mut zone, offset(copy)).map_or(Copy::Damaged, |()| decode(&zone, copy));
        match found {
            Copy::Intact(sequence, superblock) => {
                *age = sequence;
                if newest.as_ref().is_none_or(|(best, _)| *best < sequence) {
                    newest = Some((sequence, *superblock));
                }
            }
            Copy::OtherFormat(found) if found > FORMAT => {
                return Err(OpenError::NewerFormat { found, known: FORMAT });
            }
            Copy::OtherFormat(found) => return Err(OpenError::OlderFormat { found, known: FORMAT }),
            Copy::Damaged => warn!(copy, "a copy of the superblock is damaged"),
        }
    }
    let intact = ages.iter().filter(|age| **age > 0).count();
    match newest {
        Some((sequence, superblock)) if intact >= QUORUM => Ok(Newest { superblock, sequence, ages }),
        _ => Err(OpenError::SuperblockDamaged { intact, copies: COPIES, needed: QUORUM }),
    }
}

/// Reads the file at this path, in a directory that need not be locked: while a member that runs writes two of the
/// copies, the other two are intact. `None` if there is no such file.
pub(super) fn peek(path: &Path) -> Result<Option<Superblock>, OpenError> {
    let file = match fs::File::open(path) {
        Ok(file) => file,
        // Whoever opens the directory says what is there instead.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(source) => return Err(OpenError::Disk { doing: "open the superblock".into(), source }),
    };
    newest(|zone, offset| file.read_exact_at(zone, offset)).map(|newest| Some(newest.superblock))
}

fn offset(copy: usize) -> u64 {
    (copy * ZONE_BYTES) as u64
}

fn encode(superblock: &Superblock, sequence: u64, copy: usize) -> Vec<u8> {
    let mut content = postcard::to_stdvec(superblock).expect("a superblock always encodes");
    let mut format = FORMAT_OF_EPOCH_0;
    if let Some(membership) = &superblock.membership {
        format = FORMAT;
        content.extend(postcard::to_stdvec(membership).expect("a membership always encodes"));
    }
    assert!(content.len() <= ZONE_BYTES - PREFIX_BYTES, "the superblock's parts are bounded");
    let number = |value: usize| u32::try_from(value).expect("below 4 KiB").to_le_bytes();
    let mut zone = Vec::with_capacity(ZONE_BYTES);
    zone.extend_from_slice(&MAGIC);
    zone.extend_from_slice(&[0; 16]);
    zone.extend_from_slice(&format.to_le_bytes());
    zone.extend_from_slice(&number(copy));
    zone.extend_from_slice(&sequence.to_le_bytes());
    zone.extend_from_slice(&number(content.len()));
    zone.extend_from_slice(&content);
    let checksum = xxh3_128(&zone[CHECKED_FROM..]);
    zone[MAGIC.len()..CHECKED_FROM].copy_from_slice(&checksum.to_le_bytes());
    zone.resize(ZONE_BYTES, 0);
    zone
}

fn decode(zone: &[u8; ZONE_BYTES], copy: usize) -> Copy {
    let length = block::u32_at(zone, PREFIX_BYTES - 4) as usize;
    let Some(checked) = PREFIX_BYTES.checked_add(length).and_then(|end| zone.get(CHECKED_FROM..end)) else {
        return Copy::Damaged;
    };
    if zone[..MAGIC.len()] != MAGIC || xxh3_128(checked) != block::u128_at(zone, MAGIC.len()) {
        return Copy::Damaged;
    }
    let (format, number) = (block::u32_at(zone, 24), block::u32_at(zone, 28));
    let sequence = block::u64_at(zone, 32);
    if format != FORMAT && format != FORMAT_OF_EPOCH_0 {
        return Copy::OtherFormat(format);
    }
    if number as usize != copy || sequence == 0 || !in_range(&[sequence]) {
        return Copy::Damaged;
    }
    match content(&zone[PREFIX_BYTES..PREFIX_BYTES + length], format) {
        Some(superblock) if superblock.is_sound() && superblock.cluster_name.len() <= MOST_NAME_BYTES => {
            Copy::Intact(sequence, Box::new(superblock))
        }
        _ => Copy::Damaged,
    }
}

fn content(bytes: &[u8], format: u32) -> Option<Superblock> {
    let (mut superblock, mut rest) = postcard::take_from_bytes::<Superblock>(bytes).ok()?;
    if format == FORMAT {
        let (membership, end) = postcard::take_from_bytes::<Membership>(rest).ok()?;
        (superblock.membership, rest) = (Some(membership), end);
    }
    rest.is_empty().then_some(superblock)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Cluster, Configuration, DiskId, HistoryId, Options};
    use crate::storage::simulated::Disk;
    use std::time::Duration;

    /// Larger than any allowed option.
    fn largest_options() -> Options {
        Options {
            read_lease: Duration::MAX,
            pipeline_depth: u32::MAX,
            max_key_bytes: usize::MAX,
            max_value_bytes: usize::MAX,
            max_sessions: usize::MAX,
            session_ttl: Duration::MAX,
            max_in_flight_per_session: usize::MAX,
            history_revisions: u64::MAX,
            history_bytes: u64::MAX,
            max_leases: usize::MAX,
            ..Options::default()
        }
    }

    /// Copies of several sectors, so that a power cut can tear each of them.
    fn superblock(view: u64) -> Superblock {
        let identity = Identity {
            cluster: ClusterId::of_name("demo"),
            cluster_name: "demo".into(),
            fingerprint: Hash::of(b"members"),
            member: MemberId::new(1),
            options: FixedOptions::from(&Options::default()),
        };
        let incarnation = Incarnation::new(u64::MAX >> 4);
        Superblock {
            view: View::new(view),
            cuts: Cuts::full(view),
            incarnation,
            ..Superblock::new(&identity)
        }
    }

    fn read(disk: &Disk) -> Loaded {
        Loaded::read(disk).unwrap().unwrap()
    }

    #[test]
    fn f_disk_1_a_power_cut_leaves_the_old_superblock_or_the_new_one() {
        let mut seen = [0; 2];
        for operation in 1..=5 {
            for seed in 0..100 {
                let disk = Disk::new();
                let mut rng = fastrand::Rng::with_seed(seed);
                let mut file = SuperblockFile::create(&disk, &superblock(1)).unwrap();
                file.write(&superblock(2)).unwrap();
                disk.fail_after(operation);
                let done = file.write(&superblock(3));
                disk.crash(&mut rng);
                // Another power cut during the repair.
                let before = read(&disk).superblock;
                disk.fail_after(rng.u64(1..12));
                let _ = Loaded::read(&disk).map(|loaded| loaded.map(Loaded::complete));
                disk.crash(&mut rng);
                let (_, after) = read(&disk).complete().unwrap();
                assert_eq!(before.view, after.view, "operation {operation} seed {seed}");
                assert!(after == superblock(2) || after == superblock(3));
                assert!(done.is_err() || after == superblock(3), "operation {operation} seed {seed}");
                seen[usize::try_from(after.view.get()).unwrap() - 2] += 1;
            }
        }
        assert!(seen.iter().all(|seen| *seen > 50), "{seen:?}");
    }

    #[test]
    fn the_largest_superblock_fits_its_zone() {
        let far = Mark {
            anchor: Anchor::new(Op::new(u64::MAX >> 3), Hash::new(u128::MAX)),
            next_revision: Revision::new(u64::MAX >> 3),
            timestamp: Timestamp::new(u64::MAX >> 3),
        };
        // As many members as there can be, with the longest addresses that fit.
        let mut builder = Cluster::builder("any");
        for id in 200..215_u8 {
            builder = builder.member(id, format!("{id:0>70}"));
        }
        let mut configuration = Configuration::founding(&builder.build().unwrap());
        configuration.epoch = Epoch::new((1 << 22) - 1);
        configuration.first = View::of(configuration.epoch, 14);
        (configuration.history, configuration.stop) = (Some(HistoryId(u128::MAX)), far.anchor);
        for (number, member) in configuration.members.values_mut().enumerate() {
            member.disk = Some(DiskId(u128::MAX - number as u128));
        }
        let bytes = configuration.encode().len();
        assert!((1400..=1536).contains(&bytes), "{bytes}");
        let disk = DiskId(u128::MAX);
        let membership = Some(Membership { configuration, disk, retired: true, ended: (1 << 39) - 1 });
        let largest = Superblock {
            membership,
            cluster: ClusterId::new(u128::MAX),
            cluster_name: "x".repeat(100),
            fingerprint: Hash::new(u128::MAX),
            options: FixedOptions::from(&largest_options()),
            log_view: View::of(Epoch::new((1 << 22) - 1), (1 << 39) - 1),
            view: View::of(Epoch::new((1 << 22) - 1), (1 << 39) - 1),
            checkpoint: far,
            floor: far,
            synced_through: Op::new(u64::MAX >> 3),
            generation: Generation::new(u32::MAX),
            oldest: Generation::new(u32::MAX),
            ..superblock((1 << 39) - 1)
        };
        assert!(largest.is_sound());
        let disk = Disk::new();
        SuperblockFile::create(&disk, &largest).unwrap();
        assert_eq!(read(&disk).superblock, largest);
    }
}
