//! Damaged disks: journal files and superblocks that differ from what was written.

use super::dice::{CLUSTER, Dice, entry_after};
use kv_core::config::{FixedOptions, Options};
use kv_core::ids::{ClusterId, Hash, Incarnation, MemberId, View};
use kv_core::journal::{Identity, Journal, JournalOptions};
use kv_core::message::{Cut, Entry, FormationStep, Recovered, ViewRecord, Write};
use kv_core::storage::simulated::Disk;
use std::sync::OnceLock;

const SUPERBLOCK: &str = "superblock";
/// The view on the intact disk.
const VIEW: View = View::new(7);

fn open(disk: &Disk) -> Option<(Journal, Recovered)> {
    let identity = Identity {
        cluster: ClusterId::of_name(CLUSTER),
        cluster_name: CLUSTER.into(),
        fingerprint: Hash::ZERO,
        member: MemberId::new(1),
        options: FixedOptions::from(&Options::default()),
    };
    let options = JournalOptions { segment_bytes: 8 * 4096, cache_bytes: 0 };
    Journal::open(disk.storage(), identity, options).ok()
}

/// A disk with a journal of several segments, one cut in it, and the entries that belong there.
fn intact() -> &'static (Disk, Vec<Entry>) {
    static INTACT: OnceLock<(Disk, Vec<Entry>)> = OnceLock::new();
    INTACT.get_or_init(|| {
        let disk = Disk::new();
        let (mut journal, _) = open(&disk).expect("an empty disk opens");
        let mut execute = |writes: &[Write]| journal.execute(writes).expect("the disk is good");
        execute(&[FormationStep::Formatted, FormationStep::Formed].map(Write::Formation));
        let mut entries: Vec<Entry> = Vec::new();
        for n in 0..24u8 {
            entries.push(entry_after(entries.last(), u64::from(n / 8), vec![n; 40 * usize::from(n)]));
            execute(&[Write::Append(vec![entries[usize::from(n)].clone()])]);
            if n == 9 {
                let after = entries[7].header.anchor();
                let cut = Some(Cut { after, incarnation: Incarnation::new(1) });
                execute(&[Write::View(ViewRecord { view: VIEW, log_view: VIEW, cut, damaged: false })]);
                entries.truncate(8);
                entries.push(entry_after(entries.last(), VIEW.get(), vec![0xee; 5_000]));
                entries.push(entry_after(entries.last(), VIEW.get(), vec![0xdd; 10]));
                execute(&[Write::Append(entries[8..].to_vec())]);
            }
        }
        drop(journal);
        (disk, entries)
    })
}

/// Damages a file at random, as the input decides.
pub(crate) fn damage(disk: &Disk, name: &str, dice: &mut Dice<'_>) {
    let Some(mut bytes) = disk.contents(name) else { return };
    let len = bytes.len().max(1) as u64;
    let place = |dice: &mut Dice<'_>| {
        // Most of what matters begins a sector.
        let at =
            dice.below(len / 512 + 1) * 512 + if dice.chance() { dice.below(512) } else { dice.below(64) };
        usize::try_from(at).expect("a small file")
    };
    match dice.below(6) {
        0 => {
            let at = place(dice);
            let value = dice.byte();
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= value;
            }
        }
        1 => {
            let (at, count, value) = (place(dice), dice.below(1024), dice.byte());
            let end = (at + usize::try_from(count).expect("small")).min(bytes.len());
            if at < end {
                bytes[at..end].fill(value);
            }
        }
        2 => bytes.truncate(place(dice)),
        3 => {
            // A misdirected block, or an old one.
            let (from, to) = (place(dice) / 512 * 512, place(dice) / 512 * 512);
            let count = [512, 4096][usize::from(dice.chance())];
            if from.max(to) + count <= bytes.len() {
                bytes.copy_within(from..from + count, to);
            }
        }
        4 => {
            bytes.extend(std::iter::repeat_n(dice.byte(), usize::try_from(dice.below(5_000)).expect("small")))
        }
        _ => {
            let at = place(dice);
            for byte in bytes.iter_mut().skip(at).take(8) {
                *byte = dice.byte();
            }
        }
    }
    disk.put(name, bytes);
}

/// Damages some files of the journal and opens it: it is refused, or every entry that it returns is the one that was
/// written. Then the journal continues from there.
pub fn journal(data: &[u8]) {
    let mut dice = Dice(data);
    let (disk, entries) = intact();
    let disk = disk.fork();
    let names: Vec<String> = disk.names().into_iter().filter(|name| name != SUPERBLOCK).collect();
    while !dice.is_empty() {
        let at = usize::try_from(dice.below(names.len() as u64)).expect("few files");
        match dice.below(16) {
            0 => drop(disk.storage().remove(&names[at])),
            1 => drop(disk.storage().rename(&names[at], &names[(at + 1) % names.len()])),
            _ => damage(&disk, &names[at], &mut dice),
        }
    }
    let Some((mut journal, recovered)) = open(&disk) else { return };
    assert_eq!(recovered.view, VIEW, "the superblock is intact");
    let reader = journal.reader();
    for entry in entries {
        if let Ok(Some(read)) = reader.read(entry.header.op) {
            assert_eq!(&read, entry, "a wrong answer");
        }
    }
    let last = entries.iter().find(|entry| entry.header.op == recovered.head());
    if recovered.is_damaged() || (last.is_none() && recovered.head().get() > 0) {
        return;
    }
    let next = entry_after(last, VIEW.get(), b"after the damage".to_vec());
    if journal.execute(&[Write::Append(vec![next.clone()])]).is_ok() {
        drop(journal);
        disk.crash_losing_all();
        let (journal, recovered) = open(&disk).expect("what it has written itself opens");
        assert_eq!(recovered.head(), next.header.op);
        assert_eq!(journal.reader().read(next.header.op).ok().flatten(), Some(next));
    }
}

/// Damages the copies of the superblock: it is refused, or the view is the same, never an older one.
pub fn superblock(data: &[u8]) {
    let mut dice = Dice(data);
    let (disk, _) = intact();
    let disk = disk.fork();
    while !dice.is_empty() {
        damage(&disk, SUPERBLOCK, &mut dice);
    }
    if let Some((_, recovered)) = open(&disk) {
        assert_eq!((recovered.view, recovered.log_view), (VIEW, VIEW));
        assert_eq!(recovered.formation, FormationStep::Formed);
    }
}
