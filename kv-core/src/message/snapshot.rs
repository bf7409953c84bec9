//! The messages of a state transfer. The engine defines the content of the rows.

use super::Membership;
use crate::config::{Configuration, DiskId};
use crate::ids::{Anchor, Hash, Incarnation, Revision, Timestamp, View};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

/// About the most bytes of rows in one chunk. A single larger row is sent alone.
pub const CHUNK_BYTES: usize = 256 << 10;

/// A point of the log, and what is needed to continue from it without the entries below.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct LogPoint {
    /// The op and its hash.
    pub anchor: Anchor,
    /// The revision that the next change takes.
    pub next_revision: Revision,
    /// The greatest stamp up to the point.
    pub timestamp: Timestamp,
}

/// Rebases the log on this point (rule T3): entries above that chain to it are kept, and everything else is void.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogRebase {
    /// The point, which becomes the checkpoint.
    pub point: LogPoint,
    /// The incarnation of everything that is appended from now on.
    pub incarnation: Incarnation,
    /// The later epoch that the point is in.
    pub adopted: Option<Box<AdoptedEpoch>>,
}

/// An epoch that a member is in because of a state that it has fetched. The log of no view of this epoch is installed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AdoptedEpoch {
    pub membership: Membership,
    /// The view that the source of the state was in, or a later one (rule T4).
    pub view: View,
}

impl AdoptedEpoch {
    /// The epoch of a state, whose source was in the view `seen`, or in one with that number in a later epoch or before
    /// a restart. A primary of an ended epoch may lack what is in the state, so no view is followed in which one can
    /// have begun. Nor is it the first view of the epoch: whoever enters that has the log up to the stop.
    #[must_use]
    pub fn of(configuration: Configuration, disk: DiskId, ended: u64, seen: View) -> Self {
        let epoch = configuration.epoch;
        let view = match seen.epoch() == epoch {
            true => seen,
            false => View::of(epoch, ended.max(seen.number()).max(configuration.first.number()) + 1),
        };
        Self { membership: Membership { configuration, disk, retired: false, ended }, view }
    }
}

/// A piece of a snapshot: consecutive rows of the state at one op, in the order of the engine.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Chunk {
    /// The place after which it begins; empty for the first.
    pub after: Bytes,
    pub rows: Bytes,
    /// The hash of the piece, from where it is read to where it is stored.
    pub checksum: Hash,
    /// What comes after it.
    pub end: ChunkEnd,
}

/// What comes after a chunk.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ChunkEnd {
    /// There is more: continue after this place.
    More(Bytes),
    /// Nothing.
    Last,
}

impl Chunk {
    /// A piece with its checksum.
    #[must_use]
    pub fn new(after: Bytes, rows: Bytes, end: ChunkEnd) -> Self {
        let mut chunk = Self { after, rows, checksum: Hash::ZERO, end };
        chunk.checksum = chunk.hash();
        chunk
    }

    /// Returns whether it arrived as it was read.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.hash() == self.checksum
    }

    /// Covers the rows, where they begin, and what follows: a piece that is wrongly marked as the last one must not be
    /// accepted.
    fn hash(&self) -> Hash {
        let mut hasher = Xxh3::new();
        let next = match &self.end {
            ChunkEnd::More(next) => Some(&next[..]),
            ChunkEnd::Last => None,
        };
        for part in [Some(&self.after[..]), Some(&self.rows[..]), next] {
            hasher.update(&part.map_or(u64::MAX, |part| part.len() as u64).to_le_bytes());
            hasher.update(part.unwrap_or_default());
        }
        Hash::new(hasher.digest128())
    }
}
