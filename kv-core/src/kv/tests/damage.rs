//! Damage: it is reported, and never answered from.

use super::model::{Model, Workload};
use super::*;
use crate::storage::simulated::{Disk, WriteFault};
use crate::storage::{File, Storage};
use std::io;
use std::sync::Mutex;

/// A file with some hundred blocks in use.
fn prepared() -> (Disk, Workload) {
    let disk = Disk::new();
    let mut workload = Workload::new(21);
    workload.keys = 1000;
    let mut state = StateMachine::open(disk.storage(), limits()).unwrap();
    for _ in 0..3 {
        for _ in 0..60 {
            workload.step(&mut state);
        }
        let checkpoint = state.begin_checkpoint().unwrap();
        state.finish_checkpoint(checkpoint.run().unwrap());
    }
    (disk, workload)
}

/// Opens and reads everything: all of it is right, or it is an error.
fn read_all(disk: &Disk, model: &Model, digest: Hash) -> Result<(), EngineError> {
    let state = StateMachine::open(disk.storage(), limits())?;
    if state.digest()? != digest {
        panic!("a wrong answer");
    }
    model.check(&state.reader());
    Ok(())
}

#[test]
fn a_flipped_bit_anywhere_in_the_file_is_refused_or_harmless() {
    let (disk, workload) = prepared();
    let digest = StateMachine::open(disk.storage(), limits()).unwrap().digest().unwrap();
    let len = disk.contents("state").unwrap().len() as u64;
    let mut rng = fastrand::Rng::with_seed(3);
    let (mut refused, mut harmless) = (0, 0);
    for block in 0..len / 4096 {
        let disk = disk.fork();
        assert!(disk.flip_bit("state", block * 4096 + rng.u64(..4096), rng.u8(..8)));
        match read_all(&disk, &workload.model, digest) {
            Ok(()) => harmless += 1,
            Err(EngineError::Damaged { .. }) => refused += 1,
            Err(error) => panic!("block {block}: {error}"),
        }
    }
    assert!(refused > 20, "{refused} refused, {harmless} harmless");
}

#[test]
fn a_damaged_head_is_repaired_from_its_twin() {
    let (disk, workload) = prepared();
    let digest = StateMachine::open(disk.storage(), limits()).unwrap().digest().unwrap();
    let image = disk.contents("state").unwrap();
    for copy in 0..4 {
        let disk = disk.fork();
        disk.flip_bit("state", copy * 4096 + 100, 1);
        read_all(&disk, &workload.model, digest).unwrap();
        assert_eq!(disk.contents("state").unwrap(), image);
    }
}

/// A whole block replaced by zeros, by another block, by an older version of itself.
#[test]
fn a_block_with_other_content_is_refused_or_harmless() {
    let (disk, mut workload) = prepared();
    let older = disk.contents("state").unwrap();
    let mut state = StateMachine::open(disk.storage(), limits()).unwrap();
    for _ in 0..60 {
        workload.step(&mut state);
    }
    let checkpoint = state.begin_checkpoint().unwrap();
    state.finish_checkpoint(checkpoint.run().unwrap());
    let digest = state.digest().unwrap();
    drop(state);
    let newest = disk.contents("state").unwrap();
    let blocks = newest.len() / 4096;
    let mut refused = 0;
    for block in (4..blocks).step_by(2) {
        let range = block * 4096..(block + 1) * 4096;
        let other = (block + 1) % blocks;
        let replacements = [
            Some(vec![0; 4096]),
            Some(newest[other * 4096..][..4096].to_vec()),
            older.get(range.clone()).map(<[u8]>::to_vec),
        ];
        for replacement in replacements.into_iter().flatten() {
            let mut image = newest.clone();
            image[range.clone()].copy_from_slice(&replacement);
            let disk = disk.fork();
            disk.put("state", image);
            match read_all(&disk, &workload.model, digest) {
                Ok(()) => {}
                Err(EngineError::Damaged { .. } | EngineError::Inconsistent { .. }) => refused += 1,
                Err(error) => panic!("block {block}: {error}"),
            }
        }
    }
    assert!(refused > 20, "{refused}");
}

#[test]
fn a_truncated_or_foreign_file_is_refused() {
    let (disk, _) = prepared();
    let image = disk.contents("state").unwrap();
    for len in [0, 1, 4096, 4 * 4096, 5 * 4096, image.len() / 2, image.len() - 1] {
        disk.put("state", image[..len].to_vec());
        let error = StateMachine::open(disk.storage(), limits()).unwrap_err();
        assert!(matches!(error, EngineError::Damaged { .. }), "{len}: {error}");
        assert_eq!(disk.contents("state").unwrap(), image[..len], "nothing was changed");
    }
    disk.put("state", vec![7; 100_000]);
    assert!(matches!(StateMachine::open(disk.storage(), limits()), Err(EngineError::Damaged { .. })));
}

/// A write that the disk silently drops or writes elsewhere.
#[test]
fn a_lost_or_misdirected_write_is_refused_or_harmless() {
    let (disk, workload) = prepared();
    let counted = disk.fork();
    let mut refused = 0;
    let life = |disk: &Disk, misdo: Option<(u64, WriteFault)>| -> Result<(), EngineError> {
        let mut workload = workload.continued(22);
        let storage = Arc::new(Meddling { disk: disk.clone(), misdo: Arc::default() });
        let misdeeds = storage.misdo.clone();
        let mut state = StateMachine::open(storage, limits())?;
        for _ in 0..20 {
            let (entry, requests) = workload.entry();
            let applied = state.apply(&entry)?;
            workload.applied(&requests, &applied);
        }
        let checkpoint = state.begin_checkpoint().unwrap();
        *misdeeds.lock().unwrap() = misdo;
        state.finish_checkpoint(checkpoint.run()?);
        let digest = state.digest()?;
        drop(state);
        read_all(disk, &workload.model, digest)
    };
    let before = counted.counters().writes;
    life(&counted, None).unwrap();
    for at in 0..counted.counters().writes - before {
        for misdeed in [WriteFault::Lost, WriteFault::Misdirected(4096), WriteFault::Misdirected(5 * 4096)] {
            match life(&disk.fork(), Some((at, misdeed))) {
                Ok(()) => {}
                Err(EngineError::Damaged { .. } | EngineError::Inconsistent { .. }) => refused += 1,
                Err(error) => panic!("write {at}, {misdeed:?}: {error}"),
            }
        }
    }
    assert!(refused > 10, "{refused}");
}

#[test]
fn an_unreadable_sector_is_an_error_of_the_disk() {
    let (disk, workload) = prepared();
    let digest = StateMachine::open(disk.storage(), limits()).unwrap().digest().unwrap();
    let blocks = disk.contents("state").unwrap().len() as u64 / 4096;
    let mut errors = 0;
    for block in 4..blocks {
        let disk = disk.fork();
        disk.make_unreadable("state", block * 4096 + 512, 512);
        match read_all(&disk, &workload.model, digest) {
            Ok(()) => {}
            Err(EngineError::Io { .. }) => errors += 1,
            Err(error) => panic!("block {block}: {error}"),
        }
    }
    assert!(errors > 20, "{errors}");
}

#[test]
fn a_damaged_state_stays_closed() {
    let (disk, mut workload) = prepared();
    let uncached = Limits { cache_bytes: 4096, ..limits() };
    let mut state = StateMachine::open(disk.storage(), uncached).unwrap();
    let len = disk.contents("state").unwrap().len() as u64;
    for block in 5..len / 4096 {
        disk.flip_bit("state", block * 4096 + 9, 1);
    }
    let (mut failed, mut failures) = (false, 0);
    for _ in 0..50 {
        let (entry, requests) = workload.entry();
        match state.apply(&entry) {
            Ok(applied) => {
                assert!(!failed, "it went on after a failure");
                workload.applied(&requests, &applied);
            }
            Err(_) => {
                (failed, failures) = (true, failures + 1);
                assert!(state.begin_checkpoint().is_none());
            }
        }
    }
    assert!(failures > 1);
}

/// A storage that replaces its `n`-th write by another action.
#[derive(Clone, Debug)]
struct Meddling<S> {
    disk: S,
    misdo: Arc<Mutex<Option<(u64, WriteFault)>>>,
}

impl Storage for Meddling<Disk> {
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let file = (self.disk.clone(), self.disk.open(name)?);
        Ok(Arc::new(Meddling { disk: file, misdo: self.misdo.clone() }))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.disk.create(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.disk.sync_directory()
    }

    fn check_names(&self) -> io::Result<()> {
        self.disk.check_names()
    }
}

impl File for Meddling<(Disk, Arc<dyn File>)> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.disk.1.read_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let mut misdo = self.misdo.lock().unwrap();
        *misdo = match misdo.take() {
            Some((0, misdeed)) => {
                self.disk.0.misdo_next_write(misdeed);
                None
            }
            other => other.map(|(left, misdeed)| (left - 1, misdeed)),
        };
        self.disk.1.write_at(data, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.1.sync()
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.disk.1.drop_cache()
    }

    fn len(&self) -> io::Result<u64> {
        self.disk.1.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.1.set_len(len)
    }
}
