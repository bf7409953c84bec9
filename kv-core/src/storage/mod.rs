//! The interface to the disk: files, directories, sync. It is real here; in the simulator the disk is damaged, crashing
//! and slow.
//!
//! Every offset is absolute, and nothing buffers. A write is durable when [`File::sync`] on its file has returned, and
//! a created, renamed or removed name when [`Storage::sync_directory`] has. Calls block, so a node makes them on
//! threads of its own.

mod directory;
mod overlay;
#[cfg(any(feature = "internals", feature = "testing"))]
#[cfg_attr(
    not(feature = "internals"),
    allow(dead_code, reason = "what the feature `testing` needs is a part of it")
)]
pub mod simulated;

pub use directory::{Directory, DirectoryError};
pub(crate) use overlay::Overlay;

use std::fmt::Debug;
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// One flat directory: names have no separators.
pub trait Storage: Send + Sync + Debug + 'static {
    /// Opens a file that exists, for reading and writing. `NotFound` if it does not.
    ///
    /// # Errors
    /// Any error of the disk.
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>>;

    /// Creates a new file. `AlreadyExists` if the name is taken. It is durable after
    /// [`sync_directory`](Self::sync_directory).
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

    /// Checks that the names still lead to the open files, so that a later process finds what is written here. Writes
    /// to a file whose name was removed succeed, and are lost when it is closed.
    ///
    /// # Errors
    /// The name that was removed or leads elsewhere; or any error of the disk.
    fn check_names(&self) -> io::Result<()>;

    /// There is no space for a new file that is not needed for correctness: waits a while for space, and returns
    /// whether to try again. Blocks. Default: returns false at once.
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

    /// Writes all of `data` at `offset`, and extends the file if needed. It is durable after [`sync`](Self::sync).
    ///
    /// # Errors
    /// Any error of the disk.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;

    /// Makes all earlier writes and the length durable (`fdatasync`). After an error, the state of the file is unknown:
    /// never retry.
    ///
    /// # Errors
    /// Any error of the disk.
    fn sync(&self) -> io::Result<()>;

    /// Makes later reads return what is on the disk: the system drops its cached pages of the file, except those that
    /// still wait to be written. Call it after a [`sync`](Self::sync), before relying on anything that an earlier
    /// process may have failed to make durable: Linux marks pages whose write failed as clean, and returns them until
    /// the machine restarts.
    ///
    /// It works on Linux, as far as the system can: pages that are mapped or being written stay. On other systems it
    /// does nothing.
    ///
    /// # Errors
    /// Any error of the disk.
    fn drop_cache(&self) -> io::Result<()>;

    /// Turns off the system's own read-ahead, because the owner reads ahead in small parts
    /// ([`read_ahead`](Self::read_ahead)). A hint. Default: does nothing.
    fn without_readahead(&self) {}

    /// Starts to read a range into the system's cache, without waiting. A hint. Default: does nothing.
    fn read_ahead(&self, range: Range<u64>) {
        let _ = range;
    }

    /// The length in bytes.
    ///
    /// # Errors
    /// Any error of the disk.
    fn len(&self) -> io::Result<u64>;

    /// Shortens the file, or extends it with zeros, to `len` bytes.
    ///
    /// # Errors
    /// Any error of the disk.
    #[cfg_attr(not(feature = "internals"), allow(dead_code, reason = "only tests shorten files"))]
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
