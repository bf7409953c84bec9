//! What a journal must hold, as a list in memory.

use super::*;

/// The state that a sequence of writes leads to.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Model {
    pub(super) formation: FormationStep,
    pub(super) view: View,
    pub(super) log_view: View,
    pub(super) damaged: bool,
    /// From op 1.
    pub(super) log: Vec<Entry>,
    pub(super) checkpoint: Anchor,
    pub(super) incarnation: Incarnation,
    pub(super) trim: Op,
}

impl Model {
    pub(super) fn new() -> Self {
        Self {
            formation: FormationStep::Empty,
            view: View::ZERO,
            log_view: View::ZERO,
            damaged: false,
            log: Vec::new(),
            checkpoint: Anchor::ZERO,
            incarnation: Incarnation::ZERO,
            trim: Op::ZERO,
        }
    }

    pub(super) fn anchor(&self, op: Op) -> Anchor {
        match op.get() {
            0 => Anchor::ZERO,
            op => self.log[usize::try_from(op).unwrap() - 1].header.anchor(),
        }
    }

    pub(super) fn head(&self) -> Op {
        Op::new(self.log.len() as u64)
    }

    /// Every state that a crash in the middle of these writes may leave, the last with all of them done.
    pub(super) fn states(&self, writes: &[Write]) -> Vec<Self> {
        let mut states = vec![self.clone()];
        let mut now = self.clone();
        for write in writes {
            match write {
                Write::Formation(step) => {
                    // Formatting is a step of its own.
                    if now.formation == FormationStep::Empty {
                        now.formation = FormationStep::Formatted;
                        states.push(now.clone());
                    }
                    now.formation = now.formation.max(*step);
                }
                Write::Append(entries) => {
                    for entry in entries {
                        now.log.push(entry.clone());
                        states.push(now.clone());
                    }
                }
                Write::View(record) => {
                    (now.view, now.log_view, now.damaged) = (record.view, record.log_view, record.damaged);
                    if let Some(cut) = record.cut {
                        now.log.truncate(usize::try_from(cut.after.op.get()).unwrap());
                        now.incarnation = cut.incarnation;
                    }
                }
                Write::Checkpoint(checkpoint) => now.checkpoint = now.checkpoint.max(*checkpoint),
                Write::Rebase(_) | Write::Enter(_) | Write::Retire => unreachable!("not asked for here"),
                Write::Repair(entry) => assert!(now.log.contains(entry)),
                Write::Trim(op) => now.trim = now.trim.max(*op),
            }
            states.push(now.clone());
        }
        states
    }

    /// Whether this is what recovery has found. `damaged`: the head may be missing, if recovery reports damage.
    pub(super) fn explains(&self, recovered: &Recovered) -> bool {
        let found = usize::try_from(recovered.floor.op.get()).unwrap() + recovered.entries.len();
        let complete = found == self.log.len() && recovered.is_damaged() == self.damaged;
        (complete || (recovered.is_damaged() && found <= self.log.len()))
            && self.formation == recovered.formation
            && (self.view, self.log_view) == (recovered.view, recovered.log_view)
            && self.checkpoint == recovered.checkpoint
            && self.incarnation <= recovered.incarnation
            && (recovered.floor.op <= self.trim.min(self.checkpoint.op)
                || recovered.floor.op <= self.checkpoint.op)
            && recovered.floor == self.anchor(recovered.floor.op)
            && self.explains_entries(recovered)
    }

    fn explains_entries(&self, recovered: &Recovered) -> bool {
        let floor = usize::try_from(recovered.floor.op.get()).unwrap();
        let next_revision = match floor.checked_sub(1) {
            Some(last) => self.log[last].header.next_revision(),
            None => Revision::new(1),
        };
        let wanted = self.log[floor..].iter().map(|entry| crate::message::EntryMeta::of(&entry.header));
        next_revision == recovered.floor_next_revision
            && wanted.zip(&recovered.entries).all(|(wanted, found)| wanted == *found)
    }

    /// Every entry that recovery has reported can be read, and nothing above the head.
    pub(super) fn check_reads(&self, reader: &LogReader, recovered: &Recovered) {
        let head = recovered.floor.op.advance(recovered.entries.len() as u64);
        for entry in &self.log {
            let op = entry.header.op;
            if op > recovered.floor.op && op <= head {
                assert_eq!(reader.read(op).unwrap().as_ref(), Some(entry), "op {op}");
            } else if let Ok(Some(read)) = reader.read(op) {
                let behind =
                    recovered.damage.as_ref().is_some_and(|damage| damage.past_gap.contains_key(&op));
                assert!((op <= head || behind) && read == *entry, "op {op}");
            }
        }
        assert!(reader.read(head.next()).unwrap().is_none());
    }
}

/// Draws writes that a replica could ask for.
pub(super) struct Writer {
    pub(super) rng: fastrand::Rng,
    /// So that no two entries are equal by accident.
    serial: u8,
}

impl Writer {
    pub(super) fn new(seed: u64) -> Self {
        Self { rng: fastrand::Rng::with_seed(seed), serial: 0 }
    }

    pub(super) fn batch(&mut self, model: &Model) -> Vec<Write> {
        let mut writes = Vec::new();
        let mut now = model.clone();
        for _ in 0..self.rng.usize(1..5) {
            let write = self.write(&now);
            now = now.states(std::slice::from_ref(&write)).pop().unwrap();
            writes.push(write);
        }
        writes
    }

    fn write(&mut self, model: &Model) -> Write {
        let below = |rng: &mut fastrand::Rng, from: Op| Op::new(rng.u64(from.get()..=model.head().get()));
        match self.rng.u8(..20) {
            0..=11 => {
                let mut entries: Vec<Entry> = Vec::new();
                for _ in 0..self.rng.usize(1..4) {
                    let bytes = match self.rng.u8(..8) {
                        0 => self.rng.usize(7000..22_000),
                        1 => self.rng.usize(3600..3900),
                        // Larger than segments are.
                        2 if self.rng.bool() => self.rng.usize(30_000..60_000),
                        _ => self.rng.usize(0..300),
                    };
                    self.serial = self.serial.wrapping_add(1);
                    entries.push(entry_after(entries.last().or(model.log.last()), self.serial, bytes));
                }
                Write::Append(entries)
            }
            12..=15 => {
                let view = View::new(model.view.get() + self.rng.u64(0..2));
                let log_view = if self.rng.bool() { view } else { model.log_view };
                let cut = self.rng.bool().then(|| Cut {
                    after: model.anchor(below(&mut self.rng, model.checkpoint.op)),
                    incarnation: model.incarnation.advance(self.rng.u64(1..3)),
                });
                Write::View(ViewRecord { view, log_view, cut, damaged: false })
            }
            16..=17 => Write::Checkpoint(model.anchor(below(&mut self.rng, model.checkpoint.op))),
            _ => Write::Trim(below(&mut self.rng, Op::ZERO)),
        }
    }
}
