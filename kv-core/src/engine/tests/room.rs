//! A merge and a checkpoint that have too little room between them.

use super::disks::mergeable;
use super::*;
use crate::storage::{File, Storage};
use std::io;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// What a file is about to do, or that it found no room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Event {
    Write,
    Sync,
    Full,
}

type Hook = dyn Fn(Event, &str) -> io::Result<()> + Send + Sync;

/// A disk that tells what is written.
#[derive(Clone)]
struct Hooked(TestDisk, Arc<Hook>);

struct HookedFile(Arc<dyn File>, String, Arc<Hook>);

impl Debug for Hooked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Hooked").field(&self.0).finish()
    }
}

impl Debug for HookedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("HookedFile").field(&self.1).finish()
    }
}

impl Hooked {
    fn file(&self, file: Arc<dyn File>, name: &str) -> Arc<dyn File> {
        Arc::new(HookedFile(file, name.to_owned(), self.1.clone()))
    }
}

impl Storage for Hooked {
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Ok(self.file(self.0.open(name)?, name))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Ok(self.file(self.0.create(name)?, name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.0.list()
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.0.sync_directory()
    }

    fn check_names(&self) -> io::Result<()> {
        self.0.check_names()
    }
}

impl File for HookedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        (self.2)(Event::Write, &self.1)?;
        let written = self.0.write_at(data, offset);
        if written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::StorageFull) {
            (self.2)(Event::Full, &self.1)?;
        }
        written
    }

    fn sync(&self) -> io::Result<()> {
        (self.2)(Event::Sync, &self.1)?;
        self.0.sync()
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.0.drop_cache()
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
}

/// Is set once, and waited for.
#[derive(Clone, Default)]
struct Flag(Arc<(Mutex<bool>, Condvar)>);

impl Flag {
    fn set(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn wait(&self) {
        let bound = Duration::from_secs(60);
        let set = self.0.0.lock().unwrap();
        let (_set, waited) = self.0.1.wait_timeout_while(set, bound, |set| !*set).unwrap();
        assert!(!waited.timed_out(), "it comes to that");
    }
}

/// The same on another disk, which tells what is written.
fn hooked(tested: &Tested, hook: impl Fn(Event, &str) -> io::Result<()> + Send + Sync + 'static) -> Tested {
    let disk = tested.disk.fork();
    let storage = Arc::new(Hooked(disk.clone(), Arc::new(hook)));
    let opened = Disk::open(storage, 1 << 20, MEMTABLE).unwrap();
    let at = Anchor::new(Op::new(tested.revision), Hash::ZERO);
    let engine = opened.at(at, Revision::new(tested.revision), Retention::NONE);
    Tested { disk, engine, revision: tested.revision, present: tested.present.clone() }
}

/// The clean-up of a merge without room leaves the manifest alone that a checkpoint writes.
#[test]
fn a_merge_without_room_does_not_remove_what_a_checkpoint_writes() {
    let (merging, syncing, ended) = (Flag::default(), Flag::default(), Flag::default());
    let hook = {
        let (merging, syncing, ended) = (merging.clone(), syncing, ended.clone());
        let armed = AtomicBool::new(false);
        move |event, name: &str| {
            // The files of the checkpoint are written first.
            if event == Event::Sync && name.starts_with("state-") {
                armed.store(true, SeqCst);
            } else if event == Event::Write && name.starts_with("state-") && armed.load(SeqCst) {
                merging.set();
                syncing.wait();
                return Err(io::ErrorKind::StorageFull.into());
            } else if event == Event::Sync && name == "state.new" {
                syncing.set();
                ended.wait();
            }
            Ok(())
        }
    };
    let mut tested = hooked(&mergeable(Retention::NONE), hook);
    tested.write("new", Some(Bytes::from_static(b"value")));
    let written = tested.engine.freeze().unwrap().write(tested.rows()).unwrap();
    let merger = tested.engine.merger().unwrap();
    let done = std::thread::scope(|scope| {
        let merge = scope.spawn(|| {
            let step = merger.step(&HeldFiles::default());
            ended.set();
            step
        });
        merging.wait();
        let done = written.commit();
        assert_eq!(merge.join().unwrap().unwrap(), MergeStep::NoRoom);
        done
    });
    tested.engine.checkpointed(done.unwrap());
    tested.check();
    let again = tested.disk.fork();
    Tested { engine: Tested::engine(&again, Retention::NONE), disk: again, ..tested }.check();
}

/// A merge can wait, and a checkpoint cannot: what the merge has taken of the last room is given back.
#[test]
fn a_merge_leaves_the_last_room_to_a_checkpoint() {
    for files_first in [false, true] {
        let (merging, full) = (Flag::default(), Flag::default());
        let syncs = Arc::new(AtomicU32::new(u32::MAX / 2));
        let hook = {
            let (merging, full, syncs) = (merging.clone(), full.clone(), syncs.clone());
            move |event, name: &str| {
                let sync = event == Event::Sync && name.starts_with("state-");
                if event == Event::Full {
                    full.set();
                } else if sync && syncs.fetch_sub(1, SeqCst) == 1 {
                    merging.set();
                    full.wait();
                }
                Ok(())
            }
        };
        let mut tested = hooked(&mergeable(Retention::NONE), hook);
        tested.write("new", Some(vec![7; 10_000].into()));
        let rows = tested.rows();
        let write = |frozen: Frozen| frozen.write(rows.clone());
        let frozen = tested.engine.freeze().unwrap();
        let mut frozen = Some(frozen);
        let written = if files_first { frozen.take().map(|frozen| write(frozen).unwrap()) } else { None };
        // The merge has written some files, and stops there.
        syncs.store(3, SeqCst);
        let merger = tested.engine.merger().unwrap();
        let (disk, names) = (tested.disk.clone(), tested.disk.names().len());
        let done = std::thread::scope(|scope| {
            let merge = scope.spawn(|| merger.step(&HeldFiles::default()));
            merging.wait();
            assert!(disk.names().len() >= names + 3);
            disk.set_capacity(Some(disk.used() + 100));
            let written = written.map_or_else(|| write(frozen.take().unwrap()), Ok);
            let done = written.and_then(Written::commit);
            full.set();
            assert_eq!(merge.join().unwrap().unwrap(), MergeStep::NoRoom);
            done
        });
        tested.engine.checkpointed(done.unwrap());
        tested.check();
        tested.bytes();
        // It would write in vain until there is room, so it is not tried at once.
        disk.set_capacity(None);
        let mut checkpoints = 1;
        let before = disk.counters().written;
        while merger.step(&HeldFiles::default()).unwrap() == MergeStep::NoRoom {
            assert!(checkpoints > 1 || disk.counters().written == before);
            tested.write("more", Some(Bytes::from_static(b"value")));
            tested.checkpoint();
            checkpoints += 1;
        }
        assert!((3..10).contains(&checkpoints), "{checkpoints}");
        tested.merge();
        tested.check();
    }
}

/// A checkpoint of a state that is set aside is refused if there is no room for the manifest. It leaves nothing.
#[test]
fn a_checkpoint_without_room_for_the_manifest_leaves_no_files() {
    let mut tested = mergeable(Retention::NONE);
    tested.write("new", Some(Bytes::from_static(b"value")));
    let names = tested.disk.names();
    let written = tested.engine.freeze().unwrap().write(tested.rows()).unwrap();
    tested.disk.set_capacity(Some(tested.disk.used() + 5000));
    assert!(matches!(written.commit(), Err(EngineError::Io { .. })));
    assert_eq!(tested.disk.names(), names);
}

/// A checkpoint that waits for a merge is not taken for one that hangs as long as the merge goes on.
#[test]
fn a_checkpoint_that_waits_for_a_merge_makes_the_progress_of_the_merge() {
    let (merging, waiting, ended) = (Flag::default(), Flag::default(), Flag::default());
    let syncs = Arc::new(AtomicU32::new(u32::MAX / 2));
    let hook = {
        let (merging, waiting, ended, syncs) =
            (merging.clone(), waiting.clone(), ended.clone(), syncs.clone());
        move |event, _: &str| {
            if event == Event::Sync {
                match syncs.fetch_sub(1, SeqCst) {
                    2 => {
                        merging.set();
                        waiting.wait();
                    }
                    1 => ended.set(),
                    _ => {}
                }
            }
            Ok(())
        }
    };
    let mut tested = hooked(&mergeable(Retention::NONE), hook);
    while tested.engine.merger().unwrap().runs() < 64 {
        tested.write("new", Some(vec![7; 100].into()));
        tested.checkpoint();
    }
    tested.write("last", Some(Bytes::from_static(b"value")));
    let frozen = tested.engine.freeze().unwrap();
    let (progress, rows) = (frozen.progress(), tested.rows());
    let merger = tested.engine.merger().unwrap();
    syncs.store(2, SeqCst);
    let done = std::thread::scope(|scope| {
        let merge = scope.spawn(|| merger.step(&HeldFiles::default()));
        merging.wait();
        let checkpoint = scope.spawn(|| frozen.run(rows));
        while !merger.is_awaited() {
            assert!(!checkpoint.is_finished(), "it waits for the merge");
            std::thread::yield_now();
        }
        let steps = progress.steps();
        waiting.set();
        ended.wait();
        assert!(progress.steps() > steps);
        assert_eq!(merge.join().unwrap().unwrap(), MergeStep::Merged);
        checkpoint.join().unwrap()
    });
    tested.engine.checkpointed(done.unwrap());
    tested.check();
}
