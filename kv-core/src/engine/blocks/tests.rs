use super::*;
use crate::storage::simulated::Disk;
use crate::storage::{File, Storage};
use std::sync::Arc;
use std::sync::atomic::Ordering;

const SIZE: u64 = BLOCK as u64;

fn create(disk: &Disk) -> Blocks {
    let blocks = Blocks::create(disk.create("f").unwrap(), Arc::default()).unwrap();
    disk.sync_directory().unwrap();
    blocks
}

fn open(disk: &Disk) -> Result<Blocks, EngineError> {
    let file = disk.open("f").map_err(|error| EngineError::io("open", error))?;
    Blocks::open(file, Arc::default())
}

fn read(blocks: &Blocks, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut out = vec![0; len];
    blocks.read(offset, &mut out).map(|()| out)
}

#[test]
fn synced_writes_survive_a_power_cut() {
    let disk = Disk::new();
    let blocks = create(&disk);
    blocks.set_len(10 * SIZE).unwrap();
    blocks.write(0, b"header").unwrap();
    blocks.write(3 * SIZE, &[7; 2 * BLOCK]).unwrap();
    blocks.sync().unwrap();
    disk.crash_losing_all();
    let blocks = open(&disk).unwrap();
    assert_eq!(blocks.len(), 10 * SIZE);
    assert_eq!(read(&blocks, 0, 8).unwrap(), b"header\0\0");
    assert_eq!(read(&blocks, 3 * SIZE, 2 * BLOCK).unwrap(), [7; 2 * BLOCK]);
    assert_eq!(read(&blocks, 5 * SIZE, BLOCK).unwrap(), [0; BLOCK], "what was gained is zeros");
}

#[test]
fn the_first_block_keeps_its_first_bytes_and_refuses_others() {
    let blocks = create(&Disk::new());
    blocks.set_len(2 * SIZE).unwrap();
    blocks.write(TREE_BYTES as u64 - 3, b"end").unwrap();
    assert_eq!(read(&blocks, TREE_BYTES as u64 - 3, 6).unwrap(), b"end\0\0\0");
    assert_eq!(read(&blocks, 0, BLOCK).unwrap().len(), BLOCK);
    blocks.write(TREE_BYTES as u64 - 2, b"end").unwrap_err();
    read(&blocks, 8, BLOCK).unwrap_err();
}

#[test]
fn nothing_is_read_or_written_beyond_the_end() {
    let blocks = create(&Disk::new());
    blocks.set_len(2 * SIZE).unwrap();
    read(&blocks, SIZE, 2 * BLOCK).unwrap_err();
    let blocks = create(&Disk::new());
    blocks.set_len(2 * SIZE).unwrap();
    blocks.write(SIZE, &[0; 2 * BLOCK]).unwrap_err();
    blocks.write(SIZE, &[1; BLOCK]).unwrap_err();
    assert!(blocks.failure().is_some(), "the first failure is final");
}

/// Blocks of checksums are between the groups, also in the middle of a long read or write.
#[test]
fn a_write_across_groups_is_split() {
    let disk = Disk::new();
    let blocks = create(&disk);
    blocks.set_len((3 * GROUP + 5) * SIZE).unwrap();
    let data: Vec<u8> = (0..(2 * GROUP + 4) * SIZE).map(|at| (at / 777 % 251) as u8).collect();
    blocks.write((GROUP - 1) * SIZE, &data).unwrap();
    blocks.sync().unwrap();
    drop(blocks);
    let blocks = open(&disk).unwrap();
    assert_eq!(read(&blocks, (GROUP - 1) * SIZE, data.len()).unwrap(), data);
    assert_eq!(read(&blocks, (GROUP + 1) * SIZE, BLOCK).unwrap(), data[2 * BLOCK..3 * BLOCK]);
}

/// Against a flat buffer: any writes, lengths, syncs and restarts, with sums for one or two groups in memory.
#[test]
fn any_history_reads_like_a_flat_file() {
    for seed in 0..8 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let disk = Disk::new();
        let mut blocks = create(&disk);
        let mut flat: Vec<u8> = Vec::new();
        for _ in 0..150 {
            blocks.inner().sums.limit(rng.usize(1..3));
            let total = flat.len() / BLOCK;
            match rng.u8(..10) {
                0 | 1 => {
                    let len = rng.usize(1..5 * usize::try_from(GROUP).unwrap() / 2);
                    blocks.set_len((len * BLOCK) as u64).unwrap();
                    flat.resize(len * BLOCK, 0);
                }
                2 => blocks.sync().unwrap(),
                3 => {
                    blocks.sync().unwrap();
                    drop(blocks);
                    if rng.bool() {
                        disk.crash(&mut rng)
                    } else {
                        disk.kill()
                    }
                    blocks = open(&disk).unwrap();
                }
                4..7 if total > 1 => {
                    let first = rng.usize(1..total);
                    let count = rng.usize(1..=(total - first).min(700));
                    let data = vec![rng.u8(..3); count * BLOCK];
                    blocks.write((first * BLOCK) as u64, &data).unwrap();
                    flat[first * BLOCK..][..data.len()].copy_from_slice(&data);
                }
                _ if total > 1 => {
                    let first = rng.usize(1..total);
                    let count = rng.usize(1..=(total - first).min(700));
                    let found = read(&blocks, (first * BLOCK) as u64, count * BLOCK).unwrap();
                    assert!(found == flat[first * BLOCK..(first + count) * BLOCK], "seed {seed}");
                }
                _ => {}
            }
            assert_eq!(blocks.len(), flat.len() as u64);
        }
    }
}

/// The growth of the file and the head that records it are two changes: a power cut may keep either.
#[test]
fn a_power_cut_while_the_length_changes_leaves_the_old_or_the_new_length() {
    for (from, to) in [(3, 900), (900, 3), (0, 5), (600, 601)] {
        let disk = Disk::new();
        let blocks = create(&disk);
        blocks.set_len(from * SIZE).unwrap();
        blocks.sync().unwrap();
        drop(blocks);
        let change = |disk: &Disk| -> io::Result<()> {
            let blocks = open(disk).map_err(io::Error::other)?;
            blocks.set_len(to * SIZE)?;
            blocks.sync()
        };
        let whole = disk.fork();
        let before = whole.counters().operations;
        change(&whole).unwrap();
        for at in 1..=whole.counters().operations - before {
            for seed in 0..20 {
                let disk = disk.fork();
                disk.fail_after(at);
                change(&disk).unwrap_err();
                disk.crash(&mut fastrand::Rng::with_seed(seed));
                let len = open(&disk).unwrap().len() / SIZE;
                assert!(len == from || len == to, "{from} to {to}, operation {at}: {len}");
            }
        }
    }
}

#[test]
fn an_abandoned_file_is_not_written() {
    let disk = Disk::new();
    let blocks = create(&disk);
    blocks.set_len(4 * SIZE).unwrap();
    blocks.sync().unwrap();
    let image = disk.contents("f");
    blocks.abandon();
    blocks.write(SIZE, &[1; BLOCK]).unwrap_err();
    blocks.write(0, &[1]).unwrap_err();
    blocks.set_len(SIZE).unwrap_err();
    blocks.sync().unwrap_err();
    assert_eq!(disk.contents("f"), image);
    assert_eq!(read(&blocks, SIZE, BLOCK).unwrap(), [0; BLOCK]);
}

/// A file of which this many reads return wrong data.
#[derive(Debug)]
struct Flaky(Arc<dyn File>, AtomicU64);

impl File for Flaky {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_at(buffer, offset)?;
        let wrong = |left: u64| left.checked_sub(1);
        if offset >= file_len(0) && self.1.fetch_update(Ordering::SeqCst, Ordering::SeqCst, wrong).is_ok() {
            buffer[17] ^= 1;
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

/// Rule T9: a block or checksum that is read wrongly once is not damaged. One that is read wrongly each time is.
#[test]
fn t9_a_bad_block_is_read_again_before_it_counts_as_damaged() {
    let disk = Disk::new();
    let blocks = create(&disk);
    blocks.set_len(4 * SIZE).unwrap();
    blocks.write(2 * SIZE, &[7; BLOCK]).unwrap();
    blocks.sync().unwrap();
    drop(blocks);
    for (times, good) in [(1, true), (2, true), (9, false)] {
        let file = Arc::new(Flaky(disk.open("f").unwrap(), times.into()));
        let blocks = Blocks::open(file, Arc::default()).unwrap();
        assert_eq!(read(&blocks, 2 * SIZE, BLOCK).is_ok_and(|block| block == [7; BLOCK]), good, "{times}");
        assert_eq!(blocks.failure().is_none(), good);
    }
}
