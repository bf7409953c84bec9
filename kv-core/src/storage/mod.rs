//! The seam to the disk: files, directories, sync. Real here; damaged, crashing and slow in the simulator.
//!
//! Every offset is absolute; nothing buffers. A write is durable when [`File::sync`] on its file has returned, a
//! created, renamed or removed name when [`Storage::sync_directory`] has. Calls block: a node makes them from threads of its own.

mod directory;

pub use directory::{Directory, DirectoryError};

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

/// One directory, flat: names have no separators.
pub trait Storage: Send + Sync + Debug + 'static {
    /// Opens a file that exists, for reading and writing. `NotFound` if it does not.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>>;

    /// Creates a new file. `AlreadyExists` if the name is taken. Not durable before [`sync_directory`](Self::sync_directory).
    ///
    /// # Errors
    /// Whatever the disk says.
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>>;

    /// Renames a file, replacing `to`.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// The names in the directory, sorted.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Makes created, renamed and removed names durable.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn sync_directory(&self) -> io::Result<()>;
}

/// One open file.
pub trait File: Send + Sync + Debug {
    /// Fills `buffer` from `offset`. `UnexpectedEof` if the file is shorter.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `data` at `offset`, growing the file if needed. Not durable before [`sync`](Self::sync).
    ///
    /// # Errors
    /// Whatever the disk says.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;

    /// Makes all earlier writes and the length durable (`fdatasync`). After an error the file's state is unknown: never retry.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn sync(&self) -> io::Result<()>;

    /// The length in bytes.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn len(&self) -> io::Result<u64>;

    /// Cuts or extends (with zeros) to `len` bytes.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn set_len(&self, len: u64) -> io::Result<()>;
}
