//! Power cuts and killed processes: all acknowledged entries survive, and no void entry returns.

use super::model::{Model, Writer};
use super::*;
use crate::storage::simulated::Tearing;

/// A disk with a journal that may die at any operation, and what it must hold.
struct World {
    disk: Disk,
    journal: Option<Journal>,
    model: Model,
    writer: Writer,
}

impl World {
    fn new(seed: u64) -> Self {
        let disk = Disk::new();
        disk.set_tearing(if seed.is_multiple_of(2) { Tearing::Sector } else { Tearing::Block });
        let journal = Some(open(&disk).unwrap().0);
        Self { disk, journal, model: Model::new(), writer: Writer::new(seed) }
    }

    /// Carries the writes out, or dies on the way.
    fn execute(&mut self, writes: &[Write]) {
        let states = self.model.states(writes);
        if self.writer.rng.u8(..3) == 0 {
            self.disk.fail_after(self.writer.rng.u64(1..20));
        }
        let journal = self.journal.as_mut().unwrap();
        if self.writer.rng.bool() {
            writes.iter().for_each(|write| journal.reader().stage(write));
        }
        let done = journal.execute(writes);
        if done.is_ok() {
            self.model = states.last().unwrap().clone();
            if self.writer.rng.u8(..8) == 0 {
                self.restart(std::slice::from_ref(&self.model.clone()));
            }
        } else {
            assert!(matches!(journal.execute(&[]), Ok(()) | Err(JournalWriteError::Stopped)));
            self.restart(&states);
        }
    }

    fn die(&mut self) {
        match self.writer.rng.u8(..4) {
            0 => self.disk.kill(),
            1 => self.disk.crash_losing_all(),
            _ => self.disk.crash(&mut self.writer.rng),
        }
    }

    /// Opens it, perhaps with segments of another size than before.
    fn open(&mut self) -> Result<(Journal, Recovered), OpenError> {
        let blocks = [4, 8, 8, 8, 20][self.writer.rng.usize(..5)];
        let options = JournalOptions { segment_bytes: blocks * 4096, ..options() };
        Journal::open(self.disk.storage(), identity(), options)
    }

    /// Dies and opens again, dying up to twice more while opening. What is found must be one of `states`.
    fn restart(&mut self, states: &[Model]) {
        self.journal = None;
        self.die();
        for _ in 0..self.writer.rng.u8(..3) {
            self.disk.fail_after(self.writer.rng.u64(1..40));
            if self.open().is_ok() {
                break;
            }
            self.die();
        }
        self.disk.kill();
        let (journal, recovered) = self.open().unwrap();
        let explained = states.iter().rev().find(|state| state.explains(&recovered));
        let Some(state) = explained else {
            panic!("nothing explains {recovered:#?}\nknown:\n{:#?}\n{:#?}", states.first(), states.last())
        };
        assert!(!recovered.is_damaged(), "taken for damaged: {}", why(&journal));
        state.check_reads(&journal.reader(), &recovered);
        self.model = Model { incarnation: recovered.incarnation, trim: Op::ZERO, ..state.clone() };
        // Trims are not remembered, and the floor may be anywhere below the last of them.
        self.model.trim = self.model.trim.max(recovered.floor.op);
        self.journal = Some(journal);
    }
}

fn why(journal: &Journal) -> String {
    let JournalState::Formatted(store) = &journal.state else { return String::new() };
    let (superblock, segments) = (&store.superblock, &store.segments);
    format!("{superblock:#?}\n{segments:?}\n{:?}", store.orphans)
}

fn run(seed: u64, rounds: usize) {
    let mut world = World::new(seed);
    world.execute(&[Write::Formation(FormationStep::Formatted)]);
    world.execute(&[Write::Formation(FormationStep::Formed)]);
    for _ in 0..rounds {
        if world.model.formation == FormationStep::Formed {
            let writes = world.writer.batch(&world.model);
            world.execute(&writes);
        } else {
            world.execute(&[Write::Formation(FormationStep::Formed)]);
        }
    }
    let states = [world.model.clone()];
    world.restart(&states);
}

/// Rule D2.
#[test]
fn f_disk_1_acknowledged_writes_survive_power_cuts_at_any_operation_and_void_ones_do_not_return() {
    for seed in 0..seeds(300) {
        let run = std::panic::catch_unwind(|| run(seed, 12));
        assert!(run.is_ok(), "seed {seed}");
    }
}

/// Whatever size segments have here, an entry is stored, read, written once more, dropped, and there in the next life.
#[test]
fn d9_an_entry_larger_than_a_segment_gets_one_of_its_own() {
    let (disk, mut journal) = formed();
    let small = entries_after(None, 1, 100, 3);
    let large = entries_after(small.last(), 2, 200_000, 2);
    let rest = entries_after(large.last(), 3, 100, 3);
    let all = [small, large.clone(), rest].concat();
    let reader = journal.reader();
    journal.execute(&[Write::Append(all.clone())]).unwrap();
    journal.execute(&[Write::Repair(large[0].clone())]).unwrap();
    for entry in &all {
        assert_eq!(reader.read(entry.header.op).unwrap().as_ref(), Some(entry));
    }
    for blocks in [4, 8, 100] {
        drop(journal);
        disk.kill();
        let options = JournalOptions { segment_bytes: blocks * 4096, ..options() };
        let opened = Journal::open(disk.storage(), identity(), options).unwrap();
        assert_eq!(head(&opened.1), 8);
        journal = opened.0;
        let reader = journal.reader();
        for entry in &all {
            assert_eq!(reader.read(entry.header.op).unwrap().as_ref(), Some(entry), "{blocks} blocks");
        }
    }
    let end = all.last().unwrap().header.anchor();
    let more = entries_after(all.last(), 4, 4000, 200);
    let through = more.last().unwrap().header.anchor();
    journal.execute(&[Write::Checkpoint(end), Write::Append(more)]).unwrap();
    journal.execute(&[Write::Checkpoint(through), Write::Trim(through.op)]).unwrap();
    let sizes: Vec<_> = segments(&disk).iter().map(|name| disk.contents(name).unwrap().len()).collect();
    assert!(sizes.iter().all(|size| *size == 100 * 4096), "nothing of another size is kept: {sizes:?}");
}

/// Rule D5.
#[test]
fn f_disk_1_long_lives_with_recycled_segments() {
    for seed in 10_000..10_000 + seeds(300) / 25 {
        let run = std::panic::catch_unwind(|| run(seed, 150));
        assert!(run.is_ok(), "seed {seed}");
    }
}
