//! Folders: created for their owner alone, and removed while others may still write in them.

use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, io};

/// How long the demo's members delete the remains of a killed demo before they give up.
const SWEEP_LIMIT: Duration = Duration::from_secs(10);

/// Creates a folder and its missing parents, accessible only to the owner.
pub(crate) fn create_private(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

/// Removes a folder in which other processes may still be writing for a moment.
pub(crate) fn sweep(folder: &Path) {
    let start = Instant::now();
    while folder.exists() && start.elapsed() < SWEEP_LIMIT {
        if fs::remove_dir_all(folder).is_err() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
