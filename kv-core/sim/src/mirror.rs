//! What a member's disk must hold: derived from the requested writes and those reported durable, without reading the
//! journal. Acknowledgements are checked against it, and so is what a journal recovers.

use super::report::Finding;
use kv_core::ids::{Anchor, Hash, Op, View};
use kv_core::message::{Entry, EntryPastGap, FormationStep, LogSummary, Recovered, Slot, Write};
use std::collections::{BTreeMap, VecDeque};

/// The durable state of one member, as it follows from the writes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Image {
    /// The step of formation.
    pub(super) formation: FormationStep,
    /// The view.
    pub(super) view: View,
    /// The log view.
    pub(super) log_view: View,
    /// The log lacks entries that may have been acknowledged.
    damaged: bool,
    /// The hashes of ops 1, 2, ...
    log: Vec<Hash>,
    /// What recovery found behind the damage: hash and parent. An entry becomes part of the log as soon as it follows
    /// the head.
    behind: BTreeMap<Op, (Hash, Hash)>,
}

/// One durable step: entries one by one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum DiskStep {
    Formation(FormationStep),
    Append(Op, Hash),
    /// If the point is in a later epoch, the member is in this view of it from now on.
    Rebase(Anchor, Option<View>),
    View {
        view: View,
        log_view: View,
        cut: Option<Anchor>,
        damaged: bool,
    },
}

/// A member's disk: what is durable, and what is being written.
#[derive(Debug)]
pub(super) struct Mirror {
    durable: Image,
    /// What will be durable when all writes are.
    planned: Image,
    under_way: VecDeque<DiskStep>,
}

impl Image {
    /// Returns whether entries may be missing that were durable.
    pub(super) const fn is_damaged(&self) -> bool {
        self.damaged
    }

    fn empty() -> Self {
        Self {
            formation: FormationStep::Empty,
            view: View::ZERO,
            log_view: View::ZERO,
            damaged: false,
            log: Vec::new(),
            behind: BTreeMap::new(),
        }
    }

    /// The last op.
    pub(super) fn head(&self) -> Op {
        Op::new(self.log.len() as u64)
    }

    /// The hash at `op`; zero below the first op.
    pub(super) fn hash(&self, op: Op) -> Option<Hash> {
        match op.get() {
            0 => Some(Hash::ZERO),
            op => self.log.get(usize::try_from(op - 1).ok()?).copied(),
        }
    }

    /// Whether the op is below the point of a state that was fetched.
    pub(super) fn is_in_state(&self, op: Op) -> bool {
        op > Op::ZERO && self.hash(op) == Some(Hash::ZERO)
    }

    fn holds(&self, anchor: Anchor) -> bool {
        self.hash(anchor.op) == Some(anchor.hash)
    }

    fn apply(&mut self, step: DiskStep) -> Result<(), Finding> {
        match step {
            DiskStep::Formation(step) => self.formation = step,
            DiskStep::Append(op, hash) => {
                if op != self.head().next() {
                    return Err(("entries are appended in order", format!("{op:?} after {:?}", self.head())));
                }
                self.log.push(hash);
                self.link_past_gap();
            }
            DiskStep::Rebase(point, adopted) => {
                if let Some(view) = adopted {
                    if view <= self.view {
                        let found = format!("{:?} became {view:?}", self.view);
                        return Err(("view and log_view never go back", found));
                    }
                    (self.view, self.damaged) = (view, false);
                    self.behind.clear();
                    if self.holds(point) {
                        self.log.truncate(usize::try_from(point.op.get()).unwrap_or(usize::MAX));
                    }
                }
                if !self.holds(point) {
                    // The state contains what is below.
                    let below = usize::try_from(point.op.previous().get()).unwrap_or(usize::MAX);
                    self.log = vec![Hash::ZERO; below];
                    self.log.push(point.hash);
                }
                self.link_past_gap();
            }
            DiskStep::View { view, log_view, cut, damaged } => {
                if view < self.view || log_view < self.log_view || log_view > view {
                    let found = format!("{:?}/{:?} became {view:?}/{log_view:?}", self.view, self.log_view);
                    return Err(("view and log_view never go back", found));
                }
                (self.view, self.log_view, self.damaged) = (view, log_view, damaged);
                if let Some(after) = cut {
                    self.behind.clear();
                    if !self.holds(after) {
                        let found = format!("after {after:?}, but {:?} stands there", self.hash(after.op));
                        return Err(("a cut names an entry of the log", found));
                    }
                    self.log.truncate(usize::try_from(after.op.get()).unwrap_or(usize::MAX));
                }
            }
        }
        Ok(())
    }
}

impl Image {
    /// Intact entries behind the damage become part of the log as soon as they follow it.
    fn link_past_gap(&mut self) {
        while let Some((hash, parent)) = self.behind.remove(&self.head().next()) {
            if self.log.last() != Some(&parent) {
                break;
            }
            self.log.push(hash);
        }
    }
}

impl Mirror {
    /// An empty disk.
    pub(super) fn new() -> Self {
        Self { durable: Image::empty(), planned: Image::empty(), under_way: VecDeque::new() }
    }

    /// What is durable.
    pub(super) const fn durable(&self) -> &Image {
        &self.durable
    }

    /// A write was requested. Returns the ops (and their hashes) that it removes from the log.
    ///
    /// # Errors
    /// If it does not fit the earlier requests.
    pub(super) fn ask(&mut self, write: &Write) -> Result<Vec<Anchor>, Finding> {
        let mut removed = Vec::new();
        for step in steps(write) {
            let above = match step {
                DiskStep::View { cut: Some(after), .. } => Some(after),
                DiskStep::Rebase(point, Some(_)) => Some(point),
                DiskStep::Rebase(point, None) if !self.planned.holds(point) => Some(point),
                _ => None,
            };
            if let Some(after) = above {
                let above =
                    self.planned.log.iter().enumerate().skip(usize::try_from(after.op.get()).unwrap_or(0));
                removed.extend(above.map(|(index, hash)| Anchor::new(Op::new(index as u64 + 1), *hash)));
            }
            self.planned.apply(step)?;
            self.under_way.push_back(step);
        }
        if let Write::Append(entries) = write {
            self.check_chain(entries)?;
        }
        Ok(removed)
    }

    fn check_chain(&self, entries: &[Entry]) -> Result<(), Finding> {
        for entry in entries {
            let parent = self.planned.hash(entry.header.op.previous());
            if parent != Some(entry.header.parent) {
                let found =
                    format!("{:?} has the parent {:?}, not {parent:?}", entry.header.op, entry.header.parent);
                return Err(("a log is a chain", found));
            }
        }
        Ok(())
    }

    /// The journal has executed the next write.
    ///
    /// # Errors
    /// If it was not the next.
    pub(super) fn done(&mut self, write: &Write) -> Result<(), Finding> {
        for step in steps(write) {
            if self.under_way.pop_front() != Some(step) {
                return Err(("writes are carried out in order", format!("{step:?}")));
            }
            self.durable.apply(step)?;
        }
        Ok(())
    }

    /// The member opened a directory whose state is ahead of its log, and rebased the log.
    ///
    /// # Errors
    /// If its view goes back.
    pub(super) fn rebased(&mut self, point: Anchor, adopted: Option<View>) -> Result<(), Finding> {
        self.durable.apply(DiskStep::Rebase(point, adopted))?;
        self.planned.apply(DiskStep::Rebase(point, adopted))
    }

    /// The member was started on a directory that was formatted in this view, as that of a standby.
    pub(super) fn joined(&mut self, formation: FormationStep, view: View) {
        self.durable = Image { formation, view, ..Image::empty() };
        (self.planned, self.under_way) = (self.durable.clone(), VecDeque::new());
    }

    /// Whether the entry is in the log, or is being appended.
    pub(super) fn has(&self, anchor: Anchor) -> bool {
        self.durable.holds(anchor) || self.planned.holds(anchor)
    }

    /// Whether the log through `log` is durable, and is the log of `view`.
    pub(super) fn acknowledges(&self, view: View, log: Anchor) -> bool {
        self.durable.log_view == view && self.durable.holds(log)
    }

    /// Whether a `DoViewChange` for `view` reports only what is durable.
    pub(super) fn supports(&self, view: View, log: &LogSummary) -> bool {
        let slots = log.suffix.iter().enumerate().all(|(index, slot)| {
            let op = log.commit.op.advance(index as u64 + 1);
            match slot {
                Slot::Present(hash) => {
                    let behind = self.durable.behind.get(&op).map(|(hash, _)| *hash);
                    self.durable.hash(op).or(behind) == Some(*hash)
                }
                Slot::Faulty(_) => true,
            }
        });
        self.durable.view >= view && self.durable.log_view >= log.log_view && slots
    }

    /// The member was restarted and its journal recovered this: it must be everything that was durable, and some first
    /// part of what was being written. If bits were flipped meanwhile, the end of the log may be missing, if that is
    /// reported. Returns whether something is lost.
    ///
    /// # Errors
    /// If it is not.
    pub(super) fn recover(&mut self, recovered: &Recovered, flipped: bool) -> Result<bool, Finding> {
        let mut image = self.durable.clone();
        let under_way = std::mem::take(&mut self.under_way);
        let mut steps = under_way.iter();
        loop {
            if image.fits(recovered) && (image.damaged == recovered.is_damaged() || flipped) {
                break;
            }
            if flipped && recovered.is_damaged() && image.is_cut_short_in(recovered) {
                break;
            }
            let Some(step) = steps.next() else {
                let found = format!(
                    "recovered {:?} {:?}/{:?} floor {:?} head {:?} damaged {}; durable was {:?} {:?}/{:?} head {:?}; under way {under_way:?}",
                    recovered.formation,
                    recovered.view,
                    recovered.log_view,
                    recovered.floor,
                    recovered.floor.op.advance(recovered.entries.len() as u64),
                    recovered.is_damaged(),
                    self.durable.formation,
                    self.durable.view,
                    self.durable.log_view,
                    self.durable.head(),
                );
                return Err(("recovery finds what was durable", found));
            };
            image.apply(*step)?;
        }
        let head = recovered.floor.op.advance(recovered.entries.len() as u64);
        let lost = steps.next().is_some() || head < image.head();
        image.log.truncate(usize::try_from(head.get()).unwrap_or(usize::MAX));
        image.damaged = recovered.is_damaged();
        let behind = recovered.damage.iter().flat_map(|damage| &damage.past_gap);
        image.behind = behind
            .filter_map(|(op, behind)| match behind {
                EntryPastGap::Intact { meta, parent } => Some((*op, (meta.hash, *parent))),
                EntryPastGap::Pinned(_) => None,
            })
            .collect();
        self.durable = image.clone();
        self.planned = image;
        Ok(lost)
    }
}

impl Image {
    /// Whether a journal with this image recovers like this.
    fn fits(&self, recovered: &Recovered) -> bool {
        self.head() == recovered.floor.op.advance(recovered.entries.len() as u64)
            && self.is_cut_short_in(recovered)
    }

    /// Whether it recovers like this if some of its last entries are missing.
    fn is_cut_short_in(&self, recovered: &Recovered) -> bool {
        let floor = recovered.floor;
        let mut log = self.log.iter().skip(usize::try_from(floor.op.get()).unwrap_or(usize::MAX));
        self.formation == recovered.formation
            && (self.view, self.log_view) == (recovered.view, recovered.log_view)
            && self.holds(floor)
            && recovered.entries.iter().all(|entry| log.next() == Some(&entry.hash))
    }
}

fn steps(write: &Write) -> Vec<DiskStep> {
    match write {
        Write::Formation(step) => vec![DiskStep::Formation(*step)],
        Write::Append(entries) => {
            entries.iter().map(|entry| DiskStep::Append(entry.header.op, entry.header.hash())).collect()
        }
        Write::View(record) => vec![DiskStep::View {
            view: record.view,
            log_view: record.log_view,
            cut: record.cut.map(|cut| cut.after),
            damaged: record.damaged,
        }],
        Write::Rebase(rebase) => {
            vec![DiskStep::Rebase(rebase.point.anchor, rebase.adopted.as_ref().map(|adopted| adopted.view))]
        }
        Write::Enter(record) => vec![DiskStep::View {
            view: record.configuration.first,
            log_view: record.configuration.first,
            cut: Some(record.cut.after),
            damaged: false,
        }],
        Write::Repair(_) | Write::Checkpoint(_) | Write::Trim(_) | Write::Retire => Vec::new(),
    }
}
