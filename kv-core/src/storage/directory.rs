//! A directory of real files, locked against other processes.

use super::{File, Storage};
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, Metadata, OpenOptions, TryLockError};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// A file that is locked in addition to the directory: some network file systems lock only files. It is never listed.
const LOCK: &str = "LOCK";

/// Only the account that the member runs under may access the directory.
const PRIVATE_DIRECTORY: u32 = 0o700;
const PRIVATE_FILE: u32 = 0o600;
/// The mode bits that give other accounts access.
const OTHERS: u32 = 0o077;

/// The mode bits that let other accounts create, rename and remove files in a directory.
const OTHER_WRITERS: u32 = 0o022;

/// Why a data directory was refused. Each error names the obstacle and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryError {
    /// Another process, or another node of this process, has the directory open.
    #[error("the data directory {path} is in use by another process: stop that one, or give this member a directory of its own", path = .0.display())]
    Locked(PathBuf),
    /// The path leads to something other than a directory.
    #[error("the data directory {path} is not a directory: name another path, or move that file away", path = .0.display())]
    NotADirectory(PathBuf),
    /// The directory does not exist and cannot be created.
    #[error("cannot create the data directory {path}: {source}", path = .path.display())]
    Create {
        /// The path of the directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The directory cannot be written.
    #[error("the data directory {path} is not writable: {source}: check its owner, its mode and how it is mounted", path = .path.display())]
    NotWritable {
        /// The path of the directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The disk failed.
    #[error("cannot {doing} in the data directory {path}: {source}", path = .path.display())]
    Disk {
        /// The operation.
        doing: &'static str,
        /// The path of the directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// A directory of real files, under an exclusive lock for as long as this value lives. Others cannot read what it
/// creates: directories have mode 0700, and files 0600.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    /// The directory itself, for syncing its names. It is locked, so that the lock can only be removed together with
    /// everything that it protects.
    names: fs::File,
    _lock: fs::File,
    /// The files that are open, by name.
    open: Mutex<BTreeMap<String, Weak<OnDisk>>>,
}

impl Directory {
    /// Opens the directory, creating it if it does not exist, and locks it. The lock ends with the process, however it
    /// ends.
    ///
    /// # Errors
    /// [`DirectoryError`] names the obstacle and what to do.
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
        let names = match fs::File::open(&path) {
            Ok(names) => names,
            Err(source) => return Err(DirectoryError::Disk { doing: "list the files", path, source }),
        };
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(PRIVATE_FILE);
        let lock = match options.open(path.join(LOCK)) {
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
        match names.try_lock() {
            Err(TryLockError::WouldBlock) => return Err(DirectoryError::Locked(path)),
            // A file system that does not lock directories: the lock on the file must do.
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        warn_of_readers(&path);
        Ok(Arc::new(Self { path, names, _lock: lock, open: Mutex::default() }))
    }

    /// Where it is.
    #[cfg(feature = "internals")]
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
        options.read(true).write(true).create_new(new).mode(PRIVATE_FILE);
        let path = self.join(name)?;
        let mut open = self.open_files();
        let file = Arc::new(OnDisk(options.open(path)?));
        open.retain(|_, file| file.strong_count() > 0);
        open.insert(name.to_owned(), Arc::downgrade(&file));
        Ok(file)
    }

    fn open_files(&self) -> MutexGuard<'_, BTreeMap<String, Weak<OnDisk>>> {
        // A panic elsewhere has left a valid map of names.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether both are the same file or directory.
fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// Checks that `path` leads to the file that is open as `held`.
fn check_name(path: &Path, held: &fs::File) -> io::Result<()> {
    let trouble =
        |what: &str| io::Error::new(io::ErrorKind::NotFound, format!("{} was {what}", path.display()));
    match fs::metadata(path) {
        Ok(found) if is_same(&found, &held.metadata()?) => Ok(()),
        Ok(_) => Err(trouble("replaced by another one")),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Err(trouble("removed or renamed"))
        }
        Err(error) => Err(error),
    }
}

/// Logs a warning if other accounts of this machine can read files in the directory or write to it. Someone else or an
/// earlier version may have created it.
fn warn_of_readers(path: &Path) {
    let mode_of = |path: &Path| fs::metadata(path).map_or(0, |found| found.permissions().mode());
    let mode = mode_of(path);
    if mode & OTHERS == 0 {
        return;
    }
    let files = fs::read_dir(path).into_iter().flatten().flatten();
    let readable = files.filter(|file| mode_of(&file.path()) & OTHERS != 0).count();
    // Whoever can write to a directory can replace the files in it, whatever their own modes are.
    if readable > 0 || mode & OTHER_WRITERS != 0 {
        tracing::warn!(
            path = %path.display(),
            files = readable,
            "other accounts of this machine may read or write the data directory: run chmod -R go= on it"
        );
    }
}

/// Creates the directory and its missing parents, and makes their names durable.
fn create_durably(path: &Path) -> Result<(), DirectoryError> {
    let failed = |source| DirectoryError::Create { path: path.to_path_buf(), source };
    let missing: Vec<&Path> =
        path.ancestors().take_while(|up| !up.as_os_str().is_empty() && !up.exists()).collect();
    DirBuilder::new().recursive(true).mode(PRIVATE_DIRECTORY).create(path).map_err(failed)?;
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
        let mut open = self.open_files();
        fs::rename(self.join(from)?, self.join(to)?)?;
        let moved = open.remove(from);
        open.remove(to);
        open.extend(moved.map(|file| (to.to_owned(), file)));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut open = self.open_files();
        fs::remove_file(self.join(name)?)?;
        open.remove(name);
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            // A name that is not UTF-8 is not one of ours.
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

    fn check_names(&self) -> io::Result<()> {
        check_name(&self.path, &self.names)?;
        // Locked during the rename, so that the name always has one file.
        let open = self.open_files();
        for (name, file) in &*open {
            if let Some(file) = file.upgrade() {
                check_name(&self.path.join(name), &file.0)?;
            }
        }
        Ok(())
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

    #[cfg(target_os = "linux")]
    fn without_readahead(&self) {
        // A hint: a file system that ignores it reads ahead.
        let _ = rustix::fs::fadvise(&self.0, 0, None, rustix::fs::Advice::Random);
    }

    #[cfg(target_os = "linux")]
    fn read_ahead(&self, range: Range<u64>) {
        let len = std::num::NonZero::new(range.end.saturating_sub(range.start));
        if len.is_some() {
            // It is a hint.
            let _ = rustix::fs::fadvise(&self.0, range.start, len, rustix::fs::Advice::WillNeed);
        }
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
    fn f_disk_18_a_directory_that_is_open_is_refused_until_it_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let first = Directory::open(dir.path()).unwrap();
        let refused = Directory::open(dir.path()).unwrap_err();
        assert!(matches!(refused, DirectoryError::Locked(_)), "{refused}");
        assert!(refused.to_string().contains("in use by another process"));
        drop(first);
        Directory::open(dir.path()).unwrap();
    }

    #[test]
    fn f_disk_18_without_the_file_lock_it_is_refused_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let first = Directory::open(dir.path()).unwrap();
        fs::remove_file(dir.path().join(LOCK)).unwrap();
        assert!(matches!(Directory::open(dir.path()), Err(DirectoryError::Locked(_))));
        drop(first);
        Directory::open(dir.path()).unwrap();
    }

    #[test]
    fn created_files_are_private_to_the_account() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("above/data");
        let storage = Directory::open(&path).unwrap();
        storage.create("file").unwrap();
        for name in [".", "file", LOCK] {
            let mode = fs::metadata(path.join(name)).unwrap().permissions().mode();
            assert_eq!(mode & OTHERS, 0, "{name}: {mode:o}");
        }
    }

    #[test]
    fn a_removed_or_replaced_file_is_detected() {
        type Meddle = fn(&Path);
        let cases: [(&str, Meddle); 5] = [
            ("removed", |data| fs::remove_file(data.join("b")).unwrap()),
            ("replaced", |data| {
                fs::copy(data.join("b"), data.join("copy")).unwrap();
                fs::rename(data.join("copy"), data.join("b")).unwrap();
            }),
            ("removed", |data| fs::remove_dir_all(data).unwrap()),
            ("removed", |data| fs::rename(data, data.with_extension("aside")).unwrap()),
            ("replaced", |data| {
                fs::rename(data, data.with_extension("aside")).unwrap();
                fs::create_dir(data).unwrap();
            }),
        ];
        for (expected, meddle) in cases {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("data");
            let storage = Directory::open(&path).unwrap();
            let files = ["a", "c", "gone", "d"].map(|name| storage.create(name).unwrap());
            storage.rename("a", "b").unwrap();
            storage.rename("c", "d").unwrap();
            storage.remove("gone").unwrap();
            storage.check_names().unwrap();
            meddle(&path);
            let error = storage.check_names().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            drop(files);
        }
    }

    #[test]
    fn a_file_in_place_of_the_directory_is_reported() {
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
