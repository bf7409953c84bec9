//! The file of a backup that is not complete yet.

use crate::failure::Failure;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

/// How many names are tried.
const ATTEMPTS: u32 = 1000;

/// A file that gets its name when it is complete. Nobody else writes it, and only its owner can read it: it has all
/// values of the cluster.
#[derive(Debug)]
pub(super) struct PartFile {
    path: PathBuf,
    name: PathBuf,
}

impl PartFile {
    /// Creates a new file next to the one that it becomes.
    pub(super) fn create(name: &Path) -> Result<(Self, File), Failure> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let process = std::process::id();
        let mut number = 0;
        loop {
            let mut path = name.as_os_str().to_owned();
            path.push(format!(".{process}-{number}.part"));
            let path = PathBuf::from(path);
            match options.open(&path) {
                Ok(file) => return Ok((Self { path, name: name.to_owned() }, file)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < ATTEMPTS => {
                    number += 1
                }
                Err(error) => return Err(unwritable(&path, &error)),
            }
        }
    }

    /// Removes the file, which is not a whole backup.
    pub(super) fn discard(&self) {
        // The failure that led here is the one to report.
        let _ = fs::remove_file(&self.path);
    }

    /// Gives the complete file its name, and keeps it if that fails: it was hours of work, perhaps.
    pub(super) fn publish(&self, file: &File) -> Result<(), Failure> {
        let Self { path, name } = self;
        file.sync_all().map_err(|error| {
            self.discard();
            unwritable(path, &error)
        })?;
        rename_new(path, name).map_err(|error| {
            let kept = format!("the backup is complete, and is in {}", path.display());
            if error.kind() == io::ErrorKind::AlreadyExists {
                Failure::failed(format!("{} exists now and was not replaced; {kept}", name.display()))
            } else {
                unwritable(name, &error).with_hint(kept)
            }
        })?;
        let folder = name.parent().filter(|folder| !folder.as_os_str().is_empty());
        sync_folder(folder.unwrap_or(Path::new("."))).map_err(|error| {
            unwritable(name, &error)
                .with_hint("it is complete, but a crash of this machine may lose its name")
        })
    }
}

fn unwritable(file: &Path, error: &io::Error) -> Failure {
    Failure::failed(format!("cannot write {}: {error}", file.display()))
}

/// Renames a file, and replaces none.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "macos"))]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        use rustix::io::Errno;
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // Some file systems do not have it.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
            done => return done.map_err(io::Error::from),
        }
    }
    match fs::hard_link(from, to) {
        // The file has both names if the first one cannot be removed.
        Ok(()) => fs::remove_file(from),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
        // Some file systems do not have this either. A file that appears just now is replaced.
        Err(_) if !to.try_exists()? => fs::rename(from, to),
        Err(_) => Err(io::ErrorKind::AlreadyExists.into()),
    }
}

/// Makes a new name in a folder durable.
fn sync_folder(folder: &Path) -> io::Result<()> {
    // Elsewhere a folder cannot be opened.
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn a_complete_backup_is_kept_when_its_name_is_taken() {
        let folder = tempfile::tempdir().expect("a folder");
        let name = folder.path().join("backup");
        let (first, mut file) = PartFile::create(&name).expect("a new file");
        let (second, mut other) = PartFile::create(&name).expect("another new file");
        assert_ne!(first.path, second.path);
        file.write_all(b"first").expect("a byte");
        other.write_all(b"second").expect("a byte");
        first.publish(&file).expect("the name is free");
        let failure = second.publish(&other).expect_err("the name is taken").to_string();
        let kept = second.path.display().to_string();
        assert!(failure.contains("not replaced") && failure.contains(&kept), "{failure}");
        assert_eq!(fs::read(&name).expect("it is there"), b"first");
        assert_eq!(fs::read(&second.path).expect("it is there"), b"second");
        second.discard();
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
    }
}
