//! The damage atlas: what disks lose at rest, and the limits on that. Damage is first inflicted on a copy of the disk,
//! and the copy is opened. Only if every record that it costs can still be read elsewhere does the damaged disk replace
//! the disk. So nothing is ever lost everywhere, and whatever happens then, the cluster must lose nothing and recover.
//!
//! A state covers all entries up to its checkpoint, as long as its file is intact. A damaged file does not count, even
//! if the damage does not matter.

use super::member::Member;
use super::plan::pick;
use super::switch;
use super::world::World;
use kv_core::config::Role;
use kv_core::ids::{Hash, Op};
use kv_core::journal::{Journal, LogReader};
use kv_core::kv::{Limits, StateMachine};
use kv_core::message::{CheckpointAlignment, Extent, Recovered};
use kv_core::storage::simulated::Disk;
use std::collections::BTreeMap;

/// The manifest of the state, and the beginning of the names of all its files.
const STATE: &str = "state";
const SECTOR: u64 = 512;
const BLOCK: u64 = 4096;
const ZEROS: [u8; 4096] = [0; 4096];

/// A kind of damage to a file at rest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum DamageKind {
    /// A bit flips.
    Flip,
    /// A sector becomes unreadable.
    Unreadable,
    /// A reported write did not happen: a block or a sector has its first content again.
    Lost,
    /// A block was written to the wrong place.
    Misdirected,
    /// The end of the file is lost.
    Shortened,
    /// The file is lost.
    Gone,
}

/// Damage and where it is.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Injury {
    kind: DamageKind,
    file: String,
    at: u64,
    /// Where misdirected bytes come from, and which bit is flipped.
    other: u64,
    /// Affects a sector, not a block.
    small: bool,
}

impl Injury {
    fn inflict(&self, disk: &Disk) {
        let (file, at) = (&self.file, self.at);
        match self.kind {
            DamageKind::Flip => {
                disk.flip_bit(file, at, u8::try_from(self.other % 8).unwrap_or(0));
            }
            DamageKind::Unreadable => disk.make_unreadable(file, at / SECTOR * SECTOR, SECTOR),
            DamageKind::Lost => {
                let unit = if self.small { SECTOR } else { BLOCK };
                disk.overwrite(file, at / unit * unit, &ZEROS[..usize::try_from(unit).unwrap_or(0)]);
            }
            DamageKind::Misdirected => {
                let bytes = disk.contents(file).unwrap_or_default();
                let from = usize::try_from(self.other / BLOCK * BLOCK).unwrap_or(0);
                let block: Vec<u8> = bytes.into_iter().skip(from).take(ZEROS.len()).collect();
                disk.overwrite(file, at / BLOCK * BLOCK, &block);
            }
            DamageKind::Shortened => disk.shorten(file, at),
            DamageKind::Gone => disk.lose(file),
        }
    }
}

/// What can be read of the log from one disk.
#[derive(Debug)]
struct Copies {
    /// The readable entries.
    entries: BTreeMap<Op, Hash>,
    /// The state covers everything committed up to this op.
    through: Op,
}

impl World {
    /// Damages the disk of a member that is down, if the plan requires it.
    pub(super) fn damage_at_rest(&mut self, member: usize) {
        let Some(plan) = self.plan.damage else { return };
        let spared = plan.victim.is_some_and(|victim| victim != member);
        if spared || self.healed.is_some() || self.rng.u32(0..100) >= plan.chance {
            return;
        }
        let kinds = [
            DamageKind::Flip,
            DamageKind::Flip,
            DamageKind::Unreadable,
            DamageKind::Lost,
            DamageKind::Misdirected,
        ];
        let mut injuries = Vec::new();
        for _ in 0..self.rng.u32(1..4) {
            let kind =
                if self.rng.u32(0..20) == 0 { DamageKind::Shortened } else { *pick(&mut self.rng, &kinds) };
            injuries.extend(self.injury(member, kind));
        }
        if plan.states && self.rng.u32(0..8) == 0 {
            injuries.extend(self.injury(member, DamageKind::Gone));
        }
        self.injure(member, &injuries);
    }

    /// Damages the disk of a running member.
    pub(super) fn damage_under_way(&mut self, member: usize) {
        let spared = self.plan.damage.is_none_or(|plan| plan.victim.is_some_and(|victim| victim != member));
        if !spared && self.members[member].is_up() {
            let kind = *pick(&mut self.rng, &[DamageKind::Flip, DamageKind::Unreadable]);
            let injury = self.injury(member, kind);
            self.injure(member, injury.as_slice());
        }
    }

    /// Damages a disk like this, unless that would be too much.
    fn injure(&mut self, member: usize, injuries: &[Injury]) {
        let damaged = self.members[member].disk.fork();
        injuries.iter().for_each(|injury| injury.inflict(&damaged));
        let deceitful =
            injuries.iter().any(|injury| !matches!(injury.kind, DamageKind::Flip | DamageKind::Unreadable));
        let state_hurt = injuries.iter().any(|injury| injury.file.starts_with(STATE));
        if !self.is_bearable(member, &damaged, deceitful, state_hurt) {
            return self.checker.count("damage that would have been too much");
        }
        self.members[member].state_hurt |= state_hurt;
        for injury in injuries {
            self.trace.note(62, member as u64, injury.at, || format!("{:?} m{member}: {injury:?}", self.now));
            injury.inflict(&self.members[member].disk);
        }
        self.checker.count("disks damaged");
        self.members[member].flipped = true;
    }

    /// An injury of this kind for a file on the disk; `None` if there is no suitable file.
    fn injury(&mut self, member: usize, kind: DamageKind) -> Option<Injury> {
        let disk = self.members[member].disk.clone();
        let of_state = |name: &str| name.starts_with(STATE);
        let mut files: Vec<String> = disk.names().into_iter().filter(|name| !of_state(name)).collect();
        // A failed read of the state is a failure of the disk; only readable damage counts as damage.
        let readable = !matches!(kind, DamageKind::Unreadable | DamageKind::Shortened);
        let seldom = if self.plan.damage.is_some_and(|plan| plan.states) { 2 } else { 3 };
        let of_the_state = kind == DamageKind::Gone || readable && self.rng.u32(0..seldom) == 0;
        let file = if of_the_state && self.may_hurt_state(member) {
            let own = |name: &String| name == STATE || name.starts_with("state-");
            let mut own: Vec<String> = disk.names().into_iter().filter(own).collect();
            if own.is_empty() {
                return None;
            }
            own.swap_remove(self.rng.usize(0..own.len()))
        } else if files.is_empty() || kind == DamageKind::Gone {
            return None;
        } else {
            files.swap_remove(self.rng.usize(0..files.len()))
        };
        let bytes = disk.contents(&file).unwrap_or_default();
        let used = bytes.iter().rposition(|byte| *byte != 0)? as u64 + 1;
        let (at, other) = (self.rng.u64(0..used), self.rng.u64(0..used));
        Some(Injury { kind, file, at, other, small: self.rng.bool() })
    }

    /// Whether the state of a member may be damaged: another state is intact, or the intact parts of all may be
    /// combined. Its content must also exist elsewhere.
    fn may_hurt_state(&self, member: usize) -> bool {
        if self.plan.in_memory || self.members[member].role == Role::Witness {
            return false;
        }
        if self.plan.damage.is_some_and(|plan| plan.states) {
            return true;
        }
        let whole = |other: &Member| other.role == Role::Data && !other.state_hurt && !other.wiped;
        (0..self.members.len()).any(|other| other != member && whole(&self.members[other]))
    }

    /// Whether everything that this damaged disk of a member lacks can be read from another.
    fn is_bearable(&mut self, member: usize, damaged: &Disk, deceitful: bool, state_hurt: bool) -> bool {
        let hurt = |member: usize| self.members[member].state_hurt;
        let Some(before) = self.copies(member, &self.members[member].disk, hurt(member)) else {
            return false;
        };
        let Some(after) = self.copies(member, damaged, hurt(member) || state_hurt) else { return false };
        // A device that drops its very last writes, or reverts them, without a trace: this cannot be detected, and kv
        // does not promise to.
        if deceitful && !self.reports_its_damage(member, damaged) {
            return false;
        }
        if self.reports_loss(member, damaged)
            && self.others_that_report_loss(member) >= self.may_report_loss()
        {
            return false;
        }
        let others = (0..self.members.len()).filter(|other| *other != member && !self.members[*other].wiped);
        let others: Vec<Copies> =
            others.filter_map(|other| self.copies(other, &self.members[other].disk, hurt(other))).collect();
        // The intact parts of damaged states may be combined. Computed only if no other state is intact.
        let some_are_whole = others.iter().any(|held| held.through > Op::ZERO);
        let of_pieces = self.plan.damage.is_some_and(|plan| plan.states) && !some_are_whole;
        let together = of_pieces.then(|| self.whole_state(Some((member, damaged)))).flatten();
        let together = Copies { entries: BTreeMap::new(), through: together.unwrap_or_default() };
        let is_held =
            |op: Op, hash: Hash| others.iter().chain([&together]).any(|held| self.is_among(held, op, hash));
        let is_lost = |(op, hash): &(Op, Hash)| !self.is_among(&after, *op, *hash);
        let bearable = self.all_of(&before).filter(is_lost).all(|(op, hash)| is_held(op, hash));
        if bearable && state_hurt && together.through > Op::ZERO {
            self.checker.count("states damaged while no other is whole");
        }
        bearable
    }

    /// The readable entries, and those that the state covers.
    fn all_of<'a>(&'a self, copies: &'a Copies) -> impl Iterator<Item = (Op, Hash)> + 'a {
        let stood_for = (1..=copies.through.get()).map(Op::new);
        let stood_for = stood_for.filter_map(|op| Some((op, self.checker.hash(op)?)));
        stood_for.chain(copies.entries.iter().map(|(op, hash)| (*op, *hash)))
    }

    fn is_among(&self, copies: &Copies, op: Op, hash: Hash) -> bool {
        copies.entries.get(&op) == Some(&hash) || op <= copies.through && self.checker.hash(op) == Some(hash)
    }

    /// What can be read from a disk of a member; `None` if it cannot be opened.
    ///
    /// Until the damage of a state is noticed, its member continues to make checkpoints, and drops entries that it
    /// believes to be in them. Then what is committed does not count. (A witness drops only what all states contain,
    /// and one state is intact.)
    fn copies(&self, member: usize, disk: &Disk, state_hurt: bool) -> Option<Copies> {
        let disk = disk.fork();
        let (journal, recovered) = self.opened(member, &disk)?;
        let mut entries = self.read_all(member, &journal.reader());
        // Damage below the checkpoint raises the floor, on a witness too: entries below it are no longer served.
        entries.retain(|op, _| *op > recovered.floor.op);
        let checkpoint = self.state_on(member, &disk, &recovered).map(|state| state.checkpoint().op);
        if state_hurt && checkpoint.is_some() {
            entries.retain(|op, _| *op > self.checker.committed());
        }
        Some(Copies { entries, through: checkpoint.filter(|_| !state_hurt).unwrap_or_default() })
    }

    /// The state on a disk; `None` if there is none that fits its log. Changes the disk.
    pub(super) fn state_on(&self, member: usize, disk: &Disk, recovered: &Recovered) -> Option<StateMachine> {
        if self.plan.in_memory || self.members[member].role == Role::Witness {
            return None;
        }
        let _right = switch::to(None);
        let state =
            StateMachine::open_or_set_aside(&disk.storage(), &Limits::from(&self.members[member].options))
                .ok()??;
        (recovered.alignment(state.checkpoint()) != CheckpointAlignment::Lost).then_some(state)
    }

    /// At most this many members may have lost the record of their log's end. With more, nobody could prove that an op
    /// was not committed, although nothing was lost.
    fn may_report_loss(&self) -> usize {
        self.cluster.len() - self.cluster.nack_quorum()
    }

    fn others_that_report_loss(&self, member: usize) -> usize {
        let others = (0..self.members.len()).filter(|other| *other != member && !self.members[*other].wiped);
        others.filter(|other| self.reports_loss(*other, &self.members[*other].disk)).count()
    }

    fn reports_loss(&self, member: usize, disk: &Disk) -> bool {
        self.opened(member, &disk.fork()).is_some_and(|(_, recovered)| recovered.is_damaged())
    }

    /// Whether opening this disk either finds everything or reports that something is missing.
    fn reports_its_damage(&self, member: usize, disk: &Disk) -> bool {
        self.opened(member, &disk.fork()).is_some_and(|(_, recovered)| {
            // A report of other damage does not report an end that was lost without a trace.
            let reach = match recovered.damage.as_ref().map(|damage| damage.extent) {
                Some(Extent::Open) => return true,
                Some(Extent::Through(op)) => op.max(recovered.head()),
                None => recovered.head(),
            };
            reach >= self.checker.durable_head(member)
        })
    }

    /// What opening this disk as that member's disk finds; `None` if it is refused. Changes the disk.
    pub(super) fn opened(&self, member: usize, disk: &Disk) -> Option<(Journal, Recovered)> {
        let _right = switch::to(None);
        Journal::open(disk.storage(), self.identity(member), self.journal_options(member)).ok()
    }

    fn read_all(&self, member: usize, log: &LogReader) -> BTreeMap<Op, Hash> {
        let mut held = BTreeMap::new();
        let mut op = Op::new(1);
        while op <= self.checker.durable_head(member) {
            if let Ok(Some(entry)) = log.read(op) {
                held.insert(op, entry.header.hash());
            }
            op = op.next();
        }
        held
    }
}
