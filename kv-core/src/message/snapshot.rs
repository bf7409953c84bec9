//! What travels when a state is transferred. The contents of the rows are the engine's business.

use crate::ids::{Anchor, Hash, Incarnation, Revision, Timestamp};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

/// About the most bytes of rows in one chunk; a single larger row goes alone.
pub const CHUNK_BYTES: usize = 256 << 10;

/// A point of the log, and what is needed to go on from it without the entries below.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct LogPoint {
    /// The op and its hash.
    pub anchor: Anchor,
    /// The revision that the next change takes.
    pub next_revision: Revision,
    /// The greatest stamp up to there.
    pub timestamp: Timestamp,
}

/// From now on the log stands on this point (rule T3): entries above that chain to it stay, everything else is void.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Adoption {
    /// The point, which becomes the checkpoint.
    pub point: LogPoint,
    /// The incarnation of everything appended from now on.
    pub incarnation: Incarnation,
}

/// A piece of a snapshot: consecutive rows of the state at one op, in the engine's order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Chunk {
    /// The place that it begins after; empty for the first.
    pub after: Bytes,
    /// The rows.
    pub rows: Bytes,
    /// The hash of all of it, from where it was read to where it is stored.
    pub checksum: Hash,
    /// What comes after it.
    pub end: ChunkEnd,
}

/// What comes after a chunk.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ChunkEnd {
    /// More: ask for what comes after this place.
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

    /// Whether it arrived as it was read.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.hash() == self.checksum
    }

    /// Of the rows, of where they begin, and of what comes after them: a piece that is marked as the last one too early must not be believed.
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
