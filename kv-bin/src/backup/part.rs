//! The file of a backup that is not complete yet.

use super::on_thread;
use crate::failure::Failure;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

/// How many names are tried.
const ATTEMPTS: u32 = 1000;

/// A file that gets its name when it is complete. Nobody else writes it, and only its owner can read it: it has all
/// values of the cluster. If it is dropped before it is complete, it is removed.
#[derive(Debug)]
pub(super) struct PartFile {
    path: PathBuf,
    name: PathBuf,
    is_complete: bool,
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
                Ok(file) => {
                    return Ok((Self { path, name: name.to_owned(), is_complete: false }, file));
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < ATTEMPTS => {
                    number += 1
                }
                Err(error) => return Err(unwritable(&path, &error)),
            }
        }
    }

    /// Makes the content durable. The file system may need long for that.
    pub(super) async fn sync(&self, file: File) -> Result<(), Failure> {
        on_thread(move || file.sync_all()).await?.map_err(|error| unwritable(&self.path, &error))
    }

    /// Gives the file its name when its content is complete and durable. The file is kept if that fails: it was hours
    /// of work, perhaps.
    pub(super) fn publish(mut self) -> Result<(), Failure> {
        self.is_complete = true;
        let Self { path, name, .. } = &self;
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

impl Drop for PartFile {
    fn drop(&mut self) {
        if !self.is_complete {
            // Why it is not complete is reported elsewhere.
            let _ = fs::remove_file(&self.path);
        }
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

    #[tokio::test]
    async fn a_complete_backup_is_kept_when_its_name_is_taken() {
        let folder = tempfile::tempdir().expect("a folder");
        let name = folder.path().join("backup");
        let (first, mut file) = PartFile::create(&name).expect("a new file");
        let (second, mut other) = PartFile::create(&name).expect("another new file");
        let kept = second.path.clone();
        assert_ne!(first.path, kept);
        file.write_all(b"first").expect("a byte");
        other.write_all(b"second").expect("a byte");
        first.sync(file).await.expect("the disk is good");
        first.publish().expect("the name is free");
        second.sync(other).await.expect("the disk is good");
        let failure = second.publish().expect_err("the name is taken").to_string();
        let shown = kept.display().to_string();
        assert!(failure.contains("not replaced") && failure.contains(&shown), "{failure}");
        assert_eq!(fs::read(&name).expect("it is there"), b"first");
        assert_eq!(fs::read(&kept).expect("it is there"), b"second");
    }

    /// Whatever ends the backup: an error, a signal, or Ctrl-C in the shell, which drops the command.
    #[tokio::test]
    async fn what_is_not_complete_is_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let (part, mut file) = PartFile::create(&folder.path().join("backup")).expect("a new file");
        file.write_all(b"a part").expect("a byte");
        assert!(part.path.exists());
        part.sync(file).await.expect("the disk is good");
        drop(part);
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0);
    }
}
