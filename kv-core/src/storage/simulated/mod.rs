//! A simulated disk: a write cache on top of a durable image, power cuts with torn writes, errors, damage.
//! Deterministic: the given generator decides what a power cut keeps.

mod content;
mod names;
#[cfg(test)]
mod tests;

use crate::storage::{File, Storage};
use content::Content;
use names::{FileId, Names};
use std::collections::BTreeMap;
use std::fmt::{self, Debug, Formatter};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How a power cut tears an unsynced write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Tearing {
    /// Each 512 B sector individually.
    Sector,
    /// Each 4 KiB block individually.
    Block,
}

impl Tearing {
    const fn unit(self) -> usize {
        match self {
            Self::Sector => 512,
            Self::Block => 4096,
        }
    }
}

/// A kind of operation, for injecting errors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Kind {
    /// `File::read_at`.
    Read,
    /// `File::write_at` and `File::set_len`.
    Write,
    /// `File::sync`. What was not durable is dropped, but can be read until a power cut or `File::drop_cache`.
    Sync,
    /// `Storage::create`, `rename`, `remove`.
    Name,
    /// `Storage::sync_directory`.
    SyncDirectory,
    /// `Storage::open` and `list`, `File::len` and `drop_cache`.
    Look,
}

/// How a write silently goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum WriteFault {
    /// The bytes are not written.
    Lost,
    /// The bytes are written this far ahead of the right place.
    Misdirected(u64),
}

/// The operations of a disk so far.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[non_exhaustive]
pub struct Counters {
    /// Operations of any kind.
    pub operations: u64,
    pub reads: u64,
    pub writes: u64,
    /// Bytes written.
    pub written: u64,
    /// Syncs of files.
    pub syncs: u64,
    pub directory_syncs: u64,
}

/// A simulated disk. A clone is the same disk; [`fork`](Self::fork) makes another.
#[derive(Clone, Default)]
pub struct Disk {
    inner: Arc<Mutex<Inner>>,
}

impl Debug for Disk {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("names", &self.names()).finish_non_exhaustive()
    }
}

#[derive(Clone, Default)]
struct Inner {
    names: Names,
    files: BTreeMap<FileId, Content>,
    next_file: FileId,
    /// Handles of an earlier life have no effect.
    life: u64,
    block_tearing: bool,
    capacity: Option<u64>,
    used: u64,
    /// The number of the operation at which all operations begin to fail.
    fail_at: Option<u64>,
    fail_next: Vec<Kind>,
    /// Which syncs are counted, and which of them fails.
    fail_sync: Option<(String, u32)>,
    misdeed: Option<WriteFault>,
    counters: Counters,
    on_read: Option<OnRead>,
}

/// Called once, when so many reads were counted.
#[derive(Clone)]
struct OnRead(u64, Arc<dyn Fn() + Send + Sync>);

fn broken(what: &'static str) -> io::Error {
    io::Error::other(what)
}

impl Disk {
    /// An empty disk of unlimited size.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same disk as a [`Storage`].
    #[must_use]
    pub fn storage(&self) -> Arc<dyn Storage> {
        Arc::new(self.clone())
    }

    /// Another disk with the same content, cached and durable. It has no injected failures.
    #[must_use]
    pub fn fork(&self) -> Self {
        let mut inner = self.lock().clone();
        inner.restart();
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// Calls `hook` once, in the read that is the `reads`-th one of the [counters](Self::counters).
    pub fn on_read(&self, reads: u64, hook: impl Fn() + Send + Sync + 'static) {
        self.lock().on_read = Some(OnRead(reads, Arc::new(hook)));
    }

    /// A power cut: each unsynced write is kept, lost or torn, and each unsynced name kept or lost. Earlier handles
    /// have no effect any more, and injected failures are removed.
    pub fn crash(&self, rng: &mut fastrand::Rng) {
        let mut inner = self.lock();
        let tearing = if inner.block_tearing { Tearing::Block } else { Tearing::Sector };
        inner.files.values_mut().for_each(|content| content.crash(tearing, rng));
        inner.names.crash(rng);
        inner.restart();
    }

    /// The power cut that leaves least: everything unsynced is lost.
    pub fn crash_losing_all(&self) {
        let mut inner = self.lock();
        inner.files.values_mut().for_each(Content::lose_all);
        inner.names.lose_all();
        inner.restart();
    }

    /// The process dies, but not the machine: everything written is kept, synced or not. Earlier handles have no effect
    /// any more, and injected failures are removed.
    pub fn kill(&self) {
        self.lock().restart();
    }

    /// Sets how a power cut tears. [`Tearing::Sector`] at first.
    pub fn set_tearing(&self, tearing: Tearing) {
        self.lock().block_tearing = tearing == Tearing::Block;
    }

    /// Fails the `operations`-th operation from now (1 is the next) and all later ones, until [`crash`](Self::crash) or
    /// [`kill`](Self::kill). The first one may take effect nevertheless, unless it is a sync.
    pub fn fail_after(&self, operations: u64) {
        let mut inner = self.lock();
        inner.fail_at = Some(inner.counters.operations.saturating_add(operations));
    }

    /// Fails only the next operation of this kind, without effect. May be called several times.
    pub fn fail_next(&self, kind: Kind) {
        self.lock().fail_next.push(kind);
    }

    /// Fails only the `count`-th sync from now (1 is the next) of files whose names start with this, also of new ones.
    /// Returns false if there is no such file now.
    pub fn fail_sync_of(&self, name: &str, count: u32) -> bool {
        let mut inner = self.lock();
        inner.fail_sync = Some((name.to_owned(), count));
        inner.names.iter().any(|(other, _)| other.starts_with(name))
    }

    /// Makes the next write go wrong.
    pub fn misdo_next_write(&self, misdeed: WriteFault) {
        self.lock().misdeed = Some(misdeed);
    }

    /// Limits the bytes of all files together; `None` for no limit. A write beyond it fails with `StorageFull`.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.lock().capacity = bytes;
    }

    /// Bytes of all files together.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.lock().used
    }

    /// Flips one bit (0 to 7) of a file on the disk. Returns false if there is no such byte. A power cut undoes this
    /// only together with a write of that byte that is not durable.
    pub fn flip_bit(&self, name: &str, offset: u64, bit: u8) -> bool {
        self.with(name, |content| content.flip_bit(to_usize(offset), bit)).unwrap_or(false)
    }

    /// Overwrites a part of a file on the disk, as far as the file reaches.
    pub fn overwrite(&self, name: &str, offset: u64, bytes: &[u8]) {
        self.with(name, |content| content.overwrite(to_usize(offset), bytes));
    }

    /// Shortens a file on the disk.
    pub fn shorten(&self, name: &str, len: u64) {
        self.with(name, |content| content.shorten(to_usize(len)));
    }

    /// Removes a file, durably. Open handles still read and write it.
    pub fn lose(&self, name: &str) {
        let mut inner = self.lock();
        inner.names.remove(name);
        inner.names.sync();
        inner.collect();
    }

    /// Reads that touch these bytes fail until they have been overwritten.
    pub fn make_unreadable(&self, name: &str, offset: u64, len: u64) {
        self.with(name, |content| content.make_unreadable(to_usize(offset)..to_usize(offset + len)));
    }

    /// Puts a file on the disk, durably, and replaces any file with that name.
    pub fn put(&self, name: &str, bytes: Vec<u8>) {
        let mut inner = self.lock();
        let file = inner.new_file(Content::of(bytes));
        inner.names.create(name, file);
        inner.names.sync();
        inner.collect();
    }

    /// What a process would read from the file now.
    #[must_use]
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        self.with(name, |content| content.bytes().to_vec())
    }

    /// Whether everything written to the file is durable. False if there is no such file.
    #[must_use]
    pub fn is_synced(&self, name: &str) -> bool {
        self.with(name, |content| content.is_synced()).unwrap_or(false)
    }

    /// The names that a process would see now, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.lock().names.iter().map(|(name, _)| name.to_owned()).collect()
    }

    /// The counters so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.lock().counters
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, name: &str, with: impl FnOnce(&mut Content) -> T) -> Option<T> {
        let mut inner = self.lock();
        let file = inner.names.get(name)?;
        inner.files.get_mut(&file).map(with)
    }

    fn handle(&self, inner: &Inner, file: FileId) -> io::Result<Arc<dyn File>> {
        let open = inner.files.get(&file).ok_or(io::ErrorKind::NotFound)?.opened();
        Ok(Arc::new(Handle { disk: self.clone(), file, life: inner.life, _open: open }))
    }
}

/// The outcome of an operation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Done,
    /// The machine dies during it.
    Interrupted,
}

impl Inner {
    fn restart(&mut self) {
        self.life += 1;
        self.fail_at = None;
        self.fail_next.clear();
        self.misdeed = None;
        self.fail_sync = None;
        self.collect();
    }

    /// Removes files without a name and without an open handle, and counts the rest.
    fn collect(&mut self) {
        let names = &self.names;
        self.files.retain(|file, content| names.may_name(*file) || content.is_open());
        self.used = self.files.values().map(|content| content.bytes().len() as u64).sum();
    }

    fn new_file(&mut self, content: Content) -> FileId {
        self.next_file += 1;
        self.used += content.bytes().len() as u64;
        self.files.insert(self.next_file, content);
        self.next_file
    }

    /// Counts an operation and decides whether it fails.
    fn begin(&mut self, kind: Kind) -> io::Result<Fate> {
        self.counters.operations += 1;
        match kind {
            Kind::Read => self.counters.reads += 1,
            Kind::Write => self.counters.writes += 1,
            Kind::Sync => self.counters.syncs += 1,
            Kind::SyncDirectory => self.counters.directory_syncs += 1,
            Kind::Name | Kind::Look => {}
        }
        match self.fail_at {
            Some(at) if self.counters.operations > at => return Err(broken("simulated: the disk is gone")),
            Some(at) if self.counters.operations == at => return Ok(Fate::Interrupted),
            _ => {}
        }
        match self.fail_next.iter().position(|next| *next == kind) {
            Some(at) => {
                self.fail_next.remove(at);
                Err(broken("simulated: input/output error"))
            }
            None => Ok(Fate::Done),
        }
    }

    /// Counts a sync of a file, and returns whether it must fail.
    fn is_sync_to_fail(&mut self, file: FileId) -> bool {
        let Some((prefix, left)) = &mut self.fail_sync else { return false };
        if !self.names.iter().any(|(name, named)| named == file && name.starts_with(&prefix[..])) {
            return false;
        }
        *left -= 1;
        let fails = *left == 0;
        if fails {
            self.fail_sync = None;
        }
        fails
    }

    fn grow(&mut self, from: usize, to: usize) -> io::Result<()> {
        let used = (self.used + to as u64).saturating_sub(from as u64);
        if to > from && self.capacity.is_some_and(|capacity| used > capacity) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.used = used;
        Ok(())
    }
}

impl Fate {
    fn end<T>(self, value: T) -> io::Result<T> {
        match self {
            Self::Done => Ok(value),
            Self::Interrupted => Err(broken("simulated: the machine died")),
        }
    }
}

impl Storage for Disk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut inner = self.lock();
        let fate = inner.begin(Kind::Look)?;
        let file = inner.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        fate.end(self.handle(&inner, file)?)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut inner = self.lock();
        let fate = inner.begin(Kind::Name)?;
        if inner.names.get(name).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = inner.new_file(Content::default());
        inner.names.create(name, file);
        fate.end(self.handle(&inner, file)?)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.lock();
        let fate = inner.begin(Kind::Name)?;
        inner.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        inner.names.rename(from, to);
        fate.end(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut inner = self.lock();
        let fate = inner.begin(Kind::Name)?;
        inner.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        inner.names.remove(name);
        fate.end(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut inner = self.lock();
        let fate = inner.begin(Kind::Look)?;
        fate.end(inner.names.iter().map(|(name, _)| name.to_owned()).collect())
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut inner = self.lock();
        inner.begin(Kind::SyncDirectory)?.end(())?;
        if inner.names.sync() {
            inner.collect();
        }
        Ok(())
    }

    fn check_names(&self) -> io::Result<()> {
        // Nobody else has this disk.
        Ok(())
    }
}

#[derive(Debug)]
struct Handle {
    disk: Disk,
    file: FileId,
    life: u64,
    _open: Arc<()>,
}

impl Handle {
    fn begin(&self, kind: Kind) -> io::Result<(MutexGuard<'_, Inner>, Fate)> {
        let mut inner = self.disk.lock();
        if self.life != inner.life {
            return Err(broken("simulated: this handle belongs to an earlier life"));
        }
        let mut fate = inner.begin(kind);
        if kind == Kind::Sync && inner.is_sync_to_fail(self.file) {
            fate = fate.and_then(|_| Err(broken("simulated: input/output error")));
        }
        if kind == Kind::Sync && fate.is_err() && inner.fail_at.is_none() {
            content(&mut inner, self.file)?.drop_unsynced();
        }
        fate.map(|fate| (inner, fate))
    }
}

fn content(inner: &mut Inner, file: FileId) -> io::Result<&mut Content> {
    inner.files.get_mut(&file).ok_or_else(|| broken("simulated: the file has no name left"))
}

fn to_usize(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

impl File for Handle {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let (mut inner, fate) = self.begin(Kind::Read)?;
        let reads = inner.counters.reads;
        if let Some(OnRead(_, hook)) = inner.on_read.take_if(|on_read| on_read.0 <= reads) {
            drop(inner);
            hook();
            inner = self.disk.lock();
        }
        let content = content(&mut inner, self.file)?;
        let range = to_usize(offset)..to_usize(offset).saturating_add(buffer.len());
        if content.is_unreadable(&range) {
            return Err(broken("simulated: unreadable sector"));
        }
        buffer.copy_from_slice(content.bytes().get(range).ok_or(io::ErrorKind::UnexpectedEof)?);
        fate.end(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let (mut inner, fate) = self.begin(Kind::Write)?;
        inner.counters.written += data.len() as u64;
        let offset = match inner.misdeed.take() {
            None => offset,
            Some(WriteFault::Lost) => return Ok(()),
            Some(WriteFault::Misdirected(by)) => offset + by,
        };
        let offset = to_usize(offset);
        let old_len = content(&mut inner, self.file)?.bytes().len();
        inner.grow(old_len, old_len.max(offset + data.len()))?;
        content(&mut inner, self.file)?.write(offset, data);
        fate.end(())
    }

    fn sync(&self) -> io::Result<()> {
        let (mut inner, fate) = self.begin(Kind::Sync)?;
        fate.end(())?;
        content(&mut inner, self.file)?.sync();
        Ok(())
    }

    fn drop_cache(&self) -> io::Result<()> {
        let (mut inner, fate) = self.begin(Kind::Look)?;
        content(&mut inner, self.file)?.forget_dropped();
        fate.end(())
    }

    fn len(&self) -> io::Result<u64> {
        let (mut inner, fate) = self.begin(Kind::Look)?;
        let len = content(&mut inner, self.file)?.bytes().len();
        fate.end(len as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let (mut inner, fate) = self.begin(Kind::Write)?;
        let old_len = content(&mut inner, self.file)?.bytes().len();
        let len = to_usize(len);
        inner.grow(old_len, len)?;
        content(&mut inner, self.file)?.set_len(len);
        fate.end(())
    }
}
