//! Stores the state: an ordered map of versioned values in memory, on top of sorted runs on disk.
//!
//! There is one writer, and any number of readers. The writer adds versions and then *publishes* a [`ReadView`]: an op,
//! its revision, and the layers that contain everything up to it. A reader takes the newest view and reads at its
//! revision. It never sees half of an entry, never waits for the writer, and never makes the writer wait.
//!
//! ```text
//!             writer
//!               v
//!   ReadView { active: memtable, frozen: memtable?, base: runs }                  the newest wins, top down
//!                              |                 ^    |  ^
//!                              +-- checkpoint ---+    +--+ merges           each on a thread of its own
//! ```
//! A checkpoint writes the frozen memtable as one more run: a file of rows in order that never changes again. Merges
//! replace several runs by one, and leave out what nobody can read any more. The history is kept in the same layers:
//! all of them hold versions, from which any kept revision can be read.
//!
//! Each view holds its layers. A reader that took its view before a checkpoint ended reads the frozen memtable on top
//! of the old runs, and a later reader reads one run more: both see the same.

mod base;
mod canon;
mod change;
mod control;
#[cfg(test)]
mod counted;
mod disk;
mod error;
mod gaps;
mod history;
mod key;
mod keys;
mod layers;
mod manifest;
#[cfg(feature = "internals")]
mod memory;
mod memtable;
mod orphans;
mod place;
mod policy;
mod read_view;
mod runs;
mod sizes;
mod snapshot;
mod staging;
pub(crate) mod steps;
mod store;
#[cfg(test)]
mod tests;
mod version;
mod write_digest;

pub use change::{KeyChange, Retention};
pub use control::Progress;
pub use disk::{Checkpointed, Disk, Frozen, Merger, Written};
pub(crate) use disk::{Opened as OpenedDisk, Rows};
pub use error::EngineError;
pub use keys::Keys;
#[cfg(feature = "internals")]
pub use memory::Memory;
pub(crate) use place::Row;
pub use read_view::{HistoryChange, ReadView, Reader};
#[cfg(feature = "internals")]
pub use read_view::{HistoryChanges, Scan};
pub use snapshot::{HeldFiles, Snapshot};
pub(crate) use staging::Staging;
pub use store::MergeStep;

/// The name of the manifest: a storage that has a file with this name contains a state.
pub(crate) const STATE: &str = store::NAME;

use crate::ids::{Anchor, Hash, Revision};
use std::fmt::Debug;

/// The writer's side of an ordered map of versioned values.
pub trait Engine: Debug + Send {
    /// Passes the newest value of `key`, published or not, to `see`. Does not call it if there is none.
    ///
    /// # Errors
    /// If the disk fails or is damaged.
    fn newest(&self, key: &[u8], see: &mut dyn FnMut(&[u8])) -> Result<(), EngineError>;

    /// Changes a key. Readers see the change once a view at or above `revision` is published. The revisions of a key
    /// must grow from call to call, and those of all keys must never go back. `former`: the length of the value that
    /// the key has had so far, if it has had one.
    fn write(&mut self, key: &[u8], revision: Revision, change: KeyChange, former: Option<usize>);

    /// Returns a digest of what was written since the last call: keys, revisions and values, in order.
    fn take_write_digest(&mut self) -> Hash;

    /// Makes everything written so far visible to readers, atomically.
    fn publish(&mut self, applied: Anchor, revision: Revision);

    /// Counts memory that is held elsewhere and that only a checkpoint frees.
    fn charge(&mut self, bytes: usize);

    /// A view of everything written so far, published or not.
    fn written(&self) -> ReadView;

    /// A reader of the published views.
    fn reader(&self) -> Reader;

    /// The durable checkpoint.
    fn checkpoint(&self) -> Anchor;

    /// About how much memory holds data that is not in the checkpoint.
    fn memtable_bytes(&self) -> usize;

    /// About how much memory holds data that is in the checkpoint already: readers still use it, or it is not freed
    /// yet.
    #[cfg(feature = "internals")]
    fn dead_bytes(&self) -> usize;

    /// Returns whether the memory is used up, and a checkpoint is made or cannot begin before readers release what they
    /// hold.
    fn is_full(&self) -> bool;

    /// Frees some of what readers have released. Call it while [`is_full`](Self::is_full) returns true and no
    /// checkpoint is made, and while merged files are still read. At other times, each published entry frees some.
    fn release(&mut self);

    /// The durable checkpoint, to be sent to another member; `None` if there is none.
    fn snapshot(&self) -> Option<Snapshot>;

    /// Freezes the published memtable for a checkpoint. `None` if one is being made, nothing is new, readers hold too
    /// much of what was frozen before, or there is no disk.
    fn freeze(&mut self) -> Option<Frozen>;

    /// A checkpoint is durable: releases what it contains.
    fn checkpointed(&mut self, done: Checkpointed);

    /// What merges the files of the state in the background; `None` if there is no disk.
    fn merger(&self) -> Option<Merger>;

    /// A merge has replaced files: new readers use the new ones. Never waits.
    fn merged(&mut self);
}
