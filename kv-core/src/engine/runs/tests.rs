//! Tests of runs: what is written is read, and a bad block hides only what is in it.

use super::super::EngineError;
use super::super::control::Progress;
use super::super::place;
use super::*;
use crate::ids::Revision;
use crate::storage::File;
use crate::storage::simulated::Disk;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// Rows of all parts: keys with several versions, small and large values.
fn rows(seed: u64, count: usize) -> Rows {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut rows = Rows::new();
    for _ in 0..count {
        let key = format!("key{:05}", rng.u32(..2000));
        let revision = Revision::new(rng.u64(1..1000));
        let place = match rng.u8(..8) {
            0 => place::row(key.as_bytes()),
            1 => place::note(revision, key.as_bytes()),
            _ => place::version(&place::key_start(key.as_bytes()), revision),
        };
        let len = [0, 10, 300, 20_000][if rng.u8(..50) == 0 { 3 } else { rng.usize(..3) }];
        rows.insert(place, vec![rng.u8(..); len]);
    }
    rows
}

fn target(disk: &Disk, cache: usize) -> Target {
    Target {
        storage: disk.storage(),
        control: Arc::default(),
        cache: Arc::new(Cache::new(cache)),
        next: Arc::new(AtomicU64::new(7)),
        progress: Progress::default(),
    }
}

fn write(target: &Target, rows: &Rows, file_bytes: u64) -> Arc<Run> {
    let mut writer = RunWriter::new(target.clone(), file_bytes);
    for (place, value) in rows {
        writer.push(place, value).unwrap();
    }
    Arc::new(Run { id: 1, files: writer.finish().unwrap().take(), clip: None, into: None })
}

fn open(disk: &Disk, run: &Run, cache: usize) -> Result<Arc<Run>, EngineError> {
    let cache = Arc::new(Cache::new(cache));
    let files = run.meta().files.into_iter();
    let files = files.map(|meta| RunFile::open(&*disk.storage(), meta, &cache, true).map(Arc::new));
    Ok(Arc::new(Run { files: files.collect::<Result<_, _>>()?, ..(*run).clone() }))
}

fn walk(mut merged: Merged) -> Result<Vec<(Vec<u8>, Bytes)>, EngineError> {
    let mut found = Vec::new();
    while let Some(place) = merged.place() {
        let value = merged.value()?;
        assert!(merged.small_value().unwrap().is_none_or(|small| *small == *value));
        assert!(merged.value_len().unwrap().abs_diff(value.len()) < 30);
        found.push((place.to_vec(), value));
        merged.advance()?;
    }
    Ok(found)
}

fn expected<'a>(rows: impl Iterator<Item = (&'a Vec<u8>, &'a Vec<u8>)>) -> Vec<(Vec<u8>, Bytes)> {
    rows.map(|(place, value)| (place.clone(), Bytes::copy_from_slice(value))).collect()
}

#[test]
fn what_was_written_is_read_in_both_directions() {
    for (seed, count, file_bytes, cache) in
        [(1, 1, 1 << 20, 0), (2, 50, 1 << 20, 1 << 20), (3, 3000, 1 << 30, 0), (4, 3000, 30_000, 1 << 20)]
    {
        let (disk, rows) = (Disk::new(), rows(seed, count));
        let run = write(&target(&disk, cache), &rows, file_bytes);
        assert_eq!(run.files.len() > 1, file_bytes < 100_000);
        let run = open(&disk, &run, cache).unwrap();
        let runs = [run.clone()];
        let mut places: Vec<Vec<u8>> = rows.keys().cloned().collect();
        places.extend([vec![], vec![9]]);
        for place in places.iter().step_by(1 + count / 60) {
            for place in [place.clone(), [&place[..], &[0]].concat()] {
                let found = walk(Merged::from(&runs, &place, true).unwrap()).unwrap();
                assert_eq!(found, expected(rows.range(place.clone()..)));
                let found = walk(Merged::before(&runs, &place).unwrap()).unwrap();
                assert_eq!(found, expected(rows.range(..place.clone()).rev()));
                let mut merged = Merged::from(&runs, &[], true).unwrap();
                merged.skip_to(&place).unwrap();
                assert_eq!(merged.place(), rows.range(place..).next().map(|(place, _)| &place[..]));
            }
        }
        for number in 0..2000 {
            let start = place::key_start(format!("key{number:05}").as_bytes());
            for at in [0, 500, u64::MAX] {
                let place = place::version(&start, Revision::new(at));
                let next = rows.range(place.clone()..).next().filter(|(next, _)| next.starts_with(&start));
                let found = run.find(&place, &start, Some(hash_of(&start))).unwrap();
                assert_eq!(
                    found
                        .into_iter()
                        .collect::<Vec<_>>()
                        .first()
                        .map(|(place, value)| (&place[..], &value[..])),
                    next.map(|(place, value)| (&place[..], &value[..]))
                );
            }
        }
    }
}

/// A get reads one block of rows, and of the index as many as it has levels; of absent keys mostly none.
#[test]
fn a_look_up_reads_few_blocks() {
    let (disk, mut rows) = (Disk::new(), Rows::new());
    for number in 0..20_000 {
        rows.insert(
            place::version(&place::key_start(format!("key{number:05}").as_bytes()), Revision::new(1)),
            vec![7; 100],
        );
    }
    let run = write(&target(&disk, 0), &rows, 1 << 30);
    let reads = |suffix: &str| {
        let run = open(&disk, &run, 0).unwrap();
        let before = disk.counters().reads;
        for number in (0..20_000).step_by(100) {
            let start = place::key_start(format!("key{number:05}{suffix}").as_bytes());
            let hash = Some(hash_of(&start));
            let found = run.find(&place::version(&start, Revision::new(9)), &start, hash).unwrap();
            assert_eq!(found.is_some(), suffix.is_empty());
        }
        disk.counters().reads - before
    };
    assert!(reads("") <= 200 * 4, "a root, a block of the index, a filter and a block of rows");
    assert!(reads("x") <= 200 * 2 + 20, "a root and a filter");
}

#[test]
fn the_newest_run_hides_rows_of_others_and_what_is_clipped_is_not_seen() {
    let disk = Disk::new();
    let target = target(&disk, 1 << 20);
    let all = [rows(5, 1000), rows(6, 1000), rows(7, 1000)];
    let mut runs: Vec<Arc<Run>> = all.iter().map(|rows| write(&target, rows, 20_000)).collect();
    let mut merged = Rows::new();
    for rows in all.iter().rev() {
        merged.extend(rows.clone());
    }
    assert_eq!(walk(Merged::from(&runs, &[], false).unwrap()).unwrap(), expected(merged.iter()));
    assert_eq!(walk(Merged::before(&runs, &[9]).unwrap()).unwrap(), expected(merged.iter().rev()));
    for at in [0, 1, 499, 500, 900] {
        let clip = Bytes::from(merged.keys().nth(at).unwrap().clone());
        for run in &mut runs {
            *run = Arc::new(run.clipped(&clip));
        }
        let rest = merged.range([&clip[..], &[0]].concat()..);
        assert_eq!(walk(Merged::from(&runs, &[], false).unwrap()).unwrap(), expected(rest.clone()));
        assert_eq!(walk(Merged::before(&runs, &[9]).unwrap()).unwrap(), expected(rest.rev()));
        let start = &clip[..clip.len().saturating_sub(8)];
        if let Ok((start, _)) = place::split_version(&clip) {
            let found = runs[0].find(&clip, start, Some(hash_of(start))).unwrap();
            assert!(found.is_none_or(|(place, _)| place > clip));
        }
        assert!(!start.is_empty());
    }
}

/// Every bit belongs to a block, and each block is checked: what is read is right, and what is not in the bad block is
/// still read.
#[test]
fn a_bad_block_hides_only_its_own_rows() {
    let (disk, rows) = (Disk::new(), rows(8, 1500));
    let run = write(&target(&disk, 0), &rows, 1 << 30);
    let [file] = &run.files[..] else { panic!("one file") };
    let name = name_of(file.meta().number);
    let (len, mut hidden_most) = (file.meta().len, 0);
    for at in (0..len).step_by(997) {
        let disk = disk.fork();
        disk.flip_bit(&name, at, 5);
        let run = open(&disk, &run, 0).unwrap();
        let mut hidden = 0;
        for (place, value) in rows.iter().step_by(7) {
            match walk_one(&run, place) {
                Ok(found) => assert_eq!(found, (place.clone(), Bytes::copy_from_slice(value))),
                Err(EngineError::Damaged { .. }) => hidden += 1,
                Err(error) => panic!("{error}"),
            }
        }
        hidden_most = hidden_most.max(if at < len - 20_000 { hidden } else { 0 });
        assert!(scrub(&run).is_err(), "byte {at}");
    }
    assert!(hidden_most > 0 && hidden_most < 30, "{hidden_most} of {}", rows.len() / 7);
    assert_eq!(scrub(&open(&disk, &run, 0).unwrap()).unwrap(), len);
    disk.shorten(&name, len - 1);
    assert!(matches!(open(&disk, &run, 0), Err(EngineError::Damaged { .. })));
}

fn walk_one(run: &Arc<Run>, place: &[u8]) -> Result<(Vec<u8>, Bytes), EngineError> {
    let merged = Merged::from(std::slice::from_ref(run), place, false)?;
    Ok((merged.place().unwrap().to_vec(), merged.value()?))
}

/// Reads all, in small steps, and returns how much that was.
fn scrub(run: &Run) -> Result<u64, EngineError> {
    let (mut from, mut all) = (0, 0);
    loop {
        let (read, next) = run.files[0].scrub(from, 30_000)?;
        // A block of the index may hold some long places.
        let longest = 25_000 + 10 * run.files[0].meta().first.len();
        assert!(read <= 30_000 + longest);
        all += read as u64;
        match next {
            Some(next) => from = next,
            None => return Ok(all),
        }
    }
}

/// Returns a wrong byte at its first reads.
#[derive(Debug)]
struct Flaky(Arc<dyn File>, AtomicU64);

impl File for Flaky {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_at(buffer, offset)?;
        let left = self.1.load(Ordering::SeqCst);
        if left > 0 {
            self.1.store(left - 1, Ordering::SeqCst);
            buffer[0] ^= 1;
        }
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_at(data, offset)
    }

    fn sync(&self) -> io::Result<()> {
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

#[test]
fn t9_a_bad_block_is_read_again_before_it_counts_as_damaged() {
    let (disk, rows) = (Disk::new(), rows(11, 20));
    let run = write(&target(&disk, 0), &rows, 1 << 30);
    let meta = run.files[0].meta();
    let (first, value) = rows.first_key_value().unwrap();
    // Twice, and the second root twice.
    for (times, good) in [(1, true), (2, true), (3, true), (4, false)] {
        let file = Arc::new(Flaky(disk.storage().open(&name_of(meta.number)).unwrap(), times.into()));
        let file = Arc::new(RunFile::new(meta.clone(), Some(file), &Arc::new(Cache::new(0))));
        let run = Arc::new(Run { files: vec![file], ..(*run).clone() });
        let found = walk_one(&run, &[]);
        assert_eq!(found.is_ok_and(|found| found == (first.clone(), Bytes::copy_from_slice(value))), good);
    }
}

/// Another content that was right elsewhere, or before, is found like any other damage.
#[test]
fn a_block_of_another_file_is_bad() {
    let disk = Disk::new();
    let target = target(&disk, 0);
    let rows = rows(9, 500);
    let [one, other] = [0, 1].map(|last| {
        let changed = rows.iter().map(|(place, value)| (place.clone(), [&value[..], &[last]].concat()));
        write(&target, &changed.collect(), 1 << 30)
    });
    let [one_name, other_name] = [&one, &other].map(|run| name_of(run.files[0].meta().number));
    disk.put(&one_name, disk.contents(&other_name).unwrap());
    let run = open(&disk, &one, 0).unwrap();
    assert!(matches!(walk_one(&run, &[]), Err(EngineError::Damaged { .. })));
}

#[test]
fn what_nobody_takes_is_removed_and_numbers_in_use_are_passed_over() {
    let disk = Disk::new();
    disk.storage().create(&name_of(8)).unwrap();
    let target = target(&disk, 0);
    let run = write(&target, &rows(10, 500), 10_000);
    let numbers: Vec<u64> = run.meta().numbers().collect();
    assert!(numbers.len() > 2 && numbers[..2] == [7, 9], "{numbers:?}");
    let before = disk.names();
    let mut writer = RunWriter::new(target, 10_000);
    for (place, value) in &rows(10, 500) {
        writer.push(place, value).unwrap();
    }
    assert!(disk.names().len() > before.len() + 1);
    drop(writer);
    assert_eq!(disk.names(), before);
}

/// Zeros in keys take two bytes each, and a long key has a block of its own: the index repeats it once, and not twice.
#[test]
fn long_keys_do_not_take_many_times_their_length() {
    let (disk, mut rows) = (Disk::new(), Rows::new());
    for number in 0..64_u8 {
        let key = [&[0; 4095][..], &[number]].concat();
        rows.insert(place::version(&place::key_start(&key), Revision::new(1)), vec![1]);
    }
    let run = write(&target(&disk, 0), &rows, 1 << 30);
    let long = run.bytes() as f64 / (64.0 * 4096.0);
    assert!(long < 5.7, "{long} times as long as the keys");
}

/// Keys, and so the entries of the index, may be longer than a block.
#[test]
fn the_index_of_long_keys_ends() {
    for len in [2033, 4065, 20_000, 40_000] {
        for byte in [0, 1, 0xff] {
            for value in [0, 20 << 10] {
                let disk = Disk::new();
                let mut rows = Rows::new();
                for number in 0..12_u8 {
                    let mut key = vec![byte; len];
                    key[len - 1] = number;
                    let start = place::key_start(&key);
                    for revision in [1, 2] {
                        rows.insert(place::version(&start, Revision::new(revision)), vec![number; value]);
                    }
                }
                let run = write(&target(&disk, 0), &rows, 1 << 30);
                let run = open(&disk, &run, 0).unwrap();
                let runs = [run.clone()];
                assert_eq!(walk(Merged::from(&runs, &[], false).unwrap()).unwrap(), expected(rows.iter()));
                let found = walk(Merged::before(&runs, &[9]).unwrap()).unwrap();
                assert_eq!(found, expected(rows.iter().rev()));
                for (place, value) in &rows {
                    let start = place::split_version(place).unwrap().0;
                    let found = run.find(place, start, Some(hash_of(start))).unwrap().unwrap();
                    assert_eq!((&found.0[..], &found.1[..]), (&place[..], &value[..]));
                }
                scrub(&run).unwrap();
            }
        }
    }
}

/// The first and last places of the blocks of rows, and where the blocks are.
fn blocks(file: &RunFile) -> Vec<(Bytes, Bytes, u64)> {
    let meta = file.meta();
    assert_eq!(meta.levels, 1, "a short file");
    let bytes = file_bytes(file, meta.root.block.offset, meta.root.block.len as usize);
    let index = block::Block::new(bytes);
    let entry = |at| {
        let (block, _) = index::NodeRef::decode(index.value(at)).unwrap();
        (index.shared_place(at), index.shared_last(at), block.offset)
    };
    (0..index.len()).map(entry).collect()
}

fn file_bytes(file: &RunFile, offset: u64, len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    file.file().read_at(&mut bytes, offset).unwrap();
    bytes.into()
}

/// What lies before and behind a bad block is read, up to its very edges.
#[test]
fn the_edges_of_a_bad_block_are_known() {
    let (disk, rows) = (Disk::new(), rows(12, 500));
    let run = write(&target(&disk, 0), &rows, 1 << 30);
    let name = name_of(run.files[0].meta().number);
    let blocks = blocks(&run.files[0]);
    assert!(blocks.len() > 4);
    for pair in blocks.windows(3) {
        let [(_, before, _), (first, last, at), (behind, ..)] = pair else { panic!("three of them") };
        let disk = disk.fork();
        disk.flip_bit(&name, at + 9, 3);
        let runs = [open(&disk, &run, 0).unwrap()];
        for (from, next) in
            [(&before[..], &before[..]), (&[before, &[0][..]].concat()[..], first), (behind, behind)]
        {
            let merged = Merged::from(&runs, from, false).unwrap();
            assert_eq!(merged.place(), Some(next));
        }
        let mut merged = Merged::from(&runs, before, false).unwrap();
        merged.advance().unwrap();
        assert_eq!(merged.place(), Some(&first[..]));
        merged.value().unwrap_err();
        let merged = Merged::before(&runs, behind).unwrap();
        assert_eq!(merged.place(), Some(&last[..]));
        let merged = Merged::before(&runs, first).unwrap();
        assert_eq!(merged.place(), Some(&before[..]));
        // A key between two blocks.
        let absent = [before, &[0][..]].concat();
        assert!(runs[0].find(&absent, &absent, None).unwrap().is_none());
        assert!(runs[0].find(first, first, None).is_err());
    }
}

/// A filter only saves time, and the root is there twice. All of them are read in a scrub.
#[test]
fn a_bad_filter_or_root_hides_nothing() {
    let (disk, rows) = (Disk::new(), rows(13, 500));
    let run = write(&target(&disk, 0), &rows, 1 << 30);
    let meta = run.files[0].meta();
    let name = name_of(meta.number);
    let filter = meta.root.filter.unwrap().offset;
    for places in [&[filter][..], &[meta.root.block.offset], &[meta.second_root], &[filter, meta.second_root]]
    {
        let disk = disk.fork();
        for at in places {
            disk.flip_bit(&name, at + 2, 3);
        }
        let run = open(&disk, &run, 0).unwrap();
        for (place, value) in &rows {
            let Ok((start, _)) = place::split_version(place) else { continue };
            let found = run.find(place, start, Some(hash_of(start))).unwrap().unwrap();
            assert_eq!((&found.0[..], &found.1[..]), (&place[..], &value[..]));
        }
        assert!(matches!(scrub(&run), Err(EngineError::Damaged { .. })));
    }
    disk.flip_bit(&name, meta.root.block.offset, 1);
    disk.flip_bit(&name, meta.second_root, 1);
    assert!(walk_one(&open(&disk, &run, 0).unwrap(), &[]).is_err());
}

/// A large value is read each time: many small ones are worth more in the cache.
#[test]
fn large_values_are_not_cached() {
    let disk = Disk::new();
    let start = |key: &[u8]| place::version(&place::key_start(key), Revision::new(1));
    let rows = Rows::from([(start(b"a"), vec![1; 10]), (start(b"b"), vec![2; 100_000])]);
    let run = open(&disk, &write(&target(&disk, 0), &rows, 1 << 30), 16 << 20).unwrap();
    let reads = |key: &[u8]| {
        let before = disk.counters().reads;
        let (place, start) = (start(key), place::key_start(key));
        run.find(&place, &start, Some(hash_of(&start))).unwrap().unwrap();
        disk.counters().reads - before
    };
    assert!(reads(b"a") + reads(b"b") > 2, "they were not read yet");
    assert_eq!((reads(b"a"), reads(b"b")), (0, 2));
}
