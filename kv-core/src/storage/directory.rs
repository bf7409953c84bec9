//! A directory of real files, locked against a second process.

use super::{File, Storage};
use std::fs::{self, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file that carries the lock. Never listed.
const LOCK: &str = "LOCK";

/// Why a data directory was refused. Each says what stands in the way and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryError {
    /// Another process has it open.
    #[error("the data directory {path} is in use by another process: stop that one, or give this member a directory of its own", path = .0.display())]
    Locked(PathBuf),
    /// There is something else at that path.
    #[error("the data directory {path} is not a directory: name another path, or move that file away", path = .0.display())]
    NotADirectory(PathBuf),
    /// It does not exist and cannot be created.
    #[error("cannot create the data directory {path}: {source}", path = .path.display())]
    Create {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It cannot be written.
    #[error("the data directory {path} is not writable: {source}: check its owner, its mode and how it is mounted", path = .path.display())]
    NotWritable {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The disk failed.
    #[error("cannot {doing} in the data directory {path}: {source}", path = .path.display())]
    Disk {
        /// What was attempted.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A directory of real files, under an exclusive lock for as long as this value lives.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    /// The directory itself, for syncing its names.
    names: fs::File,
    _lock: fs::File,
}

impl Directory {
    /// Opens the directory, creating it if it does not exist, and locks it. The lock ends with the process, however it ends.
    ///
    /// # Errors
    /// [`DirectoryError`] says what stands in the way and what to do.
    pub fn open(path: impl AsRef<Path>) -> Result<Arc<Self>, DirectoryError> {
        let path = path.as_ref().to_path_buf();
        match fs::metadata(&path) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return Err(DirectoryError::NotADirectory(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => create_durably(&path)?,
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                return Err(DirectoryError::NotADirectory(path));
            }
            Err(source) => return Err(DirectoryError::Disk { doing: "look", path, source }),
        }
        let lock = match OpenOptions::new().write(true).create(true).truncate(false).open(path.join(LOCK)) {
            Ok(lock) => lock,
            Err(source) => return Err(DirectoryError::NotWritable { path, source }),
        };
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(DirectoryError::Locked(path)),
            Err(TryLockError::Error(source)) => {
                return Err(DirectoryError::Disk { doing: "take the lock", path, source });
            }
        }
        match fs::File::open(&path) {
            Ok(names) => Ok(Arc::new(Self { path, names, _lock: lock })),
            Err(source) => Err(DirectoryError::Disk { doing: "list the files", path, source }),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn join(&self, name: &str) -> io::Result<PathBuf> {
        let flat =
            !name.is_empty() && name != "." && name != ".." && name != LOCK && !name.contains(['/', '\0']);
        if flat { Ok(self.path.join(name)) } else { Err(io::ErrorKind::InvalidInput.into()) }
    }

    fn open_with(&self, name: &str, new: bool) -> io::Result<Arc<dyn File>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(new);
        Ok(Arc::new(OnDisk(options.open(self.join(name)?)?)))
    }
}

/// Creates the directory and those above it that are missing, and makes their names durable.
fn create_durably(path: &Path) -> Result<(), DirectoryError> {
    let failed = |source| DirectoryError::Create { path: path.to_path_buf(), source };
    let missing: Vec<&Path> =
        path.ancestors().take_while(|up| !up.as_os_str().is_empty() && !up.exists()).collect();
    fs::create_dir_all(path).map_err(failed)?;
    for created in missing {
        let parent = match created.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        fs::File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed)?;
    }
    Ok(())
}

impl Storage for Directory {
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.open_with(name, false)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.open_with(name, true)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.join(from)?, self.join(to)?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.join(name)?)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            // A name that is not UTF-8 is none of ours.
            if let Ok(name) = entry?.file_name().into_string()
                && name != LOCK
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.names.sync_all()
    }
}

#[derive(Debug)]
struct OnDisk(fs::File);

impl File for OnDisk {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    #[cfg(target_os = "linux")]
    fn drop_cache(&self) -> io::Result<()> {
        Ok(rustix::fs::fadvise(&self.0, 0, None, rustix::fs::Advice::DontNeed)?)
    }

    #[cfg(not(target_os = "linux"))]
    fn drop_cache(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.0.metadata().map(|found| found.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s18_a_directory_that_is_open_is_refused_until_it_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let first = Directory::open(dir.path()).unwrap();
        let refused = Directory::open(dir.path()).unwrap_err();
        assert!(matches!(refused, DirectoryError::Locked(_)), "{refused}");
        assert!(refused.to_string().contains("in use by another process"));
        drop(first);
        Directory::open(dir.path()).unwrap();
    }

    #[test]
    fn a_file_in_place_of_the_directory_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, b"x").unwrap();
        assert!(matches!(Directory::open(&path), Err(DirectoryError::NotADirectory(_))));
        assert!(matches!(Directory::open(path.join("below")), Err(DirectoryError::NotADirectory(_))));
    }

    #[test]
    fn missing_directories_are_created() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/c");
        let storage = Directory::open(&path).unwrap();
        assert_eq!(storage.path(), path);
        assert_eq!(storage.list().unwrap(), Vec::<String>::new());
    }

    #[test]
    fn files_behave_as_the_seam_promises() {
        let dir = tempfile::tempdir().unwrap();
        crate::storage::tests::conformance(&*Directory::open(dir.path()).unwrap());
    }

    #[test]
    fn names_stay_inside_and_the_lock_is_out_of_reach() {
        let dir = tempfile::tempdir().unwrap();
        let storage = Directory::open(dir.path()).unwrap();
        for name in ["", ".", "..", "../x", "a/b", "/x", LOCK] {
            assert!(storage.create(name).is_err(), "{name:?}");
            assert!(storage.remove(name).is_err(), "{name:?}");
        }
    }
}
