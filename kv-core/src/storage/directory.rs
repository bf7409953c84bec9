//! A directory of real files, locked against a second process.

use super::{File, Storage};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a data directory was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryError {
    /// Another process has it open.
    #[error("the data directory {path} is in use by another process: stop that one, or give this member a directory of its own", path = .0.display())]
    Locked(PathBuf),
}

/// A directory of real files, under an exclusive lock for as long as this value lives.
#[derive(Debug)]
pub struct Directory {
    _path: PathBuf,
}

impl Directory {
    /// Opens the directory, creating it if its parent exists, and locks it.
    ///
    /// # Errors
    /// [`DirectoryError`] says what stands in the way and what to do.
    pub fn open(path: impl AsRef<Path>) -> Result<Arc<Self>, DirectoryError> {
        let _ = path;
        unimplemented!()
    }
}

impl Storage for Directory {
    fn open(&self, _name: &str) -> io::Result<Arc<dyn File>> {
        unimplemented!()
    }

    fn create(&self, _name: &str) -> io::Result<Arc<dyn File>> {
        unimplemented!()
    }

    fn rename(&self, _from: &str, _to: &str) -> io::Result<()> {
        unimplemented!()
    }

    fn remove(&self, _name: &str) -> io::Result<()> {
        unimplemented!()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        unimplemented!()
    }

    fn sync_directory(&self) -> io::Result<()> {
        unimplemented!()
    }
}
