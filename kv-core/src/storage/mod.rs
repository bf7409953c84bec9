//! The seam to the disk: files, directories, sync. Real here; damaged, crashing and slow in the simulator.
//!
//! Every offset is absolute; nothing buffers. A write is durable when [`File::sync`] on its file has returned, a
//! created, renamed or removed name when [`Storage::sync_directory`] has. Calls block: a node makes them from threads of its own.

mod directory;
#[cfg(any(feature = "internals", feature = "testing"))]
#[cfg_attr(
    not(feature = "internals"),
    allow(dead_code, reason = "what the feature `testing` needs is a part of it")
)]
pub mod simulated;

pub use directory::{Directory, DirectoryError};

use std::fmt::Debug;
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// One directory, flat: names have no separators.
pub trait Storage: Send + Sync + Debug + 'static {
    /// Opens a file that exists, for reading and writing. `NotFound` if it does not.
    ///
    /// # Errors
    /// Any error of the disk.
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>>;

    /// Creates a new file. `AlreadyExists` if the name is taken. Not durable before [`sync_directory`](Self::sync_directory).
    ///
    /// # Errors
    /// Any error of the disk.
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>>;

    /// Renames a file, replacing `to`.
    ///
    /// # Errors
    /// Any error of the disk.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// Any error of the disk.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// The names in the directory, sorted.
    ///
    /// # Errors
    /// Any error of the disk.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Makes created, renamed and removed names durable.
    ///
    /// # Errors
    /// Any error of the disk.
    fn sync_directory(&self) -> io::Result<()>;

    /// Checks that the names still lead to the files that are open, so that whoever opens the directory next finds what is written here.
    /// Writes to a file whose name is gone succeed, and are lost when it is closed.
    ///
    /// # Errors
    /// Which name is gone, or leads elsewhere; or any error of the disk.
    fn check_names(&self) -> io::Result<()>;

    /// There is no room for a new file, whose absence breaks no promise: waits a while for it, and returns whether to try again. Blocks.
    /// Default: no, at once.
    fn wait_for_room(&self, full: &io::Error) -> bool {
        let _ = full;
        false
    }
}

/// One open file.
#[allow(clippy::len_without_is_empty, reason = "the length of a file is asked for, not whether it is empty")]
pub trait File: Send + Sync + Debug {
    /// Fills `buffer` from `offset`. `UnexpectedEof` if the file is shorter.
    ///
    /// # Errors
    /// Any error of the disk.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `data` at `offset`, growing the file if needed. Not durable before [`sync`](Self::sync).
    ///
    /// # Errors
    /// Any error of the disk.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;

    /// Makes all earlier writes and the length durable (`fdatasync`). After an error the file's state is unknown: never retry.
    ///
    /// # Errors
    /// Any error of the disk.
    fn sync(&self) -> io::Result<()>;

    /// Lets later reads see what is on the disk: the system forgets what it holds of the file in memory, except for what still waits to
    /// be written. To be called after a [`sync`](Self::sync), before anything is believed that an earlier process may have failed to
    /// make durable: Linux marks pages whose write failed as clean and goes on showing them, until the machine restarts.
    ///
    /// Works on Linux, and as far as the system can: pages that something else maps or is writing stay. Elsewhere it does nothing.
    ///
    /// # Errors
    /// Any error of the disk.
    fn drop_cache(&self) -> io::Result<()>;

    /// From now on the system reads nothing ahead of its own accord: the owner does it ([`read_ahead`](Self::read_ahead)), in small parts.
    /// A hint. Default: nothing.
    fn without_readahead(&self) {}

    /// Begins to read a range into the system's memory, and does not wait for it. A hint. Default: nothing.
    fn read_ahead(&self, range: Range<u64>) {
        let _ = range;
    }

    /// The length in bytes.
    ///
    /// # Errors
    /// Any error of the disk.
    fn len(&self) -> io::Result<u64>;

    /// Cuts or extends (with zeros) to `len` bytes.
    ///
    /// # Errors
    /// Any error of the disk.
    fn set_len(&self, len: u64) -> io::Result<()>;
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What every storage must do while nothing fails.
    pub(crate) fn conformance(storage: &dyn Storage) {
        assert_eq!(storage.open("a").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(storage.remove("a").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(storage.rename("a", "b").unwrap_err().kind(), io::ErrorKind::NotFound);
        let file = storage.create("a").unwrap();
        assert_eq!(storage.create("a").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(file.len().unwrap(), 0);

        file.write_at(b"hello", 3).unwrap();
        assert_eq!(file.len().unwrap(), 8);
        let mut all = [1; 8];
        file.read_at(&mut all, 0).unwrap();
        assert_eq!(&all, b"\0\0\0hello");
        assert_eq!(file.read_at(&mut all, 1).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert!(file.read_at(&mut all, u64::MAX - 4).is_err());

        file.set_len(4).unwrap();
        file.set_len(6).unwrap();
        let mut cut = [1; 6];
        storage.open("a").unwrap().read_at(&mut cut, 0).unwrap();
        assert_eq!(&cut, b"\0\0\0h\0\0");
        file.sync().unwrap();
        file.drop_cache().unwrap();
        file.read_at(&mut cut, 0).unwrap();
        assert_eq!(&cut, b"\0\0\0h\0\0", "what is durable is there");

        storage.create("c").unwrap().write_at(b"other", 0).unwrap();
        storage.rename("a", "c").unwrap();
        storage.sync_directory().unwrap();
        assert_eq!(storage.list().unwrap(), ["c"]);
        assert_eq!(storage.open("c").unwrap().len().unwrap(), 6);
        file.write_at(b"!", 0).unwrap();
        let mut first = [0];
        storage.open("c").unwrap().read_at(&mut first, 0).unwrap();
        assert_eq!(&first, b"!", "a handle follows its file through a rename");
        storage.remove("c").unwrap();
        assert_eq!(storage.list().unwrap(), Vec::<String>::new());
        file.read_at(&mut first, 0).unwrap();
    }
}
