//! Where the state lives: an ordered map of versioned values in memory, over a durable B-tree.
//!
//! One writer, any number of readers. The writer adds versions and then *publishes* a [`ReadView`]: an op, its revision,
//! and the layers in which everything up to it is found. A reader takes the newest point and reads at its revision: it
//! never sees half of an entry, never waits for the writer, and never makes it wait.
//!
//! ```text
//!             writer
//!               v
//!   ReadView { active: memtable, frozen: memtable?, base: B-tree snapshot? }      the newest wins, top down
//!                              |                 ^
//!                              +---- merge ------+                           a checkpoint, on its own thread
//! ```
//! The past is kept in the same layers: the memtables keep every version, and a merge puts what it supersedes into an undo log beside the
//! data, bounded, from which any revision within it is read.
//!
//! Each point holds on to its three layers, so a reader that took its point before a merge ended reads the frozen
//! memtable over the old snapshot, and one that took it afterwards reads the new snapshot: both see the same.

mod blocks;
mod change;
mod checksums;
#[cfg(test)]
mod counted;
mod disk;
mod error;
mod gaps;
mod head;
mod history;
mod key;
mod layers;
#[cfg(feature = "internals")]
mod memory;
mod memtable;
mod read_view;
mod readahead;
mod snapshot;
mod staging;
pub(crate) mod steps;
mod tree;
mod tree_snapshot;
mod write_digest;

pub use change::{Change, Retention};
pub use disk::{Disk, Merge, Merged, Progress};
pub(crate) use disk::{Opened as OpenedDisk, Rows};
pub use error::EngineError;
#[cfg(feature = "internals")]
pub use memory::Memory;
pub use read_view::{HistoryChange, Keys, ReadView, Reader};
#[cfg(feature = "internals")]
pub use read_view::{HistoryChanges, Scan};
pub use snapshot::Snapshot;
pub(crate) use staging::Staging;
pub(crate) use tree::Row;

use crate::ids::{Anchor, Hash, Revision};
use std::fmt::Debug;

/// The writer's half of an ordered map of versioned values.
pub trait Engine: Debug + Send {
    /// Shows the newest value of `key`, published or not, to `see`; calls it only if there is one.
    ///
    /// # Errors
    /// If the disk fails or is damaged.
    fn newest(&self, key: &[u8], see: &mut dyn FnMut(&[u8])) -> Result<(), EngineError>;

    /// Changes a key. Seen by readers once a view at or above `revision` is published. The revisions of a key grow from call to
    /// call, and those of all keys never go back.
    fn write(&mut self, key: &[u8], revision: Revision, change: Change);

    /// A digest of what was written since this was last called: keys, revisions and values, in their order.
    fn take_write_digest(&mut self) -> Hash;

    /// Makes everything written so far visible to readers, all at once.
    fn publish(&mut self, applied: Anchor, revision: Revision);

    /// Counts memory held elsewhere that only a checkpoint frees.
    fn charge(&mut self, bytes: usize);

    /// Everything written so far, published or not.
    fn written(&self) -> ReadView;

    /// A reader of what is published.
    fn reader(&self) -> Reader;

    /// The durable checkpoint.
    fn checkpoint(&self) -> Anchor;

    /// About how much memory is held that is not in the checkpoint.
    fn memtable_bytes(&self) -> usize;

    /// About how much memory is held though it is in the checkpoint: readers still read there, or it is not freed yet.
    #[cfg(feature = "internals")]
    fn dead_bytes(&self) -> usize;

    /// The memory is used up, and a merge runs or cannot begin before readers let go of what they hold.
    fn is_full(&self) -> bool;

    /// Frees some of what readers have let go of. To be called while [`is_full`](Self::is_full) returns true and no merge runs; otherwise
    /// each entry that is published frees some.
    fn release(&mut self);

    /// The durable checkpoint, to be sent to another member; `None` if there is none.
    fn snapshot(&self) -> Option<Snapshot>;

    /// Freezes what is published for a checkpoint. `None` if a merge runs, nothing is new, readers hold too much of what was frozen
    /// before, or there is no disk.
    fn freeze(&mut self) -> Option<Merge>;

    /// A merge is durable: lets go of what it holds.
    fn merged(&mut self, done: Merged);
}
