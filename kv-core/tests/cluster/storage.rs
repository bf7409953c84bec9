//! A real directory whose disk fails, fills up or stalls on request.

use kv_core::storage::{File, Storage};
use std::io::{Error, ErrorKind, Result};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// What is done with a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Work {
    Read,
    Write,
    Sync,
}

/// What becomes of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// Fails this often.
    Fail(ErrorKind, u64),
    /// Does not return.
    Stall,
    /// Takes so much longer.
    Slow(Duration),
}

#[derive(Clone, Debug)]
struct Rule {
    work: Work,
    /// How the names of the files begin.
    files: &'static str,
    fate: Fate,
}

/// What ails a disk. A clone is the same one; at first nothing does.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ailment {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    rules: Mutex<Vec<Rule>>,
    healed: Condvar,
    /// How often a rule struck.
    struck: Mutex<u64>,
    /// The files that were created.
    created: Mutex<Vec<String>>,
    /// What was written or synced after the first failure of a write or a sync, by file.
    afterwards: Mutex<Option<Vec<String>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no test panics with it")
}

impl Ailment {
    /// The disk, with this ailment.
    pub(crate) fn of(&self, disk: Arc<dyn Storage>) -> Arc<dyn Storage> {
        Arc::new(Ailing { disk, ailment: self.clone(), names: Mutex::default() })
    }

    /// From now on this fails, on files whose names begin so.
    pub(crate) fn fail(&self, work: Work, files: &'static str, kind: ErrorKind) {
        self.rule(work, files, Fate::Fail(kind, u64::MAX));
    }

    /// The next time this fails, and then works again.
    pub(crate) fn fail_once(&self, work: Work, files: &'static str, kind: ErrorKind) {
        self.rule(work, files, Fate::Fail(kind, 1));
    }

    /// From now on this does not return until it is healed.
    pub(crate) fn stall(&self, work: Work, files: &'static str) {
        self.rule(work, files, Fate::Stall);
    }

    /// From now on this takes longer.
    pub(crate) fn slow(&self, work: Work, files: &'static str, by: Duration) {
        self.rule(work, files, Fate::Slow(by));
    }

    fn rule(&self, work: Work, files: &'static str, fate: Fate) {
        lock(&self.inner.rules).push(Rule { work, files, fate });
    }

    /// Nothing ails it any more.
    pub(crate) fn heal(&self) {
        lock(&self.inner.rules).clear();
        *lock(&self.inner.afterwards) = None;
        self.inner.healed.notify_all();
    }

    /// How often something failed, stalled or was slow.
    pub(crate) fn struck(&self) -> u64 {
        *lock(&self.inner.struck)
    }

    /// How often a file of this name was created.
    pub(crate) fn created(&self, name: &str) -> usize {
        lock(&self.inner.created).iter().filter(|created| *created == name).count()
    }

    /// The files that were written or synced after the first failure of a write or a sync.
    pub(crate) fn touched_afterwards(&self) -> Vec<String> {
        lock(&self.inner.afterwards).clone().unwrap_or_default()
    }

    fn work(&self, work: Work, file: &str) -> Result<()> {
        if work != Work::Read
            && let Some(touched) = &mut *lock(&self.inner.afterwards)
        {
            touched.push(file.to_owned());
        }
        let matches = |rule: &Rule| rule.work == work && file.starts_with(rule.files);
        let mut rules = lock(&self.inner.rules);
        let Some(at) = rules.iter().position(matches) else { return Ok(()) };
        *lock(&self.inner.struck) += 1;
        match &mut rules[at].fate {
            Fate::Fail(kind, left) => {
                let kind = *kind;
                *left -= 1;
                if *left == 0 {
                    rules.remove(at);
                }
                if work != Work::Read {
                    lock(&self.inner.afterwards).get_or_insert_default();
                }
                Err(Error::new(kind, "a disk of the tests'"))
            }
            Fate::Stall => {
                let stalled =
                    |rules: &mut Vec<Rule>| rules.iter().any(|it| matches(it) && it.fate == Fate::Stall);
                drop(self.inner.healed.wait_while(rules, stalled).expect("no test panics with it"));
                Ok(())
            }
            Fate::Slow(by) => {
                let by = *by;
                drop(rules);
                std::thread::sleep(by);
                Ok(())
            }
        }
    }
}

#[derive(Debug)]
struct Ailing {
    disk: Arc<dyn Storage>,
    ailment: Ailment,
    /// What the files are called that were opened.
    names: Mutex<Vec<Name>>,
}

/// A file's name, which may change while it is open.
type Name = Arc<Mutex<String>>;

impl Ailing {
    fn file(&self, name: &str, file: Arc<dyn File>) -> Arc<dyn File> {
        let name = Arc::new(Mutex::new(name.to_owned()));
        lock(&self.names).push(name.clone());
        Arc::new(AilingFile { file, name, ailment: self.ailment.clone() })
    }
}

impl Storage for Ailing {
    fn open(&self, name: &str) -> Result<Arc<dyn File>> {
        Ok(self.file(name, self.disk.open(name)?))
    }

    fn create(&self, name: &str) -> Result<Arc<dyn File>> {
        self.ailment.work(Work::Write, name)?;
        lock(&self.ailment.inner.created).push(name.to_owned());
        Ok(self.file(name, self.disk.create(name)?))
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.ailment.work(Work::Write, to)?;
        self.disk.rename(from, to)?;
        for name in &*lock(&self.names) {
            let mut name = lock(name);
            if *name == from {
                to.clone_into(&mut name);
            }
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.ailment.work(Work::Write, name)?;
        self.disk.remove(name)
    }

    fn list(&self) -> Result<Vec<String>> {
        self.disk.list()
    }

    fn sync_directory(&self) -> Result<()> {
        self.ailment.work(Work::Sync, ".")?;
        self.disk.sync_directory()
    }

    fn check_names(&self) -> Result<()> {
        self.disk.check_names()
    }
}

#[derive(Debug)]
struct AilingFile {
    file: Arc<dyn File>,
    name: Name,
    ailment: Ailment,
}

impl AilingFile {
    fn work(&self, work: Work) -> Result<()> {
        let name = lock(&self.name).clone();
        self.ailment.work(work, &name)
    }
}

impl File for AilingFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.work(Work::Read)?;
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.work(Work::Write)?;
        self.file.write_at(data, offset)
    }

    fn sync(&self) -> Result<()> {
        self.work(Work::Sync)?;
        self.file.sync()
    }

    fn drop_cache(&self) -> Result<()> {
        self.file.drop_cache()
    }

    fn len(&self) -> Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.work(Work::Write)?;
        self.file.set_len(len)
    }
}
