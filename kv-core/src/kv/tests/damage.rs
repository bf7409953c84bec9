//! Damage: it is reported, and never answered from.

use super::model::{Model, Workload};
use super::*;
use crate::message::ChunkEnd;
use crate::storage::simulated::WriteFault;
use crate::storage::{File, Storage};
use std::io;
use std::sync::Mutex;

/// A state of some files, with some blocks each.
fn prepared() -> (Disk, Workload) {
    let disk = Disk::new();
    let mut workload = Workload::new(21);
    workload.keys = 1000;
    let mut state = StateMachine::open(disk.storage(), limits()).unwrap();
    for _ in 0..3 {
        for _ in 0..120 {
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
    // The notes of the history too.
    let snapshot = state.snapshot().expect("it has a checkpoint");
    let mut after = Bytes::new();
    while let ChunkEnd::More(next) = snapshot.chunk(&after, usize::MAX)?.end {
        after = next;
    }
    Ok(())
}

#[test]
fn a_flipped_bit_anywhere_in_the_file_is_refused_or_harmless() {
    let (disk, workload) = prepared();
    let digest = StateMachine::open(disk.storage(), limits()).unwrap().digest().unwrap();
    let mut rng = fastrand::Rng::with_seed(3);
    let (mut refused, mut harmless) = (0, 0);
    for (name, at) in places(&image(&disk), 1000) {
        let disk = disk.fork();
        disk.flip_bit(&name, at + rng.u64(..1000), rng.u8(..8));
        match read_all(&disk, &workload.model, digest) {
            Ok(()) => harmless += 1,
            Err(EngineError::Damaged { .. }) => refused += 1,
            Err(error) => panic!("{name} {at}: {error}"),
        }
    }
    assert!(refused > 20, "{refused} refused, {harmless} harmless");
}

#[test]
fn a_damaged_manifest_is_repaired_from_its_twin() {
    let (disk, workload) = prepared();
    let digest = StateMachine::open(disk.storage(), limits()).unwrap().digest().unwrap();
    let intact = image(&disk);
    for copy in 0..2 {
        let disk = disk.fork();
        disk.flip_bit("state", copy * intact["state"].len() as u64 / 2 + 100, 1);
        read_all(&disk, &workload.model, digest).unwrap();
        assert_eq!(image(&disk), intact);
    }
}

/// A whole block replaced by zeros, by another block, by the same place of another file.
#[test]
fn a_block_with_other_content_is_refused_or_harmless() {
    let (disk, mut workload) = prepared();
    let mut state = StateMachine::open(disk.storage(), limits()).unwrap();
    for _ in 0..60 {
        workload.step(&mut state);
    }
    let checkpoint = state.begin_checkpoint().unwrap();
    state.finish_checkpoint(checkpoint.run().unwrap());
    let digest = state.digest().unwrap();
    drop(state);
    let files = run_files(&disk);
    assert!(files.len() > 2);
    let mut refused = 0;
    for (name, at) in places(&files, 4096) {
        let at = usize::try_from(at).unwrap();
        let image = &files[&name];
        let range = at..(at + 4096).min(image.len());
        let next = (at + 4096).checked_rem(image.len() - range.len()).unwrap_or(0);
        let elsewhere = files.iter().filter(|(other, _)| **other != name);
        let replacements = elsewhere
            .filter_map(|(_, image)| image.get(range.clone()).map(<[u8]>::to_vec))
            .chain([vec![0; range.len()], image[next..next + range.len()].to_vec()]);
        for replacement in replacements {
            let mut image = image.clone();
            image[range.clone()].copy_from_slice(&replacement);
            let disk = disk.fork();
            disk.put(&name, image);
            match read_all(&disk, &workload.model, digest) {
                Ok(()) => {}
                Err(EngineError::Damaged { .. }) => refused += 1,
                Err(error) => panic!("{name} {at}: {error}"),
            }
        }
    }
    assert!(refused > 20, "{refused}");
}

#[test]
fn a_truncated_or_foreign_or_absent_file_is_refused() {
    let (disk, workload) = prepared();
    let digest = StateMachine::open(disk.storage(), limits()).unwrap().digest().unwrap();
    let files = image(&disk);
    for (name, bytes) in &files {
        let half = bytes.len() / 2;
        let cases = [0, 1, half - 1, half / 2, bytes.len() - 1]
            .map(|len| bytes[..len].to_vec())
            .into_iter()
            .chain([vec![7; bytes.len()], vec![7; bytes.len() + 1]]);
        for case in cases {
            let disk = disk.fork();
            disk.put(name, case.clone());
            match read_all(&disk, &workload.model, digest) {
                // One copy of the manifest is enough.
                Ok(()) => assert!(name == "state", "{name} {}", case.len()),
                Err(EngineError::Damaged { .. }) => {
                    assert_eq!(disk.contents(name).unwrap(), case, "nothing was changed");
                }
                Err(error) => panic!("{name} {}: {error}", case.len()),
            }
        }
        if name != "state" {
            let disk = disk.fork();
            disk.lose(name);
            let error = StateMachine::open(disk.storage(), limits()).unwrap_err();
            assert!(matches!(error, EngineError::Damaged { .. }), "{name}: {error}");
        }
    }
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
        for misdeed in [WriteFault::Lost, WriteFault::Misdirected(512), WriteFault::Misdirected(5 * 4096)] {
            match life(&disk.fork(), Some((at, misdeed))) {
                Ok(()) => {}
                Err(EngineError::Damaged { .. } | EngineError::Inconsistent { .. }) => refused += 1,
                Err(error) => panic!("write {at}, {misdeed:?}: {error}"),
            }
        }
    }
    assert!(refused > 4, "{refused}");
}

#[test]
fn an_unreadable_sector_is_an_error_of_the_disk() {
    let (disk, workload) = prepared();
    let digest = StateMachine::open(disk.storage(), limits()).unwrap().digest().unwrap();
    let mut errors = 0;
    for (name, at) in places(&run_files(&disk), 1024) {
        let disk = disk.fork();
        disk.make_unreadable(&name, at, 512);
        match read_all(&disk, &workload.model, digest) {
            Ok(()) => {}
            Err(EngineError::Io { .. }) => errors += 1,
            Err(error) => panic!("{name} {at}: {error}"),
        }
    }
    assert!(errors > 20, "{errors}");
}

#[test]
fn a_damaged_state_stays_closed() {
    let (disk, mut workload) = prepared();
    let uncached = Limits { cache_bytes: 4096, ..limits() };
    let mut state = StateMachine::open(disk.storage(), uncached).unwrap();
    for (name, at) in places(&run_files(&disk), 100) {
        disk.flip_bit(&name, at, 1);
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
        let file = (self.disk.clone(), self.disk.create(name)?);
        Ok(Arc::new(Meddling { disk: file, misdo: self.misdo.clone() }))
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
