//! Bits flip in the files of one member at a time: repaired, or refused by name, and never a wrong answer.

use crate::bench::{Bench, FLAGS, Row, judge};
use crate::harness::{Cluster, LIMIT, contents, level};
use crate::ledger::{Ledger, LedgerReport};
use kv_core::Client;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

/// How many bits flip at once.
const AT_ONCE: usize = 10;
/// How the names of the files begin that are damaged by turns.
const ZONES: [&str; 3] = ["superblock", "journal", "state"];
const SUPERBLOCK_COPIES: usize = 4;

/// What became of a damaged member.
#[derive(Default)]
struct Tally {
    flipped: usize,
    went_on: u32,
    /// It did not start, and reported why.
    refused: u32,
    /// It stopped later, and reported why.
    stopped: u32,
    /// What it reported, without numbers, and how often.
    reasons: BTreeMap<String, u32>,
}

impl Tally {
    fn note(&mut self, reason: &str) {
        // The path in front is another each time.
        let reason = reason.rsplit_once("/data-").map_or(reason, |(_, reason)| reason);
        let reason = reason.chars().filter(|letter| !letter.is_ascii_digit()).collect();
        *self.reasons.entry(reason).or_default() += 1;
    }
}

/// F-disk-4, F-disk-5: in every file of one member's folder. Then another member is stopped, so that nothing happens
/// without the damaged one.
pub(crate) async fn flip(rounds: u32) -> Row {
    let mut flags = FLAGS.to_vec();
    flags.extend(["--checkpoint-bytes", "64KiB"]);
    let bench = Bench::on(Cluster::start(&["data", "data", "data"], &flags)).await;
    for _ in 0..9 {
        bench.progress().await;
    }
    let (mut cluster, client, ledgers) = bench.stop().await;
    let mut random = fastrand::Rng::with_seed(11);
    let mut tally = Tally::default();
    let mut verdict = judge(&client, &ledgers).await;
    for round in 0..rounds as usize {
        let (zone, damaged) = (ZONES[round % ZONES.len()], round / ZONES.len() % 3);
        let other = (damaged + 1 + random.usize(0..2)) % 3;
        level(&client, &[0, 1, 2]).await;
        cluster.kill(damaged);
        let flips = Flips::of(&cluster.data(damaged), zone, &mut random);
        tally.flipped += flips.0.len();
        match cluster.try_restart(damaged) {
            Err(reason) => {
                assert!(reason.starts_with("kv: "), "refused by name, not {reason:?} ({flips:?})");
                tally.refused += 1;
                tally.note(&reason);
                flips.undo();
                cluster.restart(damaged);
            }
            Ok(()) => {
                let judged = needed(&mut cluster, &client, &ledgers, damaged, other).await;
                match judged {
                    Ok(judged) => {
                        tally.went_on += 1;
                        verdict = judged;
                        assert!(verdict.is_good(), "{verdict:#?} ({flips:?})");
                    }
                    Err(reason) => {
                        assert!(reason.contains("stopped: "), "{reason:?} ({flips:?})");
                        tally.stopped += 1;
                        tally.note(&reason);
                    }
                }
                // What nobody has read is still there, and would be a second damaged member in a later round.
                cluster.kill(damaged);
                flips.undo();
                cluster.restart(damaged);
            }
        }
    }
    level(&client, &[0, 1, 2]).await;
    let Tally { flipped, went_on, refused, stopped, reasons } = tally;
    for (reason, times) in reasons {
        println!("{times} times: {reason}");
    }
    let remark = format!(
        "{flipped} bits, {AT_ONCE} at once: {went_on} times it went on, {refused} refused, {stopped} stopped, by name"
    );
    Row { rounds, verdict, remark, ..Row::default() }
}

/// Lets the damaged member repair itself, and then reads everything without `other`, so that it is needed. If the
/// damaged member stops instead, returns its last message.
async fn needed(
    cluster: &mut Cluster,
    client: &Client,
    ledgers: &[Ledger],
    damaged: usize,
    other: usize,
) -> Result<LedgerReport, String> {
    tokio::select! {
        () = level(client, &[0, 1, 2]) => {}
        words = ended(cluster, damaged) => return Err(words),
    }
    cluster.kill(other);
    let judged = tokio::select! {
        judged = timeout(LIMIT, judge(client, ledgers)) => Ok(judged.expect("it can be read back")),
        words = ended(cluster, damaged) => Err(words),
    };
    cluster.restart(other);
    judged
}

/// F-disk-6: all members are stopped, and in each the journal is damaged at another place. Every entry is left on two
/// of them, so that together they have everything.
pub(crate) async fn everywhere(rounds: u32) -> Row {
    let mut bench = Bench::of_three().await;
    let mut random = fastrand::Rng::with_seed(13);
    for _ in 0..rounds {
        bench.progress().await;
        bench.level().await;
        (0..3).for_each(|id| bench.cluster.kill(id));
        for id in 0..3 {
            let _ = Flips::of_share(&bench.cluster.data(id), id, 3, &mut random);
        }
        (0..3).for_each(|id| bench.cluster.restart(id));
        bench.progress().await;
        bench.level().await;
        bench.passed();
    }
    bench.end(format!("{AT_ONCE} bits in each journal, at different places")).await
}

async fn ended(cluster: &mut Cluster, id: usize) -> String {
    loop {
        if let Some(words) = cluster.has_ended(id) {
            return words;
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Bits that were flipped, with what each byte was and has become.
#[derive(Debug)]
struct Flips(Vec<Flip>);

#[derive(Clone, Debug)]
struct Flip {
    path: PathBuf,
    /// Another file may have taken its place since.
    inode: u64,
    offset: u64,
    was: u8,
    is: u8,
}

impl Flip {
    fn new(path: PathBuf, offset: u64, was: u8, is: u8) -> Self {
        set(&path, offset, is);
        let inode = std::fs::metadata(&path).unwrap().ino();
        Self { path, inode, offset, was, is }
    }

    fn undo(&self) {
        let mut byte = [0];
        let Ok(file) = OpenOptions::new().read(true).open(&self.path) else { return };
        let is_same = file.metadata().is_ok_and(|found| found.ino() == self.inode);
        if is_same && file.read_exact_at(&mut byte, self.offset).is_ok() && byte[0] == self.is {
            set(&self.path, self.offset, self.was);
        }
    }
}

impl Flips {
    /// Flips bits in the used parts of the files whose names begin so; in the superblock only in one copy, because
    /// without a quorum of copies the disk is lost.
    fn of(folder: &Path, zone: &str, random: &mut fastrand::Rng) -> Self {
        let in_zone =
            |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(zone));
        let files: Vec<_> =
            contents(folder).into_iter().filter(|(path, bytes)| in_zone(path) && !bytes.is_empty()).collect();
        let copy = random.usize(..SUPERBLOCK_COPIES);
        let mut flips: Vec<Flip> = Vec::new();
        let start = Instant::now();
        while flips.len() < AT_ONCE {
            assert!(start.elapsed() < LIMIT, "there is something to damage in {folder:?}");
            let (path, bytes) = &files[random.usize(..files.len())];
            let share = bytes.len() / SUPERBLOCK_COPIES;
            let offset = if zone == "superblock" {
                copy * share + random.usize(..share)
            } else {
                random.usize(..bytes.len())
            };
            let was = bytes[offset];
            // Empty space is most of it, and nobody minds it.
            if was == 0 || flips.iter().any(|flip| flip.path == *path && flip.offset == offset as u64) {
                continue;
            }
            let is = was ^ (1 << random.u8(..8));
            flips.push(Flip::new(path.clone(), offset as u64, was, is));
        }
        Self(flips)
    }

    /// Flips bits in one of `shares` equal parts of the journal's contents.
    fn of_share(folder: &Path, share: usize, shares: usize, random: &mut fastrand::Rng) -> Self {
        let mut places = Vec::new();
        for (path, bytes) in contents(folder) {
            let journal = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("journal"));
            let held = bytes.iter().enumerate().filter(|(_, byte)| journal && **byte != 0);
            places.extend(held.map(|(offset, byte)| (path.clone(), offset as u64, *byte)));
        }
        let part = places.len() / shares;
        let flip = |_| {
            let (path, offset, was) = places[share * part + random.usize(..part)].clone();
            let is = was ^ (1 << random.u8(..8));
            Flip::new(path, offset, was, is)
        };
        Self((0..AT_ONCE).map(flip).collect())
    }

    /// Flips them back, except where the member has written since.
    fn undo(&self) {
        self.0.iter().for_each(Flip::undo);
    }
}

fn set(path: &Path, offset: u64, byte: u8) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&[byte], offset).unwrap();
    file.sync_all().unwrap();
}
