//! Seeded bugs of code that writes files: a storage that leaves something out.

use crate::Bug;
use kv_core::storage::{File, Storage};
use std::io;
use std::sync::Arc;

/// The storage, used wrongly if the bug is about that.
pub(crate) fn careless(storage: Arc<dyn Storage>, bug: Option<Bug>) -> Arc<dyn Storage> {
    match bug {
        Some(bug @ (Bug::NoSync | Bug::NoDirectorySync | Bug::FailedSyncRetried)) => {
            Arc::new(Careless { storage, bug })
        }
        _ => storage,
    }
}

#[derive(Debug)]
struct Careless {
    storage: Arc<dyn Storage>,
    bug: Bug,
}

#[derive(Debug)]
struct CarelessFile {
    file: Arc<dyn File>,
    bug: Bug,
}

impl Careless {
    fn wrap(&self, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(CarelessFile { file, bug: self.bug })
    }
}

impl Storage for Careless {
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Ok(self.wrap(self.storage.open(name)?))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Ok(self.wrap(self.storage.create(name)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.storage.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.storage.remove(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.storage.list()
    }

    fn sync_directory(&self) -> io::Result<()> {
        if self.bug == Bug::NoDirectorySync { Ok(()) } else { self.storage.sync_directory() }
    }

    fn check_names(&self) -> io::Result<()> {
        self.storage.check_names()
    }
}

impl File for CarelessFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(data, offset)
    }

    fn sync(&self) -> io::Result<()> {
        match self.bug {
            Bug::NoSync => Ok(()),
            Bug::FailedSyncRetried => self.file.sync().or_else(|_| self.file.sync()),
            _ => self.file.sync(),
        }
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.file.drop_cache()
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
}
